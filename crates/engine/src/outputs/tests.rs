use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use tempfile::TempDir;
use wbuild_oci::Digest;
use wbuild_tree::{Entry, LinkId, Meta, Node, Time, TreeBuilder};

use super::*;
use crate::testing::engine;

struct World {
    folder: TempDir,
    engine: Engine,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine(&folder.path().join("home"), &[]);
        Self { folder, engine }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, text: &str, mode: u16) -> Entry {
        let digest = self.engine.store.put_bytes(text.as_bytes()).unwrap();
        // Somebody else's, at a time of its own.
        let meta = Meta { mtime: Time { seconds: 1000, nanos: 5 }, ..Meta::new(mode).owned_by(12, 34) };
        Entry::file(meta, digest, text.len() as u64)
    }

    fn snapshot(&self, entries: Vec<(&str, Entry)>) -> Snapshot {
        let mut builder = TreeBuilder::new();
        for (path, entry) in entries {
            builder.insert(&self.engine.store, &EntryPath::parse(path).unwrap(), entry).unwrap();
        }
        let tree = builder.finish();
        self.engine.store.put_tree(&tree).unwrap();
        Snapshot::of_tree(tree.digest(), tree.content())
    }

    fn write(&self, snapshot: &Snapshot, existing: Existing) -> Result<FilesWritten, EngineError> {
        let path = self.path("out");
        self.engine.write_files(
            snapshot,
            &Dress::plain(Times::Keep),
            &FilesOutput::Folder { path: &path, existing },
        )
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

fn directory(mode: u16) -> Entry {
    let meta = Meta { mtime: Time { seconds: 2000, nanos: 0 }, ..Meta::new(mode) };
    Entry::directory(meta, Subtree::empty())
}

fn linked(mut entry: Entry) -> Entry {
    if let Node::File { link, .. } = &mut entry.node {
        *link = Some(LinkId(0));
    }
    entry
}

#[test]
fn files_have_their_modes_times_links_and_our_owner() {
    let world = World::new();
    let shared = linked(world.file("shared", 0o640));
    let snapshot = world.snapshot(vec![
        ("locked", directory(0o555)),
        ("locked/f", world.file("in a directory that nobody may write to", 0o444)),
        ("run", world.file("#!", 0o755)),
        ("empty", world.file("", 0o600)),
        ("a", shared.clone()),
        ("z", shared),
        ("link", Entry::symlink("../../etc/passwd")),
    ]);
    let written = world.write(&snapshot, Existing::Keep).unwrap();
    assert_eq!((written.entries, written.bytes, written.skipped.len()), (7, 47, 0));
    let meta = |name: &str| world.path("out").join(name).symlink_metadata().unwrap();
    for (name, mode, seconds) in
        [("locked", 0o555, 2000), ("locked/f", 0o444, 1000), ("run", 0o755, 1000), ("empty", 0o600, 1000)]
    {
        let meta = meta(name);
        assert_eq!((meta.mode() & 0o7777, meta.mtime()), (mode, seconds), "{name}");
        assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
    }
    assert_eq!((meta("a").ino(), meta("a").nlink()), (meta("z").ino(), 2));
    assert_eq!(fs::read_link(world.path("out/link")).unwrap(), PathBuf::from("../../etc/passwd"));
    // Once more, over itself.
    assert_eq!(world.write(&snapshot, Existing::Keep).unwrap(), written);
    assert_eq!((meta("a").ino(), meta("a").nlink()), (meta("z").ino(), 2));
    let fixed = FilesOutput::Folder { path: &world.path("fixed"), existing: Existing::Keep };
    world.engine.write_files(&snapshot, &Dress::plain(Times::Fixed(7)), &fixed).unwrap();
    assert_eq!(world.path("fixed/locked").metadata().unwrap().mtime(), 7);
}

#[test]
fn what_is_there_stays_unless_it_is_to_go() {
    let world = World::new();
    fs::create_dir_all(world.path("out/dir/old")).unwrap();
    for name in ["mine", "dir/mine", "dir/old/x", "same"] {
        fs::write(world.path("out").join(name), "mine").unwrap();
    }
    fs::hard_link(world.path("out/same"), world.path("outside")).unwrap();
    let snapshot =
        world.snapshot(vec![("dir/new", world.file("new", 0o644)), ("same", world.file("new", 0o644))]);
    world.write(&snapshot, Existing::Keep).unwrap();
    let names =
        |names: &[&str]| names.iter().map(|name| world.path("out").join(name).exists()).collect::<Vec<_>>();
    assert_eq!(names(&["mine", "dir/mine", "dir/old/x", "dir/new"]), [true; 4]);
    assert_eq!((world.read("out/same"), world.read("outside")), ("new".into(), "mine".into()));
    world.write(&snapshot, Existing::Delete).unwrap();
    assert_eq!(names(&["mine", "dir/mine", "dir/old", "dir/new"]), [false, false, false, true]);
    assert_eq!(world.read("outside"), "mine");
}

#[test]
fn the_machines_own_root_is_no_output() {
    let world = World::new();
    symlink("/", world.path("link")).unwrap();
    // Nothing is in it: a mistake here must not cost the machine its files.
    let snapshot = world.snapshot(vec![]);
    for path in [Path::new("/"), Path::new("/tmp/.."), &world.path("link")] {
        let root = FilesOutput::Folder { path, existing: Existing::Keep };
        let error = world.engine.write_files(&snapshot, &Dress::plain(Times::Keep), &root).unwrap_err();
        let message =
            format!("`{}` is the root of this machine, and no output is written there", path.display());
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn no_link_leads_anything_out_of_the_folder() {
    for existing in [Existing::Keep, Existing::Delete] {
        let world = World::new();
        fs::create_dir_all(world.path("outside/dir")).unwrap();
        fs::write(world.path("outside/f"), "kept").unwrap();
        fs::create_dir(world.path("out")).unwrap();
        // Left behind by an earlier, hostile result, say.
        symlink("../outside", world.path("out/dir")).unwrap();
        symlink("../outside/f", world.path("out/f")).unwrap();
        symlink("../outside/f", world.path("out/l")).unwrap();
        let snapshot = world.snapshot(vec![
            ("dir/dir/new", world.file("new", 0o644)),
            ("f", world.file("new", 0o666)),
            ("l", Entry::symlink("elsewhere")),
        ]);
        world.write(&snapshot, existing).unwrap();
        assert_eq!(world.read("outside/f"), "kept");
        assert_eq!(fs::read_dir(world.path("outside/dir")).unwrap().count(), 0);
        assert_eq!(world.read("out/dir/dir/new"), "new");
        assert_eq!(
            (world.read("out/f"), fs::read_link(world.path("out/l")).unwrap()),
            ("new".into(), "elsewhere".into())
        );
    }
}

#[test]
fn a_directory_is_not_removed_for_a_file() {
    let world = World::new();
    fs::create_dir_all(world.path("out/x/mine")).unwrap();
    for entry in [world.file("new", 0o644), Entry::symlink("y")] {
        let snapshot = world.snapshot(vec![("x", entry)]);
        let error = world.write(&snapshot, Existing::Keep).unwrap_err();
        assert!(matches!(error, EngineError::Output(OutputError::InTheWay { .. })), "{error}");
        assert!(error.hints()[0].contains("mode=delete"));
        assert_eq!(fs::read_dir(world.path("out")).unwrap().count(), 1);
    }
    let snapshot = world.snapshot(vec![("x", world.file("new", 0o644))]);
    world.write(&snapshot, Existing::Delete).unwrap();
    assert_eq!(world.read("out/x"), "new");
}

#[test]
fn devices_are_for_root_and_pipes_for_everybody() {
    let world = World::new();
    let node = |node| Entry { meta: Meta::new(0o600), node };
    let null = node(Node::CharDevice { major: 1, minor: 3 });
    let snapshot = world.snapshot(vec![("null", null), ("pipe", node(Node::Fifo))]);
    let written = world.write(&snapshot, Existing::Keep).unwrap();
    assert_eq!(written.skipped.len(), usize::from(!world.path("out/null").exists()));
    assert!(!world.path("out/pipe").symlink_metadata().unwrap().is_file());
}

#[test]
fn damaged_contents_are_noticed() {
    let world = World::new();
    let snapshot = world.snapshot(vec![("f", world.file("right", 0o644))]);
    let blob = world.engine.store.blob_path(&Digest::of(b"right"));
    let seal = blob.metadata().unwrap().modified().unwrap();
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, "wrong").unwrap();
    File::options().write(true).open(&blob).unwrap().set_modified(seal).unwrap();
    world.write(&snapshot, Existing::Keep).unwrap_err();
    assert!(!world.path("out/f").exists());
    assert_eq!(fs::read_dir(world.path("out")).unwrap().count(), 0);
}

#[test]
fn a_tar_is_the_same_every_time_and_appears_when_it_is_whole() {
    let world = World::new();
    let files = || {
        vec![
            ("dir", directory(0o755)),
            ("dir/f", world.file("text", 0o4755)),
            ("link", Entry::symlink("/abs")),
        ]
    };
    let snapshot = world.snapshot(files());
    let path = world.path("root.tar");
    fs::write(&path, "old").unwrap();
    let written = world
        .engine
        .write_files(&snapshot, &Dress::plain(Times::Fixed(1)), &FilesOutput::Tar(&path))
        .unwrap();
    assert_eq!(written.entries, 3);
    let mut again = Vec::new();
    world.engine.write_tar(&snapshot, &Dress::plain(Times::Fixed(1)), &mut again).unwrap();
    assert!(fs::read(&path).unwrap() == again);
    let mut archive = tar::Archive::new(&again[..]);
    let entries: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            let (mode, uid, time) = (header.mode().unwrap(), header.uid().unwrap(), header.mtime().unwrap());
            format!("{} {mode:o} {uid} {time}", entry.path().unwrap().display())
        })
        .collect();
    assert_eq!(entries, ["dir/ 755 0 1", "dir/f 4755 12 1", "link 777 0 1"]);
    let bad = world.snapshot(vec![("ok", world.file("x", 0o644)), (".wh.x", world.file("x", 0o644))]);
    let error =
        world.engine.write_files(&bad, &Dress::plain(Times::Keep), &FilesOutput::Tar(&path)).unwrap_err();
    assert_eq!(error.to_string(), "cannot write the tar");
    assert!(fs::read(&path).unwrap() == again);
    assert_eq!(fs::read_dir(world.folder.path()).unwrap().count(), 2);
}
