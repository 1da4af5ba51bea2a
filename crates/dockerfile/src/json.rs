//! The JSON form of arguments: an array of strings with the place of each. Whatever is not valid JSON is no error here: the
//! instruction then has the shell form, as in `docker build`.

use std::ops::Range;

/// What a text is, seen as a JSON array of strings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum JsonArray {
    /// It is one. Each string with the range it was written in, quotes included.
    Strings(Vec<(String, Range<usize>)>),
    /// It is valid JSON and an array, but holds something else, first here.
    OtherItems(Range<usize>),
    /// It is no JSON array at all.
    NotJson,
}

/// Deeper nesting than this is not JSON, as in Go's decoder.
const MAX_DEPTH: usize = 10_000;

/// Reads the text in `range`.
pub(crate) fn array_of_strings(text: &str, range: Range<usize>) -> JsonArray {
    let mut reader = Reader { text, at: range.start, end: range.end };
    reader.array().unwrap_or(JsonArray::NotJson)
}

/// The string that `key` has in a text that is one JSON object.
pub(crate) fn string_of_object(text: &str, key: &str) -> Option<String> {
    let mut reader = Reader { text, at: 0, end: text.len() };
    let mut found = None;
    reader.blanks();
    reader.take(b'{')?;
    reader.blanks();
    if reader.take(b'}').is_none() {
        loop {
            reader.blanks();
            let name = reader.string()?;
            reader.blanks();
            reader.take(b':')?;
            reader.blanks();
            if reader.peek()? == b'"' {
                let value = reader.string()?;
                if name == key {
                    found = Some(value);
                }
            } else {
                reader.value()?;
            }
            reader.blanks();
            if reader.take(b',').is_none() {
                reader.take(b'}')?;
                break;
            }
        }
    }
    reader.blanks();
    if reader.at == reader.end { found } else { None }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    end: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes()[..self.end].get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// `None` where the text is not JSON.
    fn array(&mut self) -> Option<JsonArray> {
        self.blanks();
        self.take(b'[')?;
        let mut strings = Vec::new();
        let mut other = None;
        self.blanks();
        if self.take(b']').is_none() {
            loop {
                self.blanks();
                let start = self.at;
                if self.peek()? == b'"' {
                    let string = self.string()?;
                    strings.push((string, start..self.at));
                } else {
                    self.value()?;
                    other.get_or_insert(start..self.at);
                }
                self.blanks();
                if self.take(b',').is_none() {
                    self.take(b']')?;
                    break;
                }
            }
        }
        self.blanks();
        if self.at != self.end {
            return None;
        }
        Some(other.map_or(JsonArray::Strings(strings), JsonArray::OtherItems))
    }

    fn string(&mut self) -> Option<String> {
        self.take(b'"')?;
        let mut string = String::new();
        loop {
            let start = self.at;
            while !matches!(self.peek()?, b'"' | b'\\' | 0..=0x1f) {
                self.at += 1;
            }
            string.push_str(&self.text[start..self.at]);
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(string);
                }
                b'\\' => {
                    self.at += 1;
                    string.push(self.escaped()?);
                }
                _ => return None,
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        let kind = self.peek()?;
        self.at += 1;
        Some(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.hex()?;
                match char::from_u32(unit) {
                    Some(c) => c,
                    None => self.low_surrogate(unit),
                }
            }
            _ => return None,
        })
    }

    /// The second half of a pair; a half alone is the replacement character, and what follows it stands for itself.
    fn low_surrogate(&mut self, high: u32) -> char {
        let before = self.at;
        if self.take(b'\\').is_some()
            && self.take(b'u').is_some()
            && let Some(low @ 0xdc00..=0xdfff) = self.hex()
            && let Some(c) =
                char::from_u32(0x10000 + ((high.wrapping_sub(0xd800) & 0x3ff) << 10) + (low - 0xdc00))
            && high < 0xdc00
        {
            return c;
        }
        self.at = before;
        char::REPLACEMENT_CHARACTER
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4).filter(|_| self.at + 4 <= self.end)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }

    /// Skips a value that is no string of the outer array. Nested values are counted, not called: no recursion.
    fn value(&mut self) -> Option<()> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.blanks();
            match self.peek()? {
                bracket @ (b'[' | b'{') => {
                    self.at += 1;
                    self.blanks();
                    if self.peek()? == bracket + 2 {
                        self.at += 1;
                    } else {
                        open.push(bracket);
                        if open.len() > MAX_DEPTH {
                            return None;
                        }
                        if bracket == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                b'"' => {
                    self.string()?;
                }
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                _ => self.number()?,
            }
            // A value ended: close what it was the last of, or go on to its neighbour.
            loop {
                let Some(bracket) = open.last().copied() else { return Some(()) };
                self.blanks();
                if self.take(b',').is_some() {
                    if bracket == b'{' {
                        self.key()?;
                    }
                    break;
                }
                self.take(bracket + 2)?;
                open.pop();
            }
        }
    }

    fn key(&mut self) -> Option<()> {
        self.blanks();
        self.string()?;
        self.blanks();
        self.take(b':')
    }

    fn literal(&mut self, word: &str) -> Option<()> {
        self.text[self.at..self.end].starts_with(word).then(|| self.at += word.len())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> JsonArray {
        array_of_strings(text, 0..text.len())
    }

    #[test]
    fn strings_with_escapes() {
        let table: [(&str, &[&str]); 6] = [
            ("[]", &[]),
            (r#" [ "a" , "b" ] "#, &["a", "b"]),
            (r#"["\u0041\t\"\/\ud83d\ude00"]"#, &["A\t\"/😀"]),
            (r#"["\ud83dx"]"#, &["\u{fffd}x"]),
            (r#"["\ud83d\u0041"]"#, &["\u{fffd}A"]),
            (r#"["日本"]"#, &["日本"]),
        ];
        for (text, expected) in table {
            match read(text) {
                JsonArray::Strings(strings) => {
                    assert_eq!(
                        strings.iter().map(|(string, _)| string.as_str()).collect::<Vec<_>>(),
                        expected,
                        "{text}"
                    );
                    for (_, range) in strings {
                        assert!(text[range.clone()].starts_with('"') && text[range].ends_with('"'));
                    }
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn valid_json_of_another_kind_is_told_from_no_json() {
        for text in [
            "[1]",
            "[\"a\", [\"b\"]]",
            "[null]",
            "[{\"a\": [1, {}], \"b\": -1.5e+3}]",
            "[\"a\", true]",
            "[[]]",
        ] {
            assert!(matches!(read(text), JsonArray::OtherItems(_)), "{text}");
        }
        for text in [
            "['a']",
            "[\"a\"",
            "[\"a\"] x",
            "[\"a\",]",
            "[01]",
            "[1 2]",
            "[{\"a\"}]",
            "[\"\\x\"]",
            "[\"\t\"]",
            "[",
            "",
            "a",
            "[tru]",
            "[-]",
            "[1.]",
            "[]random",
            "[\"\\u00\"]",
            "[[\"a\"]",
            "[{\"a\":1]",
        ] {
            assert_eq!(read(text), JsonArray::NotJson, "{text}");
        }
    }

    #[test]
    fn deep_nesting_neither_overflows_nor_passes() {
        assert!(matches!(
            read(&format!("[{}{}]", "[".repeat(5000), "]".repeat(5000))),
            JsonArray::OtherItems(_)
        ));
        assert_eq!(read(&"[".repeat(60_000)), JsonArray::NotJson);
    }
}
