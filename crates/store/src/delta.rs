use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, renameat_with, statat, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use wbuild_oci::Digest;

use crate::entry::Ref;
use crate::error::{At, StoreError};
use crate::removal::remove_tree;
use crate::store::{LastUse, Store, private_folders};
use crate::usage::children;
use crate::workspace::random;

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

/// What the maker of a delta wrote beside its files.
const NOTES: &str = "notes";

/// What `delta.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    /// The boot in which it was published.
    boot: String,
    /// Made up for each folder that is published: tells one that took another's place from it.
    instance: String,
    /// What the files looked like when they were published; the publisher knows how to look again.
    seal: Digest,
    /// Of the notes, if there are any.
    notes: Option<Digest>,
}

/// A delta's folder in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaFolder {
    name: DeltaName,
    path: PathBuf,
    instance: String,
    seal: Digest,
    notes: Option<Digest>,
}

impl DeltaFolder {
    /// Its name.
    pub fn name(&self) -> &DeltaName {
        &self.name
    }

    /// The files: what an overlay mounts as a lower directory. Never written to.
    pub fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }

    /// Tells this folder from others of its name: one that was made anew is another one. What is remembered of a folder's
    /// files is remembered under this.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// What its publisher said the files look like.
    pub const fn seal(&self) -> &Digest {
        &self.seal
    }

    /// What its maker wrote beside the files.
    ///
    /// # Errors
    /// [`StoreError::is_lost`] when that is gone or damaged.
    pub fn notes(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(expected) = &self.notes else { return Ok(None) };
        let path = self.path.join(NOTES);
        match fs::read(&path) {
            Ok(bytes) if Digest::of(&bytes) == *expected => Ok(Some(bytes)),
            Ok(_) => Err(StoreError::Damaged {
                what: Ref::Delta(self.name.clone()),
                why: "its notes have another digest",
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(StoreError::Missing { what: Ref::Delta(self.name.clone()) })
            }
            Err(error) => Err(error).at("read", &path),
        }
    }
}

