use std::time::Duration;

use super::escape::escape_line;

/// Hexadecimal digits of a digest that are shown: what docker shows, and enough to be unique on one machine.
const SHORT_DIGEST_DIGITS: usize = 12;

/// A number of bytes for people, in powers of a thousand as registries and docker count: `41.8 MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 would print as `1000`.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    // 99.95 would print as `100.0`.
    if value < 99.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// A span of time for people: `412 ms`, `14.2 s`, `2 min 05 s`, `1 h 02 min`.
pub fn duration(span: Duration) -> String {
    let millis = span.as_millis();
    // 59.95 s would print as `60.0 s`.
    if millis == 0 && !span.is_zero() {
        "< 1 ms".to_owned()
    } else if millis < 1000 {
        format!("{millis} ms")
    } else if millis < 59_950 {
        format!("{:.1} s", span.as_secs_f64())
    } else {
        let seconds = (millis + 500) / 1000;
        if seconds < 3600 {
            format!("{} min {:02} s", seconds / 60, seconds % 60)
        } else {
            format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60)
        }
    }
}

/// A running clock: `0:12`, `2:05`, `1:02:05`.
pub fn stopwatch(span: Duration) -> String {
    let seconds = span.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds % 3600 / 60, seconds % 60);
    if hours == 0 { format!("{minutes}:{seconds:02}") } else { format!("{hours}:{minutes:02}:{seconds:02}") }
}

/// A digest with its algorithm and its first twelve digits: `sha256:0123456789ab`. Text that is no digest comes
/// back as it is, escaped.
pub fn short_digest(digest: &str) -> String {
    match digest.split_once(':') {
        Some((algorithm, hex))
            if hex.len() > SHORT_DIGEST_DIGITS
                && hex.bytes().all(|b| b.is_ascii_hexdigit())
                && algorithm.bytes().all(|b| b.is_ascii_alphanumeric()) =>
        {
            format!("{algorithm}:{}", &hex[..SHORT_DIGEST_DIGITS])
        }
        _ => escape_line(digest).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let sizes = [
            0,
            999,
            1000,
            1049,
            41_800_000,
            99_949_999,
            99_950_000,
            999_499,
            999_500,
            1_420_000_000,
            u64::MAX,
        ];
        insta::assert_snapshot!(
            sizes.map(|bytes| format!("{bytes} = {}", size(bytes))).join("\n"),
            @r"
            0 = 0 B
            999 = 999 B
            1000 = 1.0 kB
            1049 = 1.0 kB
            41800000 = 41.8 MB
            99949999 = 99.9 MB
            99950000 = 100 MB
            999499 = 999 kB
            999500 = 1.0 MB
            1420000000 = 1.4 GB
            18446744073709551615 = 18.4 EB
            "
        );
    }

    #[test]
    fn durations() {
        let spans = [0, 412, 999, 1000, 14_249, 59_949, 59_950, 125_000, 3_599_400, 3_599_500, 3_725_000]
            .map(|millis| format!("{millis} = {}", duration(Duration::from_millis(millis))));
        insta::assert_snapshot!(spans.join("\n"), @r"
            0 = 0 ms
            412 = 412 ms
            999 = 999 ms
            1000 = 1.0 s
            14249 = 14.2 s
            59949 = 59.9 s
            59950 = 1 min 00 s
            125000 = 2 min 05 s
            3599400 = 59 min 59 s
            3599500 = 1 h 00 min
            3725000 = 1 h 02 min
            ");
        assert_eq!(duration(Duration::from_micros(3)), "< 1 ms");
        assert_eq!(stopwatch(Duration::from_secs(12)), "0:12");
        assert_eq!(stopwatch(Duration::from_secs(3725)), "1:02:05");
    }

    #[test]
    fn digests_are_shortened_and_other_text_is_not() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        assert_eq!(short_digest(&digest), "sha256:0123456789ab");
        assert_eq!(short_digest("node:22-slim\x1b"), "node:22-slim\\x1b");
    }
}
