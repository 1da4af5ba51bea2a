//! `/proc`, `/sys` and `/dev` of a sandbox.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use crate::failure::{Doing, Failure, While as _};
use crate::sandbox::mount::{self, INERT, READ_ONLY, UNTRUSTED};
use crate::sandbox::resolve::{self, Kind, Made};
use crate::sandbox::root::protect;

/// Where the kernel's interfaces are mounted.
pub(crate) const TARGETS: [&str; 3] = ["proc", "sys", "dev"];

/// Which `/proc` a sandbox has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Procfs {
    /// A new one, which shows the processes of the step only.
    Fresh,
    /// The one of the surrounding container, because the kernel allows no new one where parts of the old one are
    /// hidden. The step sees the names, but not the insides, of processes around it.
    Surrounding,
}

/// What differs between machines.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Parts {
    pub(crate) procfs: Procfs,
}

/// As Docker has them, with what only older kernels had (`timer_stats`) and what containerd and podman add.
const MASKED: [&str; 15] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts", // GHSA-6fw5-f8r9-fgfm: keystroke timing
    "proc/kcore",
    "proc/keys",
    "proc/key-users",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/firmware",
    "sys/devices/virtual/powercap", // GHSA-jq35-85cj-fj4p: power side channel
    "sys/fs/selinux",
    "sys/kernel/security",
];

/// Mounts that come along where `/sys` is the host's: a new one has none of them.
const MASKED_IN_BOUND_SYS: [&str; 6] = [
    "sys/fs/bpf",
    "sys/fs/cgroup",
    "sys/fs/fuse/connections",
    "sys/fs/pstore",
    "sys/kernel/debug",
    "sys/kernel/tracing",
];

const READ_ONLY_PATHS: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// As Docker has them.
const DEV_BYTES: u64 = 64 << 20;
const SHM_BYTES: u64 = 64 << 20;

/// Whether a file system of this type (`statfs`) is an interface to the kernel rather than a place for files.
pub(crate) fn is_kernel_interface(kind: i64) -> bool {
    const PROC: i64 = 0x9fa0;
    const SYSFS: i64 = 0x6265_6572;
    const CGROUP: i64 = 0x0027_e0eb;
    const CGROUP2: i64 = 0x6367_7270;
    const SECURITYFS: i64 = 0x7363_6673;
    [PROC, SYSFS, CGROUP, CGROUP2, SECURITYFS].contains(&kind)
}

/// What of the host is bound into a sandbox, opened before anything is mounted.
#[derive(Debug)]
pub(crate) struct Host {
    nodes: Vec<(&'static str, OwnedFd)>,
    proc: OwnedFd,
    sys: Option<OwnedFd>,
    thermal: Vec<String>,
}

impl Host {
    pub(crate) fn open() -> Result<Self, Failure> {
        let node = |name: &'static str| {
            let path = Path::new("/dev").join(name);
            let node = mount::open_host(&path)?;
            let kind =
                FileType::from_raw_mode(rustix::fs::fstat(&node).doing_to(Doing::Open, &path)?.st_mode);
            if kind != FileType::CharacterDevice {
                return Err(Failure::new(Doing::Dev, Some(&path), Errno::NODEV));
            }
            Ok((name, node))
        };
        Ok(Self {
            nodes: NODES.into_iter().map(node).collect::<Result<_, _>>()?,
            proc: mount::open_host(Path::new("/proc"))?,
            sys: mount::open_host(Path::new("/sys")).ok(),
            thermal: thermal_throttles(),
        })
    }

    fn null(&self) -> BorrowedFd<'_> {
        self.nodes[0].1.as_fd()
    }
}

/// Timing information of each processor, to be masked (GHSA-6fw5-f8r9-fgfm).
fn thermal_throttles() -> Vec<String> {
    let Ok(processors) = std::fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    processors
        .flatten()
        .filter(|entry| entry.path().join("thermal_throttle").exists())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(format!("sys/devices/system/cpu/{name}/thermal_throttle"))
        })
        .collect()
}

/// Mounts all three into `root`.
pub(crate) fn mount(
    root: BorrowedFd<'_>,
    host: &Host,
    parts: Parts,
    shm_size: Option<u64>,
    made: &mut Vec<Made>,
) -> Result<(), Failure> {
    proc(root, host, parts.procfs, made)?;
    let bound = sys(root, host, made)?;
    dev(root, host, shm_size.unwrap_or(SHM_BYTES), made)?;
    for path in READ_ONLY_PATHS {
        protect(root, path, |place| mount::clone(place, INERT | READ_ONLY).doing_to(Doing::Mask, path))?;
    }
    let bound = if bound { MASKED_IN_BOUND_SYS.as_slice() } else { &[] };
    let thermal = host.thermal.iter().map(String::as_str);
    for path in MASKED.into_iter().chain(bound.iter().copied()).chain(thermal) {
        protect(root, path, |place| {
            if mount::is_directory(place).doing_to(Doing::Mask, path)? {
                mount::tmpfs(0o555, Some(0), INERT | READ_ONLY)
            } else {
                mount::clone(host.null(), INERT.difference(MountAttrFlags::MOUNT_ATTR_NODEV) | READ_ONLY)
                    .doing_to(Doing::Mask, path)
            }
        })?;
    }
    Ok(())
}

