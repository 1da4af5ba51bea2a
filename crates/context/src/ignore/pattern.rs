use regex::{Regex, RegexBuilder};
use wbuild_report::Span;

use super::clean::{clean, trim};
use super::go_regex::{self, GoRegexError};
use super::syntax::is_well_formed;
use super::translate::{Form, go_runes, translate};

/// A compiled expression larger than this is refused. Everything a 64 KiB line can ask for fits.
const MAX_REGEX_BYTES: usize = 64 << 20;

/// Why a pattern is refused. BuildKit notices [`PatternError::CharRange`] and [`PatternError::Escape`] only when some path
/// gets as far as that pattern, and then fails without saying which; here they are errors of the list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A lone `!`.
    #[error("illegal exclusion pattern: `!`")]
    LoneException,
    /// Go's `filepath.Match` does not take it.
    #[error("syntax error in pattern `{pattern}`")]
    Syntax {
        /// The pattern.
        pattern: String,
    },
    /// A class with a range that ends before it begins, or with an unknown name.
    #[error("invalid character range `{range}` in pattern `{pattern}`")]
    CharRange {
        /// The pattern.
        pattern: String,
        /// The range.
        range: String,
    },
    /// A backslash before a letter or digit that means nothing.
    #[error("invalid escape sequence `{escape}` in pattern `{pattern}`")]
    Escape {
        /// The pattern.
        pattern: String,
        /// The escape.
        escape: String,
    },
    /// Too large once compiled.
    #[error("pattern `{pattern}…` is too large")]
    TooLarge {
        /// Its beginning.
        pattern: String,
    },
}

impl wbuild_report::Hint for PatternError {
    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::LoneException => "write the path to take back in directly after the `!`",
            Self::Syntax { pattern } if pattern.ends_with('\\') => {
                "blanks at the end of a line are removed, so a backslash cannot protect them; write `[ ]` for a blank"
            }
            Self::Syntax { .. } => {
                "close every `[`, write a literal bracket as `\\[`, and a literal `-` or `]` in a class with a backslash"
            }
            Self::CharRange { .. } => {
                "write the range from the lower to the higher character, or put a backslash before the `-`"
            }
            Self::Escape { .. } => {
                "a backslash is only needed before one of `*?[]\\!#`; directories are separated by `/`"
            }
            Self::TooLarge { .. } => "split the pattern",
        };
        vec![hint.to_owned()]
    }
}

/// One pattern of a list.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Vec<u8>,
    exception: bool,
    line: usize,
    span: Option<Span>,
    test: Test,
}

/// What is compared. Everything that is not a regular expression costs a comparison of a few bytes.
#[derive(Clone, Debug)]
enum Test {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Name(NameTest),
    Regex(Box<RegexTest>),
}

/// `a*b` or `**/a*b`: one star, in one component.
#[derive(Clone, Debug)]
struct NameTest {
    any_depth: bool,
    before: Box<[u8]>,
    after: Box<[u8]>,
}

#[derive(Clone, Debug)]
struct RegexTest {
    /// What every matching path begins and ends with; turns most paths away before the expression runs.
    before: Box<[u8]>,
    after: Box<[u8]>,
    regex: Regex,
}

impl Pattern {
    /// Compiles one pattern as patternmatcher's `New` does. `None` for a blank one.
    pub(super) fn compile(raw: &[u8], line: usize, span: Option<Span>) -> Result<Option<Self>, PatternError> {
        let trimmed = trim(raw).1;
        if trimmed.is_empty() {
            return Ok(None);
        }
        let mut text = clean(trimmed);
        let exception = text.first() == Some(&b'!');
        if exception {
            text.remove(0);
            if text.is_empty() {
                return Err(PatternError::LoneException);
            }
        }
        if !is_well_formed(&text) {
            return Err(PatternError::Syntax { pattern: printable(&text) });
        }
        let test = Test::of(&text)?;
        Ok(Some(Self { text, exception, line, span, test }))
    }

    /// The pattern, cleaned, without its `!`.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Whether it takes back in what an earlier one left out.
    pub const fn is_exception(&self) -> bool {
        self.exception
    }

