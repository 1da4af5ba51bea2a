use std::sync::Arc;

use wbuild_report::{Diagnostic, Hint, SourceFile, Span};

use super::pattern::{Pattern, PatternError};
use super::read::read_all;

/// The largest `.dockerignore` that is read.
pub const MAX_IGNORE_BYTES: usize = 1 << 20;

/// The most patterns in one list: every path is compared with every pattern, in order.
pub const MAX_PATTERNS: usize = 10_000;

/// A compiled list of patterns.
///
/// Paths are relative to the context, without leading or trailing slash; bytes, not text.
#[derive(Clone, Debug, Default)]
pub struct IgnoreRules {
    /// What messages call the file that they come from.
    file: Option<Arc<str>>,
    patterns: Vec<Pattern>,
    /// The directories that exceptions name, each with a `/` at its end, when all exceptions do nothing else: then a
    /// directory that leads to none of them need not be looked into.
    exception_directories: Option<Vec<Vec<u8>>>,
}

/// What a directory hands down to what is in it: which patterns matched it or a parent.
///
/// A pattern that was not tried on the directory counts as not matched, and is tried on a child's own path only. That is
/// BuildKit's `MatchesUsingParentResults`, and why `docs/*.md` + `!docs` does not bring `docs/a.md` back.
#[derive(Clone, Debug, Default)]
pub struct Inherited(Bits);

/// One bit per pattern; nearly all lists fit into a word.
#[derive(Clone, Debug)]
enum Bits {
    Few(u64),
    Many(Box<[u64]>),
}

impl Default for Bits {
    fn default() -> Self {
        Self::Few(0)
    }
}

impl Bits {
    fn none(count: usize) -> Self {
        if count <= 64 { Self::Few(0) } else { Self::Many(vec![0; count.div_ceil(64)].into()) }
    }

    fn get(&self, index: usize) -> bool {
        match self {
            Self::Few(word) => index < 64 && word >> index & 1 == 1,
            Self::Many(words) => words[index / 64] >> (index % 64) & 1 == 1,
        }
    }

    fn set(&mut self, index: usize) {
        match self {
            Self::Few(word) => *word |= 1 << index,
            Self::Many(words) => words[index / 64] |= 1 << (index % 64),
        }
    }
}

/// What becomes of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryVerdict {
    /// It is part of the context.
    Taken,
    /// It is left out, unless something in it is taken back in; it has to be looked into.
    LeftOutButEntered,
    /// It is left out, and nothing in it can come back.
    Pruned,
}

/// Why a path is part of the context or not.
#[derive(Clone, Debug)]
pub struct Decision<'a> {
    /// The pattern that decided.
    pub pattern: &'a Pattern,
    /// Whether the path is left out.
    pub excluded: bool,
    /// The path that the pattern matched: the one asked about, or a parent of it.
    pub matched: Vec<u8>,
}

