//! Globs over paths inside the root, as pnpm (picomatch) and turbo (wax) read them: `*`, `?`, `[a-z]`, `{a,b}`,
//! `**` as a whole part, `\` to escape. A pattern is resolved against the directory it is written for, so that
//! `../ui/**` in `apps/web` matches below `apps/ui`, and one that leaves the root is an error.

use wbuild_report::Hint;

use crate::RelPath;

/// Braces multiply; more alternatives than this is a mistake or an attack.
const MAX_ALTERNATIVES: usize = 1024;

/// Whether a wildcard matches a part that starts with a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dots {
    /// Only a literal dot matches it: package globs of pnpm.
    Hidden,
    /// Like any other character: inputs and outputs of turbo.
    Matched,
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Glob {
    text: String,
    alternatives: Vec<Vec<Segment>>,
    dots: Dots,
}

/// Why a pattern is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// It matches outside the root.
    #[error("the pattern `{pattern}` leaves the workspace root")]
    LeavesRoot {
        /// As written.
        pattern: String,
    },
    /// It starts at the file system's root.
    #[error("the pattern `{pattern}` is absolute")]
    Absolute {
        /// As written.
        pattern: String,
    },
    /// It uses an extended form that is not supported.
    #[error("the pattern `{pattern}` uses `{form}`, which wbuild does not support")]
    Unsupported {
        /// As written.
        pattern: String,
        /// The form.
        form: &'static str,
    },
    /// It expands to too many alternatives, or is too long.
    #[error("the pattern `{pattern}` is too large")]
    TooLarge {
        /// Its beginning.
        pattern: String,
    },
}

