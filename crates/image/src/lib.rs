//! Images as documents, and documents as files.
//!
//! - [`assemble`] makes a config and a manifest from a base image, new layers and history; [`assemble_index`] puts
//!   several platforms together. Pure: the same input gives the same bytes.
//! - [`write_layout`] keeps a folder as an OCI image layout, [`write_archive`] writes one as a tar, for `docker load` too.
//! - [`Attachment`]s are documents about an image: [`Export::with_referrers`] and [`Export::attested`] let them travel with it.
//! - [`OciLayout`] reads base images from a layout, and believes nothing whose digest it has not checked.
//!   [`collect_image`] reads all that belongs to one; [`find_image`] does the same for documents from anywhere else. [`unpack_archive`] makes a layout of an archive again.
//!
//! Guarantees: layers of a base image pass byte for byte. A layout can be read at every moment while it is written over,
//! and holds afterwards what its index names and nothing else; other images in it stay where that is asked for. No blob is
//! given out before its size and digest were compared, documents before they are parsed, layers while they are read.
//!
//! Not here: making layers (`layer`), registries (`registry`), and where blobs are kept (`store`).

mod archive;
mod assemble;
mod attach;
mod collect;
mod export;
mod find;
mod foreseen;
mod layout;
mod open;
mod others;
mod output_file;
mod saved;
mod unpack;
mod verified;

pub use archive::{ArchiveFormat, write_archive, write_archive_file};
pub use assemble::{
    Annotations, AssembleError, Assembly, DocumentBlob, Image, LayerRef, MediaTypes, Row, assemble,
    assemble_index,
};
pub use attach::{
    ANNOTATION_PREDICATE, Attachment, AttestedIndex, IN_TOTO, Referrer, fallback_tag, referrers_index,
};
pub use collect::{ImageParts, collect_image};
pub use export::{BlobFiles, Export, ExportError};
pub use find::{BaseImage, Documents, ImageError, find_image, read_document};
pub use foreseen::Foreseen;
pub use layout::{LayoutChanges, check_layout_folder, write_layout};
pub use open::{LayoutError, OciLayout, Select};
pub use others::Others;
pub use output_file::{OutputFile, abandon_outputs};
pub use unpack::{UnpackError, is_archive_name, unpack_archive};
pub use verified::{BlobMismatch, VerifiedReader};
