//! A scope that many small builds write: packs stay few, and whatever a record needs is still there.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;
use wbuild_cache::{
    Backend, CacheError, Export, ExportOptions, Holds, Import, ImportScope, Index, Kind, LocalBackend,
    NewRecord, Problems,
};
use wbuild_oci::Digest;
use wbuild_store::{Ref, Store, Upstream};
use wbuild_tree::{Directory, Entry, Meta, Name, Subtree, TreeDigest};

/// A folder, perhaps one that gives no parts; counts what comes from it.
#[derive(Debug)]
struct Counted {
    folder: LocalBackend,
    parts: bool,
    came: Arc<AtomicU64>,
}

impl Counted {
    fn count(&self, bytes: u64) {
        self.came.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Backend for Counted {
    fn place(&self) -> String {
        self.folder.place()
    }

    fn index(&self, scope: &str) -> Result<Option<Vec<u8>>, CacheError> {
        self.folder.index(scope)
    }

    fn update(
        &self,
        scope: &str,
        merge: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Index>,
    ) -> Result<(), CacheError> {
        self.folder.update(scope, merge)
    }

    fn small(&self, content: &Digest, limit: u64) -> Result<Vec<u8>, CacheError> {
        self.folder.small(content, limit)
    }

    fn part(&self, content: &Digest, range: Range<u64>) -> Result<Option<Vec<u8>>, CacheError> {
        if !self.parts {
            return Ok(None);
        }
        self.count(range.end - range.start);
        self.folder.part(content, range)
    }

    fn gives_parts(&self) -> bool {
        self.parts
    }

    fn whole(&self, content: &Digest, size: u64, file: &File) -> Result<(), CacheError> {
        self.count(size);
        self.folder.whole(content, size, file)
    }

    fn put(&self, content: &Digest, size: u64, path: &Path) -> Result<(), CacheError> {
        self.folder.put(content, size, path)
    }
}

/// A cache in a folder, and who uses it: each time a machine that has nothing.
struct Scope {
    folder: TempDir,
    parts: bool,
    /// Bytes that came for exports.
    came: Arc<AtomicU64>,
    /// What records are expected to hold.
    expected: BTreeMap<(Kind, Digest), (TreeDigest, Vec<Digest>)>,
}

struct Machine {
    _folder: TempDir,
    store: Store,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap();
        Self { _folder: folder, store }
    }

    /// `text` in a file of a folder of a folder, beside a file of `large` bytes that are like no others.
    fn tree(&self, text: &str, large: usize) -> (TreeDigest, Vec<Digest>) {
        let noise = |number: usize| Digest::of(format!("{text} {number}").as_bytes()).hex().into_bytes();
        let noise: Vec<u8> = (0..large.div_ceil(64)).flat_map(noise).collect();
        let blobs = [text.as_bytes(), &noise].map(|bytes| self.store.put_bytes(bytes).unwrap());
        let file = |at: usize| Entry::file(Meta::new(0o644), blobs[at], [text.len(), noise.len()][at] as u64);
        let below = |name: &str, entry: Entry| {
            let mut directory = Directory::default();
            directory.entries.insert(Name::new(name).unwrap(), entry);
            // More than what is written inside of its parent.
            for number in 0..80 {
                let entry = Entry::symlink(number.to_string());
                directory.entries.insert(Name::new(format!("link-{number}")).unwrap(), entry);
            }
            Subtree::new(directory)
        };
        let mut top = Directory::default();
        let below = Entry::directory(Meta::new(0o755), below("small", file(0)));
        top.entries.insert(Name::new("below").unwrap(), below);
        top.entries.insert(Name::new("large").unwrap(), file(1));
        (self.store.put_tree(&Subtree::new(top)).unwrap(), blobs.to_vec())
    }
}

impl Scope {
    fn new(parts: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, parts, came: Arc::default(), expected: BTreeMap::new() }
    }

    fn backend(&self) -> Arc<dyn Backend> {
        let folder = LocalBackend::new(self.folder.path().to_owned());
        Arc::new(Counted { folder, parts: self.parts, came: Arc::clone(&self.came) })
    }

    /// A machine that has nothing adds a record.
    fn export(&mut self, kind: Kind, key: &str, text: &str, large: usize) {
        let machine = Machine::new();
        let backend = self.backend();
        let options = ExportOptions { pack: Some(1 << 20), ..ExportOptions::default() };
        let problems = Arc::new(Problems::default());
        let folder = machine.store.workspace().unwrap().path().to_owned();
        let mut export = Export::open(&backend, "main".to_owned(), Vec::new(), options, problems, &folder);
        let (tree, blobs) = machine.tree(text, large);
        let key = Digest::of(key.as_bytes());
        let roots = vec![Ref::Tree(tree)];
        export.add(
            &machine.store,
            NewRecord { kind, key, body: text.to_owned(), roots, wanted: Holds::Contents },
        );
        export.finish(&machine.store);
        self.expected.insert((kind, key), (tree, blobs));
    }

    fn index(&self) -> Index {
        Index::decode(&self.backend().index("main").unwrap().unwrap()).unwrap()
    }

