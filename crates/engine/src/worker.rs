//! The solver's worker: what each operation does, on the store, the contexts, the base images and the executor.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wbuild_executor::{Isolation, Machine};
use wbuild_graph::{
    AddUser, Capture, DeltaId, Exec, FieldValue, FileAction, FileOp, Key, MountKind, Op, Owner, Preimage,
    Snapshot, Source, StepTimes, Vertex,
};
use wbuild_oci::{Digest, Platform};
use wbuild_report::{FieldChange, VertexId};
use wbuild_snapshot::{
    CollectReply, CollectRequest, CollectTimes, Disk, LayerSource, Mtimes, Override, Owners, Selection,
    SnapshotError, TreeFace, View, disk_face, face_name, materialise, publish_exec, remember_tree_face,
    stack_for_mount, tree_face, unpack_layer,
};
use wbuild_solver::{Record, Records, RunContext, Worker};
use wbuild_store::{KeyLock, RecordMeta, Ref, Store};
use wbuild_tree::{
    Change, Entry, EntryPath, Lookup, Meta, Node, Subtree, TreeDigest, TreeLoadError, apply, changes, lookup,
};

use crate::baked;
use crate::conflict::check_outputs;
use crate::contexts::{BuildTrees, LocalContext};
use crate::describe::{KeyFacts, Selected, describe};
use crate::error::EngineError;
use crate::files::{KeepContents, perform};
use crate::handlers;
use crate::images::BaseImages;
use crate::native;
use crate::secrets::Secrets;
use crate::step::{LogFolder, Ran};
use crate::trust::Trust;
use crate::users::{ResolvedUser, resolve_user};

/// passwd and group are never larger.
const MAX_ACCOUNT_FILE: u64 = 1 << 20;

/// What one overlay of the executor takes.
const MAX_LOWERS: usize = 499;

/// Undeclared writes that a warning names.
const NAMED: usize = 8;

/// One build session: everything that operations need.
#[derive(Debug)]
pub struct Engine {
    pub(crate) store: Store,
    pub(crate) images: Arc<BaseImages>,
    pub(crate) contexts: BTreeMap<String, LocalContext>,
    pub(crate) secrets: Secrets,
    pub(crate) trust: Trust,
    pub(crate) platform: Platform,
    pub(crate) build_id: String,
    pub(crate) logs: LogFolder,
    pub(crate) machine: OnceLock<Isolation>,
    /// Undeclared writes of steps so far: repeated when a later step fails (decision 3).
    pub(crate) undeclared: Mutex<Vec<String>>,
    /// Whether a tree counts as present only with the bytes of all its files ([`Engine::look_closely`]).
    pub(crate) closely: AtomicBool,
}

impl Engine {
    /// How steps are isolated on this machine; probed when the first one runs.
    pub(crate) fn isolation(&self) -> Result<Isolation, EngineError> {
        if let Some(isolation) = self.machine.get() {
            return Ok(*isolation);
        }
        let machine = Machine::probe(self.store.path()).map_err(EngineError::Probe)?;
        let isolation = machine.isolation().map_err(|error| EngineError::NoIsolation(Box::new(error)))?;
        Ok(*self.machine.get_or_init(|| isolation))
    }

