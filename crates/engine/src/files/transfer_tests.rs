//! The rows of BuildKit's path rules (`design/buildkit.md`, 1.5), one table each.

use std::collections::BTreeSet;

use wbuild_graph::{Account, AccountId, FileAction, Pattern, Unpack};
use wbuild_tree::{Directory, LinkId, MemoryTrees, TreeDigest, Visit, apply, walk};

use super::super::tests::{Memory, Roots, file, path, tree};
use super::super::{TreeRoot, perform};
use super::*;

const PASSWD: &str = "root:x:0:0::/:\nalice:x:1234:2345::/:\n";
const GROUP: &str = "root:x:0:\ndevs:x:3456:alice\n";

fn directory(mode: u16, uid: u32, gid: u32) -> Entry {
    Entry::directory(Meta::new(mode).owned_by(uid, gid), Subtree::empty())
}

fn owned(mut entry: Entry, mode: u16, uid: u32, gid: u32) -> Entry {
    entry.meta = Meta { mode, uid, gid, ..entry.meta };
    entry
}

fn linked(text: &str, id: u32) -> Entry {
    let mut entry = file(text);
    if let Node::File { link, .. } = &mut entry.node {
        *link = Some(LinkId(id));
    }
    entry
}

/// With links, directories and odd owners.
fn base() -> Subtree {
    tree(&[
        ("chain", Entry::symlink("lnk")),
        ("dangling", Entry::symlink("/no/where")),
        ("etc/group", file(GROUP)),
        ("etc/passwd", file(PASSWD)),
        ("file", owned(file("file"), 0o640, 7, 8)),
        ("filelnk", Entry::symlink("file")),
        ("lnk", Entry::symlink("/real")),
        ("loop1", Entry::symlink("loop2")),
        ("loop2", Entry::symlink("loop1")),
        ("own", directory(0o700, 500, 600)),
        ("own/old.txt", owned(file("old"), 0o600, 500, 600)),
        ("own/sub", directory(0o711, 501, 601)),
        ("own/sub/deep.txt", owned(file("deep"), 0o604, 502, 602)),
        ("real", directory(0o755, 0, 0)),
        ("real/keep.txt", file("keep")),
        ("run", directory(0o755, 0, 0)),
        ("sticky", directory(0o1777, 0, 0)),
        ("up", Entry::symlink("../../real")),
        ("var/run", Entry::symlink("/run")),
    ])
}

/// What is copied, in most tests.
fn source() -> Subtree {
    tree(&[
        (".hid", file("H")),
        ("a", file("A")),
        ("a.txt", file("1")),
        ("b.txt", file("2")),
        ("c.md", file("3")),
        ("d/e/f/x.txt", file("4")),
        ("d/e/x.txt", file("5")),
        ("d/s.txt", file("6")),
        ("empty", directory(0o750, 3, 4)),
        ("link", Entry::symlink("d")),
        ("tofile", Entry::symlink("d/s.txt")),
        ("dead", Entry::symlink("nowhere")),
        ("circle", Entry::symlink("circle")),
        ("odd", directory(0o2750, 5, 6)),
        ("odd/dead", Entry::symlink("/nowhere")),
        ("odd/x", owned(file("X"), 0o4711, 7, 8)),
        ("set/own/old.txt", file("new")),
        ("set/own/sub/n", file("N")),
    ])
}

fn transfer(sources: &[&str], target: &str) -> Transfer {
    let files = |text: &&str| TransferSource::Files {
        input: 1,
        pattern: Pattern::Wildcard((*text).to_owned()),
        unpack: Unpack::Never,
    };
    Transfer {
        sources: sources.iter().map(files).collect(),
        target: EntryPath::rooted(target).unwrap(),
        into_directory: target.ends_with('/') || target.ends_with("/."),
        owner: None,
        mode: None,
        excludes: Vec::new(),
    }
}

fn parents(sources: &[&str], target: &str) -> Transfer {
    let mut transfer = transfer(sources, target);
    for source in &mut transfer.sources {
        if let TransferSource::Files { pattern, .. } = source
            && let Pattern::Wildcard(text) = pattern
        {
            *pattern = Pattern::Parents(text.clone());
        }
    }
    transfer
}

fn numbers(uid: u32, gid: u32) -> Option<Account> {
    Some(Account { user: AccountId::Number(uid), group: Some(AccountId::Number(gid)), input: 0 })
}

