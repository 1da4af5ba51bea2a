use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use wbuild_oci::Digest;
use wbuild_report::Hint;
use wbuild_store::{DeltaName, RecordMeta, Ref, Store, StoreError, Stored, remove_tree};
use wbuild_tree::{Subtree, TreeDigest, TreeSource, Visit, walk};

use crate::{DAMAGES, change, files, rot, seal, store, tree};

#[test]
fn blobs_come_back_and_leave_no_temporary_files() {
    let (_dir, store) = store();
    let (digest, size) = store.put_blob(&mut &b"hello"[..], Path::new("greeting"), None).unwrap();
    assert_eq!((digest, size), (Digest::of(b"hello"), 5));
    assert_eq!(store.put_bytes(b"hello").unwrap(), digest);
    assert!(store.has_blob(&digest).unwrap());
    assert_eq!(store.read_blob(&digest, 5).unwrap(), b"hello");
    assert!(matches!(store.read_blob(&digest, 4), Err(StoreError::TooLarge { size: 5, cap: 4, .. })));
    let mut text = String::new();
    store.open_blob(&digest).unwrap().reader().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert_eq!(fs::metadata(store.blob_path(&digest)).unwrap().mode() & 0o7777, 0o444);
    assert_eq!(fs::metadata(store.path()).unwrap().mode() & 0o7777, 0o700);
    assert!(files(&store.path().join("work")).is_empty());
    let missing = Digest::of(b"nobody put this");
    assert!(!store.has_blob(&missing).unwrap());
    let error = store.open_blob(&missing).unwrap_err();
    assert!(error.is_lost());
    assert_eq!(error.to_string(), format!("the blob {missing} is not in the store"));
}

#[test]
fn what_is_not_what_was_announced_is_refused() {
    let (dir, store) = store();
    let wrong = Digest::of(b"announced");
    let error = store.put_blob(&mut &b"delivered"[..], Path::new("layer 3"), Some(&wrong)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("`layer 3` should have the digest {wrong} but has {}", Digest::of(b"delivered"))
    );
    let path = dir.path().join("file");
    fs::write(&path, "delivered").unwrap();
    let file = File::open(&path).unwrap();
    assert!(matches!(store.put_file(&file, &path, Some(&wrong)), Err(StoreError::DigestMismatch { .. })));
    assert!(files(&store.path().join("blobs")).is_empty() && files(&store.path().join("work")).is_empty());
    let stored = store.put_file(&file, &path, None).unwrap();
    assert_eq!(stored, (Digest::of(b"delivered"), 9));
    assert_eq!(store.put_file(&file, &path, Some(&stored.0)).unwrap(), stored);
}

#[test]
fn every_damage_to_a_blob_is_noticed_and_repaired() {
    for (name, damage) in DAMAGES {
        let (_dir, store) = store();
        let bytes = b"some bytes that matter".repeat(100);
        let digest = store.put_bytes(&bytes).unwrap();
        let path = store.blob_path(&digest);
        damage(&path);
        let error = store.open_blob(&digest).unwrap_err();
        assert!(error.is_lost(), "{name}: {error}");
        assert!(path.symlink_metadata().is_err(), "{name}: the damaged file is gone");
        damage_again_and_put(&store, &digest, &bytes, name, damage);
    }
}

/// Putting over a damaged file gives a good one, whether or not it was read in between.
fn damage_again_and_put(store: &Store, digest: &Digest, bytes: &[u8], name: &str, damage: fn(&Path)) {
    assert_eq!(store.put_bytes(bytes).unwrap(), *digest, "{name}");
    assert_eq!(store.read_blob(digest, 1 << 20).unwrap(), bytes, "{name}");
    damage(&store.blob_path(digest));
    store.put_blob(&mut &*bytes, Path::new("again"), Some(digest)).unwrap();
    assert_eq!(store.read_blob(digest, 1 << 20).unwrap(), bytes, "{name}");
}

