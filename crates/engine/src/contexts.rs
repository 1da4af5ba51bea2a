//! Local contexts: listed once per build, hashed as far as they are used, and brought into the store only when a step
//! needs their files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use wbuild_context::{
    BlobSink, ContextError, FileKind, HashOptions, LeftOut, ListOptions, Listing, Selection,
};
use wbuild_graph::Files;
use wbuild_oci::Digest;
use wbuild_store::{Area, Store};
use wbuild_tree::{EntryPath, Subtree, TreeDigest, TreeLoadError, TreeSource};
use wbuild_workspace::{Entry, EntryKind, ReadError, RelPath};

use crate::error::EngineError;
use crate::files::compile;

/// Larger files are never read to plan a build; lockfiles of the largest monorepos have some 10 MB.
const MAX_PLANNING_FILE: u64 = 64 << 20;

/// A folder that a build takes files from.
#[derive(Debug)]
pub struct LocalContext {
    listing: Listing,
    index: PathBuf,
    /// What was located in this build: named, and perhaps not in the store.
    located: Mutex<BTreeMap<TreeDigest, Subtree>>,
}

impl LocalContext {
    /// Lists a folder. Reads no file.
    ///
    /// # Errors
    /// When something in it, not left out, cannot be listed.
    pub fn open(path: &Path, options: ListOptions, store: &Store) -> Result<Self, EngineError> {
        let root = wbuild_context::ContextRoot::open(path)?;
        let listing = root.list(options)?;
        Ok(Self { listing, index: store.area(Area::Index)?, located: Mutex::default() })
    }

    /// What the policy left out.
    pub fn left_out(&self) -> &[LeftOut] {
        self.listing.left_out()
    }

    /// The listing itself.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }

    fn select(&self, files: &Files) -> Result<Selection<'_>, EngineError> {
        let mut selection = match files {
            Files::All => self.listing.select_all(),
            Files::Paths(_) | Files::Matching { .. } => self.listing.select_none(),
        };
        match files {
            Files::All => {}
            Files::Paths(paths) => {
                for path in paths {
                    match self.listing.get(path) {
                        Some(entry) => selection.add_entry(entry),
                        // Not listed: `add` says so, and why.
                        None => selection.add(path)?,
                    }
                }
            }
            Files::Matching { patterns } => {
                for pattern in patterns {
                    // What is no pattern matches nothing; who copies it says why.
                    if let Ok(pattern) = compile(pattern) {
                        selection.add_matching(&pattern);
                    }
                }
            }
        }
        Ok(selection)
    }

    /// The tree of what is selected, hashed as far as the stat index does not know it. When not a single fact of it has
    /// changed since it was hashed, the tree is only looked up.
    pub(crate) fn locate(&self, files: &Files, store: &Store) -> Result<Subtree, EngineError> {
        let selection = self.select(files)?;
        // An unusable index makes it slower, never wrong.
        if let Ok(Some(known)) = selection.known_tree(&self.index)
            && store.holds_tree(known)?
        {
            return Ok(store.tree(known)?);
        }
        let hashed = selection.hash(HashOptions { index: Some(&self.index), blobs: None })?;
        let tree = hashed.tree;
        self.located.lock().unwrap_or_else(PoisonError::into_inner).insert(tree.digest(), tree.clone());
        Ok(tree)
    }

    /// Brings the files of a selection into the store.
    pub(crate) fn fetch(&self, files: &Files, store: &Store) -> Result<Subtree, EngineError> {
        let selection = self.select(files)?;
        let sink = StoreSink(store);
        let hashed = selection.hash(HashOptions { index: Some(&self.index), blobs: Some(&sink) })?;
        store.put_tree(&hashed.tree)?;
        Ok(hashed.tree)
    }

    pub(crate) fn located(&self, tree: TreeDigest) -> Option<Subtree> {
        self.located.lock().unwrap_or_else(PoisonError::into_inner).get(&tree).cloned()
    }
}

/// What plans are made from: the context as the listing has it, links followed inside of it only.
impl wbuild_workspace::Files for LocalContext {
    fn read(&self, path: &RelPath) -> Result<Option<Cow<'_, [u8]>>, ReadError> {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| ReadError { path: path.clone(), source };
        let mut here = EntryPath::parse(path.as_str()).map_err(|error| failed(Box::new(error)))?;
        for _ in 0..=wbuild_tree::MAX_SYMLINKS {
            let Some(entry) = self.listing.get(&here) else { return Ok(None) };
            match entry.kind() {
                FileKind::Symlink => {
                    let target = entry.target().unwrap_or_default();
                    let parent = here.parent().unwrap_or_default();
                    let joined = [parent.as_bytes(), b"/", target].concat();
                    match EntryPath::parse(joined) {
                        Ok(next) if !target.starts_with(b"/") => here = next,
                        _ => return Ok(None),
                    }
                }
                FileKind::File => {
                    let bytes =
                        self.listing.root().read(&here, MAX_PLANNING_FILE).map_err(|error| match error {
                            // Which file is said already.
                            ContextError::ReadFile { source, .. } => failed(source.into()),
                            other => failed(other.into()),
                        })?;
                    return Ok(Some(Cow::Owned(bytes)));
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    fn list(&self, directory: &RelPath) -> Result<Vec<Entry>, ReadError> {
        let path = EntryPath::parse(directory.as_str())
            .map_err(|error| ReadError { path: directory.clone(), source: error.into() })?;
        let parent = if path.is_root() {
            None
        } else {
            match self.listing.get(&path) {
                Some(entry) if entry.kind() == FileKind::Directory => Some(entry),
                _ => return Ok(Vec::new()),
            }
        };
        let kind = |kind| match kind {
            FileKind::Directory => Some(EntryKind::Directory),
            FileKind::Symlink => Some(EntryKind::Link),
            FileKind::File => Some(EntryKind::File),
            _ => None,
        };
        // A name that is no UTF-8 can be in a layer, but nothing in a workspace can refer to it.
        let entries = self.listing.children(parent).filter_map(|entry| {
            let name = std::str::from_utf8(entry.name()).ok()?.to_owned();
            Some(Entry { name, kind: kind(entry.kind())? })
        });
        Ok(entries.collect())
    }
}

/// The store as a place for contents.
pub(crate) struct StoreSink<'a>(pub(crate) &'a Store);

impl BlobSink for StoreSink<'_> {
    fn contains(&self, content: &Digest) -> bool {
        self.0.holds_blob(content).unwrap_or(false)
    }

    fn put_from(&self, source: &mut dyn Read, _size: u64) -> std::io::Result<Digest> {
        let mut writer = self.0.blob_writer().map_err(std::io::Error::other)?;
        std::io::copy(source, &mut writer)?;
        Ok(writer.finish(None).map_err(std::io::Error::other)?.0)
    }
}

/// All trees of a build: those in the store, and those of contexts that are only located yet.
#[derive(Debug)]
pub(crate) struct BuildTrees<'a> {
    pub(crate) store: &'a Store,
    pub(crate) contexts: &'a BTreeMap<String, LocalContext>,
}

impl TreeSource for BuildTrees<'_> {
    fn directory(&self, tree: TreeDigest) -> Result<wbuild_tree::Directory, TreeLoadError> {
        for context in self.contexts.values() {
            if let Some(subtree) = context.located(tree) {
                return Ok(wbuild_tree::Directory::clone(&*subtree.open(self.store)?));
            }
        }
        self.store.directory(tree)
    }
}
