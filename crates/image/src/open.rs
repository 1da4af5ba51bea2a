use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use wbuild_oci::{Descriptor, Digest, Document, Index, MAX_DOCUMENT_BYTES, Platform, Reference, media};
use wbuild_report::{Hint, nearest};

use crate::attach::is_fallback_tag;
use crate::export::{ANNOTATION_NAME, ANNOTATION_REFERRERS, ANNOTATION_TAG, INDEX_FILE, LAYOUT_FILE};
use crate::find::{BaseImage, Documents, ImageError, find_image};
use crate::verified::VerifiedReader;

/// Which image of a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// The one with this tag (`org.opencontainers.image.ref.name`), or with this full name.
    Tag(String),
    /// The one with this digest of a manifest or index, whether `index.json` names it or not.
    Digest(Digest),
    /// The only one there is.
    Only,
}

/// Why an image could not be read from a layout.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// No layout at all.
    #[error("`{}` is no OCI layout: {why}", file.display())]
    NoLayout {
        /// The file that is missing or wrong.
        file: PathBuf,
        /// In which way.
        why: String,
    },
    /// A file of the layout cannot be read, or is not what its name says.
    #[error("cannot read `{}`", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its documents.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// No such tag.
    #[error("`{}` has no image with the tag `{}`", folder.display(), tag.escape_debug())]
    NoTag {
        /// The layout.
        folder: PathBuf,
        /// What was asked for.
        tag: String,
        /// What there is.
        tags: Vec<String>,
    },
    /// Several images could be meant.
    #[error("`{}` has {count} images that could be meant", folder.display())]
    Ambiguous {
        /// The layout.
        folder: PathBuf,
        /// How many.
        count: usize,
        /// Their tags.
        tags: Vec<String>,
    },
    /// Nothing in it.
    #[error("`{}` has no image", folder.display())]
    Empty {
        /// The layout.
        folder: PathBuf,
    },
}

impl Hint for LayoutError {
    fn hints(&self) -> Vec<String> {
        let quoted = |tags: &[&str]| tags.iter().map(|tag| format!("`{tag}`")).collect::<Vec<_>>().join(", ");
        match self {
            Self::NoTag { tag, tags, .. } => {
                let near = nearest(tag, tags.iter().map(String::as_str));
                let all: Vec<&str> = tags.iter().map(String::as_str).take(10).collect();
                match (near.is_empty(), all.is_empty()) {
                    (false, _) => vec![format!("did you mean {}?", quoted(&near))],
                    (true, false) => vec![format!("there is {}", quoted(&all))],
                    (true, true) => vec!["none of its images has a tag; leave the tag away".to_owned()],
                }
            }
            Self::Ambiguous { tags, .. } if !tags.is_empty() => {
                let all: Vec<&str> = tags.iter().map(String::as_str).take(10).collect();
                vec![format!("name one by its tag: {}", quoted(&all))]
            }
            Self::Ambiguous { .. } => vec!["name one by its digest".to_owned()],
            _ => Vec::new(),
        }
    }
}

/// An OCI image layout, read-only.
#[derive(Clone, Debug)]
pub struct OciLayout {
    folder: PathBuf,
    index: Index,
}

impl OciLayout {
    /// Reads the index of the layout in `folder`.
    ///
    /// # Errors
    /// When it is no layout, or its index is unusable.
    pub fn open(folder: &Path) -> Result<Self, LayoutError> {
        check_version(&folder.join(LAYOUT_FILE))?;
        let file = folder.join(INDEX_FILE);
        let bytes = read_small(&file, MAX_DOCUMENT_BYTES)?;
        match Document::parse(&bytes) {
            Ok(Document::Index(index)) => Ok(Self { folder: folder.to_owned(), index }),
            Ok(Document::Manifest(_)) => {
                Err(LayoutError::NoLayout { file, why: "it is a manifest".to_owned() })
            }
            Err(source) => Err(ImageError::Document { place: file.display().to_string(), source }.into()),
        }
    }

