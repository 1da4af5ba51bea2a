use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Digest, Platform};

/// Larger manifests, indexes and configs are refused unread; the limit of containers/image.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Media types, as constants.
pub mod media {
    /// OCI manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image config.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A tar layer, not compressed.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A tar layer, gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A tar layer, zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker's manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's layer; always gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}

/// A pointer to a blob (OCI image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// In an index: whom the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Arbitrary.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Everything else, kept.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

impl Descriptor {
    /// A descriptor with nothing optional.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
            rest: BTreeMap::new(),
        }
    }
}

/// An image manifest (OCI image-spec, manifest.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`media::MANIFEST`]; optional in the specification, always written here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The config blob.
    pub config: Descriptor,
    /// The layer blobs, lowest first.
    pub layers: Vec<Descriptor>,
    /// Arbitrary.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Everything else, kept.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

impl Manifest {
    /// A plain OCI manifest.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media::MANIFEST.to_owned()),
            config,
            layers,
            annotations: BTreeMap::new(),
            rest: BTreeMap::new(),
        }
    }
}

/// An image index (OCI image-spec, image-index.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// [`media::INDEX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Arbitrary.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Everything else, kept.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

impl Index {
    /// A plain OCI index.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media::INDEX.to_owned()),
            manifests,
            annotations: BTreeMap::new(),
            rest: BTreeMap::new(),
        }
    }
}

/// A manifest or an index, decided by what the document *is*, and only when that is beyond doubt (CVE-2021-41190).
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, briefly")]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

/// Why a document is neither a manifest nor an index.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Over [`MAX_DOCUMENT_BYTES`].
    #[error("the document has {size} bytes; more than {MAX_DOCUMENT_BYTES} are never read")]
    TooLarge {
        /// Its size.
        size: u64,
    },
    /// Not JSON of the expected shape.
    #[error("the document is not a valid manifest or index")]
    Json(#[from] serde_json::Error),
    /// Fields of both kinds in one document.
    #[error("the document has both `manifests` and `layers` or `config`: it could be read in two ways")]
    Ambiguous,
    /// Neither kind's fields.
    #[error("the document has neither `manifests` nor `config` and `layers`")]
    Unknown,
    /// `schemaVersion` is not 2.
    #[error("the document has schema version {found}; only 2 is supported")]
    SchemaVersion {
        /// What it says.
        found: u32,
    },
    /// Its own `mediaType` says something else than its fields.
    #[error("the document calls itself `{}`, but its fields are those of {actual}", found.escape_debug())]
    MediaType {
        /// What it says.
        found: String,
        /// What it is.
        actual: &'static str,
    },
}

impl Document {
    /// Reads a manifest or an index of either the OCI's or Docker's media types.
    ///
    /// # Errors
    /// When it is too large, malformed, or could be read in two ways.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let size = bytes.len() as u64;
        if size > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLarge { size });
        }
        let value: Value = serde_json::from_slice(bytes)?;
        let has = |field: &str| value.get(field).is_some();
        match (has("manifests"), has("layers") || has("config") || has("fsLayers")) {
            (true, true) => Err(DocumentError::Ambiguous),
            (false, false) => Err(DocumentError::Unknown),
            (true, false) => {
                let index: Index = serde_json::from_value(value)?;
                check(
                    index.schema_version,
                    index.media_type.as_deref(),
                    &[media::INDEX, media::DOCKER_INDEX],
                    "an index",
                )?;
                Ok(Self::Index(index))
            }
            (false, true) => {
                let manifest: Manifest = serde_json::from_value(value)?;
                let expected = &[media::MANIFEST, media::DOCKER_MANIFEST];
                check(manifest.schema_version, manifest.media_type.as_deref(), expected, "a manifest")?;
                Ok(Self::Manifest(manifest))
            }
        }
    }
}

fn check(
    schema_version: u32,
    media_type: Option<&str>,
    expected: &[&str],
    actual: &'static str,
) -> Result<(), DocumentError> {
    if schema_version != 2 {
        return Err(DocumentError::SchemaVersion { found: schema_version });
    }
    match media_type {
        Some(found) if !found.is_empty() && !expected.contains(&found) => {
            Err(DocumentError::MediaType { found: found.to_owned(), actual })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::to_canonical_json;

    fn manifest() -> Manifest {
        let config = Descriptor::new(media::CONFIG, Digest::of(b"c"), 1);
        Manifest::new(config, vec![Descriptor::new(media::LAYER_GZIP, Digest::of(b"l"), 1)])
    }

    #[test]
    fn documents_are_told_apart_by_their_fields() {
        let bytes = to_canonical_json(&manifest()).unwrap();
        assert_eq!(Document::parse(&bytes).unwrap(), Document::Manifest(manifest()));
        oci_spec::image::ImageManifest::from_reader(bytes.as_slice()).unwrap();
        let index = Index::new(vec![Descriptor::new(media::MANIFEST, Digest::of(b"m"), 1)]);
        let bytes = to_canonical_json(&index).unwrap();
        assert_eq!(Document::parse(&bytes).unwrap(), Document::Index(index));
        oci_spec::image::ImageIndex::from_reader(bytes.as_slice()).unwrap();
    }

    #[test]
    fn ambiguous_and_mislabelled_documents_are_refused() {
        let mut value = serde_json::to_value(manifest()).unwrap();
        value["manifests"] = serde_json::json!([]);
        assert!(matches!(Document::parse(value.to_string().as_bytes()), Err(DocumentError::Ambiguous)));
        let mut value = serde_json::to_value(manifest()).unwrap();
        value["mediaType"] = media::INDEX.into();
        assert!(matches!(
            Document::parse(value.to_string().as_bytes()),
            Err(DocumentError::MediaType { .. })
        ));
        assert!(matches!(Document::parse(b"{}"), Err(DocumentError::Unknown)));
        assert!(matches!(Document::parse(b"null"), Err(DocumentError::Unknown)));
    }
}
