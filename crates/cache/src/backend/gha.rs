use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wbuild_oci::Digest;
use wbuild_remote::{Authorization, HttpUrl, Payload, Request};

use super::web::{Network, Web, failed, payload};
use super::{Backend, readable, scope_name};
use crate::error::{CacheError, damaged};
use crate::index::{Index, MAX_INDEX};

/// Bytes of an answer of the service.
const MAX_ANSWER: u64 = 1 << 20;

/// How long a signed URL is used; those of the service are good for longer.
const FRESH: Duration = Duration::from_secs(300);

/// The service's calls, as Twirp names them.
const SERVICE: &str = "twirp/github.actions.results.api.v1.CacheService";

/// The cache service (v2) of GitHub Actions: entries by key, which nothing replaces, at signed URLs of a blob store.
///
/// An index is a new entry each time; the service gives the newest one whose key begins with that of the scope.
#[derive(Debug)]
pub struct GhaBackend {
    web: Web,
    base: HttpUrl,
    authorization: Option<Authorization>,
    /// Where contents are, as far as that was asked for.
    places: Mutex<HashMap<Digest, (Instant, HttpUrl)>>,
}

#[derive(Deserialize)]
struct Created {
    ok: bool,
    #[serde(default, alias = "signedUploadUrl")]
    signed_upload_url: String,
}

#[derive(Deserialize)]
struct Finished {
    ok: bool,
}

#[derive(Deserialize)]
struct Found {
    ok: bool,
    #[serde(default, alias = "signedDownloadUrl")]
    signed_download_url: String,
    #[serde(default, alias = "matchedKey")]
    matched_key: String,
}

/// Entries of other versions are others: nobody else's have this one.
fn version() -> String {
    Digest::of(b"wbuild-cache-1").hex()
}

fn content_key(content: &Digest) -> String {
    format!("wbuild-content-{}", content.hex())
}

/// What the keys of a scope's indexes begin with.
fn index_prefix(scope: &str) -> String {
    format!("wbuild-index-{}-", scope_name(scope).hex())
}

impl GhaBackend {
    /// The service at `base`, which is what `ACTIONS_RESULTS_URL` says, with the token of a job.
    pub fn new(base: HttpUrl, token: &str, network: &Network) -> Self {
        let authorization = super::web::bearer(&base, Some(token));
        Self { web: Web::new(network), base, authorization, places: Mutex::default() }
    }

    fn address(&self, text: &str) -> Result<HttpUrl, CacheError> {
        HttpUrl::parse(text).map_err(|source| CacheError::Server {
            action: "address",
            place: self.base.to_string(),
            source: Box::new(source),
        })
    }

    /// The answer to a call; `None` when the service says that there is nothing, or something already.
    fn call<T: DeserializeOwned>(&self, method: &str, argument: &Value) -> Result<Option<T>, CacheError> {
        let url =
            self.address(&format!("{}/{SERVICE}/{method}", self.base.identity().trim_end_matches('/')))?;
        let request = Request::post(url, Payload::bytes(argument.to_string()))
            .with_words("content-type", "application/json")
            .with_authorization(self.authorization.clone());
        let reply = match self.web.send(&request, MAX_ANSWER) {
            Ok(reply) => reply,
            Err(error) if matches!(error.status(), Some(404 | 409)) => return Ok(None),
            Err(error) => return Err(failed("ask", request.url(), error)),
        };
        let wrong = |_| damaged(request.url().to_string(), "its answer is not of the cache service");
        serde_json::from_slice(&reply.body).map(Some).map_err(wrong)
    }

    /// The newest entry with this key, or with one that begins with `prefix`: its key, and where it is.
    fn find(&self, key: &str, prefix: Option<&str>) -> Result<Option<(String, HttpUrl)>, CacheError> {
        let prefixes: Vec<&str> = prefix.into_iter().collect();
        let argument = json!({ "key": key, "restore_keys": prefixes, "version": version() });
        let found: Option<Found> = self.call("GetCacheEntryDownloadURL", &argument)?;
        let Some(found) = found.filter(|found| found.ok && !found.signed_download_url.is_empty()) else {
            return Ok(None);
        };
        // Keys are found by their beginnings, too.
        let fits = match prefix {
            Some(prefix) => found.matched_key.starts_with(prefix),
            None => found.matched_key.is_empty() || found.matched_key == key,
        };
        match fits {
            true => Ok(Some((found.matched_key, self.address(&found.signed_download_url)?))),
            false => Ok(None),
        }
    }

