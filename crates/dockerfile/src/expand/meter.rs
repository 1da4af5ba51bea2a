use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ExpandProblem;

/// Counts the work of expanding variables, over all words of one Dockerfile: about one unit for every byte read or written.
/// A meter that ran out fails every further expansion, so that the limit on single values cannot be walked around with many
/// of them. Clones count together.
#[derive(Clone, Debug)]
pub struct Meter(Arc<AtomicU64>);

impl Meter {
    /// Enough for a Dockerfile of the largest size whose heredocs are expanded as a whole.
    const UNITS: u64 = 256 * 1024 * 1024;

    /// A full meter.
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(Self::UNITS)))
    }

    pub(crate) fn charge(&self, units: usize) -> Result<(), ExpandProblem> {
        let units = units as u64;
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(units)) {
            Ok(_) => Ok(()),
            Err(_) => {
                self.0.store(0, Ordering::Relaxed);
                Err(ExpandProblem::TooMuchWork)
            }
        }
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}
