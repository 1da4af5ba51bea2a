//! Mounts as descriptors: made detached, given their attributes, and only then attached to a place that is itself a
//! descriptor. No path is looked up twice.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use crate::failure::{Doing, Failure, While as _};
use crate::sys;

/// Overlayfs takes this many lower directories in one mount (`OVL_MAX_STACK`).
pub(crate) const MAX_LOWERS: usize = 500;

/// The attributes of a mount that holds nothing to be trusted.
pub(crate) const UNTRUSTED: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// The attributes of `/proc` and `/sys`.
pub(crate) const INERT: MountAttrFlags = UNTRUSTED.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

pub(crate) const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// Opens a place of the host.
pub(crate) fn open_host(path: &Path) -> Result<OwnedFd, Failure> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing_to(Doing::Open, path)
}

pub(crate) fn is_directory(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

/// Keeps what is mounted in this namespace out of all others, and the other way round.
pub(crate) fn make_private() -> Result<(), Errno> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

/// A new, detached mount of a file system without a source.
pub(crate) fn new(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, (Errno, Option<String>)> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| (errno, None))?;
    let make = || {
        for (key, value) in options {
            rustix::mount::fsconfig_set_string(&context, *key, *value)?;
        }
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().map_err(|errno| (errno, complaint(&context)))
}

/// A new, detached tmpfs.
pub(crate) fn tmpfs(mode: u32, size: Option<u64>, attributes: MountAttrFlags) -> Result<OwnedFd, Failure> {
    let mode = format!("{mode:o}");
    let size = size.map(|size| size.to_string());
    let mut options = vec![("mode", mode.as_str())];
    options.extend(size.as_deref().map(|size| ("size", size)));
    new("tmpfs", &options, attributes)
        .map_err(|(errno, detail)| Failure::new(Doing::Tmpfs, None, errno).detail(detail))
}

/// A detached copy of what is mounted at `place`, with what is mounted below it only where the kernel insists:
/// in a user namespace, mounts that came from outside cannot be separated.
pub(crate) fn clone(place: BorrowedFd<'_>, attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let (mount, recursive) = match rustix::mount::open_tree(place, "", flags) {
        Err(Errno::INVAL) => {
            (rustix::mount::open_tree(place, "", flags | OpenTreeFlags::AT_RECURSIVE)?, true)
        }
        result => (result?, false),
    };
    if !attributes.is_empty() {
        sys::mount_setattr(mount.as_fd(), attributes.bits().into(), recursive)?;
    }
    Ok(mount)
}

/// Attaches a detached mount.
pub(crate) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", place, "", flags)
}

/// What overlayfs mounts.
#[derive(Debug)]
pub(crate) struct Overlay<'a> {
    /// The topmost first.
    pub(crate) lowers: Vec<BorrowedFd<'a>>,
    /// Where changes go, and the directory that overlayfs needs beside it.
    pub(crate) changes: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
}

/// Fixed for every overlay, as root too: so that a directory of changes that is renamed away means the same wherever
/// it becomes a lower (the kernel's marks are `user.overlay.*` xattrs, and no redirects or metadata-only copies).
/// `nofollow` neither makes nor follows redirects; with `userxattr` the kernel refuses `off`, because that may follow.
const FORMAT: [(&str, Option<&str>); 4] = [
    ("userxattr", None),
    ("redirect_dir", Some("nofollow")),
    ("metacopy", Some("off")),
    ("index", Some("off")),
];

