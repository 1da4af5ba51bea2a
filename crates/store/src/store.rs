use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
use rustix::io::Errno;
use wbuild_oci::Digest;

use crate::delta::DeltaName;
use crate::entry::Ref;
use crate::error::{At, StoreError};
use crate::layout::{Area, Layout};
use crate::upstream::Upstream;
use crate::version::{self, Access};
use crate::workspace::{Census, Moment, Workspace, census};

/// Things in the trash that a killed collector left undecided are deleted after this long.
const UNDECIDED_FOR: Duration = Duration::from_secs(600);

/// A state directory, shared with other processes. Cheap to clone; all clones are one process's view.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    layout: Layout,
    access: Access,
    boot: String,
    workspace: OnceLock<Workspace>,
    making_workspace: Mutex<()>,
    unsettled: Mutex<BTreeSet<DeltaName>>,
    damaged_records: Mutex<BTreeSet<Digest>>,
    /// Blobs and trees that were read in full, once nothing is trusted unread any more.
    read: Mutex<Option<HashSet<Ref>>>,
    /// Where else there may be blobs and trees.
    upstream: RwLock<Option<Arc<dyn Upstream>>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.path()).finish()
    }
}

/// Which time of a file tells of its last use: sealed files need their modification time for the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastUse {
    Access,
    Modification,
}

impl LastUse {
    pub(crate) fn of(self, stat: &Stat) -> Moment {
        match self {
            Self::Access => Moment { seconds: stat.st_atime, nanos: stat.st_atime_nsec as i64 },
            Self::Modification => Moment { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as i64 },
        }
    }
}

pub(crate) const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
const SAME: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };

