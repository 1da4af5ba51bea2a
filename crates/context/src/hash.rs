//! The second stage: reads what was selected, as far as the stat index does not know it, and makes a tree of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rayon::prelude::*;
use wbuild_oci::Digest;
use wbuild_tree::{Directory, Entry, LinkId, Name, Node, Subtree};

use crate::content::{BlobSink, OpenFile};
use crate::error::ContextError;
use crate::listing::Listing;
use crate::policy::{FileKind, Policy};
use crate::selection::Selection;
use crate::stat_index::{Record, StatIndex, now, state_file};

/// Directories that one task encodes, at least: most hold a few entries.
const DIRECTORIES_PER_TASK: usize = 16;

/// How to hash a selection.
#[derive(Clone, Copy, Default)]
pub struct HashOptions<'a> {
    /// The folder for stat indexes; made if need be. Without one, every file is read.
    pub index: Option<&'a Path>,
    /// Where file contents go, if they are wanted now. What it has already is not read again when the index knows it.
    pub blobs: Option<&'a dyn BlobSink>,
}

impl std::fmt::Debug for HashOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HashOptions")
            .field("index", &self.index)
            .field("blobs", &self.blobs.is_some())
            .finish()
    }
}

/// A selection as a tree.
#[derive(Debug)]
pub struct Hashed {
    /// The tree; its root stands for the context's.
    pub tree: Subtree,
    /// Files whose digest came from the index.
    pub reused: usize,
    /// Files that were read.
    pub read: usize,
    /// Bytes of those.
    pub bytes_read: u64,
    /// The index could not be used; the tree is right all the same, only the next build is slower.
    pub index_problem: Option<IndexProblem>,
}

/// Why a stat index was of no use.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the stat index `{}`", path.display())]
pub struct IndexProblem {
    /// The index, or the folder for it.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl wbuild_report::Hint for IndexProblem {}

/// A file that has to be opened.
struct Work {
    index: usize,
    /// What the index says; the file is only opened to be stored.
    known: Option<Digest>,
}

impl Selection<'_> {
    /// Reads what is selected and builds its tree.
    ///
    /// Content comes from one open descriptor per file, which must show the facts of the listing before and after.
    ///
    /// # Errors
    /// When a file cannot be read or stored, or is not what was listed any more. The error names the first such file.
    pub fn hash(&self, options: HashOptions<'_>) -> Result<Hashed, ContextError> {
        // Before the first look at a file: what changes from here on must be racy for the next run.
        let started = now();
        let listing = self.listing;
        let mut index = Index::load(options.index, listing);
        let mut contents: Vec<Option<Digest>> = vec![None; listing.len()];
        let mut reused = 0;
        let mut work = Vec::new();
        // Names of one inode have one content; it is read once.
        let mut inodes: BTreeMap<(u64, u64), usize> = BTreeMap::new();
        let mut same_inode: Vec<(usize, usize)> = Vec::new();
        for (at, slot) in listing.slots.iter().enumerate() {
            match slot.facts.kind {
                _ if !self.chosen[at] => continue,
                FileKind::File => {}
                FileKind::Socket => {
                    contents[at] = Some(Digest::of(b""));
                    continue;
                }
                _ => continue,
            }
            contents[at] = index.known.find(slot.path_key, &slot.facts).map(|record| record.content);
            if contents[at].is_some() {
                reused += 1;
                if options.blobs.is_none() {
                    continue;
                }
            } else if slot.facts.nlink > 1 {
                let first = *inodes.entry((slot.facts.dev, slot.facts.inode)).or_insert(at);
                if first != at {
                    same_inode.push((at, first));
                    continue;
                }
            }
            work.push(Work { index: at, known: contents[at] });
        }
        let read =
            Reading { listing, blobs: options.blobs, files: AtomicUsize::new(0), bytes: AtomicU64::new(0) };
        read.all(&work, &mut contents)?;
        for (at, first) in same_inode {
            if !listing.slots[at].facts.same_content(&listing.slots[first].facts) {
                return Err(ContextError::Changed { path: listing.path(at) });
            }
            contents[at] = contents[first];
        }
        if work.iter().any(|work| work.known.is_none()) {
            index.save(listing, &self.chosen, &contents, started);
        }
        let tree = Trees { selection: self, contents: &contents, links: self.links() }.build();
        if let (Some(folder), None) = (options.index, &index.problem) {
            index.problem = self.remember_tree(folder, started, tree.digest()).err();
        }
        Ok(Hashed {
            tree,
            reused,
            read: read.files.into_inner(),
            bytes_read: read.bytes.into_inner(),
            index_problem: index.problem,
        })
    }

