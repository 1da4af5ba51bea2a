//! The directories of a tree on disk, opened by descriptor without following links, however deep they are.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use wbuild_tree::{EntryPath, Name};

use crate::error::{At, SnapshotError};

/// Names that surely fit into one path: fifteen of the longest.
const AT_ONCE: usize = 15;

/// To read a directory; all others may be opened with fewer rights.
pub(crate) const READ: OFlags = OFlags::RDONLY;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const INSIDE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A directory of a [`Folders`], by number. Parents have smaller ones than their children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FolderId(u32);

impl FolderId {
    /// The directory that all others are in.
    pub(crate) const ROOT: Self = Self(0);

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Directories below one that is open. Each knows its parent and its name, so that a tree that is thousands of levels
/// deep costs no more than its names.
#[derive(Debug)]
pub(crate) struct Folders {
    root: OwnedFd,
    path: PathBuf,
    below: Vec<(FolderId, Name)>,
}

impl Folders {
    /// Opens the top.
    pub(crate) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let root = openat(CWD, path, READ | DIRECTORY, Mode::empty()).at("open", path)?;
        Ok(Self { root, path: path.to_owned(), below: Vec::new() })
    }

    /// Adds a directory; it need not exist yet.
    pub(crate) fn add(&mut self, parent: FolderId, name: Name) -> FolderId {
        self.below.push((parent, name));
        FolderId(self.below.len() as u32)
    }

    /// The one with this number.
    pub(crate) fn nth(&self, index: usize) -> FolderId {
        debug_assert!(index <= self.below.len(), "numbers are given by `add`");
        FolderId(index as u32)
    }

    /// Inside of the tree.
    pub(crate) fn entry_path(&self, folder: FolderId) -> EntryPath {
        let names: Vec<&[u8]> = self.names(folder).into_iter().map(Name::as_bytes).collect();
        // Names have been checked, so that they make a path is certain.
        EntryPath::parse(names.join(&b'/')).unwrap_or_default()
    }

    /// On the disk, for messages.
    pub(crate) fn shown(&self, folder: FolderId) -> PathBuf {
        self.path.join(self.entry_path(folder).to_path_buf())
    }

    fn names(&self, folder: FolderId) -> Vec<&Name> {
        let mut names = Vec::new();
        let mut here = folder;
        while here != FolderId::ROOT {
            let (parent, name) = &self.below[here.index() - 1];
            names.push(name);
            here = *parent;
        }
        names.reverse();
        names
    }

    /// Opens one of them.
    pub(crate) fn descriptor(&self, folder: FolderId, flags: OFlags) -> Result<OwnedFd, SnapshotError> {
        descend(self.root.as_fd(), &self.names(folder), flags).at_with("open", || self.shown(folder))
    }
}

/// Opens the directory at `path` below `root`, following no link anywhere.
pub(crate) fn open_below(
    root: BorrowedFd<'_>,
    path: &EntryPath,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let names: Vec<Name> = path.components().collect();
    descend(root, &names.iter().collect::<Vec<_>>(), flags)
}

fn descend(root: BorrowedFd<'_>, names: &[&Name], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    if names.is_empty() {
        return openat(root, ".", flags | DIRECTORY, Mode::empty());
    }
    let mut here: Option<OwnedFd> = None;
    let last = names.len().div_ceil(AT_ONCE) - 1;
    for (number, names) in names.chunks(AT_ONCE).enumerate() {
        let at = here.as_ref().map_or(root, AsFd::as_fd);
        let flags = if number == last { flags } else { OFlags::PATH };
        here = Some(step(at, names, flags | DIRECTORY)?);
    }
    here.ok_or(Errno::NOENT)
}

fn step(at: BorrowedFd<'_>, names: &[&Name], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let way: PathBuf = names.iter().map(|name| OsStr::from_bytes(name.as_bytes())).collect();
    match openat2(at, &way, flags, Mode::empty(), INSIDE) {
        // Linux before 5.6, and sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {}
        other => return other,
    }
    let mut here: Option<OwnedFd> = None;
    for (number, name) in names.iter().enumerate() {
        let at = here.as_ref().map_or(at, AsFd::as_fd);
        let flags = if number + 1 == names.len() { flags } else { OFlags::PATH | DIRECTORY };
        here = Some(openat(at, name.as_bytes(), flags, Mode::empty())?);
    }
    here.ok_or(Errno::NOENT)
}