/// The delta of copying from `source` onto `base`.
fn delta_of(base: &Subtree, source: &Subtree, transfers: &[Transfer]) -> Result<Subtree, String> {
    let trees = MemoryTrees::default();
    let contents = Memory::default();
    for text in [PASSWD, GROUP] {
        contents.keep(text.as_bytes()).unwrap();
    }
    let inputs = Roots { roots: vec![base.clone(), source.clone()], contents: &contents };
    let actions: Vec<FileAction> =
        transfers.iter().map(|transfer| FileAction::Transfer(Box::new(transfer.clone()))).collect();
    perform(&trees, &contents, &TreeRoot { trees: &trees, root: base }, &inputs, &actions)
        .map_err(|error| error.to_string())
}

/// A tree in words: mode and owner where they are not the usual ones, what is in a file, where links lead, and which names
/// are one inode.
pub(in super::super) fn show(tree: &Subtree) -> String {
    let texts = [
        "A", "1", "2", "3", "4", "5", "6", "H", "X", "N", "new", "old", "deep", "keep", "file", "T", "F",
        PASSWD, GROUP,
    ];
    let text = |digest| texts.into_iter().find(|text| wbuild_oci::Digest::of(text.as_bytes()) == digest);
    let mut shown = Vec::new();
    walk(&MemoryTrees::default(), tree, &mut |path, entry| {
        let mut line = path.to_string()[1..].to_owned();
        let mut usual = 0o644;
        match &entry.node {
            Node::Directory { opaque, .. } => {
                line.push_str(if *opaque { "/!" } else { "/" });
                usual = 0o755;
            }
            Node::Symlink { target } => {
                line.push_str(&format!("->{}", String::from_utf8_lossy(target)));
                usual = 0o777;
            }
            Node::File { content, link, .. } => {
                line.push_str(&format!("={}", text(*content).unwrap_or("?").lines().next().unwrap_or("")));
                line.extend(link.map(|link| format!("#{}", link.0)));
            }
            Node::Whiteout => line.push_str(" gone"),
            other => line.push_str(&format!(" {other:?}")),
        }
        if entry.meta.mode != usual {
            line.push_str(&format!(" {:o}", entry.meta.mode));
        }
        if (entry.meta.uid, entry.meta.gid) != (0, 0) {
            line.push_str(&format!(" {}:{}", entry.meta.uid, entry.meta.gid));
        }
        shown.push(line);
        Ok::<_, TreeLoadError>(Visit::Into)
    })
    .unwrap();
    shown.join(", ")
}

/// What a copy onto nothing leaves.
fn onto_nothing(transfer: &Transfer) -> String {
    delta_of(&Subtree::empty(), &source(), std::slice::from_ref(transfer))
        .map_or_else(|error| format!("error: {error}"), |delta| show(&delta))
}

/// What is below `at` after a copy onto the base.
fn onto_base(transfer: &Transfer, at: &str) -> String {
    let base = base();
    let delta = match delta_of(&base, &source(), std::slice::from_ref(transfer)) {
        Ok(delta) => delta,
        Err(error) => return format!("error: {error}"),
    };
    let trees = MemoryTrees::default();
    let merged = apply(&trees, &base, &delta).unwrap();
    match wbuild_tree::lookup(&trees, &merged, &path(at)).unwrap() {
        Some(entry) => show(&tree(&[(at, entry)])),
        None => "nothing".to_owned(),
    }
}

/// Y01, Y03 and Y07: sources are rooted and followed.
#[test]
fn sources_are_rooted_and_followed() {
    for text in ["a", "/a", "./a", "../a", "../../x/../a", "d/../a", "a/"] {
        assert_eq!(onto_nothing(&transfer(&[text], "/x")), "x=A", "{text}");
    }
    for text in ["d/e", "d/e/", "d/e/.", "link/e", "link/e/."] {
        assert_eq!(onto_nothing(&transfer(&[text], "/x")), "x/, x/f/, x/f/x.txt=4, x/x.txt=5", "{text}");
    }
    assert_eq!(onto_nothing(&transfer(&["tofile"], "/x")), "x=6");
    assert_eq!(onto_nothing(&transfer(&["tofile"], "/x/")), "x/, x/tofile=6");
    assert_eq!(onto_nothing(&transfer(&["link/s.txt", "link/e/x.txt"], "/x/")), "x/, x/s.txt=6, x/x.txt=5");
}

