use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;
use wbuild_graph::{DeltaId, Graph, Key, Op, Snapshot, Vertex};
use wbuild_report::{Event, EventSink, Hint, MissReason, Outcome, Reuse, VertexId};

use crate::cancel::Cancellation;
use crate::miss;
use crate::record::Record;
use crate::worker::{Loss, RunContext, Worker};

/// Of a worker's thread: trees thousands of levels deep are put on each other, and dropped, level by level. Only what is used
/// of it costs memory.
const STACK: usize = 16 << 20;

/// Solves graphs with one worker.
#[derive(Debug)]
pub struct Solver<W> {
    worker: Arc<W>,
    events: EventSink,
    cancellation: Cancellation,
    jobs: usize,
    no_cache: NoCache,
    heard: Heard,
}

/// What listeners know of a graph that is gone over, or solved, more than once: that a vertex is used again, or still, is said
/// once. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<Mutex<Telling>>);

#[derive(Debug, Default)]
struct Telling {
    declared: bool,
    begun: BTreeSet<VertexId>,
    /// Those whose result is there.
    ended: BTreeSet<VertexId>,
}

impl Heard {
    fn now(&self) -> MutexGuard<'_, Telling> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which vertices may not be reused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// All may be.
    #[default]
    Nothing,
    /// None may be: every step runs.
    Everything,
    /// These may not.
    Vertices(BTreeSet<VertexId>),
}

impl NoCache {
    fn forces(&self, id: VertexId) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Vertices(vertices) => vertices.contains(&id),
        }
    }
}

/// The result of one vertex.
#[derive(Clone, Debug)]
pub struct Solved {
    /// Its snapshot.
    pub snapshot: Snapshot,
    /// Its key; sources and stacking operations have none.
    pub key: Option<Key>,
    /// Whether it ran in this build.
    pub ran: bool,
}

/// What was found out about a graph.
#[derive(Debug)]
pub struct Solution {
    solved: BTreeMap<VertexId, Solved>,
}

impl Solution {
    /// The result of a vertex that the targets needed.
    pub fn get(&self, id: VertexId) -> Option<&Solved> {
        self.solved.get(&id)
    }

    /// How many vertices ran.
    pub fn ran(&self) -> usize {
        self.solved.values().filter(|solved| solved.ran).count()
    }
}

/// Why a graph could not be solved.
#[derive(Debug, thiserror::Error)]
pub enum SolveError<E: std::error::Error + 'static> {
    /// A vertex failed.
    #[error("{name} failed")]
    Vertex {
        /// Which.
        id: VertexId,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: E,
        /// What else did not end well.
        beside: Box<Beside>,
    },
    /// The build was cancelled from outside.
    #[error("the build was cancelled")]
    Cancelled,
    /// Results vanish as fast as they are made.
    #[error("results vanish from the store as fast as they are made; the last one was that of {name}")]
    KeepsVanishing {
        /// The vertex.
        name: String,
    },
}

/// The names of what did not end well beside the vertex that an error is about, in the order of the graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// What failed, too, by itself.
    pub failed: Vec<String>,
    /// What was stopped because of that.
    pub stopped: Vec<String>,
}

/// For people; empty when there is nothing to say.
impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, stopped) = (self.failed.join(", "), self.stopped.join(", "));
        let was = if self.stopped.len() == 1 { "was" } else { "were" };
        match (self.failed.is_empty(), self.stopped.is_empty()) {
            (true, true) => Ok(()),
            (false, true) => write!(f, "{failed} failed, too"),
            (true, false) => write!(f, "{stopped} {was} stopped because of that"),
            (false, false) => write!(f, "{failed} failed, too, and {stopped} {was} stopped because of that"),
        }
    }
}

/// How often a vertex may come upon something lost that nobody can name, before that is taken for a failure.
const MAX_SUSPICIONS: u32 = 3;