    /// Its 1-based line, or its 1-based place in a list that came from no file.
    pub const fn line(&self) -> usize {
        self.line
    }

    /// Where it stands in its file.
    pub const fn span(&self) -> Option<Span> {
        self.span
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match &self.test {
            Test::Exact(text) => path == &**text,
            Test::Prefix(prefix) => path.starts_with(prefix),
            Test::Suffix(suffix) => {
                path.ends_with(suffix) || suffix.first() == Some(&b'/') && path == &suffix[1..]
            }
            Test::Name(test) => test.matches(path),
            Test::Regex(test) => test.matches(path),
        }
    }

    /// For pruning: the pattern less a trailing `/**` and `/*`, if nothing else in it is special.
    pub(super) fn literal_directory(&self) -> Option<&[u8]> {
        let text = self.text.strip_suffix(b"/**").unwrap_or(&self.text);
        let text = text.strip_suffix(b"/*").unwrap_or(text);
        if text.iter().any(|b| b"*[]?^\\".contains(b)) { None } else { Some(text) }
    }
}

impl Test {
    fn of(text: &[u8]) -> Result<Self, PatternError> {
        let go = match translate(text) {
            Form::Exact => return Ok(Self::Exact(text.into())),
            Form::Prefix => return Ok(Self::Prefix(text[..text.len() - 2].into())),
            Form::Suffix => return Ok(Self::Suffix(text[2..].into())),
            Form::Regex(go) => go,
        };
        if let Some(test) = NameTest::of(text) {
            return Ok(Self::Name(test));
        }
        let rust = go_regex::to_rust(&go).map_err(|error| match error {
            GoRegexError::CharRange(range) => PatternError::CharRange { pattern: printable(text), range },
            GoRegexError::Escape(escape) => PatternError::Escape { pattern: printable(text), escape },
            GoRegexError::MissingBracket => PatternError::Syntax { pattern: printable(text) },
        })?;
        let regex = RegexBuilder::new(&rust)
            .size_limit(MAX_REGEX_BYTES)
            .build()
            .map_err(|_| PatternError::TooLarge { pattern: printable(&text[..text.len().min(40)]) })?;
        let (before, after) = fixed_ends(text);
        Ok(Self::Regex(Box::new(RegexTest { before: before.into(), after: after.into(), regex })))
    }
}

/// Whether the bytes of the pattern other than `*` and `?` stand for themselves, byte by byte.
fn is_plain(text: &[u8]) -> bool {
    let replacement = "\u{fffd}";
    std::str::from_utf8(text).is_ok_and(|text| {
        !text.starts_with('\u{feff}') && !text.contains(['[', ']', '\\', '^']) && !text.contains(replacement)
    })
}

/// What stands before the first and after the last wildcard.
fn fixed_ends(text: &[u8]) -> (&[u8], &[u8]) {
    let wild = |b: &u8| matches!(b, b'*' | b'?');
    let (true, Some(first), Some(last)) =
        (is_plain(text), text.iter().position(wild), text.iter().rposition(wild))
    else {
        return (b"", b"");
    };
    let after = &text[last + 1..];
    // `**/` is one wildcard; its slash need not be in the path.
    let after =
        if text[..=last].ends_with(b"**") { after.strip_prefix(b"/").unwrap_or(after) } else { after };
    (&text[..first], after)
}

impl NameTest {
    fn of(text: &[u8]) -> Option<Self> {
        let (any_depth, name) = match text.strip_prefix(b"**/") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let star = name.iter().position(|b| *b == b'*')?;
        let after = &name[star + 1..];
        let simple =
            is_plain(name) && !name.iter().any(|b| matches!(b, b'/' | b'?')) && !after.contains(&b'*');
        simple.then(|| Self { any_depth, before: name[..star].into(), after: after.into() })
    }

