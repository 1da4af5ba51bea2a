//! Both faces of deltas: made from each other when a step or an export needs them, and looked at before they are used.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use wbuild_executor::Identity;
use wbuild_graph::{DeltaId, Snapshot};
use wbuild_oci::Digest;
use wbuild_snapshot::{
    CollectReply, CollectRequest, CollectTimes, Disk, Mtimes, NoteOwners, Override, OwnerSource, Owners,
    SnapshotError, TreeFace, View, disk_face, forget_tree_face, materialise, remember_tree_face,
    restore_exec, seal, stack_for_mount, tree_face,
};
use wbuild_store::{DeltaFolder, StoreError};
use wbuild_tree::{Entry, EntryPath, Meta, Node, Subtree, TreeDigest, TreeSource, apply};

use crate::error::EngineError;
use crate::handlers;
use crate::users::ResolvedUser;
use crate::worker::Engine;

/// What one overlay of the executor takes.
const MAX_LOWERS: usize = 499;

/// How often a step's delta may be replaced by others while its tree is made.
const MAX_REPLACED: usize = 4;

/// What this build looked at and found right. Each thing is looked at once.
#[derive(Debug, Default)]
pub(crate) struct Inspected {
    /// Whether a tree counts as present only with the bytes of all its files.
    closely: AtomicBool,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    /// Instances of disk faces that look as they were published.
    folders: BTreeSet<String>,
    /// Trees that are there, with all trees below them.
    listings: BTreeSet<TreeDigest>,
    /// Trees that are there, with the bytes of all files below them.
    trees: BTreeSet<TreeDigest>,
}

impl Inspected {
    pub(crate) fn closely(&self) -> bool {
        self.closely.load(Ordering::Relaxed)
    }

    /// Forgets what was found, since something of it has turned out not to be right.
    pub(crate) fn look_closely(&self) {
        self.closely.store(true, Ordering::Relaxed);
        *self.found() = Found::default();
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much of a tree has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Its directories: contents of base layers are on disk only.
    Listing,
    /// The bytes of its files, too.
    Contents,
}

impl Engine {
    /// From now on a result is at hand only if every byte of it is. For the solve after an export that found something
    /// missing ([`EngineError::is_lost`]): operations on trees pass digests on, and do not notice.
    pub fn look_closely(&self) {
        self.store.look_closely();
        self.inspected.look_closely();
    }

    /// Looks at a tree and all that is below it; what is damaged is dropped. How closely, the store knows.
    pub(crate) fn is_whole(&self, tree: TreeDigest, extent: Extent) -> Result<bool, EngineError> {
        let known = {
            let found = self.inspected.found();
            found.trees.contains(&tree) || extent == Extent::Listing && found.listings.contains(&tree)
        };
        if known {
            return Ok(true);
        }
        let mut whole = true;
        let mut pending = match self.store.directory(tree).map(Subtree::new) {
            Ok(top) => vec![top],
            Err(error) => return lost_or(error.into()),
        };
        // To the end, so that one look finds all that is damaged.
        while let Some(subtree) = pending.pop() {
            let directory = match subtree.open(&self.store) {
                Ok(directory) => directory,
                Err(error) => {
                    whole = lost_or(error.into())?;
                    continue;
                }
            };
            for entry in directory.entries.values() {
                match &entry.node {
                    Node::Directory { contents, .. } => pending.push(contents.clone()),
                    Node::File { content, .. } if extent == Extent::Contents => {
                        whole &= self.store.has_blob(content)?;
                    }
                    _ => {}
                }
            }
        }
        if whole {
            let mut found = self.inspected.found();
            match extent {
                Extent::Listing => found.listings.insert(tree),
                Extent::Contents => found.trees.insert(tree),
            };
        }
        Ok(whole)
    }

