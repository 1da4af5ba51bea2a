//! Trees and contents to test with, random ones among them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Mutex;

use proptest::prelude::*;
use wbuild_layer::{ContentSink, Contents};
use wbuild_oci::Digest;
use wbuild_tree::{
    Entry, EntryPath, LinkId, MemoryTrees, Meta, Name, Node, Subtree, Time, TreeBuilder, TreeLoadError,
    Visit, Xattrs, walk,
};

/// Contents in memory, to read from and to write to.
#[derive(Default, Debug)]
pub(crate) struct MemoryContents(pub(crate) Mutex<BTreeMap<Digest, Vec<u8>>>);

impl MemoryContents {
    pub(crate) fn add(&self, bytes: impl Into<Vec<u8>>) -> (Digest, u64) {
        let bytes = bytes.into();
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        self.0.lock().unwrap().insert(digest, bytes);
        (digest, size)
    }
}

impl Contents for MemoryContents {
    fn open(&self, digest: &Digest, _size: u64) -> io::Result<Box<dyn Read + '_>> {
        let bytes = self.0.lock().unwrap().get(digest).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(bytes)))
    }
}

impl ContentSink for MemoryContents {
    fn put(&self, content: &mut dyn Read, size: u64) -> io::Result<Digest> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        assert_eq!(bytes.len() as u64, size);
        Ok(self.add(bytes).0)
    }
}

pub(crate) fn path(text: &str) -> EntryPath {
    EntryPath::parse(text).unwrap()
}

/// A tree from entries in any order.
pub(crate) fn tree(entries: impl IntoIterator<Item = (EntryPath, Entry)>) -> Subtree {
    let mut builder = TreeBuilder::new();
    for (path, entry) in entries {
        // What does not fit (a file as a parent) is left out.
        let _ = builder.insert(&MemoryTrees::default(), &path, entry);
    }
    number_links(&builder.finish())
}

/// Every entry of a tree by its path.
pub(crate) fn entries(tree: &Subtree) -> Vec<(EntryPath, Entry)> {
    let mut found = Vec::new();
    walk(&MemoryTrees::default(), tree, &mut |path, entry| {
        found.push((path.clone(), entry.clone()));
        Ok::<_, TreeLoadError>(Visit::Into)
    })
    .unwrap();
    found
}

/// Gives link groups their canonical numbers and dissolves those with one name.
fn number_links(tree: &Subtree) -> Subtree {
    let mut members: BTreeMap<LinkId, Vec<EntryPath>> = BTreeMap::new();
    let mut order = Vec::new();
    for (path, entry) in entries(tree) {
        if let Node::File { link: Some(link), .. } = entry.node {
            if !members.contains_key(&link) {
                order.push(link);
            }
            members.entry(link).or_default().push(path);
        }
    }
    order.retain(|link| members[link].len() > 1);
    let mut builder = TreeBuilder::from(&MemoryTrees::default(), tree).unwrap();
    for (path, mut entry) in entries(tree) {
        if let Node::File { link: Some(link), .. } = &mut entry.node {
            let number = order.iter().position(|found| found == link);
            if let Node::File { link, .. } = &mut entry.node {
                *link = number.map(|number| LinkId(number as u32));
            }
            builder.insert(&MemoryTrees::default(), &path, entry).unwrap();
        }
    }
    builder.finish()
}

fn name() -> impl Strategy<Value = Name> {
    prop_oneof![
        6 => proptest::sample::select(vec!["a", "b", "c", "d.e", "-f", ".wh", ".g"]).prop_map(|text| text.as_bytes().to_vec()),
        1 => (90_usize..255).prop_map(|length| vec![b'n'; length]),
        1 => Just("grün".as_bytes().to_vec()),
        1 => Just(b"\xff\xfe=\n".to_vec()),
    ]
    .prop_map(|bytes| Name::new(bytes).unwrap())
}

fn any_path() -> impl Strategy<Value = EntryPath> {
    proptest::collection::vec(name(), 1..5)
        .prop_map(|names| names.iter().fold(EntryPath::root(), |path, name| path.join(name)))
}

fn time() -> impl Strategy<Value = Time> {
    prop_oneof![
        Just(Time::NORMAL),
        (0_i64..4_000_000_000, 0_u32..1_000_000_000).prop_map(|(seconds, nanos)| Time { seconds, nanos }),
        (-100_i64..0, prop_oneof![Just(0), Just(500_000_000)])
            .prop_map(|(seconds, nanos)| Time { seconds, nanos }),
        Just(Time { seconds: 99_999_999_999, nanos: 0 }),
    ]
}

fn meta() -> impl Strategy<Value = Meta> {
    let id = prop_oneof![4 => 0_u32..3, 1 => Just(2_097_151), 1 => Just(2_097_152), 1 => Just(u32::MAX - 1)];
    let xattrs = prop_oneof![
        3 => Just(Xattrs::none()),
        1 => proptest::collection::vec(any::<u8>(), 0..60).prop_map(|value| {
            let mut xattrs = Xattrs::none();
            xattrs.insert(b"user.test", &value);
            xattrs.insert(b"user.other", b"a\n\0=");
            xattrs
        }),
    ];
    (0_u16..0o10000, id.clone(), id, time(), xattrs).prop_map(|(mode, uid, gid, mtime, xattrs)| Meta {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    })
}

