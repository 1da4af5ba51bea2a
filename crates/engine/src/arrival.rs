//! Blobs on their way into the store, which can be read while they come.
//!
//! Who reads one gets bytes that nobody has verified yet, and the end only when the blob is in the store: its size and digest
//! were right then. So whoever makes something of it keeps that to itself until it has read the end, and has compared the
//! digest of what it read with the one that it wanted: after a download that had to start over, the first bytes may have
//! been those of another file ([`Arrival::started_over`]).
//!
//! A reader waits for the download, and the download for no reader: what has come lies in a file, not in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use wbuild_oci::Digest;
use wbuild_report::with_causes;
use wbuild_store::Store;

use crate::error::EngineError;

/// A blob that comes.
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What has come; nothing before the first byte, or when another process brings it.
    file: Option<Arc<File>>,
    bytes: u64,
    started_over: bool,
    end: Option<End>,
}

#[derive(Clone, Debug)]
enum End {
    /// It is in the store.
    Here,
    /// It will not come, and why.
    Lost(String),
}

impl Arrival {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// It comes into this file, from its beginning.
    pub(crate) fn comes_into(&self, file: File) {
        self.change(|state| {
            state.started_over |= state.bytes > 0;
            state.bytes = 0;
            state.file = Some(Arc::new(file));
        });
    }

    /// More of it is in the file.
    pub(crate) fn moved(&self, more: u64) {
        self.change(|state| state.bytes += more);
    }

    /// It was verified, and is in the store; or it will not come.
    pub(crate) fn ended(&self, result: Result<(), &EngineError>) {
        self.change(|state| {
            state.end = Some(match result {
                Ok(()) => End::Here,
                Err(error) => End::Lost(with_causes(error)),
            });
        });
    }

    /// Whether it came from the beginning again after something of it had come.
    pub(crate) fn started_over(&self) -> bool {
        self.state().started_over
    }

