use std::collections::BTreeSet;

use wbuild_tree::{
    Entry, EntryPath, Lookup, Meta, Node, ResolveError, Resolved, Said, Subtree, TreeBuilder, TreeSource,
    resolve,
};

use super::error::FileError;
use super::links;

/// Nothing longer can be opened on Linux.
const PATH_MAX: usize = 4095;

/// A delta in the making, seen as the root file system that results.
pub(super) struct Delta<'a, L> {
    pub(super) trees: &'a dyn TreeSource,
    pub(super) base: &'a L,
    pub(super) builder: TreeBuilder,
    /// Groups of hard links so far: each copy gets new ones, so that the files of two never become one.
    pub(super) groups: u32,
    /// Directories that the delta has, and that so have all their parents.
    repeated: BTreeSet<EntryPath>,
}

impl<L: Lookup> Lookup for Delta<'_, L> {
    type Error = L::Error;

    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, L::Error> {
        // A load error of the delta's own parts shows up when the delta is finished; here it means "look below".
        match self.builder.look(self.trees, path).unwrap_or(Said::Nothing) {
            Said::Entry(Entry { node: Node::Whiteout, .. }) | Said::Hidden => Ok(None),
            Said::Entry(entry) => Ok(Some(entry)),
            Said::Nothing => self.base.entry(path),
        }
    }
}

impl<'a, L: Lookup> Delta<'a, L> {
    pub(super) fn new(trees: &'a dyn TreeSource, base: &'a L) -> Self {
        Self { trees, base, builder: TreeBuilder::new(), groups: 0, repeated: BTreeSet::new() }
    }

    /// The finished delta.
    pub(super) fn finish(self) -> Result<Subtree, FileError<L::Error>> {
        Ok(links::renumbered(self.trees, &self.builder.finish())?)
    }

    /// Where a path leads.
    pub(super) fn resolve(&self, path: &EntryPath) -> Result<Resolved, FileError<L::Error>> {
        Ok(resolve(self, path, true)?)
    }

    /// Repeats the directories that lead to `path` with the metadata they have; makes the missing ones with `made`.
    pub(super) fn parents(&mut self, path: &EntryPath, made: &Meta) -> Result<(), FileError<L::Error>> {
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(here) = above.filter(|here| !here.is_root() && !self.repeated.contains(here)) {
            above = here.parent();
            missing.push(here);
        }
        for here in missing.into_iter().rev() {
            if !self.builder.get(self.trees, &here)?.is_some_and(|entry| entry.is_directory()) {
                let below = self.entry(&here).map_err(ResolveError::Lookup)?;
                let meta = below.filter(Entry::is_directory).map_or_else(|| made.clone(), |entry| entry.meta);
                self.describe(&here, meta)?;
            }
            self.repeated.insert(here);
        }
        Ok(())
    }

    /// Sets the metadata of a directory, made if it is not there. Its parents are repeated already.
    pub(super) fn describe(&mut self, path: &EntryPath, meta: Meta) -> Result<(), FileError<L::Error>> {
        let in_the_way = self.builder.get(self.trees, path)?.is_some_and(|entry| !entry.is_directory());
        if in_the_way {
            self.insert(path, Entry::directory(meta, Subtree::empty()))
        } else {
            Ok(self.builder.directory(self.trees, path, meta)?)
        }
    }

    /// Puts `entry` at `path`, whatever is there. Its parents are repeated already.
    pub(super) fn insert(&mut self, path: &EntryPath, mut entry: Entry) -> Result<(), FileError<L::Error>> {
        let before = self.builder.get(self.trees, path)?;
        match &mut entry.node {
            // What this delta had here hid what the base has; a directory alone would let it through again.
            Node::Directory { opaque, .. } => {
                let hid = before
                    .is_some_and(|before| !matches!(before.node, Node::Directory { opaque: false, .. }));
                if hid {
                    // An opaque directory above would be enough; one more does no harm.
                    let below = self.base.entry(path).map_err(ResolveError::Lookup)?;
                    *opaque = below.is_some_and(|below| below.is_directory());
                }
            }
            _ if before.is_some_and(|before| before.is_directory()) => self.forget(path),
            _ => {}
        }
        Ok(self.builder.insert(self.trees, path, entry)?)
    }

    /// Takes out what the delta has at `path`.
    pub(super) fn take_out(&mut self, path: &EntryPath) -> Result<(), FileError<L::Error>> {
        self.forget(path);
        Ok(self.builder.remove(self.trees, path)?)
    }

    fn forget(&mut self, path: &EntryPath) {
        self.repeated.retain(|known| !known.starts_with(path));
    }

    /// Puts `entry` at `path`, with the parents as they are.
    pub(super) fn put(&mut self, path: &EntryPath, entry: Entry) -> Result<(), FileError<L::Error>> {
        if path.as_bytes().len() > PATH_MAX {
            return Err(FileError::TooLong { path: path.clone() });
        }
        self.parents(path, &Meta::new(0o755))?;
        self.insert(path, entry)
    }

    /// Makes the directories at and above `path`, which has no links in it, as far as they are missing; nothing at all when
    /// they are there.
    pub(super) fn make_missing(&mut self, path: &EntryPath, made: &Meta) -> Result<(), FileError<L::Error>> {
        let mut missing = Vec::new();
        let mut above = Some(path.clone());
        while let Some(here) = above.filter(|here| !here.is_root() && !self.repeated.contains(here)) {
            match self.entry(&here).map_err(ResolveError::Lookup)? {
                Some(entry) if entry.is_directory() => break,
                Some(_) => return Err(FileError::NotADirectory { path: here }),
                None => {
                    above = here.parent();
                    missing.push(here);
                }
            }
        }
        for here in missing.into_iter().rev() {
            self.put(&here, Entry::directory(made.clone(), Subtree::empty()))?;
        }
        Ok(())
    }

    /// As [`make_missing`](Self::make_missing), links followed; says where the directory is.
    pub(super) fn make_directory(
        &mut self,
        path: &EntryPath,
        made: &Meta,
    ) -> Result<EntryPath, FileError<L::Error>> {
        let target = self.resolve(path)?.path;
        self.make_missing(&target, made)?;
        Ok(target)
    }
}
