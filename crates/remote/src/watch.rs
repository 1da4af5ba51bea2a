use std::fmt;
use std::time::Duration;

use crate::stop::Stop;

/// Something did not work, and is tried again, there or elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// What: a URL without secrets, or a git remote.
    pub subject: String,
    /// Why the last try failed.
    pub why: String,
    /// After how long; `None` when it is not tried again there, but elsewhere.
    pub after: Option<Duration>,
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, why, after } = self;
        match after {
            None => write!(f, "{subject}: {why}"),
            Some(after) => write!(f, "{subject}: {why}; trying again in {:.1} s", after.as_secs_f64()),
        }
    }
}

/// Who follows a transfer: is told of retries, and can end it.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Ends it.
    pub stop: &'a Stop,
    /// Told before every wait.
    pub retrying: &'a dyn Fn(&Retry),
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("stop", self.stop).finish_non_exhaustive()
    }
}
