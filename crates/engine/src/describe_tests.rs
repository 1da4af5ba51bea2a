//! What counts for the keys of COPY, ADD and WORKDIR, and what does not. `cache/keys.md` has the reasons.

use std::collections::BTreeMap;

use wbuild_graph::{Account, FileOp, Key};
use wbuild_oci::DiffId;
use wbuild_tree::{MemoryTrees, Meta, Time, TreeDigest, TreeLoadError};

use super::*;
use crate::files::tests::{Memory, Roots, file, path, tree};
use crate::files::{ContentStore, perform};

#[derive(Default)]
struct Facts(MemoryTrees);

impl TreeSource for Facts {
    fn directory(&self, tree: TreeDigest) -> Result<Directory, TreeLoadError> {
        self.0.directory(tree)
    }
}

impl KeyFacts for Facts {
    fn platform(&self) -> String {
        "linux/amd64".to_owned()
    }

    fn secret_given(&self, _: &str) -> bool {
        false
    }
}

impl Facts {
    fn snapshot(&self, tree: &Subtree) -> Snapshot {
        self.0.insert(tree).unwrap();
        Snapshot::of_tree(tree.digest(), tree.content())
    }

    fn key(&self, action: FileAction, inputs: &[Snapshot]) -> Key {
        describe_file(&FileOp { actions: vec![action] }, inputs, self).unwrap().key()
    }

    /// The key of copying from a tree onto nothing.
    fn copy(&self, transfer: &Transfer, source: &Subtree) -> Key {
        let inputs = [Snapshot::default(), self.snapshot(source)];
        self.key(FileAction::Transfer(Box::new(transfer.clone())), &inputs)
    }
}

fn transfer(pattern: Pattern, target: &str) -> Transfer {
    Transfer {
        sources: vec![TransferSource::Files { input: 1, pattern, unpack: Unpack::Never }],
        target: EntryPath::rooted(target).unwrap(),
        into_directory: target.ends_with('/'),
        owner: None,
        mode: None,
        excludes: Vec::new(),
    }
}

fn copy(source: &str, target: &str) -> Transfer {
    transfer(Pattern::Wildcard(source.to_owned()), target)
}

fn with(mut entry: Entry, change: impl FnOnce(&mut Meta)) -> Entry {
    change(&mut entry.meta);
    entry
}

#[test]
fn what_is_taken_counts_and_nothing_beside_it() {
    let facts = Facts::default();
    let directory = |meta: Meta| Entry::directory(meta, Subtree::empty());
    let before = tree(&[("src", directory(Meta::new(0o755))), ("src/a", file("1")), ("src/d/b", file("2"))]);
    let key = |transfer: &Transfer, tree: &Subtree| facts.copy(transfer, tree);
    let src = copy("src", "/x");
    let same = key(&src, &before);

    let renamed = tree(&[("lib/a", file("1")), ("lib/d/b", file("2")), ("other", file("9"))]);
    assert_eq!(same, key(&copy("lib", "/x"), &renamed), "the name of a directory does not");
    assert_eq!(same, key(&copy("li*", "/x"), &renamed), "nor how it was found");
    let linked = tree(&[("lib/a", file("1")), ("lib/d/b", file("2")), ("src", Entry::symlink("lib"))]);
    assert_eq!(same, key(&src, &linked), "nor the links to it");
    let late = Time { seconds: 99, nanos: 9 };
    let touched = tree(&[
        ("src", directory(Meta { mtime: late, ..Meta::new(0o755) })),
        ("src/a", with(file("1"), |meta| meta.mtime = late)),
        ("src/d/b", file("2")),
    ]);
    assert_eq!(same, key(&src, &touched), "times do not");
    let closed = tree(&[("src", directory(Meta::new(0o700))), ("src/a", file("1")), ("src/d/b", file("2"))]);
    assert_eq!(same, key(&src, &closed), "nor the directory itself, which is not copied");

    let others = [
        tree(&[("src/a", file("3")), ("src/d/b", file("2"))]),
        tree(&[("src/a", with(file("1"), |meta| meta.mode = 0o600)), ("src/d/b", file("2"))]),
        tree(&[("src/a", with(file("1"), |meta| meta.uid = 5)), ("src/d/b", file("2"))]),
        tree(&[
            ("src/a", with(file("1"), |meta| meta.xattrs.insert(b"user.x", b"y"))),
            ("src/d/b", file("2")),
        ]),
        tree(&[("src/a", Entry::symlink("1")), ("src/d/b", file("2"))]),
        tree(&[("src/a", file("1")), ("src/d", directory(Meta::new(0o700))), ("src/d/b", file("2"))]),
        tree(&[("src/a", file("1")), ("src/d/c", file("2"))]),
        tree(&[("src/a", file("1"))]),
    ];
    let mut keys: Vec<Key> = others.iter().map(|other| key(&src, other)).chain([same]).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), others.len() + 1, "all that is in it does");
}

