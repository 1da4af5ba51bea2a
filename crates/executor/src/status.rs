use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use wbuild_report::Hint;

use crate::ownership::Owned;
use crate::wire;

/// What came of a step.
#[derive(Debug)]
pub struct Finished {
    /// How the program ended.
    pub status: Status,
    /// Mount points that had to be made among the step's changes and are still there, because the step put something
    /// into them. All others were removed, or never made there.
    pub stubs: Vec<Stub>,
    /// Owners that the identity could not give to files: none for [`crate::Identity::Root`].
    pub ownership: Vec<Owned>,
    /// From the start of the first helper to the end of the last process.
    pub took: Duration,
    /// The largest resident size of any of its processes, in bytes.
    pub max_rss: u64,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// It never began.
    NotStarted(NotStarted),
}

impl Status {
    /// Whether it ended with code 0.
    pub fn success(&self) -> bool {
        *self == Self::Exited(0)
    }

    /// The code that a shell would report.
    pub fn code(&self) -> i32 {
        match self {
            Self::Exited(code) => *code,
            Self::Signalled(signal) => 128 + signal,
            Self::NotStarted(reason) => reason.code(),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signalled(signal) => write!(f, "killed by signal {signal}"),
            Self::NotStarted(reason) => reason.fmt(f),
        }
    }
}

/// Why a program never began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum NotStarted {
    /// There is no such file, in `PATH` or at the path given.
    #[error("`{}` was not found", .program.display())]
    NotFound {
        /// As the step named it.
        #[serde(with = "wire::path")]
        program: PathBuf,
    },
    /// The file is there, but what it is to be run by is not.
    #[error("`{}` needs `{}`, which is not in the image", .program.display(), .interpreter.display())]
    NoInterpreter {
        /// The file.
        #[serde(with = "wire::path")]
        program: PathBuf,
        /// The shell or other program of its first line, or the dynamic loader.
        #[serde(with = "wire::path")]
        interpreter: PathBuf,
    },
    /// The file is there, but the kernel does not run it.
    #[error("`{}` cannot be run: {errno}", .program.display())]
    CannotRun {
        /// The file.
        #[serde(with = "wire::path")]
        program: PathBuf,
        /// What the kernel answered.
        #[serde(with = "wire::errno")]
        errno: Errno,
    },
}

impl NotStarted {
    fn code(&self) -> i32 {
        match self {
            Self::NotFound { .. } | Self::NoInterpreter { .. } => 127,
            Self::CannotRun { .. } => 126,
        }
    }
}

impl Hint for NotStarted {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::NotFound { .. } => Vec::new(),
            Self::NoInterpreter { program, interpreter } => {
                let loader = interpreter.to_string_lossy().contains("/ld-");
                vec![if loader {
                    format!(
                        "`{}` was built for another C library (glibc or musl) than the image's",
                        program.display()
                    )
                } else {
                    "check the first line of the file; a carriage return at its end is part of the name"
                        .to_owned()
                }]
            }
            Self::CannotRun { errno: Errno::NOEXEC, .. } => {
                vec!["it may be for another processor, or lack a first line such as `#!/bin/sh`".to_owned()]
            }
            Self::CannotRun { errno: Errno::ACCESS, .. } => {
                vec!["make it executable with `chmod +x`".to_owned()]
            }
            Self::CannotRun { .. } => Vec::new(),
        }
    }
}

/// A mount point that was made among the changes of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stub {
    /// Where, from the root.
    #[serde(with = "wire::path")]
    pub path: PathBuf,
    /// Whether it is a directory; else an empty file.
    pub directory: bool,
}
