//! Single files of a root file system, without mounting it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, major, minor, openat, readlinkat, statat};
use rustix::io::Errno;
use wbuild_graph::{DeltaId, Snapshot};
use wbuild_oci::{Digest, HashingWriter};
use wbuild_store::Store;
use wbuild_tree::{
    Entry, EntryPath, Lookup, Meta, Name, Node, ResolveError, Resolved, Subtree, Time, Visit, Xattrs, lookup,
    resolve, walk,
};

use crate::error::{At, SnapshotError};
use crate::face::{disk_face, tree_face};
use crate::folders::{READ, open_below};
use crate::marks::{attributes, is_whiteout};
use crate::materialise::Disk;

/// A snapshot that can be asked for single entries and files. Each delta answers with whichever of its faces is there:
/// with its tree if it is known, which has the true owners, else with its files.
///
/// Entries that come from files have no contents of directories, and no attributes. Files of a step in a user namespace
/// may need to be looked at from inside of it.
#[derive(Debug)]
pub struct View {
    store: Store,
    /// The topmost first.
    deltas: Vec<Delta>,
    /// For each directory that was asked for: the deltas that make it up, or that it is none.
    directories: Mutex<BTreeMap<EntryPath, Option<Arc<[usize]>>>>,
}

#[derive(Debug)]
struct Delta {
    id: DeltaId,
    tree: Option<Subtree>,
    disk: Option<OwnedFd>,
    implied: Vec<EntryPath>,
}

/// What one delta says about a path.
enum Said {
    Nothing,
    Gone,
    Is(Seen),
}

/// Something on disk is looked at in two steps: what it is, and what is in it.
enum Seen {
    Tree(Entry),
    Disk { stat: Stat, opaque: bool },
}

impl Seen {
    fn is_directory(&self) -> bool {
        match self {
            Self::Tree(entry) => entry.is_directory(),
            Self::Disk { stat, .. } => FileType::from_raw_mode(stat.st_mode).is_dir(),
        }
    }

    fn is_opaque(&self) -> bool {
        match self {
            Self::Tree(entry) => matches!(entry.node, Node::Directory { opaque: true, .. }),
            Self::Disk { opaque, .. } => *opaque,
        }
    }
}

impl View {
    /// A view of a snapshot. Reads nothing but where the faces are.
    ///
    /// # Errors
    /// [`SnapshotError::NoFace`] when a delta has neither face.
    pub fn new(store: &Store, snapshot: &Snapshot, disk: Disk) -> Result<Self, SnapshotError> {
        let mut deltas = Vec::with_capacity(snapshot.deltas.len());
        for id in snapshot.deltas.iter().rev() {
            let face = tree_face(store, id)?;
            // The contents of a tree's files are in the store, so its files on disk have nothing to add.
            let complete = matches!(id, DeltaId::Tree { .. }) && face.is_some();
            let folder = match if complete { None } else { disk_face(store, id, disk)? } {
                Some(folder) => {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    Some(openat(CWD, folder.fs(), flags, Mode::empty()).at("open", &folder.fs())?)
                }
                None => None,
            };
            if folder.is_none() && face.is_none() {
                return Err(SnapshotError::NoFace { delta: id.name(), face: "disk" });
            }
            let (tree, opaque_root, implied) = match face {
                Some(face) => (Some(store.tree(face.tree)?), face.opaque_root, face.implied),
                None => (None, false, Vec::new()),
            };
            deltas.push(Delta { id: *id, tree, disk: folder, implied });
            if opaque_root {
                break;
            }
        }
        Ok(Self { store: store.clone(), deltas, directories: Mutex::default() })
    }

    /// Follows a path inside the root, as a process would that has it as its root.
    ///
    /// # Errors
    /// When that cannot be found out, or the path leads nowhere.
    pub fn resolve(&self, path: &EntryPath) -> Result<Resolved, SnapshotError> {
        Ok(resolve(self, path, true)?)
    }