    /// The tags of the images, or their full names where they have no tag.
    pub fn tags(&self) -> Vec<String> {
        let name = |entry: &Descriptor| {
            entry.annotations.get(ANNOTATION_TAG).or_else(|| entry.annotations.get(ANNOTATION_NAME)).cloned()
        };
        let mut tags: Vec<String> = self.images().filter_map(name).collect();
        tags.sort();
        tags.dedup();
        tags
    }

    /// What an image is called here, by the digest of its manifest or index, as far as it was selected under these names; a tag
    /// without a name is one of `localhost/image`.
    pub fn names(&self, digest: &Digest, select: &Select) -> Vec<Reference> {
        let named = |entry: &Descriptor| {
            let annotation = |key| entry.annotations.get(key).map(String::as_str);
            let tag = annotation(ANNOTATION_TAG);
            let full = annotation(ANNOTATION_NAME).or(tag.filter(|tag| tag.contains(['/', ':'])));
            let alone = || tag.and_then(|tag| format!("localhost/image:{tag}").parse().ok());
            full.and_then(|name| name.parse::<Reference>().ok()).or_else(alone)
        };
        let meant = |entry: &&Descriptor| match select {
            Select::Tag(tag) => is_named(entry, tag),
            Select::Digest(_) | Select::Only => true,
        };
        self.images().filter(|entry| entry.digest == *digest).filter(meant).filter_map(named).collect()
    }

    /// Reads manifest and config of an image; where there is one for each platform, that for `platform`. An image that
    /// stands alone is taken as it is: whether its config says another platform is for the caller to judge.
    ///
    /// # Errors
    /// When there is no such image, it could be understood in two ways, or any of its documents is missing, damaged or
    /// unusable.
    pub fn image(&self, select: &Select, platform: &Platform) -> Result<BaseImage, LayoutError> {
        let entry = self.select(select, platform)?;
        find_image(entry, platform, self)
    }

    /// What a selection names, whatever it is: a manifest, or an index of several.
    ///
    /// # Errors
    /// When there is no such image, or it could be understood in two ways.
    pub fn find(&self, select: &Select, platform: &Platform) -> Result<Descriptor, LayoutError> {
        self.select(select, platform)
    }

    /// Opens a blob of an image; it is verified while it is read.
    ///
    /// # Errors
    /// When it is not there, or not even a file.
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<VerifiedReader<File>, LayoutError> {
        let file = open_regular(&self.blob_path(&descriptor.digest))?;
        Ok(VerifiedReader::new(file, descriptor.digest, descriptor.size))
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a blob is; it may be missing or damaged.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join("sha256").join(digest.hex())
    }

    /// The entries that are images: not the lists of what refers to one.
    fn images(&self) -> impl Iterator<Item = &Descriptor> {
        let is_list = |entry: &&Descriptor| {
            entry.annotations.get(ANNOTATION_TAG).is_some_and(|tag| is_fallback_tag(tag))
        };
        self.index.manifests.iter().filter(move |entry| !is_list(entry))
    }

    /// What refers to images of this layout, as far as [`write_layout`](crate::write_layout) wrote it: descriptors of
    /// manifests, each with a `subject`.
    ///
    /// # Errors
    /// When the list is there and missing, damaged or unusable.
    pub fn referrers(&self) -> Result<Vec<Descriptor>, LayoutError> {
        let Some(digest) = self.index.annotations.get(ANNOTATION_REFERRERS) else { return Ok(Vec::new()) };
        let Ok(digest) = digest.parse::<Digest>() else { return Ok(Vec::new()) };
        let file = self.blob_path(&digest);
        let size = std::fs::metadata(&file)
            .map_err(|source| LayoutError::Read { file: file.clone(), source })?
            .len();
        let descriptor = Descriptor::new(media::INDEX, digest, size);
        match Document::parse(&self.read(&descriptor)?) {
            Ok(Document::Index(index)) => Ok(index.manifests),
            Ok(Document::Manifest(_)) => {
                let (stated, actual) = (descriptor.media_type, "a manifest");
                Err(ImageError::MediaType { digest, stated, actual }.into())
            }
            Err(source) => Err(ImageError::Document { place: self.place(&digest), source }.into()),
        }
    }