    pub(crate) fn trees(&self) -> BuildTrees<'_> {
        BuildTrees { store: &self.store, contexts: &self.contexts }
    }

    pub(crate) fn warnings_so_far(&self) -> Vec<String> {
        self.undeclared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on a result is at hand only if every byte of it is. For the solve after an export that found something
    /// missing ([`EngineError::is_lost`]): operations on trees pass digests on, and do not notice.
    pub fn look_closely(&self) {
        self.closely.store(true, Ordering::Relaxed);
    }

    fn is_whole(&self, tree: TreeDigest) -> Result<bool, EngineError> {
        let Ok(top) = Subtree::load(&self.store, tree) else { return Ok(false) };
        let mut pending = vec![top];
        while let Some(subtree) = pending.pop() {
            // One that is damaged is dropped when it is read.
            let Ok(directory) = subtree.open(&self.store) else { return Ok(false) };
            for entry in directory.entries.values() {
                match &entry.node {
                    Node::Directory { contents, .. } => pending.push(contents.clone()),
                    Node::File { content, .. } if !self.store.has_blob(content)? => return Ok(false),
                    _ => {}
                }
            }
        }
        Ok(true)
    }

    /// The tree face of a delta. That of a step is collected when somebody first asks for it, and remembered.
    pub(crate) fn tree_face(&self, delta: &DeltaId) -> Result<Subtree, EngineError> {
        if let DeltaId::Tree { tree, .. } = delta {
            return Subtree::load(&self.trees(), *tree).map_err(|_| EngineError::Lost { delta: *delta });
        }
        if let Some(face) = tree_face(&self.store, delta)? {
            return Ok(self.store.tree(face.tree)?);
        }
        match delta {
            DeltaId::Exec(_) => {
                let folder = disk_face(&self.store, delta, self.disk(Mtimes::Tree))?;
                let folder = folder.ok_or(EngineError::Lost { delta: *delta })?;
                let collected = self.collect(&CollectRequest {
                    dir: folder.fs(),
                    store: self.store.path().to_owned(),
                    overrides: self.kept_owners(delta)?,
                    leave_out: Vec::new(),
                    times: CollectTimes::Keep,
                    outputs: None,
                })?;
                remember_tree_face(&self.store, delta, &TreeFace::of(collected.tree))?;
                Ok(self.store.tree(collected.tree)?)
            }
            _ => {
                self.disk_folder(delta, &Snapshot::default(), Mtimes::Tree)?;
                let face = tree_face(&self.store, delta)?.ok_or(EngineError::Lost { delta: *delta })?;
                Ok(self.store.tree(face.tree)?)
            }
        }
    }

    /// All files of a snapshot as one tree, their contents in the store.
    pub(crate) fn merged(&self, snapshot: &Snapshot) -> Result<Subtree, EngineError> {
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

    /// Walks what a step left, where its files can be read.
    fn collect(&self, request: &CollectRequest) -> Result<CollectReply, EngineError> {
        let bytes = serde_json::to_vec(request).map_err(EngineError::Message)?;
        let helper = |source| EngineError::Helper { doing: "read what a step wrote", source };
        let reply = self.isolation()?.within(handlers::COLLECT, &bytes).map_err(helper)?;
        serde_json::from_slice(&reply).map_err(EngineError::Message)
    }

    /// Owners that the disk face of a step's delta does not have.
    fn kept_owners(&self, delta: &DeltaId) -> Result<Vec<Override>, EngineError> {
        let record = self.store.record(&owners_key(delta))?;
        Ok(record.and_then(|record| serde_json::from_slice(&record.body).ok()).unwrap_or_default())
    }

    /// A snapshot that can be asked for single paths.
    pub(crate) fn view(&self, snapshot: &Snapshot) -> Result<View, EngineError> {
        let disk = self.disk(Mtimes::Tree);
        let mut below = Snapshot::default();
        for delta in &snapshot.deltas {
            let known =
                tree_face(&self.store, delta)?.is_some() || disk_face(&self.store, delta, disk)?.is_some();
            if !known {
                self.disk_folder(delta, &below, Mtimes::Tree)?;
            }
            below = below.with(*delta);
        }
        Ok(View::new(&self.store, snapshot, disk)?)
    }

    fn account_file(&self, view: &View, path: &str) -> Result<Option<String>, EngineError> {
        let path = EntryPath::parse(path).unwrap_or_default();
        let bytes = view.read_file(&path, MAX_ACCOUNT_FILE)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    pub(crate) fn user_of(&self, snapshot: &Snapshot, spec: &str) -> Result<ResolvedUser, EngineError> {
        let view = self.view(snapshot)?;
        let passwd = self.account_file(&view, "etc/passwd")?.unwrap_or_default();
        let group = self.account_file(&view, "etc/group")?.unwrap_or_default();
        Ok(resolve_user(spec, &passwd, &group)?)
    }

    /// How files are on disk here: with their owners where this process may set them.
    pub(crate) fn disk(&self, mtimes: Mtimes) -> Disk {
        Disk { mtimes, owners: Owners::of_process() }
    }

    /// Sees to it that the files of a delta are on disk. `below` is what it stands on.
    fn disk_folder(&self, delta: &DeltaId, below: &Snapshot, mtimes: Mtimes) -> Result<(), EngineError> {
        let disk = self.disk(mtimes);
        let gone = |error: SnapshotError| match error.is_lost() {
            true => EngineError::Lost { delta: *delta },
            false => error.into(),
        };
        if disk_face(&self.store, delta, disk)?.is_some() {
            return Ok(());
        }
        match delta {
            DeltaId::Exec(_) => Err(EngineError::Lost { delta: *delta }),
            DeltaId::Tree { tree, .. } => materialise(&self.store, *tree, disk).map(|_| ()).map_err(gone),
            DeltaId::Layer(layer) => {
                let base = self.images.layer(layer).ok_or(EngineError::Lost { delta: *delta })?;
                let open = || {
                    let blob = base.open().map_err(io::Error::other)?;
                    Ok(Box::new(blob) as Box<dyn io::Read + Send>)
                };
                let source = LayerSource { diff_id: *layer, blob: base.descriptor.digest, open: &open };
                let view = if below.deltas.is_empty() { None } else { Some(self.view(below)?) };
                unpack_layer(&self.store, &source, disk.owners, view.as_ref()).map(|_| ()).map_err(gone)
            }
        }
    }

    /// The folders of a snapshot for an overlay, the topmost first.
    pub(crate) fn lowers(&self, snapshot: &Snapshot, mtimes: Mtimes) -> Result<Vec<PathBuf>, EngineError> {
        let mut below = Snapshot::default();
        for delta in &snapshot.deltas {
            self.disk_folder(delta, &below, mtimes)?;
            below = below.with(*delta);
        }
        Ok(stack_for_mount(&self.store, snapshot, self.disk(mtimes), MAX_LOWERS)?)
    }

    fn run_exec(&self, context: &RunContext<'_>, exec: &Exec) -> Result<Snapshot, EngineError> {
        let base = &context.inputs[0];
        check_outputs(context.graph, context.vertex, base, &self.trees())?;
        let mtimes = match exec.times {
            StepTimes::Kept => Mtimes::Tree,
            StepTimes::FromContent => Mtimes::FromContent,
        };
        let user = self.user_of(base, &exec.user)?;
        let lowers = self.lowers(base, mtimes)?;
        let mut binds = BTreeMap::new();
        for (index, mount) in exec.mounts.iter().enumerate() {
            if let MountKind::Bind { input, .. } = &mount.kind {
                binds.insert(index, self.lowers(&context.inputs[*input], mtimes)?);
            }
        }
        let Ran { draft, finished } = self.run_step(context, exec, lowers, &user, &binds)?;
        let overrides: Vec<Override> = finished.ownership.iter().map(handlers::owner).collect();
        match &exec.capture {
            Capture::All => {
                let delta = DeltaId::Exec(context.key);
                if !overrides.is_empty() {
                    let body = serde_json::to_vec(&overrides).map_err(EngineError::Message)?;
                    let meta =
                        RecordMeta { refs: vec![Ref::Delta(face_name(&delta, self.disk(Mtimes::Tree)))] };
                    self.store.replace_record(&owners_key(&delta), &meta, &body)?;
                }
                publish_exec(&self.store, draft, context.key)?;
                Ok(base.with(delta))
            }
            Capture::Outputs { include, exclude, expected } => {
                let collected = self.collect(&CollectRequest {
                    dir: draft.fs(),
                    store: self.store.path().to_owned(),
                    overrides,
                    leave_out: Vec::new(),
                    times: CollectTimes::Normal,
                    outputs: Some(Selection {
                        include: include.clone(),
                        exclude: exclude.clone(),
                        expected: expected.clone(),
                    }),
                })?;
                self.warn_undeclared(context, &collected);
                self.warn_unreproducible(context, exec, &self.store.tree(collected.tree)?)?;
                Ok(base.with(DeltaId::Tree { tree: collected.tree, content: collected.content }))
            }
        }
    }

    fn warn_undeclared(&self, context: &RunContext<'_>, collected: &CollectReply) {
        if collected.undeclared.is_empty() {
            return;
        }
        let named: Vec<String> = collected.undeclared.iter().take(NAMED).map(ToString::to_string).collect();
        let more = collected.undeclared_count.saturating_sub(named.len() as u64);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let message = format!(
            "{} wrote files that are not declared as outputs, and they are dropped: {}{more}",
            context.vertex.name,
            named.join(", ")
        );
        let hint = "add them to `outputs` of the task in turbo.json if a later task needs them".to_owned();
        self.undeclared.lock().unwrap_or_else(PoisonError::into_inner).push(message.clone());
        context.events.warn(Some(context.id), message, vec![hint]);
    }

    /// Says which files make one cold build differ from the next: those that hold keys which the step made up because no
    /// secret was given, and, when the step ran before with the very same key, those that came out differently.
    fn warn_unreproducible(
        &self,
        context: &RunContext<'_>,
        exec: &Exec,
        new: &Subtree,
    ) -> Result<(), EngineError> {
        let trees = self.trees();
        let name = &context.vertex.name;
        let missing = missing_baked_secrets(exec, &self.secrets);
        let hint = || {
            let ids: Vec<String> = missing.iter().map(|id| format!("--secret id={id},src=FILE")).collect();
            if ids.is_empty() {
                Vec::new()
            } else {
                vec![format!("for one digest everywhere give {}", ids.join(" "))]
            }
        };
        if !missing.is_empty() {
            let holders = baked::holders(&self.store, &trees, new)?;
            if !holders.is_empty() {
                let files = baked::named(holders.iter());
                let message = format!(
                    "{name} made up keys, which differ from one cold build to the next, and wrote them to {files}"
                );
                context.events.warn(Some(context.id), message, hint());
            }
        }
        let Some(earlier) = self.record(&context.key)? else { return Ok(()) };
        let Some(DeltaId::Tree { tree, .. }) = earlier.snapshot.deltas.last() else { return Ok(()) };
        let Ok(old) = self.store.tree(*tree) else { return Ok(()) };
        if let Some(files) = baked::difference(&trees, &old, new)? {
            let message = format!("{name} ran again on the same inputs, and wrote other bytes to {files}");
            context.events.warn(Some(context.id), message, hint());
        }
        Ok(())
    }

    fn run_file(&self, context: &RunContext<'_>, file: &FileOp) -> Result<Snapshot, EngineError> {
        let trees = self.trees();
        let base = &context.inputs[0];
        let view = BaseRoot(self.view(base)?);
        let inputs = |index: usize| self.merged(&context.inputs[index]);
        let delta = perform(&trees, &StoreContents(&self.store), &view, &inputs, &file.actions);
        self.keep_tree(base, &delta.map_err(EngineError::from)?)
    }

    fn run_add_user(&self, base: &Snapshot, add: &AddUser) -> Result<Snapshot, EngineError> {
        let view = self.view(base)?;
        let passwd = self.account_file(&view, "etc/passwd")?.unwrap_or_default();
        let group = self.account_file(&view, "etc/group")?.unwrap_or_default();
        let shadow = self.account_file(&view, "etc/shadow")?;
        let view = BaseRoot(view);
        let (passwd, group, shadow) = native::add_user(&passwd, &group, shadow.as_deref(), add)?;
        let trees = self.trees();
        let mut actions = Vec::new();
        let files = [
            ("etc/passwd", Some(passwd), 0o644),
            ("etc/group", Some(group), 0o644),
            ("etc/shadow", shadow, 0o640),
        ];
        for (path, text, mode) in files {
            let Some(text) = text else { continue };
            let path = EntryPath::parse(path).unwrap_or_default();
            // What the base has stays as it is, but for the line.
            let existing = view.entry(&path)?.map(|entry| entry.meta);
            let mode = existing.as_ref().map_or(mode, |meta| meta.mode);
            let owner = existing.map_or_else(Owner::default, |meta| Owner { uid: meta.uid, gid: meta.gid });
            actions.push(FileAction::Mkfile { path, contents: text.into_bytes(), mode, owner });
        }
        let none = |_| Ok(Subtree::empty());
        let delta = perform(&trees, &StoreContents(&self.store), &view, &none, &actions);
        self.keep_tree(base, &delta.map_err(EngineError::from)?)
    }

    /// Stores a delta's tree and stacks it on `base`.
    fn keep_tree(&self, base: &Snapshot, tree: &Subtree) -> Result<Snapshot, EngineError> {
        self.store.put_tree(tree)?;
        Ok(base.with(DeltaId::Tree { tree: tree.digest(), content: tree.content() }))
    }

    fn context(&self, name: &str) -> Result<&LocalContext, EngineError> {
        self.contexts.get(name).ok_or_else(|| EngineError::UnknownContext { name: name.to_owned() })
    }
}

fn owners_key(delta: &DeltaId) -> Digest {
    Digest::of(format!("owners\0{}", delta.name()).as_bytes())
}

/// A root file system that answers with this crate's errors.
struct BaseRoot(View);

impl Lookup for BaseRoot {
    type Error = EngineError;

    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, EngineError> {
        Ok(self.0.entry(path)?)
    }
}

struct StoreContents<'a>(&'a Store);

impl KeepContents for StoreContents<'_> {
    fn keep(&self, bytes: &[u8]) -> io::Result<Digest> {
        self.0.put_bytes(bytes).map_err(io::Error::other)
    }
}

