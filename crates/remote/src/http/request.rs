use std::ops::Range;

use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::payload::Payload;
use super::url::{Authorization, HttpUrl};

/// What a server said about a version of a file, to ask later whether it is still the one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`, as sent.
    pub etag: Option<String>,
    /// `Last-Modified`, as sent.
    pub last_modified: Option<String>,
}

impl Validators {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim().to_owned());
        Self {
            etag: text("etag").filter(|etag| !etag.is_empty()),
            last_modified: text("last-modified").filter(|date| !date.is_empty()),
        }
    }

    /// The ETag, if it promises that the bytes are the same.
    pub(crate) fn strong_etag(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| etag.starts_with('"'))
    }

    /// What can be asked with `If-Range`: a strong ETag, else a date.
    pub(crate) fn for_range(&self) -> Option<&str> {
        match &self.etag {
            Some(_) => self.strong_etag(),
            None => self.last_modified.as_deref(),
        }
    }

    /// `Last-Modified` in seconds since the epoch; `None` when it is missing or no date.
    pub fn modified(&self) -> Option<i64> {
        http_date(self.last_modified.as_deref()?)
    }
}

/// A date of a header (RFC 9110, 5.6.7) in seconds since the epoch.
pub(crate) fn http_date(text: &str) -> Option<i64> {
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    Some(date.as_second())
}

/// What is asked of a server.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) method: Method,
    pub(crate) url: HttpUrl,
    pub(crate) headers: HeaderMap,
    pub(crate) authorization: Option<Authorization>,
    pub(crate) known: Validators,
    pub(crate) payload: Option<Payload>,
    pub(crate) once: bool,
    pub(crate) stays_encrypted: bool,
}

impl Request {
    /// Asks for what is at `url`.
    pub fn get(url: HttpUrl) -> Self {
        Self::new(Method::GET, url)
    }

    /// Asks what is known of what is at `url`, and not for itself.
    pub fn head(url: HttpUrl) -> Self {
        Self::new(Method::HEAD, url)
    }

    /// Puts `payload` at `url`.
    pub fn put(url: HttpUrl, payload: Payload) -> Self {
        Self { payload: Some(payload), ..Self::new(Method::PUT, url) }
    }

    /// Gives `payload` to what is at `url`.
    pub fn post(url: HttpUrl, payload: Payload) -> Self {
        Self { payload: Some(payload), ..Self::new(Method::POST, url) }
    }

    /// Changes what is at `url` by `payload`.
    pub fn patch(url: HttpUrl, payload: Payload) -> Self {
        Self { payload: Some(payload), ..Self::new(Method::PATCH, url) }
    }

    /// Takes away what is at `url`.
    pub fn delete(url: HttpUrl) -> Self {
        Self::new(Method::DELETE, url)
    }

    fn new(method: Method, url: HttpUrl) -> Self {
        let authorization = url.authorization().cloned();
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            authorization,
            known: Validators::default(),
            payload: None,
            once: false,
            stays_encrypted: false,
        }
    }

    /// Where it goes first.
    pub fn url(&self) -> &HttpUrl {
        &self.url
    }

    /// With one more header, for all hosts that it is redirected to: nothing secret.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.append(HeaderName::from_static(name), value);
        self
    }

    /// With one more header of these words, for all hosts that it is redirected to.
    #[must_use]
    pub fn with_words(self, name: &'static str, value: &'static str) -> Self {
        self.with_header(name, HeaderValue::from_static(value))
    }

    /// Only the bytes from one offset to another, which is not the first; a server may send all nevertheless.
    #[must_use]
    pub fn with_range(self, range: &Range<u64>) -> Self {
        // Digits and punctuation are always a header's value.
        let value = HeaderValue::from_str(&format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        match value {
            Ok(value) => self.with_header("range", value),
            Err(_) => self,
        }
    }

    /// With credentials; those of the URL itself come first.
    #[must_use]
    pub fn with_authorization(mut self, authorization: Option<Authorization>) -> Self {
        self.authorization = self.authorization.or(authorization);
        self
    }

    /// Tried once: for what must not simply be sent again. [`HttpClient::keep_trying`](super::HttpClient::keep_trying) is
    /// for such.
    #[must_use]
    pub const fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Not redirected from https to http: for what nobody can compare with a digest.
    #[must_use]
    pub const fn staying_encrypted(mut self) -> Self {
        self.stays_encrypted = true;
        self
    }

    /// Whether it is tried [once](Self::once).
    pub const fn is_once(&self) -> bool {
        self.once
    }

    /// Only if it is no longer the version that the caller has.
    #[must_use]
    pub fn unless(mut self, known: Validators) -> Self {
        self.known = known;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_headers() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        for text in ["", "0", "yesterday", "Sun, 06 Nov 1994"] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }

    #[test]
    fn a_weak_etag_does_not_stand_for_bytes() {
        let validators = |etag: &str| Validators {
            etag: Some(etag.to_owned()),
            last_modified: Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
        };
        assert_eq!(validators("\"x\"").for_range(), Some("\"x\""));
        assert_eq!(validators("W/\"x\"").for_range(), None);
        let dated = Validators { etag: None, ..validators("") };
        assert_eq!(dated.for_range(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(dated.modified(), Some(784_111_777));
    }
}
