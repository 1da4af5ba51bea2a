//! Black-box tests of listing, hashing and reading again, on real folders.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's helpers may fail and say why they skip"
)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use tempfile::TempDir;
use wbuild_context::{
    BlobSink, ContextError, ContextRoot, Exclusion, FileKind, HashOptions, Hashed, IgnoreRules,
    LeftOutReason, ListOptions, Listing, Policy, SourceError, SourcePattern,
};
use wbuild_oci::Digest;
use wbuild_report::Hint;
use wbuild_tree::{Entry, EntryPath, MemoryTrees, Node, Time, lookup};

struct Folder {
    dir: TempDir,
}

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(folder.root()).unwrap();
        for (path, text) in files {
            folder.write(path, text);
        }
        folder
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn chmod(&self, path: &str, mode: u32) {
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn try_list(&self, options: ListOptions) -> Result<Listing, ContextError> {
        ContextRoot::open(&self.root()).unwrap().list(options)
    }

    fn list(&self, policy: Policy, ignore: &str) -> Listing {
        self.try_list(options(policy, ignore)).unwrap()
    }

    fn hash(&self, policy: Policy) -> Hashed {
        self.list(policy, "").select_all().hash(HashOptions::default()).unwrap()
    }

    fn hash_indexed(&self) -> Hashed {
        let state = self.state();
        let options = HashOptions { index: Some(&state), blobs: None };
        self.list(Policy::Dockerfile, "").select_all().hash(options).unwrap()
    }
}

fn options(policy: Policy, ignore: &str) -> ListOptions {
    ListOptions::new(policy, IgnoreRules::parse(".dockerignore", ignore.as_bytes()).unwrap())
}

fn path(text: impl AsRef<[u8]>) -> EntryPath {
    EntryPath::parse(text).unwrap()
}

fn names(listing: &Listing) -> Vec<String> {
    listing.entries().map(|entry| entry.path().to_string()[1..].to_owned()).collect()
}

fn entry(hashed: &Hashed, at: &str) -> Entry {
    lookup(&MemoryTrees::default(), &hashed.tree, &path(at)).unwrap().unwrap_or_else(|| panic!("no {at}"))
}

fn content(hashed: &Hashed, at: &str) -> Digest {
    match entry(hashed, at).node {
        Node::File { content, .. } => content,
        other => panic!("{at} is {other:?}"),
    }
}

#[derive(Default)]
struct Blobs(Mutex<BTreeMap<Digest, Vec<u8>>>);

impl BlobSink for Blobs {
    fn contains(&self, content: &Digest) -> bool {
        self.0.lock().unwrap().contains_key(content)
    }

    fn put_from(&self, source: &mut dyn Read, _: u64) -> io::Result<Digest> {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes)?;
        let content = Digest::of(&bytes);
        self.0.lock().unwrap().insert(content, bytes);
        Ok(content)
    }
}

/// Runs `test` where permissions count: root reads everything.
fn as_plain_user(name: &str, test: impl FnOnce()) {
    if rustix::process::geteuid().is_root() {
        println!("skipped {name}: root can read everything");
    } else {
        test();
    }
}

#[test]
fn entries_are_in_tree_order_with_their_facts() {
    let folder = Folder::new(&[("a/x", "1"), ("a.b", "22"), ("a-b/y", "333"), ("b", "")]);
    symlink("../nowhere", folder.at("l")).unwrap();
    let listing = folder.list(Policy::Dockerfile, "");
    assert_eq!(names(&listing), ["a", "a/x", "a-b", "a-b/y", "a.b", "b", "l"]);
    let file = listing.get(&path("a-b/y")).unwrap();
    let meta = fs::symlink_metadata(folder.at("a-b/y")).unwrap();
    assert_eq!((file.kind(), file.facts().size, file.facts().inode), (FileKind::File, 3, meta.ino()));
    assert_eq!(file.facts().mtime, Time { seconds: meta.mtime(), nanos: meta.mtime_nsec() as u32 });
    assert_eq!(listing.get(&path("l")).unwrap().target(), Some(&b"../nowhere"[..]));
    assert!(listing.get(&path("a/x/y")).is_none() && listing.get(&path("c")).is_none());
}

