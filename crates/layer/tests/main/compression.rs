use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use wbuild_layer::{
    Compression, Contents, Expected, Layer, LayerWriter, MemberCache, MemberKey, Recipe, Times, WriteError,
    recode, write_layer,
};
use wbuild_oci::Digest;
use wbuild_tree::{Entry, MemoryTrees, Meta, Subtree};

use crate::trees::{MemoryContents, path, tree};

/// Bytes that compress like text, the same on every machine.
fn text(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = ["const ", "return ", "import ", "{\n", "}\n", "module.exports", " = ", "(", ")", "await "];
    let mut out = Vec::with_capacity(size + 16);
    while out.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        out.extend_from_slice(words[(state >> 33) as usize % words.len()].as_bytes());
        out.push(b'a' + (state >> 50) as u8 % 26);
    }
    out.truncate(size);
    out
}

fn project(contents: &MemoryContents, changed: Option<u64>) -> Subtree {
    let files = (0..600_u64).map(|number| {
        let seed = if changed == Some(number) { number + 10_000 } else { number };
        let (digest, size) = contents.add(text(seed, 3_000 + (number as usize * 977) % 20_000));
        let at = path(&format!("node_modules/p{}/f{number}.js", number / 10));
        (at, Entry::file(Meta::new(0o644), digest, size))
    });
    let (digest, size) = contents.add(text(9, 3_500_000));
    tree(files.chain([(path("node_modules/q/lib.node"), Entry::file(Meta::new(0o755), digest, size))]))
}

fn write_with(
    threads: usize,
    delta: &Subtree,
    contents: &(dyn Contents + Sync),
    recipe: Recipe,
) -> (Layer, Vec<u8>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut blob = Vec::new();
        let layer = write_layer(&MemoryTrees::default(), contents, delta, &recipe, &mut blob).unwrap();
        (layer, blob)
    })
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let contents = MemoryContents::default();
    let delta = project(&contents, None);
    for compression in [
        Compression::Gzip { level: 6 },
        Compression::Zstd { level: 3 },
        Compression::Estargz { level: 6 },
        Compression::None,
    ] {
        let recipe = Recipe { compression, ..Recipe::default() };
        let one = write_with(1, &delta, &contents, recipe);
        for threads in [2, 8] {
            let other = write_with(threads, &delta, &contents, recipe);
            assert_eq!(other.0, one.0);
            assert!(other.1 == one.1, "{threads} threads");
        }
        let mut blob = Vec::new();
        let outside = write_layer(&MemoryTrees::default(), &contents, &delta, &recipe, &mut blob).unwrap();
        assert_eq!(outside, one.0);
    }
}

/// A new release of an encoder that writes other bytes must get another name in the recipe.
#[test]
fn the_bytes_are_those_that_the_recipe_names() {
    let contents = MemoryContents::default();
    let delta = project(&contents, None);
    let golden = [
        (Compression::None, GOLDEN[0]),
        (Compression::Gzip { level: 6 }, GOLDEN[1]),
        (Compression::Zstd { level: 3 }, GOLDEN[2]),
        (Compression::Estargz { level: 6 }, GOLDEN[3]),
    ];
    for (compression, expected) in golden {
        let recipe = Recipe { compression, times: Times::Fixed(1) };
        let (layer, _) = write_with(2, &delta, &contents, recipe);
        assert_eq!(layer.digest.to_string(), expected, "{compression:?}");
    }
}

const GOLDEN: [&str; 4] = [
    "sha256:a9910ffb063eb7bb0ef14720e461d145cd9a76d271dc756fde63a82a8901da4b",
    "sha256:157ed94bdaaa7244d9fc40091bdd03165ffa690d531ae92121ac9cd748b0de39",
    "sha256:bd829ca2ac1314b602ce4b1263befd77d932355ff8d895a20f112c05a6855f8c",
    "sha256:3abeeb997a62f03032ecd20d89f574bdc7db2679f1756ed62e7a275e506e90a3",
];

#[derive(Default)]
struct Members {
    kept: Mutex<BTreeMap<MemberKey, Vec<u8>>>,
    hits: AtomicUsize,
    misses: AtomicUsize,
}

