use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::path::PathBuf;

use wbuild_engine::{Draft, Engine};
use wbuild_image::{
    BaseImage, ImageParts, LayoutError, OciLayout, collect_image, find_image, read_document, unpack_archive,
};
use wbuild_oci::{Descriptor, Digest, Document, Platform, Reference};
use wbuild_registry::{FetchedManifest, RegistryClient, RegistryError, Repository};
use wbuild_remote::Watch;
use wbuild_report::Hint;

use super::place::{Place, select};
use crate::commands::Failure;

/// What to take.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// What the name names, with all that is below it.
    Everything,
    /// The image of it that runs here, or the only one.
    Own,
    /// The image of it that somebody asked for.
    Platform(Platform),
}

impl Wanted {
    fn platform(&self) -> Platform {
        match self {
            Self::Everything | Self::Own => Platform::host(),
            Self::Platform(platform) => platform.clone(),
        }
    }

    /// An image that stands alone is taken for what it is, unless somebody wanted another one.
    /// Of those in an index, the index says what they are for.
    fn check(&self, root: &Digest, image: &BaseImage, name: impl FnOnce() -> String) -> Result<(), Failure> {
        let Self::Platform(wanted) = self else { return Ok(()) };
        let found = image.config.platform();
        let runs = || wanted.with_lower_levels().iter().any(|level| found.satisfies(level));
        match *root != image.descriptor.digest || runs() {
            true => Ok(()),
            false => Err(Failure::new(OtherPlatform { name: name(), found, wanted: wanted.clone() })),
        }
    }
}

/// There is an image, and it is for something else.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` was found, but is for {found} and not for {wanted}")]
struct OtherPlatform {
    name: String,
    found: Platform,
    wanted: Platform,
}

impl Hint for OtherPlatform {
    fn hints(&self) -> Vec<String> {
        vec!["there is one image under this name: without --platform it is taken as it is".to_owned()]
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("all"),
            Self::Own | Self::Platform(_) => self.platform().fmt(f),
        }
    }
}

/// Where an image comes from.
pub(super) enum Source {
    Registry {
        name: Reference,
        /// What the name stands for, once it was looked up.
        root: OnceCell<Box<FetchedManifest>>,
    },
    Layout {
        layout: OciLayout,
        tag: Option<String>,
        /// An archive stays unpacked as long as this is there.
        _unpacked: Option<Draft>,
    },
}

impl Source {
    pub(super) fn open(engine: &Engine, place: &Place) -> Result<Self, Failure> {
        match place {
            Place::Registry(name) => Ok(Self::Registry { name: name.clone(), root: OnceCell::new() }),
            Place::Layout { folder, tag } => {
                let layout = OciLayout::open(folder).map_err(not_opened)?;
                Ok(Self::Layout { layout, tag: tag.clone(), _unpacked: None })
            }
            Place::Archive { file, tag, .. } => {
                let draft = engine.store().draft().map_err(Failure::new)?;
                unpack_archive(file, &draft.fs()).map_err(Failure::new)?;
                let layout = OciLayout::open(&draft.fs()).map_err(Failure::new)?;
                Ok(Self::Layout { layout, tag: tag.clone(), _unpacked: Some(draft) })
            }
        }
    }

    /// The repository, if it is in a registry.
    pub(super) fn repository(&self) -> Option<Repository> {
        match self {
            Self::Registry { name, .. } => Some(Repository::of(name)),
            Self::Layout { .. } => None,
        }
    }

    /// Its name in the registry that it comes from.
    pub(super) fn name(&self) -> Option<String> {
        match self {
            Self::Registry { name, .. } => Some(name.familiar()),
            Self::Layout { .. } => None,
        }
    }

    /// The name of an image in a registry, and what it stands for.
    pub(super) fn looked_up(&self) -> Option<(&Reference, &FetchedManifest)> {
        match self {
            Self::Registry { name, root } => Some((name, root.get()?)),
            Self::Layout { .. } => None,
        }
    }

    /// Where a blob is, if it is in a layout.
    pub(super) fn blob_path(&self, digest: &Digest) -> Option<PathBuf> {
        match self {
            Self::Registry { .. } => None,
            Self::Layout { layout, .. } => Some(layout.blob_path(digest)),
        }
    }

    /// Reads a blob of a layout to its end, which fails when it is another one.
    pub(super) fn verify(&self, descriptor: &Descriptor) -> Result<(), Failure> {
        let Self::Layout { layout, .. } = self else { return Ok(()) };
        let mut reader = layout.open_blob(descriptor).map_err(Failure::new)?;
        let file = layout.blob_path(&descriptor.digest);
        let failed = |source| Failure::new(LayoutError::Read { file, source });
        io::copy(&mut reader, &mut io::sink()).map_err(failed)?;
        Ok(())
    }

