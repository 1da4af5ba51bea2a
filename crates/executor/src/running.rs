use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use wbuild_report::LogStream;

use crate::cancel::CancelToken;
use crate::error::ExecError;
use crate::failure::{Doing, Failure};
use crate::helper::{self, Helper};
use crate::identity::Identity;
use crate::isolation::Isolation;
use crate::ownership::Owned;
use crate::sandbox::mount::MAX_LOWERS;
use crate::sandbox::{self, Report, enter, system};
use crate::status::{Finished, Status, Stub};
use crate::step::{Base, MountKind, Network, Program, Root, Source, Step};
use crate::wire::Frames;

/// As large as a pipe is by default, so that one read empties it.
const CHUNK: usize = 64 << 10;

impl Isolation {
    /// Runs `step` to its end. Its output goes to `output` in chunks as it comes, not necessarily whole lines; the order
    /// within a stream is the program's, between the streams nearly so.
    ///
    /// # Errors
    /// If the sandbox cannot be set up, or the step is cancelled. A program that fails is no error.
    pub fn run(
        &self,
        step: &Step,
        output: &mut dyn FnMut(LogStream, &[u8]),
        cancel: &CancelToken,
    ) -> Result<Finished, ExecError> {
        self.start(step)?.wait(output, cancel)
    }

    /// Starts `step`. It is killed when the returned value is dropped before [`Running::wait`] is done.
    ///
    /// # Errors
    /// If the step makes no sense or a helper process cannot be started; what is wrong with the sandbox itself,
    /// [`Running::wait`] tells.
    pub fn start(&self, step: &Step) -> Result<Running, ExecError> {
        check(step)?;
        let request = helper::Request::Sandbox(Box::new(sandbox::Request {
            identity: self.identity(),
            parts: system::Parts { procfs: self.procfs() },
            step: step.clone(),
        }));
        Running::of(&request, |helper| Entry {
            identity: self.identity(),
            helper,
            over: Arc::default(),
            step: step.clone(),
        })
    }
}

fn pipe() -> Result<(File, OwnedFd), ExecError> {
    let (read, write) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| ExecError::Helper(errno.into()))?;
    rustix::io::ioctl_fionbio(&read, true).map_err(|errno| ExecError::Helper(errno.into()))?;
    Ok((File::from(read), write))
}

/// What can be told to be wrong before anything is started.
fn check(step: &Step) -> Result<(), ExecError> {
    if step.argv.first().is_none_or(|program| program.is_empty()) {
        return Err(ExecError::NoProgram);
    }
    let variables = step.env.iter().flat_map(|(key, value)| [key, value]);
    if let Some(word) = step.argv.iter().chain(variables).find(|word| word.as_bytes().contains(&0)) {
        return Err(ExecError::Nul(word.clone()));
    }
    for mount in &step.mounts {
        if !mount.target.is_absolute() || mount.target.components().count() < 2 {
            return Err(ExecError::BadTarget(mount.target.clone()));
        }
        if let MountKind::Bind { source: Source { base: Base::Layers(lowers), .. }, .. } = &mount.kind {
            check_layers(lowers.len(), MAX_LOWERS)?;
        }
    }
    if let Network::Private { forward } = &step.network
        && let Some(outside) = forward.iter().find(|forward| !forward.host.ip().is_loopback())
    {
        return Err(ExecError::NotLoopback(outside.host));
    }
    match &step.root {
        // One is for the mount points.
        Root::Overlay { lowers, .. } => check_layers(lowers.len(), MAX_LOWERS - 1),
        // And one more because overlayfs wants two where nothing can be changed.
        Root::ReadOnly { lowers } => check_layers(lowers.len(), MAX_LOWERS - 2),
        Root::Directory(_) => Ok(()),
    }
}

fn check_layers(count: usize, limit: usize) -> Result<(), ExecError> {
    if count > limit { Err(ExecError::TooManyLayers { count, limit }) } else { Ok(()) }
}

/// A step that has been started.
#[derive(Debug)]
pub struct Running {
    entry: Entry,
    helper: Helper,
    stdout: Option<File>,
    stderr: Option<File>,
    since: Instant,
    frames: Frames,
    told: Told,
    /// Whether the helper may tell more.
    talking: bool,
}

