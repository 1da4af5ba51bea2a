use std::fmt;

use crate::ignore::{PatternError, is_well_formed, printable};

/// What one step of a pattern stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Any number of bytes, but no slash.
    Star,
    /// One character, but no slash.
    Any,
    /// This byte.
    Byte(u8),
    /// One character of a class; it may be a slash.
    Class { negated: bool, ranges: Vec<(u32, u32)> },
}

impl Token {
    fn can_be_slash(&self) -> bool {
        match self {
            Self::Star | Self::Any => false,
            Self::Byte(byte) => *byte == b'/',
            Self::Class { negated, ranges } => in_class(*negated, ranges, u32::from(b'/')),
        }
    }
}

fn in_class(negated: bool, ranges: &[(u32, u32)], character: u32) -> bool {
    ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != negated
}

/// A pattern as Go's `filepath.Match` takes it: `*` and `?` stop at slashes, classes do not, a backslash takes the meaning
/// off what follows, and the whole path must match.
#[derive(Clone, Debug)]
pub struct Wildcard {
    text: Box<[u8]>,
    tokens: Vec<Token>,
    /// The tokens of each component, when slashes in the path can only be those of the pattern.
    components: Option<Vec<Vec<Token>>>,
}

impl Wildcard {
    /// Whether Go takes a text for a pattern at all.
    pub fn is_in(text: &[u8]) -> bool {
        let mut bytes = text.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'*' | b'?' | b'[' => return true,
                b'\\' => {
                    bytes.next();
                }
                _ => {}
            }
        }
        false
    }

    /// Compiles.
    ///
    /// # Errors
    /// When Go would call it malformed.
    pub fn new(text: &[u8]) -> Result<Self, PatternError> {
        let malformed = || PatternError::Syntax { pattern: printable(text) };
        if !is_well_formed(text) {
            return Err(malformed());
        }
        let tokens = tokens(text).ok_or_else(malformed)?;
        let slash = |token: &Token| *token == Token::Byte(b'/');
        let plain = tokens.iter().all(|token| slash(token) || !token.can_be_slash());
        let components = plain.then(|| tokens.split(slash).map(<[Token]>::to_vec).collect());
        Ok(Self { text: text.into(), tokens, components })
    }

    /// Whether the path, relative to where the pattern begins, is meant.
    pub fn matches(&self, path: &[u8]) -> bool {
        matches(&self.tokens, path)
    }

    /// Whether anything in the directory can be meant.
    pub fn leads_to(&self, directory: &[u8]) -> bool {
        let Some(components) = &self.components else { return true };
        let mut names = directory.split(|b| *b == b'/').enumerate();
        names.all(|(depth, name)| depth + 1 < components.len() && matches(&components[depth], name))
    }
}

/// The text.
impl fmt::Display for Wildcard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.text))
    }
}

/// `None` for what [`is_well_formed`] refuses.
fn tokens(text: &[u8]) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        tokens.push(match first {
            b'*' => Token::Star,
            b'?' => Token::Any,
            b'[' => class(&mut rest)?,
            b'\\' => {
                let (escaped, tail) = rest.split_first()?;
                rest = tail;
                Token::Byte(*escaped)
            }
            byte => Token::Byte(*byte),
        });
    }
    Some(tokens)
}

fn class(rest: &mut &[u8]) -> Option<Token> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if rest.first() == Some(&b']') && !ranges.is_empty() {
            *rest = &rest[1..];
            return Some(Token::Class { negated, ranges });
        }
        let low = class_character(rest)?;
        let high = match rest.first() {
            Some(b'-') => {
                *rest = &rest[1..];
                class_character(rest)?
            }
            _ => low,
        };
        ranges.push((low, high));
    }
}

fn class_character(rest: &mut &[u8]) -> Option<u32> {
    if rest.first() == Some(&b'\\') {
        *rest = &rest[1..];
    }
    let (character, width) = character(rest)?;
    *rest = &rest[width..];
    Some(character)
}