    /// The hard link groups among the selected files, numbered in tree order.
    fn links(&self) -> BTreeMap<usize, LinkId> {
        let mut links = BTreeMap::new();
        if self.listing.policy == Policy::Workspace {
            return links;
        }
        let mut first_of: BTreeMap<(u64, u64), usize> = BTreeMap::new();
        let mut groups: Vec<(usize, usize)> = Vec::new();
        for (at, slot) in self.listing.slots.iter().enumerate() {
            if !self.chosen[at] || slot.facts.kind != FileKind::File || slot.facts.nlink < 2 {
                continue;
            }
            let first = *first_of.entry((slot.facts.dev, slot.facts.inode)).or_insert(at);
            if first != at {
                groups.push((first, at));
            }
        }
        groups.sort_unstable();
        let mut next = 0;
        for (first, at) in groups {
            let id = *links.entry(first).or_insert_with(|| {
                next += 1;
                LinkId(next - 1)
            });
            links.insert(at, id);
        }
        links
    }
}

/// The stat index of this run, or none, and what went wrong with it.
struct Index {
    known: StatIndex,
    path: Option<PathBuf>,
    problem: Option<IndexProblem>,
}

impl Index {
    fn load(state: Option<&Path>, listing: &Listing) -> Self {
        let mut index = Self { known: StatIndex::empty(), path: None, problem: None };
        let Some(state) = state else { return index };
        match state_file(state, listing.root.path(), "stat") {
            Ok(path) => match StatIndex::load(&path) {
                Ok(known) => {
                    index.known = known;
                    index.path = Some(path);
                }
                Err(source) => index.problem = Some(IndexProblem { path, source }),
            },
            Err(source) => index.problem = Some(IndexProblem { path: state.to_owned(), source }),
        }
        index
    }

    fn save(
        &mut self,
        listing: &Listing,
        chosen: &[bool],
        contents: &[Option<Digest>],
        started: wbuild_tree::Time,
    ) {
        let Some(path) = &self.path else { return };
        let mut records = Vec::with_capacity(listing.len());
        for (at, slot) in listing.slots.iter().enumerate() {
            if slot.facts.kind != FileKind::File {
                continue;
            }
            match contents[at] {
                Some(content) if chosen[at] => records.push(Record::new(slot.path_key, &slot.facts, content)),
                // Not looked at in this run; what was true stays true.
                _ => records.extend(self.known.find(slot.path_key, &slot.facts)),
            }
        }
        let listed = listing.slots.iter().map(|slot| slot.path_key);
        if let Err(source) = self.known.replace(path, started, records, listed) {
            self.problem = Some(IndexProblem { path: path.clone(), source });
        }
    }
}

/// Opens files in parallel.
struct Reading<'a> {
    listing: &'a Listing,
    blobs: Option<&'a dyn BlobSink>,
    files: AtomicUsize,
    bytes: AtomicU64,
}

