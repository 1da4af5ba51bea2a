//! Both faces of deltas, on real file systems; with a real overlay where one may be mounted.

#![expect(clippy::print_stderr, reason = "tests that cannot run here say so")]
#![expect(clippy::unwrap_used, reason = "a panic in a helper of these tests is a failed test")]

mod collecting;
mod disk;
mod roots;

use std::path::{Path, PathBuf};

use wbuild_graph::{DeltaId, Key};
use wbuild_oci::Digest;
use wbuild_snapshot::{
    CollectReply, CollectRequest, CollectTimes, Disk, Mtimes, OwnerSource, Owners, collect,
};
use wbuild_store::Store;
use wbuild_tree::{
    Entry, EntryPath, Lookup, MemoryTrees, Meta, Node, Subtree, TreeBuilder, TreeDigest, Visit, walk,
};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state")).unwrap();
    (dir, store)
}

fn path(text: &str) -> EntryPath {
    EntryPath::parse(text).unwrap()
}

/// Metadata as this process can put it on the disk.
fn meta(mode: u16) -> Meta {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Meta::new(mode).owned_by(uid, gid)
}

fn disk() -> Disk {
    Disk { mtimes: Mtimes::Tree, owners: Owners::of_process() }
}

fn file(store: &Store, text: &str) -> Entry {
    Entry::file(meta(0o644), store.put_bytes(text.as_bytes()).unwrap(), text.len() as u64)
}

fn dir(mode: u16) -> Entry {
    Entry::directory(meta(mode), Subtree::empty())
}

fn opaque(contents: &Subtree) -> Entry {
    Entry { meta: meta(0o755), node: Node::Directory { contents: contents.clone(), opaque: true } }
}

fn symlink(target: &str) -> Entry {
    let mut entry = Entry::symlink(target);
    entry.meta = meta(0o777);
    entry
}

/// A stored tree of these entries. Parents come with them or are made.
fn tree(store: &Store, entries: Vec<(&str, Entry)>) -> Subtree {
    let mut builder = TreeBuilder::new();
    for (text, entry) in entries {
        let mut parent = EntryPath::root();
        for name in path(text).parent().unwrap_or_default().components() {
            parent = parent.join(&name);
            if builder.get(&MemoryTrees::default(), &parent).unwrap().is_none() {
                builder.insert(&MemoryTrees::default(), &parent, dir(0o755)).unwrap();
            }
        }
        builder.insert(&MemoryTrees::default(), &path(text), entry).unwrap();
    }
    let tree = builder.finish();
    store.put_tree(&tree).unwrap();
    tree
}

fn delta_of(tree: &Subtree) -> DeltaId {
    DeltaId::Tree { tree: tree.digest(), content: tree.content() }
}

fn exec(name: &str) -> Key {
    Key(Digest::of(name.as_bytes()))
}

/// Publishes what a step wrote.
fn publish(store: &Store, draft: wbuild_store::Draft, key: Key) -> wbuild_store::DeltaFolder {
    let sealed = wbuild_snapshot::seal(&draft.fs()).unwrap();
    wbuild_snapshot::publish_exec(store, draft, key, sealed, wbuild_snapshot::Existing::Stays).unwrap()
}

fn request(store: &Store, dir: &Path) -> CollectRequest {
    CollectRequest {
        dir: dir.to_owned(),
        store: store.path().to_owned(),
        owners: OwnerSource::Disk,
        overrides: Vec::new(),
        leave_out: Vec::new(),
        times: CollectTimes::Keep,
        outputs: None,
        closely: false,
    }
}

fn collected(store: &Store, dir: &Path) -> CollectReply {
    collect(&request(store, dir)).unwrap()
}

/// One line for each entry: what people would want to compare.
fn listing(store: &Store, tree: TreeDigest) -> Vec<String> {
    let mut lines = Vec::new();
    walk(store, &store.tree(tree).unwrap(), &mut |path, entry| {
        let kind = match &entry.node {
            Node::Directory { opaque: true, .. } => "opaque".to_owned(),
            Node::Directory { .. } => "dir".to_owned(),
            Node::File { content, link, .. } => {
                let text = store.read_blob(content, 1 << 20).unwrap_or_default();
                let link = link.map_or(String::new(), |link| format!(" link {}", link.0));
                format!("file {}{link}", String::from_utf8_lossy(&text))
            }
            Node::Symlink { target } => format!("-> {}", String::from_utf8_lossy(target)),
            Node::Fifo => "fifo".to_owned(),
            Node::CharDevice { major, minor } => format!("char {major}:{minor}"),
            Node::BlockDevice { major, minor } => format!("block {major}:{minor}"),
            Node::Whiteout => "gone".to_owned(),
        };
        lines.push(format!("{path} {kind}"));
        Ok::<_, wbuild_tree::TreeLoadError>(Visit::Into)
    })
    .unwrap();
    lines
}

/// An overlay that is unmounted when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Mounts an overlay; says why not where that is not possible.
fn overlay(target: &Path, lowers: &[PathBuf], upper: Option<(&Path, &Path)>) -> Option<Mounted> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
    let mounted = || {
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_flag(&fs, "userxattr")?;
        for lower in lowers {
            rustix::mount::fsconfig_set_string(&fs, "lowerdir+", lower)?;
        }
        if let Some((upper, work)) = upper {
            rustix::mount::fsconfig_set_string(&fs, "upperdir", upper)?;
            rustix::mount::fsconfig_set_string(&fs, "workdir", work)?;
        }
        rustix::mount::fsconfig_create(&fs)?;
        let mount = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&mount, "", rustix::fs::CWD, target, flags)
    };
    match mounted() {
        Ok(()) => Some(Mounted(target.to_owned())),
        Err(error) => {
            eprintln!("skipped: an overlay cannot be mounted here ({error})");
            None
        }
    }
}

/// What a view has at a path.
fn entry(view: &impl Lookup<Error = wbuild_snapshot::SnapshotError>, text: &str) -> Option<Entry> {
    view.entry(&path(text)).unwrap()
}
