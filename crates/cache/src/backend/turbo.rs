use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use serde::Deserialize;
use wbuild_oci::Digest;
use wbuild_remote::{Authorization, HttpUrl, Payload, Request};

use super::slots::{self, Slots};
use super::web::{Network, Web, failed, payload};
use super::{Backend, SMALL_PACK};
use crate::error::CacheError;
use crate::index::{Index, MAX_INDEX};

/// What the server says of itself and of an answer to events.
const MAX_STATUS: u64 = 64 << 10;

/// A server of the [remote cache API of Turborepo](https://turborepo.com/docs/openapi): artifacts by name, of a team.
///
/// Names are SHA-256 of wbuild's own words, and never a hash of Turborepo's, which is shorter. What is there may or may not be
/// replaced ([`slots`]), and there are no parts of artifacts: packs are smaller, and come whole.
#[derive(Debug)]
pub struct TurboBackend {
    web: Web,
    base: HttpUrl,
    /// `teamId=…&slug=…`, encoded.
    team: String,
    authorization: Option<Authorization>,
    /// Whether the server takes anything; asked once, by who stores.
    enabled: OnceLock<Option<String>>,
}

/// The team whose artifacts they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurboTeam {
    /// `TURBO_TEAMID`.
    pub id: Option<String>,
    /// `TURBO_TEAM`.
    pub slug: Option<String>,
}

impl TurboTeam {
    fn query(&self) -> String {
        let named = [("teamId", &self.id), ("slug", &self.slug)];
        let pair =
            |(name, value): (&str, &Option<String>)| Some(format!("{name}={}", encoded(value.as_deref()?)));
        named.into_iter().filter_map(pair).collect::<Vec<_>>().join("&")
    }
}

/// A value in a query.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[derive(Deserialize)]
struct Status {
    status: String,
}

impl TurboBackend {
    /// The server at `base`, which is what `TURBO_API` says.
    pub fn new(base: HttpUrl, token: Option<&str>, team: &TurboTeam, network: &Network) -> Self {
        let authorization = super::web::bearer(&base, token);
        Self { web: Web::new(network), team: team.query(), base, authorization, enabled: OnceLock::new() }
    }

    fn url(&self, path: &str) -> Result<HttpUrl, CacheError> {
        let (base, _) = self.base.identity().split_once('?').unwrap_or((self.base.identity(), ""));
        let query = if self.team.is_empty() { String::new() } else { format!("?{}", self.team) };
        let text = format!("{}/v8/artifacts/{path}{query}", base.trim_end_matches('/'));
        HttpUrl::parse(&text).map_err(|source| CacheError::Server {
            action: "address",
            place: self.base.to_string(),
            source: Box::new(source),
        })
    }

    fn with_credentials(&self, request: Request) -> Request {
        request.with_authorization(self.authorization.clone().or_else(|| self.base.authorization().cloned()))
    }

    fn get(&self, name: &Digest) -> Result<Request, CacheError> {
        Ok(self.with_credentials(Request::get(self.url(&name.hex())?)))
    }

    fn head(&self, name: &Digest) -> Result<Request, CacheError> {
        Ok(self.with_credentials(Request::head(self.url(&name.hex())?)))
    }

    fn put_request(&self, name: &Digest, payload: Payload) -> Result<Request, CacheError> {
        // Nobody has waited for it: time that a hit saves is not counted.
        let request = Request::put(self.url(&name.hex())?, payload)
            .with_words("content-type", "application/octet-stream")
            .with_words("x-artifact-duration", "0");
        Ok(self.with_credentials(request))
    }

    /// That the team's cache is not switched off.
    fn check_enabled(&self) -> Result<(), CacheError> {
        let why = self.enabled.get_or_init(|| {
            let request = self.with_credentials(Request::get(self.url("status").ok()?));
            // Servers that do not know the question, or do not answer, show later what they take.
            let reply = self.web.document(&request, MAX_STATUS).ok()??;
            let Status { status } = serde_json::from_slice(&reply).ok()?;
            matches!(status.as_str(), "disabled" | "over_limit" | "paused").then_some(status)
        });
        match why {
            None => Ok(()),
            Some(status) => Err(CacheError::Server {
                action: "write",
                place: self.base.to_string(),
                source: format!("remote caching of the team is `{status}`").into(),
            }),
        }
    }

