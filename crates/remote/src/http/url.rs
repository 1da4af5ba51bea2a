use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::HeaderValue;
use url::Url;

/// Why a text is no URL that can be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is no URL.
    #[error("`{url}` is no URL: {why}")]
    Malformed {
        /// As given, without what might be a password.
        url: String,
        /// What the parser says.
        why: url::ParseError,
    },
    /// It has another scheme.
    #[error("`{scheme}` is not fetched; only http and https are")]
    Scheme {
        /// Which.
        scheme: String,
    },
    /// A user name or password that no header can hold.
    #[error("the user name or password in the URL cannot be sent")]
    Credentials,
}

/// Scheme, host and port: what credentials are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    fn of(url: &Url) -> Self {
        Self {
            scheme: url.scheme().to_owned(),
            host: url.host_str().unwrap_or_default().to_owned(),
            port: url.port_or_known_default().unwrap_or_default(),
        }
    }

    /// The host's name, with the port when it is not the scheme's own.
    pub fn host(&self) -> String {
        match (self.scheme.as_str(), self.port) {
            ("http", 80) | ("https", 443) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

/// An `http` or `https` URL. What stood before the host as user and password is kept apart, so that it reaches nothing
/// but the header that is made of it.
#[derive(Clone)]
pub struct HttpUrl {
    url: Url,
    authorization: Option<Authorization>,
}

impl HttpUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// When it is none, or has another scheme.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let url = Url::parse(text).map_err(|why| UrlError::Malformed { url: without_secrets(text), why })?;
        Self::of(url)
    }

    fn of(mut url: Url) -> Result<Self, UrlError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlError::Scheme { scheme: url.scheme().to_owned() });
        }
        let mut authorization = None;
        if !url.username().is_empty() || url.password().is_some() {
            let decoded = |text: &str| percent_decoded(text);
            let (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
            authorization =
                Some(Authorization::basic(Origin::of(&url), &user, &password).ok_or(UrlError::Credentials)?);
            // An http(s) URL with a host can be without both.
            let _ = url.set_username("");
            let _ = url.set_password(None);
        }
        url.set_fragment(None);
        Ok(Self { url, authorization })
    }

    /// What a `Location` of this URL leads to.
    pub(crate) fn join(&self, location: &str) -> Result<Self, UrlError> {
        let joined = self.url.join(location);
        Self::of(joined.map_err(|why| UrlError::Malformed { url: without_secrets(location), why })?)
    }

    /// Whom it is asked of.
    pub fn origin(&self) -> Origin {
        Origin::of(&self.url)
    }

    /// Whether it is encrypted.
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// What identifies it: everything but user and password. Not for messages: queries can be secret.
    pub fn identity(&self) -> &str {
        self.url.as_str()
    }

    /// Made of its user and password.
    pub fn authorization(&self) -> Option<&Authorization> {
        self.authorization.as_ref()
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }
}

/// Without user, password and query.
impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_secrets(self.url.as_str()))
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpUrl({self})")
    }
}

/// A URL as it can be shown: what stands before an `@` of the host part and behind a `?` is left out.
pub(crate) fn without_secrets(url: &str) -> String {
    let (url, query) = url.split_once('?').map_or((url, ""), |(url, _)| (url, "?…"));
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("{scheme}://{host}{path}{query}")
        }
        None => format!("{url}{query}"),
    }
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = text.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let code = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(code.unwrap_or(*byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The value of an `Authorization` header, and whom it is for. Shown nowhere.
#[derive(Clone)]
pub struct Authorization {
    origin: Origin,
    value: HeaderValue,
}

impl Authorization {
    /// A user and a password. `None` when no header can hold them.
    pub fn basic(origin: Origin, user: &str, password: &str) -> Option<Self> {
        Self::header(origin, &format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
    }

    /// A token. `None` when no header can hold it.
    pub fn bearer(origin: Origin, token: &str) -> Option<Self> {
        Self::header(origin, &format!("Bearer {token}"))
    }

    /// The whole value of the header. `None` when no header can hold it.
    pub fn header(origin: Origin, value: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        Some(Self { origin, value })
    }

    /// The value, if this is the right host to send it to.
    pub(crate) fn for_url(&self, url: &HttpUrl) -> Option<&HeaderValue> {
        (self.origin == url.origin()).then_some(&self.value)
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").field("origin", &self.origin).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_and_no_secrets_in_messages() {
        let url = HttpUrl::parse("https://user:pa%73s@example.org/a?token=x#part").unwrap();
        assert_eq!(url.to_string(), "https://example.org/a?…");
        assert_eq!(url.identity(), "https://example.org/a?token=x");
        let header = url.authorization().unwrap().for_url(&url).unwrap().clone();
        assert_eq!(header.to_str().unwrap(), "Basic dXNlcjpwYXNz");
        assert!(!format!("{url:?} {:?}", url.authorization()).contains("dXNlcjpwYXNz"));
        for (text, message) in [
            ("file:///etc/passwd", "`file` is not fetched; only http and https are"),
            ("ftp://x/y", "`ftp` is not fetched; only http and https are"),
            ("http://u:p@h:99999/x?y", "`http://h:99999/x?…` is no URL: invalid port number"),
        ] {
            assert_eq!(HttpUrl::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn an_authorization_is_for_one_origin() {
        let url = |text: &str| HttpUrl::parse(text).unwrap();
        let authorization = Authorization::bearer(url("https://a.example/x").origin(), "t").unwrap();
        for (text, sent) in [
            ("https://a.example/other", true),
            ("https://a.example:443/", true),
            ("http://a.example/x", false),
            ("https://a.example:8443/x", false),
            ("https://b.a.example/x", false),
        ] {
            assert_eq!(authorization.for_url(&url(text)).is_some(), sent, "{text}");
        }
    }
}