    /// Reads a regular file of at most `cap` bytes, following links inside the root. `None` when there is none.
    ///
    /// # Errors
    /// When it is larger, or something else than a regular file; pipes and devices are never opened.
    pub fn read_file(&self, path: &EntryPath, cap: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
        let resolved = match resolve(self, path, true) {
            Ok(resolved) => resolved,
            Err(ResolveError::NotADirectory { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !resolved.exists() {
            return Ok(None);
        }
        let size = match resolved.entry.as_ref().map(|entry| &entry.node) {
            Some(Node::File { size, .. }) => *size,
            _ => return Err(SnapshotError::NotAFile { path: path.clone() }),
        };
        if size > cap {
            return Err(SnapshotError::TooLarge { path: path.clone(), size, cap });
        }
        let mut bytes = Vec::with_capacity(size as usize);
        self.open(&resolved.path)?.take(cap + 1).read_to_end(&mut bytes).at("read", &path.to_path_buf())?;
        if bytes.len() as u64 > cap {
            return Err(SnapshotError::TooLarge { path: path.clone(), size: bytes.len() as u64, cap });
        }
        Ok(Some(bytes))
    }

    /// Opens the regular file at `path`, which has no links in it: from the disk, or from the blob, checked while read.
    ///
    /// # Errors
    /// When it is none, or its content is nowhere.
    pub fn open(&self, path: &EntryPath) -> Result<Box<dyn Read + Send>, SnapshotError> {
        let (delta, seen) = self.find(path)?.ok_or_else(|| SnapshotError::NotFound { path: path.clone() })?;
        let delta = &self.deltas[delta];
        if let Seen::Tree(Entry { node: Node::File { content, .. }, .. }) = &seen
            && (self.store.holds_blob(content)? || delta.disk.is_none())
        {
            return Ok(Box::new(self.store.open_blob(content)?.reader()));
        }
        Ok(Box::new(self.open_on_disk(delta, path)?))
    }

    /// Puts the contents of `entry`, found at `path`, into the blob store: all files below it, if it is a directory. Base
    /// layers are only unpacked to disk, so this is what has to be done before something of one is copied elsewhere.
    ///
    /// # Errors
    /// [`wbuild_store::StoreError::DigestMismatch`] when a file on disk is not what the tree says.
    pub fn bring_contents(&self, path: &EntryPath, entry: &Entry) -> Result<(), SnapshotError> {
        let bring = |path: &EntryPath, entry: &Entry| -> Result<(), SnapshotError> {
            let Node::File { content, .. } = &entry.node else { return Ok(()) };
            if self.store.holds_blob(content)? {
                return Ok(());
            }
            let (delta, _) =
                self.find(path)?.ok_or_else(|| SnapshotError::NotFound { path: path.clone() })?;
            let delta = &self.deltas[delta];
            if delta.disk.is_none() && self.store.has_blob(content)? {
                // Upstream; it comes when somebody reads it.
                return Ok(());
            }
            let file = self.open_on_disk(delta, path)?;
            self.store.put_file(&file, &path.to_path_buf(), Some(content))?;
            Ok(())
        };
        bring(path, entry)?;
        let Some(contents) = entry.contents() else { return Ok(()) };
        walk(&self.store, contents, &mut |below, entry| {
            bring(&path.join_path(below), entry)?;
            Ok::<_, SnapshotError>(Visit::Into)
        })
    }

    /// The same view, for those who only ask what things are.
    pub const fn outline(&self) -> Outline<'_> {
        Outline(self)
    }

    /// The deltas that `path`, which has no links in it, is made of, the topmost first: all those that a directory is
    /// merged from, or the one that anything else is in. Empty when there is nothing.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn made_of(&self, path: &EntryPath) -> Result<Vec<DeltaId>, SnapshotError> {
        let indices: Arc<[usize]> = match self.find(path)? {
            Some((_, seen)) if seen.is_directory() => self.directory(path)?.unwrap_or_default(),
            Some((index, _)) => [index].into(),
            None if path.is_root() => (0..self.deltas.len()).collect(),
            None => return Ok(Vec::new()),
        };
        Ok(indices.iter().map(|index| self.deltas[*index].id).collect())
    }

    /// The names in the directory at `path`, which has no links in it, and whether each is a directory. Empty when it is
    /// none.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn list(&self, path: &EntryPath) -> Result<BTreeMap<Name, bool>, SnapshotError> {
        // `None` is a name that is gone.
        let mut names: BTreeMap<Name, Option<bool>> = BTreeMap::new();
        for &index in self.directory(path)?.iter().flat_map(|deltas| deltas.iter()) {
            for (name, said) in self.deltas[index].list(&self.store, path)? {
                names.entry(name).or_insert(said);
            }
        }
        Ok(names.into_iter().filter_map(|(name, directory)| Some((name, directory?))).collect())
    }

