use std::time::Duration;

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DurationError {
    #[error("time: invalid duration {text:?}")]
    Invalid { text: String },
    #[error("time: missing unit in duration {text:?}")]
    NoUnit { text: String },
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    Unit { unit: String, text: String },
    #[error("time: duration {text:?} is negative")]
    Negative { text: String },
}

/// A duration in Go's syntax: `1h30m`, `1.5s`, `300ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, DurationError> {
    let invalid = || DurationError::Invalid { text: text.chars().take(100).collect() };
    let (unsigned, negative) = match text.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (text.strip_prefix('+').unwrap_or(text), false),
    };
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let mut nanos: u128 = 0;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let length = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(length);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(length);
        let scale: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(DurationError::NoUnit { text: text.chars().take(100).collect() }),
            unit => {
                return Err(DurationError::Unit {
                    unit: unit.to_owned(),
                    text: text.chars().take(100).collect(),
                });
            }
        };
        let digits = |digits: &str| {
            if digits.is_empty() { Ok(0) } else { digits.parse::<u64>().map_err(|_| invalid()) }
        };
        nanos += u128::from(digits(whole)?) * scale;
        // Nanoseconds need no more than fifteen digits behind the point, even of an hour.
        let fraction = &fraction[..fraction.len().min(15)];
        nanos += u128::from(digits(fraction)?) * scale / 10u128.pow(fraction.len() as u32);
        if nanos > i64::MAX as u128 {
            return Err(invalid());
        }
        rest = next;
    }
    if negative && nanos > 0 {
        return Err(DurationError::Negative { text: text.chars().take(100).collect() });
    }
    Ok(Duration::from_nanos(nanos as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations() {
        for (text, nanos) in [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1h2m3.5s", 3_723_500_000_000),
            ("1.5ms", 1_500_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("100µs", 100_000),
            ("+3s", 3_000_000_000),
            ("-0s", 0),
            ("0.000000000000000001h", 0),
        ] {
            assert_eq!(duration(text).unwrap().as_nanos(), nanos, "{text}");
        }
        for (text, message) in [
            ("30", "time: missing unit in duration \"30\""),
            ("", "time: invalid duration \"\""),
            ("5 s", "time: unknown unit \" s\" in duration \"5 s\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            (".s", "time: invalid duration \".s\""),
            ("-1s", "time: duration \"-1s\" is negative"),
            ("1.2.3s", "time: invalid duration \"1.2.3s\""),
            ("99999999999h", "time: invalid duration \"99999999999h\""),
        ] {
            assert_eq!(duration(text).unwrap_err().to_string(), message, "{text}");
        }
    }
}