/// Y02: the destination, and what is made on the way.
#[test]
fn destinations_are_made() {
    for (target, expected) in [
        ("/b", "b=A"),
        ("/x/y/z", "x/, x/y/, x/y/z=A"),
        ("/x/../y/./b", "y/, y/b=A"),
        ("/../../z", "z=A"),
        ("//q//r", "q/, q/r=A"),
        ("/x/", "x/, x/a=A"),
        ("/x/.", "x/, x/a=A"),
        ("/", "a=A"),
    ] {
        assert_eq!(onto_nothing(&transfer(&["a"], target)), expected, "{target}");
    }
    assert_eq!(onto_nothing(&transfer(&["d/e/f"], "/x/y")), "x/, x/y/, x/y/x.txt=4");
    assert_eq!(onto_nothing(&transfer(&["empty"], "/x/y")), "x/, x/y/", "nobody but the copy made it");
    assert_eq!(onto_nothing(&transfer(&["empty"], "/")), "");
    let mut made = transfer(&["a"], "/p/q/f");
    made.mode = Some("777".parse().unwrap());
    made.owner = numbers(9, 10);
    assert_eq!(onto_nothing(&made), "p/ 777 9:10, p/q/ 777 9:10, p/q/f=A 777 9:10");
    assert_eq!(onto_base(&transfer(&["a"], "/own/x/y"), "own/x"), "own/, own/x/, own/x/y=A");
}

/// Y04: several sources, and one that is several.
#[test]
fn several_sources_need_no_slash() {
    assert_eq!(
        onto_nothing(&transfer(&["a", "b.txt", "d"], "/x/")),
        "x/, x/a=A, x/b.txt=2, x/e/, x/e/f/, x/e/f/x.txt=4, x/e/x.txt=5, x/s.txt=6"
    );
    assert_eq!(onto_nothing(&transfer(&["a.txt", "b.txt"], "/x")), "x=2", "the second lands on the first");
    assert_eq!(
        onto_nothing(&transfer(&["d/e/f", "a"], "/x")),
        "x/, x/a=A, x/x.txt=4",
        "into what the first made"
    );
}

/// Y05 and Y06.
#[test]
fn wildcards() {
    for (text, expected) in [
        ("*.txt", "x/, x/a.txt=1, x/b.txt=2"),
        ("d/*/x.txt", "x/, x/x.txt=5"),
        ("*id", "x/, x/.hid=H"),
        ("[ab].txt", "x/, x/a.txt=1, x/b.txt=2"),
        ("?.md", "x/, x/c.md=3"),
        ("nothing*", ""),
        ("d/nothing*", ""),
        ("link/*.txt", "x/, x/s.txt=6"),
        ("d/*", "x/, x/f/, x/f/x.txt=4, x/s.txt=6, x/x.txt=5"),
        ("tofi*", "x/, x/tofile=6"),
        ("lin*", "x/, x/e/, x/e/f/, x/e/f/x.txt=4, x/e/x.txt=5, x/s.txt=6"),
        ("a/*", ""),
    ] {
        assert_eq!(onto_nothing(&transfer(&[text], "/x/")), expected, "{text}");
    }
    assert_eq!(onto_nothing(&transfer(&["c.*", "nothing*"], "/x")), "x=3", "one match is a rename");
    let mut literal = transfer(&["a*"], "/x/");
    literal.sources = vec![TransferSource::Files {
        input: 1,
        pattern: Pattern::Literal("a*".to_owned()),
        unpack: Unpack::Never,
    }];
    assert!(onto_nothing(&literal).starts_with("error: `/a*` not found"));
}

/// Y06, and Y07 for links that lead nowhere.
#[test]
fn what_is_not_there_is_said() {
    for (text, expected) in [
        ("nosuch.txt", "`/nosuch.txt` not found in the build context"),
        ("a/x", "`/a/x` not found in the build context"),
        ("dead", "`/dead` not found in the build context: its links lead to `/nowhere`"),
        ("dea*", "`/dead` not found in the build context: its links lead to `/nowhere`"),
        ("nosuch/*", "`/nosuch` not found in the build context"),
        ("circle", "`/circle` goes through more than 40 symbolic links"),
        ("x[", "`x[` cannot be used as a pattern"),
    ] {
        assert_eq!(onto_nothing(&transfer(&["a", text], "/x/")), format!("error: {expected}"), "{text}");
    }
    let error = FileError::<TreeLoadError>::NotFound {
        path: path("x"),
        reached: path("x"),
        missing: Box::new(super::super::Missing {
            place: "the build context".to_owned(),
            ignored: Some("line 3 of .dockerignore leaves it out: `x`".to_owned()),
            nearest: vec!["y".to_owned()],
        }),
    };
    assert_eq!(wbuild_report::Hint::hints(&error), ["line 3 of .dockerignore leaves it out: `x`"]);
}

