use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use wbuild_oci::Digest;
use wbuild_store::{Collection, DeltaName, RecordMeta, Ref, Store};

use crate::{files, seal, store, tree};

const EVERYTHING: Collection = Collection { budget: 0, younger_than: Duration::ZERO };

fn set_times(path: &Path, access: Option<i64>, modification: Option<i64>) {
    let time = |seconds: Option<i64>| Timespec {
        tv_sec: seconds.unwrap_or(0),
        tv_nsec: if seconds.is_some() { 0 } else { rustix::fs::UTIME_OMIT },
    };
    let times = Timestamps { last_access: time(access), last_modification: time(modification) };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Makes everything look as if it was last used `hours` ago.
fn age(store: &Store, hours: i64) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let then = now - hours * 3600;
    for folder in ["blobs", "trees"] {
        files(&store.path().join(folder)).iter().for_each(|path| set_times(path, Some(then), None));
    }
    for path in files(&store.path().join("records")) {
        set_times(&path, None, Some(then));
    }
    for area in ["deltas", "mounts"] {
        for path in files(&store.path().join(area)) {
            if path.ends_with("delta.json") {
                set_times(&path, None, Some(then));
            }
        }
    }
}

fn age_record(store: &Store, key: &Digest, hours: i64) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let path = store.path().join("records").join(&key.hex()[..2]).join(key.hex());
    set_times(&path, None, Some(now - hours * 3600));
}

/// A store whose entries were made by a process that is gone.
fn abandoned(fill: impl FnOnce(&Store)) -> (tempfile::TempDir, Store) {
    let (dir, maker) = store();
    fill(&maker);
    age(&maker, 24);
    let path = maker.path().to_owned();
    drop(maker);
    (dir, Store::open(&path).unwrap())
}

fn delta(store: &Store, name: &str, bytes: usize) -> DeltaName {
    let name = DeltaName::new(name).unwrap();
    let draft = store.draft().unwrap();
    fs::write(draft.fs().join("file"), vec![1; bytes]).unwrap();
    store.publish_delta(&name, draft, seal()).unwrap();
    name
}

fn record(store: &Store, key: &str, refs: Vec<Ref>) -> Digest {
    let key = Digest::of(key.as_bytes());
    store.put_record(&key, &RecordMeta { refs }, b"{}").unwrap();
    key
}

#[test]
fn what_records_refer_to_stays_and_the_rest_goes() {
    let (_dir, store) = abandoned(|store| {
        let kept_tree = tree(store, 700);
        let refs = vec![
            Ref::Tree(store.put_tree(&kept_tree).unwrap()),
            Ref::Blob(store.put_bytes(b"kept").unwrap()),
            Ref::Delta(delta(store, "exec-kept", 10)),
        ];
        record(store, "kept", refs);
        store.put_bytes(b"garbage").unwrap();
        store.set_latest(&Digest::of(b"step"), &Digest::of(b"kept")).unwrap();
    });
    let before = store.usage().unwrap();
    assert_eq!((before.blobs.count, before.trees.count, before.deltas.count), (702, 3, 1));
    let collected =
        store.collect(Collection { budget: u64::MAX, younger_than: Duration::from_secs(60) }).unwrap();
    assert!(collected.ran && collected.freed > 0 && collected.left.is_empty());
    let after = store.usage().unwrap();
    assert_eq!(
        (after.blobs.count, after.trees.count, after.deltas.count, after.records.count),
        (701, 3, 1, 1)
    );
    assert!(!store.has_blob(&Digest::of(b"garbage")).unwrap());

    let collected = store.collect(EVERYTHING).unwrap();
    assert_eq!((collected.kept, collected.removed), (0, 2));
    let after = store.usage().unwrap();
    assert_eq!((after.blobs.count, after.trees.count, after.deltas.count, after.records.count), (0, 0, 0, 0));
}

