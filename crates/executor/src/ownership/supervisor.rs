//! The process that answers the calls. It is outside of the sandbox's pid namespace, where the step cannot reach it, but
//! in its mount namespace, where names mean the same.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::{CapabilitySet, LinkNameSpaceType};
use serde::{Deserialize, Serialize};

use crate::failure::{Doing, Failure, While as _};
use crate::ownership::busybox::{self, Asked};
use crate::ownership::credentials::{Beliefs, Credentials, Process};
use crate::ownership::ledger::{Entry, Ledger, self_fd};
use crate::ownership::task::Task;
use crate::ownership::{Owned, PER_REPORT, Special};
use crate::sandbox::{mount, passing};
use crate::step::{Root, Step};
use crate::sys::{self, Answer, Fork, Notification};
use crate::wire;

/// What the supervisor tells when the step is over.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    Owned(Vec<Owned>),
    Failed(Failure),
}

/// The supervisor, seen from the helper that started it.
#[derive(Debug)]
pub(crate) struct Supervisor {
    process: Pid,
    told: UnixStream,
    link: Link,
}

/// The program's side: how the listener gets to the supervisor.
#[derive(Debug)]
pub(crate) struct Link(UnixStream);

impl Link {
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Gives the listener, and the mount namespace that this process is in, to the supervisor, and waits until it
    /// listens.
    pub(crate) fn hand_over(self, listener: &OwnedFd) -> Result<(), Failure> {
        let namespace =
            rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .doing(Doing::Listener)?;
        passing::send_and_wait(&self.0, &[listener.as_fd(), namespace.as_fd()]).doing(Doing::Listener)
    }
}

impl Supervisor {
    /// Starts it, in the present namespaces. The present process must be in the step's user namespace, and not yet have
    /// made its pid namespace.
    pub(crate) fn start(step: &Step) -> Result<Self, Failure> {
        let (link, its_link) = UnixStream::pair().doing(Doing::Talk)?;
        let (told, its_told) = UnixStream::pair().doing(Doing::Talk)?;
        match sys::fork().doing(Doing::Fork)? {
            Fork::Parent(process) => Ok(Self { process, told, link: Link(link) }),
            Fork::Child => {
                let finished = supervise(step, &its_link, &its_told);
                tell(its_told, finished);
                sys::exit_now(0)
            }
        }
    }

    /// For the process that becomes the sandbox.
    pub(crate) fn into_link(self) -> Link {
        self.link
    }

    /// Waits until it has answered everything; no process of the step may be left.
    pub(crate) fn finish(self) -> Result<Vec<Owned>, Failure> {
        let Self { process, mut told, link } = self;
        // If the sandbox never came to hand over its listener, this is how the supervisor learns it.
        drop(link);
        let mut all = Vec::new();
        let result = loop {
            match wire::receive(&mut told).doing(Doing::Ownership) {
                Ok(Some(Told::Owned(mut owned))) => all.append(&mut owned),
                Ok(Some(Told::Failed(failure))) | Err(failure) => break Err(failure),
                Ok(None) => break Ok(all),
            }
        };
        let ended = rustix::process::waitpid(Some(process), WaitOptions::empty()).doing(Doing::Ownership)?;
        if ended.is_some_and(|(_, status)| status.exit_status() != Some(0)) {
            // Killed: what it knew is lost, and with it the step.
            return Err(Failure::new(Doing::Ownership, None, Errno::CHILD));
        }
        result
    }
}

fn tell(mut told: UnixStream, finished: Result<Vec<Owned>, Failure>) {
    // If the helper is gone there is nobody to tell.
    match finished {
        Ok(owned) => {
            for part in owned.chunks(PER_REPORT) {
                if wire::send(&mut told, &Told::Owned(part.to_vec())).is_err() {
                    return;
                }
            }
        }
        Err(failure) => drop(wire::send(&mut told, &Told::Failed(failure))),
    }
}

fn supervise(step: &Step, link: &UnixStream, told: &UnixStream) -> Result<Vec<Owned>, Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).doing(Doing::Fork)?;
    rustix::thread::set_name(c"wbuild-owners").doing(Doing::Fork)?;
    sys::keep_only(&[link.as_fd(), told.as_fd()]).doing(Doing::Fork)?;
    let proc = mount::open_host(Path::new("/proc"))?;
    let changes = match &step.root {
        Root::Overlay { upper, .. } => Some(mount::open_host(upper)?),
        Root::ReadOnly { .. } | Root::Directory(_) => None,
    };
    let mut received = passing::receive(link).doing(Doing::Listener)?.into_iter();
    // The sandbox may end before it comes to this.
    let Some((listener, namespace)) = received.next().zip(received.next()) else { return Ok(Vec::new()) };
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .doing(Doing::Listener)?;
    // Files are made with the mode that the caller computes from its own mask.
    rustix::process::umask(Mode::empty());
    sys::notify_synchronously(listener.as_fd());
    let ledger = Ledger::new(proc, changes).doing(Doing::Listener)?;
    let first = Credentials::of(step);
    let mut desk = Desk { listener, step, ledger, beliefs: Beliefs::new(first), failure: None };
    passing::ready(link).doing(Doing::Listener)?;
    desk.serve().doing(Doing::Ownership)?;
    match desk.failure {
        Some(failure) => Err(failure),
        None => Ok(desk.ledger.into_owned()),
    }
}