    fn open_on_disk(&self, delta: &Delta, path: &EntryPath) -> Result<File, SnapshotError> {
        let disk = delta
            .disk
            .as_ref()
            .ok_or_else(|| SnapshotError::NoFace { delta: delta.id.name(), face: "disk" })?;
        let not_a_file = || SnapshotError::NotAFile { path: path.clone() };
        let (parent, name) = path.split_last().ok_or_else(not_a_file)?;
        let shown = path.to_path_buf();
        let directory = open_below(disk.as_fd(), &parent, OFlags::PATH).at("read", &shown)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // Asked before it is opened: opening a device can do things.
        let stat = statat(&directory, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW).at("read", &shown)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(not_a_file());
        }
        let file = File::from(openat(&directory, name.as_bytes(), flags, Mode::empty()).at("read", &shown)?);
        if file.metadata().at("read", &shown)?.is_file() { Ok(file) } else { Err(not_a_file()) }
    }

    /// What is at `path`, and in which delta.
    fn find(&self, path: &EntryPath) -> Result<Option<(usize, Seen)>, SnapshotError> {
        let Some((parent, name)) = path.split_last() else { return Ok(None) };
        let Some(deltas) = self.directory(&parent)? else { return Ok(None) };
        for &index in &*deltas {
            match self.deltas[index].say(&self.store, &parent, &name)? {
                Said::Nothing => {}
                Said::Gone => return Ok(None),
                Said::Is(seen) => return Ok(Some((index, seen))),
            }
        }
        Ok(None)
    }

    /// The deltas that make up the directory at `path`, the topmost first; `None` when there is no such directory.
    fn directory(&self, path: &EntryPath) -> Result<Option<Arc<[usize]>>, SnapshotError> {
        let known = |path: &EntryPath| {
            self.directories.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
        };
        if let Some(known) = known(path) {
            return Ok(known);
        }
        let mut here = EntryPath::root();
        let mut deltas: Option<Arc<[usize]>> = Some((0..self.deltas.len()).collect());
        for name in path.components() {
            let below = here.join(&name);
            deltas = match (known(&below), deltas) {
                (Some(known), _) => known,
                (None, None) => None,
                (None, Some(deltas)) => {
                    let found = self.descend(&deltas, &here, &name)?;
                    let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
                    directories.insert(below.clone(), found.clone());
                    found
                }
            };
            here = below;
        }
        Ok(deltas)
    }

    /// Which of the deltas that make up `parent` make up the directory `name` in it.
    fn descend(
        &self,
        deltas: &[usize],
        parent: &EntryPath,
        name: &Name,
    ) -> Result<Option<Arc<[usize]>>, SnapshotError> {
        let mut found = Vec::new();
        for &index in deltas {
            match self.deltas[index].say(&self.store, parent, name)? {
                Said::Nothing => {}
                Said::Is(seen) if seen.is_directory() => {
                    found.push(index);
                    if seen.is_opaque() {
                        break;
                    }
                }
                Said::Is(_) | Said::Gone => break,
            }
        }
        Ok((!found.is_empty()).then(|| found.into()))
    }

    fn entry_of(&self, index: usize, path: &EntryPath, seen: Seen) -> Result<Entry, SnapshotError> {
        let on_disk = matches!(seen, Seen::Disk { .. });
        let mut entry = self.outline_of(index, path, seen)?;
        if on_disk && let Node::File { content, size, .. } = &mut entry.node {
            let mut hasher = HashingWriter::new(io::sink());
            let mut file = self.open_on_disk(&self.deltas[index], path)?;
            io::copy(&mut file, &mut hasher).at("read", &path.to_path_buf())?;
            (*content, *size, _) = hasher.finish();
        }
        Ok(entry)
    }

    /// The entry, without looking into a file on disk.
    fn outline_of(&self, index: usize, path: &EntryPath, seen: Seen) -> Result<Entry, SnapshotError> {
        let (stat, opaque) = match seen {
            Seen::Tree(entry) => return Ok(entry),
            Seen::Disk { stat, opaque } => (stat, opaque),
        };
        let delta = &self.deltas[index];
        let shown = path.to_path_buf();
        let mut meta = Meta {
            mode: (stat.st_mode & 0o7777) as u16,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Time { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
            xattrs: Xattrs::none(),
        };
        let device = (major(stat.st_rdev), minor(stat.st_rdev));
        let node = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Node::Directory { contents: Subtree::empty(), opaque },
            FileType::RegularFile => {
                Node::File { content: Digest::of(b""), size: stat.st_size.cast_unsigned(), link: None }
            }
            FileType::Symlink => {
                meta.mode = 0o777;
                let (parent, name) = path.split_last().ok_or(Errno::ISDIR).at("read the link", &shown)?;
                let disk = delta.disk.as_ref().ok_or(Errno::NOENT).at("read the link", &shown)?;
                let directory =
                    open_below(disk.as_fd(), &parent, OFlags::PATH).at("read the link", &shown)?;
                let target =
                    readlinkat(&directory, name.as_bytes(), Vec::new()).at("read the link", &shown)?;
                Node::Symlink { target: target.into_bytes().into_boxed_slice() }
            }
            FileType::CharacterDevice => Node::CharDevice { major: device.0, minor: device.1 },
            FileType::BlockDevice => Node::BlockDevice { major: device.0, minor: device.1 },
            // A socket cannot be in an image; to those who look, it is something that is no file.
            _ => Node::Fifo,
        };
        Ok(Entry { meta, node })
    }

    /// The entry at `path`, made by `of` from what a delta says.
    fn look(
        &self,
        path: &EntryPath,
        of: impl Fn(usize, &EntryPath, Seen) -> Result<Entry, SnapshotError>,
    ) -> Result<Option<Entry>, SnapshotError> {
        let Some((index, seen)) = self.find(path)? else { return Ok(None) };
        let mut entry = of(index, path, seen)?;
        if entry.is_directory() && self.deltas[index].implied.contains(path) {
            // This layer says nothing of the directory itself; the next one that has it does.
            let Some((parent, name)) = path.split_last() else { return Ok(Some(entry)) };
            for &below in self.directory(path)?.iter().flat_map(|deltas| deltas.iter()) {
                if self.deltas[below].implied.contains(path) {
                    continue;
                }
                if let Said::Is(seen) = self.deltas[below].say(&self.store, &parent, &name)? {
                    entry.meta = of(below, path, seen)?.meta;
                    break;
                }
            }
        }
        Ok(Some(entry))
    }
}