impl Overlay<'_> {
    /// Mounts it, detached where the kernel can (6.8), else on `place`, with the attributes of a root.
    ///
    /// Directories are named by descriptor (`/proc/self/fd/7`). That keeps paths within the limits of the mount calls
    /// (256 bytes each, 4096 in all), needs no escaping, and does not show the step the layout of the host in
    /// `/proc/mounts`.
    pub(crate) fn mount(&self, attributes: MountAttrFlags, place: BorrowedFd<'_>) -> Result<(), Failure> {
        let failure = |(errno, detail): (Errno, Option<String>)| {
            Failure::new(Doing::Overlay, None, errno).detail(detail)
        };
        match self.mount_new(attributes) {
            Ok(mount) => attach(mount.as_fd(), place).doing(Doing::Overlay),
            Err((Errno::INVAL | Errno::NOSYS, detail)) => {
                self.mount_old(attributes, place).map_err(|errno| failure((errno, detail)))
            }
            Err(reason) => Err(failure(reason)),
        }
    }

    fn mount_new(&self, attributes: MountAttrFlags) -> Result<OwnedFd, (Errno, Option<String>)> {
        let context =
            rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| (errno, None))?;
        let make = || {
            for (key, value) in FORMAT {
                match value {
                    Some(value) => rustix::mount::fsconfig_set_string(&context, key, value)?,
                    None => rustix::mount::fsconfig_set_flag(&context, key)?,
                }
            }
            for lower in &self.lowers {
                rustix::mount::fsconfig_set_string(&context, "lowerdir+", named(*lower))?;
            }
            if let Some((upper, work)) = self.changes {
                rustix::mount::fsconfig_set_string(&context, "upperdir", named(upper))?;
                rustix::mount::fsconfig_set_string(&context, "workdir", named(work))?;
                rustix::mount::fsconfig_set_flag(&context, "volatile")?;
            }
            rustix::mount::fsconfig_create(&context)?;
            rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        };
        make().map_err(|errno| (errno, complaint(&context)))
    }

    /// With mount(2), whose options must fit into a page: the working directory is made `/proc/self/fd` for the time
    /// of the call, so that a lower takes as many bytes as its number has digits.
    fn mount_old(&self, attributes: MountAttrFlags, place: BorrowedFd<'_>) -> Result<(), Errno> {
        let number = |fd: &BorrowedFd<'_>| fd.as_raw_fd().to_string();
        let lowers: Vec<String> = self.lowers.iter().map(number).collect();
        let mut options = format!("lowerdir={}", lowers.join(":"));
        for (key, value) in FORMAT {
            options.push(',');
            options.push_str(key);
            if let Some(value) = value {
                options.push('=');
                options.push_str(value);
            }
        }
        if let Some((upper, work)) = &self.changes {
            options.push_str(&format!(",upperdir={},workdir={},volatile", number(upper), number(work)));
        }
        let mut flags = MountFlags::empty();
        for (attribute, flag) in [
            (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
            (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
            (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        ] {
            flags.set(flag, attributes.contains(attribute));
        }
        let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
        let before = rustix::fs::open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        rustix::process::chdir("/proc/self/fd")?;
        let result = rustix::mount::mount("overlay", number(&place), "overlay", flags, options.as_c_str());
        rustix::process::fchdir(&before)?;
        result
    }
}

/// A path to what `fd` refers to, for calls that want one.
pub(crate) fn named(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// What the kernel says about a mount that failed: lines like `e overlay: upper fs does not support tmpfile`.
fn complaint(context: &OwnedFd) -> Option<String> {
    let mut file = File::from(rustix::io::dup(context).ok()?);
    let mut lines = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..length]);
        // Errors and warnings; notices (`i`) are not about what went wrong.
        if let Some(text) = line.trim_end().strip_prefix("e ").or_else(|| line.trim_end().strip_prefix("w "))
        {
            lines.push(spelled_out(text));
        }
    }
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// A complaint in which directories have their own names again.
fn spelled_out(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.starts_with("/proc/self/fd/") {
        true => std::fs::read_link(word).map_or_else(|_| word.to_owned(), |path| path.display().to_string()),
        false => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Makes `root`, which is attached in a mount that lies over the present root, the root of this mount namespace, and
/// forgets everything that was mounted before.
pub(crate) fn pivot(root: BorrowedFd<'_>) -> Result<(), Errno> {
    let before =
        rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root now lies over the new one, and the staging area over that: unmounting takes the topmost.
    rustix::process::fchdir(&before)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    // The whole sandbox rests on this: above the root is nothing but the root.
    let mount = |path: &str| {
        let flags = AtFlags::NO_AUTOMOUNT;
        rustix::fs::statx(CWD, path, flags, StatxFlags::MNT_ID | StatxFlags::INO)
            .map(|stat| (stat.stx_mnt_id, stat.stx_ino))
    };
    if mount("/..")? != mount("/")? || mount("/")? != mount(".")? {
        return Err(Errno::BUSY);
    }
    Ok(())
}
