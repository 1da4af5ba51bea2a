use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wbuild_remote::{
    Answer, Authorization, HttpClient, HttpError, HttpOptions, HttpUrl, Origin, Request, Watch,
};

use crate::challenge::Challenge;
use crate::credentials::{CredentialFiles, Credentials, Found};
use crate::error::{RegistryError, said};
use crate::mirrors::PassedOver;
use crate::repository::{Repository, Scope};
use crate::rules::{Blocked, Encryption, Endpoint, Rules};
use crate::token::{self, Token, Wanted};

/// An answer to a question that has no other answer than its status.
pub(crate) const MAX_ANSWER: u64 = 64 << 10;

/// What a client needs to know.
#[derive(Debug, Default)]
pub struct RegistryOptions {
    /// Mirrors, other places, trust.
    pub rules: Rules,
    /// Where credentials are.
    pub credentials: CredentialFiles,
    /// How to connect; what `rules` says about single hosts comes on top.
    pub http: HttpOptions,
}

/// Pulls from registries and pushes to them. One client can be used by many threads, and remembers what it learned: tokens,
/// and what each host speaks. Connects only when it is asked for something.
#[derive(Debug)]
pub struct RegistryClient {
    pub(crate) rules: Rules,
    pub(crate) credentials: CredentialFiles,
    pub(crate) http: HttpClient,
    /// For mirrors, behind which there is another place to ask.
    mirror_http: HttpClient,
    pub(crate) passed_over: Mutex<PassedOver>,
    hosts: Mutex<BTreeMap<String, Arc<Host>>>,
}

/// What is known of a host.
#[derive(Debug, Default)]
struct Host {
    /// Whether it is spoken to in plain http, once that is known.
    plain: Mutex<Option<bool>>,
    /// Whether it is worth asking more than once, if it is a mirror: it has given something already.
    proven: AtomicBool,
    challenge: Mutex<Option<Challenge>>,
    /// By scopes, and by the person's credentials they were had with.
    tokens: Mutex<BTreeMap<(String, String), Token>>,
    found: Mutex<BTreeMap<Repository, Arc<Found>>>,
}

/// What is about to be asked, and of whom.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) scopes: Vec<Scope>,
    /// `pull`, `push to`.
    pub(crate) action: &'static str,
}

impl<'a> Call<'a> {
    pub(crate) fn pull(endpoint: &'a Endpoint) -> Self {
        Self {
            endpoint,
            scopes: vec![Scope { repository: endpoint.name.clone(), push: false }],
            action: "pull",
        }
    }

    pub(crate) fn push(endpoint: &'a Endpoint) -> Self {
        let scopes = vec![Scope { repository: endpoint.name.clone(), push: true }];
        Self { endpoint, scopes, action: "push to" }
    }

    /// Also reads from another repository of the same registry.
    pub(crate) fn reading(mut self, name: &str) -> Self {
        if name != self.endpoint.name {
            self.scopes.push(Scope { repository: name.to_owned(), push: false });
        }
        self
    }
}