impl Records for Engine {
    type Error = EngineError;
    type Lock = KeyLock;

    fn record(&self, key: &Key) -> Result<Option<Record>, EngineError> {
        let Some(stored) = self.store.record(&key.0)? else { return Ok(None) };
        Ok(Record::from_bytes(&stored.body).ok())
    }

    fn remember(&self, key: &Key, identity: &str, record: &Record, replace: bool) -> Result<(), EngineError> {
        let refs = record.snapshot.deltas.iter().filter_map(|delta| match delta {
            DeltaId::Layer(_) => None,
            DeltaId::Tree { tree, .. } => Some(Ref::Tree(*tree)),
            DeltaId::Exec(_) => Some(Ref::Delta(face_name(delta, self.disk(Mtimes::Tree)))),
        });
        let meta = RecordMeta { refs: refs.collect() };
        let body = record.to_bytes();
        if replace {
            self.store.replace_record(&key.0, &meta, &body)?;
        } else {
            self.store.put_record(&key.0, &meta, &body)?;
        }
        Ok(self.store.set_latest(&Digest::of(identity.as_bytes()), &key.0)?)
    }

    fn latest(&self, identity: &str) -> Result<Option<Record>, EngineError> {
        let Some(key) = self.store.latest(&Digest::of(identity.as_bytes()))? else { return Ok(None) };
        let stored = self.store.peek_record(&key)?;
        Ok(stored.and_then(|stored| Record::from_bytes(&stored.body).ok()))
    }

