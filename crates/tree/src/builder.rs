use std::collections::BTreeMap;

use crate::directory::{Directory, Subtree, TreeLoadError, TreeSource};
use crate::entry::{Entry, Meta, Node};
use crate::path::{EntryPath, Name};

/// Why an entry cannot be put where it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A parent is something else than a directory.
    #[error("`{path}` cannot be made: `{parent}` is not a directory")]
    ParentIsNoDirectory {
        /// What was to be made.
        path: EntryPath,
        /// What is in the way.
        parent: EntryPath,
    },
    /// The root was to be replaced.
    #[error("the root cannot be replaced by an entry")]
    Root,
    /// A subtree on the way could not be loaded.
    #[error(transparent)]
    Load(#[from] TreeLoadError),
}

/// Puts a tree together, in any order, from entries and whole subtrees. Subtrees stay unloaded until something is put
/// into them.
#[derive(Debug, Default)]
pub struct TreeBuilder {
    root: OpenDirectory,
}

#[derive(Debug, Default)]
struct OpenDirectory {
    slots: BTreeMap<Name, Slot>,
}

#[derive(Debug)]
enum Slot {
    Done(Entry),
    Open { meta: Meta, opaque: bool, directory: OpenDirectory },
}

/// What a delta in the making says about a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// This is there, or gone. Directories with pending changes come back without their contents.
    Entry(Entry),
    /// Nothing: what lies below the delta shows.
    Nothing,
    /// Nothing is there, whatever lies below: the delta has something else than a directory on the way, or one that starts
    /// anew.
    Hidden,
}

impl TreeBuilder {
    /// Starts with nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts with an existing tree.
    ///
    /// # Errors
    /// When its top cannot be loaded.
    pub fn from(source: &dyn TreeSource, tree: &Subtree) -> Result<Self, TreeLoadError> {
        Ok(Self { root: OpenDirectory::from(&*tree.open(source)?) })
    }

    /// Puts `entry` at `path`, replacing what is there. Missing parents are made as root's with mode 0755.
    ///
    /// # Errors
    /// When a parent is no directory or cannot be loaded.
    pub fn insert(
        &mut self,
        source: &dyn TreeSource,
        path: &EntryPath,
        entry: Entry,
    ) -> Result<(), BuildError> {
        let (parent, name) = path.split_last().ok_or(BuildError::Root)?;
        let directory = self.root.descend(source, &parent, path)?;
        directory.slots.insert(name, Slot::Done(entry));
        Ok(())
    }

    /// Sets the metadata of a directory, made if it is missing, and leaves its contents alone.
    ///
    /// # Errors
    /// When it or a parent is something else than a directory.
    pub fn directory(
        &mut self,
        source: &dyn TreeSource,
        path: &EntryPath,
        meta: Meta,
    ) -> Result<(), BuildError> {
        let (parent, name) = path.split_last().ok_or(BuildError::Root)?;
        let directory = self.root.descend(source, &parent, path)?;
        match directory.slots.get_mut(&name) {
            Some(Slot::Open { meta: old, .. }) => *old = meta,
            Some(Slot::Done(entry)) if entry.is_directory() => entry.meta = meta,
            Some(Slot::Done(_)) => {
                return Err(BuildError::ParentIsNoDirectory { path: path.clone(), parent: path.clone() });
            }
            None => {
                let directory_slot = Slot::Open { meta, opaque: false, directory: OpenDirectory::default() };
                directory.slots.insert(name, directory_slot);
            }
        }
        Ok(())
    }

