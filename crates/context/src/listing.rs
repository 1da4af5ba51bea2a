use std::sync::OnceLock;

use wbuild_tree::{EntryPath, Meta, Name, Time};

use crate::error::{ContextError, IgnoredBy};
use crate::ignore::IgnoreRules;
use crate::policy::{FileKind, LeftOut, Policy};
use crate::root::ContextRoot;
use crate::stat_index::{PATH_KEY_ROOT, path_key};

/// The facts of an inode that are known without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with set-id and sticky, as they are on disk.
    pub mode: u16,
    /// Bytes.
    pub size: u64,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything: cannot be set by a program.
    pub ctime: Time,
    /// Inode number.
    pub inode: u64,
    /// File system.
    pub dev: u64,
    /// Names of the inode.
    pub nlink: u32,
    /// What a device node stands for.
    pub rdev: u64,
}

impl Facts {
    /// Whether the content can be taken for the same.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        (self.kind, self.size, self.mtime, self.ctime, self.inode, self.dev)
            == (other.kind, other.size, other.mtime, other.ctime, other.inode, other.dev)
    }
}

/// No entry and no directory has an index this high.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// Where the name is in [`Listing::names`].
    pub(crate) name: (u32, u16),
    /// The index of the directory it is in, or [`NONE`].
    pub(crate) parent: u32,
    /// One past the index of the last entry below.
    pub(crate) end: u32,
    /// The index of the link's target in [`Listing::targets`].
    pub(crate) target: u32,
    /// Stands for this path in the stat index.
    pub(crate) path_key: u64,
    pub(crate) facts: Facts,
}

/// What a context holds, with the facts of every entry and without any content. In tree order: a directory comes directly
/// before what is in it, and names are sorted by bytes.
#[derive(Debug)]
pub struct Listing {
    pub(crate) root: ContextRoot,
    pub(crate) policy: Policy,
    pub(crate) rules: IgnoreRules,
    pub(crate) slots: Vec<Slot>,
    pub(crate) names: Vec<u8>,
    pub(crate) targets: Vec<Box<[u8]>>,
    pub(crate) left_out: Vec<LeftOut>,
    /// All path keys, sorted, with their indices; made when first needed.
    pub(crate) by_key: OnceLock<Vec<(u64, u32)>>,
}

/// Siblings that are compared one by one when a name is looked up.
const LINEAR: usize = 64;

/// One entry of a [`Listing`].
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    listing: &'a Listing,
    index: usize,
}

impl Listing {
    /// How many entries there are.
    pub const fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is nothing.
    pub const fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Where it was listed.
    pub const fn root(&self) -> &ContextRoot {
        &self.root
    }