/// Finds one of the three directories. A symbolic link in its place is refused: images have none there, and every
/// runtime that followed one had an advisory for it (the last is CVE-2026-41579).
fn directory(
    root: BorrowedFd<'_>,
    name: &str,
    doing: Doing,
    made: &mut Vec<Made>,
) -> Result<OwnedFd, Failure> {
    let path = Path::new(name);
    let place = match resolve::open_plain(root, path) {
        Err(Errno::NOENT) => resolve::open_or_make(root, path, Kind::Directory, made),
        result => result,
    };
    let shown = Path::new("/").join(path);
    let place = place.doing_to(doing, &shown)?;
    if mount::is_directory(place.as_fd()).doing_to(doing, &shown)? {
        Ok(place)
    } else {
        let stat = rustix::fs::fstat(&place).doing_to(doing, &shown)?;
        let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        Err(Failure::new(doing, Some(&shown), if link { Errno::LOOP } else { Errno::NOTDIR }))
    }
}

fn proc(root: BorrowedFd<'_>, host: &Host, procfs: Procfs, made: &mut Vec<Made>) -> Result<(), Failure> {
    let place = directory(root, "proc", Doing::Proc, made)?;
    let mount = match procfs {
        Procfs::Fresh => mount::new("proc", &[], INERT)
            .map_err(|(errno, detail)| Failure::new(Doing::Proc, None, errno).detail(detail))?,
        Procfs::Surrounding => mount::clone(host.proc.as_fd(), INERT).doing(Doing::Proc)?,
    };
    mount::attach(mount.as_fd(), place.as_fd()).doing(Doing::Proc)
}

/// A new `/sys` if the network namespace is ours, else the host's, else an empty one. Tells whether it is the host's.
fn sys(root: BorrowedFd<'_>, host: &Host, made: &mut Vec<Made>) -> Result<bool, Failure> {
    let place = directory(root, "sys", Doing::Sys, made)?;
    let attributes = INERT | READ_ONLY;
    let (mount, bound) = match mount::new("sysfs", &[], attributes) {
        Ok(mount) => (mount, false),
        Err(_) => match host.sys.as_ref().map(|sys| mount::clone(sys.as_fd(), attributes)) {
            Some(Ok(mount)) => (mount, true),
            Some(Err(_)) | None => (mount::tmpfs(0o555, Some(0), attributes)?, false),
        },
    };
    mount::attach(mount.as_fd(), place.as_fd()).doing(Doing::Sys)?;
    Ok(bound)
}

fn dev(root: BorrowedFd<'_>, host: &Host, shm_bytes: u64, made: &mut Vec<Made>) -> Result<(), Failure> {
    let place = directory(root, "dev", Doing::Dev, made)?;
    // Only bound nodes work: a device that the step makes itself is as dead as anywhere else.
    let tmpfs = mount::tmpfs(0o755, Some(DEV_BYTES), UNTRUSTED | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
    mount::attach(tmpfs.as_fd(), place.as_fd()).doing(Doing::Dev)?;
    for (name, node) in &host.nodes {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(&tmpfs, *name, flags, Mode::from_raw_mode(0o666)).doing_to(Doing::Dev, name)?;
        let place = open_in(&tmpfs, name)?;
        let mount =
            mount::clone(node.as_fd(), MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)
                .doing_to(Doing::Dev, name)?;
        mount::attach(mount.as_fd(), place.as_fd()).doing_to(Doing::Dev, name)?;
    }
    for (name, to) in LINKS {
        rustix::fs::symlinkat(to, &tmpfs, name).doing_to(Doing::Dev, name)?;
    }
    let shm = mount::tmpfs(0o1777, Some(shm_bytes), INERT)?;
    mount::attach(shm.as_fd(), make_in(&tmpfs, "shm")?.as_fd()).doing_to(Doing::Dev, "/dev/shm")?;
    // Terminals belong to the group `tty`, where the namespace has it.
    let base = [("ptmxmode", "0666"), ("mode", "0620")];
    let pts = mount::new("devpts", &[base.as_slice(), &[("gid", "5")]].concat(), INERT.difference(nodev()))
        .or_else(|_| mount::new("devpts", &base, INERT.difference(nodev())));
    let place = make_in(&tmpfs, "pts")?;
    if let Ok(pts) = pts {
        mount::attach(pts.as_fd(), place.as_fd()).doing_to(Doing::Dev, "/dev/pts")?;
    }
    let place = make_in(&tmpfs, "mqueue")?;
    if let Ok(mqueue) = mount::new("mqueue", &[], INERT) {
        mount::attach(mqueue.as_fd(), place.as_fd()).doing_to(Doing::Dev, "/dev/mqueue")?;
    }
    Ok(())
}

fn nodev() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NODEV
}

fn open_in(directory: &OwnedFd, name: &str) -> Result<OwnedFd, Failure> {
    rustix::fs::openat(directory, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing_to(Doing::Dev, name)
}

fn make_in(directory: &OwnedFd, name: &str) -> Result<OwnedFd, Failure> {
    rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755)).doing_to(Doing::Dev, name)?;
    open_in(directory, name)
}
