use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use serde::Serialize;
use wbuild_oci::Digest;

use crate::delta::{DELTAS, MOUNTS};
use crate::error::{At, StoreError};
use crate::layout::Area;
use crate::store::Store;

/// How much there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UsageOf {
    /// How many.
    pub count: u64,
    /// Bytes on the disk.
    pub bytes: u64,
}

impl UsageOf {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What the store takes on the disk. Inodes with several names are counted once, as pool where they are in the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Blobs.
    pub blobs: UsageOf,
    /// Tree objects.
    pub trees: UsageOf,
    /// Records.
    pub records: UsageOf,
    /// Inodes that disk faces share.
    pub pool: UsageOf,
    /// Disk faces of deltas.
    pub deltas: UsageOf,
    /// Cache mounts.
    pub mounts: UsageOf,
    /// Work of running builds, and of ones that died and were not swept yet.
    pub work: UsageOf,
    /// Logs and indexes.
    pub other: UsageOf,
}

impl Usage {
    /// All of it, in bytes.
    pub const fn total(&self) -> u64 {
        self.blobs.bytes
            + self.trees.bytes
            + self.records.bytes
            + self.pool.bytes
            + self.deltas.bytes
            + self.mounts.bytes
            + self.work.bytes
            + self.other.bytes
    }
}

/// Bytes that a file takes on the disk.
pub(crate) const fn disk_bytes(stat: &Stat) -> u64 {
    stat.st_blocks as u64 * 512
}

impl Store {
    /// Looks at every file. Takes a second per some hundred thousand files.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        let folder = |name: &str| self.layout().folder(name);
        let count = |folder: &Path, into: &mut UsageOf| {
            each_sharded(folder, &mut |_, stat| {
                into.add(disk_bytes(stat));
                Ok(())
            })
        };
        count(&folder("blobs/sha256"), &mut usage.blobs)?;
        count(&folder("trees"), &mut usage.trees)?;
        count(&folder("records"), &mut usage.records)?;
        let mut seen = HashSet::new();
        // Inodes that have several names are counted with the first.
        each_sharded(&folder("pool"), &mut |_, stat| {
            seen.insert(stat.st_ino);
            usage.pool.add(disk_bytes(stat));
            Ok(())
        })?;
        let mut first = |stat: &Stat| stat.st_nlink == 1 || seen.insert(stat.st_ino);
        let areas = [(DELTAS, &mut usage.deltas), (MOUNTS, &mut usage.mounts), ("work", &mut usage.work)];
        for (name, into) in areas {
            for path in children(&folder(name))? {
                into.add(walk_bytes(&path, &mut first)?);
            }
        }
        for path in children(&folder("trash"))? {
            usage.work.add(walk_bytes(&path, &mut first)?);
        }
        for area in Area::ALL {
            for path in children(&self.layout().area(area))? {
                usage.other.add(walk_bytes(&path, &mut first)?);
            }
        }
        Ok(usage)
    }
}

/// The entries of a folder; none when there is no such folder.
pub(crate) fn children(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.at("read", folder)?.path())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error).at("read", folder),
    }
}

/// Calls `visit` for everything in `folder/??/` whose name is a digest.
pub(crate) fn each_sharded(
    folder: &Path,
    visit: &mut dyn FnMut(Digest, &Stat) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for shard in children(folder)? {
        let Some(directory) = open_directory(&shard)? else { continue };
        for entry in Dir::read_from(&directory).at("read", &shard)? {
            let entry = entry.at("read", &shard)?;
            let Some(digest) = entry.file_name().to_str().ok().and_then(|name| Digest::from_hex(name).ok())
            else {
                continue;
            };
            match statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => visit(digest, &stat)?,
                // Removed meanwhile.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error).at("read", &shard.join(digest.hex())),
            }
        }
    }
    Ok(())
}

fn open_directory(path: &Path) -> Result<Option<OwnedFd>, StoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(CWD, path, flags, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error).at("read", path),
    }
}

/// Levels below one open directory: a step may have made a tree that is thousands of levels deep, whose paths are longer
/// than the kernel takes, and whose directories are more than may be open at a time. Fifteen names fit into a path.
const LEVELS: usize = 15;

/// A directory still to be walked: where to open it from, and the way from there.
struct Below {
    anchor: Rc<OwnedFd>,
    names: Vec<CString>,
}

/// Bytes of everything at and below `path`, of files only those that `counts` says yes to. Follows no links. Directories
/// that may not be read (a step took the right away) count without what is in them.
pub(crate) fn walk_bytes(path: &Path, counts: &mut dyn FnMut(&Stat) -> bool) -> Result<u64, StoreError> {
    let mut bytes = 0;
    let mut count = |stat: &Stat| {
        let directory = FileType::from_raw_mode(stat.st_mode).is_dir();
        if directory || counts(stat) {
            bytes += disk_bytes(stat);
        }
        directory
    };
    match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if count(&stat) => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(bytes),
        Err(error) => return Err(error).at("read", path),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(top) = openat(CWD, path, flags, Mode::empty()) else { return Ok(bytes) };
    let mut pending = vec![Below { anchor: Rc::new(top), names: Vec::new() }];
    while let Some(Below { anchor, names }) = pending.pop() {
        let way =
            names.iter().fold(PathBuf::from("."), |way, name| way.join(OsStr::from_bytes(name.to_bytes())));
        let directory = match openat(&*anchor, &way, flags, Mode::empty()) {
            Ok(directory) => Rc::new(directory),
            Err(Errno::ACCESS | Errno::NOENT) => continue,
            Err(error) => return Err(error).at("read", &path.join(way)),
        };
        let (anchor, names) =
            if names.len() < LEVELS { (anchor, names) } else { (Rc::clone(&directory), Vec::new()) };
        for entry in Dir::read_from(&*directory).at("read", &path.join(&way))? {
            let entry = entry.at("read", &path.join(&way))?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            match statat(&*directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    if count(&stat) {
                        let mut names = names.clone();
                        names.push(entry.file_name().to_owned());
                        pending.push(Below { anchor: Rc::clone(&anchor), names });
                    }
                }
                Err(Errno::NOENT | Errno::ACCESS) => {}
                Err(error) => return Err(error).at("read", &path.join(&way)),
            }
        }
    }
    Ok(bytes)
}
