/// `Content-Range: bytes first-last/total` (RFC 9110, 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// `None` when the server does not know.
    pub(crate) total: Option<u64>,
}

impl ContentRange {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total = if total == "*" { None } else { Some(number(total)?) };
        let range = Self { first: number(first)?, last: number(last)?, total };
        let plausible = range.first <= range.last && range.total.is_none_or(|total| range.last < total);
        plausible.then_some(range)
    }

    /// Whether it goes on from `position` to the end of a file of `total` bytes, as far as that is known.
    pub(crate) fn continues(&self, position: u64, total: Option<u64>) -> bool {
        let known = self.total.or(total);
        self.first == position
            && (self.total.is_none() || total.is_none() || self.total == total)
            && known.is_none_or(|total| self.last + 1 == total)
    }
}

/// Digits and nothing else: no sign, no space.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_continues_and_what_does_not() {
        let parse = ContentRange::parse;
        for bad in [
            "",
            "bytes",
            "bytes 1-2",
            "bytes +1-2/3",
            "bytes 2-1/3",
            "bytes 0-3/3",
            "items 0-1/2",
            "bytes */3",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        for (text, position, total, continues) in [
            ("bytes 5-9/10", 5, Some(10), true),
            ("bytes 5-9/10", 5, None, true),
            ("bytes 5-9/*", 5, Some(10), true),
            ("bytes 5-9/*", 5, None, true),
            ("bytes 4-9/10", 5, Some(10), false),
            ("bytes 0-9/10", 5, Some(10), false),
            ("bytes 5-9/10", 5, Some(11), false),
            ("bytes 5-8/10", 5, Some(10), false),
        ] {
            assert_eq!(parse(text).unwrap().continues(position, total), continues, "{text}");
        }
    }
}
