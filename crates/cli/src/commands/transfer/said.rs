use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use wbuild_report::EventSink;

use crate::commands::{Failure, WriteError};
use crate::progress::{Clock, Progress, ProgressMode, Terminal};

/// What a transfer says while it works, in the form that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Said {
    progress: Arc<Mutex<Option<Progress>>>,
    mode: ProgressMode,
}

impl Said {
    pub(super) fn new(mode: ProgressMode) -> Result<Self, Failure> {
        let progress = Progress::of_transfers(mode, io::stderr(), &Terminal::stderr(), Clock::start())
            .map_err(|source| Failure::new(WriteError { path: "standard error".into(), source }))?;
        Ok(Self { progress: Arc::new(Mutex::new(Some(progress))), mode })
    }

    /// Where events are sent.
    pub(super) fn sink(&self) -> EventSink {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.as_ref().map_or_else(EventSink::silent, Progress::sink)
    }

    pub(super) fn line(&self, text: &str) {
        if let Some(progress) = &*self.progress.lock().unwrap_or_else(PoisonError::into_inner) {
            progress.note(text);
        }
    }

    fn end(&self) -> Option<Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The last words.
    pub(super) fn finish(&self) {
        if let Some(progress) = self.end() {
            progress.finish();
        }
    }

    /// The last words, if it went wrong.
    pub(super) fn failed(&self, failure: Failure) -> Failure {
        match self.end() {
            Some(progress) => failure.shown_by(progress, self.mode),
            None => failure,
        }
    }
}