impl Hint for GlobError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::LeavesRoot { .. } => {
                vec!["a workspace cannot reach outside its root; move the files inside".to_owned()]
            }
            Self::Absolute { .. } => vec!["write it relative, without the leading `/`".to_owned()],
            Self::Unsupported { .. } => vec!["write it with `{a,b}` and a `!` pattern of its own".to_owned()],
            Self::TooLarge { .. } => Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// `**`: any number of parts.
    Any,
    /// One part, matched by these tokens.
    One(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    AnyChar,
    AnyChars,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Glob {
    /// Compiles `pattern`, which is written for the directory `base`.
    pub fn new(base: &RelPath, pattern: &str, dots: Dots) -> Result<Self, GlobError> {
        if pattern.starts_with('/') {
            return Err(GlobError::Absolute { pattern: pattern.to_owned() });
        }
        if let Some(form) = extended_form(pattern) {
            return Err(GlobError::Unsupported { pattern: pattern.to_owned(), form });
        }
        let too_large = || GlobError::TooLarge { pattern: pattern.chars().take(60).collect() };
        if pattern.len() > 4096 {
            return Err(too_large());
        }
        let mut expanded = Vec::new();
        if !expand_braces(pattern, &mut expanded) {
            return Err(too_large());
        }
        let alternatives =
            expanded.iter().map(|alternative| compile(base, alternative)).collect::<Result<_, _>>().map_err(
                |problem| match problem {
                    Unresolved::LeavesRoot => GlobError::LeavesRoot { pattern: pattern.to_owned() },
                    Unresolved::ParentOfWildcard => {
                        GlobError::Unsupported { pattern: pattern.to_owned(), form: ".. after a wildcard" }
                    }
                },
            )?;
        Ok(Self { text: pattern.to_owned(), alternatives, dots })
    }

    /// The pattern that matches `path` and nothing else.
    pub(crate) fn literal(path: &RelPath) -> Self {
        let segments = path.parts().map(|part| Segment::One(part.chars().map(Token::Char).collect()));
        Self { text: path.to_string(), alternatives: vec![segments.collect()], dots: Dots::Matched }
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches `path`, a path from the root.
    pub fn matches(&self, path: &RelPath) -> bool {
        self.alternatives.iter().any(|segments| {
            let mut state = State::start(segments);
            path.parts().all(|part| state.step(segments, part, self.dots)) && state.accepts(segments)
        })
    }

    /// Whether it matches `path` or a directory above it: how an exclusion of a directory is meant.
    pub fn matches_within(&self, path: &RelPath) -> bool {
        self.alternatives.iter().any(|segments| {
            let mut state = State::start(segments);
            for part in path.parts() {
                if state.accepts(segments) {
                    return true;
                }
                if !state.step(segments, part, self.dots) {
                    return false;
                }
            }
            state.accepts(segments)
        })
    }

    /// Whether something below `directory` could match.
    pub fn may_match_below(&self, directory: &RelPath) -> bool {
        self.alternatives.iter().any(|segments| {
            let mut state = State::start(segments);
            directory.parts().all(|part| state.step(segments, part, self.dots)) && state.may_go_on(segments)
        })
    }

    /// The paths it can match without any wildcard; `None` when it has one.
    pub fn literals(&self) -> Option<Vec<RelPath>> {
        self.alternatives
            .iter()
            .map(|segments| {
                let mut path = RelPath::root();
                for segment in segments {
                    let Segment::One(tokens) = segment else { return None };
                    let mut name = String::new();
                    for token in tokens {
                        let Token::Char(c) = token else { return None };
                        name.push(*c);
                    }
                    path = path.child(&name);
                }
                Some(path)
            })
            .collect()
    }
}

/// The set of pattern positions reached so far, as in a nondeterministic automaton: linear in the path whatever
/// the number of `**`.
struct State(Vec<bool>);

impl State {
    fn start(segments: &[Segment]) -> Self {
        let mut state = Self(vec![false; segments.len() + 1]);
        state.0[0] = true;
        state.close(segments);
        state
    }

    /// `**` may stand for nothing.
    fn close(&mut self, segments: &[Segment]) {
        for (index, segment) in segments.iter().enumerate() {
            if self.0[index] && *segment == Segment::Any {
                self.0[index + 1] = true;
            }
        }
    }

    /// Takes one part; false when nothing can match any more.
    fn step(&mut self, segments: &[Segment], part: &str, dots: Dots) -> bool {
        let mut next = vec![false; self.0.len()];
        let hidden = dots == Dots::Hidden && part.starts_with('.');
        for (index, segment) in segments.iter().enumerate() {
            if !self.0[index] {
                continue;
            }
            match segment {
                Segment::Any => next[index] |= !hidden,
                Segment::One(tokens) => {
                    let explicit = matches!(tokens.first(), Some(Token::Char('.')));
                    next[index + 1] |= (!hidden || explicit) && matches_part(tokens, part);
                }
            }
        }
        self.0 = next;
        self.close(segments);
        self.0.contains(&true)
    }

    fn accepts(&self, segments: &[Segment]) -> bool {
        self.0[segments.len()]
    }

    fn may_go_on(&self, segments: &[Segment]) -> bool {
        self.0[..segments.len()].contains(&true)
    }
}

/// Matches one part, going back only to the last `*`.
fn matches_part(tokens: &[Token], part: &str) -> bool {
    let chars: Vec<char> = part.chars().collect();
    let (mut t, mut c) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while c < chars.len() {
        let matched = match tokens.get(t) {
            Some(Token::AnyChars) => {
                retry = Some((t, c));
                t += 1;
                continue;
            }
            Some(Token::AnyChar) => true,
            Some(Token::Char(expected)) => *expected == chars[c],
            Some(Token::Class { negated, ranges }) => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&chars[c])) != *negated
            }
            None => false,
        };
        if matched {
            t += 1;
            c += 1;
        } else if let Some((star, from)) = retry {
            retry = Some((star, from + 1));
            t = star + 1;
            c = from + 1;
        } else {
            return false;
        }
    }
    tokens[t..].iter().all(|token| *token == Token::AnyChars)
}

enum Unresolved {
    LeavesRoot,
    ParentOfWildcard,
}

fn compile(base: &RelPath, pattern: &str) -> Result<Vec<Segment>, Unresolved> {
    let mut segments: Vec<Segment> =
        base.parts().map(|part| Segment::One(part.chars().map(Token::Char).collect())).collect();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => match segments.pop() {
                None => return Err(Unresolved::LeavesRoot),
                Some(Segment::One(tokens)) if tokens.iter().all(|t| matches!(t, Token::Char(_))) => {}
                Some(_) => return Err(Unresolved::ParentOfWildcard),
            },
            "**" => {
                if segments.last() != Some(&Segment::Any) {
                    segments.push(Segment::Any);
                }
            }
            part => segments.push(Segment::One(tokens(part))),
        }
    }
    Ok(segments)
}

