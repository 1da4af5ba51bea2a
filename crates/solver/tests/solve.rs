//! The solver against a worker in memory: what runs, what is reused, what is built again, and why.

#![expect(clippy::unwrap_used, reason = "tests stop where something is not as it should be")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use wbuild_graph::{
    Capture, DeltaId, Exec, FieldValue, Graph, Key, NetworkMode, Op, Preimage, PrivilegeSet, Snapshot,
    Source, StepTimes, Vertex,
};
use wbuild_oci::Digest;
use wbuild_report::{Event, EventSink, FieldChange, MissReason, Outcome, VertexId};
use wbuild_solver::{Cancellation, Record, Records, RunContext, SolveError, Solver, Worker};
use wbuild_tree::{ContentDigest, EntryPath, TreeDigest};

#[derive(Debug, thiserror::Error)]
enum ToyError {
    #[error("step failed")]
    Failed,
    #[error("{0:?} is gone")]
    Gone(DeltaId),
}

/// Sources have the content that `files` says; a step's result is named by its key, and `output` steps by content.
#[derive(Default)]
struct Toy {
    files: Mutex<BTreeMap<String, String>>,
    records: Mutex<BTreeMap<Key, Vec<u8>>>,
    latest: Mutex<BTreeMap<String, Key>>,
    stored: Mutex<BTreeSet<DeltaId>>,
    /// Present, but found to be damaged when it is read.
    damaged: Mutex<BTreeSet<DeltaId>>,
    ran: Mutex<Vec<String>>,
}

fn content(text: &str) -> DeltaId {
    let digest = Digest::of(text.as_bytes());
    DeltaId::Tree { tree: TreeDigest(digest), content: ContentDigest(digest) }
}

impl Records for Toy {
    type Error = ToyError;
    type Lock = ();

    fn record(&self, key: &Key) -> Result<Option<Record>, ToyError> {
        Ok(self.records.lock().unwrap().get(key).map(|bytes| Record::from_bytes(bytes).unwrap()))
    }

    fn remember(&self, key: &Key, identity: &str, record: &Record, replace: bool) -> Result<(), ToyError> {
        let mut records = self.records.lock().unwrap();
        if replace || !records.contains_key(key) {
            records.insert(*key, record.to_bytes());
        }
        self.latest.lock().unwrap().insert(identity.to_owned(), *key);
        Ok(())
    }

    fn latest(&self, identity: &str) -> Result<Option<Record>, ToyError> {
        let key = self.latest.lock().unwrap().get(identity).copied();
        key.map_or(Ok(None), |key| self.record(&key))
    }

    fn lock(&self, _: &Key) -> Result<(), ToyError> {
        Ok(())
    }
}

impl Worker for Toy {
    fn locate(&self, _: VertexId, vertex: &Vertex) -> Result<Snapshot, ToyError> {
        let text = self.files.lock().unwrap().get(&vertex.name).cloned().unwrap_or_default();
        Ok(Snapshot { deltas: vec![content(&text)] })
    }

    fn describe(&self, vertex: &Vertex, inputs: &[Snapshot]) -> Result<Preimage, ToyError> {
        let mut preimage = Preimage::new("toy", 1);
        preimage.text("name", &vertex.name);
        for (index, delta) in inputs.iter().flat_map(|input| &input.deltas).enumerate() {
            preimage.add(format!("root/{index}"), FieldValue::Digest(delta.root_key()));
        }
        Ok(preimage)
    }

    fn run(&self, context: &RunContext<'_>) -> Result<Snapshot, ToyError> {
        self.ran.lock().unwrap().push(context.vertex.name.clone());
        for delta in context.inputs.iter().flat_map(|input| &input.deltas) {
            assert!(self.stored.lock().unwrap().contains(delta), "{} needs {delta:?}", context.vertex.name);
            if self.damaged.lock().unwrap().remove(delta) {
                return Err(ToyError::Gone(*delta));
            }
        }
        let delta = match (&context.vertex.op, context.vertex.name.as_str()) {
            (_, "fails") => return Err(ToyError::Failed),
            (Op::Source(_), name) => {
                content(&self.files.lock().unwrap().get(name).cloned().unwrap_or_default())
            }
            (_, name) if name.starts_with("output") => content(name),
            _ => DeltaId::Exec(context.key),
        };
        self.stored.lock().unwrap().insert(delta);
        Ok(context.inputs.first().cloned().unwrap_or_default().with(delta))
    }

    fn present(&self, delta: &DeltaId) -> Result<bool, ToyError> {
        Ok(self.stored.lock().unwrap().contains(delta))
    }

    fn lost(&self, error: &ToyError) -> Option<DeltaId> {
        match error {
            ToyError::Gone(delta) => Some(*delta),
            ToyError::Failed => None,
        }
    }

    fn explain(&self, _: &Preimage, _: &Preimage, _: &str) -> Vec<FieldChange> {
        Vec::new()
    }
}

fn exec() -> Op {
    Op::Exec(Box::new(Exec {
        argv: Vec::new(),
        env: Vec::new(),
        cwd: EntryPath::root(),
        user: String::new(),
        network: NetworkMode::None,
        privileges: PrivilegeSet::Run,
        mounts: Vec::new(),
        secret_env: Vec::new(),
        capture: Capture::All,
        times: StepTimes::Kept,
        on_failure: Vec::new(),
    }))
}

fn add(graph: &mut Graph, name: &str, op: Op, inputs: &[VertexId]) -> VertexId {
    let (name, identity) = (name.to_owned(), name.to_owned());
    graph.add(Vertex { op, inputs: inputs.to_vec(), name, identity, minor: false })
}

