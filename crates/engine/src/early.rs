//! Layers that are final while later steps still run: written then, and handed to whoever wants them early.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use wbuild_frontend::{RowDelta, Target};
use wbuild_graph::{Graph, Op, Snapshot};
use wbuild_image::LayerRef;
use wbuild_layer::Recipe;
use wbuild_report::VertexId;

use crate::error::EngineError;
use crate::worker::Engine;

/// Who is told of results that a target's are stacked on.
#[derive(Debug, Default)]
pub(crate) struct Early {
    listener: Mutex<Option<Listener>>,
    first: FirstStep,
}

/// What is to happen when there is something to do.
#[derive(Default)]
struct FirstStep(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl fmt::Debug for FirstStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FirstStep")
    }
}

#[derive(Debug)]
struct Listener {
    /// The vertices whose results the target's begins with.
    below: BTreeSet<VertexId>,
    results: Sender<Snapshot>,
}

impl Early {
    fn set(&self, listener: Option<Listener>) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = listener;
    }

    fn at_first(&self, begin: Option<Box<dyn FnOnce() + Send>>) {
        *self.first.0.lock().unwrap_or_else(PoisonError::into_inner) = begin;
    }

    /// A vertex is about to run.
    pub(crate) fn runs(&self) {
        let begin = self.first.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(begin) = begin {
            begin();
        }
    }

    /// A vertex ran.
    pub(crate) fn ran(&self, id: VertexId, snapshot: &Snapshot) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Listener { results, .. }) = listener.as_ref().filter(|known| known.below.contains(&id)) {
            // Whoever does not listen any more misses nothing.
            let _ = results.send(snapshot.clone());
        }
    }
}

/// Who wants layers while the target is solved.
pub struct EarlyTaker {
    /// How they are written.
    pub recipe: Recipe,
    /// Gets them, the lowest first.
    pub take: Box<dyn FnMut(LayerRef) + Send>,
}

impl fmt::Debug for EarlyTaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EarlyTaker").field(&self.recipe).finish()
    }
}

/// The layers of a target that are written while it is solved.
#[derive(Debug)]
pub struct EarlyLayers {
    engine: Arc<Engine>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EarlyLayers {
    /// Waits for the layer that is being written; no other one begins.
    pub fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.engine.early.set(None);
        if let Some(thread) = self.thread.take() {
            // It cannot have more to say than the export, which does the same again.
            let _ = thread.join();
        }
    }
}

impl Drop for EarlyLayers {
    fn drop(&mut self) {
        self.end();
    }
}

impl Engine {
    /// Calls `begin` when the next solution has something to run, just before that: not where everything is there. It must
    /// not block.
    pub fn when_something_runs(&self, begin: impl FnOnce() + Send + 'static) {
        self.early.at_first(Some(Box::new(begin)));
    }

    /// Takes back what was to happen [then](Self::when_something_runs).
    pub fn whatever_runs(&self) {
        self.early.at_first(None);
    }

    /// From now on, whenever a step of a target has run, the layers up to it are written as an export with each of these
    /// recipes will, and given to whom they are for. What goes wrong, goes wrong again when the image is exported, and is
    /// said then.
    pub fn write_layers_early(
        self: &Arc<Self>,
        graph: &Graph,
        target: &Target,
        mut takers: Vec<EarlyTaker>,
    ) -> EarlyLayers {
        let (results, coming) = channel();
        self.early.set(Some(Listener { below: below(graph, target.vertex), results }));
        let over = Arc::new(AtomicBool::new(false));
        let (engine, stop) = (Arc::clone(self), Arc::clone(&over));
        let target = target.clone();
        let thread = std::thread::spawn(move || {
            drop(engine.early_layers(&target, &coming, &stop, &mut takers));
        });
        EarlyLayers { engine: Arc::clone(self), over, thread: Some(thread) }
    }

    fn early_layers(
        &self,
        target: &Target,
        coming: &Receiver<Snapshot>,
        over: &AtomicBool,
        takers: &mut [EarlyTaker],
    ) -> Result<(), EngineError> {
        let mut rows = target.history.iter().filter(|row| row.delta != RowDelta::None);
        let mut stack = Snapshot::default();
        for snapshot in coming {
            if stack.deltas.is_empty() {
                let base = target.base_image.as_ref().map(|base| self.open_image(base)).transpose()?;
                let layers = base.map_or(0, |base| base.image.layers.len());
                stack.deltas.extend(snapshot.deltas.iter().take(layers));
            }
            // A step that was run once more may have another result: then it is for the export to say what the image is.
            let Some(new) = snapshot.deltas.strip_prefix(&stack.deltas[..]) else { continue };
            for delta in new {
                let Some(row) = rows.next() else { return Ok(()) };
                for EarlyTaker { recipe, take } in &mut *takers {
                    if over.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    let layer = self.layer_of(delta, &stack, &row.created_by, row.delta, recipe)?;
                    if let Some(layer) = layer {
                        take(layer);
                    }
                }
                stack.deltas.push(*delta);
            }
        }
        Ok(())
    }
}

/// The vertices whose results are the lower part of a vertex' own.
fn below(graph: &Graph, top: VertexId) -> BTreeSet<VertexId> {
    let mut found = BTreeSet::new();
    let mut next = Some(top);
    while let Some(id) = next.filter(|id| found.insert(*id)) {
        let vertex = graph.vertex(id);
        next = match &vertex.op {
            Op::Exec(_) | Op::File(_) | Op::AddUser(_) | Op::Merge | Op::Assert(_) => {
                vertex.inputs.first().copied()
            }
            Op::Source(_) | Op::Diff | Op::Select(_) | Op::Partition(_) => None,
        };
    }
    found
}
