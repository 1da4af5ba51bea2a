use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Response, StatusCode};
use tokio::time::timeout;

use super::connect::{self, Proxies};
use super::error::{Answer, HttpError};
use super::payload::{Flow, Payload};
use super::request::Request;
use super::retry::{MIN_PROGRESS, RetryPolicy, Tries, describe_chain};
use super::tls::HostTls;
use super::url::HttpUrl;
use crate::runtime::block_on;
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
    /// The file that they are from, for messages.
    pub roots_from: Option<PathBuf>,
    /// Other rules for some hosts, by host or `host:port` as [`Origin::host`](super::Origin::host) says it.
    pub hosts: BTreeMap<String, HostTls>,
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
            roots_from: None,
            hosts: BTreeMap::new(),
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
    /// By the name in `hosts`; `None` for all others.
    clients: Mutex<BTreeMap<Option<String>, Client>>,
}

/// Why a try failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It would fail again.
    Final(HttpError),
    /// It may go better the next time.
    Again(HttpError),
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Self::Final(error)
    }
}

impl HttpClient {
    /// A client.
    pub const fn new(options: HttpOptions) -> Self {
        Self { options, clients: Mutex::new(BTreeMap::new()) }
    }

    /// Connections are shared among those of one trust.
    fn client(&self, url: &HttpUrl) -> Result<Client, HttpError> {
        let host = Some(url.origin().host()).filter(|host| self.options.hosts.contains_key(host));
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&host) {
            return Ok(client.clone());
        }
        let tls = host.as_ref().and_then(|host| self.options.hosts.get(host));
        let client = connect::client(&self.options, tls)?;
        clients.insert(host, client.clone());
        Ok(client)
    }

    /// Calls `attempt` until it succeeds, fails for good, or has failed too often. It is told nothing; `position` says how
    /// far it has come.
    pub(crate) fn persist<S, T>(
        &self,
        request: &Request,
        watch: &Watch<'_>,
        state: &mut S,
        position: impl Fn(&S) -> u64,
        attempt: &impl AsyncFn(&mut S) -> Result<T, Failure>,
    ) -> Result<T, HttpError> {
        self.repeat(&request.url, watch, state, position, |state| {
            let result = block_on(async {
                tokio::select! {
                    biased;
                    () = watch.stop.stopped() => Err(Failure::Final(HttpError::Stopped)),
                    result = attempt(state) => result,
                }
            });
            match result {
                Err(Failure::Again(error)) if request.once => Err(Failure::Final(error)),
                other => other,
            }
        })
    }

    /// Calls `attempt`, which may send several requests (each [once](Request::once)), until it succeeds, fails with what
    /// [will not pass](HttpError::may_pass), or has failed too often without progress: `position` says how many bytes it has
    /// come. For what must be looked at before it is sent again: an upload that goes on where it was cut.
    ///
    /// # Errors
    /// That of the last try.
    pub fn keep_trying<S, T>(
        &self,
        url: &HttpUrl,
        watch: &Watch<'_>,
        state: &mut S,
        position: impl Fn(&S) -> u64,
        attempt: impl Fn(&mut S) -> Result<T, HttpError>,
    ) -> Result<T, HttpError> {
        self.repeat(url, watch, state, position, |state| {
            attempt(state).map_err(|error| match error.may_pass() {
                true => Failure::Again(error),
                false => Failure::Final(error),
            })
        })
    }

    fn repeat<S, T>(
        &self,
        url: &HttpUrl,
        watch: &Watch<'_>,
        state: &mut S,
        position: impl Fn(&S) -> u64,
        attempt: impl Fn(&mut S) -> Result<T, Failure>,
    ) -> Result<T, HttpError> {
        let mut tries = Tries::new(self.options.retry);
        loop {
            if watch.stop.is_stopped() {
                return Err(HttpError::Stopped);
            }
            let error = match attempt(state) {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(error)) => error,
            };
            let asked = error.retry_after();
            let wait = tries.failed_at(position(state), asked, self.options.waiting.jitter());
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
            (watch.retrying)(&Retry { subject: url.to_string(), why, after: Some(wait) });
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
            let response = self.ask(request, &url, extra).await?;
            let status = response.status();
            if status.is_success() || status == StatusCode::NOT_MODIFIED {
                return Ok((url, response));
            }
            if status == StatusCode::RANGE_NOT_SATISFIABLE && extra.contains_key(header::RANGE) {
                return Ok((url, response));
            }
            if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                let next = redirected(&url, &response)?;
                may_follow(request, status, &url, &next)?;
                url = next;
                continue;
            }
            let error = HttpError::Status { url: url.to_string(), answer: Box::new(answer(response).await) };
            return Err(if error.may_pass() { Failure::Again(error) } else { Failure::Final(error) });
        }
        let why = format!("more than {MAX_REDIRECTS} redirects");
        Err(HttpError::Redirect { url: request.url.to_string(), why }.into())
    }

    async fn ask(&self, request: &Request, url: &HttpUrl, extra: &HeaderMap) -> Result<Response, Failure> {
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
        let client = self.client(url).map_err(Failure::Final)?;
        let mut builder = client.request(request.method.clone(), url.url().clone()).headers(headers);
        let mut flow = None;
        if let Some(payload) = &request.payload {
            if payload.size() == 0 {
                // Some servers insist on it (411), and it is not said of itself.
                builder = builder.header(header::CONTENT_LENGTH, 0);
            }
            let (body, sent) = payload.body();
            builder = builder.body(body);
            flow = Some(sent);
        }
        let stall = self.options.retry.stall;
        let mut sending = pin!(builder.send());
        let mut before = 0;
        loop {
            match timeout(stall, &mut sending).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => {
                    if let Some(source) = flow.as_deref().and_then(Flow::failure) {
                        return Err(HttpError::Payload { url: url.to_string(), source }.into());
                    }
                    return Err(self.failed(url, error));
                }
                Err(_) => {
                    let (now, all) = (
                        flow.as_deref().map_or(0, Flow::sent),
                        request.payload.as_ref().map_or(0, Payload::size),
                    );
                    // The rest may be small; after it, the answer has as long as any.
                    if now < before + MIN_PROGRESS && !(now == all && now > before) {
                        return Err(Failure::Again(self.stalled(url)));
                    }
                    before = now;
                }
            }
        }
    }

    pub(crate) fn stalled(&self, url: &HttpUrl) -> HttpError {
        HttpError::Stalled { url: url.to_string(), seconds: self.options.retry.stall.as_secs() }
    }

    /// Files a failure of the connection.
    pub(crate) fn failed(&self, url: &HttpUrl, error: reqwest::Error) -> Failure {
        let url = url.to_string();
        let error = error.without_url();
        if is_about_trust(&error) {
            let roots = self.options.roots_from.clone();
            return Failure::Final(HttpError::Trust { url, roots, source: Box::new(error) });
        }
        if speaks_no_tls(&error) {
            return Failure::Final(HttpError::NoTls { url });
        }
        if error.is_builder() {
            return Failure::Final(HttpError::Setup { why: describe_chain(&error) });
        }
        if error.is_dns() && !is_passing(&error) {
            return Failure::Final(HttpError::NoHost { url, source: Box::new(error) });
        }
        Failure::Again(HttpError::Network { url, tries: 1, source: Box::new(error) })
    }
}