#[test]
fn large_directories_are_listed_in_order_and_found_in() {
    let folder = Folder::new(&[]);
    for number in 0..3000 {
        folder.write(&format!("d/{number}"), "");
    }
    folder.write("z", "");
    let listing = folder.list(Policy::Dockerfile, "");
    let mut sorted = names(&listing);
    sorted.sort();
    assert_eq!(names(&listing), sorted);
    assert_eq!(listing.len(), 3002);
    for number in (0..3000).step_by(77) {
        let wanted = path(format!("d/{number}"));
        assert_eq!(listing.get(&wanted).unwrap().path(), wanted);
    }
    assert!(listing.get(&path("d/3000")).is_none());
}

#[test]
fn ignored_files_and_their_parents() {
    let folder = Folder::new(&[
        ("README.md", ""),
        ("docs/a.md", ""),
        ("docs/deep/keep.md", ""),
        ("docs/deep/drop.md", ""),
        ("src/x", ""),
        ("node_modules/m/i.js", ""),
    ]);
    let listing = folder.list(Policy::Dockerfile, "*.md\nnode_modules\ndocs\n!docs/deep/keep.md\n");
    assert_eq!(names(&listing), ["docs", "docs/deep", "docs/deep/keep.md", "src", "src/x"]);
    let listing = folder.list(Policy::Dockerfile, "*\n!**/x\n");
    assert_eq!(names(&listing), ["src", "src/x"], "excluded directories without contents are not there");
}

#[test]
fn an_included_file_is_never_empty_where_buildkit_sends_it_empty() {
    let folder = Folder::new(&[("apps/web/x", "content")]);
    let listing = folder.list(Policy::Dockerfile, "*\n!apps/web\napps\n");
    let hashed = listing.select_all().hash(HashOptions::default()).unwrap();
    assert_eq!(content(&hashed, "apps/web/x"), Digest::of(b"content"));
}

#[test]
fn dockerfile_policy_keeps_modes_times_and_links() {
    let folder = Folder::new(&[("d/f", "x"), ("d/g", "y"), (".wbuild/state", "s"), (".env", "e")]);
    folder.write("node_modules/m/i", "");
    fs::hard_link(folder.at("d/g"), folder.at("a")).unwrap();
    fs::hard_link(folder.at("d/f"), folder.dir.path().join("outside")).unwrap();
    folder.chmod("d/f", 0o4711);
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 5000);
    fs::File::options().write(true).open(folder.at("d/f")).unwrap().set_modified(time).unwrap();
    symlink("f", folder.at("d/l")).unwrap();
    let listing = folder.list(Policy::Dockerfile, "");
    assert_eq!(listing.left_out()[0].reason, LeftOutReason::State);
    let hashed = listing.select_all().hash(HashOptions::default()).unwrap();
    let file = entry(&hashed, "d/f");
    assert_eq!((file.meta.mode, file.meta.uid, file.meta.gid), (0o4711, 0, 0));
    assert_eq!(file.meta.mtime, Time { seconds: 1_000_000_000, nanos: 5000 });
    let link = |at: &str| match entry(&hashed, at).node {
        Node::File { link, .. } => link,
        _ => None,
    };
    assert!(link("a").is_some() && link("a") == link("d/g"));
    assert_eq!(link("d/f"), None, "its other name is outside");
    assert_eq!(entry(&hashed, "d/l").node, Node::Symlink { target: (*b"f").into() });
    assert_eq!(content(&hashed, ".env"), Digest::of(b"e"));
    entry(&hashed, "node_modules/m/i");
    let part = folder.list(Policy::Dockerfile, "");
    let mut selection = part.select_none();
    selection.add(&path("a")).unwrap();
    assert!(
        !selection.hash(HashOptions::default()).unwrap().tree.has_links(),
        "its other name is not selected"
    );
}

