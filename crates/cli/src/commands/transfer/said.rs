use std::io::{self, Write};
use std::sync::Arc;

use crate::commands::{Failure, WriteError};
use crate::progress::{Clock, Progress, ProgressMode, Terminal};
use crate::render::escape_line;

/// What a transfer says while it works, in the form that was asked for. There is no view of steps: there are none.
#[derive(Clone, Debug)]
pub(super) struct Said(Arc<Form>);

#[derive(Debug)]
enum Form {
    Lines,
    Nothing,
    /// One object a line.
    Objects(Progress),
}

impl Said {
    pub(super) fn new(mode: ProgressMode) -> Result<Self, Failure> {
        Ok(Self(Arc::new(match mode {
            ProgressMode::Quiet => Form::Nothing,
            ProgressMode::Json => {
                let progress = Progress::new(mode, io::stderr(), &Terminal::stderr(), Clock::start());
                Form::Objects(
                    progress.map_err(|source| {
                        Failure::new(WriteError { path: "standard error".into(), source })
                    })?,
                )
            }
            _ => Form::Lines,
        })))
    }

    pub(super) fn line(&self, text: &str) {
        match &*self.0 {
            // Whoever does not look any more misses nothing.
            Form::Lines => drop(writeln!(io::stderr(), "{}", escape_line(text))),
            Form::Nothing => {}
            Form::Objects(progress) => progress.note(text),
        }
    }

    /// The last words.
    pub(super) fn finish(self) {
        if let Some(Form::Objects(progress)) = Arc::into_inner(self.0) {
            progress.finish();
        }
    }

    /// The last words, if it went wrong.
    pub(super) fn failed(self, failure: Failure) -> Failure {
        match Arc::into_inner(self.0) {
            Some(Form::Objects(progress)) => failure.shown_by(progress, ProgressMode::Json),
            _ => failure,
        }
    }
}
