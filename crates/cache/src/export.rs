use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::NamedTempFile;
use wbuild_oci::Digest;
use wbuild_store::{Ref, Store};
use wbuild_tree::{Subtree, TreeDigest, TreeSource, encode_object};

use crate::backend::Backend;
use crate::compact::{Compacted, Compaction, is_due};
use crate::directory::ObjectKind;
use crate::error::{At, CacheError, in_one_line};
use crate::import::Import;
use crate::index::{Entry, Holds, Index, Kind, PackInfo};
use crate::pack::{Pack, PackWriter};
use crate::problems::Problems;
use crate::signature::Signature;
use crate::source::Source;
use crate::trees::named_in;

/// Packs that wait to be uploaded, and threads that do it.
const UPLOADS: usize = 2;

/// How a cache is written.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// Records are signed with it, if it is given.
    pub signature: Option<Signature>,
    /// A pack is closed when it holds so many bytes, or as many as the place wants.
    pub pack: Option<u64>,
    /// Records that were not used for so many days are left out.
    pub keep_days: u32,
    /// After the build it has this long.
    pub patience: Duration,
}

impl Default for ExportOptions {
    /// As the place wants, 30 days, ten minutes.
    fn default() -> Self {
        Self { signature: None, pack: None, keep_days: 30, patience: Duration::from_secs(600) }
    }
}

/// A record to be exported.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// What it is about.
    pub kind: Kind,
    /// Its key.
    pub key: Digest,
    /// What its owner keeps.
    pub body: String,
    /// Blobs and trees that it refers to.
    pub roots: Vec<Ref>,
    /// How much of them is to be there.
    pub wanted: Holds,
}

/// What was exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Records that the scope did not have.
    pub records: usize,
    /// Bytes that were uploaded, without the index.
    pub bytes: u64,
}

/// Fills one scope of a place. What is wrong with the place is said once; from then on it does nothing.
#[derive(Debug)]
pub struct Export {
    target: Arc<Source>,
    /// Scopes of the same place: what they have need not be uploaded.
    others: Vec<Arc<Source>>,
    /// Who reads the same place meanwhile, and finds out what is lost there.
    reader: Option<Arc<Import>>,
    options: ExportOptions,
    problems: Arc<Problems>,
    folder: PathBuf,
    today: u32,
    /// Objects that are there, and in which pack.
    known: Option<HashMap<(ObjectKind, Digest), Place>>,
    /// Trees that were looked through, with the packs in which they are.
    entries: BTreeMap<(Kind, Digest), (Entry, BTreeSet<usize>)>,
    /// Packs that are not full yet, with their numbers.
    writers: BTreeMap<Part, (usize, PackWriter)>,
    /// Packs that were begun.
    packs: usize,
    uploads: Uploads,
    new: usize,
}

/// What is in a pack. An import in which nothing has changed needs layers and nothing else: where packs come whole, those
/// have packs of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Results,
    Layers,
}

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Stored(Digest),
    /// In the pack with this number of this export.
    Own(usize),
}

#[derive(Debug)]
struct Uploads {
    queue: Option<SyncSender<(usize, Pack)>>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    backend: Arc<dyn Backend>,
    problems: Arc<Problems>,
    broken: AtomicBool,
    done: Mutex<BTreeMap<usize, PackInfo>>,
    bytes: AtomicU64,
}

impl Shared {
    fn give_up(&self, error: &CacheError) {
        if self.broken.swap(true, Ordering::Relaxed) {
            return;
        }
        let place = self.backend.place();
        let message = format!("the cache `{place}` is not written: {}", in_one_line(error));
        self.problems.say(&format!("write {place}"), message, Vec::new());
    }

    fn upload(&self, pack: &Pack) -> Result<PackInfo, CacheError> {
        let folder = pack.path.parent().unwrap_or(Path::new("/"));
        let mut file = NamedTempFile::new_in(folder).at("create a file in", folder)?;
        file.write_all(&pack.directory).at("write", file.path())?;
        let directory = Digest::of(&pack.directory);
        let directory_size = pack.directory.len() as u64;
        self.backend.put(&pack.data, pack.size, &pack.path)?;
        self.backend.put(&directory, directory_size, file.path())?;
        self.bytes.fetch_add(pack.size + directory_size, Ordering::Relaxed);
        Ok(PackInfo { data: pack.data, size: pack.size, directory, directory_size })
    }
}

