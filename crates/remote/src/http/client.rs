use std::error::Error;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use tokio::time::timeout;

use super::connect::{self, Proxies};
use super::error::{Answer, HttpError};
use super::request::Request;
use super::retry::{RetryPolicy, Tries, describe_chain, retry_after};
use super::url::HttpUrl;
use crate::runtime::runtime;
use crate::wait::{Clock, Waiting};
use crate::watch::{Retry, Watch};

/// As many as Go's client follows.
const MAX_REDIRECTS: usize = 10;

/// As much of an error's body as is kept.
const MAX_ERROR_BODY: usize = 64 << 10;

/// An error's body has this long to come.
const ERROR_BODY_TIME: Duration = Duration::from_secs(10);

/// How a client connects.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// The certificate authorities to trust, in PEM; none at all are trusted besides.
    pub roots: Vec<u8>,
    /// Through which proxies.
    pub proxies: Proxies,
    /// How often what is tried.
    pub retry: RetryPolicy,
    /// How time passes.
    pub waiting: Arc<dyn Waiting>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            proxies: Proxies::default(),
            retry: RetryPolicy::default(),
            waiting: Arc::new(Clock),
        }
    }
}

/// Fetches by HTTP. Connects only when it is asked for something.
#[derive(Debug)]
pub struct HttpClient {
    pub(crate) options: HttpOptions,
    client: OnceLock<Client>,
}

/// Why a try failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It would fail again.
    Final(HttpError),
    /// It may go better the next time, not before `after` if the server said so.
    Again { error: HttpError, after: Option<Duration> },
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Self::Final(error)
    }
}

impl HttpClient {
    /// A client.
    pub const fn new(options: HttpOptions) -> Self {
        Self { options, client: OnceLock::new() }
    }

    fn client(&self) -> Result<&Client, HttpError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = connect::client(&self.options)?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Calls `attempt` until it succeeds, fails for good, or has failed too often. It is told nothing; `position` says how
    /// far it has come.
    pub(crate) fn persist<S, T>(
        &self,
        url: &HttpUrl,
        watch: &Watch<'_>,
        state: &mut S,
        position: impl Fn(&S) -> u64,
        attempt: &impl AsyncFn(&mut S) -> Result<T, Failure>,
    ) -> Result<T, HttpError> {
        let mut tries = Tries::new(self.options.retry);
        loop {
            let result = runtime().block_on(async {
                tokio::select! {
                    biased;
                    () = watch.stop.stopped() => Err(Failure::Final(HttpError::Stopped)),
                    result = attempt(state) => result,
                }
            });
            let (error, after) = match result {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { error, after }) => (error, after),
            };
            let wait = tries.failed_at(position(state), after, self.options.waiting.jitter());
            let Some(wait) = wait else {
                return Err(match error {
                    HttpError::Network { url, source, .. } => {
                        HttpError::Network { url, tries: tries.count(), source }
                    }
                    other => other,
                });
            };
            let why = match &error {
                HttpError::Network { source, .. } => describe_chain(&**source),
                other => other.to_string(),
            };
            (watch.retrying)(&Retry { subject: url.to_string(), why, after: wait });
            self.options.waiting.wait(wait, watch.stop);
        }
    }

    /// Sends a request and follows redirects. What comes back has a status that the caller asked for: 200 to 299, or 304,
    /// or 416 for a range.
    pub(crate) async fn exchange(
        &self,
        request: &Request,
        extra: &HeaderMap,
    ) -> Result<(HttpUrl, Response), Failure> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(request, &url, extra).await?;
            let status = response.status();
            if status.is_success() || status == StatusCode::NOT_MODIFIED {
                return Ok((url, response));
            }
            if status == StatusCode::RANGE_NOT_SATISFIABLE && extra.contains_key(header::RANGE) {
                return Ok((url, response));
            }
            if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                url = redirected(&url, &response)?;
                continue;
            }
            let after = retry_after(response.headers());
            let error = HttpError::Status { url: url.to_string(), answer: Box::new(answer(response).await) };
            return Err(match status.as_u16() {
                408 | 429 | 500..=599 => Failure::Again { error, after },
                _ => Failure::Final(error),
            });
        }
        let why = format!("more than {MAX_REDIRECTS} redirects");
        Err(HttpError::Redirect { url: request.url.to_string(), why }.into())
    }

    async fn send(&self, request: &Request, url: &HttpUrl, extra: &HeaderMap) -> Result<Response, Failure> {
        let mut headers = request.headers.clone();
        headers.extend(extra.clone());
        // What comes is what is hashed and kept: nothing may be compressed on the way.
        headers.entry(header::ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
        // Credentials of the URL that the redirect itself names come first; then those that the caller gave, for whom they
        // were given.
        let authorization = url.authorization().or(request.authorization.as_ref());
        if let Some(value) = authorization.and_then(|authorization| authorization.for_url(url)) {
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        let client = self.client().map_err(Failure::Final)?;
        let sent = client.request(request.method.clone(), url.url().clone()).headers(headers).send();
        let stall = self.options.retry.stall;
        match timeout(stall, sent).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.failed(url, error)),
            Err(_) => {
                let error = HttpError::Stalled { url: url.to_string(), seconds: stall.as_secs() };
                Err(Failure::Again { error, after: None })
            }
        }
    }

    /// Files a failure of the connection.
    pub(crate) fn failed(&self, url: &HttpUrl, error: reqwest::Error) -> Failure {
        let url = url.to_string();
        let error = error.without_url();
        if is_about_trust(&error) {
            return Failure::Final(HttpError::Trust { url, source: Box::new(error) });
        }
        let hopeless = error.is_builder() || (error.is_dns() && !is_passing(&error));
        let error = HttpError::Network { url, tries: 1, source: Box::new(error) };
        if hopeless { Failure::Final(error) } else { Failure::Again { error, after: None } }
    }
}

fn redirected(from: &HttpUrl, response: &Response) -> Result<HttpUrl, HttpError> {
    let refused = |why: String| HttpError::Redirect { url: from.to_string(), why };
    let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| refused("it names no location".to_owned()))?;
    from.join(location).map_err(|error| refused(error.to_string()))
}

/// What there is to say about an answer that was not wanted. Reading it ends early rather than late.
async fn answer(mut response: Response) -> Answer {
    let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let left = MAX_ERROR_BODY - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(left)]);
            if body.len() == MAX_ERROR_BODY {
                return;
            }
        }
    };
    // What has come by then is enough.
    let _ = timeout(ERROR_BODY_TIME, read).await;
    Answer { status, headers, body }
}

/// Whether TLS is at the bottom of an error.
fn is_about_trust(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            // Others can be a connection that was cut in the handshake.
            return matches!(
                tls,
                rustls::Error::InvalidCertificate(_)
                    | rustls::Error::NoCertificatesPresented
                    | rustls::Error::PeerIncompatible(_)
            );
        }
        // What an I/O error wraps is not its source, but the source's.
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    false
}

/// Whether a name may be found the next time. The resolver's code is only in its text.
fn is_passing(error: &(dyn Error + 'static)) -> bool {
    let text = describe_chain(error).to_ascii_lowercase();
    text.contains("temporary failure") || text.contains("try again")
}

/// Headers of one request, besides those of its caller.
pub(crate) fn headers_of(pairs: &[(HeaderName, Option<&str>)]) -> HeaderMap {
    pairs
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), HeaderValue::from_str((*value)?).ok()?)))
        .collect()
}