#[test]
fn harmless_changes_are_forgiven() {
    let (dir, store) = store();
    let digest = store.put_bytes(b"same").unwrap();
    let path = store.blob_path(&digest);
    let sealed = fs::metadata(&path).unwrap().modified().unwrap();
    // Touched, or restored by something that keeps no times: hashed once, and sealed again.
    File::open(&path).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    assert!(store.has_blob(&digest).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), sealed);
    for mode in [0o000, 0o666] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(store.read_blob(&digest, 9).unwrap(), b"same", "mode {mode:o}");
    }
    fs::hard_link(&path, dir.path().join("exported")).unwrap();
    assert!(store.has_blob(&digest).unwrap());
}

#[test]
fn blobs_that_changed_places_are_noticed() {
    let (dir, store) = store();
    let (one, two) = (store.put_bytes(b"one").unwrap(), store.put_bytes(b"two").unwrap());
    let aside = dir.path().join("aside");
    fs::rename(store.blob_path(&one), &aside).unwrap();
    fs::rename(store.blob_path(&two), store.blob_path(&one)).unwrap();
    fs::rename(&aside, store.blob_path(&two)).unwrap();
    assert!(!store.has_blob(&one).unwrap());
    assert!(store.read_blob(&two, 9).unwrap_err().is_lost());
}

#[test]
fn rot_under_an_unchanged_time_is_caught_by_every_full_read() {
    let (_dir, store) = store();
    let digest = store.put_bytes(b"precious").unwrap();
    let rot = || {
        let path = store.blob_path(&digest);
        let sealed = fs::metadata(&path).unwrap().modified().unwrap();
        change(&path, |bytes| bytes[0] ^= 1);
        File::options().write(true).open(&path).unwrap().set_modified(sealed).unwrap();
    };
    rot();
    let mut bytes = Vec::new();
    let error = store.open_blob(&digest).unwrap().reader().read_to_end(&mut bytes).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    assert!(!store.has_blob(&digest).unwrap());
    store.put_bytes(b"precious").unwrap();
    rot();
    let verified = store.verify().unwrap();
    assert_eq!((verified.checked, verified.damaged), (1, vec![Ref::Blob(digest)]));
    store.put_bytes(b"precious").unwrap();
    rot();
    assert!(store.read_blob(&digest, 100).unwrap_err().is_lost());
}

fn count(store: &Store, tree: &Subtree) -> usize {
    let mut count = 0;
    walk(store, tree, &mut |_, _| {
        count += 1;
        Ok::<_, wbuild_tree::TreeLoadError>(Visit::Into)
    })
    .unwrap();
    count
}

#[test]
fn trees_come_back_in_parts() {
    let (_dir, store) = store();
    let tree = tree(&store, 700);
    assert_eq!(store.put_tree(&tree).unwrap(), tree.digest());
    assert_eq!(store.put_tree(&tree).unwrap(), tree.digest());
    assert_eq!(files(&store.path().join("trees")).len(), 3, "two folders are large enough to be objects");
    let loaded = store.tree(tree.digest()).unwrap();
    assert_eq!((count(&store, &loaded), &loaded), (703, &tree));
    assert!(store.tree(TreeDigest(Digest::of(b"no"))).unwrap_err().is_lost());
}

#[test]
fn every_damage_to_a_tree_is_noticed_and_repaired() {
    for (name, damage) in DAMAGES {
        let (_dir, store) = store();
        let tree = tree(&store, 700);
        store.put_tree(&tree).unwrap();
        for path in files(&store.path().join("trees")) {
            damage(&path);
            let hex = path.file_name().unwrap().to_str().unwrap();
            let digest = TreeDigest(Digest::from_hex(hex).unwrap());
            assert!(store.directory(digest).is_err(), "{name}");
            assert!(!store.has_tree(digest).unwrap(), "{name}");
            store.put_tree(&tree).unwrap();
            assert_eq!(count(&store, &store.tree(tree.digest()).unwrap()), 703, "{name}");
        }
    }
}