#[test]
fn workspace_policy_is_what_a_clone_would_hold() {
    let files = [("apps/web/page.tsx", "p"), ("apps/web/run.sh", "r"), ("packages/db/src/index.ts", "i")];
    let clone = Folder::new(&files);
    clone.chmod("apps/web/run.sh", 0o755);
    let used = Folder::new(&files);
    used.chmod("apps/web/run.sh", 0o711);
    used.chmod("apps/web/page.tsx", 0o664);
    used.chmod("apps", 0o775);
    for left in
        ["node_modules/a/i.js", "apps/web/node_modules/b", ".git/HEAD", ".turbo/log", "apps/web/.turbo/x"]
    {
        used.write(left, "");
    }
    used.write(".env", "SECRET=1");
    used.write("apps/web/.env.local", "SECRET=1");
    used.write("apps/web/.next/BUILD_ID", "");
    used.write("packages/db/src/generated/client.js", "");
    used.write(".wbuild/state", "");
    fs::create_dir_all(used.at("packages/empty/dir")).unwrap();
    rustix::fs::mkfifoat(CWD, used.at("pipe"), Mode::RUSR).unwrap();
    let options = || {
        options(Policy::Workspace, "")
            .excluding(Exclusion::new("build", |path, _| path.windows(6).any(|part| part == b".next/")))
            .excluding(Exclusion::new("generate", |path, _| path.starts_with(b"packages/db/src/generated/")))
    };
    let listing = used.try_list(options()).unwrap();
    let clean = clone.hash(Policy::Workspace);
    let dirty = listing.select_all().hash(HashOptions::default()).unwrap();
    assert_eq!(clean.tree, dirty.tree);
    assert_eq!(entry(&dirty, "apps/web/run.sh").meta.mode, 0o755);
    assert_eq!(entry(&dirty, "apps/web/page.tsx").meta.mode, 0o644);
    assert_eq!(entry(&dirty, "apps/web/page.tsx").meta.mtime, Time::NORMAL);
    let left: Vec<(String, usize, String)> = listing
        .left_out()
        .iter()
        .map(|left| (left.reason.to_string(), left.count, left.examples[0].to_string()))
        .collect();
    let expected = [
        (".wbuild", 1, "/.wbuild"),
        ("node_modules", 2, "/apps/web/node_modules"),
        (".git", 1, "/.git"),
        (".turbo", 2, "/apps/web/.turbo"),
        ("undeclared .env files", 2, "/apps/web/.env.local"),
        ("outputs of build", 1, "/apps/web/.next/BUILD_ID"),
        ("outputs of generate", 1, "/packages/db/src/generated/client.js"),
        ("fifos, sockets and devices", 1, "/pipe"),
    ];
    let mut expected: Vec<(String, usize, String)> =
        expected.iter().map(|(reason, count, first)| ((*reason).into(), *count, (*first).into())).collect();
    // `/.turbo` sorts before `/apps`.
    expected[3].2 = "/.turbo".into();
    expected[4].2 = "/.env".into();
    assert_eq!(left, expected);
    let declared = used.try_list(options().declared(|path, _| path == b".env")).unwrap();
    assert!(declared.get(&path(".env")).is_some() && declared.get(&path("apps/web/.env.local")).is_none());
}

#[test]
fn special_files_are_what_docker_makes_of_them() {
    let folder = Folder::new(&[("f", "x")]);
    rustix::fs::mkfifoat(CWD, folder.at("pipe"), Mode::from_raw_mode(0o600)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.at("socket")).unwrap();
    let device = rustix::fs::makedev(1, 3);
    let made = rustix::fs::mknodat(CWD, folder.at("null"), FileType::CharacterDevice, Mode::RUSR, device);
    let hashed = folder.hash(Policy::Dockerfile);
    assert_eq!(entry(&hashed, "pipe").node, Node::Fifo);
    let empty = Node::File { content: Digest::of(b""), size: 0, link: None };
    assert_eq!(entry(&hashed, "socket").node, empty);
    match made {
        Ok(()) => assert_eq!(entry(&hashed, "null").node, Node::CharDevice { major: 1, minor: 3 }),
        Err(errno) => println!("skipped the device: {errno}"),
    }
    let root = ContextRoot::open(&folder.root()).unwrap();
    let mut read = String::new();
    root.open_verified(&path("socket"), Digest::of(b""), 0).unwrap().read_to_string(&mut read).unwrap();
    assert!(read.is_empty());
}

#[test]
fn odd_names_are_bytes() {
    let folder = Folder::new(&[("new\nline", "n"), ("esc\u{1b}[31m", "e"), ("tab\t", "t"), (" ", "s")]);
    let bytes = OsString::from_vec(b"\xff\xfe.md".to_vec());
    fs::write(folder.at(&bytes), "b").unwrap();
    let listing = folder.list(Policy::Dockerfile, "");
    assert_eq!(listing.len(), 5);
    assert!(listing.get(&path(bytes.as_bytes())).is_some());
    let listing = folder.list(Policy::Dockerfile, "??.md\nnew*\n");
    assert_eq!(listing.len(), 3, "each bad byte is one `?`");
    fs::remove_file(folder.at("tab\t")).unwrap();
    fs::create_dir(folder.at("tab\t")).unwrap();
    fs::write(folder.at("tab\t/.wh.x"), "").unwrap();
    let error = folder.try_list(options(Policy::Dockerfile, "")).unwrap_err();
    assert!(error.to_string().starts_with("`tab\\t/.wh.x` cannot be part of an image"), "{error}");
    assert_eq!(folder.list(Policy::Dockerfile, "**/.wh.*\n").len(), 5);
}

