use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, statat, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use wbuild_oci::Digest;

use crate::error::{At, StoreError};
use crate::removal::remove_tree;
use crate::store::{LastUse, Store, private_folders};

/// Names the disk face of a delta: `exec-<hex>`, `layer-<hex>`, `tree-<hex>`, …
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeltaName(Box<str>);

/// Text that cannot be a delta's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not the name of a delta: lower-case letters, digits and inner dashes only", text.escape_debug())]
pub struct DeltaNameError {
    /// What was given.
    pub text: String,
}

impl DeltaName {
    /// Checks and takes a name: at most 200 lower-case letters, digits and dashes, no dash first.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn new(text: &str) -> Result<Self, DeltaNameError> {
        let plain = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !plain || text.is_empty() || text.len() > 200 || text.starts_with('-') {
            return Err(DeltaNameError { text: text.chars().take(200).collect() });
        }
        Ok(Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeltaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DeltaName {
    type Error = DeltaNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<DeltaName> for String {
    fn from(name: DeltaName) -> Self {
        name.0.into()
    }
}

/// Its presence says that the folder is complete; its modification time is the folder's last use.
pub(crate) const MARKER: &str = "delta.json";

/// Says that the folder's files are on the disk and not only in memory.
const SETTLED: &str = "settled";

/// What `delta.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    /// The boot in which it was published.
    boot: String,
}

/// A delta's folder in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaFolder {
    path: PathBuf,
}

impl DeltaFolder {
    /// The files: what an overlay mounts as a lower directory. Never written to.
    pub fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }
}

/// A delta's folder that is being made, in the process's workspace. What is not published is removed when this is
/// dropped, as far as this process may.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
}

impl Draft {
    /// The files, an empty directory (0755) at first: fill it, or mount it as an overlay's upper directory. It is never
    /// renamed itself (that would need write permission on it, which a step may have taken away), only the folder
    /// around it.
    pub fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }

    /// An empty directory on the same file system, as an overlay wants it for its own work; removed on publishing.
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = remove_tree(&self.path);
    }
}

pub(crate) const DELTAS: &str = "deltas";
pub(crate) const MOUNTS: &str = "mounts";

/// Deltas and cache mounts are folders of the same make.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FolderName {
    pub(crate) area: &'static str,
    pub(crate) name: String,
}

impl FolderName {
    pub(crate) fn delta(name: &DeltaName) -> Self {
        Self { area: DELTAS, name: name.as_str().to_owned() }
    }

    pub(crate) fn path(&self, store: &Store) -> PathBuf {
        store.layout().folder(self.area).join(&self.name)
    }

    pub(crate) fn in_trash(&self) -> String {
        format!("{}-{}", self.area, self.name)
    }
}

