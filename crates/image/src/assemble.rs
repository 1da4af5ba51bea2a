use std::collections::BTreeMap;

use wbuild_oci::{
    Descriptor, DiffId, Digest, HistoryEntry, ImageConfig, Index, Manifest, media, to_canonical_json,
};
use wbuild_report::Hint;

/// What stands in the history for a layer of which nobody has said how it came to be (BuildKit writes
/// `buildkit.exporter.image.v0` there).
const UNKNOWN_LAYER_COMMENT: &str = "wbuild.image.v0";

/// A layer, by its blob and by its contents.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRef {
    /// The blob.
    pub descriptor: Descriptor,
    /// The tar in it.
    pub diff_id: DiffId,
}

/// What one step added to an image.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "an image has some dozens of rows; a box would only be in the way"
)]
pub enum Row {
    /// A layer, and perhaps a line of history.
    Layer {
        /// Which.
        layer: LayerRef,
        /// How it came to be. Without, the history says that nobody knows.
        history: Option<HistoryEntry>,
    },
    /// A line of history only (`ENV`, `CMD`); always written with `empty_layer`.
    Metadata(HistoryEntry),
}

/// What an image is made of.
#[derive(Clone, Debug, Default)]
pub struct Assembly {
    /// The finished configuration, except that `rootfs` and `history` are those of the base image: empty for an image
    /// from scratch. `created` is the caller's, here and in every row: there is no clock in this crate.
    pub config: ImageConfig,
    /// The base image's layers, as its manifest has them. Their blobs pass as they are; see [`MediaTypes::layer`].
    pub base: Vec<Descriptor>,
    /// What was added, in order.
    pub rows: Vec<Row>,
    /// Annotations of the manifest, and of the descriptors that name it.
    pub annotations: Annotations,
    /// Whose names the documents and layers get.
    pub media_types: MediaTypes,
}

/// What is noted on an image, and where (the levels of `docker buildx build --annotation`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// In the manifest.
    pub manifest: BTreeMap<String, String>,
    /// On the descriptor that names the manifest, in an index.
    pub manifest_descriptor: BTreeMap<String, String>,
    /// In the index over manifests.
    pub index: BTreeMap<String, String>,
    /// On the descriptor that names that index.
    pub index_descriptor: BTreeMap<String, String>,
}

impl Annotations {
    /// Whether any is for an index, which an image of one platform has only around attestations.
    pub fn want_index(&self) -> bool {
        !(self.index.is_empty() && self.index_descriptor.is_empty())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The two families of media types. A manifest has those of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaTypes {
    /// The OCI's.
    #[default]
    Oci,
    /// Docker's (schema 2), which know no annotations.
    Docker,
}

impl MediaTypes {
    fn manifest(self) -> &'static str {
        match self {
            Self::Oci => media::MANIFEST,
            Self::Docker => media::DOCKER_MANIFEST,
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Oci => media::CONFIG,
            Self::Docker => media::DOCKER_CONFIG,
        }
    }

    /// The name of a layer's media type in this family, for the same bytes: as `docker buildx` converts them. Names that
    /// are unknown stay.
    pub fn layer(self, media_type: &str) -> &str {
        let pair = LAYER_TYPES.iter().find(|(oci, docker)| [*oci, *docker].contains(&media_type));
        match (pair, self) {
            (Some((oci, _)), Self::Oci) => oci,
            (Some((_, docker)), Self::Docker) => docker,
            (None, _) => media_type,
        }
    }
}

/// The OCI's and Docker's names of layers.
const LAYER_TYPES: [(&str, &str); 5] = [
    (media::LAYER, "application/vnd.docker.image.rootfs.diff.tar"),
    (media::LAYER_GZIP, media::DOCKER_LAYER_GZIP),
    (media::LAYER_ZSTD, "application/vnd.docker.image.rootfs.diff.tar.zstd"),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ),
];

/// A document and the descriptor that names it.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentBlob {
    /// Names [`bytes`](Self::bytes).
    pub descriptor: Descriptor,
    /// Canonical JSON.
    pub bytes: Vec<u8>,
}

impl DocumentBlob {
    pub(crate) fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        let descriptor = Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64);
        Self { descriptor, bytes }
    }
}

/// An image for one platform.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The config.
    pub config: DocumentBlob,
    /// The manifest; its descriptor has the platform.
    pub manifest: DocumentBlob,
    /// The layers, lowest first, as the manifest has them.
    pub layers: Vec<Descriptor>,
}

