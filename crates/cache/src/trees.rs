//! What one directory refers to, with the directories that it holds inside of it.

use wbuild_oci::Digest;
use wbuild_tree::{Directory, Node, Subtree, TreeDigest};

/// What a directory object names.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Directories below it that are objects of their own.
    pub(crate) trees: Vec<TreeDigest>,
    /// Contents of files.
    pub(crate) blobs: Vec<Digest>,
}

/// What is named in a directory, and in those that are written inside of it.
pub(crate) fn named_in(directory: &Directory) -> Named {
    fn look(directory: &Directory, named: &mut Named, inside: &mut Vec<Subtree>) {
        for entry in directory.entries.values() {
            if let Node::File { content, .. } = &entry.node {
                named.blobs.push(*content);
            }
            inside.extend(entry.contents().cloned());
        }
    }
    let (mut named, mut inside) = (Named::default(), Vec::new());
    look(directory, &mut named, &mut inside);
    while let Some(subtree) = inside.pop() {
        match subtree.loaded() {
            Some(directory) => look(directory, &mut named, &mut inside),
            None => named.trees.push(subtree.digest()),
        }
    }
    named
}
