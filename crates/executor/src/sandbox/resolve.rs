//! Paths inside a root: found or made without ever leaving it, whatever symbolic links it holds.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timestamps};
use rustix::io::Errno;

/// What a mount point must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// Anything else: a file can carry a file, a socket or a device.
    File,
}

/// A file or directory that was made so that something can be mounted on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// Where, from the root, free of symbolic links.
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
}

/// The kernel gives up when something is renamed or mounted anywhere while it resolves a `..`; trying again is all
/// that can be done, and a limit keeps an adversary from holding us for ever.
const ATTEMPTS: usize = 256;

/// As the kernel has it.
const MAX_LINKS: usize = 40;

/// Opens `path` for use as a place (`O_PATH`), as if `root` were the root. Follows symbolic links inside.
pub(crate) fn open(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    open_with(root, path, OFlags::PATH, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// As [`open`], but any symbolic link on the way is an error (`ELOOP`); one at the end is opened itself.
pub(crate) fn open_plain(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    open_with(root, path, OFlags::PATH | OFlags::NOFOLLOW, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

pub(crate) fn open_with(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// As [`open`], in directories that lie over each other, topmost first: a symbolic link may stand in one of them, and what
/// it leads to in another. Whiteouts are not looked at, so what is found may be hidden.
pub(crate) fn open_in_layers(layers: &[OwnedFd], path: &Path) -> Option<OwnedFd> {
    let mut todo: VecDeque<OsString> = components(path).collect();
    let mut at = PathBuf::new();
    let mut links = 0;
    let topmost = |path: &Path| layers.iter().find_map(|layer| open_plain(layer.as_fd(), path).ok());
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let found = topmost(&next)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&found).ok()?.st_mode);
        if kind != FileType::Symlink {
            at = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return None;
        }
        let target = rustix::fs::readlinkat(&found, "", Vec::new()).ok()?.into_bytes();
        let target = PathBuf::from(OsString::from_vec(target));
        if target.is_absolute() {
            at.clear();
        }
        for name in components(&target).rev() {
            todo.push_front(name);
        }
    }
    topmost(&at)
}

/// Opens `path` inside `root`, making what is missing; what was made is added to `made`.
///
/// Walks one component at a time over descriptors of directories that were really opened, so that nothing that
/// happens to the names meanwhile can lead outside.
pub(crate) fn open_or_make(
    root: BorrowedFd<'_>,
    path: &Path,
    kind: Kind,
    made: &mut Vec<Made>,
) -> Result<OwnedFd, Errno> {
    match open(root, path) {
        Err(Errno::NOENT) => Walk::new(root, path)?.run(kind, made),
        result => result,
    }
}

struct Walk {
    /// The directories from the root to where the walk is, with the names that led there.
    entered: Vec<(OwnedFd, OsString)>,
    root: OwnedFd,
    ahead: VecDeque<OsString>,
    links: usize,
}

impl Walk {
    fn new(root: BorrowedFd<'_>, path: &Path) -> Result<Self, Errno> {
        let root = open_plain(root, Path::new("."))?;
        Ok(Self { entered: Vec::new(), root, ahead: components(path).collect(), links: 0 })
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.entered.last().map_or(self.root.as_fd(), |(fd, _)| fd.as_fd())
    }

    fn path(&self, name: &OsStr) -> PathBuf {
        self.entered.iter().map(|(_, name)| name.as_os_str()).chain([name]).collect()
    }

    fn run(mut self, kind: Kind, made: &mut Vec<Made>) -> Result<OwnedFd, Errno> {
        while let Some(name) = self.ahead.pop_front() {
            if name == ".." {
                self.entered.pop();
                continue;
            }
            let last = self.ahead.is_empty();
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = match rustix::fs::openat(self.here(), &name, flags, Mode::empty()) {
                Err(Errno::NOENT) => {
                    let kind = if last { kind } else { Kind::Directory };
                    make(self.here(), &name, kind)?;
                    made.push(Made { path: self.path(&name), kind });
                    rustix::fs::openat(self.here(), &name, flags, Mode::empty())?
                }
                result => result?,
            };
            match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
                FileType::Symlink => self.follow(&fd)?,
                FileType::Directory => self.entered.push((fd, name)),
                _ if last => return Ok(fd),
                _ => return Err(Errno::NOTDIR),
            }
        }
        Ok(self.entered.pop().map_or(self.root, |(fd, _)| fd))
    }

    fn follow(&mut self, link: &OwnedFd) -> Result<(), Errno> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        let target = rustix::fs::readlinkat(link, c"", Vec::new())?.into_bytes();
        let target = PathBuf::from(OsString::from_vec(target));
        if target.is_absolute() {
            self.entered.clear();
        }
        for name in components(&target).rev() {
            self.ahead.push_front(name);
        }
        Ok(())
    }
}

fn components(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Makes one mount point and gives the directory that got it its modification time back.
fn make(parent: BorrowedFd<'_>, name: &OsStr, kind: Kind) -> Result<(), Errno> {
    keeping_mtime(parent, |parent| match kind {
        Kind::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    })
}

/// Removes a mount point that [`open_or_make`] made, if nothing was put into it. Follows no symbolic link: what a
/// step put in its place, or in the place of a parent, is left alone (the hole of CVE-2024-23652).
pub(crate) fn unmake(root: BorrowedFd<'_>, made: &Made) -> Result<bool, Errno> {
    let (Some(parent), Some(name)) = (made.path.parent(), made.path.file_name()) else { return Ok(false) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let parent = match open_with(root, parent, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(false),
        result => result?,
    };
    let stat = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        result => result?,
    };
    let flags = match (made.kind, FileType::from_raw_mode(stat.st_mode)) {
        (Kind::Directory, FileType::Directory) => AtFlags::REMOVEDIR,
        (Kind::File, FileType::RegularFile) if stat.st_size == 0 => AtFlags::empty(),
        _ => return Ok(false),
    };
    match keeping_mtime(parent.as_fd(), |parent| rustix::fs::unlinkat(parent, name, flags)) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        result => result.map(|()| true),
    }
}