/// What passes over the same graph know of each other.
#[derive(Debug, Default)]
struct Course {
    /// Results that turned out to be lost and have not been made again yet.
    lost: BTreeSet<Key>,
    /// How often a result turned out to be lost.
    were_lost: BTreeMap<Key, u32>,
    /// Vertices that ran: they need not be forced again.
    made: BTreeSet<Key>,
    /// Vertices that came upon something lost that nobody can name, and how often.
    suspicious: BTreeMap<VertexId, u32>,
}

impl<E: std::error::Error + Hint + 'static> Hint for SolveError<E> {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Vertex { source, beside, .. } => {
                let mut hints = source.hints();
                hints.extend(Some(beside.to_string()).filter(|said| !said.is_empty()));
                hints
            }
            Self::KeepsVanishing { .. } => vec![
                "`wbuild cache verify` finds all that is damaged in the state directory and drops it"
                    .to_owned(),
                "when it happens again, the disk may be failing: `WBUILD_HOME` names another state directory"
                    .to_owned(),
            ],
            Self::Cancelled => Vec::new(),
        }
    }
}

impl<W: Worker> Solver<W> {
    /// A solver that runs at most `jobs` steps at once.
    pub fn new(worker: Arc<W>, events: EventSink, cancellation: Cancellation, jobs: usize) -> Self {
        Self {
            worker,
            events,
            cancellation,
            jobs: jobs.max(1),
            no_cache: NoCache::Nothing,
            heard: Heard::default(),
        }
    }

    /// Says what listeners know from solving the same graph before.
    #[must_use]
    pub fn telling(mut self, heard: Heard) -> Self {
        self.heard = heard;
        self
    }

    /// Says what may not be reused.
    #[must_use]
    pub fn without_cache(mut self, no_cache: NoCache) -> Self {
        self.no_cache = no_cache;
        self
    }

    /// Solves `targets`; the files of those in `demanded` are at hand afterwards. Blocks; makes its own runtime.
    ///
    /// # Errors
    /// The failure that comes first in the graph; what ran beside the one that was quickest is cancelled.
    pub fn solve(
        &self,
        graph: &Arc<Graph>,
        targets: &[VertexId],
        demanded: &[VertexId],
    ) -> Result<Solution, SolveError<W::Error>> {
        let declared = std::mem::replace(&mut self.heard.now().declared, true);
        for id in graph.reachable(targets).into_iter().filter(|_| !declared) {
            let vertex = graph.vertex(id);
            // Stacking is arithmetic on snapshots: nothing happens that could be shown.
            if matches!(vertex.op, Op::Merge | Op::Diff) {
                continue;
            }
            let (name, minor) = (vertex.name.clone(), vertex.minor);
            self.events.send(Event::Declared { vertex: id, name, minor });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(256)
            .thread_stack_size(STACK)
            .enable_time()
            .build()
            .expect("a runtime without I/O needs only threads");
        let course = Arc::new(Mutex::new(Course::default()));
        // Ends: every restart adds a key, or to the count of a vertex, and there are only so many.
        loop {
            let pass = Arc::new(Pass::new(self, graph, &course));
            let outcome = runtime.block_on(pass.clone().all(targets, demanded));
            match outcome {
                Ok(()) => return Ok(pass.solution()),
                Err(Stop::Lost(key)) => {
                    let mut course = course.lock().unwrap_or_else(PoisonError::into_inner);
                    let times = course.were_lost.entry(key).or_default();
                    *times += 1;
                    match *times {
                        1 => {}
                        // Something that the result has in common with others is damaged, and looks as if it were not.
                        2 => self.worker.look_closely(),
                        _ => return Err(SolveError::KeepsVanishing { name: pass.name_of(&key) }),
                    }
                    course.lost.insert(key);
                }
                Err(Stop::Suspicious(id)) => {
                    self.worker.look_closely();
                    let mut course = course.lock().unwrap_or_else(PoisonError::into_inner);
                    *course.suspicious.entry(id).or_default() += 1;
                }
                Err(Stop::Failed | Stop::Cancelled) => return Err(pass.failure()),
            }
        }
    }
}

/// Why a pass ended early.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// A vertex failed; its error is in `Pass::endings`.
    Failed,
    /// Stopped from outside, or because another vertex failed.
    Cancelled,
    /// The result of this key is gone.
    Lost(Key),
    /// Something that an input of this vertex consists of is gone.
    Suspicious(VertexId),
}

