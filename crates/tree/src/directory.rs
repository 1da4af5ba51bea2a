use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

use serde::{Deserialize, Serialize};
use wbuild_oci::Digest;

use crate::encoding;
use crate::entry::{Entry, Node};
use crate::path::{EntryPath, Name};

/// Names a directory's contents with all metadata, times included: the name of its object in the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TreeDigest(pub Digest);

/// Names a directory's contents as keys see them: name, type, mode, owner, link target, attributes, bytes; no times.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentDigest(pub Digest);

impl fmt::Display for TreeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The entries of one directory, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Sorted by bytes.
    pub entries: BTreeMap<Name, Entry>,
}

/// Where stored directories come from.
pub trait TreeSource {
    /// The directory with this digest.
    ///
    /// # Errors
    /// When it is missing, unreadable, or not what its digest says.
    fn directory(&self, tree: TreeDigest) -> Result<Directory, TreeLoadError>;
}

/// Why a stored directory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TreeLoadError {
    /// Not in the store.
    #[error("the tree {tree} is not in the store")]
    Missing {
        /// Which.
        tree: TreeDigest,
    },
    /// In the store, but not what its digest says.
    #[error("the stored tree {tree} is damaged: {why}")]
    Damaged {
        /// Which.
        tree: TreeDigest,
        /// How that was noticed.
        why: &'static str,
    },
    /// The store could not be read.
    #[error("cannot read the stored tree {tree}")]
    Io {
        /// Which.
        tree: TreeDigest,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What is known of a directory without loading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) tree: TreeDigest,
    pub(crate) content: ContentDigest,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) linked: bool,
    pub(crate) marked: bool,
}

/// The contents of a directory: a summary that is always there, and the entries, loaded when first looked at.
#[derive(Clone)]
pub struct Subtree {
    summary: Summary,
    loaded: Arc<OnceLock<Arc<Directory>>>,
}

impl Subtree {
    /// Takes entries and computes their digests.
    pub fn new(directory: Directory) -> Self {
        let summary = encoding::summarise(&directory);
        let loaded = OnceLock::new();
        let _ = loaded.set(Arc::new(directory));
        Self { summary, loaded: Arc::new(loaded) }
    }

    /// An empty directory.
    pub fn empty() -> Self {
        Self::new(Directory::default())
    }

    pub(crate) fn stored(summary: Summary) -> Self {
        Self { summary, loaded: Arc::new(OnceLock::new()) }
    }

    /// Loads a stored subtree of which only the digest is known.
    ///
    /// # Errors
    /// When the source cannot deliver it.
    pub fn load(source: &dyn TreeSource, tree: TreeDigest) -> Result<Self, TreeLoadError> {
        let subtree = Self::new(source.directory(tree)?);
        if subtree.digest() != tree {
            return Err(TreeLoadError::Damaged { tree, why: "its contents have another digest" });
        }
        Ok(subtree)
    }

    pub(crate) const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Its name in the store.
    pub const fn digest(&self) -> TreeDigest {
        self.summary.tree
    }

    /// Its name in keys.
    pub const fn content(&self) -> ContentDigest {
        self.summary.content
    }

    /// How many entries lie below, at every depth.
    pub const fn entries(&self) -> u64 {
        self.summary.entries
    }

    /// The sizes of all regular files below, in bytes.
    pub const fn bytes(&self) -> u64 {
        self.summary.bytes
    }

    /// Whether any file below is part of a hard link group.
    pub const fn has_links(&self) -> bool {
        self.summary.linked
    }

    /// Whether there are whiteouts or opaque directories below: then it is a delta and not a plain tree.
    pub const fn has_marks(&self) -> bool {
        self.summary.marked
    }

    /// Whether it has no entries.
    pub const fn is_empty(&self) -> bool {
        self.summary.entries == 0
    }

    /// The entries, if they are loaded already.
    pub fn loaded(&self) -> Option<&Arc<Directory>> {
        self.loaded.get()
    }

    /// The entries, loaded if need be.
    ///
    /// # Errors
    /// When the source cannot deliver them.
    pub fn open(&self, source: &dyn TreeSource) -> Result<Arc<Directory>, TreeLoadError> {
        if let Some(directory) = self.loaded.get() {
            return Ok(Arc::clone(directory));
        }
        let tree = self.summary.tree;
        let directory = source.directory(tree)?;
        if encoding::summarise(&directory) != self.summary {
            return Err(TreeLoadError::Damaged {
                tree,
                why: "its contents do not fit their parent's summary",
            });
        }
        Ok(Arc::clone(self.loaded.get_or_init(|| Arc::new(directory))))
    }
}

/// By digest: equal subtrees have equal digests.
impl PartialEq for Subtree {
    fn eq(&self, other: &Self) -> bool {
        self.summary == other.summary
    }
}

impl Eq for Subtree {}

impl fmt::Debug for Subtree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.loaded.get() {
            Some(directory) => directory.fmt(f),
            None => write!(f, "{}", self.summary.tree),
        }
    }
}

/// The entry at `path` below `root`, following no symbolic links. The root itself has no entry.
///
/// # Errors
/// When a directory on the way cannot be loaded.
pub fn lookup(
    source: &dyn TreeSource,
    root: &Subtree,
    path: &EntryPath,
) -> Result<Option<Entry>, TreeLoadError> {
    let mut here = root.clone();
    let mut components = path.components().peekable();
    while let Some(name) = components.next() {
        let directory = here.open(source)?;
        let Some(entry) = directory.entries.get(&name) else { return Ok(None) };
        if components.peek().is_none() {
            return Ok(Some(entry.clone()));
        }
        match &entry.node {
            Node::Directory { contents, .. } => here = contents.clone(),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Trees in memory: for tests, and for trees that need no store.
#[derive(Debug, Default)]
pub struct MemoryTrees(Mutex<BTreeMap<TreeDigest, Vec<u8>>>);

impl MemoryTrees {
    /// Keeps a subtree and everything below it.
    ///
    /// # Errors
    /// When a part of it is not loaded and not here.
    pub fn insert(&self, subtree: &Subtree) -> Result<TreeDigest, TreeLoadError> {
        let object = encoding::encode_object(&*subtree.open(self)?);
        for child in &object.children {
            self.insert(child)?;
        }
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(subtree.digest(), object.bytes);
        Ok(subtree.digest())
    }
}

impl TreeSource for MemoryTrees {
    fn directory(&self, tree: TreeDigest) -> Result<Directory, TreeLoadError> {
        let objects = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bytes = objects.get(&tree).ok_or(TreeLoadError::Missing { tree })?;
        encoding::decode_object(tree, bytes)
    }
}
