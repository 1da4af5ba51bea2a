use std::ffi::OsString;
use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::ExitStatus;

use rustix::io::Errno;
use wbuild_report::Hint;

use crate::failure::{Doing, Failure};

/// Why a step could not be run, or not to its end. A program that ran and failed is no such error: see
/// [`crate::Status`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// A helper process could not be started.
    #[error("cannot start a helper process")]
    Helper(#[source] io::Error),
    /// A helper process ended without saying why; most often the kernel killed it for want of memory.
    #[error("a helper process ended unexpectedly ({status})")]
    HelperDied {
        /// How it ended.
        status: ExitStatus,
    },
    /// A helper process said something that cannot be understood.
    #[error("cannot talk to a helper process")]
    Talk(#[source] io::Error),
    /// The sandbox could not be set up.
    #[error(transparent)]
    Setup(Failure),
    /// More layers than the kernel mounts at once.
    #[error("{count} layers are more than the {limit} that overlayfs mounts at once")]
    TooManyLayers {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// There is no program to run.
    #[error("the step names no program")]
    NoProgram,
    /// An argument or environment variable that cannot be given to a program.
    #[error("`{}` contains a NUL byte", .0.display())]
    Nul(OsString),
    /// A mount target that is not a path inside the root.
    #[error("`{}` cannot be mounted on", .0.display())]
    BadTarget(PathBuf),
    /// A port of the host that others than the host itself could reach.
    #[error("cannot forward from `{0}`, which is no loopback address")]
    NotLoopback(SocketAddrV4),
    /// A signal could not be sent to the program.
    #[error("cannot send signal {signal} to the program")]
    Signal {
        /// Its number.
        signal: i32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Cancelled before the program ended.
    #[error("cancelled")]
    Cancelled,
}

impl Hint for ExecError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Setup(failure) => failure.hints(),
            Self::HelperDied { .. } => vec!["look for an out-of-memory kill with `dmesg`".to_owned()],
            Self::TooManyLayers { .. } => vec!["merge layers before running the step".to_owned()],
            _ => Vec::new(),
        }
    }
}

impl Hint for Failure {
    fn hints(&self) -> Vec<String> {
        let hint = match (self.doing, self.errno) {
            (Doing::UserNamespace | Doing::Namespaces, Errno::PERM | Errno::NOSPC | Errno::ACCESS) => {
                "run `wbuild doctor` to see what this machine allows and what would allow more"
            }
            (Doing::Overlay, Errno::INVAL) => {
                "the state directory may itself be on an overlay: put it on a volume or a tmpfs"
            }
            (Doing::Proc | Doing::Sys | Doing::Dev, Errno::LOOP) => {
                "the image has a symbolic link where the kernel's file systems are mounted; remove it from the image"
            }
            (Doing::WorkingDirectory, Errno::NOENT) => "create the working directory in an earlier step",
            (Doing::FindMountPoint, Errno::PERM) => "mount elsewhere: `/`, `/proc` and `/sys` are taken",
            (Doing::Limits, Errno::PERM) => {
                "only root may raise a limit above the one that wbuild was started with"
            }
            _ => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}

/// Why a handler did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WithinError {
    /// The helper process could not be started or understood.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// No handler of that name was given to [`crate::init`].
    #[error("no handler is named `{0}`")]
    Unknown(String),
    /// The handler failed.
    #[error("{0}")]
    Handler(String),
}

impl Hint for WithinError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Exec(error) => error.hints(),
            Self::Unknown(_) | Self::Handler(_) => Vec::new(),
        }
    }
}
