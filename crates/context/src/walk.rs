//! The walk: one task per directory (and per chunk of a large one), on rayon's threads.
//!
//! A task opens its directory relative to its parent's descriptor, so the kernel resolves one name per call and nothing
//! can be swapped for a link on the way. Entries that are left out cost no system call.

use std::ffi::{CStr, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::Scope;
use rustix::fs::{AtFlags, FileType, Mode, RawDir, Stat};
use rustix::io::Errno;
use wbuild_tree::{EntryPath, Time};

use crate::assemble::assemble;
use crate::error::ContextError;
use crate::ignore::{DirectoryVerdict, Inherited};
use crate::listing::{Facts, Listing, NONE};
use crate::policy::{FileKind, LeftOutReason, ListOptions};
use crate::root::{ContextRoot, DIRECTORY};
use crate::stat_index::{PATH_KEY_ROOT, path_key};

/// The deepest tree that is read. Trees are values that are built and dropped recursively.
pub const MAX_DEPTH: usize = 4096;

/// The most entries in one context.
pub const MAX_ENTRIES: usize = 10_000_000;

/// Directories kept open for their children at the same time. Beyond, a child is opened by its whole path from the root:
/// slower, but a wide and deep tree never runs out of descriptors (the usual limit is 1024).
const MAX_OPEN: usize = 256;

/// A directory with more entries than this is inspected in chunks, by several threads.
const CHUNK: usize = 512;

/// What getdents is given room for: some 500 names.
const DIRENT_BUFFER: usize = 32 * 1024;

/// One directory as it was found.
#[derive(Debug)]
pub(crate) struct FoundDirectory {
    pub(crate) number: usize,
    /// All its names, sorted; those that are left out, too.
    pub(crate) names: Vec<u8>,
    /// Sorted by name.
    pub(crate) entries: Vec<Found>,
}

/// One entry as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where its name is in [`FoundDirectory::names`].
    pub(crate) name: (u32, u16),
    /// The number of its [`FoundDirectory`], or [`NONE`].
    pub(crate) directory: u32,
    /// A directory that is left out, and only part of the context for what is in it.
    pub(crate) only_for_contents: bool,
    pub(crate) path_key: u64,
    pub(crate) facts: Facts,
    pub(crate) target: Option<Box<[u8]>>,
}

/// All that a walk brings home, in no order.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) directories: Vec<FoundDirectory>,
    pub(crate) left_out: Vec<(LeftOutReason, EntryPath)>,
    /// Of several errors, the one with the first path, so that a message does not depend on timing.
    error: Option<(EntryPath, ContextError)>,
}

struct Walk<'a> {
    root: &'a ContextRoot,
    options: &'a ListOptions,
    findings: Mutex<Findings>,
    next_directory: AtomicUsize,
    entries: AtomicUsize,
    open: AtomicUsize,
}

/// A descriptor that counts itself.
struct OpenDirectory<'w> {
    fd: OwnedFd,
    open: &'w AtomicUsize,
}

impl Drop for OpenDirectory<'_> {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A directory to be read.
struct Task<'w> {
    /// Its parent, if that is still open.
    parent: Option<Arc<Reading<'w>>>,
    path: Vec<u8>,
    path_key: u64,
    number: usize,
    depth: usize,
    inherited: Inherited,
    left_out: bool,
}

/// A directory being inspected, in chunks.
struct Reading<'w> {
    fd: OpenDirectory<'w>,
    task: Task<'w>,
    names: Names,
    progress: Mutex<Progress>,
}

struct Progress {
    chunks_left: usize,
    /// What each chunk found.
    found: Vec<Vec<Found>>,
}

/// The names in a directory, in one piece of memory.
#[derive(Default)]
struct Names {
    /// Each with the NUL that system calls want.
    bytes: Vec<u8>,
    sorted: Vec<Named>,
}

/// One of [`Names`], with what getdents says it is.
#[derive(Clone, Copy)]
struct Named {
    start: u32,
    length: u16,
    kind: FileType,
}

impl Names {
    fn name(&self, named: Named) -> &CStr {
        let start = named.start as usize;
        let bytes = &self.bytes[start..=start + usize::from(named.length)];
        // Written with its NUL, and no other.
        CStr::from_bytes_with_nul(bytes).unwrap_or_default()
    }

    fn read(fd: &OwnedFd) -> Result<Self, Errno> {
        let mut buffer = [MaybeUninit::uninit(); DIRENT_BUFFER];
        let mut names = Self::default();
        let mut entries = RawDir::new(fd.as_fd(), &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let length = u16::try_from(name.count_bytes()).map_err(|_| Errno::NAMETOOLONG)?;
            let start = u32::try_from(names.bytes.len()).map_err(|_| Errno::OVERFLOW)?;
            names.bytes.extend_from_slice(name.to_bytes_with_nul());
            names.sorted.push(Named { start, length, kind: entry.file_type() });
        }
        let Self { bytes, sorted } = &mut names;
        let name = |named: &Named| &bytes[named.start as usize..][..usize::from(named.length)];
        sorted.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        Ok(names)
    }
}

