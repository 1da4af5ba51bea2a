//! The tree face of what a step changed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rayon::prelude::*;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags, fstat, openat, readlinkat, statx};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use wbuild_layer::OwnerNote;
use wbuild_oci::{Digest, HashingWriter};
use wbuild_store::Store;
use wbuild_tree::{
    ContentDigest, Directory, Entry, EntryPath, LinkId, Meta, Name, Node, Subtree, Time, TreeDigest, Xattrs,
};

use crate::error::{At, SnapshotError};
use crate::folders::{FolderId, Folders, READ};
use crate::marks::{attributes, is_whiteout};
use crate::selection::{Patterns, Selection, Verdict};

/// Files up to this size are read into memory once and written only if their content is new.
const IN_MEMORY: u64 = 4 << 20;

/// Undeclared writes that are named.
const NAMED: usize = 200;

/// Names that mean something else in a layer.
const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// What is to be collected.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CollectRequest {
    /// The overlay's upper directory.
    pub dir: PathBuf,
    /// The state directory that contents and trees go to.
    pub store: PathBuf,
    /// Where it stands whose the files are.
    pub owners: OwnerSource,
    /// What the machine could not express, and the supervisor of the step recorded.
    pub overrides: Vec<Override>,
    /// Mount points that were made for the step.
    pub leave_out: Vec<Stub>,
    /// Which times entries get.
    pub times: CollectTimes,
    /// Only these outputs, without deletions; everything if `None`.
    pub outputs: Option<Selection>,
    /// Whether what the store has already is read in full before it is taken for there ([`Store::look_closely`]).
    pub closely: bool,
}

/// Where it stands whose a file is. An [`Override`] comes before either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OwnerSource {
    /// The file system knows.
    Disk,
    /// On its note ([`OwnerNote`]); what has none is root's.
    Notes,
}

/// Times of collected entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CollectTimes {
    /// Those on the disk.
    Keep,
    /// The normal time for all.
    Normal,
}

/// A mount point that is not the step's doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stub {
    /// Where.
    pub path: EntryPath,
    /// Whether it is a directory; else a file. Left out only while it is empty.
    pub directory: bool,
}

/// What an inode should have been, had the machine allowed it (decision 13). Fields that are `None` are as on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The inode.
    pub inode: u64,
    /// When it was made: inode numbers are used again.
    pub born: Option<(i64, u32)>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Permission bits.
    pub mode: Option<u16>,
    /// A device that stands here as something else.
    pub device: Option<Device>,
    /// The value of `security.capability`.
    pub capability: Option<Vec<u8>>,
}

/// A device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// A block device; else a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What was collected. The tree is in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectReply {
    /// The tree face.
    pub tree: TreeDigest,
    /// What keys see of it.
    pub content: ContentDigest,
    /// Entries in it.
    pub entries: u64,
    /// Sizes of its files.
    pub bytes: u64,
    /// Writes that are neither outputs nor expected, in tree order, the first few hundred.
    pub undeclared: Vec<EntryPath>,
    /// How many there are in all.
    pub undeclared_count: u64,
}

/// What is known of one name.
#[derive(Debug)]
struct Found {
    name: Name,
    inode: u64,
    links: u32,
    size: u64,
    meta: Meta,
    node: Kind,
    verdict: Verdict,
    /// Whether an [`Override`] says whose it is.
    overridden: bool,
}

#[derive(Debug)]
enum Kind {
    Folder(FolderId),
    File,
    Plain(Node),
}

/// One directory, after the walk.
#[derive(Debug, Default)]
struct Listing {
    entries: Vec<Found>,
    opaque: bool,
    xattrs: Xattrs,
    owner: Option<OwnerNote>,
}