    /// Waits for its end. Whether it is in the store then.
    pub(crate) fn wait(&self) -> bool {
        let mut state = self.state();
        loop {
            match &state.end {
                Some(end) => return matches!(end, End::Here),
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Waits until there is more than `position` bytes of it, or all of it.
    fn wait_beyond(&self, position: u64) -> io::Result<Ready> {
        let mut state = self.state();
        loop {
            match (&state.end, &state.file) {
                (Some(End::Lost(why)), _) => return Err(io::Error::other(why.clone())),
                (Some(End::Here), file) => return Ok(Ready::Whole(file.clone())),
                (None, Some(file)) if state.bytes > position => {
                    return Ok(Ready::Some(Arc::clone(file), state.bytes - position));
                }
                (None, _) => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

enum Ready {
    /// So many bytes more.
    Some(Arc<File>, u64),
    /// All of it, if it came through this process.
    Whole(Option<Arc<File>>),
}

/// Reads a blob while it comes.
#[derive(Debug)]
pub(crate) struct ArrivingBlob {
    store: Store,
    digest: Digest,
    arrival: Arc<Arrival>,
    position: u64,
}

impl ArrivingBlob {
    pub(crate) const fn new(store: Store, digest: Digest, arrival: Arc<Arrival>) -> Self {
        Self { store, digest, arrival, position: 0 }
    }
}

impl Read for ArrivingBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (file, most) = match self.arrival.wait_beyond(self.position)? {
            Ready::Some(file, more) => (file, usize::try_from(more).unwrap_or(usize::MAX)),
            Ready::Whole(Some(file)) => (file, usize::MAX),
            Ready::Whole(None) => {
                let blob = self.store.open_blob(&self.digest).map_err(io::Error::other)?;
                let file = Arc::new(blob.into_file());
                self.arrival.change(|state| state.file = Some(Arc::clone(&file)));
                (file, usize::MAX)
            }
        };
        let most = most.min(buffer.len());
        let read = file.read_at(&mut buffer[..most], self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// The blobs that come to a build.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    coming: Mutex<BTreeMap<Digest, Arc<Arrival>>>,
}

impl Arrivals {
    fn coming(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Arrival>>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob that somebody brings.
    pub(crate) fn of(&self, digest: &Digest) -> Option<Arc<Arrival>> {
        self.coming().get(digest).cloned()
    }

    /// From now on these can be read, since the caller is about to bring them. Those that somebody else brings stay theirs.
    pub(crate) fn expect(self: &Arc<Self>, digests: impl IntoIterator<Item = Digest>) -> Expecting {
        let mut coming = self.coming();
        let mut own = Vec::new();
        for digest in digests {
            coming.entry(digest).or_insert_with(|| {
                let arrival = Arc::<Arrival>::default();
                own.push((digest, Arc::clone(&arrival)));
                arrival
            });
        }
        Expecting { arrivals: Arc::clone(self), own }
    }
}

/// The promise to bring some blobs; those that have not come when it is dropped will not.
#[derive(Debug)]
pub(crate) struct Expecting {
    arrivals: Arc<Arrivals>,
    own: Vec<(Digest, Arc<Arrival>)>,
}

impl Drop for Expecting {
    fn drop(&mut self) {
        for (digest, arrival) in &self.own {
            self.arrivals.coming().remove(digest);
            arrival.change(|state| {
                state.end.get_or_insert_with(|| End::Lost("its download was given up".to_owned()));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::thread;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    fn all(mut reader: ArrivingBlob) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    }

    #[test]
    fn bytes_are_read_as_they_come_and_the_end_when_it_is_known() {
        let (_folder, store) = store();
        let arrivals = Arc::<Arrivals>::default();
        let digest = Digest::of(b"x");
        let _expecting = arrivals.expect([digest]);
        let arrival = arrivals.of(&digest).unwrap();
        let mut reader = ArrivingBlob::new(store, digest, Arc::clone(&arrival));
        let mut file = tempfile::tempfile().unwrap();
        thread::scope(|scope| {
            let read = scope.spawn(move || {
                let mut first = [0; 3];
                reader.read_exact(&mut first).unwrap();
                (first, all(reader).unwrap())
            });
            arrival.comes_into(file.try_clone().unwrap());
            file.write_all(b"abcdef").unwrap();
            arrival.moved(2);
            arrival.moved(4);
            assert!(!arrival.started_over());
            arrival.ended(Ok(()));
            assert_eq!(read.join().unwrap(), (*b"abc", b"def".to_vec()));
        });
    }

    #[test]
    fn one_that_starts_over_is_read_on() {
        let (_folder, store) = store();
        let arrival = Arc::<Arrival>::default();
        let mut reader = ArrivingBlob::new(store, Digest::of(b"x"), Arc::clone(&arrival));
        let file = |text: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text).unwrap();
            file
        };
        arrival.comes_into(file(b"old"));
        arrival.moved(3);
        let mut first = [0; 2];
        reader.read_exact(&mut first).unwrap();
        arrival.comes_into(file(b"newer"));
        arrival.moved(5);
        arrival.ended(Ok(()));
        assert!(arrival.started_over() && arrival.wait());
        assert_eq!((&first, &*all(reader).unwrap()), (b"ol", &b"wer"[..]));
    }

    #[test]
    fn one_that_another_process_brought_is_read_from_the_store() {
        let (_folder, store) = store();
        let digest = store.put_bytes(b"blob").unwrap();
        let arrival = Arc::<Arrival>::default();
        arrival.ended(Ok(()));
        assert_eq!(all(ArrivingBlob::new(store, digest, arrival)).unwrap(), b"blob");
    }

    #[test]
    fn whoever_waits_for_what_is_given_up_learns_it() {
        let (_folder, store) = store();
        let arrivals = Arc::<Arrivals>::default();
        let digest = Digest::of(b"x");
        let expecting = arrivals.expect([digest]);
        let others = arrivals.expect([digest]);
        let arrival = arrivals.of(&digest).unwrap();
        // It is not theirs.
        drop(others);
        assert!(arrivals.of(&digest).is_some());
        let reader = ArrivingBlob::new(store, digest, Arc::clone(&arrival));
        thread::scope(|scope| {
            let read = scope.spawn(|| all(reader));
            drop(expecting);
            assert_eq!(read.join().unwrap().unwrap_err().to_string(), "its download was given up");
        });
        assert!(!arrival.wait() && arrivals.of(&digest).is_none());
    }
}
