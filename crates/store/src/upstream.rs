//! Where blobs and trees come from that are not here: a remote cache.

use std::fmt::Debug;
use std::sync::{Arc, PoisonError};

use wbuild_oci::Digest;
use wbuild_tree::{Node, Subtree, TreeDigest, Visit, walk};

use crate::entry::Ref;
use crate::error::StoreError;
use crate::sealed::Kind;
use crate::store::Store;

/// A place that has blobs and trees which the store may not have. Whatever goes wrong there is a thing not had, and never an
/// error: the store reports it as missing, and what is missing is made again.
pub trait Upstream: Debug + Send + Sync {
    /// Whether it can be had, as far as that is known. `false` once fetching it has failed.
    fn has(&self, what: &Ref) -> bool;

    /// Brings into `store` what it can of `wanted`: trees with all trees below them, and not with the contents of their files.
    fn fetch(&self, store: &Store, wanted: &[Ref]);
}

impl Store {
    /// Blobs and trees that are missing are asked for there from now on; `None` when nobody is to be asked any more, for
    /// work that is about what is in this directory.
    pub fn set_upstream(&self, upstream: Option<Arc<dyn Upstream>>) {
        *self.upstream().write().unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    fn who_to_ask(&self) -> Option<Arc<dyn Upstream>> {
        self.upstream().read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a blob is in this directory, whatever an upstream has.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn holds_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.has_sealed(Kind::Blob, digest)
    }

    /// Whether a tree's object is in this directory, whatever an upstream has.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn holds_tree(&self, tree: TreeDigest) -> Result<bool, StoreError> {
        self.has_sealed(Kind::Tree, &tree.0)
    }

    /// Brings blobs and trees here, in one go, as far as an upstream has them.
    ///
    /// # Errors
    /// When this directory cannot be read.
    pub fn bring(&self, wanted: impl IntoIterator<Item = Ref>) -> Result<(), StoreError> {
        let Some(upstream) = self.who_to_ask() else { return Ok(()) };
        let mut missing = Vec::new();
        for one in wanted {
            let here = match &one {
                Ref::Blob(digest) => self.holds_blob(digest)?,
                Ref::Tree(tree) => self.holds_tree(*tree)?,
                Ref::Delta(_) => true,
            };
            if !here {
                missing.push(one);
            }
        }
        if !missing.is_empty() {
            upstream.fetch(self, &missing);
        }
        Ok(())
    }

    /// Brings the contents of all files of a tree here, as far as an upstream has them.
    ///
    /// # Errors
    /// When a directory of it is lost, or this directory cannot be read.
    pub fn bring_contents(&self, tree: &Subtree) -> Result<(), StoreError> {
        if self.who_to_ask().is_none() {
            return Ok(());
        }
        let mut blobs = Vec::new();
        walk(self, tree, &mut |_, entry| {
            if let Node::File { content, .. } = &entry.node {
                blobs.push(Ref::Blob(*content));
            }
            Ok::<_, StoreError>(Visit::Into)
        })?;
        self.bring(blobs)
    }

    pub(crate) fn upstream_has(&self, what: &Ref) -> bool {
        self.who_to_ask().is_some_and(|upstream| upstream.has(what))
    }

    /// Asks for one thing that is missing; whether asking made sense.
    pub(crate) fn fetch_missing(&self, what: &Ref) -> bool {
        let Some(upstream) = self.who_to_ask() else { return false };
        let there = upstream.has(what);
        if there {
            upstream.fetch(self, std::slice::from_ref(what));
        }
        there
    }
}