/// A [`View`] for those who only ask what things are: no file is read, and those on disk have the digest of nothing.
#[derive(Clone, Copy, Debug)]
pub struct Outline<'a>(&'a View);

impl Lookup for Outline<'_> {
    type Error = SnapshotError;

    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, SnapshotError> {
        self.0.look(path, |index, path, seen| self.0.outline_of(index, path, seen))
    }
}

impl Delta {
    /// What this delta alone says about the names in a directory: each is a directory or not, or gone.
    fn list(&self, store: &Store, path: &EntryPath) -> Result<Vec<(Name, Option<bool>)>, SnapshotError> {
        if let Some(tree) = &self.tree {
            let contents = match lookup(store, tree, path)? {
                Some(Entry { node: Node::Directory { contents, .. }, .. }) => contents,
                _ if path.is_root() => tree.clone(),
                _ => return Ok(Vec::new()),
            };
            let said = |entry: &Entry| match entry.node {
                Node::Whiteout => None,
                _ => Some(entry.is_directory()),
            };
            let directory = contents.open(store)?;
            return Ok(directory.entries.iter().map(|(name, entry)| (name.clone(), said(entry))).collect());
        }
        let Some(disk) = &self.disk else { return Ok(Vec::new()) };
        let shown = path.to_path_buf();
        let directory = open_below(disk.as_fd(), path, READ).at("read", &shown)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).at("read", &shown)? {
            let entry = entry.at("read", &shown)?;
            let Ok(name) = Name::new(entry.file_name().to_bytes()) else { continue };
            let said = match entry.file_type() {
                FileType::Directory => Some(true),
                FileType::RegularFile | FileType::Symlink => Some(false),
                _ => {
                    let stat =
                        statat(&directory, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW).at("read", &shown)?;
                    let kind = FileType::from_raw_mode(stat.st_mode);
                    (!is_whiteout(kind, stat.st_rdev)).then_some(kind.is_dir())
                }
            };
            names.push((name, said));
        }
        Ok(names)
    }

    fn say(&self, store: &Store, parent: &EntryPath, name: &Name) -> Result<Said, SnapshotError> {
        let path = parent.join(name);
        if let Some(tree) = &self.tree {
            return Ok(match lookup(store, tree, &path)? {
                None => Said::Nothing,
                Some(Entry { node: Node::Whiteout, .. }) => Said::Gone,
                Some(entry) => Said::Is(Seen::Tree(entry)),
            });
        }
        let Some(disk) = &self.disk else { return Ok(Said::Nothing) };
        let shown = path.to_path_buf();
        let directory = match open_below(disk.as_fd(), parent, OFlags::PATH) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Said::Nothing),
            Err(error) => return Err(error).at("read", &shown),
        };
        let stat = match statat(&directory, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Said::Nothing),
            Err(error) => return Err(error).at("read", &shown),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if is_whiteout(kind, stat.st_rdev) {
            return Ok(Said::Gone);
        }
        let mut opaque = false;
        if kind.is_dir() {
            let here = open_below(disk.as_fd(), &path, READ).at("read", &shown)?;
            opaque = attributes(here.as_fd()).at("read the attributes of", &shown)?.opaque;
        }
        Ok(Said::Is(Seen::Disk { stat, opaque }))
    }
}

impl Lookup for View {
    type Error = SnapshotError;

    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, SnapshotError> {
        self.look(path, |index, path, seen| self.entry_of(index, path, seen))
    }
}