#[test]
fn the_budget_is_a_cap_and_the_least_recently_used_goes_first() {
    let (_dir, store) = abandoned(|store| {
        for number in 0..5 {
            let name = delta(store, &format!("exec-{number}"), 1 << 20);
            record(store, &number.to_string(), vec![Ref::Delta(name)]);
        }
        delta(store, "layer-1", 1 << 20);
        store.mount(&Digest::of(b"pnpm store")).unwrap();
    });
    // 3 is the newest, then the layer and the mount, then 1; the others are older.
    for (number, hours) in [(0, 50), (1, 30), (2, 60), (3, 5), (4, 40)] {
        age_record(&store, &Digest::of(number.to_string().as_bytes()), hours);
    }
    let budget = 3 * ((1 << 20) + 40_000);
    let collected = store.collect(Collection { budget, younger_than: Duration::from_secs(60) }).unwrap();
    assert!(collected.kept <= budget, "{collected:?}");
    let mut left: Vec<String> = fs::read_dir(store.path().join("deltas"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["exec-1", "exec-3", "layer-1"]);
    assert_eq!(store.usage().unwrap().mounts.count, 1);
}

#[test]
fn young_things_and_what_a_live_process_uses_stay() {
    let (_dir, store) = abandoned(|store| {
        let tree = store.put_tree(&tree(store, 400)).unwrap();
        record(store, "used", vec![Ref::Tree(tree), Ref::Delta(delta(store, "exec-used", 5))]);
        record(store, "unused", vec![Ref::Blob(store.put_bytes(b"unused").unwrap())]);
        store.put_bytes(b"needed").unwrap();
    });
    let build = Store::open(store.path()).unwrap();
    build.workspace().unwrap();
    let used = build.record(&Digest::of(b"used")).unwrap().unwrap();
    assert!(build.has_blob(&Digest::of(b"needed")).unwrap());
    build.put_bytes(b"new").unwrap();
    // An hour passes in which only others do something.
    let collected = store.collect(EVERYTHING).unwrap();
    assert_eq!(collected.removed, 1);
    for one in used.meta.refs {
        match one {
            Ref::Tree(tree) => assert_eq!(build.tree(tree).unwrap().entries(), 402),
            Ref::Delta(name) => assert!(build.delta(&name).unwrap().is_some()),
            Ref::Blob(_) => unreachable!(),
        }
    }
    for bytes in [&b"needed"[..], b"new"] {
        assert!(build.has_blob(&Digest::of(bytes)).unwrap());
    }
    assert!(!build.has_blob(&Digest::of(b"unused")).unwrap());
    drop(build);
    age(&store, 24);
    let collected = store.collect(EVERYTHING).unwrap();
    assert_eq!(collected.kept, 0, "{:?} {:?}", collected, store.usage());
    store.put_bytes(b"young").unwrap();
    let path = store.path().to_owned();
    drop(store);
    let store = Store::open(&path).unwrap();
    store.collect(Collection { budget: 0, younger_than: Duration::from_secs(60) }).unwrap();
    assert!(store.has_blob(&Digest::of(b"young")).unwrap());
}

#[test]
fn pool_inodes_go_when_no_delta_has_them() {
    let key = Digest::of(b"inode");
    let (_dir, store) = abandoned(|store| {
        let pool = store.pool_path(&key);
        fs::create_dir_all(pool.parent().unwrap()).unwrap();
        fs::write(&pool, vec![1; 100_000]).unwrap();
        let draft = store.draft().unwrap();
        fs::hard_link(&pool, draft.fs().join("file")).unwrap();
        store.publish_delta(&DeltaName::new("tree-1").unwrap(), draft, seal()).unwrap();
    });
    assert_eq!(store.usage().unwrap().deltas.bytes, 3 * 4096, "the file counts with the pool");
    store.collect(Collection { budget: u64::MAX, younger_than: Duration::ZERO }).unwrap();
    assert_eq!(fs::metadata(store.pool_path(&key)).unwrap().nlink(), 2);
    let collected = store.collect(EVERYTHING).unwrap();
    assert!(!store.pool_path(&key).exists());
    assert_eq!(collected.kept, 0);
}

#[test]
fn stale_pointers_locks_and_logs_are_tidied() {
    let (_dir, store) = abandoned(|store| {
        store.set_latest(&Digest::of(b"gone"), &Digest::of(b"no record")).unwrap();
        std::mem::forget(store.lock(&Digest::of(b"killed")).unwrap());
        fs::write(store.area(wbuild_store::Area::Logs).unwrap().join("1.log"), "x").unwrap();
        fs::write(store.area(wbuild_store::Area::Logs).unwrap().join("2.log"), "x").unwrap();
    });
    let old = |path: &str| {
        let file = File::options().write(true).open(store.path().join(path)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(30 * 24 * 3600)).unwrap();
    };
    old("logs/1.log");
    old(&format!("latest/{}", Digest::of(b"gone").hex()));
    old(&format!("locks/{}", Digest::of(b"killed").hex()));
    store.collect(EVERYTHING).unwrap();
    assert!(!store.path().join("logs/1.log").exists() && store.path().join("logs/2.log").exists());
    assert!(files(&store.path().join("latest")).is_empty());
    // `forget` keeps the lock held by this very process.
    assert_eq!(files(&store.path().join("locks")).len(), 1);
}

/// Builders look up, read and make things that look old while a collector with nothing to spare is at work. Whatever a
/// builder got hold of since it began must stay.
#[test]
fn collecting_takes_nothing_from_running_builds() {
    let (mut hits, mut removed) = (0, 0);
    for round in 0..8 {
        let (_dir, store) =
            abandoned(|store| assert_eq!((0..12).filter(|number| build(store, *number)).count(), 0));
        let path = store.path();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let collector = scope.spawn(|| {
                let mut removed = 0;
                while !stop.load(Ordering::Relaxed) {
                    removed += Store::open(path).unwrap().collect(EVERYTHING).unwrap().removed;
                }
                removed
            });
            let builders: Vec<_> = (0..3_u32)
                .map(|builder| {
                    scope.spawn(move || {
                        let store = Store::open(path).unwrap();
                        store.workspace().unwrap();
                        (0..12).filter(|number| build(&store, (number + builder * 4 + round) % 12)).count()
                    })
                })
                .collect();
            hits += builders.into_iter().map(|builder| builder.join().unwrap()).sum::<usize>();
            stop.store(true, Ordering::Relaxed);
            removed += collector.join().unwrap();
        });
        assert!(store.verify().unwrap().damaged.is_empty());
    }
    // Both sides won often enough for this to mean something.
    assert!(hits > 10 && removed > 10, "{hits} hits, {removed} removed");
}

