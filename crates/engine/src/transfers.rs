//! What moves between this machine and registries, as progress shows it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wbuild_report::{Event, EventSink, Moving, Outcome, VertexId};

/// Of one part no more is said than this often.
const EVERY: Duration = Duration::from_millis(200);

/// Gives transfers their numbers, and knows who listens.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    next: AtomicU32,
    /// Nobody, as long as nothing is solved.
    events: Mutex<Option<EventSink>>,
}

impl Transfers {
    /// From now on somebody listens, to whom the vertices below `first` are known.
    pub(crate) fn follow(&self, events: EventSink, first: u32) {
        self.next.fetch_max(first, Ordering::Relaxed);
        *self.events.lock().unwrap_or_else(PoisonError::into_inner) = Some(events);
    }

    pub(crate) fn begin(&self, name: String) -> Arc<Transfer> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let events = events.unwrap_or_else(EventSink::silent);
        let vertex = VertexId(self.next.fetch_add(1, Ordering::Relaxed));
        events.send(Event::Transferring { vertex, name });
        events.send(Event::Started { vertex });
        Arc::new(Transfer { events, vertex, began: Instant::now(), failed: AtomicBool::new(false) })
    }
}

/// A transfer; it is through when nobody has it any more.
#[derive(Debug)]
pub struct Transfer {
    events: EventSink,
    vertex: VertexId,
    began: Instant,
    failed: AtomicBool,
}

impl Transfer {
    /// A part of it begins.
    pub fn part(self: &Arc<Self>, name: String, total: u64) -> TransferPart {
        TransferPart { transfer: Arc::clone(self), name, total, bytes: 0, said: Instant::now() }
    }

    /// It will not get through.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let outcome = if self.failed.load(Ordering::Relaxed) { Outcome::Failed } else { Outcome::Done };
        let took = self.began.elapsed();
        self.events.send(Event::Finished { vertex: self.vertex, outcome, took });
    }
}

/// A part of a transfer: a blob.
#[derive(Debug)]
pub struct TransferPart {
    transfer: Arc<Transfer>,
    name: String,
    total: u64,
    bytes: u64,
    said: Instant,
}

impl TransferPart {
    /// Nothing of it has moved yet, but it will.
    pub fn announce(&self) {
        self.say(Moving::UnderWay);
    }

    /// More of it has moved.
    pub fn moved(&mut self, more: u64) {
        self.bytes = self.bytes.saturating_add(more).min(self.total);
        if self.said.elapsed() >= EVERY {
            self.said = Instant::now();
            self.say(Moving::UnderWay);
        }
    }

    /// It has to move again, from this byte on.
    pub fn again_from(&mut self, byte: u64) {
        self.bytes = byte;
    }

    /// It is where it was to be.
    pub fn end(&mut self, state: Moving) {
        self.bytes = self.total;
        self.say(state);
    }

    fn say(&self, state: Moving) {
        let (part, bytes, total) = (self.name.clone(), self.bytes, self.total);
        self.transfer.events.send(Event::Moved { vertex: self.transfer.vertex, part, bytes, total, state });
    }
}
