//! Several processes: this test binary starts itself again with one of the tests below that do nothing otherwise.

use std::env;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use wbuild_oci::Digest;
use wbuild_store::{DeltaName, RecordMeta, Ref, Store, Stored, remove_tree};

use crate::{files, seal, store, tree};

const STATE: &str = "WBUILD_STORE_TEST_STATE";

fn start(test: &str, state: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(STATE, state)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The store given to a started process; `None` in an ordinary run of the tests.
fn given() -> Option<Store> {
    env::var_os(STATE).map(|state| Store::open(Path::new(&state)).unwrap())
}

/// Waits until a started process has printed `word`.
fn wait_for(child: &mut Child, word: &str) {
    let out = child.stdout.as_mut().unwrap();
    let mut text = String::new();
    let mut byte = [0];
    while !text.contains(word) {
        assert_eq!(out.read(&mut byte).unwrap(), 1, "the process ended early: {text}");
        text.push(char::from(byte[0]));
    }
}

fn big(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(100_000)
}

#[test]
fn child_puts_for_ever() {
    let Some(store) = given() else { return };
    for number in 0.. {
        let tree = tree(&store, number % 500);
        let digest = store.put_tree(&tree).unwrap();
        let blob = store.put_bytes(&big(number)).unwrap();
        let name = DeltaName::new(&format!("exec-{number}")).unwrap();
        let draft = store.draft().unwrap();
        for file in 0..20 {
            fs::write(draft.fs().join(file.to_string()), "x").unwrap();
        }
        store.publish_delta(&name, draft, seal()).unwrap();
        let meta = RecordMeta { refs: vec![Ref::Tree(digest), Ref::Blob(blob), Ref::Delta(name)] };
        store.put_record(&Digest::of(&number.to_le_bytes()), &meta, &big(number)[..10_000]).unwrap();
    }
}

#[test]
fn a_killed_process_leaves_a_store_that_is_right() {
    let (_dir, store) = store();
    let mut records = 0;
    for round in 0..25 {
        let mut child = start("processes::child_puts_for_ever", store.path());
        // Different moments; the sum over all rounds is what makes them hit every phase.
        std::thread::sleep(Duration::from_millis(20 + 7 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let verified = store.verify().unwrap();
        assert_eq!((&verified.damaged, &verified.records), (&vec![], &vec![]), "round {round}");
        // Whatever a record promises is there.
        for key in store.record_keys().unwrap() {
            for one in store.record(&key).unwrap().unwrap().meta.refs {
                match one {
                    Ref::Blob(digest) => assert!(store.has_blob(&digest).unwrap()),
                    Ref::Tree(tree) => assert!(store.has_tree(tree).unwrap()),
                    Ref::Delta(name) => {
                        let fs_path = store.delta(&name).unwrap().unwrap().fs();
                        assert_eq!(fs::read_dir(fs_path).unwrap().count(), 20);
                    }
                }
            }
            records += 1;
        }
        for leftover in store.sweep().unwrap() {
            remove_tree(&leftover).unwrap();
        }
        assert!(
            fs::read_dir(store.path().join("work")).map_or(0, Iterator::count) <= 1,
            "only our own is left"
        );
    }
    assert!(records > 0, "the processes lived long enough to do something");
}

#[test]
fn child_puts_the_same() {
    let Some(store) = given() else { return };
    for number in 0..40 {
        store.put_bytes(&big(number)).unwrap();
        store.put_tree(&tree(&store, 300 + number)).unwrap();
        let key = Digest::of(&number.to_le_bytes());
        store.put_record(&key, &RecordMeta::default(), b"same").unwrap();
    }
}

#[test]
fn eight_processes_and_eight_threads_put_the_same() {
    let (_dir, store) = store();
    let children: Vec<Child> =
        (0..8).map(|_| start("processes::child_puts_the_same", store.path())).collect();
    let barrier = Barrier::new(8);
    let firsts: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    (0..50_u32)
                        .filter(|number| {
                            assert_eq!(store.put_bytes(&big(*number)).unwrap(), Digest::of(&big(*number)));
                            let key = Digest::of(&[number.to_le_bytes(), *b"mine"].concat());
                            store.put_record(&key, &RecordMeta::default(), b"same").unwrap() == Stored::New
                        })
                        .count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(firsts, 50, "each record was stored by exactly one");
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let verified = store.verify().unwrap();
    assert!(verified.damaged.is_empty() && verified.records.is_empty());
    for leftover in store.sweep().unwrap() {
        remove_tree(&leftover).unwrap();
    }
    assert!(files(&store.path().join("work")).is_empty());
}

#[test]
fn child_holds_a_lock() {
    let Some(store) = given() else { return };
    let _lock = store.lock(&Digest::of(b"key")).unwrap();
    let _workspace = store.workspace().unwrap();
    println!("held");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn locks_exclude_others_and_die_with_their_process() {
    let (_dir, store) = store();
    let key = Digest::of(b"key");
    let mut child = start("processes::child_holds_a_lock", store.path());
    wait_for(&mut child, "held");
    assert!(store.try_lock(&key).unwrap().is_none());
    assert!(store.try_lock(&Digest::of(b"other")).unwrap().is_some());
    assert!(store.sweep().unwrap().is_empty(), "its workspace is alive");
    let waited = std::thread::scope(|scope| {
        let began = Instant::now();
        let waiting = scope.spawn(|| store.lock(&key).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        child.kill().unwrap();
        child.wait().unwrap();
        drop(waiting.join().unwrap());
        began.elapsed()
    });
    assert!(waited >= Duration::from_millis(50) && waited < Duration::from_secs(30));
    assert_eq!(store.sweep().unwrap().len(), 1, "its workspace is dead");
    assert!(
        files(&store.path().join("locks")).is_empty(),
        "and the lock file was removed by its next holder"
    );
}

#[test]
fn one_of_many_threads_has_the_lock() {
    let (_dir, store) = store();
    let key = Digest::of(b"key");
    let inside = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let _lock = store.lock(&key).unwrap();
                    assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    assert_eq!(inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst), 1);
                }
            });
        }
    });
}
