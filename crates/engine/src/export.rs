//! Deltas to layers to an image: each delta above the base image becomes a layer, remembered by content and recipe; the
//! base image's layers pass through byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use wbuild_attest::PROVENANCE_TYPE;
use wbuild_cache::Kind;
use wbuild_frontend::{RowDelta, Target};
use wbuild_graph::{DeltaId, FieldValue, Preimage, Snapshot};
use wbuild_image::{
    ANNOTATION_PREDICATE, Annotations, AssembleError, Assembly, Attachment, BlobFiles, Export, ExportError,
    Image, LayerRef, MediaTypes, Row, assemble,
};
use wbuild_layer::{Contents, Recipe, Times, write_layer};
use wbuild_oci::{Descriptor, DiffId, Digest, HistoryEntry, Reference};
use wbuild_registry::Repository;
use wbuild_snapshot::{TreeFace, named_tree_face};
use wbuild_store::{RecordMeta, Ref, Store, seal_time};
use wbuild_tree::{ContentDigest, Subtree, TreeDigest};

use crate::difference::difference;
use crate::error::EngineError;
use crate::images::OpenedImage;
use crate::worker::Engine;

/// Where a descriptor says when its image was made; BuildKit's layouts and metadata files have it.
const ANNOTATION_CREATED: &str = "org.opencontainers.image.created";

/// How an image is made of deltas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportOptions {
    /// How layers are written.
    pub recipe: Recipe,
    /// `created` of the image and its new rows, in seconds since the epoch.
    pub created: i64,
    /// Labels added to those of the target.
    pub labels: BTreeMap<String, String>,
    /// What is noted on manifest and descriptors.
    pub annotations: Annotations,
    /// Whose media types it has.
    pub media_types: MediaTypes,
    /// Whether layers of the base image that are compressed in another way are compressed anew. Else they pass byte for
    /// byte.
    pub force_compression: bool,
}

/// One layer of an image that was built.
#[derive(Clone, Debug, Serialize)]
pub struct BuiltLayer {
    /// What made it.
    pub name: String,
    /// Its blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Whether it comes from the base image.
    pub base: bool,
}

/// An image that was built, its blobs in the store or in the base image's layout.
#[derive(Debug)]
pub struct BuiltImage {
    /// Its documents.
    pub image: Image,
    /// What its names stand for: its manifest, or the index around it; noted with when it was made.
    pub root: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<BuiltLayer>,
    /// What is said about it.
    pub attachments: Vec<Attachment>,
    carrier: Carrier,
    annotations: Annotations,
    created: Option<String>,
    store: Store,
    base: Option<Arc<OpenedImage>>,
}

/// How what is said about an image travels with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    /// As artifacts whose subject is the image, which stays as it is.
    #[default]
    Referrers,
    /// In an index around it, as `docker buildx` has it.
    Index,
}

impl BuiltImage {
    /// Says something about it: in every [`export`](Self::export) from now on.
    ///
    /// # Errors
    /// Only when JSON cannot be written.
    pub fn attach(&mut self, attachments: Vec<Attachment>, carrier: Carrier) -> Result<(), EngineError> {
        (self.attachments, self.carrier) = (attachments, carrier);
        self.root = self.export(Vec::new())?.root;
        Ok(())
    }

    /// It as a layout, an archive or a registry holds it, with what is said about it.
    ///
    /// # Errors
    /// Only when JSON cannot be written.
    pub fn export(&self, names: Vec<Reference>) -> Result<Export, AssembleError> {
        let mut export = match (self.attachments.is_empty(), self.carrier) {
            (false, Carrier::Index) => {
                Export::attested(&self.image, &self.attachments, &self.annotations, names)?
            }
            _ => self.plain_export(names).with_referrers(&self.attachments)?,
        };
        export.root = noted(export.root, self.created.as_deref());
        Ok(export)
    }

    /// How it came to be, if that travels with it: the predicate of its statement.
    pub fn provenance(&self) -> Option<serde_json::Value> {
        let is = |attachment: &&Attachment| {
            attachment.annotations.get(ANNOTATION_PREDICATE).is_some_and(|kind| kind == PROVENANCE_TYPE)
        };
        let attachment = self.attachments.iter().find(is)?;
        let mut statement: serde_json::Value = serde_json::from_slice(&attachment.bytes).ok()?;
        statement.get_mut("predicate").map(serde_json::Value::take)
    }