    fn select(&self, select: &Select, platform: &Platform) -> Result<Descriptor, LayoutError> {
        let mut found: Vec<&Descriptor> = match select {
            Select::Digest(digest) => {
                if let Some(entry) = self.index.manifests.iter().find(|entry| entry.digest == *digest) {
                    return Ok(entry.clone());
                }
                let file = self.blob_path(digest);
                let size =
                    std::fs::metadata(&file).map_err(|source| LayoutError::Read { file, source })?.len();
                // What it is, it says itself.
                return Ok(Descriptor::new("", *digest, size));
            }
            Select::Tag(tag) => self.index.manifests.iter().filter(|entry| is_named(entry, tag)).collect(),
            Select::Only => self.images().collect(),
        };
        let fits =
            |entry: &&Descriptor| entry.platform.as_ref().is_none_or(|found| found.satisfies(platform));
        if found.len() > 1 && found.iter().any(fits) {
            found.retain(fits);
        }
        found.sort_by_key(|entry| entry.digest);
        found.dedup_by_key(|entry| entry.digest);
        let folder = self.folder.clone();
        match (&found[..], select) {
            ([entry], _) => Ok((*entry).clone()),
            ([], Select::Tag(tag)) => Err(LayoutError::NoTag { folder, tag: tag.clone(), tags: self.tags() }),
            ([], _) => Err(LayoutError::Empty { folder }),
            (several, _) => Err(LayoutError::Ambiguous { folder, count: several.len(), tags: self.tags() }),
        }
    }
}

impl Documents for OciLayout {
    type Error = LayoutError;

    fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        let file = self.blob_path(&descriptor.digest);
        self.open_blob(descriptor)?.into_bytes().map_err(|source| LayoutError::Read { file, source })
    }

    fn place(&self, digest: &Digest) -> String {
        self.blob_path(digest).display().to_string()
    }
}

fn is_named(entry: &Descriptor, name: &str) -> bool {
    let is = |key| entry.annotations.get(key).is_some_and(|found| found == name);
    is(ANNOTATION_TAG) || is(ANNOTATION_NAME)
}

/// Checks that a file is the mark of a layout of a known version.
pub(crate) fn check_version(file: &Path) -> Result<(), LayoutError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        image_layout_version: String,
    }
    let no_layout = |why: String| LayoutError::NoLayout { file: file.to_owned(), why };
    let bytes = match read_small(file, 4096) {
        Err(LayoutError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(no_layout("there is no such file".to_owned()));
        }
        other => other?,
    };
    let version: Version = serde_json::from_slice(&bytes).map_err(|error| no_layout(error.to_string()))?;
    match version.image_layout_version.as_str() {
        "1.0.0" => Ok(()),
        other => {
            Err(no_layout(format!("it has the version `{}`; only 1.0.0 is supported", other.escape_debug())))
        }
    }
}

/// Opens a file of the layout, and nothing that only looks like one: opening a pipe would wait for ever.
fn open_regular(path: &Path) -> Result<File, LayoutError> {
    let failed = |source| LayoutError::Read { file: path.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?);
    match file.metadata().map_err(failed)?.is_file() {
        true => Ok(file),
        false => Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))),
    }
}

fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, LayoutError> {
    let failed = |source| LayoutError::Read { file: path.to_owned(), source };
    let mut bytes = Vec::new();
    open_regular(path)?.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > limit {
        true => Err(failed(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {limit} bytes"),
        ))),
        false => Ok(bytes),
    }
}
