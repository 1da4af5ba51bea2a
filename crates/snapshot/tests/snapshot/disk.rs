use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use wbuild_oci::Digest;
use wbuild_report::Hint;
use wbuild_snapshot::{
    CheckRequest, Disk, Made, Mtimes, OwnerSource, Owners, check, content_time, materialise, remove_tree,
    seal,
};
use wbuild_tree::{Entry, LinkId, Node, Subtree, Time};

use crate::{collected, dir, disk, file, listing, meta, opaque, store, symlink, tree};

#[test]
fn what_is_materialised_and_collected_is_the_same_tree() {
    let (_dir, store) = store();
    let mut old = file(&store, "old");
    old.meta.mtime = Time { seconds: -5, nanos: 123_456_789 };
    let mut tool = file(&store, "tool");
    tool.meta.mode = 0o4755;
    tool.meta.xattrs.insert(b"user.note", b"x\0y");
    let linked = |number| {
        let mut entry = file(&store, "linked");
        if let Node::File { link, .. } = &mut entry.node {
            *link = Some(LinkId(number));
        }
        entry
    };
    let inner = tree(&store, vec![("deep/x", file(&store, "x"))]);
    let mut closed = dir(0o000);
    closed.meta.mtime = Time { seconds: 7, nanos: 0 };
    let mut entries = vec![
        ("a/old", old),
        ("a/tool", tool),
        ("a/one", linked(0)),
        ("b/one", linked(1)),
        ("c/another", linked(0)),
        ("c/single", file(&store, "linked")),
        ("d/two", linked(1)),
        ("e/gone", Entry::whiteout()),
        ("e/new", opaque(&inner)),
        ("e/pipe", Entry { meta: meta(0o600), node: Node::Fifo }),
        ("e/link", symlink("/../a/\u{fffd}")),
        ("empty", file(&store, "")),
        ("empty too", file(&store, "")),
    ];
    let root = rustix::process::geteuid().is_root();
    // Not so the root of a user namespace.
    let anchor = store.path().join("version.json");
    let all_ids = std::os::unix::fs::chown(&anchor, Some(718_322_462), None).is_ok();
    if all_ids {
        std::os::unix::fs::chown(&anchor, Some(0), None).unwrap();
        let mut owned = file(&store, "owned");
        owned.meta = owned.meta.owned_by(718_322_462, 4_000_000_000);
        entries.push(("f/owned", owned));
        entries.push(("f/null", Entry { meta: meta(0o666), node: Node::CharDevice { major: 1, minor: 3 } }));
        entries.push(("f/closed", closed));
    }
    let tree = tree(&store, entries);
    for owners in [Owners::Set, Owners::Note] {
        if root != (owners == Owners::Set) {
            continue;
        }
        let folder = materialise(&store, tree.digest(), Disk { owners, ..disk() }).unwrap();
        assert_eq!(materialise(&store, tree.digest(), Disk { owners, ..disk() }).unwrap(), folder);
        let reply = collected(&store, &folder.fs());
        assert_eq!(listing(&store, reply.tree), listing(&store, tree.digest()));
        assert_eq!((reply.tree, reply.content), (tree.digest(), tree.content()));
        assert_eq!((reply.entries, reply.bytes), (tree.entries(), tree.bytes()));
        assert!(fs::metadata(folder.fs().join("e/gone")).unwrap().file_type().is_char_device());
        let inode = |path: &str| fs::metadata(folder.fs().join(path)).unwrap().ino();
        assert_eq!(inode("a/one"), inode("c/another"));
        assert_ne!(inode("a/one"), inode("b/one"));
        assert_ne!(inode("empty"), inode("empty too"), "programs would take them for hard links");
        assert_ne!(fs::metadata(store.blob_path(&Digest::of(b"x"))).unwrap().ino(), inode("e/new/deep/x"));
    }
}

#[test]
fn faces_share_inodes_and_damaged_ones_are_replaced() {
    let (_dir, store) = store();
    let one = tree(&store, vec![("a/file", file(&store, "shared")), ("a/x", file(&store, "1"))]);
    let two =
        vec![("a/file", file(&store, "shared")), ("a/x", file(&store, "2")), ("b", file(&store, "shared"))];
    let two = tree(&store, two);
    let three = tree(&store, vec![("a/file", file(&store, "shared"))]);
    let one = materialise(&store, one.digest(), disk()).unwrap().fs();
    let two = materialise(&store, two.digest(), disk()).unwrap().fs();
    let shared = fs::metadata(one.join("a/file")).unwrap();
    assert_eq!(shared.ino(), fs::metadata(two.join("a/file")).unwrap().ino());
    assert_ne!(
        shared.ino(),
        fs::metadata(two.join("b")).unwrap().ino(),
        "a step would take them for hard links"
    );
    assert_eq!(shared.nlink(), 3);
    fs::write(one.join("a/file"), "WRONG!").unwrap();
    let three = materialise(&store, three.digest(), disk()).unwrap().fs();
    assert_eq!(fs::read(three.join("a/file")).unwrap(), b"shared");
}

