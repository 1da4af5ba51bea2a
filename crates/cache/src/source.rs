//! One scope of one place, as it is read: its index, fetched while the build begins, and the packs that it names.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tempfile::TempPath;
use wbuild_oci::Digest;
use wbuild_store::{Ref, Store};
use wbuild_tree::{
    Directory as TreeDirectory, Subtree, TreeDigest, TreeLoadError, TreeSource, decode_object,
};

use crate::backend::Backend;
use crate::directory::{Directory, Frame, MAX_DIRECTORY, ObjectKind};
use crate::error::{CacheError, damaged, in_one_line};
use crate::frames::{LargeFrame, TreeObjects, is_large, unpack};
use crate::index::{Holds, Index, PackInfo};
use crate::problems::Problems;
use crate::trees::named_in;

/// Frames that lie beside each other come with one request, up to so many bytes.
const AT_ONCE: u64 = 8 << 20;

/// So many requests run at once.
const PARALLEL: usize = 6;

/// No tree is deeper than a path can be long.
const MAX_DEPTH: usize = 4096;

pub(crate) type ObjectName = (ObjectKind, Digest);

/// A scope of a place.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) scope: String,
    problems: Arc<Problems>,
    opened: Mutex<Option<Option<Arc<Loaded>>>>,
    arrived: Condvar,
    deadline: Instant,
    patience: Duration,
    /// The place cannot be used any more.
    broken: AtomicBool,
    /// The place has no such scope.
    absent: AtomicBool,
    /// One at a time: whoever waits finds what the other brought.
    fetching: Mutex<()>,
    /// Bytes that may still come.
    allowance: AtomicU64,
}

/// What the index says, and what is known of its packs.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) index: Index,
    /// Where what records refer to is.
    roots: HashMap<ObjectName, BTreeSet<Digest>>,
    packs: BTreeMap<Digest, Pack>,
    /// Objects of the packs whose directories were read.
    objects: RwLock<HashMap<ObjectName, (Digest, u32)>>,
    /// What should be there and is not.
    missing: Mutex<HashSet<ObjectName>>,
}

#[derive(Debug)]
struct Pack {
    info: PackInfo,
    directory: OnceLock<Option<Directory>>,
    damaged: AtomicBool,
    /// All of it, from a place that gives no ranges.
    whole: OnceLock<Option<(TempPath, File)>>,
}

fn object_name(what: &Ref) -> Option<ObjectName> {
    match what {
        Ref::Blob(digest) => Some((ObjectKind::Blob, *digest)),
        Ref::Tree(tree) => Some((ObjectKind::Tree, tree.0)),
        Ref::Delta(_) => None,
    }
}

impl Loaded {
    fn new(index: Index) -> Self {
        let mut roots: HashMap<ObjectName, BTreeSet<Digest>> = HashMap::new();
        for entry in index.entries.values().filter(|entry| entry.holds != Holds::Nothing) {
            for name in entry.roots.iter().filter_map(object_name) {
                roots.entry(name).or_default().extend(&entry.packs);
            }
        }
        let pack = |info: &PackInfo| Pack {
            info: info.clone(),
            directory: OnceLock::new(),
            damaged: AtomicBool::new(false),
            whole: OnceLock::new(),
        };
        let packs = index.packs.iter().map(|(digest, info)| (*digest, pack(info))).collect();
        Self { index, roots, packs, objects: RwLock::default(), missing: Mutex::default() }
    }

    fn known(&self, name: &ObjectName) -> Option<(Digest, u32)> {
        let found = self.objects.read().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        found.filter(|(pack, _)| self.is_good(pack))
    }

    fn is_good(&self, pack: &Digest) -> bool {
        self.packs.get(pack).is_some_and(|pack| !pack.damaged.load(Ordering::Relaxed))
    }

