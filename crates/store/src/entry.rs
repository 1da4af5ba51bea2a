use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wbuild_oci::Digest;
use wbuild_tree::TreeDigest;

use crate::delta::DeltaName;

/// Names one thing in the store: what a record refers to, and what errors are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ref {
    /// Bytes.
    Blob(Digest),
    /// A tree, with all trees below it and the blobs of its files.
    Tree(TreeDigest),
    /// The disk face of a delta.
    Delta(DeltaName),
}

impl fmt::Display for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::Tree(tree) => write!(f, "tree {tree}"),
            Self::Delta(name) => write!(f, "delta {name}"),
        }
    }
}

/// Text that names nothing in a store.
#[derive(Debug, thiserror::Error)]
#[error("`{}` is not a reference into the store", text.escape_debug())]
pub struct RefParseError {
    /// What was given.
    pub text: String,
}

impl FromStr for Ref {
    type Err = RefParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once(' ').and_then(|(kind, name)| match kind {
            "blob" => name.parse().ok().map(Self::Blob),
            "tree" => name.parse().ok().map(|digest| Self::Tree(TreeDigest(digest))),
            "delta" => DeltaName::new(name).ok().map(Self::Delta),
            _ => None,
        });
        parsed.ok_or_else(|| RefParseError { text: text.chars().take(200).collect() })
    }
}

/// As text: `blob sha256:…`, `tree sha256:…`, `delta exec-…`.
impl Serialize for Ref {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ref {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
