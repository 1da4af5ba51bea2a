use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Ends what is under way: downloads, waits and git processes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    stopped: Mutex<bool>,
    changed: Condvar,
    tasks: Notify,
}

impl Stop {
    /// Nobody has said stop yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says stop. Never blocks for long; can be called from a listener.
    pub fn stop(&self) {
        *self.0.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
        self.0.tasks.notify_waiters();
    }

    /// Whether somebody has.
    pub fn is_stopped(&self) -> bool {
        *self.0.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `time`, or less if somebody says stop.
    pub fn wait(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut stopped = self.0.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        while !*stopped {
            let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return;
            };
            stopped = self.0.changed.wait_timeout(stopped, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ready when somebody has said stop.
    pub(crate) async fn stopped(&self) {
        loop {
            // Made before the question, so that no answer in between is missed.
            let told = self.0.tasks.notified();
            if self.is_stopped() {
                return;
            }
            told.await;
        }
    }
}
