use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{AtFlags, CWD, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::ownership::{Owned, Special};
use crate::sandbox::resolve;

/// A file, as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct File {
    device: (u32, u32),
    ino: u64,
    born: (i64, u32),
    /// Whether it is part of the step's changes.
    changed: bool,
}

/// What is known of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) special: Option<Special>,
    pub(crate) capability: Option<Vec<u8>>,
}

/// Birth times are as fine as the kernel's tick (at most 10 ms). Until that has passed twice, a file that was just made
/// is kept from being freed: so no later file has both its inode number and its birth time.
const SETTLING: Duration = Duration::from_millis(20);

/// So many files are kept at once; then the step waits.
const MAX_YOUNG: usize = 256;

/// Remembers what one id cannot express. Lives in the step's mount namespace, but sees the changes from outside too.
#[derive(Debug)]
pub(crate) struct Ledger {
    entries: BTreeMap<File, Entry>,
    /// `/proc` of the host, where this process exists.
    proc: OwnedFd,
    /// The directory of changes, if the root is an overlay: what overlayfs shows has other inode numbers.
    changes: Option<OwnedFd>,
    /// The mount of the root.
    root_mount: u64,
    /// Files that were made only just before they got an entry, and since when they are kept.
    young: VecDeque<(Instant, File, OwnedFd)>,
}

/// A file can be renamed between asking for its name and looking that up; not for ever, unless on purpose.
const ATTEMPTS: usize = 64;

fn stat(fd: BorrowedFd<'_>) -> Result<Statx, Errno> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, mask)
}

impl Ledger {
    /// A ledger for the root that this process sees now.
    pub(crate) fn new(proc: OwnedFd, changes: Option<OwnedFd>) -> Result<Self, Errno> {
        let root_mount = rustix::fs::statx(CWD, "/", AtFlags::empty(), StatxFlags::MNT_ID)?.stx_mnt_id;
        Ok(Self { entries: BTreeMap::new(), proc, changes, root_mount, young: VecDeque::new() })
    }

    /// `/proc` of the host.
    pub(crate) fn proc(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }

    /// Changes what is known of `file`, which must have been copied up. A file that has no name any more is nothing to
    /// remember.
    pub(crate) fn update(
        &mut self,
        file: BorrowedFd<'_>,
        change: impl FnOnce(&mut Entry),
    ) -> Result<(), Errno> {
        self.let_go()?;
        if let Some((key, behind)) = self.find(file)? {
            change(self.entries.entry(key).or_default());
            if is_young(key.born) {
                self.young.push_back((Instant::now(), key, behind));
            }
        }
        Ok(())
    }

    /// Lets go of files that are old enough, and forgets those that were deleted meanwhile.
    fn let_go(&mut self) -> Result<(), Errno> {
        while let Some((since, ..)) = self.young.front() {
            match SETTLING.checked_sub(since.elapsed()) {
                Some(_) if self.young.len() < MAX_YOUNG => break,
                Some(rest) => std::thread::sleep(rest),
                None => {}
            }
            if let Some((_, file, fd)) = self.young.pop_front()
                && stat(fd.as_fd())?.stx_nlink == 0
            {
                self.entries.remove(&file);
            }
        }
        Ok(())
    }

    /// What is known of `file`. Before it is copied up, that is nothing.
    pub(crate) fn get(&self, file: BorrowedFd<'_>) -> Entry {
        self.find(file)
            .ok()
            .flatten()
            .and_then(|(key, _)| self.entries.get(&key).cloned())
            .unwrap_or_default()
    }

    /// Everything that is known of the step's changes.
    pub(crate) fn into_owned(self) -> Vec<Owned> {
        let of_changes = self.entries.into_iter().filter(|(file, _)| file.changed);
        of_changes
            .map(|(file, entry)| Owned {
                ino: file.ino,
                born: file.born,
                uid: entry.uid,
                gid: entry.gid,
                special: entry.special,
                capability: entry.capability,
            })
            .collect()
    }

    /// The file behind `file`; `None` if that is deleted.
    fn find(&self, file: BorrowedFd<'_>) -> Result<Option<(File, OwnedFd)>, Errno> {
        let shown = stat(file)?;
        let changed = shown.stx_mnt_id == self.root_mount;
        match &self.changes {
            Some(changes) if changed => self.find_in(changes.as_fd(), file),
            _ => Ok(Some((key(&shown, changed), rustix::io::fcntl_dupfd_cloexec(file, 3)?))),
        }
    }

    /// Finds the file behind a file of the overlay, by its name; that it is the same shows in its birth time, which
    /// overlayfs hands through.
    fn find_in(
        &self,
        changes: BorrowedFd<'_>,
        file: BorrowedFd<'_>,
    ) -> Result<Option<(File, OwnedFd)>, Errno> {
        for _ in 0..ATTEMPTS {
            let shown = stat(file)?;
            if shown.stx_nlink == 0 {
                return Ok(None);
            }
            let name = rustix::fs::readlinkat(&self.proc, self_fd(file), Vec::new())?.into_bytes();
            let name = resolve::relative(Path::new(OsStr::from_bytes(&name))).to_path_buf();
            let flags = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let behind = match resolve::open_with(changes, &name, OFlags::PATH | OFlags::NOFOLLOW, flags) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                behind => behind?,
            };
            let found = stat(behind.as_fd())?;
            let same = |stat: &Statx| (key(stat, true).born, stat.stx_mode, stat.stx_nlink > 0);
            if same(&found) == same(&shown) {
                return Ok(Some((key(&found, true), behind)));
            }
        }
        Err(Errno::STALE)
    }
}

/// Whether a file was born so recently that the next one could have the same birth time. One from the future is, too.
fn is_young(born: (i64, u32)) -> bool {
    let born = Duration::new(u64::try_from(born.0).unwrap_or(0), born.1);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(born) < SETTLING
}

fn key(stat: &Statx, changed: bool) -> File {
    let born = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
    File { device: (stat.stx_dev_major, stat.stx_dev_minor), ino: stat.stx_ino, born, changed }
}

/// The name of one of this process' descriptors, from its `/proc`.
pub(crate) fn self_fd(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd as _;
    format!("self/fd/{}", fd.as_raw_fd())
}
