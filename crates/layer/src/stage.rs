//! A layer while it is being read: a tree in memory into which entries are put one after the other, as a careful
//! container runtime would put them on disk.
//!
//! Both faces of a delta come from here. The tree face is what the stage holds at the end; the disk face is made by doing
//! on disk what [`Placement`]s say. Every path of the archive is resolved here, entry by entry, inside the root and
//! through the links that this layer planted; what comes out has no links in it, so the disk is only ever asked
//! for plain directories.
//!
//! Rules, as containerd has them where it has any:
//!
//! - Missing parents are made. Their metadata is not known, and the result lists them: a lower layer may know better.
//! - A directory on a directory changes its metadata. Anything else replaces what is there.
//! - Links on the way are followed inside the root, at most [`MAX_SYMLINKS`]; the last name never is.
//! - A whiteout acts on lower layers only, wherever in the layer it stands: a directory of the same layer beside
//!   its own whiteout is an opaque one.

use std::collections::{BTreeMap, VecDeque, btree_map};

use wbuild_oci::Digest;
use wbuild_tree::{Directory, Entry, EntryPath, LinkId, MAX_SYMLINKS, Meta, Name, Node, Subtree};

/// Paths are at most this long after links are followed: nothing longer can be opened on Linux.
const PATH_MAX: usize = 4095;

/// Names likewise.
const NAME_MAX: usize = 255;

/// Why an entry cannot be put where it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// A parent is something else than a directory.
    #[error("its parent `{parent}` is not a directory")]
    ParentIsNoDirectory {
        /// What is in the way.
        parent: EntryPath,
    },
    /// Links that lead to each other.
    #[error("more than {MAX_SYMLINKS} symbolic links are on the way")]
    Loop,
    /// A name or path that no Linux system could hold.
    #[error("its name has more than {NAME_MAX} bytes, or its path more than {PATH_MAX}")]
    TooLong,
    /// A hard link to nothing in this layer.
    #[error("it is a hard link to `{target}`, which this layer does not have")]
    NoTarget {
        /// What it should be linked to.
        target: EntryPath,
    },
    /// A hard link to a directory or to itself.
    #[error("it is a hard link to `{target}`, which cannot be linked")]
    Target {
        /// What it should be linked to.
        target: EntryPath,
    },
    /// The root is not a directory.
    #[error("it would replace the root by something else than a directory")]
    Root,
    /// A link target that no Linux system could hold.
    #[error("its link target is empty, too long or has a NUL byte")]
    LinkTarget,
}

/// What is put into the stage.
#[derive(Debug)]
pub(crate) enum Placed {
    Directory(Meta),
    File {
        meta: Meta,
        size: u64,
    },
    /// A symbolic link, pipe or device.
    Other(Entry),
    Whiteout,
}

/// What has to happen on disk, in this order: remove, make the parents, make the entry.
#[derive(Debug)]
pub(crate) struct Placement {
    /// Where the entry is, without links on the way.
    pub(crate) path: EntryPath,
    /// Deepest first.
    pub(crate) removed: Vec<Removed>,
    /// Parents that were missing, topmost first.
    pub(crate) parents: Vec<EntryPath>,
    pub(crate) action: Action,
}

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// What was placed.
    Make,
    /// Nothing: a directory that is there already, or a whiteout of something in the same layer.
    Nothing,
    /// Another name for this path.
    Link(EntryPath),
    /// Another one of these: hard links to what is no regular file.
    Copy(Entry),
}

/// Something that has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) path: EntryPath,
    pub(crate) directory: bool,
}

#[derive(Debug, Clone)]
enum Slot {
    Directory(usize),
    File(usize),
    Other(Entry),
    Whiteout,
}

#[derive(Debug)]
struct StagedSlot {
    slot: Slot,
    /// What lower layers have under this name is hidden.
    hides: bool,
}

#[derive(Debug, Default)]
struct StagedDirectory {
    /// `None` while only entries below it were seen.
    meta: Option<Meta>,
    opaque: bool,
    entries: BTreeMap<Name, StagedSlot>,
}

#[derive(Debug)]
struct Inode {
    meta: Meta,
    size: u64,
    content: Digest,
}

/// The root is directory 0.
#[derive(Debug)]
pub(crate) struct Stage {
    directories: Vec<StagedDirectory>,
    inodes: Vec<Inode>,
}

/// What a stage holds at the end.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) tree: Subtree,
    pub(crate) root: Option<Meta>,
    pub(crate) opaque_root: bool,
    pub(crate) implied: Vec<EntryPath>,
}

