use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chmod, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::error::{At, StoreError};

/// Open directories at a time. What lies deeper is first moved up to the top, so that neither the limit of open files
/// nor the length of a path limits how deep a tree can be.
const DEPTH: usize = 32;

/// How often a directory that does not get empty is listed again: somebody else may be removing the same tree, or
/// still be writing into it.
const ATTEMPTS: usize = 4;

/// Removes a file or a directory with everything in it. That it is not there is fine.
///
/// Goes by file descriptors and never follows a link; where a directory inside may not be read or written by us, its
/// mode is changed first (never anything outside of the tree). Two processes may remove the same tree at once.
///
/// # Errors
/// Names the first path that could not be removed: directories of another user (made in a user namespace with several
/// ids) can only be removed from inside such a namespace.
pub fn remove_tree(path: &Path) -> Result<(), StoreError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput)).at("remove", path);
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let name = CString::new(name.as_encoded_bytes()).map_err(io::Error::other).at("remove", path)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match openat(CWD, parent, flags, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error).at("remove", path),
    };
    match unlinkat(&parent, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error).at("remove", path),
    }
    let mut removal = Removal { path, moved: 0, stack: Vec::new() };
    removal.run(parent.as_fd(), &name)
}

struct Removal<'a> {
    path: &'a Path,
    moved: u64,
    stack: Vec<Level>,
}

/// A directory that is being emptied.
struct Level {
    name: CString,
    directory: OwnedFd,
    /// Subdirectories still to do.
    pending: Vec<CString>,
    attempts: usize,
}

impl Removal<'_> {
    fn run(&mut self, parent: BorrowedFd<'_>, name: &CString) -> Result<(), StoreError> {
        let Some(top) = self.enter(parent, name)? else { return Ok(()) };
        self.stack.push(top);
        while let Some(level) = self.stack.last_mut() {
            if let Some(child) = level.pending.pop() {
                if self.stack.len() < DEPTH {
                    let directory = self.stack.last().map_or(parent, |level| level.directory.as_fd());
                    let entered = self.enter(directory, &child)?;
                    self.stack.extend(entered);
                } else {
                    self.move_up(&child)?;
                }
                continue;
            }
            let Some(mut level) = self.stack.pop() else { break };
            let above = self.stack.last().map_or(parent, |level| level.directory.as_fd());
            match unlinkat(above, &level.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) if level.attempts < ATTEMPTS => {
                    level.attempts += 1;
                    level.pending = self.empty(level.directory.as_fd(), &level.name)?;
                    self.stack.push(level);
                }
                Err(Errno::ACCESS) if level.attempts < ATTEMPTS => {
                    level.attempts += 1;
                    open_up(above).at("remove", &self.shown(&level.name))?;
                    self.stack.push(level);
                }
                Err(error) => return Err(error).at("remove", &self.shown(&level.name)),
            }
        }
        Ok(())
    }

    /// The path of `name` in the directory on top of the stack, for messages.
    fn shown(&self, name: &CString) -> PathBuf {
        let mut path = self.path.to_owned();
        path.extend(self.stack.iter().skip(1).map(|level| level.name.to_string_lossy().into_owned()));
        if !self.stack.is_empty() {
            path.push(name.to_string_lossy().into_owned());
        }
        path
    }

    fn enter(&self, parent: BorrowedFd<'_>, name: &CString) -> Result<Option<Level>, StoreError> {
        let directory = match open_directory(parent, name) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error).at("remove", &self.shown(name)),
        };
        let pending = self.empty(directory.as_fd(), name)?;
        Ok(Some(Level { name: name.clone(), directory, pending, attempts: 0 }))
    }

    /// Removes everything in `directory` but its subdirectories, which are returned.
    fn empty(&self, directory: BorrowedFd<'_>, name: &CString) -> Result<Vec<CString>, StoreError> {
        let mut subdirectories = Vec::new();
        let mut listed = Vec::new();
        for entry in Dir::read_from(directory).at("read", &self.shown(name))? {
            let entry = entry.at("read", &self.shown(name))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                listed.push((entry.file_name().to_owned(), entry.file_type()));
            }
        }
        for (child, kind) in listed {
            if kind == FileType::Directory {
                subdirectories.push(child);
                continue;
            }
            let mut result = unlinkat(directory, &child, AtFlags::empty());
            if result == Err(Errno::ACCESS) {
                open_up(directory).at("remove", &self.shown(&child))?;
                result = unlinkat(directory, &child, AtFlags::empty());
            }
            match result {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => subdirectories.push(child),
                Err(error) => {
                    return Err(error).at("remove", &self.shown(name).join(&*child.to_string_lossy()));
                }
            }
        }
        Ok(subdirectories)
    }

    /// Moves a subdirectory of the deepest open directory to the top of the tree, to be removed from there.
    fn move_up(&mut self, child: &CString) -> Result<(), StoreError> {
        let (Some(top), Some(deepest)) = (self.stack.first(), self.stack.last()) else { return Ok(()) };
        let name = loop {
            self.moved += 1;
            let name = CString::new(format!("deep-{}", self.moved)).map_err(io::Error::other);
            let name = name.at("remove", self.path)?;
            match renameat(&deepest.directory, child, &top.directory, &name) {
                Ok(()) => break name,
                Err(Errno::NOENT) => return Ok(()),
                // A name of the tree itself.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Err(Errno::ACCESS) => {
                    // Moving a directory to another parent writes into it (`..`).
                    let moved =
                        open_path(deepest.directory.as_fd(), child).at("remove", &self.shown(child))?;
                    for directory in [moved.as_fd(), deepest.directory.as_fd(), top.directory.as_fd()] {
                        open_up(directory).at("remove", &self.shown(child))?;
                    }
                    if let Err(error) = renameat(&deepest.directory, child, &top.directory, &name) {
                        return Err(error).at("remove", &self.shown(child));
                    }
                    break name;
                }
                Err(error) => return Err(error).at("remove", &self.shown(child)),
            }
        };
        if let Some(top) = self.stack.first_mut() {
            top.pending.push(name);
        }
        Ok(())
    }
}

