use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use proptest::prelude::*;
use wbuild_layer::{
    Compression, Expected, Owners, Recipe, Times, UnpackOptions, Unpacked, unpack, write_layer,
};
use wbuild_tree::{Entry, MemoryTrees, Meta, Node, Subtree, Time, Xattrs};

use crate::trees::{Kind, MemoryContents, any_delta, build, entries, list_disk, list_tree, path, tree};

fn unpack_delta(delta: &Subtree, contents: &MemoryContents, owners: Owners) -> (tempfile::TempDir, Unpacked) {
    let mut blob = Vec::new();
    let recipe = Recipe { compression: Compression::Gzip { level: 1 }, times: Times::Keep };
    let layer = write_layer(&MemoryTrees::default(), contents, delta, &recipe, &mut blob).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let target = std::fs::File::open(folder.path()).unwrap();
    let options = UnpackOptions { owners, ..UnpackOptions::default() };
    let expected = Expected::both(layer.digest, layer.diff_id);
    let unpacked = unpack(&blob[..], &expected, target.as_fd(), &options).unwrap();
    assert_eq!(unpacked.layer.tree, *delta);
    (folder, unpacked)
}

/// Without the times of whiteouts, which nobody sets.
fn without_whiteout_times(lines: Vec<String>) -> Vec<String> {
    let is_whiteout = |line: &String| line.ends_with("char 0:0");
    let name = |line: &String| line.split(" 0:0 ").next().unwrap_or_default().to_owned();
    lines.into_iter().map(|line| if is_whiteout(&line) { name(&line) } else { line }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_disk_face_is_the_tree_face(drawn in any_delta()) {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return Ok(());
        }
        // ext4 keeps times from 1901 to 2446, and its 32-bit ancestors less.
        let drawn: Vec<_> = drawn.into_iter().map(|(path, mut meta, kind)| {
            meta.mtime.seconds = meta.mtime.seconds.min(4_000_000_000);
            // Linux has user attributes on files and directories only.
            if !matches!(kind, Kind::File(_) | Kind::Linked(_) | Kind::Directory(_)) {
                meta.xattrs = Xattrs::none();
            }
            (path, meta, kind)
        }).collect();
        let contents = MemoryContents::default();
        let delta = build(&drawn, &contents);
        let (folder, unpacked) = unpack_delta(&delta, &contents, Owners::Set);
        prop_assert!(unpacked.without_devices.is_empty() && unpacked.without_xattrs.is_empty());
        let disk = without_whiteout_times(list_disk(folder.path()));
        prop_assert_eq!(disk, without_whiteout_times(list_tree(&delta)));
        for (path, entry) in entries(&delta) {
            if let Node::Directory { opaque, .. } = entry.node {
                let mut value = [0; 8];
                let file = folder.path().join(path.to_path_buf());
                let found = rustix::fs::getxattr(file, "user.overlay.opaque", &mut value);
                prop_assert_eq!(found.is_ok(), opaque);
            }
        }
    }
}

#[test]
fn without_privileges_owners_and_devices_are_left_out() {
    let contents = MemoryContents::default();
    let (digest, size) = contents.add("x");
    let mut xattrs = Xattrs::none();
    xattrs.insert(b"user.a", b"b");
    let meta =
        Meta { xattrs, mtime: Time { seconds: 77, nanos: 0 }, ..Meta::new(0o4755).owned_by(70_000, 70_000) };
    let null = Entry { meta: Meta::new(0o666), node: Node::CharDevice { major: 1, minor: 3 } };
    let delta = tree([
        (path("bin/su"), Entry::file(meta, digest, size)),
        (path("dev/null"), null),
        (path("closed"), Entry::directory(Meta::new(0o500), tree([(path("in"), Entry::whiteout())]))),
        (path("fifo"), Entry { meta: Meta::new(0o640), node: Node::Fifo }),
    ]);
    let (folder, unpacked) = unpack_delta(&delta, &contents, Owners::Skip);
    let stat = std::fs::metadata(folder.path().join("bin/su")).unwrap();
    assert_eq!(stat.permissions().mode() & 0o7777, 0o4755);
    assert_eq!((stat.mtime(), stat.uid()), (77, rustix::process::geteuid().as_raw()));
    assert_eq!(unpacked.without_devices, [path("dev/null")]);
    assert!(!folder.path().join("dev/null").exists());
    let closed = folder.path().join("closed");
    assert_eq!(std::fs::metadata(&closed).unwrap().permissions().mode() & 0o7777, 0o500);
    assert_eq!(std::fs::metadata(folder.path().join("fifo")).unwrap().permissions().mode() & 0o7777, 0o640);
    std::fs::set_permissions(closed, std::fs::Permissions::from_mode(0o700)).unwrap();
}

/// The kernel is the judge of whether a disk face is right.
#[test]
fn privileged_an_overlay_shows_what_the_layers_say() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let contents = MemoryContents::default();
    let file = |text: &str| {
        let (digest, size) = contents.add(text);
        Entry::file(Meta::new(0o644), digest, size)
    };
    let lower = tree([
        (path("a/x"), file("1")),
        (path("a/y"), file("2")),
        (path("b/z"), file("3")),
        (path("c"), file("4")),
    ]);
    let opaque = Entry {
        meta: Meta::new(0o755),
        node: Node::Directory { contents: tree([(path("n"), file("5"))]), opaque: true },
    };
    let delta = tree([(path("a/x"), Entry::whiteout()), (path("b"), opaque), (path("c"), Entry::whiteout())]);
    let (low, _) = unpack_delta(&lower, &contents, Owners::of_process());
    let (high, _) = unpack_delta(&delta, &contents, Owners::of_process());
    let merged = tempfile::tempdir().unwrap();
    let options = format!("userxattr,lowerdir={}:{}", high.path().display(), low.path().display());
    let options = std::ffi::CString::new(options).unwrap();
    if let Err(error) = mount("overlay", merged.path(), "overlay", MountFlags::empty(), &*options) {
        println!("skipped: cannot mount an overlay: {}", io::Error::from(error));
        return;
    }
    let seen: Vec<String> =
        list_disk(merged.path()).iter().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
    unmount(merged.path(), UnmountFlags::DETACH).unwrap();
    assert_eq!(seen, ["a", "a/y", "b", "b/n"]);
}