#[test]
fn links_are_never_followed_on_disk() {
    let folder = Folder::new(&[("d/f", "x")]);
    fs::write(folder.dir.path().join("secret"), "secret").unwrap();
    symlink("../secret", folder.at("out")).unwrap();
    symlink("/etc", folder.at("etc")).unwrap();
    symlink(".", folder.at("loop")).unwrap();
    symlink("circle", folder.at("circle")).unwrap();
    let listing = folder.list(Policy::Dockerfile, "");
    assert_eq!(names(&listing), ["circle", "d", "d/f", "etc", "loop", "out"]);
    let hashed = listing.select_all().hash(HashOptions::default()).unwrap();
    assert_eq!(hashed.read, 1);
    // Swapped after the listing: the file is now a link to a secret.
    fs::remove_file(folder.at("d/f")).unwrap();
    symlink("../../secret", folder.at("d/f")).unwrap();
    let error = listing.select_all().hash(HashOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "`d/f` changed during the build");
}

#[test]
fn selecting_follows_links_inside_the_root() {
    let folder = Folder::new(&[("real/deep/f", "x"), ("other", "y"), ("README.md", "")]);
    symlink("real", folder.at("via")).unwrap();
    symlink("/real/deep", folder.at("abs")).unwrap();
    symlink("../../other", folder.at("real/up")).unwrap();
    symlink("nowhere", folder.at("dangling")).unwrap();
    symlink("b", folder.at("a")).unwrap();
    symlink("a", folder.at("b")).unwrap();
    let listing = folder.list(Policy::Dockerfile, "*.md\n");
    let chosen = |at: &str| {
        let mut selection = listing.select_none();
        selection.add(&path(at))?;
        let all: Vec<String> = listing
            .entries()
            .filter(|entry| selection.contains(*entry))
            .map(|entry| entry.path().to_string()[1..].to_owned())
            .collect();
        Ok::<_, ContextError>(all.join(" "))
    };
    assert_eq!(chosen("other").unwrap(), "other");
    assert_eq!(chosen("real/deep").unwrap(), "real real/deep real/deep/f");
    assert_eq!(chosen("via/deep/f").unwrap(), "real real/deep real/deep/f via");
    assert_eq!(chosen("abs").unwrap(), "abs real real/deep real/deep/f");
    assert_eq!(chosen("real/up").unwrap(), "other real real/up", "`..` stops at the root");
    assert_eq!(chosen("dangling").unwrap(), "dangling");
    assert_eq!(chosen("").unwrap().split(' ').count(), listing.len());
    assert!(matches!(chosen("a"), Err(ContextError::TooManyLinks { .. })));
    let error = chosen("README.md").unwrap_err();
    assert_eq!(error.to_string(), "`README.md` is not in the context");
    assert_eq!(error.hints(), ["line 1 of .dockerignore leaves it out: `*.md`"]);
    assert_eq!(chosen("real/depe").unwrap_err().hints(), ["did you mean `real/deep`?"]);
}