impl Store {
    /// A folder to make a delta in.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn draft(&self) -> Result<Draft, StoreError> {
        let draft = Draft { path: self.workspace()?.fresh("delta") };
        private_folders(&draft.path)?;
        private_folders(&draft.work())?;
        let fs_path = draft.fs();
        fs::DirBuilder::new().mode(0o755).create(&fs_path).at("create", &fs_path)?;
        // The merged root of an overlay has the upper directory's mode, so the umask must not show in it.
        fs::set_permissions(&fs_path, fs::Permissions::from_mode(0o755)).at("create", &fs_path)?;
        Ok(draft)
    }

    /// Publishes a finished delta. The first one of a name stays, and is returned.
    ///
    /// # Errors
    /// When it cannot be published.
    #[expect(clippy::needless_pass_by_value, reason = "a draft is published once")]
    pub fn publish_delta(&self, name: &DeltaName, draft: Draft) -> Result<DeltaFolder, StoreError> {
        remove_tree(&draft.work())?;
        let marker = draft.path.join(MARKER);
        let boot = Marker { boot: self.boot().to_owned() };
        let bytes = serde_json::to_vec(&boot).map_err(std::io::Error::from).at("write", &marker)?;
        fs::write(&marker, bytes).at("write", &marker)?;
        let folder = FolderName::delta(name);
        let path = folder.path(self);
        for _ in 0..4 {
            // A folder with something in it is never replaced by a rename.
            let error = match fs::rename(&draft.path, &path) {
                Ok(()) => {
                    self.unsettled().insert(name.clone());
                    return Ok(DeltaFolder { path });
                }
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::NotFound => private_folders(&self.layout().folder(DELTAS))?,
                ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory => {
                    if let Some(first) = self.delta(name)? {
                        return Ok(first);
                    }
                }
                _ => return Err(error).at("create", &path),
            }
        }
        Err(Errno::BUSY).at("create", &path)
    }

    /// The disk face of a delta, if it is there and whole; counted as used.
    ///
    /// One that was published in an earlier boot without having been settled may have lost files to a power failure: it
    /// is removed and counts as not there.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn delta(&self, name: &DeltaName) -> Result<Option<DeltaFolder>, StoreError> {
        let folder = FolderName::delta(name);
        let path = folder.path(self);
        let marker = path.join(MARKER);
        let mut stat = statat(CWD, &marker, AtFlags::SYMLINK_NOFOLLOW);
        if matches!(stat, Err(Errno::NOENT)) && self.layout().rescue(&path, &folder.in_trash()) {
            stat = statat(CWD, &marker, AtFlags::SYMLINK_NOFOLLOW);
        }
        let stat = match stat {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                // Something without a marker is in the way of a whole one.
                if path.symlink_metadata().is_ok() && self.writable().is_ok() {
                    self.layout().doom(&path)?;
                }
                return Ok(None);
            }
            Err(error) => return Err(error).at("read", &marker),
        };
        if !path.join(SETTLED).exists() {
            if !self.is_of_this_boot(&marker)? {
                if self.writable().is_ok() {
                    self.layout().doom(&path)?;
                }
                return Ok(None);
            }
            self.unsettled().insert(name.clone());
        }
        let used = LastUse::Modification;
        Ok(self.note_use(&marker, used, used.of(&stat))?.then_some(DeltaFolder { path }))
    }

    /// Damaged markers are of no boot.
    fn is_of_this_boot(&self, marker: &Path) -> Result<bool, StoreError> {
        match fs::read(marker) {
            Ok(bytes) => {
                Ok(serde_json::from_slice::<Marker>(&bytes).is_ok_and(|marker| marker.boot == self.boot()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).at("read", marker),
        }
    }

    /// Removes the disk face of a delta: for when it was found damaged. Returns the folder that is left to be deleted.
    ///
    /// # Errors
    /// When it cannot be moved away.
    pub fn drop_delta(&self, name: &DeltaName) -> Result<Option<PathBuf>, StoreError> {
        self.writable()?;
        self.layout().doom(&FolderName::delta(name).path(self))
    }

    /// Waits until the disk faces that this process made or used are on the disk, so that they outlast a power failure.
    ///
    /// Files of disk faces cannot be checked one by one before each use, so those that were not settled are not used any
    /// more after the next boot. Worth calling at the end of a build, when nobody waits; returns at once when there is
    /// nothing to do.
    ///
    /// # Errors
    /// When the disk reports one.
    pub fn settle(&self) -> Result<(), StoreError> {
        let names = std::mem::take(&mut *self.unsettled());
        if names.is_empty() {
            return Ok(());
        }
        let root = fs::File::open(self.path()).at("open", self.path())?;
        if let Err(error) = syncfs(&root) {
            self.unsettled().extend(names);
            return Err(error).at("synchronise", self.path());
        }
        for name in names {
            let path = FolderName::delta(&name).path(self).join(SETTLED);
            match fs::write(&path, "") {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).at("create", &path),
                // Removed meanwhile.
                _ => {}
            }
        }
        Ok(())
    }

    /// The folder of a cache mount, made if there is none; counted as used. What is in it is the caller's affair, and so is
    /// who writes to it when.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn mount(&self, id: &Digest) -> Result<PathBuf, StoreError> {
        self.workspace()?;
        let folder = FolderName { area: MOUNTS, name: id.hex() };
        let path = folder.path(self);
        let (fs_path, marker) = (path.join("fs"), path.join(MARKER));
        for _ in 0..8 {
            if !fs_path.is_dir() && !self.layout().rescue(&path, &folder.in_trash()) {
                private_folders(&path)?;
                match fs::DirBuilder::new().mode(0o755).create(&fs_path) {
                    Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {}
                    other => other.at("create", &fs_path)?,
                }
            }
            match fs::write(&marker, "{}") {
                Ok(()) if fs_path.is_dir() => return Ok(fs_path),
                // The collector was quicker: once more.
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).at("write", &marker),
            }
        }
        Err(Errno::BUSY).at("create", &fs_path)
    }
}
