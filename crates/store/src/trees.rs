use std::fs::{self, File};
use std::io::{Read, Write};

use wbuild_oci::Digest;
use wbuild_tree::{Directory, Subtree, TreeDigest, TreeLoadError, TreeSource, decode_object, encode_object};

use crate::entry::Ref;
use crate::error::{At, StoreError};
use crate::sealed::{Kind, MAX_TREE_BYTES};
use crate::store::Store;

/// First bytes of a tree's file; the SHA-256 of the object follows in hex, then the object.
///
/// The name covers what a directory *is*. Besides, an object repeats what its subdirectories come to (their content
/// digests, counts, sizes), which enters keys and which the name says nothing about: the checksum does.
const MAGIC: &[u8] = b"wbuild-object-1 ";

fn enclose(object: &[u8]) -> Vec<u8> {
    [MAGIC, Digest::of(object).hex().as_bytes(), b"\n", object].concat()
}

/// Reads a tree's file and checks all of it.
///
/// # Errors
/// [`TreeLoadError::Damaged`] when it is not what was written, or was written by a version that had no checksum.
pub(crate) fn read_object(tree: TreeDigest, bytes: &[u8]) -> Result<Directory, TreeLoadError> {
    let damaged = |why| TreeLoadError::Damaged { tree, why };
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("it has no header of this version"))?;
    let (hex, rest) = rest.split_at_checked(64).ok_or_else(|| damaged("it is truncated"))?;
    let object = rest.strip_prefix(b"\n").ok_or_else(|| damaged("its header is malformed"))?;
    if Digest::of(object).hex().as_bytes() != hex {
        return Err(damaged("its bytes have another checksum"));
    }
    decode_object(tree, object)
}

impl Store {
    /// Stores a tree and every loaded part of it; what is there already is not written again. Parts that are not loaded
    /// came from the store.
    ///
    /// # Errors
    /// When an object cannot be written.
    pub fn put_tree(&self, tree: &Subtree) -> Result<TreeDigest, StoreError> {
        // Parents are found before their children and written after them: a tree that is there is there as a whole.
        // Presence is asked for each object and not only for the top, so that a part that was lost comes back.
        let mut pending = vec![tree.clone()];
        let mut objects = Vec::new();
        while let Some(subtree) = pending.pop() {
            let Some(directory) = subtree.loaded() else { continue };
            let object = encode_object(directory);
            pending.extend(object.children);
            objects.push((subtree.digest(), enclose(&object.bytes)));
        }
        for (digest, bytes) in objects.iter().rev() {
            if !self.has_sealed(Kind::Tree, &digest.0)? {
                self.put_object(*digest, bytes)?;
            }
        }
        if tree.loaded().is_none() && !self.has_tree(tree.digest())? {
            return Err(TreeLoadError::Missing { tree: tree.digest() }.into());
        }
        Ok(tree.digest())
    }

    fn put_object(&self, digest: TreeDigest, bytes: &[u8]) -> Result<(), StoreError> {
        let (path, mut file) = self.temporary()?;
        let published = file
            .write_all(bytes)
            .at("write", &path)
            .and_then(|()| self.publish(Kind::Tree, &digest.0, &path, &file, bytes.len() as u64));
        if published.is_err() {
            let _ = fs::remove_file(&path);
        }
        published
    }

    /// Whether the object of a tree can be had: it is here as it was published, or upstream. Says nothing about the trees
    /// below it.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn has_tree(&self, tree: TreeDigest) -> Result<bool, StoreError> {
        Ok(self.holds_tree(tree)? || self.upstream_has(&Ref::Tree(tree)))
    }

    /// A stored tree, by its digest.
    ///
    /// # Errors
    /// [`StoreError::is_lost`] when it is not there or was damaged.
    pub fn tree(&self, tree: TreeDigest) -> Result<Subtree, StoreError> {
        Ok(Subtree::load(self, tree)?)
    }
}

impl Store {
    /// A stored directory of this store, whatever an upstream has.
    ///
    /// # Errors
    /// When it is missing, unreadable or damaged; then it is dropped.
    pub fn directory_here(&self, tree: TreeDigest) -> Result<Directory, TreeLoadError> {
        self.read_directory(tree, self.open_sealed(Kind::Tree, &tree.0))
    }

    fn read_directory(
        &self,
        tree: TreeDigest,
        opened: Result<(File, u64), StoreError>,
    ) -> Result<Directory, TreeLoadError> {
        let (file, size) = opened.map_err(|error| load_error(tree, error))?;
        if size > MAX_TREE_BYTES {
            return Err(TreeLoadError::Damaged { tree, why: "it is larger than any tree" });
        }
        let mut bytes = Vec::with_capacity(size as usize);
        (&file)
            .take(MAX_TREE_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|source| TreeLoadError::Io { tree, source })?;
        read_object(tree, &bytes).inspect_err(|_| {
            let _ = self.drop_damaged(Kind::Tree, &tree.0, &file, "its bytes have another checksum");
        })
    }
}

/// Every object is checked against its digest when it is read; a damaged one is dropped. One that is upstream is brought here.
impl TreeSource for Store {
    fn directory(&self, tree: TreeDigest) -> Result<Directory, TreeLoadError> {
        let opened = match self.open_sealed(Kind::Tree, &tree.0) {
            Err(error) if error.is_lost() && self.fetch_missing(&Ref::Tree(tree)) => {
                self.open_sealed(Kind::Tree, &tree.0)
            }
            other => other,
        };
        self.read_directory(tree, opened)
    }
}

fn load_error(tree: TreeDigest, error: StoreError) -> TreeLoadError {
    match error {
        StoreError::Missing { .. } => TreeLoadError::Missing { tree },
        StoreError::Damaged { why, .. } => TreeLoadError::Damaged { tree, why },
        StoreError::Tree(error) => error,
        other => TreeLoadError::Io { tree, source: other.into_io() },
    }
}