    /// Whether a delta is at hand with all that its faces consist of. What can be made again from what is left of it is
    /// forgotten, and then is.
    pub(crate) fn present_to_the_last_byte(&self, delta: &DeltaId) -> Result<bool, EngineError> {
        match delta {
            DeltaId::Tree { tree, .. } => self.is_whole(*tree, Extent::Contents),
            DeltaId::Layer(_) => {
                if let Some(face) = tree_face(&self.store, delta)?
                    && !self.is_whole(face.tree, Extent::Listing)?
                {
                    forget_tree_face(&self.store, delta)?;
                }
                Ok(true)
            }
            DeltaId::Exec(_) => {
                let Some(_) = self.intact_folder(delta, Mtimes::Tree)? else {
                    let imported = tree_face(&self.store, delta)?;
                    let whole = |face: TreeFace| self.is_whole(face.tree, Extent::Contents);
                    return imported.map_or(Ok(false), whole);
                };
                if let Some(face) = tree_face(&self.store, delta)?
                    && !self.is_whole(face.tree, Extent::Contents)?
                {
                    forget_tree_face(&self.store, delta)?;
                }
                Ok(true)
            }
        }
    }

    /// The disk face of a delta, if it is there and looks as it was published. One that does not is dropped.
    fn intact_folder(&self, delta: &DeltaId, mtimes: Mtimes) -> Result<Option<DeltaFolder>, EngineError> {
        let Some(folder) = disk_face(&self.store, delta, self.disk(mtimes))? else { return Ok(None) };
        if self.looks_as_published(&folder)? {
            return Ok(Some(folder));
        }
        self.store.drop_delta(folder.name())?;
        Ok(None)
    }

    /// Whether nobody wrote to the files of a disk face, as far as their metadata tell.
    pub(crate) fn looks_as_published(&self, folder: &DeltaFolder) -> Result<bool, EngineError> {
        if self.inspected.found().folders.contains(folder.instance()) {
            return Ok(true);
        }
        if self.seal(&folder.fs())? != *folder.seal() {
            return Ok(false);
        }
        self.inspected.found().folders.insert(folder.instance().to_owned());
        Ok(true)
    }

    /// What the files of a disk face look like.
    pub(crate) fn seal(&self, dir: &Path) -> Result<Digest, EngineError> {
        match seal(dir) {
            // Directories that a step closed: in its user namespace they are open.
            Err(error) if is_denied(&error) => self.ask(handlers::SEAL, &dir, "look at what a step wrote"),
            other => Ok(other?),
        }
    }

    /// Asks a helper in the user namespace of steps.
    pub(crate) fn ask<A: DeserializeOwned>(
        &self,
        handler: &str,
        request: &impl Serialize,
        doing: &'static str,
    ) -> Result<A, EngineError> {
        let bytes = serde_json::to_vec(request).map_err(EngineError::Message)?;
        let helper = |source| EngineError::Helper { doing, source };
        let reply = self.isolation()?.within(handler, &bytes).map_err(helper)?;
        serde_json::from_slice(&reply).map_err(EngineError::Message)
    }

    /// Walks what a step left, where its files can be read.
    pub(crate) fn collect(&self, request: &CollectRequest) -> Result<CollectReply, EngineError> {
        self.ask(handlers::COLLECT, request, "read what a step wrote")
    }

    /// The tree face of a delta. That of a step is collected when somebody first asks for it, and remembered.
    pub(crate) fn tree_face(&self, delta: &DeltaId) -> Result<Subtree, EngineError> {
        let lost = EngineError::Lost { delta: *delta };
        if let DeltaId::Tree { tree, .. } = delta {
            return Subtree::load(&self.trees(), *tree).map_err(|error| match EngineError::from(error) {
                error if error.is_lost() => lost,
                error => error,
            });
        }
        if let Some(face) = tree_face(&self.store, delta)? {
            match self.store.tree(face.tree) {
                Err(error) if error.is_lost() => forget_tree_face(&self.store, delta)?,
                other => return Ok(other?),
            }
        }
        if let DeltaId::Exec(_) = delta {
            return self.collected(delta);
        }
        self.disk_folder(delta, &Snapshot::default(), Mtimes::Tree)?;
        let face = tree_face(&self.store, delta)?.ok_or(lost)?;
        Ok(self.store.tree(face.tree)?)
    }

