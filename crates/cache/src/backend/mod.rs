//! Places that keep bytes.

mod action;
mod gha;
mod http;
mod local;
#[cfg(feature = "object-stores")]
mod objects;
mod registry;
mod slots;
mod turbo;
mod web;

use std::fmt::Debug;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use wbuild_oci::Digest;

use crate::error::CacheError;
use crate::index::Index;

pub use gha::GhaBackend;
pub use http::HttpBackend;
pub use local::LocalBackend;
#[cfg(feature = "object-stores")]
pub use objects::{ObjectsBackend, ObjectsPlace};
pub(crate) use registry::LONGEST_GIVEN_TAG;
pub use registry::RegistryBackend;
pub use turbo::{TurboBackend, TurboTeam};
pub use web::Network;

/// A place that keeps contents by their digest and an index for each scope. Calls may block, and come from many threads. Each
/// ends in bounded time.
pub trait Backend: Debug + Send + Sync {
    /// For people: which place, without secrets.
    fn place(&self) -> String;

    /// The index of a scope as it was stored, of at most [`limit`](crate::index) bytes; `None` when there is none.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn index(&self, scope: &str) -> Result<Option<Vec<u8>>, CacheError>;

    /// Replaces the index of a scope by what `merge` makes of the one that is there. Nothing is written when that is `None`. Of
    /// two who do this at once, where the place knows no locks, one may lose what it added, and nothing else.
    ///
    /// # Errors
    /// When it cannot be read or written.
    fn update(
        &self,
        scope: &str,
        merge: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Index>,
    ) -> Result<(), CacheError>;

    /// A content of at most `limit` bytes.
    ///
    /// # Errors
    /// [`CacheError::Gone`] when there is none; when it is larger or cannot be read.
    fn small(&self, content: &Digest, limit: u64) -> Result<Vec<u8>, CacheError>;

    /// The bytes of a content from one offset to another, which is not far from the first. `None` when the place gives no
    /// parts of contents.
    ///
    /// # Errors
    /// [`CacheError::Gone`] when there is no such content; when it is shorter, or cannot be read.
    fn part(&self, content: &Digest, range: Range<u64>) -> Result<Option<Vec<u8>>, CacheError>;

    /// Whether the place gives parts of contents, as far as that is known.
    fn gives_parts(&self) -> bool {
        true
    }

    /// Writes a content of `size` bytes into a file that is empty.
    ///
    /// # Errors
    /// [`CacheError::Gone`] when there is none; when it cannot be read or written.
    fn whole(&self, content: &Digest, size: u64, file: &File) -> Result<(), CacheError>;

    /// Stores the file at `path`, `size` bytes with that digest, unless it is there.
    ///
    /// # Errors
    /// When it cannot be stored.
    fn put(&self, content: &Digest, size: u64, path: &Path) -> Result<(), CacheError>;

    /// Bytes after which a pack for this place is closed.
    fn pack(&self) -> u64 {
        64 << 20
    }
}

/// Bytes of a pack for places that give no parts of contents: what is not needed comes, too.
pub(crate) const SMALL_PACK: u64 = 8 << 20;

/// The name of a scope where names are digests: nobody's action or artifact has it.
pub(crate) fn scope_name(scope: &str) -> Digest {
    Digest::of(format!("wbuild-cache-scope-1\0{scope}").as_bytes())
}

/// An index that is damaged is none for who is about to write a new one.
pub(crate) fn readable(index: Result<Option<Vec<u8>>, CacheError>) -> Result<Option<Vec<u8>>, CacheError> {
    match index {
        Err(error) if error.is_about_contents() => Ok(None),
        other => other,
    }
}
