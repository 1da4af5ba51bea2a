use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use wbuild_layer::LayerError;
use wbuild_report::Hint;
use wbuild_store::StoreError;
use wbuild_tree::{BuildError, EntryPath, ResolveError, TreeLoadError};

/// Why a root file system, or a face of one of its deltas, could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The operating system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried: "read", "link".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The store failed, or has lost something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tree could not be loaded.
    #[error(transparent)]
    Tree(#[from] TreeLoadError),
    /// A tree could not be put together.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A layer could not be unpacked.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A face that is needed was not made, or has been lost.
    #[error("the {face} face of `{delta}` is not in the store")]
    NoFace {
        /// Whose.
        delta: String,
        /// "disk" or "tree".
        face: &'static str,
    },
    /// A pattern that is none.
    #[error("`{}` is not a pattern for paths", glob.escape_debug())]
    Pattern {
        /// The pattern.
        glob: String,
        /// Why.
        #[source]
        source: globset::Error,
    },
    /// A name that would remove files where the image is unpacked.
    #[error(
        "the step made `{path}`: names that start with `.wh.` mean removed files in an image, so no layer can hold it"
    )]
    WhiteoutName {
        /// Where.
        path: EntryPath,
    },
    /// Overlay's own control data, of a kind that our mounts never make.
    #[error("`{path}` has the attribute `{attribute}`, with which overlay file systems refer to other files")]
    OverlayControl {
        /// Where.
        path: EntryPath,
        /// Which.
        attribute: String,
    },
    /// A file was written to while it was read.
    #[error("`{path}` changed while it was read")]
    Changed {
        /// Which.
        path: EntryPath,
    },
    /// Not there.
    #[error("`{path}` does not exist in the root file system")]
    NotFound {
        /// Which.
        path: EntryPath,
    },
    /// A directory, pipe, device or socket.
    #[error("`{path}` is not a regular file")]
    NotAFile {
        /// Which.
        path: EntryPath,
    },
    /// Larger than is sensible.
    #[error("`{path}` has {size} bytes, more than the {cap} that are read of such a file")]
    TooLarge {
        /// Which.
        path: EntryPath,
        /// Its size.
        size: u64,
        /// The limit.
        cap: u64,
    },
    /// The path leads nowhere.
    #[error(transparent)]
    Resolve(Box<ResolveError<SnapshotError>>),
}

impl SnapshotError {
    /// Whether the store lost something that can be made again.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Store(error) => error.is_lost(),
            Self::Tree(TreeLoadError::Missing { .. } | TreeLoadError::Damaged { .. })
            | Self::Build(BuildError::Load(TreeLoadError::Missing { .. } | TreeLoadError::Damaged { .. }))
            | Self::NoFace { .. } => true,
            Self::Resolve(error) => match &**error {
                ResolveError::Lookup(error) => error.is_lost(),
                _ => false,
            },
            _ => false,
        }
    }
}

impl From<ResolveError<Self>> for SnapshotError {
    fn from(error: ResolveError<Self>) -> Self {
        match error {
            ResolveError::Lookup(error) => error,
            other => Self::Resolve(Box::new(other)),
        }
    }
}

impl Hint for SnapshotError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Io { source, path, .. } => match source.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOSPC | Errno::DQUOT) => vec![
                    format!("free space on the file system of `{}`", path.display()),
                    "`wbuild cache prune` removes what has not been used for longest".to_owned(),
                ],
                Some(Errno::MFILE | Errno::NFILE) => {
                    vec!["raise the limit of open files: `ulimit -n 4096`".to_owned()]
                }
                _ => Vec::new(),
            },
            Self::Store(error) => error.hints(),
            Self::Layer(error) => error.hints(),
            Self::WhiteoutName { .. } => vec!["rename or remove the file at the end of the step".to_owned()],
            Self::Changed { .. } => vec!["a process of the step may still be running".to_owned()],
            _ => Vec::new(),
        }
    }
}

/// Puts the path to the error of a system call.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, SnapshotError>;

    /// As [`at`](Self::at), for where putting the path together for each call would cost more than the call.
    fn at_with(self, action: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T, SnapshotError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, SnapshotError> {
        self.map_err(|source| SnapshotError::Io { action, path: path.to_owned(), source: source.into() })
    }

    fn at_with(self, action: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T, SnapshotError> {
        self.map_err(|source| SnapshotError::Io { action, path: path(), source: source.into() })
    }
}
