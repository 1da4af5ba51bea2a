//! Ranges of versions, as `engines` has them: as much of npm's grammar as says which majors are asked for.

/// A version without what follows a `-` or `+`.
type Version = [u32; 3];

/// A range of versions: `>=20.9 <23 || ^24`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRange(Vec<Interval>);

/// From the first version on, up to but without the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    from: Version,
    to: Option<Version>,
}

const EVERYTHING: Interval = Interval { from: [0, 0, 0], to: None };

impl VersionRange {
    /// Reads a range; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let intervals: Option<Vec<Interval>> = text.split("||").map(|part| all_of(part.trim())).collect();
        intervals.map(Self)
    }

    /// Whether the newest version of a major is in it, whichever that is.
    pub fn allows_newest_of(&self, major: u32) -> bool {
        self.0
            .iter()
            .any(|interval| interval.from[0] <= major && interval.to.is_none_or(|to| to >= [major + 1, 0, 0]))
    }

    /// Whether a version is in it.
    pub fn allows(&self, version: [u32; 3]) -> bool {
        self.0.iter().any(|interval| interval.from <= version && interval.to.is_none_or(|to| version < to))
    }
}

/// Comparators with spaces between them, or `from - to`.
fn all_of(text: &str) -> Option<Interval> {
    if let Some((from, to)) = text.split_once(" - ") {
        return intersect(comparator(">=", from.trim())?, comparator("<=", to.trim())?);
    }
    let mut interval = EVERYTHING;
    let mut operator = String::new();
    for word in text.split_whitespace() {
        let version = word.trim_start_matches(['<', '>', '=', '^', '~']);
        // An operator may stand apart from its version.
        operator.push_str(&word[..word.len() - version.len()]);
        if version.is_empty() {
            continue;
        }
        interval = intersect(interval, comparator(&operator, version)?)?;
        operator.clear();
    }
    operator.is_empty().then_some(interval)
}

fn intersect(a: Interval, b: Interval) -> Option<Interval> {
    let to = match (a.to, b.to) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    Some(Interval { from: a.from.max(b.from), to })
}

fn comparator(operator: &str, version: &str) -> Option<Interval> {
    let parts = parts(version)?;
    let mut at = [0; 3];
    at[..parts.len()].copy_from_slice(&parts);
    // The first version after all that begin with `parts`.
    let after = || {
        let mut after = at;
        let last = parts.len().checked_sub(1)?;
        after[last] = after[last].saturating_add(1);
        Some(after)
    };
    Some(match operator {
        "" | "=" | "==" => Interval { from: at, to: after() },
        ">=" => Interval { from: at, to: None },
        ">" => match after() {
            Some(from) => Interval { from, to: None },
            None => return None,
        },
        "<" => Interval { from: [0; 3], to: Some(at) },
        "<=" => Interval { from: [0; 3], to: after() },
        "^" => {
            let kept = parts.iter().position(|part| *part > 0).unwrap_or(parts.len().saturating_sub(1));
            Interval { from: at, to: (!parts.is_empty()).then(|| bumped(at, kept)) }
        }
        "~" | "~>" => {
            Interval { from: at, to: (!parts.is_empty()).then(|| bumped(at, 1.min(parts.len() - 1))) }
        }
        _ => return None,
    })
}

fn bumped(mut version: Version, at: usize) -> Version {
    version[at] = version[at].saturating_add(1);
    version[at + 1..].fill(0);
    version
}

/// The numbers that are given: none for `*`, one for `20` and `20.x`.
fn parts(version: &str) -> Option<Vec<u32>> {
    let version = version.trim_start_matches('v');
    let version = version.split(['-', '+']).next().unwrap_or(version);
    let any = |part: &str| matches!(part, "x" | "X" | "*");
    let all: Vec<&str> = version.split('.').collect();
    let given = all.iter().position(|part| any(part)).unwrap_or(all.len());
    if all.len() > 3 || !all[given..].iter().all(|part| any(part)) {
        return None;
    }
    // Nothing at all is any version, too.
    let given = if version.is_empty() { &[][..] } else { &all[..given] };
    given.iter().map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn majors_that_ranges_ask_for() {
        for (text, expected) in [
            (">=18", &[18, 20, 22, 24][..]),
            (">=20.9.0", &[20, 22, 24]),
            ("^20.19 || >=22.12", &[20, 22, 24]),
            (">= 20 <23", &[20, 22]),
            ("20.x", &[20]),
            ("22", &[22]),
            ("*", &[18, 20, 22, 24]),
            ("", &[18, 20, 22, 24]),
            ("18 - 22", &[18, 20, 22]),
            ("~20.10", &[]),
            ("22.16.0", &[]),
            ("<=22.11.0", &[18, 20]),
            (">18 <=22", &[20, 22]),
            (">=v20.0.0-rc.1", &[20, 22, 24]),
        ] {
            let range = VersionRange::parse(text).unwrap();
            let found: Vec<u32> =
                [18, 20, 22, 24].into_iter().filter(|m| range.allows_newest_of(*m)).collect();
            assert_eq!(found, expected, "{text}");
        }
        for text in ["lts/*", ">", "20.x.y.z.q", ">=a"] {
            assert_eq!(VersionRange::parse(text), None, "{text}");
        }
        assert!(VersionRange::parse("^0.2.3").unwrap().allows([0, 2, 9]));
        assert!(!VersionRange::parse("^0.2.3").unwrap().allows([0, 3, 0]));
        assert!(VersionRange::parse("~1.2").unwrap().allows([1, 2, 9]));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[<>=^~|x*v .0-9-]{0,20}") {
            if let Some(range) = VersionRange::parse(&text) {
                range.allows_newest_of(20);
                range.allows([20, 1, 1]);
            }
        }
    }
}
