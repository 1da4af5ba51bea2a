use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::miss::MissReason;

/// A vertex within one build: its index in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VertexId(pub u32);

/// Which of a step's streams a log chunk came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Where a reused result came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reuse {
    /// A record of an earlier build in the local store.
    Local,
    /// Another process was building the same key; its result was awaited.
    Awaited,
    /// A record of another machine, from a remote cache.
    Imported,
}

/// How a vertex ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// Its result was reused; nothing ran.
    Reused {
        /// From where.
        from: Reuse,
    },
    /// It ran.
    Built {
        /// Why it could not be reused.
        why: MissReason,
    },
    /// It failed; the build's error says why.
    Failed,
    /// It was stopped because something else failed or the person pressed ctrl-C.
    Cancelled,
    /// A transfer is through.
    Done,
}

/// How a part of a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moving {
    /// Some of it has come or gone.
    UnderWay,
    /// All of it has.
    Done,
    /// It was there already.
    Present,
    /// Another repository of the registry lent it.
    Lent,
}

/// Something the person should know that does not stop the build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What: a lowercase fragment.
    pub message: String,
    /// What to do next.
    pub hints: Vec<String>,
}

/// What the solver and the worker say while they work. Progress, logs and reports are views of this stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A vertex is part of this build.
    Declared {
        /// Which.
        vertex: VertexId,
        /// Its name as the person wrote it or would write it: `[deps] pnpm install`.
        name: String,
        /// Those of minor interest (sources, metadata) are folded by progress views.
        minor: bool,
    },
    /// Its inputs are there and its key is known; work begins.
    Started {
        /// Which.
        vertex: VertexId,
    },
    /// Something moves between this machine and a registry. It is no vertex of the graph, and has a number behind theirs; like
    /// one it is started and finished.
    Transferring {
        /// Its number.
        vertex: VertexId,
        /// What: `pull node:22`.
        name: String,
    },
    /// How far one part of a transfer is.
    Moved {
        /// Which transfer.
        vertex: VertexId,
        /// What of it: the digest of a blob.
        part: String,
        /// So many bytes of it.
        bytes: u64,
        /// All of them.
        total: u64,
        /// How it stands.
        state: Moving,
    },
    /// A chunk of a step's output, as written.
    Log {
        /// Which.
        vertex: VertexId,
        /// From where.
        stream: LogStream,
        /// The bytes; not necessarily UTF-8, not necessarily whole lines.
        bytes: Vec<u8>,
    },
    /// The whole log of a step is kept here.
    LogFile {
        /// Which.
        vertex: VertexId,
        /// Where.
        path: PathBuf,
    },
    /// It ended.
    Finished {
        /// Which.
        vertex: VertexId,
        /// How.
        outcome: Outcome,
        /// Wall time from `Started`, waiting for inputs not included.
        took: Duration,
    },
    /// Something the person should know.
    Warned {
        /// The vertex it is about, if it is about one.
        vertex: Option<VertexId>,
        /// What.
        warning: Warning,
    },
}

/// Where events go. Cheap to clone; calls never block for long and may come from any thread.
#[derive(Clone)]
pub struct EventSink(Arc<dyn Fn(Event) + Send + Sync>);

impl EventSink {
    /// A sink that hands every event to `listener`.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// A sink that drops everything.
    pub fn silent() -> Self {
        Self::new(|_| ())
    }

    /// Says one thing.
    pub fn send(&self, event: Event) {
        (self.0)(event);
    }

    /// Warns, about one vertex or the build as a whole.
    pub fn warn(&self, vertex: Option<VertexId>, message: impl Into<String>, hints: Vec<String>) {
        self.send(Event::Warned { vertex, warning: Warning { message: message.into(), hints } });
    }

    /// Hands on a warning about the build as a whole.
    pub fn hand_on(&self, warning: Warning) {
        self.send(Event::Warned { vertex: None, warning });
    }
}

impl std::fmt::Debug for EventSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventSink")
    }
}
