//! What the reader takes, and what it refuses: archives as other tools write them, and archives nobody should.

use std::io::Write;

use wbuild_layer::{
    Archive, ArchiveError, DigestOnly, Expected, LayerError, LayerTree, Limits, ReadOptions, Whiteouts,
    read_tree,
};
use wbuild_oci::{DiffId, Digest};
use wbuild_tree::{Node, Time};

use crate::raw_tar::{Block, RawTar, record};
use crate::trees::{entries, list_tree};

fn read(bytes: &[u8]) -> Result<LayerTree, LayerError> {
    read_tree(bytes, &Expected::default(), &ReadOptions::default(), &DigestOnly)
}

fn paths(bytes: &[u8]) -> Vec<String> {
    entries(&read(bytes).unwrap().tree).iter().map(|(path, _)| path.to_string()).collect()
}

/// The whole chain of an error.
pub(crate) fn message(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn gnu_and_v7_archives_are_read() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let target = "t".repeat(150);
    let big_uid = Block::new(b'0', "big").gnu().bytes(108, b"\x80\0\0\0\x01\0\0\0");
    let before = Block::new(b'0', "before").gnu().bytes(136, &[0xff; 12]);
    let tar = RawTar::new()
        .gnu_long(b'L', &long)
        .block(Block::new(b'0', &long[..100]).gnu())
        .gnu_long(b'K', &target)
        .gnu_long(b'L', "link")
        .block(Block::new(b'2', "x").gnu().link("y"))
        .block(big_uid)
        .block(before)
        .block(Block::new(0, "v7dir/").bytes(257, &[0; 8]))
        .block(Block::new(0, "v7file").bytes(257, &[0; 8]).size(2))
        .data(b"ab")
        .end();
    let layer = read(&tar).unwrap();
    let found = entries(&layer.tree);
    let names: Vec<String> = found.iter().map(|(path, _)| path.to_string()).collect();
    let first = format!("/{}", "d".repeat(120));
    assert_eq!(names, ["/before", "/big", &first, &format!("/{long}"), "/link", "/v7dir", "/v7file"]);
    assert_eq!(found[0].1.meta.mtime, Time { seconds: -1, nanos: 0 });
    assert_eq!(found[1].1.meta.uid, 1 << 24);
    assert!(matches!(&found[4].1.node, Node::Symlink { target: found } if **found == *target.as_bytes()));
    assert!(found[5].1.is_directory());
    assert_eq!(layer.implied.len(), 1);
}

