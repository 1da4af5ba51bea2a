use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};
use wbuild_graph::{DeltaId, Key};
use wbuild_layer::{Expected, Owners, UnpackOptions, unpack};
use wbuild_oci::{DiffId, Digest};
use wbuild_store::{DeltaFolder, DeltaName, Draft, KeyLock, RecordMeta, Ref, Store};
use wbuild_tree::{ContentDigest, Entry, EntryPath, Lookup, Meta, TreeDigest};

use crate::error::{At, SnapshotError};
use crate::folders::{READ, open_below};
use crate::materialise::{self, Disk, Mtimes};
use crate::pool::describe;
use crate::restore::overrides_of;
use crate::seal::seal;
use crate::view::View;

/// What is hashed with a delta's name to find its tree face.
const TREE_FACE: &str = "wbuild-tree-face-1\n";

/// The tree face of a delta, with what a tree cannot say about a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeFace {
    /// The tree; it may have whiteouts and opaque directories.
    pub tree: TreeDigest,
    /// It hides everything below it.
    #[serde(default)]
    pub opaque_root: bool,
    /// Directories that only entries below them imply: they have the metadata that they have in the deltas below, if they
    /// are there.
    #[serde(default)]
    pub implied: Vec<EntryPath>,
    /// What keys see of the tree, where that is to be known without reading it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentDigest>,
}

impl TreeFace {
    /// That of a plain tree.
    pub const fn of(tree: TreeDigest) -> Self {
        Self { tree, opaque_root: false, implied: Vec::new(), content: None }
    }

    /// That of a step, which need not be read for its digests.
    pub const fn of_step(tree: TreeDigest, content: ContentDigest) -> Self {
        Self { tree, opaque_root: false, implied: Vec::new(), content: Some(content) }
    }
}

/// The name of a delta's disk face in the store. Faces that differ in how they are on disk have different names.
pub fn face_name(delta: &DeltaId, disk: Disk) -> DeltaName {
    // Not `exec-…`: faces of that name have owners somewhere else.
    let mut name = match delta {
        DeltaId::Exec(Key(key)) => format!("step-{}", key.hex()),
        other => other.name(),
    };
    if matches!(delta, DeltaId::Tree { .. }) && disk.mtimes == Mtimes::FromContent {
        name.push_str("-content");
    }
    // Not `-unowned`: those have no notes.
    if !matches!(delta, DeltaId::Exec(_)) && disk.owners != Owners::Set {
        name.push_str("-noted");
    }
    delta_name(&name)
}

/// Delta ids are made of lower-case letters, dashes and hex digits.
pub(crate) fn delta_name(text: &str) -> DeltaName {
    DeltaName::new(text).unwrap_or_else(|error| unreachable!("{error}"))
}

/// The disk face of a delta, if it is there; counted as used.
///
/// # Errors
/// When the store cannot be read.
pub fn disk_face(store: &Store, delta: &DeltaId, disk: Disk) -> Result<Option<DeltaFolder>, SnapshotError> {
    Ok(store.delta(&face_name(delta, disk))?)
}

/// What to do with the disk face of a step that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// The first result of a key wins: it stays.
    Stays,
    /// It is lost, or not wanted: the new one takes its place.
    Goes,
}

/// Publishes the upper directory that a step ran in as the disk face of its delta. `sealed` is its [`seal`](crate::seal()).
///
/// # Errors
/// When it cannot be published.
pub fn publish_exec(
    store: &Store,
    upper: Draft,
    key: Key,
    sealed: Digest,
    existing: Existing,
) -> Result<DeltaFolder, SnapshotError> {
    let disk = Disk { mtimes: Mtimes::Tree, owners: Owners::Set };
    let name = face_name(&DeltaId::Exec(key), disk);
    Ok(match existing {
        Existing::Stays => store.publish_delta(&name, upper, sealed)?,
        Existing::Goes => {
            let folder = store.replace_delta(&name, upper, sealed)?;
            // What was imported was another run of the step.
            store.remove_record(&tree_face_key(&DeltaId::Exec(key), None))?;
            folder
        }
    })
}

/// Publishes a draft that this process filled.
pub(crate) fn publish(store: &Store, name: &DeltaName, draft: Draft) -> Result<DeltaFolder, SnapshotError> {
    let sealed = seal(&draft.fs())?;
    Ok(store.publish_delta(name, draft, sealed)?)
}

/// The face of a step belongs to one folder: another run of the same step may have written something else. Without a folder
/// it is one that was imported.
fn tree_face_key(delta: &DeltaId, folder: Option<&DeltaFolder>) -> Digest {
    let instance = folder.map_or("", DeltaFolder::instance);
    Digest::of(format!("{TREE_FACE}{}\n{instance}", delta.name()).as_bytes())
}

