//! The solver's worker: what each operation does, on the store, the contexts, the base images and the executor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wbuild_executor::{Isolation, Machine};
use wbuild_graph::{
    AddUser, Cache, Capture, DeltaId, Exec, FieldValue, FileAction, FileOp, Key, MountKind, Op, Owner,
    Preimage, Snapshot, Source, StepTimes, Vertex,
};
use wbuild_oci::{Digest, Platform};
use wbuild_report::{FieldChange, VertexId};
use wbuild_snapshot::{
    CollectReply, CollectRequest, CollectTimes, Existing, Mtimes, Override, Selection, View, disk_face,
    face_name, materialise, publish_exec, tree_face,
};
use wbuild_solver::{Loss, Record, Records, RunContext, Worker};
use wbuild_store::{KeyLock, RecordMeta, Ref, Store, Stored};
use wbuild_tree::{
    Change, Directory, Entry, EntryPath, Lookup, Subtree, TreeDigest, TreeLoadError, TreeSource, changes,
    lookup,
};

use crate::baked;
use crate::caches::Seed;
use crate::conflict::check_outputs;
use crate::contexts::{BuildTrees, LocalContext};
use crate::describe::{KeyFacts, describe};
use crate::early::Early;
use crate::error::EngineError;
use crate::faces::Inspected;
use crate::files::perform;
use crate::handlers;
use crate::images::BaseImages;
use crate::inputs::{MAX_ACCOUNT_FILE, NoInputs, StepInputs, StoreContents};
use crate::native;
use crate::remote::Remotes;
use crate::secrets::Secrets;
use crate::session::IsolationMode;
use crate::sharing::Shared;
use crate::step::{LogFolder, Ran};
use crate::transfers::Transfers;
use crate::trust::Trust;
use crate::turbo::TurboServer;
use crate::users::{ResolvedUser, resolve_user};

/// Why there is no record, where there was one.
pub(crate) const DAMAGED_RECORD: &str = "its record was damaged";

/// Undeclared writes that a warning names.
const NAMED: usize = 8;

/// One build session: everything that operations need.
#[derive(Debug)]
pub struct Engine {
    pub(crate) store: Store,
    pub(crate) images: Arc<BaseImages>,
    pub(crate) contexts: BTreeMap<String, LocalContext>,
    pub(crate) secrets: Secrets,
    /// Sockets of SSH agents, by name.
    pub(crate) agents: BTreeMap<String, PathBuf>,
    pub(crate) trust: Trust,
    pub(crate) platform: Platform,
    pub(crate) build_id: String,
    pub(crate) logs: LogFolder,
    /// How steps may be isolated.
    pub(crate) isolate: IsolationMode,
    pub(crate) machine: OnceLock<Isolation>,
    /// Undeclared writes of steps so far: repeated when a later step fails (decision 3).
    pub(crate) undeclared: Mutex<Vec<String>>,
    /// Sources on the network.
    pub(crate) remotes: Remotes,
    /// What moves to and from registries.
    pub(crate) transfers: Arc<Transfers>,
    /// Who wants layers before there is an image.
    pub(crate) early: Early,
    /// What was read in full, or looked at, and found right.
    pub(crate) inspected: Inspected,
    /// Remote caches.
    pub(crate) shared: Shared,
    /// The remote cache that `turbo` in steps finds.
    pub(crate) turbo: Option<TurboServer>,
}

impl Engine {
    /// How steps are isolated on this machine; probed when the first one runs.
    pub(crate) fn isolation(&self) -> Result<Isolation, EngineError> {
        if self.isolate == IsolationMode::NoRun {
            return Err(EngineError::NoRun);
        }
        if let Some(isolation) = self.machine.get() {
            return Ok(*isolation);
        }
        let machine = Machine::probe(self.store.path()).map_err(EngineError::Probe)?;
        let isolation = machine.isolation().map_err(|error| EngineError::NoIsolation(Box::new(error)))?;
        Ok(*self.machine.get_or_init(|| isolation))
    }

    /// Whether steps can run programs of a platform here: it is this machine's, or there is an emulator for it.
    ///
    /// # Errors
    /// When that cannot be tried.
    pub fn runs(&self, platform: &Platform) -> Result<bool, EngineError> {
        let host = Platform::host();
        if platform.os != host.os {
            return Ok(false);
        }
        if platform.architecture == host.architecture {
            return Ok(true);
        }
        Machine::runs(&platform.architecture, self.store.path()).map_err(EngineError::Probe)
    }