/// Makes the tree face of a step's changes: every file goes into the store as a blob, every directory as a tree.
///
/// Walks by descriptor and follows no link. Nothing is changed, no mode either, so it has to run where everything can be
/// read. Sockets are passed over, as docker does. The owners are those that this process sees.
///
/// # Errors
/// Names the path. `.wh.` names and control data of overlay file systems are refused.
pub fn collect(request: &CollectRequest) -> Result<CollectReply, SnapshotError> {
    let store = Store::open(&request.store)?;
    if request.closely {
        store.look_closely();
    }
    let Gathered { tree, undeclared, undeclared_count } = gather(&store, request, Contents::Stored)?;
    store.put_tree(&tree)?;
    Ok(CollectReply {
        tree: tree.digest(),
        content: tree.content(),
        entries: tree.entries(),
        bytes: tree.bytes(),
        undeclared,
        undeclared_count,
    })
}

/// What becomes of the contents of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// They go into the store.
    Stored,
    /// They are only read.
    Hashed,
}

/// What was found.
pub(crate) struct Gathered {
    pub(crate) tree: Subtree,
    undeclared: Vec<EntryPath>,
    undeclared_count: u64,
}

/// As [`collect`], without storing the tree.
pub(crate) fn gather(
    store: &Store,
    request: &CollectRequest,
    contents: Contents,
) -> Result<Gathered, SnapshotError> {
    let patterns = request.outputs.as_ref().map(Selection::compile).transpose()?;
    let mut walk = Walk {
        request,
        patterns,
        overrides: request.overrides.iter().map(|one| (one.inode, one)).collect(),
        stubs: request.leave_out.iter().map(|stub| (stub.path.clone(), stub.directory)).collect(),
        folders: Folders::open(&request.dir)?,
        listings: Vec::new(),
        undeclared: Vec::new(),
        undeclared_count: 0,
        contents,
    };
    walk.run()?;
    let contents = walk.read_files(store)?;
    let tree = walk.assemble(&contents)?;
    walk.undeclared.sort();
    Ok(Gathered { tree, undeclared: walk.undeclared, undeclared_count: walk.undeclared_count })
}

struct Walk<'a> {
    request: &'a CollectRequest,
    patterns: Option<Patterns>,
    overrides: HashMap<u64, &'a Override>,
    stubs: BTreeMap<EntryPath, bool>,
    folders: Folders,
    listings: Vec<Listing>,
    undeclared: Vec<EntryPath>,
    undeclared_count: u64,
    contents: Contents,
}

