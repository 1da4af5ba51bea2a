//! Whether a disk face still is what its tree says: every file is read.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wbuild_store::Store;
use wbuild_tree::{Entry, EntryPath, Name, Node, Subtree, TreeDigest, changes};

use crate::collect::{CollectRequest, CollectTimes, Contents, Override, OwnerSource, gather};
use crate::error::SnapshotError;

/// What is to be compared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckRequest {
    /// The files.
    pub dir: PathBuf,
    /// The state directory.
    pub store: PathBuf,
    /// What they should be.
    pub tree: TreeDigest,
    /// Which face was made from which.
    pub made: Made,
}

/// Which face was made from which: it decides what has to agree.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Made {
    /// The tree from the files of a step, with these owners: everything agrees.
    TreeFromFiles {
        /// Where it stands whose the files are.
        owners: OwnerSource,
        /// What comes before that.
        overrides: Vec<Override>,
    },
    /// The files from the tree (or both from a layer): times may be made up, attributes may be missing.
    FilesFromTree {
        /// Whether the files have their owners, and devices were made.
        owners: bool,
        /// Directories that have the metadata of a layer below.
        implied: Vec<EntryPath>,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReply {
    /// The first path that differs, if any does.
    pub difference: Option<EntryPath>,
}

/// Reads a disk face and compares it with its tree. Stores nothing. Has to run where everything can be read, as
/// [`collect`](crate::collect()).
///
/// # Errors
/// When the files or the tree cannot be read.
pub fn check(request: &CheckRequest) -> Result<CheckReply, SnapshotError> {
    let store = Store::open(&request.store)?;
    let (owners, overrides) = match &request.made {
        Made::TreeFromFiles { owners, overrides } => (*owners, overrides.clone()),
        Made::FilesFromTree { .. } => (OwnerSource::Disk, Vec::new()),
    };
    let found = gather(
        &store,
        &CollectRequest {
            dir: request.dir.clone(),
            store: request.store.clone(),
            owners,
            overrides,
            leave_out: Vec::new(),
            times: CollectTimes::Keep,
            outputs: None,
            closely: false,
        },
        Contents::Hashed,
    )?
    .tree;
    let expected = store.tree(request.tree)?;
    let difference = match &request.made {
        Made::TreeFromFiles { .. } if found.digest() == expected.digest() => None,
        Made::TreeFromFiles { .. } => {
            let changes = changes(&store, &expected, &found, 1)?;
            // Nothing but times: of the root's own directory, as far as a person is concerned.
            Some(changes.first().map_or_else(EntryPath::root, |change| change.path().clone()))
        }
        Made::FilesFromTree { owners, implied } => {
            let compare = Compare { store: &store, owners: *owners, implied: implied.iter().collect() };
            compare.first_difference(&expected, &found)?
        }
    };
    Ok(CheckReply { difference })
}

struct Compare<'a> {
    store: &'a Store,
    owners: bool,
    implied: BTreeSet<&'a EntryPath>,
}

impl Compare<'_> {
    fn first_difference(
        &self,
        expected: &Subtree,
        found: &Subtree,
    ) -> Result<Option<EntryPath>, SnapshotError> {
        let mut pending = vec![(EntryPath::root(), expected.clone(), found.clone())];
        while let Some((path, expected, found)) = pending.pop() {
            let (expected, found) = (expected.open(self.store)?, found.open(self.store)?);
            let names: BTreeSet<&Name> = expected.entries.keys().chain(found.entries.keys()).collect();
            for name in names {
                let below = path.join(name);
                match (expected.entries.get(name), found.entries.get(name)) {
                    (Some(expected), None) if self.may_be_missing(expected) => {}
                    (Some(expected), Some(found)) if self.agree(&below, expected, found) => {
                        if let (Some(expected), Some(found)) = (expected.contents(), found.contents()) {
                            pending.push((below, expected.clone(), found.clone()));
                        }
                    }
                    _ => return Ok(Some(below)),
                }
            }
        }
        Ok(None)
    }

    /// Devices can be made by few.
    fn may_be_missing(&self, expected: &Entry) -> bool {
        matches!(expected.node, Node::CharDevice { .. } | Node::BlockDevice { .. })
    }

    fn agree(&self, path: &EntryPath, expected: &Entry, found: &Entry) -> bool {
        let nodes = match (&expected.node, &found.node) {
            (Node::Directory { opaque: one, .. }, Node::Directory { opaque: other, .. }) => one == other,
            (
                Node::File { content: one, size: one_size, .. },
                Node::File { content: other, size: other_size, .. },
            ) => (one, one_size) == (other, other_size),
            (one, other) => one == other,
        };
        let says_nothing_of_itself =
            self.implied.contains(path) || matches!(expected.node, Node::Symlink { .. } | Node::Whiteout);
        let (one, other) = (&expected.meta, &found.meta);
        let owners = !self.owners || (one.uid, one.gid) == (other.uid, other.gid);
        nodes && (says_nothing_of_itself || one.mode == other.mode && owners)
    }
}
