use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use wbuild_oci::Digest;
use wbuild_tree::{Entry, EntryPath, Meta, Name, Node, Time};

use crate::archive::{Archive, ArchiveData};
use crate::blob::Expected;
use crate::overlay;
use crate::owner_note::OwnerNote;
use crate::read::{Face, LayerError, LayerTree, ReadOptions, Whiteouts, read_entries, read_layer};
use crate::stage::{Action, Placement, Stage};

/// Whether files on disk get the owners that the layer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// Yes; for root, or the root of a user namespace that maps all ids of the layer.
    Set,
    /// No: everything belongs to this process, and devices and privileged attributes are left out. Files and directories
    /// get an [`OwnerNote`]. The tree face still has everything.
    Note,
    /// No, and nobody will ask: as [`Note`](Self::Note), without notes.
    Skip,
}

impl Owners {
    /// What this process can do: [`Set`](Self::Set) for root, else [`Note`](Self::Note).
    pub fn of_process() -> Self {
        if rustix::process::geteuid().is_root() { Self::Set } else { Self::Note }
    }
}

/// How a layer is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct UnpackOptions {
    /// How it is read.
    pub read: ReadOptions,
    /// Whose files are made.
    pub owners: Owners,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self { read: ReadOptions::default(), owners: Owners::of_process() }
    }
}

/// A layer on disk.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// Its tree face: complete, whatever the disk could not hold.
    pub layer: LayerTree,
    /// Devices that are not on disk.
    pub without_devices: Vec<EntryPath>,
    /// Entries that lack an extended attribute on disk.
    pub without_xattrs: Vec<EntryPath>,
}

/// Unpacks a layer into `target`, an empty directory of its own, as a lower directory of an overlay: whiteouts are devices
/// 0:0, opaque directories have `user.overlay.opaque`, and nothing outside `target` is read, written or removed, whatever
/// the layer says.
///
/// Modes, times and attributes are set, owners as [`Owners`] says. On an error the target holds garbage: remove it.
///
/// # Errors
/// When the layer is damaged, hostile, over a limit, or not the expected one, or when the disk fails.
pub fn unpack(
    blob: impl Read + Send,
    expected: &Expected,
    target: BorrowedFd<'_>,
    options: &UnpackOptions,
) -> Result<Unpacked, LayerError> {
    let mut face = DiskFace::new(target, options.owners);
    let layer = read_layer(blob, expected, &options.read, &mut face)?;
    Ok(Unpacked { layer, without_devices: face.without_devices, without_xattrs: face.without_xattrs })
}

/// An archive on disk that is no layer.
#[derive(Clone, Debug, Default)]
pub struct Unarchived {
    /// The newest time of an entry.
    pub newest: Option<Time>,
    /// Devices that are not on disk.
    pub without_devices: Vec<EntryPath>,
}

/// Unpacks an archive that is no layer into `target`, as [`unpack`] does with a layer; what would be a whiteout is refused,
/// since nothing is meant to be hidden here.
///
/// # Errors
/// As there.
pub fn unpack_archive<R: Read>(
    archive: &mut Archive<R>,
    target: BorrowedFd<'_>,
    owners: Owners,
) -> Result<Unarchived, LayerError> {
    let mut face = DiskFace::new(target, owners);
    let options = ReadOptions { whiteouts: Whiteouts::Refuse, ..ReadOptions::default() };
    read_entries(archive, &options, &mut face)?;
    Ok(Unarchived { newest: face.newest, without_devices: face.without_devices })
}

struct DiskFace<'a> {
    target: BorrowedFd<'a>,
    owners: Owners,
    /// The directory that was used last, held open; forgotten whenever something is removed.
    parent: Option<(EntryPath, OwnedFd)>,
    buffer: Vec<u8>,
    without_devices: Vec<EntryPath>,
    without_xattrs: Vec<EntryPath>,
    newest: Option<Time>,
}

/// Placements have no links in their paths, so none is followed: should the disk disagree with the stage, this fails.
const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl<'a> DiskFace<'a> {
    fn new(target: BorrowedFd<'a>, owners: Owners) -> Self {
        Self {
            target,
            owners,
            parent: None,
            buffer: vec![0; 64 << 10],
            without_devices: Vec::new(),
            without_xattrs: Vec::new(),
            newest: None,
        }
    }
}

