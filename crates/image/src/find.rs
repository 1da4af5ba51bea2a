use wbuild_oci::{
    Descriptor, Digest, Document, DocumentError, ImageConfig, Index, MAX_DOCUMENT_BYTES, Manifest, Platform,
    media,
};
use wbuild_report::Hint;

use crate::assemble::LayerRef;
use crate::attach::is_attestation;

/// Indexes can name indexes; deeper than this is a trap.
pub(crate) const MAX_INDEX_DEPTH: usize = 8;

/// No index lists more: some images have hundreds of platforms and attestations, none has thousands.
const MAX_INDEX_ENTRIES: usize = 4096;

/// An image that can be built upon.
#[derive(Clone, Debug)]
pub struct BaseImage {
    /// Names the manifest.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<LayerRef>,
}

/// Why documents are not those of an image that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A manifest or index that is none.
    #[error("`{place}` is not usable")]
    Document {
        /// Where it is.
        place: String,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// A descriptor says something else about a document than the document itself (CVE-2021-41190).
    #[error("{digest} is referred to as `{}`, but is {actual}", stated.escape_debug())]
    MediaType {
        /// Which.
        digest: Digest,
        /// The descriptor's media type.
        stated: String,
        /// What it is.
        actual: &'static str,
    },
    /// A config that is none.
    #[error("the image config {digest} is not usable")]
    Config {
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Something else than an image: a chart, a signature.
    #[error("{digest} is no image: its config is `{}`", media_type.escape_debug())]
    NoImage {
        /// The manifest.
        digest: Digest,
        /// Its config's media type.
        media_type: String,
    },
    /// Manifest and config disagree.
    #[error("the image {digest} has {layers} layers, but its config lists {diff_ids}")]
    Layers {
        /// The manifest.
        digest: Digest,
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// Not for this platform.
    #[error("the image {digest} has no manifest for {wanted}; it has {}", list(available))]
    Platform {
        /// The index.
        digest: Digest,
        /// What was asked for.
        wanted: Box<Platform>,
        /// What there is.
        available: Vec<Platform>,
    },
    /// Indexes in indexes in indexes.
    #[error("the index {digest} lies in more than {MAX_INDEX_DEPTH} others")]
    TooDeep {
        /// Which.
        digest: Digest,
    },
    /// An index of everything.
    #[error("the index {digest} has {count} entries; more than {MAX_INDEX_ENTRIES} are refused")]
    TooMany {
        /// Which.
        digest: Digest,
        /// How many.
        count: usize,
    },
}

fn list(platforms: &[Platform]) -> String {
    match platforms.is_empty() {
        true => "none".to_owned(),
        false => platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

impl Hint for ImageError {}

/// Where the documents of an image come from.
pub trait Documents {
    /// Why one cannot be had.
    type Error: From<ImageError>;

    /// Reads a document. Its digest and size are compared before it is given.
    ///
    /// # Errors
    /// When it cannot be had, or is another one.
    fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Self::Error>;

    /// What to call the place of a document in messages: a file, a URL.
    fn place(&self, digest: &Digest) -> String;
}

/// Reads manifest and config of the image that `descriptor` names, or for `platform` if it names an index. A descriptor
/// without a media type is of whatever type its document says.
///
/// # Errors
/// When a document cannot be had, is too large, malformed, or another one than its descriptor says, or when there is
/// nothing for the platform.
pub fn find_image<D: Documents>(
    mut descriptor: Descriptor,
    platform: &Platform,
    documents: &D,
) -> Result<BaseImage, D::Error> {
    for _ in 0..=MAX_INDEX_DEPTH {
        match read_document(&descriptor, documents)? {
            Document::Index(index) => descriptor = choose(&descriptor.digest, index, platform)?,
            Document::Manifest(manifest) => return load(descriptor, manifest, documents),
        }
    }
    Err(ImageError::TooDeep { digest: descriptor.digest }.into())
}

/// Reads a manifest or index, and compares it with what its descriptor says that it is.
///
/// # Errors
/// When it cannot be had, is too large or malformed, or something else.
pub fn read_document<D: Documents>(descriptor: &Descriptor, documents: &D) -> Result<Document, D::Error> {
    let bytes = read_bounded(descriptor, documents)?;
    let digest = descriptor.digest;
    let document = Document::parse(&bytes)
        .map_err(|source| ImageError::Document { place: documents.place(&digest), source })?;
    let (kinds, actual) = match &document {
        Document::Index(_) => ([media::INDEX, media::DOCKER_INDEX], "an index"),
        Document::Manifest(_) => ([media::MANIFEST, media::DOCKER_MANIFEST], "a manifest"),
    };
    let stated = descriptor.media_type.as_str();
    if !stated.is_empty() && !kinds.contains(&stated) {
        return Err(ImageError::MediaType { digest, stated: stated.to_owned(), actual }.into());
    }
    match &document {
        Document::Index(Index { manifests, .. }) if manifests.len() > MAX_INDEX_ENTRIES => {
            Err(ImageError::TooMany { digest, count: manifests.len() }.into())
        }
        _ => Ok(document),
    }
}

fn read_bounded<D: Documents>(descriptor: &Descriptor, documents: &D) -> Result<Vec<u8>, D::Error> {
    if descriptor.size > MAX_DOCUMENT_BYTES {
        let source = DocumentError::TooLarge { size: descriptor.size };
        return Err(ImageError::Document { place: documents.place(&descriptor.digest), source }.into());
    }
    documents.read(descriptor)
}

fn load<D: Documents>(
    descriptor: Descriptor,
    manifest: Manifest,
    documents: &D,
) -> Result<BaseImage, D::Error> {
    let digest = descriptor.digest;
    let media_type = manifest.config.media_type.clone();
    if ![media::CONFIG, media::DOCKER_CONFIG].contains(&media_type.as_str()) {
        return Err(ImageError::NoImage { digest, media_type }.into());
    }
    let bytes = read_bounded(&manifest.config, documents)?;
    let config: ImageConfig = serde_json::from_slice(&bytes)
        .map_err(|source| ImageError::Config { digest: manifest.config.digest, source })?;
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        let (layers, diff_ids) = (manifest.layers.len(), diff_ids.len());
        return Err(ImageError::Layers { digest, layers, diff_ids }.into());
    }
    let layers = manifest
        .layers
        .iter()
        .zip(diff_ids)
        .map(|(descriptor, diff_id)| LayerRef { descriptor: descriptor.clone(), diff_id: *diff_id })
        .collect();
    Ok(BaseImage { descriptor, manifest, config, layers })
}

/// The manifest for a platform: the first that fits, as containerd does; else one for a lower level of the processor.
fn choose(digest: &Digest, index: Index, wanted: &Platform) -> Result<Descriptor, ImageError> {
    let mut entries: Vec<Descriptor> =
        index.manifests.into_iter().filter(|entry| !is_attestation(entry)).collect();
    for level in wanted.with_lower_levels() {
        let fits =
            |entry: &Descriptor| entry.platform.as_ref().is_some_and(|platform| platform.satisfies(&level));
        if let Some(at) = entries.iter().position(fits) {
            return Ok(entries.swap_remove(at));
        }
    }
    match &entries[..] {
        // An index around one image that does not say what it is for.
        [only] if only.platform.is_none() => Ok(only.clone()),
        _ => {
            let available = entries.into_iter().filter_map(|entry| entry.platform).collect();
            Err(ImageError::Platform { digest: *digest, wanted: Box::new(wanted.clone()), available })
        }
    }
}
