//! Packs of many small exports become few, and what no record needs any more is left behind (`cache/remote.md`, "Packs").
//!
//! What is chosen comes to this machine's store, object by object and checked as everything that comes, and is packed again
//! from there. The old packs stay where they are: whoever has read an older index finds them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use wbuild_oci::Digest;
use wbuild_store::{Ref, Store, StoreError};
use wbuild_tree::{TreeDigest, encode_object};

use crate::backend::Backend;
use crate::directory::{Directory, ObjectKind};
use crate::error::CacheError;
use crate::index::{Entry, Holds, Index, Kind, PackInfo};
use crate::pack::{Pack, PackWriter};
use crate::source::{ObjectName, Source};
use crate::trees::named_in;

/// An index is looked through when it has so many packs more than last time.
const MORE_PACKS: usize = 16;

/// A pack is small when so many of it are less than a full one.
const SMALL: u64 = 8;

/// No more bytes come from the place for it at once, and no more are written.
const AT_MOST: u64 = 32 << 20;

/// Whether it is time to look for packs that are worth rewriting: there are some more than last time, or records that were
/// in packs have been left out.
pub(crate) fn is_due(index: &Index, left_out: usize) -> bool {
    index.packs.len() >= index.looked_through + MORE_PACKS || left_out > 0 && !index.packs.is_empty()
}

/// What becomes of an index.
#[derive(Debug, Default)]
pub(crate) struct Compacted {
    /// Packs that were rewritten.
    old: BTreeSet<Digest>,
    /// What their live objects are in now.
    new: Vec<PackInfo>,
    /// The records that this was found out from.
    entries: BTreeMap<(Kind, Digest), Entry>,
}

impl Compacted {
    /// Lets records point to what was rewritten: those that are as they were when that was done, since another one may need
    /// what was left behind.
    pub(crate) fn apply(&self, index: &mut Index) {
        for (name, entry) in &mut index.entries {
            let is_same = |known: &Entry| {
                known.roots == entry.roots && known.packs == entry.packs && known.holds == entry.holds
            };
            if entry.packs.is_disjoint(&self.old) || !self.entries.get(name).is_some_and(is_same) {
                continue;
            }
            entry.packs.retain(|pack| !self.old.contains(pack));
            entry.packs.extend(self.new.iter().map(|pack| pack.data));
        }
        index.packs.extend(self.new.iter().map(|pack| (pack.data, pack.clone())));
        index.drop_packs();
        index.looked_through = index.packs.len();
    }
}

/// Who does it, and with what.
pub(crate) struct Compaction<'a> {
    pub(crate) backend: &'a Arc<dyn Backend>,
    pub(crate) store: &'a Store,
    /// Bytes after which a pack is closed.
    pub(crate) full: u64,
    /// For what is being packed.
    pub(crate) folder: &'a Path,
    /// Nothing is begun after it.
    pub(crate) deadline: Instant,
    pub(crate) upload: &'a dyn Fn(&Pack) -> Result<PackInfo, CacheError>,
}

