//! Base images: found where `--build-context` says or in a registry, verified, known by their layers, and unpacked only
//! when a step or a copy needs their files.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wbuild_image::{BaseImage, OciLayout, Select};
use wbuild_oci::{Descriptor, DiffId, Digest, Platform, Reference};
use wbuild_registry::Repository;

use crate::arrival::{Arrival, Expecting};
use crate::base_registry::BaseRegistries;
use crate::error::EngineError;
use crate::pulled_base::PulledBase;

/// Where an image is that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageLocation {
    /// In an OCI layout.
    Layout {
        /// Its folder.
        layout: PathBuf,
        /// Which image in it.
        select: Select,
    },
    /// In a registry, under another name.
    Registry(String),
}

/// Why the text of a `--build-context` names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not of the form NAME=oci-layout://DIR[:TAG|@DIGEST] or NAME=docker-image://REF", text.escape_debug())]
pub struct LocationError {
    /// What was given.
    pub text: String,
}

impl ImageLocation {
    /// Reads `oci-layout://DIR[:TAG|@DIGEST]` or `docker-image://REF`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let error = || LocationError { text: text.to_owned() };
        if let Some(name) = text.strip_prefix("docker-image://") {
            let _: Reference = name.parse().map_err(|_| error())?;
            return Ok(Self::Registry(name.to_owned()));
        }
        let rest = text.strip_prefix("oci-layout://").ok_or_else(error)?;
        if let Some((dir, digest)) = rest.rsplit_once('@') {
            let digest: Digest = digest.parse().map_err(|_| error())?;
            return Ok(Self::Layout { layout: dir.into(), select: Select::Digest(digest) });
        }
        // A colon in the last component is a tag; folders with colons are given with a tag or digest behind them.
        match rest.rsplit_once(':') {
            Some((dir, tag)) if !tag.contains('/') && !tag.is_empty() => {
                Ok(Self::Layout { layout: dir.into(), select: Select::Tag(tag.to_owned()) })
            }
            _ if rest.is_empty() => Err(error()),
            _ => Ok(Self::Layout { layout: rest.into(), select: Select::Only }),
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

    /// Whether a blob is one of its layers.
    pub(crate) fn has_layer(&self, digest: &Digest) -> bool {
        self.image.layers.iter().any(|layer| layer.descriptor.digest == *digest)
    }

    /// The repository that it came from.
    pub(crate) fn repository(&self) -> Option<&Repository> {
        match &self.place {
            ImagePlace::Layout(_) => None,
            ImagePlace::Registry(base) => Some(&base.repository),
        }
    }

    /// Brings all its layers to this machine, as far as they are not there.
    pub(crate) fn bring(&self) -> Result<(), EngineError> {
        let ImagePlace::Registry(base) = &self.place else { return Ok(()) };
        let layers: Vec<Descriptor> =
            self.image.layers.iter().map(|layer| layer.descriptor.clone()).collect();
        base.bring(&layers)
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
    /// Opens the blob; it is verified while it is read. One in a registry comes here first.
    pub(crate) fn open(&self) -> Result<Box<dyn Read + Send>, EngineError> {
        match &self.image.place {
            ImagePlace::Layout(layout) => Ok(Box::new(layout.open_blob(&self.descriptor)?)),
            ImagePlace::Registry(base) => base.open_blob(&self.descriptor),
        }
    }

    /// Somebody who is bringing the blob.
    pub(crate) fn arrival(&self) -> Option<Arc<Arrival>> {
        match &self.image.place {
            ImagePlace::Layout(_) => None,
            ImagePlace::Registry(base) => base.arrival(&self.descriptor.digest),
        }
    }

    /// Opens the blob that somebody is bringing: whoever reads it verifies it.
    pub(crate) fn open_arriving(&self, arrival: &Arc<Arrival>) -> Result<Box<dyn Read + Send>, EngineError> {
        match &self.image.place {
            ImagePlace::Layout(_) => self.open(),
            ImagePlace::Registry(base) => Ok(base.open_arriving(&self.descriptor, arrival)),
        }
    }

    /// Has layers be readable while they come; they have to be [brought](Self::bring_all).
    pub(crate) fn expect_all(layers: &[Self]) -> Vec<Expecting> {
        let expecting = |layer: &Self| match &layer.image.place {
            ImagePlace::Layout(_) => None,
            ImagePlace::Registry(base) => Some(base.expect([layer.descriptor.digest])),
        };
        layers.iter().filter_map(expecting).collect()
    }

    /// Brings this layer and those beside it to this machine, as far as they are not there.
    pub(crate) fn bring_with_others(&self) -> Result<(), EngineError> {
        self.image.bring()
    }

    /// Brings layers here, several at a time.
    pub(crate) fn bring_all(layers: &[Self]) -> Result<(), EngineError> {
        let mut images: BTreeMap<*const OpenedImage, (&PulledBase, Vec<Descriptor>)> = BTreeMap::new();
        for layer in layers {
            if let ImagePlace::Registry(base) = &layer.image.place {
                let of_image = images.entry(Arc::as_ptr(&layer.image)).or_insert((base, Vec::new()));
                of_image.1.push(layer.descriptor.clone());
            }
        }
        images.values().try_for_each(|(base, layers)| base.bring(layers))
    }

    /// Whether the blob has to come from a registry.
    pub(crate) fn is_away(&self) -> Result<bool, EngineError> {
        match &self.image.place {
            ImagePlace::Layout(_) => Ok(false),
            ImagePlace::Registry(base) => Ok(!base.is_here(&self.descriptor.digest)?),
        }
    }

    /// Why it cannot be opened.
    pub(crate) fn not_opened(&self, error: EngineError) -> EngineError {
        match error {
            // Who reads the layer says that it is one of the base image.
            EngineError::Layout(source) => self.not_unpacked(Box::new(source)),
            other => other,
        }
    }

    /// Why it cannot be unpacked.
    pub(crate) fn not_unpacked(&self, source: Box<dyn std::error::Error + Send + Sync>) -> EngineError {
        let digest = self.descriptor.digest;
        match &self.image.place {
            ImagePlace::Layout(layout) => EngineError::BaseLayer { blob: layout.blob_path(&digest), source },
            ImagePlace::Registry(base) => {
                EngineError::PulledLayer { reference: base.written.clone(), digest, source }
            }
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
    pub(crate) registries: OnceLock<Arc<BaseRegistries>>,
}

impl BaseImages {
    pub(crate) fn new(locations: BTreeMap<String, ImageLocation>) -> Self {
        Self { locations, ..Self::default() }
    }

    /// The image that `reference` stands for: config, manifest and layers, all verified except the layers' bytes. One that
    /// exists for one platform only is taken whatever `platform` is, as by other builders: frontends say what they think.
    pub(crate) fn open(&self, reference: &str, platform: &Platform) -> Result<Arc<OpenedImage>, EngineError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let known = (reference.to_owned(), platform.to_string());
        if let Some(image) = opened.get(&known) {
            return Ok(Arc::clone(image));
        }
        let (image, place) = match self.location(reference) {
            Some(ImageLocation::Layout { layout, select }) => {
                let layout = OciLayout::open(layout)?;
                (layout.image(select, platform)?, ImagePlace::Layout(layout))
            }
            Some(ImageLocation::Registry(name)) => self.pulled(name, platform)?,
            None => self.pulled(reference, platform)?,
        };
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
            platform: (*platform != Platform::host()).then(|| platform.to_string()),
            given: self.locations.keys().cloned().collect(),
            offline,
        };
        let registries = self.registries.get().ok_or_else(|| missing(false))?;
        let (image, base) = registries.open(reference, platform)?.ok_or_else(|| missing(true))?;
        Ok((image, ImagePlace::Registry(base)))
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
        let layout = |layout: &str, select| ImageLocation::Layout { layout: layout.into(), select };
        assert_eq!(parse("oci-layout:///b/node:22"), layout("/b/node", Select::Tag("22".into())));
        assert_eq!(parse("oci-layout://b/node"), layout("b/node", Select::Only));
        let digest = Digest::of(b"x");
        assert_eq!(parse(&format!("oci-layout://b@{digest}")), layout("b", Select::Digest(digest)));
        assert_eq!(parse("docker-image://node:22"), ImageLocation::Registry("node:22".into()));
        for text in ["/b/node", "oci-layout://", "docker-image://X", "oci-layout://b@sha256:12"] {
            assert!(ImageLocation::parse(text).is_err(), "{text}");
        }
    }
}