    /// Takes the entry at `path` out, if there is one.
    ///
    /// # Errors
    /// When a directory on the way cannot be loaded.
    pub fn remove(&mut self, source: &dyn TreeSource, path: &EntryPath) -> Result<(), BuildError> {
        let (parent, name) = path.split_last().ok_or(BuildError::Root)?;
        match self.root.descend(source, &parent, path) {
            Ok(directory) => {
                directory.slots.remove(&name);
                Ok(())
            }
            Err(BuildError::ParentIsNoDirectory { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The entry at `path` as it stands now; directories with pending changes come back without their contents.
    ///
    /// # Errors
    /// When a directory on the way cannot be loaded.
    pub fn get(&self, source: &dyn TreeSource, path: &EntryPath) -> Result<Option<Entry>, TreeLoadError> {
        Ok(match self.look(source, path)? {
            Said::Entry(entry) => Some(entry),
            Said::Nothing | Said::Hidden => None,
        })
    }

    /// What the tree, as it stands now, says about `path` as a delta. The root is never asked for.
    ///
    /// # Errors
    /// When a directory on the way cannot be loaded.
    pub fn look(&self, source: &dyn TreeSource, path: &EntryPath) -> Result<Said, TreeLoadError> {
        let mut here = &self.root;
        let mut anew = false;
        let nothing = |anew| if anew { Said::Hidden } else { Said::Nothing };
        let mut components = path.components().peekable();
        while let Some(name) = components.next() {
            let last = components.peek().is_none();
            match here.slots.get(&name) {
                None => return Ok(nothing(anew)),
                Some(Slot::Open { meta, opaque, .. }) if last => {
                    let node = Node::Directory { contents: Subtree::empty(), opaque: *opaque };
                    return Ok(Said::Entry(Entry { meta: meta.clone(), node }));
                }
                Some(Slot::Open { opaque, directory, .. }) => {
                    anew |= opaque;
                    here = directory;
                }
                Some(Slot::Done(entry)) if last => return Ok(Said::Entry(entry.clone())),
                Some(Slot::Done(entry)) => {
                    let mut entry = entry.clone();
                    for name in components {
                        let Node::Directory { contents, opaque } = &entry.node else {
                            return Ok(Said::Hidden);
                        };
                        anew |= opaque;
                        let Some(below) = contents.open(source)?.entries.get(&name).cloned() else {
                            return Ok(nothing(anew));
                        };
                        entry = below;
                    }
                    return Ok(Said::Entry(entry));
                }
            }
        }
        Ok(Said::Nothing)
    }

    /// The finished tree.
    pub fn finish(self) -> Subtree {
        self.root.finish()
    }
}

impl OpenDirectory {
    fn from(directory: &Directory) -> Self {
        let slots =
            directory.entries.iter().map(|(name, entry)| (name.clone(), Slot::Done(entry.clone()))).collect();
        Self { slots }
    }

    fn descend(
        &mut self,
        source: &dyn TreeSource,
        parent: &EntryPath,
        wanted: &EntryPath,
    ) -> Result<&mut Self, BuildError> {
        let mut here = self;
        for (depth, name) in parent.components().enumerate() {
            let slot = here.slots.entry(name).or_insert_with(|| Slot::Open {
                meta: Meta::new(0o755),
                opaque: false,
                directory: Self::default(),
            });
            if let Slot::Done(entry) = slot {
                let Node::Directory { contents, opaque } = &entry.node else {
                    let mut path = EntryPath::root();
                    parent.components().take(depth + 1).for_each(|name| path = path.join(&name));
                    return Err(BuildError::ParentIsNoDirectory { path: wanted.clone(), parent: path });
                };
                let directory = Self::from(&*contents.open(source)?);
                *slot = Slot::Open { meta: entry.meta.clone(), opaque: *opaque, directory };
            }
            match slot {
                Slot::Open { directory, .. } => here = directory,
                Slot::Done(_) => unreachable!("it was opened above"),
            }
        }
        Ok(here)
    }

    /// Without recursion: a path can have two thousand components.
    fn finish(self) -> Subtree {
        let frame = |directory: Self, place| (directory.slots.into_iter(), BTreeMap::new(), place);
        let mut stack = Vec::new();
        let (mut slots, mut entries, mut place) = frame(self, None);
        loop {
            match slots.next() {
                Some((name, Slot::Done(entry))) => {
                    entries.insert(name, entry);
                }
                Some((name, Slot::Open { meta, opaque, directory })) => {
                    stack.push((slots, entries, place));
                    (slots, entries, place) = frame(directory, Some((name, meta, opaque)));
                }
                None => {
                    let contents = Subtree::new(Directory { entries });
                    let (Some(above), Some((name, meta, opaque))) = (stack.pop(), place) else {
                        return contents;
                    };
                    (slots, entries, place) = above;
                    entries.insert(name, Entry { meta, node: Node::Directory { contents, opaque } });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wbuild_oci::Digest;

    use super::*;
    use crate::directory::{MemoryTrees, lookup};

    fn path(text: &str) -> EntryPath {
        EntryPath::parse(text).unwrap()
    }

    fn file(text: &str) -> Entry {
        Entry::file(Meta::new(0o644), Digest::of(text.as_bytes()), text.len() as u64)
    }

    #[test]
    fn order_of_insertion_does_not_matter() {
        let none = MemoryTrees::default();
        let paths = ["a/b/c", "a/d", "e", "a/b/f"];
        let mut forwards = TreeBuilder::new();
        let mut backwards = TreeBuilder::new();
        for text in paths {
            forwards.insert(&none, &path(text), file(text)).unwrap();
        }
        for text in paths.iter().rev() {
            backwards.insert(&none, &path(text), file(text)).unwrap();
        }
        assert_eq!(forwards.finish(), backwards.finish());
    }

    #[test]
    fn files_are_no_parents() {
        let none = MemoryTrees::default();
        let mut builder = TreeBuilder::new();
        builder.insert(&none, &path("a/b"), file("x")).unwrap();
        let error = builder.insert(&none, &path("a/b/c"), file("y")).unwrap_err();
        assert_eq!(error.to_string(), "`/a/b/c` cannot be made: `/a/b` is not a directory");
    }

    #[test]
    fn a_delta_says_what_it_hides() {
        let none = MemoryTrees::default();
        let anew =
            |contents| Entry { meta: Meta::new(0o755), node: Node::Directory { contents, opaque: true } };
        let mut inner = TreeBuilder::new();
        inner.insert(&none, &path("plain/f"), file("1")).unwrap();
        inner.insert(&none, &path("anew"), anew(Subtree::empty())).unwrap();
        let mut builder = TreeBuilder::new();
        builder.insert(&none, &path("f"), file("2")).unwrap();
        builder.insert(&none, &path("gone"), Entry::whiteout()).unwrap();
        builder.insert(&none, &path("anew"), anew(Subtree::empty())).unwrap();
        builder.insert(&none, &path("anew/open/x"), file("3")).unwrap();
        builder.insert(&none, &path("done"), Entry::directory(Meta::new(0o700), inner.finish())).unwrap();
        let said = |text: &str| match builder.look(&none, &path(text)).unwrap() {
            Said::Entry(entry) => format!("{:o}", entry.meta.mode),
            said => format!("{said:?}"),
        };
        for (at, expected) in [
            ("f", "644"),
            ("gone", "0"),
            ("other", "Nothing"),
            ("done/other", "Nothing"),
            ("done/plain/other", "Nothing"),
            ("done/plain/f", "644"),
            ("f/x", "Hidden"),
            ("gone/x", "Hidden"),
            ("anew/x", "Hidden"),
            ("anew/open/y", "Hidden"),
            ("anew/open/x", "644"),
            ("done/anew/x", "Hidden"),
            ("done/plain/f/x", "Hidden"),
        ] {
            assert_eq!(said(at), expected, "{at}");
        }
    }

    #[test]
    fn a_grafted_subtree_is_opened_only_when_written_into() {
        let trees = MemoryTrees::default();
        let mut inner = TreeBuilder::new();
        for number in 0..300 {
            inner.insert(&trees, &path(&format!("f{number}")), file("x")).unwrap();
        }
        let inner = inner.finish();
        trees.insert(&inner).unwrap();
        let stored = Subtree::stored(*inner.summary());
        let mut builder = TreeBuilder::new();
        builder
            .insert(&MemoryTrees::default(), &path("m"), Entry::directory(Meta::new(0o755), stored))
            .unwrap();
        builder.insert(&MemoryTrees::default(), &path("n"), file("y")).unwrap();
        let tree = builder.finish();
        assert_eq!(tree.entries(), 302);
        let mut builder = TreeBuilder::from(&trees, &tree).unwrap();
        builder.insert(&trees, &path("m/new"), file("z")).unwrap();
        builder.remove(&trees, &path("m/f1")).unwrap();
        builder.remove(&trees, &path("n/not/there")).unwrap();
        let changed = builder.finish();
        assert!(lookup(&trees, &changed, &path("m/new")).unwrap().is_some());
        assert!(lookup(&trees, &changed, &path("m/f1")).unwrap().is_none());
        assert_eq!(changed.entries(), 302);
    }
}