fn tokens(part: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut chars = part.char_indices();
    while let Some((at, c)) = chars.next() {
        let token = match c {
            '*' if out.last() == Some(&Token::AnyChars) => continue,
            '*' => Token::AnyChars,
            '?' => Token::AnyChar,
            '\\' => Token::Char(chars.next().map_or('\\', |(_, escaped)| escaped)),
            '[' => match class(&part[at + 1..]) {
                Some((token, length)) => {
                    chars = part[at + 1 + length..].char_indices();
                    // Offsets restart at the remaining text, so go on with that text alone.
                    out.push(token);
                    out.extend(tokens(chars.as_str()));
                    return out;
                }
                None => Token::Char('['),
            },
            c => Token::Char(c),
        };
        out.push(token);
    }
    out
}

/// The class whose text after `[` begins `rest`, and how much of `rest` it takes including `]`.
fn class(rest: &str) -> Option<(Token, usize)> {
    let end = rest.char_indices().skip(1).find(|(_, c)| *c == ']')?.0;
    let body = &rest[..end];
    let (negated, body) = match body.strip_prefix(['!', '^']) {
        Some(body) => (true, body),
        None => (false, body),
    };
    let chars: Vec<char> = body.chars().collect();
    let mut ranges = Vec::new();
    let mut index = 0;
    while index < chars.len() {
        if index + 2 < chars.len() && chars[index + 1] == '-' {
            ranges.push((chars[index], chars[index + 2]));
            index += 3;
        } else {
            ranges.push((chars[index], chars[index]));
            index += 1;
        }
    }
    Some((Token::Class { negated, ranges }, end + 1))
}

fn extended_form(pattern: &str) -> Option<&'static str> {
    [("!(", "!(…)"), ("@(", "@(…)"), ("+(", "+(…)"), ("*(", "*(…)"), ("?(", "?(…)")]
        .into_iter()
        .find_map(|(start, form)| pattern.contains(start).then_some(form))
}

/// Expands `{a,b}`, nested too; false when there are too many alternatives. Braces without a comma are literal.
fn expand_braces(pattern: &str, out: &mut Vec<String>) -> bool {
    let Some((open, commas, close)) = first_braces(pattern) else {
        out.push(pattern.to_owned());
        return out.len() <= MAX_ALTERNATIVES;
    };
    let mut start = open + 1;
    for end in commas.into_iter().chain([close]) {
        let alternative = format!("{}{}{}", &pattern[..open], &pattern[start..end], &pattern[close + 1..]);
        if !expand_braces(&alternative, out) {
            return false;
        }
        start = end + 1;
    }
    true
}

/// The outermost pair of braces that holds a comma at its own level.
fn first_braces(pattern: &str) -> Option<(usize, Vec<usize>, usize)> {
    let bytes = pattern.as_bytes();
    let mut from = 0;
    while let Some(open) = pattern[from..].find('{').map(|at| from + at) {
        let (mut depth, mut commas, mut index) = (0usize, Vec::new(), open);
        while index < bytes.len() {
            match bytes[index] {
                b'\\' => index += 1,
                b'{' => depth += 1,
                b'}' => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                b',' if depth == 1 => commas.push(index),
                _ => {}
            }
            index += 1;
        }
        if index < bytes.len() && !commas.is_empty() {
            return Some((open, commas, index));
        }
        from = open + 1;
    }
    None
}

/// Patterns to take and patterns to leave, where leaving wins whatever the order.
#[derive(Clone, Debug, Default)]
pub struct GlobSet {
    /// What is taken.
    pub include: Vec<Glob>,
    /// What is left although taken (written with a leading `!`).
    pub exclude: Vec<Glob>,
}

impl GlobSet {
    /// Whether `path` is taken. Excluding a directory excludes what is in it.
    pub fn matches(&self, path: &RelPath) -> bool {
        self.include.iter().any(|glob| glob.matches(path)) && !self.excludes(path)
    }

    /// Whether `path` is excluded, itself or with a directory above it.
    pub fn excludes(&self, path: &RelPath) -> bool {
        self.exclude.iter().any(|glob| glob.matches_within(path))
    }

