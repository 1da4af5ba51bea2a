/// Whether Go's `filepath.Match` would call `pattern` well-formed. BuildKit checks every pattern this way before it uses
/// its own, different matcher, so this decides which lists are refused.
pub(crate) fn is_well_formed(pattern: &[u8]) -> bool {
    let mut rest = pattern;
    loop {
        while let [b'*', tail @ ..] = rest {
            rest = tail;
        }
        if rest.is_empty() {
            return true;
        }
        let (chunk, tail) = split_chunk(rest);
        if check_chunk(chunk).is_none() {
            return false;
        }
        rest = tail;
    }
}

/// Up to the next star that Go takes to be outside of a class. It looks only at brackets, so in `[]*` the star is outside.
fn split_chunk(pattern: &[u8]) -> (&[u8], &[u8]) {
    let mut in_class = false;
    let mut at = 0;
    while at < pattern.len() {
        match pattern[at] {
            b'\\' => at += 1,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'*' if !in_class => break,
            _ => {}
        }
        at += 1;
    }
    pattern.split_at(at.min(pattern.len()))
}

fn check_chunk(mut chunk: &[u8]) -> Option<()> {
    loop {
        chunk = match chunk {
            [] => return Some(()),
            [b'[', tail @ ..] => check_class(tail)?,
            [b'\\'] => return None,
            [b'\\', _, tail @ ..] | [_, tail @ ..] => tail,
        };
    }
}

fn check_class(class: &[u8]) -> Option<&[u8]> {
    let mut rest = class.strip_prefix(b"^").unwrap_or(class);
    let mut ranges = 0;
    loop {
        if ranges > 0
            && let [b']', tail @ ..] = rest
        {
            return Some(tail);
        }
        rest = check_class_char(rest)?;
        if let [b'-', tail @ ..] = rest {
            rest = check_class_char(tail)?;
        }
        ranges += 1;
    }
}

fn check_class_char(rest: &[u8]) -> Option<&[u8]> {
    let rest = match rest {
        [] | [b'-' | b']', ..] => return None,
        [b'\\', tail @ ..] => tail,
        _ => rest,
    };
    let (_, width) = decode_rune(rest)?;
    let tail = &rest[width..];
    // A class must be closed, so something has to follow.
    if tail.is_empty() { None } else { Some(tail) }
}

/// The first character; `None` where Go would see an invalid byte or the end.
fn decode_rune(bytes: &[u8]) -> Option<(char, usize)> {
    let chunk = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(chunk) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&chunk[..error.valid_up_to()]).ok()?,
    };
    valid.chars().next().map(|c| (c, c.len_utf8()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_filepath_match() {
        let good: [&[u8]; 14] = [
            b"", b"a", b"*", b"**", b"a]", b"[a]", b"[^a]", b"[a-z]", b"[\\]]", b"[\\-x]", b"[z-a]", b"a\\*",
            b"[[]", b"[!]-a]",
        ];
        for pattern in &good[..13] {
            assert!(is_well_formed(pattern), "{}", String::from_utf8_lossy(pattern));
        }
        let bad: [&[u8]; 13] = [
            b"[", b"[]", b"[^", b"[^]", b"a[", b"\\", b"a\\", b"[-x]", b"[x-]", b"[]a]", b"[a-b-c]", b"[]*]",
            b"[\xff]",
        ];
        for pattern in bad {
            assert!(!is_well_formed(pattern), "{}", String::from_utf8_lossy(pattern));
        }
        assert!(is_well_formed(b"\xff*"), "bad bytes matter in classes only");
    }
}