/// How a request was authorized.
enum Shown {
    /// Nothing; with what was known to be wanted when it was asked.
    Nothing(Option<Challenge>),
    Basic,
    Token {
        token: Token,
        key: (String, String),
        /// Had for this request: another one would be refused, too.
        new: bool,
    },
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RegistryClient {
    /// A client.
    pub fn new(options: RegistryOptions) -> Self {
        let RegistryOptions { rules, credentials, mut http } = options;
        http.hosts.extend(rules.tls.clone());
        let mirror_http = HttpClient::new(crate::mirrors::less_patient(http.clone()));
        Self {
            rules,
            credentials,
            http: HttpClient::new(http),
            mirror_http,
            passed_over: Mutex::default(),
            hosts: Mutex::default(),
        }
    }

    /// Where to pull from.
    pub(crate) fn sources(
        &self,
        repository: &Repository,
        by_digest: bool,
    ) -> Result<Vec<Endpoint>, RegistryError> {
        self.rules.for_pull(repository, by_digest).map_err(|blocked| self.blocked(blocked))
    }

    /// Where to push to.
    pub(crate) fn target(&self, repository: &Repository) -> Result<Endpoint, RegistryError> {
        self.rules.for_push(repository).map_err(|blocked| self.blocked(blocked))
    }

    fn blocked(&self, Blocked { prefix }: Blocked) -> RegistryError {
        RegistryError::Blocked { prefix, file: self.rules.file.clone() }
    }

    /// How a place is asked.
    pub(crate) fn http_for(&self, endpoint: &Endpoint) -> &HttpClient {
        if endpoint.mirror { &self.mirror_http } else { &self.http }
    }

    /// From now on a mirror is asked more than once.
    pub(crate) fn insist(&self, endpoint: &Endpoint) {
        self.host(endpoint).proven.store(true, Ordering::Relaxed);
    }

    fn host(&self, endpoint: &Endpoint) -> Arc<Host> {
        Arc::clone(locked(&self.hosts).entry(endpoint.host.clone()).or_default())
    }

    /// `https://host/v2/`, or `http`, as this host speaks.
    fn base(
        &self,
        endpoint: &Endpoint,
        host: &Host,
        once: bool,
        watch: &Watch<'_>,
    ) -> Result<String, RegistryError> {
        let plain = match endpoint.encryption {
            Encryption::Required => false,
            Encryption::Never => true,
            Encryption::Preferred => {
                let mut plain = locked(&host.plain);
                match *plain {
                    Some(known) => known,
                    None => {
                        let found = self.find_out_plain(endpoint, once, watch)?;
                        *plain = Some(found);
                        found
                    }
                }
            }
        };
        let scheme = if plain { "http" } else { "https" };
        Ok(format!("{scheme}://{}/v2/", endpoint.host))
    }

    /// Whether a host speaks plain http. A server that is still starting says nothing about that: it is asked again, as
    /// whatever else does not answer, until it does.
    fn find_out_plain(
        &self,
        endpoint: &Endpoint,
        once: bool,
        watch: &Watch<'_>,
    ) -> Result<bool, RegistryError> {
        let url = HttpUrl::parse(&format!("https://{}/v2/", endpoint.host)).map_err(HttpError::from)?;
        let find_out = |(): &mut ()| self.speaks_plain_http(endpoint, watch);
        let found = match once {
            true => find_out(&mut ()),
            false => self.http_for(endpoint).keep_trying(&url, watch, &mut (), |()| 0, find_out),
        };
        found.map_err(|source| match source {
            HttpError::Network { .. } => {
                RegistryError::Silent { registry: endpoint.registry.clone(), source }
            }
            other => other.into(),
        })
    }

    /// Whether a host speaks plain http.
    ///
    /// # Errors
    /// When it does not answer.
    fn speaks_plain_http(&self, endpoint: &Endpoint, watch: &Watch<'_>) -> Result<bool, HttpError> {
        let probe = |scheme: &str| -> Result<(), HttpError> {
            let url = HttpUrl::parse(&format!("{scheme}://{}/v2/", endpoint.host))?;
            self.http_for(endpoint).send(&Request::get(url).once(), MAX_ANSWER, watch).map(|_| ())
        };
        match probe("https") {
            Err(HttpError::NoTls { .. }) => Ok(true),
            Err(error @ (HttpError::Stopped | HttpError::Stalled { .. })) => Err(error),
            Err(error @ HttpError::Network { .. }) => match probe("http") {
                Err(HttpError::Stopped) => Err(HttpError::Stopped),
                Err(HttpError::Status { answer, .. }) => Ok(!wants_https(&answer)),
                Ok(()) => Ok(true),
                Err(_) => Err(error),
            },
            _ => Ok(false),
        }
    }

    /// Makes a request for the registry's base URL (`https://host/v2/`) and performs it, with credentials as the registry wants
    /// them. Refusals are errors already; all other statuses are left to the caller.
    pub(crate) fn ask<T>(
        &self,
        call: &Call<'_>,
        watch: &Watch<'_>,
        make: &dyn Fn(&str) -> Result<Request, RegistryError>,
        perform: &mut dyn FnMut(&Request) -> Result<T, HttpError>,
    ) -> Result<T, RegistryError> {
        let endpoint = call.endpoint;
        let host = self.host(endpoint);
        // A mirror that has given nothing yet is asked once.
        let once = endpoint.mirror && !host.proven.load(Ordering::Relaxed);
        let found_out_once = match endpoint.encryption {
            Encryption::Preferred => once || make(&format!("https://{}/v2/", endpoint.host))?.is_once(),
            Encryption::Required | Encryption::Never => once,
        };
        let base = self.base(endpoint, &host, found_out_once, watch)?;
        let origin = HttpUrl::parse(&base).map_err(HttpError::from)?.origin();
        loop {
            let (authorization, shown) = self.authorization(call, &host, &base, &origin, watch)?;
            let request = make(&base)?.with_authorization(authorization);
            let request = if once { request.once() } else { request };
            let error = match perform(&request) {
                Ok(value) => {
                    host.proven.store(true, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(error) => error,
            };
            let file = || self.rules.file.clone();
            match error {
                HttpError::NoTls { .. } => {
                    return Err(RegistryError::PlainHttp {
                        registry: endpoint.registry.clone(),
                        file: file(),
                    });
                }
                HttpError::Status { ref answer, .. } if base.starts_with("http:") && wants_https(answer) => {
                    return Err(RegistryError::WantsHttps {
                        registry: endpoint.registry.clone(),
                        file: file(),
                    });
                }
                HttpError::Status { ref answer, .. } if answer.status == 401 => {
                    let headers = answer.headers.get_all("www-authenticate").iter();
                    let challenge = Challenge::best(headers.filter_map(|value| value.to_str().ok()));
                    let again = match (challenge, shown) {
                        (None, _) | (_, Shown::Basic) => false,
                        (Some(challenge), Shown::Nothing(known)) => {
                            locked(&host.challenge).replace(challenge.clone());
                            // Asked without credentials although it was known how: there are none.
                            known.as_ref() != Some(&challenge)
                        }
                        (Some(_), Shown::Token { token, key, new }) => {
                            let mut tokens = locked(&host.tokens);
                            if tokens.get(&key).is_some_and(|known| known.text == token.text) {
                                tokens.remove(&key);
                            }
                            !new
                        }
                    };
                    if !again {
                        return Err(self.denied(call, &host, said(answer)));
                    }
                }
                HttpError::Status { ref answer, .. } if answer.status == 403 => {
                    return Err(self.denied(call, &host, said(answer)));
                }
                other => return Err(other.into()),
            }
        }
    }

    fn found(&self, endpoint: &Endpoint, host: &Host) -> Arc<Found> {
        let repository = Repository { registry: endpoint.registry.clone(), name: endpoint.name.clone() };
        // Held meanwhile: programs that keep secrets may ask the person, who should be asked once.
        let mut known = locked(&host.found);
        let find = || Arc::new(self.credentials.find(&repository));
        Arc::clone(known.entry(repository.clone()).or_insert_with(find))
    }

    /// What to show, as far as it is known what the registry wants.
    fn authorization(
        &self,
        call: &Call<'_>,
        host: &Host,
        base: &str,
        origin: &Origin,
        watch: &Watch<'_>,
    ) -> Result<(Option<Authorization>, Shown), RegistryError> {
        let Some(challenge) = locked(&host.challenge).clone() else {
            return Ok((None, Shown::Nothing(None)));
        };
        let found = self.found(call.endpoint, host);
        let credentials = found.credentials.as_ref().map(|(credentials, _)| credentials);
        self.authorization_with(call, host, base, origin, &challenge, credentials, watch)
    }

    #[expect(clippy::too_many_arguments, reason = "what one answer depends on")]
    fn authorization_with(
        &self,
        call: &Call<'_>,
        host: &Host,
        base: &str,
        origin: &Origin,
        challenge: &Challenge,
        credentials: Option<&Credentials>,
        watch: &Watch<'_>,
    ) -> Result<(Option<Authorization>, Shown), RegistryError> {
        match challenge {
            Challenge::Basic => {
                let Some(Credentials::Password { user, password }) = credentials else {
                    return Ok((None, Shown::Nothing(Some(challenge.clone()))));
                };
                Ok((Authorization::basic(origin.clone(), user, password), Shown::Basic))
            }
            Challenge::Bearer { realm, service, scope } => {
                let mut scopes: Vec<String> = call.scopes.iter().map(ToString::to_string).collect();
                if scopes.is_empty() {
                    scopes.extend(scope.clone());
                }
                let key = (scopes.join(" "), call.endpoint.name.clone());
                // Held meanwhile: many requests at once need one token.
                let mut tokens = locked(&host.tokens);
                if let Some(token) = tokens.get(&key).filter(|token| token.is_good()) {
                    let authorization = Authorization::bearer(origin.clone(), &token.text);
                    return Ok((authorization, Shown::Token { token: token.clone(), key, new: false }));
                }
                let wanted = Wanted {
                    registry: &call.endpoint.registry,
                    plain: base.starts_with("http:"),
                    realm,
                    service: service.as_deref(),
                    scopes: &scopes,
                    credentials,
                };
                let token = token::fetch(&wanted, self.http_for(call.endpoint), watch).map_err(|error| {
                    match token::refusal(&error) {
                        Some(said) => self.denied(call, host, said),
                        None => error,
                    }
                })?;
                let authorization = Authorization::bearer(origin.clone(), &token.text);
                if authorization.is_none() {
                    let (registry, realm) = (call.endpoint.registry.clone(), String::new());
                    let why = "no header can hold its token".to_owned();
                    return Err(RegistryError::Token { registry, realm, why });
                }
                tokens.insert(key.clone(), token.clone());
                Ok((authorization, Shown::Token { token, key, new: true }))
            }
        }
    }

    fn denied(&self, call: &Call<'_>, host: &Host, said: String) -> RegistryError {
        let found = self.found(call.endpoint, host);
        RegistryError::Denied {
            registry: call.endpoint.registry.clone(),
            action: call.action,
            name: call.endpoint.name.clone(),
            said,
            shown: found.credentials.as_ref().map(|(_, from)| from.clone()),
            looked_at: found.looked_at.clone(),
        }
    }

    /// Asks a registry whether it knows somebody.
    pub(crate) fn check(
        &self,
        registry: &str,
        credentials: &Credentials,
        watch: &Watch<'_>,
    ) -> Result<(), RegistryError> {
        let endpoint = self.rules.for_login(registry);
        let call = Call { endpoint: &endpoint, scopes: Vec::new(), action: "log in to" };
        let host = Host::default();
        let base = self.base(&endpoint, &host, false, watch)?;
        let url = HttpUrl::parse(&base).map_err(HttpError::from)?;
        let refused = |said: String| RegistryError::NoLogin { registry: registry.to_owned(), said };
        let ask = |authorization| {
            self.http.send(&Request::get(url.clone()).with_authorization(authorization), MAX_ANSWER, watch)
        };
        let challenge = match ask(None) {
            // It wants no credentials.
            Ok(_) => return Ok(()),
            Err(HttpError::Status { answer, .. }) if answer.status == 401 => {
                let headers = answer.headers.get_all("www-authenticate").iter();
                let challenge = Challenge::best(headers.filter_map(|value| value.to_str().ok()));
                challenge.ok_or_else(|| refused(said(&answer)))?
            }
            Err(HttpError::NoTls { .. }) => {
                let file = self.rules.file.clone();
                return Err(RegistryError::PlainHttp { registry: registry.to_owned(), file });
            }
            Err(error) => return Err(error.into()),
        };
        let found = Found {
            credentials: Some((credentials.clone(), "what was typed".to_owned())),
            ..Found::default()
        };
        let repository = Repository { registry: endpoint.registry.clone(), name: String::new() };
        locked(&host.found).insert(repository, Arc::new(found));
        let (authorization, _) = self
            .authorization_with(&call, &host, &base, &url.origin(), &challenge, Some(credentials), watch)
            .map_err(|error| match error {
                RegistryError::Denied { said, .. } => refused(said),
                other => other,
            })?;
        match ask(authorization) {
            Ok(_) => Ok(()),
            Err(HttpError::Status { answer, .. }) if matches!(answer.status, 401 | 403) => {
                Err(refused(said(&answer)))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Servers that speak TLS say so to whoever does not: Go's, nginx's and Apache's.
fn wants_https(answer: &Answer) -> bool {
    let body = String::from_utf8_lossy(&answer.body);
    let text = [
        "HTTP request to an HTTPS server",
        "plain HTTP request was sent to HTTPS",
        "speaking plain HTTP to an SSL",
    ];
    answer.status == 400 && text.iter().any(|text| body.contains(text))
}
