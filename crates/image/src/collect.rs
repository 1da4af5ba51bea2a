use std::collections::BTreeSet;

use wbuild_oci::{Descriptor, Digest, Document, MAX_DOCUMENT_BYTES, Manifest, media};

use crate::assemble::DocumentBlob;
use crate::attach::is_attestation;
use crate::find::{Documents, ImageError, MAX_INDEX_DEPTH, read_document};

/// No image has more manifests, over all of its indexes.
const MAX_MANIFESTS: usize = 4096;

/// An image with everything that belongs to it: of one platform, or of all that an index names.
#[derive(Clone, Debug)]
pub struct ImageParts {
    /// The manifest or index.
    pub root: DocumentBlob,
    /// Manifests and indexes below the root; those that are named by others come first.
    pub manifests: Vec<DocumentBlob>,
    /// Configs that are no larger than a document may be.
    pub configs: Vec<DocumentBlob>,
    /// Everything else, each once: layers, and what artifacts have instead.
    pub layers: Vec<Descriptor>,
    /// Config and layers of each manifest that is an image.
    pub(crate) images: Vec<(Digest, Vec<Digest>)>,
}

impl ImageParts {
    /// The bytes of all documents and layers together.
    pub fn size(&self) -> u64 {
        let documents = self.manifests.iter().chain(&self.configs).chain([&self.root]);
        documents.map(|document| document.descriptor.size).sum::<u64>()
            + self.layers.iter().map(|layer| layer.size).sum::<u64>()
    }
}

/// Reads all documents of an image: what `root` names, and everything below it.
///
/// # Errors
/// When a document cannot be had, is too large or malformed, another one than its descriptor says, or when there are too many.
pub fn collect_image<D: Documents>(root: &Descriptor, documents: &D) -> Result<ImageParts, D::Error> {
    let bytes = documents.read(root)?;
    let mut root = root.clone();
    let document = read_document(&root, documents)?;
    if root.media_type.is_empty() {
        // What it is, it says itself.
        let (own, usual) = match &document {
            Document::Index(index) => (&index.media_type, media::INDEX),
            Document::Manifest(manifest) => (&manifest.media_type, media::MANIFEST),
        };
        root.media_type = own.clone().filter(|own| !own.is_empty()).unwrap_or_else(|| usual.to_owned());
    }
    // What an index of a layout says of it is not the image's.
    let named = Descriptor::new(&root.media_type, root.digest, root.size);
    let mut collecting = Collecting {
        documents,
        seen: BTreeSet::new(),
        parts: ImageParts {
            root: DocumentBlob { descriptor: named, bytes },
            manifests: Vec::new(),
            configs: Vec::new(),
            layers: Vec::new(),
            images: Vec::new(),
        },
    };
    collecting.below(&root.digest, document, Kind::Image, 0)?;
    Ok(collecting.parts)
}

/// What an index lists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image,
    /// Stands beside images, for the platform `unknown/unknown`, and looks like one.
    Attestation,
}

impl Kind {
    fn of(entry: &Descriptor) -> Self {
        if is_attestation(entry) { Self::Attestation } else { Self::Image }
    }
}

struct Collecting<'a, D> {
    documents: &'a D,
    seen: BTreeSet<Digest>,
    parts: ImageParts,
}

impl<D: Documents> Collecting<'_, D> {
    fn below(
        &mut self,
        digest: &Digest,
        document: Document,
        kind: Kind,
        depth: usize,
    ) -> Result<(), D::Error> {
        if depth > MAX_INDEX_DEPTH {
            return Err(ImageError::TooDeep { digest: *digest }.into());
        }
        match document {
            Document::Manifest(manifest) => self.manifest(&manifest, kind),
            Document::Index(index) => {
                for entry in &index.manifests {
                    if !self.seen.insert(entry.digest) {
                        continue;
                    }
                    if self.seen.len() > MAX_MANIFESTS {
                        return Err(ImageError::TooMany { digest: *digest, count: self.seen.len() }.into());
                    }
                    let document = read_document(entry, self.documents)?;
                    self.below(&entry.digest, document, Kind::of(entry), depth + 1)?;
                    let bytes = self.documents.read(entry)?;
                    self.parts.manifests.push(DocumentBlob { descriptor: entry.clone(), bytes });
                }
                Ok(())
            }
        }
    }

    fn manifest(&mut self, manifest: &Manifest, kind: Kind) -> Result<(), D::Error> {
        let config = &manifest.config;
        if kind == Kind::Image && [media::CONFIG, media::DOCKER_CONFIG].contains(&config.media_type.as_str())
        {
            let layers = manifest.layers.iter().map(|layer| layer.digest).collect();
            self.parts.images.push((config.digest, layers));
        }
        if self.seen.insert(config.digest) {
            if config.size > MAX_DOCUMENT_BYTES {
                self.parts.layers.push(config.clone());
            } else {
                let bytes = self.documents.read(config)?;
                self.parts.configs.push(DocumentBlob { descriptor: config.clone(), bytes });
            }
        }
        for layer in &manifest.layers {
            if self.seen.insert(layer.digest) {
                self.parts.layers.push(layer.clone());
            }
        }
        Ok(())
    }
}