impl DiskFace<'_> {
    /// Opens a directory below the target without following any link.
    fn open_directory(&self, path: &EntryPath, flags: OFlags) -> Result<OwnedFd, LayerError> {
        let failed = |source| disk("open", path, source);
        let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let bytes = if path.is_root() { &b"."[..] } else { path.as_bytes() };
        match rustix::fs::openat2(self.target, bytes, flags, Mode::empty(), RESOLVE) {
            // Before Linux 5.6, and in sandboxes that do not know the call.
            Err(Errno::NOSYS) => {}
            other => return other.map_err(failed),
        }
        let mut here = rustix::fs::openat(self.target, ".", flags, Mode::empty()).map_err(failed)?;
        for name in path.components() {
            here = rustix::fs::openat(&here, name.as_bytes(), flags, Mode::empty()).map_err(failed)?;
        }
        Ok(here)
    }

    /// The directory that `path` lies in, and its name there.
    fn parent_of(&mut self, path: &EntryPath) -> Result<(BorrowedFd<'_>, Name), LayerError> {
        let (parent, name) = path.split_last().ok_or_else(|| disk("replace", path, Errno::BUSY))?;
        let held = match self.parent.take() {
            Some(held) if held.0 == parent => held,
            _ => {
                let fd = self.open_directory(&parent, OFlags::PATH)?;
                (parent, fd)
            }
        };
        Ok((self.parent.insert(held).1.as_fd(), name))
    }

    /// Removes and makes what has to be before the entry itself.
    fn prepare(&mut self, placement: &Placement) -> Result<(), LayerError> {
        for removed in &placement.removed {
            self.parent = None;
            let (parent, name) = self.parent_of(&removed.path)?;
            let flags = if removed.directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            match rustix::fs::unlinkat(parent, name.as_bytes(), flags) {
                // A device that was left out.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(source) => return Err(disk("remove", &removed.path, source)),
            }
            self.parent = None;
        }
        for path in &placement.parents {
            self.make_directory(path)?;
        }
        Ok(())
    }

    /// Open to its owner until the end, when it gets its real mode.
    fn make_directory(&mut self, path: &EntryPath) -> Result<(), LayerError> {
        let (parent, name) = self.parent_of(path)?;
        rustix::fs::mkdirat(parent, name.as_bytes(), Mode::RWXU)
            .map_err(|e| disk("make the directory", path, e))
    }

    fn make(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), LayerError> {
        let owners = self.owners;
        let (what, device) = match &entry.node {
            Node::Directory { .. } => return self.make_directory(path),
            Node::File { .. } => return Ok(()),
            Node::Symlink { target } => {
                let (parent, name) = self.parent_of(path)?;
                rustix::fs::symlinkat(&**target, parent, name.as_bytes())
                    .map_err(|e| disk("make the link", path, e))?;
                return self.describe(path, entry);
            }
            Node::Whiteout => {
                let (parent, name) = self.parent_of(path)?;
                let kind = FileType::CharacterDevice;
                return rustix::fs::mknodat(parent, name.as_bytes(), kind, Mode::empty(), 0)
                    .map_err(|e| disk("make the whiteout", path, e));
            }
            Node::Fifo => (FileType::Fifo, 0),
            Node::CharDevice { major, minor } => {
                (FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
            }
            Node::BlockDevice { major, minor } => {
                (FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
            }
        };
        let is_device = what != FileType::Fifo;
        if is_device && owners != Owners::Set {
            self.without_devices.push(path.clone());
            return Ok(());
        }
        let (parent, name) = self.parent_of(path)?;
        match rustix::fs::mknodat(parent, name.as_bytes(), what, Mode::RUSR, device) {
            // The root of a user namespace.
            Err(Errno::PERM) if is_device => {
                self.without_devices.push(path.clone());
                return Ok(());
            }
            other => other.map_err(|e| disk("make the node", path, e))?,
        }
        self.describe(path, entry)
    }

    /// Owner, mode and time of what must not or cannot be opened. It was made a moment ago, in a directory that is held
    /// open and that nobody else writes to, so the name still is what was made.
    fn describe(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), LayerError> {
        let owners = self.owners;
        if !entry.meta.xattrs.is_empty() {
            self.without_xattrs.push(path.clone());
        }
        let (parent, name) = self.parent_of(path)?;
        let (name, meta) = (name.as_bytes(), &entry.meta);
        if owners == Owners::Set {
            let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| disk("set the owner of", path, e))?;
        }
        if !matches!(entry.node, Node::Symlink { .. }) {
            rustix::fs::chmodat(parent, name, mode(meta), AtFlags::empty())
                .map_err(|e| disk("set the mode of", path, e))?;
        }
        rustix::fs::utimensat(parent, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| disk("set the time of", path, e))
    }

    /// Owner, attributes, mode and time of an open file or directory, in this order: a change of owner clears set-id bits
    /// and capabilities.
    fn describe_open(&mut self, fd: BorrowedFd<'_>, path: &EntryPath, meta: &Meta) -> Result<(), LayerError> {
        match self.owners {
            Owners::Set => {
                let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
                rustix::fs::fchown(fd, Some(uid), Some(gid))
                    .map_err(|e| disk("set the owner of", path, e))?;
            }
            Owners::Note => {
                let note = OwnerNote { uid: meta.uid, gid: meta.gid };
                note.write(fd).map_err(|e| disk("note the owner of", path, e))?;
            }
            Owners::Skip => {}
        }
        let mut missing = false;
        for (name, value) in meta.xattrs.iter() {
            match rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
                Ok(()) => {}
                // Not this user's to set, or not this file system's to hold.
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS | Errno::INVAL) => missing = true,
                Err(source) => return Err(disk("set an attribute of", path, source)),
            }
        }
        if missing {
            self.without_xattrs.push(path.clone());
        }
        rustix::fs::fchmod(fd, mode(meta)).map_err(|e| disk("set the mode of", path, e))?;
        rustix::fs::futimens(fd, &times(meta.mtime)).map_err(|e| disk("set the time of", path, e))
    }
}