/// What did not end well.
#[derive(Debug)]
struct Endings<E> {
    failed: BTreeMap<VertexId, E>,
    stopped: BTreeSet<VertexId>,
}

impl<E> Default for Endings<E> {
    fn default() -> Self {
        Self { failed: BTreeMap::new(), stopped: BTreeSet::new() }
    }
}

/// One walk over the graph.
struct Pass<W: Worker> {
    worker: Arc<W>,
    graph: Arc<Graph>,
    events: EventSink,
    cancellation: Cancellation,
    steps: Semaphore,
    no_cache: NoCache,
    heard: Heard,
    course: Arc<Mutex<Course>>,
    /// When vertices began.
    started: Mutex<BTreeMap<VertexId, Instant>>,
    known: Vec<OnceCell<Solved>>,
    fetched: Vec<OnceCell<()>>,
    /// Which vertex made a delta, with its key: whom to ask when the delta is not there.
    producers: Mutex<BTreeMap<DeltaId, (VertexId, Option<Key>)>>,
    /// Deltas whose files were found at hand.
    present: Mutex<BTreeSet<DeltaId>>,
    endings: Mutex<Endings<W::Error>>,
    /// Why another pass is needed, once that is known.
    over: OnceLock<Stop>,
}

type Known<'a, T> = Pin<Box<dyn Future<Output = Result<T, Stop>> + Send + 'a>>;

impl<W: Worker> Pass<W> {
    fn new(solver: &Solver<W>, graph: &Arc<Graph>, course: &Arc<Mutex<Course>>) -> Self {
        Self {
            worker: Arc::clone(&solver.worker),
            graph: Arc::clone(graph),
            events: solver.events.clone(),
            cancellation: solver.cancellation.clone(),
            steps: Semaphore::new(solver.jobs),
            no_cache: solver.no_cache.clone(),
            heard: solver.heard.clone(),
            course: Arc::clone(course),
            started: Mutex::default(),
            known: (0..graph.len()).map(|_| OnceCell::new()).collect(),
            fetched: (0..graph.len()).map(|_| OnceCell::new()).collect(),
            producers: Mutex::default(),
            present: Mutex::default(),
            endings: Mutex::default(),
            over: OnceLock::new(),
        }
    }