    fn lock(&self, key: &Key) -> Result<KeyLock, EngineError> {
        Ok(self.store.lock(&key.0)?)
    }
}

impl Worker for Engine {
    fn locate(&self, _: VertexId, vertex: &Vertex) -> Result<Snapshot, EngineError> {
        match &vertex.op {
            Op::Source(Source::Image { reference }) => {
                let image = self.images.open(reference, &self.platform)?;
                let deltas = image.image.layers.iter().map(|layer| DeltaId::Layer(layer.diff_id)).collect();
                Ok(Snapshot { deltas })
            }
            Op::Source(Source::Local { context, paths }) => {
                let tree = self.context(context)?.locate(paths.as_deref(), &self.store)?;
                Ok(Snapshot::of_tree(tree.digest(), tree.content()))
            }
            _ => Ok(Snapshot::default()),
        }
    }

    fn describe(&self, vertex: &Vertex, inputs: &[Snapshot]) -> Result<Preimage, EngineError> {
        Ok(describe(vertex, inputs, self)?)
    }

    fn run(&self, context: &RunContext<'_>) -> Result<Snapshot, EngineError> {
        let trees = self.trees();
        match &context.vertex.op {
            Op::Source(Source::Local { context: name, paths }) => {
                let tree = self.context(name)?.fetch(paths.as_deref(), &self.store)?;
                Ok(Snapshot::of_tree(tree.digest(), tree.content()))
            }
            Op::Source(_) | Op::Merge | Op::Diff => Ok(context.inputs.first().cloned().unwrap_or_default()),
            Op::Exec(exec) => self.run_exec(context, exec),
            Op::File(file) => self.run_file(context, file),
            Op::AddUser(add) => self.run_add_user(&context.inputs[0], add),
            Op::Select(select) => {
                let merged = self.merged(&context.inputs[0])?;
                self.keep_tree(&Snapshot::default(), &native::select(&trees, &merged, select)?)
            }
            Op::Partition(partition) => {
                let merged = self.merged(&context.inputs[0])?;
                let parts = native::partition(&trees, &merged, partition)?;
                parts.iter().try_fold(Snapshot::default(), |below, part| self.keep_tree(&below, part))
            }
            Op::Assert(assert) => {
                native::check(&trees, &self.merged(&context.inputs[0])?, assert)?;
                Ok(context.inputs[0].clone())
            }
        }
    }