/// Y08: links in the destination are followed inside of the root, one that is replaced by its name is not.
#[test]
fn links_in_the_destination() {
    for (target, at, expected) in [
        ("/lnk/", "real", "real/, real/a=A, real/keep.txt=keep"),
        ("/lnk", "real", "real/, real/a=A, real/keep.txt=keep"),
        ("/chain/n", "real/n", "real/, real/n=A"),
        ("/up/n", "real/n", "real/, real/n=A"),
        ("/var/run/x/", "run", "run/, run/x/, run/x/a=A"),
        ("/filelnk", "file", "file=A"),
        ("/dangling", "no/where", "no/, no/where=A"),
        ("/dangling/", "no/where", "no/, no/where/, no/where/a=A"),
        ("/loop1/x", "", "error: `/loop1` goes through more than 40 symbolic links"),
    ] {
        assert_eq!(onto_base(&transfer(&["a"], target), at), expected, "{target}");
    }
    assert_eq!(onto_base(&transfer(&["a"], "/filelnk"), "filelnk"), "filelnk->file");
    let trees = |entries: &[(&str, Entry)], target: &str| {
        delta_of(&base(), &tree(entries), &[transfer(&["*"], target)]).map(|delta| show(&delta))
    };
    assert_eq!(trees(&[("filelnk", file("new"))], "/").unwrap(), "filelnk=new");
    assert_eq!(trees(&[("s/filelnk", file("new"))], "/").unwrap(), "filelnk=new");
    assert_eq!(
        trees(&[("lnk", file("new"))], "/").unwrap(),
        "lnk=new",
        "the link is replaced, not the directory"
    );
    assert_eq!(trees(&[("s/lnk/x", file("new"))], "/").unwrap_err(), "cannot copy to non-directory: /lnk");
}

/// Y09: who keeps what.
#[test]
fn directories_that_are_there() {
    assert_eq!(
        onto_base(&transfer(&["set/own"], "/own"), "own"),
        "own/ 700 500:600, own/old.txt=new, own/sub/, own/sub/deep.txt=deep 604 502:602, own/sub/n=N"
    );
    let mut chown = transfer(&["set/own"], "/own");
    chown.owner = numbers(9, 9);
    assert_eq!(
        onto_base(&chown, "own"),
        "own/ 700 500:600, own/old.txt=new 9:9, own/sub/ 9:9, own/sub/deep.txt=deep 604 502:602, own/sub/n=N 9:9"
    );
    assert_eq!(onto_base(&transfer(&["a"], "/sticky/z"), "sticky"), "sticky/ 1777, sticky/z=A");
    // The copy's own directory is root's, what is in it keeps its owner.
    assert_eq!(onto_nothing(&transfer(&["odd"], "/o")), "o/, o/dead->/nowhere, o/x=X 4711 7:8");
    assert_eq!(onto_nothing(&transfer(&["/"], "/o")).matches("empty/ 750 3:4").count(), 1);
}

/// Y10, in BuildKit's words.
#[test]
fn files_over_directories_and_directories_over_files() {
    let onto = |entries: &[(&str, Entry)], target: &str| {
        delta_of(&base(), &tree(entries), &[transfer(&["s"], target)]).unwrap_err()
    };
    let file_in = |at| [(at, file("A"))];
    assert_eq!(onto(&file_in("s/real"), "/"), "cannot replace to directory /real with file");
    assert_eq!(
        onto(&[("s/real", Entry::symlink("/tmp"))], "/"),
        "cannot replace to directory /real with file"
    );
    assert_eq!(onto(&file_in("s/file/x"), "/"), "cannot copy to non-directory: /file");
    assert_eq!(onto(&file_in("s/x"), "/file"), "cannot copy to non-directory: /file");
    assert_eq!(
        onto(&file_in("s"), "/file/sub/"),
        "`/file/sub` cannot be reached: `/file` is not a directory"
    );
    assert_eq!(onto(&file_in("s"), "/file/"), "`/file` cannot be a directory: there is a file");
    let into = |at| delta_of(&base(), &tree(&file_in("sub")), &[transfer(&["sub"], at)]).unwrap_err();
    assert_eq!(into("/own/"), "cannot replace to directory /own/sub with file");
}

/// Later copies see what earlier ones did.
#[test]
fn copies_merge_into_copies() {
    let both =
        [transfer(&["d"], "/x"), transfer(&["d/e/f", "a.txt"], "/x/e/"), transfer(&["b.txt"], "/x/e/x.txt")];
    assert_eq!(
        show(&delta_of(&Subtree::empty(), &source(), &both).unwrap()),
        "x/, x/e/, x/e/a.txt=1, x/e/f/, x/e/f/x.txt=4, x/e/x.txt=2, x/s.txt=6"
    );
}

