//! Base images: found where `--build-context` says, verified, known by their layers, and unpacked only when a step or a
//! copy needs their files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wbuild_image::{BaseImage, OciLayout, Select, VerifiedReader};
use wbuild_oci::{Descriptor, DiffId, Digest, Platform, Reference};
use wbuild_registry::Repository;

use crate::base_registry::{BaseRegistries, PulledBase};
use crate::error::EngineError;
use crate::remote::Following;

/// Where an image is instead of in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLocation {
    /// The OCI layout.
    pub layout: PathBuf,
    /// Which image in it.
    pub select: Select,
}

/// Why the text of a `--build-context` names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not of the form NAME=oci-layout://DIR[:TAG|@DIGEST]", text.escape_debug())]
pub struct LocationError {
    /// What was given.
    pub text: String,
}

impl ImageLocation {
    /// Reads `oci-layout://DIR[:TAG|@DIGEST]`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let error = || LocationError { text: text.to_owned() };
        let rest = text.strip_prefix("oci-layout://").ok_or_else(error)?;
        if let Some((dir, digest)) = rest.rsplit_once('@') {
            let digest: Digest = digest.parse().map_err(|_| error())?;
            return Ok(Self { layout: dir.into(), select: Select::Digest(digest) });
        }
        // A colon in the last component is a tag; folders with colons are given with a tag or digest behind them.
        match rest.rsplit_once(':') {
            Some((dir, tag)) if !tag.contains('/') && !tag.is_empty() => {
                Ok(Self { layout: dir.into(), select: Select::Tag(tag.to_owned()) })
            }
            _ if rest.is_empty() => Err(error()),
            _ => Ok(Self { layout: rest.into(), select: Select::Only }),
        }
    }
}

/// A base image, and where its blobs are.
#[derive(Debug)]
pub(crate) struct OpenedImage {
    place: ImagePlace,
    /// Its documents.
    pub(crate) image: BaseImage,
}

#[derive(Debug)]
enum ImagePlace {
    /// In a layout.
    Layout(OciLayout),
    /// In a registry; here once somebody needs them.
    Registry(PulledBase),
}

impl OpenedImage {
    /// Where the blob of a layer is, if it is in somebody else's folder.
    pub(crate) fn blob_path(&self, digest: &Digest) -> Option<PathBuf> {
        match &self.place {
            ImagePlace::Layout(layout) => Some(layout.blob_path(digest)),
            ImagePlace::Registry(_) => None,
        }
    }

    /// The repository that it came from.
    pub(crate) fn repository(&self) -> Option<&Repository> {
        match &self.place {
            ImagePlace::Layout(_) => None,
            ImagePlace::Registry(base) => Some(&base.repository),
        }
    }
}

/// A layer of a base image.
#[derive(Clone, Debug)]
pub(crate) struct BaseLayer {
    image: Arc<OpenedImage>,
    /// Its blob.
    pub(crate) descriptor: Descriptor,
}

impl BaseLayer {
    /// Where the blob is, for people.
    pub(crate) fn path(&self) -> PathBuf {
        let digest = self.descriptor.digest;
        match &self.image.place {
            ImagePlace::Layout(layout) => layout.blob_path(&digest),
            ImagePlace::Registry(base) => format!("{}@{digest}", base.repository).into(),
        }
    }
}

/// The base images of a build.
#[derive(Debug, Default)]
pub(crate) struct BaseImages {
    /// By name as written after `FROM`.
    locations: BTreeMap<String, ImageLocation>,
    opened: Mutex<BTreeMap<(String, String), Arc<OpenedImage>>>,
    layers: Mutex<BTreeMap<DiffId, BaseLayer>>,
    /// For all that are not in a layout.
    pub(crate) registries: OnceLock<BaseRegistries>,
}

impl BaseImages {
    pub(crate) fn new(locations: BTreeMap<String, ImageLocation>) -> Self {
        Self { locations, ..Self::default() }
    }

