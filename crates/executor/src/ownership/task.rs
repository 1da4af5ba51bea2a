//! A thread that waits for an answer, seen through `/proc`.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::failure::Cause;
use crate::ownership::credentials::Process;
use crate::sandbox::resolve;

/// The longest path that the kernel takes, with its end.
const PATH_MAX: usize = 4096;

/// A thread of the step. All that is read goes through one descriptor of its `/proc` directory, so that it is never
/// another thread that got its number later.
#[derive(Debug)]
pub(crate) struct Task {
    directory: OwnedFd,
    /// The directory above: its siblings.
    proc: OwnedFd,
}

/// What `status` tells of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    process: u32,
    parent: u32,
    pub(crate) umask: u32,
}

impl Task {
    pub(crate) fn open(proc: BorrowedFd<'_>, thread: u32) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(proc, thread.to_string(), flags, Mode::empty())?;
        Ok(Self { directory, proc: proc.try_clone_to_owned().map_err(errno)? })
    }

    fn open_file(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        rustix::fs::openat(&self.directory, name, flags | OFlags::CLOEXEC, Mode::empty()).map(File::from)
    }

    /// Bytes of its memory, at most `length`; fewer where its memory ends.
    pub(crate) fn read(&self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let memory = self.open_file("mem", OFlags::RDONLY)?;
        let mut bytes = vec![0; length];
        let got = memory.read_at(&mut bytes, address).map_err(|_| Errno::FAULT)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.open_file("mem", OFlags::RDWR)?.write_all_at(bytes, address).map_err(|_| Errno::FAULT)
    }

    /// A string of its memory, of less than `limit` bytes; `too_long` is the error if it is longer.
    pub(crate) fn read_string(&self, address: u64, limit: usize, too_long: Errno) -> Result<CString, Errno> {
        let bytes = self.read(address, limit)?;
        match bytes.iter().position(|byte| *byte == 0) {
            Some(end) => CString::new(&bytes[..end]).map_err(|_| Errno::FAULT),
            None if bytes.len() == limit => Err(too_long),
            None => Err(Errno::FAULT),
        }
    }

    pub(crate) fn read_path(&self, address: u64) -> Result<PathBuf, Errno> {
        let path = self.read_string(address, PATH_MAX, Errno::NAMETOOLONG)?;
        Ok(PathBuf::from(OsStr::from_bytes(path.as_bytes())))
    }