    /// Makes the tree face of a step's delta.
    fn collected(&self, delta: &DeltaId) -> Result<Subtree, EngineError> {
        let lost = || EngineError::Lost { delta: *delta };
        for _ in 0..MAX_REPLACED {
            let folder = self.intact_folder(delta, Mtimes::Tree)?.ok_or_else(lost)?;
            let collected = self.collect(&CollectRequest {
                dir: folder.fs(),
                store: self.store.path().to_owned(),
                owners: self.owner_source()?,
                overrides: self.kept_owners(delta, &folder)?,
                leave_out: Vec::new(),
                times: CollectTimes::Keep,
                outputs: None,
                closely: self.inspected.closely(),
            })?;
            // Another build may have forced the step meanwhile: then these may be the files of either.
            let now = disk_face(&self.store, delta, self.disk(Mtimes::Tree))?;
            if now.is_some_and(|now| now.instance() == folder.instance()) {
                let face = TreeFace::of_step(collected.tree, collected.content);
                remember_tree_face(&self.store, delta, Some(&folder), &face)?;
                return Ok(self.store.tree(collected.tree)?);
            }
        }
        Err(lost())
    }

    /// Where it stands whose the files of steps are on this machine.
    pub(crate) fn owner_source(&self) -> Result<OwnerSource, EngineError> {
        Ok(match self.isolation()?.identity() {
            Identity::Root => OwnerSource::Disk,
            Identity::SingleId => OwnerSource::Notes,
        })
    }

    /// Writes on the files of a step whose they are, where the file system cannot be told. Gives back what is to be kept
    /// beside them.
    pub(crate) fn note_owners(
        &self,
        dir: PathBuf,
        user: &ResolvedUser,
        overrides: Vec<Override>,
    ) -> Result<Vec<Override>, EngineError> {
        let all_roots = (user.uid, user.gid) == (0, 0) && overrides.is_empty();
        if self.owner_source()? == OwnerSource::Disk || all_roots {
            return Ok(overrides);
        }
        let request = NoteOwners { dir, user: (user.uid, user.gid), overrides };
        self.ask(handlers::NOTE_OWNERS, &request, "note whose the files of a step are")
    }