    fn missing(&self) -> MutexGuard<'_, HashSet<ObjectName>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    fn new(backend: Arc<dyn Backend>, scope: String, patience: Duration, problems: Arc<Problems>) -> Self {
        Self {
            backend,
            scope,
            problems,
            opened: Mutex::new(None),
            arrived: Condvar::new(),
            deadline: Instant::now() + patience,
            patience,
            broken: AtomicBool::new(false),
            absent: AtomicBool::new(false),
            fetching: Mutex::new(()),
            allowance: AtomicU64::new(u64::MAX),
        }
    }

    /// With an index that is known. No more than `allowance` bytes come; what is beyond counts as missing.
    pub(crate) fn of_index(backend: Arc<dyn Backend>, index: Index, allowance: u64) -> Self {
        let source = Self::new(backend, String::new(), Duration::ZERO, Arc::default());
        let loaded = Some(Some(Arc::new(Loaded::new(index))));
        Self { opened: Mutex::new(loaded), allowance: AtomicU64::new(allowance), ..source }
    }

    /// Bytes that may still come.
    pub(crate) fn allowance(&self) -> u64 {
        self.allowance.load(Ordering::Relaxed)
    }

    /// Counts bytes that are about to come.
    fn take(&self, bytes: u64) -> Result<(), CacheError> {
        let left = |left: u64| left.checked_sub(bytes);
        let taken = self.allowance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        let what = "what should come".to_owned();
        taken.map(|_| ()).map_err(|limit| CacheError::TooLarge { what, limit })
    }

    /// Begins to fetch the index.
    pub(crate) fn open(
        backend: Arc<dyn Backend>,
        scope: String,
        patience: Duration,
        problems: Arc<Problems>,
    ) -> Arc<Self> {
        let source = Arc::new(Self::new(backend, scope, patience, problems));
        let worker = Arc::clone(&source);
        std::thread::spawn(move || {
            let loaded = worker.load();
            *worker.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
            worker.arrived.notify_all();
        });
        source
    }

    fn load(&self) -> Option<Arc<Loaded>> {
        let index = self.backend.index(&self.scope).and_then(|bytes| match bytes {
            Some(bytes) => Index::decode(&bytes),
            None => {
                self.absent.store(true, Ordering::Relaxed);
                Ok(Index::default())
            }
        });
        match index {
            Ok(index) => Some(Arc::new(Loaded::new(index))),
            Err(error) => {
                self.give_up(&error);
                None
            }
        }
    }

    /// Whether the place has answered that it has no such scope.
    pub(crate) fn is_absent(&self) -> bool {
        self.absent.load(Ordering::Relaxed)
    }

    /// The index, as soon as it is there; `None` when it is not in time, or cannot be had.
    pub(crate) fn loaded(&self) -> Option<Arc<Loaded>> {
        if self.broken.load(Ordering::Relaxed) {
            return None;
        }
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(loaded) = &*opened {
                return loaded.clone();
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(opened);
                let (place, seconds) = (self.backend.place(), self.patience.as_secs());
                self.give_up(&CacheError::Late { place, seconds });
                return None;
            }
            let waited = self.arrived.wait_timeout(opened, left);
            opened = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Packs that have turned out to be gone or damaged. Waits for nothing.
    pub(crate) fn lost(&self) -> Vec<Digest> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Some(loaded)) = opened else { return Vec::new() };
        let packs = loaded.packs.values().filter(|pack| pack.damaged.load(Ordering::Relaxed));
        packs.map(|pack| pack.info.data).collect()
    }

    /// The place is not used any more; said once.
    fn give_up(&self, error: &CacheError) {
        if self.broken.swap(true, Ordering::Relaxed) {
            return;
        }
        let place = self.backend.place();
        let message = format!("the cache `{place}` is not used: {}", in_one_line(error));
        self.problems.say(&format!("read {place}"), message, Vec::new());
    }

    /// Something of it is not right: it counts as missing; said once.
    fn mind(&self, error: &CacheError) {
        if !error.is_about_contents() {
            return self.give_up(error);
        }
        let place = self.backend.place();
        let message = format!("part of the cache `{place}` is not used: {}", in_one_line(error));
        self.problems.say(&format!("contents of {place}"), message, Vec::new());
    }

    pub(crate) fn has(&self, what: &Ref) -> bool {
        let (Some(name), Some(loaded)) = (object_name(what), self.loaded()) else { return false };
        if loaded.missing().contains(&name) {
            return false;
        }
        let root = loaded.roots.get(&name).is_some_and(|packs| packs.iter().any(|pack| loaded.is_good(pack)));
        root || self.locate(&loaded, &name).is_some()
    }

    /// Where an object is; reads directories until it is found.
    fn locate(&self, loaded: &Loaded, name: &ObjectName) -> Option<(Digest, u32)> {
        if let Some(place) = loaded.known(name) {
            return Some(place);
        }
        for pack in loaded.roots.get(name).into_iter().flatten() {
            if let Some(pack) = loaded.packs.get(pack) {
                self.read_directory(loaded, pack);
            }
            if let Some(place) = loaded.known(name) {
                return Some(place);
            }
        }
        self.read_directories(loaded);
        loaded.known(name)
    }

    fn read_directory(&self, loaded: &Loaded, pack: &Pack) {
        pack.directory.get_or_init(|| {
            let read = || {
                let PackInfo { directory, directory_size, size, .. } = pack.info;
                self.take(directory_size)?;
                let bytes = self.backend.small(&directory, directory_size.min(MAX_DIRECTORY))?;
                if Digest::of(&bytes) != directory {
                    let what = "the directory of a pack".to_owned();
                    return Err(damaged(what, "its bytes have another digest"));
                }
                Directory::decode(&bytes, size)
            };
            match read() {
                Ok(directory) => {
                    let mut objects = loaded.objects.write().unwrap_or_else(PoisonError::into_inner);
                    for (number, frame) in directory.frames.iter().enumerate() {
                        for object in &frame.objects {
                            let name = (object.kind, object.digest);
                            objects.entry(name).or_insert((pack.info.data, number as u32));
                        }
                    }
                    Some(directory)
                }
                Err(error) => {
                    pack.damaged.store(true, Ordering::Relaxed);
                    self.mind(&error);
                    None
                }
            }
        });
    }

    /// Reads the directories of all packs, many at once.
    fn read_directories(&self, loaded: &Loaded) {
        let packs: Vec<&Pack> = loaded.packs.values().filter(|pack| pack.directory.get().is_none()).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.broken.load(Ordering::Relaxed) {
                    return;
                }
                self.read_directory(loaded, pack);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..packs.len().min(PARALLEL) {
                scope.spawn(work);
            }
            work();
        });
    }

    /// Every object of its packs, for who is about to add some.
    pub(crate) fn all_objects(&self) -> Vec<(ObjectName, Digest)> {
        let Some(loaded) = self.loaded() else { return Vec::new() };
        self.read_directories(&loaded);
        let objects = loaded.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects
            .iter()
            .filter(|(_, (pack, _))| loaded.is_good(pack))
            .map(|(name, (pack, _))| (*name, *pack))
            .collect()
    }

    /// All packs of which the directory can be read.
    pub(crate) fn all_packs(&self) -> Vec<(PackInfo, Directory)> {
        let Some(loaded) = self.loaded() else { return Vec::new() };
        self.read_directories(&loaded);
        let read = |pack: &Pack| Some((pack.info.clone(), pack.directory.get()?.clone()?));
        loaded.packs.values().filter_map(read).collect()
    }

    /// Brings what it has of `wanted`.
    pub(crate) fn fetch(&self, store: &Store, wanted: &[Ref]) {
        let Some(loaded) = self.loaded() else { return };
        let _one_at_a_time = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        let mut blobs = Vec::new();
        for one in wanted {
            match one {
                Ref::Blob(digest) if !store.holds_blob(digest).unwrap_or(true) => blobs.push(*digest),
                Ref::Tree(tree) if !store.holds_tree(*tree).unwrap_or(true) => {
                    self.fetch_tree(store, &loaded, *tree);
                }
                _ => {}
            }
        }
        if blobs.is_empty() {
            return;
        }
        let names = blobs.iter().map(|digest| (ObjectKind::Blob, *digest));
        self.fetch_objects(store, &loaded, names, &mut TreeObjects::new());
        for digest in blobs {
            if !store.holds_blob(&digest).unwrap_or(true) {
                loaded.missing().insert((ObjectKind::Blob, digest));
            }
        }
    }

    /// Brings a tree with all trees below it, or nothing of it: whatever is in the store is there as a whole.
    fn fetch_tree(&self, store: &Store, loaded: &Loaded, tree: TreeDigest) {
        let mut objects = TreeObjects::new();
        let mut level = vec![tree];
        let mut seen = HashSet::new();
        for _ in 0..MAX_DEPTH {
            level.retain(|tree| seen.insert(*tree) && !store.holds_tree(*tree).unwrap_or(false));
            if level.is_empty() {
                break;
            }
            // Others of the same frames came with those above; what is below them may not have come.
            let absent: Vec<TreeDigest> =
                level.iter().filter(|tree| !objects.contains_key(tree)).copied().collect();
            let names = absent.iter().map(|tree| (ObjectKind::Tree, tree.0));
            self.fetch_objects(store, loaded, names, &mut objects);
            let mut below = Vec::new();
            for tree in level {
                let came = objects.get(&tree).and_then(|bytes| decode_object(tree, bytes).ok());
                let Some(directory) = came else {
                    loaded.missing().insert((ObjectKind::Tree, tree.0));
                    continue;
                };
                below.extend(named_in(&directory).trees);
            }
            level = below;
        }
        let source = Fetched { store, objects: &objects };
        let stored = whole(&source, tree).and_then(|tree| match store.put_tree(&tree) {
            Ok(_) => Ok(()),
            Err(error) => Err(CacheError::Store(error)),
        });
        if let Err(error) = stored {
            loaded.missing().insert((ObjectKind::Tree, tree.0));
            if !self.broken.load(Ordering::Relaxed) {
                self.mind(&error);
            }
        }
    }

    /// Brings the frames in which objects are: blobs into the store, trees into `trees`.
    fn fetch_objects(
        &self,
        store: &Store,
        loaded: &Loaded,
        names: impl Iterator<Item = ObjectName>,
        trees: &mut TreeObjects,
    ) {
        let mut frames: BTreeMap<Digest, BTreeSet<u32>> = BTreeMap::new();
        for name in names {
            if let Some((pack, frame)) = self.locate(loaded, &name) {
                frames.entry(pack).or_default().insert(frame);
            }
        }
        let mut jobs: Vec<Job<'_>> = Vec::new();
        for (pack, numbers) in &frames {
            let Some(pack) = loaded.packs.get(pack) else { continue };
            let Some(Some(directory)) = pack.directory.get() else { continue };
            let frames = numbers.iter().filter_map(|number| directory.frames.get(*number as usize));
            jobs.extend(jobs_of(pack, frames));
        }
        let next = AtomicUsize::new(0);
        let came = Mutex::new(std::mem::take(trees));
        let work = || {
            loop {
                let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                if self.broken.load(Ordering::Relaxed) {
                    return;
                }
                let mut found = TreeObjects::new();
                let done = self.bring(store, job, &mut found);
                came.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                if let Err(error) = done {
                    if error.is_about_contents() {
                        job.pack.damaged.store(true, Ordering::Relaxed);
                    }
                    self.mind(&error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..jobs.len().min(PARALLEL) {
                scope.spawn(work);
            }
            work();
        });
        *trees = came.into_inner().unwrap_or_else(PoisonError::into_inner);
    }

    fn bring(&self, store: &Store, job: &Job<'_>, trees: &mut TreeObjects) -> Result<(), CacheError> {
        let [first, ..] = job.frames.as_slice() else { return Ok(()) };
        let range = job.range();
        if let Some(mut large) = LargeFrame::begin(store, first)? {
            let mut from = range.start;
            while from < range.end {
                let to = range.end.min(from + AT_ONCE);
                let bytes = self.read(store, job.pack, from..to)?;
                large
                    .write_all(&bytes)
                    .map_err(|_| damaged("a frame of a pack".to_owned(), "it cannot be unpacked"))?;
                from = to;
            }
            return large.finish();
        }
        let bytes = self.read(store, job.pack, range.clone())?;
        for frame in &job.frames {
            let start = (frame.offset - range.start) as usize;
            let stored = bytes.get(start..start + frame.stored as usize);
            let short = || damaged("a pack".to_owned(), "it is truncated");
            unpack(store, frame, stored.ok_or_else(short)?, trees)?;
        }
        Ok(())
    }

    /// A range of a pack; where the place gives none, out of the whole pack, which is then fetched once.
    fn read(&self, store: &Store, pack: &Pack, range: Range<u64>) -> Result<Vec<u8>, CacheError> {
        if pack.whole.get().is_none() && self.backend.gives_parts() {
            self.take(range.end.saturating_sub(range.start))?;
            if let Some(bytes) = self.backend.part(&pack.info.data, range.clone())? {
                return Ok(bytes);
            }
        }
        let fetched = pack.whole.get_or_init(|| match self.fetch_whole(store, pack) {
            Ok(whole) => Some(whole),
            Err(error) => {
                if error.is_about_contents() {
                    pack.damaged.store(true, Ordering::Relaxed);
                }
                self.mind(&error);
                None
            }
        });
        let Some((path, file)) = fetched else { return Err(CacheError::Gone(pack.info.data)) };
        let mut bytes = vec![0; (range.end - range.start) as usize];
        match file.read_exact_at(&mut bytes, range.start) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(damaged("a pack".to_owned(), "it is truncated"))
            }
            Err(source) => Err(CacheError::Io { action: "read", path: path.to_path_buf(), source }),
        }
    }

    fn fetch_whole(&self, store: &Store, pack: &Pack) -> Result<(TempPath, File), CacheError> {
        self.take(pack.info.size)?;
        let folder = store.workspace()?.path();
        let failed = |source| CacheError::Io { action: "create", path: folder.to_owned(), source };
        let file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        self.backend.whole(&pack.info.data, pack.info.size, file.as_file())?;
        let (file, path) = file.into_parts();
        Ok((path, file))
    }
}

