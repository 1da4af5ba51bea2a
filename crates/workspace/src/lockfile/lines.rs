//! Lines of a lockfile: indentation, keys, scalars. This knows the YAML that pnpm writes, not YAML; what it does not
//! know is an error with a place, never a guess.

use wbuild_report::Span;

use super::Text;

/// One line that is not blank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// Offset of its first byte, indentation included.
    pub(super) start: usize,
    /// Offset after its end, line break included.
    pub(super) end: usize,
    /// Offset after the last line before it that was not blank: where blank lines before it begin.
    pub(super) lead: usize,
    /// Number of spaces it starts with.
    pub(super) indent: usize,
    /// Its text without indentation and line break.
    pub(super) text: &'a str,
}

impl Line<'_> {
    pub(super) fn content_start(&self) -> usize {
        self.start + self.indent
    }

    pub(super) fn span(&self) -> Span {
        Span::new(self.content_start(), self.content_start() + self.text.len())
    }
}

/// The lines of a part of a text. Blank lines and comments are passed over.
#[derive(Clone, Debug)]
pub(super) struct Lines<'a> {
    text: &'a str,
    at: usize,
    end: usize,
    /// Offset after the last line that was taken.
    last_end: usize,
    /// The next line, if it has been looked at: most lines are looked at before they are taken.
    ahead: Option<Line<'a>>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str, part: Span) -> Self {
        Self { text, at: part.start, end: part.end, last_end: part.start, ahead: None }
    }

    /// The next line if it is indented by at least `indent`.
    pub(super) fn next_within(&mut self, indent: usize) -> Option<Line<'a>> {
        if self.ahead.is_none() {
            self.ahead = self.read();
        }
        if self.ahead?.indent < indent {
            return None;
        }
        self.next()
    }

    /// Passes over everything indented by at least `indent`; the offset after the last such line.
    pub(super) fn skip_within(&mut self, indent: usize) -> usize {
        while self.next_within(indent).is_some() {}
        self.last_end
    }

    fn read(&mut self) -> Option<Line<'a>> {
        let bytes = self.text.as_bytes();
        while self.at < self.end {
            let start = self.at;
            let rest = &self.text[start..self.end];
            let end = rest.find('\n').map_or(self.end, |at| start + at + 1);
            self.at = end;
            let mut stop = end;
            while stop > start && matches!(bytes[stop - 1], b'\n' | b'\r') {
                stop -= 1;
            }
            let indent = bytes[start..stop].iter().take_while(|byte| **byte == b' ').count();
            let text = &self.text[start + indent..stop];
            if text.is_empty() || (indent == 0 && text.starts_with('#')) {
                continue;
            }
            return Some(Line { start, end, lead: self.last_end, indent, text });
        }
        None
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let line = self.ahead.take().or_else(|| self.read())?;
        self.last_end = line.end;
        Some(line)
    }
}

/// What a line says: `key: value`, or `key:` with what follows below it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) key: Text,
    /// Absent for `key:`.
    pub(super) value: Option<Text>,
}

/// Takes `text`, which begins at `offset` of the file, apart. `None` when it is not a pair, or when a scalar holds an
/// escape, so that its value would not be a part of the text.
pub(super) fn pair(text: &str, offset: usize) -> Option<Pair> {
    let (key, rest) = match text.as_bytes().first()? {
        quote @ (b'\'' | b'"') => {
            let close = text[1..].find(char::from(*quote))? + 1;
            if text[close + 1..].starts_with(char::from(*quote)) || text[1..close].contains('\\') {
                return None;
            }
            (Text::new(offset + 1, offset + close), close + 1)
        }
        _ => {
            // Keys hold colons of their own (`file:packages/c`); the one that ends a key has a space behind it.
            let bytes = text.as_bytes();
            let colon = bytes.windows(2).position(|pair| pair == b": ");
            let colon = match colon {
                Some(at) => at,
                None => text.strip_suffix(':')?.len(),
            };
            (Text::new(offset, offset + colon), colon)
        }
    };
    let value = text[rest..].strip_prefix(':')?;
    let trimmed = value.trim_start();
    if trimmed.is_empty() {
        return Some(Pair { key, value: None });
    }
    if trimmed.len() == value.len() {
        return None;
    }
    let value_offset = offset + text.len() - trimmed.len();
    Some(Pair { key, value: Some(scalar(trimmed, value_offset)?) })
}