    /// Says whether there was an index, as Turborepo says it of its tasks. What becomes of that is the server's affair.
    fn tell(&self, scope: &str, hit: bool) {
        let name = super::scope_name(scope);
        let event = serde_json::json!([{
            "sessionId": name.hex()[..32],
            "source": "REMOTE",
            "event": if hit { "HIT" } else { "MISS" },
            "hash": name.hex(),
            "duration": 0,
        }]);
        if let Ok(url) = self.url("events") {
            let payload = Payload::bytes(event.to_string());
            let request = Request::post(url, payload).with_words("content-type", "application/json").once();
            let _ = self.web.send(&self.with_credentials(request), MAX_STATUS);
        }
    }
}

/// The name of a content: no hash of Turborepo's, and no digest of something else.
fn content_name(content: &Digest) -> Digest {
    Digest::of(format!("wbuild-cache-content-1\0{}", content.hex()).as_bytes())
}

impl Slots for TurboBackend {
    fn read(&self, name: &Digest) -> Result<Option<Vec<u8>>, CacheError> {
        self.web.document(&self.get(name)?, MAX_INDEX)
    }

    fn is_there(&self, name: &Digest) -> Result<bool, CacheError> {
        self.web.is_there(&self.head(name)?)
    }

    fn write(&self, name: &Digest, bytes: Vec<u8>) -> Result<(), CacheError> {
        let request = self.put_request(name, Payload::bytes(bytes))?;
        match self.web.send(&request, MAX_STATUS) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.status(), Some(409 | 412)) => Ok(()),
            Err(error) => Err(failed("write", request.url(), error)),
        }
    }
}

impl Backend for TurboBackend {
    fn place(&self) -> String {
        self.base.to_string()
    }

    fn index(&self, scope: &str) -> Result<Option<Vec<u8>>, CacheError> {
        slots::index(self, scope)
    }

    fn update(
        &self,
        scope: &str,
        merge: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Index>,
    ) -> Result<(), CacheError> {
        self.check_enabled()?;
        let mut hit = false;
        slots::update(self, scope, &mut |stored| {
            hit = stored.is_some();
            merge(stored)
        })?;
        self.tell(scope, hit);
        Ok(())
    }

    fn small(&self, content: &Digest, limit: u64) -> Result<Vec<u8>, CacheError> {
        let found = self.web.document(&self.get(&content_name(content))?, limit)?;
        found.ok_or(CacheError::Gone(*content))
    }

    fn part(&self, _: &Digest, _: Range<u64>) -> Result<Option<Vec<u8>>, CacheError> {
        Ok(None)
    }

    fn gives_parts(&self) -> bool {
        false
    }

    fn whole(&self, content: &Digest, size: u64, file: &File) -> Result<(), CacheError> {
        self.web.whole(&self.get(&content_name(content))?, content, size, file)
    }

    fn put(&self, content: &Digest, size: u64, path: &Path) -> Result<(), CacheError> {
        self.check_enabled()?;
        let name = content_name(content);
        if self.web.is_there(&self.head(&name)?)? {
            return Ok(());
        }
        self.web.store(&self.put_request(&name, payload(path, size))?)
    }

    fn pack(&self) -> u64 {
        SMALL_PACK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn teams_are_in_the_query() {
        let of = |id: Option<&str>, slug: Option<&str>| {
            TurboTeam { id: id.map(str::to_owned), slug: slug.map(str::to_owned) }.query()
        };
        assert_eq!(of(None, None), "");
        assert_eq!(of(Some("team_1"), None), "teamId=team_1");
        assert_eq!(of(Some("team_1"), Some("a b&c/ä")), "teamId=team_1&slug=a%20b%26c%2F%C3%A4");
    }

    #[test]
    fn names_are_no_hashes_of_turborepo() {
        let content = Digest::of(b"x");
        assert_ne!(content_name(&content), content);
        assert!(content_name(&content).hex().len() > 16);
    }
}
