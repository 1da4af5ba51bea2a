//! What is stored, to and from remote caches: which records and contents make a machine that has nothing build as if it had
//! built before. How they are kept is `wbuild-cache`'s affair; here is what they mean.
//!
//! A key is looked up here first, then in the indexes of the caches; a record that is found is remembered as if it had been
//! made here, with the preimage that the key was just computed from, so that later misses are explained. Files come when a
//! step or an export reads them. Results travel as trees: a step's disk face is made from its tree where another step
//! needs it.

mod body;
mod export;
mod mounts;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use wbuild_cache::{Import, ImportScope, Kind, Network, Place, Problems, Scopes, Signature};
use wbuild_graph::{DeltaId, Key, Preimage};
use wbuild_oci::Digest;
use wbuild_report::EventSink;
use wbuild_snapshot::{Mtimes, TreeFace, disk_face, named_tree_face, remember_tree_face};
use wbuild_solver::{Record, Records};

use crate::error::EngineError;
use crate::export::LayerRecord;
use crate::worker::Engine;

use body::{Explained, Face, StepBody};
use export::{Exporting, Task};

/// Which caches a build reads and fills.
#[derive(Debug, Default)]
pub struct Sharing {
    /// `--cache-from`, in the order in which they are asked.
    pub from: Vec<Place>,
    /// `--cache-to`.
    pub to: Vec<Place>,
    /// Where no scope is named.
    pub scopes: Option<Scopes>,
    /// What records are signed with, and have to be.
    pub signature: Option<Signature>,
}

/// What was exported to one cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedTo {
    /// Which, for people.
    pub place: String,
    /// Records that it did not have.
    pub records: usize,
    /// Bytes that were uploaded.
    pub bytes: u64,
}

/// The caches of a session.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    sharing: Sharing,
    import: Option<Arc<Import>>,
    problems: Arc<Problems>,
    exporting: Mutex<Option<Exporting>>,
    /// To the thread that exports.
    queue: Mutex<Option<Sender<Task>>>,
    /// Places whose folders were missing when the build began, of which that was said.
    missing: BTreeSet<String>,
    /// Cache mounts that steps had, by their folders' ids, with the names that never leave.
    mounts: Mutex<BTreeSet<(Digest, Vec<String>)>>,
    /// The folder of the project, with which what identifies its steps begins.
    project: OnceLock<String>,
    /// The newest records of which a cache tells the preimages, by step, with the time when they were made.
    explained: OnceLock<BTreeMap<Digest, (u64, Record)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn send(&self, task: Task) {
        if let Some(queue) = &*lock(&self.queue) {
            // A thread that has ended wants nothing any more.
            let _ = queue.send(task);
        }
    }

    /// Where to say what is wrong with caches.
    pub(crate) fn problems(&self) -> &Problems {
        &self.problems
    }

    /// This build used the record of a key.
    pub(crate) fn used(&self, key: &Key, identity: &str) {
        self.send(Task::Step { key: *key, step: self.step(identity) });
    }

    /// Names a step on all machines: where its project lies on this one is left out.
    fn step(&self, identity: &str) -> Digest {
        let project = self.project.get().map(String::as_str).filter(|project| !project.is_empty());
        let below = project.and_then(|project| Some((project, identity.strip_prefix(project)?)));
        match below {
            Some((project, below)) => {
                let name = project.rsplit('/').next().unwrap_or_default();
                Digest::of(format!("{name}{below}").as_bytes())
            }
            None => Digest::of(identity.as_bytes()),
        }
    }

    /// This build used a layer.
    pub(crate) fn used_layer(&self, key: &Digest, record: Option<&LayerRecord>) {
        if let Ok(body) = serde_json::to_string(&record) {
            let blob = record.map(|record| record.descriptor.digest);
            self.send(Task::Layer { key: *key, body, blob });
        }
    }

    /// A step has a cache mount.
    pub(crate) fn used_mount(&self, id: &Digest, never_leave: &[String]) {
        if !self.sharing.to.is_empty() {
            lock(&self.mounts).insert((*id, never_leave.to_vec()));
        }
    }

    /// Whether anything can come from a cache.
    pub(crate) fn imports(&self) -> bool {
        self.import.is_some()
    }

    /// What caches say about a key.
    pub(crate) fn imported(&self, kind: Kind, key: &Digest) -> Option<String> {
        Some(self.import.as_ref()?.record(kind, key)?.body)
    }

    /// What a miss of a step that was never built here can be compared with: the newest record of it that a cache tells the
    /// preimage of.
    pub(crate) fn explained(&self, identity: &str) -> Option<Record> {
        let import = self.import.as_ref()?;
        let explained = self.explained.get_or_init(|| {
            let mut newest: BTreeMap<Digest, (u64, Record)> = BTreeMap::new();
            for (_, entry) in import.records(Kind::Step) {
                let Some(mut body) = StepBody::read(&entry.body) else { continue };
                let Some(Explained { step, built, preimage }) = body.explained.take() else { continue };
                if newest.get(&step).is_none_or(|(known, _)| *known <= built) {
                    newest.insert(step, (built, body.into_record("", preimage)));
                }
            }
            newest
        });
        explained.get(&self.step(identity)).map(|(_, record)| record.clone())
    }

    /// Whether cache mounts are to be had.
    pub(crate) fn imports_mounts(&self) -> bool {
        self.imports() && self.sharing.from.iter().any(|place| place.mounts)
    }
}