impl Walk<'_> {
    /// Lists every directory. Folder numbers are given when a directory is found, so parents come first.
    fn run(&mut self) -> Result<(), SnapshotError> {
        let above = if self.patterns.is_some() { Verdict::default() } else { Verdict::ALL };
        self.listings.push(Listing::default());
        let mut pending = vec![(FolderId::ROOT, above)];
        while let Some((folder, verdict)) = pending.pop() {
            let listing = self.list(folder, verdict)?;
            for found in &listing.entries {
                if let Kind::Folder(below) = found.node {
                    pending.push((below, found.verdict));
                }
            }
            self.listings[folder.index()] = listing;
        }
        Ok(())
    }

    fn list(&mut self, folder: FolderId, above: Verdict) -> Result<Listing, SnapshotError> {
        let directory = self.folders.descriptor(folder, READ)?;
        let path = self.folders.entry_path(folder);
        let shown = || self.request.dir.join(path.to_path_buf());
        let attributes = attributes(directory.as_fd()).at_with("read the attributes of", shown)?;
        if let Some(attribute) = attributes.foreign {
            return Err(SnapshotError::OverlayControl { path, attribute });
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).at_with("read", shown)? {
            let entry = entry.at_with("read", shown)?;
            // `.` and `..` are no names; everything else that a directory can hold is one.
            names.extend(Name::new(entry.file_name().to_bytes()));
        }
        names.sort();
        let mut listing = Listing {
            entries: Vec::with_capacity(names.len()),
            opaque: attributes.opaque,
            xattrs: attributes.content,
            owner: attributes.owner,
        };
        for name in names {
            let below = path.join(&name);
            let verdict = self.patterns.as_ref().map_or(above, |patterns| patterns.verdict(above, &below));
            if let Some(found) = self.look(folder, directory.as_fd(), name, &below, verdict)? {
                listing.entries.push(found);
            }
        }
        Ok(listing)
    }

    /// `None` for what is not part of the tree.
    fn look(
        &mut self,
        folder: FolderId,
        directory: BorrowedFd<'_>,
        name: Name,
        path: &EntryPath,
        verdict: Verdict,
    ) -> Result<Option<Found>, SnapshotError> {
        let shown = || self.request.dir.join(path.to_path_buf());
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat =
            statx(directory, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW, wanted).at_with("read", shown)?;
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let device = rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
        let whiteout = is_whiteout(kind, device);
        let is_stub =
            self.stubs.get(path).is_some_and(|directory| !directory && kind.is_file() && stat.stx_size == 0);
        // Deletions are no outputs, and outputs are absent before their step runs.
        if kind == FileType::Socket || is_stub || whiteout && self.patterns.is_some() {
            return Ok(None);
        }
        let directory_entry = kind == FileType::Directory;
        if !directory_entry && !verdict.selected() {
            self.undeclare(path, verdict);
            return Ok(None);
        }
        if directory_entry && verdict.excluded {
            return Ok(None);
        }
        if name.as_bytes().starts_with(WHITEOUT_PREFIX) {
            return Err(SnapshotError::WhiteoutName { path: path.clone() });
        }
        let owner = match self.request.owners {
            OwnerSource::Disk => OwnerNote { uid: stat.stx_uid, gid: stat.stx_gid },
            // Read with the other attributes, of those that can have any.
            OwnerSource::Notes => OwnerNote::ROOT,
        };
        let mut meta = Meta {
            mode: stat.stx_mode & 0o7777,
            uid: owner.uid,
            gid: owner.gid,
            mtime: match self.request.times {
                CollectTimes::Normal => Time::NORMAL,
                CollectTimes::Keep => Time { seconds: stat.stx_mtime.tv_sec, nanos: stat.stx_mtime.tv_nsec },
            },
            xattrs: Xattrs::none(),
        };
        let mut node = match kind {
            FileType::Directory => Kind::Folder(self.folder(folder, &name)),
            FileType::RegularFile => Kind::File,
            FileType::Symlink => {
                let target =
                    readlinkat(directory, name.as_bytes(), Vec::new()).at_with("read the link", shown)?;
                meta.mode = 0o777;
                Kind::Plain(Node::Symlink { target: target.into_bytes().into_boxed_slice() })
            }
            FileType::CharacterDevice if whiteout => {
                meta = Entry::whiteout().meta;
                Kind::Plain(Node::Whiteout)
            }
            FileType::Fifo => Kind::Plain(Node::Fifo),
            FileType::CharacterDevice => {
                Kind::Plain(Node::CharDevice { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor })
            }
            FileType::BlockDevice => {
                Kind::Plain(Node::BlockDevice { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor })
            }
            _ => return Ok(None),
        };
        let born = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
        let mut overridden = false;
        if let Some(over) = self.overrides.get(&stat.stx_ino)
            && !whiteout
            && over.born.is_none_or(|at| at == born)
        {
            apply(over, &mut meta, &mut node);
            overridden = over.uid.is_some() && over.gid.is_some();
        }
        let (links, size) = (stat.stx_nlink, stat.stx_size);
        Ok(Some(Found { name, inode: stat.stx_ino, links, size, meta, node, verdict, overridden }))
    }

    fn folder(&mut self, parent: FolderId, name: &Name) -> FolderId {
        self.listings.push(Listing::default());
        self.folders.add(parent, name.clone())
    }

    fn undeclare(&mut self, path: &EntryPath, verdict: Verdict) {
        if verdict.excluded || verdict.expected {
            return;
        }
        self.undeclared_count += 1;
        if self.undeclared.len() < NAMED {
            self.undeclared.push(path.clone());
        }
    }

    /// Reads the files, on all cores, and puts their contents into the store. By inode: hard links are read once.
    fn read_files(&self, store: &Store) -> Result<HashMap<u64, Content>, SnapshotError> {
        let mut seen = HashSet::new();
        let work: Vec<(FolderId, Vec<&Found>)> = self
            .listings
            .iter()
            .enumerate()
            .filter_map(|(index, listing)| {
                let files = listing.entries.iter().filter(|found| matches!(found.node, Kind::File));
                let files: Vec<&Found> = files.filter(|found| seen.insert(found.inode)).collect();
                (!files.is_empty()).then(|| (self.folder_id(index), files))
            })
            .collect();
        let stored: Result<Vec<Vec<(u64, Content)>>, SnapshotError> = work
            .par_iter()
            .map(|(folder, files)| {
                let directory = self.folders.descriptor(*folder, OFlags::PATH)?;
                let read_one = |found: &&Found| {
                    let path = || self.folders.entry_path(*folder).join(&found.name);
                    Ok((found.inode, self.read_file(store, &directory, found, &path)?))
                };
                files.par_iter().map(read_one).collect()
            })
            .collect();
        Ok(stored?.into_iter().flatten().collect())
    }

    fn folder_id(&self, index: usize) -> FolderId {
        self.folders.nth(index)
    }

    fn read_file(
        &self,
        store: &Store,
        directory: &OwnedFd,
        found: &Found,
        path: &dyn Fn() -> EntryPath,
    ) -> Result<Content, SnapshotError> {
        let shown = || self.request.dir.join(path().to_path_buf());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(directory, found.name.as_bytes(), flags, Mode::empty()).at_with("read", shown)?;
        let file = File::from(file);
        let before = fstat(&file).at_with("read", shown)?;
        if before.st_ino != found.inode || !FileType::from_raw_mode(before.st_mode).is_file() {
            return Err(SnapshotError::Changed { path: path() });
        }
        let (digest, size) = if self.contents == Contents::Hashed {
            let mut hasher = HashingWriter::new(io::sink());
            io::copy(&mut &file, &mut hasher).at_with("read", shown)?;
            let (digest, size, _) = hasher.finish();
            (digest, size)
        } else if found.size <= IN_MEMORY {
            let mut bytes = Vec::with_capacity(found.size as usize);
            (&file).take(IN_MEMORY + 1).read_to_end(&mut bytes).at_with("read", shown)?;
            (store.put_bytes(&bytes)?, bytes.len() as u64)
        } else {
            store.put_file(&file, &shown(), None)?
        };
        let after = fstat(&file).at_with("read", shown)?;
        let times = |stat: &rustix::fs::Stat| (stat.st_mtime, stat.st_mtime_nsec, stat.st_size);
        if times(&before) != times(&after) || size != found.size {
            return Err(SnapshotError::Changed { path: path() });
        }
        let attributes = attributes(file.as_fd()).at_with("read the attributes of", shown)?;
        match attributes.foreign {
            Some(attribute) => Err(SnapshotError::OverlayControl { path: path(), attribute }),
            None => Ok(Content { digest, size, xattrs: attributes.content, owner: attributes.owner }),
        }
    }

    /// Numbers the groups of hard links in tree order.
    fn number_links(&self) -> HashMap<u64, LinkId> {
        let mut names: HashMap<u64, u32> = HashMap::new();
        let files = self.listings.iter().flat_map(|listing| &listing.entries);
        for found in files.filter(|found| found.links > 1 && matches!(found.node, Kind::File)) {
            *names.entry(found.inode).or_default() += 1;
        }
        names.retain(|_, count| *count > 1);
        let mut ids: HashMap<u64, LinkId> = HashMap::new();
        let mut stack = vec![(FolderId::ROOT, 0)];
        while let Some((folder, next)) = stack.pop() {
            if names.is_empty() {
                break;
            }
            let Some(found) = self.listings[folder.index()].entries.get(next) else { continue };
            stack.push((folder, next + 1));
            match found.node {
                Kind::Folder(below) => stack.push((below, 0)),
                Kind::File if names.contains_key(&found.inode) => {
                    let id = LinkId(ids.len() as u32);
                    ids.entry(found.inode).or_insert(id);
                }
                _ => {}
            }
        }
        ids
    }

    /// Puts the tree together from the deepest directories up.
    fn assemble(&mut self, contents: &HashMap<u64, Content>) -> Result<Subtree, SnapshotError> {
        let links = self.number_links();
        let mut done: Vec<Option<Subtree>> = self.listings.iter().map(|_| None).collect();
        for index in (0..self.listings.len()).rev() {
            let listing = std::mem::take(&mut self.listings[index].entries);
            let mut directory = Directory::default();
            for found in listing {
                let Found { name, mut meta, node, verdict, inode, overridden, .. } = found;
                let node = match node {
                    Kind::Plain(node) => node,
                    Kind::File => {
                        let content =
                            contents.get(&inode).ok_or(Errno::NOENT).at("read", &self.request.dir)?;
                        for (name, value) in content.xattrs.iter() {
                            meta.xattrs.insert(name, value);
                        }
                        self.take_note(content.owner, overridden, &mut meta);
                        Node::File {
                            content: content.digest,
                            size: content.size,
                            link: links.get(&inode).copied(),
                        }
                    }
                    Kind::Folder(below) => {
                        let contents = done[below.index()].take().unwrap_or_else(Subtree::empty);
                        let listing = &self.listings[below.index()];
                        if contents.is_empty() && self.may_be_left_out(below, verdict) {
                            continue;
                        }
                        for (name, value) in listing.xattrs.iter() {
                            meta.xattrs.insert(name, value);
                        }
                        self.take_note(listing.owner, overridden, &mut meta);
                        Node::Directory { contents, opaque: listing.opaque && self.patterns.is_none() }
                    }
                };
                directory.entries.insert(name, Entry { meta, node });
            }
            done[index] = Some(Subtree::new(directory));
        }
        Ok(done[0].take().unwrap_or_else(Subtree::empty))
    }

    fn take_note(&self, note: Option<OwnerNote>, overridden: bool, meta: &mut Meta) {
        if self.request.owners == OwnerSource::Notes && !overridden {
            let note = note.unwrap_or(OwnerNote::ROOT);
            (meta.uid, meta.gid) = (note.uid, note.gid);
        }
    }

    /// Whether an empty directory is on the way to something that turned out not to be there, or a mount point.
    fn may_be_left_out(&self, folder: FolderId, verdict: Verdict) -> bool {
        !verdict.selected()
            || self.stubs.get(&self.folders.entry_path(folder)).is_some_and(|directory| *directory)
    }
}

/// What a file holds.
#[derive(Debug)]
struct Content {
    digest: Digest,
    size: u64,
    xattrs: Xattrs,
    owner: Option<OwnerNote>,
}

fn apply(over: &Override, meta: &mut Meta, node: &mut Kind) {
    meta.uid = over.uid.unwrap_or(meta.uid);
    meta.gid = over.gid.unwrap_or(meta.gid);
    if !matches!(node, Kind::Plain(Node::Symlink { .. })) {
        meta.mode = over.mode.unwrap_or(meta.mode);
    }
    if let Some(Device { block, major, minor }) = over.device {
        let device =
            if block { Node::BlockDevice { major, minor } } else { Node::CharDevice { major, minor } };
        *node = Kind::Plain(device);
    }
    if let Some(capability) = &over.capability {
        meta.xattrs.insert(b"security.capability", capability);
    }
}
