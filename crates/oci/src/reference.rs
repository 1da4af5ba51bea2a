use std::fmt;
use std::str::FromStr;

use crate::{Digest, DigestParseError};

/// An image reference as Docker's tools read it (distribution/reference): `node:22`, `ghcr.io/a/b@sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// The registry's host and port; `docker.io` when none was written.
    pub registry: String,
    /// The repository; `library/` is added for one-word names of `docker.io`.
    pub repository: String,
    /// The tag as written; `latest` when neither tag nor digest was written.
    pub tag: Option<String>,
    /// The digest, if the reference is pinned.
    pub digest: Option<Digest>,
}

impl Reference {
    /// The short form that people write: without `docker.io` and `library/`.
    pub fn familiar(&self) -> String {
        let mut text = match (self.registry.as_str(), self.repository.strip_prefix("library/")) {
            ("docker.io", Some(short)) => short.to_owned(),
            ("docker.io", None) => self.repository.clone(),
            _ => format!("{}/{}", self.registry, self.repository),
        };
        if let Some(tag) = &self.tag {
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = &self.digest {
            text = format!("{text}@{digest}");
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Why a text is no image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceParseError {
    /// Nothing was given.
    #[error("the image reference is empty")]
    Empty,
    /// The repository is not of the allowed form.
    #[error("`{}` is not a repository name: lower-case letters, digits, and single `.`, `_`, `-` between them", name.escape_debug())]
    Repository {
        /// The repository part.
        name: String,
    },
    /// The tag is not of the allowed form.
    #[error("`{}` is not a tag: up to 128 letters, digits, `_`, `.`, `-`", tag.escape_debug())]
    Tag {
        /// The tag part.
        tag: String,
    },
    /// The part behind `@` is not a digest.
    #[error(transparent)]
    Digest(#[from] DigestParseError),
}

impl FromStr for Reference {
    type Err = ReferenceParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ReferenceParseError::Empty);
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        let (registry, rest) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => ("docker.io", name),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            let valid = tag.len() <= 128
                && tag.bytes().next().is_some_and(word)
                && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'));
            if !valid {
                return Err(ReferenceParseError::Tag { tag: tag.chars().take(200).collect() });
            }
        }
        let host_valid = registry.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
            && registry.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'[')
            && registry.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric() || b == b']');
        // `[::1]:5000`, `host:5000`; without a port the last colon is inside brackets.
        let port_valid = match registry.rsplit_once(':') {
            Some((_, port)) if !registry.ends_with(']') => port.parse::<u16>().is_ok(),
            _ => true,
        };
        if !host_valid
            || !port_valid
            || repository.len() > 255
            || !repository.split('/').all(is_path_component)
        {
            return Err(ReferenceParseError::Repository { name: name.chars().take(300).collect() });
        }
        let repository = if registry == "docker.io" && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// `[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*` of distribution/reference.
fn is_path_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_well =
        bytes.first().copied().is_some_and(alphanumeric) && bytes.last().copied().is_some_and(alphanumeric);
    ends_well
        && part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_rules() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let table = [
            ("node:22.16.0-alpine", "docker.io/library/node:22.16.0-alpine", "node:22.16.0-alpine"),
            ("a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
            ("ghcr.io/o/r:v1", "ghcr.io/o/r:v1", "ghcr.io/o/r:v1"),
            ("my__x/a--b:A.b-c", "docker.io/my__x/a--b:A.b-c", "my__x/a--b:A.b-c"),
        ];
        for (text, full, familiar) in table {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.to_string(), reference.familiar()), (full.to_owned(), familiar.to_owned()));
        }
        let pinned: Reference = format!("node@{digest}").parse().unwrap();
        assert_eq!(pinned.tag, None);
        assert_eq!(pinned.familiar(), format!("node@{digest}"));
        for text in [
            "",
            "Node",
            "a//b",
            "a:",
            "a:b c",
            "../x",
            "a/../b",
            "a_-b",
            "-a",
            "a@sha256:12",
            "x:/y",
            "foo:bar/baz",
            "h:99999/x",
            "h:+1/x",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