    /// Whether something below `directory` could be taken.
    pub fn may_match_below(&self, directory: &RelPath) -> bool {
        self.include.iter().any(|glob| glob.may_match_below(directory)) && !self.excludes(directory)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(pattern: &str, dots: Dots) -> Glob {
        Glob::new(&RelPath::root(), pattern, dots).unwrap()
    }

    #[test]
    fn patterns_match_as_in_picomatch() {
        for (pattern, yes, no) in [
            ("apps/*", &["apps/web"][..], &["apps", "apps/web/x", "apps/.hidden"][..]),
            ("packages/**", &["packages", "packages/a", "packages/a/b"], &["package", "packages/a/.b/c"]),
            ("**", &["", "a", "a/b/c"], &[".a", "a/.b"]),
            ("./tools/", &["tools"], &["tools/x", ""]),
            ("{apps,packages/{a,b}}/*", &["apps/x", "packages/a/x", "packages/b/x"], &["packages/c/x"]),
            (".hidden/*", &[".hidden/a"], &[".hidden/.a"]),
            ("packages/.*", &["packages/.a"], &["packages/a"]),
            ("**/test/**", &["test", "a/test", "a/test/b"], &["a/tests"]),
            ("a?c/[a-cx]*", &["abc/bob", "abc/x"], &["ac/b", "abc/d"]),
            ("[!a]/\\*", &["b/*"], &["a/*", "b/x"]),
            ("a{b}c", &["a{b}c"], &["abc"]),
            ("*.test.*", &["a.test.ts"], &["a.tests.ts"]),
            ("a/**/b/**/c", &["a/b/c", "a/x/b/y/z/c"], &["a/c", "a/b"]),
            (".", &[""], &["a"]),
        ] {
            let glob = glob(pattern, Dots::Hidden);
            for path in yes {
                assert!(glob.matches(&RelPath::new(path).unwrap()), "{pattern} should match {path:?}");
            }
            for path in no {
                assert!(!glob.matches(&RelPath::new(path).unwrap()), "{pattern} should not match {path:?}");
            }
        }
        assert!(glob("**/*", Dots::Matched).matches(&RelPath::new("a/.b/.c").unwrap()));
    }

    #[test]
    fn patterns_are_resolved_from_their_directory() {
        let web = RelPath::new("apps/web").unwrap();
        let glob = Glob::new(&web, "../../packages/*/src/**", Dots::Matched).unwrap();
        assert!(glob.matches(&RelPath::new("packages/ui/src/a.ts").unwrap()));
        let error = Glob::new(&web, "../../../x", Dots::Matched).unwrap_err();
        assert_eq!(error.to_string(), "the pattern `../../../x` leaves the workspace root");
        assert!(Glob::new(&web, "*/../x", Dots::Matched).is_err());
        assert!(Glob::new(&web, "!(a)", Dots::Matched).is_err());
        assert!(Glob::new(&web, "/a", Dots::Matched).is_err());
    }

    #[test]
    fn braces_cannot_explode() {
        let bomb = "{a,b}".repeat(12);
        assert!(matches!(Glob::new(&RelPath::root(), &bomb, Dots::Matched), Err(GlobError::TooLarge { .. })));
    }

    #[test]
    fn many_wildcards_stay_fast() {
        let glob = glob(&"**/a*a*a*a*ab/".repeat(20), Dots::Matched);
        assert!(!glob.matches(&RelPath::new(&["a".repeat(60).as_str(); 60].join("/")).unwrap()));
    }

    proptest! {
        #[test]
        fn a_literal_path_matches_itself_only(parts in prop::collection::vec("[a-z.][a-z0-9.-]{0,6}", 1..5)) {
            prop_assume!(parts.iter().all(|part| part != "." && part != ".."));
            let path = RelPath::new(&parts.join("/")).unwrap();
            let glob = glob(path.as_str(), Dots::Hidden);
            prop_assert!(glob.matches(&path));
            prop_assert!(!glob.matches(&path.child("x")));
            prop_assert_eq!(glob.literals().unwrap(), vec![path]);
        }

        #[test]
        fn what_matches_below_is_announced(pattern in "(\\*\\*|\\*|[ab]{1,2}|\\{a,b/c\\})(/(\\*\\*|\\*|[ab]{1,2})){0,3}",
                                            path in "[abc]{1,2}(/[abc]{1,2}){0,4}") {
            let glob = glob(&pattern, Dots::Hidden);
            let path = RelPath::new(&path).unwrap();
            if glob.matches(&path) {
                let mut above = path.parent();
                while let Some(directory) = above {
                    prop_assert!(glob.may_match_below(&directory), "{} below {}", pattern, directory);
                    above = directory.parent();
                }
                prop_assert!(glob.matches_within(&path.child("deeper")));
            }
        }

        #[test]
        fn nothing_panics(pattern in ".{0,40}", path in "[a-z./]{0,20}") {
            if let (Ok(glob), Ok(path)) = (Glob::new(&RelPath::root(), &pattern, Dots::Hidden), RelPath::new(&path)) {
                glob.matches(&path);
            }
        }
    }
}
