use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use wbuild_oci::Digest;
use wbuild_report::Hint;
use wbuild_tree::TreeLoadError;

use crate::entry::Ref;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried: "read", "create".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The directory was written by another version.
    #[error("the state directory `{}` has format {found}; this version knows format {known}", path.display())]
    UnknownVersion {
        /// The state directory.
        path: PathBuf,
        /// What it has.
        found: u64,
        /// What this version reads and writes.
        known: u64,
    },
    /// The directory uses a feature without which it cannot be read.
    #[error("the state directory `{}` uses the feature `{feature}`, which this version does not know", path.display())]
    IncompatibleFeature {
        /// The state directory.
        path: PathBuf,
        /// The feature.
        feature: String,
    },
    /// The directory uses a feature without which it may be read but not written.
    #[error(
        "the state directory `{}` can only be read: it uses the feature `{feature}`, which this version does not know",
        path.display()
    )]
    ReadOnlyFeature {
        /// The state directory.
        path: PathBuf,
        /// The feature.
        feature: String,
    },
    /// The directory holds something else.
    #[error("`{}` is not empty and not a state directory of wbuild", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// Neither copy of the version file can be read as one.
    #[error("`version.json` in the state directory `{}` is damaged, and so is its copy", path.display())]
    VersionDamaged {
        /// The state directory.
        path: PathBuf,
    },
    /// Another user's directory.
    #[error("the state directory `{}` belongs to user {owner}, and this is user {user}", path.display())]
    ForeignOwner {
        /// The state directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Not in the store.
    #[error("the {what} is not in the store")]
    Missing {
        /// Which.
        what: Ref,
    },
    /// It was in the store, damaged, and has been dropped.
    #[error("the stored {what} was damaged ({why}) and has been dropped")]
    Damaged {
        /// Which.
        what: Ref,
        /// How that was noticed.
        why: &'static str,
    },
    /// What was to be stored is not what it was announced to be.
    #[error("`{subject}` should have the digest {expected} but has {found}")]
    DigestMismatch {
        /// What was being stored.
        subject: String,
        /// What was announced.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// Larger than the caller wants to have in memory.
    #[error("the {what} has {size} bytes, more than the {cap} that are read of such a file")]
    TooLarge {
        /// Which.
        what: Ref,
        /// Its size.
        size: u64,
        /// The limit.
        cap: u64,
    },
    /// A tree that was to be stored could not be loaded.
    #[error(transparent)]
    Tree(#[from] TreeLoadError),
}

impl StoreError {
    /// Whether the store no longer has what a record said it has: making it again helps, trying again does not.
    pub const fn is_lost(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. }
                | Self::Damaged { .. }
                | Self::Tree(TreeLoadError::Missing { .. } | TreeLoadError::Damaged { .. })
        )
    }

    /// As the error of a read.
    pub(crate) fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Io { source, .. } => source.kind(),
            Self::Missing { .. } => io::ErrorKind::NotFound,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, self)
    }
}

/// The system's reason below an error, if there is one.
fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

impl Hint for StoreError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Io { source, path, .. } => match errno(source) {
                Some(Errno::NOSPC | Errno::DQUOT) => vec![
                    format!("free space on the file system of `{}`", path.display()),
                    "`wbuild cache prune` removes what has not been used for longest".to_owned(),
                    "`WBUILD_HOME` names another state directory".to_owned(),
                ],
                Some(Errno::MFILE | Errno::NFILE) => {
                    vec!["raise the limit of open files: `ulimit -n 4096`".to_owned()]
                }
                Some(Errno::ROFS) => {
                    vec!["`WBUILD_HOME` names a state directory that can be written".to_owned()]
                }
                _ => Vec::new(),
            },
            Self::UnknownVersion { .. } | Self::IncompatibleFeature { .. } | Self::ReadOnlyFeature { .. } => {
                vec![
                    "use the version of wbuild that made it, or set `WBUILD_HOME` to another directory"
                        .to_owned(),
                    "it is a cache: it can be deleted, at the price of building everything anew".to_owned(),
                ]
            }
            Self::NotAStore { .. } => vec!["set `WBUILD_HOME` to an empty or new directory".to_owned()],
            Self::VersionDamaged { .. } => {
                vec![
                    "it is a cache: delete the directory, at the price of building everything anew"
                        .to_owned(),
                ]
            }
            Self::ForeignOwner { owner, .. } => {
                vec![format!("run as user {owner}, or set `WBUILD_HOME` to a directory of your own")]
            }
            Self::DigestMismatch { .. } => {
                vec!["the file may have changed while it was read; build again".to_owned()]
            }
            Self::Missing { .. } | Self::Damaged { .. } | Self::TooLarge { .. } | Self::Tree(_) => Vec::new(),
        }
    }
}

/// Puts the path to the error of a system call.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io { action, path: path.to_owned(), source: source.into() })
    }
}