/// Bytes that rot under an unchanged time and size, wherever in the object they are.
#[test]
fn every_byte_of_a_tree_that_rots_is_noticed_when_it_is_read() {
    let (_dir, store) = store();
    let tree = tree(&store, 700);
    store.put_tree(&tree).unwrap();
    let top = store.path().join("trees").join(&tree.digest().0.hex()[..2]).join(tree.digest().0.hex());
    for index in 0..fs::metadata(&top).unwrap().len() as usize {
        rot(&top, index);
        assert!(store.has_tree(tree.digest()).unwrap(), "byte {index}: it looks as it was published");
        let error = store.tree(tree.digest()).unwrap_err();
        assert!(error.is_lost(), "byte {index}: {error}");
        assert!(!store.has_tree(tree.digest()).unwrap(), "byte {index}");
        store.put_tree(&tree).unwrap();
    }
}

#[test]
fn a_check_of_everything_leaves_no_tree_of_which_a_part_is_gone() {
    let (_dir, store) = store();
    let tree = tree(&store, 700);
    store.put_tree(&tree).unwrap();
    let objects = files(&store.path().join("trees"));
    let verified = store.verify().unwrap();
    assert_eq!((verified.checked, verified.damaged.len(), verified.incomplete.len()), (703, 0, 0));
    let below = objects.iter().find(|path| !path.ends_with(tree.digest().0.hex())).unwrap();
    let name = TreeDigest(Digest::from_hex(below.file_name().unwrap().to_str().unwrap()).unwrap());
    rot(below, 200);
    let verified = store.verify().unwrap();
    assert_eq!((verified.damaged, verified.incomplete), (vec![Ref::Tree(name)], vec![tree.digest()]));
    assert!(!store.has_tree(tree.digest()).unwrap());
    store.put_tree(&tree).unwrap();
    fs::remove_file(below).unwrap();
    let verified = store.verify().unwrap();
    assert_eq!((verified.damaged, verified.incomplete), (vec![], vec![tree.digest()]));
    store.put_tree(&tree).unwrap();
    assert_eq!(store.verify().unwrap().incomplete, []);
}

#[test]
fn the_first_record_wins_until_it_is_replaced() {
    let (_dir, store) = store();
    let key = Digest::of(b"key");
    let meta = RecordMeta { refs: vec![Ref::Blob(key), Ref::Delta(DeltaName::new("exec-1").unwrap())] };
    assert_eq!(store.record(&key).unwrap(), None);
    assert_eq!(store.put_record(&key, &meta, b"{\"a\":1}\nb").unwrap(), Stored::New);
    let Stored::Existing(first) = store.put_record(&key, &RecordMeta::default(), b"2").unwrap() else {
        panic!("the first one is there")
    };
    assert_eq!((&first.meta, first.body.as_slice()), (&meta, &b"{\"a\":1}\nb"[..]));
    store.replace_record(&key, &RecordMeta::default(), b"2").unwrap();
    assert_eq!(store.record(&key).unwrap().unwrap().body, b"2");
    assert_eq!(store.record_keys().unwrap(), [key]);
    store.remove_record(&key).unwrap();
    store.remove_record(&key).unwrap();
    assert_eq!(store.peek_record(&key).unwrap(), None);
}

#[test]
fn damaged_records_are_misses() {
    for (name, damage) in DAMAGES {
        let (_dir, store) = store();
        let key = Digest::of(b"key");
        store.put_record(&key, &RecordMeta::default(), b"result").unwrap();
        damage(&files(&store.path().join("records"))[0]);
        if name == "a link" {
            // Never followed; an error or a miss would both do, a result would not.
            assert!(!matches!(store.record(&key), Ok(Some(_))));
            continue;
        }
        assert_eq!(store.record(&key).unwrap(), None, "{name}");
        assert_eq!(store.put_record(&key, &RecordMeta::default(), b"result").unwrap(), Stored::New, "{name}");
        damage(&files(&store.path().join("records"))[0]);
        assert_eq!(store.put_record(&key, &RecordMeta::default(), b"result").unwrap(), Stored::New, "{name}");
        assert_eq!(store.record(&key).unwrap().unwrap().body, b"result", "{name}");
    }
}