impl ContextRoot {
    /// Walks the context and lists what is part of it. Reads directories and inodes, no content.
    ///
    /// # Errors
    /// When a directory that is not left out cannot be read, an entry vanishes meanwhile, or a name cannot be part of an
    /// image. The error names the path.
    pub fn list(&self, options: ListOptions) -> Result<Listing, ContextError> {
        let walk = Walk {
            root: self,
            options: &options,
            findings: Mutex::default(),
            next_directory: AtomicUsize::new(1),
            entries: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        };
        let top = Task {
            parent: None,
            path: Vec::new(),
            path_key: PATH_KEY_ROOT,
            number: 0,
            depth: 0,
            inherited: options.rules.root(),
            left_out: false,
        };
        rayon::scope(|scope| walk.read(scope, top));
        let findings = walk.findings.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, error)) = findings.error {
            return Err(error);
        }
        assemble(self.clone(), options, findings)
    }
}

impl Walk<'_> {
    fn fail(&self, path: &[u8], error: impl FnOnce(EntryPath) -> ContextError) {
        let path = EntryPath::rooted(path).unwrap_or_default();
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.error.as_ref().is_none_or(|(first, _)| path < *first) {
            findings.error = Some((path.clone(), error(path)));
        }
    }

    fn open<'s>(&'s self, task: &Task<'s>) -> Result<OpenDirectory<'s>, Errno> {
        let fd = match &task.parent {
            Some(parent) => {
                let name = task.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
                rustix::fs::openat(&parent.fd.fd, OsStr::from_bytes(name), DIRECTORY, Mode::empty())?
            }
            None => self.root.open_directory(&task.path)?,
        };
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(OpenDirectory { fd, open: &self.open })
    }

    fn read<'s>(&'s self, scope: &Scope<'s>, mut task: Task<'s>) {
        let listed = self.open(&task).and_then(|fd| Names::read(&fd.fd).map(|names| (fd, names)));
        // The parent may be closed as soon as its last child is open.
        task.parent = None;
        let (fd, names) = match listed {
            Ok(listed) => listed,
            // BuildKit passes over an excluded directory that it may not enter.
            Err(Errno::ACCESS | Errno::PERM | Errno::NOENT) if task.left_out => return,
            Err(Errno::NOENT) => return self.fail(&task.path, |path| ContextError::Vanished { path }),
            // It was a directory when its parent was inspected.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return self.fail(&task.path, |path| ContextError::Changed { path });
            }
            Err(source) => return self.fail(&task.path, |path| ContextError::ReadDirectory { path, source }),
        };
        let count = names.sorted.len();
        if self.entries.fetch_add(count, Ordering::Relaxed) + count > MAX_ENTRIES {
            return self.fail(b"", |_| ContextError::TooMany);
        }
        let chunks = count.div_ceil(CHUNK).max(1);
        let progress =
            Mutex::new(Progress { chunks_left: chunks, found: (0..chunks).map(|_| Vec::new()).collect() });
        let reading = Arc::new(Reading { fd, task, names, progress });
        for chunk in 1..chunks {
            let reading = Arc::clone(&reading);
            scope.spawn(move |scope| self.inspect_chunk(scope, &reading, chunk));
        }
        self.inspect_chunk(scope, &reading, 0);
    }

    fn inspect_chunk<'s>(&'s self, scope: &Scope<'s>, reading: &Arc<Reading<'s>>, chunk: usize) {
        let names = &reading.names.sorted;
        let names = &names[chunk * CHUNK..names.len().min((chunk + 1) * CHUNK)];
        let mut found = Vec::with_capacity(names.len());
        let mut path = reading.task.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        let directory = path.len();
        for named in names {
            path.truncate(directory);
            path.extend_from_slice(reading.names.name(*named).to_bytes());
            found.extend(self.inspect(scope, reading, *named, &path));
        }
        let mut progress = reading.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.found[chunk] = found;
        progress.chunks_left -= 1;
        if progress.chunks_left > 0 {
            return;
        }
        let mut found = std::mem::take(&mut progress.found);
        drop(progress);
        let entries =
            if found.len() == 1 { found.swap_remove(0) } else { found.into_iter().flatten().collect() };
        // Other tasks may still hold the descriptor, so the names cannot be moved out.
        let names = reading.names.bytes.clone();
        let directory = FoundDirectory { number: reading.task.number, names, entries };
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).directories.push(directory);
    }

    /// Decides about one entry, inspects it if it counts, and sets off into it if it is a directory.
    fn inspect<'s>(
        &'s self,
        scope: &Scope<'s>,
        reading: &Arc<Reading<'s>>,
        named: Named,
        path: &[u8],
    ) -> Option<Found> {
        let fd = &reading.fd.fd;
        let name = reading.names.name(named);
        let mut facts = None;
        let kind = match known_kind(named.kind) {
            Some(kind) => kind,
            // Some file systems do not say in the directory what an entry is.
            None => facts.insert(self.facts(fd, name, path)?).kind,
        };
        let rules = &self.options.rules;
        let mut below = None;
        let mut only_for_contents = false;
        if kind == FileKind::Directory {
            let (verdict, inherited) = rules.directory(&reading.task.inherited, path);
            if verdict == DirectoryVerdict::Pruned {
                return None;
            }
            only_for_contents = verdict == DirectoryVerdict::LeftOutButEntered;
            below = Some(inherited);
        } else if rules.excludes_file(&reading.task.inherited, path) {
            return None;
        }
        if let Some(reason) = self.options.leaves_out(name.to_bytes(), path, kind) {
            if !only_for_contents {
                let path = EntryPath::rooted(path).unwrap_or_default();
                self.findings.lock().unwrap_or_else(PoisonError::into_inner).left_out.push((reason, path));
            }
            return None;
        }
        let facts = match facts {
            Some(facts) => facts,
            // What is left out may come and go: an excluded build folder, with a build running.
            None if only_for_contents => {
                Facts::of(&rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?)
            }
            None => self.facts(fd, name, path)?,
        };
        // What replaced it since the directory was read was decided about as something else.
        if facts.kind != kind {
            self.fail(path, |path| ContextError::Changed { path });
            return None;
        }
        let target = match kind {
            FileKind::Symlink => match rustix::fs::readlinkat(fd, name, Vec::new()) {
                Ok(target) => Some(target.into_bytes().into_boxed_slice()),
                Err(source) => {
                    self.fail(path, |path| inspect_error(path, source));
                    return None;
                }
            },
            _ => None,
        };
        let path_key = path_key(reading.task.path_key, name.to_bytes());
        let directory = match below {
            Some(inherited) => self.enter(scope, reading, path, path_key, inherited, only_for_contents),
            None => NONE,
        };
        Some(Found {
            name: (named.start, named.length),
            directory,
            only_for_contents,
            path_key,
            facts,
            target,
        })
    }

    /// Sets off into a directory, and returns its number.
    fn enter<'s>(
        &'s self,
        scope: &Scope<'s>,
        reading: &Arc<Reading<'s>>,
        path: &[u8],
        path_key: u64,
        inherited: Inherited,
        left_out: bool,
    ) -> u32 {
        let number = self.next_directory.fetch_add(1, Ordering::Relaxed);
        let depth = reading.task.depth + 1;
        if depth > MAX_DEPTH {
            self.fail(path, |path| ContextError::TooDeep { path });
            return NONE;
        }
        let room = self.open.load(Ordering::Relaxed) < MAX_OPEN;
        let parent = room.then(|| Arc::clone(reading));
        let task = Task { parent, path: path.to_vec(), path_key, number, depth, inherited, left_out };
        scope.spawn(move |scope| self.read(scope, task));
        // Directories are entries, and these are fewer than that.
        number as u32
    }

    fn facts(&self, fd: &OwnedFd, name: &CStr, path: &[u8]) -> Option<Facts> {
        match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(Facts::of(&stat)),
            Err(source) => {
                self.fail(path, |path| inspect_error(path, source));
                None
            }
        }
    }
}

fn inspect_error(path: EntryPath, source: Errno) -> ContextError {
    match source {
        Errno::NOENT => ContextError::Vanished { path },
        // Not a link any more.
        Errno::INVAL => ContextError::Changed { path },
        source => ContextError::Inspect { path, source },
    }
}

fn known_kind(kind: FileType) -> Option<FileKind> {
    Some(match kind {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Unknown => return None,
    })
}

impl Facts {
    #[expect(
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        reason = "the types of these fields differ between architectures"
    )]
    pub(crate) fn of(stat: &Stat) -> Self {
        let nanos = |nanos: i64| u32::try_from(nanos).unwrap_or(0);
        Self {
            kind: known_kind(FileType::from_raw_mode(stat.st_mode)).unwrap_or(FileKind::File),
            mode: (stat.st_mode & 0o7777) as u16,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: Time { seconds: stat.st_mtime as i64, nanos: nanos(stat.st_mtime_nsec as i64) },
            ctime: Time { seconds: stat.st_ctime as i64, nanos: nanos(stat.st_ctime_nsec as i64) },
            inode: u64::from(stat.st_ino),
            dev: u64::from(stat.st_dev),
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            rdev: u64::from(stat.st_rdev),
        }
    }
}
