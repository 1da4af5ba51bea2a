//! The canonical encoding of a directory, which its digests are computed over, and the object format in which the
//! store keeps it.
//!
//! Both are the same list of framed entries. In the digests' encoding a child directory is its digest; in an object it is
//! either that (with the rest of its summary) or, when it is small, its own encoded entries in place, so that a tree of a
//! hundred thousand files is some hundred objects and not ten thousand. Where a child is kept never changes a digest.
//!
//! Changing anything here changes every key and every stored tree: bump [`VERSION`] and say so in `cache/format.md`.

use sha2::{Digest as _, Sha256};
use wbuild_oci::Digest;

use crate::directory::{ContentDigest, Directory, Subtree, Summary, TreeDigest, TreeLoadError};
use crate::entry::{Entry, LinkId, Meta, Node, Time, Xattrs};
use crate::path::Name;

/// First bytes of every encoding.
const VERSION: &[u8] = b"wbuild-tree-1\n";

/// Directories with more entries than this, counted at every depth, are objects of their own.
const INLINE_ENTRIES: u64 = 256;

/// Nesting of in-place directories that a reader accepts: [`INLINE_ENTRIES`] cannot nest deeper than itself.
const MAX_INLINE_DEPTH: usize = INLINE_ENTRIES as usize + 1;

/// A directory as the store keeps it.
#[derive(Debug)]
pub struct EncodedObject {
    /// The object's bytes.
    pub bytes: Vec<u8>,
    /// The subtrees it refers to, which are objects of their own. Those not loaded are in the store already.
    pub children: Vec<Subtree>,
}

/// What a child directory is written as.
enum Child {
    Tree,
    Content,
}

