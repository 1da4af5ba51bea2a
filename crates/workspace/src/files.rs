use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;

use wbuild_report::Hint;

use crate::RelPath;

/// Where the crate reads from: the caller's view of the workspace's files.
///
/// Symbolic links that stay inside the root are the implementation's to follow in [`Files::read`]; one that leaves
/// the root, or dangles, reads as absent. An unreadable file is an error, never "absent".
pub trait Files {
    /// The bytes of a file, or `None` when no file has that name.
    fn read(&self, path: &RelPath) -> Result<Option<Cow<'_, [u8]>>, ReadError>;

    /// What a directory holds, in any order; empty when there is no such directory.
    fn list(&self, directory: &RelPath) -> Result<Vec<Entry>, ReadError>;
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name, one part.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, to whatever.
    Link,
}

/// A file or directory could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{path}`")]
pub struct ReadError {
    /// Which.
    pub path: RelPath,
    /// Why.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

impl Hint for ReadError {}

/// Files held in memory, for tests and for callers that already have all contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryFiles(BTreeMap<RelPath, Vec<u8>>);

impl MemoryFiles {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file, or replaces it.
    pub fn insert(&mut self, path: RelPath, content: impl Into<Vec<u8>>) {
        self.0.insert(path, content.into());
    }

    /// Takes a file away.
    pub fn remove(&mut self, path: &RelPath) -> Option<Vec<u8>> {
        self.0.remove(path)
    }

    /// All files, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&RelPath, &[u8])> {
        self.0.iter().map(|(path, content)| (path, content.as_slice()))
    }
}

impl Files for MemoryFiles {
    fn read(&self, path: &RelPath) -> Result<Option<Cow<'_, [u8]>>, ReadError> {
        Ok(self.0.get(path).map(|content| Cow::Borrowed(content.as_slice())))
    }

    fn list(&self, directory: &RelPath) -> Result<Vec<Entry>, ReadError> {
        let mut entries: Vec<Entry> = Vec::new();
        for path in self.0.keys() {
            let Some(rest) = path.below(directory).filter(|rest| !rest.is_empty()) else { continue };
            let entry = match rest.split_once('/') {
                Some((name, _)) => Entry { name: name.to_owned(), kind: EntryKind::Directory },
                None => Entry { name: rest.to_owned(), kind: EntryKind::File },
            };
            if entries.last() != Some(&entry) {
                entries.push(entry);
            }
        }
        entries.sort();
        entries.dedup();
        Ok(entries)
    }
}
