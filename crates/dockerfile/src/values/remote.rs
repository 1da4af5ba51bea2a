//! Sources of ADD that are no files of the context: files by HTTP, and git repositories. Whether a text is one of them also
//! decides what COPY refuses.

/// What a source names, if it is not a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// A file to download.
    Http(HttpSource),
    /// A repository to check out.
    Git(GitSource),
}

/// A file to download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSource {
    /// The whole URL.
    pub url: String,
    /// The name that the file gets in a directory.
    pub file_name: String,
}

/// A repository to check out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitSource {
    /// What git is told to fetch from: without query and fragment.
    pub remote: String,
    /// A branch, tag or commit; the default branch when it is empty.
    pub reference: String,
    /// Only this directory of it.
    pub subdirectory: String,
    /// The commit that the reference must be, or the beginning of its name.
    pub checksum: Option<String>,
    /// Whether `.git` is kept.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched.
    pub submodules: Option<bool>,
    /// Files get the time of the commit, not that of the checkout.
    pub commit_times: bool,
    /// The commit is fetched by its name, without asking what the reference is.
    pub fetch_by_commit: bool,
}

/// A git source whose options make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// A key that needs a value has none.
    #[error("query {key:?} has no value")]
    NoValue {
        /// The key.
        key: String,
    },
    /// A key is there twice.
    #[error("query {key:?} has multiple values")]
    Repeated {
        /// The key.
        key: String,
    },
    /// A key that is not known.
    #[error("unexpected query {key:?}")]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A value that the key does not take.
    #[error("invalid {key} value: {value:?}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Two different answers to one question.
    #[error("{what} conflicts: {one:?} vs {other:?}")]
    Conflict {
        /// Which question.
        what: &'static str,
        /// One answer.
        one: String,
        /// The other.
        other: String,
    },
}

impl Remote {
    /// What `source` names. A git repository is told by its scheme (`git://`, `ssh://`), by `user@host:path`, or by `.git` at
    /// the end of an HTTP path.
    pub fn of(source: &str) -> Result<Option<Self>, RemoteError> {
        if source.starts_with("./") || source.starts_with("../") {
            return Ok(None);
        }
        let scheme = source.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let (bare, fragment) = source.split_once('#').unwrap_or((source, ""));
        let (bare, query) = bare.split_once('?').unwrap_or((bare, ""));
        let is_git = match scheme.as_deref() {
            Some("http" | "https") => path_of(bare).ends_with(".git"),
            Some("git" | "ssh") => true,
            Some(_) => false,
            None => is_scp_style(bare),
        };
        if is_git {
            return GitSource::new(bare, query, fragment).map(|git| Some(Self::Git(git)));
        }
        if source.starts_with("http://") || source.starts_with("https://") {
            let name = path_of(bare).trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let decoded = unescaped(name);
            let file_name = match decoded.as_str() {
                "" | "." | ".." => "__unnamed__".to_owned(),
                // A name that would leave its directory is kept as it was written.
                decoded if decoded.contains(['/', '\0']) => name.to_owned(),
                _ => decoded,
            };
            return Ok(Some(Self::Http(HttpSource { url: source.to_owned(), file_name })));
        }
        Ok(None)
    }
}

/// The path of a URL without query and fragment.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').map_or("", |slash| &rest[slash..])
}

/// `user@host:path`.
fn is_scp_style(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    let word = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    word(user) && word(host) && !path.is_empty()
}

