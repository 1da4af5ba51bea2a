use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use wbuild_oci::{Descriptor, Digest, Index, Reference, to_canonical_json};
use wbuild_report::Hint;

use crate::assemble::{Annotations, AssembleError, DocumentBlob, Image};
use crate::attach::{Attachment, AttestedIndex, Referrer, fallback_tag, referrers_index};
use crate::collect::{ImageParts, collect_image};
use crate::find::{Documents, ImageError};

/// The file every layout begins with (OCI image-spec, image-layout.md).
pub(crate) const LAYOUT_FILE: &str = "oci-layout";

/// Its only content.
pub(crate) const LAYOUT_VERSION: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The file that says what is in a layout.
pub(crate) const INDEX_FILE: &str = "index.json";

/// The tag of an entry of an index.
pub(crate) const ANNOTATION_TAG: &str = "org.opencontainers.image.ref.name";

/// The full name of an entry; containerd's and Docker's.
pub(crate) const ANNOTATION_NAME: &str = "io.containerd.image.name";

/// On `index.json`: the index of the referrers in the layout, whether or not it is an entry.
pub(crate) const ANNOTATION_REFERRERS: &str = "dev.wbuild.referrers";

/// Where the blobs of layers are.
pub trait BlobFiles {
    /// The file that holds a blob. It is never written to again, and has mode 0444, else it is copied where a link
    /// would do.
    ///
    /// # Errors
    /// When there is none.
    fn blob(&self, digest: &Digest) -> io::Result<PathBuf>;

    /// The modification time that says of a file that it was verified to be this blob, and that nobody has written to
    /// it since. Copies get it. Without one, every copy is hashed again by the next export.
    fn seal(&self, _digest: &Digest, _size: u64) -> Option<SystemTime> {
        None
    }
}

/// What a layout or archive is to hold.
#[derive(Clone, Debug)]
pub struct Export {
    /// What the names stand for: a manifest, or an index of several.
    pub root: Descriptor,
    /// Every config, manifest and index, by digest.
    pub(crate) documents: BTreeMap<Digest, Vec<u8>>,
    /// Every layer, by digest.
    pub(crate) layers: BTreeMap<Digest, Descriptor>,
    /// For `docker load`: config and layers of each image.
    pub(crate) images: Vec<(Digest, Vec<Digest>)>,
    /// Its names; each is an entry of the index. Without any there is one nameless entry.
    pub names: Vec<Reference>,
    /// Artifacts whose subject is the image, and the list of them.
    referrers: Option<(Vec<Referrer>, DocumentBlob)>,
}

/// Whether the list of referrers is an entry of `index.json`, under its fallback tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// It is, if the image has a name: readers that know referrers find them (oras, regclient).
    WithNames,
    /// It is not: `podman load` and `skopeo` take an archive without a name only when it has a single entry.
    Never,
}

impl Export {
    /// One image.
    pub fn image(image: &Image, names: Vec<Reference>) -> Self {
        Self::new(image.manifest.descriptor.clone(), std::slice::from_ref(image), names)
    }

    /// Images of several platforms, and the index over them.
    pub fn index(index: &DocumentBlob, images: &[Image], names: Vec<Reference>) -> Self {
        let mut export = Self::new(index.descriptor.clone(), images, names);
        export.documents.insert(index.descriptor.digest, index.bytes.clone());
        export
    }

    /// One image in an index with its attestations, as `docker buildx` writes them.
    ///
    /// # Errors
    /// Only when JSON cannot be written.
    pub fn attested(
        image: &Image,
        attachments: &[Attachment],
        annotations: &Annotations,
        names: Vec<Reference>,
    ) -> Result<Self, AssembleError> {
        let attested = AttestedIndex::new(image, attachments, annotations)?;
        let mut export = Self::index(&attested.index, std::slice::from_ref(image), names);
        export.keep(&attested.documents);
        Ok(export)
    }

    /// The same with artifacts whose subject is its [`root`](Self::root). They are blobs of a layout, beside the image.
    ///
    /// # Errors
    /// Only when JSON cannot be written.
    pub fn with_referrers(mut self, attachments: &[Attachment]) -> Result<Self, AssembleError> {
        if attachments.is_empty() {
            return Ok(self);
        }
        let of = |attachment| Referrer::new(&self.root, attachment);
        let referrers = attachments.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        let index = referrers_index(&referrers)?;
        referrers.iter().for_each(|referrer| self.keep(referrer.documents()));
        self.keep([&index]);
        self.referrers = Some((referrers, index));
        Ok(self)
    }

    /// The same with artifacts that were found where the image was: each as it is listed there, and what it consists of.
    ///
    /// # Errors
    /// Only when JSON cannot be written.
    pub fn with_found_referrers(mut self, found: &[(Descriptor, ImageParts)]) -> Result<Self, AssembleError> {
        if found.is_empty() {
            return Ok(self);
        }
        let of = |(listed, parts): &(Descriptor, ImageParts)| Referrer {
            manifest: DocumentBlob { descriptor: listed.clone(), bytes: parts.root.bytes.clone() },
            blobs: parts.configs.clone(),
        };
        let referrers: Vec<Referrer> = found.iter().map(of).collect();
        let index = referrers_index(&referrers)?;
        referrers.iter().for_each(|referrer| self.keep(referrer.documents()));
        self.keep([&index]);
        let layers = found.iter().flat_map(|(_, parts)| &parts.layers);
        self.layers.extend(layers.map(|layer| (layer.digest, layer.clone())));
        self.referrers = Some((referrers, index));
        Ok(self)
    }

    /// The artifacts whose subject is the root: what is pushed after it, and the documents of each before its manifest.
    pub fn referrers(&self) -> &[Referrer] {
        self.referrers.as_ref().map_or(&[], |(referrers, _)| referrers)
    }