    /// All entries in tree order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Listed<'_>> + DoubleEndedIterator {
        (0..self.slots.len()).map(|index| Listed { listing: self, index })
    }

    /// What the policy left out, by reason; not what the ignore file left out.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// The entry at `path`, following no links. The root has none.
    pub fn get(&self, path: &EntryPath) -> Option<Listed<'_>> {
        let mut here = None;
        for name in path.components() {
            here = Some(self.child(here, name.as_bytes())?);
        }
        here.map(|index| Listed { listing: self, index })
    }

    /// The entries directly in a directory; `None` is the root. Nothing for what is no directory.
    pub fn children(&self, directory: Option<Listed<'_>>) -> impl Iterator<Item = Listed<'_>> {
        self.child_indices(directory.map(|entry| entry.index)).map(|index| Listed { listing: self, index })
    }

    pub(crate) fn child_indices(&self, directory: Option<usize>) -> impl Iterator<Item = usize> {
        let (mut next, end) = match directory {
            Some(index) => (index + 1, self.slots[index].end as usize),
            None => (0, self.slots.len()),
        };
        std::iter::from_fn(move || {
            let index = next;
            (index < end).then(|| {
                next = self.slots[index].end as usize;
                index
            })
        })
    }

    pub(crate) fn child(&self, directory: Option<usize>, name: &[u8]) -> Option<usize> {
        let mut siblings = self.child_indices(directory);
        let near = siblings.by_ref().take(LINEAR).find(|index| self.name(*index) == name);
        if near.is_some() || siblings.next().is_none() {
            return near;
        }
        // A large directory; many lookups in it must not become quadratic.
        let by_key = self.by_key.get_or_init(|| {
            let mut keys: Vec<(u64, u32)> =
                self.slots.iter().enumerate().map(|(index, slot)| (slot.path_key, index as u32)).collect();
            keys.sort_unstable();
            keys
        });
        let key = path_key(directory.map_or(PATH_KEY_ROOT, |index| self.slots[index].path_key), name);
        let start = by_key.partition_point(|(other, _)| *other < key);
        let same =
            by_key[start..].iter().take_while(|(other, _)| *other == key).map(|(_, index)| *index as usize);
        same.into_iter().find(|index| self.parent(*index) == directory && self.name(*index) == name)
    }

    pub(crate) fn name(&self, index: usize) -> &[u8] {
        let (start, length) = self.slots[index].name;
        &self.names[start as usize..start as usize + usize::from(length)]
    }

    pub(crate) fn parent(&self, index: usize) -> Option<usize> {
        let parent = self.slots[index].parent;
        (parent != NONE).then_some(parent as usize)
    }

    pub(crate) fn path(&self, index: usize) -> EntryPath {
        let mut chain: Vec<&[u8]> = Vec::new();
        let mut here = Some(index);
        while let Some(index) = here {
            chain.push(self.name(index));
            here = self.parent(index);
        }
        chain.reverse();
        // Names come from a directory, so there is no `..` to be refused.
        EntryPath::rooted(chain.join(&b'/')).unwrap_or_default()
    }

    /// The range of what is in a directory, and how many bytes of each path there name the directory itself.
    pub(crate) fn inside(&self, directory: Option<usize>) -> (usize, usize, usize) {
        match directory {
            Some(index) => (index + 1, self.slots[index].end as usize, self.path(index).as_bytes().len() + 1),
            None => (0, self.slots.len(), 0),
        }
    }

    /// Says as much as is known about a path that is not there: a [`ContextError::NotFound`].
    pub fn not_found(&self, path: &EntryPath) -> ContextError {
        let ignored_by =
            self.rules.explain(path.as_bytes()).filter(|decision| decision.excluded).map(|decision| {
                let pattern = String::from_utf8_lossy(decision.pattern.text()).into_owned();
                let file = self.rules.file().unwrap_or("the ignore file").to_owned();
                IgnoredBy { file, line: decision.pattern.line(), pattern }
            });
        let mut nearest = Vec::new();
        if let Some((parent, name)) = path.split_last()
            && let Some(directory) = if parent.is_root() { Some(None) } else { self.get(&parent).map(Some) }
        {
            let beside: Vec<String> = self
                .children(directory)
                .take(10_000)
                .map(|entry| String::from_utf8_lossy(entry.name()).into_owned())
                .collect();
            let found = wbuild_report::nearest(&name.to_string(), beside.iter().map(String::as_str));
            nearest = found
                .into_iter()
                .filter_map(|name| Name::new(name).ok())
                .map(|name| crate::error::shown(&parent.join(&name)))
                .collect();
        }
        ContextError::NotFound { path: path.clone(), ignored_by, nearest }
    }

    /// The metadata of an entry, as the policy has it.
    pub(crate) fn meta(&self, index: usize) -> Meta {
        let facts = &self.slots[index].facts;
        match self.policy {
            Policy::Dockerfile => {
                let mode = if facts.kind == FileKind::Symlink { 0o777 } else { facts.mode };
                let mut meta = Meta::new(mode);
                meta.mtime = facts.mtime;
                meta
            }
            Policy::Workspace => Meta::new(match facts.kind {
                FileKind::Symlink => 0o777,
                FileKind::Directory => 0o755,
                // git records the owner's execute bit and nothing else.
                _ if facts.mode & 0o100 != 0 => 0o755,
                _ => 0o644,
            }),
        }
    }
}

impl<'a> Listed<'a> {
    /// Its path from the root of the context.
    pub fn path(&self) -> EntryPath {
        self.listing.path(self.index)
    }

    /// Its name in its directory.
    pub fn name(&self) -> &'a [u8] {
        self.listing.name(self.index)
    }

    /// What it is.
    pub fn kind(&self) -> FileKind {
        self.facts().kind
    }

    /// What is known of it.
    pub fn facts(&self) -> &'a Facts {
        &self.listing.slots[self.index].facts
    }

    /// Where a symbolic link points, verbatim.
    pub fn target(&self) -> Option<&'a [u8]> {
        let slot = &self.listing.slots[self.index];
        (slot.facts.kind == FileKind::Symlink).then(|| &*self.listing.targets[slot.target as usize])
    }

    pub(crate) const fn index(&self) -> usize {
        self.index
    }
}
