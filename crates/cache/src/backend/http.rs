use std::fs::File;
use std::ops::Range;
use std::path::Path;

use wbuild_oci::Digest;
use wbuild_remote::{Authorization, HttpUrl, Payload, Request};

use super::web::{Network, Web, payload};
use super::{Backend, action, readable, scope_name};
use crate::error::CacheError;
use crate::index::{Index, MAX_INDEX};

/// A server that speaks Bazel's HTTP caching protocol: contents at `/cas/<sha256>`, indexes at `/ac/<sha256>`, by GET, HEAD
/// and PUT. So do web servers that take PUT.
#[derive(Debug)]
pub struct HttpBackend {
    web: Web,
    base: HttpUrl,
    authorization: Option<Authorization>,
}

impl HttpBackend {
    /// The server at `base`; user and password in it are sent as such, a `token` as a bearer token.
    pub fn new(base: HttpUrl, token: Option<&str>, network: &Network) -> Self {
        let authorization = super::web::bearer(&base, token);
        Self { web: Web::new(network), base, authorization }
    }

    fn url(&self, kind: &str, name: &Digest) -> Result<HttpUrl, CacheError> {
        // A query, a signature for example, stays behind the path.
        let (base, query) = match self.base.identity().split_once('?') {
            Some((base, query)) => (base, format!("?{query}")),
            None => (self.base.identity(), String::new()),
        };
        let text = format!("{}/{kind}/{}{query}", base.trim_end_matches('/'), name.hex());
        HttpUrl::parse(&text).map_err(|source| CacheError::Server {
            action: "address",
            place: self.base.to_string(),
            source: Box::new(source),
        })
    }

    fn with_credentials(&self, request: Request) -> Request {
        request.with_authorization(self.base_authorization())
    }

    fn base_authorization(&self) -> Option<Authorization> {
        self.authorization.clone().or_else(|| self.base.authorization().cloned())
    }

    fn get(&self, kind: &str, name: &Digest) -> Result<Request, CacheError> {
        Ok(self.with_credentials(Request::get(self.url(kind, name)?)))
    }
}

impl Backend for HttpBackend {
    fn place(&self) -> String {
        self.base.to_string()
    }

    fn index(&self, scope: &str) -> Result<Option<Vec<u8>>, CacheError> {
        let found = self.web.document(&self.get("ac", &scope_name(scope))?, MAX_INDEX)?;
        found.map(|message| action::unwrap(&message)).transpose()
    }

    fn update(
        &self,
        scope: &str,
        merge: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Index>,
    ) -> Result<(), CacheError> {
        let Some(index) = merge(readable(self.index(scope))?) else { return Ok(()) };
        let message = action::wrap(&index.encode()?);
        let url = self.url("ac", &scope_name(scope))?;
        self.web.store(&self.with_credentials(Request::put(url, Payload::bytes(message))))
    }

    fn small(&self, content: &Digest, limit: u64) -> Result<Vec<u8>, CacheError> {
        let found = self.web.document(&self.get("cas", content)?, limit)?;
        found.ok_or(CacheError::Gone(*content))
    }

    fn part(&self, content: &Digest, range: Range<u64>) -> Result<Option<Vec<u8>>, CacheError> {
        self.web.part(self.get("cas", content)?, content, range)
    }

    fn gives_parts(&self) -> bool {
        self.web.gives_parts()
    }

    fn whole(&self, content: &Digest, size: u64, file: &File) -> Result<(), CacheError> {
        self.web.whole(&self.get("cas", content)?, content, size, file)
    }

    fn put(&self, content: &Digest, size: u64, path: &Path) -> Result<(), CacheError> {
        let url = self.url("cas", content)?;
        if self.web.is_there(&self.with_credentials(Request::head(url.clone())))? {
            return Ok(());
        }
        self.web.store(&self.with_credentials(Request::put(url, payload(path, size))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_path() {
        let name = Digest::of(b"x");
        let url = |base: &str| {
            let base = HttpUrl::parse(base).unwrap();
            let url = HttpBackend::new(base, None, &Network::default()).url("cas", &name).unwrap();
            url.identity().replace(&name.hex(), "HEX")
        };
        assert_eq!(url("http://h/c/"), "http://h/c/cas/HEX");
        assert_eq!(url("http://h"), "http://h/cas/HEX");
        assert_eq!(url("http://h/c?sig=a/b"), "http://h/c/cas/HEX?sig=a/b");
    }
}