impl Engine {
    /// Reads and fills caches from now on. Their indexes begin to come.
    pub fn share(&mut self, sharing: Sharing) {
        let network = self.network();
        let mut scopes = Vec::new();
        for place in &sharing.from {
            let backend = place.connect(&network);
            if is_lost(place, &sharing.to) {
                let name = backend.place();
                let message = format!("there is no cache at `{name}`: no such folder");
                let hint = "`--cache-to type=local,dest=FOLDER` makes one".to_owned();
                self.shared.problems.say(&format!("read {name}"), message, vec![hint]);
                self.shared.missing.insert(name);
            }
            for scope in scopes_of(place, sharing.scopes.as_ref()) {
                let backend = Arc::clone(&backend);
                scopes.push(ImportScope { backend, scope, patience: place.patience() });
            }
        }
        self.shared.import = (!scopes.is_empty()).then(|| {
            let problems = Arc::clone(&self.shared.problems);
            Arc::new(Import::open(scopes, sharing.signature.clone(), problems))
        });
        if let Some(import) = &self.shared.import {
            self.store.set_upstream(Some(import.clone()));
        }
        self.shared.sharing = sharing;
    }

    /// Says with what the identities of all steps begin that say where the project lies on this machine.
    pub fn set_project(&self, project: &str) {
        // Only the first one counts: there is one project in a build.
        let _ = self.shared.project.set(project.to_owned());
    }

    /// Caches that had nothing for this build, beside those of which a warning was said: each place, with the scopes
    /// that were asked for.
    pub fn empty_caches(&self) -> BTreeMap<String, Vec<String>> {
        let mut absent = self.shared.import.as_ref().map(|import| import.absent()).unwrap_or_default();
        absent.retain(|place, _| !self.shared.missing.contains(place));
        absent
    }

    /// How this machine reaches servers.
    pub(crate) fn network(&self) -> Network {
        let roots = self.trust.bundle().unwrap_or_default().to_vec();
        Network { roots, proxies: self.remotes.proxies().clone(), ..Network::default() }
    }

    /// Says problems there from now on, and begins to export what the build makes.
    pub(crate) fn begin_sharing(self: &Arc<Self>, events: &EventSink) {
        self.shared.problems.follow(events.clone());
        let mut exporting = lock(&self.shared.exporting);
        if !self.shared.sharing.to.is_empty() && exporting.is_none() {
            let (begun, queue) = Exporting::begin(self);
            *exporting = Some(begun);
            *lock(&self.shared.queue) = Some(queue);
        }
    }

    /// Uploads what is left. In bounded time; what went wrong was said.
    pub fn finish_sharing(&self) -> Vec<ExportedTo> {
        let Some(exporting) = lock(&self.shared.exporting).take() else { return Vec::new() };
        for (id, never_leave) in std::mem::take(&mut *lock(&self.shared.mounts)) {
            self.shared.send(Task::Mount { id, never_leave });
        }
        *lock(&self.shared.queue) = None;
        exporting.finish()
    }

    /// A record that another machine made, remembered as if it had been made here.
    pub(crate) fn import_record(
        &self,
        key: &Key,
        identity: &str,
        preimage: &Preimage,
    ) -> Result<Option<Record>, EngineError> {
        let found = self.shared.imported(Kind::Step, &key.0);
        let Some(body) = found.as_deref().and_then(StepBody::read) else { return Ok(None) };
        let delta = DeltaId::Exec(*key);
        if let Some(Face { tree, content }) = body.face
            && disk_face(&self.store, &delta, self.disk(Mtimes::Tree))?.is_none()
            && named_tree_face(&self.store, &delta)?.is_none()
        {
            remember_tree_face(&self.store, &delta, None, &TreeFace::of_step(tree, content))?;
        }
        let record = body.into_record(identity, preimage.clone());
        self.remember(key, identity, &record, false)?;
        // Another process may have been quicker: then that one counts.
        self.record(key)
    }
}

/// Whether a place is a folder that is not there, and that this build will not make either.
fn is_lost(place: &Place, to: &[Place]) -> bool {
    let absolute = |place: &Place| place.folder().and_then(|folder| std::path::absolute(folder).ok());
    let Some(folder) = absolute(place) else { return false };
    let missing = std::fs::metadata(&folder).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    missing && !to.iter().any(|to| absolute(to).as_ref() == Some(&folder))
}

/// The scopes of a place that are read, the first one first.
fn scopes_of(place: &Place, scopes: Option<&Scopes>) -> Vec<String> {
    match (&place.scope, scopes) {
        (Some(scope), _) => vec![scope.clone()],
        (None, Some(Scopes { own, fallback })) => std::iter::once(own).chain(fallback).cloned().collect(),
        (None, None) => vec!["main".to_owned()],
    }
}