impl Face for DiskFace<'_> {
    fn place(&mut self, placement: &Placement, entry: Option<&Entry>) -> Result<(), LayerError> {
        self.prepare(placement)?;
        let path = &placement.path;
        self.newest = self.newest.max(entry.map(|entry| entry.meta.mtime));
        match (&placement.action, entry) {
            (Action::Nothing, _) | (Action::Make | Action::Copy(_), None) => Ok(()),
            (Action::Link(source), _) => {
                // The source's directory is opened beside the held one.
                let (from, from_name) =
                    source.split_last().ok_or_else(|| disk("link", path, Errno::ISDIR))?;
                let from = self.open_directory(&from, OFlags::PATH)?;
                let (parent, name) = self.parent_of(path)?;
                let (from_name, name) = (from_name.as_bytes(), name.as_bytes());
                rustix::fs::linkat(&from, from_name, parent, name, AtFlags::empty())
                    .map_err(|e| disk("link", path, e))
            }
            (Action::Make | Action::Copy(_), Some(entry)) => self.make(path, entry),
        }
    }

    fn file<R: Read>(
        &mut self,
        placement: &Placement,
        meta: &Meta,
        data: &mut ArchiveData<'_, R>,
    ) -> Result<Digest, LayerError> {
        self.prepare(placement)?;
        let path = &placement.path;
        self.newest = self.newest.max(Some(meta.mtime));
        let (parent, name) = self.parent_of(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name.as_bytes(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| disk("make the file", path, e))?;
        let mut hash = Sha256::new();
        loop {
            let read = data.read_some(&mut self.buffer)?;
            if read == 0 {
                break;
            }
            let mut rest = &self.buffer[..read];
            hash.update(rest);
            while !rest.is_empty() {
                match rustix::io::write(&file, rest) {
                    Ok(0) => return Err(disk("write", path, Errno::IO)),
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::INTR) => {}
                    Err(source) => return Err(disk("write", path, source)),
                }
            }
        }
        self.describe_open(file.as_fd(), path, meta)?;
        Ok(Digest::from_bytes(hash.finalize().into()))
    }

    /// Directories get their metadata last: making something in one changes its time, and may need its mode.
    fn finish(&mut self, stage: &Stage) -> Result<(), LayerError> {
        self.parent = None;
        for (path, meta, opaque) in stage.directories() {
            // The target itself keeps what it has, unless the layer says otherwise.
            let implied = Meta::new(0o755);
            let meta = match meta {
                Some(meta) => meta,
                None if path.is_root() => continue,
                None => &implied,
            };
            let directory = self.open_directory(&path, OFlags::RDONLY)?;
            if opaque {
                rustix::fs::fsetxattr(&directory, overlay::OPAQUE, b"y", XattrFlags::empty())
                    .map_err(|e| disk("mark as opaque", &path, e))?;
            }
            self.describe_open(directory.as_fd(), &path, meta)?;
        }
        Ok(())
    }
}

fn mode(meta: &Meta) -> Mode {
    Mode::from_raw_mode(meta.mode.into())
}

/// Access times are nobody's business; they get the same.
fn times(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn disk(what: &'static str, path: &EntryPath, source: Errno) -> LayerError {
    LayerError::Disk { what, path: path.clone(), source }
}
