//! A tree as plain files in a folder of the user's. Everything is made through descriptors of directories that were opened
//! without following links, and under a name of its own before it takes its place: neither links of the tree nor links
//! that lie in the folder lead anything outside of it.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Timespec, Timestamps, chmod, chmodat, fchmod, futimens,
    linkat, makedev, mkdirat, mknodat, openat, renameat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use wbuild_layer::Times;
use wbuild_oci::Digest;
use wbuild_store::{Store, remove_tree};
use wbuild_tree::{Entry, EntryPath, LinkId, Meta, Name, Node, Subtree, Time, Visit, walk};

use super::{Existing, FilesWritten, OutputError, check_files_folder};
use crate::error::EngineError;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Writes `tree` into the folder at `path`.
pub(super) fn write_folder(
    store: &Store,
    tree: &Subtree,
    times: Times,
    path: &Path,
    existing: Existing,
) -> Result<FilesWritten, EngineError> {
    check_files_folder(path)?;
    fs::create_dir_all(path).map_err(|source| failed("create", path, source))?;
    // The path to the folder may lead through links: it is the user's.
    let root = openat(CWD, path, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())
        .map_err(|error| failed("open", path, error.into()))?;
    let mut writer = Writer {
        store,
        times,
        shown: path,
        root,
        existing,
        parent: None,
        temporary: 0,
        groups: BTreeMap::new(),
        directories: Vec::new(),
        written: FilesWritten::default(),
    };
    if existing == Existing::Delete {
        writer.delete_others(&EntryPath::root(), tree)?;
    }
    walk(store, tree, &mut |path, entry| writer.entry(path, entry).map(|()| Visit::Into))?;
    writer.finish()
}

struct Writer<'a> {
    store: &'a Store,
    times: Times,
    /// What the folder is called in messages.
    shown: &'a Path,
    root: OwnedFd,
    existing: Existing,
    /// The directory that was used last, held open.
    parent: Option<(EntryPath, OwnedFd)>,
    temporary: u64,
    /// The first name of each group of hard links. Grafted subtrees repeat numbers, so contents and metadata count too.
    groups: BTreeMap<(LinkId, Digest), (EntryPath, Meta)>,
    /// They get their modes and times when everything is in them.
    directories: Vec<(EntryPath, Meta)>,
    written: FilesWritten,
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> EngineError {
    OutputError::Io { action, path: path.to_owned(), source }.into()
}

