use std::fmt;
use std::time::Duration;

use crate::render::duration;

/// How a build went, in numbers. Steps of minor interest count only when they failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// All steps.
    pub total: usize,
    /// Those that ran.
    pub built: usize,
    /// Those whose result was reused.
    pub reused: usize,
    /// Those that failed.
    pub failed: usize,
    /// Those that were stopped.
    pub cancelled: usize,
    /// The time the whole build took.
    pub took: Duration,
}

impl Summary {
    /// The steps that came to an end, whichever.
    pub fn finished(&self) -> usize {
        self.built + self.reused + self.failed + self.cancelled
    }
}

/// `built 2 of 9 steps, 7 reused, in 14.2 s`
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = duration(self.took);
        let ended_well = self.failed == 0 && self.cancelled == 0;
        if ended_well {
            write!(f, "built {} of {} steps", self.built, self.total)?;
        } else {
            let verb = if self.failed > 0 { "failed" } else { "cancelled" };
            write!(f, "{verb} after {took}: built {} of {} steps", self.built, self.total)?;
        }
        let not_run = self.total.saturating_sub(self.finished());
        let others = [
            (self.reused, "reused"),
            (self.failed, "failed"),
            (self.cancelled, "cancelled"),
            (not_run, "not run"),
        ];
        for (count, what) in others.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {what}")?;
        }
        if ended_well { write!(f, ", in {took}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_how_it_went() {
        let took = Duration::from_millis(14_200);
        let well = Summary { total: 9, built: 2, reused: 7, took, ..Summary::default() };
        let badly = Summary { total: 9, built: 1, reused: 4, failed: 1, cancelled: 1, took };
        let stopped = Summary { total: 3, cancelled: 1, took, ..Summary::default() };
        let nothing = Summary { took, ..Summary::default() };
        insta::assert_snapshot!([well, badly, stopped, nothing].map(|s| s.to_string()).join("\n"), @r"
            built 2 of 9 steps, 7 reused, in 14.2 s
            failed after 14.2 s: built 1 of 9 steps, 4 reused, 1 failed, 1 cancelled, 2 not run
            cancelled after 14.2 s: built 0 of 3 steps, 1 cancelled, 2 not run
            built 0 of 0 steps, in 14.2 s
            ");
    }
}
