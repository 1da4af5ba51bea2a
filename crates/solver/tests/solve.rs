//! The solver against a worker in memory: what runs, what is reused, what is built again, and why.

#![expect(clippy::unwrap_used, reason = "tests stop where something is not as it should be")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use wbuild_graph::{
    Capture, DeltaId, Exec, FieldValue, Files, Graph, Key, NetworkMode, Op, Preimage, PrivilegeSet, Snapshot,
    Source, StepLimits, StepTimes, Vertex,
};
use wbuild_oci::Digest;
use wbuild_report::{Event, EventSink, FieldChange, MissReason, Outcome, VertexId};
use wbuild_solver::{
    Beside, Cancellation, Heard, Loss, NoCache, Record, Records, RunContext, SolveError, Solver, Worker,
};
use wbuild_tree::{ContentDigest, EntryPath, TreeDigest};

#[derive(Debug, thiserror::Error)]
enum ToyError {
    #[error("step failed")]
    Failed,
    #[error("{0:?} is gone")]
    Gone(DeltaId),
    #[error("a part of something is gone")]
    PartGone,
    #[error("stopped")]
    Stopped,
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
    /// Damaged, too, and whoever reads it only notices that something is; a close look tells what.
    rotten: Mutex<BTreeSet<DeltaId>>,
    closely: AtomicBool,
    set_aside: Mutex<BTreeSet<Key>>,
    ran: Mutex<Vec<String>>,
    replaced: Mutex<Vec<String>>,
    /// Where steps wait for each other.
    together: Option<Barrier>,
}

fn content(text: &str) -> DeltaId {
    let digest = Digest::of(text.as_bytes());
    DeltaId::Tree { tree: TreeDigest(digest), content: ContentDigest(digest) }
}

impl Records for Toy {
    type Error = ToyError;
    type Lock = ();

    fn why_lost(&self, key: &Key) -> Result<Option<String>, ToyError> {
        Ok(self.set_aside.lock().unwrap().contains(key).then(|| "it was set aside".to_owned()))
    }

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
        let rotten = self.rotten.lock().unwrap().clone();
        if context.inputs.iter().flat_map(|input| &input.deltas).any(|delta| rotten.contains(delta)) {
            return Err(ToyError::PartGone);
        }
        if context.replace {
            self.replaced.lock().unwrap().push(context.vertex.name.clone());
        }
        let delta = match (&context.vertex.op, context.vertex.name.as_str()) {
            (_, "fails") => return Err(ToyError::Failed),
            (_, name) if name.starts_with("fails together") => {
                self.together.as_ref().unwrap().wait();
                return Err(ToyError::Failed);
            }
            (_, "is stopped") => {
                self.together.as_ref().unwrap().wait();
                let (told, stopped) = std::sync::mpsc::channel();
                let _kept = context.cancellation.subscribe(move || {
                    let _ = told.send(());
                });
                stopped.recv().unwrap();
                return Err(ToyError::Stopped);
            }
            (Op::Source(_), name) => {
                content(&self.files.lock().unwrap().get(name).cloned().unwrap_or_default())
            }
            (_, name) if name.starts_with("output") => content(name),
            _ => DeltaId::Exec(context.key),
        };
        self.stored.lock().unwrap().insert(delta);
        self.rotten.lock().unwrap().remove(&delta);
        Ok(context.inputs.first().cloned().unwrap_or_default().with(delta))
    }

    fn present(&self, delta: &DeltaId) -> Result<bool, ToyError> {
        if self.closely.load(Ordering::SeqCst) && self.rotten.lock().unwrap().contains(delta) {
            return Ok(false);
        }
        Ok(self.stored.lock().unwrap().contains(delta))
    }

    fn lost(&self, error: &ToyError) -> Option<Loss> {
        match error {
            ToyError::Gone(delta) => Some(Loss::Delta(*delta)),
            ToyError::PartGone => Some(Loss::Something),
            ToyError::Failed | ToyError::Stopped => None,
        }
    }

    fn stopped(&self, error: &ToyError) -> bool {
        matches!(error, ToyError::Stopped)
    }

    fn look_closely(&self) {
        self.closely.store(true, Ordering::SeqCst);
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
        hostname: None,
        hosts: Vec::new(),
        limits: StepLimits::default(),
        capture: Capture::All,
        times: StepTimes::Kept,
        on_failure: Vec::new(),
    }))
}

