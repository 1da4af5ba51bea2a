//! The store as its users see it: one process, several, killed ones, damaged files, a full disk.

#![expect(clippy::unwrap_used, reason = "a panic in a helper of these tests is a failed test")]

mod collection;
mod contents;
mod processes;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use wbuild_store::Store;
use wbuild_tree::{Entry, EntryPath, MemoryTrees, Meta, Subtree, TreeBuilder};

/// A store in a folder of its own.
fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state")).unwrap();
    (dir, store)
}

/// Every regular file below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A tree of `count` files that are in the store, in folders of 300, so that it consists of several objects.
fn tree(store: &Store, count: u32) -> Subtree {
    let mut builder = TreeBuilder::new();
    for number in 0..count {
        let content = format!("content {number}");
        let digest = store.put_bytes(content.as_bytes()).unwrap();
        let path = EntryPath::parse(format!("folder{}/file{number}", number / 300)).unwrap();
        let entry = Entry::file(Meta::new(0o644), digest, content.len() as u64);
        builder.insert(&MemoryTrees::default(), &path, entry).unwrap();
    }
    builder.finish()
}

/// What it is called and how it is done.
type Damage = (&'static str, fn(&Path));

/// Ways in which a file can go bad.
const DAMAGES: [Damage; 9] = [
    ("flipped", |path| {
        change(path, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
        });
    }),
    ("truncated", |path| change(path, |bytes| bytes.truncate(bytes.len() / 2))),
    ("zeroed", |path| change(path, |bytes| bytes.fill(0))),
    ("emptied", |path| change(path, Vec::clear)),
    ("appended to", |path| change(path, |bytes| bytes.push(b'x'))),
    ("deleted", |path| fs::remove_file(path).unwrap()),
    ("a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir_all(path.join("with/something")).unwrap();
    }),
    ("a link", |path| {
        fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
    }),
    ("a pipe", |path| {
        fs::remove_file(path).unwrap();
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }),
];

/// Changes a byte under an unchanged time.
fn rot(path: &Path, index: usize) {
    let meta = fs::metadata(path).unwrap();
    change(path, |bytes| bytes[index] ^= 0x40);
    fs::File::open(path).unwrap().set_modified(meta.modified().unwrap()).unwrap();
    fs::set_permissions(path, meta.permissions()).unwrap();
}

/// What a publisher says that the files of a delta look like; these tests do not look.
fn seal() -> wbuild_oci::Digest {
    wbuild_oci::Digest::of(b"seal")
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}
