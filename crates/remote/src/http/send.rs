use reqwest::header::HeaderMap;

use super::client::HttpClient;
use super::error::HttpError;
use super::request::Request;
use super::url::HttpUrl;
use crate::watch::Watch;

/// An answer that was wanted, whole.
#[derive(Clone, Debug)]
pub struct Reply {
    /// 200 to 299; 304 when that was asked for.
    pub status: u16,
    /// Who gave it: another one than was asked, after redirects.
    pub url: HttpUrl,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Reply {
    /// How it is compressed, which nobody asked for (`Content-Encoding`).
    pub fn encoding(&self) -> Option<String> {
        encoding(&self.headers)
    }
}

/// How an answer is compressed, as the server says.
pub(crate) fn encoding(headers: &HeaderMap) -> Option<String> {
    let stated = headers.get("content-encoding")?.to_str().ok()?.trim();
    let compressed = !stated.is_empty() && !stated.eq_ignore_ascii_case("identity");
    compressed.then(|| stated.escape_debug().to_string())
}

impl HttpClient {
    /// Sends a request, with its payload if it has one, and reads an answer of at most `limit` bytes.
    ///
    /// # Errors
    /// When the server does not do it, the network fails too often (at once if it may be sent [once](Request::once) only),
    /// the answer is too large, or what is to be sent cannot be read.
    pub fn send(&self, request: &Request, limit: u64, watch: &Watch<'_>) -> Result<Reply, HttpError> {
        let attempt = async |_: &mut ()| {
            let (url, mut response) = self.exchange(request, &HeaderMap::new()).await?;
            let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));
            let mut body = Vec::new();
            self.each_chunk(&url, &mut response, |chunk| {
                if body.len() as u64 + chunk.len() as u64 > limit {
                    return Err(HttpError::TooLarge { url: url.to_string(), limit });
                }
                body.extend_from_slice(chunk);
                Ok(())
            })
            .await?;
            Ok(Reply { status, url, headers, body })
        };
        self.persist(request, watch, &mut (), |()| 0, &attempt)
    }

    /// Reads a document of at most `limit` bytes into memory, with the headers of the answer.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn read(
        &self,
        request: &Request,
        limit: u64,
        watch: &Watch<'_>,
    ) -> Result<(HeaderMap, Vec<u8>), HttpError> {
        let reply = self.send(request, limit, watch)?;
        Ok((reply.headers, reply.body))
    }
}
