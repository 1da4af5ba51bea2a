//! ADD of an archive: unpacked into the target as by a process that has the target as its root, so that `..`, absolute names
//! and links stay inside of it.

use std::collections::BTreeMap;
use std::io::Read;

use wbuild_graph::{Owner, Transfer};
use wbuild_layer::{Archive, ArchiveEntry, ArchiveKind, Limits, read_archive};
use wbuild_tree::{Entry, EntryPath, LinkId, Lookup, Meta, Node, ResolveError, Resolved, Subtree, resolve};

use super::ContentStore;
use super::delta::Delta;
use super::error::{FileError, UnpackError};
use super::transfer::{archive as in_archive, made};

/// Nothing longer can be opened on Linux.
const PATH_MAX: usize = 4095;
const NAME_MAX: usize = 255;

/// So many names of one file follow what a further one says about it.
const MAX_NAMES: usize = 1000;

/// A directory as a root.
struct Below<'a, D> {
    delta: &'a D,
    top: &'a EntryPath,
}

impl<D: Lookup> Lookup for Below<'_, D> {
    type Error = D::Error;

    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, D::Error> {
        self.delta.entry(&self.top.join_path(path))
    }
}

/// Where an archive goes.
struct Unpacking<'a> {
    /// The archive, for messages.
    archive: &'a EntryPath,
    /// The target, without links.
    top: EntryPath,
    owner: Option<Owner>,
    contents: &'a dyn ContentStore,
    /// The directory that the last entry was in, as the archive has it and as it is: entries of one directory mostly follow
    /// each other.
    last: Option<(EntryPath, EntryPath)>,
    /// The names of each file that has several.
    links: BTreeMap<LinkId, Vec<EntryPath>>,
}

