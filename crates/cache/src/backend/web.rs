//! What all servers have in common: requests that end in bounded time.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wbuild_oci::Digest;
use wbuild_remote::{
    Authorization, Expected, HttpClient, HttpError, HttpOptions, HttpUrl, Payload, Proxies, Reply, Request,
    RetryPolicy, Sink, Stop, Watch,
};

use crate::error::{CacheError, damaged};

/// Answers to requests that store something: nobody reads them.
const MAX_ANSWER: u64 = 64 << 10;

/// How this machine reaches servers.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// The certificate authorities to trust, in PEM.
    pub roots: Vec<u8>,
    /// Through which proxies.
    pub proxies: Proxies,
    /// How long a request may stand still; ten seconds where nobody says it.
    pub stall: Option<Duration>,
}

/// A client for one cache. A cache is worth waiting for a little, and not long: three tries.
#[derive(Clone, Debug)]
pub(crate) struct Web {
    client: Arc<HttpClient>,
    stop: Stop,
    /// Whether the server gives parts of contents, as far as that is known.
    parts: Arc<AtomicBool>,
}

const RETRY: RetryPolicy = RetryPolicy {
    tries: 3,
    first_wait: Duration::from_millis(200),
    longest_wait: Duration::from_secs(3),
    stall: Duration::from_secs(10),
};

/// How connections are made, and how long they are worth waiting for.
pub(crate) fn options(network: &Network) -> HttpOptions {
    HttpOptions {
        roots: network.roots.clone(),
        proxies: network.proxies.clone(),
        retry: RetryPolicy { stall: network.stall.unwrap_or(RETRY.stall), ..RETRY },
        ..HttpOptions::default()
    }
}

impl Web {
    pub(crate) fn new(network: &Network) -> Self {
        Self {
            client: Arc::new(HttpClient::new(options(network))),
            stop: Stop::new(),
            parts: Arc::new(AtomicBool::new(true)),
        }
    }

    fn watch(&self) -> Watch<'_> {
        // Said once, when it is given up.
        Watch { stop: &self.stop, retrying: &|_| () }
    }

    pub(crate) fn send(&self, request: &Request, limit: u64) -> Result<Reply, HttpError> {
        self.client.send(request, limit, &self.watch())
    }

    /// A document; `None` when there is none.
    pub(crate) fn document(&self, request: &Request, limit: u64) -> Result<Option<Vec<u8>>, CacheError> {
        match self.send(request, limit) {
            // Some answer with nothing where there is nothing.
            Ok(reply) => Ok((reply.status != 204).then_some(reply.body)),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(HttpError::TooLarge { url, limit }) => Err(CacheError::TooLarge { what: url, limit }),
            Err(error) => Err(failed("read", request.url(), error)),
        }
    }

    /// Whether the server gives parts of contents, as far as that is known.
    pub(crate) fn gives_parts(&self) -> bool {
        self.parts.load(Ordering::Relaxed)
    }

    /// Part of a content; `None` when the server gives none.
    pub(crate) fn part(
        &self,
        request: Request,
        content: &Digest,
        range: Range<u64>,
    ) -> Result<Option<Vec<u8>>, CacheError> {
        if !self.gives_parts() {
            return Ok(None);
        }
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Some(Vec::new()));
        }
        let request = request.with_range(&range);
        let reply = match self.send(&request, wanted) {
            Ok(reply) => reply,
            Err(error) if error.status() == Some(404) => return Err(CacheError::Gone(*content)),
            Err(error) if error.status() == Some(416) => {
                return Err(damaged(request.url().to_string(), "it is truncated"));
            }
            // All of it came instead.
            Err(HttpError::TooLarge { .. }) => {
                self.parts.store(false, Ordering::Relaxed);
                return Ok(None);
            }
            Err(error) => return Err(failed("read", request.url(), error)),
        };
        if reply.status != 206 {
            // All of it, which is no more than was wanted; perhaps from another beginning.
            self.parts.store(false, Ordering::Relaxed);
            return Ok(None);
        }
        let begins = reply.headers.get("content-range").and_then(|range| range.to_str().ok());
        let right = begins.is_none_or(|said| said.starts_with(&format!("bytes {}-", range.start)));
        if !right || reply.body.len() as u64 != wanted {
            return Err(damaged(request.url().to_string(), "another part came than was asked for"));
        }
        Ok(Some(reply.body))
    }

    /// All of a content, into a file that is empty.
    pub(crate) fn whole(
        &self,
        request: &Request,
        content: &Digest,
        size: u64,
        file: &File,
    ) -> Result<(), CacheError> {
        let expected = Expected { limit: size, digest: Some(*content) };
        match self.client.download(request, &expected, &mut Into(file), &self.watch()) {
            Ok(_) => Ok(()),
            Err(error) if error.status() == Some(404) => Err(CacheError::Gone(*content)),
            Err(HttpError::Digest { url, .. } | HttpError::TooLarge { url, .. }) => {
                Err(damaged(url, "its bytes have another digest"))
            }
            Err(error) => Err(failed("read", request.url(), error)),
        }
    }

    /// Sends something to be stored.
    pub(crate) fn store(&self, request: &Request) -> Result<(), CacheError> {
        match self.send(request, MAX_ANSWER) {
            Ok(_) | Err(HttpError::TooLarge { .. }) => Ok(()),
            Err(error) => Err(failed("write", request.url(), error)),
        }
    }

    /// Whether something is there.
    pub(crate) fn is_there(&self, request: &Request) -> Result<bool, CacheError> {
        match self.send(request, MAX_ANSWER) {
            Ok(_) => Ok(true),
            // What a server says that does not know the method, or does not tell.
            Err(error) if matches!(error.status(), Some(400..=499)) && !is_refusal(&error) => Ok(false),
            Err(error) => Err(failed("ask", request.url(), error)),
        }
    }
}

fn is_refusal(error: &HttpError) -> bool {
    matches!(error.status(), Some(401 | 403 | 429))
}

pub(crate) fn failed(action: &'static str, url: &HttpUrl, error: HttpError) -> CacheError {
    CacheError::Server { action, place: url.to_string(), source: Box::new(error) }
}

/// The content of a file as the body of a request.
pub(crate) fn payload(path: &Path, size: u64) -> Payload {
    Payload::file(path.to_owned(), size)
}

/// Credentials that were given for a URL.
pub(crate) fn bearer(url: &HttpUrl, token: Option<&str>) -> Option<Authorization> {
    Authorization::bearer(url.origin(), token?)
}

/// A file that is empty.
pub(crate) struct Into<'a>(pub(crate) &'a File);

impl Sink for Into<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()
    }
}
