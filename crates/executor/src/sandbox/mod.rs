//! A sandbox, as its helper sees it: the process that starts the first process of the sandbox, watches both it and the
//! program that asked for it, and cleans up after it.

pub(crate) mod enter;
mod etc;
pub(crate) mod forward;
pub(crate) mod init;
pub(crate) mod mount;
pub(crate) mod passing;
pub(crate) mod payload;
pub(crate) mod resolve;
pub(crate) mod root;
pub(crate) mod system;

use std::fs;
use std::io::{self, Read as _};
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::failure::{Doing, Failure, While as _};
use crate::identity::Identity;
use crate::ownership::{self, Owned, Supervisor};
use crate::sandbox::forward::Forwarder;
use crate::sandbox::init::Links;
use crate::sandbox::resolve::{Kind, Made};
use crate::status::{Status, Stub};
use crate::step::{Network, Root, Step};
use crate::sys::{self, Fork};
use crate::wire::{self, Frames};

/// A step to run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) identity: Identity,
    pub(crate) parts: system::Parts,
    pub(crate) step: Step,
}

/// What the processes of a sandbox tell: the first one to the helper, the helper to the program.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    /// The sandbox has its first process.
    Init,
    /// Where ports are forwarded from, in the order of the request.
    Listening(Vec<SocketAddrV4>),
    /// Mount points among the step's changes: those that were made, or, from the helper, those that are left.
    Stubs(Vec<Stub>),
    /// The program runs.
    Running,
    /// It ended, or never began.
    Ended { status: Status, max_rss: u64 },
    /// Who was to own which files.
    Owned(Vec<Owned>),
    /// The sandbox could not be set up, or not be cleaned up.
    Failed(Failure),
    /// The first process of the sandbox died by itself; its wait status.
    Died { status: i32 },
}

/// A killed step should be the largest process of the machine, not whoever started the build.
const OOM_SCORE: &str = "500";

/// Runs a step. Errors of the sandbox are reported; only those of the report itself are returned.
pub(crate) fn serve(request: &Request, mut control: UnixStream) -> io::Result<()> {
    match run(request, &mut control) {
        Ok(()) => Ok(()),
        Err(failure) => wire::send(&mut control, &Report::Failed(failure)),
    }
}

fn run(request: &Request, control: &mut UnixStream) -> Result<(), Failure> {
    // An interrupt from the terminal is for the program, which decides what to stop.
    rustix::process::setsid().doing(Doing::Fork)?;
    // Not every /proc allows it, and nothing depends on it.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    let user = &request.step.user;
    request.identity.enter(user.uid, user.gid)?;
    let changes = Changes::open(&request.step.root)?;
    let supervisor = match request.identity {
        Identity::Root => None,
        Identity::SingleId => Some(Supervisor::start(&request.step)?),
    };
    let forwarder = match &request.step.network {
        Network::Private { forward } if !forward.is_empty() => Some(Forwarder::start(forward)?),
        _ => None,
    };
    if let Some(forwarder) = &forwarder {
        wire::send(control, &Report::Listening(forwarder.addresses.clone())).doing(Doing::Talk)?;
    }

    let (inner, theirs) = UnixStream::pair().doing(Doing::Talk)?;
    sys::unshare(UnshareFlags::NEWPID).doing(Doing::Namespaces)?;
    let init = match sys::fork().doing(Doing::Fork)? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            drop(inner);
            let links = Links {
                owners: supervisor.map(Supervisor::into_link),
                forward: forwarder.map(Forwarder::into_link),
            };
            init::main(request, links, theirs)
        }
    };
    drop(theirs);
    let watched = watch(init, inner, control)?;

    forwarder.map_or(Ok(()), Forwarder::stop)?;
    let mut owned = supervisor.map_or(Ok(Vec::new()), Supervisor::finish)?;
    let stubs = changes.clean_up(&watched.made)?;
    let mut tell = |report: &Report| wire::send(control, report).doing(Doing::Talk);
    tell(&Report::Stubs(stubs))?;
    while !owned.is_empty() {
        let rest = owned.split_off(owned.len().min(ownership::PER_REPORT));
        tell(&Report::Owned(std::mem::replace(&mut owned, rest)))?;
    }
    for report in &watched.last {
        tell(report)?;
    }
    Ok(())
}

/// What became of a sandbox.
#[derive(Default)]
struct Watched {
    made: Vec<Made>,
    /// What is to be told when everything is cleaned up.
    last: Vec<Report>,
}

