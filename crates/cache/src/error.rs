use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use wbuild_oci::Digest;

/// Why a cache did not give or take something. Never a reason for a build to fail.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file of a folder that is a cache, or of what is being packed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A server.
    #[error("cannot {action} `{place}`")]
    Server {
        /// What was tried.
        action: &'static str,
        /// Which, without secrets.
        place: String,
        /// Why it failed.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Something is not what it should be.
    #[error("{what} in the cache is damaged: {why}")]
    Damaged {
        /// What.
        what: String,
        /// How that was noticed.
        why: &'static str,
    },
    /// Something that the index names is not there.
    #[error("`{0}` is not in the cache any more")]
    Gone(Digest),
    /// An index of a version that this one does not know.
    #[error("the index of the cache has version {found}; this wbuild reads {known}")]
    Version {
        /// What it says.
        found: u32,
        /// What this version reads.
        known: u32,
    },
    /// It is larger than anything of its kind.
    #[error("{what} in the cache is larger than {limit} bytes")]
    TooLarge {
        /// What.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// No answer in time.
    #[error("`{place}` did not answer in {seconds} seconds")]
    Late {
        /// Which.
        place: String,
        /// The time that it had.
        seconds: u64,
    },
    /// What should be packed cannot be read from the store.
    #[error("cannot read what is to be uploaded")]
    Store(#[from] wbuild_store::StoreError),
}

impl CacheError {
    /// Whether it says that single things are not right, and not that the place cannot be used.
    pub(crate) const fn is_about_contents(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Gone(_) | Self::TooLarge { .. } | Self::Store(_))
    }
}

/// Names the path of a failed call.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, CacheError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, CacheError> {
        self.map_err(|error| CacheError::Io { action, path: path.to_owned(), source: error.into() })
    }
}

pub(crate) const fn damaged(what: String, why: &'static str) -> CacheError {
    CacheError::Damaged { what, why }
}

/// An error and what is behind it, in one line.
pub(crate) fn in_one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}
