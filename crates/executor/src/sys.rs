//! The system calls that rustix has no safe form of. The only module of the crate with `unsafe` code.

#![expect(
    unsafe_code,
    reason = "raw system calls that rustix does not wrap; each block says why it is sound"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::thread::UnshareFlags;
use seccompiler::sock_filter;

type Result<T> = std::result::Result<T, Errno>;

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn check(result: libc::c_long) -> Result<libc::c_long> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

/// Which side of a [`fork`] this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's process id.
    Parent(rustix::process::Pid),
}

/// Forks. Only for helper processes, which have one thread: in a process with several, the child could find any
/// lock taken for ever (the allocator's among them), so that is refused with `EBUSY`.
pub(crate) fn fork() -> Result<Fork> {
    if !single_threaded() {
        return Err(Errno::BUSY);
    }
    // SAFETY: the process has exactly one thread, so no lock is held by a thread that the child lacks.
    let pid = check(libc::c_long::from(unsafe { libc::fork() }))?;
    let pid = i32::try_from(pid).map_err(|_| Errno::OVERFLOW)?;
    Ok(rustix::process::Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent))
}

fn single_threaded() -> bool {
    // A process that cannot see its own tasks (no /proc) is one that we started before any thread was made.
    std::fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() == 1)
}

/// Ends the process at once, without running destructors that belong to the process it was forked from.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Takes what `flags` name out of sharing with the parent process.
pub(crate) fn unshare(flags: UnshareFlags) -> Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the descriptor table is not among the flags, which is the only hazard.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: RawFd) -> Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| Errno::BADF)?;
    // SAFETY: called right before `exec` or by a process that uses no descriptor above `first` any more; no
    // `OwnedFd` for them is dropped afterwards, since both callers end without unwinding.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) }).map(drop)
}

/// Closes every descriptor above the standard ones but those of `keep`.
pub(crate) fn keep_only(keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut keep: Vec<libc::c_uint> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for next in keep.into_iter().chain([libc::c_uint::MAX]) {
        if next > first {
            let last = if next == libc::c_uint::MAX { next } else { next - 1 };
            // SAFETY: only a process that never returns to its callers does this, so that no `OwnedFd` of theirs is
            // used or dropped afterwards.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
        first = first.max(next.saturating_add(1));
    }
    Ok(())
}

/// Lets every descriptor from `first` on be closed by `exec`.
pub(crate) fn close_from_on_exec(first: RawFd) -> Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| Errno::BADF)?;
    // SAFETY: only sets a flag on descriptors.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    match check(result) {
        // Before 5.11. All our own have the flag from the start, and the others were closed when the helper began.
        Err(Errno::INVAL | Errno::NOSYS) => Ok(()),
        result => result.map(drop),
    }
}

/// Takes ownership of the standard descriptor `fd`, which the process was started with.
pub(crate) fn take_standard(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: descriptors 0 to 2 stay open for the whole life of the process (std opens /dev/null for those that
    // were closed), so borrowing for the length of this call is sound.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_dupfd_cloexec(borrowed, 3)
}

/// Makes the standard descriptor `standard` refer to what `fd` refers to.
pub(crate) fn set_standard(standard: RawFd, fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: `dup2` onto a standard descriptor; nobody owns those as an `OwnedFd`.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), standard) })).map(drop)
}

/// Sets attributes on a mount and, if `recursive`, on all mounts below it.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, set: u64, recursive: bool) -> Result<()> {
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a valid C string, and the structure has the layout and the size that are passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Replaces the process by `program`. Returns only when that fails, with the reason.
pub(crate) fn execve(program: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    let pointers = |words: &[CString]| {
        words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both vectors end in a null pointer and point to C strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    last_errno()
}

/// Gives every signal its default action and unblocks all of them: what a program may expect at its start.
/// Rust's runtime ignores `SIGPIPE`, and ignored signals stay ignored over `exec`.
pub(crate) fn reset_signals() {
    // Past the C library, which keeps two signals to itself: whoever started us may have ignored those too.
    for signal in 1..=64 {
        // A `struct sigaction` of the kernel is at most four words, and all zero for the default action.
        let default = [0_u64; 4];
        // SAFETY: setting the default action runs no code of ours; signals that cannot be set fail harmlessly.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8_usize,
            )
        };
    }
    // SAFETY: an all-zero `sigset_t` is valid memory for `sigemptyset` to fill; both pointers are valid.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// The largest resident size, in bytes, of any child that was waited for, their children included.
pub(crate) fn children_max_rss() -> u64 {
    // SAFETY: `rusage` is plain integers, so zero is a valid value; the kernel fills the whole structure.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024)
}

/// What to ask of the kernel along with a seccomp filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilterKind {
    /// Only filtering.
    Plain,
    /// Filtering, and a descriptor on which calls with the action `USER_NOTIF` arrive.
    Listening,
}