#[test]
fn names_of_files_count_where_they_may_be_used() {
    let facts = Facts::default();
    let one = tree(&[("file1", file("x"))]);
    let other = tree(&[("file2", file("x"))]);
    assert_ne!(facts.copy(&copy("file*", "/files/"), &one), facts.copy(&copy("file*", "/files/"), &other));
    assert_ne!(
        facts.copy(&copy("file1", "/files"), &one),
        facts.copy(&copy("file2", "/files"), &other),
        "the target may be a directory"
    );
    let link = tree(&[("file1", Entry::symlink("real")), ("real", file("x"))]);
    assert_eq!(facts.copy(&copy("file1", "/f"), &one), facts.copy(&copy("file1", "/f"), &link));
}

#[test]
fn everything_that_is_said_counts() {
    let facts = Facts::default();
    let source = tree(&[("a", file("1")), ("d/b", file("2"))]);
    let all = copy("a", "/x");
    let change = |change: &dyn Fn(&mut Transfer)| {
        let mut transfer = all.clone();
        change(&mut transfer);
        facts.copy(&transfer, &source)
    };
    let account = |user, group| Some(Account { user, group, input: 0 });
    let name = |name: &str| AccountId::Name(name.to_owned());
    let keys = [
        change(&|_| {}),
        change(&|transfer| transfer.target = path("y")),
        change(&|transfer| transfer.into_directory = true),
        change(&|transfer| transfer.mode = Some("640".parse().unwrap())),
        change(&|transfer| transfer.mode = Some("a+x".parse().unwrap())),
        change(&|transfer| transfer.owner = account(AccountId::Number(5), None)),
        change(&|transfer| transfer.owner = account(AccountId::Number(5), Some(AccountId::Number(5)))),
        change(&|transfer| transfer.owner = account(name("5"), None)),
        change(&|transfer| transfer.owner = account(name("a:b"), None)),
        change(&|transfer| transfer.owner = account(name("a"), Some(name("b")))),
        change(&|transfer| transfer.sources.extend(transfer.sources.clone())),
        change(&|transfer| transfer.sources.clear()),
        change(&|transfer| transfer.excludes = vec!["a".to_owned()]),
        change(&|transfer| {
            let TransferSource::Files { unpack, .. } = &mut transfer.sources[0] else { return };
            *unpack = Unpack::Archives;
        }),
        change(&|transfer| {
            let inline =
                |contents: &[u8]| TransferSource::Inline { name: "a".into(), contents: contents.into() };
            transfer.sources = vec![inline(b"1")];
        }),
        change(&|transfer| {
            transfer.sources = vec![TransferSource::Inline { name: "a".into(), contents: b"2".to_vec() }];
        }),
    ];
    let mut distinct: Vec<Key> = keys.to_vec();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), keys.len());
    let workdir = |at: &str, user: &str| {
        facts.key(FileAction::Workdir { path: path(at), user: user.to_owned() }, &[Snapshot::default()])
    };
    assert_ne!(workdir("a", ""), workdir("b", ""));
    assert_ne!(workdir("a", ""), workdir("a", "x"));
}

#[test]
fn exclusions_count_by_what_they_leave() {
    let facts = Facts::default();
    let mut without = copy("d", "/x");
    without.excludes = vec!["*.md".to_owned()];
    let one = facts.copy(&without, &tree(&[("d/a", file("1")), ("d/x.md", file("2"))]));
    assert_eq!(one, facts.copy(&without, &tree(&[("d/a", file("1")), ("d/y.md", file("3"))])));
    assert_eq!(one, facts.copy(&copy("d", "/x"), &tree(&[("d/a", file("1"))])));
}

#[test]
fn names_of_owners_count_by_the_files_that_know_them() {
    let facts = Facts::default();
    let source = facts.snapshot(&tree(&[("a", file("1"))]));
    let key = |passwd: &str, group: &str, user: AccountId| {
        let below = tree(&[
            ("etc/group", file(group)),
            ("etc/passwd", Entry::symlink("../lib/passwd")),
            ("lib/passwd", file(passwd)),
        ]);
        let mut transfer = copy("a", "/x");
        transfer.owner = Some(Account { user, group: None, input: 2 });
        let inputs = [Snapshot::default(), source.clone(), facts.snapshot(&below)];
        facts.key(FileAction::Transfer(Box::new(transfer)), &inputs)
    };
    let alice = || AccountId::Name("alice".to_owned());
    assert_ne!(key("one", "g", alice()), key("two", "g", alice()), "behind a link, too");
    assert_eq!(key("one", "g", alice()), key("one", "h", alice()), "no group was named");
    assert_eq!(key("one", "g", AccountId::Number(1)), key("two", "h", AccountId::Number(1)));
}