impl Running {
    fn of(request: &helper::Request, entry: impl FnOnce(u32) -> Entry) -> Result<Self, ExecError> {
        let (stdout, their_stdout) = pipe()?;
        let (stderr, their_stderr) = pipe()?;
        let since = Instant::now();
        let helper = Helper::start(request, Stdio::from(their_stdout), Stdio::from(their_stderr))?;
        Ok(Self {
            entry: entry(helper.id()),
            helper,
            stdout: Some(stdout),
            stderr: Some(stderr),
            since,
            frames: Frames::default(),
            told: Told::default(),
            talking: true,
        })
    }

    /// Where the ports of [`Network::Private`] are forwarded from, in the order of the request: other ports than were
    /// asked for where those were taken. Waits until that is known; empty if the sandbox could not be set up, for which
    /// [`Running::wait`] has the reason.
    ///
    /// # Errors
    /// If the helper cannot be understood.
    pub fn addresses(&mut self) -> Result<&[SocketAddrV4], ExecError> {
        while self.talking && !self.told.init {
            self.listen()?;
        }
        Ok(&self.told.addresses)
    }

    /// A way to run further programs beside this one, as long as it runs. Waits until it does.
    ///
    /// # Errors
    /// If the helper cannot be understood.
    pub fn entry(&mut self) -> Result<Entry, ExecError> {
        while self.talking && !self.told.running {
            self.listen()?;
        }
        Ok(self.entry.clone())
    }

    /// Waits until no process of the step is left.
    ///
    /// # Errors
    /// If the sandbox could not be set up, or the step is cancelled.
    pub fn wait(
        mut self,
        output: &mut dyn FnMut(LogStream, &[u8]),
        cancel: &CancelToken,
    ) -> Result<Finished, ExecError> {
        let mut buffer = vec![0; CHUNK];
        let mut cancelled = false;
        while self.talking {
            let ready = self.poll((!cancelled).then_some(cancel))?;
            for (stream, pipe) in
                [(LogStream::Stdout, &mut self.stdout), (LogStream::Stderr, &mut self.stderr)]
            {
                pump(stream, pipe, &mut buffer, output)?;
            }
            if ready.cancel {
                cancelled = true;
                self.helper.hang_up();
            }
            if ready.control {
                self.listen()?;
            }
        }
        self.entry.over.store(true, Ordering::SeqCst);
        let status = self.helper.wait()?;
        // Whoever could write is gone, so what is there now is all.
        for (stream, pipe) in [(LogStream::Stdout, &mut self.stdout), (LogStream::Stderr, &mut self.stderr)] {
            while pump(stream, pipe, &mut buffer, output)? {}
        }
        self.told.outcome(cancelled, status, self.since)
    }

    fn poll(&self, cancel: Option<&CancelToken>) -> Result<Ready, ExecError> {
        let mut fds = vec![interested_in(self.helper.control.as_fd())];
        fds.extend(cancel.map(|token| interested_in(token.event())));
        let pipes = [&self.stdout, &self.stderr];
        fds.extend(pipes.iter().filter_map(|pipe| pipe.as_ref()).map(|pipe| interested_in(pipe.as_fd())));
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(errno) => return Err(ExecError::Talk(errno.into())),
        }
        let is_ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Ok(Ready { control: is_ready(0), cancel: cancel.is_some() && is_ready(1) })
    }

    /// Waits for what the helper tells next, and takes it in.
    fn listen(&mut self) -> Result<(), ExecError> {
        let mut buffer = [0; 16 << 10];
        match self.helper.control.read(&mut buffer) {
            Ok(0) => self.talking = false,
            Ok(length) => self.frames.feed(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.talking = false,
            Err(error) => return Err(ExecError::Talk(error)),
        }
        while let Some(report) = self.frames.next().map_err(ExecError::Talk)? {
            self.told.take(report);
        }
        Ok(())
    }
}

fn interested_in(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(fd, PollFlags::IN)
}

#[derive(Default)]
struct Ready {
    control: bool,
    cancel: bool,
}