/// A plain or quoted scalar (or a whole flow collection) as a range of the text.
pub(super) fn scalar(text: &str, offset: usize) -> Option<Text> {
    let text = text.trim_end();
    match text.as_bytes().first()? {
        quote @ (b'\'' | b'"') => {
            let inner = text[1..].strip_suffix(char::from(*quote))?;
            if inner.contains(char::from(*quote)) || (*quote == b'"' && inner.contains('\\')) {
                return None;
            }
            Some(Text::new(offset + 1, offset + 1 + inner.len()))
        }
        _ => Some(Text::new(offset, offset + text.len())),
    }
}

/// The items between the brackets of a flow collection; quotes and nested brackets keep commas together.
fn flow_items(flow: &str) -> impl Iterator<Item = &str> {
    let trimmed = flow.trim();
    let inner = trimmed.get(1..trimmed.len().saturating_sub(1)).unwrap_or_default();
    let (mut quote, mut depth) = (None, 0usize);
    inner
        .split(move |c: char| match (quote, c) {
            (Some(open), c) => {
                if c == open {
                    quote = None;
                }
                false
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                false
            }
            (None, '{' | '[') => {
                depth += 1;
                false
            }
            (None, '}' | ']') => {
                depth = depth.saturating_sub(1);
                false
            }
            (None, ',') => depth == 0,
            _ => false,
        })
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn unquoted(text: &str) -> &str {
    let text = text.trim();
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}

/// The value of `key` in a flow map: `{integrity: sha512-…, tarball: 'file:x.tgz'}`.
pub(super) fn flow_field<'a>(flow: &'a str, key: &str) -> Option<&'a str> {
    flow_items(flow).find_map(|item| {
        let (name, value) = item.split_once(": ")?;
        (unquoted(name) == key).then(|| unquoted(value))
    })
}

/// The items of a flow list, `[x64, arm64]`, or of a block list, `- x64`, or a single scalar.
pub(crate) fn list_items(text: &str) -> Vec<&str> {
    let trimmed = text.trim();
    if trimmed.starts_with('[') {
        return flow_items(trimmed).map(unquoted).collect();
    }
    trimmed
        .lines()
        .map(|line| unquoted(line.trim().trim_start_matches("- ")))
        .filter(|s| !s.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Option<(&str, Option<&str>)> {
        let slice = |t: Text| &text[t.start as usize..t.end as usize];
        let pair = pair(text, 0)?;
        Some((slice(pair.key), pair.value.map(slice)))
    }

    #[test]
    fn pairs() {
        for (text, expected) in [
            ("a:", Some(("a", None))),
            ("a: 1", Some(("a", Some("1")))),
            ("'@x/y@1(z@2)':", Some(("@x/y@1(z@2)", None))),
            ("x: 'a: b'", Some(("x", Some("a: b")))),
            ("file:packages/c: {}", Some(("file:packages/c", Some("{}")))),
            ("file:packages/c:", Some(("file:packages/c", None))),
            ("x: link:../a", Some(("x", Some("link:../a")))),
            ("'it''s': 1", None),
            ("x: 'it''s'", None),
            ("x: \"a\\n\"", None),
            ("no pair", None),
            ("'open", None),
            ("a:b", None),
        ] {
            assert_eq!(parts(text), expected, "{text}");
        }
    }

    #[test]
    fn flow_collections() {
        let flow = "{integrity: sha512-a==, tarball: 'file:a, b.tgz', x: [1, 2], type: directory}";
        assert_eq!(flow_field(flow, "tarball"), Some("file:a, b.tgz"));
        assert_eq!(flow_field(flow, "type"), Some("directory"));
        assert_eq!(flow_field(flow, "directory"), None);
        assert_eq!(list_items("[x64, '!arm']"), ["x64", "!arm"]);
        assert_eq!(list_items("      - x64\n      - arm64\n"), ["x64", "arm64"]);
        assert_eq!(list_items("{"), ["{"]);
        assert_eq!(flow_field("{", "a"), None);
    }

    #[test]
    fn lines_know_their_blank_lead() {
        let text = "a:\n\n  b: 1\n\n\nc: 2";
        let lines: Vec<_> = Lines::new(text, Span::new(0, text.len()))
            .map(|line| (line.lead, line.start, line.end, line.indent, line.text))
            .collect();
        assert_eq!(lines, [(0, 0, 3, 0, "a:"), (3, 4, 11, 2, "b: 1"), (11, 13, 17, 0, "c: 2")]);
    }
}
