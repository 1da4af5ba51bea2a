use std::path::PathBuf;

use serde::Deserialize;
use wbuild_image::ImageError;
use wbuild_oci::{Digest, Reference};
use wbuild_remote::{Answer, HttpError, Reply};
use wbuild_report::Hint;

use crate::credentials::CredentialsError;

/// As much of what a registry says as is shown.
const MAX_MESSAGE: usize = 300;

/// As many characters of what is no message are shown.
const MAX_SHOWN: usize = 60;

/// Why a registry did not give or take something.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The connection, or an answer that no retry helped against.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A host that may speak either speaks neither.
    #[error("{}", silent(registry, source))]
    Silent {
        /// Which registry, as the person names it.
        registry: String,
        /// What happened the last time with https.
        #[source]
        source: HttpError,
    },
    /// Mirrors do not give it, and the registry cannot be reached.
    #[error("{}, and the registry itself cannot be reached", mirrors.join("; "))]
    Nowhere {
        /// What is wrong with each.
        mirrors: Vec<String>,
        /// What is wrong with the registry.
        #[source]
        own: Box<RegistryError>,
    },
    /// No push can be begun there.
    #[error("cannot push to `{repository}`")]
    NoPush {
        /// Where.
        repository: String,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// 401 or 403.
    #[error("`{registry}` does not let us {action} `{name}`: {said}")]
    Denied {
        /// Which registry, as the person names it.
        registry: String,
        /// `pull`, `push to` …
        action: &'static str,
        /// The repository.
        name: String,
        /// The status, and what the registry says.
        said: String,
        /// Whose credentials were shown, if any were.
        shown: Option<String>,
        /// Where credentials were looked for.
        looked_at: Vec<String>,
    },
    /// The credentials of somebody who logs in are not taken.
    #[error("`{registry}` refused to log in: {said}")]
    NoLogin {
        /// Which registry.
        registry: String,
        /// The status, and what the registry says.
        said: String,
    },
    /// Any other answer that says no.
    #[error("`{place}` refused to {doing}: {said}")]
    Refused {
        /// Which registry, or which repository of it.
        place: String,
        /// What it was asked to do.
        doing: String,
        /// The status.
        status: u16,
        /// The status, and what the registry says.
        said: String,
    },
    /// There is no such tag or digest.
    #[error("`{}` has no `{what}`", reference.familiar_name())]
    NoManifest {
        /// What was asked for.
        reference: Box<Named>,
        /// The tag or digest.
        what: String,
        /// Tags with names like it.
        near: Vec<String>,
        /// Some that there are, if none is like it.
        others: Vec<String>,
        /// Whether it is listed nevertheless.
        listed: bool,
    },
    /// There is no such repository.
    #[error("`{registry}` has no repository `{name}`")]
    NoRepository {
        /// Which registry.
        registry: String,
        /// Which repository.
        name: String,
    },
    /// A blob that a manifest names is not there.
    #[error("`{repository}` has no blob {digest}")]
    NoBlob {
        /// Where.
        repository: String,
        /// Which.
        digest: Digest,
    },
    /// A document has another digest than it should have.
    #[error("`{url}` has the digest {found}, but {expected} is expected")]
    Digest {
        /// Of the document.
        url: String,
        /// What was asked for, or what the registry says that it is.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// A blob has another size than its descriptor says.
    #[error("`{url}` has {found} bytes, but {expected} are expected")]
    Size {
        /// Of the blob.
        url: String,
        /// What was asked for.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// The documents of an image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A layer that is kept somewhere else, or may not be passed on.
    #[error("the layer {digest} is `{}`: its bytes are not in the registry", media_type.escape_debug())]
    Foreign {
        /// Which.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// Docker's first format, without digests.
    #[error("`{url}` is an image of Docker's schema 1, which has no digests that could be checked")]
    Schema1 {
        /// Of the manifest.
        url: String,
    },
    /// The registry speaks no TLS.
    #[error("`{registry}` speaks plain http, but https is expected of it")]
    PlainHttp {
        /// Which.
        registry: String,
        /// Where the person can say that this is meant.
        file: Option<PathBuf>,
    },
    /// The registry wants TLS, but the rules say that it has none.
    #[error("`{registry}` speaks https, but the rules for registries say plain http")]
    WantsHttps {
        /// Which.
        registry: String,
        /// Where they say it.
        file: Option<PathBuf>,
    },
    /// The rules say that this registry is not to be asked.
    #[error("`{prefix}` is blocked")]
    Blocked {
        /// What the rule is for.
        prefix: String,
        /// Where it is.
        file: Option<PathBuf>,
    },
    /// The token server does not do what it should.
    #[error("cannot get a token for `{registry}` from `{realm}`: {why}")]
    Token {
        /// The registry.
        registry: String,
        /// The token server.
        realm: String,
        /// What is wrong.
        why: String,
    },
    /// The registry does something that the specification has no place for.
    #[error("`{registry}` answered `{url}` as no registry does: {why}")]
    Protocol {
        /// Which.
        registry: String,
        /// What was asked.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// What is to be pushed cannot be had.
    #[error("cannot get {what}")]
    Source {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Keeping or forgetting credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// A repository in messages: short, as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named(pub(crate) Reference);

impl Named {
    fn familiar_name(&self) -> String {
        Reference { tag: None, digest: None, ..self.0.clone() }.familiar()
    }
}

impl RegistryError {
    /// Whether somebody said stop.
    pub fn is_stopped(&self) -> bool {
        matches!(self, Self::Http(HttpError::Stopped))
    }

    /// Whether it would be the same anywhere.
    pub(crate) fn is_of_this_machine(&self) -> bool {
        matches!(self, Self::Http(HttpError::Stopped | HttpError::Sink { .. } | HttpError::Setup { .. }))
    }

    /// Whether the registry, or its token server, gave no answer that is one: it may be another one later.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Http(HttpError::NoHost { .. } | HttpError::Redirect { .. })
            | Self::Nowhere { .. }
            | Self::Silent { .. }
            | Self::Token { .. } => true,
            Self::Http(error) => error.may_pass(),
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500..=599),
            _ => false,
        }
    }

    /// Whether what was asked for is not there, as opposed to not to be had.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::NoManifest { .. } | Self::NoRepository { .. } | Self::NoBlob { .. })
    }
}

impl Hint for RegistryError {
    fn hints(&self) -> Vec<String> {
        let config = |file: &Option<PathBuf>| {
            file.as_ref().map_or_else(|| "registries.toml".to_owned(), |file| file.display().to_string())
        };
        match self {
            Self::Http(HttpError::Status { answer, .. }) if answer.status == 429 => {
                vec![
                    "the registry limits how often it is asked; `wbuild login HOST` often raises the limit"
                        .to_owned(),
                ]
            }
            Self::Http(error @ HttpError::Trust { url, .. }) => {
                let host = url.split('/').nth(2).unwrap_or("HOST");
                let mut hints = error.hints();
                hints.push(format!(
                    "or name it for this registry alone: `[registry.\"{host}\"]` with `ca = [\"FILE\"]` in registries.toml"
                ));
                hints
            }
            Self::Silent { source, .. } if source.is_refused() => {
                vec!["is the registry started, and the port right?".to_owned()]
            }
            Self::Nowhere { own: source, .. } | Self::NoPush { source, .. } => source.hints(),
            Self::Http(HttpError::Digest { .. }) | Self::Digest { .. } | Self::Size { .. } => {
                vec![
                    "the registry, or something between it and here, gives other bytes than were pushed: push the image again, or take it from elsewhere"
                        .to_owned(),
                ]
            }
            Self::Http(HttpError::Payload { source, .. }) if source.kind() == std::io::ErrorKind::InvalidData => {
                vec![
                    "it was damaged on this machine: make the image again; `wbuild cache verify` drops what is damaged in the state directory"
                        .to_owned(),
                ]
            }
            Self::Http(HttpError::Encoded { .. }) => {
                vec!["a proxy before the registry changes what it sends; blobs and manifests have to come as they are".to_owned()]
            }
            Self::Http(HttpError::Redirect { .. } | HttpError::TooLarge { .. }) | Self::Protocol { .. } => {
                vec!["registries do not do that: check the name of the host, and what stands before the registry".to_owned()]
            }
            Self::Http(HttpError::Stalled { .. }) => vec![
                "check the network; WBUILD_HTTP_TIMEOUT (seconds) gives it more time".to_owned(),
            ],
            Self::Http(error) => error.hints(),
            Self::NoLogin { .. } => {
                vec!["the name or the password is wrong; many registries want a token for a password".to_owned()]
            }
            Self::Refused { status: 413, .. } => vec![
                "the registry, or a proxy before it, takes only smaller requests: `client_max_body_size` in nginx".to_owned(),
            ],
            Self::Refused { status: 408 | 500..=599, .. } => {
                vec!["that stayed so after several tries: what went wrong is in the registry's log".to_owned()]
            }
            Self::Refused { place, status, .. } if *status != 401 => {
                let host = place.split('/').next().unwrap_or_default();
                vec![format!(
                    "registries that work do not answer so: check that `{host}` is one, that it takes what is pushed, and what stands before it"
                )]
            }
            Self::NoBlob { .. } => vec![
                "the registry has the manifest of the image and not all that it names: push the image again".to_owned(),
            ],
            Self::Denied { registry, shown: Some(shown), .. } => vec![
                format!("the credentials of {shown} were shown; they are wrong, or not for this repository"),
                format!("`wbuild login {registry}` writes new ones"),
            ],
            Self::Denied { registry, looked_at, .. } => {
                let places = if looked_at.is_empty() {
                    "nowhere: HOME is not set".to_owned()
                } else {
                    looked_at.join(", ")
                };
                vec![
                    format!("no credentials for `{registry}` were found; looked at {places}"),
                    format!(
                        "`wbuild login {registry}` writes them; or the name is wrong: registries say this of what does not exist, too"
                    ),
                ]
            }
            Self::NoManifest { what, listed: true, .. } => vec![format!(
                "the registry lists `{}`, and does not give it: push the image again",
                what.escape_debug()
            )],
            Self::NoManifest { near, .. } if !near.is_empty() => {
                let near: Vec<String> = near.iter().map(|tag| format!("`{}`", tag.escape_debug())).collect();
                vec![format!("did you mean {}?", near.join(", "))]
            }
            Self::NoManifest { others, .. } if !others.is_empty() => {
                let others: Vec<String> = others.iter().map(|tag| format!("`{}`", tag.escape_debug())).collect();
                vec![format!("tags that there are: {}", others.join(", "))]
            }
            Self::Schema1 { .. } => vec!["push it again with a newer Docker".to_owned()],
            Self::PlainHttp { registry, file } => vec![format!(
                "if that is meant, write `[registry.\"{registry}\"]` and `http = true` into {}",
                config(file)
            )],
            Self::WantsHttps { file, .. } => {
                vec![format!("remove `http = true` from {}", config(file))]
            }
            Self::Blocked { file, .. } => vec![format!("{} says so", config(file))],
            Self::Image(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

fn silent(registry: &str, source: &HttpError) -> String {
    match source.is_refused() {
        true => format!("nothing listens at `{registry}`"),
        false => format!("`{registry}` answers neither https nor http"),
    }
}

/// What came instead of what was wanted: its status, its media type and its first characters.
pub(crate) fn shown(reply: &Reply) -> String {
    let media_type = reply.headers.get("content-type").and_then(|stated| stated.to_str().ok());
    let media_type = media_type.map_or_else(String::new, |stated| format!(", `{}`", clipped(stated)));
    let text = String::from_utf8_lossy(&reply.body);
    let begins = match text.trim() {
        "" => String::new(),
        text => format!(", that begins with `{}`", clipped(text)),
    };
    format!("an answer {}{media_type}{begins}", reply.status)
}

fn clipped(text: &str) -> String {
    let mut clipped: String = text.chars().take(MAX_SHOWN).collect();
    if clipped.len() < text.len() {
        clipped.push('…');
    }
    clipped.escape_debug().to_string()
}

/// What registries say in the body of an error (distribution-spec, "Error Codes").
#[derive(Debug, Default, Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<Code>,
    /// Token servers.
    #[serde(default)]
    details: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Code {
    #[serde(default)]
    pub(crate) code: String,
    #[serde(default)]
    message: String,
}

/// The codes in the body of an answer.
pub(crate) fn codes(answer: &Answer) -> Vec<Code> {
    serde_json::from_slice::<Body>(&answer.body).unwrap_or_default().errors
}

/// An answer in words: its status, and what its body says, on one line and without anything that a terminal would act upon.
pub(crate) fn said(answer: &Answer) -> String {
    let body: Body = serde_json::from_slice(&answer.body).unwrap_or_default();
    let told = |code: &Code| match code.message.is_empty() {
        true => code.code.to_lowercase(),
        false => code.message.clone(),
    };
    let mut text = match body.errors.is_empty() {
        false => body.errors.iter().map(told).collect::<Vec<_>>().join("; "),
        true if !body.details.is_empty() => body.details,
        true => {
            let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
            // Pages are for browsers.
            if text.starts_with('<') || text.starts_with('{') { String::new() } else { text }
        }
    };
    if let Some((end, _)) = text.char_indices().nth(MAX_MESSAGE) {
        text.truncate(end);
        text.push('…');
    }
    let status = HttpError::Status { url: String::new(), answer: Box::new(answer.clone()) }.to_string();
    let status = status.trim_start_matches("`` answered ").to_owned();
    match text.is_empty() {
        true => status,
        false => format!("{status}: {}", text.escape_debug()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said() {
        let of = |body: &str| said(&Answer { status: 404, headers: Default::default(), body: body.into() });
        for (body, expected) in [
            ("", "404 Not Found"),
            ("<html>", "404 Not Found"),
            ("nope\n", "404 Not Found: nope"),
            (
                r#"{"errors":[{"code":"X_Y","message":"a \u001b[31mred"},{"code":"Z"}]}"#,
                "404 Not Found: a \\u{1b}[31mred; z",
            ),
            (
                r#"{"details":"incorrect username or password"}"#,
                "404 Not Found: incorrect username or password",
            ),
        ] {
            assert_eq!(of(body), expected);
        }
        assert!(of(&"x".repeat(100_000)).len() < 400);
    }
}