impl GitSource {
    fn new(remote: &str, query: &str, fragment: &str) -> Result<Self, RemoteError> {
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut git = Self {
            remote: remote.to_owned(),
            reference: reference.to_owned(),
            subdirectory: cleaned(directory),
            ..Self::default()
        };
        let (mut tag, mut branch) = (None, None);
        let mut seen: Vec<String> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (unescaped(key), unescaped(value));
            if seen.contains(&key) {
                return Err(RemoteError::Repeated { key });
            }
            seen.push(key.clone());
            let flag = |value: &str| match value {
                "" => Ok(true),
                value => super::boolean(value)
                    .ok_or_else(|| RemoteError::Value { key: key.clone(), value: value.to_owned() }),
            };
            if value.is_empty() && !matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit")
            {
                return Err(RemoteError::NoValue { key });
            }
            match key.as_str() {
                "ref" => settle("ref", &mut git.reference, value)?,
                "subdir" => settle("subdir", &mut git.subdirectory, value)?,
                "tag" => tag = Some(value),
                "branch" => branch = Some(value),
                "checksum" | "commit" => git.checksum = Some(value),
                "keep-git-dir" => git.keep_git_dir = Some(flag(&value)?),
                "submodules" => git.submodules = Some(flag(&value)?),
                "fetch-by-commit" => git.fetch_by_commit = flag(&value)?,
                "mtime" if value == "checkout" => {}
                "mtime" if value == "commit" => git.commit_times = true,
                "mtime" => return Err(RemoteError::Value { key, value }),
                _ => return Err(RemoteError::UnknownKey { key }),
            }
        }
        if let (Some(tag), Some(branch)) = (&tag, &branch) {
            return Err(RemoteError::Conflict { what: "branch", one: branch.clone(), other: tag.clone() });
        }
        for (name, prefix) in [(tag, "refs/tags/"), (branch, "refs/heads/")] {
            if let Some(name) = name {
                let full = if name.starts_with(prefix) { name } else { format!("{prefix}{name}") };
                settle("ref", &mut git.reference, full)?;
            }
        }
        Ok(git)
    }
}

fn settle(what: &'static str, place: &mut String, value: String) -> Result<(), RemoteError> {
    if !place.is_empty() && *place != value {
        return Err(RemoteError::Conflict { what, one: place.clone(), other: value });
    }
    *place = value;
    Ok(())
}

/// A path without `.` and empty parts, and with `..` never leading out.
fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Without `%xx`. What is not valid stays as it is.
fn unescaped(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = text
            .get(at + 1..at + 3)
            .filter(|_| *byte == b'%')
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(code.unwrap_or(*byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_urls_and_repositories() {
        for local in
            ["a", "./a@b:c", "../x.git", "github.com/a/b", "C:/x", "a:b", "/abs", "s3://x/y.git", "$x"]
        {
            assert_eq!(Remote::of(local).unwrap(), None, "{local}");
        }
        for (url, name) in [
            ("https://x/a/b.tar.gz?x=1#y", "b.tar.gz"),
            ("http://x", "__unnamed__"),
            ("http://x/", "__unnamed__"),
            ("http://x/a%20b", "a b"),
            ("http://x/..%2f..%2fetc", "..%2f..%2fetc"),
        ] {
            match Remote::of(url).unwrap() {
                Some(Remote::Http(http)) => {
                    assert_eq!((http.url.as_str(), http.file_name.as_str()), (url, name));
                }
                other => panic!("{url}: {other:?}"),
            }
        }
        let git = |source: &str| match Remote::of(source) {
            Ok(Some(Remote::Git(git))) => git,
            other => panic!("{source}: {other:?}"),
        };
        let full = git("https://github.com/a/b.git?tag=v1&keep-git-dir#:sub/../dir");
        assert_eq!(
            full,
            GitSource {
                remote: "https://github.com/a/b.git".into(),
                reference: "refs/tags/v1".into(),
                subdirectory: "dir".into(),
                keep_git_dir: Some(true),
                ..GitSource::default()
            }
        );
        assert_eq!(git("git@github.com:a/b.git#main").remote, "git@github.com:a/b.git");
        assert_eq!(git("ssh://h/x").reference, "");
        for (source, message) in [
            ("https://x/a.git?foo=1", "unexpected query \"foo\""),
            ("https://x/a.git?ref=", "query \"ref\" has no value"),
            ("https://x/a.git?ref=a&ref=b", "query \"ref\" has multiple values"),
            ("https://x/a.git?ref=a#b", "ref conflicts: \"b\" vs \"a\""),
            ("https://x/a.git?mtime=now", "invalid mtime value: \"now\""),
        ] {
            assert_eq!(Remote::of(source).unwrap_err().to_string(), message);
        }
    }
}