/// Reads one chunk; `false` when there is none. The pipe is forgotten at its end.
fn pump(
    stream: LogStream,
    pipe: &mut Option<File>,
    buffer: &mut [u8],
    output: &mut dyn FnMut(LogStream, &[u8]),
) -> Result<bool, ExecError> {
    let Some(file) = pipe else { return Ok(false) };
    match file.read(buffer) {
        Ok(0) => {
            *pipe = None;
            Ok(false)
        }
        Ok(length) => {
            output(stream, &buffer[..length]);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(ExecError::Talk(error)),
    }
}

/// What the helper told so far.
#[derive(Debug, Default)]
struct Told {
    /// Whether the sandbox has its first process.
    init: bool,
    /// Whether the program runs.
    running: bool,
    addresses: Vec<SocketAddrV4>,
    ended: Option<(Status, u64)>,
    failed: Option<Failure>,
    died: Option<i32>,
    stubs: Vec<Stub>,
    ownership: Vec<Owned>,
}

impl Told {
    fn take(&mut self, report: Report) {
        match report {
            Report::Init => self.init = true,
            Report::Listening(addresses) => self.addresses = addresses,
            Report::Running => self.running = true,
            Report::Stubs(stubs) => self.stubs = stubs,
            Report::Owned(mut owned) => self.ownership.append(&mut owned),
            Report::Ended { status, max_rss } => self.ended = Some((status, max_rss)),
            Report::Failed(failure) => self.failed = Some(failure),
            Report::Died { status } => self.died = Some(status),
        }
    }

    fn outcome(self, cancelled: bool, helper: ExitStatus, since: Instant) -> Result<Finished, ExecError> {
        match (self.failed, self.ended, self.died) {
            (Some(failure), ..) => Err(ExecError::Setup(failure)),
            (None, Some((status, max_rss)), _) => Ok(Finished {
                status,
                stubs: self.stubs,
                ownership: self.ownership,
                took: since.elapsed(),
                max_rss,
            }),
            _ if cancelled => Err(ExecError::Cancelled),
            (None, None, Some(status)) => Err(ExecError::HelperDied { status: ExitStatus::from_raw(status) }),
            (None, None, None) => Err(ExecError::HelperDied { status: helper }),
        }
    }
}

/// The way into a sandbox that runs. Can be cloned, and used from any thread.
#[derive(Clone, Debug)]
pub struct Entry {
    identity: Identity,
    helper: u32,
    /// Set when the helper is about to be waited for, after which another process may get its number.
    over: Arc<AtomicBool>,
    step: Step,
}

impl Entry {
    /// Starts a program beside the one that runs: in the same namespaces, with the same privileges and limits. With
    /// [`Identity::SingleId`] it can give files to nobody. Cancelling it kills its process group; what left that, and
    /// everything else, ends with the program that it was started beside.
    ///
    /// # Errors
    /// If the program makes no sense, a helper process cannot be started, or the other program runs no more (which
    /// [`Running::wait`] may tell instead).
    pub fn start(&self, program: &Program) -> Result<Running, ExecError> {
        let mut step = self.step.clone();
        step.argv.clone_from(&program.argv);
        step.env.clone_from(&program.env);
        step.cwd.clone_from(&program.cwd);
        step.user = program.user.clone();
        // Not those of the mounts, which are there already.
        step.mounts.clear();
        check(&step)?;
        if self.over.load(Ordering::SeqCst) {
            return Err(ExecError::Setup(Failure::new(Doing::Join, None, Errno::SRCH)));
        }
        let request = enter::Request { identity: self.identity, helper: self.helper, step };
        // The second program's end is not the sandbox's.
        Running::of(&helper::Request::Enter(Box::new(request)), |_| Self {
            over: Arc::default(),
            ..self.clone()
        })
    }

    /// Sends a signal to the program, and to no other process; `false` if it runs no more. The program is not the first process of its sandbox, so a
    /// signal that it has no handler for does what signals do, and is not ignored as by the first process of a container.
    ///
    /// # Errors
    /// If there is no such signal, or it cannot be sent.
    pub fn signal(&self, signal: i32) -> Result<bool, ExecError> {
        let failed = |errno| ExecError::Signal { signal, source: io::Error::from(errno) };
        let named = Signal::from_named_raw(signal).ok_or_else(|| failed(Errno::INVAL))?;
        if self.over.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let program = enter::find(self.helper);
        match program.and_then(|program| rustix::process::pidfd_send_signal(&program, named)) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(errno) => Err(failed(errno)),
        }
    }
}
