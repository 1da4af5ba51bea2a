use wbuild_graph::Snapshot;
use wbuild_store::Store;
use wbuild_tree::{Entry, Subtree, TreeBuilder, apply, lookup};

use crate::error::SnapshotError;
use crate::face::tree_face;

/// The whole root file system as one tree: the tree faces of all deltas, put on each other.
///
/// # Errors
/// [`SnapshotError::NoFace`] when a delta's tree face has not been made.
pub fn merged_tree(store: &Store, snapshot: &Snapshot) -> Result<Subtree, SnapshotError> {
    let mut merged = Subtree::empty();
    for delta in &snapshot.deltas {
        let face = tree_face(store, delta)?
            .ok_or_else(|| SnapshotError::NoFace { delta: delta.name(), face: "tree" })?;
        let below = if face.opaque_root { Subtree::empty() } else { merged };
        merged = apply(store, &below, &store.tree(face.tree)?)?;
        if face.implied.is_empty() || below.is_empty() {
            continue;
        }
        let mut builder = TreeBuilder::from(store, &merged)?;
        for path in &face.implied {
            if let Some(Entry { meta, .. }) = lookup(store, &below, path)?.filter(Entry::is_directory) {
                builder.directory(store, path, meta)?;
            }
        }
        merged = builder.finish();
    }
    Ok(merged)
}