/// Waits until no process of the sandbox is left, killing it when the program hangs up or dies.
fn watch(init: Pid, mut inner: UnixStream, control: &mut UnixStream) -> Result<Watched, Failure> {
    let pidfd = rustix::process::pidfd_open(init, PidfdFlags::empty()).doing(Doing::Fork)?;
    wire::send(control, &Report::Init).doing(Doing::Talk)?;
    inner.set_nonblocking(true).doing(Doing::Talk)?;
    let mut frames = Frames::default();
    let mut watched = Watched::default();
    let mut hung_up = false;
    let mut talking = true;
    loop {
        let wait_for_hang_up = if hung_up { PollFlags::empty() } else { PollFlags::RDHUP };
        let mut fds = vec![
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::new(&inner, if talking { PollFlags::IN } else { PollFlags::empty() }),
        ];
        if !hung_up {
            fds.push(PollFd::new(&*control, wait_for_hang_up));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).doing(Doing::Talk),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if ready[1] && talking {
            talking = forward(&mut inner, &mut frames, control, &mut watched)?;
        }
        if ready.get(2) == Some(&true) {
            hung_up = true;
            // The kernel kills the others when the first process of a pid namespace ends.
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        }
        if ready[0] {
            let status = rustix::process::waitpid(Some(init), WaitOptions::empty()).doing(Doing::Fork)?;
            while talking {
                talking = forward(&mut inner, &mut frames, control, &mut watched)?;
            }
            if watched.last.is_empty() && !hung_up {
                let status = status.map_or(0, |(_, status)| status.as_raw());
                watched.last.push(Report::Died { status });
            }
            return Ok(watched);
        }
    }
}

/// Passes on what the first process tells; `false` when it tells nothing more.
fn forward(
    inner: &mut UnixStream,
    frames: &mut Frames,
    control: &mut UnixStream,
    watched: &mut Watched,
) -> Result<bool, Failure> {
    let mut buffer = [0; 4096];
    let more = match inner.read(&mut buffer) {
        Ok(0) => false,
        Ok(length) => {
            frames.feed(&buffer[..length]);
            true
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
        Err(error) => return Err(error).doing(Doing::Talk),
    };
    while let Some(report) = frames.next::<Report>().doing(Doing::Talk)? {
        match report {
            Report::Stubs(stubs) => watched.made = stubs.into_iter().map(Made::from).collect(),
            Report::Ended { .. } | Report::Failed(_) => watched.last.push(report),
            // The program may be gone; then there is nobody to tell, and the hang-up is seen next.
            _ => drop(wire::send(control, &report)),
        }
    }
    Ok(more)
}

impl From<Stub> for Made {
    fn from(stub: Stub) -> Self {
        Self { path: stub.path, kind: if stub.directory { Kind::Directory } else { Kind::File } }
    }
}

impl From<Made> for Stub {
    fn from(made: Made) -> Self {
        Self { path: made.path, directory: made.kind == Kind::Directory }
    }
}

/// The directories that a step changes, opened where the host sees them.
struct Changes {
    changed: Option<OwnedFd>,
    scratch: Option<OwnedFd>,
}

impl Changes {
    fn open(root: &Root) -> Result<Self, Failure> {
        Ok(match root {
            Root::Overlay { upper, scratch, .. } => {
                Self { changed: Some(mount::open_host(upper)?), scratch: Some(mount::open_host(scratch)?) }
            }
            Root::Directory(path) => Self { changed: Some(mount::open_host(path)?), scratch: None },
            Root::ReadOnly { .. } => Self { changed: None, scratch: None },
        })
    }

    /// Removes what was only there for the mounts; returns the mount points that something was put into.
    fn clean_up(&self, made: &[Made]) -> Result<Vec<Stub>, Failure> {
        let mut left = Vec::new();
        if let Some(changed) = &self.changed {
            for one in made.iter().rev() {
                if !resolve::unmake(changed.as_fd(), one).doing_to(Doing::CleanUp, &one.path)? {
                    left.push(one.clone().into());
                }
            }
        }
        if let Some(scratch) = &self.scratch {
            for name in [root::WORK, root::STUBS] {
                let path = Path::new(&mount::named(scratch.as_fd())).join(name);
                match fs::remove_dir_all(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error).doing_to(Doing::CleanUp, name);
                    }
                    _ => {}
                }
            }
        }
        Ok(left)
    }
}
