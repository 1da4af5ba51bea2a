/// A size in bytes with an optional binary unit: `64m`, `1.5GiB`, `100 kb`.
pub(crate) fn size(text: &str) -> Option<u64> {
    let last = text.rfind(|c: char| c.is_ascii_digit() || matches!(c, '.' | ' '))?;
    let (number, unit) = text.split_at(last + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let unit = unit.to_ascii_lowercase();
    let mut letters = unit.chars();
    let scale = match letters.next() {
        None | Some('b') => 0,
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        Some('t') => 40,
        Some('p') => 50,
        Some(_) => return None,
    };
    match (unit.starts_with('b'), letters.as_str()) {
        (_, "") | (false, "b" | "ib") => {}
        _ => return None,
    }
    let bytes = number * (1u64 << scale) as f64;
    (bytes < i64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary() {
        for (text, bytes) in [
            ("1", 1),
            ("32k", 32 << 10),
            ("1.5GiB", 3 << 29),
            ("100 MB", 100 << 20),
            ("7b", 7),
            ("2Tb", 2 << 40),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "m", "-1", "1x", "1bb", "1kbb", "1 k k", "inf", "1e3", "99999999p"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
