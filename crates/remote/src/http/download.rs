use std::fmt;
use std::io;

use reqwest::header;
use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout_at};
use wbuild_oci::Digest;

use super::client::{Failure, HttpClient, headers_of};
use super::error::HttpError;
use super::range::ContentRange;
use super::request::{Request, Validators};
use super::retry::MIN_PROGRESS;
use super::url::HttpUrl;
use crate::watch::Watch;

/// Takes what is downloaded.
pub trait Sink {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they cannot be kept: the download ends.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Forgets everything: it comes again from the beginning.
    ///
    /// # Errors
    /// When that cannot be done: the download ends.
    fn restart(&mut self) -> io::Result<()>;
}

impl Sink for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }
}

/// What a download must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// No more bytes than these.
    pub limit: u64,
    /// This digest. What is named by its digest is resumed even where the server has no validators.
    pub digest: Option<Digest>,
}

/// Something that was downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// SHA-256 of what the sink has.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// What to ask with the next time.
    pub validators: Validators,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Download {
    /// It still is what the caller said that it has; the sink got nothing.
    NotModified,
    /// It is in the sink.
    Received(Received),
}

/// A download under way, over all its tries, and over several requests when one must be asked in another way: with new
/// credentials, of another server that has the same bytes.
pub struct Transfer<'a> {
    sink: &'a mut dyn Sink,
    hasher: Sha256,
    position: u64,
    /// Of the version that the sink has the beginning of.
    validators: Validators,
    total: Option<u64>,
    /// Whether the parts came in several answers.
    spliced: bool,
}

impl fmt::Debug for Transfer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").field("position", &self.position).finish_non_exhaustive()
    }
}

impl<'a> Transfer<'a> {
    /// Nothing has come yet.
    pub fn new(sink: &'a mut dyn Sink) -> Self {
        Self {
            sink,
            hasher: Sha256::new(),
            position: 0,
            validators: Validators::default(),
            total: None,
            spliced: false,
        }
    }

    fn restart(&mut self, url: &HttpUrl) -> Result<(), HttpError> {
        if self.position > 0 {
            self.sink.restart().map_err(|source| HttpError::Sink { url: url.to_string(), source })?;
        }
        self.hasher = Sha256::new();
        self.position = 0;
        self.validators = Validators::default();
        self.total = None;
        self.spliced = false;
        Ok(())
    }

    fn take(&mut self, url: &HttpUrl, bytes: &[u8]) -> Result<(), HttpError> {
        self.sink.write(bytes).map_err(|source| HttpError::Sink { url: url.to_string(), source })?;
        self.hasher.update(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }
}

impl HttpClient {
    /// Downloads into `sink`, which holds garbage after an error. What was cut is resumed where the server can do that and
    /// says that the file is still the same; else it starts over.
    ///
    /// # Errors
    /// When the server does not give it, the network fails too often, it is too large, or something else than expected.
    pub fn download(
        &self,
        request: &Request,
        expected: &Expected,
        sink: &mut dyn Sink,
        watch: &Watch<'_>,
    ) -> Result<Download, HttpError> {
        self.go_on(&mut Transfer::new(sink), request, expected, watch)
    }

    /// Goes on with a download that an earlier request began, or begins it.
    ///
    /// # Errors
    /// As [`download`](Self::download); the transfer can be gone on with after any.
    pub fn go_on(
        &self,
        transfer: &mut Transfer<'_>,
        request: &Request,
        expected: &Expected,
        watch: &Watch<'_>,
    ) -> Result<Download, HttpError> {
        self.persist(
            request,
            watch,
            transfer,
            |transfer| transfer.position,
            &async |transfer: &mut Transfer<'_>| self.try_download(request, expected, transfer).await,
        )
    }

