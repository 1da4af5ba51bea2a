//! Collection: mark and sweep over files, while others build.
//!
//! 1. Records, cache mounts, and the deltas that no record names are sorted by last use. The newest are kept until the
//!    budget is full; records take with them whatever they refer to. What is young or was used since the oldest live
//!    process began is kept in any case.
//! 2. The other records are taken out, each only if it is still unused ([`crate::trash`]).
//! 3. What is there *now* is marked: a record that was used or made meanwhile counts.
//! 4. What is neither marked nor young is taken out in the same careful way.
//!
//! A build that stores something new has put or touched each part of it since it began, so it needs no list.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Stat, statat};
use rustix::io::Errno;
use serde::Serialize;
use wbuild_oci::Digest;
use wbuild_tree::{Node, Subtree, TreeDigest, TreeLoadError, Visit, walk};

use crate::delta::{DELTAS, DeltaName, FolderName, MARKER, MOUNTS};
use crate::entry::Ref;
use crate::error::{At, StoreError};
use crate::layout::Area;
use crate::removal::remove_tree;
use crate::sealed::Kind;
use crate::store::{LastUse, Store};
use crate::usage::{children, disk_bytes, each_sharded, walk_bytes};
use crate::workspace::{Moment, census};

/// The clock of file times ticks in steps of up to ten milliseconds, behind the clock that we read.
const CLOCK_STEP: Duration = Duration::from_millis(50);

/// Logs are small; people look for the last builds' only.
const LOGS_FOR: Duration = Duration::from_secs(14 * 24 * 3600);

/// What to collect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collection {
    /// Bytes that may stay. A cap: what is over it goes, least recently used first, as far as nobody is using it.
    pub budget: u64,
    /// What was used in this time stays, whatever the budget.
    pub younger_than: Duration,
}

/// What was collected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// `false` when another process was at it, and nothing was done.
    pub ran: bool,
    /// Bytes that were freed.
    pub freed: u64,
    /// Bytes that are left, as far as they are counted (not running builds' work, logs, indexes).
    pub kept: u64,
    /// Records, deltas and cache mounts that were removed.
    pub removed: u64,
    /// Folders that this process could not delete: see [`Store::sweep`].
    pub left: Vec<PathBuf>,
}

/// What records refer to, directly or through trees.
#[derive(Debug, Default)]
struct Marks {
    blobs: HashSet<Digest>,
    trees: HashSet<TreeDigest>,
    deltas: BTreeSet<DeltaName>,
}

/// Sizes of everything, so that marking can add them up.
#[derive(Debug, Default)]
struct Sizes {
    blobs: HashMap<Digest, u64>,
    trees: HashMap<TreeDigest, u64>,
    folders: BTreeMap<FolderName, u64>,
    /// All of it.
    total: u64,
}

impl Sizes {
    fn delta(&self, name: &DeltaName) -> u64 {
        self.folders.get(&FolderName::delta(name)).copied().unwrap_or(0)
    }
}

/// Something that is kept or not as a whole.
#[derive(Debug)]
enum Candidate {
    Record(Digest),
    Folder(FolderName),
}

impl Store {
    /// Brings the store down to its budget. Safe at any time, beside any number of builds.
    ///
    /// Looks at every file, so it is for after builds, now and then, and not for before each.
    ///
    /// # Errors
    /// When the store cannot be read or something in it not be moved.
    pub fn collect(&self, collection: Collection) -> Result<Collected, StoreError> {
        self.writable()?;
        let _only_one = {
            let key = Digest::of(b"collection");
            match self.try_lock(&key)? {
                Some(lock) => lock,
                None => return Ok(Collected::default()),
            }
        };
        // What somebody uses from here on has a later time, so processes that begin after this look are safe too.
        let mut limit = Moment::of(SystemTime::now()).earlier(collection.younger_than);
        if let Some(oldest) = census(&self.layout().folder("work"), None)?.oldest {
            limit = limit.min(oldest);
        }
        limit = limit.earlier(CLOCK_STEP);
        let mut collector = Collector {
            store: self,
            limit,
            sizes: Sizes::default(),
            named: BTreeSet::new(),
            done: Collected { ran: true, ..Collected::default() },
        };
        collector.measure()?;
        let victims = collector.choose(collection.budget)?;
        collector.remove(victims)?;
        let marks = collector.mark_what_is_there()?;
        collector.sweep(&marks)?;
        collector.tidy()?;
        collector.done.kept = collector.sizes.total.saturating_sub(collector.done.freed);
        Ok(collector.done)
    }
}