/// Why an image cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// Manifest and config of the base image disagree.
    #[error("the base image has {layers} layers, but its config lists {diff_ids}")]
    BaseLayers {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// Its history does, too.
    #[error("the base image has {layers} layers, but {rows} lines of its history say that they made one")]
    BaseHistory {
        /// In the manifest.
        layers: usize,
        /// Rows without `empty_layer`.
        rows: usize,
    },
    /// A new row contradicts itself.
    #[error("the history line `{created_by}` has the layer {layer}, but says that it has none")]
    Row {
        /// Its instruction.
        created_by: String,
        /// The layer's blob.
        layer: Digest,
    },
    /// An image that nothing could run.
    #[error("the image config has no {field}")]
    Platform {
        /// Which is missing.
        field: &'static str,
    },
    /// A document could not be written as JSON.
    #[error("cannot write a document as JSON")]
    Json(#[from] serde_json::Error),
}

impl Hint for AssembleError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::BaseLayers { .. } | Self::BaseHistory { .. } => {
                vec!["the base image is broken; pull or build it again, or use another one".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

/// Puts an image together: canonical JSON, media types of one family.
///
/// Base images that lack lines of history (many tools write none) get one for each unexplained layer, so that layers and
/// lines go on matching; lines that are there are kept as they are.
///
/// # Errors
/// When the parts contradict each other.
pub fn assemble(assembly: Assembly) -> Result<Image, AssembleError> {
    let Assembly { mut config, base, rows, annotations, media_types } = assembly;
    for (field, value) in [("architecture", &config.architecture), ("operating system", &config.os)] {
        if value.is_empty() {
            return Err(AssembleError::Platform { field });
        }
    }
    let diff_ids = config.rootfs.diff_ids.len();
    if diff_ids != base.len() {
        return Err(AssembleError::BaseLayers { layers: base.len(), diff_ids });
    }
    let explained = config.history.iter().filter(|row| !row.empty_layer).count();
    if explained > base.len() {
        return Err(AssembleError::BaseHistory { layers: base.len(), rows: explained });
    }
    let unknown =
        || HistoryEntry { comment: Some(UNKNOWN_LAYER_COMMENT.to_owned()), ..HistoryEntry::default() };
    config.history.extend((explained..base.len()).map(|_| unknown()));
    config.rootfs.kind = "layers".to_owned();
    let mut layers = base;
    for row in rows {
        match row {
            Row::Layer { layer, history } => {
                let history = history.unwrap_or_else(unknown);
                if history.empty_layer {
                    let created_by = history.created_by.unwrap_or_default();
                    return Err(AssembleError::Row { created_by, layer: layer.descriptor.digest });
                }
                config.history.push(history);
                config.rootfs.diff_ids.push(layer.diff_id);
                layers.push(layer.descriptor);
            }
            Row::Metadata(history) => config.history.push(HistoryEntry { empty_layer: true, ..history }),
        }
    }
    for layer in &mut layers {
        layer.media_type = media_types.layer(&layer.media_type).to_owned();
    }
    let platform = config.platform();
    let config = DocumentBlob::new(media_types.config(), to_canonical_json(&config)?);
    let manifest = Manifest {
        media_type: Some(media_types.manifest().to_owned()),
        annotations: annotations.manifest,
        ..Manifest::new(config.descriptor.clone(), layers.clone())
    };
    let mut manifest = DocumentBlob::new(media_types.manifest(), to_canonical_json(&manifest)?);
    manifest.descriptor.platform = Some(platform);
    manifest.descriptor.annotations = annotations.manifest_descriptor;
    Ok(Image { config, manifest, layers })
}

/// Puts the images of several platforms together, in the order given.
///
/// # Errors
/// Only when JSON cannot be written.
pub fn assemble_index(
    images: &[Image],
    annotations: BTreeMap<String, String>,
) -> Result<DocumentBlob, AssembleError> {
    let manifests = images.iter().map(|image| image.manifest.descriptor.clone()).collect();
    let index = Index { annotations, ..Index::new(manifests) };
    Ok(DocumentBlob::new(media::INDEX, to_canonical_json(&index)?))
}

#[cfg(test)]
mod tests {
    use wbuild_oci::{Document, RootFs};

    use super::*;

    fn layer(text: &str) -> LayerRef {
        let digest = Digest::of(text.as_bytes());
        LayerRef {
            descriptor: Descriptor::new(media::LAYER_GZIP, digest, text.len() as u64),
            diff_id: DiffId(Digest::of(digest.as_bytes())),
        }
    }

    fn line(text: &str) -> HistoryEntry {
        HistoryEntry { created_by: Some(text.to_owned()), ..HistoryEntry::default() }
    }

    fn config() -> ImageConfig {
        ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..ImageConfig::default() }
    }

    #[test]
    fn rows_follow_the_base() {
        let mut docker = layer("base").descriptor;
        docker.media_type = media::DOCKER_LAYER_GZIP.to_owned();
        let base_config = ImageConfig {
            rootfs: RootFs { diff_ids: vec![layer("base").diff_id], ..RootFs::default() },
            history: vec![line("FROM"), HistoryEntry { empty_layer: true, ..line("ENV") }],
            ..config()
        };
        let assembly = Assembly {
            config: base_config,
            base: vec![docker],
            rows: vec![
                Row::Layer { layer: layer("one"), history: Some(line("COPY")) },
                Row::Metadata(line("CMD")),
                Row::Layer { layer: layer("two"), history: None },
            ],
            ..Assembly::default()
        };
        let image = assemble(assembly.clone()).unwrap();
        assert_eq!(image, assemble(assembly).unwrap());
        let config: ImageConfig = serde_json::from_slice(&image.config.bytes).unwrap();
        let rows: Vec<(&str, bool)> = config
            .history
            .iter()
            .map(|row| (row.created_by.as_deref().unwrap_or("?"), row.empty_layer))
            .collect();
        assert_eq!(rows, [("FROM", false), ("ENV", true), ("COPY", false), ("CMD", true), ("?", false)]);
        assert_eq!(config.history[4].comment.as_deref(), Some(UNKNOWN_LAYER_COMMENT));
        let ids = [layer("base"), layer("one"), layer("two")].map(|layer| layer.diff_id);
        assert_eq!(config.rootfs.diff_ids, ids);
        let Document::Manifest(manifest) = Document::parse(&image.manifest.bytes).unwrap() else {
            panic!("an index")
        };
        assert!(manifest.layers.iter().all(|layer| layer.media_type == media::LAYER_GZIP));
        assert_eq!(manifest.layers[0].digest, layer("base").descriptor.digest);
        assert_eq!(image.manifest.descriptor.platform.as_ref().unwrap().to_string(), "linux/amd64");
    }

    #[test]
    fn media_types_are_of_one_family() {
        let base = layer("base");
        let zstd = Descriptor { media_type: media::LAYER_ZSTD.to_owned(), ..layer("new").descriptor };
        let assembly = Assembly {
            config: ImageConfig {
                rootfs: RootFs { diff_ids: vec![base.diff_id], ..RootFs::default() },
                ..config()
            },
            base: vec![base.descriptor],
            rows: vec![Row::Layer { layer: LayerRef { descriptor: zstd, ..layer("new") }, history: None }],
            media_types: MediaTypes::Docker,
            ..Assembly::default()
        };
        let image = assemble(assembly.clone()).unwrap();
        assert_eq!(image.manifest.descriptor.media_type, media::DOCKER_MANIFEST);
        let text = String::from_utf8(image.manifest.bytes).unwrap();
        assert!(!text.contains("oci"), "{text}");
        let image = assemble(Assembly { media_types: MediaTypes::Oci, ..assembly }).unwrap();
        assert!(!String::from_utf8(image.manifest.bytes).unwrap().contains("docker"));
    }

    #[test]
    fn annotations_stand_where_they_were_asked_for() {
        let one = |text: &str| BTreeMap::from([(text.to_owned(), "x".to_owned())]);
        let annotations =
            Annotations { manifest: one("m"), manifest_descriptor: one("d"), ..Annotations::default() };
        assert!(!annotations.want_index());
        let image = assemble(Assembly { config: config(), annotations, ..Assembly::default() }).unwrap();
        assert_eq!(image.manifest.descriptor.annotations, one("d"));
        let Document::Manifest(manifest) = Document::parse(&image.manifest.bytes).unwrap() else {
            panic!("an index")
        };
        assert_eq!(manifest.annotations, one("m"));
    }

    #[test]
    fn contradictions_are_errors() {
        let with = |layers: usize, diff_ids: usize, rows: usize| Assembly {
            config: ImageConfig {
                rootfs: RootFs { diff_ids: vec![layer("x").diff_id; diff_ids], ..RootFs::default() },
                history: vec![line("x"); rows],
                ..config()
            },
            base: vec![layer("x").descriptor; layers],
            ..Assembly::default()
        };
        assert!(matches!(assemble(with(2, 1, 1)), Err(AssembleError::BaseLayers { .. })));
        assert!(matches!(assemble(with(1, 1, 2)), Err(AssembleError::BaseHistory { .. })));
        let image = assemble(with(3, 3, 1)).unwrap();
        let config: ImageConfig = serde_json::from_slice(&image.config.bytes).unwrap();
        assert_eq!(config.history.len(), 3);
        let history = Some(HistoryEntry { empty_layer: true, ..line("ENV") });
        let row = Row::Layer { layer: layer("x"), history };
        let assembly = Assembly { rows: vec![row], ..with(0, 0, 0) };
        assert!(matches!(assemble(assembly), Err(AssembleError::Row { .. })));
        assert!(matches!(assemble(Assembly::default()), Err(AssembleError::Platform { .. })));
    }
}
