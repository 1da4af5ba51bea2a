//! The remote cache: what a store remembers, shared with machines that have nothing yet, through any place that keeps bytes
//! (`cache/remote.md` has the format).
//!
//! - [`Backend`] is such a place: it keeps *contents* by digest and one small *index* a scope.
//! - [`Index`] lists records and the packs in which the objects lie that they refer to.
//! - [`Import`] answers for records from the index alone and is the store's [`Upstream`](wbuild_store::Upstream): blobs and
//!   trees come when they are read, many at once, verified.
//! - [`Export`] packs what a scope does not have yet, uploads while the build goes on, and merges its records into the index.
//! - [`Place`] is what `--cache-to` and `--cache-from` say.
//!
//! Guarantees: nothing that comes is used unverified (objects by digest, records by checksum and, with a key, by signature);
//! whatever is broken or slow is said once ([`Problems`]) and then counts as not there; nothing here fails a build. Bodies of
//! records are opaque: what they mean is their owner's affair.

mod backend;
mod compact;
mod directory;
mod error;
mod export;
mod frames;
mod import;
mod index;
mod pack;
mod place;
mod problems;
mod scope;
mod signature;
mod source;
mod trees;

pub use backend::{
    Backend, GhaBackend, HttpBackend, LocalBackend, Network, RegistryBackend, TurboBackend, TurboTeam,
};
#[cfg(feature = "object-stores")]
pub use backend::{ObjectsBackend, ObjectsPlace};
pub use directory::{Codec, Directory, Frame, Object, ObjectKind};
pub use error::CacheError;
pub use export::{Export, ExportOptions, Exported, NewRecord};
pub use import::{Import, ImportScope};
pub use index::{Entry, Holds, Index, Kind, PackInfo};
pub use place::{Mode, Place, PlaceError, Role};
pub use problems::Problems;
pub use scope::{Scopes, scopes};
pub use signature::Signature;