struct Resolved {
    directory: usize,
    path: EntryPath,
}

enum Step {
    Down(Name),
    Up,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self { directories: vec![StagedDirectory::default()], inodes: Vec::new() }
    }

    /// Puts something at `path`.
    pub(crate) fn place(&mut self, path: &EntryPath, placed: Placed) -> Result<Placement, PlaceError> {
        let Some((parent, name)) = path.split_last() else {
            let Placed::Directory(meta) = placed else { return Err(PlaceError::Root) };
            self.directories[0].meta = Some(meta);
            return Ok(Placement {
                path: EntryPath::root(),
                removed: Vec::new(),
                parents: Vec::new(),
                action: Action::Nothing,
            });
        };
        let mut removed = Vec::new();
        let mut parents = Vec::new();
        let at = self.resolve(&parent, Some((&mut removed, &mut parents)))?.ok_or(PlaceError::Root)?;
        let path = at.path.join(&name);
        check_length(&path, &name)?;
        let old = self.directories[at.directory].entries.get(&name).map(|old| (old.slot.clone(), old.hides));
        let action = match (&placed, &old) {
            (Placed::Directory(meta), Some((Slot::Directory(index), _))) => {
                self.directories[*index].meta = Some(meta.clone());
                Action::Nothing
            }
            (Placed::Whiteout, Some(_)) => {
                if let Some(slot) = self.directories[at.directory].entries.get_mut(&name) {
                    slot.hides = true;
                }
                Action::Nothing
            }
            _ => {
                let hides = self.replace(at.directory, &name, &path, &mut removed);
                let slot = match placed {
                    Placed::Directory(meta) => self.new_directory(Some(meta)),
                    Placed::File { meta, size } => {
                        self.inodes.push(Inode { meta, size, content: Digest::of(b"") });
                        Slot::File(self.inodes.len() - 1)
                    }
                    Placed::Other(entry) => Slot::Other(entry),
                    Placed::Whiteout => Slot::Whiteout,
                };
                self.directories[at.directory].entries.insert(name, StagedSlot { slot, hides });
                Action::Make
            }
        };
        Ok(Placement { path, removed, parents, action })
    }

    /// How many things there are, made parents and replaced ones included.
    pub(crate) fn len(&self) -> u64 {
        (self.directories.len() + self.inodes.len()) as u64
    }

    /// Sets the digest of the file that was placed last.
    pub(crate) fn set_content(&mut self, content: Digest) {
        if let Some(inode) = self.inodes.last_mut() {
            inode.content = content;
        }
    }

    /// Puts another name of `target` at `path`.
    pub(crate) fn link(&mut self, path: &EntryPath, target: &EntryPath) -> Result<Placement, PlaceError> {
        let (target_parent, target_name) =
            target.split_last().ok_or_else(|| PlaceError::Target { target: target.clone() })?;
        let missing = || PlaceError::NoTarget { target: target.clone() };
        let from = self.resolve(&target_parent, None)?.ok_or_else(missing)?;
        let source = from.path.join(&target_name);
        let slot = self.directories[from.directory].entries.get(&target_name).map(|found| found.slot.clone());
        let (slot, action) = match slot {
            Some(slot @ Slot::File(_)) => (slot, Action::Link(source.clone())),
            Some(Slot::Other(entry)) => (Slot::Other(entry.clone()), Action::Copy(entry)),
            Some(Slot::Directory(_)) => return Err(PlaceError::Target { target: target.clone() }),
            Some(Slot::Whiteout) | None => return Err(missing()),
        };
        let (parent, name) = path.split_last().ok_or(PlaceError::Root)?;
        let mut removed = Vec::new();
        let mut parents = Vec::new();
        let at = self.resolve(&parent, Some((&mut removed, &mut parents)))?.ok_or(PlaceError::Root)?;
        let path = at.path.join(&name);
        check_length(&path, &name)?;
        // Replacing the target, or a directory it lies in, would leave nothing to link to.
        if source.starts_with(&path) {
            return Err(PlaceError::Target { target: target.clone() });
        }
        let hides = self.replace(at.directory, &name, &path, &mut removed);
        self.directories[at.directory].entries.insert(name, StagedSlot { slot, hides });
        Ok(Placement { path, removed, parents, action })
    }

    /// Makes the directory at `path` opaque, and the directory itself if need be.
    pub(crate) fn opaque(&mut self, path: &EntryPath) -> Result<Placement, PlaceError> {
        let mut removed = Vec::new();
        let mut parents = Vec::new();
        let at = self.resolve(path, Some((&mut removed, &mut parents)))?.ok_or(PlaceError::Root)?;
        self.directories[at.directory].opaque = true;
        Ok(Placement { path: at.path, removed, parents, action: Action::Nothing })
    }

    /// Every directory with what is to be set on it, contents before their parent.
    pub(crate) fn directories(&self) -> Vec<(EntryPath, Option<&Meta>, bool)> {
        let mut found =
            vec![(EntryPath::root(), self.directories[0].meta.as_ref(), self.directories[0].opaque)];
        self.visit(0, &EntryPath::root(), &mut |path, staged| {
            if let Slot::Directory(index) = staged.slot {
                let directory = &self.directories[index];
                found.push((path.clone(), directory.meta.as_ref(), directory.opaque || staged.hides));
            }
        });
        found.reverse();
        found
    }

    /// The tree face. Link groups are numbered in tree order, and only those that still have two names are groups.
    pub(crate) fn finish(self) -> Finished {
        let mut names = vec![0_u32; self.inodes.len()];
        let mut implied = Vec::new();
        self.visit(0, &EntryPath::root(), &mut |path, staged| match staged.slot {
            Slot::File(inode) => names[inode] += 1,
            Slot::Directory(index) if self.directories[index].meta.is_none() => implied.push(path.clone()),
            _ => {}
        });
        let mut groups: Vec<Option<LinkId>> = vec![None; self.inodes.len()];
        let mut next = 0;
        self.visit(0, &EntryPath::root(), &mut |_, staged| {
            if let Slot::File(inode) = staged.slot
                && names[inode] > 1
                && groups[inode].is_none()
            {
                groups[inode] = Some(LinkId(next));
                next += 1;
            }
        });
        let tree = self.build(&groups);
        let root = &self.directories[0];
        Finished { tree, root: root.meta.clone(), opaque_root: root.opaque, implied }
    }

    /// Follows `path` to a directory. With somewhere to note them, missing directories are made; without, `None`.
    fn resolve(
        &mut self,
        path: &EntryPath,
        mut made: Option<(&mut Vec<Removed>, &mut Vec<EntryPath>)>,
    ) -> Result<Option<Resolved>, PlaceError> {
        let mut steps: VecDeque<Step> = path.components().map(Step::Down).collect();
        // Names are put together only where a path is needed: doing so at every level would be quadratic.
        let mut here: Vec<(usize, Option<Name>)> = vec![(0, None)];
        let path_of = |here: &[(usize, Option<Name>)]| {
            let names: Vec<&[u8]> =
                here.iter().filter_map(|(_, name)| Some(name.as_ref()?.as_bytes())).collect();
            EntryPath::rooted(names.join(&b'/')).map_err(|_| PlaceError::LinkTarget)
        };
        let mut links = 0;
        while let Some(step) = steps.pop_front() {
            let Step::Down(name) = step else {
                // `..` at the root stays there, as for a process in a chroot.
                if here.len() > 1 {
                    here.pop();
                }
                continue;
            };
            let Some((directory, _)) = here.last() else { return Ok(None) };
            let directory = *directory;
            let slot = self.directories[directory].entries.get(&name).map(|found| found.slot.clone());
            match slot {
                Some(Slot::Directory(index)) => here.push((index, Some(name))),
                Some(Slot::Other(Entry { node: Node::Symlink { target }, .. })) => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(PlaceError::Loop);
                    }
                    if target.starts_with(b"/") {
                        here.truncate(1);
                    }
                    prepend(&mut steps, &target)?;
                }
                Some(Slot::File(_) | Slot::Other(_)) => {
                    return Err(PlaceError::ParentIsNoDirectory { parent: path_of(&here)?.join(&name) });
                }
                Some(Slot::Whiteout) | None => {
                    let Some((removed, parents)) = &mut made else { return Ok(None) };
                    let below = path_of(&here)?.join(&name);
                    check_length(&below, &name)?;
                    let hides = self.replace(directory, &name, &below, removed);
                    let slot = self.new_directory(None);
                    if let Slot::Directory(index) = slot {
                        here.push((index, Some(name.clone())));
                    }
                    self.directories[directory].entries.insert(name, StagedSlot { slot, hides });
                    parents.push(below);
                }
            }
        }
        let path = path_of(&here)?;
        Ok(here.pop().map(|(directory, _)| Resolved { directory, path }))
    }

    /// Takes what is under `name` away, notes what that means on disk, and tells whether lower layers are hidden now.
    fn replace(
        &mut self,
        directory: usize,
        name: &Name,
        path: &EntryPath,
        removed: &mut Vec<Removed>,
    ) -> bool {
        let Some(old) = self.directories[directory].entries.remove(name) else { return false };
        let start = removed.len();
        removed.push(Removed { path: path.clone(), directory: matches!(old.slot, Slot::Directory(_)) });
        if let Slot::Directory(index) = old.slot {
            self.visit(index, path, &mut |path, staged| {
                let directory = matches!(staged.slot, Slot::Directory(_));
                removed.push(Removed { path: path.clone(), directory });
            });
        }
        removed[start..].reverse();
        // Whatever was here before had replaced or hidden what lower layers have, unless it was a directory.
        old.hides || !matches!(old.slot, Slot::Directory(_))
    }

    fn new_directory(&mut self, meta: Option<Meta>) -> Slot {
        self.directories.push(StagedDirectory { meta, ..StagedDirectory::default() });
        Slot::Directory(self.directories.len() - 1)
    }

    /// Everything below a directory in tree order. A stack of its own: a path can have two thousand levels.
    fn visit(&self, directory: usize, path: &EntryPath, visitor: &mut dyn FnMut(&EntryPath, &StagedSlot)) {
        let mut stack = vec![(path.clone(), self.directories[directory].entries.iter())];
        while let Some((path, mut entries)) = stack.pop() {
            let Some((name, staged)) = entries.next() else { continue };
            let below = path.join(name);
            stack.push((path, entries));
            visitor(&below, staged);
            if let Slot::Directory(index) = staged.slot {
                stack.push((below, self.directories[index].entries.iter()));
            }
        }
    }

    fn build(&self, groups: &[Option<LinkId>]) -> Subtree {
        struct Frame<'a> {
            rest: btree_map::Iter<'a, Name, StagedSlot>,
            built: Directory,
            /// Name and metadata of this directory in its parent.
            entry: Option<(&'a Name, Meta, bool)>,
        }
        let frame = |index: usize, entry| Frame {
            rest: self.directories[index].entries.iter(),
            built: Directory::default(),
            entry,
        };
        let mut stack = vec![frame(0, None)];
        loop {
            let Some(top) = stack.last_mut() else { return Subtree::empty() };
            if let Some((name, staged)) = top.rest.next() {
                let entry = match &staged.slot {
                    Slot::Directory(index) => {
                        let directory = &self.directories[*index];
                        let meta = directory.meta.clone().unwrap_or_else(|| Meta::new(0o755));
                        stack.push(frame(*index, Some((name, meta, directory.opaque || staged.hides))));
                        continue;
                    }
                    Slot::File(inode) => {
                        let Inode { meta, size, content } = &self.inodes[*inode];
                        let node = Node::File { content: *content, size: *size, link: groups[*inode] };
                        Entry { meta: meta.clone(), node }
                    }
                    Slot::Other(entry) => entry.clone(),
                    Slot::Whiteout => Entry::whiteout(),
                };
                top.built.entries.insert(name.clone(), entry);
            } else if let Some(Frame { built, entry, .. }) = stack.pop() {
                let contents = Subtree::new(built);
                match (entry, stack.last_mut()) {
                    (Some((name, meta, opaque)), Some(parent)) => {
                        let entry = Entry { meta, node: Node::Directory { contents, opaque } };
                        parent.built.entries.insert(name.clone(), entry);
                    }
                    _ => return contents,
                }
            }
        }
    }
}

/// Puts a link's target before the steps that are left.
fn prepend(steps: &mut VecDeque<Step>, target: &[u8]) -> Result<(), PlaceError> {
    for part in target.rsplit(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => steps.push_front(Step::Up),
            part => steps.push_front(Step::Down(Name::new(part).map_err(|_| PlaceError::LinkTarget)?)),
        }
    }
    Ok(())
}

fn check_length(path: &EntryPath, name: &Name) -> Result<(), PlaceError> {
    match path.as_bytes().len() > PATH_MAX || name.as_bytes().len() > NAME_MAX {
        true => Err(PlaceError::TooLong),
        false => Ok(()),
    }
}

/// What a symbolic link of a layer can hold.
pub(crate) fn check_target(target: &[u8]) -> Result<(), PlaceError> {
    match target.is_empty() || target.len() > PATH_MAX || target.contains(&0) {
        true => Err(PlaceError::LinkTarget),
        false => Ok(()),
    }
}
