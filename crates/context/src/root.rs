use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use wbuild_tree::EntryPath;

use crate::ContextError;

/// What one system call is given of a path: below `PATH_MAX`, so that trees of any depth can be reached.
const MAX_PATH_PIECE: usize = 4000;

/// The folder a build takes its files from, held open: renaming it or its parents does not change what is read.
///
/// Everything below is reached from this descriptor, name by name, through no symbolic link; so nothing outside of the
/// folder is ever opened, whatever the links in it say and whoever changes them meanwhile.
#[derive(Clone, Debug)]
pub struct ContextRoot {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    fd: OwnedFd,
    /// Set when the kernel (before 5.6) or its sandbox has no openat2; every component is then opened by itself.
    without_openat2: AtomicBool,
}

pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A fifo or device must not block or act when it takes a file's place: hence `NONBLOCK` and `NOCTTY`.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

impl ContextRoot {
    /// Opens the folder. The path to it may lead through links.
    ///
    /// # Errors
    /// When it is not there, no directory, or may not be read.
    pub fn open(path: &Path) -> Result<Self, ContextError> {
        let wrong = |source| ContextError::Root { path: path.to_owned(), source };
        let fd =
            rustix::fs::open(path, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty()).map_err(wrong)?;
        let inner = Inner { path: path.to_owned(), fd, without_openat2: AtomicBool::new(false) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }

    /// Opens a directory below the root.
    pub(crate) fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_below(path, DIRECTORY)
    }

    /// Opens a file below the root.
    pub(crate) fn open_file(&self, path: &EntryPath) -> Result<OwnedFd, Errno> {
        self.open_below(path.as_bytes(), FILE)
    }

    fn open_below(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut parent: Option<OwnedFd> = None;
        let mut rest = path;
        loop {
            let from = parent.as_ref().map_or(self.fd(), AsFd::as_fd);
            if self.inner.without_openat2.load(Ordering::Relaxed) {
                return open_by_component(from, rest, flags);
            }
            let (piece, tail) = split_piece(rest);
            let flags_here = if tail.is_empty() { flags } else { DIRECTORY.union(OFlags::PATH) };
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let name = if piece.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(piece) };
            match rustix::fs::openat2(from, name, flags_here, Mode::empty(), resolve) {
                Ok(fd) if tail.is_empty() => return Ok(fd),
                Ok(fd) => parent = Some(fd),
                // Container runtimes deny unknown system calls with EPERM. A true EPERM comes again below.
                Err(Errno::NOSYS | Errno::PERM) if !self.inner.without_openat2.load(Ordering::Relaxed) => {
                    let fd = open_by_component(from, rest, flags)?;
                    self.inner.without_openat2.store(true, Ordering::Relaxed);
                    return Ok(fd);
                }
                Err(errno) => return Err(errno),
            }
            rest = tail;
        }
    }
}

/// As much of the path as one system call takes, cut at a slash, and the remainder.
fn split_piece(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= MAX_PATH_PIECE {
        return (path, b"");
    }
    match path[..MAX_PATH_PIECE].iter().rposition(|b| *b == b'/') {
        Some(cut) => (&path[..cut], &path[cut + 1..]),
        None => (path, b""),
    }
}

fn open_by_component(from: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut parent: Option<OwnedFd> = None;
    let mut parts = path.split(|b| *b == b'/').filter(|part| !part.is_empty()).peekable();
    if parts.peek().is_none() {
        return rustix::fs::openat(from, ".", flags, Mode::empty());
    }
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let flags_here = if last { flags } else { DIRECTORY.union(OFlags::PATH) };
        let here = parent.as_ref().map_or(from, AsFd::as_fd);
        let fd = rustix::fs::openat(here, OsStr::from_bytes(part), flags_here, Mode::empty())?;
        if last {
            return Ok(fd);
        }
        parent = Some(fd);
    }
    Err(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_neither_way() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("in/a")).unwrap();
        std::fs::write(folder.path().join("secret"), "x").unwrap();
        std::fs::write(folder.path().join("in/a/f"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", folder.path().join("in/out")).unwrap();
        std::os::unix::fs::symlink("..", folder.path().join("in/up")).unwrap();
        let root = ContextRoot::open(&folder.path().join("in")).unwrap();
        for by_component in [false, true] {
            root.inner.without_openat2.store(by_component, Ordering::Relaxed);
            let open = |path: &str| root.open_file(&EntryPath::parse(path).unwrap());
            assert!(open("a/f").is_ok());
            assert_eq!(open("out").unwrap_err(), Errno::LOOP);
            assert!(matches!(open("up/secret").unwrap_err(), Errno::LOOP | Errno::NOTDIR));
            assert_eq!(open("a/none").unwrap_err(), Errno::NOENT);
            assert!(root.open_directory(b"").is_ok());
            assert!(root.open_directory(b"a").is_ok());
            assert!(root.open_directory(b"a/f").is_err());
        }
    }

    #[test]
    fn pieces_are_cut_at_slashes() {
        let long = "abc/".repeat(3000);
        let path = long.trim_end_matches('/').as_bytes();
        let mut rest = path;
        let mut joined: Vec<&[u8]> = Vec::new();
        while !rest.is_empty() {
            let (piece, tail) = split_piece(rest);
            assert!(piece.len() <= MAX_PATH_PIECE && !piece.ends_with(b"/"));
            joined.push(piece);
            rest = tail;
        }
        assert_eq!(joined.join(&b'/'), path);
    }
}
