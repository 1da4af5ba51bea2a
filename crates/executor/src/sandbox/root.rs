//! The root file system of a step: built in a mount namespace of its own, then made the root.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::failure::{Doing, Failure, While as _};
use crate::identity::Identity;
use crate::sandbox::mount::{self, Overlay, READ_ONLY, UNTRUSTED};
use crate::sandbox::resolve::{self, Kind, Made};
use crate::sandbox::{etc, system};
use crate::step::{Access, Base, Mount, MountKind, Root, Source, Step, User};

/// Enough for secrets, the generated files of `/etc` and stubs; a limit so that a mistake cannot eat the memory.
const STAGING_BYTES: u64 = 64 << 20;

/// What overlayfs needs beside the changes, in the scratch directory.
pub(crate) const WORK: &str = "work";

/// The mount points of a step, as a layer, in the scratch directory.
pub(crate) const STUBS: &str = "stubs";

/// A root file system that is attached somewhere in this mount namespace, ready to be pivoted to.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) root: OwnedFd,
    /// The mount points that had to be made in what the step changes, parents first.
    pub(crate) made: Vec<Made>,
}

/// Builds the root of `step`. This process must be in its own mount namespace, and for a fresh `/proc` the first of
/// its pid namespace.
pub(crate) fn build(step: &Step, identity: Identity, machine: system::Parts) -> Result<Built, Failure> {
    // Everything of the host is opened before anything is mounted over it.
    let host = system::Host::open()?;
    let etc = etc::Files::of_host(step)?;
    let mut mounts = step.mounts.iter().map(Prepared::open).collect::<Result<Vec<_>, _>>()?;
    mounts.sort_by_key(|prepared| prepared.mount.target.components().count());
    let roots = Roots::open(&step.root)?;

    let staging = Staging::attach(identity)?;
    let root = staging.directory("root")?;
    roots.mount(&step.root, &staging, &stub_targets(&mounts), root.as_fd())?;
    let root = staging.directory("root")?;

    let mut made = Vec::new();
    system::mount(root.as_fd(), &host, machine, step.shm_size, &mut made)?;
    for (name, content) in etc.files() {
        let target = Path::new("/etc").join(name);
        let file = staging.file(content, 0o644, &User::default())?;
        place(root.as_fd(), &target, file.as_fd(), UNTRUSTED | READ_ONLY, &mut made)?;
    }
    for prepared in &mounts {
        prepared.mount(&staging, root.as_fd(), &mut made)?;
    }
    Ok(Built { root, made })
}

/// The memory in which the root is put together: nothing of it is visible to the step but the files bound out of it.
struct Staging {
    top: OwnedFd,
    identity: Identity,
    count: std::cell::Cell<u32>,
}

impl Staging {
    /// Attaches it over `/`, where it hides nothing that is still needed: descriptors of the host's directories, and
    /// paths from this process' own root, keep meaning what they meant.
    fn attach(identity: Identity) -> Result<Self, Failure> {
        let top = mount::tmpfs(0o755, Some(STAGING_BYTES), UNTRUSTED)?;
        let root = mount::open_host(Path::new("/"))?;
        mount::attach(top.as_fd(), root.as_fd()).doing(Doing::Tmpfs)?;
        Ok(Self { top, identity, count: 0.into() })
    }

    fn unique(&self) -> String {
        self.count.set(self.count.get() + 1);
        self.count.get().to_string()
    }

    /// Opens a directory, made when missing, and what is mounted on it.
    fn directory(&self, name: &str) -> Result<OwnedFd, Failure> {
        match rustix::fs::mkdirat(&self.top, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).doing(Doing::MakeMountPoint),
        }
        rustix::fs::openat(&self.top, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .doing(Doing::Open)
    }