    async fn try_download(
        &self,
        request: &Request,
        expected: &Expected,
        transfer: &mut Transfer<'_>,
    ) -> Result<Download, Failure> {
        let resuming =
            transfer.position > 0 && (expected.digest.is_some() || transfer.validators.for_range().is_some());
        let extra = if resuming {
            let range = format!("bytes={}-", transfer.position);
            headers_of(&[(header::RANGE, Some(&range)), (header::IF_RANGE, transfer.validators.for_range())])
        } else {
            transfer.restart(&request.url)?;
            headers_of(&[
                (header::IF_NONE_MATCH, request.known.etag.as_deref()),
                // A server that knows both goes by the ETag (RFC 9110, 13.1.3).
                (header::IF_MODIFIED_SINCE, request.known.last_modified.as_deref()),
            ])
        };
        let (url, mut response) = self.exchange(request, &extra).await?;
        let validators = Validators::of(response.headers());
        match response.status() {
            StatusCode::NOT_MODIFIED if !resuming && request.known != Validators::default() => {
                return Ok(Download::NotModified);
            }
            StatusCode::PARTIAL_CONTENT if resuming && continues(transfer, &response, &validators) => {
                transfer.spliced = true;
            }
            // Nobody asked for a part, or it is another part: the next try starts over.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NOT_MODIFIED => {
                transfer.restart(&url)?;
                let source = "the server answered with a part that was not asked for".into();
                let error = HttpError::Network { url: url.to_string(), tries: 1, source };
                return Err(Failure::Again(error));
            }
            _ => {
                // Some servers have ETags and do not compare them.
                let known = request.known.strong_etag();
                if known.is_some() && known == validators.strong_etag() {
                    return Ok(Download::NotModified);
                }
                transfer.restart(&url)?;
                transfer.total = response.content_length();
                transfer.validators = validators;
            }
        }
        let encoding = super::send::encoding(response.headers());
        let taken = self.take_body(&url, &mut response, expected, transfer).await;
        taken.map_err(|failure| match (failure, encoding) {
            // As it came, it may be what was wanted: there are servers that say it of every `.gz`.
            (
                Failure::Final(HttpError::TooLarge { url, .. } | HttpError::Digest { url, .. }),
                Some(encoding),
            ) => Failure::Final(HttpError::Encoded { url, encoding }),
            (failure, _) => failure,
        })
    }

    async fn take_body(
        &self,
        url: &HttpUrl,
        response: &mut Response,
        expected: &Expected,
        transfer: &mut Transfer<'_>,
    ) -> Result<Download, Failure> {
        let too_large = || HttpError::TooLarge { url: url.to_string(), limit: expected.limit };
        if transfer.total.is_some_and(|total| total > expected.limit) {
            return Err(too_large().into());
        }
        self.each_chunk(url, response, |chunk| {
            if transfer.position + chunk.len() as u64 > expected.limit {
                return Err(too_large());
            }
            transfer.take(url, chunk)
        })
        .await?;
        finished(transfer, expected, url)
    }

    /// Gives the body to `take` piece by piece; fails when it stalls.
    pub(crate) async fn each_chunk(
        &self,
        url: &HttpUrl,
        response: &mut Response,
        mut take: impl FnMut(&[u8]) -> Result<(), HttpError>,
    ) -> Result<(), Failure> {
        let stall = self.options.retry.stall;
        let (mut end, mut since) = (Instant::now() + stall, 0);
        loop {
            match timeout_at(end, response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    take(&chunk)?;
                    since += chunk.len() as u64;
                    if since >= MIN_PROGRESS {
                        (end, since) = (Instant::now() + stall, 0);
                    }
                }
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(self.failed(url, error)),
                Err(_) => return Err(Failure::Again(self.stalled(url))),
            }
        }
    }
}

/// Whether a part is the rest of what the sink has.
fn continues(transfer: &Transfer<'_>, response: &Response, validators: &Validators) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let same_version = validators.etag.is_none() || validators.etag == transfer.validators.etag;
    same_version
        && range
            .and_then(ContentRange::parse)
            .is_some_and(|range| range.continues(transfer.position, transfer.total))
}

fn finished(transfer: &mut Transfer<'_>, expected: &Expected, url: &HttpUrl) -> Result<Download, Failure> {
    if transfer.total.is_some_and(|total| total != transfer.position) {
        let source = "the connection ended too early".into();
        let error = HttpError::Network { url: url.to_string(), tries: 1, source };
        return Err(Failure::Again(error));
    }
    let found = Digest::from_bytes(transfer.hasher.clone().finalize().into());
    if let Some(expected) = expected.digest.filter(|expected| *expected != found) {
        let error = HttpError::Digest { url: url.to_string(), expected, found };
        // The parts may be those of two versions: once more, from the beginning.
        let again = transfer.spliced;
        transfer.restart(url)?;
        return Err(if again { Failure::Again(error) } else { Failure::Final(error) });
    }
    let validators = transfer.validators.clone();
    Ok(Download::Received(Received { digest: found, size: transfer.position, validators }))
}
