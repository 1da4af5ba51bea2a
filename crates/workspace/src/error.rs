use std::fmt;

use wbuild_report::{Diagnostic, Hint, Severity};

use crate::ReadError;

/// A workspace could not be read, or does not fit together.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// A file or directory could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The files were read, and these are the problems in them, all at once. Holds at least one error.
    #[error("{}", Summary(.0))]
    Invalid(Vec<Diagnostic>),
}

impl WorkspaceError {
    /// The problems in the person's files; empty for [`WorkspaceError::Read`].
    pub fn diagnostics(&self) -> &[Diagnostic] {
        match self {
            Self::Read(_) => &[],
            Self::Invalid(diagnostics) => diagnostics,
        }
    }
}

impl From<Diagnostic> for WorkspaceError {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Invalid(vec![diagnostic])
    }
}

impl From<Box<Diagnostic>> for WorkspaceError {
    fn from(diagnostic: Box<Diagnostic>) -> Self {
        Self::Invalid(vec![*diagnostic])
    }
}

impl Hint for WorkspaceError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Read(error) => error.hints(),
            Self::Invalid(diagnostics) => {
                // One hint can serve several diagnostics; it is said once.
                let mut hints: Vec<String> = Vec::new();
                for hint in diagnostics.iter().flat_map(|diagnostic| &diagnostic.hints) {
                    if !hints.contains(hint) {
                        hints.push(hint.clone());
                    }
                }
                hints
            }
        }
    }
}

struct Summary<'a>(&'a [Diagnostic]);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut errors = self.0.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
        let Some(first) = errors.next() else { return write!(f, "the workspace is not usable") };
        write!(f, "{first}")?;
        match errors.count() {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

/// Splits `diagnostics` into an error when one of them is one, or hands back the warnings.
pub(crate) fn without_errors(diagnostics: Vec<Diagnostic>) -> Result<Vec<Diagnostic>, WorkspaceError> {
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        Err(WorkspaceError::Invalid(diagnostics))
    } else {
        Ok(diagnostics)
    }
}