fn add(graph: &mut Graph, name: &str, op: Op, inputs: &[VertexId]) -> VertexId {
    let (name, identity) = (name.to_owned(), name.to_owned());
    graph.add(Vertex { op, inputs: inputs.to_vec(), name, identity, minor: false, origin: None })
}

fn source() -> Op {
    Op::Source(Source::Local { context: String::new(), files: Files::All })
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
        origin: None,
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
        self.solve_with(graph, target, |solver| solver)
    }

    fn solve_with(
        &self,
        graph: &Arc<Graph>,
        target: VertexId,
        options: impl FnOnce(Solver<Toy>) -> Solver<Toy>,
    ) -> Result<Vec<String>, SolveError<ToyError>> {
        self.toy.ran.lock().unwrap().clear();
        self.toy.replaced.lock().unwrap().clear();
        self.events.lock().unwrap().clear();
        let events = Arc::clone(&self.events);
        let sink = EventSink::new(move |event| events.lock().unwrap().push(event));
        let solver = options(Solver::new(Arc::clone(&self.toy), sink, Cancellation::new(), 4));
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
fn what_is_gone_over_again_is_said_once() {
    let (graph, pack) = chain();
    let bench = Bench::new();
    bench.solve(&graph, pack).unwrap();
    bench.toy.stored.lock().unwrap().clear();
    let heard = Heard::default();
    let said = |bench: &Bench| {
        let (mut begun, mut ended) = (BTreeMap::<VertexId, i32>::new(), BTreeMap::<VertexId, Vec<_>>::new());
        for event in bench.events.lock().unwrap().iter() {
            match event {
                Event::Started { vertex } => *begun.entry(*vertex).or_default() += 1,
                Event::Finished { vertex, outcome, .. } => {
                    ended.entry(*vertex).or_default().push(matches!(outcome, Outcome::Built { .. }));
                }
                _ => {}
            }
        }
        (begun, ended)
    };
    bench.solve_with(&graph, pack, |solver| solver.telling(heard.clone())).unwrap();
    let (begun, ended) = said(&bench);
    // Each was found in the store at first, and then made.
    assert!(
        ended.values().all(|outcomes| matches!(outcomes[..], [false, true] | [true | false])),
        "{ended:?}"
    );
    assert!(
        begun.iter().all(|(vertex, times)| *times as usize <= ended[vertex].len()),
        "{begun:?} {ended:?}"
    );
    assert!(ended.values().any(|outcomes| outcomes.last() == Some(&true)), "{ended:?}");
    bench.solve_with(&graph, pack, |solver| solver.telling(heard.clone())).unwrap();
    assert!(bench.events.lock().unwrap().is_empty(), "nothing of it is new");
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

/// Nobody knows whose part is gone until the inputs are looked at closely; then just that is built again, once.
#[test]
fn the_loss_of_a_part_leads_to_whose_part_it_is() {
    let (graph, pack) = chain();
    let bench = Bench::new();
    bench.solve(&graph, pack).unwrap();
    let packed = bench.toy.latest("pack").unwrap().unwrap();
    bench.toy.records.lock().unwrap().remove(&packed.preimage.key());
    bench.toy.rotten.lock().unwrap().insert(content("output"));
    assert_eq!(bench.solve(&graph, pack).unwrap(), ["pack", "output", "pack"]);
    assert_eq!(*bench.toy.replaced.lock().unwrap(), ["output"], "the new result takes the place of the old");
    assert!(matches!(bench.why(&graph, "output"), Some(MissReason::ResultLost { .. })));
}

#[test]
fn what_stays_lost_is_a_failure_in_the_end() {
    let mut graph = Graph::new();
    let src = add(&mut graph, "src", source(), &[]);
    let step = add(&mut graph, "step", exec(), &[src]);
    // Bringing it to hand does not mend it: as if the disk were broken.
    struct Broken(Toy);
    impl Records for Broken {
        type Error = ToyError;
        type Lock = ();
        fn record(&self, key: &Key) -> Result<Option<Record>, ToyError> {
            self.0.record(key)
        }
        fn why_lost(&self, key: &Key) -> Result<Option<String>, ToyError> {
            self.0.why_lost(key)
        }
        fn remember(&self, _: &Key, _: &str, _: &Record, _: bool) -> Result<(), ToyError> {
            Ok(())
        }
        fn latest(&self, identity: &str) -> Result<Option<Record>, ToyError> {
            self.0.latest(identity)
        }
        fn lock(&self, _: &Key) -> Result<(), ToyError> {
            Ok(())
        }
    }
    impl Worker for Broken {
        fn locate(&self, id: VertexId, vertex: &Vertex) -> Result<Snapshot, ToyError> {
            self.0.locate(id, vertex)
        }
        fn describe(&self, vertex: &Vertex, inputs: &[Snapshot]) -> Result<Preimage, ToyError> {
            self.0.describe(vertex, inputs)
        }
        fn run(&self, context: &RunContext<'_>) -> Result<Snapshot, ToyError> {
            if context.vertex.name == "step" { Err(ToyError::PartGone) } else { self.0.run(context) }
        }
        fn present(&self, delta: &DeltaId) -> Result<bool, ToyError> {
            self.0.present(delta)
        }
        fn lost(&self, error: &ToyError) -> Option<Loss> {
            self.0.lost(error)
        }
        fn stopped(&self, error: &ToyError) -> bool {
            self.0.stopped(error)
        }
        fn look_closely(&self) {}
        fn explain(&self, _: &Preimage, _: &Preimage, _: &str) -> Vec<FieldChange> {
            Vec::new()
        }
    }
    let solver = Solver::new(Arc::new(Broken(Toy::default())), EventSink::silent(), Cancellation::new(), 2);
    let error = solver.solve(&Arc::new(graph), &[step], &[step]).unwrap_err();
    assert!(matches!(error, SolveError::Vertex { source: ToyError::PartGone, .. }), "{error:?}");
}

#[test]
fn forced_steps_replace_and_run_once_although_something_is_lost() {
    let (graph, pack) = chain();
    let bench = Bench::new();
    bench.solve(&graph, pack).unwrap();
    bench.toy.rotten.lock().unwrap().insert(content(""));
    let ran = bench.solve_with(&graph, pack, |solver| solver.without_cache(NoCache::Everything)).unwrap();
    assert_eq!(ran, ["compile", "src", "compile", "output", "pack"], "`compile` noticed, and ran again");
    assert_eq!(*bench.toy.replaced.lock().unwrap(), ["compile", "output", "pack"]);
}

#[test]
fn a_record_that_was_set_aside_says_why_the_step_runs() {
    let (graph, pack) = chain();
    let bench = Bench::new();
    bench.solve(&graph, pack).unwrap();
    let key = bench.toy.latest("compile").unwrap().unwrap().preimage.key();
    // The same step is built otherwise, and is then the latest.
    bench.toy.files.lock().unwrap().insert("src".into(), "edited".into());
    bench.solve(&graph, pack).unwrap();
    bench.toy.files.lock().unwrap().clear();
    bench.toy.records.lock().unwrap().remove(&key);
    bench.toy.set_aside.lock().unwrap().insert(key);
    bench.solve(&graph, pack).unwrap();
    let why = bench.why(&graph, "compile").unwrap();
    assert_eq!(why, MissReason::ResultLost { what: "it was set aside".into() });
}

/// All three begin; two fail of themselves, whichever is quicker, and one only stops because of that.
#[test]
fn of_several_failures_the_first_of_the_graph_is_told_and_the_others_are_named() {
    for _ in 0..20 {
        let mut graph = Graph::new();
        let src = add(&mut graph, "src", source(), &[]);
        let names = ["is stopped", "fails together b", "fails together a"];
        let steps = names.map(|name| add(&mut graph, name, exec(), &[src]));
        let all = add(&mut graph, "all", exec(), &steps);
        let bench = Bench {
            toy: Arc::new(Toy { together: Some(Barrier::new(3)), ..Toy::default() }),
            events: Arc::default(),
        };
        let SolveError::Vertex { name, beside, .. } = bench.solve(&Arc::new(graph), all).unwrap_err() else {
            panic!("it fails")
        };
        assert_eq!(name, "fails together b");
        let expected = Beside { failed: vec!["fails together a".into()], stopped: vec!["is stopped".into()] };
        assert_eq!(*beside, expected);
        assert_eq!(
            beside.to_string(),
            "fails together a failed, too, and is stopped was stopped because of that"
        );
        // What began and did not end well took its time.
        let events = bench.events.lock().unwrap();
        let took = |wanted: Outcome| {
            events.iter().find_map(|event| match event {
                Event::Finished { outcome, took, .. } if *outcome == wanted => Some(*took),
                _ => None,
            })
        };
        assert!(took(Outcome::Failed).unwrap() > Duration::ZERO);
        assert!(took(Outcome::Cancelled).unwrap() > Duration::ZERO);
    }
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