    /// The image that `reference` stands for: config, manifest and layers, all verified except the layers' bytes.
    pub(crate) fn open(&self, reference: &str, platform: &Platform) -> Result<Arc<OpenedImage>, EngineError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let known = (reference.to_owned(), platform.to_string());
        if let Some(image) = opened.get(&known) {
            return Ok(Arc::clone(image));
        }
        let (image, place) = match self.location(reference) {
            Some(location) => {
                let layout = OciLayout::open(&location.layout)?;
                (layout.image(&location.select, platform)?, ImagePlace::Layout(layout))
            }
            None => self.pulled(reference, platform)?,
        };
        let found = image.config.platform();
        if !found.satisfies(platform) {
            let wanted = platform.to_string();
            return Err(EngineError::WrongPlatform {
                reference: reference.to_owned(),
                found: found.to_string(),
                wanted,
            });
        }
        let image = Arc::new(OpenedImage { place, image });
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        for layer in &image.image.layers {
            let base = BaseLayer { image: Arc::clone(&image), descriptor: layer.descriptor.clone() };
            layers.entry(layer.diff_id).or_insert(base);
        }
        opened.insert(known, Arc::clone(&image));
        Ok(image)
    }

    /// An image of a registry.
    fn pulled(&self, reference: &str, platform: &Platform) -> Result<(BaseImage, ImagePlace), EngineError> {
        let missing = |offline| EngineError::NoBaseImage {
            reference: reference.to_owned(),
            given: self.locations.keys().cloned().collect(),
            offline,
        };
        let registries = self.registries.get().ok_or_else(|| missing(false))?;
        let name: Reference = reference.parse().map_err(|_| missing(false))?;
        let (image, base) = registries.open(&name, platform)?.ok_or_else(|| missing(true))?;
        Ok((image, ImagePlace::Registry(base)))
    }

    /// Opens the blob of a layer; it is verified while it is read.
    pub(crate) fn open_blob(&self, layer: &BaseLayer) -> Result<VerifiedReader<File>, EngineError> {
        match (&layer.image.place, self.registries.get()) {
            (ImagePlace::Layout(layout), _) => Ok(layout.open_blob(&layer.descriptor)?),
            (ImagePlace::Registry(base), Some(registries)) => registries.open_blob(base, &layer.descriptor),
            (ImagePlace::Registry(_), None) => Err(EngineError::NoBaseImage {
                reference: layer.path().display().to_string(),
                given: Vec::new(),
                offline: false,
            }),
        }
    }

    /// Makes sure that a layer and those beside it are on this machine.
    pub(crate) fn bring_layer(&self, layer: &BaseLayer) -> Result<(), EngineError> {
        self.bring(&layer.image)
    }

    /// Makes sure that the layers of an image are on this machine.
    pub(crate) fn bring(&self, image: &OpenedImage) -> Result<(), EngineError> {
        match (&image.place, self.registries.get()) {
            (ImagePlace::Registry(base), Some(registries)) => registries.bring(base),
            _ => Ok(()),
        }
    }

    /// From now on this build is listened to.
    pub(crate) fn follow(&self, following: Following) {
        if let Some(registries) = self.registries.get() {
            registries.follow(following);
        }
    }

    /// `node:22` and `docker.io/library/node:22` are one image.
    fn location(&self, reference: &str) -> Option<&ImageLocation> {
        self.locations.get(reference).or_else(|| {
            let wanted: Reference = reference.parse().ok()?;
            let same = |name: &str| name.parse::<Reference>().is_ok_and(|given| given == wanted);
            self.locations.iter().find(|(name, _)| same(name)).map(|(_, location)| location)
        })
    }

    /// A layer that an opened image has.
    pub(crate) fn layer(&self, diff_id: &DiffId) -> Option<BaseLayer> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).get(diff_id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let parse = |text: &str| ImageLocation::parse(text).unwrap();
        assert_eq!(parse("oci-layout:///b/node:22").select, Select::Tag("22".into()));
        assert_eq!(parse("oci-layout:///b/node:22").layout, PathBuf::from("/b/node"));
        assert_eq!(parse("oci-layout://b/node").select, Select::Only);
        let digest = Digest::of(b"x");
        assert_eq!(parse(&format!("oci-layout://b@{digest}")).select, Select::Digest(digest));
        for text in ["/b/node", "oci-layout://", "docker-image://x", "oci-layout://b@sha256:12"] {
            assert!(ImageLocation::parse(text).is_err(), "{text}");
        }
    }
}
