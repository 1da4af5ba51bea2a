use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::HeaderMap;
use wbuild_oci::Digest;
use wbuild_report::Hint;

use super::retry::{is_passing_status, retry_after};
use super::url::UrlError;

/// What a server answered when it did not give what was asked for.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Its headers: challenges, for example.
    pub headers: HeaderMap,
    /// The beginning of the body, at most 64 KiB.
    pub body: Vec<u8>,
}

/// Why something could not be fetched. URLs in it have no secrets.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The server does not give it.
    #[error("`{url}` answered {}", status_text(answer.status))]
    Status {
        /// Which; the last one, if it was redirected.
        url: String,
        /// What it said.
        answer: Box<Answer>,
    },
    /// No answer, or one that broke off.
    #[error("the connection for `{url}` failed{}", tries_text(*tries))]
    Network {
        /// Which.
        url: String,
        /// How often it was tried since the last progress.
        tries: u32,
        /// What happened the last time.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// There is no such host.
    #[error("there is no host for `{url}`")]
    NoHost {
        /// Which.
        url: String,
        /// What the resolver says.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The answer came too slowly, or what is sent was taken too slowly.
    #[error("`{url}` sent or took less than 64 KiB in {seconds} seconds")]
    Stalled {
        /// Which.
        url: String,
        /// The time that it had.
        seconds: u64,
    },
    /// The server's certificate or the encryption is not to be trusted.
    #[error("cannot trust `{url}`")]
    Trust {
        /// Which.
        url: String,
        /// Where the authorities are from that are trusted, if that is known.
        roots: Option<PathBuf>,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server does not speak TLS.
    #[error("`{url}` is no https: the server does not speak TLS")]
    NoTls {
        /// Which.
        url: String,
    },
    /// A redirect that is not followed.
    #[error("`{url}` redirects to where nothing is fetched from: {why}")]
    Redirect {
        /// Which.
        url: String,
        /// Why not.
        why: String,
    },
    /// It is larger than it may be.
    #[error("`{url}` is larger than {limit} bytes")]
    TooLarge {
        /// Which.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// It is something else than was expected.
    #[error("`{url}` has the digest {found}, but {expected} is expected")]
    Digest {
        /// Which.
        url: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// It came compressed, and is not what was expected.
    #[error("`{url}` came compressed (`Content-Encoding: {encoding}`), which was not asked for")]
    Encoded {
        /// Which.
        url: String,
        /// How, as the server says.
        encoding: String,
    },
    /// What came cannot be kept.
    #[error("cannot keep what `{url}` sends")]
    Sink {
        /// Which.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is to be sent cannot be read.
    #[error("cannot read what is to be sent to `{url}`")]
    Payload {
        /// Whereto.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The URL.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// No connection can be made at all.
    #[error("cannot set up connections: {why}")]
    Setup {
        /// Why.
        why: String,
    },
    /// Somebody said stop.
    #[error("stopped")]
    Stopped,
}

fn tries_text(tries: u32) -> String {
    if tries > 1 { format!(" ({tries} tries)") } else { String::new() }
}

impl HttpError {
    /// The status, if a server answered with one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { answer, .. } => Some(answer.status),
            _ => None,
        }
    }

    /// Whether it may go better the next time.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Status { answer, .. } => is_passing_status(answer.status),
            Self::Network { .. } | Self::Stalled { .. } => true,
            _ => false,
        }
    }

    /// Whether nobody listens at the port.
    pub fn is_refused(&self) -> bool {
        let Self::Network { source, .. } = self else { return false };
        let mut next: Option<&(dyn Error + 'static)> = Some(&**source);
        while let Some(error) = next {
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
            {
                return true;
            }
            next = error.source();
        }
        false
    }

    /// How long the server wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { answer, .. } => retry_after(&answer.headers),
            _ => None,
        }
    }
}

fn status_text(status: u16) -> String {
    match reqwest::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()) {
        Some(reason) => format!("{status} {reason}"),
        None => status.to_string(),
    }
}

impl Hint for HttpError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Trust { roots, .. } => {
                let add = "if this network has a certificate authority of its own, name a bundle that contains it with SSL_CERT_FILE";
                let roots = roots.as_ref().map(|roots| {
                    format!("the certificate authorities in `{}` are trusted; {add}", roots.display())
                });
                vec![roots.unwrap_or_else(|| format!("no certificate authorities are known; {add}"))]
            }
            Self::Network { .. } | Self::NoHost { .. } => vec![
                "check the network; proxies are taken from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"
                    .to_owned(),
            ],
            Self::Status { answer, .. } if matches!(answer.status, 401 | 403) => {
                vec!["check the credentials for this host".to_owned()]
            }
            Self::Digest { found, .. } => vec![format!(
                "if the file was meant to change, write its new digest {found} into the description"
            )],
            _ => Vec::new(),
        }
    }
}