/// What a random entry is; contents are numbers.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    File(usize),
    /// A name of this group.
    Linked(u32),
    Symlink(Vec<u8>),
    Device(u32, u32, bool),
    Fifo,
    Directory(bool),
    Whiteout,
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => (0_usize..2000).prop_map(Kind::File),
        2 => (0_u32..3).prop_map(Kind::Linked),
        2 => proptest::sample::select(vec!["a", "../../etc", "/", "grün", &"l".repeat(300)]
            .into_iter().map(|t| t.as_bytes().to_vec()).collect::<Vec<_>>()).prop_map(Kind::Symlink),
        1 => (1_u32..4096, 0_u32..1_000_000, any::<bool>()).prop_map(|(major, minor, block)| Kind::Device(major, minor, block)),
        1 => Just(Kind::Fifo),
        3 => any::<bool>().prop_map(Kind::Directory),
        1 => Just(Kind::Whiteout),
    ]
}

/// Random deltas: paths with what is there.
pub(crate) fn any_delta() -> impl Strategy<Value = Vec<(EntryPath, Meta, Kind)>> {
    proptest::collection::vec((any_path(), meta(), kind()), 0..40)
}

/// The delta that was drawn, with its contents.
pub(crate) fn build(drawn: &[(EntryPath, Meta, Kind)], contents: &MemoryContents) -> Subtree {
    let mut group_meta: BTreeMap<u32, Meta> = BTreeMap::new();
    tree(drawn.iter().map(|(path, meta, kind)| {
        let meta = meta.clone();
        let entry = match kind {
            Kind::File(size) => {
                let (digest, size) = contents.add("x".repeat(*size));
                Entry::file(meta, digest, size)
            }
            Kind::Linked(group) => {
                let (content, size) = contents.add(format!("group {group}"));
                let meta = group_meta.entry(*group).or_insert(meta).clone();
                Entry { meta, node: Node::File { content, size, link: Some(LinkId(*group)) } }
            }
            Kind::Symlink(target) => {
                Entry { meta: Meta { mode: 0o777, ..meta }, ..Entry::symlink(target.clone()) }
            }
            Kind::Device(major, minor, true) => {
                Entry { meta, node: Node::BlockDevice { major: *major, minor: *minor } }
            }
            Kind::Device(major, minor, false) => {
                Entry { meta, node: Node::CharDevice { major: *major, minor: *minor } }
            }
            Kind::Fifo => Entry { meta, node: Node::Fifo },
            Kind::Directory(opaque) => {
                Entry { meta, node: Node::Directory { contents: Subtree::empty(), opaque: *opaque } }
            }
            Kind::Whiteout => Entry::whiteout(),
        };
        (path.clone(), entry)
    }))
}

/// What a folder on disk has, one line an entry: type, mode, owner, time, and target, device or content with the first
/// name of its link group.
pub(crate) fn list_disk(root: &Path) -> Vec<String> {
    fn visit(root: &Path, below: &Path, first: &mut BTreeMap<u64, String>, lines: &mut Vec<String>) {
        let mut found: Vec<_> = std::fs::read_dir(below).unwrap().map(|entry| entry.unwrap()).collect();
        found.sort_by_key(|entry| entry.file_name().as_bytes().to_vec());
        for entry in found {
            let file = entry.path();
            let stat = file.symlink_metadata().unwrap();
            let path =
                String::from_utf8_lossy(file.strip_prefix(root).unwrap().as_os_str().as_bytes()).into_owned();
            let kind = stat.file_type();
            let device = || format!("{}:{}", rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
            let what = if kind.is_dir() {
                "dir".to_owned()
            } else if kind.is_symlink() {
                format!("link {}", std::fs::read_link(&file).unwrap().display())
            } else if kind.is_fifo() {
                "fifo".to_owned()
            } else if kind.is_char_device() {
                format!("char {}", device())
            } else if kind.is_block_device() {
                format!("block {}", device())
            } else {
                let linked = if stat.nlink() > 1 {
                    first.entry(stat.ino()).or_insert_with(|| path.clone()).clone()
                } else {
                    String::new()
                };
                format!("file {} {linked}", Digest::of(&std::fs::read(&file).unwrap()).short())
            };
            let time = format!("{}.{:09}", stat.mtime(), stat.mtime_nsec());
            lines.push(format!(
                "{path} {:o} {}:{} {time} {what}",
                stat.mode() & 0o7777,
                stat.uid(),
                stat.gid()
            ));
            if kind.is_dir() {
                visit(root, &file, first, lines);
            }
        }
    }
    let mut lines = Vec::new();
    visit(root, root, &mut BTreeMap::new(), &mut lines);
    lines
}

/// The same lines for a tree, whiteouts as overlay has them.
pub(crate) fn list_tree(tree: &Subtree) -> Vec<String> {
    let mut first: BTreeMap<LinkId, String> = BTreeMap::new();
    let mut lines = Vec::new();
    for (path, entry) in entries(tree) {
        let path = String::from_utf8_lossy(path.as_bytes()).into_owned();
        let what = match &entry.node {
            Node::Directory { .. } => "dir".to_owned(),
            Node::Symlink { target } => format!("link {}", String::from_utf8_lossy(target)),
            Node::Fifo => "fifo".to_owned(),
            Node::Whiteout => "char 0:0".to_owned(),
            Node::CharDevice { major, minor } => format!("char {major}:{minor}"),
            Node::BlockDevice { major, minor } => format!("block {major}:{minor}"),
            Node::File { content, link, .. } => {
                let linked = link.map(|link| first.entry(link).or_insert_with(|| path.clone()).clone());
                format!("file {} {}", content.short(), linked.unwrap_or_default())
            }
        };
        let Meta { mode, uid, gid, mtime, .. } = entry.meta;
        lines.push(format!("{path} {mode:o} {uid}:{gid} {}.{:09} {what}", mtime.seconds, mtime.nanos));
    }
    lines
}
