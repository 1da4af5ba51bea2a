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
    /// Whether what is stored for this key is lost or not wanted: the new result takes its place. Else the first result
    /// of a key stays, if another process was quicker.
    pub replace: bool,
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

    /// What an error says is gone or damaged, if that is what it says: the solver then builds it anew.
    fn lost(&self, error: &Self::Error) -> Option<Loss>;

    /// Whether an error only says that the vertex was asked to stop.
    fn stopped(&self, error: &Self::Error) -> bool;

    /// From now on a delta is [`present`](Self::present) only if everything of it was read and is right. Called when
    /// something turned out to be gone or damaged, and nobody knows of which delta it is a part.
    fn look_closely(&self);

    /// Which files differ, for a field of the preimage that is a tree. At most a few.
    fn explain(&self, old: &Preimage, new: &Preimage, field: &str) -> Vec<FieldChange>;
}

/// What is gone or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// This delta.
    Delta(DeltaId),
    /// Something that one of the vertex' inputs consists of.
    Something,
}

/// What is remembered between builds.
pub trait Records {
    /// Why it could not be reached.
    type Error: Error + Send + Sync + 'static;
    /// Held while a key is being built.
    type Lock: Send;

    /// The record of a key. A damaged one is none, and so is one that was set aside.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn record(&self, key: &Key) -> Result<Option<Record>, Self::Error>;

    /// The record of a key is what this build goes on with; what identifies the vertex across builds besides.
    fn reused(&self, key: &Key, identity: &str) {
        let _ = (key, identity);
    }

    /// The record that another machine made of a key, when there is none here; from then on it is here. `preimage` is what the
    /// key was computed from. May take a while, and fails for no reason of the other machine's.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn import(&self, key: &Key, identity: &str, preimage: &Preimage) -> Result<Option<Record>, Self::Error> {
        let _ = (key, identity, preimage);
        Ok(None)
    }

    /// What became of the record of a key, if there was one that is no longer good: it was damaged, or what it refers to.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn why_lost(&self, key: &Key) -> Result<Option<String>, Self::Error>;

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