trait Put {
    fn put(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

fn put_framed(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put(&(bytes.len() as u32).to_le_bytes());
    out.put(bytes);
}

/// Name and metadata of an entry, then its kind.
fn put_head(out: &mut Vec<u8>, name: &Name, entry: &Entry, with_time: bool) {
    put_framed(out, name.as_bytes());
    let meta = &entry.meta;
    out.put(&meta.mode.to_le_bytes());
    out.put(&meta.uid.to_le_bytes());
    out.put(&meta.gid.to_le_bytes());
    if with_time {
        out.put(&meta.mtime.seconds.to_le_bytes());
        out.put(&meta.mtime.nanos.to_le_bytes());
    }
    out.put(&(meta.xattrs.iter().len() as u32).to_le_bytes());
    for (name, value) in meta.xattrs.iter() {
        put_framed(out, name);
        put_framed(out, value);
    }
}

mod kind {
    pub(super) const DIRECTORY: u8 = 1;
    pub(super) const FILE: u8 = 2;
    pub(super) const SYMLINK: u8 = 3;
    pub(super) const FIFO: u8 = 4;
    pub(super) const CHAR_DEVICE: u8 = 5;
    pub(super) const BLOCK_DEVICE: u8 = 6;
    pub(super) const WHITEOUT: u8 = 7;
    pub(super) const INLINE_DIRECTORY: u8 = 8;
}

/// Everything but directories.
fn put_leaf(out: &mut Vec<u8>, node: &Node) {
    match node {
        Node::Directory { .. } => unreachable!("directories are written by their caller"),
        Node::File { content, size, link } => {
            out.push(kind::FILE);
            out.put(content.as_bytes());
            out.put(&size.to_le_bytes());
            out.put(&link.map_or(u32::MAX, |link| link.0).to_le_bytes());
        }
        Node::Symlink { target } => {
            out.push(kind::SYMLINK);
            put_framed(out, target);
        }
        Node::Fifo => out.push(kind::FIFO),
        Node::CharDevice { major, minor } => {
            out.push(kind::CHAR_DEVICE);
            out.put(&major.to_le_bytes());
            out.put(&minor.to_le_bytes());
        }
        Node::BlockDevice { major, minor } => {
            out.push(kind::BLOCK_DEVICE);
            out.put(&major.to_le_bytes());
            out.put(&minor.to_le_bytes());
        }
        Node::Whiteout => out.push(kind::WHITEOUT),
    }
}

fn digest_of(directory: &Directory, child: &Child) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(VERSION);
    let mut buffer = Vec::with_capacity(256);
    for (name, entry) in &directory.entries {
        buffer.clear();
        put_head(&mut buffer, name, entry, matches!(child, Child::Tree));
        match &entry.node {
            Node::Directory { contents, opaque } => {
                buffer.push(kind::DIRECTORY);
                buffer.push(u8::from(*opaque));
                match child {
                    Child::Tree => buffer.put(contents.digest().0.as_bytes()),
                    Child::Content => buffer.put(contents.content().0.as_bytes()),
                }
            }
            node => put_leaf(&mut buffer, node),
        }
        hasher.update(&buffer);
    }
    Digest::from_bytes(hasher.finalize().into())
}

pub(crate) fn summarise(directory: &Directory) -> Summary {
    let mut summary = Summary {
        tree: TreeDigest(digest_of(directory, &Child::Tree)),
        content: ContentDigest(digest_of(directory, &Child::Content)),
        entries: 0,
        bytes: 0,
        linked: false,
        marked: false,
    };
    for entry in directory.entries.values() {
        summary.entries = summary.entries.saturating_add(1);
        match &entry.node {
            Node::Directory { contents, opaque } => {
                let below = contents.summary();
                summary.entries = summary.entries.saturating_add(below.entries);
                summary.bytes = summary.bytes.saturating_add(below.bytes);
                summary.linked |= below.linked;
                summary.marked |= below.marked || *opaque;
            }
            Node::File { size, link, .. } => {
                summary.bytes = summary.bytes.saturating_add(*size);
                summary.linked |= link.is_some();
            }
            Node::Whiteout => summary.marked = true,
            _ => {}
        }
    }
    summary
}

/// Encodes one directory for the store.
pub fn encode_object(directory: &Directory) -> EncodedObject {
    let mut object = EncodedObject { bytes: VERSION.to_vec(), children: Vec::new() };
    put_entries(&mut object, directory);
    object
}

fn put_entries(object: &mut EncodedObject, directory: &Directory) {
    object.bytes.put(&(directory.entries.len() as u32).to_le_bytes());
    for (name, entry) in &directory.entries {
        put_head(&mut object.bytes, name, entry, true);
        match &entry.node {
            Node::Directory { contents, opaque } => match contents.loaded() {
                Some(loaded) if contents.entries() <= INLINE_ENTRIES => {
                    object.bytes.push(kind::INLINE_DIRECTORY);
                    object.bytes.push(u8::from(*opaque));
                    put_entries(object, loaded);
                }
                _ => {
                    let summary = contents.summary();
                    object.bytes.push(kind::DIRECTORY);
                    object.bytes.push(u8::from(*opaque));
                    object.bytes.put(summary.tree.0.as_bytes());
                    object.bytes.put(summary.content.0.as_bytes());
                    object.bytes.put(&summary.entries.to_le_bytes());
                    object.bytes.put(&summary.bytes.to_le_bytes());
                    object.bytes.push(u8::from(summary.linked) | u8::from(summary.marked) << 1);
                    object.children.push(contents.clone());
                }
            },
            node => put_leaf(&mut object.bytes, node),
        }
    }
}

/// Reads a stored object back and checks that it is the one asked for.
///
/// # Errors
/// [`TreeLoadError::Damaged`] when it is not.
pub fn decode_object(tree: TreeDigest, bytes: &[u8]) -> Result<Directory, TreeLoadError> {
    let damaged = |why| TreeLoadError::Damaged { tree, why };
    let rest = bytes.strip_prefix(VERSION).ok_or_else(|| damaged("it has no header of this version"))?;
    let mut reader = Reader { rest };
    let directory = reader.entries(0).ok_or_else(|| damaged("it is truncated or malformed"))?;
    if !reader.rest.is_empty() {
        return Err(damaged("bytes follow its end"));
    }
    if summarise(&directory).tree != tree {
        return Err(damaged("its contents have another digest"));
    }
    Ok(directory)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn framed(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn meta(&mut self) -> Option<Meta> {
        let mode = self.array().map(u16::from_le_bytes)?;
        let (uid, gid) = (self.u32()?, self.u32()?);
        let mtime = Time { seconds: self.array().map(i64::from_le_bytes)?, nanos: self.u32()? };
        let mut xattrs = Xattrs::none();
        for _ in 0..self.u32()? {
            let name = self.framed()?;
            xattrs.insert(name, self.framed()?);
        }
        Some(Meta { mode, uid, gid, mtime, xattrs })
    }

    fn entries(&mut self, depth: usize) -> Option<Directory> {
        if depth > MAX_INLINE_DEPTH {
            return None;
        }
        let mut directory = Directory::default();
        for _ in 0..self.u32()? {
            let name = Name::new(self.framed()?).ok()?;
            let meta = self.meta()?;
            let node = self.node(depth)?;
            directory.entries.insert(name, Entry { meta, node });
        }
        Some(directory)
    }

    fn node(&mut self, depth: usize) -> Option<Node> {
        Some(match self.array::<1>()?[0] {
            kind::DIRECTORY => {
                let opaque = self.array::<1>()?[0] != 0;
                let tree = TreeDigest(Digest::from_bytes(self.array()?));
                let content = ContentDigest(Digest::from_bytes(self.array()?));
                let (entries, bytes, flags) = (self.u64()?, self.u64()?, self.array::<1>()?[0]);
                let summary =
                    Summary { tree, content, entries, bytes, linked: flags & 1 != 0, marked: flags & 2 != 0 };
                Node::Directory { contents: Subtree::stored(summary), opaque }
            }
            kind::INLINE_DIRECTORY => {
                let opaque = self.array::<1>()?[0] != 0;
                Node::Directory { contents: Subtree::new(self.entries(depth + 1)?), opaque }
            }
            kind::FILE => {
                let content = Digest::from_bytes(self.array()?);
                let size = self.u64()?;
                let link = self.u32()?;
                Node::File { content, size, link: (link != u32::MAX).then_some(LinkId(link)) }
            }
            kind::SYMLINK => Node::Symlink { target: self.framed()?.into() },
            kind::FIFO => Node::Fifo,
            kind::CHAR_DEVICE => Node::CharDevice { major: self.u32()?, minor: self.u32()? },
            kind::BLOCK_DEVICE => Node::BlockDevice { major: self.u32()?, minor: self.u32()? },
            kind::WHITEOUT => Node::Whiteout,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{MemoryTrees, TreeSource};
    use crate::{EntryPath, TreeBuilder};

    fn file(text: &str) -> Entry {
        Entry::file(Meta::new(0o644), Digest::of(text.as_bytes()), text.len() as u64)
    }

    fn big_tree(mtime: Time) -> Subtree {
        let mut builder = TreeBuilder::new();
        for folder in 0..3 {
            for number in 0..200 {
                let path = EntryPath::parse(format!("a/{folder}/f{number}")).unwrap();
                let mut entry = file(&format!("{folder} {number}"));
                entry.meta.mtime = mtime;
                builder.insert(&MemoryTrees::default(), &path, entry).unwrap();
            }
        }
        builder.finish()
    }

    #[test]
    fn stored_trees_come_back_and_large_ones_are_split() {
        let trees = MemoryTrees::default();
        let tree = big_tree(Time::NORMAL);
        trees.insert(&tree).unwrap();
        let loaded = Subtree::load(&trees, tree.digest()).unwrap();
        assert_eq!(loaded, tree);
        assert_eq!((loaded.entries(), loaded.bytes()), (604, tree.bytes()));
        let top = trees.directory(tree.digest()).unwrap();
        let a = top.entries.values().next().unwrap().contents().unwrap();
        assert!(
            a.loaded().is_none(),
            "a has more than {INLINE_ENTRIES} entries below and is an object of its own"
        );
        assert_eq!(a.open(&trees).unwrap().entries.len(), 3);
    }

    #[test]
    fn times_change_the_tree_and_not_the_content() {
        let (one, two) = (big_tree(Time::NORMAL), big_tree(Time { seconds: 7, nanos: 0 }));
        assert_ne!(one.digest(), two.digest());
        assert_eq!(one.content(), two.content());
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let mut builder = TreeBuilder::new();
        builder.insert(&MemoryTrees::default(), &EntryPath::parse("a/b").unwrap(), file("x")).unwrap();
        builder
            .insert(&MemoryTrees::default(), &EntryPath::parse("l").unwrap(), Entry::symlink("a"))
            .unwrap();
        let tree = builder.finish();
        let bytes = encode_object(tree.loaded().unwrap()).bytes;
        decode_object(tree.digest(), &bytes).unwrap();
        for index in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1;
            assert!(decode_object(tree.digest(), &flipped).is_err(), "byte {index}");
            assert!(decode_object(tree.digest(), &bytes[..index]).is_err(), "cut at {index}");
        }
    }
}