    /// A file with `content`.
    fn file(&self, content: &[u8], mode: u32, owner: &User) -> Result<OwnedFd, Failure> {
        let name = self.unique();
        let write = || -> Result<OwnedFd, std::io::Error> {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&self.top, &name, flags, Mode::from_raw_mode(0o600))?;
            let mut file = std::fs::File::from(fd);
            file.write_all(content)?;
            self.identity.give(&file, owner.uid, owner.gid)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            Ok(rustix::fs::openat(&self.top, &name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
        };
        write().doing(Doing::WriteFile)
    }

    /// An overlay of layers, to bind something out of.
    fn layers(&self, lowers: &[OwnedFd]) -> Result<OwnedFd, Failure> {
        let name = self.unique();
        let place = self.directory(&name)?;
        match lowers {
            // Overlayfs wants two directories.
            [] => {}
            [only] => {
                let mount = mount::clone(only.as_fd(), UNTRUSTED | READ_ONLY).doing(Doing::Bind)?;
                mount::attach(mount.as_fd(), place.as_fd()).doing(Doing::Bind)?;
            }
            _ => {
                let lowers = lowers.iter().map(AsFd::as_fd).collect();
                Overlay { lowers, changes: None }.mount(UNTRUSTED | READ_ONLY, place.as_fd())?;
            }
        }
        self.directory(&name)
    }

    /// A place that shows the directory `lower`, and forgets what is written there.
    fn discarding(&self, lower: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
        let (changes, name) = (self.unique(), self.unique());
        // Its own tmpfs: the size limit of the staging area is not meant for what steps write.
        let memory = mount::tmpfs(0o755, None, UNTRUSTED)?;
        mount::attach(memory.as_fd(), self.directory(&changes)?.as_fd()).doing(Doing::Tmpfs)?;
        let make = |name: &str| -> Result<OwnedFd, Failure> {
            rustix::fs::mkdirat(&memory, name, Mode::from_raw_mode(0o755)).doing(Doing::MakeMountPoint)?;
            rustix::fs::openat(&memory, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .doing(Doing::Open)
        };
        let (upper, work) = (make("upper")?, make("work")?);
        let like = rustix::fs::fstat(lower).doing(Doing::Bind)?;
        rustix::fs::chmodat(
            &memory,
            "upper",
            Mode::from_raw_mode(like.st_mode),
            rustix::fs::AtFlags::empty(),
        )
        .doing(Doing::Bind)?;
        let place = self.directory(&name)?;
        Overlay { lowers: vec![lower], changes: Some((upper.as_fd(), work.as_fd())) }
            .mount(UNTRUSTED, place.as_fd())?;
        self.directory(&name)
    }

    /// A copy of the file `source`, in memory, that may be written to: overlayfs shows directories only. What is no
    /// file (a pipe could block) is refused.
    fn copy(&self, source: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
        // Its own tmpfs, as for directories.
        let memory = mount::tmpfs(0o755, None, UNTRUSTED)?;
        mount::attach(memory.as_fd(), self.directory(&self.unique())?.as_fd()).doing(Doing::Tmpfs)?;
        let write = || -> Result<OwnedFd, std::io::Error> {
            let like = rustix::fs::fstat(source)?;
            if FileType::from_raw_mode(like.st_mode) != FileType::RegularFile {
                return Err(Errno::OPNOTSUPP.into());
            }
            // The descriptor only names the file.
            let mut read = std::fs::File::open(format!("/proc/self/fd/{}", source.as_raw_fd()))?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let copy = rustix::fs::openat(&memory, "file", flags, Mode::from_raw_mode(0o600))?;
            let mut copy = std::fs::File::from(copy);
            std::io::copy(&mut read, &mut copy)?;
            self.identity.give(&copy, like.st_uid, like.st_gid)?;
            rustix::fs::fchmod(&copy, Mode::from_raw_mode(like.st_mode))?;
            copy.set_modified(read.metadata()?.modified()?)?;
            Ok(rustix::fs::openat(&memory, "file", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
        };
        write().doing(Doing::WriteFile)
    }
}

/// The directories of a [`Root`], opened.
struct Roots {
    lowers: Vec<OwnedFd>,
    changes: Option<(OwnedFd, OwnedFd)>,
}

impl Roots {
    fn open(root: &Root) -> Result<Self, Failure> {
        let open_all = |paths: &[PathBuf]| {
            paths.iter().map(|path| mount::open_host(path)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match root {
            Root::Overlay { lowers, upper, scratch } => Self {
                lowers: open_all(lowers)?,
                changes: Some((mount::open_host(upper)?, mount::open_host(scratch)?)),
            },
            Root::ReadOnly { lowers } => Self { lowers: open_all(lowers)?, changes: None },
            Root::Directory(path) => Self { lowers: vec![mount::open_host(path)?], changes: None },
        })
    }

    /// Device nodes of a root never work (`nodev`), also for real root: there is no device cgroup to tell the
    /// harmless ones from the disks. The ones in `/dev` are binds from the host.
    fn mount(
        &self,
        root: &Root,
        staging: &Staging,
        targets: &BTreeMap<PathBuf, Kind>,
        place: BorrowedFd<'_>,
    ) -> Result<(), Failure> {
        let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
        let mut lowers: Vec<BorrowedFd<'_>> = self.lowers.iter().map(AsFd::as_fd).collect();
        match (root, &self.changes) {
            (Root::Directory(path), _) => {
                let mount = mount::clone(lowers[0], attributes).doing_to(Doing::Bind, path)?;
                mount::attach(mount.as_fd(), place).doing_to(Doing::Bind, path)
            }
            (_, Some((upper, scratch))) => {
                let stubs = stubs(scratch.as_fd(), targets)?;
                let work = subdirectory(scratch.as_fd(), WORK)?;
                lowers.push(stubs.as_fd());
                Overlay { lowers, changes: Some((upper.as_fd(), work.as_fd())) }.mount(attributes, place)
            }
            (_, None) => {
                attributes |= READ_ONLY;
                let stubs = stubs(staging.top.as_fd(), targets)?;
                // With no changes overlayfs wants two lowers.
                let empty = subdirectory(staging.top.as_fd(), "empty")?;
                lowers.push(stubs.as_fd());
                lowers.push(empty.as_fd());
                Overlay { lowers, changes: None }.mount(attributes, place)
            }
        }
    }
}

fn subdirectory(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Failure> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)).doing_to(Doing::MakeMountPoint, name)?;
    rustix::fs::openat(parent, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing_to(Doing::Open, name)
}

/// The mount points of a step, by the names it gives them.
fn stub_targets(mounts: &[Prepared<'_>]) -> BTreeMap<PathBuf, Kind> {
    let standard = system::TARGETS.into_iter().map(|name| (PathBuf::from(name), Kind::Directory));
    let etc = etc::NAMES.into_iter().map(|name| (Path::new("etc").join(name), Kind::File));
    let own = mounts
        .iter()
        .map(|prepared| (resolve::relative(&prepared.mount.target).to_path_buf(), prepared.kind));
    standard.chain(etc).chain(own).collect()
}

/// Makes a directory that holds nothing but mount points, to be the lowest layer of all: what the image has lies
/// over it, and what the image lacks is there without the step's changes having to hold it. So a mount leaves no
/// trace in the upper directory, unless the step really puts something there.
fn stubs(parent: BorrowedFd<'_>, targets: &BTreeMap<PathBuf, Kind>) -> Result<OwnedFd, Failure> {
    let top = subdirectory(parent, STUBS)?;
    for (target, kind) in targets {
        // A target with `..` or below a file cannot be made here; mounting it makes it, or says what is wrong.
        match resolve::open_or_make(top.as_fd(), target, *kind, &mut Vec::new()) {
            Ok(_) | Err(Errno::NOTDIR) => {}
            Err(errno) => return Err(errno).doing_to(Doing::MakeMountPoint, target),
        }
    }
    Ok(top)
}

/// A mount of the step whose source has been opened.
struct Prepared<'a> {
    mount: &'a Mount,
    source: Opened,
    /// What its target must be.
    kind: Kind,
}

enum Opened {
    Nothing,
    Place(OwnedFd),
    Layers(Vec<OwnedFd>),
}

impl<'a> Prepared<'a> {
    fn open(mount: &'a Mount) -> Result<Self, Failure> {
        let (source, kind) = match &mount.kind {
            MountKind::Tmpfs { .. } => (Opened::Nothing, Kind::Directory),
            MountKind::File { .. } => (Opened::Nothing, Kind::File),
            MountKind::Bind { source: Source { base: Base::Host(path), inside }, .. } => {
                let mut place = mount::open_host(path)?;
                if !inside.as_os_str().is_empty() {
                    place = resolve::open(place.as_fd(), inside).doing_to(Doing::Open, path.join(inside))?;
                }
                let directory = mount::is_directory(place.as_fd()).doing_to(Doing::Open, path)?;
                (Opened::Place(place), if directory { Kind::Directory } else { Kind::File })
            }
            MountKind::Bind { source: Source { base: Base::Layers(lowers), inside }, .. } => {
                let opened: Vec<OwnedFd> =
                    lowers.iter().map(|path| mount::open_host(path)).collect::<Result<_, _>>()?;
                // What the stub must be; when it is mounted, the overlay itself is asked.
                let directory = resolve::open_in_layers(&opened, inside)
                    .is_none_or(|found| mount::is_directory(found.as_fd()).unwrap_or(true));
                (Opened::Layers(opened), if directory { Kind::Directory } else { Kind::File })
            }
        };
        Ok(Self { mount, source, kind })
    }

    fn mount(&self, staging: &Staging, root: BorrowedFd<'_>, made: &mut Vec<Made>) -> Result<(), Failure> {
        let target = &self.mount.target;
        match (&self.mount.kind, &self.source) {
            (MountKind::Tmpfs { size, mode, owner }, _) => {
                let tmpfs = mount::tmpfs(*mode, *size, UNTRUSTED)?;
                let top = rustix::fs::openat(
                    &tmpfs,
                    ".",
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                    Mode::empty(),
                )
                .doing(Doing::Tmpfs)?;
                staging.identity.give(top, owner.uid, owner.gid).doing_to(Doing::Tmpfs, target)?;
                let place = find(root, target, Kind::Directory, made)?;
                mount::attach(tmpfs.as_fd(), place.as_fd()).doing_to(Doing::Tmpfs, target)
            }
            (MountKind::File { content, mode, owner }, _) => {
                let file = staging.file(&content.0, *mode, owner)?;
                place(root, target, file.as_fd(), UNTRUSTED | READ_ONLY, made)
            }
            (MountKind::Bind { access, .. }, Opened::Place(source)) => {
                bind(staging, root, target, source.as_fd(), *access, made)
            }
            (MountKind::Bind { access, source }, Opened::Layers(lowers)) => {
                let layers = staging.layers(lowers)?;
                let inside =
                    resolve::open(layers.as_fd(), &source.inside).doing_to(Doing::Open, &source.inside)?;
                bind(staging, root, target, inside.as_fd(), *access, made)
            }
            (MountKind::Bind { .. }, Opened::Nothing) => {
                Err(Failure::new(Doing::Bind, Some(target), Errno::INVAL))
            }
        }
    }
}

fn bind(
    staging: &Staging,
    root: BorrowedFd<'_>,
    target: &Path,
    source: BorrowedFd<'_>,
    access: Access,
    made: &mut Vec<Made>,
) -> Result<(), Failure> {
    match access {
        Access::ReadOnly => place(root, target, source, UNTRUSTED | READ_ONLY, made),
        Access::ReadWrite => place(root, target, source, UNTRUSTED, made),
        Access::Discarded => {
            let copy = if mount::is_directory(source).doing_to(Doing::Bind, target)? {
                staging.discarding(source)?
            } else {
                staging.copy(source)?
            };
            place(root, target, copy.as_fd(), UNTRUSTED, made)
        }
    }
}

/// Shows `source` at `target`, which is made when missing.
fn place(
    root: BorrowedFd<'_>,
    target: &Path,
    source: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    made: &mut Vec<Made>,
) -> Result<(), Failure> {
    let directory = mount::is_directory(source).doing_to(Doing::Bind, target)?;
    let kind = if directory { Kind::Directory } else { Kind::File };
    let place = find(root, target, kind, made)?;
    let mount = mount::clone(source, attributes).doing_to(Doing::Bind, target)?;
    mount::attach(mount.as_fd(), place.as_fd()).doing_to(Doing::Bind, target)
}

/// Finds or makes a mount point, anywhere but in the kernel's own file systems: what is mounted over an entry of
/// `/proc` could undo what protects the others.
fn find(root: BorrowedFd<'_>, target: &Path, kind: Kind, made: &mut Vec<Made>) -> Result<OwnedFd, Failure> {
    let place = resolve::open_or_make(root, target, kind, made).doing_to(Doing::FindMountPoint, target)?;
    let file_system = rustix::fs::fstatfs(&place).doing_to(Doing::FindMountPoint, target)?.f_type;
    if system::is_kernel_interface(file_system as i64) || same_place(place.as_fd(), root) {
        return Err(Failure::new(Doing::FindMountPoint, Some(target), Errno::PERM));
    }
    Ok(place)
}

fn same_place(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

/// Masks `path` of the root, if it exists.
pub(crate) fn protect(
    root: BorrowedFd<'_>,
    path: &str,
    by: impl FnOnce(BorrowedFd<'_>) -> Result<OwnedFd, Failure>,
) -> Result<(), Failure> {
    let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let place = match resolve::open_with(root, Path::new(path), OFlags::PATH | OFlags::NOFOLLOW, flags) {
        // What this kernel does not have, or this machine does not let us see, needs no protection.
        Err(Errno::NOENT | Errno::ACCESS) => return Ok(()),
        result => result.doing_to(Doing::Mask, path)?,
    };
    let mount = by(place.as_fd())?;
    mount::attach(mount.as_fd(), place.as_fd()).doing_to(Doing::Mask, path)
}