fn open_path(parent: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<OwnedFd> {
    openat(parent, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn open_directory(parent: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            open_up(open_path(parent, name)?.as_fd())?;
            openat(parent, name, flags, Mode::empty())
        }
        other => other,
    }
}

/// Lets us list and empty a directory. Through `/proc`, since a directory that may not be read can only be opened with
/// `O_PATH`, which `fchmod` does not take.
fn open_up(directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
    chmod(format!("/proc/self/fd/{}", directory.as_raw_fd()), Mode::RWXU)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        let doomed = dir.path().join("doomed");
        fs::create_dir_all(doomed.join("a/b")).unwrap();
        symlink(&outside, doomed.join("a/link")).unwrap();
        fs::hard_link(outside.join("kept"), doomed.join("a/b/hard")).unwrap();
        remove_tree(&doomed).unwrap();
        assert!(!doomed.exists());
        assert_eq!(fs::read(outside.join("kept")).unwrap(), b"x");
        symlink(&outside, &doomed).unwrap();
        remove_tree(&doomed).unwrap();
        assert!(outside.join("kept").exists());
        remove_tree(&doomed).unwrap();
        remove_tree(&dir.path().join("no/where")).unwrap();
    }

    #[test]
    fn locked_directories_are_opened_up() {
        let dir = tempfile::tempdir().unwrap();
        let doomed = dir.path().join("doomed");
        fs::create_dir_all(doomed.join("a/b/c")).unwrap();
        fs::write(doomed.join("a/b/f"), "x").unwrap();
        for path in ["a/b/c", "a/b", "a", ""] {
            fs::set_permissions(doomed.join(path), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_tree(&doomed).unwrap();
        assert!(!doomed.exists());
    }

    #[test]
    fn depth_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let doomed = dir.path().join("doomed");
        fs::create_dir(&doomed).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut here = openat(CWD, &doomed, flags, Mode::empty()).unwrap();
        for level in 0..2500 {
            let name = format!("a-directory-with-a-long-name-{level}");
            mkdirat(&here, &name, Mode::RWXU).unwrap();
            mkdirat(&here, "deep-1", Mode::RWXU).unwrap();
            here = openat(&here, &name, flags, Mode::empty()).unwrap();
        }
        remove_tree(&doomed).unwrap();
        assert!(!doomed.exists());
    }
}