/// A delta's folder that is being made, in the process's workspace. What is not published is removed when this is
/// dropped, as far as this process may.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    notes: Option<Digest>,
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

    /// Writes beside the files what has to be known about them again: it is published, replaced and collected with them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_notes(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path.join(NOTES);
        fs::write(&path, bytes).at("write", &path)?;
        self.notes = Some(Digest::of(bytes));
        Ok(())
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
        let draft = Draft { path: self.workspace()?.fresh("delta"), notes: None };
        private_folders(&draft.path)?;
        private_folders(&draft.work())?;
        let fs_path = draft.fs();
        fs::DirBuilder::new().mode(0o755).create(&fs_path).at("create", &fs_path)?;
        // The merged root of an overlay has the upper directory's mode, so the umask must not show in it.
        fs::set_permissions(&fs_path, fs::Permissions::from_mode(0o755)).at("create", &fs_path)?;
        Ok(draft)
    }

    /// Publishes a finished delta, whose files look as `seal` says. The first one of a name stays, and is returned.
    ///
    /// # Errors
    /// When it cannot be published.
    #[expect(clippy::needless_pass_by_value, reason = "a draft is published once")]
    pub fn publish_delta(
        &self,
        name: &DeltaName,
        draft: Draft,
        seal: Digest,
    ) -> Result<DeltaFolder, StoreError> {
        let finished = self.finish_draft(name, &draft, seal)?;
        for _ in 0..4 {
            if self.place(&draft, &finished)? {
                return Ok(finished);
            }
            if let Some(first) = self.delta(name)? {
                return Ok(first);
            }
        }
        Err(Errno::BUSY).at("create", &finished.path)
    }

    /// Publishes a finished delta in the place of the one that is there: for when that one is lost or not wanted.
    ///
    /// The two change places in one step, where the file system can do that, so nobody finds nothing. Whoever has the old
    /// one open or mounted goes on with it: its files are deleted when no process is left that could have.
    ///
    /// # Errors
    /// When it cannot be published.
    #[expect(clippy::needless_pass_by_value, reason = "a draft is published once")]
    pub fn replace_delta(
        &self,
        name: &DeltaName,
        draft: Draft,
        seal: Digest,
    ) -> Result<DeltaFolder, StoreError> {
        let finished = self.finish_draft(name, &draft, seal)?;
        for _ in 0..4 {
            match renameat_with(CWD, &draft.path, CWD, &finished.path, RenameFlags::EXCHANGE) {
                Ok(()) => {
                    self.layout().retire(&draft.path)?;
                    self.unsettled().insert(name.clone());
                    return Ok(finished);
                }
                Err(Errno::NOENT) => {}
                Err(Errno::INVAL | Errno::NOSYS) => self.layout().retire(&finished.path)?,
                Err(error) => return Err(error).at("create", &finished.path),
            }
            if self.place(&draft, &finished)? {
                return Ok(finished);
            }
        }
        Err(Errno::BUSY).at("create", &finished.path)
    }

    /// Writes what makes a draft complete.
    fn finish_draft(&self, name: &DeltaName, draft: &Draft, seal: Digest) -> Result<DeltaFolder, StoreError> {
        remove_tree(&draft.work())?;
        let path = draft.path.join(MARKER);
        let instance = format!("{:016x}", random());
        let marker = Marker { boot: self.boot().to_owned(), instance, seal, notes: draft.notes };
        let bytes = serde_json::to_vec(&marker).map_err(std::io::Error::from).at("write", &path)?;
        fs::write(&path, bytes).at("write", &path)?;
        let Marker { instance, seal, notes, .. } = marker;
        let path = FolderName::delta(name).path(self);
        Ok(DeltaFolder { name: name.clone(), path, instance, seal, notes })
    }

    /// Renames a finished draft to where it belongs; `false` when that is taken or was not there until now.
    fn place(&self, draft: &Draft, finished: &DeltaFolder) -> Result<bool, StoreError> {
        // A folder with something in it is never replaced by a rename.
        let error = match fs::rename(&draft.path, &finished.path) {
            Ok(()) => {
                self.unsettled().insert(finished.name.clone());
                return Ok(true);
            }
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::NotFound => private_folders(&self.layout().folder(DELTAS))?,
            ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => {}
            // A file lies where a folder belongs: damage, out of the way with it.
            ErrorKind::NotADirectory => {
                self.layout().doom(&finished.path)?;
            }
            _ => return Err(error).at("create", &finished.path),
        }
        Ok(false)
    }

    /// The disk face of a delta, if it is there and whole; counted as used.
    ///
    /// One that was published in an earlier boot without having been settled may have lost files to a power failure: it
    /// is removed and counts as not there. So does one whose `delta.json` is damaged, or was written by a version that
    /// said less in it.
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
        let Some(Marker { boot, instance, seal, notes }) = read_marker(&marker)? else {
            if self.writable().is_ok() {
                self.layout().retire(&path)?;
            }
            return Ok(None);
        };
        if !path.join(SETTLED).exists() {
            if boot != self.boot() {
                if self.writable().is_ok() {
                    self.layout().doom(&path)?;
                }
                return Ok(None);
            }
            self.unsettled().insert(name.clone());
        }
        let used = LastUse::Modification;
        let found = DeltaFolder { name: name.clone(), path, instance, seal, notes };
        Ok(self.note_use(&marker, used, used.of(&stat))?.then_some(found))
    }

    /// Every delta that has a folder, whole or not, in no order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn delta_names(&self) -> Result<Vec<DeltaName>, StoreError> {
        let folders = children(&self.layout().folder(DELTAS))?;
        let name = |path: PathBuf| DeltaName::new(path.file_name()?.to_str()?).ok();
        Ok(folders.into_iter().filter_map(name).collect())
    }

    /// Removes the disk face of a delta: for when it was found damaged. As with [`replace_delta`](Self::replace_delta), who
    /// is using it goes on; the files are deleted by a later [`sweep`](Self::sweep).
    ///
    /// # Errors
    /// When it cannot be moved away.
    pub fn drop_delta(&self, name: &DeltaName) -> Result<(), StoreError> {
        self.writable()?;
        self.layout().retire(&FolderName::delta(name).path(self))
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

/// `None` for one that is damaged or gone.
fn read_marker(path: &Path) -> Result<Option<Marker>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => Ok(None),
        Err(error) => Err(error).at("read", path),
    }
}