/// Whether a request may go where a redirect leads. What changes something must be asked for as it was (307, 308), and
/// secrets stay with their host.
fn may_follow(request: &Request, status: StatusCode, from: &HttpUrl, to: &HttpUrl) -> Result<(), HttpError> {
    let refused = |why: String| Err(HttpError::Redirect { url: from.to_string(), why });
    if request.stays_encrypted && from.is_https() && !to.is_https() {
        return refused(format!("it was asked for by https, and `{to}` is not encrypted"));
    }
    if matches!(request.method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    if !matches!(status.as_u16(), 307 | 308) {
        return refused(format!("the answer {} to {} would not repeat it", status.as_u16(), request.method));
    }
    if request.payload.as_ref().is_some_and(Payload::is_secret) && from.origin() != to.origin() {
        return refused("it would send secrets to another host".to_owned());
    }
    Ok(())
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

/// Whether it is about certificates or ciphers.
fn is_about_trust(error: &(dyn Error + 'static)) -> bool {
    // Others can be a connection that was cut in the handshake.
    matches!(
        tls_error(error),
        Some(
            rustls::Error::InvalidCertificate(_)
                | rustls::Error::NoCertificatesPresented
                | rustls::Error::PeerIncompatible(_)
        )
    )
}

/// Whether the first bytes were those of another protocol.
fn speaks_no_tls(error: &(dyn Error + 'static)) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidMessage(_)))
}

/// What TLS says, at the bottom of an error.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // What an I/O error wraps is not its source, but the source's.
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
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
