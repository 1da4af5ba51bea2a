use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use wbuild_layer::{
    Compression, Expected, Layer, ReadOptions, Recipe, Times, WriteError, read_tree, write_layer,
};
use wbuild_oci::{DiffId, Digest, media};
use wbuild_tree::{Entry, LinkId, MemoryTrees, Meta, Node, Subtree, Time, Xattrs};

use crate::trees::{MemoryContents, any_delta, build, list_disk, list_tree, path, tree};

const COMPRESSIONS: [Compression; 3] =
    [Compression::None, Compression::Gzip { level: 6 }, Compression::Zstd { level: 3 }];

fn write(delta: &Subtree, contents: &MemoryContents, recipe: Recipe) -> (Layer, Vec<u8>) {
    let mut blob = Vec::new();
    let layer = write_layer(&MemoryTrees::default(), contents, delta, &recipe, &mut blob).unwrap();
    (layer, blob)
}

fn expect(layer: &Layer) -> Expected {
    Expected::both(layer.digest, layer.diff_id)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_delta_comes_back_from_its_layer(drawn in any_delta(), which in 0_usize..3) {
        let contents = MemoryContents::default();
        let delta = build(&drawn, &contents);
        let recipe = Recipe { compression: COMPRESSIONS[which], times: Times::Keep };
        let (layer, blob) = write(&delta, &contents, recipe);
        prop_assert_eq!((layer.size, layer.digest), (blob.len() as u64, Digest::of(&blob)));
        let sink = MemoryContents::default();
        let read = read_tree(&blob[..], &expect(&layer), &ReadOptions::default(), &sink).unwrap();
        prop_assert_eq!(read.blob.uncompressed_size, layer.uncompressed_size);
        prop_assert_eq!(list_tree(&read.tree), list_tree(&delta));
        prop_assert_eq!(read.tree, delta);
        prop_assert!(read.implied.is_empty() && read.root.is_none());
        let kept = contents.0.lock().unwrap();
        for (digest, bytes) in sink.0.lock().unwrap().iter() {
            prop_assert_eq!(kept.get(digest), Some(bytes));
        }
    }

    #[test]
    fn the_tar_crate_reads_what_is_written(drawn in any_delta()) {
        let contents = MemoryContents::default();
        let delta = build(&drawn, &contents);
        let recipe = Recipe { compression: Compression::None, times: Times::Keep };
        let (_, blob) = write(&delta, &contents, recipe);
        let mut archive = tar::Archive::new(&blob[..]);
        let mut count = 0;
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            count += 1;
            prop_assert!(entry.header().username_bytes().unwrap_or_default().is_empty());
        }
        let opaque = crate::trees::entries(&delta).iter()
            .filter(|(_, entry)| matches!(entry.node, Node::Directory { opaque: true, .. })).count();
        prop_assert_eq!(count, delta.entries() as usize + opaque);
    }
}

/// One of everything that GNU tar can extract.
fn sample(contents: &MemoryContents) -> Subtree {
    let file = |text: &str, meta: Meta| {
        let (digest, size) = contents.add(text);
        Entry::file(meta, digest, size)
    };
    let linked = |number: u32| {
        let (content, size) = contents.add("linked");
        Entry { meta: Meta::new(0o640), node: Node::File { content, size, link: Some(LinkId(number)) } }
    };
    let long = format!("long/{}/{}", "d".repeat(120), "f".repeat(140));
    let mut xattrs = Xattrs::none();
    xattrs.insert(b"user.note", b"with = and \n");
    let old = Meta { mtime: Time { seconds: -100, nanos: 0 }, ..Meta::new(0o600) };
    let fine =
        Meta { mtime: Time { seconds: 1_700_000_000, nanos: 123_456_789 }, xattrs, ..Meta::new(0o600) };
    tree([
        (path("bin/tool"), file("#!/bin/sh\n", Meta::new(0o4755))),
        (path("etc/one"), linked(7)),
        (path("etc/two"), linked(7)),
        (path("data/zwei"), linked(7)),
        (path("etc/link"), Entry::symlink("../bin/tool")),
        (path("etc/grün"), file("utf-8", Meta::new(0o644))),
        (path("etc/fifo"), Entry { meta: Meta::new(0o600), node: Node::Fifo }),
        (path("empty"), Entry::directory(Meta::new(0o1777).owned_by(1000, 3_000_000), Subtree::empty())),
        (path("closed/in"), file("in", Meta::new(0o000))),
        (path(&long), file("long", Meta::new(0o644))),
        (path("old"), file("old", old)),
        (path("fine"), file("fine", fine)),
        (path("large"), file(&"0123456789".repeat(300_000), Meta::new(0o644))),
    ])
}