impl Uploads {
    fn start(backend: &Arc<dyn Backend>, problems: &Arc<Problems>) -> Self {
        let (queue, packs) = sync_channel::<(usize, Pack)>(UPLOADS);
        let shared = Arc::new(Shared {
            backend: Arc::clone(backend),
            problems: Arc::clone(problems),
            broken: AtomicBool::new(false),
            done: Mutex::default(),
            bytes: AtomicU64::new(0),
        });
        let packs: Arc<Mutex<Receiver<(usize, Pack)>>> = Arc::new(Mutex::new(packs));
        let worker = || {
            let (shared, packs) = (Arc::clone(&shared), Arc::clone(&packs));
            std::thread::spawn(move || {
                loop {
                    let next = packs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((number, pack)) = next else { return };
                    if shared.broken.load(Ordering::Relaxed) {
                        continue;
                    }
                    match shared.upload(&pack) {
                        Ok(info) => {
                            shared.done.lock().unwrap_or_else(PoisonError::into_inner).insert(number, info);
                        }
                        Err(error) => shared.give_up(&error),
                    }
                }
            })
        };
        let threads = (0..UPLOADS).map(|_| worker()).collect();
        Self { queue: Some(queue), threads, shared }
    }

    /// Waits for all of them; `false` when that takes too long.
    fn finish(&mut self, deadline: Instant) -> bool {
        self.queue = None;
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        true
    }
}