/// Y05, Y07, I25 and D08, each as what of the context is sent for it.
#[test]
fn sources_select_what_they_name_and_the_links_to_it() {
    let folder = Folder::new(&[
        ("a.txt", "1"),
        ("b.md", "2"),
        ("d/e/x.txt", "3"),
        ("d/e/f/x.txt", "4"),
        ("d/s.txt", "5"),
        ("apps/web/package.json", "6"),
        ("apps/web/src/package.json", "7"),
        ("apps/api/package.json", "8"),
        ("[slug]/page", "9"),
    ]);
    symlink("d/e", folder.at("via")).unwrap();
    symlink("../a.txt", folder.at("d/link.txt")).unwrap();
    symlink("nowhere", folder.at("d/z.txt")).unwrap();
    symlink("loop", folder.at("loop")).unwrap();
    symlink("e", folder.at("d/dirlink")).unwrap();
    let listing = folder.list(Policy::Dockerfile, "*.md\n");
    let selected = |pattern: Result<SourcePattern, SourceError>| {
        let mut selection = listing.select_none();
        selection.add_matching(&pattern.unwrap());
        let chosen = listing.entries().filter(|entry| selection.contains(*entry));
        // Directories stand for themselves only where nothing in them is chosen.
        let all: Vec<String> = chosen.map(|entry| entry.path().to_string()[1..].to_owned()).collect();
        let leaves =
            all.iter().filter(|path| !all.iter().any(|other| other.starts_with(&format!("{path}/"))));
        leaves.cloned().collect::<Vec<_>>().join(" ")
    };
    for (text, expected) in [
        ("a.txt", "a.txt"),
        ("nothing", ""),
        ("b.md", ""),
        ("loop", "loop"),
        ("via/x.txt", "d/e/x.txt via"),
        ("a*", "a.txt apps/api/package.json apps/web/package.json apps/web/src/package.json"),
        ("*.txt", "a.txt"),
        ("*.nothing", ""),
        ("d/*.nothing", "d"),
        ("nothing/*", ""),
        ("d/*/x.txt", "d/e/x.txt"),
        ("d/*.txt", "a.txt d/link.txt d/s.txt d/z.txt"),
        ("via/*.txt", "d/e/x.txt via"),
        ("d/d*", "d/dirlink d/e/f/x.txt d/e/x.txt"),
        ("[[]slug]/p*", "[slug]/page"),
        ("d/e/*", "d/e/f/x.txt d/e/x.txt"),
    ] {
        assert_eq!(selected(SourcePattern::wildcard(text)), expected, "{text}");
    }
    for (text, expected) in [
        ("apps/*/package.json", "apps/api/package.json apps/web/package.json"),
        ("**/package.json", "apps/api/package.json apps/web/package.json apps/web/src/package.json"),
        ("d/link.txt", "d/link.txt"),
        ("via/x.txt", ""),
        ("via/./x.txt", "d/e/x.txt via"),
        ("d/./e", "d/e/f/x.txt d/e/x.txt"),
        ("a*/./web/*.json", "a.txt apps/web/package.json"),
        ("nothing/./a", ""),
        ("nothing", ""),
    ] {
        assert_eq!(selected(SourcePattern::parents(text)), expected, "{text}");
    }
    let everything = listing.entries().filter(|entry| entry.kind() != FileKind::Directory).count();
    for pattern in [SourcePattern::path("/"), SourcePattern::wildcard("*"), SourcePattern::parents(".")] {
        assert_eq!(selected(pattern).split(' ').count(), everything);
    }
}

#[test]
fn only_what_is_selected_is_read() {
    let folder = Folder::new(&[("a/used", "used"), ("b/unused", "unused")]);
    let listing = folder.list(Policy::Dockerfile, "");
    fs::remove_file(folder.at("b/unused")).unwrap();
    let mut selection = listing.select_none();
    selection.add(&path("a")).unwrap();
    let hashed = selection.hash(HashOptions::default()).unwrap();
    assert_eq!((hashed.read, hashed.bytes_read, hashed.tree.entries()), (1, 4, 2));
    let error = listing.select_all().hash(HashOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "`b/unused` disappeared while the context was read");
}

#[test]
fn deep_trees_are_read_by_descriptor() {
    const LEVELS: usize = 2500;
    let folder = Folder::new(&[]);
    let name = "deep-directory";
    let mut fd = rustix::fs::open(folder.root(), OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..LEVELS {
        rustix::fs::mkdirat(&fd, name, Mode::RWXU).unwrap();
        // A sibling each, so that every level has a child pending: more than there are descriptors.
        rustix::fs::mkdirat(&fd, "sibling", Mode::RWXU).unwrap();
        fd = rustix::fs::openat(&fd, name, OFlags::PATH, Mode::empty()).unwrap();
    }
    let file = rustix::fs::openat(&fd, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"bottom").unwrap();
    let listing = folder.list(Policy::Dockerfile, "");
    assert_eq!(listing.len(), 2 * LEVELS + 1);
    let state = folder.state();
    let hashed = listing.select_all().hash(HashOptions { index: Some(&state), blobs: None }).unwrap();
    assert_eq!((hashed.read, hashed.bytes_read), (1, 6));
    let file = listing.entries().find(|entry| entry.name() == b"f").unwrap().path();
    assert!(file.as_bytes().len() > 2 * 4096, "longer than PATH_MAX");
    let mut text = String::new();
    let root = ContextRoot::open(&folder.root()).unwrap();
    root.open_verified(&file, Digest::of(b"bottom"), 6).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "bottom");
    remove_deep(&folder.root());
}

