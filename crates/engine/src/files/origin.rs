use wbuild_tree::{
    Entry, EntryPath, Lookup, Meta, Name, ResolveError, Resolved, Subtree, TreeLoadError, TreeSource, lookup,
    resolve,
};

use super::error::Missing;

/// A root file system that files are taken from.
pub(crate) trait Origin {
    /// Why it cannot be read.
    type Error;

    /// Follows a path inside of it. What the result says of a file may be less than [`entry`](Self::entry) does.
    ///
    /// # Errors
    /// When the path goes through a file, or in circles, or cannot be followed.
    fn resolve(&self, path: &EntryPath) -> Result<Resolved, ResolveError<Self::Error>>;

    /// The names in the directory at `path`, which has no links in it, by name, and whether each is a directory.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn names(&self, path: &EntryPath) -> Result<Vec<(Name, bool)>, Self::Error>;

    /// The entry at `path`, which has no links in it, with everything that is in it; `None` when there is none. The root has
    /// one here.
    ///
    /// # Errors
    /// When it cannot be read.
    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, Self::Error>;

    /// The metadata of the directory at `path`, which has no links in it; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn directory(&self, path: &EntryPath) -> Result<Option<Meta>, Self::Error>;

    /// Sees to it that the bytes of the files of `entry`, which is (perhaps a part of) what is at `path`, are in the store.
    ///
    /// # Errors
    /// When they cannot be had.
    fn bring(&self, path: &EntryPath, entry: &Entry) -> Result<(), Self::Error>;
}

/// What the inputs of a vertex are to file operations.
pub(crate) trait Inputs {
    /// Why they cannot be read.
    type Error;

    /// All files of an input as one tree, their contents in the store: for native copies.
    ///
    /// # Errors
    /// When they cannot be had.
    fn tree(&self, input: usize) -> Result<Subtree, Self::Error>;

    /// An input as a root file system.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn origin(&self, input: usize) -> Result<Box<dyn Origin<Error = Self::Error> + '_>, Self::Error>;

    /// What is known about a path that an input does not have.
    ///
    /// # Errors
    /// When the input cannot be read.
    fn missing(&self, input: usize, path: &EntryPath) -> Result<Missing, Self::Error>;

    /// The text of a small file of an input, links followed; `None` when there is no such file.
    ///
    /// # Errors
    /// When it cannot be read.
    fn text(&self, input: usize, path: &str) -> Result<Option<String>, Self::Error>;
}

/// A tree seen as a root.
#[derive(Clone, Copy)]
pub(crate) struct TreeRoot<'a> {
    /// Where it is loaded from.
    pub(crate) trees: &'a dyn TreeSource,
    /// The tree.
    pub(crate) root: &'a Subtree,
}

impl Lookup for TreeRoot<'_> {
    type Error = TreeLoadError;

    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, TreeLoadError> {
        lookup(self.trees, self.root, path)
    }
}

impl Origin for TreeRoot<'_> {
    type Error = TreeLoadError;

    fn resolve(&self, path: &EntryPath) -> Result<Resolved, ResolveError<TreeLoadError>> {
        resolve(self, path, true)
    }

    fn names(&self, path: &EntryPath) -> Result<Vec<(Name, bool)>, TreeLoadError> {
        let Some(entry) = Origin::entry(self, path)? else { return Ok(Vec::new()) };
        let Some(contents) = entry.contents() else { return Ok(Vec::new()) };
        let directory = contents.open(self.trees)?;
        Ok(directory.entries.iter().map(|(name, entry)| (name.clone(), entry.is_directory())).collect())
    }

    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, TreeLoadError> {
        if path.is_root() {
            return Ok(Some(Entry::directory(Meta::new(0o755), self.root.clone())));
        }
        lookup(self.trees, self.root, path)
    }

    fn directory(&self, path: &EntryPath) -> Result<Option<Meta>, TreeLoadError> {
        let entry = Origin::entry(self, path)?;
        Ok(entry.filter(Entry::is_directory).map(|entry| entry.meta))
    }

    fn bring(&self, _: &EntryPath, _: &Entry) -> Result<(), TreeLoadError> {
        Ok(())
    }
}
