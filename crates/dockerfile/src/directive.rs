//! The comments at the top of a file that say how to read it: `syntax`, `escape`, `check`.

use std::ops::Range;

use wbuild_report::Span;

use crate::json;
use crate::source::Word;

/// What the file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// The frontend image that `docker build` would fetch. This engine has one frontend, its own.
    pub syntax: Option<Syntax>,
    /// The text of `# check=…`, up to the first blank.
    pub check: Option<Word>,
    /// The character that escapes others and continues lines: a backslash or a backtick.
    pub escape: char,
}

/// `# syntax=image arguments`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syntax {
    /// The first word.
    pub image: Word,
    /// All of it: what the frontend is given as its command line.
    pub command_line: String,
}

/// The three keys there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Syntax,
    Escape,
    Check,
}

impl Key {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Escape => "escape",
            Self::Check => "check",
        }
    }
}

/// Reads the lines at the top one by one. The first line that is no known directive ends it; so does a blank line.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    done: bool,
    seen: Vec<(Key, usize)>,
}

/// What a line is to a [`Reader`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A directive with the place of its value in the line.
    Directive(Key, Range<usize>),
    /// A key that was there before, in the line with this number.
    Repeated(Key, usize),
    /// Something else; no directive can follow.
    Nothing,
}

impl Reader {
    /// Looks at a line without its newline.
    pub(crate) fn line(&mut self, line: &str, number: usize, comment: &str) -> Found {
        if self.done {
            return Found::Nothing;
        }
        let Some((key, value)) = pair_behind(line, comment) else {
            self.done = true;
            return Found::Nothing;
        };
        if let Some((_, first)) = self.seen.iter().find(|(seen, _)| *seen == key) {
            return Found::Repeated(key, *first);
        }
        self.seen.push((key, number));
        Found::Directive(key, value)
    }
}

/// The directive in `line`, which begins with `comment` (`#`, `//`, or nothing).
pub(crate) fn pair_behind(line: &str, comment: &str) -> Option<(Key, Range<usize>)> {
    const BLANKS: [char; 5] = ['\t', '\n', '\x0c', '\r', ' '];
    let rest = line.strip_prefix(comment)?.trim_start();
    let (key, value) = rest.split_once('=')?;
    let key = key.trim_end_matches(BLANKS);
    let key = [Key::Syntax, Key::Escape, Key::Check]
        .into_iter()
        .find(|known| key.eq_ignore_ascii_case(known.name()))?;
    let trimmed = value.trim_matches(BLANKS);
    if trimmed.is_empty() {
        return None;
    }
    let start = trimmed.as_ptr() as usize - line.as_ptr() as usize;
    Some((key, start..start + trimmed.len()))
}

/// A directive that is looked for in the file as a whole, the way BuildKit looks for `syntax` and `check`: behind a byte order
/// mark and a `#!` line, where `escape` is not looked for.
pub(crate) fn find(text: &str, wanted: Key) -> Option<(Word, String)> {
    let comments: &[&str] = if wanted == Key::Syntax { &["#", "//"] } else { &["#"] };
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let body = match body.split_once('\n') {
        Some((first, rest)) if first.starts_with("#!") => rest,
        None if body.starts_with("#!") => "",
        _ => body,
    };
    let offset = text.len() - body.len();
    for comment in comments {
        let mut reader = Reader::default();
        let mut start = offset;
        for raw in body.split_inclusive('\n') {
            let line = raw.strip_suffix('\n').unwrap_or(raw);
            let line = line.strip_suffix('\r').unwrap_or(line);
            match reader.line(line, 0, comment) {
                Found::Directive(key, value) if key == wanted => {
                    let all = &line[value.clone()];
                    let first = all.split(' ').next().unwrap_or_default();
                    let span = Span::new(start + value.start, start + value.start + first.len());
                    return Some((Word::new(first, span), all.to_owned()));
                }
                Found::Directive(..) => {}
                Found::Repeated(..) | Found::Nothing => break,
            }
            start += raw.len();
        }
    }
    if wanted == Key::Syntax && body.trim_start().starts_with('{') {
        let image = json::string_of_object(body, wanted.name())?;
        return Some((Word::new(image.clone(), Span::new(offset, text.len())), image));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_is_found_where_buildkit_finds_it() {
        for (text, image) in [
            ("# syntax=docker/dockerfile:1\nFROM x", Some("docker/dockerfile:1")),
            ("#syntax = a b c\n", Some("a")),
            ("# SYNTAX=A\n", Some("A")),
            ("\u{feff}# syntax=a\n", Some("a")),
            ("#!/x\n# syntax=a\n", Some("a")),
            ("#!/x\n\n# syntax=a\n", None),
            ("// syntax=a\r\nx", Some("a")),
            ("{\"x\": [1], \"syntax\": \"a\"}", Some("a")),
            ("{\"syntax\": \"a\"} x", None),
            ("# escape=`\n# syntax=a", Some("a")),
            ("# foo=b\n# syntax=a", None),
            ("\n# syntax=a", None),
            (" # syntax=a", None),
            ("# syntax=", None),
            ("# syntax=a\n# syntax=b", Some("a")),
        ] {
            assert_eq!(find(text, Key::Syntax).map(|(word, _)| word.text).as_deref(), image, "{text:?}");
        }
        let (word, all) = find("# syntax=a b", Key::Syntax).unwrap();
        assert_eq!((word.span, all.as_str()), (Span::new(9, 10), "a b"));
        assert_eq!(find("//check=skip=all", Key::Check), None);
    }
}
