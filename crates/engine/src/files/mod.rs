//! File operations on trees: COPY, ADD, WORKDIR, mkdir, mkfile, symlink, rm without a byte moved. A directory is grafted by
//! its digest; what an action changes is a delta over a base that is only asked for single paths.

mod account;
mod delta;
mod error;
mod links;
mod native;
mod origin;
mod rewrite;
mod take;
mod transfer;
mod unpack;

use std::io::Read;

use wbuild_graph::FileAction;
use wbuild_oci::Digest;
use wbuild_tree::{Entry, EntryPath, Lookup, Meta, ResolveError, Subtree, TreeSource};

pub(crate) use account::files as account_files;
pub use error::{FileError, Missing, UnpackError};
pub(crate) use origin::{Inputs, Origin, TreeRoot};
pub(crate) use take::{Excludes, TakeError, What, compile, take};

use delta::Delta;

/// Keeps the contents of files.
pub(crate) trait ContentStore {
    /// Stores `bytes` under their digest.
    ///
    /// # Errors
    /// When they cannot be written.
    fn keep(&self, bytes: &[u8]) -> std::io::Result<Digest>;

    /// Stores all that `source` has.
    ///
    /// # Errors
    /// When it cannot be read or written.
    fn keep_from(&self, source: &mut dyn Read) -> std::io::Result<Digest>;

    /// The bytes with this digest.
    ///
    /// # Errors
    /// When they are not there, or are damaged.
    fn open(&self, content: &Digest) -> std::io::Result<Box<dyn Read + Send>>;
}

/// Does `actions` on top of `base` and gives the delta.
pub(crate) fn perform<L: Lookup, I: Inputs<Error = L::Error>>(
    trees: &dyn TreeSource,
    contents: &dyn ContentStore,
    base: &L,
    inputs: &I,
    actions: &[FileAction],
) -> Result<Subtree, FileError<L::Error>> {
    let mut delta = Delta::new(trees, base);
    for action in actions {
        match action {
            FileAction::Copy(copy) => {
                let source = inputs.tree(copy.input).map_err(ResolveError::Lookup)?;
                delta.copy(&source, copy)?;
            }
            FileAction::Transfer(transfer) => delta.transfer(transfer, inputs, contents)?,
            FileAction::Workdir { path, user } => delta.workdir(path, user, inputs)?,
            FileAction::Mkdir { path, mode, owner } => {
                let meta = Meta::new(*mode).owned_by(owner.uid, owner.gid);
                delta.ensure_directory(path, &meta)?;
            }
            FileAction::Mkfile { path, contents: bytes, mode, owner } => {
                let digest = contents
                    .keep(bytes)
                    .map_err(|source| FileError::Contents { path: path.clone(), source })?;
                let meta = Meta::new(*mode).owned_by(owner.uid, owner.gid);
                delta.write(path, Entry::file(meta, digest, bytes.len() as u64))?;
            }
            FileAction::Symlink { path, target, owner } => {
                let mut entry = Entry::symlink(target.as_bytes());
                entry.meta = entry.meta.owned_by(owner.uid, owner.gid);
                delta.write(path, entry)?;
            }
            FileAction::Remove { path } => delta.remove(path)?,
        }
    }
    delta.finish()
}

impl<L: Lookup> Delta<'_, L> {
    /// WORKDIR: everything that is missing is made, and belongs to the user. Nothing else changes.
    fn workdir<I: Inputs<Error = L::Error>>(
        &mut self,
        path: &EntryPath,
        user: &str,
        inputs: &I,
    ) -> Result<(), FileError<L::Error>> {
        let target = self.resolve(path)?;
        if target.is_directory() {
            return Ok(());
        }
        let account = account::parse(user, 0)?;
        let owner = account::owner(&account, |path| inputs.text(account.input, path));
        let owner = owner.map_err(ResolveError::Lookup)??;
        self.make_missing(&target.path, &Meta::new(0o755).owned_by(owner.uid, owner.gid))
    }
}

#[cfg(test)]
pub(crate) mod tests;
