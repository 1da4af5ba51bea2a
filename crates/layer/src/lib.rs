//! Deltas as layers, and layers as deltas.
//!
//! - [`write_layer`] turns a delta's tree into a layer blob in one pass: a tar whose bytes are a function of the delta
//!   and the [`Recipe`], compressed in independent members on all cores.
//! - [`recode`] compresses the tar of a layer that is there in another way.
//! - [`read_tree`] turns a layer blob into a tree, [`unpack`] into files that an overlay can mount. Both go through one
//!   strict tar reader and one resolver, so the two faces of a layer are the same delta by construction.
//! - [`Archive`] is the reader alone, and [`read_archive`] finds out whether a file is an archive at all.
//!
//! Guarantees: equal deltas and recipes give equal blobs on every machine and with any number of threads. Memory is
//! bounded by the number of entries, never by their sizes. Contents are verified when a layer is written, both
//! digests when one is read. Nothing in a layer reaches outside of the directory it is unpacked into.
//!
//! Not here: which layers an image has (`image`), where blobs are kept (`store`), and mounting (`snapshot`).

mod archive;
mod blob;
mod compressed;
mod header;
mod member;
mod overlay;
mod owner_note;
mod pax;
mod read;
mod recipe;
mod recode;
mod stage;
mod stargz;
mod unpack;
mod whiteout;
mod write;

pub use archive::{Archive, ArchiveData, ArchiveEntry, ArchiveError, ArchiveKind, Limits};
pub use blob::{BlobFacts, Expected};
pub use compressed::read_archive;
pub use member::{MemberCache, MemberKey};
pub use owner_note::OwnerNote;
pub use read::{ContentSink, DigestOnly, LayerError, LayerTree, ReadOptions, Whiteouts, read_tree};
pub use recipe::{Compression, Recipe, Times};
pub use recode::recode;
pub use stage::PlaceError;
pub use unpack::{Owners, Unarchived, UnpackOptions, Unpacked, unpack, unpack_archive};
pub use write::{Contents, Layer, LayerWriter, WriteError, write_layer};