impl Compaction<'_> {
    /// Rewrites packs of an index that is about to be written. Nothing changes, but that it was looked through, when nothing
    /// is worth it, or what is worth it cannot be read.
    ///
    /// # Errors
    /// When what is rewritten cannot be packed or uploaded.
    pub(crate) fn run(&self, index: &Index) -> Result<Compacted, CacheError> {
        let source = Source::of_index(Arc::clone(self.backend), index.clone(), AT_MOST);
        let packs = source.all_packs();
        let live = self.live(&source, index);
        let usage = |(info, directory): &(PackInfo, Directory)| self.usage(info, directory, &live.objects);
        let uses: Vec<Use> =
            packs.iter().filter(|(info, _)| !live.unknown.contains(&info.data)).map(usage).collect();
        let mut old = choose(&uses, self.full, source.allowance());
        if !old.is_empty() && Instant::now() < self.deadline {
            source.fetch(self.store, &blobs_of(&packs, &old, &live.objects));
        }
        let is_whole = |directory: &Directory| {
            names_in(directory).filter(|name| live.objects.contains(name)).all(|name| self.has(&name))
        };
        for (info, directory) in &packs {
            if old.contains(&info.data) && !is_whole(directory) {
                old.remove(&info.data);
            }
        }
        if old.is_empty() || Instant::now() >= self.deadline {
            return Ok(Compacted::default());
        }
        let new = self.rewrite(&packs, &old, &live.objects)?;
        Ok(Compacted { old, new, entries: index.entries.clone() })
    }

    fn has(&self, (kind, digest): &ObjectName) -> bool {
        let here = match kind {
            ObjectKind::Blob => self.store.holds_blob(digest),
            ObjectKind::Tree => self.store.holds_tree(TreeDigest(*digest)),
        };
        here.unwrap_or(false)
    }

    /// Everything that records need. Their listings come, as far as they are not here.
    fn live(&self, source: &Source, index: &Index) -> Live {
        let mut live = Live::default();
        let trees = |entry: &Entry| {
            let tree = |root: &Ref| matches!(root, Ref::Tree(_)).then(|| root.clone());
            entry.roots.iter().filter_map(tree).collect::<Vec<_>>()
        };
        // Those with contents first: what was seen with its files need not be seen again without.
        for holds in [Holds::Contents, Holds::Listing] {
            for entry in index.entries.values().filter(|entry| entry.holds == holds) {
                source.fetch(self.store, &trees(entry));
                if live.add(self.store, entry).is_err() {
                    live.unknown.extend(&entry.packs);
                }
            }
        }
        live
    }

    fn usage(&self, info: &PackInfo, directory: &Directory, live: &HashSet<ObjectName>) -> Use {
        let mut found = Use { pack: info.data, size: info.size, live: 0, to_come: 0 };
        for frame in &directory.frames {
            let objects =
                || frame.objects.iter().filter(|object| live.contains(&(object.kind, object.digest)));
            let bytes = objects().fold(0, |sum: u64, object| sum.saturating_add(object.size));
            // In 128 bits: sizes are what a directory says.
            let part = u128::from(frame.stored) * u128::from(bytes) / u128::from(frame.size().max(1));
            found.live = found.live.saturating_add(u64::try_from(part).unwrap_or(u64::MAX));
            if objects().any(|object| !self.has(&(object.kind, object.digest))) {
                found.to_come = found.to_come.saturating_add(frame.stored);
            }
        }
        if found.to_come > 0 && !self.backend.gives_parts() {
            found.to_come = info.size;
        }
        found
    }

    /// Packs what is live in some packs again, and uploads that.
    fn rewrite(
        &self,
        packs: &[(PackInfo, Directory)],
        old: &BTreeSet<Digest>,
        live: &HashSet<ObjectName>,
    ) -> Result<Vec<PackInfo>, CacheError> {
        let mut new = Vec::new();
        let mut done = HashSet::new();
        let mut writer = PackWriter::new(self.folder)?;
        let mut close = |writer: PackWriter| -> Result<(), CacheError> {
            new.extend(writer.finish()?.map(|pack| (self.upload)(&pack)).transpose()?);
            Ok(())
        };
        let chosen = packs.iter().filter(|(info, _)| old.contains(&info.data));
        for name in chosen.flat_map(|(_, directory)| names_in(directory)) {
            if !live.contains(&name) || !done.insert(name) {
                continue;
            }
            self.pack(&mut writer, name)?;
            if writer.size() >= self.full {
                close(std::mem::replace(&mut writer, PackWriter::new(self.folder)?))?;
            }
        }
        close(writer)?;
        Ok(new)
    }

    fn pack(&self, writer: &mut PackWriter, (kind, digest): ObjectName) -> Result<(), CacheError> {
        match kind {
            ObjectKind::Tree => {
                let directory = self.store.directory_here(TreeDigest(digest)).map_err(StoreError::Tree)?;
                writer.add(kind, digest, &encode_object(&directory).bytes)
            }
            ObjectKind::Blob => {
                let blob = self.store.open_blob(&digest)?;
                let size = blob.size();
                writer.add_blob(digest, size, &mut blob.reader(), &self.store.blob_path(&digest))
            }
        }
    }
}

fn names_in(directory: &Directory) -> impl Iterator<Item = ObjectName> {
    let objects = directory.frames.iter().flat_map(|frame| &frame.objects);
    objects.map(|object| (object.kind, object.digest))
}

fn blobs_of(
    packs: &[(PackInfo, Directory)],
    chosen: &BTreeSet<Digest>,
    live: &HashSet<ObjectName>,
) -> Vec<Ref> {
    let chosen = packs.iter().filter(|(info, _)| chosen.contains(&info.data));
    let live = chosen.flat_map(|(_, directory)| names_in(directory)).filter(|name| live.contains(name));
    live.filter(|(kind, _)| *kind == ObjectKind::Blob).map(|(_, digest)| Ref::Blob(digest)).collect()
}

/// What records need.
#[derive(Debug, Default)]
struct Live {
    objects: HashSet<ObjectName>,
    /// Packs of records of which that cannot be found out.
    unknown: BTreeSet<Digest>,
    /// Trees that were looked through, and whether with their files.
    seen: HashSet<(TreeDigest, bool)>,
}

impl Live {
    fn add(&mut self, store: &Store, entry: &Entry) -> Result<(), StoreError> {
        let files = entry.holds == Holds::Contents;
        for root in &entry.roots {
            match root {
                Ref::Blob(blob) => drop(self.objects.insert((ObjectKind::Blob, *blob))),
                Ref::Tree(tree) => self.add_tree(store, *tree, files)?,
                Ref::Delta(_) => {}
            }
        }
        Ok(())
    }