/// `remove_dir_all` recurses; two thousand levels of it are too many for a test's stack.
fn remove_deep(root: &Path) {
    let status = std::process::Command::new("rm").arg("-rf").arg(root).status().unwrap();
    assert!(status.success());
}

#[test]
fn unreadable_directories_are_errors_unless_excluded() {
    as_plain_user("unreadable_directories_are_errors_unless_excluded", || {
        let folder = Folder::new(&[("a/x", ""), ("secret/x", "")]);
        folder.chmod("secret", 0o000);
        let error = folder.try_list(options(Policy::Dockerfile, "")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the directory `secret`");
        assert!(error.hints()[1].contains("add `secret` to .dockerignore"));
        assert_eq!(folder.list(Policy::Dockerfile, "secret\n").len(), 2);
        assert_eq!(folder.list(Policy::Dockerfile, "secret\n!**/y\n").len(), 2, "entered, and passed over");
        folder.chmod("secret", 0o700);
    });
}

#[test]
fn unreadable_files_are_errors_and_never_empty() {
    as_plain_user("unreadable_files_are_errors_and_never_empty", || {
        let folder = Folder::new(&[("a", "x"), ("b", "y")]);
        folder.chmod("b", 0o000);
        let listing = folder.list(Policy::Dockerfile, "");
        let error = listing.select_all().hash(HashOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the file `b`");
        let mut selection = listing.select_none();
        selection.add(&path("a")).unwrap();
        selection.hash(HashOptions::default()).unwrap();
    });
}

#[test]
fn vanishing_entries_are_named() {
    let folder = Folder::new(&[("a", ""), ("b/c", ""), ("d", "")]);
    let victim = folder.at("b/c");
    // Exclusions are asked between reading a directory and inspecting its entries.
    let options = options(Policy::Workspace, "").excluding(Exclusion::new("x", move |path, _| {
        if path == b"b/c" {
            fs::remove_file(&victim).unwrap();
        }
        false
    }));
    let error = folder.try_list(options).unwrap_err();
    assert_eq!(error.to_string(), "`b/c` disappeared while the context was read");
}

#[test]
fn entries_that_become_something_else_are_named() {
    let folder = Folder::new(&[("d/x", "")]);
    let victim = folder.at("d");
    let options = options(Policy::Workspace, "").excluding(Exclusion::new("x", move |path, _| {
        if path == b"d" {
            fs::remove_dir_all(&victim).unwrap();
            symlink("/etc", &victim).unwrap();
        }
        false
    }));
    let error = folder.try_list(options).unwrap_err();
    assert_eq!(error.to_string(), "`d` changed during the build");
}

#[test]
fn the_index_saves_reading_and_is_disposable() {
    let folder = Folder::new(&[("a", "1"), ("d/b", "2")]);
    assert_eq!(folder.hash_indexed().read, 2);
    assert_eq!(folder.hash_indexed().read, 2, "made a moment ago: racy");
    std::thread::sleep(Duration::from_millis(2100));
    let first = folder.hash_indexed();
    let second = folder.hash_indexed();
    assert_eq!((first.read, second.read, second.reused), (2, 0, 2));
    assert_eq!(first.tree, second.tree);
    let mut state = fs::read_dir(folder.state()).unwrap().map(|file| file.unwrap().path());
    let index = state.find(|path| path.extension() == Some(OsStr::new("stat"))).unwrap();
    let mut bytes = fs::read(&index).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&index, bytes).unwrap();
    let third = folder.hash_indexed();
    assert_eq!((third.read, third.tree == first.tree), (2, true));
    assert_eq!(fs::read_dir(folder.state()).unwrap().count(), 2, "nothing temporary stays");
    // What is not selected now is remembered all the same.
    folder.write("a", "changed");
    let listing = folder.list(Policy::Dockerfile, "");
    let mut selection = listing.select_none();
    selection.add(&path("a")).unwrap();
    let state = folder.state();
    assert_eq!(selection.hash(HashOptions { index: Some(&state), blobs: None }).unwrap().read, 1);
    let last = folder.hash_indexed();
    assert_eq!((last.read, last.reused), (1, 1), "`a` is racy, `d/b` is known");
    assert_eq!(content(&last, "a"), Digest::of(b"changed"));
}

#[test]
fn the_tree_is_known_while_no_fact_changes() {
    let folder = Folder::new(&[("a", "1"), ("d/b", "2"), ("d/c", "3")]);
    let state = folder.state();
    let known = |policy: Policy, only: Option<&str>| {
        let listing = folder.list(policy, "");
        let mut selection = if only.is_some() { listing.select_none() } else { listing.select_all() };
        only.iter().for_each(|only| selection.add(&path(only)).unwrap());
        selection.known_tree(&state).unwrap()
    };
    let hashed = folder.hash_indexed();
    assert_eq!(known(Policy::Dockerfile, None), None, "racy");
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(folder.hash_indexed().tree, hashed.tree);
    assert_eq!(known(Policy::Dockerfile, None), Some(hashed.tree.digest()));
    assert_eq!(known(Policy::Workspace, None), None);
    assert_eq!(known(Policy::Dockerfile, Some("d")), None);
    let part = folder.list(Policy::Dockerfile, "");
    let mut selection = part.select_none();
    selection.add(&path("d")).unwrap();
    let tree = selection.hash(HashOptions { index: Some(&state), blobs: None }).unwrap().tree.digest();
    folder.write("a", "4");
    assert_eq!(known(Policy::Dockerfile, Some("d")), Some(tree), "what is not selected does not count");
    assert_eq!(known(Policy::Dockerfile, None), None);
    let changes: [&dyn Fn(); 4] = [
        &|| folder.chmod("d/b", 0o755),
        &|| folder.write("d/b", "5"),
        &|| fs::rename(folder.at("d/c"), folder.at("d/e")).unwrap(),
        &|| symlink("x", folder.at("d/l")).unwrap(),
    ];
    for change in changes {
        change();
        assert_eq!(known(Policy::Dockerfile, Some("d")), None);
    }
}

#[test]
fn an_index_that_cannot_be_kept_is_a_warning() {
    let folder = Folder::new(&[("a", "1")]);
    fs::write(folder.state(), "a file where the folder should be").unwrap();
    let hashed = folder.hash_indexed();
    assert!(hashed.index_problem.is_some());
    assert_eq!(content(&hashed, "a"), Digest::of(b"1"));
}

#[test]
fn an_edit_of_equal_size_with_the_old_mtime_is_seen() {
    let folder = Folder::new(&[("a", "old")]);
    std::thread::sleep(Duration::from_millis(2100));
    folder.hash_indexed();
    assert_eq!(folder.hash_indexed().read, 0);
    let mtime = fs::metadata(folder.at("a")).unwrap().modified().unwrap();
    fs::write(folder.at("a"), "new").unwrap();
    fs::File::options().write(true).open(folder.at("a")).unwrap().set_modified(mtime).unwrap();
    assert_eq!(fs::metadata(folder.at("a")).unwrap().modified().unwrap(), mtime);
    assert_eq!(content(&folder.hash_indexed(), "a"), Digest::of(b"new"));
}

#[test]
fn quick_edits_of_equal_size_are_all_seen() {
    let folder = Folder::new(&[("a", "000")]);
    for round in 0..200 {
        let text = format!("{round:03}");
        let file = fs::File::options().write(true).open(folder.at("a")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), 0).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        drop(file);
        assert_eq!(content(&folder.hash_indexed(), "a"), Digest::of(text.as_bytes()), "{round}");
    }
}

