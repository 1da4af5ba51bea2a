//! The pool: inodes that disk faces link to, by content, metadata and place (decision 11).
//!
//! The place is in the key because programs see which names share an inode. Two equal files that two deltas of one root
//! put at different places would look like hard links to a step, and `cp -a` or `tar` would make them some, in overlay
//! mode and not in others. At one place a root shows one file only, so nobody can tell that others share it.
//!
//! Never linked from blobs: a blob's owner, mode and time are the store's affair, and a file's are the tree's.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown,
    fsetxattr, futimens, ioctl_ficlone, linkat, statat,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use wbuild_layer::{OwnerNote, Owners};
use wbuild_oci::Digest;
use wbuild_store::{Store, StoreError};
use wbuild_tree::{EntryPath, Meta, Name, Time};

use crate::error::{At, SnapshotError};

/// Changing what a key covers means a new number.
const VERSION: &[u8] = b"wbuild-pool-1\n";

/// One inode: what is in it, and all that the file system keeps beside it.
#[derive(Debug)]
pub(crate) struct Inode<'a> {
    pub(crate) content: Digest,
    pub(crate) size: u64,
    pub(crate) meta: &'a Meta,
    pub(crate) mtime: Time,
    pub(crate) owners: Owners,
}

impl Inode<'_> {
    /// What is in it and what the file system keeps beside it, as a digest.
    pub(crate) fn key(&self) -> Digest {
        let mut hasher = Sha256::new();
        hasher.update(VERSION);
        hasher.update(self.content.as_bytes());
        hasher.update(self.size.to_le_bytes());
        hasher.update(self.meta.mode.to_le_bytes());
        match self.owners {
            Owners::Skip => hasher.update([0]),
            Owners::Set | Owners::Note => {
                hasher.update([if self.owners == Owners::Set { 1 } else { 2 }]);
                hasher.update(self.meta.uid.to_le_bytes());
                hasher.update(self.meta.gid.to_le_bytes());
            }
        }
        hasher.update(self.mtime.seconds.to_le_bytes());
        hasher.update(self.mtime.nanos.to_le_bytes());
        for (name, value) in self.meta.xattrs.iter() {
            hasher.update((name.len() as u64).to_le_bytes());
            hasher.update(name);
            hasher.update((value.len() as u64).to_le_bytes());
            hasher.update(value);
        }
        Digest::from_bytes(hasher.finalize().into())
    }

    /// Whether what lies in the pool still is this inode, as far as a `stat` tells.
    fn fits(&self, stat: &Stat) -> bool {
        FileType::from_raw_mode(stat.st_mode).is_file()
            && stat.st_size as u64 == self.size
            && stat.st_mode & 0o7777 == u32::from(self.meta.mode)
            && stat.st_mtime == self.mtime.seconds
            && stat.st_mtime_nsec == u64::from(self.mtime.nanos)
    }
}

/// The pool's name of an inode at a place.
pub(crate) fn key_at(inode: &Digest, place: &EntryPath) -> Digest {
    Digest::of(&[inode.as_bytes().as_slice(), place.as_bytes()].concat())
}

/// Links the inode `key` to `name` in `directory`, made from its blob if the pool does not have it.
pub(crate) fn link(
    store: &Store,
    key: &Digest,
    inode: &Inode<'_>,
    directory: BorrowedFd<'_>,
    name: &Name,
) -> Result<(), SnapshotError> {
    let path = store.pool_path(key);
    let mut replace = false;
    for _ in 0..8 {
        match statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if inode.fits(&stat) && !replace => {
                match linkat(CWD, &path, directory, name.as_bytes(), AtFlags::empty()) {
                    Ok(()) => return Ok(()),
                    // Collected a moment ago.
                    Err(Errno::NOENT) => {}
                    // Too many names: another inode takes its place in the pool.
                    Err(Errno::MLINK) => replace = true,
                    Err(error) => return Err(error).at("link", &path),
                }
            }
            // Damaged.
            Ok(_) => replace = true,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error).at("read", &path),
        }
        make(store, inode, &path, replace)?;
        replace = false;
    }
    Err(Errno::BUSY).at("link", &path)
}

fn make(store: &Store, inode: &Inode<'_>, path: &Path, replace: bool) -> Result<(), SnapshotError> {
    let temporary = store.workspace()?.fresh("inode");
    let result = fill(store, inode, &temporary).and_then(|()| place(&temporary, path, replace));
    // A link leaves it behind, too.
    let _ = fs::remove_file(&temporary);
    result
}

fn place(temporary: &Path, path: &Path, replace: bool) -> Result<(), SnapshotError> {
    let attempt = || if replace { fs::rename(temporary, path) } else { fs::hard_link(temporary, path) };
    let mut result = attempt();
    if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        fs::create_dir_all(path.parent().unwrap_or(path)).at("create", path)?;
        result = attempt();
    }
    match result {
        // Somebody else was quicker with the same; that one is linked.
        Err(error) if !replace && error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.at("create", path),
    }
}

fn fill(store: &Store, inode: &Inode<'_>, temporary: &Path) -> Result<(), SnapshotError> {
    let mut file =
        File::options().read(true).write(true).create_new(true).open(temporary).at("create", temporary)?;
    let blob = store.open_blob(&inode.content)?;
    let shared = blob.size() > 0 && ioctl_ficlone(&file, blob.file()).is_ok();
    if !shared {
        let mut reader = BufReader::with_capacity(128 * 1024, blob.reader());
        // A blob that turns out to be damaged is an error of the store's, whoever carries it.
        io::copy(&mut reader, &mut file).map_err(|error| match error.downcast::<StoreError>() {
            Ok(error) => SnapshotError::Store(error),
            Err(source) => SnapshotError::Io { action: "write", path: temporary.to_owned(), source },
        })?;
    }
    describe(file.as_fd(), inode.meta, inode.mtime, inode.owners).at("describe", temporary)
}

/// Owner, attributes, mode and time of an open file or directory, in this order: a change of owner clears set-id bits and
/// capabilities. Owners that the user namespace does not know, and attributes that we may not set, are left out: the
/// disk face may be wrong about them, the tree never is.
pub(crate) fn describe(
    file: BorrowedFd<'_>,
    meta: &Meta,
    mtime: Time,
    owners: Owners,
) -> rustix::io::Result<()> {
    match owners {
        Owners::Set => match fchown(file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid))) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        },
        Owners::Note => OwnerNote { uid: meta.uid, gid: meta.gid }.write(file)?,
        Owners::Skip => {}
    }
    for (name, value) in meta.xattrs.iter() {
        match fsetxattr(file, name, value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS | Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    fchmod(file, Mode::from_raw_mode(meta.mode.into()))?;
    futimens(file, &timestamps(mtime))
}

/// Access times are nobody's business; they get the same.
pub(crate) fn timestamps(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
