//! Taking things out of the store while others may be about to use them.
//!
//! The collector looks at a thing's last use, renames it into `trash/` and looks again; a user writes the last use
//! first and then opens. Whoever comes second sees the first, so a thing that somebody got hold of is put back, and no
//! lock is needed. A user who looks in between puts it back himself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, RenameFlags, Stat, renameat_with, statat};
use rustix::io::Errno;

use crate::error::{At, StoreError};
use crate::layout::Layout;
use crate::removal::remove_tree;
use crate::workspace::random;

/// Things in `trash/` with this prefix are gone for good and only have to be deleted.
const DOOMED: &str = "doomed-";

/// Folders with this prefix are out of the store, and a process that began before that may still be reading them.
const RETIRED: &str = "retired-";

/// Renames without replacing. File systems without `RENAME_NOREPLACE` get a check before an ordinary rename: losing the
/// race there costs a cache entry that is made again.
fn rename_if_free(from: &Path, to: &Path) -> rustix::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => match statat(CWD, to, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => rustix::fs::rename(from, to),
            Err(error) => Err(error),
        },
        other => other,
    }
}

impl Layout {
    fn trash(&self, name: &str) -> PathBuf {
        self.folder("trash").join(name)
    }

    /// Moves `from` to `trash/<name>`, whatever is there already making way. `false` when there is no `from`.
    fn to_trash(&self, from: &Path, name: &str) -> Result<bool, StoreError> {
        let to = self.trash(name);
        for _ in 0..4 {
            match rename_if_free(from, &to) {
                Ok(()) => return Ok(true),
                Err(Errno::NOENT) if !self.folder("trash").exists() => {
                    fs::create_dir_all(self.folder("trash")).at("create", &self.folder("trash"))?;
                }
                Err(Errno::NOENT) => return Ok(false),
                // Left behind by a collector that was killed.
                Err(Errno::EXIST) => {
                    let _ = rename_if_free(&to, &self.trash(&format!("{DOOMED}{:016x}", random())));
                }
                Err(error) => return Err(error).at("remove", from),
            }
        }
        Err(Errno::EXIST).at("remove", from)
    }

    /// Takes `path` out of the store, unless `unused` says no after it was moved away. `marker` is the file below `path`
    /// whose times tell of the last use; empty for `path` itself. Returns where it lies now, to be deleted.
    pub(crate) fn take_out(
        &self,
        path: &Path,
        name: &str,
        marker: &str,
        unused: impl Fn(&Stat) -> bool,
    ) -> Result<Option<PathBuf>, StoreError> {
        if !self.to_trash(path, name)? {
            return Ok(None);
        }
        let trashed = self.trash(name);
        let looked_at = if marker.is_empty() { trashed.clone() } else { trashed.join(marker) };
        match statat(CWD, &looked_at, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if !unused(&stat) => {
                match rename_if_free(&trashed, path) {
                    // Made anew, or put back by its user.
                    Ok(()) | Err(Errno::NOENT) => return Ok(None),
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error).at("put back", path),
                }
            }
            Ok(_) => {}
            // A folder without its marker is none; without the folder, its user put it back.
            Err(Errno::NOENT | Errno::NOTDIR) if !marker.is_empty() => {}
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error).at("read", &looked_at),
        }
        let doomed = self.trash(&format!("{DOOMED}{:016x}", random()));
        match rename_if_free(&trashed, &doomed) {
            Ok(()) => Ok(Some(doomed)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).at("remove", &trashed),
        }
    }

    /// Puts back what a collector has just moved away. `true` when something was put back.
    pub(crate) fn rescue(&self, path: &Path, name: &str) -> bool {
        rename_if_free(&self.trash(name), path).is_ok()
    }

    /// Takes something damaged out of the store, if it still is the inode that was found damaged.
    pub(crate) fn discard(&self, path: &Path, inode: u64) -> Result<(), StoreError> {
        let name = format!("{DOOMED}{:016x}", random());
        if !self.to_trash(path, &name)? {
            return Ok(());
        }
        let doomed = self.trash(&name);
        let stat = statat(CWD, &doomed, AtFlags::SYMLINK_NOFOLLOW).at("read", &doomed)?;
        if stat.st_ino != inode && rename_if_free(&doomed, path).is_ok() {
            return Ok(());
        }
        // Folders may need more rights than we have; the sweep lists them.
        if !FileType::from_raw_mode(stat.st_mode).is_dir() || remove_tree(&doomed).is_err() {
            let _ = fs::remove_file(&doomed);
        }
        Ok(())
    }

    /// Moves a folder that nobody may use any more to where the sweep finds it.
    pub(crate) fn doom(&self, path: &Path) -> Result<Option<PathBuf>, StoreError> {
        let name = format!("{DOOMED}{:016x}", random());
        Ok(self.to_trash(path, &name)?.then(|| self.trash(&name)))
    }

    /// Moves a folder that somebody may still be using to where a later sweep finds it.
    pub(crate) fn retire(&self, path: &Path) -> Result<(), StoreError> {
        self.to_trash(path, &format!("{RETIRED}{:016x}", random()))?;
        Ok(())
    }

    /// What lies in the trash to be deleted. `unused` says of what was retired whether nobody can be using it any more, by
    /// the time at which it was. Things of a collector that was killed half-way are among it: they have been
    /// out of the store for at least as long as `settled` says.
    pub(crate) fn doomed(
        &self,
        settled: impl Fn(&fs::Metadata) -> bool,
        unused: impl Fn(&fs::Metadata) -> bool,
    ) -> Result<Vec<PathBuf>, StoreError> {
        let trash = self.folder("trash");
        let mut doomed = Vec::new();
        let entries = match fs::read_dir(&trash) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(doomed),
            Err(error) => return Err(error).at("read", &trash),
        };
        for entry in entries {
            let entry = entry.at("read", &trash)?;
            let path = entry.path();
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            let retired = name.starts_with(RETIRED.as_bytes());
            let is_over = |meta: fs::Metadata| if retired { unused(&meta) } else { settled(&meta) };
            if name.starts_with(DOOMED.as_bytes()) {
                doomed.push(path);
            } else if entry.metadata().is_ok_and(is_over) {
                doomed.extend(self.doom(&path)?);
            }
        }
        Ok(doomed)
    }
}
