//! What of a step's delta becomes a layer: what differs from the files below, as BuildKit's differ has it. An overlay also
//! holds what was touched and left as it was, and marks directories as opaque where nothing is below them.

use wbuild_snapshot::View;
use wbuild_tree::{Directory, Entry, EntryPath, Lookup, Node, Subtree, TreeSource};

use crate::error::EngineError;

/// The delta `face` without what is the same in `below`: entries of equal type, mode, owner, attributes, content and time,
/// directories of which nothing is left, marks on what is not there. A directory that replaced another one gets a whiteout
/// for each name that is gone.
///
/// # Errors
/// When a tree or a file below cannot be read.
pub(crate) fn difference(
    trees: &dyn TreeSource,
    face: &Subtree,
    below: &View,
) -> Result<Subtree, EngineError> {
    let found = directory(trees, face, below, &EntryPath::root())?;
    Ok(found.map_or_else(|| face.clone(), Subtree::new))
}

/// `None` when all of it stays as it is.
fn directory(
    trees: &dyn TreeSource,
    delta: &Subtree,
    below: &View,
    path: &EntryPath,
) -> Result<Option<Directory>, EngineError> {
    let opened = delta.open(trees)?;
    let mut changed = false;
    let mut entries = opened.entries.clone();
    for (name, entry) in &opened.entries {
        let path = path.join(name);
        let lower = below.entry(&path)?;
        match (&entry.node, &lower) {
            (Node::Whiteout, Some(_)) => {}
            (Node::Whiteout, None) => {
                entries.remove(name);
                changed = true;
            }
            (Node::Directory { contents, opaque }, Some(lower)) if lower.is_directory() => {
                let mut inside = directory(trees, contents, below, &path)?;
                if *opaque {
                    let mut whole = match inside.take() {
                        Some(inside) => inside,
                        None => Directory::clone(&*contents.open(trees)?),
                    };
                    let present = contents.open(trees)?;
                    for gone in
                        below.list(&path)?.into_keys().filter(|name| !present.entries.contains_key(name))
                    {
                        whole.entries.insert(gone, Entry::whiteout());
                    }
                    inside = Some(whole);
                }
                let Some(inside) = inside else {
                    if contents.is_empty() && same_meta(entry, lower) {
                        entries.remove(name);
                        changed = true;
                    }
                    continue;
                };
                changed = true;
                if inside.entries.is_empty() && same_meta(entry, lower) {
                    entries.remove(name);
                } else {
                    let node = Node::Directory { contents: Subtree::new(inside), opaque: false };
                    entries.insert(name.clone(), Entry { meta: entry.meta.clone(), node });
                }
            }
            // Nothing below could show through it.
            (Node::Directory { contents, opaque: true }, _) => {
                let node = Node::Directory { contents: contents.clone(), opaque: false };
                entries.insert(name.clone(), Entry { meta: entry.meta.clone(), node });
                changed = true;
            }
            (_, Some(lower)) if same(entry, lower) => {
                entries.remove(name);
                changed = true;
            }
            _ => {}
        }
    }
    Ok(changed.then(|| Directory { entries }))
}

fn same_meta(one: &Entry, other: &Entry) -> bool {
    let (one, other) = (&one.meta, &other.meta);
    (one.mode, one.uid, one.gid) == (other.mode, other.uid, other.gid) && one.xattrs == other.xattrs
}

/// Of several names of one file, those that were there before are left out, too, as BuildKit's differ has it.
fn same(one: &Entry, other: &Entry) -> bool {
    let content = match (&one.node, &other.node) {
        (Node::File { content: a, size: b, .. }, Node::File { content: c, size: d, .. }) => a == c && b == d,
        (Node::File { .. }, _) => false,
        (a, b) => a == b,
    };
    content && same_meta(one, other) && one.meta.mtime == other.meta.mtime
}