    /// Another pass is needed.
    fn again(&self, why: Stop) -> Stop {
        *self.over.get_or_init(|| why)
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the pass ended, when nothing was lost: what comes first in the graph of all that failed.
    fn failure(&self) -> SolveError<W::Error> {
        let endings = std::mem::take(&mut *self.endings.lock().unwrap_or_else(PoisonError::into_inner));
        let name = |id: &VertexId| self.graph.vertex(*id).name.clone();
        let stopped = endings.stopped.iter().map(name).collect();
        let mut failed = endings.failed.into_iter();
        match failed.next() {
            Some((id, source)) => {
                let failed = failed.map(|(id, _)| name(&id)).collect();
                let beside = Box::new(Beside { failed, stopped });
                SolveError::Vertex { id, name: name(&id), source, beside }
            }
            None => SolveError::Cancelled,
        }
    }

    async fn all(self: Arc<Self>, targets: &[VertexId], demanded: &[VertexId]) -> Result<(), Stop> {
        self.know_all(targets).await?;
        for id in demanded {
            let snapshot = self.known(*id).await?.snapshot;
            self.demand(&snapshot).await?;
        }
        Ok(())
    }

    fn solution(&self) -> Solution {
        let solved =
            self.known.iter().enumerate().filter_map(|(index, cell)| {
                cell.get().map(|solved| (VertexId(index as u32), solved.clone()))
            });
        Solution { solved: solved.collect() }
    }

    fn name_of(&self, key: &Key) -> String {
        let of_key =
            |cell: &OnceCell<Solved>| cell.get().is_some_and(|solved| solved.key.as_ref() == Some(key));
        let index = self.known.iter().position(of_key);
        index.map_or_else(|| key.to_string(), |index| self.graph.vertex(VertexId(index as u32)).name.clone())
    }

    /// Several at once; ends with the first failure.
    async fn know_all(self: &Arc<Self>, ids: &[VertexId]) -> Result<Vec<Snapshot>, Stop> {
        let tasks: Vec<_> = ids
            .iter()
            .map(|id| {
                let (pass, id) = (Arc::clone(self), *id);
                tokio::spawn(async move { pass.known(id).await })
            })
            .collect();
        let mut snapshots = Vec::with_capacity(ids.len());
        let mut stop = None;
        for task in tasks {
            match task.await {
                Ok(Ok(solved)) => snapshots.push(solved.snapshot),
                // All are awaited, so that nothing still runs when the build ends.
                Ok(Err(Stop::Failed)) => stop = Some(Stop::Failed),
                Ok(Err(other)) => stop = stop.or(Some(other)),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        stop.map_or(Ok(snapshots), Err)
    }

    fn known(self: &Arc<Self>, id: VertexId) -> Known<'_, Solved> {
        Box::pin(async move {
            let cell = &self.known[id.0 as usize];
            cell.get_or_try_init(|| self.find_out(id)).await.cloned()
        })
    }

    async fn find_out(self: &Arc<Self>, id: VertexId) -> Result<Solved, Stop> {
        let graph = Arc::clone(&self.graph);
        let vertex = graph.vertex(id);
        let inputs = self.know_all(&vertex.inputs).await?;
        // Nothing begins that the next pass would do again; nor does what has just stopped, for another that needs it.
        if let Some(stop) = self.over.get() {
            return Err(*stop);
        }
        if self.cancellation.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        if self.course().suspicious.contains_key(&id) {
            for snapshot in &inputs {
                self.demand(snapshot).await?;
            }
        }
        let solved = match &vertex.op {
            Op::Source(_) => {
                self.begin(id);
                let snapshot =
                    self.blocking(id, move |worker, graph| worker.locate(id, graph.vertex(id))).await?;
                self.finished(id, Outcome::Reused { from: Reuse::Local });
                Solved { snapshot, key: None, ran: false }
            }
            Op::Merge => {
                let deltas = inputs.into_iter().flat_map(|snapshot| snapshot.deltas).collect();
                return Ok(Solved { snapshot: Snapshot { deltas }, key: None, ran: false });
            }
            Op::Diff => {
                let snapshot = inputs[1].above(&inputs[0]).unwrap_or_else(|| inputs[1].clone());
                return Ok(Solved { snapshot, key: None, ran: false });
            }
            _ => self.reuse_or_run(id, vertex, &inputs).await?,
        };
        self.remember_producers(id, &inputs, &solved);
        Ok(solved)
    }

    fn remember_producers(&self, id: VertexId, inputs: &[Snapshot], solved: &Solved) {
        let mut producers = self.producers.lock().unwrap_or_else(PoisonError::into_inner);
        for delta in &solved.snapshot.deltas {
            if !inputs.iter().any(|input| input.deltas.contains(delta)) {
                producers.entry(*delta).or_insert((id, solved.key));
            }
        }
    }

    async fn reuse_or_run(
        self: &Arc<Self>,
        id: VertexId,
        vertex: &Vertex,
        inputs: &[Snapshot],
    ) -> Result<Solved, Stop> {
        let preimage = self.at_once(id, |worker, graph| worker.describe(graph.vertex(id), inputs))?;
        let key = preimage.key();
        let (is_lost, replace) = {
            let course = self.course();
            let is_lost = course.lost.contains(&key);
            (is_lost, is_lost || self.no_cache.forces(id) && !course.made.contains(&key))
        };
        self.begin(id);
        if !replace {
            let found = self.at_once(id, |worker, _| worker.record(&key))?;
            if let Some(record) = found {
                self.worker.reused(&key, &self.graph.vertex(id).identity);
                self.finished(id, Outcome::Reused { from: Reuse::Local });
                return Ok(Solved { snapshot: record.snapshot, key: Some(key), ran: false });
            }
            let wanted = preimage.clone();
            let found = self
                .blocking(id, move |worker, graph| worker.import(&key, &graph.vertex(id).identity, &wanted));
            if let Some(record) = found.await? {
                self.finished(id, Outcome::Reused { from: Reuse::Imported });
                return Ok(Solved { snapshot: record.snapshot, key: Some(key), ran: false });
            }
        }
        for snapshot in inputs {
            self.demand(snapshot).await?;
        }
        // The lock comes before the place among the running steps: who waits for another process runs nothing.
        let _lock = self.blocking(id, move |worker, _| worker.lock(&key)).await?;
        if !replace {
            let found = self.blocking(id, move |worker, _| worker.record(&key)).await?;
            if let Some(record) = found {
                self.worker.reused(&key, &self.graph.vertex(id).identity);
                self.finished(id, Outcome::Reused { from: Reuse::Awaited });
                return Ok(Solved { snapshot: record.snapshot, key: Some(key), ran: false });
            }
        }
        let why = if is_lost {
            MissReason::ResultLost { what: "its files".to_owned() }
        } else if replace {
            MissReason::Forced
        } else {
            let compared = preimage.clone();
            self.blocking(id, move |worker, graph| {
                miss::reason(worker, &graph.vertex(id).identity, &compared)
            })
            .await?
        };
        let _place = match &vertex.op {
            Op::Exec(_) => Some(self.steps.acquire().await.map_err(|_| Stop::Cancelled)?),
            _ => None,
        };
        self.note_start(id);
        if self.heard.now().ended.remove(&id) {
            // It was said to be there, and is not.
            self.events.send(Event::Started { vertex: id });
        }
        let snapshot = self.run(id, inputs, key, replace).await?;
        let took = self.elapsed(id);
        let record = Record {
            version: Record::VERSION,
            name: vertex.name.clone(),
            preimage,
            snapshot: snapshot.clone(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            set_aside: None,
        };
        self.blocking(id, move |worker, graph| {
            worker.remember(&key, &graph.vertex(id).identity, &record, replace)
        })
        .await?;
        {
            let mut course = self.course();
            course.lost.remove(&key);
            course.made.insert(key);
        }
        self.finished(id, Outcome::Built { why });
        Ok(Solved { snapshot, key: Some(key), ran: true })
    }

    async fn run(
        self: &Arc<Self>,
        id: VertexId,
        inputs: &[Snapshot],
        key: Key,
        replace: bool,
    ) -> Result<Snapshot, Stop> {
        let inputs = inputs.to_vec();
        let (events, cancellation) = (self.events.clone(), self.cancellation.clone());
        self.blocking(id, move |worker, graph| {
            worker.run(&RunContext {
                id,
                vertex: graph.vertex(id),
                graph,
                inputs: &inputs,
                key,
                replace,
                events: &events,
                cancellation: &cancellation,
            })
        })
        .await
    }

    /// Sees to it that the files of a snapshot are at hand.
    fn demand<'a>(self: &'a Arc<Self>, snapshot: &'a Snapshot) -> Known<'a, ()> {
        Box::pin(async move {
            for (id, key) in self.missing(snapshot).await? {
                match key {
                    Some(key) => return Err(self.again(Stop::Lost(key))),
                    // A source: it was only named so far.
                    None => {
                        let fetch = async {
                            let key = Key(wbuild_oci::Digest::of(b"source"));
                            self.run(id, &[], key, false).await.map(|_| ())
                        };
                        self.fetched[id.0 as usize].get_or_try_init(|| fetch).await?;
                    }
                }
            }
            Ok(())
        })
    }

    /// The vertices whose files of a snapshot are not at hand, in order. Each delta is asked about until it is there: a
    /// long stack is part of every stack above it.
    async fn missing(self: &Arc<Self>, snapshot: &Snapshot) -> Result<Vec<(VertexId, Option<Key>)>, Stop> {
        let mut unknown = Vec::new();
        {
            let producers = self.producers.lock().unwrap_or_else(PoisonError::into_inner);
            let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
            for delta in snapshot.deltas.iter().filter(|delta| !present.contains(delta)) {
                unknown.extend(producers.get(delta).map(|(id, key)| (*delta, *id, *key)));
            }
        }
        let Some((_, first, _)) = unknown.first().copied() else { return Ok(Vec::new()) };
        let (found, missing): (Vec<_>, Vec<_>) = self
            .blocking(first, move |worker, _| {
                let look = |(delta, id, key)| Ok((worker.present(&delta)?, (delta, id, key)));
                unknown.into_iter().map(look).collect::<Result<Vec<_>, W::Error>>()
            })
            .await?
            .into_iter()
            .partition(|(there, _)| *there);
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.extend(found.into_iter().map(|(_, (delta, ..))| delta));
        Ok(missing.into_iter().map(|(_, (_, id, key))| (id, key)).collect())
    }

    fn begin(&self, id: VertexId) {
        if self.heard.now().begun.insert(id) {
            self.events.send(Event::Started { vertex: id });
        }
        self.note_start(id);
    }

    /// From here on its time counts: what it waited for before is not its own.
    fn note_start(&self, id: VertexId) {
        self.started.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Instant::now());
    }

    /// Nothing for what never began.
    fn elapsed(&self, id: VertexId) -> Duration {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.get(&id).map_or(Duration::ZERO, Instant::elapsed)
    }

    fn finished(&self, id: VertexId, outcome: Outcome) {
        let is_there = matches!(outcome, Outcome::Reused { .. } | Outcome::Built { .. } | Outcome::Done);
        let is_news = match is_there {
            true => self.heard.now().ended.insert(id),
            false => {
                self.heard.now().ended.remove(&id);
                true
            }
        };
        if !is_news {
            return;
        }
        self.events.send(Event::Finished { vertex: id, outcome, took: self.elapsed(id) });
    }

    /// Calls the worker off the runtime's threads and files its errors.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        id: VertexId,
        work: impl FnOnce(&W, &Graph) -> Result<T, W::Error> + Send + 'static,
    ) -> Result<T, Stop> {
        let (worker, graph) = (Arc::clone(&self.worker), Arc::clone(&self.graph));
        let result = tokio::task::spawn_blocking(move || work(&worker, &graph)).await;
        let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        result.map_err(|error| self.file(id, error))
    }

    /// Calls the worker where it is, for what reads a small file or two: handing it to another thread and back takes
    /// longer, and in a build in which nothing changed there is nothing else.
    fn at_once<T>(
        self: &Arc<Self>,
        id: VertexId,
        work: impl FnOnce(&W, &Graph) -> Result<T, W::Error>,
    ) -> Result<T, Stop> {
        work(&self.worker, &self.graph).map_err(|error| self.file(id, error))
    }

    /// Files an error of the worker, and says why to stop.
    fn file(&self, id: VertexId, error: W::Error) -> Stop {
        match self.worker.lost(&error) {
            Some(Loss::Delta(delta)) => {
                let producers = self.producers.lock().unwrap_or_else(PoisonError::into_inner);
                match producers.get(&delta).copied() {
                    Some((_, Some(key))) => return self.again(Stop::Lost(key)),
                    // Of a source, which is only named: it is fetched again.
                    _ if self.may_suspect(id) => return self.again(Stop::Suspicious(id)),
                    _ => {}
                }
            }
            Some(Loss::Something) if self.may_suspect(id) => return self.again(Stop::Suspicious(id)),
            _ => {}
        }
        let mut endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        // What ended by itself a moment after another has failed, failed too. When somebody else cancelled the build,
        // nobody wants to know.
        let cancelled = self.cancellation.is_cancelled();
        if cancelled && (endings.failed.is_empty() || self.worker.stopped(&error)) {
            endings.stopped.insert(id);
            drop(endings);
            self.finished(id, Outcome::Cancelled);
            return Stop::Cancelled;
        }
        endings.failed.entry(id).or_insert(error);
        drop(endings);
        self.finished(id, Outcome::Failed);
        self.cancellation.cancel();
        Stop::Failed
    }

    fn may_suspect(&self, id: VertexId) -> bool {
        self.course().suspicious.get(&id).is_none_or(|count| *count < MAX_SUSPICIONS)
    }
}