impl MemberCache for Members {
    fn get(&self, key: &MemberKey) -> Option<Vec<u8>> {
        let found = self.kept.lock().unwrap().get(key).cloned();
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    fn put(&self, key: &MemberKey, compressed: &[u8]) {
        self.kept.lock().unwrap().insert(*key, compressed.to_vec());
    }
}

#[test]
fn one_changed_file_compresses_only_its_own_members_again() {
    let contents = MemoryContents::default();
    let trees = MemoryTrees::default();
    let cache = Members::default();
    for compression in [Compression::Gzip { level: 6 }, Compression::Zstd { level: 3 }] {
        let recipe = Recipe { compression, ..Recipe::default() };
        let writer = LayerWriter::new(&trees, &contents, recipe).with_cache(&cache);
        writer.write(&project(&contents, None), io::sink()).unwrap();
        let count = cache.misses.swap(0, Ordering::Relaxed);
        assert!(count > 12, "{count} members");
        let changed = project(&contents, Some(333));
        let mut blob = Vec::new();
        let layer = writer.write(&changed, &mut blob).unwrap();
        let (hits, misses) = (cache.hits.swap(0, Ordering::Relaxed), cache.misses.swap(0, Ordering::Relaxed));
        assert_eq!((hits, misses), (count - 1, 1));
        let fresh = write_layer(&trees, &contents, &changed, &recipe, io::sink()).unwrap();
        assert_eq!(layer, fresh);
    }
}

#[test]
fn a_rotten_member_cache_changes_nothing() {
    let contents = MemoryContents::default();
    let trees = MemoryTrees::default();
    let cache = Members::default();
    let delta = project(&contents, None);
    let writer = LayerWriter::new(&trees, &contents, Recipe::default()).with_cache(&cache);
    let layer = writer.write(&delta, io::sink()).unwrap();
    for (number, member) in cache.kept.lock().unwrap().values_mut().enumerate() {
        match number % 3 {
            0 => member[20] ^= 1,
            1 => member.truncate(member.len() / 2),
            _ => member.clear(),
        }
    }
    assert_eq!(writer.write(&delta, io::sink()).unwrap(), layer);
}

/// Eight gigabytes that nobody holds.
struct Endless;

impl Contents for Endless {
    fn open(&self, _digest: &Digest, size: u64) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(io::repeat(b'.').take(size)))
    }
}

/// Resident bytes of this process at most so far.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_huge_file_needs_no_memory() {
    let size: u64 = 600 << 20;
    let mut hash = wbuild_oci::HashingWriter::new(io::sink());
    io::copy(&mut io::repeat(b'.').take(size), &mut hash).unwrap();
    let delta = tree([(path("huge"), Entry::file(Meta::new(0o644), hash.finish().0, size))]);
    let before = peak_memory();
    let recipe = Recipe { compression: Compression::Gzip { level: 1 }, ..Recipe::default() };
    let layer = write_layer(&MemoryTrees::default(), &Endless, &delta, &recipe, io::sink()).unwrap();
    assert_eq!(layer.uncompressed_size, size + 512 + 1024);
    // Other tests run beside it; what must not happen is the whole file.
    assert!(peak_memory() - before < 200 << 20, "{} MB", (peak_memory() - before) >> 20);
}

/// A disk that is full after a while.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_and_no_hang() {
    let contents = MemoryContents::default();
    let delta = project(&contents, None);
    for room in [0, 100_000, 1_000_000] {
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let result = pool.install(|| {
                write_layer(&MemoryTrees::default(), &contents, &delta, &Recipe::default(), Full(room))
            });
            assert!(matches!(result, Err(WriteError::Output(_))));
        }
    }
}