    fn add_tree(&mut self, store: &Store, tree: TreeDigest, files: bool) -> Result<(), StoreError> {
        let mut pending = vec![tree];
        while let Some(tree) = pending.pop() {
            if self.seen.contains(&(tree, true)) || !self.seen.insert((tree, files)) {
                continue;
            }
            self.objects.insert((ObjectKind::Tree, tree.0));
            let named = named_in(&store.directory_here(tree).map_err(StoreError::Tree)?);
            pending.extend(named.trees);
            if files {
                self.objects.extend(named.blobs.iter().map(|blob| (ObjectKind::Blob, *blob)));
            }
        }
        Ok(())
    }
}

/// How a pack is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    pack: Digest,
    size: u64,
    /// Bytes of it that records need, more or less.
    live: u64,
    /// Bytes that have to come before they can be packed again.
    to_come: u64,
}

/// Packs that are worth rewriting: small ones, if there is more than one, and those that are mostly of no use any more. What
/// costs least comes first; there is an end to what comes and to what is written.
fn choose(uses: &[Use], full: u64, allowance: u64) -> BTreeSet<Digest> {
    let is_dead = |used: &Use| used.live < used.size / 2;
    let mut worth: Vec<&Use> =
        uses.iter().filter(|used| used.size <= full / SMALL || is_dead(used)).collect();
    worth.sort_by_key(|used| (used.to_come.saturating_add(used.live), used.pack));
    let (mut to_come, mut live) = (0_u64, 0_u64);
    worth.retain(|used| {
        let sums = (to_come.saturating_add(used.to_come), live.saturating_add(used.live));
        let fits = sums.0 <= allowance && sums.1 <= AT_MOST;
        if fits {
            (to_come, live) = sums;
        }
        fits
    });
    match worth.as_slice() {
        [only] if !is_dead(only) => BTreeSet::new(),
        _ => worth.iter().map(|used| used.pack).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FULL: u64 = 64 << 20;

    fn used(name: &str, size: u64, live: u64, to_come: u64) -> Use {
        Use { pack: Digest::of(name.as_bytes()), size, live, to_come }
    }

    fn chosen(uses: &[Use]) -> Vec<usize> {
        let chosen = choose(uses, FULL, AT_MOST);
        (0..uses.len()).filter(|at| chosen.contains(&uses[*at].pack)).collect()
    }

    #[test]
    fn small_packs_go_together_and_dead_ones_go() {
        let (small, large) = (used("s", 5 << 10, 5 << 10, 5 << 10), used("l", 60 << 20, 50 << 20, 0));
        assert_eq!(chosen(&[small, large]), Vec::<usize>::new());
        assert_eq!(chosen(&[small, large, used("t", 8 << 20, 7 << 20, 0)]), [0, 2]);
        assert_eq!(chosen(&[used("d", 60 << 20, 10 << 20, 20 << 20)]), [0]);
        assert_eq!(chosen(&[used("d", 60 << 20, 10 << 20, 33 << 20)]), Vec::<usize>::new());
        assert_eq!(chosen(&[used("e", 60 << 20, 0, 0)]), [0]);
    }

    proptest! {
        #[test]
        fn there_is_an_end_to_what_comes(
            given in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..40),
            allowance in 0..AT_MOST,
        ) {
            let uses: Vec<Use> = given
                .iter()
                .enumerate()
                .map(|(at, (size, live, to_come))| used(&at.to_string(), size % FULL, live % FULL, to_come % FULL))
                .collect();
            let chosen = choose(&uses, FULL, allowance);
            let sum = |of: fn(&Use) -> u64| uses.iter().filter(|used| chosen.contains(&used.pack)).map(of).sum::<u64>();
            prop_assert!(sum(|used| used.to_come) <= allowance && sum(|used| used.live) <= AT_MOST);
        }
    }

    #[test]
    fn a_record_that_changed_meanwhile_keeps_its_packs() {
        let pack = |name: &str| PackInfo {
            data: Digest::of(name.as_bytes()),
            size: 5,
            directory: Digest::of(b"d"),
            directory_size: 7,
        };
        let entry = |root: &str, packs: &[&str]| Entry {
            body: String::new(),
            roots: vec![Ref::Blob(Digest::of(root.as_bytes()))],
            holds: Holds::Contents,
            packs: packs.iter().map(|name| pack(name).data).collect(),
            used: 3,
            signature: None,
        };
        let name = |key: &str| (Kind::Step, Digest::of(key.as_bytes()));
        let mut index = Index {
            packs: ["a", "b", "c"].map(|name| (pack(name).data, pack(name))).into(),
            entries: [(name("1"), entry("x", &["a", "c"])), (name("2"), entry("y", &["b"]))].into(),
            looked_through: 0,
        };
        let old = [pack("a").data, pack("b").data].into();
        let compacted = Compacted { old, new: vec![pack("n")], entries: index.entries.clone() };
        index.entries.insert(name("2"), entry("z", &["b"]));
        compacted.apply(&mut index);
        assert_eq!(index.entries[&name("1")].packs, [pack("c").data, pack("n").data].into());
        assert_eq!(index.entries[&name("2")].packs, [pack("b").data].into());
        assert_eq!(index.packs.len(), 3);
        assert_eq!(index.looked_through, 3);
        assert!(!is_due(&index, 0) && is_due(&index, 1));
    }
}