#[test]
fn the_system_tar_is_read_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("in").join("d".repeat(130));
    std::fs::create_dir_all(&long).unwrap();
    std::fs::write(long.join("f".repeat(130)), "deep").unwrap();
    std::fs::write(folder.path().join("in/file"), "text").unwrap();
    std::fs::hard_link(folder.path().join("in/file"), folder.path().join("in/hard")).unwrap();
    std::os::unix::fs::symlink("file", folder.path().join("in/soft")).unwrap();
    let mut seen = Vec::new();
    for format in ["gnu", "posix"] {
        let run = std::process::Command::new("tar")
            .args(["-c", "--sort=name", "--numeric-owner", "--mtime=@5", "--format", format, "-C"])
            .arg(folder.path().join("in"))
            .arg(".")
            .output();
        let Ok(run) = run else {
            println!("skipped: no tar");
            return;
        };
        let layer = read(&run.stdout).unwrap();
        assert!(layer.root.is_some() && layer.implied.is_empty());
        assert_eq!(layer.tree.entries(), 5);
        assert!(layer.tree.has_links());
        seen.push(list_tree(&layer.tree));
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn a_pax_size_wins_over_the_headers() {
    // TARmageddon: a reader that believes the header sees the inner archive's entry.
    let inner = RawTar::new().file("smuggled", "evil");
    let outer = RawTar::new()
        .pax(&record("size", &inner.0.len().to_string()))
        .block(Block::new(b'0', "carrier"))
        .data(&inner.0)
        .file("after", "x");
    assert_eq!(paths(&outer.end()), ["/after", "/carrier"]);
    let inverse = RawTar::new()
        .pax(&record("size", "0"))
        .block(Block::new(b'0', "carrier").size(inner.0.len() as u64))
        .data(&inner.0)
        .file("after", "x");
    assert_eq!(paths(&inverse.end()), ["/after", "/carrier", "/smuggled"]);
}

#[test]
fn names_are_normalised() {
    let tar =
        RawTar::new().dir("./").dir("./a/").file("/abs", "x").file("a//b/../c", "x").file("a/.d", "x").end();
    assert_eq!(paths(&tar), ["/a", "/a/.d", "/a/c", "/abs"]);
}

#[test]
fn doubtful_archives_are_refused() {
    let file = |name: &str| Block::new(b'0', name);
    let pax = |records: &[u8]| RawTar::new().pax(records).file("a", "x").end();
    let mut late = RawTar::new().file("a", "x").end();
    late.extend(RawTar::new().file("smuggled", "x").0);
    let mut cut = RawTar::new().file("a", &"x".repeat(2000)).0;
    cut.truncate(1024);
    let mut broken = RawTar::new().file("a", "x").end();
    broken[0] ^= 1;
    let gnu_pax = Block::new(b'x', "PaxHeader").gnu().size(11);
    let huge_pax = RawTar::new().block(Block::new(b'x', "p").size((1 << 20) + 1));
    let sized =
        |kind| RawTar::new().block(Block::new(kind, "a").size(512).link("b")).data(&[b'x'; 512]).end();
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "mixed",
            RawTar::new().pax(&record("path", "b")).gnu_long(b'L', "c").file("a", "x").end(),
            "mixes PAX and GNU",
        ),
        (
            "mixed the other way",
            RawTar::new().gnu_long(b'L', "c").pax(&record("path", "b")).file("a", "x").end(),
            "mixes PAX and GNU",
        ),
        (
            "two pax",
            RawTar::new().pax(&record("path", "b")).pax(&record("path", "c")).file("a", "x").end(),
            "two PAX headers",
        ),
        (
            "two long names",
            RawTar::new().gnu_long(b'L', "b").gnu_long(b'L', "c").file("a", "x").end(),
            "two GNU long names",
        ),
        ("dangling pax", RawTar::new().pax(&record("path", "b")).end(), "belongs to no entry"),
        ("dangling long name", RawTar::new().gnu_long(b'L', "b").end(), "belongs to no entry"),
        (
            "pax on a GNU carrier",
            RawTar::new().block(gnu_pax).data(b"11 path=ab\n").file("a", "x").end(),
            "not in POSIX format",
        ),
        ("huge pax", huge_pax.end(), "larger than 1 MiB"),
        (
            "huge long name",
            RawTar::new().block(Block::new(b'L', "p").gnu().size((1 << 33) - 1)).end(),
            "larger than 1 MiB",
        ),
        (
            "global size",
            RawTar::new().block(Block::new(b'g', "g").size(10)).data(b"10 size=1\n").file("a", "x").end(),
            "global PAX header",
        ),
        ("doubled key", pax(&[record("path", "b"), record("path", "c")].concat()), "occurs twice"),
        ("signed pax", pax(b"11 size=+1\n"), "not a number"),
        ("unterminated record", pax(b"11 path=abc"), "malformed"),
        (
            "unterminated number",
            RawTar::new().block(file("a").bytes(124, b"000000000001")).data(b"x").end(),
            "malformed size",
        ),
        (
            "signed number",
            RawTar::new().block(file("a").bytes(124, b"-0000000001\0")).data(b"x").end(),
            "malformed size",
        ),
        (
            "negative size",
            RawTar::new().block(file("a").gnu().bytes(124, &[0xff; 12])).end(),
            "malformed size",
        ),
        (
            "size beyond u63",
            RawTar::new()
                .block(file("a").gnu().bytes(124, b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"))
                .end(),
            "malformed size",
        ),
        ("sparse", RawTar::new().block(Block::new(b'S', "a").gnu()).end(), "sparse"),
        ("pax sparse", pax(&record("GNU.sparse.major", "1")), "sparse"),
        ("multi-volume", RawTar::new().block(Block::new(b'M', "a").gnu()).end(), "type is unknown"),
        ("hard link with data", sized(b'1'), "type has no data"),
        ("directory with data", sized(b'5'), "type has no data"),
        ("symlink with data", sized(b'2'), "type has no data"),
        ("fifo with data", sized(b'6'), "type has no data"),
        ("file with a slash", RawTar::new().file("a/", "x").end(), "ends with a slash"),
        ("no name", RawTar::new().file("", "x").end(), "no name"),
        ("link without target", RawTar::new().symlink("a", "").end(), "without a target"),
        ("uid -1", pax(&record("uid", "4294967295")), "not a valid id"),
        ("uid beyond u32", pax(&record("uid", "4294967296")), "not an id"),
        ("something behind the end", late, "follows the end"),
        ("cut off", cut, "cut off"),
        ("bad checksum", broken, "no valid tar header"),
        ("not a tar", vec![b'?'; 2048], "no valid tar header"),
        ("unknown magic", RawTar::new().block(file("a").bytes(257, b"ustar\0zz")).end(), "neither POSIX"),
        ("dotdot", RawTar::new().file("../a", "x").end(), "leads outside of its root"),
        ("deep dotdot", RawTar::new().file("a/b/../../../c", "x").end(), "leads outside of its root"),
        ("dotdot in a pax path", pax(&record("path", "../../etc/passwd")), "leads outside of its root"),
        (
            "dotdot in a hard link",
            RawTar::new().hard_link("a", "../../etc/shadow").end(),
            "leads outside of its root",
        ),
    ];
    for (what, tar, expected) in table {
        for blob in [tar.clone(), gzip(&tar)] {
            let error = message(&read(&blob).map(|layer| list_tree(&layer.tree)).expect_err(what));
            assert!(error.contains(expected), "{what}: {error}");
        }
    }
}

#[test]
fn odd_but_fine_archives_are_read() {
    // Targets are stored verbatim, wherever they point: only writing is confined.
    let tar = RawTar::new()
        .symlink("bin/dash", "dash")
        .symlink("etc/cacerts", "../../../../../etc/pki/cacerts")
        .symlink("loop-a", "loop-b")
        .symlink("loop-b", "loop-a")
        .pax(&[record("comment", "x"), record("VENDOR.key", "y"), record("atime", "1.5")].concat())
        .file("twice", "first")
        .file("twice", "second");
    let mut tar = tar.block(Block::new(b'g', "g").size(16)).data(b"16 comment=abcd\n").end();
    tar.resize(tar.len() + 20_000, 0);
    let layer = read(&tar).unwrap();
    let names: Vec<String> = entries(&layer.tree).iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!(names, ["/bin", "/bin/dash", "/etc", "/etc/cacerts", "/loop-a", "/loop-b", "/twice"]);
    let [.., (_, twice)] = &entries(&layer.tree)[..] else { panic!("no entries") };
    assert!(matches!(twice.node, Node::File { content, .. } if content == Digest::of(b"second")));
    assert_eq!(paths(b""), Vec::<String>::new());
    assert_eq!(paths(&RawTar::new().file("no-end", "x").0), ["/no-end"]);
}

#[test]
fn limits_have_names() {
    let many = (0..50).fold(RawTar::new(), |tar, number| tar.file(&format!("f{number}"), "x")).end();
    let deep = RawTar::new().file(&vec!["d"; 49].join("/"), "x").file("g", "x").end();
    let big = RawTar::new().file("big", &"x".repeat(100_000)).end();
    let liar = RawTar::new().block(Block::new(b'0', "liar").size(1 << 32)).end();
    let options =
        |bytes, entries| ReadOptions { limits: Limits { bytes, entries }, ..ReadOptions::default() };
    for (tar, options, name) in [
        (&many, options(1 << 20, 40), "max-entries"),
        (&deep, options(1 << 20, 40), "max-entries"),
        (&big, options(50_000, 40), "max-unpacked-bytes"),
        (&liar, options(1 << 20, 40), "max-unpacked-bytes"),
    ] {
        let error = read_tree(&gzip(tar)[..], &Expected::default(), &options, &DigestOnly).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    // A bomb that is all padding: a few kilobytes that become gigabytes of zeros.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        encoder.write_all(&[0; 1 << 20]).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let error = read_tree(&bomb[..], &Expected::default(), &options(1 << 20, 40), &DigestOnly).unwrap_err();
    assert!(matches!(error, LayerError::Archive(ArchiveError::TooManyBytes { limit }) if limit == 1 << 20));
}

#[test]
fn both_digests_are_verified() {
    let tar = RawTar::new().file("a", "x").end();
    let blob = gzip(&tar);
    let (digest, diff_id) = (Digest::of(&blob), DiffId(Digest::of(&tar)));
    let with = |blob: &[u8], expected| read_tree(blob, &expected, &ReadOptions::default(), &DigestOnly);
    let facts = with(&blob, Expected::both(digest, diff_id)).unwrap().blob;
    assert_eq!((facts.digest, facts.size), (digest, blob.len() as u64));
    assert_eq!((facts.diff_id, facts.uncompressed_size), (diff_id, tar.len() as u64));
    let other = Digest::of(b"other");
    let wrong = with(&blob, Expected::both(other, diff_id)).unwrap_err();
    assert!(
        matches!(wrong, LayerError::Digest { expected, actual } if expected == other && actual == digest)
    );
    let wrong = with(&blob, Expected::diff_id(DiffId(other))).unwrap_err();
    assert!(matches!(wrong, LayerError::DiffId { .. }));
    // A flipped bit is reported as what it is, whatever the decoder made of it.
    for at in [0, 12, blob.len() / 2, blob.len() - 5] {
        let mut flipped = blob.clone();
        flipped[at] ^= 4;
        let wrong = with(&flipped, Expected::both(digest, diff_id)).unwrap_err();
        assert!(matches!(wrong, LayerError::Digest { .. }), "{at}: {wrong}");
    }
    for trailing in [&b"garbage"[..], &gzip(b"more")] {
        let longer = [&blob[..], trailing].concat();
        assert!(with(&longer, Expected::default()).is_err());
    }
}

#[test]
fn every_compression_is_sniffed() {
    let tar = RawTar::new().file("a", "x").end();
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    let skippable = [b"\x50\x2a\x4d\x18\x04\0\0\0abcd".to_vec(), zstd.clone()].concat();
    let many: Vec<u8> = tar.chunks(100).flat_map(gzip).collect();
    let empties: Vec<u8> = gzip(b"").repeat(50_000).into_iter().chain(gzip(&tar)).collect();
    for blob in [tar.clone(), gzip(&tar), zstd.clone(), skippable, many, empties] {
        assert_eq!(read(&blob).unwrap().blob.diff_id, DiffId(Digest::of(&tar)));
    }
    for (magic, name) in [(&b"\xfd7zXZ\0.."[..], "xz"), (b"BZh91AY&SY", "bzip2")] {
        let error = message(&read(magic).unwrap_err());
        assert!(error.contains(name), "{error}");
    }
    for cut in [gzip(&tar).len() - 1, 20] {
        assert!(read(&gzip(&tar)[..cut]).is_err());
    }
    assert!(read(&zstd[..zstd.len() - 1]).is_err());
}

#[test]
fn whiteouts_mean_something_or_are_refused() {
    let layer =
        read(&RawTar::new().file("a/.wh.b", "").file("a/.wh..wh..opq", "").file("a/b", "x").end()).unwrap();
    assert_eq!(layer.implied.len(), 1);
    let found = entries(&layer.tree);
    assert!(matches!(found[0].1.node, Node::Directory { opaque: true, .. }));
    assert!(matches!(found[1].1.node, Node::File { .. }));
    // A directory beside its own whiteout hides what lower layers have, whichever comes first.
    for tar in [
        RawTar::new().file(".wh.d", "").dir("d/").file("d/x", ""),
        RawTar::new().dir("d/").file("d/x", "").file(".wh.d", ""),
        RawTar::new().file("d", "was a file").dir("d/").file("d/x", ""),
    ] {
        let found = entries(&read(&tar.end()).unwrap().tree);
        assert!(matches!(found[0].1.node, Node::Directory { opaque: true, .. }));
        assert_eq!(found.len(), 2);
    }
    let layer = read(&RawTar::new().file(".wh..wh..opq", "").file("x", "").end()).unwrap();
    assert!(layer.opaque_root);
    for name in
        [".wh.", ".wh..", ".wh...", "a/.wh.", ".wh..wh.plnk", ".wh..wh.aufs", ".wh.d/x", ".wh.a/.wh.b"]
    {
        let error = read(&RawTar::new().file(name, "").end()).unwrap_err();
        assert!(matches!(error, LayerError::WhiteoutName { .. }), "{name}: {error}");
    }
    for tar in [RawTar::new().dir(".wh.d"), RawTar::new().symlink(".wh.l", "/etc")] {
        assert!(matches!(read(&tar.end()), Err(LayerError::WhiteoutName { .. })));
    }
    let plain = ReadOptions { whiteouts: Whiteouts::Refuse, ..ReadOptions::default() };
    let tar = RawTar::new().file("a/.wh.b", "").end();
    let error = read_tree(&tar[..], &Expected::default(), &plain, &DigestOnly).unwrap_err();
    assert!(matches!(error, LayerError::Whiteout { .. }));
}

#[test]
fn overlay_marks_never_get_into_a_tree() {
    let null = RawTar::new().block(Block::new(b'3', "a").device(0, 0)).end();
    assert!(matches!(read(&null), Err(LayerError::OverlayMark { .. })));
    let records = [
        record("SCHILY.xattr.trusted.overlay.opaque", "y"),
        record("SCHILY.xattr.user.overlay.redirect", "/etc"),
        record("SCHILY.xattr.user.kept", "k"),
    ];
    let layer = read(&RawTar::new().pax(&records.concat()).dir("a/").end()).unwrap();
    let found = entries(&layer.tree);
    assert_eq!(found[0].1.meta.xattrs.iter().collect::<Vec<_>>(), [(&b"user.kept"[..], &b"k"[..])]);
    assert_eq!(layer.without_marks.len(), 1);
}

proptest::proptest! {
    /// Flipped, cut and repeated bytes end in an error or in a tree, never in a panic or a hang.
    #[test]
    fn damaged_archives_do_no_harm(
        edits in proptest::collection::vec((0_usize..6000, proptest::prelude::any::<u8>()), 0..6),
        cut in 0_usize..6000,
    ) {
        let tar = RawTar::new()
            .pax(&[record("path", "long/name"), record("mtime", "1.5"), record("SCHILY.xattr.user.a", "b")].concat())
            .file("x", "data").dir("d/").gnu_long(b'L', "other").file("y", "").symlink("s", "d").file("s/z", "z")
            .hard_link("h", "d/z").file(".wh.q", "");
        let mut tar = tar.end();
        for (at, byte) in edits {
            let at = at % tar.len();
            tar[at] = byte;
            // Checksums are made right, else little would be tested.
            let start = at / 512 * 512;
            tar[start + 148..start + 156].copy_from_slice(b"        ");
            let sum: u32 = tar[start..start + 512].iter().map(|b| u32::from(*b)).sum();
            tar[start + 148..start + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        tar.truncate(tar.len() - cut % 700);
        let mut archive = Archive::new(&tar[..], Limits { bytes: 1 << 20, entries: 100 });
        while let Ok(Some(_)) = archive.next_entry() {}
        let _ = read(&tar);
    }
}
