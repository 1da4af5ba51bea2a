use std::fmt;

use serde::{Deserialize, Serialize};
use wbuild_oci::{DiffId, Digest};
use wbuild_tree::{ContentDigest, TreeDigest};

use crate::key::Key;

/// Names a delta: what one vertex, or one layer of a base image, added to or removed from what lies below it.
///
/// The kind decides what stands for the delta in the key of a step that runs on top of it (decision 1): base layers and
/// trees go by content, so that the same bytes mean the same key however they came about; what a `RUN` or an install
/// left behind goes by the key of the step, so that its content need never be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeltaId {
    /// A layer of a base image.
    Layer(DiffId),
    /// A tree in the store: file operations, contexts, captured task outputs.
    Tree {
        /// Its object, times included.
        tree: TreeDigest,
        /// What keys see.
        content: ContentDigest,
    },
    /// The root-file-system changes of a step, by the step's key.
    Exec(Key),
}

impl DeltaId {
    /// What stands for it in a root-file-system key.
    pub fn root_key(&self) -> Digest {
        let (kind, digest): (&[u8], &Digest) = match self {
            Self::Layer(DiffId(digest)) => (b"layer", digest),
            Self::Tree { content: ContentDigest(digest), .. } => (b"tree", digest),
            Self::Exec(Key(digest)) => (b"exec", digest),
        };
        Digest::of(&[kind, b"\0", digest.as_bytes()].concat())
    }

    /// The name of its folder in the store: `layer-…`, `tree-…`, `exec-…` with 64 hex digits. Trees are named with their
    /// times, since the files on disk have them.
    pub fn name(&self) -> String {
        match self {
            Self::Layer(DiffId(digest)) => format!("layer-{}", digest.hex()),
            Self::Tree { tree: TreeDigest(digest), .. } => format!("tree-{}", digest.hex()),
            Self::Exec(Key(digest)) => format!("exec-{}", digest.hex()),
        }
    }
}

/// A root file system: deltas stacked on each other, the lowest first. Empty is `scratch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Snapshot {
    /// Lowest first.
    pub deltas: Vec<DeltaId>,
}

impl Snapshot {
    /// A snapshot of one tree.
    pub fn of_tree(tree: TreeDigest, content: ContentDigest) -> Self {
        Self { deltas: vec![DeltaId::Tree { tree, content }] }
    }

    /// The same with one more delta on top.
    #[must_use]
    pub fn with(&self, delta: DeltaId) -> Self {
        let mut deltas = self.deltas.clone();
        deltas.push(delta);
        Self { deltas }
    }

    /// The deltas that `self` has on top of `lower`; `None` when it does not stand on it.
    pub fn above(&self, lower: &Self) -> Option<Self> {
        self.deltas.strip_prefix(lower.deltas.as_slice()).map(|rest| Self { deltas: rest.to_vec() })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, delta) in self.deltas.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { " < " }, delta.name())?;
        }
        Ok(())
    }
}
