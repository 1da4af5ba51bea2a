//! Physical lines joined into logical ones, with the way back from every byte of the joined text to the file.

use std::ops::Range;

use wbuild_report::Span;

/// A line of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PhysicalLine<'a> {
    /// With its newline.
    pub(crate) raw: &'a str,
    /// Its first byte.
    pub(crate) start: usize,
    /// 1-based.
    pub(crate) number: usize,
}

impl<'a> PhysicalLine<'a> {
    /// Without newline and carriage returns at its end.
    pub(crate) fn text(&self) -> &'a str {
        self.raw.trim_end_matches(['\r', '\n'])
    }

    /// Whether its first character that is not white space is `#`.
    pub(crate) fn is_comment(&self) -> bool {
        self.raw.trim_start().starts_with('#')
    }

    /// Its place, without the newline.
    pub(crate) fn span(&self) -> Span {
        Span::new(self.start, self.start + self.text().len())
    }
}

/// The lines of a text, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Lines<'a> {
    text: &'a str,
    at: usize,
    number: usize,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, number: 0 }
    }

    /// Where the next line begins.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// The number of the line read last.
    pub(crate) fn number(&self) -> usize {
        self.number
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = PhysicalLine<'a>;

    fn next(&mut self) -> Option<PhysicalLine<'a>> {
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        let start = self.at;
        self.at += length;
        self.number += 1;
        Some(PhysicalLine { raw: &rest[..length], start, number: self.number })
    }
}

/// What is left of a line that goes on in the next one, or `None` when it ends here. The escape character counts when only
/// blanks follow it and it is not itself escaped.
pub(crate) fn continued(text: &str, escape: char) -> Option<&str> {
    let before = text.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    if before.ends_with(escape) { None } else { Some(before) }
}

/// One instruction's line, put together from physical lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logical {
    /// The pieces, joined with nothing between them.
    pub(crate) text: String,
    /// Where each piece begins: in `text`, and in the file.
    pieces: Vec<(usize, usize)>,
}

impl Logical {
    /// Adds what stands at `start` in the file.
    pub(crate) fn push(&mut self, piece: &str, start: usize) {
        self.pieces.push((self.text.len(), start));
        self.text.push_str(piece);
    }

    /// Where a range of the text stands in the file. A range over several pieces covers all that lies between them.
    pub(crate) fn span(&self, range: Range<usize>) -> Span {
        let start = self.offset(range.start);
        if range.is_empty() {
            Span::new(start, start)
        } else {
            Span::new(start, self.offset(range.end - 1) + 1)
        }
    }

    fn offset(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|(begins, _)| *begins <= at);
        match self.pieces.get(piece.wrapping_sub(1)) {
            Some((begins, start)) => start + (at - begins),
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continuation_needs_an_unescaped_escape_before_blanks() {
        for (text, left) in [
            ("a \\", Some("a ")),
            ("a \\ \t", Some("a ")),
            ("\\", Some("")),
            ("a\\\\", None),
            ("a\\\\\\", None),
            ("a", None),
            ("", None),
            ("a \\ b", None),
        ] {
            assert_eq!(continued(text, '\\'), left, "{text}");
        }
    }

    #[test]
    fn joined_text_leads_back_to_the_file() {
        let file = "RUN a\\\n  b";
        let mut logical = Logical::default();
        logical.push("RUN a", 0);
        logical.push("  b", 7);
        assert_eq!(logical.text, "RUN a  b");
        assert_eq!(logical.span(4..8), Span::new(4, 10));
        assert_eq!(&file[logical.span(7..8).start..logical.span(7..8).end], "b");
        assert_eq!(logical.span(8..8), Span::new(10, 10));
    }
}