/// Y12: links are copied as links, hard links of one copy stay, those of two never become one.
#[test]
fn links_are_kept_inside_one_copy() {
    let source = tree(&[
        ("s/a", linked("A", 0)),
        ("s/d/b", linked("A", 0)),
        ("s/only", linked("N", 1)),
        ("t/a", linked("A", 0)),
        ("t/c", linked("A", 0)),
        ("u", linked("N", 1)),
    ]);
    let copy = |transfers: &[Transfer]| show(&delta_of(&Subtree::empty(), &source, transfers).unwrap());
    assert_eq!(copy(&[transfer(&["s"], "/x")]), "x/, x/a=A#0, x/d/, x/d/b=A#0, x/only=N");
    assert_eq!(
        copy(&[transfer(&["s", "t"], "/x")]),
        "x/, x/a=A#0, x/c=A#0, x/d/, x/d/b=A, x/only=N",
        "the second copy broke a group"
    );
    assert_eq!(
        copy(&[transfer(&["s"], "/x"), transfer(&["t"], "/y")]),
        "x/, x/a=A#0, x/d/, x/d/b=A#0, x/only=N, y/, y/a=A#1, y/c=A#1"
    );
    assert_eq!(copy(&[transfer(&["s/a", "s/d/b", "u"], "/x/")]), "x/, x/a=A, x/b=A, x/u=N");
    assert_eq!(
        onto_nothing(&transfer(&["odd/*d"], "/x/")),
        "error: `/odd/dead` not found in the build context: its links lead to `/nowhere`"
    );
}

/// Y12 and the corrections: times are kept, the copied directory's too.
#[test]
fn times_are_kept() {
    let at = |seconds| Time { seconds, nanos: 5 };
    let mut x = file("X");
    x.meta.mtime = at(100);
    let mut d = directory(0o755, 0, 0);
    d.meta.mtime = at(200);
    let source = tree(&[("d", d), ("d/x", x)]);
    let times = |base: &Subtree, transfer: Transfer| {
        let delta = delta_of(base, &source, &[transfer]).unwrap();
        let mut times = Vec::new();
        walk(&MemoryTrees::default(), &delta, &mut |path, entry| {
            times.push(format!("{path} {}", entry.meta.mtime.seconds));
            Ok::<_, TreeLoadError>(Visit::Into)
        })
        .unwrap();
        times.join(", ")
    };
    assert_eq!(times(&Subtree::empty(), transfer(&["d"], "/p/q")), "/p 1, /p/q 200, /p/q/x 100");
    assert_eq!(times(&tree(&[("q/y", file("N"))]), transfer(&["d"], "/q")), "/q 200, /q/x 100");
    assert_eq!(times(&Subtree::empty(), transfer(&["d/x"], "/q/")), "/q 1, /q/x 100");
}

/// I22: owners by name, and for all that is made.
#[test]
fn owners() {
    let named = |user: &str, group: Option<&str>| {
        let mut transfer = transfer(&["odd"], "/p/o");
        let group = group.map(|group| AccountId::Name(group.to_owned()));
        transfer.owner = Some(Account { user: AccountId::Name(user.to_owned()), group, input: 0 });
        onto_base(&transfer, "p")
    };
    assert_eq!(
        named("alice", None),
        "p/ 1234:2345, p/o/ 1234:2345, p/o/dead->/nowhere 1234:2345, p/o/x=X 4711 1234:2345"
    );
    assert_eq!(
        named("alice", Some("devs")),
        "p/ 1234:3456, p/o/ 1234:3456, p/o/dead->/nowhere 1234:3456, p/o/x=X 4711 1234:3456"
    );
    assert_eq!(named("bob", None), "error: there is no user `bob` in /etc/passwd of the image");
    assert_eq!(named("alice", Some("x")), "error: there is no group `x` in /etc/group of the image");
}

