use std::error::Error;
use std::time::Duration;

use reqwest::header::HeaderMap;

use super::error::HttpError;
use super::request::http_date;

/// A try that brought less than this brought no progress. Together with [`RetryPolicy::stall`] it is also the lowest
/// speed that counts as alive: about one kilobyte a second.
pub const MIN_PROGRESS: u64 = 64 << 10;

/// How often and how long something is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How many tries without progress there are in a row.
    pub tries: u32,
    /// The wait after the first failure; doubled after each further one, and spread by a quarter to both sides.
    pub first_wait: Duration,
    /// No wait is longer, whatever `Retry-After` says.
    pub longest_wait: Duration,
    /// A transfer that brings less than [`MIN_PROGRESS`] in this time is cut off, and an answer that has not begun.
    pub stall: Duration,
}

impl Default for RetryPolicy {
    /// Five tries, half a second doubling to a minute at most; a minute to a stall.
    fn default() -> Self {
        Self {
            tries: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            stall: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// The usual one, with what `WBUILD_HTTP_TIMEOUT` (seconds to a stall) and `WBUILD_HTTP_RETRIES` (tries after the first
    /// one) say.
    ///
    /// # Errors
    /// When one of them is no number, or one that would mean waiting not at all or for ever.
    pub fn of(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, HttpError> {
        let number = |name: &str, what: &str, least: u32, most: u32| {
            let Some(text) = variable(name).filter(|text| !text.trim().is_empty()) else { return Ok(None) };
            let number = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
            let why = || {
                format!(
                    "{name} is a number of {what} from {least} to {most}, and not `{}`",
                    text.escape_debug()
                )
            };
            number.map(Some).ok_or_else(|| HttpError::Setup { why: why() })
        };
        let usual = Self::default();
        let stall = number("WBUILD_HTTP_TIMEOUT", "seconds", 1, 3600)?;
        let retries = number("WBUILD_HTTP_RETRIES", "tries", 0, 100)?;
        Ok(Self {
            stall: stall.map_or(usual.stall, |seconds| Duration::from_secs(seconds.into())),
            tries: retries.map_or(usual.tries, |retries| retries + 1),
            ..usual
        })
    }
}

/// Counts the tries of one transfer.
#[derive(Debug)]
pub(crate) struct Tries {
    policy: RetryPolicy,
    failed: u32,
    /// The furthest byte that counted as progress. A transfer that starts over gets nothing for it.
    reached: u64,
}

impl Tries {
    pub(crate) const fn new(policy: RetryPolicy) -> Self {
        Self { policy, failed: 0, reached: 0 }
    }

    /// How many tries there were since the last progress.
    pub(crate) const fn count(&self) -> u32 {
        self.failed
    }

    /// A try failed after it had come as far as `position`: how long to wait for the next one, if there is one.
    pub(crate) fn failed_at(
        &mut self,
        position: u64,
        asked: Option<Duration>,
        jitter: f64,
    ) -> Option<Duration> {
        if position >= self.reached.saturating_add(MIN_PROGRESS) {
            self.reached = position;
            self.failed = 0;
        }
        self.failed += 1;
        if self.failed >= self.policy.tries {
            return None;
        }
        let doubled = self.policy.first_wait.saturating_mul(1 << (self.failed - 1).min(20));
        let own = doubled.min(self.policy.longest_wait).mul_f64(0.75 + jitter / 2.0);
        Some(asked.unwrap_or(own).min(self.policy.longest_wait))
    }
}

/// Whether an answer with this status may be another one the next time.
pub(crate) const fn is_passing_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

/// `Retry-After`: seconds, or a date, which counts from the server's own `Date`.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let now = http_date(headers.get("date")?.to_str().ok()?)?;
    Some(Duration::from_secs(u64::try_from(http_date(text)? - now).unwrap_or(0)))
}

/// An error and its causes in one line.
pub(crate) fn describe_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        // Some errors repeat their cause in their own text.
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_environment_says() {
        let of = |timeout: &'static str, retries: &'static str| {
            RetryPolicy::of(&move |name| {
                let text = if name == "WBUILD_HTTP_TIMEOUT" { timeout } else { retries };
                Some(text.to_owned())
            })
        };
        assert_eq!(of("", " ").unwrap(), RetryPolicy::default());
        let policy = of("5", "0").unwrap();
        assert_eq!((policy.stall, policy.tries), (Duration::from_secs(5), 1));
        for (timeout, retries) in [("0", ""), ("5s", ""), ("", "-1"), ("", "1000")] {
            assert!(of(timeout, retries).is_err(), "{timeout} {retries}");
        }
        assert_eq!(
            of("1m", "").unwrap_err().to_string(),
            "cannot set up connections: WBUILD_HTTP_TIMEOUT is a number of seconds from 1 to 3600, and not `1m`"
        );
    }

    #[test]
    fn waits_double_are_capped_and_come_to_an_end() {
        let mut tries = Tries::new(RetryPolicy::default());
        let waits: Vec<f64> =
            std::iter::from_fn(|| tries.failed_at(0, None, 0.5)).map(|wait| wait.as_secs_f64()).collect();
        assert_eq!(waits, [0.5, 1.0, 2.0, 4.0]);
        assert_eq!(tries.count(), 5);
        let mut tries = Tries::new(RetryPolicy::default());
        let asked = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(tries.failed_at(0, asked(7), 0.5), asked(7));
        assert_eq!(tries.failed_at(0, asked(86_400), 0.5), asked(60));
        let policy = RetryPolicy { tries: 30, ..RetryPolicy::default() };
        let mut tries = Tries::new(policy);
        let waits: Vec<Duration> = std::iter::from_fn(|| tries.failed_at(0, None, 1.0)).collect();
        assert_eq!((waits.len(), waits.iter().max()), (29, Some(&Duration::from_secs(60))));
    }

    #[test]
    fn progress_is_what_was_never_reached_before() {
        let mut tries = Tries::new(RetryPolicy { tries: 2, ..RetryPolicy::default() });
        assert!(tries.failed_at(MIN_PROGRESS, None, 0.5).is_some());
        assert!(tries.failed_at(2 * MIN_PROGRESS, None, 0.5).is_some());
        // Started over, and cut at the same place.
        assert!(tries.failed_at(2 * MIN_PROGRESS, None, 0.5).is_none());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(retry_after(&headers(&[("retry-after", "3")])), seconds(3));
        let later = headers(&[date, ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")]);
        assert_eq!(retry_after(&later), seconds(10));
        let earlier = headers(&[date, ("retry-after", "Sun, 06 Nov 1994 08:49:30 GMT")]);
        assert_eq!(retry_after(&earlier), seconds(0));
        for useless in ["-1", "soon", ""] {
            assert_eq!(retry_after(&headers(&[date, ("retry-after", useless)])), None, "{useless}");
        }
    }
}