/// What a vertex does: looks its key up, makes what is not there, uses it. Says whether it was there.
fn build(store: &Store, number: u32) -> bool {
    let key = Digest::of(&[b"key".as_slice(), &number.to_le_bytes()].concat());
    let found = store.record(&key).unwrap();
    let hit = found.is_some();
    let refs = match found {
        Some(record) => record.meta.refs,
        None => {
            let tree = tree(store, 260 + number);
            let refs = vec![
                Ref::Tree(store.put_tree(&tree).unwrap()),
                Ref::Blob(store.put_bytes(&number.to_le_bytes()).unwrap()),
                Ref::Delta(delta(store, &format!("exec-{number}"), 100)),
            ];
            store.put_record(&key, &RecordMeta { refs: refs.clone() }, b"{}").unwrap();
            refs
        }
    };
    for _ in 0..3 {
        for one in &refs {
            match one {
                Ref::Blob(digest) => drop(store.read_blob(digest, 100).unwrap()),
                Ref::Tree(tree) => {
                    let tree = store.tree(*tree).unwrap();
                    wbuild_tree::walk(store, &tree, &mut |_, entry| {
                        if let wbuild_tree::Node::File { content, .. } = &entry.node {
                            assert!(store.has_blob(content).unwrap());
                        }
                        Ok::<_, wbuild_tree::TreeLoadError>(wbuild_tree::Visit::Into)
                    })
                    .unwrap();
                }
                Ref::Delta(name) => assert!(store.delta(name).unwrap().unwrap().fs().join("file").exists()),
            }
        }
    }
    hit
}
