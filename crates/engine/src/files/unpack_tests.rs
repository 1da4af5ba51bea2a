//! ADD of archives: I30, I35 and what a hostile one may not do.

use wbuild_graph::{FileAction, Pattern, TransferSource, Unpack};
use wbuild_tree::{MemoryTrees, TreeLoadError, apply};

use super::super::tests::{Memory, Roots, file, tree};
use super::super::transfer::tests::show;
use super::super::{FileError, TreeRoot, perform};
use super::*;

/// An entry of an archive: its name, what it is, and how it is owned.
enum Put<'a> {
    File(&'a str, &'a str),
    Directory(&'a str),
    Symlink(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Fifo(&'a str),
    Device(&'a str, u32, u32),
}

fn archive(entries: &[Put<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (number, entry) in entries.iter().enumerate() {
        let mut header = tar::Header::new_ustar();
        let (name, kind, target, content) = match entry {
            Put::File(name, content) => (name, tar::EntryType::Regular, "", *content),
            Put::Directory(name) => (name, tar::EntryType::Directory, "", ""),
            Put::Symlink(name, target) => (name, tar::EntryType::Symlink, *target, ""),
            Put::HardLink(name, target) => (name, tar::EntryType::Link, *target, ""),
            Put::Fifo(name) => (name, tar::EntryType::Fifo, "", ""),
            Put::Device(name, ..) => (name, tar::EntryType::Char, "", ""),
        };
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o750 } else { 0o604 });
        header.set_uid(10 + number as u64);
        header.set_gid(20);
        header.set_mtime(1000);
        header.set_size(content.len() as u64);
        // As they are, even what a well-behaved writer refuses.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        if let Put::Device(_, major, minor) = entry {
            header.set_device_major(*major).unwrap();
            header.set_device_minor(*minor).unwrap();
        }
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn add(archive: &[u8], target: &str) -> Transfer {
    let name = format!("t{}", archive.len());
    Transfer {
        sources: vec![TransferSource::Files {
            input: 1,
            pattern: Pattern::Literal(name),
            unpack: Unpack::Archives,
        }],
        target: EntryPath::rooted(target).unwrap(),
        into_directory: target.ends_with('/'),
        owner: None,
        mode: None,
        excludes: Vec::new(),
    }
}

fn delta_of(base: &Subtree, bytes: &[u8], transfer: Transfer) -> Result<Subtree, FileError<TreeLoadError>> {
    let trees = MemoryTrees::default();
    let contents = Memory::default();
    let content = contents.keep(bytes).unwrap();
    let packed = Entry::file(Meta::new(0o644), content, bytes.len() as u64);
    let source = tree(&[(&format!("t{}", bytes.len()), packed)]);
    let inputs = Roots { roots: vec![base.clone(), source], contents: &contents };
    let actions = [FileAction::Transfer(Box::new(transfer))];
    perform(&trees, &contents, &TreeRoot { trees: &trees, root: base }, &inputs, &actions)
}

fn said(error: &FileError<TreeLoadError>) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn onto(base: &Subtree, entries: &[Put<'_>], target: &str) -> String {
    let bytes = archive(entries);
    delta_of(base, &bytes, add(&bytes, target)).map_or_else(|error| said(&error), |delta| show(&delta))
}

fn onto_nothing(entries: &[Put<'_>], target: &str) -> String {
    onto(&Subtree::empty(), entries, target)
}

fn some() -> [Put<'static>; 5] {
    [
        Put::Directory("d/"),
        Put::File("d/f", "F"),
        Put::Symlink("d/l", "f"),
        Put::HardLink("d/h", "d/f"),
        Put::File("top", "T"),
    ]
}

#[test]
fn archives_are_unpacked_with_their_owners() {
    assert_eq!(
        onto_nothing(&some(), "/out"),
        "out/, out/d/ 750 10:20, out/d/f=F#0 604 13:20, out/d/h=F#0 604 13:20, out/d/l->f 12:20, out/top=T 604 14:20"
    );
    let bytes = archive(&some());
    let mut flags = add(&bytes, "/out/");
    flags.mode = Some("640".parse().unwrap());
    flags.owner =
        Some(wbuild_graph::Account { user: wbuild_graph::AccountId::Number(1), group: None, input: 0 });
    assert_eq!(
        show(&delta_of(&Subtree::empty(), &bytes, flags).unwrap()),
        "out/ 1:1, out/d/ 750 1:1, out/d/f=F#0 604 1:1, out/d/h=F#0 604 1:1, out/d/l->f 1:1, out/top=T 604 1:1",
        "--chown counts, --chmod does not"
    );
    let mut kept = add(&bytes, "/out/");
    if let TransferSource::Files { unpack, .. } = &mut kept.sources[0] {
        *unpack = Unpack::Never;
    }
    assert_eq!(
        show(&delta_of(&Subtree::empty(), &bytes, kept).unwrap()),
        format!("out/, out/t{}=?", bytes.len())
    );
    assert_eq!(
        onto_nothing(&[Put::Fifo("p"), Put::Device("c", 1, 3)], "/"),
        "c CharDevice { major: 1, minor: 3 } 604 11:20, p Fifo 604 10:20"
    );
}

#[test]
fn what_is_no_archive_is_a_file() {
    let text = b"not a tar".repeat(100);
    let delta = delta_of(&Subtree::empty(), &text, add(&text, "/o/x")).unwrap();
    assert_eq!(show(&delta), "o/, o/x=?");
}

#[test]
fn damaged_archives_are_errors() {
    let bytes = archive(&[Put::File("a", &"A".repeat(5000))]);
    let error = delta_of(&Subtree::empty(), &bytes[..2000], add(&bytes[..2000], "/o")).unwrap_err();
    assert_eq!(
        said(&error),
        "cannot unpack the archive `/t2000`: the archive is cut off at byte 2000, in the middle of an entry"
    );
}

#[test]
fn names_stay_inside_of_the_target() {
    let names = [
        Put::File("../../../esc1", "1"),
        Put::File("/abs", "2"),
        Put::File("x/../y", "3"),
        Put::File("./dot", "4"),
        Put::Symlink("out", "/../../.."),
        Put::File("out/etc/x", "5"),
        Put::Symlink("up", "../.."),
        Put::File("up/z", "6"),
    ];
    assert_eq!(
        onto_nothing(&names, "/a/b"),
        "a/, a/b/, a/b/abs=2 604 11:20, a/b/dot=4 604 13:20, a/b/esc1=1 604 10:20, a/b/etc/, a/b/etc/x=5 604 15:20, \
         a/b/out->/../../.. 14:20, a/b/up->../.. 16:20, a/b/y=3 604 12:20, a/b/z=6 604 17:20"
    );
    // What the base has is on the way, too, and a link of the base to its root leads to the target.
    let base = tree(&[
        ("a/b/root", Entry::symlink("/")),
        ("run", Entry::directory(Meta::new(0o711), Subtree::empty())),
        ("var/run", Entry::symlink("/run")),
    ]);
    assert_eq!(onto(&base, &[Put::File("root/x", "1")], "/a/b"), "a/, a/b/, a/b/x=1 604 10:20");
    assert_eq!(
        onto(&base, &[Put::File("var/run/act/x", "1")], "/"),
        "run/ 711, run/act/, run/act/x=1 604 10:20"
    );
}

#[test]
fn what_is_there_is_replaced() {
    let base = tree(&[
        ("dir/old", file("old")),
        ("file", file("file")),
        ("lnk", Entry::symlink("dir")),
        ("own/keep", file("keep")),
    ]);
    assert_eq!(onto(&base, &[Put::File("file", "N")], "/"), "file=N 604 10:20");
    assert_eq!(
        onto(&base, &[Put::Directory("file"), Put::File("file/x", "N")], "/"),
        "file/ 750 10:20, file/x=N 604 11:20"
    );
    assert_eq!(onto(&base, &[Put::Directory("own")], "/"), "own/ 750 10:20");
    assert_eq!(onto(&base, &[Put::File("dir", "N")], "/"), "dir=N 604 10:20");
    assert_eq!(
        onto(&base, &[Put::File("dir", "N"), Put::Directory("dir")], "/"),
        "dir/! 750 11:20",
        "what the file hid stays hidden"
    );
    let merged = |entries: &[Put<'_>]| {
        let bytes = archive(entries);
        let delta = delta_of(&base, &bytes, add(&bytes, "/")).unwrap();
        show(&apply(&MemoryTrees::default(), &base, &delta).unwrap())
    };
    assert_eq!(
        merged(&[
            Put::File("dir", "N"),
            Put::File("x", "1"),
            Put::Directory("dir"),
            Put::File("dir/new", "2")
        ]),
        "dir/ 750 12:20, dir/new=2 604 13:20, file=file, lnk->dir, own/, own/keep=keep, x=1 604 11:20"
    );
    assert_eq!(onto(&base, &[Put::File("lnk", "N")], "/"), "lnk=N 604 10:20", "not what it leads to");
    assert_eq!(onto(&base, &[Put::File("lnk/x", "N")], "/"), "dir/, dir/x=N 604 10:20");
    assert_eq!(onto(&base, &[Put::Directory("./"), Put::File("x", "N")], "/own/"), "own/, own/x=N 604 11:20");
    let cut = |error: String| error.split_once(": ").unwrap().1.to_owned();
    assert_eq!(
        onto(&base, &[Put::File("x", "N")], "/file"),
        "`/file` cannot be a directory: there is a file"
    );
    assert_eq!(
        onto(&base, &[Put::File("file/x", "N")], "/"),
        "`/file` cannot be a directory: there is a file"
    );
    assert!(cut(onto(&base, &[Put::Symlink("..", "x")], "/own")).contains("it would replace the directory"));
}

#[test]
fn hard_links_are_to_files_of_the_archive() {
    let through =
        [Put::Symlink("l", "d"), Put::File("d/f", "F"), Put::HardLink("h", "l/f"), Put::HardLink("i", "h")];
    assert_eq!(
        onto_nothing(&through, "/"),
        "d/, d/f=F#0 604 13:20, h=F#0 604 13:20, i=F#0 604 13:20, l->d 10:20"
    );
    assert_eq!(
        onto_nothing(&[Put::Symlink("s", "x"), Put::HardLink("h", "s")], "/"),
        "h->x 10:20, s->x 10:20",
        "another name of a link is a link"
    );
    for (entries, target) in [
        (vec![Put::HardLink("h", "../../etc/shadow")], "/etc/shadow"),
        (vec![Put::Directory("d"), Put::HardLink("h", "d")], "/d"),
        (vec![Put::File("f", "F"), Put::HardLink("f", "f")], "/f"),
        (vec![Put::File("d/f", "F"), Put::HardLink("d", "d/f")], "/d/f"),
    ] {
        let said = onto_nothing(&entries, "/o");
        assert!(
            said.ends_with(&format!("is a hard link to `{target}`, which is no file of the archive")),
            "{said}"
        );
    }
}

#[test]
fn control_marks_are_refused() {
    for (entry, expected) in [
        (
            Put::File(".wh.x", ""),
            "`/.wh.x` would remove files: names that start with `.wh.` mean removed files in an image",
        ),
        (
            Put::File("d/.wh..wh..opq", ""),
            "`/d/.wh..wh..opq` would remove files: names that start with `.wh.` mean removed files in an image",
        ),
        (
            Put::File(".wh.d/x", ""),
            "`/.wh.d/x` would remove files: names that start with `.wh.` mean removed files in an image",
        ),
        (
            Put::Device("w", 0, 0),
            "`/w` is refused: it is the device 0:0, a control mark of overlay file systems",
        ),
    ] {
        let said = onto_nothing(&[Put::File("a", "A"), entry], "/o");
        assert!(said.ends_with(expected), "{said}");
    }
}

#[test]
fn links_that_lead_in_circles_end() {
    let said = onto_nothing(&[Put::Symlink("a", "b"), Put::Symlink("b", "a"), Put::File("a/x", "1")], "/");
    assert_eq!(said, "`/a` goes through more than 40 symbolic links");
    let said = onto_nothing(&[Put::File("a", "A"), Put::File("a/b/x", "1")], "/");
    assert_eq!(said, "`/a/b` cannot be reached: `/a` is not a directory");
}
