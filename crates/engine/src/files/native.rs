//! What the native frontend does with files: whole paths of a tree, grafted.

use wbuild_graph::{Copy, Owner};
use wbuild_tree::{
    Entry, EntryPath, Lookup, Meta, Node, ResolveError, Resolved, Subtree, TreeLoadError, TreeSource, resolve,
};

use super::delta::Delta;
use super::error::FileError;
use super::origin::TreeRoot;

impl<L: Lookup> Delta<'_, L> {
    /// Makes a directory with its parents; one that exists is left as it is.
    pub(super) fn ensure_directory(
        &mut self,
        path: &EntryPath,
        made: &Meta,
    ) -> Result<EntryPath, FileError<L::Error>> {
        let Resolved { path: target, entry } = resolve(self, path, true)?;
        if target.is_root() {
            return Ok(target);
        }
        match entry {
            Some(entry) if entry.is_directory() => {
                self.parents(&target, made)?;
                self.describe(&target, entry.meta)?;
            }
            Some(_) => return Err(FileError::IsNoDirectory { path: target }),
            None => {
                self.parents(&target, made)?;
                self.describe(&target, made.clone())?;
            }
        }
        Ok(target)
    }

    /// Writes a file or link, links to it followed.
    pub(super) fn write(&mut self, path: &EntryPath, entry: Entry) -> Result<(), FileError<L::Error>> {
        let Resolved { path: target, entry: existing } = resolve(self, path, true)?;
        if target.is_root() || existing.is_some_and(|existing| existing.is_directory()) {
            return Err(FileError::IsDirectory { path: target });
        }
        self.put(&target, entry)
    }

    /// Removes something.
    pub(super) fn remove(&mut self, path: &EntryPath) -> Result<(), FileError<L::Error>> {
        let Resolved { path: target, entry } = resolve(self, path, false)?;
        if entry.is_none() {
            return Err(FileError::NothingToRemove { path: path.clone() });
        }
        if self.base.entry(&target).map_err(ResolveError::Lookup)?.is_some() {
            return self.put(&target, Entry::whiteout());
        }
        self.take_out(&target)
    }

    /// Copies a path of a tree.
    pub(super) fn copy(&mut self, source: &Subtree, copy: &Copy) -> Result<(), FileError<L::Error>> {
        let found = resolve(&TreeRoot { trees: self.trees, root: source }, &copy.source, true);
        let found = found.map_err(|error| match error {
            ResolveError::Lookup(error) => FileError::Load(error),
            _ => FileError::NoSource { path: copy.source.clone() },
        })?;
        let entry = match found {
            Resolved { path, .. } if path.is_root() => Entry::directory(Meta::new(0o755), source.clone()),
            Resolved { entry: Some(entry), .. } => entry,
            Resolved { path, .. } => return Err(FileError::NoSource { path }),
        };
        let made = copy
            .owner
            .map_or_else(|| Meta::new(0o755), |owner| Meta::new(0o755).owned_by(owner.uid, owner.gid));
        let Some(contents) = entry.contents() else {
            let entry = match copy.owner {
                Some(owner) => {
                    Entry { meta: entry.meta.clone().owned_by(owner.uid, owner.gid), node: entry.node }
                }
                None => entry,
            };
            return self.write(&copy.target, entry);
        };
        let contents = match copy.owner {
            Some(owner) => chown(self.trees, contents, owner)?,
            None => contents.clone(),
        };
        let target = self.ensure_directory(&copy.target, &made)?;
        self.graft(&target, &contents)
    }

    /// Puts everything of `contents` into the directory `target`, over what earlier actions put there.
    fn graft(&mut self, target: &EntryPath, contents: &Subtree) -> Result<(), FileError<L::Error>> {
        for (name, entry) in &contents.open(self.trees)?.entries {
            let path = target.join(name);
            let existing = match self.builder.get(self.trees, &path)? {
                Some(existing) => existing.is_directory(),
                None => false,
            };
            match entry.contents() {
                // Both this and an earlier action have the directory: go down until only one has.
                Some(contents) if existing => {
                    self.describe(&path, entry.meta.clone())?;
                    self.graft(&path, contents)?;
                }
                _ => self.insert(&path, entry.clone())?,
            }
        }
        Ok(())
    }
}

/// The same tree with another owner everywhere.
fn chown(trees: &dyn TreeSource, tree: &Subtree, owner: Owner) -> Result<Subtree, TreeLoadError> {
    let mut directory = wbuild_tree::Directory::clone(&*tree.open(trees)?);
    for entry in directory.entries.values_mut() {
        entry.meta.uid = owner.uid;
        entry.meta.gid = owner.gid;
        if let Node::Directory { contents, .. } = &mut entry.node {
            *contents = chown(trees, contents, owner)?;
        }
    }
    Ok(Subtree::new(directory))
}