    /// Owners that the disk face of a step's delta does not have.
    pub(crate) fn kept_owners(
        &self,
        delta: &DeltaId,
        folder: &DeltaFolder,
    ) -> Result<Vec<Override>, EngineError> {
        match folder.notes() {
            Ok(notes) => notes
                .map_or(Ok(Vec::new()), |notes| serde_json::from_slice(&notes))
                .map_err(EngineError::Message),
            Err(error) if error.is_lost() => {
                self.store.drop_delta(folder.name())?;
                Err(EngineError::Lost { delta: *delta })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// All files of a snapshot as one tree, their contents in the store.
    pub(crate) fn merged(&self, snapshot: &Snapshot) -> Result<Subtree, EngineError> {
        self.base_layers_on_disk(snapshot)?;
        let trees = self.trees();
        let mut merged = Subtree::empty();
        for delta in &snapshot.deltas {
            merged = apply(&trees, &merged, &self.tree_face(delta)?)?;
        }
        if snapshot.deltas.iter().any(|delta| matches!(delta, DeltaId::Layer(_))) {
            // Base layers are unpacked to disk only; whoever merges them is about to copy something of them.
            let view = self.view(snapshot)?;
            let root = Entry::directory(Meta::new(0o755), merged.clone());
            view.bring_contents(&EntryPath::root(), &root)?;
        }
        Ok(merged)
    }

    /// A snapshot that can be asked for single paths.
    pub(crate) fn view(&self, snapshot: &Snapshot) -> Result<View, EngineError> {
        self.base_layers_on_disk(snapshot)?;
        self.view_of(snapshot)
    }

    /// The same, when its base layers are on disk.
    pub(crate) fn view_of(&self, snapshot: &Snapshot) -> Result<View, EngineError> {
        let disk = self.disk(Mtimes::Tree);
        let mut below = Snapshot::default();
        for delta in &snapshot.deltas {
            let listed = tree_face(&self.store, delta)?.is_some();
            // The contents of a layer's files are nowhere but on disk.
            let known = match delta {
                DeltaId::Layer(_) => listed && disk_face(&self.store, delta, disk)?.is_some(),
                _ => listed || disk_face(&self.store, delta, disk)?.is_some(),
            };
            if !known {
                self.disk_folder(delta, &below, Mtimes::Tree)?;
            }
            below = below.with(*delta);
        }
        Ok(View::new(&self.store, snapshot, disk)?)
    }

    /// Sees to it that the base layers of a snapshot are on disk, where the bytes of their files are.
    pub(crate) fn layers_on_disk(&self, snapshot: &Snapshot) -> Result<(), EngineError> {
        self.to_disk(snapshot, Mtimes::Tree, |delta| matches!(delta, DeltaId::Layer(_)))
    }

    /// Makes the folders of those deltas of a snapshot that are `wanted`.
    fn to_disk(
        &self,
        snapshot: &Snapshot,
        mtimes: Mtimes,
        wanted: impl Fn(&DeltaId) -> bool,
    ) -> Result<(), EngineError> {
        self.base_layers_on_disk(snapshot)?;
        let mut below = Snapshot::default();
        for delta in &snapshot.deltas {
            if wanted(delta) {
                self.disk_folder(delta, &below, mtimes)?;
            }
            below = below.with(*delta);
        }
        Ok(())
    }

    /// How files are on disk here: with their owners where this process may set them.
    pub(crate) fn disk(&self, mtimes: Mtimes) -> Disk {
        Disk { mtimes, owners: Owners::of_process() }
    }

    /// Sees to it that the files of a delta are on disk, as they should be. `below` is what it stands on.
    fn disk_folder(&self, delta: &DeltaId, below: &Snapshot, mtimes: Mtimes) -> Result<(), EngineError> {
        let disk = self.disk(mtimes);
        let gone = |error: SnapshotError| match error.is_lost() {
            true => EngineError::Lost { delta: *delta },
            false => error.into(),
        };
        if self.intact_folder(delta, mtimes)?.is_some()
            && (!matches!(delta, DeltaId::Layer(_)) || tree_face(&self.store, delta)?.is_some())
        {
            return Ok(());
        }
        match delta {
            DeltaId::Exec(key) => {
                let lost = || EngineError::Lost { delta: *delta };
                let face = tree_face(&self.store, delta)?.ok_or_else(lost)?;
                let restored = self
                    .bring_files(face.tree)
                    .and_then(|()| restore_exec(&self.store, *key, &face).map_err(EngineError::from));
                restored.map(|_| ()).map_err(|_| {
                    // Whatever it was: the step can be run here.
                    let _ = forget_tree_face(&self.store, delta);
                    lost()
                })
            }
            DeltaId::Tree { tree, .. } => {
                self.bring_files(*tree).or_else(|error| lost_or(error).map(|_| ()))?;
                materialise(&self.store, *tree, disk).map(|_| ()).map_err(gone)
            }
            DeltaId::Layer(layer) => {
                let unpacked = self.unpack_base_layer(layer)?;
                self.publish_base_layer(layer, unpacked, below)
            }
        }
    }

    /// Has the contents of a tree's files come from upstream, all at once.
    pub(crate) fn bring_files(&self, tree: TreeDigest) -> Result<(), EngineError> {
        if self.shared.imports() {
            self.store.bring_contents(&self.store.tree(tree)?)?;
        }
        Ok(())
    }

    /// The folders of a snapshot for an overlay, the topmost first.
    pub(crate) fn lowers(&self, snapshot: &Snapshot, mtimes: Mtimes) -> Result<Vec<PathBuf>, EngineError> {
        self.to_disk(snapshot, mtimes, |_| true)?;
        Ok(stack_for_mount(&self.store, snapshot, self.disk(mtimes), MAX_LOWERS)?)
    }
}

/// `false` for what is lost.
fn lost_or(error: EngineError) -> Result<bool, EngineError> {
    if error.is_lost() { Ok(false) } else { Err(error) }
}

/// Whether this process may not look at something.
pub(crate) fn is_denied(error: &SnapshotError) -> bool {
    let kind = match error {
        SnapshotError::Io { source, .. } | SnapshotError::Store(StoreError::Io { source, .. }) => {
            source.kind()
        }
        _ => return false,
    };
    kind == io::ErrorKind::PermissionDenied
}
