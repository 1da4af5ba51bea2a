//! What the client does with servers and repositories of all kinds. Nothing waits: time is a list of waits.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail tests, and say what they skip"
)]

mod git;
mod http;
mod tls;
mod upload;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use wbuild_remote::{Clock, HttpClient, HttpOptions, Retry, RetryPolicy, Stop, Waiting, Watch};

/// Notes how long it would have waited.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits(Arc<Mutex<Vec<Duration>>>);

impl Waits {
    pub(crate) fn seconds(&self) -> Vec<f64> {
        self.0.lock().unwrap().iter().map(Duration::as_secs_f64).collect()
    }
}

impl Waiting for Waits {
    fn wait(&self, time: Duration, _stop: &Stop) {
        self.0.lock().unwrap().push(time);
    }

    fn jitter(&self) -> f64 {
        0.5
    }
}

pub(crate) fn client(waits: &Waits) -> HttpClient {
    HttpClient::new(HttpOptions { waiting: Arc::new(waits.clone()), ..HttpOptions::default() })
}

/// Calls `work` with a watch that nobody stops, and gives what it was told.
pub(crate) fn watched<T>(work: impl FnOnce(&Watch<'_>) -> T) -> (T, Vec<Retry>) {
    let told = Mutex::default();
    let stop = Stop::new();
    let result = work(&Watch {
        stop: &stop,
        retrying: &|retry| {
            let told: &Mutex<Vec<Retry>> = &told;
            told.lock().unwrap().push(retry.clone());
        },
    });
    (result, told.into_inner().unwrap())
}

/// Gives up on a silent server at once.
pub(crate) fn impatient() -> HttpClient {
    let retry = RetryPolicy {
        tries: 2,
        first_wait: Duration::ZERO,
        stall: Duration::from_millis(50),
        ..RetryPolicy::default()
    };
    HttpClient::new(HttpOptions { retry, waiting: Arc::new(Clock), ..HttpOptions::default() })
}
