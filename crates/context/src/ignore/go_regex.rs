//! Go regular expressions, as far as a `.dockerignore` pattern can produce them, written for the `regex` crate.
//!
//! The two dialects differ where it matters here: in Go a `[` or `&&` inside a class is literal, `\d`, `\s`, `\w` and `\b`
//! are ASCII, `\012` is octal and `\Q…\E` quotes. So classes and escapes are read by Go's rules, and what is
//! written uses only spellings about which both agree. Alternation, counted repetition and flags cannot occur: the
//! translation escapes their characters.

use std::fmt::Write as _;
use std::str::Chars;

/// Why Go would refuse the expression, as a fragment to be read after the pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GoRegexError {
    /// `[z-a]`, `[[:nope:]]`, `\pX`.
    CharRange(String),
    /// `\q`.
    Escape(String),
    /// A class without end.
    MissingBracket,
}

/// The same expression for the `regex` crate.
pub(super) fn to_rust(go: &str) -> Result<String, GoRegexError> {
    let mut reader = Reader { rest: go.chars() };
    let mut out = String::with_capacity(go.len() * 2);
    while let Some(c) = reader.rest.next() {
        match c {
            '^' => out.push_str(r"\A"),
            '$' => out.push_str(r"\z"),
            '(' => out.push_str("(?:"),
            ')' | '.' | '*' | '?' => out.push(c),
            '[' => reader.class(&mut out)?,
            '\\' => reader.escape(&mut out)?,
            c => literal(&mut out, c),
        }
    }
    Ok(out)
}

struct Reader<'a> {
    rest: Chars<'a>,
}

fn literal(out: &mut String, c: char) {
    if c.is_ascii_alphanumeric() || !c.is_ascii() {
        out.push(c);
    } else {
        range(out, c, c);
    }
}

/// `c` or `low-high`, spelled so that nothing in it can be special, inside or outside of a class.
fn range(out: &mut String, low: char, high: char) {
    // Writing to a `String` cannot fail.
    let _ = write!(out, r"\x{{{:x}}}", u32::from(low));
    if low != high {
        let _ = write!(out, r"-\x{{{:x}}}", u32::from(high));
    }
}