impl Reading<'_> {
    fn all(&self, work: &[Work], contents: &mut [Option<Digest>]) -> Result<(), ContextError> {
        // Of several failures the first in tree order is told; what comes after one need not be read.
        let failed_at = AtomicUsize::new(usize::MAX);
        let results: Vec<Option<Result<Digest, ContextError>>> = work
            .par_iter()
            .map_init(Vec::new, |buffer, item| {
                if item.index > failed_at.load(Ordering::Relaxed) {
                    return None;
                }
                let result = self.one(item, buffer);
                if result.is_err() {
                    failed_at.fetch_min(item.index, Ordering::Relaxed);
                }
                Some(result)
            })
            .collect();
        for (item, result) in work.iter().zip(results) {
            match result {
                Some(result) => contents[item.index] = Some(result?),
                // Only what follows a failure is passed over, and the failure comes first.
                None => break,
            }
        }
        Ok(())
    }

    fn one(&self, item: &Work, buffer: &mut Vec<u8>) -> Result<Digest, ContextError> {
        if let (Some(known), Some(blobs)) = (item.known, self.blobs)
            && blobs.contains(&known)
        {
            return Ok(known);
        }
        let facts = &self.listing.slots[item.index].facts;
        let path = self.listing.path(item.index);
        let file = OpenFile::open_listed(&self.listing.root, path.clone(), facts)?;
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(facts.size, Ordering::Relaxed);
        let content = match self.blobs {
            Some(blobs) => file.store(blobs)?,
            None => file.hash(buffer)?,
        };
        if item.known.is_some_and(|known| known != content) {
            return Err(ContextError::Changed { path });
        }
        Ok(content)
    }
}

/// Builds directories from the bottom up, all of one depth at a time.
struct Trees<'a> {
    selection: &'a Selection<'a>,
    contents: &'a [Option<Digest>],
    links: BTreeMap<usize, LinkId>,
}

impl Trees<'_> {
    fn build(&self) -> Subtree {
        let listing = self.selection.listing;
        let mut depths: Vec<u32> = vec![0; listing.len()];
        let mut levels: Vec<Vec<usize>> = Vec::new();
        // For a directory its place in `done`.
        let mut place: Vec<u32> = vec![0; listing.len()];
        let mut directories = 0;
        for (at, slot) in listing.slots.iter().enumerate() {
            let depth = listing.parent(at).map_or(0, |parent| depths[parent] + 1);
            depths[at] = depth;
            if self.selection.chosen[at] && slot.facts.kind == FileKind::Directory {
                place[at] = directories;
                directories += 1;
                levels.resize_with(levels.len().max(depth as usize + 1), Vec::new);
                levels[depth as usize].push(at);
            }
        }
        let done: Vec<OnceLock<Subtree>> = (0..directories).map(|_| OnceLock::new()).collect();
        for level in levels.iter().rev() {
            level.par_iter().with_min_len(DIRECTORIES_PER_TASK).for_each(|at| {
                // Nobody else sets it: a directory is in one level once.
                let _ = done[place[*at] as usize].set(self.directory(Some(*at), &done, &place));
            });
        }
        self.directory(None, &done, &place)
    }

    fn directory(&self, at: Option<usize>, done: &[OnceLock<Subtree>], place: &[u32]) -> Subtree {
        let listing = self.selection.listing;
        let entries = listing
            .child_indices(at)
            .filter(|child| self.selection.chosen[*child])
            .filter_map(|child| {
                let name = Name::new(listing.name(child)).ok()?;
                let meta = listing.meta(child);
                let node = match listing.slots[child].facts.kind {
                    FileKind::Directory => {
                        let contents =
                            done[place[child] as usize].get().cloned().unwrap_or_else(Subtree::empty);
                        Node::Directory { contents, opaque: false }
                    }
                    kind => self.leaf(child, kind),
                };
                Some((name, Entry { meta, node }))
            })
            .collect();
        Subtree::new(Directory { entries })
    }

    fn leaf(&self, at: usize, kind: FileKind) -> Node {
        let slot = &self.selection.listing.slots[at];
        let (major, minor) = (rustix::fs::major(slot.facts.rdev), rustix::fs::minor(slot.facts.rdev));
        match kind {
            FileKind::Symlink => {
                Node::Symlink { target: self.selection.listing.targets[slot.target as usize].clone() }
            }
            FileKind::Fifo => Node::Fifo,
            FileKind::CharDevice => Node::CharDevice { major, minor },
            FileKind::BlockDevice => Node::BlockDevice { major, minor },
            FileKind::File | FileKind::Socket | FileKind::Directory => Node::File {
                content: self.contents[at].unwrap_or_else(|| Digest::of(b"")),
                size: if kind == FileKind::File { slot.facts.size } else { 0 },
                link: self.links.get(&at).copied(),
            },
        }
    }
}
