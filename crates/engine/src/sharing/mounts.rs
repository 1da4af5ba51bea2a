//! Cache mounts from a remote cache: a mount that is empty here begins with what another machine's had.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;

use wbuild_cache::Kind;
use wbuild_oci::Digest;
use wbuild_snapshot::Owners;
use wbuild_store::Ref;
use wbuild_tree::{Entry, Meta, Node, Subtree};

use super::body::MountBody;
use crate::error::EngineError;
use crate::step::io_error;
use crate::worker::Engine;

impl Engine {
    /// Puts what a cache has of a mount into the place of its folder, which is empty. `false` when there is nothing, or not
    /// all of it: a mount may be empty.
    pub(crate) fn fill_mount(&self, id: &Digest, kept: &Path) -> Result<bool, EngineError> {
        if !self.shared.imports_mounts() {
            return Ok(false);
        }
        let Some(body) = self.shared.imported(Kind::Mount, id) else { return Ok(false) };
        let Ok(MountBody { tree }) = serde_json::from_str(&body) else { return Ok(false) };
        let fresh = self.store.workspace()?.fresh("cache");
        fs::create_dir(&fresh).map_err(io_error("create", &fresh))?;
        let filled = self.write_mount(tree, &fresh).and_then(|()| {
            // Takes the place of an empty folder; of one that is not empty any more it does not.
            fs::rename(&fresh, kept).map_err(io_error("create", kept))
        });
        if filled.is_err() {
            let _ = fs::remove_dir_all(&fresh);
        }
        Ok(filled.is_ok())
    }

    fn write_mount(&self, tree: wbuild_tree::TreeDigest, folder: &Path) -> Result<(), EngineError> {
        self.store.bring([Ref::Tree(tree)])?;
        let tree = self.store.tree(tree)?;
        self.store.bring_contents(&tree)?;
        self.write_entries(&tree, folder)
    }

    fn write_entries(&self, tree: &Subtree, folder: &Path) -> Result<(), EngineError> {
        for (name, entry) in &tree.open(&self.store)?.entries {
            let path = folder.join(std::ffi::OsStr::from_bytes(name.as_bytes()));
            self.write_entry(entry, &path)?;
        }
        Ok(())
    }

    fn write_entry(&self, Entry { meta, node }: &Entry, path: &Path) -> Result<(), EngineError> {
        match node {
            Node::Directory { contents, .. } => {
                fs::create_dir(path).map_err(io_error("create", path))?;
                self.write_entries(contents, path)?;
            }
            Node::File { content, .. } => {
                let mut blob = self.store.open_blob(content)?.into_file();
                let mut file = fs::File::create_new(path).map_err(io_error("create", path))?;
                io::copy(&mut blob, &mut file).map_err(io_error("write", path))?;
            }
            Node::Symlink { target } => {
                let target = Path::new(std::ffi::OsStr::from_bytes(target));
                symlink(target, path).map_err(io_error("create", path))?;
                return give(meta, path).map_err(io_error("describe", path));
            }
            // A tool's cache holds nothing else.
            _ => return Ok(()),
        }
        let describe = || {
            give(meta, path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(meta.mode.into()))?;
            wbuild_snapshot::set_modified(path, meta.mtime)
        };
        describe().map_err(io_error("describe", path))
    }
}

/// Owners are set where this process may set them.
fn give(meta: &Meta, path: &Path) -> io::Result<()> {
    match Owners::of_process() {
        Owners::Set => lchown(path, Some(meta.uid), Some(meta.gid)),
        Owners::Note | Owners::Skip => Ok(()),
    }
}
