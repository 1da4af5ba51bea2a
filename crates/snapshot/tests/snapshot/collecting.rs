use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use wbuild_snapshot::{
    CollectRequest, CollectTimes, Device, Override, Selection, SnapshotError, Stub, collect,
};
use wbuild_tree::{Entry, Time, lookup};

use crate::{collected, disk, exec, file, listing, overlay, path, publish, request, store, tree};

#[test]
fn the_changes_of_a_step_in_an_overlay() {
    let (dir, store) = store();
    let base = tree(
        &store,
        vec![
            ("etc/passwd", file(&store, "root:x:0:0")),
            ("etc/gone", file(&store, "g")),
            ("old/a", file(&store, "a")),
            ("old/b", file(&store, "b")),
            ("kept/c", file(&store, "c")),
        ],
    );
    let lower = wbuild_snapshot::materialise(&store, base.digest(), disk()).unwrap().fs();
    let draft = store.draft().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let Some(mounted) = overlay(&root, &[lower], Some((&draft.fs(), &draft.work()))) else { return };
    fs::remove_file(root.join("etc/gone")).unwrap();
    fs::remove_dir_all(root.join("old")).unwrap();
    fs::create_dir(root.join("old")).unwrap();
    fs::write(root.join("old/new"), "n").unwrap();
    fs::write(root.join("etc/passwd"), "changed").unwrap();
    fs::rename(root.join("kept/c"), root.join("kept/moved")).unwrap();
    fs::write(root.join("one"), "1").unwrap();
    fs::hard_link(root.join("one"), root.join("etc/two")).unwrap();
    symlink("../x", root.join("link")).unwrap();
    drop(mounted);

    let folder = publish(&store, draft, exec("step"));
    let reply = collected(&store, &folder.fs());
    let expected = [
        "/etc dir",
        "/etc/gone gone",
        "/etc/passwd file changed",
        "/etc/two file 1 link 0",
        "/kept dir",
        "/kept/c gone",
        "/kept/moved file c",
        "/link -> ../x",
        "/old opaque",
        "/old/new file n",
        "/one file 1 link 0",
    ];
    assert_eq!(listing(&store, reply.tree), expected);
    let tree = store.tree(reply.tree).unwrap();
    for name in ["old", "etc", "kept/moved"] {
        let entry = lookup(&store, &tree, &path(name)).unwrap().unwrap();
        assert!(entry.meta.xattrs.is_empty(), "overlay's own attributes stay out of trees: {name}");
    }
    let normal =
        collect(&CollectRequest { times: CollectTimes::Normal, ..request(&store, &folder.fs()) }).unwrap();
    assert_eq!(normal.content, reply.content);
    assert_ne!(normal.tree, reply.tree);
    let one = lookup(&store, &store.tree(normal.tree).unwrap(), &path("one")).unwrap().unwrap();
    assert_eq!(one.meta.mtime, Time::NORMAL);
}

