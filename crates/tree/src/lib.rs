//! File trees as values: entries with full metadata in Merkle directories, and what can be done with them
//! without touching a file system.
//!
//! - [`Subtree`] is a directory's contents behind two digests: [`TreeDigest`] over everything, times included, names
//!   the stored object; [`ContentDigest`] leaves times out and is what cache keys see. A subtree is loaded only
//!   when somebody looks into it, so grafting a `node_modules` costs one entry, however many files it holds.
//! - A *delta* is a tree too: one that may contain [`Node::Whiteout`]s and opaque directories, which hide what lies
//!   below them. [`apply`] puts a delta on a tree.
//! - [`Chmod`] changes permission bits.
//! - [`EntryPath`] is the only path type: relative to a root, normalised, never leaving it. [`resolve`] follows symbolic
//!   links inside the root only, as a chroot would.
//!
//! Guarantees: no I/O except through [`TreeSource`]; equal values have equal digests and different values different ones
//! (framed encoding, property-tested); nothing depends on the order in which a tree was built.

mod apply;
mod builder;
mod change;
mod chmod;
mod directory;
mod encoding;
mod entry;
mod path;
mod resolve;
mod walk;

pub use apply::apply;
pub use builder::{BuildError, Said, TreeBuilder};
pub use change::{Change, changes};
pub use chmod::{Chmod, ChmodError, SymbolicMode};
pub use directory::{
    ContentDigest, Directory, MemoryTrees, Subtree, TreeDigest, TreeLoadError, TreeSource, lookup,
};
pub use encoding::{EncodedObject, decode_object, encode_object};
pub use entry::{Entry, LinkId, Meta, Node, Time, Xattrs};
pub use path::{EntryPath, Name, PathError};
pub use resolve::{Lookup, MAX_SYMLINKS, ResolveError, Resolved, resolve};
pub use walk::{Visit, walk};