#[test]
fn gnu_tar_extracts_what_is_written() {
    if Command::new("tar").arg("--version").output().is_err() || !rustix::process::geteuid().is_root() {
        println!("skipped: needs GNU tar and root");
        return;
    }
    let contents = MemoryContents::default();
    let delta = sample(&contents);
    for compression in COMPRESSIONS {
        let (_, blob) = write(&delta, &contents, Recipe { compression, times: Times::Keep });
        let folder = tempfile::tempdir().unwrap();
        let unpack = match compression {
            Compression::None => "tar -x",
            Compression::Gzip { .. } | Compression::Estargz { .. } => "gzip -t < ../blob && tar -xz",
            Compression::Zstd { .. } => "zstd -qt < ../blob && tar -x --zstd",
        };
        let target = folder.path().join("root");
        std::fs::create_dir(&target).unwrap();
        std::fs::write(folder.path().join("blob"), &blob).unwrap();
        let command = format!("{unpack} --xattrs --xattrs-include='*' -p --numeric-owner -f ../blob");
        let run = Command::new("sh").args(["-c", &command]).current_dir(&target).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(said.lines().all(|line| line.contains("implausibly old time stamp")), "{said}");
        assert_eq!(list_disk(&target), list_tree(&delta));
        let mut value = [0; 64];
        let size = rustix::fs::getxattr(target.join("fine"), "user.note", &mut value).unwrap();
        assert_eq!(&value[..size], b"with = and \n");
    }
}

#[test]
fn members_are_one_gzip_file_to_everybody() {
    let contents = MemoryContents::default();
    let delta = sample(&contents);
    let (plain, tar) =
        write(&delta, &contents, Recipe { compression: Compression::None, ..Recipe::default() });
    let (layer, blob) = write(&delta, &contents, Recipe::default());
    assert_eq!(layer.diff_id, plain.diff_id);
    assert_eq!(layer.diff_id, DiffId(Digest::of(&tar)));
    assert_eq!((plain.media_type, layer.media_type), (media::LAYER, media::LAYER_GZIP));
    // Method, no flags, no time, and an unknown system in every member.
    assert_eq!((&blob[..8], blob[9]), (&b"\x1f\x8b\x08\0\0\0\0\0"[..], 255));
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&blob[..]), &mut read).unwrap();
    assert_eq!(read, tar);
    let gzip = Command::new("gzip").arg("-t").stdin(Stdio::piped()).spawn();
    let Ok(mut gzip) = gzip else {
        println!("skipped: no gzip");
        return;
    };
    gzip.stdin.take().unwrap().write_all(&blob).unwrap();
    assert!(gzip.wait().unwrap().success());
}

