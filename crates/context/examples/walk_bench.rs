//! How a listing compares with the least that a machine can do: reading all directories and inspecting all entries, in
//! parallel, keeping nothing.
//!
//! `cargo run --release -p wbuild-context --example walk_bench [FOLDER | FILES]`: of a folder, or of a made tree of that many
//! files (100,000 by default). Prints medians of interleaved runs.
#![expect(clippy::print_stdout, reason = "a program that prints")]

use std::error::Error;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::Scope;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use wbuild_context::{ContextRoot, HashOptions, IgnoreRules, ListOptions, Policy};

const RUNS: usize = 15;

/// Names and inodes of everything below, and nothing done with them.
fn bare<'s>(scope: &Scope<'s>, parent: Option<Arc<OwnedFd>>, name: &CStr, count: &'s AtomicUsize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match &parent {
        Some(parent) => rustix::fs::openat(parent, name, flags, Mode::empty()),
        None => rustix::fs::open(name, flags, Mode::empty()),
    };
    drop(parent);
    let Ok(fd) = fd else { return };
    let fd = Arc::new(fd);
    let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
    let mut entries = RawDir::new(&*fd, &mut buffer);
    let mut seen = 0;
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        seen += 1;
        let _ = std::hint::black_box(rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW));
        if entry.file_type() == FileType::Directory {
            let (fd, name) = (Arc::clone(&fd), name.to_owned());
            scope.spawn(move |scope| bare(scope, Some(fd), &name, count));
        }
    }
    count.fetch_add(seen, Ordering::Relaxed);
}

/// A tree like that of a monorepo with its modules: 20 files to a directory, six levels.
fn make(root: &Path, files: usize) -> std::io::Result<()> {
    for number in 0..files {
        let directory = number / 20;
        let path = root.join(format!("p{}/m{}/d{}", directory / 400, directory / 20 % 20, directory % 20));
        if number % 20 == 0 {
            std::fs::create_dir_all(&path)?;
        }
        std::fs::write(path.join(format!("file-{number}.js")), format!("export default {number};\n"))?;
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args().nth(1).unwrap_or_else(|| "100000".to_owned());
    let scratch = tempfile::tempdir()?;
    let root: PathBuf = match argument.parse::<usize>() {
        Ok(files) => {
            let root = scratch.path().join("tree");
            make(&root, files)?;
            root
        }
        Err(_) => argument.into(),
    };
    let state = scratch.path().join("state");
    let rules = || {
        IgnoreRules::parse(
            ".dockerignore",
            b"**/.git\n**/.next\n.env*\n**/*.log\n*.md\n**/coverage\n!**/keep.log\n",
        )
    };
    let list = |rules| ContextRoot::open(&root)?.list(ListOptions::new(Policy::Dockerfile, rules));
    let options = HashOptions { index: Some(&state), blobs: None };
    // Files made a moment ago are racy, and an index of them is of no use.
    std::thread::sleep(Duration::from_millis(2100));
    let first = list(IgnoreRules::none())?;
    let cold = Instant::now();
    let hashed = first.select_all().hash(options)?;
    println!(
        "{} entries; {} files, {} bytes hashed in {:.0} ms",
        first.len(),
        hashed.read,
        hashed.bytes_read,
        cold.elapsed().as_secs_f64() * 1000.0
    );
    // The tree is remembered in a run that found nothing racy.
    let tree = first.select_all().hash(options)?.tree.digest();
    let (mut bares, mut lists, mut ruled, mut hashes, mut knowns) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let name = CString::new(root.as_os_str().as_encoded_bytes())?;
    for _ in 0..RUNS {
        let count = AtomicUsize::new(0);
        let started = Instant::now();
        rayon::scope(|scope| bare(scope, None, &name, &count));
        bares.push(started.elapsed());
        let started = Instant::now();
        let listing = list(IgnoreRules::none())?;
        lists.push(started.elapsed());
        let knowing = Instant::now();
        assert_eq!(listing.select_all().known_tree(&state)?, Some(tree));
        knowns.push(knowing.elapsed());
        let hashing = Instant::now();
        let hashed = listing.select_all().hash(options)?;
        hashes.push(hashing.elapsed());
        assert_eq!(hashed.read, 0, "the index knows everything");
        let rules = rules().map_err(|_| "the patterns are good")?;
        let started = Instant::now();
        list(rules)?;
        ruled.push(started.elapsed());
    }
    let (bare, list, ruled) = (median(bares), median(lists), median(ruled));
    let (hash, known) = (median(hashes), median(knowns));
    println!("bare walk            {bare:8.2} ms");
    println!("listing              {list:8.2} ms  {:.2} x", list / bare);
    println!("listing with rules   {ruled:8.2} ms  {:.2} x", ruled / bare);
    println!("known tree           {known:8.2} ms");
    println!("index and tree       {hash:8.2} ms");
    println!("nothing changed      {:8.2} ms  {:.2} x", list + known, (list + known) / bare);
    println!("something changed    {:8.2} ms  {:.2} x", list + hash, (list + hash) / bare);
    Ok(())
}