/// Whose tree face it is: for a step's delta that of the folder that is there, of none when there is none.
fn key_of(store: &Store, delta: &DeltaId) -> Result<Digest, SnapshotError> {
    if !matches!(delta, DeltaId::Exec(_)) {
        return Ok(tree_face_key(delta, None));
    }
    let disk = Disk { mtimes: Mtimes::Tree, owners: Owners::Set };
    Ok(tree_face_key(delta, disk_face(store, delta, disk)?.as_ref()))
}

/// The tree face of a delta, if it is known and its tree is there.
///
/// # Errors
/// When the store cannot be read.
pub fn tree_face(store: &Store, delta: &DeltaId) -> Result<Option<TreeFace>, SnapshotError> {
    let Some(face) = named_tree_face(store, delta)? else { return Ok(None) };
    Ok(store.has_tree(face.tree)?.then_some(face))
}

/// The tree face of a delta, if it is known, whether or not its tree can be had.
///
/// # Errors
/// When the store cannot be read.
pub fn named_tree_face(store: &Store, delta: &DeltaId) -> Result<Option<TreeFace>, SnapshotError> {
    if let DeltaId::Tree { tree, .. } = delta {
        return Ok(Some(TreeFace::of(*tree)));
    }
    let Some(record) = store.record(&key_of(store, delta)?)? else { return Ok(None) };
    Ok(serde_json::from_slice::<TreeFace>(&record.body).ok())
}

/// Remembers the tree face of a layer, or (with the folder that it was read from) of a step's delta. That of a step without a
/// folder is one that was imported: it counts as long as there is no folder, which [`restore_exec`] makes of it.
///
/// # Errors
/// When that cannot be written.
pub fn remember_tree_face(
    store: &Store,
    delta: &DeltaId,
    folder: Option<&DeltaFolder>,
    face: &TreeFace,
) -> Result<(), SnapshotError> {
    let meta = RecordMeta { refs: vec![Ref::Tree(face.tree)] };
    let body =
        serde_json::to_vec(face).map_err(std::io::Error::from).at("encode the tree face of", store.path())?;
    Ok(store.replace_record(&tree_face_key(delta, folder), &meta, &body)?)
}

/// Forgets the tree face of a layer or of a step's delta: for when its trees are damaged. It is made again from the
/// files when somebody needs it.
///
/// # Errors
/// When that cannot be written.
pub fn forget_tree_face(store: &Store, delta: &DeltaId) -> Result<(), SnapshotError> {
    Ok(store.remove_record(&key_of(store, delta)?)?)
}

/// Makes the disk face of a step's delta from its tree face, which was imported. Owners that this process cannot set are
/// in its notes, as they are when the step runs here.
///
/// # Errors
/// [`SnapshotError::is_lost`] when a tree or a blob is; others name the path.
pub fn restore_exec(store: &Store, key: Key, face: &TreeFace) -> Result<DeltaFolder, SnapshotError> {
    let delta = DeltaId::Exec(key);
    let disk = Disk { mtimes: Mtimes::Tree, owners: Owners::of_process() };
    let name = face_name(&delta, disk);
    making(store, &name, || {
        let root = store.tree(face.tree)?;
        let mut draft = store.draft()?;
        materialise::fill(store, &root, disk, &draft.fs())?;
        let kept = overrides_of(store, &root, &draft.fs(), disk.owners)?;
        if !kept.is_empty() {
            let bytes = serde_json::to_vec(&kept).map_err(std::io::Error::from);
            draft.set_notes(&bytes.at("encode the owners of", store.path())?)?;
        }
        let folder = publish(store, &name, draft)?;
        remember_tree_face(store, &delta, Some(&folder), face)?;
        Ok(folder)
    })
}

/// Finds a disk face or makes it, one process at a time.
pub(crate) fn making(
    store: &Store,
    name: &DeltaName,
    make: impl FnOnce() -> Result<DeltaFolder, SnapshotError>,
) -> Result<DeltaFolder, SnapshotError> {
    if let Some(folder) = store.delta(name)? {
        return Ok(folder);
    }
    let _alone = making_lock(store, name)?;
    match store.delta(name)? {
        Some(folder) => Ok(folder),
        None => make(),
    }
}

fn making_lock(store: &Store, name: &DeltaName) -> Result<KeyLock, SnapshotError> {
    Ok(store.lock(&Digest::of(format!("wbuild-disk-face-1\n{name}").as_bytes()))?)
}

/// A layer and how to get at its blob.
pub struct LayerSource<'a> {
    /// From the image's config.
    pub diff_id: DiffId,
    /// From the manifest.
    pub blob: Digest,
    /// Opens the blob, at its beginning.
    pub open: &'a (dyn Fn() -> std::io::Result<Box<dyn Read + Send>> + Sync),
}

impl std::fmt::Debug for LayerSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayerSource({}, {})", self.diff_id, self.blob)
    }
}

/// Both faces of a layer.
#[derive(Clone, Debug)]
pub struct LayerFace {
    /// On disk.
    pub folder: DeltaFolder,
    /// As a tree. The contents of its files are on disk only: see [`View::bring_contents`].
    pub tree: TreeFace,
}

