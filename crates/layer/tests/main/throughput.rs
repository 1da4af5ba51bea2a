//! Not a test: how fast layers are written. Run by hand, in one process with what it is compared with:
//!
//!     WBUILD_BENCH_TREE=/some/folder cargo test --release -p wbuild-layer -- --ignored --nocapture throughput

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use wbuild_layer::{Compression, Contents, Expected, Recipe, UnpackOptions, unpack, write_layer};
use wbuild_oci::{Digest, HashingReader};
use wbuild_tree::{Entry, EntryPath, MemoryTrees, Meta, Subtree};

use crate::trees::tree;

struct Files(BTreeMap<Digest, PathBuf>);

impl Contents for Files {
    fn open(&self, digest: &Digest, _size: u64) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(std::fs::File::open(&self.0[digest])?))
    }
}

fn collect(root: &Path, below: &Path, files: &mut Files, entries: &mut Vec<(EntryPath, Entry)>) {
    for entry in std::fs::read_dir(below).unwrap() {
        let file = entry.unwrap().path();
        let kind = file.symlink_metadata().unwrap();
        let at = EntryPath::parse(file.strip_prefix(root).unwrap().as_os_str().as_encoded_bytes()).unwrap();
        if kind.is_dir() {
            entries.push((at, Entry::directory(Meta::new(0o755), Subtree::empty())));
            collect(root, &file, files, entries);
        } else if kind.is_file() {
            let mut hash = HashingReader::new(std::fs::File::open(&file).unwrap());
            io::copy(&mut hash, &mut io::sink()).unwrap();
            let (digest, size) = hash.finish();
            files.0.insert(digest, file);
            entries.push((at, Entry::file(Meta::new(0o644), digest, size)));
        }
    }
}

/// Seconds of processor time of this process and its finished children: what counts on a machine that is shared.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<i64> =
        stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|f| f.parse().ok()).collect();
    // Behind the state, which is no number: user, system, and the children's.
    fields[10..14].iter().sum::<i64>() as f64 / 100.0
}

#[test]
#[ignore = "a measurement, for a quiet machine"]
fn throughput() {
    let root = PathBuf::from(std::env::var("WBUILD_BENCH_TREE").expect("WBUILD_BENCH_TREE names a folder"));
    let mut files = Files(BTreeMap::new());
    let mut entries = Vec::new();
    collect(&root, &root, &mut files, &mut entries);
    let delta = tree(entries);
    let megabytes = delta.bytes() as f64 / 1e6;
    println!("{megabytes:.0} MB in {} entries", delta.entries());
    let best = |what: &str, run: &mut dyn FnMut() -> u64| {
        let mut runs: Vec<(Duration, f64, u64)> = (0..3)
            .map(|_| {
                let (start, before) = (Instant::now(), processor_time());
                let size = run();
                (start.elapsed(), processor_time() - before, size)
            })
            .collect();
        runs.sort_by_key(|run| run.0);
        let (time, processor, size) = runs[1];
        let (speed, size) = (megabytes / time.as_secs_f64(), size as f64 / 1e6);
        println!(
            "{what:32} {:6.2} s {processor:6.2} s cpu {speed:7.1} MB/s {size:7.1} MB",
            time.as_secs_f64()
        );
    };
    best("tar | gzip -6", &mut || {
        let command = format!("tar -c -C '{}' . | gzip -6 | wc -c", root.display());
        let run = Command::new("sh").args(["-c", &command]).output().unwrap();
        String::from_utf8_lossy(&run.stdout).trim().parse().unwrap()
    });
    for (name, compression) in [
        ("gzip 6", Compression::Gzip { level: 6 }),
        ("zstd 3", Compression::Zstd { level: 3 }),
        ("none", Compression::None),
    ] {
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            best(&format!("write_layer {name}, {threads} threads"), &mut || {
                let recipe = Recipe { compression, ..Recipe::default() };
                pool.install(|| {
                    write_layer(&MemoryTrees::default(), &files, &delta, &recipe, io::sink()).unwrap().size
                })
            });
        }
    }
    let mut blob = Vec::new();
    write_layer(&MemoryTrees::default(), &files, &delta, &Recipe::default(), &mut blob).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let archive = scratch.path().join("layer.tar.gz");
    std::fs::write(&archive, &blob).unwrap();
    best("tar -xz", &mut || {
        let target = tempfile::tempdir().unwrap();
        let run =
            Command::new("tar").args(["-xzf"]).arg(&archive).arg("-C").arg(target.path()).status().unwrap();
        assert!(run.success());
        blob.len() as u64
    });
    best("unpack", &mut || {
        let target = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(target.path()).unwrap();
        unpack(&blob[..], &Expected::default(), fd.as_fd(), &UnpackOptions::default()).unwrap();
        blob.len() as u64
    });
}