/// Go's Perl classes are ASCII. Valid outside of a class and, as a nested one, inside.
fn perl_class(name: char) -> Option<&'static str> {
    Some(match name {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        's' => r"[\t\n\x0c\r\x20]",
        'S' => r"[^\t\n\x0c\r\x20]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        _ => return None,
    })
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn take(&mut self, text: &str) -> bool {
        match self.rest.as_str().strip_prefix(text) {
            Some(rest) => {
                self.rest = rest.chars();
                true
            }
            None => false,
        }
    }

    /// After a backslash outside of a class.
    fn escape(&mut self, out: &mut String) -> Result<(), GoRegexError> {
        match self.peek() {
            Some('A') => out.push_str(r"\A"),
            Some('z') => out.push_str(r"\z"),
            Some('b') => out.push_str(r"(?-u:\b)"),
            Some('B') => out.push_str(r"(?-u:\B)"),
            Some('Q') => {
                self.rest.next();
                let quoted = self.rest.as_str();
                let (quoted, rest) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
                quoted.chars().for_each(|c| literal(out, c));
                self.rest = rest.chars();
                return Ok(());
            }
            Some('p' | 'P') => return self.unicode_class(out),
            Some(name) if perl_class(name).is_some() => out.push_str(perl_class(name).unwrap_or_default()),
            _ => {
                let c = self.escaped_char()?;
                literal(out, c);
                return Ok(());
            }
        }
        self.rest.next();
        Ok(())
    }

    /// After the backslash of `\pX`. A brace cannot follow: the translation escapes it, and Go then sees `\p\`.
    fn unicode_class(&mut self, out: &mut String) -> Result<(), GoRegexError> {
        let negated = self.rest.next() == Some('P');
        let class = match self.rest.next() {
            // Go's C knows no unassigned code points.
            Some('C') => r"\p{Cc}\p{Cf}\p{Co}",
            Some('L') => r"\p{L}",
            Some('M') => r"\p{M}",
            Some('N') => r"\p{N}",
            Some('P') => r"\p{P}",
            Some('S') => r"\p{S}",
            Some('Z') => r"\p{Z}",
            Some(other) => return Err(GoRegexError::CharRange(format!(r"\p{other}"))),
            None => return Err(GoRegexError::CharRange(r"\p".to_owned())),
        };
        out.push_str(if negated { "[^" } else { "[" });
        out.push_str(class);
        out.push(']');
        Ok(())
    }

    /// After a backslash: the one character it stands for.
    fn escaped_char(&mut self) -> Result<char, GoRegexError> {
        let Some(c) = self.rest.next() else { return Err(GoRegexError::Escape("\\".to_owned())) };
        let wrong = || GoRegexError::Escape(format!("\\{c}"));
        match c {
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok(c),
            // One digit alone would be a back-reference, which Go does not have; two are octal.
            '0'..='7' => {
                let octal = |next: Option<char>| next.and_then(|next| next.to_digit(8));
                if c != '0' && octal(self.peek()).is_none() {
                    return Err(wrong());
                }
                let mut value = c.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    let Some(digit) = octal(self.peek()) else { break };
                    value = value * 8 + digit;
                    self.rest.next();
                }
                char::from_u32(value).ok_or_else(wrong)
            }
            'x' => {
                let mut digit = || self.rest.next().and_then(|next| next.to_digit(16)).ok_or_else(wrong);
                let value = digit()? * 16 + digit()?;
                char::from_u32(value).ok_or_else(wrong)
            }
            'a' => Ok('\u{7}'),
            'f' => Ok('\u{c}'),
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'v' => Ok('\u{b}'),
            _ => Err(wrong()),
        }
    }

    /// After `[`.
    fn class(&mut self, out: &mut String) -> Result<(), GoRegexError> {
        out.push('[');
        if self.take("^") {
            out.push('^');
        }
        let mut first = true;
        while first || self.peek() != Some(']') {
            first = false;
            if self.named_class(out)? {
                continue;
            }
            if self.rest.as_str().starts_with(r"\p") || self.rest.as_str().starts_with(r"\P") {
                self.rest.next();
                self.unicode_class(out)?;
                continue;
            }
            if let Some(class) = self.perl_class_escape() {
                out.push_str(class);
                continue;
            }
            let before = self.rest.as_str();
            let low = self.class_char()?;
            let mut high = low;
            let after = self.rest.as_str();
            if after.len() >= 2 && after.starts_with('-') && !after.starts_with("-]") {
                self.rest.next();
                high = self.class_char()?;
                if high < low {
                    let text = &before[..before.len() - self.rest.as_str().len()];
                    return Err(GoRegexError::CharRange(text.to_owned()));
                }
            }
            range(out, low, high);
        }
        self.rest.next();
        out.push(']');
        Ok(())
    }

    fn perl_class_escape(&mut self) -> Option<&'static str> {
        let name = self.rest.as_str().strip_prefix('\\')?.chars().next()?;
        let class = perl_class(name)?;
        self.rest.next();
        self.rest.next();
        Some(class)
    }

    fn class_char(&mut self) -> Result<char, GoRegexError> {
        match self.rest.next() {
            None => Err(GoRegexError::MissingBracket),
            Some('\\') => self.escaped_char(),
            Some(c) => Ok(c),
        }
    }

    /// `[:alpha:]` and `[:^alpha:]`: the same names, and ASCII, in both dialects.
    fn named_class(&mut self, out: &mut String) -> Result<bool, GoRegexError> {
        const NAMES: [&str; 14] = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
            "space", "upper", "word", "xdigit",
        ];
        let Some(inner) = self.rest.as_str().strip_prefix("[:") else { return Ok(false) };
        let Some((name, rest)) = inner.split_once(":]") else { return Ok(false) };
        if !NAMES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return Err(GoRegexError::CharRange(format!("[:{name}:]")));
        }
        let _ = write!(out, "[:{name}:]");
        self.rest = rest.chars();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected by Go's `regexp/syntax` rules, worked out by hand.
    #[test]
    fn go_classes_and_escapes_keep_their_meaning() {
        let table: [(&str, &[&str], &[&str]); 16] = [
            (r"^[a[b]$", &["a", "[", "b"], &["c", "]"]),
            (r"^[a&&b]$", &["a", "&", "b"], &["c"]),
            (r"^[a~~b]$", &["a", "~", "b"], &["c"]),
            (r"^[[^/]*]$", &["]", "[]", "/^]"], &["", "x]"]),
            (r"^[\d_]$", &["7", "_"], &["d", "٣"]),
            (r"^\w\s$", &["a ", "_\t"], &["é ", "a\u{a0}"]),
            (r"^[^a]$", &["/", "\n", "é"], &["a", ""]),
            (r"^[]a]$", &["]", "a"], &["b"]),
            (r"^[a-]$", &["a", "-"], &["b"]),
            (r"^[[:alpha:]-z]$", &["b", "-", "z"], &["1"]),
            (r"^[[:^alpha:]]$", &["1", "-"], &["b"]),
            (r"^\x41\101\0$", &["AA\0"], &["AA"]),
            (r"^\Qa.b[\E[c]$", &["a.b[c"], &["axb[c"]),
            (r"^a\bb$", &[], &["ab"]),
            (r"^(.*/)?x$", &["x", "a/x", "a/b/x"], &["ax", "a\n/x"]),
            (r"^\pLx\PL$", &["éx1"], &["1x1", "éxé"]),
        ];
        for (go, yes, no) in table {
            let regex = regex::Regex::new(&to_rust(go).unwrap()).unwrap();
            yes.iter().for_each(|text| assert!(regex.is_match(text), "{go} on {text:?}"));
            no.iter().for_each(|text| assert!(!regex.is_match(text), "{go} on {text:?}"));
        }
    }

    #[test]
    fn go_errors_are_errors() {
        let table = [
            ("^[z-a]$", GoRegexError::CharRange("z-a".into())),
            ("^[Local-Only]$", GoRegexError::CharRange("l-O".into())),
            ("^[[:nope:]]$", GoRegexError::CharRange("[:nope:]".into())),
            (r"^\p\{L\}$", GoRegexError::CharRange(r"\p\".into())),
            (r"^\q$", GoRegexError::Escape(r"\q".into())),
            (r"^\1$", GoRegexError::Escape(r"\1".into())),
            (r"^\é$", GoRegexError::Escape(r"\é".into())),
            (r"^\x4g$", GoRegexError::Escape(r"\x".into())),
            ("^[a$", GoRegexError::MissingBracket),
        ];
        for (go, error) in table {
            assert_eq!(to_rust(go).unwrap_err(), error, "{go}");
        }
    }
}