/// I23.
#[test]
fn modes() {
    let moded = |mode: &str, sources: &[&str], target: &str| {
        let mut transfer = transfer(sources, target);
        transfer.mode = Some(mode.parse().unwrap());
        onto_nothing(&transfer)
    };
    assert_eq!(moded("4711", &["a"], "/1"), "1=A 4711");
    assert_eq!(moded("0", &["a"], "/1"), "1=A 0");
    assert_eq!(
        moded("4711", &["odd"], "/1"),
        "1/ 711, 1/dead->/nowhere, 1/x=X 4711 7:8",
        "what is made gets no special bits"
    );
    assert_eq!(
        moded("711", &["d"], "/1/2"),
        "1/ 711, 1/2/ 711, 1/2/e/ 711, 1/2/e/f/ 711, 1/2/e/f/x.txt=4 711, 1/2/e/x.txt=5 711, 1/2/s.txt=6 711"
    );
    assert_eq!(
        moded("u=rwX,go=rX", &["odd", "empty"], "/1"),
        "1/, 1/dead->/nowhere, 1/x=X 755 7:8",
        "symbolic modes change, so they make nothing"
    );
    assert_eq!(moded("a+X", &["/"], "/1").matches("empty/ 751 3:4").count(), 1);
    let mut both = transfer(&["d/e"], "/x/y");
    both.mode = Some("750".parse().unwrap());
    both.owner = numbers(3, 4);
    assert_eq!(
        onto_nothing(&both),
        "x/ 750 3:4, x/y/ 750 3:4, x/y/f/ 750 3:4, x/y/f/x.txt=4 750 3:4, x/y/x.txt=5 750 3:4"
    );
}

/// I26 and Y13, with the difference on purpose: a file is excluded, too.
#[test]
fn exclusions() {
    let excluding = |excludes: &[&str], sources: &[&str]| {
        let mut transfer = transfer(sources, "/o/");
        transfer.excludes = excludes.iter().map(|&text| text.to_owned()).collect();
        onto_nothing(&transfer)
    };
    assert_eq!(excluding(&["*.txt"], &["d"]), "o/, o/e/, o/e/f/, o/e/f/x.txt=4, o/e/x.txt=5");
    assert_eq!(excluding(&["**/*.txt"], &["d"]), "o/, o/e/, o/e/f/");
    assert_eq!(excluding(&["e"], &["d"]), "o/, o/s.txt=6");
    assert_eq!(excluding(&["/e"], &["d"]), "o/, o/e/, o/e/f/, o/e/f/x.txt=4, o/e/x.txt=5, o/s.txt=6");
    assert_eq!(excluding(&["e", "!e/f"], &["d"]), "o/, o/e/, o/e/f/, o/e/f/x.txt=4, o/s.txt=6");
    assert_eq!(excluding(&["**", "!**/x.txt"], &["d"]), "o/, o/e/, o/e/f/, o/e/f/x.txt=4, o/e/x.txt=5");
    assert_eq!(excluding(&["**", "!nothing"], &["d"]), "o/");
    assert_eq!(excluding(&["a"], &["a", "b.txt"]), "o/, o/b.txt=2");
    assert_eq!(excluding(&["*.txt", "!b.txt"], &["*.txt"]), "o/, o/b.txt=2");
    assert_eq!(excluding(&["x.txt"], &["d/e/x.txt", "d/s.txt"]), "o/, o/s.txt=6");
    assert_eq!(excluding(&["d/s.txt"], &["d/s.txt", "a"]), "o/, o/a=A");
    assert_eq!(excluding(&["["], &["a"]), "error: `[` cannot be used as a pattern");
}

