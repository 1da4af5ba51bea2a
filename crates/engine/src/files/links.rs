//! Hard links across trees: files that are one inode in one tree must not become one with those of another, and equal trees
//! have equal numbers.

use std::collections::BTreeMap;

use wbuild_oci::Digest;
use wbuild_tree::{Entry, LinkId, Meta, Name, Node, Subtree, Time, TreeLoadError, TreeSource, Visit, walk};

use super::rewrite::{Step, rewrite};

/// What two names of one inode have in common. A tree that was merged from several may have one number for groups of
/// different ones; the rest of this tells them apart.
type Inode = (LinkId, Digest, u16, u32, u32, Time);

/// The groups of one copy, by those of its source.
#[derive(Debug)]
pub(super) struct Groups {
    known: BTreeMap<Inode, LinkId>,
    next: u32,
}

impl Groups {
    /// Numbers from `next` on.
    pub(super) const fn from(next: u32) -> Self {
        Self { known: BTreeMap::new(), next }
    }

    /// The first number that is not used.
    pub(super) const fn next(&self) -> u32 {
        self.next
    }

    /// The number that a file gets.
    pub(super) fn of(&mut self, link: LinkId, content: Digest, meta: &Meta) -> LinkId {
        let inode = (link, content, meta.mode, meta.uid, meta.gid, meta.mtime);
        *self.known.entry(inode).or_insert_with(|| {
            self.next += 1;
            LinkId(self.next - 1)
        })
    }
}

/// The same tree with groups numbered in tree order, and no groups of one. Directories without links are not opened.
pub(super) fn renumbered(trees: &dyn TreeSource, tree: &Subtree) -> Result<Subtree, TreeLoadError> {
    if !tree.has_links() {
        return Ok(tree.clone());
    }
    let mut names: BTreeMap<Inode, usize> = BTreeMap::new();
    walk(trees, tree, &mut |_, entry| {
        if let Node::File { content, link: Some(link), .. } = &entry.node {
            *names.entry(inode(*link, *content, &entry.meta)).or_default() += 1;
        }
        let linked = entry.contents().is_some_and(Subtree::has_links);
        Ok::<_, TreeLoadError>(if linked { Visit::Into } else { Visit::Skip })
    })?;
    let mut groups = Groups::from(0);
    let mut step = |(): &(), _: &Name, entry: &Entry| {
        let mut entry = entry.clone();
        if entry.contents().is_some_and(Subtree::has_links) {
            return Ok(Step::Into { directory: entry, state: () });
        }
        if let Node::File { content, link, .. } = &mut entry.node
            && let Some(id) = *link
        {
            let shared = names.get(&inode(id, *content, &entry.meta)).is_some_and(|names| *names > 1);
            *link = shared.then(|| groups.of(id, *content, &entry.meta));
        }
        Ok(Step::Keep(entry))
    };
    rewrite(trees, tree, (), &mut step, &mut |(), _| true)
}

fn inode(link: LinkId, content: Digest, meta: &Meta) -> Inode {
    (link, content, meta.mode, meta.uid, meta.gid, meta.mtime)
}

#[cfg(test)]
mod tests {
    use wbuild_tree::{EntryPath, MemoryTrees, lookup};

    use super::super::tests::{file, path, tree};
    use super::*;

    fn linked(text: &str, id: u32) -> Entry {
        let mut entry = file(text);
        if let Node::File { link, .. } = &mut entry.node {
            *link = Some(LinkId(id));
        }
        entry
    }

    fn link_of(tree: &Subtree, at: &EntryPath) -> Option<u32> {
        match lookup(&MemoryTrees::default(), tree, at).unwrap().unwrap().node {
            Node::File { link, .. } => link.map(|id| id.0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn groups_are_numbered_in_tree_order_and_none_has_one_name() {
        let before = tree(&[
            ("a", linked("alone", 7)),
            ("b/x", linked("1", 9)),
            ("b/y", linked("other content, same number", 9)),
            ("c", linked("1", 9)),
            ("d", linked("2", 3)),
            ("e/f", linked("2", 3)),
            ("plain/g", file("3")),
        ]);
        let after = renumbered(&MemoryTrees::default(), &before).unwrap();
        let ids: Vec<_> =
            ["a", "b/x", "b/y", "c", "d", "e/f"].iter().map(|at| link_of(&after, &path(at))).collect();
        assert_eq!(ids, [None, Some(0), None, Some(0), Some(1), Some(1)]);
        assert_eq!(renumbered(&MemoryTrees::default(), &after).unwrap(), after);
    }
}