impl Store {
    /// Opens a state directory, made if there is none (0700). Costs a few system calls; the folders in it are made when
    /// they are first needed.
    ///
    /// # Errors
    /// When the directory belongs to another user, holds something else, or was written by a version whose format this
    /// one does not know. It is never wiped.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(dir).at("open", dir)?;
        let access = version::enter(&root)?;
        let meta = fs::metadata(&root).at("read", &root)?;
        let user = rustix::process::geteuid().as_raw();
        if meta.uid() != user {
            return Err(StoreError::ForeignOwner { path: root, owner: meta.uid(), user });
        }
        // Root file systems of other people's images lie here, with their set-user-id files.
        if meta.mode() & 0o077 != 0 {
            fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).at("protect", &root)?;
        }
        let boot =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Ok(Self {
            inner: Arc::new(Inner {
                layout: Layout::new(root),
                access,
                boot,
                workspace: OnceLock::new(),
                making_workspace: Mutex::new(()),
                unsettled: Mutex::new(BTreeSet::new()),
                damaged_records: Mutex::new(BTreeSet::new()),
                read: Mutex::new(None),
                upstream: RwLock::new(None),
            }),
        })
    }

    /// The state directory.
    pub fn path(&self) -> &Path {
        self.inner.layout.root()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// The kernel's id of this boot; empty where it cannot be read.
    pub(crate) fn boot(&self) -> &str {
        &self.inner.boot
    }

    pub(crate) fn unsettled(&self) -> std::sync::MutexGuard<'_, BTreeSet<DeltaName>> {
        self.inner.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, every blob and tree is read in full before this process uses it or takes it for there: for when
    /// something turned out to be damaged. Each is read once.
    pub fn look_closely(&self) {
        *self.read() = Some(HashSet::new());
    }

    pub(crate) fn upstream(&self) -> &RwLock<Option<Arc<dyn Upstream>>> {
        &self.inner.upstream
    }

    /// What was read in full; `None` while nothing has to be.
    pub(crate) fn read(&self) -> std::sync::MutexGuard<'_, Option<HashSet<Ref>>> {
        self.inner.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys whose record this process found damaged, and removed.
    pub(crate) fn damaged_records(&self) -> std::sync::MutexGuard<'_, BTreeSet<Digest>> {
        self.inner.damaged_records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses to write where an unknown feature allows reading only.
    pub(crate) fn writable(&self) -> Result<(), StoreError> {
        match &self.inner.access {
            Access::Full => Ok(()),
            Access::ReadOnly { feature } => {
                Err(StoreError::ReadOnlyFeature { path: self.path().to_owned(), feature: feature.clone() })
            }
        }
    }

    /// This process's folder for what it is making, made when first asked for. From then on the collector keeps whatever
    /// is used: a build asks for it before it looks anything up.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn workspace(&self) -> Result<&Workspace, StoreError> {
        if let Some(workspace) = self.inner.workspace.get() {
            return Ok(workspace);
        }
        let _one_at_a_time = self.inner.making_workspace.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(workspace) = self.inner.workspace.get() {
            return Ok(workspace);
        }
        self.writable()?;
        let workspace = Workspace::create(&self.layout().folder("work"))?;
        Ok(self.inner.workspace.get_or_init(|| workspace))
    }

    /// Folders to be deleted: workspaces whose process is gone (the work of a step may still be in them) and what was
    /// taken out of the store and no other process can be using. For when this process uses nothing any more, either. [`remove_tree`](crate::remove_tree) deletes most; folders that a step made with several
    /// ids need a user namespace like the one they were made in. Nothing here is used by anybody.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn sweep(&self) -> Result<Vec<PathBuf>, StoreError> {
        self.writable()?;
        // What this process retired, it uses no more: nobody sweeps in the middle of a build.
        let own = self.inner.workspace.get().map(Workspace::path);
        let Census { oldest, dead } = census(&self.layout().folder("work"), own)?;
        for (path, _held) in dead {
            self.layout().doom(&path)?;
        }
        let changed = |meta: &fs::Metadata| Moment { seconds: meta.ctime(), nanos: meta.ctime_nsec() };
        let long_ago =
            |meta: &fs::Metadata| changed(meta).system_time().elapsed().is_ok_and(|age| age > UNDECIDED_FOR);
        let before_all_others = |meta: &fs::Metadata| oldest.is_none_or(|oldest| changed(meta) < oldest);
        self.layout().doomed(long_ago, before_all_others)
    }

    /// A folder that callers fill themselves, made if there is none.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn area(&self, area: Area) -> Result<PathBuf, StoreError> {
        let path = self.layout().area(area);
        if !path.is_dir() {
            self.writable()?;
            private_folders(&path)?;
        }
        Ok(path)
    }

    /// Where the inode pool keeps what `key` names. What lies there belongs to the crate that computes the keys; the
    /// collector removes inodes that have no other name.
    pub fn pool_path(&self, key: &Digest) -> PathBuf {
        self.layout().pool(key)
    }

    /// Notes that this process uses `path`, last used at `last`. `false` when it is no longer there.
    ///
    /// Only the first use since the process has a workspace writes anything: from there on the workspace protects it.
    pub(crate) fn note_use(&self, path: &Path, field: LastUse, last: Moment) -> Result<bool, StoreError> {
        match self.inner.workspace.get() {
            Some(workspace) if last < workspace.since() => {}
            _ => return Ok(true),
        }
        let times = Timestamps {
            last_access: NOW,
            last_modification: if field == LastUse::Modification { NOW } else { SAME },
        };
        match utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            // A store on a read-only file system has no collector either.
            Err(Errno::ROFS) => Ok(true),
            Err(error) => Err(error).at("mark as used", path),
        }
    }

    /// A new file in the workspace, open for reading and writing.
    pub(crate) fn temporary(&self) -> Result<(PathBuf, File), StoreError> {
        let path = self.workspace()?.fresh("file");
        let file = File::options().read(true).write(true).create_new(true).open(&path).at("create", &path)?;
        Ok((path, file))
    }
}

/// Makes a folder and those above it, for this user only.
pub(crate) fn private_folders(path: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("create", path)
}
