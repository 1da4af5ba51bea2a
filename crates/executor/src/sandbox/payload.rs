//! The program's process, from its fork to its `exec`: gives up privileges in the one order that works.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::process::{Resource as Kernel, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use crate::failure::{Doing, Failure, While as _};
use crate::helper::null;
use crate::identity::Identity;
use crate::ownership::Link;
use crate::sandbox::resolve::{self, Kind};
use crate::sandbox::system::is_kernel_interface;
use crate::status::NotStarted;
use crate::step::{Limit, Network, Resource, Step};
use crate::sys::{self, FilterKind};
use crate::{seccomp, wire};

/// What keeps a program from running.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Begun {
    Failed(Failure),
    NotStarted(NotStarted),
}

/// As Docker and runc have it when the environment has none.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Abstract Unix sockets, and signals, that come from outside the domain.
const LANDLOCK_SCOPES: u64 = 0b11;
const LANDLOCK_SCOPES_SINCE: u32 = 6;

/// Becomes the program, or tells why not.
pub(crate) fn main(step: &Step, identity: Identity, link: Option<Link>, mut init: UnixStream) -> ! {
    let begun = match prepare(step, identity, link) {
        Ok(()) => Begun::NotStarted(exec(step)),
        Err(failure) => Begun::Failed(failure),
    };
    let _ = wire::send(&mut init, &begun);
    sys::exit_now(127)
}

fn prepare(step: &Step, identity: Identity, link: Option<Link>) -> Result<(), Failure> {
    rustix::process::setsid().doing(Doing::Fork)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let null = null().doing(Doing::Open)?;
    sys::set_standard(0, null.as_fd()).doing(Doing::Open)?;
    for limit in &step.limits {
        set_limit(limit).doing(Doing::Limits)?;
    }
    enter_directory(step, identity).doing_to(Doing::WorkingDirectory, &step.cwd)?;
    let everything = step.privileges.capabilities == crate::CapabilitySet::ALL;
    // Whoever is fenced in by landlock cannot mount.
    if !everything
        && step.network == Network::Host
        && sys::landlock_abi().is_ok_and(|abi| abi >= LANDLOCK_SCOPES_SINCE)
    {
        sys::landlock_scope(LANDLOCK_SCOPES).doing(Doing::Landlock)?;
    }
    let mut allowed = step.privileges.capabilities.kernel();
    if everything {
        // Nobody can give what they do not have.
        allowed &= rustix::thread::capabilities(None).doing(Doing::Capabilities)?.permitted;
    }
    limit_capabilities(allowed).doing(Doing::Capabilities)?;

    if identity == Identity::Root {
        give_standard_output(step);
    }
    // The ids first, since the filter below may hand such calls to a supervisor; the capabilities are kept over that,
    // since without `no_new_privs` installing a filter needs one of them.
    rustix::thread::set_keep_capabilities(true).doing(Doing::Identity)?;
    become_user(step, identity).doing(Doing::Identity)?;
    raise_capabilities().doing(Doing::Capabilities)?;
    if step.privileges.no_new_privileges {
        rustix::thread::set_no_new_privs(true).doing(Doing::Capabilities)?;
    }
    if !everything || link.is_some() {
        filter(link)?;
    }
    let kept = if step.user.uid == 0 { allowed } else { CapabilitySet::empty() };
    set_capabilities(kept).doing(Doing::Capabilities)?;

    sys::reset_signals();
    sys::close_from_on_exec(3).doing(Doing::Open)
}

