use crate::directory::{Subtree, TreeLoadError, TreeSource};
use crate::entry::Entry;
use crate::path::{EntryPath, Name};

/// A difference between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the new tree has it.
    Added(EntryPath),
    /// Only the old tree has it.
    Removed(EntryPath),
    /// Both have it, and content, type, mode, owner, target or attributes differ (times do not count).
    Modified(EntryPath),
}

impl Change {
    /// Where.
    pub const fn path(&self) -> &EntryPath {
        match self {
            Self::Added(path) | Self::Removed(path) | Self::Modified(path) => path,
        }
    }
}

/// The differences in content between two trees, in tree order, at most `limit`. Equal subtrees are never opened; an
/// added or removed directory is one change.
///
/// # Errors
/// When a differing subtree cannot be loaded.
pub fn changes(
    source: &dyn TreeSource,
    old: &Subtree,
    new: &Subtree,
    limit: usize,
) -> Result<Vec<Change>, TreeLoadError> {
    let mut found = Vec::new();
    compare(source, &EntryPath::root(), old, new, limit, &mut found)?;
    Ok(found)
}

fn compare(
    source: &dyn TreeSource,
    path: &EntryPath,
    old: &Subtree,
    new: &Subtree,
    limit: usize,
    found: &mut Vec<Change>,
) -> Result<(), TreeLoadError> {
    if old.content() == new.content() || found.len() >= limit {
        return Ok(());
    }
    let (old, new) = (old.open(source)?, new.open(source)?);
    let mut names: Vec<&Name> = old.entries.keys().chain(new.entries.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        if found.len() >= limit {
            break;
        }
        let below = path.join(name);
        match (old.entries.get(name), new.entries.get(name)) {
            (Some(_), None) => found.push(Change::Removed(below)),
            (None, Some(_)) => found.push(Change::Added(below)),
            (Some(before), Some(after)) => {
                if !same_apart_from_contents(before, after) {
                    found.push(Change::Modified(below.clone()));
                }
                if let (Some(before), Some(after)) = (before.contents(), after.contents()) {
                    compare(source, &below, before, after, limit, found)?;
                }
            }
            (None, None) => {}
        }
    }
    Ok(())
}

/// Whether two entries differ at most in times and in what lies below them.
fn same_apart_from_contents(old: &Entry, new: &Entry) -> bool {
    let meta = old.meta.mode == new.meta.mode
        && old.meta.uid == new.meta.uid
        && old.meta.gid == new.meta.gid
        && old.meta.xattrs == new.meta.xattrs;
    meta && (old.is_directory() && new.is_directory() || old.node == new.node)
}

#[cfg(test)]
mod tests {
    use wbuild_oci::Digest;

    use super::*;
    use crate::{MemoryTrees, Meta, Time, TreeBuilder};

    #[test]
    fn differences_are_found_and_times_are_not() {
        let none = MemoryTrees::default();
        let path = |text: &str| EntryPath::parse(text).unwrap();
        let file = |text: &str| Entry::file(Meta::new(0o644), Digest::of(text.as_bytes()), text.len() as u64);
        let build = |entries: &[(&str, Entry)]| {
            let mut builder = TreeBuilder::new();
            for (text, entry) in entries {
                builder.insert(&none, &path(text), entry.clone()).unwrap();
            }
            builder.finish()
        };
        let mut touched = file("same");
        touched.meta.mtime = Time { seconds: 99, nanos: 0 };
        let old = build(&[("a/1", file("x")), ("a/2", file("same")), ("b/c", file("y"))]);
        let new = build(&[("a/1", file("z")), ("a/2", touched), ("d/e/f", file("y"))]);
        assert_eq!(
            changes(&none, &old, &new, 10).unwrap(),
            [Change::Modified(path("a/1")), Change::Removed(path("b")), Change::Added(path("d"))]
        );
        assert_eq!(changes(&none, &old, &new, 1).unwrap().len(), 1);
        assert!(changes(&none, &old, &old, 1).unwrap().is_empty());
    }
}
