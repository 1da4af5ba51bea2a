//! The thread that packs and uploads while the build goes on.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use wbuild_cache::{Export, ExportOptions, Holds, Kind, Mode, NewRecord, Place};
use wbuild_graph::{DeltaId, Key};
use wbuild_oci::Digest;
use wbuild_snapshot::{CollectRequest, CollectTimes, named_tree_face};
use wbuild_solver::Record;
use wbuild_store::Ref;

use super::body::{Explained, Face, MountBody, StepBody, own_deltas, roots};
use super::{ExportedTo, scopes_of};
use crate::error::EngineError;
use crate::worker::Engine;

/// What is to be exported.
#[derive(Debug)]
pub(super) enum Task {
    Step { key: Key, step: Digest },
    Layer { key: Digest, body: String, blob: Option<Digest> },
    Mount { id: Digest, never_leave: Vec<String> },
}

/// The running export.
#[derive(Debug)]
pub(super) struct Exporting(JoinHandle<Vec<ExportedTo>>);

impl Exporting {
    pub(super) fn begin(engine: &Arc<Engine>) -> (Self, Sender<Task>) {
        let (queue, tasks) = channel();
        let engine = Arc::clone(engine);
        (Self(std::thread::spawn(move || run(&engine, &tasks))), queue)
    }

    /// Waits for its end.
    pub(super) fn finish(self) -> Vec<ExportedTo> {
        self.0.join().unwrap_or_default()
    }
}

/// One cache that is filled.
struct Target<'a> {
    place: &'a Place,
    name: String,
    export: Export,
}

fn run(engine: &Engine, tasks: &Receiver<Task>) -> Vec<ExportedTo> {
    let sharing = &engine.shared.sharing;
    let Ok(folder) = engine.store.workspace().map(|workspace| workspace.path().to_owned()) else {
        return Vec::new();
    };
    let network = engine.network();
    let open = |place| {
        let backend = Place::connect(place, &network);
        let options = ExportOptions { signature: sharing.signature.clone(), ..ExportOptions::default() };
        let mut scopes = scopes_of(place, sharing.scopes.as_ref()).into_iter();
        let own = scopes.next().unwrap_or_default();
        let name = backend.place();
        let problems = Arc::clone(&engine.shared.problems);
        let export = Export::open(&backend, own, scopes.collect(), options, problems, &folder)
            .beside(engine.shared.import.clone());
        Target { place, name, export }
    };
    let mut targets: Vec<Target<'_>> = sharing.to.iter().map(open).collect();
    let mut later = Vec::new();
    for task in tasks {
        match task {
            Task::Step { key, step } => {
                for target in &mut targets {
                    match target.place.mode {
                        Mode::Max => add_step(engine, target, &key, step),
                        // The trees of the target's deltas are known only when the image is written.
                        Mode::Min => later.push((key, step)),
                    }
                }
            }
            Task::Layer { key, body, blob } => {
                for target in &mut targets {
                    let roots = blob.map(Ref::Blob).into_iter().collect();
                    let record = NewRecord {
                        kind: Kind::Layer,
                        key,
                        body: body.clone(),
                        roots,
                        wanted: Holds::Contents,
                    };
                    target.export.add(&engine.store, record);
                }
            }
            Task::Mount { id, never_leave } => add_mount(engine, &mut targets, id, &never_leave),
        }
    }
    for (key, step) in later {
        for target in targets.iter_mut().filter(|target| target.place.mode == Mode::Min) {
            add_step(engine, target, &key, step);
        }
    }
    let done = targets.into_iter().map(|Target { name, export, .. }| {
        let exported = export.finish(&engine.store);
        ExportedTo { place: name, records: exported.records, bytes: exported.bytes }
    });
    done.collect()
}

fn add_step(engine: &Engine, target: &mut Target<'_>, key: &Key, step: Digest) {
    let wanted = match target.place.mode {
        Mode::Max => Holds::Contents,
        Mode::Min => Holds::Listing,
    };
    if target.export.is_broken() || target.export.has(Kind::Step, &key.0, wanted) {
        return;
    }
    let Ok(Some(stored)) = engine.store.peek_record(&key.0) else { return };
    let Ok(record) = Record::from_bytes(&stored.body) else { return };
    if record.set_aside.is_some() {
        return;
    }
    let own = own_deltas(key, &record);
    let is_step = own.iter().any(|delta| matches!(delta, DeltaId::Exec(_)));
    let (face, wanted) = match is_step.then(|| face_of(engine, key, target.place.mode)) {
        None => (None, wanted),
        Some(Some(face)) => (Some(face), wanted),
        // Only what it is, and not what is in it.
        Some(None) => (None, Holds::Nothing),
    };
    let explained = target.place.logs.then(|| {
        let built = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Explained { step, built, preimage: record.preimage.clone() }
    });
    let Some(body) = StepBody::new(&record, face, explained).write() else { return };
    let roots = roots(&own, face.as_ref());
    target.export.add(&engine.store, NewRecord { kind: Kind::Step, key: key.0, body, roots, wanted });
}

/// The tree face of a step's delta: read from its files, or as far as it is known.
fn face_of(engine: &Engine, key: &Key, mode: Mode) -> Option<Face> {
    let delta = DeltaId::Exec(*key);
    if let Ok(Some(known)) = named_tree_face(&engine.store, &delta)
        && let Some(content) = known.content
    {
        return Some(Face { tree: known.tree, content });
    }
    if mode == Mode::Min {
        return None;
    }
    let tree = engine.tree_face(&delta).ok()?;
    Some(Face { tree: tree.digest(), content: tree.content() })
}

fn add_mount(engine: &Engine, targets: &mut [Target<'_>], id: Digest, never_leave: &[String]) {
    let mut wanted = targets.iter_mut().filter(|target| target.place.mounts).peekable();
    if wanted.peek().is_none() {
        return;
    }
    let Ok(tree) = engine.mount_as_tree(&id, never_leave) else { return };
    let Ok(body) = serde_json::to_string(&MountBody { tree }) else { return };
    for target in wanted {
        let roots = vec![Ref::Tree(tree)];
        let record =
            NewRecord { kind: Kind::Mount, key: id, body: body.clone(), roots, wanted: Holds::Contents };
        target.export.add(&engine.store, record);
    }
}

impl Engine {
    /// What is in a cache mount, without what must never leave a machine.
    fn mount_as_tree(
        &self,
        id: &Digest,
        never_leave: &[String],
    ) -> Result<wbuild_tree::TreeDigest, EngineError> {
        let collected = self.collect(&CollectRequest {
            dir: self.store.mount(id)?,
            store: self.store.path().to_owned(),
            owners: self.owner_source()?,
            overrides: Vec::new(),
            leave_out: Vec::new(),
            times: CollectTimes::Keep,
            outputs: None,
            closely: false,
        })?;
        let tree = self.store.tree(collected.tree)?;
        if never_leave.is_empty() {
            return Ok(collected.tree);
        }
        let mut directory = wbuild_tree::Directory::clone(&*tree.open(&self.store)?);
        directory
            .entries
            .retain(|name, _| !never_leave.iter().any(|never| never.as_bytes() == name.as_bytes()));
        Ok(self.store.put_tree(&wbuild_tree::Subtree::new(directory))?)
    }
}
