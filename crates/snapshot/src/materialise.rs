//! The disk face of a tree.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rayon::prelude::*;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, linkat, makedev, mkdirat, mknodat,
    symlinkat, utimensat,
};
use rustix::io::Errno;
use wbuild_graph::DeltaId;
use wbuild_layer::Owners;
use wbuild_oci::Digest;
use wbuild_store::{DeltaFolder, Store};
use wbuild_tree::{ContentDigest, Entry, LinkId, Meta, Name, Node, Subtree, Time, TreeDigest};

use crate::error::{At, SnapshotError};
use crate::face::{face_name, making, publish};
use crate::folders::{FolderId, Folders, READ};
use crate::marks;
use crate::pool::{self, Inode, key_at, timestamps};

/// Which times files have on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mtimes {
    /// Those of the tree.
    Tree,
    /// Regular files have one that changes exactly when their content does (decision 7), for steps whose caches trust
    /// times; see [`content_time`]. All else has the tree's.
    FromContent,
}

/// How a disk face is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Times.
    pub mtimes: Mtimes,
    /// Whether owners are set and device nodes made.
    pub owners: Owners,
}

/// The time of a file with this content under [`Mtimes::FromContent`]: one second after the epoch, plus the digest, read as
/// one big-endian number, modulo 10^9 seconds.
pub fn content_time(content: &Digest) -> Time {
    let modulo =
        content.as_bytes().iter().fold(0_u64, |rest, byte| (rest * 256 + u64::from(*byte)) % 1_000_000_000);
    Time { seconds: 1 + modulo as i64, nanos: 0 }
}

/// Files that one task makes: enough to be worth a task, few enough for all cores to have some.
const CHUNK: usize = 256;

/// Makes the disk face of a tree, unless it is there: regular files as links into the inode pool, whiteouts as devices 0:0,
/// opaque directories with overlay's attribute. On all cores; what is published is complete.
///
/// Without [`Owners::Set`] devices are passed over, and everything belongs to this process; files and directories carry an
/// [`OwnerNote`](wbuild_layer::OwnerNote) where notes are wanted.
///
/// # Errors
/// [`SnapshotError::is_lost`] when a tree or a blob is; others name the path.
pub fn materialise(store: &Store, tree: TreeDigest, disk: Disk) -> Result<DeltaFolder, SnapshotError> {
    // The name of the face does not depend on the content digest, so any will do.
    let delta = DeltaId::Tree { tree, content: ContentDigest(tree.0) };
    let name = face_name(&delta, disk);
    making(store, &name, || {
        let root = store.tree(tree)?;
        let draft = store.draft()?;
        fill(store, &root, disk, &draft.fs())?;
        publish(store, &name, draft)
    })
}

/// A name to be made in a folder.
struct Leaf {
    name: Name,
    entry: Entry,
    /// Its inode in the pool, for regular files.
    inode: Option<Digest>,
}

/// A folder as it will be when everything in it is made.
struct Finish {
    meta: Meta,
    opaque: bool,
}

pub(crate) fn fill(store: &Store, root: &Subtree, disk: Disk, target: &Path) -> Result<(), SnapshotError> {
    let mut folders = Folders::open(target)?;
    let mut finish = vec![Finish { meta: Meta::new(0o755), opaque: false }];
    let mut leaves: Vec<(FolderId, Vec<Leaf>)> = Vec::new();
    let mut groups = Groups::new();
    let mut followers = Vec::new();
    let mut pending = vec![(FolderId::ROOT, root.clone())];
    while let Some((folder, contents)) = pending.pop() {
        let directory = contents.open(store)?;
        let at = folders.descriptor(folder, OFlags::PATH)?;
        let path = folders.entry_path(folder);
        let mut here = Vec::new();
        for (name, entry) in &directory.entries {
            match &entry.node {
                Node::Directory { contents, opaque } => {
                    // Ours alone until everything in it is there.
                    mkdirat(&at, name.as_bytes(), Mode::RWXU).at_with("create", || folders.shown(folder))?;
                    pending.push((folders.add(folder, name.clone()), contents.clone()));
                    finish.push(Finish { meta: entry.meta.clone(), opaque: *opaque });
                }
                _ => {
                    let inode = inode_of(entry, disk).map(|(inode, link)| (inode.key(), link));
                    if let Some((inode, Some(link))) = inode {
                        if let Some(first) = groups.get(&(link, inode)) {
                            followers.push(Follower { folder, name: name.clone(), first: first.clone() });
                            continue;
                        }
                        groups.insert((link, inode), (folder, name.clone()));
                    }
                    let inode = inode.map(|(inode, _)| key_at(&inode, &path.join(name)));
                    here.push(Leaf { name: name.clone(), entry: entry.clone(), inode });
                    if here.len() == CHUNK {
                        leaves.push((folder, std::mem::take(&mut here)));
                    }
                }
            }
        }
        if !here.is_empty() {
            leaves.push((folder, here));
        }
    }
    leaves.par_iter().try_for_each(|(folder, leaves)| {
        let directory = folders.descriptor(*folder, OFlags::PATH)?;
        leaves.iter().try_for_each(|leaf| {
            make(store, directory.as_fd(), leaf, disk, &|| folders.shown(*folder).join(leaf.name.as_os_str()))
        })
    })?;
    // Not through the pool, where another process may just have put another inode in the place of the first.
    followers.par_iter().try_for_each(|Follower { folder, name, first }| {
        let (from, to) =
            (folders.descriptor(first.0, OFlags::PATH)?, folders.descriptor(*folder, OFlags::PATH)?);
        let linked = linkat(&from, first.1.as_bytes(), &to, name.as_bytes(), AtFlags::empty());
        linked.at_with("link", || folders.shown(*folder).join(name.as_os_str()))
    })?;
    // From the deepest up, since a mode may lock us out, and anything made in a directory changes its time.
    for (index, finish) in finish.iter().enumerate().rev() {
        let folder = folders.nth(index);
        let directory = folders.descriptor(folder, READ)?;
        if finish.opaque {
            marks::set_opaque(directory.as_fd()).at_with("mark as opaque", || folders.shown(folder))?;
        }
        pool::describe(directory.as_fd(), &finish.meta, finish.meta.mtime, disk.owners)
            .at_with("describe", || folders.shown(folder))?;
    }
    Ok(())
}

