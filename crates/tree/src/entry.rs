use std::collections::BTreeMap;

use wbuild_oci::Digest;

use crate::directory::Subtree;

/// A point in time as file systems keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since the epoch; negative before 1970.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Time {
    /// One second after the epoch: what every entry gets that wbuild writes, unless asked otherwise. Not zero, because
    /// some tools take a zero time for "unknown" (jib's choice, for the same reason).
    pub const NORMAL: Self = Self { seconds: 1, nanos: 0 };
}

/// Extended attributes by full name (`security.capability`, `user.x`). Most entries have none, so this is one pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xattrs(Option<Box<XattrMap>>);

type XattrMap = BTreeMap<Box<[u8]>, Box<[u8]>>;

impl Xattrs {
    /// None at all.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Adds or replaces one.
    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        self.0.get_or_insert_default().insert(name.into(), value.into());
    }

    /// In order of names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        static EMPTY: XattrMap = BTreeMap::new();
        self.0.as_deref().unwrap_or(&EMPTY).iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|map| map.is_empty())
    }
}

/// What an entry has besides its name and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with set-id and sticky: `0..=0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification. Enters [`TreeDigest`](crate::TreeDigest), never [`ContentDigest`](crate::ContentDigest).
    pub mtime: Time,
    /// Extended attributes; `*.overlay.*` never get here.
    pub xattrs: Xattrs,
}

impl Meta {
    /// Root's, at the normal time.
    pub const fn new(mode: u16) -> Self {
        Self { mode, uid: 0, gid: 0, mtime: Time::NORMAL, xattrs: Xattrs::none() }
    }

    /// The same with another owner.
    #[must_use]
    pub const fn owned_by(mut self, uid: u32, gid: u32) -> Self {
        self.uid = uid;
        self.gid = gid;
        self
    }
}

/// Names a group of hard links within one tree. Numbers are given in tree order, so that equal trees have equal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory {
        /// Its contents.
        contents: Subtree,
        /// In a delta: hides everything below it in lower deltas.
        opaque: bool,
    },
    /// A regular file.
    File {
        /// SHA-256 of its bytes.
        content: Digest,
        /// Bytes.
        size: u64,
        /// The other names of the same inode in this tree.
        link: Option<LinkId>,
    },
    /// A symbolic link; the target is kept verbatim, wherever it points.
    Symlink {
        /// The target.
        target: Box<[u8]>,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// In a delta: the name is gone. Its metadata is that of [`Entry::whiteout`].
    Whiteout,
}

/// One entry: its metadata and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Mode, owner, times, attributes.
    pub meta: Meta,
    /// What it is.
    pub node: Node,
}

impl Entry {
    /// A directory with these contents.
    pub const fn directory(meta: Meta, contents: Subtree) -> Self {
        Self { meta, node: Node::Directory { contents, opaque: false } }
    }

    /// A regular file with only one name.
    pub const fn file(meta: Meta, content: Digest, size: u64) -> Self {
        Self { meta, node: Node::File { content, size, link: None } }
    }

    /// A symbolic link; its mode is always 0777, as Linux has it.
    pub fn symlink(target: impl Into<Vec<u8>>) -> Self {
        Self { meta: Meta::new(0o777), node: Node::Symlink { target: target.into().into_boxed_slice() } }
    }

    /// The mark that hides a name of a lower delta.
    pub const fn whiteout() -> Self {
        Self { meta: Meta::new(0), node: Node::Whiteout }
    }

    /// Its contents, if it is a directory.
    pub const fn contents(&self) -> Option<&Subtree> {
        match &self.node {
            Node::Directory { contents, .. } => Some(contents),
            _ => None,
        }
    }

    /// Whether it is a directory.
    pub const fn is_directory(&self) -> bool {
        matches!(self.node, Node::Directory { .. })
    }
}