    fn present(&self, delta: &DeltaId) -> Result<bool, EngineError> {
        Ok(match delta {
            DeltaId::Layer(_) => true,
            DeltaId::Tree { tree, .. } if self.closely.load(Ordering::Relaxed) => self.is_whole(*tree)?,
            DeltaId::Tree { tree, .. } => self.store.has_tree(*tree)?,
            DeltaId::Exec(_) => disk_face(&self.store, delta, self.disk(Mtimes::Tree))?.is_some(),
        })
    }

    fn lost(&self, error: &EngineError) -> Option<DeltaId> {
        match error {
            EngineError::Lost { delta } => Some(*delta),
            _ => None,
        }
    }

    fn explain(&self, old: &Preimage, new: &Preimage, field: &str) -> Vec<FieldChange> {
        const FILES: usize = 5;
        let trees = self.trees();
        let tree = |preimage: &Preimage| match preimage.get(field) {
            Some(FieldValue::Tree { tree, .. }) => Subtree::load(&trees, *tree).ok(),
            _ => None,
        };
        let (Some(old), Some(new)) = (tree(old), tree(new)) else { return Vec::new() };
        // A tree that is gone explains nothing; the field itself is still named.
        let found = changes(&trees, &old, &new, FILES).unwrap_or_default();
        let change = |change: Change| {
            let path = change.path().to_string();
            let (old, new) = match change {
                Change::Added(_) => (None, Some("added".to_owned())),
                Change::Removed(_) => (Some("removed".to_owned()), None),
                Change::Modified(_) => (Some("before".to_owned()), Some("after".to_owned())),
            };
            FieldChange { field: path, old, new }
        };
        found.into_iter().map(change).collect()
    }
}

