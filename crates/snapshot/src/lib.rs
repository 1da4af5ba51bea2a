//! Root file systems from deltas.
//!
//! A delta has two faces (ARCHITECTURE.md, "The central idea"): a *disk face*, a folder in the store that an overlay can
//! mount, and a *tree face*, metadata and digests. Either is made from the other when somebody needs it, and remembered.
//!
//! - [`materialise`] makes the disk face of a tree, [`unpack_layer`] that of a base layer; a step's is the upper directory
//!   that it ran in, published by [`publish_exec`].
//! - [`collect`] makes the tree face of a step's changes.
//! - [`seal`](seal()) says what the files of a disk face look like, [`check`] reads them and compares them with their tree.
//! - [`stack_for_mount`] gives the lower directories for an overlay, [`View`] answers for single files of a root, and
//!   [`merged_tree`] is the whole of it as one tree.
//!
//! Not here: mounting and running (`executor`), layers as tars (`layer`), and deciding what to make (`engine`). Functions
//! that read what a step made are plain and take serialisable requests, so that they can be run inside the user
//! namespace of the step, where its files can be read whatever their modes.

mod check;
mod collect;
mod error;
mod face;
mod folders;
mod marks;
mod materialise;
mod merge;
mod note_owners;
mod pool;
mod restore;
mod seal;
mod selection;
mod stack;
mod view;

pub use check::{CheckReply, CheckRequest, Made, check};
pub use collect::{CollectReply, CollectRequest, CollectTimes, Device, Override, OwnerSource, Stub, collect};
pub use error::SnapshotError;
pub use face::{
    Existing, LayerDraft, LayerFace, LayerSource, TreeFace, Unpacking, disk_face, face_name,
    forget_tree_face, named_tree_face, publish_exec, remember_tree_face, restore_exec, tree_face,
    unpack_layer,
};
pub use materialise::{Disk, Mtimes, content_time, materialise};
pub use merge::merged_tree;
pub use note_owners::{NoteOwners, note_owners};
pub use restore::set_modified;
pub use seal::seal;
pub use selection::Selection;
pub use stack::stack_for_mount;
pub use view::{Outline, View};
pub use wbuild_layer::Owners;
pub use wbuild_store::remove_tree;
