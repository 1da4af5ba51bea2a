use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time since the build began. Injected, so that what is shown can be tested.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        let start = Instant::now();
        Self::new(move || start.elapsed())
    }

    /// A clock that asks `now` how long the build has run.
    pub fn new(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// How long the build has run.
    pub fn now(&self) -> Duration {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