/// Puts a seccomp filter on this process. Unlike `seccompiler::apply_filter` it does not set `no_new_privs`, so
/// it needs `CAP_SYS_ADMIN` (in the user namespace) or that flag already set.
pub(crate) fn install_filter(program: &[sock_filter], kind: FilterKind) -> Result<Option<OwnedFd>> {
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::TOOBIG)?;
    let program =
        libc::sock_fprog { len: length, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    let install = |flags: libc::c_ulong| {
        // SAFETY: seccompiler's `sock_filter` is `repr(C)` with the kernel's layout; the kernel only reads `len` of
        // them.
        check(unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        })
    };
    let result = match kind {
        FilterKind::Plain => install(0),
        // A program that gets signals all the time (Go's preempt it) would else start its calls again and again. Since
        // 5.19; before, only that.
        FilterKind::Listening => {
            install(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
                .or_else(|errno| match errno {
                    Errno::INVAL => install(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
                    errno => Err(errno),
                })
        }
    }?;
    Ok(match kind {
        FilterKind::Plain => None,
        FilterKind::Listening => {
            let fd = RawFd::try_from(result).map_err(|_| Errno::BADF)?;
            // SAFETY: with this flag the call returns a new descriptor that nobody else owns.
            Some(unsafe { OwnedFd::from_raw_fd(fd) })
        }
    })
}

/// The version of the kernel's landlock interface.
pub(crate) fn landlock_abi() -> Result<u32> {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel wants a null pointer of size zero and reads nothing.
    let abi = check(unsafe {
        libc::syscall(LANDLOCK_CREATE_RULESET, std::ptr::null::<u8>(), 0_usize, CREATE_RULESET_VERSION)
    })?;
    u32::try_from(abi).map_err(|_| Errno::OVERFLOW)
}

// The same numbers on every architecture; the libc crate lacks them on some.
const LANDLOCK_CREATE_RULESET: libc::c_long = 444;
const LANDLOCK_RESTRICT_SELF: libc::c_long = 446;

/// Puts this process into a landlock domain with the given scopes (abstract sockets, signals) and no rules.
/// Needs interface version 6, and `CAP_SYS_ADMIN` or `no_new_privs`.
pub(crate) fn landlock_scope(scoped: u64) -> Result<()> {
    #[repr(C)]
    struct RulesetAttr {
        handled_access_fs: u64,
        handled_access_net: u64,
        scoped: u64,
    }
    let attr = RulesetAttr { handled_access_fs: 0, handled_access_net: 0, scoped };
    // SAFETY: the structure has the layout of interface version 6 and the size that is passed.
    let ruleset = check(unsafe {
        libc::syscall(LANDLOCK_CREATE_RULESET, &raw const attr, size_of::<RulesetAttr>(), 0 as libc::c_uint)
    })?;
    let ruleset = RawFd::try_from(ruleset).map_err(|_| Errno::BADF)?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(LANDLOCK_RESTRICT_SELF, ruleset.as_raw_fd(), 0 as libc::c_uint) }).map(drop)
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn loopback_up() -> Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: `ifreq` is integers, bytes and unions of them, so zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    // The union's flags member: assigning a `Copy` field of a union is safe.
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`.
    check(libc::c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request)
    }))
    .map(drop)
}

/// A system call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notification {
    id: u64,
    /// The calling thread, as this process' pid namespace has it.
    pub(crate) thread: u32,
    /// The call's number.
    pub(crate) number: i64,
    /// Its arguments.
    pub(crate) arguments: [u64; 6],
}

/// What a system call is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It succeeds with this value.
    Value(i64),
    /// It fails.
    Fails(Errno),
    /// The kernel shall do it. The arguments may be others by then.
    Continue,
}

/// Lets the kernel run the listener's process at once, on the caller's processor, when a call arrives (since 6.6).
pub(crate) fn notify_synchronously(listener: BorrowedFd<'_>) {
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    // SAFETY: the flags are passed by value. Older kernels refuse, and are only slower.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS as _, SYNC_WAKE_UP) };
}

/// Waits for a system call; `ENOENT` if the caller was killed meanwhile.
pub(crate) fn notification(listener: BorrowedFd<'_>) -> Result<Notification> {
    // SAFETY: the structure is plain integers; the kernel wants it zeroed, and fills it.
    let got = unsafe {
        let mut got: libc::seccomp_notif = std::mem::zeroed();
        check(libc::c_long::from(libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV as _,
            &raw mut got,
        )))?;
        got
    };
    Ok(Notification { id: got.id, thread: got.pid, number: got.data.nr.into(), arguments: got.data.args })
}

/// Whether the caller still waits: only then does its number still mean the same thread.
pub(crate) fn still_waits(listener: BorrowedFd<'_>, notification: &Notification) -> bool {
    // SAFETY: the kernel reads one `u64`.
    let result = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _, &raw const notification.id)
    };
    result == 0
}

/// Answers a system call; that its caller is gone is no error.
pub(crate) fn answer(listener: BorrowedFd<'_>, notification: &Notification, answer: Answer) -> Result<()> {
    const CONTINUE: u32 = 1;
    let (val, error, flags) = match answer {
        Answer::Value(value) => (value, 0, 0),
        Answer::Fails(errno) => (0, -errno.raw_os_error(), 0),
        Answer::Continue => (0, 0, CONTINUE),
    };
    let response = libc::seccomp_notif_resp { id: notification.id, val, error, flags };
    // SAFETY: the kernel reads one response.
    let result = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw const response)
    };
    match check(libc::c_long::from(result)) {
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
