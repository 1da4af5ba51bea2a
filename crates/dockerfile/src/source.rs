use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile, Span};

/// The longest physical line, without its newline: the limit of BuildKit's line scanner, kept so that a file means the same
/// in both builders.
pub const MAX_LINE_BYTES: usize = 65_535;

/// The largest Dockerfile. Real ones are a few KiB; a generated one with files in heredocs may be some MiB. The limit keeps a
/// hostile file from taking the machine's memory.
pub const MAX_DOCKERFILE_BYTES: usize = 32 * 1024 * 1024;

/// Places that are no UTF-8 are counted up to here; a file with more of them is not text.
const MAX_UNDECODABLE: usize = 1000;

/// A Dockerfile's text, decoded. Bytes that are no UTF-8 are tolerated in comments only (old files have the names of their
/// authors there in Latin-1), so their places are kept for the parser.
#[derive(Clone, Debug)]
pub struct Source {
    file: Arc<SourceFile>,
    undecodable: Vec<usize>,
}

impl Source {
    /// Decodes `bytes`; `name` is what diagnostics print. Fails for files that are too large, UTF-16, or no text at all.
    pub fn decode(name: &str, bytes: Vec<u8>) -> Result<Self, Box<Diagnostic>> {
        let refuse = |message: String, hint: &str| {
            Err(Box::new(Diagnostic::error(&SourceFile::new(name, ""), message).hint(hint)))
        };
        if bytes.len() > MAX_DOCKERFILE_BYTES {
            return refuse(
                format!(
                    "the Dockerfile has {} bytes, more than the {MAX_DOCKERFILE_BYTES} allowed",
                    bytes.len()
                ),
                "put large files into the build context and copy them instead of writing them in heredocs",
            );
        }
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return refuse(
                "the Dockerfile is UTF-16, not UTF-8".to_owned(),
                "save it as UTF-8 (PowerShell: `Set-Content -Encoding utf8`)",
            );
        }
        let bytes = match String::from_utf8(bytes) {
            Ok(text) => return Ok(Self { file: SourceFile::new(name, text), undecodable: Vec::new() }),
            Err(error) => error.into_bytes(),
        };
        let mut text = String::with_capacity(bytes.len());
        let mut undecodable = Vec::new();
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            if !chunk.invalid().is_empty() {
                undecodable.push(text.len());
                text.push(char::REPLACEMENT_CHARACTER);
            }
            if undecodable.len() > MAX_UNDECODABLE {
                return refuse(
                    "the Dockerfile is not a text file".to_owned(),
                    "check the path given with `-f`: a Dockerfile is UTF-8 text",
                );
            }
        }
        Ok(Self { file: SourceFile::new(name, text), undecodable })
    }

    /// A source from text that is UTF-8 already.
    pub fn from_text(name: &str, text: impl Into<String>) -> Self {
        Self { file: SourceFile::new(name, text), undecodable: Vec::new() }
    }

    /// The file as diagnostics point into it.
    pub fn file(&self) -> &Arc<SourceFile> {
        &self.file
    }

    /// The first place within `span` where bytes had to be replaced.
    pub(crate) fn undecodable_in(&self, span: Span) -> Option<usize> {
        let from = self.undecodable.partition_point(|offset| *offset < span.start);
        self.undecodable.get(from).copied().filter(|offset| *offset < span.end)
    }
}

/// A text with the place where it was written. The text may differ from the file's: lines joined, escapes resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it says.
    pub text: String,
    /// Where.
    pub span: Span,
}

impl Word {
    /// A word at a place.
    pub fn new(text: impl Into<String>, span: Span) -> Self {
        Self { text: text.into(), span }
    }

    /// The place of a part of this word, if the word stands in the file just as it reads; else the place of the whole.
    pub fn part(&self, part: std::ops::Range<usize>) -> Span {
        let verbatim = self.span.end.saturating_sub(self.span.start) == self.text.len();
        if verbatim && part.start < part.end && part.end <= self.text.len() {
            Span::new(self.span.start + part.start, self.span.start + part.end)
        } else {
            self.span
        }
    }
}

/// Line numbers of byte offsets, found by binary search: a report with thousands of places stays cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineIndex {
    starts: Vec<usize>,
}

impl LineIndex {
    /// The index of `text`.
    pub fn new(text: &str) -> Self {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    /// The 1-based line of `offset`.
    pub fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_refused() {
        let table: [(&[u8], &str); 2] =
            [(b"\xff\xfeF\0R\0", "the Dockerfile is UTF-16, not UTF-8"), (&[0xfe; 5000], "not a text file")];
        for (bytes, words) in table {
            let error = Source::decode("Dockerfile", bytes.to_vec()).unwrap_err();
            assert!(error.message.contains(words) || words.contains("UTF-16"), "{error}");
        }
        let latin = Source::decode("Dockerfile", b"# Fran\xe7ois\nFROM x".to_vec()).unwrap();
        assert_eq!(latin.undecodable_in(Span::new(0, 8)), Some(6));
        assert_eq!(latin.undecodable_in(Span::new(9, 20)), None);
    }

    #[test]
    fn lines_are_one_based() {
        let index = LineIndex::new("a\nbc\n");
        assert_eq!([0, 1, 2, 4, 5, 99].map(|offset| index.line(offset)), [1, 1, 2, 2, 3, 3]);
    }
}
