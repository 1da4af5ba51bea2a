/// Go's `path.Clean`: the shortest equal spelling, worked out on the text alone. Empty becomes `.`.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(&last) if last != b".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(part),
            },
            part => parts.push(part),
        }
    }
    let mut out = Vec::with_capacity(path.len());
    if rooted {
        out.push(b'/');
    }
    out.extend_from_slice(&parts.join(&b'/'));
    if out.is_empty() {
        out.push(b'.');
    }
    out
}

/// Go's `strings.TrimSpace`, on bytes that need not be UTF-8: both call the characters with the Unicode property
/// `White_Space` blank. Returns how many bytes go at the front, and what remains.
pub(super) fn trim(bytes: &[u8]) -> (usize, &[u8]) {
    let mut start = 0;
    while let Some(width) = blank_at_start(&bytes[start..]) {
        start += width;
    }
    let mut end = bytes.len();
    while let Some(width) = blank_at_end(&bytes[start..end]) {
        end -= width;
    }
    (start, &bytes[start..end])
}

fn blank_at_start(bytes: &[u8]) -> Option<usize> {
    (1..=bytes.len().min(3)).find(|width| is_blank(&bytes[..*width]))
}

fn blank_at_end(bytes: &[u8]) -> Option<usize> {
    (1..=bytes.len().min(3)).find(|width| is_blank(&bytes[bytes.len() - width..]))
}

fn is_blank(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut chars = text.chars();
    matches!((chars.next(), chars.next()), (Some(first), None) if first.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_as_go_does() {
        for (text, expected) in [
            ("", "."),
            (".", "."),
            ("/", "/"),
            ("//", "/"),
            ("./a", "a"),
            ("a//b/", "a/b"),
            ("a/../b", "b"),
            ("a/..", "."),
            ("../x", "../x"),
            ("../../x", "../../x"),
            ("/../x", "/x"),
            ("!..", "!.."),
            ("!../a", "!../a"),
            ("!/", "!"),
        ] {
            assert_eq!(clean(text.as_bytes()), expected.as_bytes(), "{text}");
        }
    }

    #[test]
    fn trims_unicode_blanks_and_keeps_bad_bytes() {
        assert_eq!(trim("\u{a0}\u{3000} a b\u{2003}\r".as_bytes()), (6, &b"a b"[..]));
        assert_eq!(trim(b" \xff \xa0"), (1, &b"\xff \xa0"[..]));
        assert_eq!(trim(b" \t "), (3, &b""[..]));
    }
}