/// The first character, and how many bytes it has. A byte that begins none counts as one, as in Go.
fn character(bytes: &[u8]) -> Option<(u32, usize)> {
    let beginning = &bytes[..bytes.len().min(4)];
    let chunk = beginning.utf8_chunks().next()?;
    Some(chunk.valid().chars().next().map_or((0xfffd, 1), |c| (u32::from(c), c.len_utf8())))
}

fn matches(tokens: &[Token], path: &[u8]) -> bool {
    let (mut token, mut at) = (0, 0);
    // The last star, and where what it stands for ends.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match tokens.get(token) {
            None => (at == path.len()).then_some(at),
            Some(Token::Star) => {
                star = Some((token, at));
                Some(at)
            }
            Some(Token::Byte(byte)) => (path.get(at) == Some(byte)).then_some(at + 1),
            Some(Token::Any) if path.get(at) == Some(&b'/') => None,
            Some(Token::Any) => character(&path[at..]).map(|(_, width)| at + width),
            Some(Token::Class { negated, ranges }) => character(&path[at..])
                .filter(|(character, _)| in_class(*negated, ranges, *character))
                .map(|(_, width)| at + width),
        };
        match (step, star) {
            (Some(_), _) if token == tokens.len() => return true,
            (Some(next), _) => (token, at) = (token + 1, next),
            (None, Some((after, end))) if path.get(end).is_some_and(|byte| *byte != b'/') => {
                star = Some((after, end + 1));
                (token, at) = (after + 1, end + 1);
            }
            (None, _) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Y05, and the rows of Go's own documentation of `Match`.
    #[test]
    fn the_whole_path_matches_and_stars_stop_at_slashes() {
        for (pattern, path, expected) in [
            ("*", "abc", true),
            ("*", "a/b", false),
            ("*", ".hidden", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[x\\-]", "z", false),
            ("arr[[]0].txt", "arr[0].txt", true),
            ("a[^b]c", "a/c", true),
            ("**", "ab", true),
            ("**/x", "a/x", true),
            ("**/x", "a/b/x", false),
            ("", "", true),
            ("?", "", false),
        ] {
            assert_eq!(
                Wildcard::new(pattern.as_bytes()).unwrap().matches(path.as_bytes()),
                expected,
                "{pattern} {path}"
            );
        }
        assert!(Wildcard::new(b"a?b").unwrap().matches(b"a\xffb"));
        assert!(!Wildcard::new(b"a?b").unwrap().matches(b"a\xff\xffb"));
        for pattern in ["[", "[]", "[^", "a[", "[-x]", "a\\"] {
            assert!(Wildcard::new(pattern.as_bytes()).is_err(), "{pattern}");
        }
    }

    #[test]
    fn directories_that_lead_nowhere_are_known() {
        let leads =
            |pattern: &str, path: &str| Wildcard::new(pattern.as_bytes()).unwrap().leads_to(path.as_bytes());
        assert!(leads("*/package.json", "apps") && !leads("*/package.json", "apps/web"));
        assert!(leads("a*/b/c", "ab/b") && !leads("a*/b/c", "ab/c") && !leads("a*/b/c", "x"));
        assert!(leads("a[^b]c/d", "x/y/z"), "a class can be a slash");
        assert!(leads("[[]slug]/page.tsx", "[slug]") && !leads("[[]slug]/page.tsx", "other"));
    }

    proptest::proptest! {
        #[test]
        fn whoever_matches_is_led_to(pattern in "[ab*?/]{1,8}", path in "[ab]{1,3}(/[ab]{1,3}){0,3}") {
            let Ok(wildcard) = Wildcard::new(pattern.as_bytes()) else { return Ok(()) };
            if wildcard.matches(path.as_bytes()) {
                for (at, _) in path.match_indices('/') {
                    proptest::prop_assert!(wildcard.leads_to(&path.as_bytes()[..at]), "{pattern} {path}");
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            pattern in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..24),
            path in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..24),
        ) {
            if let Ok(wildcard) = Wildcard::new(&pattern) {
                wildcard.matches(&path);
                wildcard.leads_to(&path);
            }
        }
    }
}
