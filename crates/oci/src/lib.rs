//! The nouns of the OCI image specification, as this project needs them: digests that exist only parsed,
//! descriptors, references, platforms, and the three documents (config, manifest, index) with their unknown
//! fields kept, plus the one canonical way to turn them into bytes.
//!
//! The documents are our own types and not `oci-spec`'s: that crate drops `Healthcheck`, `OnBuild` and `Shell`
//! of a Docker config on a round trip and writes maps in random order. The tests read what is written here with
//! `oci-spec`, as an independent reader.

mod canonical;
mod config;
mod digest;
mod document;
mod platform;
mod reference;

pub use canonical::to_canonical_json;
pub use config::{Execution, Healthcheck, HistoryEntry, ImageConfig, RootFs};
pub use digest::{DiffId, Digest, DigestParseError, HashingReader, HashingWriter};
pub use document::{Descriptor, Document, DocumentError, Index, MAX_DOCUMENT_BYTES, Manifest, media};
pub use platform::{Platform, PlatformParseError};
pub use reference::{Reference, ReferenceParseError};