    fn matches(&self, path: &[u8]) -> bool {
        if !path.ends_with(&self.after) {
            return false;
        }
        let name = match path.iter().rposition(|b| *b == b'/') {
            None => path,
            // `(.*/)?` stands for the directories, and `.` is no newline.
            Some(slash) if self.any_depth && !path[..slash].contains(&b'\n') => &path[slash + 1..],
            Some(_) => return false,
        };
        name.len() >= self.before.len() + self.after.len()
            && name.starts_with(&self.before)
            && name.ends_with(&self.after)
    }
}

impl RegexTest {
    fn matches(&self, path: &[u8]) -> bool {
        if !path.starts_with(&self.before) || !path.ends_with(&self.after) {
            return false;
        }
        match std::str::from_utf8(path) {
            Ok(text) => self.regex.is_match(text),
            Err(_) => self.regex.is_match(&go_runes(path).into_iter().collect::<String>()),
        }
    }
}

/// For messages: control characters written out, everything else as it stands.
pub(crate) fn printable(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for c in String::from_utf8_lossy(text).chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str) -> Pattern {
        Pattern::compile(text.as_bytes(), 1, None).unwrap().unwrap()
    }

    /// The pattern without its shortcuts.
    fn slow(text: &str) -> Option<Regex> {
        let Form::Regex(go) = translate(text.as_bytes()) else { return None };
        Some(Regex::new(&go_regex::to_rust(&go).unwrap()).unwrap())
    }

    #[test]
    fn common_patterns_need_no_regular_expression() {
        for text in
            ["*", "*.md", ".env*", "**/*.log", "**/.env*", "a*b", "node_modules", "**/dist", "dist/**"]
        {
            assert!(!matches!(compile(text).test, Test::Regex(_)), "{text}");
        }
        for text in ["a/*", "a?", "*a*", "**/a/*", "**/a**", "[a]*", "\\a*", "a^*"] {
            assert!(matches!(compile(text).test, Test::Regex(_)), "{text}");
        }
    }

    #[test]
    fn bad_bytes_are_replacement_characters() {
        let pattern = |text: &[u8]| Pattern::compile(text, 1, None).unwrap().unwrap();
        assert!(pattern(b"a?b").matches(b"a\xffb"));
        assert!(!pattern(b"a?b").matches(b"a\xff\xfeb"));
        assert!(pattern(b"a\xff").matches(b"a\xff"));
        assert!(!pattern(b"a\xff").matches(b"a\xfe"));
        assert!(pattern(b"a\xff*").matches(b"a\xfe/".strip_suffix(b"/").unwrap()), "as Go's regexp has it");
        assert!(pattern("a\u{fffd}*".as_bytes()).matches(b"a\xfe"), "as Go's regexp has it");
        assert!(pattern("*\u{fffd}".as_bytes()).matches(b"a\xfe"), "as Go's regexp has it");
    }

    #[test]
    fn a_long_pattern_compiles() {
        assert!(compile(&"?".repeat(60_000)).matches("x".repeat(60_000).as_bytes()));
    }

    proptest::proptest! {
        #[test]
        fn shortcuts_change_no_answer(
            text in "[ab/*?.\n]{1,8}",
            paths in proptest::collection::vec("[ab/.\n]{1,8}", 1..20),
        ) {
            let Ok(Some(pattern)) = Pattern::compile(text.as_bytes(), 1, None) else { return Ok(()) };
            let Some(regex) = slow(std::str::from_utf8(pattern.text()).unwrap()) else { return Ok(()) };
            for path in paths {
                proptest::prop_assert_eq!(
                    pattern.matches(path.as_bytes()), regex.is_match(&path), "{:?} on {:?}", pattern.text(), path
                );
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..24),
            path in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..24),
        ) {
            if let Ok(Some(pattern)) = Pattern::compile(&text, 1, None) {
                pattern.matches(&path);
                pattern.literal_directory();
            }
        }

        #[test]
        fn special_bytes_never_panic(text in r"[\[\]\\^*?!/:a-zQEpx0-9.-]{0,16}", path in "[a-z/]{0,8}") {
            if let Ok(Some(pattern)) = Pattern::compile(text.as_bytes(), 1, None) {
                pattern.matches(path.as_bytes());
            }
        }
    }
}