impl<L: Lookup> Delta<'_, L> {
    /// Unpacks `entry` into the target, if it is an archive.
    pub(super) fn unpack(
        &mut self,
        transfer: &Transfer,
        owner: Option<Owner>,
        path: &EntryPath,
        entry: &Entry,
        contents: &dyn ContentStore,
    ) -> Result<bool, FileError<L::Error>> {
        let Node::File { content, .. } = &entry.node else { return Ok(false) };
        let unreadable = |error| in_archive(path)(UnpackError::Read(error));
        let file = contents.open(content).map_err(unreadable)?;
        let unpacked = read_archive(file, Limits::default(), |archive| {
            // `--chmod` is not for archives.
            let top = self.make_directory(&transfer.target, &made(None, owner))?;
            let mut to =
                Unpacking { archive: path, top, owner, contents, last: None, links: BTreeMap::new() };
            while let Some(entry) = archive.next_entry().map_err(|error| in_archive(path)(error.into()))? {
                self.unpack_entry(&mut to, entry, archive)?;
            }
            Ok(())
        });
        unpacked.map_err(unreadable)?.map_or(Ok(false), |result| result.map(|()| true))
    }

    fn unpack_entry<R: Read>(
        &mut self,
        to: &mut Unpacking<'_>,
        mut entry: ArchiveEntry,
        archive: &mut Archive<R>,
    ) -> Result<(), FileError<L::Error>> {
        let fail = in_archive(to.archive);
        let offset = entry.offset;
        let rooted = |bytes: &[u8]| {
            EntryPath::rooted(bytes).map_err(|source| fail(UnpackError::Path { offset, source }))
        };
        let path = rooted(&entry.path)?;
        if path.components().any(|name| name.as_bytes().starts_with(b".wh.")) {
            return Err(fail(UnpackError::Whiteout { path }));
        }
        let refused = |why| fail(UnpackError::Refused { path: path.clone(), why });
        let Some((parent, name)) = path.split_last() else {
            // The target is there already, and stays as it is.
            return match entry.kind {
                ArchiveKind::Directory => Ok(()),
                _ => Err(refused("it would replace the directory that the archive is unpacked into")),
            };
        };
        let target = self.unpacked_directory(to, &parent)?.join(&name);
        if target.as_bytes().len() > PATH_MAX || name.as_bytes().len() > NAME_MAX {
            return Err(refused("its name has more than 255 bytes, or its path more than 4095"));
        }
        entry.drop_marks();
        let mut meta = entry.meta;
        if let Some(owner) = to.owner {
            meta = meta.owned_by(owner.uid, owner.gid);
        }
        let existing = self.entry(&target).map_err(ResolveError::Lookup)?;
        let node = match entry.kind {
            ArchiveKind::Directory if existing.as_ref().is_some_and(Entry::is_directory) => {
                self.parents(&target, &Meta::new(0o755))?;
                return self.describe(&target, meta);
            }
            ArchiveKind::Directory => Node::Directory { contents: Subtree::empty(), opaque: false },
            ArchiveKind::File { size } => {
                let mut data = archive.data();
                let content = to.contents.keep_from(&mut data).map_err(|source| {
                    match source.downcast::<wbuild_layer::ArchiveError>() {
                        Ok(error) => fail(error.into()),
                        Err(source) => FileError::Contents { path: target.clone(), source },
                    }
                })?;
                Node::File { content, size, link: None }
            }
            ArchiveKind::HardLink { target: other } => {
                let other = rooted(&other)?;
                return self.unpack_link(to, (&path, &other), &target, &meta);
            }
            ArchiveKind::Symlink { target } => {
                if target.len() > PATH_MAX || target.contains(&0) {
                    return Err(refused("its link target is too long or has a NUL byte"));
                }
                meta.mode = 0o777;
                Node::Symlink { target: target.into_boxed_slice() }
            }
            ArchiveKind::Fifo => Node::Fifo,
            ArchiveKind::CharDevice { major: 0, minor: 0 } => {
                return Err(refused("it is the device 0:0, a control mark of overlay file systems"));
            }
            ArchiveKind::CharDevice { major, minor } => Node::CharDevice { major, minor },
            ArchiveKind::BlockDevice { major, minor } => Node::BlockDevice { major, minor },
        };
        if existing.is_some() {
            // The way of the last entry may have gone through what is replaced.
            to.last = None;
        }
        self.put(&target, Entry { meta, node })
    }

    /// The directory that entries of `parent` go to, links followed inside of the target. What is missing is root's, as in
    /// BuildKit, whoever owns the rest.
    fn unpacked_directory(
        &mut self,
        to: &mut Unpacking<'_>,
        parent: &EntryPath,
    ) -> Result<EntryPath, FileError<L::Error>> {
        if let Some((known, directory)) = &to.last
            && known == parent
        {
            return Ok(directory.clone());
        }
        let Resolved { path, .. } = resolve(&Below { delta: &*self, top: &to.top }, parent, true)?;
        let directory = to.top.join_path(&path);
        self.make_missing(&directory, &Meta::new(0o755))?;
        to.last = Some((parent.clone(), directory.clone()));
        Ok(directory)
    }

    /// Makes `target` another name of what the archive calls `other`. All its names get `meta`, which stands with the last
    /// one: BuildKit's unpacker sets it on the file that they share.
    fn unpack_link(
        &mut self,
        to: &mut Unpacking<'_>,
        (path, other): (&EntryPath, &EntryPath),
        target: &EntryPath,
        meta: &Meta,
    ) -> Result<(), FileError<L::Error>> {
        let missing =
            || in_archive(to.archive)(UnpackError::Target { path: path.clone(), target: other.clone() });
        let (parent, name) = other.split_last().ok_or_else(missing)?;
        let Resolved { path: parent, .. } = resolve(&Below { delta: &*self, top: &to.top }, &parent, true)?;
        let source = to.top.join_path(&parent).join(&name);
        // What is only in the base would have to be copied, and who writes archives does not know the base.
        let mut entry = self.builder.get(self.trees, &source)?.ok_or_else(missing)?;
        if source.starts_with(target) {
            return Err(missing());
        }
        match &mut entry.node {
            Node::Directory { .. } | Node::Whiteout => return Err(missing()),
            Node::File { link, .. } => {
                let group = *link.get_or_insert_with(|| {
                    self.groups += 1;
                    LinkId(self.groups - 1)
                });
                let names = to.links.entry(group).or_insert_with(|| vec![source.clone()]);
                let changed = Meta { xattrs: entry.meta.xattrs.clone(), ..meta.clone() };
                // A limit, so that an archive of links alone takes no quadratic time.
                if changed != entry.meta && names.len() < MAX_NAMES {
                    entry.meta = changed;
                    for name in names.iter().filter(|name| **name != source) {
                        // One that was replaced meanwhile is another file.
                        let same = self.builder.get(self.trees, name)?.is_some_and(
                            |old| matches!(old.node, Node::File { link, .. } if link == Some(group)),
                        );
                        if same {
                            self.insert(name, entry.clone())?;
                        }
                    }
                }
                self.insert(&source, entry.clone())?;
                names.push(target.clone());
            }
            _ => {}
        }
        to.last = None;
        self.put(target, entry)
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