/// One request.
struct Job<'a> {
    pack: &'a Pack,
    frames: Vec<&'a Frame>,
}

impl Job<'_> {
    fn range(&self) -> Range<u64> {
        let start = self.frames.first().map_or(0, |frame| frame.offset);
        start..self.frames.last().map_or(start, |frame| frame.offset + frame.stored)
    }
}

/// Puts frames that lie beside each other together. Large ones stay alone.
fn jobs_of<'a>(pack: &'a Pack, frames: impl Iterator<Item = &'a Frame>) -> Vec<Job<'a>> {
    let mut jobs: Vec<Job<'a>> = Vec::new();
    for frame in frames {
        if let Some(job) = jobs.last_mut().filter(|_| !is_large(frame)) {
            let Range { start, end } = job.range();
            let alone = job.frames.first().is_some_and(|first| is_large(first));
            if !alone && frame.offset == end && frame.offset + frame.stored - start <= AT_ONCE {
                job.frames.push(frame);
                continue;
            }
        }
        jobs.push(Job { pack, frames: vec![frame] });
    }
    jobs
}

/// A tree of which everything is loaded that is not in the store; what a parent says of its children is checked.
fn whole(source: &Fetched<'_>, tree: TreeDigest) -> Result<Subtree, CacheError> {
    let wrong = |_| damaged("a tree".to_owned(), "it is incomplete, or says wrong things of its parts");
    let top = Subtree::load(source, tree).map_err(wrong)?;
    let mut pending = vec![top.clone()];
    while let Some(subtree) = pending.pop() {
        let inline = subtree.loaded().is_some();
        let opened = subtree.open(source).map_err(wrong)?;
        // Below one that the store has, the store has everything.
        if inline || source.objects.contains_key(&subtree.digest()) {
            let below = opened.entries.values().filter_map(|entry| entry.contents().cloned());
            pending.extend(below);
        }
    }
    Ok(top)
}

/// Trees that came, and those that were here before.
struct Fetched<'a> {
    store: &'a Store,
    objects: &'a TreeObjects,
}

impl TreeSource for Fetched<'_> {
    fn directory(&self, tree: TreeDigest) -> Result<TreeDirectory, TreeLoadError> {
        match self.objects.get(&tree) {
            Some(bytes) => decode_object(tree, bytes),
            None => self.store.directory_here(tree),
        }
    }
}
