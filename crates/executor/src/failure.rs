use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::wire;

/// What a helper was doing when the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doing {
    /// Making a user namespace and its id maps.
    UserNamespace,
    /// Making the other namespaces.
    Namespaces,
    /// Bringing up the loopback interface of a network namespace.
    Loopback,
    /// Setting the host name.
    HostName,
    /// Starting a process.
    Fork,
    /// Opening something of the host.
    Open,
    /// Making a directory or file that a mount needs.
    MakeMountPoint,
    /// Finding a mount target inside the root.
    FindMountPoint,
    /// Mounting an overlay.
    Overlay,
    /// Binding a file or directory.
    Bind,
    /// Mounting an in-memory file system.
    Tmpfs,
    /// Writing a file into memory.
    WriteFile,
    /// Mounting `/proc`.
    Proc,
    /// Mounting `/sys`.
    Sys,
    /// Making `/dev`.
    Dev,
    /// Hiding or protecting a path of `/proc` or `/sys`.
    Mask,
    /// Making the root file system the root.
    PivotRoot,
    /// Entering the working directory.
    WorkingDirectory,
    /// Setting a resource limit.
    Limits,
    /// Changing to the step's user and groups.
    Identity,
    /// Dropping capabilities.
    Capabilities,
    /// Entering the landlock domain.
    Landlock,
    /// Installing the system call filter.
    Seccomp,
    /// Listening to the ownership changes of a step.
    Listener,
    /// Recording an ownership change.
    Ownership,
    /// Talking between helpers.
    Talk,
    /// Removing what the mounts of a step needed.
    CleanUp,
    /// Joining the namespaces of a running step.
    Join,
    /// Forwarding a port.
    Forward,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UserNamespace => "make a user namespace",
            Self::Namespaces => "make the namespaces of the sandbox",
            Self::Loopback => "bring up the loopback interface",
            Self::HostName => "set the host name",
            Self::Fork => "start a process",
            Self::Open => "open",
            Self::MakeMountPoint => "make the mount point",
            Self::FindMountPoint => "find the mount point",
            Self::Overlay => "mount an overlay",
            Self::Bind => "bind",
            Self::Tmpfs => "mount a tmpfs",
            Self::WriteFile => "write a file into memory",
            Self::Proc => "mount `/proc`",
            Self::Sys => "mount `/sys`",
            Self::Dev => "make `/dev`",
            Self::Mask => "protect",
            Self::PivotRoot => "change the root",
            Self::WorkingDirectory => "enter the working directory",
            Self::Limits => "set a resource limit",
            Self::Identity => "change to the user of the step",
            Self::Capabilities => "drop capabilities",
            Self::Landlock => "enter a landlock domain",
            Self::Seccomp => "install the system call filter",
            Self::Listener => "listen to ownership changes",
            Self::Ownership => "record an ownership change",
            Self::Talk => "talk to the helper process",
            Self::CleanUp => "remove",
            Self::Join => "join the running sandbox",
            Self::Forward => "forward a port",
        })
    }
}

/// Why a helper could not do its work. Travels from the helper to the process that started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What it was doing.
    pub doing: Doing,
    /// To what.
    #[serde(with = "wire::optional_path")]
    pub path: Option<PathBuf>,
    /// What the kernel answered.
    #[serde(with = "wire::errno")]
    pub errno: Errno,
    /// What the kernel says besides the error number, if it does.
    pub detail: Option<String>,
}

impl Failure {
    pub(crate) fn new(doing: Doing, path: Option<&Path>, errno: Errno) -> Self {
        Self { doing, path: path.map(Path::to_path_buf), errno, detail: None }
    }

    pub(crate) fn detail(mut self, detail: Option<String>) -> Self {
        self.detail = detail;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.doing)?;
        if let Some(path) = &self.path {
            write!(f, " `{}`", path.display())?;
        }
        match &self.detail {
            Some(detail) => write!(f, " ({detail})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.errno)
    }
}

/// Says what was being done when a system call failed.
pub(crate) trait While<T> {
    /// Without a path.
    fn doing(self, doing: Doing) -> Result<T, Failure>;
    /// With the path it was done to.
    fn doing_to(self, doing: Doing, path: impl AsRef<Path>) -> Result<T, Failure>;
}

impl<T, E: Into<Cause>> While<T> for Result<T, E> {
    fn doing(self, doing: Doing) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(doing, None, error.into().0))
    }

    fn doing_to(self, doing: Doing, path: impl AsRef<Path>) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(doing, Some(path.as_ref()), error.into().0))
    }
}

/// An error number, from either form in which it comes.
#[derive(Debug)]
pub(crate) struct Cause(Errno);

impl Cause {
    pub(crate) fn errno(&self) -> Errno {
        self.0
    }
}

impl From<Errno> for Cause {
    fn from(errno: Errno) -> Self {
        Self(errno)
    }
}

impl From<std::io::Error> for Cause {
    fn from(error: std::io::Error) -> Self {
        // Errors that the standard library makes up have no number: short reads, invalid data.
        Self(Errno::from_io_error(&error).unwrap_or(Errno::PROTO))
    }
}