    pub(crate) fn status(&self) -> Result<Status, Errno> {
        let mut text = String::new();
        self.open_file("status", OFlags::RDONLY)?.read_to_string(&mut text).map_err(errno)?;
        let field = |name: &str, radix: u32| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or(Errno::SRCH)?;
            u32::from_str_radix(line.trim(), radix).map_err(|_| Errno::SRCH)
        };
        Ok(Status { process: field("Tgid:", 10)?, parent: field("PPid:", 10)?, umask: field("Umask:", 8)? })
    }

    /// Its executable, as it names it, and its command line.
    pub(crate) fn command(&self) -> Result<(PathBuf, Vec<u8>), Errno> {
        let executable = rustix::fs::readlinkat(&self.directory, "exe", Vec::new())?.into_bytes();
        let mut line = Vec::new();
        let limit = PATH_MAX as u64;
        self.open_file("cmdline", OFlags::RDONLY)?.take(limit).read_to_end(&mut line).map_err(errno)?;
        Ok((PathBuf::from(OsStr::from_bytes(&executable)), line))
    }

    /// The process that this thread belongs to, and that process' parent.
    pub(crate) fn processes(&self) -> Result<(Process, Option<Process>), Errno> {
        let status = self.status()?;
        let process = Process { id: status.process, started: self.started(status.process)? };
        let parent = self.started(status.parent).ok().map(|started| Process { id: status.parent, started });
        Ok((process, parent))
    }

    /// When a process was started, in ticks since the machine was.
    fn started(&self, process: u32) -> Result<u64, Errno> {
        let name = format!("{process}/stat");
        let file = rustix::fs::openat(&self.proc, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = Vec::new();
        File::from(file).read_to_end(&mut text).map_err(errno)?;
        // The second field, the name, may hold anything; it ends with the last parenthesis.
        let end = text.iter().rposition(|byte| *byte == b')').ok_or(Errno::SRCH)?;
        let rest = String::from_utf8_lossy(&text[end + 1..]).into_owned();
        rest.split_whitespace().nth(19).and_then(|field| field.parse().ok()).ok_or(Errno::SRCH)
    }

    /// What its descriptor `number` refers to.
    pub(crate) fn descriptor(&self, number: i32) -> Result<OwnedFd, Errno> {
        if number < 0 {
            return Err(Errno::BADF);
        }
        match rustix::fs::openat(
            &self.directory,
            format!("fd/{number}"),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Err(Errno::NOENT) => Err(Errno::BADF),
            result => result,
        }
    }

    /// The file that it means by `path`, seen from `directory` (a descriptor of its, or `AT_FDCWD`).
    pub(crate) fn file(&self, directory: i32, path: &Path, flags: AtFlags) -> Result<OwnedFd, Errno> {
        if path.as_os_str().is_empty() {
            let empty_allowed = flags.contains(AtFlags::EMPTY_PATH);
            return if !empty_allowed {
                Err(Errno::NOENT)
            } else if directory == libc::AT_FDCWD {
                self.place("cwd")
            } else {
                self.descriptor(directory)
            };
        }
        if let Some(number) = descriptor_name(path).filter(|_| !flags.contains(AtFlags::SYMLINK_NOFOLLOW)) {
            return self.descriptor(number);
        }
        let nofollow =
            if flags.contains(AtFlags::SYMLINK_NOFOLLOW) { OFlags::NOFOLLOW } else { OFlags::empty() };
        self.resolve(directory, path, OFlags::PATH | nofollow)
    }

    fn place(&self, name: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.directory, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }

    /// Resolves a path as the kernel would for that thread.
    fn resolve(&self, directory: i32, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let root = self.place("root")?;
        if is_our_root(root.as_fd())? {
            // Then links mean for this process what they mean for that one.
            let start = match directory {
                _ if path.is_absolute() => root,
                libc::AT_FDCWD => self.place("cwd")?,
                number => self.descriptor(number)?,
            };
            let path = if path.is_absolute() { resolve::relative(path) } else { path };
            return resolve::open_with(start.as_fd(), path, flags, ResolveFlags::NO_MAGICLINKS);
        }
        // It has called chroot(2). Names are joined to one path below its root.
        let mut whole = PathBuf::new();
        if !path.is_absolute() {
            let link = if directory == libc::AT_FDCWD { "cwd".to_owned() } else { format!("fd/{directory}") };
            let name = |link: &str| -> Result<PathBuf, Errno> {
                let bytes = rustix::fs::readlinkat(&self.directory, link, Vec::new())?.into_bytes();
                Ok(PathBuf::from(OsStr::from_bytes(&bytes)))
            };
            whole = name(&link)?.strip_prefix(name("root")?).map_err(|_| Errno::NOENT)?.to_path_buf();
        }
        whole.push(resolve::relative(path));
        resolve::open_with(root.as_fd(), &whole, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// The directory that is to hold `path`, and the name in it.
    pub(crate) fn parent<'a>(&self, directory: i32, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let bytes = path.as_os_str().as_bytes();
        let (parent, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&bytes[..=slash], &bytes[slash + 1..]),
            None => (b".".as_slice(), bytes),
        };
        if name.is_empty() || name == b"." || name == b".." {
            return Err(if path == Path::new("/") || !name.is_empty() { Errno::EXIST } else { Errno::NOENT });
        }
        let parent = Path::new(OsStr::from_bytes(parent));
        Ok((self.resolve(directory, parent, OFlags::PATH | OFlags::DIRECTORY)?, OsStr::from_bytes(name)))
    }
}

/// Whether a path names a descriptor of whoever resolves it: this process has others.
fn descriptor_name(path: &Path) -> Option<i32> {
    let number = match path.to_str()? {
        "/dev/stdin" => return Some(0),
        "/dev/stdout" => return Some(1),
        "/dev/stderr" => return Some(2),
        text => text.strip_prefix("/proc/self/fd/").or_else(|| text.strip_prefix("/dev/fd/"))?,
    };
    number.parse().ok()
}

fn is_our_root(root: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mask = StatxFlags::MNT_ID | StatxFlags::INO;
    let theirs = rustix::fs::statx(root, "", AtFlags::EMPTY_PATH, mask)?;
    let ours = rustix::fs::statx(CWD, "/", AtFlags::empty(), mask)?;
    Ok((theirs.stx_mnt_id, theirs.stx_ino) == (ours.stx_mnt_id, ours.stx_ino))
}

fn errno(error: std::io::Error) -> Errno {
    Cause::from(error).errno()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_descriptors() {
        for (path, number) in [
            ("/dev/stdout", Some(1)),
            ("/proc/self/fd/17", Some(17)),
            ("/dev/fd/3", Some(3)),
            ("/dev/fd/", None),
            ("/dev/fd/3/x", None),
            ("/dev/null", None),
        ] {
            assert_eq!(descriptor_name(Path::new(path)), number, "{path}");
        }
    }

    #[test]
    fn a_task_is_read_like_the_kernel_shows_it() {
        let proc = rustix::fs::open("/proc", OFlags::PATH, Mode::empty()).unwrap();
        let task = Task::open(proc.as_fd(), std::process::id()).unwrap();
        let (process, parent) = task.processes().unwrap();
        assert_eq!(process.id, std::process::id());
        assert!(process.started > 0 && parent.is_some());
        let text = c"a string of ours";
        let address = text.as_ptr() as u64;
        assert_eq!(task.read_string(address, 100, Errno::NAMETOOLONG).unwrap().as_c_str(), text);
        assert_eq!(task.read_string(address, 5, Errno::NAMETOOLONG), Err(Errno::NAMETOOLONG));
        assert_eq!(task.read_string(8, 5, Errno::NAMETOOLONG), Err(Errno::FAULT));
    }
}
