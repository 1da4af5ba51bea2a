//! COPY and ADD, as BuildKit does them (`design/buildkit.md`, Y01 to Y15): on trees, so that a directory which is copied as
//! it is costs one entry, however many files it holds.

use std::collections::BTreeSet;

use wbuild_graph::{Owner, Transfer, TransferSource, Unpack};
use wbuild_tree::{
    Chmod, Entry, EntryPath, Lookup, Meta, Name, Node, ResolveError, Subtree, Time, TreeLoadError, TreeSource,
};

use super::account;
use super::delta::Delta;
use super::error::FileError;
use super::links::Groups;
use super::origin::Inputs;
use super::rewrite::{Step, rewrite};
use super::take::{Excludes, TakeError, Taken, What, take};
use super::{ContentStore, error::UnpackError};

/// How files are changed while they are copied.
pub(super) struct Change<'a> {
    pub(super) owner: Option<Owner>,
    pub(super) mode: Option<&'a Chmod>,
    groups: Groups,
}

impl<L: Lookup> Delta<'_, L> {
    pub(super) fn transfer<I: Inputs<Error = L::Error>>(
        &mut self,
        transfer: &Transfer,
        inputs: &I,
        contents: &dyn ContentStore,
    ) -> Result<(), FileError<L::Error>> {
        let owner = match &transfer.owner {
            Some(account) => {
                let read = |path: &str| inputs.text(account.input, path);
                Some(account::owner(account, read).map_err(ResolveError::Lookup)??)
            }
            None => None,
        };
        let excludes = Excludes::new(&transfer.excludes).map_err(plain)?;
        for source in &transfer.sources {
            match source {
                TransferSource::Inline { name, contents: bytes } => {
                    let path = EntryPath::rooted(name).unwrap_or_default();
                    let digest = contents
                        .keep(bytes)
                        .map_err(|source| FileError::Contents { path: path.clone(), source })?;
                    let entry = Entry::file(Meta::new(0o644), digest, bytes.len() as u64);
                    let name = path.split_last().map(|(_, name)| name);
                    self.copy_file(transfer, owner, name.as_ref(), &entry)?;
                }
                TransferSource::Files { input, pattern, unpack } => {
                    let origin = inputs.origin(*input).map_err(ResolveError::Lookup)?;
                    let taken = match take(self.trees, &*origin, pattern, &excludes) {
                        Ok(taken) => taken,
                        Err(TakeError::Missing { path, reached }) => {
                            let missing = inputs.missing(*input, &reached).map_err(ResolveError::Lookup)?;
                            return Err(FileError::NotFound { path, reached, missing: Box::new(missing) });
                        }
                        Err(error) => return Err(plain(error)),
                    };
                    for Taken { path, name, what } in taken {
                        match what {
                            What::Directory { mtime, contents, passed } => {
                                let entry = Entry::directory(Meta::new(0o755), contents.clone());
                                origin.bring(&path, &entry).map_err(ResolveError::Lookup)?;
                                self.copy_directory(transfer, owner, mtime, &contents, &passed)?;
                            }
                            What::File(entry) => {
                                origin.bring(&path, &entry).map_err(ResolveError::Lookup)?;
                                let unpacked = *unpack == Unpack::Archives
                                    && self.unpack(transfer, owner, &path, &entry, contents)?;
                                if !unpacked {
                                    self.copy_file(transfer, owner, name.as_ref(), &entry)?;
                                }
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// A file onto the target, or into it when it is a directory.
    fn copy_file(
        &mut self,
        transfer: &Transfer,
        owner: Option<Owner>,
        name: Option<&Name>,
        entry: &Entry,
    ) -> Result<(), FileError<L::Error>> {
        let made = made(transfer.mode.as_ref(), owner);
        if transfer.into_directory {
            self.make_directory(&transfer.target, &made)?;
        } else if let Some(parent) = transfer.target.parent() {
            self.make_directory(&parent, &made)?;
        }
        let target = self.resolve(&transfer.target)?;
        let path = match name {
            Some(name) if target.is_directory() => target.path.join(name),
            _ => target.path,
        };
        if let Some(parent) = path.parent() {
            self.make_missing(&parent, &made)?;
        }
        let existing = self.entry(&path).map_err(ResolveError::Lookup)?;
        if path.is_root() || existing.is_some_and(|existing| existing.is_directory()) {
            return Err(FileError::FileOverDirectory { path });
        }
        let mut change = Change::new(transfer, owner, self.groups);
        let entry = change.entry(self.trees, entry)?;
        self.put(&path, entry)
    }

    /// What is in a directory into the target.
    fn copy_directory(
        &mut self,
        transfer: &Transfer,
        owner: Option<Owner>,
        mtime: Option<Time>,
        contents: &Subtree,
        passed: &BTreeSet<EntryPath>,
    ) -> Result<(), FileError<L::Error>> {
        let mut made = made(transfer.mode.as_ref(), owner);
        let mut change = Change::new(transfer, owner, self.groups);
        let target = self.resolve(&transfer.target)?;
        if !target.exists() {
            if let Some(parent) = target.path.parent() {
                self.make_missing(&parent, &made)?;
            }
            made.mtime = mtime.unwrap_or(made.mtime);
            let entry = Entry::directory(made, change.contents(self.trees, contents)?);
            self.groups = change.groups.next();
            return self.put(&target.path, entry);
        }
        if !target.is_directory() {
            return Err(FileError::DirectoryOverFile { path: target.path });
        }
        self.merge(&mut change, &target.path, contents, passed)?;
        self.groups = change.groups.next();
        // As on a file system where the copy sets the time of the directory that it copied into, if it wrote there.
        if let (Some(mtime), Some(entry)) = (mtime, self.builder.get(self.trees, &target.path)?)
            && entry.is_directory()
        {
            self.describe(&target.path, Meta { mtime, ..entry.meta })?;
        }
        Ok(())
    }

    /// Puts everything of `contents` into the directory `target`. Whole directories where there are none yet.
    fn merge(
        &mut self,
        change: &mut Change<'_>,
        target: &EntryPath,
        contents: &Subtree,
        passed: &BTreeSet<EntryPath>,
    ) -> Result<(), FileError<L::Error>> {
        // Without recursion: trees can be thousands of levels deep.
        let mut pending = vec![(target.clone(), contents.clone(), EntryPath::root())];
        while let Some((target, contents, below)) = pending.pop() {
            for (name, entry) in &contents.open(self.trees)?.entries {
                let (path, below) = (target.join(name), below.join(name));
                let existing = self.entry(&path).map_err(ResolveError::Lookup)?;
                match (entry.contents(), existing) {
                    (Some(contents), Some(existing)) if existing.is_directory() => {
                        let meta = if passed.contains(&below) {
                            // BuildKit sets its mode, and nothing else.
                            Meta { mode: entry.meta.mode, ..existing.meta }
                        } else {
                            let mut meta = change.meta(entry);
                            let mut xattrs = existing.meta.xattrs;
                            meta.xattrs.iter().for_each(|(name, value)| xattrs.insert(name, value));
                            meta.xattrs = xattrs;
                            meta
                        };
                        self.parents(&path, &Meta::new(0o755))?;
                        self.describe(&path, meta)?;
                        pending.push((path, contents.clone(), below));
                    }
                    (Some(_), Some(_)) => return Err(FileError::DirectoryOverFile { path }),
                    (None, Some(existing)) if existing.is_directory() => {
                        return Err(FileError::FileOverDirectory { path });
                    }
                    _ => {
                        let entry = change.entry(self.trees, entry)?;
                        self.put(&path, entry)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What directories are that have to be made: symbolic modes change what there is, so they do not apply.
pub(super) fn made(mode: Option<&Chmod>, owner: Option<Owner>) -> Meta {
    let mode = match mode {
        Some(Chmod::Octal(bits)) => bits & 0o777,
        _ => 0o755,
    };
    let owner = owner.unwrap_or_default();
    Meta::new(mode).owned_by(owner.uid, owner.gid)
}

impl<'a> Change<'a> {
    fn new(transfer: &'a Transfer, owner: Option<Owner>, groups: u32) -> Self {
        Self { owner, mode: transfer.mode.as_ref(), groups: Groups::from(groups) }
    }

    /// The metadata that an entry gets. Links have no modes.
    fn meta(&self, entry: &Entry) -> Meta {
        let mut meta = entry.meta.clone();
        if let Some(owner) = self.owner {
            meta = meta.owned_by(owner.uid, owner.gid);
        }
        if let Some(mode) = self.mode
            && !matches!(entry.node, Node::Symlink { .. })
        {
            meta.mode = mode.apply(meta.mode, entry.is_directory());
        }
        meta
    }

    /// The entry as it is copied, with all that is in it.
    fn entry(&mut self, trees: &dyn TreeSource, entry: &Entry) -> Result<Entry, TreeLoadError> {
        let mut copied = self.alone(entry);
        if let Node::Directory { contents, .. } = &mut copied.node {
            *contents = self.contents(trees, contents)?;
        }
        Ok(copied)
    }

    /// The entry as it is copied; what is in a directory is as it was.
    fn alone(&mut self, entry: &Entry) -> Entry {
        let mut copied = Entry { meta: self.meta(entry), node: entry.node.clone() };
        if let Node::File { content, link: Some(link), .. } = &mut copied.node {
            *link = self.groups.of(*link, *content, &entry.meta);
        }
        copied
    }

    /// Whether what is in a directory is copied as it is.
    fn keeps(&self, contents: &Subtree) -> bool {
        self.owner.is_none() && self.mode.is_none() && !contents.has_links() || contents.is_empty()
    }

    /// Opens only what changes.
    fn contents(&mut self, trees: &dyn TreeSource, contents: &Subtree) -> Result<Subtree, TreeLoadError> {
        if self.keeps(contents) {
            return Ok(contents.clone());
        }
        let mut step = |(): &(), _: &Name, entry: &Entry| {
            let copied = self.alone(entry);
            let changes = copied.contents().is_some_and(|contents| !self.keeps(contents));
            Ok(if changes { Step::Into { directory: copied, state: () } } else { Step::Keep(copied) })
        };
        rewrite(trees, contents, (), &mut step, &mut |(), _| true)
    }
}

/// For what has nothing to do with an input.
fn plain<E>(error: TakeError<E>) -> FileError<E> {
    match error {
        TakeError::Missing { path, reached } => {
            FileError::NotFound { path, reached, missing: Box::default() }
        }
        TakeError::Pattern { text, source } => FileError::Pattern { text, source },
        TakeError::Resolve(error) => FileError::Resolve(error),
        TakeError::Load(error) => FileError::Load(error),
    }
}

/// For the part of ADD that is elsewhere.
pub(super) fn archive<E>(path: &EntryPath) -> impl Fn(UnpackError) -> FileError<E> {
    let path = path.clone();
    move |source| FileError::Archive { path: path.clone(), source }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
pub(super) mod tests;