impl IgnoreRules {
    /// No patterns: everything is part of the context.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads a `.dockerignore`. `name` is how messages call the file.
    ///
    /// # Errors
    /// Every pattern that cannot be compiled, with its line.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, Vec<Diagnostic>> {
        let file = || SourceFile::new(name, printable_text(bytes));
        if bytes.len() > MAX_IGNORE_BYTES {
            let message = format!("the file has {} bytes; at most {MAX_IGNORE_BYTES} are read", bytes.len());
            return Err(vec![Diagnostic::error(&SourceFile::new(name, ""), message)]);
        }
        let read = read_all(bytes).map_err(|error| {
            vec![Diagnostic::error(&file(), "line of 64 KiB or more").at(error.span, "starts here")]
        })?;
        if let Some(over) = read.get(MAX_PATTERNS) {
            let message = format!("more than {MAX_PATTERNS} patterns");
            return Err(vec![Diagnostic::error(&file(), message).at(over.span, "the first one too many")]);
        }
        let mut patterns = Vec::with_capacity(read.len());
        let mut wrong: Vec<(Span, PatternError)> = Vec::new();
        for line in read {
            match Pattern::compile(&line.text, line.line, Some(line.span)) {
                Ok(pattern) => patterns.extend(pattern),
                Err(error) => wrong.push((line.span, error)),
            }
        }
        if wrong.is_empty() {
            return Ok(Self { file: Some(name.into()), ..Self::new(patterns) });
        }
        let file: Arc<SourceFile> = file();
        let diagnostic = |(span, error): (Span, PatternError)| {
            error
                .hints()
                .into_iter()
                .fold(Diagnostic::error(&file, error.to_string()).at(span, ""), Diagnostic::hint)
        };
        Err(wrong.into_iter().map(diagnostic).collect())
    }

    /// Compiles patterns that come from no file, as `COPY --exclude` has them. Unlike in a file, a leading slash stays,
    /// and such a pattern then never matches.
    ///
    /// # Errors
    /// The first pattern that cannot be compiled, with its index.
    pub fn from_patterns<P: AsRef<[u8]>>(
        patterns: impl IntoIterator<Item = P>,
    ) -> Result<Self, (usize, PatternError)> {
        let mut compiled = Vec::new();
        for (index, pattern) in patterns.into_iter().enumerate() {
            compiled
                .extend(Pattern::compile(pattern.as_ref(), index + 1, None).map_err(|error| (index, error))?);
        }
        Ok(Self::new(compiled))
    }

    fn new(patterns: Vec<Pattern>) -> Self {
        let exceptions = || patterns.iter().filter(|pattern| pattern.is_exception());
        let directory = |pattern: &Pattern| pattern.literal_directory().map(|text| [text, b"/"].concat());
        Self { file: None, exception_directories: exceptions().map(directory).collect(), patterns }
    }

    /// What the file is called that they come from, if they come from one.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The patterns in order.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether there is nothing to decide.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// What the root of the context hands down.
    pub fn root(&self) -> Inherited {
        Inherited(Bits::none(self.patterns.len()))
    }

    /// Whether the file (or link, or anything but a directory) at `path` is left out, given what its directory handed
    /// down.
    pub fn excludes_file(&self, inherited: &Inherited, path: &[u8]) -> bool {
        self.decide(inherited, path, |_| ())
    }

    /// What becomes of the directory at `path`, and what it hands down.
    pub fn directory(&self, inherited: &Inherited, path: &[u8]) -> (DirectoryVerdict, Inherited) {
        let mut matched = Bits::none(self.patterns.len());
        if !self.decide(inherited, path, |index| matched.set(index)) {
            return (DirectoryVerdict::Taken, Inherited(matched));
        }
        let leads_to = |exception: &Vec<u8>| {
            exception.len() > path.len() && exception.starts_with(path) && exception[path.len()] == b'/'
        };
        let verdict = match &self.exception_directories {
            Some(directories) if !directories.iter().any(leads_to) => DirectoryVerdict::Pruned,
            _ => DirectoryVerdict::LeftOutButEntered,
        };
        (verdict, Inherited(matched))
    }

    /// The last pattern that matches wins; a pattern is only tried while it could change the answer.
    fn decide(&self, inherited: &Inherited, path: &[u8], mut on_match: impl FnMut(usize)) -> bool {
        let mut excluded = false;
        for (index, pattern) in self.patterns.iter().enumerate() {
            let matches =
                inherited.0.get(index) || pattern.is_exception() == excluded && pattern.matches(path);
            if matches {
                on_match(index);
                excluded = !pattern.is_exception();
            }
        }
        excluded
    }

    /// Whether a build leaves out the file or directory at `path`: what BuildKit's walk from the top decides. Where its
    /// walk sends a file that its sender then refuses to open, and which so arrives empty, the walk is believed here and
    /// the file has its content.
    pub fn excludes(&self, path: &[u8]) -> bool {
        self.explain(path).is_some_and(|decision| decision.excluded)
    }

    /// Which pattern decides about `path`; `None` when no pattern matches it or a parent.
    pub fn explain(&self, path: &[u8]) -> Option<Decision<'_>> {
        let mut inherited = self.root();
        // For each pattern, how much of the path it was that matched first.
        let mut matched_at: Vec<Option<usize>> = vec![None; self.patterns.len()];
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        let mut last = None;
        for end in ends.chain([path.len()]) {
            let here = &path[..end];
            last = None;
            let excluded = self.decide(&inherited, here, |index| {
                matched_at[index].get_or_insert(end);
                last = Some(index);
            });
            let (verdict, below) = self.directory(&inherited, here);
            debug_assert_eq!(excluded, verdict != DirectoryVerdict::Taken);
            inherited = below;
            if verdict == DirectoryVerdict::Pruned {
                break;
            }
        }
        let index = last?;
        let pattern = &self.patterns[index];
        let matched = path[..matched_at[index].unwrap_or(path.len())].to_vec();
        Some(Decision { pattern, excluded: !pattern.is_exception(), matched })
    }

    /// patternmatcher's `MatchesOrParentMatches`, which looks at every parent afresh. Not what a build does; `COPY
    /// --exclude` and BuildKit's opening of a file use it.
    pub fn matches_or_parent_matches(&self, path: &[u8]) -> bool {
        let mut excluded = false;
        for pattern in &self.patterns {
            if pattern.is_exception() != excluded {
                continue;
            }
            let parents = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| &path[..at]);
            if pattern.matches(path) || parents.into_iter().any(|parent| pattern.matches(parent)) {
                excluded = !pattern.is_exception();
            }
        }
        excluded
    }
}

/// The text for messages. Bytes that are no UTF-8 become one `?` each, so that offsets stay true.
fn printable_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