impl KeyFacts for Engine {
    fn platform(&self) -> String {
        self.platform.to_string()
    }

    fn secret_given(&self, id: &str) -> bool {
        self.secrets.get(id).is_some()
    }

    fn selected(&self, snapshot: &Snapshot, path: &EntryPath) -> Result<Option<Selected>, TreeLoadError> {
        let trees = self.trees();
        let mut merged = Subtree::empty();
        for delta in &snapshot.deltas {
            let DeltaId::Tree { tree, .. } = delta else { return Ok(None) };
            let Ok(subtree) = Subtree::load(&trees, *tree) else { return Ok(None) };
            merged = apply(&trees, &merged, &subtree)?;
        }
        if path.is_root() {
            return Ok(Some(Selected::Directory(merged.digest(), merged.content())));
        }
        Ok(Some(match lookup(&trees, &merged, path)? {
            None => Selected::Nothing,
            Some(entry) => match &entry.node {
                Node::Directory { contents, .. } => {
                    Selected::Directory(contents.digest(), contents.content())
                }
                // Its own entry in a directory of its own: the digest of everything that counts about it.
                _ => {
                    let name = path.split_last().map(|(_, name)| name);
                    let mut alone = wbuild_tree::Directory::default();
                    if let Some(name) = name {
                        alone.entries.insert(name, entry);
                    }
                    Selected::Other(Subtree::new(alone).content().0)
                }
            },
        }))
    }
}

/// The secrets that a step bakes into its output and that were not given.
fn missing_baked_secrets<'a>(exec: &'a Exec, secrets: &Secrets) -> Vec<&'a str> {
    let env =
        exec.secret_env.iter().filter(|secret| secret.version.is_some()).map(|secret| secret.id.as_str());
    let files = exec.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Secret { id, version: Some(_), .. } => Some(id.as_str()),
        _ => None,
    });
    env.chain(files).filter(|id| secrets.get(id).is_none()).collect()
}

/// Which secrets a graph's steps ask for.
pub(crate) fn secrets_asked_for(graph: &wbuild_graph::Graph) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for (_, vertex) in graph.iter() {
        let Op::Exec(exec) = &vertex.op else { continue };
        ids.extend(exec.secret_env.iter().map(|secret| secret.id.clone()));
        ids.extend(exec.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Secret { id, .. } => Some(id.clone()),
            _ => None,
        }));
        for mount in &exec.mounts {
            let MountKind::Scratchpad { contents, .. } = &mount.kind else { continue };
            let text = String::from_utf8_lossy(contents);
            ids.extend(text.split("${").skip(1).filter_map(|rest| Some(rest.split_once('}')?.0.to_owned())));
        }
    }
    ids
}
