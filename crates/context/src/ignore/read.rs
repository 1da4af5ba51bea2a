use wbuild_report::Span;

use super::clean::{clean, trim};

/// What Go's `bufio.Scanner` takes for one line, its end included; BuildKit fails beyond.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// One pattern of the file, spelled as BuildKit's `ignorefile.ReadAll` hands it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReadPattern {
    /// With its `!`, cleaned, one leading slash removed.
    pub(super) text: Vec<u8>,
    /// 1-based.
    pub(super) line: usize,
    /// Where it stands, blanks around it left out.
    pub(super) span: Span,
}

/// A line that BuildKit could not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineTooLong {
    pub(super) span: Span,
}

/// Splits the file into patterns: comments, blanks and a byte order mark go, paths are cleaned.
pub(super) fn read_all(bytes: &[u8]) -> Result<Vec<ReadPattern>, LineTooLong> {
    let mut patterns = Vec::new();
    let mut offset = 0;
    for (index, whole) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        let mut start = offset;
        offset += whole.len();
        if whole.len() > MAX_LINE_BYTES || (whole.len() == MAX_LINE_BYTES && !whole.ends_with(b"\n")) {
            return Err(LineTooLong { span: Span::new(start, start + 40) });
        }
        let mut line = whole.strip_suffix(b"\n").unwrap_or(whole);
        line = line.strip_suffix(b"\r").unwrap_or(line);
        if index == 0
            && let Some(rest) = line.strip_prefix(b"\xef\xbb\xbf")
        {
            line = rest;
            start += 3;
        }
        // Only in the very first column: ` #x` is the pattern `#x`.
        if line.first() == Some(&b'#') {
            continue;
        }
        let (skipped, pattern) = trim(line);
        start += skipped;
        if pattern.is_empty() {
            continue;
        }
        let span = Span::new(start, start + pattern.len());
        patterns.push(ReadPattern { text: normalise(pattern), line: index + 1, span });
    }
    Ok(patterns)
}

fn normalise(pattern: &[u8]) -> Vec<u8> {
    let (mark, rest) = match pattern.strip_prefix(b"!") {
        Some(rest) => (&b"!"[..], trim(rest).1),
        None => (&b""[..], pattern),
    };
    if rest.is_empty() {
        return mark.to_vec();
    }
    let mut cleaned = clean(rest);
    if cleaned.len() > 1 && cleaned[0] == b'/' {
        cleaned.remove(0);
    }
    [mark, &cleaned].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_lines_point_at_the_pattern() {
        let text = "\u{feff}a\n# c\n\n  !  b/ \r\nc";
        let patterns = read_all(text.as_bytes()).unwrap();
        let seen: Vec<(&[u8], usize, &str)> =
            patterns.iter().map(|p| (&*p.text, p.line, &text[p.span.start..p.span.end])).collect();
        assert_eq!(seen, [(&b"a"[..], 1, "a"), (b"!b", 4, "!  b/"), (b"c", 5, "c")]);
    }

    #[test]
    fn long_lines_are_refused_where_bufio_refuses_them() {
        let line = |length: usize, end: &str| format!("{}{end}", "x".repeat(length)).into_bytes();
        assert_eq!(read_all(&line(65_535, "\n")).unwrap().len(), 1);
        assert_eq!(read_all(&line(65_535, "")).unwrap().len(), 1);
        assert!(read_all(&line(65_536, "\n")).is_err());
        assert!(read_all(&line(65_536, "")).is_err());
    }
}