/// What a reader of eStargz does: from the footer to the TOC, and from there to the contents of each file.
#[test]
fn estargz_is_read_file_by_file() {
    let contents = MemoryContents::default();
    let large = text(7, 9 << 20);
    let (digest, size) = contents.add(large.clone());
    let (empty, _) = contents.add(Vec::new());
    let delta = tree([
        (path("a/large.js"), Entry::file(Meta::new(0o755), digest, size)),
        (path("a/empty"), Entry::file(Meta::new(0o644), empty, 0)),
        (path("a/link"), Entry::symlink("large.js")),
        (path("gone"), Entry::whiteout()),
        (path("z"), Entry::file(Meta::new(0o644), contents.add("last").0, 4)),
    ]);
    let recipe = Recipe { compression: Compression::Estargz { level: 6 }, ..Recipe::default() };
    let (layer, blob) = write_with(2, &delta, &contents, recipe);
    for threads in [1, 8] {
        assert!(write_with(threads, &delta, &contents, recipe) == (layer.clone(), blob.clone()));
    }
    let gunzip = |bytes: &[u8]| {
        let mut out = Vec::new();
        flate2::bufread::MultiGzDecoder::new(bytes).read_to_end(&mut out).unwrap();
        out
    };
    assert_eq!(Digest::of(&gunzip(&blob)), layer.diff_id.0);

    let footer = &blob[blob.len() - 51..];
    assert_eq!(
        (&footer[..4], &footer[12..14], &footer[32..38]),
        (&[0x1f, 0x8b, 8, 4][..], &b"SG"[..], &b"STARGZ"[..])
    );
    let offset = usize::from_str_radix(std::str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap();
    let mut toc = tar::Archive::new(io::Cursor::new(gunzip(&blob[offset..blob.len() - 51])));
    let mut entry = toc.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.path().unwrap().to_str(), Some("stargz.index.json"));
    let mut json = Vec::new();
    entry.read_to_end(&mut json).unwrap();
    let descriptor = layer.descriptor();
    let note = |key: &str| descriptor.annotations[key].clone();
    assert_eq!(note("containerd.io/snapshot/stargz/toc.digest"), Digest::of(&json).to_string());
    assert_eq!(note("io.containers.estargz.uncompressed-size"), layer.uncompressed_size.to_string());

    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let entries = json["entries"].as_array().unwrap();
    let names: Vec<(&str, &str)> =
        entries.iter().map(|e| (e["name"].as_str().unwrap(), e["type"].as_str().unwrap())).collect();
    assert_eq!(
        names,
        [
            (".no.prefetch.landmark", "reg"),
            ("a/", "dir"),
            ("a/empty", "reg"),
            ("a/large.js", "reg"),
            ("a/large.js", "chunk"),
            ("a/large.js", "chunk"),
            ("a/link", "symlink"),
            (".wh.gone", "reg"),
            ("z", "reg"),
        ]
    );
    let mut found = Vec::new();
    for entry in entries.iter().filter(|entry| entry["name"] == "a/large.js") {
        let start = entry["offset"].as_u64().unwrap() as usize;
        let from = entry["chunkOffset"].as_u64().unwrap_or(0);
        let wanted = entry["chunkSize"].as_u64().unwrap_or(size - from);
        let mut chunk = Vec::new();
        // A member begins there, and nothing before it is needed.
        flate2::bufread::MultiGzDecoder::new(&blob[start..]).take(wanted).read_to_end(&mut chunk).unwrap();
        assert_eq!(entry["chunkDigest"], Digest::of(&chunk).to_string());
        found.extend(chunk);
    }
    assert!(found == large);
    assert_eq!(entries[3]["digest"], digest.to_string());

    // To everybody else it is a layer with two files more.
    let plain = gunzip(&blob);
    let mut archive = tar::Archive::new(&plain[..]);
    let files = archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string());
    assert_eq!(files.last().as_deref(), Some("stargz.index.json"));

    let reserved = tree([(path("stargz.index.json"), Entry::file(Meta::new(0o644), empty, 0))]);
    let error = write_layer(&MemoryTrees::default(), &contents, &reserved, &recipe, io::sink()).unwrap_err();
    assert!(matches!(error, WriteError::Reserved { .. }));
}

#[test]
fn a_layer_compressed_anew_has_the_same_tar() {
    let contents = MemoryContents::default();
    let delta = project(&contents, None);
    let (layer, blob) = write_with(2, &delta, &contents, Recipe::default());
    let expected = Expected::both(layer.digest, layer.diff_id);
    for compression in [Compression::Zstd { level: 3 }, Compression::None, Compression::Gzip { level: 1 }] {
        let recipe = Recipe { compression, ..Recipe::default() };
        let mut other = Vec::new();
        let recoded = recode(&blob[..], &expected, &recipe, &mut other).unwrap();
        assert_eq!((recoded.diff_id, recoded.digest), (layer.diff_id, Digest::of(&other)));
        let mut again = Vec::new();
        let back = Expected::both(recoded.digest, recoded.diff_id);
        rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(|| {
            assert_eq!(recode(&other[..], &back, &recipe, &mut again).unwrap(), recoded);
        });
    }
    let mut damaged = blob.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let recipe = Recipe { compression: Compression::None, ..Recipe::default() };
    assert!(matches!(recode(&damaged[..], &expected, &recipe, io::sink()), Err(WriteError::Blob(_))));
    let other = Expected::diff_id(wbuild_oci::DiffId(Digest::of(b"other")));
    assert!(matches!(recode(&blob[..], &other, &recipe, io::sink()), Err(WriteError::Blob(_))));
}