/// A comparison reads every file, so it notices what a seal does not.
#[test]
fn a_face_is_compared_with_its_tree() {
    let (_dir, store) = store();
    let tree = tree(&store, vec![("a/file", file(&store, "bytes")), ("a/link", Entry::symlink("file"))]);
    let folder = materialise(&store, tree.digest(), disk()).unwrap();
    let sealed = *folder.seal();
    assert_eq!(seal(&folder.fs()).unwrap(), sealed);
    let owners = disk().owners == Owners::Set;
    let made = [
        Made::FilesFromTree { owners, implied: Vec::new() },
        // As if they were a step's: they agree to the last bit, too.
        Made::TreeFromFiles { owners: OwnerSource::Disk, overrides: Vec::new() },
    ];
    let difference = |made: &Made| {
        let request = CheckRequest {
            dir: folder.fs(),
            store: store.path().to_owned(),
            tree: tree.digest(),
            made: made.clone(),
        };
        check(&request).unwrap().difference.map(|path| path.to_string())
    };
    if owners {
        assert_eq!(made.each_ref().map(difference), [None, None]);
    }
    let (path, link) = (folder.fs().join("a/file"), folder.fs().join("a/link"));
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    for bytes in ["bytez", "bytes"] {
        fs::write(&path, bytes).unwrap();
        fs::File::open(&path).unwrap().set_modified(time).unwrap();
        assert_eq!(seal(&folder.fs()).unwrap(), sealed, "the time is as it was");
        let expected = (bytes == "bytez").then(|| "/a/file".to_owned());
        assert_eq!(difference(&made[0]), expected);
    }
    fs::remove_file(&link).unwrap();
    assert_eq!(difference(&made[0]).as_deref(), Some("/a/link"));
    assert_eq!(difference(&made[1]).as_deref(), Some("/a/link"));
    assert_ne!(seal(&folder.fs()).unwrap(), sealed);
}

#[test]
fn times_from_content_change_exactly_with_it() {
    let (_dir, store) = store();
    let tree =
        tree(&store, vec![("a", file(&store, "1")), ("b", file(&store, "1")), ("c", file(&store, "2"))]);
    let folder =
        materialise(&store, tree.digest(), Disk { mtimes: Mtimes::FromContent, ..disk() }).unwrap().fs();
    let time = |name: &str| fs::metadata(folder.join(name)).unwrap().mtime();
    assert_eq!(time("a"), time("b"));
    assert_ne!(time("a"), time("c"));
    assert_eq!(time("a"), content_time(&Digest::of(b"1")).seconds);
    // 2^256 - 1 = 584007913129639935 modulo 10^9 … = 129639935.
    assert_eq!(content_time(&Digest::from_bytes([0xff; 32])).seconds, 129_639_936);
    let plain = materialise(&store, tree.digest(), disk()).unwrap().fs();
    assert_eq!(fs::metadata(plain.join("a")).unwrap().mtime(), 1);
}

#[test]
fn a_lost_blob_is_named() {
    let (_dir, store) = store();
    let tree = tree(&store, vec![("a", file(&store, "gone"))]);
    fs::remove_file(store.blob_path(&Digest::of(b"gone"))).unwrap();
    let error = materialise(&store, tree.digest(), disk()).unwrap_err();
    assert!(error.is_lost(), "{error}");
    assert_eq!(error.to_string(), format!("the blob {} is not in the store", Digest::of(b"gone")));
    assert!(error.hints().is_empty());
    store.put_bytes(b"gone").unwrap();
    materialise(&store, tree.digest(), disk()).unwrap();
}

#[test]
fn depth_is_no_limit() {
    let (_dir, store) = store();
    let name = "a-name-of-some-length";
    let mut tree = Subtree::empty();
    for level in 0..1200_u32 {
        let mut directory = wbuild_tree::Directory::default();
        directory.entries.insert(wbuild_tree::Name::new(name).unwrap(), Entry::directory(meta(0o755), tree));
        if level % 100 == 0 {
            directory
                .entries
                .insert(wbuild_tree::Name::new("file").unwrap(), file(&store, &level.to_string()));
        }
        tree = Subtree::new(directory);
    }
    store.put_tree(&tree).unwrap();
    let folder = materialise(&store, tree.digest(), disk()).unwrap();
    let reply = collected(&store, &folder.fs());
    assert_eq!((reply.tree, reply.entries), (tree.digest(), 1212));
    assert!(store.usage().unwrap().deltas.bytes > 1200 * 4096);
    remove_tree(folder.fs().parent().unwrap()).unwrap();
}