/// I25 and Y14.
#[test]
fn with_parents() {
    for (text, expected) in [
        ("d/e/x.txt", "o/, o/d/, o/d/e/, o/d/e/x.txt=5"),
        ("./d/e/x.txt", "o/, o/d/, o/d/e/, o/d/e/x.txt=5"),
        ("d/./e/x.txt", "o/, o/e/, o/e/x.txt=5"),
        ("d/./e/./x.txt", "o/, o/e/, o/e/x.txt=5"),
        ("link/./e/x.txt", "o/, o/e/, o/e/x.txt=5"),
        ("d/e/.", "o/, o/d/, o/d/e/, o/d/e/f/, o/d/e/f/x.txt=4, o/d/e/x.txt=5"),
        ("d/*/x.txt", "o/, o/d/, o/d/e/, o/d/e/x.txt=5"),
        ("d/**/x.txt", "o/, o/d/, o/d/e/, o/d/e/f/, o/d/e/f/x.txt=4, o/d/e/x.txt=5"),
        ("d/./**/f", "o/, o/e/, o/e/f/, o/e/f/x.txt=4"),
        ("?/./e/x.txt", "error: `/a/e/x.txt` not found in the build context"),
        ("[d]/./e/x.txt", "o/, o/e/, o/e/x.txt=5"),
        ("odd/x", "o/, o/odd/ 2750 5:6, o/odd/x=X 4711 7:8"),
        ("tofile", "o/, o/tofile->d/s.txt"),
        ("nothing*", "o/"),
        ("nothing", "error: `/nothing` not found in the build context"),
        ("d/nothing/x", "error: `/d/nothing/x` not found in the build context"),
        ("link/s.txt", "error: `/link/s.txt` not found in the build context"),
    ] {
        if text.starts_with('?') {
            // A wildcard of the pivot that matches a file takes the file.
            assert_eq!(onto_nothing(&parents(&[text], "/o/")), "o/, o/a=A, o/e/, o/e/x.txt=5", "{text}");
            continue;
        }
        assert_eq!(onto_nothing(&parents(&[text], "/o/")), expected, "{text}");
    }
    let mut excluding = parents(&["d", "odd"], "/o/");
    excluding.excludes = vec!["d/e".to_owned(), "**/x".to_owned()];
    assert_eq!(onto_nothing(&excluding), "o/, o/d/, o/d/s.txt=6, o/odd/ 2750 5:6, o/odd/dead->/nowhere");
    // Directories that are only there for what is in them give their mode to those that exist, and nothing else.
    assert_eq!(
        onto_base(&parents(&["set/./own/sub/n"], "/"), "own"),
        "own/ 500:600, own/old.txt=old 600 500:600, own/sub/ 501:601, own/sub/deep.txt=deep 604 502:602, own/sub/n=N"
    );
    assert_eq!(
        onto_base(&parents(&["set/./own/sub"], "/"), "own"),
        "own/ 500:600, own/old.txt=old 600 500:600, own/sub/, own/sub/deep.txt=deep 604 502:602, own/sub/n=N"
    );
}

/// I28.
#[test]
fn inline_files() {
    let inline = |target: &str| {
        let mut transfer = transfer(&[], target);
        transfer.sources = vec![TransferSource::Inline { name: "note".to_owned(), contents: b"N".to_vec() }];
        transfer
    };
    assert_eq!(onto_nothing(&inline("/o/f")), "o/, o/f=N");
    assert_eq!(onto_nothing(&inline("/o/")), "o/, o/note=N");
    assert_eq!(onto_base(&inline("/real"), "real"), "real/, real/keep.txt=keep, real/note=N");
    assert_eq!(onto_base(&inline("/lnk/"), "real"), "real/, real/keep.txt=keep, real/note=N");
    let mut flags = inline("/o/f");
    flags.mode = Some("755".parse().unwrap());
    flags.owner = numbers(1, 2);
    assert_eq!(onto_nothing(&flags), "o/ 1:2, o/f=N 755 1:2");
}

/// I45.
#[test]
fn working_directories() {
    let trees = MemoryTrees::default();
    let contents = Memory::default();
    for text in [PASSWD, GROUP] {
        contents.keep(text.as_bytes()).unwrap();
    }
    let base = base();
    let workdir = |at: &str, user: &str| {
        let inputs = Roots { roots: vec![base.clone()], contents: &contents };
        let action = FileAction::Workdir { path: path(at), user: user.to_owned() };
        perform(&trees, &contents, &TreeRoot { trees: &trees, root: &base }, &inputs, &[action])
            .map_or_else(|error| format!("error: {error}"), |delta| show(&delta))
    };
    assert_eq!(workdir("new/x", ""), "new/, new/x/");
    assert_eq!(workdir("new/x", "alice"), "new/ 1234:2345, new/x/ 1234:2345");
    assert_eq!(workdir("new", "5"), "new/ 5:5");
    assert_eq!(workdir("own/new", "alice:devs"), "own/ 700 500:600, own/new/ 1234:3456");
    assert_eq!(workdir("real", "alice"), "", "what exists is left as it is");
    assert_eq!(workdir("", "alice"), "");
    assert_eq!(workdir("lnk/w", ""), "real/, real/w/");
    assert_eq!(workdir("dangling", ""), "no/, no/where/");
    assert_eq!(workdir("filelnk", ""), "error: `/file` cannot be a directory: there is a file");
    assert_eq!(workdir("new", "bob"), "error: there is no user `bob` in /etc/passwd of the image");
    assert_eq!(workdir("new", "a:b:c"), "error: `a:b:c` is not a user of the form `user[:group]`");
}