impl Export {
    /// Begins. `others` are scopes of the same place that the build reads from; `folder` is for what is being packed.
    pub fn open(
        backend: &Arc<dyn Backend>,
        scope: String,
        others: Vec<String>,
        options: ExportOptions,
        problems: Arc<Problems>,
        folder: &Path,
    ) -> Self {
        // The index may come late without harm: it is needed when something is to be uploaded.
        let patience = Duration::from_secs(30);
        let open =
            |scope: String| Source::open(Arc::clone(backend), scope, patience, Arc::new(Problems::default()));
        let target = open(scope);
        let others = others.into_iter().filter(|other| *other != target.scope).map(&open).collect();
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            target,
            others,
            reader: None,
            options,
            folder: folder.to_owned(),
            today: u32::try_from(age.as_secs() / 86_400).unwrap_or(u32::MAX),
            known: None,
            entries: BTreeMap::new(),
            writers: BTreeMap::new(),
            packs: 0,
            uploads: Uploads::start(backend, &problems),
            problems,
            new: 0,
        }
    }

    /// What the same build's import finds gone or damaged is uploaded again.
    #[must_use]
    pub fn beside(self, reader: Option<Arc<Import>>) -> Self {
        Self { reader, ..self }
    }

    /// Packs that have turned out to be gone or damaged.
    fn lost(&self) -> BTreeSet<Digest> {
        let own = std::iter::once(&self.target).chain(&self.others).flat_map(|source| source.lost());
        let read = self.reader.as_ref().map(|reader| reader.lost(&self.target.backend.place()));
        own.chain(read.into_iter().flatten()).collect()
    }

    /// Whether the place takes anything.
    pub fn is_broken(&self) -> bool {
        self.uploads.shared.broken.load(Ordering::Relaxed)
    }

    /// Whether the scope has a record already, with as much of what it refers to as is wanted: then its owner need not find
    /// out what that is.
    pub fn has(&mut self, kind: Kind, key: &Digest, wanted: Holds) -> bool {
        self.has_one(kind, key, wanted, &|_| true)
    }

    fn has_one(
        &mut self,
        kind: Kind,
        key: &Digest,
        wanted: Holds,
        is_right: &dyn Fn(&Entry) -> bool,
    ) -> bool {
        let lost = self.lost();
        let serves =
            |entry: &Entry| entry.holds >= wanted && is_right(entry) && entry.packs.is_disjoint(&lost);
        if let Some((entry, _)) = self.entries.get(&(kind, *key)) {
            return serves(entry);
        }
        let Some(entry) = self.stored(kind, key).filter(serves) else { return false };
        let entry = Entry { used: self.today, ..entry };
        self.entries.insert((kind, *key), (entry, BTreeSet::new()));
        true
    }

    fn stored(&self, kind: Kind, key: &Digest) -> Option<Entry> {
        std::iter::once(&self.target).chain(&self.others).find_map(|source| {
            let entry = source.loaded()?.index.entries.get(&(kind, *key))?.clone();
            let signed = |signature: &Signature| {
                entry.signature.is_some_and(|found| signature.fits(kind, key, &entry.body, &found))
            };
            self.options.signature.as_ref().is_none_or(signed).then_some(entry)
        })
    }

    /// Adds a record. What it refers to is read from `store` as far as the place does not have it, and uploaded as packs
    /// fill. Contents that cannot be read are left out: the record then says so.
    pub fn add(&mut self, store: &Store, record: NewRecord) {
        let NewRecord { kind, key, body, roots, wanted } = record;
        // One key has one result; what is in a cache mount changes, and the newest is the best.
        let is_right = |known: &Entry| kind != Kind::Mount || known.body == body;
        if self.is_broken() || self.has_one(kind, &key, wanted, &is_right) {
            return;
        }
        let lost = self.lost();
        if !lost.is_empty()
            && let Some(known) = &mut self.known
        {
            known.retain(|_, place| !matches!(place, Place::Stored(pack) if lost.contains(pack)));
        }
        let mut places = BTreeSet::new();
        let mut holds = wanted;
        if wanted != Holds::Nothing
            && let Err(error) = self.add_roots(store, self.part_of(kind), &roots, wanted, &mut places)
        {
            if !matches!(error, CacheError::Store(_)) {
                self.uploads.shared.give_up(&error);
                return;
            }
            holds = Holds::Nothing;
            places.clear();
        }
        let mut entry = Entry {
            signature: self.options.signature.as_ref().map(|signature| signature.sign(kind, &key, &body)),
            body,
            roots,
            holds,
            packs: BTreeSet::new(),
            used: self.today,
        };
        let mut own = BTreeSet::new();
        for place in places {
            match place {
                Place::Stored(pack) => drop(entry.packs.insert(pack)),
                Place::Own(number) => drop(own.insert(number)),
            }
        }
        self.new += 1;
        self.entries.insert((kind, key), (entry, own));
    }

    fn part_of(&self, kind: Kind) -> Part {
        match kind {
            Kind::Layer if !self.target.backend.gives_parts() => Part::Layers,
            _ => Part::Results,
        }
    }

    fn add_roots(
        &mut self,
        store: &Store,
        part: Part,
        roots: &[Ref],
        wanted: Holds,
        places: &mut BTreeSet<Place>,
    ) -> Result<(), CacheError> {
        for root in roots {
            match root {
                Ref::Blob(digest) => {
                    places.insert(self.add_blob(store, part, digest)?);
                }
                Ref::Tree(tree) => self.add_tree(store, *tree, wanted, places)?,
                Ref::Delta(_) => {}
            }
        }
        Ok(())
    }

    fn known(&mut self) -> &mut HashMap<(ObjectKind, Digest), Place> {
        if self.known.is_none() {
            let sources = std::iter::once(&self.target).chain(&self.others);
            let objects: Vec<_> = sources.flat_map(|source| source.all_objects()).collect();
            let lost = self.lost();
            let there = objects.into_iter().filter(|(_, pack)| !lost.contains(pack));
            self.known = Some(there.map(|(name, pack)| (name, Place::Stored(pack))).collect());
        }
        self.known.get_or_insert_default()
    }

    fn add_tree(
        &mut self,
        store: &Store,
        tree: TreeDigest,
        wanted: Holds,
        places: &mut BTreeSet<Place>,
    ) -> Result<(), CacheError> {
        let lost = |error| CacheError::Store(wbuild_store::StoreError::Tree(error));
        let mut pending = vec![tree];
        let mut seen = HashSet::new();
        let mut blobs = Vec::new();
        while let Some(tree) = pending.pop() {
            if !seen.insert(tree) {
                continue;
            }
            let directory = store.directory(tree).map_err(lost)?;
            let object = encode_object(&directory);
            places.insert(self.add_bytes(ObjectKind::Tree, tree.0, &object.bytes)?);
            pending.extend(object.children.iter().map(Subtree::digest));
            if wanted == Holds::Contents {
                blobs.extend(named_in(&directory).blobs);
            }
        }
        let known = self.known();
        let unknown: Vec<Ref> = blobs
            .iter()
            .filter(|blob| !known.contains_key(&(ObjectKind::Blob, **blob)))
            .map(|blob| Ref::Blob(*blob))
            .collect();
        store.bring(unknown)?;
        for blob in blobs {
            places.insert(self.add_blob(store, Part::Results, &blob)?);
        }
        Ok(())
    }

    fn add_blob(&mut self, store: &Store, part: Part, digest: &Digest) -> Result<Place, CacheError> {
        let name = (ObjectKind::Blob, *digest);
        if let Some(place) = self.known().get(&name) {
            return Ok(*place);
        }
        let blob = store.open_blob(digest)?;
        let size = blob.size();
        let (mut reader, path) = (blob.reader(), store.blob_path(digest));
        let (number, open) = self.writer(part)?;
        open.add_blob(*digest, size, &mut reader, &path)?;
        let (number, size) = (*number, open.size());
        self.added(part, name, number, size)
    }

    fn add_bytes(&mut self, kind: ObjectKind, digest: Digest, bytes: &[u8]) -> Result<Place, CacheError> {
        let name = (kind, digest);
        if let Some(place) = self.known().get(&name) {
            return Ok(*place);
        }
        let (number, open) = self.writer(Part::Results)?;
        open.add(kind, digest, bytes)?;
        let (number, size) = (*number, open.size());
        self.added(Part::Results, name, number, size)
    }

    fn writer(&mut self, part: Part) -> Result<&mut (usize, PackWriter), CacheError> {
        match self.writers.entry(part) {
            Slot::Occupied(open) => Ok(open.into_mut()),
            Slot::Vacant(none) => {
                let number = self.packs;
                self.packs += 1;
                Ok(none.insert((number, PackWriter::new(&self.folder)?)))
            }
        }
    }

    /// Something was added to the pack with this number, which has `size` bytes now.
    fn added(
        &mut self,
        part: Part,
        name: (ObjectKind, Digest),
        number: usize,
        size: u64,
    ) -> Result<Place, CacheError> {
        let place = Place::Own(number);
        self.known().insert(name, place);
        if size >= self.full() {
            self.close_pack(part)?;
        }
        Ok(place)
    }

    /// Hands a pack over to be uploaded; waits while too many are.
    fn close_pack(&mut self, part: Part) -> Result<(), CacheError> {
        let Some((number, writer)) = self.writers.remove(&part) else { return Ok(()) };
        let Some(pack) = writer.finish()? else { return Ok(()) };
        if let Some(queue) = &self.uploads.queue {
            // The threads end only after the queue does.
            let _ = queue.send((number, pack));
        }
        Ok(())
    }

    /// Uploads the rest and merges the records into the scope's index; packs that are worth it are rewritten by way of
    /// `store`. Says itself what goes wrong.
    pub fn finish(mut self, store: &Store) -> Exported {
        let deadline = Instant::now() + self.options.patience;
        for part in [Part::Results, Part::Layers] {
            if let Err(error) = self.close_pack(part) {
                self.uploads.shared.give_up(&error);
            }
        }
        if !self.uploads.finish(deadline) {
            let place = self.target.backend.place();
            let seconds = self.options.patience.as_secs();
            self.uploads.shared.give_up(&CacheError::Late { place, seconds });
        }
        if self.is_broken() {
            return Exported::default();
        }
        if let Err(error) = self.write_index(store, deadline) {
            self.uploads.shared.give_up(&error);
            return Exported::default();
        }
        Exported { records: self.new, bytes: self.uploads.shared.bytes.load(Ordering::Relaxed) }
    }

    fn write_index(&mut self, store: &Store, deadline: Instant) -> Result<(), CacheError> {
        let done =
            std::mem::take(&mut *self.uploads.shared.done.lock().unwrap_or_else(PoisonError::into_inner));
        let mut new = Index::default();
        for ((kind, key), (mut entry, own)) in std::mem::take(&mut self.entries) {
            entry.packs.extend(own.iter().filter_map(|number| Some(done.get(number)?.data)));
            new.entries.insert((kind, key), entry);
        }
        new.packs = done.into_values().map(|info| (info.data, info)).collect();
        for source in std::iter::once(&self.target).chain(&self.others) {
            let Some(loaded) = source.loaded() else { continue };
            new.packs.extend(loaded.index.packs.iter().map(|(digest, info)| (*digest, info.clone())));
        }
        let (signature, oldest) =
            (&self.options.signature, self.today.saturating_sub(self.options.keep_days));
        let lost = self.lost();
        let merge = |index: &mut Index| {
            // What was made again takes the place of what is lost.
            index.entries.retain(|name, known| {
                known.packs.is_disjoint(&lost)
                    || new.entries.get(name).is_none_or(|again| !again.packs.is_disjoint(&lost))
            });
            index.merge(new.clone(), signature.as_ref());
            index.prune(oldest)
        };
        let mut expected = self.target.loaded().map(|loaded| loaded.index.clone()).unwrap_or_default();
        let left_out = merge(&mut expected);
        let compacted = is_due(&expected, left_out).then(|| self.compact(store, &expected, deadline));
        let backend = Arc::clone(&self.target.backend);
        backend.update(&self.target.scope, &mut |stored| {
            // A damaged one is of no use to anybody.
            let before =
                stored.map_or_else(Index::default, |bytes| Index::decode(&bytes).unwrap_or_default());
            let mut merged = before.clone();
            merge(&mut merged);
            if let Some(compacted) = &compacted {
                compacted.apply(&mut merged);
            }
            (merged != before).then_some(merged)
        })
    }

    /// That nothing could be rewritten costs nobody anything: the packs stay as they are, and a place that cannot be used is
    /// about to say so when the index is written.
    fn compact(&self, store: &Store, index: &Index, deadline: Instant) -> Compacted {
        let shared = &self.uploads.shared;
        let compaction = Compaction {
            backend: &self.target.backend,
            store,
            full: self.full(),
            folder: &self.folder,
            deadline,
            upload: &|pack| shared.upload(pack),
        };
        compaction.run(index).unwrap_or_default()
    }

    /// Bytes after which a pack is closed.
    fn full(&self) -> u64 {
        self.options.pack.unwrap_or_else(|| self.target.backend.pack())
    }

    /// The problems that this says.
    pub fn problems(&self) -> &Arc<Problems> {
        &self.problems
    }
}