    /// It alone, for places that hold nothing but images.
    pub fn plain_export(&self, names: Vec<Reference>) -> Export {
        let mut export = Export::image(&self.image, names);
        export.root = noted(export.root, self.created.as_deref());
        export
    }

    /// Bytes of all layer blobs.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// Why the image could not be written, with what is behind it: a layer that is damaged is dropped, so that the next
    /// export writes it anew, and one of the base image is named.
    pub fn not_written(&self, error: ExportError) -> EngineError {
        let ExportError::Blob { digest, .. } = &error else { return error.into() };
        if let Some(base) = self.base_blob(digest) {
            return EngineError::BaseBlob { blob: base, source: Box::new(error) };
        }
        if let Some(base) = self.base.as_ref().filter(|base| base.has_layer(digest))
            && let Err(away) = base.bring()
        {
            return away;
        }
        match self.store.check_blob(digest) {
            Err(lost) if lost.is_lost() => lost.into(),
            _ => error.into(),
        }
    }

    /// Brings the layers of its base image to this machine, as far as they are not there.
    ///
    /// # Errors
    /// When they cannot be had.
    pub fn bring_base(&self) -> Result<(), EngineError> {
        self.base.as_ref().map_or(Ok(()), |base| base.bring())
    }

    /// The repository that its base image came from: a registry that has that one lends its blobs.
    pub fn base_repository(&self) -> Option<&Repository> {
        self.base.as_ref()?.repository()
    }

    /// Where its layers are, for whoever outlives it.
    pub fn source(&self) -> BlobSource {
        let own = self.layers.iter().filter(|layer| !layer.base).map(|layer| layer.digest).collect();
        BlobSource { store: self.store.clone(), base: self.base.clone(), own }
    }

    fn base_blob(&self, digest: &Digest) -> Option<PathBuf> {
        base_blob(self.base.as_deref()?, digest)
    }
}

/// The blob of a base image's layer, if it is in somebody else's folder.
fn base_blob(base: &OpenedImage, digest: &Digest) -> Option<PathBuf> {
    base.has_layer(digest).then(|| base.blob_path(digest)).flatten()
}

/// The layers of an image that was built.
#[derive(Clone, Debug)]
pub struct BlobSource {
    store: Store,
    base: Option<Arc<OpenedImage>>,
    /// Those that are new.
    own: Vec<Digest>,
}

impl BlobSource {
    /// The file of a layer, which is fetched if it is elsewhere: from the registry of the base image, or a remote cache.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn path(&self, digest: &Digest) -> io::Result<PathBuf> {
        if let Some(path) = self.base.as_deref().and_then(|base| base_blob(base, digest)) {
            return Ok(path);
        }
        if !self.store.holds_blob(digest).map_err(io::Error::other)? {
            if let Some(base) = self.base.as_ref().filter(|base| base.has_layer(digest)) {
                base.bring().map_err(io::Error::other)?;
            }
            // Those that are in a remote cache come together.
            self.store.bring(self.own.iter().map(|layer| Ref::Blob(*layer))).map_err(io::Error::other)?;
        }
        Ok(self.store.blob_path(digest))
    }
}

impl BlobFiles for BuiltImage {
    fn blob(&self, digest: &Digest) -> io::Result<PathBuf> {
        self.source().path(digest)
    }

    fn seal(&self, digest: &Digest, size: u64) -> Option<SystemTime> {
        Some(seal_time(digest, size))
    }
}

/// A descriptor that says when its image was made.
fn noted(mut root: Descriptor, created: Option<&str>) -> Descriptor {
    if let Some(created) = created {
        root.annotations.entry(ANNOTATION_CREATED.to_owned()).or_insert_with(|| created.to_owned());
    }
    root
}

/// What is remembered of a layer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: DiffId,
}

impl From<LayerRecord> for LayerRef {
    fn from(record: LayerRecord) -> Self {
        Self { descriptor: record.descriptor, diff_id: record.diff_id }
    }
}

pub(crate) struct StoreBlobs<'a>(pub(crate) &'a Store);

impl Contents for StoreBlobs<'_> {
    fn open(&self, digest: &Digest, _size: u64) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.0.open_blob(digest).map_err(io::Error::other)?.into_file()))
    }
}