/// Where the calls arrive.
struct Desk<'a> {
    listener: OwnedFd,
    step: &'a Step,
    ledger: Ledger,
    beliefs: Beliefs,
    /// The first thing that could not be remembered. The step goes on, and fails at its end.
    failure: Option<Failure>,
}

/// `-1`, as an id: leave it as it is.
const UNCHANGED: u32 = u32::MAX;

/// The kernel's limits (`XATTR_NAME_MAX`, `NGROUPS_MAX`), and the size of the largest `security.capability`.
const NAME_LIMIT: usize = 256;
const GROUPS_LIMIT: usize = 65_536;
const CAPABILITY_LIMIT: usize = 64;

impl Desk<'_> {
    /// Answers until no process is left that could call.
    fn serve(&mut self) -> Result<(), Errno> {
        loop {
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            }
            let ready = fds[0].revents();
            if !ready.contains(PollFlags::IN) {
                return Ok(());
            }
            let notification = match sys::notification(self.listener.as_fd()) {
                Ok(notification) => notification,
                // The caller was killed, or a signal came.
                Err(Errno::NOENT | Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            let answer = self.respond(&notification).unwrap_or_else(Answer::Fails);
            sys::answer(self.listener.as_fd(), &notification, answer)?;
        }
    }

    fn respond(&mut self, call: &Notification) -> Result<Answer, Errno> {
        let task = Task::open(self.ledger.proc(), call.thread)?;
        if !sys::still_waits(self.listener.as_fd(), call) {
            return Err(Errno::SRCH);
        }
        let a = call.arguments;
        let follow = AtFlags::empty();
        match call.number {
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chown => {
                let file = task.file(libc::AT_FDCWD, &task.read_path(a[0])?, follow)?;
                self.chown(&task, file.as_fd(), id(a[1]), id(a[2]))
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lchown => {
                let file = task.file(libc::AT_FDCWD, &task.read_path(a[0])?, AtFlags::SYMLINK_NOFOLLOW)?;
                self.chown(&task, file.as_fd(), id(a[1]), id(a[2]))
            }
            libc::SYS_fchownat => {
                let flags = AtFlags::from_bits(id(a[4])).ok_or(Errno::INVAL)?;
                let file = task.file(descriptor(a[0]), &task.read_path(a[1])?, flags)?;
                self.chown(&task, file.as_fd(), id(a[2]), id(a[3]))
            }
            libc::SYS_fchown => {
                let file = task.descriptor(descriptor(a[0]))?;
                self.chown(&task, file.as_fd(), id(a[1]), id(a[2]))
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mknod => self.mknod(&task, libc::AT_FDCWD, a[0], id(a[1]), a[2]),
            libc::SYS_mknodat => self.mknod(&task, descriptor(a[0]), a[1], id(a[2]), a[3]),
            libc::SYS_setxattr => self.setxattr(&task, a, follow),
            libc::SYS_lsetxattr => self.setxattr(&task, a, AtFlags::SYMLINK_NOFOLLOW),
            libc::SYS_fsetxattr => self.setxattr(&task, a, AtFlags::EMPTY_PATH),
            number => self.identity(&task, number, a),
        }
    }

    fn credentials(&mut self, task: &Task) -> Result<Credentials, Errno> {
        if self.beliefs.are_all_alike() {
            return Ok(self.beliefs.first().clone());
        }
        let (process, parent) = task.processes()?;
        Ok(self.beliefs.of(process, parent))
    }

    fn may(&mut self, task: &Task, capability: CapabilitySet) -> Result<bool, Errno> {
        let allowed = self.step.privileges.capabilities;
        Ok(self.credentials(task)?.may(capability, allowed))
    }

    /// What is remembered must be remembered: else the layer would be silently wrong.
    fn remember(&mut self, file: BorrowedFd<'_>, change: impl FnOnce(&mut Entry)) -> Result<(), Errno> {
        self.ledger.update(file, change).inspect_err(|errno| {
            let name = rustix::fs::readlinkat(self.ledger.proc(), self_fd(file), Vec::new());
            let path =
                name.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned()).unwrap_or_default();
            self.failure
                .get_or_insert_with(|| Failure::new(Doing::Ownership, Some(Path::new(&path)), *errno));
        })
    }

    fn chown(&mut self, task: &Task, file: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<Answer, Errno> {
        if !self.may(task, CapabilitySet::CHOWN)? {
            self.check_unprivileged_chown(task, file, uid, gid)?;
        }
        let (uid, gid) = self.really_asked(task, uid, gid)?;
        // What the one id can express of it: the file is copied up, its set-id bits and capabilities go, its change time
        // is now; and where the file system is read-only it fails.
        let user = (uid != UNCHANGED).then(|| Uid::from_raw(self.step.user.uid));
        let group = (gid != UNCHANGED).then(|| Gid::from_raw(self.step.user.gid));
        rustix::fs::chownat(file, "", user, group, AtFlags::EMPTY_PATH)?;
        self.remember(file, |entry| {
            if uid != UNCHANGED {
                entry.uid = Some(uid);
            }
            if gid != UNCHANGED {
                entry.gid = Some(gid);
            }
            entry.capability = None;
        })?;
        Ok(Answer::Value(0))
    }

    /// Takes back an id that busybox only sets because it saw it.
    fn really_asked(&self, task: &Task, uid: u32, gid: u32) -> Result<(u32, u32), Errno> {
        let shown = &self.step.user;
        if uid == UNCHANGED || gid == UNCHANGED || (uid != shown.uid && gid != shown.gid) {
            return Ok((uid, gid));
        }
        let (executable, line) = task.command()?;
        Ok(match busybox::asked(&executable, &line) {
            Some(Asked { user: false, .. }) if uid == shown.uid => (UNCHANGED, gid),
            Some(Asked { group: false, .. }) if gid == shown.gid => (uid, UNCHANGED),
            _ => (uid, gid),
        })
    }

    /// The owner may give a file to a group that it is in, and to nobody else.
    fn check_unprivileged_chown(
        &mut self,
        task: &Task,
        file: BorrowedFd<'_>,
        uid: u32,
        gid: u32,
    ) -> Result<(), Errno> {
        let credentials = self.credentials(task)?;
        let known = self.ledger.get(file);
        let owner = known.uid.unwrap_or(self.step.user.uid);
        let group = known.gid.unwrap_or(self.step.user.gid);
        let mine = credentials.user.file_system == owner;
        let user_stays = uid == UNCHANGED || uid == owner;
        let group_allowed = gid == UNCHANGED || gid == group || credentials.in_group(gid);
        if mine && user_stays && group_allowed { Ok(()) } else { Err(Errno::PERM) }
    }

    /// A device becomes an empty file, and is remembered.
    fn mknod(
        &mut self,
        task: &Task,
        directory: i32,
        path: u64,
        mode: u32,
        device: u64,
    ) -> Result<Answer, Errno> {
        let path = task.read_path(path)?;
        let (parent, name) = task.parent(directory, &path)?;
        // As the call has it: twelve bits of major between the eight and twelve of minor.
        let device = device & 0xffff_ffff;
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        // Overlayfs itself takes 0:0 for a whiteout, and refuses to make one.
        if !self.may(task, CapabilitySet::MKNOD)? || (major, minor) == (0, 0) {
            return Err(Errno::PERM);
        }
        let mask = task.status()?.umask;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let permissions = Mode::from_raw_mode(mode & 0o7777 & !mask);
        let file = rustix::fs::openat(&parent, name, flags, permissions)?;
        let block = FileType::from_raw_mode(mode) == FileType::BlockDevice;
        self.remember(file.as_fd(), |entry| entry.special = Some(Special { block, major, minor }))?;
        Ok(Answer::Value(0))
    }

    /// File capabilities; every other xattr is the kernel's business.
    fn setxattr(&mut self, task: &Task, a: [u64; 6], flags: AtFlags) -> Result<Answer, Errno> {
        let name = task.read_string(a[1], NAME_LIMIT, Errno::RANGE)?;
        if name.as_c_str() != c"security.capability" {
            return Ok(Answer::Continue);
        }
        let size = usize::try_from(a[3]).ok().filter(|size| *size <= CAPABILITY_LIMIT).ok_or(Errno::INVAL)?;
        let file = if flags.contains(AtFlags::EMPTY_PATH) {
            task.descriptor(descriptor(a[0]))?
        } else {
            task.file(libc::AT_FDCWD, &task.read_path(a[0])?, flags)?
        };
        if !self.may(task, CapabilitySet::SETFCAP)? {
            return Err(Errno::PERM);
        }
        let value = task.read(a[2], size)?;
        if value.len() != size {
            return Err(Errno::FAULT);
        }
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::PERM);
        }
        let known = self.ledger.get(file.as_fd()).capability.is_some();
        match XattrFlags::from_bits(id(a[4])) {
            Some(flags) if flags.contains(XattrFlags::CREATE) && known => return Err(Errno::EXIST),
            Some(flags) if flags.contains(XattrFlags::REPLACE) && !known => return Err(Errno::NODATA),
            Some(_) => {}
            None => return Err(Errno::INVAL),
        }
        // A change that changes nothing but copies the file up, and fails where it could not be changed.
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(self.ledger.proc(), self_fd(file.as_fd()), mode, AtFlags::empty())?;
        self.remember(file.as_fd(), |entry| entry.capability = Some(value))?;
        Ok(Answer::Value(0))
    }

    /// The calls about who a process is.
    fn identity(&mut self, task: &Task, number: i64, a: [u64; 6]) -> Result<Answer, Errno> {
        let mut credentials = self.credentials(task)?;
        if let Some(answer) = ask(task, &credentials, number, a)? {
            return Ok(answer);
        }
        let allowed = self.step.privileges.capabilities;
        let set_user = credentials.may(CapabilitySet::SETUID, allowed);
        let set_group = credentials.may(CapabilitySet::SETGID, allowed);
        let value = change(task, &mut credentials, number, a, (set_user, set_group))?;
        if !(self.beliefs.are_all_alike() && credentials == *self.beliefs.first()) {
            let (process, _): (Process, _) = task.processes()?;
            self.beliefs.set(process, credentials);
        }
        Ok(Answer::Value(value))
    }
}

