//! What comes over the network, and nothing else: files by HTTP, and git repositories.
//!
//! - [`HttpClient`] downloads into a [`Sink`] or into memory: bounded, resumed where it was cut, revalidated by ETag or
//!   Last-Modified, compared with a digest. It sends a [`Payload`], which is opened anew for each try. Tries again what may
//!   go better the next time, and nothing else.
//! - [`Git`] asks the machine's `git` program what a branch or tag is, fetches one commit into a bare repository that
//!   is kept, and checks it out.
//! - `ObjectStore` (feature `object-stores`) reads and writes objects of S3, Google Cloud Storage and Azure's blob storage.
//!
//! Guarantees: only `http` and `https`; credentials go to the scheme, host and port that they were given for and to no
//! other, whatever redirects say; nothing is read without a limit; every wait has an end, is announced to the [`Watch`],
//! and ends at once when its [`Stop`] says so; URLs in messages have no passwords and no query.
//!
//! Asynchronous inside, on a small runtime of its own; every call blocks, and may come from any thread that is not
//! itself a task of a runtime.

mod git;
mod http;
#[cfg(feature = "object-stores")]
mod objects;
mod runtime;
mod stop;
mod wait;
mod watch;

pub use git::{
    Checkout, CommitId, Git, GitError, GitOptions, GitRemote, GitRemoteError, Reference, ReferenceError,
    Resolved,
};
pub use http::{
    Answer, Authorization, ClientIdentity, Download, Expected, HostTls, HttpClient, HttpError, HttpOptions,
    HttpUrl, MIN_PROGRESS, Origin, Payload, Proxies, Received, Reply, Request, RetryPolicy, Sink, Transfer,
    UrlError, Validators,
};
#[cfg(feature = "object-stores")]
pub use objects::{ObjectError, ObjectService, ObjectStore, Version};
// The types of this crate's interface that are another one's.
pub use reqwest::header::{HeaderMap, HeaderValue};
pub use stop::Stop;
pub use wait::{Clock, Waiting};
pub use watch::{Retry, Watch};