impl Engine {
    /// Makes the image of a solved target.
    ///
    /// # Errors
    /// When a layer cannot be written or the parts contradict each other.
    pub fn export(
        &self,
        target: &Target,
        snapshot: &Snapshot,
        options: &ExportOptions,
    ) -> Result<BuiltImage, EngineError> {
        self.image_of(target, snapshot, options).map_err(|error| error.on_disk_of(self.store.path()))
    }

    fn image_of(
        &self,
        target: &Target,
        snapshot: &Snapshot,
        options: &ExportOptions,
    ) -> Result<BuiltImage, EngineError> {
        let base = target.base_image.as_ref().map(|reference| self.open_image(reference)).transpose()?;
        let below = base.as_ref().map_or(0, |base| base.image.layers.len());
        let mut stack = Snapshot { deltas: snapshot.deltas[..below].to_vec() };
        let mut deltas = snapshot.deltas.iter().skip(below);
        let created = timestamp(options.created);
        let mut rows = Vec::new();
        let mut layers: Vec<BuiltLayer> = Vec::new();
        let base_layers = self.base_layers(base.as_deref(), options)?;
        layers.extend(base_layers.iter().map(|layer| BuiltLayer {
            name: "base image".to_owned(),
            digest: layer.descriptor.digest,
            size: layer.descriptor.size,
            base: true,
        }));
        for row in &target.history {
            let history = HistoryEntry {
                created: created.clone(),
                created_by: Some(row.created_by.clone()),
                comment: Some(target.comment.to_owned()),
                ..HistoryEntry::default()
            };
            let delta = if row.delta == RowDelta::None { None } else { deltas.next() };
            let layer = delta
                .map(|delta| self.layer_of(delta, &stack, &row.created_by, row.delta, &options.recipe))
                .transpose()?
                .flatten();
            stack.deltas.extend(delta);
            rows.push(match layer {
                Some(layer) => {
                    layers.push(BuiltLayer {
                        name: row.created_by.clone(),
                        digest: layer.descriptor.digest,
                        size: layer.descriptor.size,
                        base: false,
                    });
                    Row::Layer { layer, history: Some(history) }
                }
                None => Row::Metadata(history),
            });
        }
        let mut config = target.config.clone();
        config.created.clone_from(&created);
        config.config.labels.extend(options.labels.clone());
        if let Some(base) = &base {
            config.rootfs = base.image.config.rootfs.clone();
            config.rootfs.diff_ids = base_layers.iter().map(|layer| layer.diff_id).collect();
            config.history.clone_from(&base.image.config.history);
        }
        let base_layers = base_layers.into_iter().map(|layer| layer.descriptor).collect();
        let (annotations, media_types) = (options.annotations.clone(), options.media_types);
        let image = assemble(Assembly { config, base: base_layers, rows, annotations, media_types })?;
        for document in [&image.config, &image.manifest] {
            self.store.put_bytes(&document.bytes)?;
        }
        let root = noted(image.manifest.descriptor.clone(), created.as_deref());
        Ok(BuiltImage {
            root,
            image,
            layers,
            attachments: Vec::new(),
            carrier: Carrier::default(),
            annotations: options.annotations.clone(),
            created,
            store: self.store.clone(),
            base,
        })
    }

    /// The layers of a base image as the new image has them: as they are, unless they are to be compressed anew.
    fn base_layers(
        &self,
        base: Option<&OpenedImage>,
        options: &ExportOptions,
    ) -> Result<Vec<LayerRef>, EngineError> {
        let layers = base.map(|base| &base.image.layers[..]).unwrap_or_default();
        match options.force_compression {
            true => layers.iter().map(|layer| self.recoded(layer, options.recipe.compression)).collect(),
            false => Ok(layers.to_vec()),
        }
    }