#[test]
fn deep_trees_are_copied() {
    let mut deep = tree(&[("f", linked("A", 0)), ("g", linked("A", 0))]);
    for _ in 0..2000 {
        let directory = Entry::directory(Meta::new(0o755), deep);
        deep = Subtree::new(Directory { entries: [(Name::new("x").unwrap(), directory)].into() });
    }
    let mut all = transfer(&["/"], "/o");
    all.owner = numbers(1, 2);
    all.excludes = vec!["**/g".to_owned()];
    let delta = delta_of(&Subtree::empty(), &deep, &[all]).unwrap();
    assert_eq!(delta.entries(), 2002);
    let merged = delta_of(&deep, &deep, &[transfer(&["/"], "/")]).unwrap();
    assert_eq!(merged, deep);
    let found = delta_of(&Subtree::empty(), &deep, &[parents(&["**/f"], "/")]).unwrap();
    assert_eq!(found.entries(), 2001);
    let far = "/x".repeat(3000);
    let error = delta_of(&Subtree::empty(), &deep, &[transfer(&["/"], &far)]).unwrap_err();
    assert!(error.contains("is longer than 4095 bytes"), "{error}");
}

/// Counts the directories that are loaded.
#[derive(Default)]
struct Counting {
    trees: MemoryTrees,
    loaded: std::sync::Mutex<Vec<TreeDigest>>,
}

impl TreeSource for Counting {
    fn directory(&self, tree: TreeDigest) -> Result<Directory, TreeLoadError> {
        self.loaded.lock().unwrap().push(tree);
        self.trees.directory(tree)
    }
}

/// A copy of fifty thousand files looks at the directories on the way to them, and at none of theirs.
#[test]
fn whole_directories_are_not_opened() {
    let mut builder = wbuild_tree::TreeBuilder::new();
    let none = MemoryTrees::default();
    for number in 0..50_000 {
        let at = format!("app/node_modules/p{}/lib/f{number}.js", number % 500);
        builder.insert(&none, &path(&at), file("X")).unwrap();
    }
    let source = builder.finish();
    let counting = Counting::default();
    counting.trees.insert(&source).unwrap();
    let base = tree(&[("srv", directory(0o755, 0, 0)), ("srv/old", file("old"))]);
    let contents = Memory::default();
    let copy = |transfer: Transfer, base: &Subtree| {
        counting.loaded.lock().unwrap().clear();
        // Only what is looked at is loaded.
        let stored = Subtree::load(&counting, source.digest()).unwrap();
        let inputs = CountedRoots { roots: vec![base.clone(), stored], trees: &counting };
        let actions = [FileAction::Transfer(Box::new(transfer))];
        let root = TreeRoot { trees: &counting, root: base };
        let delta = perform(&counting, &contents, &root, &inputs, &actions).unwrap();
        let loaded: BTreeSet<_> = counting.loaded.lock().unwrap().iter().copied().collect();
        (delta.entries(), loaded.len())
    };
    let entries = source.entries();
    // Found in the root, and taken whole.
    assert_eq!(copy(transfer(&["app"], "/srv/new"), &base), (entries + 1, 1));
    assert_eq!(copy(transfer(&["app/node_modules"], "/new"), &base), (entries - 1, 2));
    // Its entries are put beside others.
    assert_eq!(copy(transfer(&["app"], "/srv"), &base), (entries, 2));
    let (_, loaded) = copy(transfer(&["/"], "/"), &Subtree::empty());
    assert_eq!(loaded, 1);
    let (_, loaded) = copy(parents(&["app/node_modules/p7"], "/x/"), &Subtree::empty());
    assert_eq!(loaded, 3, "the way to it");
    let mut excluding = transfer(&["app"], "/srv/new");
    excluding.excludes = vec!["*.md".to_owned(), ".git".to_owned()];
    assert_eq!(copy(excluding, &base), (entries + 1, 2), "nothing below can match");
}

/// Roots whose trees are counted.
struct CountedRoots<'a> {
    roots: Vec<Subtree>,
    trees: &'a Counting,
}

impl Inputs for CountedRoots<'_> {
    type Error = TreeLoadError;

    fn tree(&self, input: usize) -> Result<Subtree, TreeLoadError> {
        Ok(self.roots[input].clone())
    }

    fn origin(
        &self,
        input: usize,
    ) -> Result<Box<dyn super::super::Origin<Error = TreeLoadError> + '_>, TreeLoadError> {
        Ok(Box::new(TreeRoot { trees: self.trees, root: &self.roots[input] }))
    }

    fn missing(&self, _: usize, _: &EntryPath) -> Result<super::super::Missing, TreeLoadError> {
        Ok(super::super::Missing::default())
    }

    fn text(&self, _: usize, _: &str) -> Result<Option<String>, TreeLoadError> {
        Ok(None)
    }
}
