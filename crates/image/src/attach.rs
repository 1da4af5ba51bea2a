//! Documents about an image, and the two ways in which they travel with it: as *referrers* (OCI image-spec 1.1: artifacts
//! whose `subject` is the image, which itself stays as it is), or as `docker buildx` has them (an index around the image
//! with a manifest for no platform).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wbuild_oci::{Descriptor, DiffId, Digest, Index, Manifest, media, to_canonical_json};

use crate::assemble::{Annotations, AssembleError, DocumentBlob, Image};

/// Which predicate an in-toto statement has, on its layer and on its manifest (BuildKit's name, used by others too).
pub const ANNOTATION_PREDICATE: &str = "in-toto.io/predicate-type";

/// The media type of an in-toto statement that is not signed.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";

/// The config of an artifact that has none (OCI image-spec 1.1).
const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";

/// Its only content.
const EMPTY: &[u8] = b"{}";

/// What marks an attestation in an index, where it stands beside images for the platform `unknown/unknown` (BuildKit's
/// attestation-storage.md).
const ATTESTATION: &str = "vnd.docker.reference.type";

/// Whether an entry of an index is an attestation, and no image.
pub(crate) fn is_attestation(entry: &Descriptor) -> bool {
    entry.annotations.contains_key(ATTESTATION)
}

/// A document about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// What the document is; the artifact's type, too.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Of its layer, and of its manifest when it has one of its own.
    pub annotations: BTreeMap<String, String>,
}

impl Attachment {
    /// An in-toto statement about a predicate.
    pub fn statement(predicate_type: &str, bytes: Vec<u8>) -> Self {
        let annotations = BTreeMap::from([(ANNOTATION_PREDICATE.to_owned(), predicate_type.to_owned())]);
        Self { media_type: IN_TOTO.to_owned(), bytes, annotations }
    }

    fn layer(&self) -> DocumentBlob {
        let mut layer = DocumentBlob::new(&self.media_type, self.bytes.clone());
        layer.descriptor.annotations.clone_from(&self.annotations);
        layer
    }
}

/// An artifact whose subject is an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Referrer {
    /// Its manifest. The descriptor has artifact type and annotations, as a list of referrers wants them.
    pub manifest: DocumentBlob,
    /// Config and layers.
    pub blobs: Vec<DocumentBlob>,
}

impl Referrer {
    /// An attachment as an artifact of its own.
    ///
    /// # Errors
    /// Only when JSON cannot be written.
    pub fn new(subject: &Descriptor, attachment: &Attachment) -> Result<Self, AssembleError> {
        let config = DocumentBlob::new(EMPTY_CONFIG, EMPTY.to_vec());
        let layer = attachment.layer();
        let mut manifest = Manifest::new(config.descriptor.clone(), vec![layer.descriptor.clone()]);
        manifest.annotations.clone_from(&attachment.annotations);
        manifest.rest.insert("artifactType".to_owned(), attachment.media_type.as_str().into());
        // What is for people and platforms is said where the subject is listed.
        let subject = Descriptor::new(&subject.media_type, subject.digest, subject.size);
        manifest.rest.insert("subject".to_owned(), serde_json::to_value(subject)?);
        let mut manifest = DocumentBlob::new(media::MANIFEST, to_canonical_json(&manifest)?);
        manifest.descriptor.annotations.clone_from(&attachment.annotations);
        manifest.descriptor.rest.insert("artifactType".to_owned(), attachment.media_type.as_str().into());
        Ok(Self { manifest, blobs: vec![config, layer] })
    }

    /// Its manifest and its blobs.
    pub fn documents(&self) -> impl Iterator<Item = &DocumentBlob> {
        self.blobs.iter().chain([&self.manifest])
    }
}

/// The list of referrers as a registry gives it, and as it is kept under [`fallback_tag`] in one that keeps no lists
/// (OCI distribution-spec 1.1, "Referrers Tag Schema").
///
/// # Errors
/// Only when JSON cannot be written.
pub fn referrers_index(referrers: &[Referrer]) -> Result<DocumentBlob, AssembleError> {
    let manifests = referrers.iter().map(|referrer| referrer.manifest.descriptor.clone()).collect();
    Ok(DocumentBlob::new(media::INDEX, to_canonical_json(&Index::new(manifests))?))
}

/// The tag under which the referrers of `subject` are listed: `sha256-<hex>`.
pub fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// Whether a tag is one that [`fallback_tag`] makes: no image is meant by it.
pub(crate) fn is_fallback_tag(tag: &str) -> bool {
    tag.strip_prefix("sha256-").is_some_and(|hex| format!("sha256:{hex}").parse::<Digest>().is_ok())
}