    pub(crate) fn trees(&self) -> BuildTrees<'_> {
        BuildTrees { store: &self.store, contexts: &self.contexts }
    }

    pub(crate) fn warnings_so_far(&self) -> Vec<String> {
        self.undeclared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn account_file(&self, view: &View, path: &str) -> Result<Option<String>, EngineError> {
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

    /// The files that a cache mount begins with, on disk.
    fn seed(&self, snapshot: &Snapshot, source: &EntryPath) -> Result<Seed, EngineError> {
        let merged = self.merged(snapshot)?;
        let tree = if source.is_root() {
            merged
        } else {
            let entry = lookup(&self.trees(), &merged, source)?;
            let contents = entry.as_ref().and_then(Entry::contents).cloned();
            contents.ok_or_else(|| EngineError::NoSeed { path: source.clone() })?
        };
        self.store.put_tree(&tree)?;
        self.store.bring_contents(&tree)?;
        let folder = materialise(&self.store, tree.digest(), self.disk(Mtimes::Tree))?;
        Ok(Seed { folder: folder.fs(), content: tree.content() })
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
        let mut seeds = BTreeMap::new();
        for (index, mount) in exec.mounts.iter().enumerate() {
            if let MountKind::Bind { input, .. } = &mount.kind {
                binds.insert(index, self.lowers(&context.inputs[*input], mtimes)?);
            }
            if let MountKind::Cache(Cache { seed: Some(seed), .. }) = &mount.kind {
                seeds.insert(index, self.seed(&context.inputs[seed.input], &seed.source)?);
            }
        }
        let Ran { mut draft, finished } = self.run_step(context, exec, lowers, &user, &binds, &seeds)?;
        let recorded: Vec<Override> = finished.ownership.iter().map(handlers::owner).collect();
        let overrides = self.note_owners(draft.fs(), &user, recorded)?;
        match &exec.capture {
            Capture::All => {
                let delta = DeltaId::Exec(context.key);
                if !overrides.is_empty() {
                    draft.set_notes(&serde_json::to_vec(&overrides).map_err(EngineError::Message)?)?;
                }
                let sealed = self.seal(&draft.fs())?;
                let existing = if context.replace { Existing::Goes } else { Existing::Stays };
                publish_exec(&self.store, draft, context.key, sealed, existing)?;
                Ok(base.with(delta))
            }
            Capture::Outputs { include, exclude, expected } => {
                let collected = self.collect(&CollectRequest {
                    dir: draft.fs(),
                    store: self.store.path().to_owned(),
                    owners: self.owner_source()?,
                    overrides,
                    leave_out: Vec::new(),
                    times: CollectTimes::Normal,
                    outputs: Some(Selection {
                        include: include.clone(),
                        exclude: exclude.clone(),
                        expected: expected.clone(),
                    }),
                    closely: self.inspected.closely(),
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
        self.undeclared.lock().unwrap_or_else(PoisonError::into_inner).push(format!(
            "{message}; if this step needs them, add them to `outputs` of the task in turbo.json"
        ));
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
        let mut holders = Vec::new();
        if !missing.is_empty() {
            holders = baked::holders(&self.store, &trees, new)?;
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
        // What is gone of the old result makes no difference.
        if let Ok(Some(files)) = baked::difference(&trees, &old, new, &holders) {
            let message = format!("{name} ran again on the same inputs, and wrote other bytes to {files}");
            context.events.warn(Some(context.id), message, hint());
        }
        Ok(())
    }

    fn run_file(&self, context: &RunContext<'_>, file: &FileOp) -> Result<Snapshot, EngineError> {
        let inputs = StepInputs { engine: self, context };
        let base = &context.inputs[0];
        let delta = self.looking_into(context.inputs, || {
            let below = self.base(base)?;
            Ok(perform(&self.trees(), &StoreContents(&self.store), &below, &inputs, &file.actions)?)
        })?;
        self.keep_tree(base, &delta)
    }

    fn run_add_user(&self, base: &Snapshot, add: &AddUser) -> Result<Snapshot, EngineError> {
        let view = self.view(base)?;
        let passwd = self.account_file(&view, "etc/passwd")?.unwrap_or_default();
        let group = self.account_file(&view, "etc/group")?.unwrap_or_default();
        let shadow = self.account_file(&view, "etc/shadow")?;
        let view = self.base(base)?;
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
        let delta = perform(&trees, &StoreContents(&self.store), &view, &NoInputs, &actions);
        self.keep_tree(base, &delta.map_err(EngineError::from)?)
    }

    /// Stores a delta's tree and stacks it on `base`.
    fn keep_tree(&self, base: &Snapshot, tree: &Subtree) -> Result<Snapshot, EngineError> {
        self.store.put_tree(tree)?;
        Ok(base.with(DeltaId::Tree { tree: tree.digest(), content: tree.content() }))
    }

    /// The context that this session has taken in under a name.
    ///
    /// # Errors
    /// When there is none.
    pub fn context(&self, name: &str) -> Result<&LocalContext, EngineError> {
        self.contexts.get(name).ok_or_else(|| EngineError::UnknownContext { name: name.to_owned() })
    }
}

impl Engine {
    /// Does what a vertex says.
    fn perform(&self, context: &RunContext<'_>) -> Result<Snapshot, EngineError> {
        let trees = self.trees();
        match &context.vertex.op {
            Op::Source(Source::Local { context: name, files }) => {
                let tree = self.context(name)?.fetch(files, &self.store)?;
                Ok(Snapshot::of_tree(tree.digest(), tree.content()))
            }
            Op::Source(Source::Http(_) | Source::Git(_)) => self.fetch_remote(&context.vertex.op),
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
}

impl Records for Engine {
    type Error = EngineError;
    type Lock = KeyLock;

    fn record(&self, key: &Key) -> Result<Option<Record>, EngineError> {
        let Some(stored) = self.store.record(&key.0)? else { return Ok(None) };
        Ok(Record::from_bytes(&stored.body).ok().filter(|record| record.set_aside.is_none()))
    }

    fn reused(&self, key: &Key, identity: &str) {
        self.shared.used(key, identity);
    }

    fn import(&self, key: &Key, identity: &str, preimage: &Preimage) -> Result<Option<Record>, EngineError> {
        self.import_record(key, identity, preimage)
    }

    fn why_lost(&self, key: &Key) -> Result<Option<String>, EngineError> {
        if self.store.had_damaged_record(&key.0) {
            return Ok(Some(DAMAGED_RECORD.to_owned()));
        }
        let Some(stored) = self.store.peek_record(&key.0)? else { return Ok(None) };
        Ok(Record::from_bytes(&stored.body).ok().and_then(|record| record.set_aside))
    }

    fn remember(&self, key: &Key, identity: &str, record: &Record, replace: bool) -> Result<(), EngineError> {
        let refs = record.snapshot.deltas.iter().filter_map(|delta| match delta {
            DeltaId::Layer(_) => None,
            DeltaId::Tree { tree, .. } => Some(Ref::Tree(*tree)),
            DeltaId::Exec(_) => Some(Ref::Delta(face_name(delta, self.disk(Mtimes::Tree)))),
        });
        let meta = RecordMeta { refs: refs.collect() };
        let body = record.to_bytes();
        let first = !replace && matches!(self.store.put_record(&key.0, &meta, &body)?, Stored::New);
        // One that was set aside is in nobody's way.
        if replace || !first && self.record(key)?.is_none() {
            self.store.replace_record(&key.0, &meta, &body)?;
        }
        self.shared.used(key, identity);
        Ok(self.store.set_latest(&Digest::of(identity.as_bytes()), &key.0)?)
    }

    fn latest(&self, identity: &str) -> Result<Option<Record>, EngineError> {
        let Some(key) = self.store.latest(&Digest::of(identity.as_bytes()))? else {
            return Ok(self.shared.explained(identity));
        };
        let stored = self.store.peek_record(&key)?;
        let record = stored.and_then(|stored| Record::from_bytes(&stored.body).ok());
        // Of one that could not be read there is nothing to compare with.
        Ok(record.filter(|record| !record.preimage.fields.is_empty()))
    }

    fn lock(&self, key: &Key) -> Result<KeyLock, EngineError> {
        Ok(self.store.lock(&key.0)?)
    }
}

impl Worker for Engine {
    fn locate(&self, _: VertexId, vertex: &Vertex) -> Result<Snapshot, EngineError> {
        match &vertex.op {
            Op::Source(Source::Image(reference)) => {
                let image = self.open_image(reference)?;
                let deltas = image.image.layers.iter().map(|layer| DeltaId::Layer(layer.diff_id)).collect();
                Ok(Snapshot { deltas })
            }
            Op::Source(Source::Local { context, files }) => {
                let tree = self.context(context)?.locate(files, &self.store)?;
                Ok(Snapshot::of_tree(tree.digest(), tree.content()))
            }
            Op::Source(Source::Http(_) | Source::Git(_)) => self.fetch_remote(&vertex.op),
            _ => Ok(Snapshot::default()),
        }
    }

    fn describe(&self, vertex: &Vertex, inputs: &[Snapshot]) -> Result<Preimage, EngineError> {
        Ok(describe(vertex, inputs, self)?)
    }

    fn run(&self, context: &RunContext<'_>) -> Result<Snapshot, EngineError> {
        self.early.runs();
        let snapshot = self.perform(context).map_err(|error| error.on_disk_of(self.store.path()))?;
        self.early.ran(context.id, &snapshot);
        Ok(snapshot)
    }

    fn present(&self, delta: &DeltaId) -> Result<bool, EngineError> {
        if self.inspected.closely() {
            return self.present_to_the_last_byte(delta);
        }
        Ok(match delta {
            DeltaId::Layer(_) => true,
            DeltaId::Tree { tree, .. } => self.store.has_tree(*tree)?,
            DeltaId::Exec(_) => {
                disk_face(&self.store, delta, self.disk(Mtimes::Tree))?.is_some()
                    || tree_face(&self.store, delta)?.is_some()
            }
        })
    }

    fn lost(&self, error: &EngineError) -> Option<Loss> {
        match error {
            EngineError::Lost { delta } => Some(Loss::Delta(*delta)),
            error => error.is_lost().then_some(Loss::Something),
        }
    }

    fn stopped(&self, error: &EngineError) -> bool {
        matches!(error, EngineError::Cancelled)
    }

    fn look_closely(&self) {
        Self::look_closely(self);
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
}

impl TreeSource for Engine {
    fn directory(&self, tree: TreeDigest) -> Result<Directory, TreeLoadError> {
        self.trees().directory(tree)
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
