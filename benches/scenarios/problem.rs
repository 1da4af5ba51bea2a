//! What can go wrong, and what is only missing.

use std::fmt;
use std::io;
use std::path::Path;

/// A measurement that failed.
#[derive(Debug)]
pub(crate) enum Problem {
    /// A program could not be started, or a file not be read or written.
    Io { action: String, source: io::Error },
    /// A program failed, or said something else than expected.
    Command { command: String, said: String },
}

/// Why a peer is not measured.
#[derive(Debug)]
pub(crate) enum Skipped {
    /// The machine has not what it needs.
    Missing(String),
    /// It should have worked.
    Problem(Problem),
}

impl From<Problem> for Skipped {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { action, source } => write!(f, "cannot {action}: {source}"),
            Self::Command { command, said } => write!(f, "{command}\n{said}"),
        }
    }
}

/// Says what was tried when it did not work: `.map_err(doing("read", path))`.
pub(crate) fn doing(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Problem {
    let action = format!("{action} `{}`", path.display());
    move |source| Problem::Io { action, source }
}