    /// Where a content is.
    fn locate(&self, content: &Digest) -> Result<HttpUrl, CacheError> {
        let places = || self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, url)) = places().get(content)
            && since.elapsed() < FRESH
        {
            return Ok(url.clone());
        }
        let (_, url) = self.find(&content_key(content), None)?.ok_or(CacheError::Gone(*content))?;
        places().insert(*content, (Instant::now(), url.clone()));
        Ok(url)
    }

    /// Makes an entry. `false` when there is one with this key, or somebody is about to make it.
    fn store(&self, key: &str, size: u64, payload: Payload) -> Result<bool, CacheError> {
        let argument = json!({ "key": key, "version": version() });
        let created: Option<Created> = self.call("CreateCacheEntry", &argument)?;
        let Some(created) = created.filter(|created| created.ok && !created.signed_upload_url.is_empty())
        else {
            return Ok(false);
        };
        let upload = Request::put(self.address(&created.signed_upload_url)?, payload)
            .with_words("content-type", "application/octet-stream")
            .with_words("x-ms-blob-type", "BlockBlob");
        self.web.store(&upload)?;
        let argument = json!({ "key": key, "size_bytes": size.to_string(), "version": version() });
        let finished: Option<Finished> = self.call("FinalizeCacheEntryUpload", &argument)?;
        match finished {
            Some(Finished { ok: true }) => Ok(true),
            _ => Err(self.refused("does not take what was uploaded")),
        }
    }

    fn refused(&self, why: &'static str) -> CacheError {
        CacheError::Server {
            action: "write",
            place: self.base.to_string(),
            source: format!("the cache service {why}").into(),
        }
    }
}

impl Backend for GhaBackend {
    fn place(&self) -> String {
        self.base.to_string()
    }

    fn index(&self, scope: &str) -> Result<Option<Vec<u8>>, CacheError> {
        let prefix = index_prefix(scope);
        match self.find(&prefix, Some(&prefix))? {
            Some((_, url)) => self.web.document(&Request::get(url), MAX_INDEX),
            None => Ok(None),
        }
    }

    fn update(
        &self,
        scope: &str,
        merge: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Index>,
    ) -> Result<(), CacheError> {
        let Some(index) = merge(readable(self.index(scope))?) else { return Ok(()) };
        let bytes = index.encode()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let key = format!("{}{:020}-{}", index_prefix(scope), now.as_nanos(), std::process::id());
        match self.store(&key, bytes.len() as u64, Payload::bytes(bytes))? {
            true => Ok(()),
            false => Err(self.refused("takes no index")),
        }
    }

    fn small(&self, content: &Digest, limit: u64) -> Result<Vec<u8>, CacheError> {
        let found = self.web.document(&Request::get(self.locate(content)?), limit)?;
        found.ok_or(CacheError::Gone(*content))
    }

    fn part(&self, content: &Digest, range: Range<u64>) -> Result<Option<Vec<u8>>, CacheError> {
        self.web.part(Request::get(self.locate(content)?), content, range)
    }

    fn gives_parts(&self) -> bool {
        self.web.gives_parts()
    }

    fn whole(&self, content: &Digest, size: u64, file: &File) -> Result<(), CacheError> {
        self.web.whole(&Request::get(self.locate(content)?), content, size, file)
    }

    fn put(&self, content: &Digest, size: u64, path: &Path) -> Result<(), CacheError> {
        let key = content_key(content);
        if self.find(&key, None)?.is_some() || self.store(&key, size, payload(path, size))? {
            return Ok(());
        }
        // Another job may just have finished the same.
        match self.find(&key, None)? {
            Some(_) => Ok(()),
            None => Err(self.refused("takes no entry that another job has begun")),
        }
    }
}
