//! What the engine remembers, on disk: blobs by SHA-256, trees, deltas (root file system changes as folders), records
//! (what came of a vertex), shared by concurrent processes without a daemon, a global lock or a database.
//!
//! ```text
//! version.json  version.copy.json     the format and its feature flags (`cache/format.md`)
//! blobs/sha256/ab/<hex>               0444; the modification time is derived from digest and size ("the seal")
//! trees/ab/<hex>                      objects of `wbuild-tree`, sealed likewise
//! deltas/<name>/{fs/,delta.json,…}    disk faces: what an overlay mounts
//! mounts/<hex>/{fs/,delta.json}       cache mounts
//! records/ab/<hex>                    key → result, with a checksum and the list of what it refers to
//! latest/<hex>                        step identity → key of its newest record, to explain misses
//! pool/ab/<hex>                       inodes that disk faces link to
//! locks/<hex>                         per-key locks: flock, gone with the process
//! work/w-<random>/                    a live process: its temporary files, and its lease
//! trash/                              what is being removed
//! logs/  index/                       logs of steps; what callers want to find again and can recompute
//! ```
//!
//! # What holds
//!
//! - **Writes are atomic**: everything is made in the process's workspace and renamed into place. A process killed at any
//!   point leaves nothing that a reader could take for whole.
//! - **Nothing damaged is used**: blobs and trees whose file is not exactly as it was published (size, modification time)
//!   are hashed again before use; records carry a checksum. What does not fit is dropped and reported as lost
//!   ([`StoreError::is_lost`]), which the engine answers by making it again.
//! - **Power loss** may cost the newest entries and never makes wrong ones; see [`Store::settle`] and `cache/format.md`.
//! - **Collection** takes nothing that a live process used since it began ([`Store::workspace`]), nor what is young.
//!
//! What is not here may be *upstream* ([`Store::set_upstream`]): it then counts as there ([`Store::has_blob`],
//! [`Store::has_tree`]) and comes when it is read.
//!
//! What does not hold: bytes that rot on disk under an unchanged size and time are noticed only by a full read
//! ([`Blob::reader`], [`Store::verify`], everything after [`Store::look_closely`]); locks rely on `flock`, so the directory belongs on a local file system.

mod blob;
mod collect;
mod delta;
mod entry;
mod error;
mod keylock;
mod layout;
mod record;
mod removal;
mod seal;
mod sealed;
mod store;
mod trash;
mod trees;
mod upstream;
mod usage;
mod verify;
mod version;
mod workspace;

pub use blob::{Blob, BlobReader, BlobWriter};
pub use collect::{Collected, Collection};
pub use delta::{DeltaFolder, DeltaName, DeltaNameError, Draft};
pub use entry::{Ref, RefParseError};
pub use error::StoreError;
pub use keylock::KeyLock;
pub use layout::Area;
pub use record::{Record, RecordMeta, Stored};
pub use removal::remove_tree;
pub use seal::seal_time;
pub use store::Store;
pub use upstream::Upstream;
pub use usage::{Usage, UsageOf};
pub use verify::{Inodes, Verified};
pub use workspace::Workspace;
