use std::fmt;
use std::path::Path;

use crate::http::{Authorization, HttpUrl, UrlError, without_secrets};

/// Why a text names no repository that is fetched from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitRemoteError {
    /// Another protocol.
    #[error("git repositories are fetched by https, http, ssh and git, not by `{scheme}`")]
    Scheme {
        /// Which.
        scheme: String,
    },
    /// It could be taken for an option, or hides something.
    #[error("`{}` is not the address of a git repository", text.escape_debug())]
    Malformed {
        /// What was given.
        text: String,
    },
    /// An HTTP URL that is none.
    #[error(transparent)]
    Url(#[from] UrlError),
}

/// Where a repository is. Passwords in it are kept apart, so that they reach no command line and no configuration.
#[derive(Clone)]
pub struct GitRemote {
    address: String,
    authorization: Option<Authorization>,
    local: bool,
}

impl GitRemote {
    /// Reads what a person wrote: a URL with the scheme `https`, `http`, `ssh` or `git`, or `user@host:path`.
    ///
    /// # Errors
    /// When it is anything else: paths of this machine are for [`folder`](Self::folder), and `git`'s own `ext::` would run
    /// programs.
    pub fn parse(text: &str) -> Result<Self, GitRemoteError> {
        let malformed = || GitRemoteError::Malformed { text: without_secrets(text) };
        if text.starts_with('-') || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(malformed());
        }
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("http" | "https") => {
                let url = HttpUrl::parse(text)?;
                let address = url.identity().to_owned();
                Ok(Self { address, authorization: url.authorization().cloned(), local: false })
            }
            Some("ssh" | "git") => {
                let rest = text.split_once("://").map_or("", |(_, rest)| rest);
                let host = rest.split('/').next().unwrap_or_default();
                let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
                // `ssh -oProxyCommand=…` would run it (CVE-2017-1000117).
                if host.is_empty() || host.starts_with('-') || rest.starts_with('-') {
                    return Err(malformed());
                }
                Ok(Self { address: text.to_owned(), authorization: None, local: false })
            }
            Some(other) => Err(GitRemoteError::Scheme { scheme: other.to_owned() }),
            None => {
                let (user_and_host, path) = text.split_once(':').ok_or_else(malformed)?;
                let (user, host) = user_and_host.split_once('@').ok_or_else(malformed)?;
                let word = |text: &str| {
                    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
                    !text.is_empty() && !text.starts_with('-') && text.bytes().all(plain)
                };
                if !word(user) || !word(host) || path.is_empty() || path.starts_with([':', '-']) {
                    return Err(malformed());
                }
                Ok(Self { address: text.to_owned(), authorization: None, local: false })
            }
        }
    }

    /// A repository in a folder of this machine: only for who means exactly that folder. `None` when it is no absolute path
    /// in UTF-8.
    pub fn folder(path: &Path) -> Option<Self> {
        let path = path.to_str().filter(|_| path.is_absolute())?;
        Some(Self { address: format!("file://{path}"), authorization: None, local: true })
    }

    /// Its address without passwords: what git is given, and what names it in a cache.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Made of the user and password in it.
    pub(crate) const fn authorization(&self) -> Option<&Authorization> {
        self.authorization.as_ref()
    }

    /// Its URL, if it is fetched by HTTP.
    pub fn http_url(&self) -> Option<HttpUrl> {
        HttpUrl::parse(&self.address).ok()
    }

    pub(crate) const fn is_local(&self) -> bool {
        self.local
    }
}

/// Without passwords and queries.
impl fmt::Display for GitRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.http_url() {
            Some(url) => url.fmt(f),
            None => f.write_str(&self.address),
        }
    }
}

impl fmt::Debug for GitRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GitRemote({self})")
    }
}

/// The name of a commit: 40 hex digits, or 64 in repositories that use SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(String);

impl CommitId {
    /// Reads a whole name; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (matches!(text.len(), 40 | 64) && digits).then(|| Self(text.to_owned()))
    }

    /// The option of `git init` for repositories that have such names.
    pub(crate) fn object_format(&self) -> &'static str {
        if self.0.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" }
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that names nothing in a repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not the name of a branch, a tag or a commit", text.escape_debug())]
pub struct ReferenceError {
    /// What was given.
    pub text: String,
}

/// What of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// What its `HEAD` is.
    Default,
    /// A branch or tag: `main`, `v1`, `refs/heads/main`.
    Name(String),
    /// A commit by its whole name.
    Commit(CommitId),
}

impl Reference {
    /// Reads what a person wrote; nothing is the default branch.
    ///
    /// # Errors
    /// When git would not take it as a name (`git check-ref-format`).
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() || text == "HEAD" {
            return Ok(Self::Default);
        }
        if let Some(commit) = CommitId::parse(text) {
            return Ok(Self::Commit(commit));
        }
        let forbidden = |c: char| {
            c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\' | '\u{7f}')
        };
        let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
        let named = !text.starts_with('-')
            && !text.ends_with('.')
            && !text.contains("..")
            && !text.contains("@{")
            && text != "@"
            && !text.chars().any(forbidden)
            && text.split('/').all(part);
        if named { Ok(Self::Name(text.to_owned())) } else { Err(ReferenceError { text: text.to_owned() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_repository() {
        for (text, shown) in [
            ("https://user:token@example.org/a.git", "https://example.org/a.git"),
            ("ssh://git@example.org:22/a.git", "ssh://git@example.org:22/a.git"),
            ("git@example.org:a/b.git", "git@example.org:a/b.git"),
            ("git://example.org/a", "git://example.org/a"),
        ] {
            let remote = GitRemote::parse(text).unwrap();
            assert_eq!(remote.to_string(), shown);
            assert!(!format!("{remote:?}{}", remote.address()).contains("token"));
        }
        for bad in [
            "",
            "/etc",
            "./a",
            "-u",
            "--upload-pack=x",
            "file:///etc",
            "ext::sh -c x",
            "ext::sh",
            "ssh://-oProxyCommand=x/y",
            "ssh://git@-oProxyCommand=x/y",
            "git@-x:y",
            "a@b:-c",
            "a@b::c",
            "fd::1",
            "https://x/ y",
            "https://x/\ny",
        ] {
            assert!(GitRemote::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_names_a_commit() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(Reference::parse(commit), Ok(Reference::Commit(CommitId(commit.into()))));
        assert_eq!(Reference::parse(""), Ok(Reference::Default));
        for name in ["main", "v1.0", "feature/x", "refs/tags/v1", "0123456", "a-b_c@d"] {
            assert_eq!(Reference::parse(name), Ok(Reference::Name(name.into())));
        }
        for bad in [
            "-x", "a b", "a..b", "a^", "a:b", "a*", "/a", "a/", "a//b", "a.lock", ".a", "a/.b", "@", "a@{1}",
            "a\n",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }
}
