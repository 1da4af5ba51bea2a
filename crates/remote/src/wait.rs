use std::collections::hash_map::RandomState;
use std::fmt::Debug;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use crate::stop::Stop;

/// How time passes between two tries. A trait, so that tests need not wait.
pub trait Waiting: Debug + Send + Sync {
    /// Waits, unless it is told to stop.
    fn wait(&self, time: Duration, stop: &Stop);

    /// A number from 0 to 1, another one each time: it spreads the tries of many clients.
    fn jitter(&self) -> f64;
}

/// Time as it passes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Waiting for Clock {
    fn wait(&self, time: Duration, stop: &Stop) {
        stop.wait(time);
    }

    fn jitter(&self) -> f64 {
        // Seeded by the kernel; good enough for spreading, and no crate for it.
        let random = RandomState::new().build_hasher().finish();
        (random >> 11) as f64 / (1_u64 << 53) as f64
    }
}