#[test]
fn only_declared_outputs_are_taken_and_the_rest_is_named() {
    let (_dir, store) = store();
    let draft = store.draft().unwrap();
    let put = |path: &str| {
        let path = draft.fs().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    };
    ["app/.next/a/b", "app/.next/cache/c", "app/stray", "tmp/y", "other/z", "root/.cache/w"]
        .into_iter()
        .for_each(put);
    fs::create_dir(draft.fs().join("app/.next/empty")).unwrap();
    fs::create_dir(draft.fs().join("app/untouched")).unwrap();
    mknodat(CWD, draft.fs().join("app/gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let outputs = Selection {
        include: vec!["app/.next/**".into()],
        exclude: vec!["app/.next/cache/**".into()],
        expected: vec!["tmp/**".into(), "root/.cache".into()],
    };
    let reply = collect(&CollectRequest { outputs: Some(outputs), ..request(&store, &draft.fs()) }).unwrap();
    let expected = [
        "/app dir",
        "/app/.next dir",
        "/app/.next/a dir",
        "/app/.next/a/b file x",
        "/app/.next/cache dir",
        "/app/.next/empty dir",
    ];
    assert_eq!(listing(&store, reply.tree), expected);
    assert_eq!((reply.undeclared, reply.undeclared_count), (vec![path("app/stray"), path("other/z")], 2));
}

#[test]
fn mount_points_are_left_out_while_they_are_empty() {
    let (_dir, store) = store();
    let draft = store.draft().unwrap();
    for folder in ["proc", "run/secrets", "work/made"] {
        fs::create_dir_all(draft.fs().join(folder)).unwrap();
    }
    for file in ["etc-hosts", "work/file"] {
        fs::write(draft.fs().join(file), "").unwrap();
    }
    fs::write(draft.fs().join("filled"), "by the step").unwrap();
    let stub = |text: &str, directory| Stub { path: path(text), directory };
    let leave_out = vec![
        stub("proc", true),
        stub("run", true),
        stub("run/secrets", true),
        stub("etc-hosts", false),
        stub("work", true),
        stub("filled", false),
    ];
    let reply = collect(&CollectRequest { leave_out, ..request(&store, &draft.fs()) }).unwrap();
    assert_eq!(
        listing(&store, reply.tree),
        ["/filled file by the step", "/work dir", "/work/file file ", "/work/made dir"]
    );
}

#[test]
fn what_the_machine_could_not_express_comes_from_the_supervisor() {
    let (_dir, store) = store();
    let draft = store.draft().unwrap();
    for name in ["a", "b", "c", "null"] {
        fs::write(draft.fs().join(name), "x").unwrap();
    }
    let stat = |name: &str| fs::metadata(draft.fs().join(name)).unwrap();
    let born = |name: &str| {
        let since = stat(name).created().ok()?.duration_since(std::time::UNIX_EPOCH).unwrap();
        Some((since.as_secs() as i64, since.subsec_nanos()))
    };
    let over = |name: &str| Override { inode: stat(name).ino(), born: born(name), ..Override::default() };
    let overrides = vec![
        Override { uid: Some(1000), gid: Some(70_000), mode: Some(0o6711), ..over("a") },
        // Another inode that had the same number before.
        Override { uid: Some(5), born: Some((1, 1)), ..over("b") },
        Override { capability: Some(vec![1, 2, 3]), ..over("c") },
        Override { device: Some(Device { block: false, major: 1, minor: 3 }), ..over("null") },
    ];
    let json = serde_json::to_string(&CollectRequest { overrides, ..request(&store, &draft.fs()) }).unwrap();
    let reply = collect(&serde_json::from_str(&json).unwrap()).unwrap();
    let tree = store.tree(reply.tree).unwrap();
    let entry = |name: &str| lookup(&store, &tree, &path(name)).unwrap().unwrap();
    let a = entry("a").meta;
    assert_eq!((a.uid, a.gid, a.mode), (1000, 70_000, 0o6711));
    assert_eq!(entry("b").meta.uid, rustix::process::geteuid().as_raw());
    assert_eq!(entry("c").meta.xattrs.iter().next(), Some((&b"security.capability"[..], &[1_u8, 2, 3][..])));
    assert_eq!(listing(&store, reply.tree)[3], "/null char 1:3");
}

#[test]
fn names_and_marks_that_would_act_on_others_are_refused() {
    let (_dir, store) = store();
    let draft = store.draft().unwrap();
    fs::create_dir(draft.fs().join("a")).unwrap();
    fs::write(draft.fs().join("a/.wh.passwd"), "").unwrap();
    let error = collect(&request(&store, &draft.fs())).unwrap_err();
    assert!(
        matches!(&error, SnapshotError::WhiteoutName { path: named } if *named == path("a/.wh.passwd")),
        "{error}"
    );
    fs::remove_file(draft.fs().join("a/.wh.passwd")).unwrap();
    for attribute in ["user.overlay.redirect", "user.overlay.metacopy"] {
        let file = draft.fs().join(format!("a/{attribute}"));
        fs::write(&file, "").unwrap();
        setxattr(&file, attribute, b"/etc/shadow", XattrFlags::empty()).unwrap();
        let error = collect(&request(&store, &draft.fs())).unwrap_err();
        assert!(
            matches!(&error, SnapshotError::OverlayControl { attribute: named, .. } if named == attribute)
        );
        fs::remove_file(&file).unwrap();
    }
    setxattr(draft.fs().join("a"), "user.overlay.impure", b"y", XattrFlags::empty()).unwrap();
    setxattr(draft.fs().join("a"), "user.mine", b"1", XattrFlags::empty()).unwrap();
    let _socket = UnixListener::bind(draft.fs().join("a/socket")).unwrap();
    let reply = collected(&store, &draft.fs());
    assert_eq!(listing(&store, reply.tree), ["/a dir"]);
    let entry: Entry = lookup(&store, &store.tree(reply.tree).unwrap(), &path("a")).unwrap().unwrap();
    assert_eq!(entry.meta.xattrs.iter().collect::<Vec<_>>(), [(&b"user.mine"[..], &b"1"[..])]);
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_mode_is_changed() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root reads everything");
        return;
    }
    let (_dir, store) = store();
    let draft = store.draft().unwrap();
    let closed = draft.fs().join("closed");
    fs::write(&closed, "x").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let error = collect(&request(&store, &draft.fs())).unwrap_err();
    assert!(error.to_string().ends_with("closed`"), "{error}");
    assert_eq!(fs::metadata(&closed).unwrap().mode() & 0o7777, 0);
}

#[test]
fn large_files_are_stored_once() {
    let (_dir, store) = store();
    let draft = store.draft().unwrap();
    let bytes: Vec<u8> = (0..6_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(draft.fs().join("one"), &bytes).unwrap();
    fs::write(draft.fs().join("two"), &bytes).unwrap();
    let reply = collected(&store, &draft.fs());
    assert_eq!((reply.entries, reply.bytes), (2, 2 * bytes.len() as u64));
    assert_eq!(store.usage().unwrap().blobs.count, 1);
}