#[test]
fn marks_stand_where_they_are_documented() {
    let contents = MemoryContents::default();
    let (digest, size) = contents.add("x");
    let file = || Entry::file(Meta::new(0o644), digest, size);
    let opaque = Entry {
        meta: Meta::new(0o755),
        node: Node::Directory { contents: tree([(path("!new"), file()), (path("z"), file())]), opaque: true },
    };
    let delta = tree([
        (path("a/gone"), Entry::whiteout()),
        (path("a/here"), file()),
        (path("a/b"), file()),
        (path("d"), opaque),
        (path("zz"), Entry::whiteout()),
    ]);
    let (_, blob) = write(&delta, &contents, Recipe { compression: Compression::None, ..Recipe::default() });
    let mut archive = tar::Archive::new(&blob[..]);
    let names: Vec<String> =
        archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
    assert_eq!(
        names,
        ["a/", "a/b", "a/.wh.gone", "a/here", "d/", "d/.wh..wh..opq", "d/!new", "d/z", ".wh.zz"]
    );
}

#[test]
fn the_empty_layer_is_the_one_everybody_knows() {
    let recipe = Recipe { compression: Compression::None, ..Recipe::default() };
    let (layer, _) = write(&Subtree::empty(), &MemoryContents::default(), recipe);
    let known = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    assert_eq!(layer.diff_id.to_string(), known);
}

#[test]
fn fixed_times_are_everywhere() {
    let contents = MemoryContents::default();
    let delta = sample(&contents);
    let (_, blob) = write(&delta, &contents, Recipe { times: Times::Fixed(1_234), ..Recipe::default() });
    let read =
        read_tree(&blob[..], &Expected::default(), &ReadOptions::default(), &MemoryContents::default());
    for (path, entry) in crate::trees::entries(&read.unwrap().tree) {
        assert_eq!(entry.meta.mtime, Time { seconds: 1_234, nanos: 0 }, "{path}");
    }
}

#[test]
fn what_cannot_be_said_in_a_layer_is_an_error_that_names_it() {
    let contents = MemoryContents::default();
    let (digest, size) = contents.add("x");
    let file = |meta| Entry::file(meta, digest, size);
    let with = |name: &[u8]| {
        let mut xattrs = Xattrs::none();
        xattrs.insert(name, b"y");
        Meta { xattrs, ..Meta::new(0o644) }
    };
    let null = Entry { meta: Meta::new(0o600), node: Node::CharDevice { major: 0, minor: 0 } };
    let deep = vec!["d".repeat(200); 21].join("/");
    let table = [
        ("a/.wh.b", file(Meta::new(0o644)), "`/a/.wh.b` cannot be in a layer: names that start with `.wh.`"),
        ("a/x", file(with(b"user.a=b")), "`/a/x` has an extended attribute whose name"),
        ("a/y", file(with(b"trusted.overlay.opaque")), "`/a/y` cannot be in a layer: an `overlay` attribute"),
        ("a/z", null, "`/a/z` cannot be in a layer: the device 0:0"),
        (&deep, file(Meta::new(0o644)), "its path is longer than 4095 bytes"),
        ("a/missing", Entry::file(Meta::new(0o644), Digest::of(b"?"), 1), "cannot read the content"),
        ("a/short", Entry::file(Meta::new(0o644), digest, 2), "the stored content of `/a/short` is damaged"),
        (
            "a/long",
            Entry::file(Meta::new(0o644), contents.add("yy").0, 1),
            "the stored content of `/a/long` is damaged",
        ),
    ];
    for (at, entry, message) in table {
        let delta = tree([(path(at), entry)]);
        let result =
            write_layer(&MemoryTrees::default(), &contents, &delta, &Recipe::default(), std::io::sink());
        let error = result.unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let other = MemoryContents::default();
    other.0.lock().unwrap().insert(digest, b"y".to_vec());
    let delta = tree([(path("rotten"), file(Meta::new(0o644)))]);
    let result = write_layer(&MemoryTrees::default(), &other, &delta, &Recipe::default(), std::io::sink());
    assert!(matches!(result, Err(WriteError::Damaged { .. })));
    let recipe = Recipe { compression: Compression::Gzip { level: 13 }, ..Recipe::default() };
    let result = write_layer(&MemoryTrees::default(), &other, &delta, &recipe, std::io::sink());
    assert!(matches!(result, Err(WriteError::Level { .. })));
}