#[test]
fn changes_between_listing_and_hashing_are_named() {
    let folder = Folder::new(&[("a", "x"), ("b", "y")]);
    let listing = folder.list(Policy::Dockerfile, "");
    folder.write("b", "longer");
    let error = listing.select_all().hash(HashOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "`b` changed during the build");
}

#[test]
fn blobs_are_stored_once_and_asked_for_later() {
    let folder = Folder::new(&[("a", "same"), ("b", "same"), ("c", "other"), ("empty", "")]);
    std::thread::sleep(Duration::from_millis(2100));
    let state = folder.state();
    let blobs = Blobs::default();
    let listing = folder.list(Policy::Dockerfile, "");
    let hash = |blobs: Option<&dyn BlobSink>| {
        listing.select_all().hash(HashOptions { index: Some(&state), blobs }).unwrap()
    };
    assert_eq!(hash(None).read, 4);
    // Two files are one blob; whether the second is read depends on which thread is first.
    assert!(matches!(hash(Some(&blobs)).read, 3 | 4), "known, but not stored");
    assert_eq!(hash(Some(&blobs)).read, 0);
    let stored: Vec<Vec<u8>> = blobs.0.lock().unwrap().values().cloned().collect();
    assert_eq!(stored.len(), 3);
    let later = Blobs::default();
    let root = listing.root();
    root.store(&path("c"), Digest::of(b"other"), 5, &later).unwrap();
    root.store(&path("empty"), Digest::of(b""), 0, &later).unwrap();
    assert!(later.contains(&Digest::of(b"other")) && later.contains(&Digest::of(b"")));
    folder.write("c", "ohter");
    let error = root.store(&path("c"), Digest::of(b"other"), 5, &Blobs::default()).unwrap_err();
    assert_eq!(error.to_string(), "`c` changed during the build");
}