    /// All documents.
    pub(super) fn parts(
        &self,
        client: &RegistryClient,
        wanted: &Wanted,
        watch: &Watch<'_>,
    ) -> Result<ImageParts, Failure> {
        match self {
            Self::Registry { name, root: found } => {
                let documents = client.documents(Repository::of(name), watch);
                let manifest = client.manifest(name, watch)?;
                let root = found.get_or_init(|| Box::new(manifest)).descriptor.clone();
                let root = match wanted {
                    Wanted::Everything => root,
                    Wanted::Own | Wanted::Platform(_) => {
                        let named = root.digest;
                        let image = find_image(root, &wanted.platform(), &documents)?;
                        wanted.check(&named, &image, || name.familiar())?;
                        image.descriptor
                    }
                };
                let parts = collect_image(&root, &documents)?;
                parts.layers.iter().try_for_each(wbuild_registry::check_layer)?;
                Ok(parts)
            }
            Self::Layout { layout, tag, .. } => {
                let platform = wanted.platform();
                let root = layout.find(&select(tag.as_deref()), &platform).map_err(Failure::new)?;
                let root = match wanted {
                    Wanted::Everything => root,
                    Wanted::Own | Wanted::Platform(_) => {
                        let named = root.digest;
                        let image = find_image(root, &platform, layout).map_err(Failure::new)?;
                        wanted.check(&named, &image, || layout.folder().display().to_string())?;
                        image.descriptor
                    }
                };
                collect_image(&root, layout).map_err(Failure::new)
            }
        }
    }

    /// What is known about an image where it comes from: SBOMs, provenance. Each as it is listed, and with all that
    /// belongs to it.
    pub(super) fn referrers(
        &self,
        client: &RegistryClient,
        subject: &Digest,
        watch: &Watch<'_>,
    ) -> Result<Vec<(Descriptor, ImageParts)>, Failure> {
        let layout = match self {
            Self::Layout { layout, .. } => layout,
            Self::Registry { name, .. } => {
                let repository = Repository::of(name);
                let documents = client.documents(repository.clone(), watch);
                let collect = |listed: Descriptor| Ok((collect_image(&listed, &documents)?, listed));
                let listed = client.referrers(&repository, subject, watch)?;
                let found: Result<Vec<_>, RegistryError> = listed.into_iter().map(collect).collect();
                return Ok(found?.into_iter().map(|(parts, listed)| (listed, parts)).collect());
            }
        };
        let mut found = Vec::new();
        for listed in layout.referrers().map_err(Failure::new)? {
            let Document::Manifest(manifest) = read_document(&listed, layout).map_err(Failure::new)? else {
                continue;
            };
            // The list may be that of another image of the layout.
            let about = manifest.rest.get("subject").and_then(|subject| subject.get("digest")?.as_str());
            if about == Some(&*subject.to_string()) {
                let parts = collect_image(&listed, layout).map_err(Failure::new)?;
                found.push((listed, parts));
            }
        }
        Ok(found)
    }

    /// What the image is called in a layout: as `tag` says, else as where it comes from.
    pub(super) fn names(&self, tag: Option<&str>, wanted: &Wanted) -> Result<Vec<Reference>, Failure> {
        let own = match self {
            Self::Registry { name, .. } => vec![Reference { digest: None, ..name.clone() }],
            Self::Layout { layout, tag, .. } => {
                let select = select(tag.as_deref());
                let entry = layout.find(&select, &wanted.platform()).map_err(Failure::new)?;
                // Others may name the same image: who asked for one of them gets that one.
                layout.names(&entry.digest, &select)
            }
        };
        let Some(tag) = tag else {
            return Ok(own.into_iter().filter(|own| own.tag.is_some()).collect());
        };
        let own = own.into_iter().next();
        // `oci:DIR:v1`, or a whole name as docker's archives have them.
        if tag.contains(['/', ':']) {
            return Ok(vec![super::place::name(tag)?]);
        }
        let repository = own.map_or_else(
            || "localhost/image".to_owned(),
            |own| format!("{}/{}", own.registry, own.repository),
        );
        Ok(vec![super::place::name(&format!("{repository}:{tag}"))?])
    }
}

/// A folder that is something else, with what it should be.
fn not_opened(error: LayoutError) -> Failure {
    match error {
        LayoutError::NoLayout { .. } => Failure::Failed {
            error: Box::new(error),
            hints: vec![
                "layouts are folders as `wbuild image`, `wbuild pull NAME -o DIR` and `skopeo copy … oci:DIR` write them"
                    .to_owned(),
            ],
        },
        other => Failure::new(other),
    }
}