/// Where the working directory is inside the root: never through `/proc/self/fd` to a directory of the host
/// (CVE-2024-21626). One that is missing is made, and belongs to the user of the step, as in BuildKit.
fn enter_directory(step: &Step, identity: Identity) -> Result<(), Errno> {
    let root =
        rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let directory = match resolve::open_with(root.as_fd(), &step.cwd, flags, inside) {
        Err(Errno::NOENT) => {
            // Nothing can be made in /proc, and what its links lead to must not be found by their text either.
            let parents = step.cwd.ancestors().skip(1);
            let parent = parents.map(|path| resolve::open_with(root.as_fd(), path, flags, inside));
            let parent = parent.into_iter().find_map(Result::ok).ok_or(Errno::NOENT)?;
            if is_kernel_interface(rustix::fs::fstatfs(&parent)?.f_type as i64) {
                return Err(Errno::NOENT);
            }
            let mut made = Vec::new();
            let directory = resolve::open_or_make(root.as_fd(), &step.cwd, Kind::Directory, &mut made)?;
            // With a single id everything that is made belongs to it.
            for new in made.iter().filter(|_| identity == Identity::Root) {
                let new = resolve::open_plain(root.as_fd(), &new.path)?;
                let (uid, gid) = (Uid::from_raw(step.user.uid), Gid::from_raw(step.user.gid));
                rustix::fs::chownat(&new, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
            }
            directory
        }
        found => found?,
    };
    rustix::process::fchdir(directory)
}

fn set_limit(limit: &Limit) -> Result<(), Errno> {
    let resource = match limit.resource {
        Resource::As => Kernel::As,
        Resource::Core => Kernel::Core,
        Resource::Cpu => Kernel::Cpu,
        Resource::Data => Kernel::Data,
        Resource::Fsize => Kernel::Fsize,
        Resource::Locks => Kernel::Locks,
        Resource::Memlock => Kernel::Memlock,
        Resource::Msgqueue => Kernel::Msgqueue,
        Resource::Nice => Kernel::Nice,
        Resource::Nofile => Kernel::Nofile,
        Resource::Nproc => Kernel::Nproc,
        Resource::Rss => Kernel::Rss,
        Resource::Rtprio => Kernel::Rtprio,
        Resource::Sigpending => Kernel::Sigpending,
        Resource::Stack => Kernel::Stack,
    };
    rustix::process::setrlimit(resource, Rlimit { current: limit.soft, maximum: limit.hard })
}

/// Takes everything but `allowed` out of the bounding set, and out of what `exec` could hand on.
fn limit_capabilities(allowed: CapabilitySet) -> Result<(), Errno> {
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if allowed.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    rustix::thread::clear_ambient_capability_set()
}

fn become_user(step: &Step, identity: Identity) -> Result<(), Errno> {
    let gid = |raw| Gid::from_raw(raw);
    if identity == Identity::Root {
        let groups: Vec<_> = step.user.groups.iter().copied().map(gid).collect();
        rustix::thread::set_thread_groups(&groups)?;
    }
    // A namespace of one id maps it to these, so there is nothing to change, and nothing else could be.
    let (uid, gid) = (Uid::from_raw(step.user.uid), gid(step.user.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Lets the user of the step open `/dev/stdout` and `/dev/stderr`, which are our pipes, as runc does.
fn give_standard_output(step: &Step) {
    let (uid, gid) = (Uid::from_raw(step.user.uid), Gid::from_raw(step.user.gid));
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    for output in [stdout.as_fd(), stderr.as_fd()] {
        // Something else than a pipe belongs to somebody else, and stays as it is.
        if rustix::fs::fstat(output).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
        {
            let _ = rustix::fs::fchown(output, Some(uid), Some(gid));
        }
    }
}

/// Makes everything that is permitted effective: changing from root to somebody else had cleared that.
fn raise_capabilities() -> Result<(), Errno> {
    let permitted = rustix::thread::capabilities(None)?.permitted;
    set_capabilities(permitted)
}

fn set_capabilities(set: CapabilitySet) -> Result<(), Errno> {
    let inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: set, permitted: set, inheritable })
}

fn filter(link: Option<Link>) -> Result<(), Failure> {
    if let Some(link) = link {
        let listener =
            sys::install_filter(&seccomp::notify(), FilterKind::Listening).doing(Doing::Listener)?;
        link.hand_over(&listener.ok_or(Errno::BADF).doing(Doing::Listener)?)?;
    }
    let allowed = seccomp::allowed().map_err(|_| Errno::INVAL).doing(Doing::Seccomp)?;
    sys::install_filter(&allowed, FilterKind::Plain).doing(Doing::Seccomp)?;
    sys::install_filter(&seccomp::newer(), FilterKind::Plain).doing(Doing::Seccomp)?;
    Ok(())
}

/// Runs the program. Returns only with the reason why that failed.
fn exec(step: &Step) -> NotStarted {
    let name = step.argv.first().map(|word| word.as_bytes()).unwrap_or_default();
    let c_string = |bytes: Vec<u8>| CString::new(bytes).unwrap_or_default();
    let argv: Vec<CString> = step.argv.iter().map(|word| c_string(word.as_bytes().to_vec())).collect();
    let env: Vec<CString> = step
        .env
        .iter()
        .map(|(key, value)| c_string([key.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect();
    let mut reason = NotStarted::NotFound { program: PathBuf::from(OsStr::from_bytes(name)) };
    for candidate in candidates(name, step) {
        let errno = sys::execve(&c_string(candidate.clone().into_os_string().into_vec()), &argv, &env);
        match errno {
            Errno::NOENT | Errno::NOTDIR if !candidate.exists() => {}
            Errno::NOENT => {
                let interpreter = interpreter(&candidate).unwrap_or_else(|| PathBuf::from("?"));
                return NotStarted::NoInterpreter { program: candidate, interpreter };
            }
            // As a shell does: go on looking, but remember that something was there.
            Errno::ACCESS | Errno::NOTDIR => reason = NotStarted::CannotRun { program: candidate, errno },
            errno => return NotStarted::CannotRun { program: candidate, errno },
        }
    }
    reason
}

/// Where a program of this name may be, in the order of looking.
fn candidates(name: &[u8], step: &Step) -> Vec<PathBuf> {
    if name.is_empty() {
        return Vec::new();
    }
    if name.contains(&b'/') {
        return vec![PathBuf::from(OsStr::from_bytes(name))];
    }
    let path = step
        .env
        .iter()
        .rev()
        .find(|(key, _)| key == "PATH")
        .map_or(DEFAULT_PATH, |(_, path)| path.as_bytes());
    path.split(|byte| *byte == b':')
        .map(|directory| if directory.is_empty() { b"." } else { directory })
        .map(|directory| Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(name)))
        .collect()
}

/// What the kernel would have started to run `program`: the first word of a `#!` line, or the loader of an ELF file.
fn interpreter(program: &Path) -> Option<PathBuf> {
    let mut head = Vec::new();
    File::open(program).ok()?.take(64 << 10).read_to_end(&mut head).ok()?;
    let path = match head.strip_prefix(b"#!") {
        Some(line) => {
            let line = line.split(|byte| *byte == b'\n').next()?;
            line.trim_ascii_start().split(|byte| *byte == b' ' || *byte == b'\t').next()?
        }
        None => elf_interpreter(&head)?,
    };
    Some(PathBuf::from(OsStr::from_bytes(path)))
}

fn elf_interpreter(file: &[u8]) -> Option<&[u8]> {
    const PT_INTERP: u32 = 3;
    let word = |at: usize, size: usize| -> Option<usize> {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(file.get(at..at.checked_add(size)?)?);
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    // 64-bit, little-endian: what this program itself can be.
    file.strip_prefix(b"\x7fELF\x02\x01")?;
    let (table, entry, count) = (word(32, 8)?, word(54, 2)?, word(56, 2)?);
    let header = (0..count)
        .map(|index| table.saturating_add(index.saturating_mul(entry)))
        .find(|header| word(*header, 4) == Some(PT_INTERP as usize))?;
    let (start, length) = (word(header + 8, 8)?, word(header + 32, 8)?);
    let path = file.get(start..start.checked_add(length)?)?;
    Some(path.split(|byte| *byte == 0).next().unwrap_or(path))
}
