use std::sync::Arc;

use crate::directory::{Directory, Subtree, TreeLoadError, TreeSource};
use crate::entry::{Entry, Node};

/// The tree that results when `delta` is put on `lower`: whiteouts take names away, opaque directories start anew,
/// directories merge with the delta's metadata, everything else replaces. The result has no marks.
///
/// # Errors
/// When a subtree that both sides have cannot be loaded.
pub fn apply(source: &dyn TreeSource, lower: &Subtree, delta: &Subtree) -> Result<Subtree, TreeLoadError> {
    if delta.is_empty() {
        return Ok(lower.clone());
    }
    if lower.is_empty() && !delta.has_marks() {
        return Ok(delta.clone());
    }
    let mut merged = Directory::clone(&*lower.open(source)?);
    let delta: Arc<Directory> = delta.open(source)?;
    for (name, entry) in &delta.entries {
        match &entry.node {
            Node::Whiteout => {
                merged.entries.remove(name);
            }
            Node::Directory { contents, opaque } => {
                let below = match merged.entries.get(name).and_then(Entry::contents) {
                    Some(below) if !opaque => below.clone(),
                    _ => Subtree::empty(),
                };
                let contents = apply(source, &below, contents)?;
                merged.entries.insert(name.clone(), Entry::directory(entry.meta.clone(), contents));
            }
            _ => {
                merged.entries.insert(name.clone(), entry.clone());
            }
        }
    }
    Ok(Subtree::new(merged))
}

#[cfg(test)]
mod tests {
    use wbuild_oci::Digest;

    use super::*;
    use crate::{EntryPath, MemoryTrees, Meta, TreeBuilder, Visit, walk};

    fn tree(entries: &[(&str, Entry)]) -> Subtree {
        let mut builder = TreeBuilder::new();
        for (path, entry) in entries {
            builder.insert(&MemoryTrees::default(), &EntryPath::parse(path).unwrap(), entry.clone()).unwrap();
        }
        builder.finish()
    }

    fn file(text: &str) -> Entry {
        Entry::file(Meta::new(0o644), Digest::of(text.as_bytes()), text.len() as u64)
    }

    fn paths(tree: &Subtree) -> Vec<String> {
        let mut paths = Vec::new();
        walk(&MemoryTrees::default(), tree, &mut |path, _| {
            paths.push(path.to_string());
            Ok::<_, TreeLoadError>(Visit::Into)
        })
        .unwrap();
        paths
    }

    #[test]
    fn deltas_add_replace_and_remove() {
        let none = MemoryTrees::default();
        let lower = tree(&[("a/x", file("1")), ("a/y", file("2")), ("b/z", file("3")), ("c", file("4"))]);
        let opaque = Entry {
            meta: Meta::new(0o700),
            node: Node::Directory { contents: tree(&[("new", file("5"))]), opaque: true },
        };
        let delta =
            tree(&[("a/x", Entry::whiteout()), ("a/w", file("6")), ("b", opaque), ("c/d", file("7"))]);
        let result = apply(&none, &lower, &delta).unwrap();
        assert_eq!(paths(&result), ["/a", "/a/w", "/a/y", "/b", "/b/new", "/c", "/c/d"]);
        assert!(!result.has_marks());
    }

    #[test]
    fn marks_without_anything_below_vanish() {
        let none = MemoryTrees::default();
        let delta = tree(&[("a/gone", Entry::whiteout()), ("a/x", file("1"))]);
        assert_eq!(paths(&apply(&none, &Subtree::empty(), &delta).unwrap()), ["/a", "/a/x"]);
    }
}
