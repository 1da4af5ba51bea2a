//! One module a command. A command gets its arguments and a [`Session`]; it returns what the exit code says.

pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod doctor;
pub(crate) mod image;
pub(crate) mod run;
pub(crate) mod workspace;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use wbuild_report::{Diagnostic, Hint};

/// Why a command did not do what was asked: what is rendered, and the exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The arguments make no sense: 2.
    Usage { message: String, hints: Vec<String> },
    /// It cannot be done: 1.
    Failed { error: Box<dyn Error + Send + Sync>, hints: Vec<String> },
    /// Something is wrong in the person's files: 1.
    Diagnostics(Vec<Diagnostic>),
    /// Stopped by a signal: 130.
    Interrupted,
}

impl Failure {
    /// An error of a crate below, with its hints.
    pub(crate) fn new<E: Error + Hint + Send + Sync + 'static>(error: E) -> Self {
        let hints = error.hints();
        Self::Failed { error: Box::new(error), hints }
    }

    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hints: vec![hint.into()] }
    }
}

impl From<wbuild_engine::EngineError> for Failure {
    fn from(error: wbuild_engine::EngineError) -> Self {
        match error {
            wbuild_engine::EngineError::Diagnostics(diagnostics) => Self::Diagnostics(diagnostics),
            wbuild_engine::EngineError::Cancelled => Self::Interrupted,
            other => Self::new(other),
        }
    }
}

/// An output file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{}`", path.display())]
pub(crate) struct WriteError {
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: std::io::Error,
}

impl Hint for WriteError {}

/// What the process was given besides its arguments.
pub(crate) struct Session {
    /// Environment variables.
    pub(crate) variable: fn(&str) -> Option<String>,
    /// What ctrl-C cancels.
    pub(crate) cancellation: wbuild_solver::Cancellation,
}

impl Session {
    /// What commands open a session with that build nothing.
    pub(crate) fn plain_options(&self, home: Option<&PathBuf>) -> Result<wbuild_engine::Options, Failure> {
        Ok(wbuild_engine::Options {
            home: self.home(home)?,
            platform: wbuild_oci::Platform::host(),
            images: std::collections::BTreeMap::new(),
            secrets: wbuild_engine::Secrets::default(),
            agents: std::collections::BTreeMap::new(),
            isolation: wbuild_engine::IsolationMode::Auto,
        })
    }

    /// The state directory: as given, else `wbuild` in the XDG cache directory.
    pub(crate) fn home(&self, given: Option<&PathBuf>) -> Result<PathBuf, Failure> {
        if let Some(home) = given {
            return Ok(home.clone());
        }
        let absolute =
            |name: &str| (self.variable)(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(cache) = absolute("XDG_CACHE_HOME") {
            return Ok(cache.join("wbuild"));
        }
        match absolute("HOME") {
            Some(home) => Ok(home.join(".cache/wbuild")),
            None => {
                Err(Failure::usage("there is no HOME to keep state in", "name a state directory with --home"))
            }
        }
    }
}

/// Results go to standard output; a closed pipe is nobody's mistake.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(WriteError { path: "standard output".into(), source: error }))
        }
        _ => Ok(()),
    }
}

/// `--isolation`.
pub(crate) fn isolation(text: &str) -> Result<wbuild_engine::IsolationMode, Failure> {
    match text {
        "auto" => Ok(wbuild_engine::IsolationMode::Auto),
        "overlay" => Ok(wbuild_engine::IsolationMode::Overlay),
        "norun" => Ok(wbuild_engine::IsolationMode::NoRun),
        other => Err(Failure::usage(
            format!("`--isolation {other}` is not a way to isolate steps"),
            "there are auto, overlay and norun",
        )),
    }
}
