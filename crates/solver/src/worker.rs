use std::error::Error;
use std::fmt::Debug;

use wbuild_graph::{DeltaId, Graph, Key, Preimage, Snapshot, Vertex};
use wbuild_report::{EventSink, FieldChange, VertexId};

use crate::cancel::Cancellation;
use crate::record::Record;

/// What the solver hands over with a vertex to run.
#[derive(Debug)]
pub struct RunContext<'a> {
    /// Which vertex.
    pub id: VertexId,
    /// The vertex.
    pub vertex: &'a Vertex,
    /// All of them: where its inputs come from.
    pub graph: &'a Graph,
    /// Its inputs' snapshots; the files of all of them are at hand.
    pub inputs: &'a [Snapshot],
    /// Its key.
    pub key: Key,
    /// Where to say what happens.
    pub events: &'a EventSink,
    /// When to stop.
    pub cancellation: &'a Cancellation,
}

/// Does what the solver decides. All calls may block; they come from many threads.
pub trait Worker: Records + Send + Sync + 'static {
    /// What a source is right now: which layers, which files. Named, not fetched.
    ///
    /// # Errors
    /// When it cannot be found or read.
    fn locate(&self, id: VertexId, vertex: &Vertex) -> Result<Snapshot, Self::Error>;

    /// Everything that the result of a vertex depends on.
    ///
    /// # Errors
    /// When something that enters the key cannot be read.
    fn describe(&self, vertex: &Vertex, inputs: &[Snapshot]) -> Result<Preimage, Self::Error>;

    /// Runs a vertex; for a source: brings its files to hand.
    ///
    /// # Errors
    /// When it fails.
    fn run(&self, context: &RunContext<'_>) -> Result<Snapshot, Self::Error>;

    /// Whether the files of a delta are at hand.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn present(&self, delta: &DeltaId) -> Result<bool, Self::Error>;

    /// The delta that an error says is gone or damaged, if that is what it says: the solver then builds it anew.
    fn lost(&self, error: &Self::Error) -> Option<DeltaId>;

    /// Which files differ, for a field of the preimage that is a tree. At most a few.
    fn explain(&self, old: &Preimage, new: &Preimage, field: &str) -> Vec<FieldChange>;
}

/// What is remembered between builds.
pub trait Records {
    /// Why it could not be reached.
    type Error: Error + Send + Sync + 'static;
    /// Held while a key is being built.
    type Lock: Send;

    /// The record of a key. A damaged one is none.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn record(&self, key: &Key) -> Result<Option<Record>, Self::Error>;

    /// Remembers. The first record of a key wins, unless `replace`.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn remember(&self, key: &Key, identity: &str, record: &Record, replace: bool) -> Result<(), Self::Error>;

    /// The latest record of the same step, whatever its key: what a miss is compared with.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn latest(&self, identity: &str) -> Result<Option<Record>, Self::Error>;

    /// Waits until nobody else builds this key.
    ///
    /// # Errors
    /// When locks do not work in the state directory.
    fn lock(&self, key: &Key) -> Result<Self::Lock, Self::Error>;
}