impl Writer<'_> {
    fn shown(&self, path: &EntryPath) -> PathBuf {
        self.shown.join(path.to_path_buf())
    }

    fn at<T>(
        &self,
        action: &'static str,
        path: &EntryPath,
        result: Result<T, Errno>,
    ) -> Result<T, EngineError> {
        result.map_err(|error| failed(action, &self.shown(path), error.into()))
    }

    /// Opens a directory below the root, name by name, through no link.
    fn open(&self, path: &EntryPath) -> Result<OwnedFd, Errno> {
        let mut here = openat(&self.root, ".", DIRECTORY, Mode::empty())?;
        for name in path.components() {
            here = openat(&here, name.as_bytes(), DIRECTORY, Mode::empty())?;
        }
        Ok(here)
    }

    /// The directory that `path` lies in, held open, and its name there.
    fn parent_of(&mut self, path: &EntryPath) -> Result<(BorrowedFd<'_>, Name), EngineError> {
        let Some((parent, name)) = path.split_last() else {
            return Err(failed("replace", self.shown, Errno::BUSY.into()));
        };
        let held = match self.parent.take() {
            Some(held) if held.0 == parent => held,
            _ => {
                let directory = self.at("open", &parent, self.open(&parent))?;
                (parent, directory)
            }
        };
        Ok((self.parent.insert(held).1.as_fd(), name))
    }

    /// A name for something that is not finished.
    fn fresh(&mut self) -> String {
        self.temporary += 1;
        format!(".wbuild-{}-{}", std::process::id(), self.temporary)
    }

    fn time(&self, time: Time) -> Time {
        match self.times {
            Times::Fixed(seconds) => Time { seconds, nanos: 0 },
            Times::Keep => time,
        }
    }

    fn entry(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), EngineError> {
        match &entry.node {
            Node::Directory { contents, .. } => self.directory(path, &entry.meta, contents)?,
            Node::File { content, size, link } => self.file(path, &entry.meta, content, *size, *link)?,
            Node::Symlink { target } => {
                self.place(path, &entry.meta, |parent, name| symlinkat(&**target, parent, name))?;
            }
            Node::Fifo => self.node(path, &entry.meta, FileType::Fifo, 0)?,
            Node::CharDevice { major, minor } => {
                self.node(path, &entry.meta, FileType::CharacterDevice, makedev(*major, *minor))?;
            }
            Node::BlockDevice { major, minor } => {
                self.node(path, &entry.meta, FileType::BlockDevice, makedev(*major, *minor))?;
            }
            // A whole root file system hides nothing.
            Node::Whiteout => return Ok(()),
        }
        self.written.entries += 1;
        Ok(())
    }

    /// Makes a directory, or takes the one that is there; anything else that is there goes.
    fn directory(&mut self, path: &EntryPath, meta: &Meta, contents: &Subtree) -> Result<(), EngineError> {
        let (parent, name) = self.parent_of(path)?;
        let name = name.as_bytes();
        let made = match mkdirat(parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => match is_directory(parent, name) {
                Ok(true) => {
                    // Ours, but perhaps not writable; it gets its mode at the end.
                    // By its descriptor, which is that of a directory and of no link.
                    openat(parent, name, DIRECTORY.union(OFlags::PATH), Mode::empty()).and_then(|directory| {
                        chmod(format!("/proc/self/fd/{}", directory.as_raw_fd()), Mode::RWXU)
                    })
                }
                Ok(false) => {
                    unlinkat(parent, name, AtFlags::empty()).and_then(|()| mkdirat(parent, name, Mode::RWXU))
                }
                Err(error) => Err(error),
            },
            other => other,
        };
        self.at("create", path, made)?;
        self.directories.push((path.clone(), meta.clone()));
        if self.existing == Existing::Delete {
            self.delete_others(path, contents)?;
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &EntryPath,
        meta: &Meta,
        content: &Digest,
        size: u64,
        link: Option<LinkId>,
    ) -> Result<(), EngineError> {
        if let Some(link) = link {
            match self.groups.get(&(link, *content)) {
                Some((first, first_meta)) if first_meta == meta => {
                    let first = first.clone();
                    return self.link(path, &first);
                }
                Some(_) => {}
                None => {
                    self.groups.insert((link, *content), (path.clone(), meta.clone()));
                }
            }
        }
        let temporary = self.fresh();
        let (parent, name) = self.parent_of(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(parent, temporary.as_str(), flags, Mode::RUSR | Mode::WUSR);
        let parent = parent.try_clone_to_owned().map_err(|source| failed("open", self.shown, source))?;
        let file = self.at("create", path, opened)?;
        let filled = self.fill(path, &fs::File::from(file), meta, content, size);
        let placed = filled.and_then(|()| self.put(path, &parent, &temporary, &name));
        if placed.is_err() {
            // The error that matters is the first one.
            let _ = unlinkat(&parent, temporary.as_str(), AtFlags::empty());
        }
        placed
    }

    fn fill(
        &mut self,
        path: &EntryPath,
        file: &fs::File,
        meta: &Meta,
        content: &Digest,
        size: u64,
    ) -> Result<(), EngineError> {
        if size > 0 {
            let mut reader = self.store.open_blob(content)?.reader();
            let mut buffer = vec![0; 128 << 10];
            loop {
                let read = match reader.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(failed("read the content of", &self.shown(path), error)),
                };
                io::Write::write_all(&mut &*file, &buffer[..read])
                    .map_err(|source| failed("write", &self.shown(path), source))?;
                self.written.bytes += read as u64;
            }
        }
        self.at("set the mode of", path, fchmod(file, mode(meta)))?;
        self.at("set the time of", path, futimens(file, &timestamps(self.time(meta.mtime))))
    }

    fn link(&mut self, path: &EntryPath, first: &EntryPath) -> Result<(), EngineError> {
        let Some((from, from_name)) = first.split_last() else { return Ok(()) };
        let from = self.at("open", &from, self.open(&from))?;
        self.placed(path, |parent, name| linkat(&from, from_name.as_bytes(), parent, name, AtFlags::empty()))
    }

    /// What only root can make is passed over for others.
    fn node(
        &mut self,
        path: &EntryPath,
        meta: &Meta,
        kind: FileType,
        device: u64,
    ) -> Result<(), EngineError> {
        if kind != FileType::Fifo && !rustix::process::geteuid().is_root() {
            self.written.skipped.push(path.clone());
            return Ok(());
        }
        let made = self.place(path, meta, |parent, name| mknodat(parent, name, kind, Mode::RUSR, device));
        match made {
            // Root of a user namespace, or of a container that may make none.
            Err(EngineError::Output(OutputError::Io { source, .. }))
                if source.kind() == io::ErrorKind::PermissionDenied && kind != FileType::Fifo =>
            {
                self.written.skipped.push(path.clone());
                Ok(())
            }
            other => other,
        }
    }

    /// Makes something that cannot be opened, with its mode and time.
    fn place(
        &mut self,
        path: &EntryPath,
        meta: &Meta,
        make: impl FnOnce(BorrowedFd<'_>, &str) -> Result<(), Errno>,
    ) -> Result<(), EngineError> {
        let times = timestamps(self.time(meta.mtime));
        self.placed(path, |parent, name| {
            make(parent, name)?;
            // Links have no modes.
            if statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Symlink)
            {
                chmodat(parent, name, mode(meta), AtFlags::empty())?;
            }
            utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Makes something under a name of its own and puts it in its place.
    fn placed(
        &mut self,
        path: &EntryPath,
        make: impl FnOnce(BorrowedFd<'_>, &str) -> Result<(), Errno>,
    ) -> Result<(), EngineError> {
        let temporary = self.fresh();
        let (parent, name) = self.parent_of(path)?;
        let made = make(parent, &temporary);
        let parent = parent.try_clone_to_owned().map_err(|source| failed("open", self.shown, source))?;
        let placed = self.at("create", path, made).and_then(|()| self.put(path, &parent, &temporary, &name));
        if placed.is_err() {
            let _ = unlinkat(&parent, temporary.as_str(), AtFlags::empty());
        }
        placed
    }

    /// Gives something its name. What had it goes, unless it is a directory.
    fn put(
        &self,
        path: &EntryPath,
        parent: &OwnedFd,
        temporary: &str,
        name: &Name,
    ) -> Result<(), EngineError> {
        match renameat(parent, temporary, parent, name.as_bytes()) {
            Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
                Err(OutputError::InTheWay { path: self.shown(path) }.into())
            }
            other => self.at("replace", path, other),
        }
    }

    /// Removes what a directory holds and the result does not have as the same kind of thing.
    fn delete_others(&mut self, path: &EntryPath, contents: &Subtree) -> Result<(), EngineError> {
        let wanted = contents.open(self.store)?;
        let directory = self.at("open", path, self.open(path))?;
        let mut others: Vec<(CString, bool)> = Vec::new();
        for entry in self.at("read", path, Dir::read_from(&directory))? {
            let entry = self.at("read", path, entry)?;
            let bytes = entry.file_name().to_bytes();
            if matches!(bytes, b"." | b"..") {
                continue;
            }
            let is_directory = self.at("read", path, is_directory(directory.as_fd(), bytes))?;
            let stays = Name::new(bytes)
                .ok()
                .and_then(|name| wanted.entries.get(&name))
                .is_some_and(|entry| is_directory == entry.is_directory());
            if !stays {
                others.push((entry.file_name().to_owned(), is_directory));
            }
        }
        for (name, is_directory) in others {
            if is_directory {
                // Through the descriptor: nobody can put another directory in this one's place meanwhile.
                let here = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
                remove_tree(&here.join(OsStr::from_bytes(name.to_bytes())))?;
            } else {
                self.at("remove", path, unlinkat(&directory, &name, AtFlags::empty()))?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<FilesWritten, EngineError> {
        self.parent = None;
        for (path, meta) in std::mem::take(&mut self.directories).iter().rev() {
            let directory = self.at("open", path, self.open(path))?;
            self.at("set the mode of", path, fchmod(&directory, mode(meta)))?;
            let times = timestamps(self.time(meta.mtime));
            self.at("set the time of", path, futimens(&directory, &times))?;
        }
        Ok(self.written)
    }
}

fn is_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn mode(meta: &Meta) -> Mode {
    Mode::from_raw_mode(meta.mode.into())
}

fn timestamps(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