#[test]
fn records_that_changed_places_are_misses() {
    let (_dir, store) = store();
    let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
    store.put_record(&one, &RecordMeta::default(), b"1").unwrap();
    store.put_record(&two, &RecordMeta::default(), b"2").unwrap();
    let path = |key: &Digest| store.path().join("records").join(&key.hex()[..2]).join(key.hex());
    fs::rename(path(&two), path(&one)).unwrap();
    assert_eq!(store.record(&one).unwrap(), None);
}

#[test]
fn latest_points_at_the_newest_record() {
    let (_dir, store) = store();
    let (name, key) = (Digest::of(b"name"), Digest::of(b"key"));
    assert_eq!(store.latest(&name).unwrap(), None);
    store.set_latest(&name, &key).unwrap();
    store.set_latest(&name, &name).unwrap();
    assert_eq!(store.latest(&name).unwrap(), Some(name));
    for (what, damage) in DAMAGES.iter().filter(|(what, _)| *what != "a link" && *what != "flipped") {
        store.set_latest(&name, &key).unwrap();
        damage(&store.path().join("latest").join(name.hex()));
        // Bytes after a whole line do no harm.
        let expected = (*what == "appended to").then_some(key);
        assert_eq!(store.latest(&name).unwrap(), expected, "{what}");
    }
}

#[test]
fn deltas_are_published_whole_and_once() {
    let (_dir, store) = store();
    let name = DeltaName::new("exec-0123").unwrap();
    assert_eq!(store.delta(&name).unwrap(), None);
    let draft = store.draft().unwrap();
    fs::write(draft.fs().join("first"), "1").unwrap();
    let first = store.publish_delta(&name, draft, seal()).unwrap();
    let draft = store.draft().unwrap();
    fs::write(draft.fs().join("second"), "2").unwrap();
    assert_eq!(store.publish_delta(&name, draft, seal()).unwrap(), first);
    assert!(first.fs().join("first").exists() && !first.fs().join("second").exists());
    assert_eq!(fs::metadata(first.fs()).unwrap().mode() & 0o7777, 0o755);
    assert!(!first.fs().parent().unwrap().join("work").exists());
    assert!(files(&store.path().join("work")).is_empty());
    // A marker that is damaged or gone means that the folder may not be whole.
    for damage in [|path: &Path| fs::write(path, "").unwrap(), |path: &Path| fs::remove_file(path).unwrap()] {
        damage(&first.fs().parent().unwrap().join("delta.json"));
        assert_eq!(store.delta(&name).unwrap(), None);
        store.publish_delta(&name, store.draft().unwrap(), seal()).unwrap();
        assert!(store.delta(&name).unwrap().is_some());
    }
    store.drop_delta(&name).unwrap();
    assert_eq!(store.delta(&name).unwrap(), None);
    for text in ["", "A", "../x", "a/b", "-a", "a_b"] {
        assert!(DeltaName::new(text).is_err(), "{text}");
    }
}

