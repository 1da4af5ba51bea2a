//! Downloads.

mod client;
mod connect;
mod download;
mod error;
mod range;
mod request;
mod retry;
mod url;

pub use client::{HttpClient, HttpOptions};
pub use connect::Proxies;
pub use download::{Download, Expected, Received, Sink};
pub use error::{Answer, HttpError};
pub use request::{Request, Validators};
pub use retry::{MIN_PROGRESS, RetryPolicy};
pub use url::{Authorization, HttpUrl, Origin, UrlError};

pub(crate) use retry::Tries;
pub(crate) use url::without_secrets;