/// The first name of each hard link group. Grafted subtrees repeat numbers, so a group is a number and what is in it.
type Groups = HashMap<(LinkId, Digest), (FolderId, Name)>;

/// Another name of a group, and the first one.
struct Follower {
    folder: FolderId,
    name: Name,
    first: (FolderId, Name),
}

fn inode_of(entry: &Entry, disk: Disk) -> Option<(Inode<'_>, Option<LinkId>)> {
    let Node::File { content, size, link } = &entry.node else { return None };
    let mtime = match disk.mtimes {
        Mtimes::Tree => entry.meta.mtime,
        Mtimes::FromContent => content_time(content),
    };
    Some((Inode { content: *content, size: *size, meta: &entry.meta, mtime, owners: disk.owners }, *link))
}

fn make(
    store: &Store,
    directory: BorrowedFd<'_>,
    leaf: &Leaf,
    disk: Disk,
    shown: &dyn Fn() -> std::path::PathBuf,
) -> Result<(), SnapshotError> {
    if let (Some(key), Some((inode, _))) = (&leaf.inode, inode_of(&leaf.entry, disk)) {
        return pool::link(store, key, &inode, directory, &leaf.name);
    }
    let name = leaf.name.as_bytes();
    let (kind, device) = match &leaf.entry.node {
        Node::Whiteout => {
            let kind = FileType::CharacterDevice;
            return mknodat(directory, name, kind, Mode::empty(), 0).at_with("create the whiteout", shown);
        }
        Node::Symlink { target } => {
            symlinkat(&**target, directory, name).at_with("create the link", shown)?;
            return describe(directory, leaf, disk).at_with("describe", shown);
        }
        Node::Fifo => (FileType::Fifo, 0),
        Node::CharDevice { major, minor } => (FileType::CharacterDevice, makedev(*major, *minor)),
        Node::BlockDevice { major, minor } => (FileType::BlockDevice, makedev(*major, *minor)),
        Node::Directory { .. } | Node::File { .. } => return Ok(()),
    };
    // 0:0 would be a whiteout; a tree that has it as a device came from nobody's layer.
    if kind != FileType::Fifo && (disk.owners != Owners::Set || marks::is_whiteout(kind, device)) {
        return Ok(());
    }
    match mknodat(directory, name, kind, Mode::RUSR, device) {
        Ok(()) => describe(directory, leaf, disk).at_with("describe", shown),
        // The root of a user namespace.
        Err(Errno::PERM) if kind != FileType::Fifo => Ok(()),
        Err(error) => Err(error).at_with("create", shown),
    }
}

/// What must not or cannot be opened. It was made a moment ago in a directory that nobody else writes to.
fn describe(directory: BorrowedFd<'_>, leaf: &Leaf, disk: Disk) -> rustix::io::Result<()> {
    let (name, meta) = (leaf.name.as_bytes(), &leaf.entry.meta);
    if disk.owners == Owners::Set {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        match chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    if !matches!(leaf.entry.node, Node::Symlink { .. }) {
        chmodat(directory, name, Mode::from_raw_mode(meta.mode.into()), AtFlags::empty())?;
    }
    utimensat(directory, name, &timestamps(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
}