    /// The layer of a delta on `below`, remembered or written; `None` when the delta is empty and its row
    /// need not have one.
    pub(crate) fn layer_of(
        &self,
        delta: &DeltaId,
        below: &Snapshot,
        name: &str,
        row: RowDelta,
        recipe: &Recipe,
    ) -> Result<Option<LayerRef>, EngineError> {
        let keep_empty = matches!(row, RowDelta::Always | RowDelta::Whole);
        // A step's delta goes by its tree, too: two steps that wrote the same on the same have the same layer.
        let (tree, content) = match named_tree_face(&self.store, delta)? {
            _ if let DeltaId::Tree { tree, content } = delta => (*tree, *content),
            Some(TreeFace { tree, content: Some(content), .. }) => (tree, content),
            _ => {
                let face = self.tree_face(delta)?;
                (face.digest(), face.content())
            }
        };
        if tree == Subtree::empty().digest() && !keep_empty {
            return Ok(None);
        }
        // What was touched and left as it was is in no layer; which that is depends on what lies below.
        let is_compared = row == RowDelta::Always || !matches!(delta, DeltaId::Tree { .. });
        let key = layer_key(recipe, tree, content, is_compared.then_some(below));
        match self.known_layer(&key)? {
            Some(None) if !keep_empty => return Ok(None),
            Some(Some(known)) => {
                self.shared.used_layer(&key, Some(&known));
                return Ok(Some(known.into()));
            }
            _ => {}
        }
        let mut face = self.tree_face(delta)?;
        if is_compared {
            face = difference(&self.trees(), &face, &self.view(below)?)?;
        }
        if face.is_empty() && !keep_empty {
            self.remember_layer(&key, None)?;
            return Ok(None);
        }
        // What is left is the same layer on every base.
        let own = layer_key(recipe, face.digest(), face.content(), None);
        let record = match self.known_layer(&own)? {
            Some(Some(known)) => known,
            _ => self.write_layer(&face, name, recipe)?,
        };
        for key in BTreeSet::from([key, own]) {
            self.remember_layer(&key, Some(&record))?;
        }
        Ok(Some(record.into()))
    }

    /// What is known of the layer of a key: `Some(None)` when there is nothing in it.
    pub(crate) fn known_layer(&self, key: &Digest) -> Result<Option<Option<LayerRecord>>, EngineError> {
        let usable = |record: &Option<LayerRecord>| match record {
            Some(record) => self.store.has_blob(&record.descriptor.digest),
            None => Ok(true),
        };
        if let Some(stored) = self.store.record(key)?
            && let Ok(known) = serde_json::from_slice(&stored.body)
            && usable(&known)?
        {
            return Ok(Some(known));
        }
        if let Some(body) = self.shared.imported(Kind::Layer, key)
            && let Ok(known) = serde_json::from_str(&body)
            && usable(&known)?
        {
            self.remember_layer(key, known.as_ref())?;
            return Ok(Some(known));
        }
        Ok(None)
    }

    pub(crate) fn remember_layer(
        &self,
        key: &Digest,
        record: Option<&LayerRecord>,
    ) -> Result<(), EngineError> {
        let refs = record.iter().map(|record| Ref::Blob(record.descriptor.digest)).collect();
        let body = serde_json::to_vec(&record).unwrap_or_default();
        self.store.replace_record(key, &RecordMeta { refs }, &body)?;
        self.shared.used_layer(key, record);
        Ok(())
    }

    fn write_layer(&self, face: &Subtree, name: &str, recipe: &Recipe) -> Result<LayerRecord, EngineError> {
        if self.shared.imports() {
            self.store.bring_contents(face)?;
        }
        let mut blob = self.store.blob_writer()?;
        let written = write_layer(&self.trees(), &StoreBlobs(&self.store), face, recipe, &mut blob);
        let layer = written.map_err(|source| EngineError::WriteLayer { name: name.to_owned(), source })?;
        blob.finish(Some(&layer.digest))?;
        Ok(LayerRecord { descriptor: layer.descriptor(), diff_id: layer.diff_id })
    }
}

/// The key of the layer of a tree, as it is or as far as it differs from what lies below.
fn layer_key(recipe: &Recipe, tree: TreeDigest, content: ContentDigest, below: Option<&Snapshot>) -> Digest {
    let mut preimage = Preimage::new("layer", 2);
    for (field, value) in recipe.fields() {
        preimage.text(field, value);
    }
    match recipe.times {
        Times::Fixed(_) => preimage.text("content", content.to_string()),
        Times::Keep => preimage.text("tree", tree.to_string()),
    }
    if let Some(below) = below {
        preimage.text("compared", "yes");
        for (index, delta) in below.deltas.iter().enumerate() {
            preimage.add(format!("below/{index}"), FieldValue::Digest(delta.root_key()));
        }
    }
    preimage.key().0
}

/// RFC 3339, as OCI documents have it; nothing for times that it cannot say.
pub fn timestamp(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp(1).as_deref(), Some("1970-01-01T00:00:01Z"));
        assert_eq!(timestamp(1_700_000_000).as_deref(), Some("2023-11-14T22:13:20Z"));
    }
}
