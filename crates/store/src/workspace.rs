use std::collections::hash_map::RandomState;
use std::fs::{DirBuilder, File};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, IFlags, OFlags, flock, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use crate::error::{At, StoreError};
use crate::removal::remove_tree;

/// A process's own folder in the store: what it is making lies here until it is renamed into place.
///
/// It is the process's *lease* too: as long as it is held (a `flock` on the folder, gone when the process is, however
/// it ends), the collector keeps everything that any process used since the folder was made. So a build asks for it
/// first ([`Store::workspace`](crate::Store::workspace)), and nothing it relies on has to be listed anywhere.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
    since: Moment,
    names: AtomicU64,
    _held: File,
}

/// A point in time as the file system's clock gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) seconds: i64,
    pub(crate) nanos: i64,
}

impl Moment {
    pub(crate) fn of(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { seconds: since.as_secs() as i64, nanos: i64::from(since.subsec_nanos()) }
    }

    /// The moment that much earlier.
    pub(crate) fn earlier(self, by: Duration) -> Self {
        let nanos = self.nanos - i64::from(by.subsec_nanos());
        let borrowed = i64::from(nanos < 0);
        let seconds = self.seconds.saturating_sub(by.as_secs() as i64 + borrowed);
        Self { seconds, nanos: nanos + borrowed * 1_000_000_000 }
    }

    pub(crate) fn system_time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH
            + Duration::new(self.seconds.max(0) as u64, self.nanos.clamp(0, 999_999_999) as u32)
    }
}

/// Random enough for names that are made with `O_EXCL`. From the standard library's per-map seeds, which come from the
/// kernel: no crate for that.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Folders that are not yet held have this prefix; held ones the other.
const UNHELD: &str = "new-";
const HELD: &str = "w-";

/// An unheld folder older than this was left behind: making one takes microseconds.
const UNHELD_FOR: Duration = Duration::from_secs(600);

fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    File::options().read(true).custom_flags(flags.bits() as i32).open(path)
}

/// Has ext4 place each folder below this one in a block group of its own (`chattr +T`). Otherwise a build writes where the one
/// before it has just deleted thousands of files, and ext4 looks through all of them for every new one, since it does not take
/// inodes again that were freed in the last minutes: up to an eighth of the processor time of a `next build`.
fn spread(folder: &Path) {
    // Other file systems refuse: then there is nothing to gain.
    let _ = open_folder(folder).and_then(|folder| {
        let flags = ioctl_getflags(&folder)?;
        Ok(ioctl_setflags(&folder, flags | IFlags::TOPDIR)?)
    });
}

impl Workspace {
    /// Makes a new one below `work`.
    pub(crate) fn create(work: &Path) -> Result<Self, StoreError> {
        let name = format!("{:016x}", random());
        // Held before it gets the name that the sweep looks at, so that a live one never looks dead.
        let unheld = work.join(format!("{UNHELD}{name}"));
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        if let Err(error) = builder.create(&unheld) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error).at("create", &unheld);
            }
            builder.recursive(true).create(work).at("create", work)?;
            spread(work);
            builder.recursive(false).create(&unheld).at("create", &unheld)?;
        }
        let held = open_folder(&unheld).at("open", &unheld)?;
        flock(&held, FlockOperation::NonBlockingLockExclusive).at("lock", &unheld)?;
        let path = work.join(format!("{HELD}{name}"));
        std::fs::rename(&unheld, &path).at("create", &path)?;
        let meta = held.metadata().at("read", &path)?;
        let since = Moment { seconds: meta.mtime(), nanos: meta.mtime_nsec() };
        Ok(Self { path, since, names: AtomicU64::new(0), _held: held })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it that has not been given out before; nothing is made there.
    pub fn fresh(&self, purpose: &str) -> PathBuf {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{purpose}-{number}"))
    }

    /// When it was made: what is used later is safe from the collector.
    pub(crate) const fn since(&self) -> Moment {
        self.since
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // What cannot be removed (folders that a step made in a user namespace) is left to the next sweep.
        let _ = remove_tree(&self.path);
    }
}

/// The live workspaces' beginnings and the dead workspaces.
#[derive(Debug, Default)]
pub(crate) struct Census {
    /// Since when the oldest live process wants everything kept.
    pub(crate) oldest: Option<Moment>,
    /// Folders whose process is gone, each held by us: nobody else takes them.
    pub(crate) dead: Vec<(PathBuf, File)>,
}

/// Looks at every workspace but `own`.
pub(crate) fn census(work: &Path, own: Option<&Path>) -> Result<Census, StoreError> {
    let mut census = Census::default();
    let entries = match std::fs::read_dir(work) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(census),
        Err(error) => return Err(error).at("read", work),
    };
    for entry in entries {
        let entry = entry.at("read", work)?;
        let path = entry.path();
        let name = entry.file_name();
        let held = name.as_encoded_bytes().starts_with(HELD.as_bytes());
        if own.is_some_and(|own| own == path)
            || !held && !name.as_encoded_bytes().starts_with(UNHELD.as_bytes())
        {
            continue;
        }
        let folder = match open_folder(&path) {
            Ok(folder) => folder,
            // Its process has just finished.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).at("open", &path),
        };
        let meta = folder.metadata().at("read", &path)?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if held || meta.modified().is_ok_and(older_than(UNHELD_FOR)) => {
                census.dead.push((path, folder));
            }
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                // The folder's own times change while it is used; its birth, where known, does not.
                let born = meta.created().map(Moment::of).ok();
                let began = born.unwrap_or(Moment { seconds: i64::MIN, nanos: 0 });
                census.oldest = Some(census.oldest.map_or(began, |oldest| oldest.min(began)));
            }
            Err(error) => return Err(error).at("lock", &path),
        }
    }
    Ok(census)
}

fn older_than(age: Duration) -> impl Fn(SystemTime) -> bool {
    move |time| time.elapsed().is_ok_and(|elapsed| elapsed > age)
}