#[test]
fn a_changed_file_is_never_delivered_whole() {
    let folder = Folder::new(&[("a", &"x".repeat(100_000))]);
    let digest = Digest::of("x".repeat(100_000).as_bytes());
    let root = ContextRoot::open(&folder.root()).unwrap();
    let open = || root.open_verified(&path("a"), digest, 100_000);
    let mut exact = vec![0; 100_000];
    open().unwrap().read_exact(&mut exact).unwrap();
    let mut changed = "x".repeat(100_000);
    changed.replace_range(0..1, "y");
    folder.write("a", &changed);
    let mut reader = open().unwrap();
    let error = reader.read_exact(&mut exact).unwrap_err();
    assert_eq!(error.downcast::<ContextError>().unwrap().to_string(), "`a` changed during the build");
    assert!(reader.read(&mut exact).is_err(), "and the error stays");
    folder.write("a", "short");
    assert!(matches!(open(), Err(ContextError::Changed { .. })));
    fs::remove_file(folder.at("a")).unwrap();
    assert!(matches!(open(), Err(ContextError::Vanished { .. })));
    rustix::fs::mkfifoat(CWD, folder.at("a"), Mode::RUSR).unwrap();
    assert!(matches!(open(), Err(ContextError::Changed { .. })), "and no blocking");
}

#[test]
fn a_file_that_grows_while_it_is_read_is_named() {
    struct Growing(PathBuf);
    impl BlobSink for Growing {
        fn contains(&self, _: &Digest) -> bool {
            false
        }
        fn put_from(&self, source: &mut dyn Read, _: u64) -> io::Result<Digest> {
            let mut bytes = vec![0; 2];
            source.read_exact(&mut bytes)?;
            fs::write(&self.0, "more than there was").unwrap();
            source.read_to_end(&mut bytes)?;
            Ok(Digest::of(&bytes))
        }
    }
    let folder = Folder::new(&[("a", "four")]);
    let sink = Growing(folder.at("a"));
    let listing = folder.list(Policy::Dockerfile, "");
    let error = listing.select_all().hash(HashOptions { index: None, blobs: Some(&sink) }).unwrap_err();
    assert_eq!(error.to_string(), "`a` changed during the build");
}

#[test]
fn a_failing_sink_names_the_file() {
    struct Full;
    impl BlobSink for Full {
        fn contains(&self, _: &Digest) -> bool {
            false
        }
        fn put_from(&self, _: &mut dyn Read, _: u64) -> io::Result<Digest> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    let folder = Folder::new(&[("b", "x"), ("a", "y")]);
    let listing = folder.list(Policy::Dockerfile, "");
    let error = listing.select_all().hash(HashOptions { index: None, blobs: Some(&Full) }).unwrap_err();
    assert_eq!(error.to_string(), "cannot store the content of `a`");
}

#[test]
fn the_root_is_a_folder() {
    let folder = Folder::new(&[("f", "")]);
    assert!(matches!(ContextRoot::open(&folder.at("none")), Err(ContextError::Root { .. })));
    assert!(matches!(ContextRoot::open(&folder.at("f")), Err(ContextError::Root { .. })));
    symlink(".", folder.at("self")).unwrap();
    let through_link = ContextRoot::open(&folder.at("self")).unwrap();
    assert_eq!(through_link.list(options(Policy::Dockerfile, "")).unwrap().len(), 2);
    assert!(Folder::new(&[]).list(Policy::Dockerfile, "").is_empty());
    assert_eq!(OsStr::new("context"), folder.root().file_name().unwrap());
}
