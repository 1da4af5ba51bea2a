//! Requests, downloads and uploads.

mod client;
mod connect;
mod download;
mod error;
mod own_certificate;
mod payload;
mod range;
mod request;
mod retry;
mod send;
mod tls;
mod url;

pub use client::{HttpClient, HttpOptions};
pub use connect::Proxies;
pub use download::{Download, Expected, Received, Sink, Transfer};
pub use error::{Answer, HttpError};
pub use payload::Payload;
pub use request::{Request, Validators};
pub use retry::{MIN_PROGRESS, RetryPolicy};
pub use send::Reply;
pub use tls::{ClientIdentity, HostTls};
pub use url::{Authorization, HttpUrl, Origin, UrlError};

#[cfg(feature = "object-stores")]
pub(crate) use connect::client as connections;
pub(crate) use retry::Tries;
pub(crate) use url::without_secrets;