/// Whoever has the old one goes on with it; it is deleted when nobody can have it any more.
#[test]
fn a_delta_that_is_replaced_stays_for_those_who_use_it() {
    let (_dir, store) = store();
    let name = DeltaName::new("step-1").unwrap();
    let publish = |text: &str, replace: bool| {
        let mut draft = store.draft().unwrap();
        fs::write(draft.fs().join("file"), text).unwrap();
        draft.set_notes(text.as_bytes()).unwrap();
        if replace {
            store.replace_delta(&name, draft, Digest::of(text.as_bytes())).unwrap()
        } else {
            store.publish_delta(&name, draft, Digest::of(text.as_bytes())).unwrap()
        }
    };
    let old = publish("old", false);
    let reader = Store::open(store.path()).unwrap();
    reader.workspace().unwrap();
    assert_eq!(reader.delta(&name).unwrap().as_ref(), Some(&old));
    let open = rustix::fs::openat(
        rustix::fs::CWD,
        old.fs(),
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let as_the_reader_sees_it = || {
        let flags = rustix::fs::OFlags::RDONLY;
        let file = rustix::fs::openat(&open, "file", flags, rustix::fs::Mode::empty()).unwrap();
        std::io::read_to_string(File::from(file)).unwrap()
    };

    let new = publish("new", true);
    let found = store.delta(&name).unwrap().unwrap();
    assert_eq!((&found, found.seal()), (&new, &Digest::of(b"new")));
    assert_ne!(old.instance(), new.instance());
    assert_eq!(fs::read_to_string(found.fs().join("file")).unwrap(), "new");
    assert_eq!(found.notes().unwrap().as_deref(), Some(&b"new"[..]));
    for path in store.sweep().unwrap() {
        remove_tree(&path).unwrap();
    }
    assert_eq!(as_the_reader_sees_it(), "old", "nothing is deleted while the reader lives");
    drop(reader);
    let swept = store.sweep().unwrap();
    assert_eq!(swept.len(), 1, "{swept:?}");
    assert_eq!(fs::read_to_string(swept[0].join("fs/file")).unwrap(), "old");

    // Where there is none, it is published.
    store.drop_delta(&name).unwrap();
    assert_eq!(store.delta(&name).unwrap(), None);
    publish("third", true);
    assert_eq!(store.delta(&name).unwrap().unwrap().notes().unwrap().as_deref(), Some(&b"third"[..]));
}

#[test]
fn damaged_notes_are_noticed() {
    for (what, damage) in DAMAGES {
        let (_dir, store) = store();
        let name = DeltaName::new("step-1").unwrap();
        let mut draft = store.draft().unwrap();
        draft.set_notes(b"who owns what").unwrap();
        let folder = store.publish_delta(&name, draft, seal()).unwrap();
        // Nobody puts a pipe or a link there by mistake.
        if matches!(what, "a link" | "a pipe" | "a folder") {
            continue;
        }
        damage(&folder.fs().with_file_name("notes"));
        assert!(folder.notes().unwrap_err().is_lost(), "{what}");
    }
}

#[test]
fn deltas_of_an_earlier_boot_need_to_be_settled() {
    let (_dir, store) = store();
    let names = ["exec-settled", "exec-lost"].map(|name| DeltaName::new(name).unwrap());
    let earlier = |name: &DeltaName| {
        let marker = store.path().join("deltas").join(name.as_str()).join("delta.json");
        let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&marker).unwrap()).unwrap();
        value["boot"] = "another one".into();
        fs::write(marker, value.to_string()).unwrap();
    };
    for name in &names {
        store.publish_delta(name, store.draft().unwrap(), seal()).unwrap();
        if name == &names[0] {
            store.settle().unwrap();
        }
        earlier(name);
    }
    assert!(store.delta(&names[0]).unwrap().is_some());
    assert!(store.delta(&names[1]).unwrap().is_none());
}

#[test]
fn a_full_disk_is_an_error_with_a_hint_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let flags = rustix::mount::MountFlags::empty();
    let size = c"size=256k,mode=0700";
    if let Err(error) = rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, size) {
        eprintln!("skipped: a small tmpfs cannot be mounted here ({error})");
        return;
    }
    let result = std::panic::catch_unwind(|| {
        let store = Store::open(&dir.path().join("state")).unwrap();
        let kept = store.put_bytes(b"kept").unwrap();
        let error = store.put_bytes(&vec![7; 1 << 20]).unwrap_err();
        assert!(error.to_string().starts_with("cannot write `/"), "{error}");
        assert!(error.hints()[0].starts_with("free space on the file system of"), "{:?}", error.hints());
        let error = store.put_blob(&mut std::io::repeat(7).take(1 << 20), Path::new("x"), None).unwrap_err();
        assert_eq!(error.hints().len(), 3);
        assert!(files(&store.path().join("work")).is_empty());
        assert_eq!(store.read_blob(&kept, 9).unwrap(), b"kept");
        // Down to the last byte: small writes fail too, and what was there before still is.
        let mut number = 0_u32;
        while store.put_bytes(&number.to_le_bytes()).is_ok() && number < 5000 {
            number += 1;
        }
        let key = Digest::of(b"key");
        let _ = store.put_record(&key, &RecordMeta::default(), &[b'x'; 8192]).unwrap_err();
        assert_eq!(store.record(&key).unwrap(), None);
        for done in 0..number {
            assert!(store.has_blob(&Digest::of(&done.to_le_bytes())).unwrap());
        }
    });
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    result.unwrap();
}