/// What came of unpacking a layer.
#[derive(Debug)]
pub enum Unpacking {
    /// Both faces are there.
    There(LayerFace),
    /// It is complete, but for the metadata of directories that it only implies.
    Draft(LayerDraft),
}

/// A layer that was unpacked and verified, and that nobody sees yet.
#[derive(Debug)]
pub struct LayerDraft {
    name: DeltaName,
    delta: DeltaId,
    draft: Draft,
    tree: TreeFace,
    owners: Owners,
}

impl LayerDraft {
    /// Publishes it. `below` is what it is put on: directories that the layer only implies get their metadata from there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn publish(self, store: &Store, below: Option<&View>) -> Result<LayerFace, SnapshotError> {
        let Self { name, delta, draft, tree, owners } = self;
        if let Some(below) = below.filter(|_| !tree.implied.is_empty()) {
            let path = draft.fs();
            let target = opened(&path)?;
            describe_implied(&tree.implied, below, target.as_fd(), &path, owners)?;
        }
        remember_tree_face(store, &delta, None, &tree)?;
        Ok(LayerFace { folder: publish(store, &name, draft)?, tree })
    }
}

/// Unpacks a layer of a base image, unless both its faces are there. One that is whole in itself is published. Nothing is
/// published, and no tree is kept, before the blob was read to its end and found to be the expected one, with the expected
/// contents; so what `source` opens may still be coming.
///
/// # Errors
/// When the blob is damaged, hostile, or not the expected one, or when the disk fails.
pub fn unpack_layer(
    store: &Store,
    source: &LayerSource<'_>,
    owners: Owners,
) -> Result<Unpacking, SnapshotError> {
    let delta = DeltaId::Layer(source.diff_id);
    let name = face_name(&delta, Disk { mtimes: Mtimes::Tree, owners });
    let mut folder = store.delta(&name)?;
    if let (Some(folder), Some(tree)) = (&folder, tree_face(store, &delta)?) {
        return Ok(Unpacking::There(LayerFace { folder: folder.clone(), tree }));
    }
    // One after the other. Given back before the draft waits for other layers.
    let _alone = making_lock(store, &name)?;
    if folder.is_none() {
        folder = store.delta(&name)?;
    }
    if let Some(folder) = folder {
        let tree = match tree_face(store, &delta)? {
            Some(tree) => tree,
            None => read_layer(store, source, &delta)?,
        };
        return Ok(Unpacking::There(LayerFace { folder, tree }));
    }
    let draft = store.draft()?;
    let path = draft.fs();
    let blob = (source.open)().at("read the layer", store.path())?;
    let target = opened(&path)?;
    let options = UnpackOptions { owners, ..UnpackOptions::default() };
    let unpacked = unpack(blob, &expected(source), target.as_fd(), &options)?.layer;
    let tree = TreeFace {
        tree: store.put_tree(&unpacked.tree)?,
        opaque_root: unpacked.opaque_root,
        implied: unpacked.implied,
        content: None,
    };
    let draft = LayerDraft { name, delta, draft, tree, owners };
    match draft.tree.implied.is_empty() {
        true => Ok(Unpacking::There(draft.publish(store, None)?)),
        false => Ok(Unpacking::Draft(draft)),
    }
}

fn opened(folder: &Path) -> Result<OwnedFd, SnapshotError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, folder, flags, Mode::empty()).at("open", folder)
}

fn expected(source: &LayerSource<'_>) -> Expected {
    Expected { digest: Some(source.blob), diff_id: Some(source.diff_id) }
}

/// The tree face was lost and the disk face was not.
fn read_layer(store: &Store, source: &LayerSource<'_>, delta: &DeltaId) -> Result<TreeFace, SnapshotError> {
    let blob = (source.open)().at("read the layer", store.path())?;
    let options = wbuild_layer::ReadOptions::default();
    let read = wbuild_layer::read_tree(blob, &expected(source), &options, &wbuild_layer::DigestOnly)?;
    let tree = store.put_tree(&read.tree)?;
    let face = TreeFace { tree, opaque_root: read.opaque_root, implied: read.implied, content: None };
    remember_tree_face(store, delta, None, &face)?;
    Ok(face)
}

/// An overlay takes a directory's metadata from the topmost delta that has it, so what a layer leaves open has to be put
/// there.
fn describe_implied(
    implied: &[EntryPath],
    below: &View,
    target: std::os::fd::BorrowedFd<'_>,
    shown: &Path,
    owners: Owners,
) -> Result<(), SnapshotError> {
    for path in implied.iter().rev() {
        let Some(Entry { meta, .. }) = below.entry(path)?.filter(Entry::is_directory) else { continue };
        let shown = shown.join(path.to_path_buf());
        let directory = open_below(target, path, READ).at("open", &shown)?;
        let plain = Meta { xattrs: wbuild_tree::Xattrs::none(), ..meta };
        describe(directory.as_fd(), &plain, plain.mtime, owners).at("describe", &shown)?;
    }
    Ok(())
}