    /// The list of them, for registries that keep none themselves; its tag is [`fallback_tag`] of the root.
    pub fn referrers_index(&self) -> Option<&DocumentBlob> {
        self.referrers.as_ref().map(|(_, index)| index)
    }

    fn keep<'a>(&mut self, documents: impl IntoIterator<Item = &'a DocumentBlob>) {
        let bytes = |document: &DocumentBlob| (document.descriptor.digest, document.bytes.clone());
        self.documents.extend(documents.into_iter().map(bytes));
    }

    /// An image that was read from somewhere, as it is.
    pub fn parts(parts: &ImageParts, names: Vec<Reference>) -> Self {
        let documents = parts.manifests.iter().chain(&parts.configs).chain([&parts.root]);
        Self {
            root: parts.root.descriptor.clone(),
            documents: documents.map(|found| (found.descriptor.digest, found.bytes.clone())).collect(),
            layers: parts.layers.iter().map(|layer| (layer.digest, layer.clone())).collect(),
            images: parts.images.clone(),
            names,
            referrers: None,
        }
    }

    fn new(root: Descriptor, images: &[Image], names: Vec<Reference>) -> Self {
        let mut documents = BTreeMap::new();
        let mut layers = BTreeMap::new();
        for image in images {
            for document in [&image.config, &image.manifest] {
                documents.insert(document.descriptor.digest, document.bytes.clone());
            }
            layers.extend(image.layers.iter().map(|layer| (layer.digest, layer.clone())));
        }
        let images = images
            .iter()
            .map(|image| {
                let layers = image.layers.iter().map(|layer| layer.digest).collect();
                (image.config.descriptor.digest, layers)
            })
            .collect();
        Self { root, documents, layers, images, names, referrers: None }
    }

    /// Everything that belongs to it, as a registry takes it: without the artifacts that refer to it.
    ///
    /// # Errors
    /// Only when its documents contradict each other.
    pub fn pushed(&self) -> Result<ImageParts, ImageError> {
        collect_image(&self.root, self)
    }

    /// A document that it holds itself.
    pub fn document(&self, digest: &Digest) -> Option<&[u8]> {
        self.documents.get(digest).map(Vec::as_slice)
    }

    /// Bytes of all its layers' blobs.
    pub fn layer_bytes(&self) -> u64 {
        self.layers.values().map(|layer| layer.size).sum()
    }

    /// Leaves blobs of layers out of an archive: whoever reads it has them.
    pub fn leave_out(&mut self, blobs: &BTreeSet<Digest>) {
        self.layers.retain(|digest, _| !blobs.contains(digest));
    }

    /// Its entries of `index.json`.
    pub(crate) fn entries(&self, listed: Listed) -> Vec<Descriptor> {
        let named = |name: &Reference| {
            let mut entry = self.root.clone();
            entry.annotations.insert(ANNOTATION_NAME.to_owned(), name.to_string());
            if let Some(tag) = &name.tag {
                entry.annotations.insert(ANNOTATION_TAG.to_owned(), tag.clone());
            }
            entry
        };
        let mut manifests: Vec<Descriptor> = self.names.iter().map(named).collect();
        if manifests.is_empty() {
            manifests.push(self.root.clone());
        }
        if let Some(referrers) = self.referrers_index().filter(|_| !self.names.is_empty())
            && listed == Listed::WithNames
        {
            let mut entry = referrers.descriptor.clone();
            entry.annotations.insert(ANNOTATION_TAG.to_owned(), fallback_tag(&self.root.digest));
            manifests.push(entry);
        }
        manifests
    }

    /// The bytes of an `index.json` that names nothing else.
    pub(crate) fn index_json(&self, listed: Listed) -> Result<Vec<u8>, ExportError> {
        let mut annotations = BTreeMap::new();
        if let Some(referrers) = self.referrers_index() {
            annotations.insert(ANNOTATION_REFERRERS.to_owned(), referrers.descriptor.digest.to_string());
        }
        let index = Index { annotations, ..Index::new(self.entries(listed)) };
        to_canonical_json(&index).map_err(ExportError::Json)
    }
}

impl Documents for Export {
    type Error = ImageError;

    fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let missing = || {
            let place = self.place(&descriptor.digest);
            ImageError::Document { place, source: wbuild_oci::DocumentError::Unknown }
        };
        self.documents.get(&descriptor.digest).cloned().ok_or_else(missing)
    }

    fn place(&self, digest: &Digest) -> String {
        digest.to_string()
    }
}

/// Why an image could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Something else is there already.
    #[error("`{}` is not empty and is no OCI layout: {why}", folder.display())]
    Occupied {
        /// Where the layout should go.
        folder: PathBuf,
        /// How that is known.
        why: String,
    },
    /// A blob of the image is not where it should be.
    #[error("cannot read the layer blob {digest}")]
    Blob {
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The output could not be written.
    #[error("cannot {what} `{}`", path.display())]
    Write {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive could not be written.
    #[error("cannot write the archive")]
    Archive(#[source] io::Error),
    /// `docker load` takes one platform only.
    #[error("a docker archive holds one platform, but the image has {platforms}")]
    SeveralPlatforms {
        /// How many.
        platforms: usize,
    },
    /// A document could not be written as JSON.
    #[error("cannot write a document as JSON")]
    Json(#[source] serde_json::Error),
}

impl Hint for ExportError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Occupied { .. } => vec!["choose another folder, or remove what is in it".to_owned()],
            Self::SeveralPlatforms { .. } => vec!["use `type=oci`, or build one platform".to_owned()],
            _ => Vec::new(),
        }
    }
}
