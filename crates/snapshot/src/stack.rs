//! Lower directories for an overlay mount.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, linkat, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;
use wbuild_graph::{DeltaId, Snapshot};
use wbuild_layer::{OwnerNote, Owners};
use wbuild_oci::Digest;
use wbuild_store::{DeltaFolder, DeltaName, Store, remove_tree};
use wbuild_tree::{EntryPath, Meta, Name, Time};

use crate::error::{At, SnapshotError};
use crate::face::{delta_name, face_name, making, publish, tree_face};
use crate::folders::{FolderId, Folders, READ, open_below};
use crate::marks::{Attributes, attributes, is_whiteout};
use crate::materialise::Disk;
use crate::pool::describe;

/// The lower directories for mounting a snapshot, the topmost first, at most `limit` (which is at least 2).
///
/// When there are more deltas, the lowest are merged into one folder of hard links, in blocks of half the limit, so that
/// the next snapshots on the same base find it made.
///
/// # Errors
/// [`SnapshotError::NoFace`] when a delta's disk face has not been made.
pub fn stack_for_mount(
    store: &Store,
    snapshot: &Snapshot,
    disk: Disk,
    limit: usize,
) -> Result<Vec<PathBuf>, SnapshotError> {
    let limit = limit.max(2);
    let mut names: Vec<DeltaName> = Vec::with_capacity(snapshot.deltas.len());
    for delta in &snapshot.deltas {
        // An overlay does not look at such a mark on the top of a lower directory.
        if matches!(delta, DeltaId::Layer(_)) && tree_face(store, delta)?.is_some_and(|face| face.opaque_root)
        {
            names.clear();
        }
        // A folder cannot be in one overlay twice. The upper one says again all that the lower one says.
        let name = face_name(delta, disk);
        names.retain(|other| *other != name);
        names.push(name);
    }
    let mut lowers = Vec::with_capacity(names.len());
    for name in &names {
        let face = store.delta(name)?;
        lowers.push(face.ok_or_else(|| SnapshotError::NoFace { delta: name.to_string(), face: "disk" })?);
    }
    // A face that took another's place makes another folder.
    let part = |face: &DeltaFolder| format!("{} {}\n", face.name(), face.instance());
    let parts: Vec<String> = lowers.iter().map(part).collect();
    let block = (limit / 2).max(2);
    let mut merged = 0;
    while lowers.len() > limit {
        // The bottom is the last merged folder, if there is one, and counts as one of the block.
        let taken = block.min(lowers.len());
        merged += if merged == 0 { taken } else { taken - 1 };
        let bottom = merge_faces(store, &parts[..merged], &lowers[..taken])?;
        lowers.splice(..taken, [bottom]);
    }
    Ok(lowers.iter().rev().map(DeltaFolder::fs).collect())
}

/// One folder for several disk faces, lowest first. Nothing is ever below it, so marks have done their work in it.
fn merge_faces(store: &Store, parts: &[String], faces: &[DeltaFolder]) -> Result<DeltaFolder, SnapshotError> {
    let all = format!("wbuild-merged-2\n{}", parts.concat());
    let name = delta_name(&format!("merged-{}", Digest::of(all.as_bytes()).hex()));
    making(store, &name, || {
        let draft = store.draft()?;
        let target = draft.fs();
        let mut merge = Merge { target: &target, directories: BTreeMap::new() };
        for face in faces {
            merge.add(&face.fs())?;
        }
        merge.finish()?;
        publish(store, &name, draft)
    })
}

struct Merge<'a> {
    target: &'a Path,
    /// How directories will be when everything is in them; until then they are ours alone.
    directories: BTreeMap<EntryPath, Meta>,
}