fn source() -> Op {
    Op::Source(Source::Local { context: String::new(), paths: None })
}

/// src → compile → output (by content) → pack
fn chain() -> (Arc<Graph>, VertexId) {
    let mut graph = Graph::new();
    let src = add(&mut graph, "src", source(), &[]);
    let compile = add(&mut graph, "compile", exec(), &[src]);
    let output = add(&mut graph, "output", exec(), &[compile]);
    let only = graph.add(Vertex {
        op: Op::Diff,
        inputs: vec![compile, output],
        name: "diff".into(),
        identity: "diff".into(),
        minor: true,
    });
    let pack = add(&mut graph, "pack", exec(), &[only]);
    (Arc::new(graph), pack)
}

struct Bench {
    toy: Arc<Toy>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    fn new() -> Self {
        Self { toy: Arc::default(), events: Arc::default() }
    }

    fn solve(&self, graph: &Arc<Graph>, target: VertexId) -> Result<Vec<String>, SolveError<ToyError>> {
        self.toy.ran.lock().unwrap().clear();
        self.events.lock().unwrap().clear();
        let events = Arc::clone(&self.events);
        let sink = EventSink::new(move |event| events.lock().unwrap().push(event));
        let solver = Solver::new(Arc::clone(&self.toy), sink, Cancellation::new(), 2);
        solver.solve(graph, &[target], &[target])?;
        Ok(self.toy.ran.lock().unwrap().clone())
    }

    fn why(&self, graph: &Graph, name: &str) -> Option<MissReason> {
        let id = graph.iter().find(|(_, vertex)| vertex.name == name).unwrap().0;
        self.events.lock().unwrap().iter().find_map(|event| match event {
            Event::Finished { vertex, outcome: Outcome::Built { why }, .. } if *vertex == id => {
                Some(why.clone())
            }
            _ => None,
        })
    }
}

#[test]
fn the_second_build_runs_nothing() {
    let (graph, pack) = chain();
    let bench = Bench::new();
    assert_eq!(bench.solve(&graph, pack).unwrap(), ["src", "compile", "output", "pack"]);
    assert_eq!(bench.why(&graph, "compile"), Some(MissReason::NeverBuilt));
    assert!(bench.solve(&graph, pack).unwrap().is_empty());
}

#[test]
fn a_step_with_the_same_output_invalidates_nothing_after_it() {
    let (graph, pack) = chain();
    let bench = Bench::new();
    bench.solve(&graph, pack).unwrap();
    bench.toy.files.lock().unwrap().insert("src".into(), "edited".into());
    assert_eq!(bench.solve(&graph, pack).unwrap(), ["src", "compile", "output"]);
    let Some(MissReason::Changed { changes }) = bench.why(&graph, "compile") else { panic!("no reason") };
    assert_eq!(changes[0].field, "root/0");
}

#[test]
fn a_lost_result_is_built_again_only_when_it_is_needed() {
    let (graph, pack) = chain();
    let bench = Bench::new();
    bench.solve(&graph, pack).unwrap();
    // What `compile` left is gone, but nothing stands on it as long as `output` is there.
    let compiled = bench.toy.latest("compile").unwrap().unwrap().snapshot;
    bench.toy.stored.lock().unwrap().remove(compiled.deltas.last().unwrap());
    assert!(bench.solve(&graph, pack).unwrap().is_empty());
    // Now everything is gone.
    bench.toy.stored.lock().unwrap().clear();
    let ran = bench.solve(&graph, pack).unwrap();
    assert_eq!(ran.iter().collect::<BTreeSet<_>>().len(), 4, "{ran:?}");
    assert!(matches!(bench.why(&graph, "pack"), Some(MissReason::ResultLost { .. })));
}

#[test]
fn a_result_found_damaged_while_it_is_used_is_built_again() {
    let (graph, pack) = chain();
    let bench = Bench::new();
    bench.solve(&graph, pack).unwrap();
    let packed = bench.toy.latest("pack").unwrap().unwrap();
    bench.toy.records.lock().unwrap().remove(&packed.preimage.key());
    bench.toy.damaged.lock().unwrap().insert(content("output"));
    assert_eq!(bench.solve(&graph, pack).unwrap(), ["pack", "output", "pack"]);
}

#[test]
fn equal_steps_run_once() {
    let mut graph = Graph::new();
    let src = add(&mut graph, "src", source(), &[]);
    let one = add(&mut graph, "compile", exec(), &[src]);
    let two = add(&mut graph, "compile", exec(), &[src]);
    let both = add(&mut graph, "both", exec(), &[one, two]);
    let bench = Bench::new();
    // The toy's lock does nothing, so ask for one after the other; the key is what makes them one.
    let graph = Arc::new(graph);
    bench.solve(&graph, one).unwrap();
    assert_eq!(bench.solve(&graph, both).unwrap(), ["both"]);
}

#[test]
fn the_first_failure_is_told_and_what_needs_it_does_not_run() {
    let mut graph = Graph::new();
    let src = add(&mut graph, "src", source(), &[]);
    let fails = add(&mut graph, "fails", exec(), &[src]);
    let after = add(&mut graph, "after", exec(), &[fails]);
    let bench = Bench::new();
    let error = bench.solve(&Arc::new(graph), after).unwrap_err();
    assert_eq!(error.to_string(), "fails failed");
    assert_eq!(*bench.toy.ran.lock().unwrap(), ["src", "fails"]);
}