struct Collector<'a> {
    store: &'a Store,
    /// What was used at or after this stays.
    limit: Moment,
    sizes: Sizes,
    /// Deltas that a record refers to: they go when no record does any more. The others go by their own last use.
    named: BTreeSet<DeltaName>,
    done: Collected,
}

impl Collector<'_> {
    fn folder(&self, name: &str) -> PathBuf {
        self.store.layout().folder(name)
    }

    fn is_old(&self, field: LastUse, stat: &Stat) -> bool {
        field.of(stat) < self.limit
    }

    fn measure(&mut self) -> Result<(), StoreError> {
        let mut sizes = Sizes::default();
        each_sharded(&self.folder("blobs/sha256"), &mut |digest, stat| {
            sizes.blobs.insert(digest, disk_bytes(stat));
            sizes.total += disk_bytes(stat);
            Ok(())
        })?;
        each_sharded(&self.folder("trees"), &mut |digest, stat| {
            sizes.trees.insert(TreeDigest(digest), disk_bytes(stat));
            sizes.total += disk_bytes(stat);
            Ok(())
        })?;
        each_sharded(&self.folder("pool"), &mut |_, stat| {
            // The others are counted with the folders that link them.
            sizes.total += if stat.st_nlink == 1 { disk_bytes(stat) } else { 0 };
            Ok(())
        })?;
        let mut folders = self.folders(DELTAS)?;
        folders.extend(self.folders(MOUNTS)?);
        // Shared inodes are counted with the folder that was used last.
        folders.sort_by_key(|(_, used)| std::cmp::Reverse(*used));
        let mut seen = HashSet::new();
        for (folder, _) in folders {
            let mut first = |stat: &Stat| stat.st_nlink == 1 || seen.insert(stat.st_ino);
            let bytes = walk_bytes(&folder.path(self.store), &mut first)?;
            sizes.folders.insert(folder, bytes);
            sizes.total += bytes;
        }
        self.sizes = sizes;
        Ok(())
    }

    /// The folders of an area with their last use, without those that nothing may be said of.
    fn folders(&self, area: &'static str) -> Result<Vec<(FolderName, Moment)>, StoreError> {
        let mut found = Vec::new();
        for path in children(&self.folder(area))? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let marker = path.join(MARKER);
            let used = match statat(CWD, &marker, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => LastUse::Modification.of(&stat),
                // Incomplete, or just removed by somebody else.
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(error) => return Err(error).at("read", &marker),
            };
            found.push((FolderName { area, name: name.to_owned() }, used));
        }
        Ok(found)
    }

    /// Sorts everything by last use and says what does not fit the budget.
    fn choose(&mut self, budget: u64) -> Result<Vec<Candidate>, StoreError> {
        let mut candidates = Vec::new();
        let mut found = Vec::new();
        each_sharded(&self.folder("records"), &mut |key, stat| {
            found.push((key, LastUse::Modification.of(stat), disk_bytes(stat)));
            Ok(())
        })?;
        let mut refs = HashMap::new();
        for (key, used, bytes) in found {
            self.sizes.total += bytes;
            // A damaged one refers to nothing; it goes when its turn comes, or when somebody asks for it.
            let list = self.store.peek_record(&key)?.map(|record| record.meta.refs).unwrap_or_default();
            self.named.extend(list.iter().filter_map(|one| match one {
                Ref::Delta(name) => Some(name.clone()),
                _ => None,
            }));
            refs.insert(key, (list, bytes));
            candidates.push((used, Candidate::Record(key)));
        }
        for (folder, used) in self.folders(DELTAS)? {
            if DeltaName::new(&folder.name).is_ok_and(|name| !self.named.contains(&name)) {
                candidates.push((used, Candidate::Folder(folder)));
            }
        }
        for (folder, used) in self.folders(MOUNTS)? {
            candidates.push((used, Candidate::Folder(folder)));
        }
        candidates.sort_by_key(|(used, _)| std::cmp::Reverse(*used));

        let mut marks = Marks::default();
        let mut total = 0_u64;
        let mut victims = Vec::new();
        for (used, candidate) in candidates {
            let young = used >= self.limit;
            // Least recently used means that nothing older is kept once the budget is full.
            if !young && !victims.is_empty() {
                victims.push(candidate);
                continue;
            }
            let cost = match &candidate {
                Candidate::Record(key) => {
                    let (list, bytes) = refs.remove(key).unwrap_or_default();
                    bytes + self.mark(&mut marks, &list)?
                }
                Candidate::Folder(folder) => self.sizes.folders.get(folder).copied().unwrap_or(0),
            };
            if young || total.saturating_add(cost) <= budget {
                total = total.saturating_add(cost);
            } else {
                victims.push(candidate);
            }
        }
        Ok(victims)
    }

    /// Marks what `refs` lead to and returns the bytes that this adds. What is not there adds nothing.
    fn mark(&self, marks: &mut Marks, refs: &[Ref]) -> Result<u64, StoreError> {
        let mut added = 0;
        for one in refs {
            match one {
                Ref::Blob(digest) => added += self.mark_blob(marks, digest),
                Ref::Delta(name) => {
                    if marks.deltas.insert(name.clone()) {
                        added += self.sizes.delta(name);
                    }
                }
                Ref::Tree(tree) => added += self.mark_tree(marks, *tree)?,
            }
        }
        Ok(added)
    }

    fn mark_blob(&self, marks: &mut Marks, digest: &Digest) -> u64 {
        if marks.blobs.insert(*digest) { self.sizes.blobs.get(digest).copied().unwrap_or(0) } else { 0 }
    }

    fn mark_tree(&self, marks: &mut Marks, tree: TreeDigest) -> Result<u64, StoreError> {
        if marks.trees.contains(&tree) {
            return Ok(0);
        }
        let mut added = 0;
        let root = match Subtree::load(self.store, tree) {
            Ok(root) => root,
            // Lost: the record will be found wanting by whoever uses it.
            Err(TreeLoadError::Missing { .. } | TreeLoadError::Damaged { .. }) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        marks.trees.insert(tree);
        added += self.sizes.trees.get(&tree).copied().unwrap_or(0);
        let result = walk(self.store, &root, &mut |_, entry| {
            match &entry.node {
                Node::File { content, .. } => added += self.mark_blob(marks, content),
                // Small directories are kept inside of their parents and have no object of their own.
                Node::Directory { contents, .. } if contents.loaded().is_none() => {
                    if !marks.trees.insert(contents.digest()) {
                        return Ok(Visit::Skip);
                    }
                    added += self.sizes.trees.get(&contents.digest()).copied().unwrap_or(0);
                }
                _ => {}
            }
            Ok::<_, TreeLoadError>(Visit::Into)
        });
        match result {
            Ok(()) | Err(TreeLoadError::Missing { .. } | TreeLoadError::Damaged { .. }) => Ok(added),
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&mut self, victims: Vec<Candidate>) -> Result<(), StoreError> {
        for victim in victims {
            match victim {
                Candidate::Record(key) => {
                    let path = self.store.layout().record(&key);
                    let name = format!("record-{}", key.hex());
                    self.remove_file(&path, &name, LastUse::Modification)?;
                }
                Candidate::Folder(folder) => self.remove_folder(&folder)?,
            }
        }
        Ok(())
    }

    fn remove_file(&mut self, path: &Path, name: &str, field: LastUse) -> Result<(), StoreError> {
        let doomed = self.store.layout().take_out(path, name, "", |stat| self.is_old(field, stat))?;
        let Some(doomed) = doomed else { return Ok(()) };
        let bytes = statat(CWD, &doomed, AtFlags::SYMLINK_NOFOLLOW).map_or(0, |stat| disk_bytes(&stat));
        match remove_tree(&doomed) {
            Ok(()) => self.done.freed += bytes,
            Err(_) => self.done.left.push(doomed),
        }
        self.done.removed += u64::from(field == LastUse::Modification);
        Ok(())
    }

    fn remove_folder(&mut self, folder: &FolderName) -> Result<(), StoreError> {
        let unused = |stat: &Stat| self.is_old(LastUse::Modification, stat);
        let path = folder.path(self.store);
        let Some(doomed) = self.store.layout().take_out(&path, &folder.in_trash(), MARKER, unused)? else {
            return Ok(());
        };
        self.done.removed += 1;
        // Inodes that the pool has too are freed with the pool.
        let bytes = walk_bytes(&doomed, &mut |stat| stat.st_nlink == 1)?;
        match remove_tree(&doomed) {
            Ok(()) => self.done.freed += bytes,
            Err(_) => self.done.left.push(doomed),
        }
        Ok(())
    }

    fn mark_what_is_there(&mut self) -> Result<Marks, StoreError> {
        let mut marks = Marks::default();
        for key in self.store.record_keys()? {
            if let Some(record) = self.store.peek_record(&key)? {
                self.mark(&mut marks, &record.meta.refs)?;
            }
        }
        Ok(marks)
    }

    fn sweep(&mut self, marks: &Marks) -> Result<(), StoreError> {
        // Deltas that a removed record named and no other names. The rest were candidates of their own.
        for (folder, used) in self.folders(DELTAS)? {
            let Ok(name) = DeltaName::new(&folder.name) else { continue };
            if used < self.limit && self.named.contains(&name) && !marks.deltas.contains(&name) {
                self.remove_folder(&folder)?;
            }
        }
        for kind in [Kind::Blob, Kind::Tree] {
            let mut old = Vec::new();
            let folder = if kind == Kind::Blob { "blobs/sha256" } else { "trees" };
            each_sharded(&self.folder(folder), &mut |digest, stat| {
                let marked = match kind {
                    Kind::Blob => marks.blobs.contains(&digest),
                    Kind::Tree => marks.trees.contains(&TreeDigest(digest)),
                };
                if !marked && self.is_old(LastUse::Access, stat) {
                    old.push(digest);
                }
                Ok(())
            })?;
            for digest in old {
                let path = kind.path(self.store, &digest);
                self.remove_file(&path, &kind.name_in_trash(&digest), LastUse::Access)?;
            }
        }
        Ok(())
    }

    /// The pool, pointers, locks and logs: things of which a race costs nothing but making them again.
    fn tidy(&mut self) -> Result<(), StoreError> {
        self.tidy_pool()?;
        for path in children(&self.folder("latest"))? {
            let name =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| Digest::from_hex(name).ok());
            let Some(name) = name.filter(|_| self.is_older(&path, Changed::Since(self.limit))) else {
                continue;
            };
            let dangling = match self.store.latest(&name)? {
                Some(key) => !self.store.layout().record(&key).exists(),
                None => true,
            };
            if dangling {
                remove_tree(&path)?;
            }
        }
        // Locks of processes that were killed.
        for path in children(&self.folder("locks"))? {
            let key =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| Digest::from_hex(name).ok());
            if let Some(key) = key.filter(|_| self.is_older(&path, Changed::Since(self.limit))) {
                drop(self.store.try_lock(&key)?);
            }
        }
        for path in children(&self.store.layout().area(Area::Logs))? {
            if self.is_older(&path, Changed::Ago(LOGS_FOR)) {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }

    fn tidy_pool(&mut self) -> Result<(), StoreError> {
        let mut unlinked = Vec::new();
        each_sharded(&self.folder("pool"), &mut |key, stat| {
            // Linking changes the inode's change time, so what was just made for a delta is young.
            let changed = Moment { seconds: stat.st_ctime, nanos: stat.st_ctime_nsec as i64 };
            if stat.st_nlink == 1 && (changed < self.limit || self.done.removed > 0) {
                unlinked.push((key, disk_bytes(stat)));
            }
            Ok(())
        })?;
        for (key, bytes) in unlinked {
            remove_tree(&self.store.pool_path(&key))?;
            self.done.freed += bytes;
        }
        Ok(())
    }

    fn is_older(&self, path: &Path, changed: Changed) -> bool {
        let limit = match changed {
            Changed::Since(limit) => limit,
            Changed::Ago(age) => Moment::of(SystemTime::now()).earlier(age),
        };
        // What is gone is nobody's business any more.
        statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| LastUse::Modification.of(&stat) < limit)
    }
}

/// How long something has to have been as it is.
#[derive(Clone, Copy, Debug)]
enum Changed {
    Since(Moment),
    Ago(Duration),
}