/// An image with what is known of it, as `docker buildx` writes them.
#[derive(Clone, Debug, PartialEq)]
pub struct AttestedIndex {
    /// The index: what the names stand for.
    pub index: DocumentBlob,
    /// Everything that it needs besides the image's own documents.
    pub documents: Vec<DocumentBlob>,
}

impl AttestedIndex {
    /// Puts an index around `image`: the image, and a manifest for `unknown/unknown` with the attachments
    /// (BuildKit, docs/attestations/attestation-storage.md).
    ///
    /// # Errors
    /// Only when JSON cannot be written.
    pub fn new(
        image: &Image,
        attachments: &[Attachment],
        annotations: &Annotations,
    ) -> Result<Self, AssembleError> {
        let layers: Vec<DocumentBlob> = attachments.iter().map(Attachment::layer).collect();
        // They are not compressed: blob and content are one.
        let diff_ids: Vec<DiffId> = layers.iter().map(|layer| DiffId(layer.descriptor.digest)).collect();
        let config: Value = json!({
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = DocumentBlob::new(media::CONFIG, to_canonical_json(&config)?);
        let of_layers = layers.iter().map(|layer| layer.descriptor.clone()).collect();
        let manifest = Manifest::new(config.descriptor.clone(), of_layers);
        let manifest = DocumentBlob::new(media::MANIFEST, to_canonical_json(&manifest)?);
        let mut listed = manifest.descriptor.clone();
        listed.platform =
            Some(serde_json::from_value(json!({ "architecture": "unknown", "os": "unknown" }))?);
        listed.annotations = BTreeMap::from([
            (ATTESTATION.to_owned(), "attestation-manifest".to_owned()),
            ("vnd.docker.reference.digest".to_owned(), image.manifest.descriptor.digest.to_string()),
        ]);
        let manifests = vec![image.manifest.descriptor.clone(), listed];
        let index = Index { annotations: annotations.index.clone(), ..Index::new(manifests) };
        let mut index = DocumentBlob::new(media::INDEX, to_canonical_json(&index)?);
        index.descriptor.annotations.clone_from(&annotations.index_descriptor);
        let documents = layers.into_iter().chain([config, manifest]).collect();
        Ok(Self { index, documents })
    }
}

#[cfg(test)]
mod tests {
    use wbuild_oci::Document;

    use super::*;
    use crate::{Assembly, assemble};

    fn image() -> Image {
        let config = wbuild_oci::ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            ..wbuild_oci::ImageConfig::default()
        };
        assemble(Assembly { config, ..Assembly::default() }).unwrap()
    }

    fn attachment() -> Attachment {
        Attachment::statement("https://example.test/predicate", b"{}".to_vec())
    }

    #[test]
    fn a_referrer_names_its_subject_and_its_kind() {
        let image = image();
        let referrer = Referrer::new(&image.manifest.descriptor, &attachment()).unwrap();
        let value: Value = serde_json::from_slice(&referrer.manifest.bytes).unwrap();
        assert_eq!(value["subject"]["digest"], image.manifest.descriptor.digest.to_string());
        assert_eq!(value["subject"].get("platform"), None);
        assert_eq!(value["artifactType"], IN_TOTO);
        assert_eq!(value["config"]["mediaType"], EMPTY_CONFIG);
        assert_eq!(value["layers"][0]["annotations"][ANNOTATION_PREDICATE], "https://example.test/predicate");
        assert!(matches!(Document::parse(&referrer.manifest.bytes), Ok(Document::Manifest(_))));
        let index = referrers_index(&[referrer]).unwrap();
        let value: Value = serde_json::from_slice(&index.bytes).unwrap();
        assert_eq!(value["manifests"][0]["artifactType"], IN_TOTO);
    }

    #[test]
    fn an_attested_index_is_that_of_buildx() {
        let image = image();
        let attested = AttestedIndex::new(&image, &[attachment()], &Annotations::default()).unwrap();
        let value: Value = serde_json::from_slice(&attested.index.bytes).unwrap();
        let entries = value["manifests"].as_array().unwrap();
        assert_eq!(entries[0]["digest"], image.manifest.descriptor.digest.to_string());
        assert_eq!(entries[1]["platform"]["os"], "unknown");
        assert_eq!(entries[1]["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
        assert_eq!(entries[1]["annotations"]["vnd.docker.reference.digest"], entries[0]["digest"]);
    }

    #[test]
    fn only_digests_are_fallback_tags() {
        let tag = fallback_tag(&Digest::of(b"x"));
        assert!(is_fallback_tag(&tag));
        assert!(!is_fallback_tag("sha256-1") && !is_fallback_tag("latest") && !is_fallback_tag(&tag[1..]));
    }
}
