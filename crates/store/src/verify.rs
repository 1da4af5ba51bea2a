//! Reading everything, so that what rotted is found before somebody needs it.

use std::collections::{HashMap, HashSet};

use wbuild_oci::Digest;
use wbuild_tree::{Directory, Node, TreeDigest, TreeSource};

use crate::entry::Ref;
use crate::error::StoreError;
use crate::removal::remove_tree;
use crate::sealed::Kind;
use crate::store::Store;
use crate::usage::each_sharded;

/// What came of reading all blobs, trees and records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many were read in full.
    pub checked: u64,
    /// Blobs and trees that were damaged and have been dropped.
    pub damaged: Vec<Ref>,
    /// Trees that were whole themselves, and were dropped because a tree below them is gone: a tree that is there is
    /// there with all trees below it.
    pub incomplete: Vec<TreeDigest>,
    /// Keys whose record was damaged and has been removed.
    pub records: Vec<Digest>,
}

/// Inodes of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inodes {
    /// All.
    All,
    /// Those that no folder links.
    Unlinked,
}

impl Store {
    /// Reads everything that has a digest or a checksum, in full, and drops what is damaged. What records refer to is not
    /// followed, and disk faces are not read: only their makers know what they should be.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn verify(&self) -> Result<Verified, StoreError> {
        let mut verified = Verified::default();
        for digest in self.digests("blobs/sha256")? {
            verified.checked += 1;
            match self.check_blob(&digest) {
                Err(StoreError::Damaged { what, .. }) => verified.damaged.push(what),
                Err(error) if !error.is_lost() => return Err(error),
                _ => {}
            }
        }
        self.verify_trees(&mut verified)?;
        for key in self.record_keys()? {
            verified.checked += 1;
            if self.peek_record(&key)?.is_none() {
                // Reading it as a user of it removes it.
                self.record(&key)?;
                verified.records.push(key);
            }
        }
        Ok(verified)
    }

    fn verify_trees(&self, verified: &mut Verified) -> Result<(), StoreError> {
        let mut parents: HashMap<TreeDigest, Vec<TreeDigest>> = HashMap::new();
        let mut whole = HashSet::new();
        for digest in self.digests("trees")? {
            verified.checked += 1;
            let tree = TreeDigest(digest);
            match self.directory(tree).map_err(StoreError::from) {
                Ok(directory) => {
                    whole.insert(tree);
                    for below in objects_below(&directory) {
                        parents.entry(below).or_default().push(tree);
                    }
                }
                Err(error) if error.is_lost() => verified.damaged.push(Ref::Tree(tree)),
                Err(error) => return Err(error),
            }
        }
        let mut gone: Vec<TreeDigest> =
            parents.keys().filter(|tree| !whole.contains(*tree)).copied().collect();
        while let Some(tree) = gone.pop() {
            for parent in parents.remove(&tree).unwrap_or_default() {
                // One that was stored meanwhile has been stored after all that is below it.
                if !self.has_tree(tree)? && whole.remove(&parent) {
                    self.forget_tree(parent)?;
                    verified.incomplete.push(parent);
                    gone.push(parent);
                }
            }
        }
        verified.incomplete.sort();
        Ok(())
    }

    /// Removes the object of a tree of which something is gone: what is not there is made again, all of it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget_tree(&self, tree: TreeDigest) -> Result<(), StoreError> {
        self.writable()?;
        remove_tree(&Kind::Tree.path(self, &tree.0))
    }

    /// Removes inodes from the pool: for when they cannot be trusted any more. Folders that link them keep them. Returns
    /// how many were removed.
    ///
    /// # Errors
    /// When the pool cannot be read or something in it not be removed.
    pub fn forget_pool(&self, which: Inodes) -> Result<u64, StoreError> {
        self.writable()?;
        let mut found = Vec::new();
        each_sharded(&self.layout().folder("pool"), &mut |key, stat| {
            if which == Inodes::All || stat.st_nlink == 1 {
                found.push(key);
            }
            Ok(())
        })?;
        found.iter().try_for_each(|key| remove_tree(&self.pool_path(key)))?;
        Ok(found.len() as u64)
    }

    fn digests(&self, folder: &str) -> Result<Vec<Digest>, StoreError> {
        let mut digests = Vec::new();
        each_sharded(&self.layout().folder(folder), &mut |digest, _| {
            digests.push(digest);
            Ok(())
        })?;
        digests.sort();
        Ok(digests)
    }
}

/// The objects that the object of a directory refers to; small directories stand inside of it.
fn objects_below(directory: &Directory) -> Vec<TreeDigest> {
    let mut found = Vec::new();
    let mut pending: Vec<&Directory> = vec![directory];
    while let Some(directory) = pending.pop() {
        for entry in directory.entries.values() {
            let Node::Directory { contents, .. } = &entry.node else { continue };
            match contents.loaded() {
                Some(inside) => pending.push(inside),
                None => found.push(contents.digest()),
            }
        }
    }
    found
}