#[test]
fn what_trees_cannot_tell_goes_by_the_keys_of_the_whole_input() {
    let facts = Facts::default();
    let layer = |text: &str| DeltaId::Layer(DiffId(Digest::of(text.as_bytes())));
    let exec = |text: &str| DeltaId::Exec(Key(Digest::of(text.as_bytes())));
    let key = |source: &str, deltas: &[DeltaId]| {
        let inputs = [Snapshot::default(), Snapshot { deltas: deltas.to_vec() }];
        facts.key(FileAction::Transfer(Box::new(copy(source, "/x"))), &inputs)
    };
    let same = key("a", &[layer("1"), exec("2")]);
    assert_eq!(same, key("a", &[layer("1"), exec("2")]));
    assert_ne!(same, key("b", &[layer("1"), exec("2")]));
    assert_ne!(same, key("a", &[layer("1"), exec("3")]));
    assert_ne!(same, key("a", &[layer("2"), exec("2")]));
    let times = |seconds| {
        let source = tree(&[("a", with(file("1"), |meta| meta.mtime = Time { seconds, nanos: 0 }))]);
        let mut snapshot = Snapshot { deltas: vec![layer("1")] };
        snapshot.deltas.extend(facts.snapshot(&source).deltas);
        key("a", &snapshot.deltas)
    };
    assert_eq!(times(1), times(2));
}

#[test]
fn bind_mounts_of_links_go_by_what_they_lead_to() {
    let facts = Facts::default();
    let key = |text: &str| {
        let source = facts.snapshot(&tree(&[("link", Entry::symlink("real")), ("real/f", file(text))]));
        let mut preimage = Preimage::new("exec", 1);
        put_selection(&mut preimage, "mount", &source, &path("link"), &facts).unwrap();
        preimage.key()
    };
    assert_ne!(key("1"), key("2"));
}

/// A small tree out of numbers: each puts something somewhere.
fn random_tree(seeds: &[u16]) -> Subtree {
    let names = ["a", "b", "c"];
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for seed in seeds {
        let pick = |shift: u32, count: usize| usize::from(seed >> shift) % count;
        let mut at = names[pick(0, 3)].to_owned();
        for level in 0..pick(2, 3) {
            at = format!("{at}/{}", names[pick(4 + 2 * level as u32, 3)]);
        }
        let entry = match pick(8, 5) {
            0 => Entry::symlink(names[pick(11, 3)]),
            1 => Entry::directory(Meta::new(0o700), Subtree::empty()),
            kind => with(file(names[pick(11, 3)]), |meta| meta.mode = if kind == 2 { 0o600 } else { 0o644 }),
        };
        let in_the_way = entries.iter().any(|(other, there)| {
            other == &at
                || at.starts_with(&format!("{other}/")) && !there.is_directory()
                || other.starts_with(&format!("{at}/")) && !entry.is_directory()
        });
        if !in_the_way {
            entries.insert(at, entry);
        }
    }
    // Parents first, so that none replaces what is in it.
    let sorted: Vec<(&str, Entry)> = entries.iter().map(|(at, entry)| (at.as_str(), entry.clone())).collect();
    tree(&sorted)
}

proptest::proptest! {
    // Each is some four hundred copies.
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever has the same key has the same result: patterns, exclusions and trees that differ, and take the same.
    #[test]
    fn one_key_is_one_result(
        seeds in proptest::collection::vec(proptest::prelude::any::<u16>(), 0..10),
        more in proptest::collection::vec(proptest::prelude::any::<u16>(), 0..3),
        below in proptest::collection::vec(proptest::prelude::any::<u16>(), 0..5),
    ) {
        let facts = Facts::default();
        let contents = Memory::default();
        for text in ["a", "b", "c"] {
            contents.keep(text.as_bytes()).unwrap();
        }
        let base = random_tree(&below);
        let mut results: BTreeMap<Key, Result<wbuild_tree::ContentDigest, String>> = BTreeMap::new();
        for source in [random_tree(&seeds), random_tree(&[seeds, more].concat())] {
            for text in ["a", "b", "*", "a/*", "?/b", "/", "a/b", "[ab]", "**/c"] {
                for pattern in [Pattern::Wildcard(text.to_owned()), Pattern::Parents(text.to_owned())] {
                    for excludes in [&[][..], &["b"], &["**/a", "!a"]] {
                        for target in ["/x", "/x/", "/a", "/"] {
                            let mut transfer = transfer(pattern.clone(), target);
                            transfer.excludes = excludes.iter().map(|&text| text.to_owned()).collect();
                            let inputs = [facts.snapshot(&base), facts.snapshot(&source)];
                            let action = FileAction::Transfer(Box::new(transfer));
                            let key = facts.key(action.clone(), &inputs);
                            let roots = Roots { roots: vec![base.clone(), source.clone()], contents: &contents };
                            let root = TreeRoot { trees: &facts, root: &base };
                            let result = perform(&facts, &contents, &root, &roots, &[action])
                                .map(|delta| delta.content())
                                .map_err(|error| error.to_string());
                            // What fails is never remembered.
                            let Ok(content) = result else { continue };
                            let first = results.entry(key).or_insert(Ok(content)).clone();
                            proptest::prop_assert_eq!(first, Ok(content), "{:?} {:?} {}", pattern, excludes, target);
                        }
                    }
                }
            }
        }
    }
}
