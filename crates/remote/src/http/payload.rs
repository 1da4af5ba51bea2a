use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use crate::runtime::runtime;

/// Read and handed over at once.
const CHUNK: usize = 64 << 10;

/// Chunks that are read ahead of the network.
const AHEAD: usize = 4;

type Open = dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync;

/// What is sent with a request: can be sent again from the beginning, for another try or to where a redirect leads.
#[derive(Clone)]
pub struct Payload {
    source: Source,
    secret: bool,
}

#[derive(Clone)]
enum Source {
    Bytes(Bytes),
    Reopened { size: u64, open: Arc<Open> },
}

impl Payload {
    /// These bytes.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self { source: Source::Bytes(Bytes::from(bytes.into())), secret: false }
    }

    /// Bytes that only the host may see that they are sent to: redirects to another one are refused.
    pub fn secret(bytes: impl Into<Vec<u8>>) -> Self {
        Self { secret: true, ..Self::bytes(bytes) }
    }

    /// `size` bytes of what `open` opens, anew for each try, in a thread where it may block. To give more or fewer bytes is
    /// an error.
    pub fn reopened(
        size: u64,
        open: impl Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'static,
    ) -> Self {
        Self { source: Source::Reopened { size, open: Arc::new(open) }, secret: false }
    }

    /// A file of `size` bytes, opened anew for each try.
    pub fn file(path: PathBuf, size: u64) -> Self {
        Self::reopened(size, move || {
            let file = File::open(&path).map_err(|error| of_path(&path, &error))?;
            Ok(Box::new(file))
        })
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        match &self.source {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::Reopened { size, .. } => *size,
        }
    }

    pub(crate) const fn is_secret(&self) -> bool {
        self.secret
    }

    /// A body for one try, and how far it has come.
    pub(crate) fn body(&self) -> (reqwest::Body, Arc<Flow>) {
        let flow = Arc::new(Flow::default());
        let size = self.size();
        let (sender, chunks) = mpsc::channel(AHEAD);
        match &self.source {
            Source::Bytes(bytes) => {
                // The channel is new, and holds more than one.
                let _ = sender.try_send(Ok(bytes.clone()));
            }
            Source::Reopened { open, .. } => {
                let open = Arc::clone(open);
                runtime().spawn_blocking(move || feed(&*open, size, &sender));
            }
        }
        let body = PayloadBody { chunks, left: size, flow: Arc::clone(&flow) };
        (reqwest::Body::wrap(body), flow)
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("size", &self.size()).finish_non_exhaustive()
    }
}

fn of_path(path: &std::path::Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}

/// Reads until the end, an error, or nobody takes it any more.
fn feed(open: &Open, size: u64, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let mut reader = match open() {
        Ok(reader) => reader.take(size + 1),
        Err(error) => {
            let _ = sender.blocking_send(Err(error));
            return;
        }
    };
    loop {
        let mut chunk = vec![0; CHUNK];
        let read = match reader.read(&mut chunk) {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let _ = sender.blocking_send(Err(error));
                return;
            }
        };
        chunk.truncate(read);
        if sender.blocking_send(Ok(Bytes::from(chunk))).is_err() {
            return;
        }
    }
}

/// What a try has handed over to the network, and what went wrong on this side.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    sent: AtomicU64,
    failed: Mutex<Option<io::Error>>,
}

impl Flow {
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn failure(&self) -> Option<io::Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The network is told that it ends here; the caller is told why.
    fn fail(&self, error: io::Error) -> io::Error {
        let told = io::Error::new(error.kind(), error.to_string());
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        told
    }
}

struct PayloadBody {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    flow: Arc<Flow>,
}

impl http_body::Body for PayloadBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        let Poll::Ready(next) = this.chunks.poll_recv(context) else { return Poll::Pending };
        Poll::Ready(match next {
            Some(Ok(chunk)) if chunk.len() as u64 > this.left => {
                let error = "there is more of it than there was before: it changed";
                Some(Err(this.flow.fail(io::Error::new(io::ErrorKind::InvalidData, error))))
            }
            Some(Ok(chunk)) => {
                this.left -= chunk.len() as u64;
                this.flow.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                Some(Ok(Frame::data(chunk)))
            }
            Some(Err(error)) => Some(Err(this.flow.fail(error))),
            None if this.left > 0 => {
                let error = "there is less of it than there was before: it changed";
                Some(Err(this.flow.fail(io::Error::new(io::ErrorKind::UnexpectedEof, error))))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