/// Answers what a process asks about itself; `None` if it does not ask but change.
fn ask(task: &Task, credentials: &Credentials, number: i64, a: [u64; 6]) -> Result<Option<Answer>, Errno> {
    let (user, group) = (credentials.user, credentials.group);
    let value = match number {
        libc::SYS_getuid => user.real,
        libc::SYS_geteuid => user.effective,
        libc::SYS_getgid => group.real,
        libc::SYS_getegid => group.effective,
        libc::SYS_getresuid | libc::SYS_getresgid => {
            let ids = if number == libc::SYS_getresuid { user } else { group };
            for (address, id) in a.into_iter().zip([ids.real, ids.effective, ids.saved]) {
                task.write(address, &id.to_ne_bytes())?;
            }
            0
        }
        libc::SYS_getgroups => {
            let count = u32::try_from(credentials.groups.len()).map_err(|_| Errno::INVAL)?;
            let room = id(a[0]);
            if room != 0 {
                if room < count {
                    return Err(Errno::INVAL);
                }
                let bytes: Vec<u8> =
                    credentials.groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
                task.write(a[1], &bytes)?;
            }
            count
        }
        _ => return Ok(None),
    };
    Ok(Some(Answer::Value(value.into())))
}

/// Makes the change that a process asks for, and returns what the call returns.
fn change(
    task: &Task,
    credentials: &mut Credentials,
    number: i64,
    a: [u64; 6],
    (set_user, set_group): (bool, bool),
) -> Result<i64, Errno> {
    let (user, group) = (&mut credentials.user, &mut credentials.group);
    let (one, two, three) = (id(a[0]), id(a[1]), id(a[2]));
    match number {
        libc::SYS_setuid => user.set(one, set_user)?,
        libc::SYS_setgid => group.set(one, set_group)?,
        libc::SYS_setreuid => user.set_re(one, two, set_user)?,
        libc::SYS_setregid => group.set_re(one, two, set_group)?,
        libc::SYS_setresuid => user.set_res([one, two, three], set_user)?,
        libc::SYS_setresgid => group.set_res([one, two, three], set_group)?,
        libc::SYS_setfsuid => return Ok(user.set_file_system(one, set_user).into()),
        libc::SYS_setfsgid => return Ok(group.set_file_system(one, set_group).into()),
        libc::SYS_setgroups => {
            if !set_group {
                return Err(Errno::PERM);
            }
            let count = one as usize;
            if count > GROUPS_LIMIT {
                return Err(Errno::INVAL);
            }
            let bytes = if count == 0 { Vec::new() } else { task.read(a[1], count * 4)? };
            if bytes.len() != count * 4 {
                return Err(Errno::FAULT);
            }
            let (groups, _) = bytes.as_chunks::<4>();
            credentials.groups = groups.iter().map(|group| u32::from_ne_bytes(*group)).collect();
        }
        _ => return Err(Errno::NOSYS),
    }
    Ok(0)
}

/// An id, or another argument of 32 bits: the kernel ignores the rest of the register.
fn id(argument: u64) -> u32 {
    (argument & 0xffff_ffff) as u32
}

fn descriptor(argument: u64) -> i32 {
    id(argument).cast_signed()
}
