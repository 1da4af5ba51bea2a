use std::fmt;
use std::time::{Duration, Instant};

use serde::Deserialize;
use url::Url;
use url::form_urlencoded::Serializer;
use wbuild_remote::{Authorization, HeaderValue, HttpClient, HttpError, HttpUrl, Payload, Request, Watch};

use crate::credentials::Credentials;
use crate::error::{RegistryError, said};

/// No document of a token server is larger.
const MAX_TOKEN_DOCUMENT: u64 = 1 << 20;

/// How long a token lasts of which nobody says so (the token specification).
const DEFAULT_LIFE: u64 = 60;

/// Used no more shortly before its end: the clocks of two machines differ.
const MARGIN: Duration = Duration::from_secs(10);

/// A token for requests, for as long as it lasts.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) text: String,
    until: Instant,
}

impl Token {
    pub(crate) fn is_good(&self) -> bool {
        Instant::now() < self.until
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
struct Document {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// What a token is wanted for, and of whom.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// The registry, as the person names it.
    pub(crate) registry: &'a str,
    /// Whether the registry itself is spoken to in plain http.
    pub(crate) plain: bool,
    pub(crate) realm: &'a str,
    pub(crate) service: Option<&'a str>,
    pub(crate) scopes: &'a [String],
    pub(crate) credentials: Option<&'a Credentials>,
}

/// Asks a token server for a token. It may be on any host, as those of the large registries are; credentials go to it only
/// encrypted, unless the registry itself is spoken to in plain http.
pub(crate) fn fetch(
    wanted: &Wanted<'_>,
    http: &HttpClient,
    watch: &Watch<'_>,
) -> Result<Token, RegistryError> {
    let realm = HttpUrl::parse(wanted.realm).map_err(|error| wrong(wanted, &error.to_string()))?;
    if wanted.credentials.is_some() && !realm.is_https() && !wanted.plain {
        let why = "credentials are not sent there, because it is not encrypted and the registry is";
        return Err(wrong(wanted, why));
    }
    let request = match wanted.credentials {
        Some(Credentials::Registry(token)) => {
            return Ok(made(token.clone(), u64::from(u32::MAX)));
        }
        Some(Credentials::Identity(token)) => {
            let mut form = Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token");
            form.append_pair("service", wanted.service.unwrap_or_default());
            form.append_pair("client_id", "wbuild");
            form.append_pair("scope", &wanted.scopes.join(" "));
            form.append_pair("refresh_token", token);
            Request::post(realm, Payload::secret(form.finish()))
                .with_header("content-type", HeaderValue::from_static("application/x-www-form-urlencoded"))
        }
        other => {
            let mut url = Url::parse(realm.identity()).map_err(|error| wrong(wanted, &error.to_string()))?;
            {
                let mut query = url.query_pairs_mut();
                if let Some(service) = wanted.service {
                    query.append_pair("service", service);
                }
                for scope in wanted.scopes {
                    query.append_pair("scope", scope);
                }
                if let Some(Credentials::Password { user, .. }) = other {
                    query.append_pair("account", user);
                }
                query.append_pair("client_id", "wbuild");
            }
            let url = HttpUrl::parse(url.as_str()).map_err(|error| wrong(wanted, &error.to_string()))?;
            let authorization = match other {
                Some(Credentials::Password { user, password }) => Some(
                    Authorization::basic(url.origin(), user, password)
                        .ok_or_else(|| wrong(wanted, "the user name or password cannot be sent"))?,
                ),
                _ => None,
            };
            Request::get(url).with_authorization(authorization)
        }
    };
    let reply = http.send(&request.staying_encrypted(), MAX_TOKEN_DOCUMENT, watch)?;
    // What the parser says could show a part of it.
    let document: Document = serde_json::from_slice(&reply.body)
        .map_err(|_| wrong(wanted, "it answered with no JSON of a token"))?;
    let token = [document.token, document.access_token].into_iter().flatten().find(|token| !token.is_empty());
    let token = token.ok_or_else(|| wrong(wanted, "there is no token in its answer"))?;
    Ok(made(token, document.expires_in.unwrap_or(DEFAULT_LIFE).max(DEFAULT_LIFE)))
}

/// The token server's answer as the registry's own, if it is a refusal.
pub(crate) fn refusal(error: &RegistryError) -> Option<String> {
    match error {
        RegistryError::Http(HttpError::Status { answer, .. }) if matches!(answer.status, 400 | 401 | 403) => {
            Some(said(answer))
        }
        _ => None,
    }
}

fn made(text: String, seconds: u64) -> Token {
    let now = Instant::now();
    // Longer than any build; tokens of registries have no end of their own.
    let life = Duration::from_secs(seconds.min(1 << 24));
    Token { text, until: now + life.saturating_sub(MARGIN) }
}

fn wrong(wanted: &Wanted<'_>, why: &str) -> RegistryError {
    let realm: String = wanted.realm.chars().take(200).collect();
    let realm = realm.split('?').next().unwrap_or_default().escape_debug().to_string();
    RegistryError::Token { registry: wanted.registry.to_owned(), realm, why: why.to_owned() }
}