fn keeping_mtime<T>(
    directory: BorrowedFd<'_>,
    change: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(directory, c".", flags, Mode::empty())?;
    let before = rustix::fs::fstat(&directory)?;
    let result = change(directory.as_fd())?;
    let time = |sec, nsec: u64| rustix::fs::Timespec { tv_sec: sec, tv_nsec: nsec.cast_signed() };
    rustix::fs::futimens(
        &directory,
        &Timestamps {
            last_access: time(before.st_atime, before.st_atime_nsec),
            last_modification: time(before.st_mtime, before.st_mtime_nsec),
        },
    )?;
    Ok(result)
}

/// `path` without its leading slashes, as the `*at` calls want it; `.` for the root itself.
pub(crate) fn relative(path: &Path) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    let start = bytes.iter().position(|byte| *byte != b'/').unwrap_or(bytes.len());
    if start == bytes.len() { Path::new(".") } else { Path::new(OsStr::from_bytes(&bytes[start..])) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let fd = rustix::fs::open(dir.path().join("root"), OFlags::PATH, Mode::empty()).unwrap();
        (dir, fd)
    }

    fn made(root: &OwnedFd, path: &str, kind: Kind) -> Result<Vec<PathBuf>, Errno> {
        let mut list = Vec::new();
        open_or_make(root.as_fd(), Path::new(path), kind, &mut list)?;
        Ok(list.into_iter().map(|made| made.path).collect())
    }

    #[test]
    fn links_lead_nowhere_outside() {
        let (dir, root) = root();
        let at = |path: &str| dir.path().join("root").join(path);
        symlink("/outside/deep", at("absolute")).unwrap();
        symlink("../../../../outside", at("upwards")).unwrap();
        symlink("upwards/x", at("chain")).unwrap();
        assert_eq!(
            made(&root, "/absolute/a", Kind::File).unwrap(),
            [PathBuf::from("outside"), "outside/deep".into(), "outside/deep/a".into()]
        );
        assert_eq!(made(&root, "upwards/b", Kind::Directory).unwrap(), [PathBuf::from("outside/b")]);
        assert_eq!(made(&root, "chain", Kind::File).unwrap(), [PathBuf::from("outside/x")]);
        assert_eq!(made(&root, "../../up", Kind::File).unwrap(), [PathBuf::from("up")]);
        assert!(!dir.path().join("outside").exists());
        assert!(at("outside/b").is_dir() && at("outside/deep/a").is_file());
    }

    #[test]
    fn loops_and_files_in_the_way_are_errors() {
        let (dir, root) = root();
        symlink("b", dir.path().join("root/a")).unwrap();
        symlink("a", dir.path().join("root/b")).unwrap();
        fs::write(dir.path().join("root/file"), "").unwrap();
        assert_eq!(made(&root, "a/x", Kind::File), Err(Errno::LOOP));
        assert_eq!(made(&root, "file/x", Kind::File), Err(Errno::NOTDIR));
    }

    #[test]
    fn making_and_removing_leaves_no_trace() {
        let (dir, root) = root();
        let etc = dir.path().join("root/etc");
        fs::create_dir(&etc).unwrap();
        let before = fs::metadata(&etc).unwrap().modified().unwrap();
        let mut list = Vec::new();
        open_or_make(root.as_fd(), Path::new("etc/a/b"), Kind::File, &mut list).unwrap();
        assert_eq!(fs::metadata(&etc).unwrap().modified().unwrap(), before);
        for one in list.iter().rev() {
            assert!(unmake(root.as_fd(), one).unwrap());
        }
        assert_eq!(fs::metadata(&etc).unwrap().modified().unwrap(), before);
        assert!(!etc.join("a").exists());
    }

    #[test]
    fn what_is_used_is_not_removed() {
        let (dir, root) = root();
        let mut list = Vec::new();
        open_or_make(root.as_fd(), Path::new("a/b"), Kind::Directory, &mut list).unwrap();
        fs::write(dir.path().join("root/a/kept"), "").unwrap();
        // A step replaced the parent by a link to somewhere else.
        fs::create_dir(dir.path().join("root/elsewhere")).unwrap();
        fs::create_dir(dir.path().join("root/elsewhere/b")).unwrap();
        assert!(unmake(root.as_fd(), &list[1]).unwrap());
        assert!(!unmake(root.as_fd(), &list[0]).unwrap());
        fs::remove_file(dir.path().join("root/a/kept")).unwrap();
        fs::remove_dir(dir.path().join("root/a")).unwrap();
        symlink("elsewhere", dir.path().join("root/a")).unwrap();
        assert!(!unmake(root.as_fd(), &list[1]).unwrap());
        assert!(dir.path().join("root/elsewhere/b").exists());
    }

    #[test]
    fn relative_strips_only_leading_slashes() {
        for (path, expected) in [("/a/b", "a/b"), ("//a", "a"), ("/", "."), ("a/", "a/")] {
            assert_eq!(relative(Path::new(path)).as_os_str(), OsStr::new(expected));
        }
    }
}