    /// Every record is there, with everything that it refers to.
    fn check(&self) {
        let machine = Machine::new();
        let (backend, scope) = (self.backend(), "main".to_owned());
        let scopes = vec![ImportScope { backend, scope, patience: Duration::from_secs(5) }];
        let import = Import::open(scopes, None, Arc::new(Problems::default()));
        for ((kind, key), (tree, blobs)) in &self.expected {
            let entry = import.record(*kind, key).unwrap();
            assert_eq!((entry.roots.as_slice(), entry.holds), (&[Ref::Tree(*tree)][..], Holds::Contents));
            import.fetch(&machine.store, &[Ref::Tree(*tree)]);
            assert!(machine.store.holds_tree(*tree).unwrap());
            let wanted: Vec<Ref> = blobs.iter().map(|blob| Ref::Blob(*blob)).collect();
            import.fetch(&machine.store, &wanted);
            for blob in blobs {
                assert_eq!(Digest::of(&machine.store.read_blob(blob, 1 << 24).unwrap()), *blob);
            }
        }
        // What one record needs is in the packs that it names: nothing else keeps them in the index.
        let index = self.index();
        for entry in index.entries.values() {
            assert!(entry.packs.iter().all(|pack| index.packs.contains_key(pack)));
        }
    }
}

#[test]
fn packs_of_many_small_exports_stay_few() {
    for parts in [true, false] {
        let mut scope = Scope::new(parts);
        let mut most = 0;
        for number in 0..60 {
            scope.export(Kind::Step, &number.to_string(), &format!("text {number}"), 100);
            most = most.max(scope.index().packs.len());
        }
        assert!((2..=17).contains(&most), "{most}");
        scope.check();
        // Readers of older indexes find what they look for.
        let files = std::fs::read_dir(scope.folder.path().join("cas")).unwrap().count();
        assert!(files >= 120, "{files}");
    }
}

#[test]
fn what_nobody_needs_any_more_is_left_behind() {
    let mut scope = Scope::new(true);
    scope.export(Kind::Step, "a", "stays", 100);
    // The newest content of a mount is the one that counts.
    for number in 0..40 {
        scope.export(Kind::Mount, "mount", &format!("version {number}"), 200_000);
    }
    let bytes: u64 = scope.index().packs.values().map(|pack| pack.size).sum();
    assert!(bytes < 17 * 120_000, "{bytes}");
    scope.check();
}

#[test]
fn what_is_damaged_is_not_rewritten_and_nothing_else_suffers() {
    let mut scope = Scope::new(true);
    for number in 0..15 {
        scope.export(Kind::Step, &number.to_string(), &format!("text {number}"), 100);
    }
    let lost = Digest::of(b"7");
    let of_lost = scope.index().entries[&(Kind::Step, lost)].packs.clone();
    for pack in &of_lost {
        std::fs::write(scope.folder.path().join("cas").join(pack.hex()), "nonsense").unwrap();
    }
    scope.export(Kind::Step, "one more", "one more", 100);
    let index = scope.index();
    assert_eq!(index.packs.len(), 2);
    assert_eq!(index.entries[&(Kind::Step, lost)].packs, of_lost);
    scope.expected.remove(&(Kind::Step, lost));
    scope.check();
}

/// Two machines look through the same index; the second one to write finds another than it read.
#[test]
fn who_writes_meanwhile_loses_nothing() {
    let mut scope = Scope::new(true);
    for number in 0..15 {
        scope.export(Kind::Step, &number.to_string(), &format!("text {number}"), 100);
    }
    let machine = Machine::new();
    let backend = scope.backend();
    let folder = machine.store.workspace().unwrap().path().to_owned();
    let (options, problems) = (ExportOptions::default(), Arc::new(Problems::default()));
    let mut slow = Export::open(&backend, "main".to_owned(), Vec::new(), options, problems, &folder);
    let (tree, blobs) = machine.tree("text 3", 100);
    let key = Digest::of(b"slow");
    let record = NewRecord {
        kind: Kind::Step,
        key,
        body: "slow".to_owned(),
        roots: vec![Ref::Tree(tree)],
        wanted: Holds::Contents,
    };
    // It stands on what is in a pack that is about to be rewritten.
    slow.add(&machine.store, record);
    scope.export(Kind::Step, "quick", "quick", 100);
    assert_eq!(scope.index().packs.len(), 1);
    slow.finish(&machine.store);
    scope.expected.insert((Kind::Step, key), (tree, blobs));
    scope.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_exported_is_there(
        exports in proptest::collection::vec((0_u8..30, any::<bool>(), 0_usize..5, 0_usize..200_000), 1..40),
    ) {
        let mut scope = Scope::new(true);
        for (key, is_mount, text, large) in exports {
            // A step of a key has one result; what is in a mount changes.
            let (kind, text) = match is_mount {
                true => (Kind::Mount, format!("{text} of {large}")),
                false => (Kind::Step, format!("step {key}")),
            };
            if kind == Kind::Step && scope.expected.contains_key(&(kind, Digest::of(key.to_string().as_bytes()))) {
                continue;
            }
            scope.export(kind, &key.to_string(), &text, large);
        }
        scope.check();
        // No more than what is worth keeping, and 16 small ones.
        let index = scope.index();
        let small = index.packs.values().filter(|pack| pack.size <= 1 << 17).count();
        prop_assert!(small <= 17, "{small}");
    }
}