impl Merge<'_> {
    /// Puts one face on what is there.
    fn add(&mut self, face: &Path) -> Result<(), SnapshotError> {
        let mut folders = Folders::open(face)?;
        let top = Folders::open(self.target)?;
        let mut pending = vec![FolderId::ROOT];
        while let Some(folder) = pending.pop() {
            let path = folders.entry_path(folder);
            let from = folders.descriptor(folder, READ)?;
            let shown = folders.shown(folder);
            let to = top.below(&path)?;
            for name in names(&from, &shown)? {
                let below = path.join(&name);
                let stat = statat(&from, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW).at("read", &shown)?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                if is_whiteout(kind, stat.st_rdev) {
                    self.clear(&to, &below, &name)?;
                } else if kind.is_dir() {
                    let child = folders.add(folder, name.clone());
                    self.add_directory(&folders.descriptor(child, READ)?, &to, &below, &name, &stat)?;
                    pending.push(child);
                } else {
                    self.clear(&to, &below, &name)?;
                    link_or_copy(&from, &to, &name, &shown.join(name.as_os_str()))?;
                }
            }
        }
        Ok(())
    }

    fn add_directory(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &EntryPath,
        name: &Name,
        stat: &Stat,
    ) -> Result<(), SnapshotError> {
        let shown = self.target.join(path.to_path_buf());
        let found = attributes(from.as_fd()).at("read the attributes of", &shown)?;
        if found.opaque || !self.directories.contains_key(path) {
            self.clear(to, path, name)?;
            mkdirat(to, name.as_bytes(), Mode::RWXU).at("create", &shown)?;
        }
        let meta = meta_of(stat, found, Owners::of_process());
        self.directories.insert(path.clone(), meta);
        Ok(())
    }

    /// Takes away what a lower face has at a path.
    fn clear(&mut self, directory: &OwnedFd, path: &EntryPath, name: &Name) -> Result<(), SnapshotError> {
        match unlinkat(directory, name.as_bytes(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error).at("remove", &self.target.join(path.to_path_buf())),
        }
        // Through the descriptor, so that the path is short however deep the directory is.
        let through = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(directory)));
        remove_tree(&through.join(name.as_os_str()))?;
        self.directories.retain(|known, _| !known.starts_with(path));
        Ok(())
    }

    fn finish(self) -> Result<(), SnapshotError> {
        let top = Folders::open(self.target)?;
        let owners = Owners::of_process();
        for (path, meta) in self.directories.iter().rev() {
            let shown = self.target.join(path.to_path_buf());
            let directory = top.below(path)?;
            describe(directory.as_fd(), meta, meta.mtime, owners).at("describe", &shown)?;
        }
        Ok(())
    }
}

impl Folders {
    /// Opens a directory by its path, to be read and described.
    fn below(&self, path: &EntryPath) -> Result<OwnedFd, SnapshotError> {
        let root = self.descriptor(FolderId::ROOT, OFlags::PATH)?;
        open_below(root.as_fd(), path, READ).at("open", &path.to_path_buf())
    }
}

fn names(directory: &OwnedFd, shown: &Path) -> Result<Vec<Name>, SnapshotError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).at("read", shown)? {
        names.extend(Name::new(entry.at("read", shown)?.file_name().to_bytes()));
    }
    Ok(names)
}

/// Links; copies a regular file whose inode has as many names as it can have.
fn link_or_copy(from: &OwnedFd, to: &OwnedFd, name: &Name, shown: &Path) -> Result<(), SnapshotError> {
    match linkat(from, name.as_bytes(), to, name.as_bytes(), AtFlags::empty()) {
        Err(Errno::MLINK) => {}
        other => return other.at("link", shown),
    }
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = openat(from, name.as_bytes(), flags | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
    let mut source = File::from(source.at("read", shown)?);
    let flags = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut copy = File::from(openat(to, name.as_bytes(), flags, Mode::RUSR | Mode::WUSR).at("copy", shown)?);
    io::copy(&mut source, &mut copy).at("copy", shown)?;
    let stat = rustix::fs::fstat(&source).at("read", shown)?;
    let owners = Owners::of_process();
    let meta = meta_of(&stat, attributes(source.as_fd()).at("read the attributes of", shown)?, owners);
    describe(copy.as_fd(), &meta, meta.mtime, owners).at("describe", shown)
}

/// What the file system says of something, with the owner from its note where the file system does not know it.
fn meta_of(stat: &Stat, found: Attributes, owners: Owners) -> Meta {
    let owner = match owners {
        Owners::Set => OwnerNote { uid: stat.st_uid, gid: stat.st_gid },
        _ => found.owner.unwrap_or(OwnerNote::ROOT),
    };
    Meta {
        mode: (stat.st_mode & 0o7777) as u16,
        uid: owner.uid,
        gid: owner.gid,
        mtime: Time { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
        xattrs: found.content,
    }
}
