//! A second program in a sandbox that runs already: a health check.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::ThreadNameSpaceType;
use serde::{Deserialize, Serialize};

use crate::failure::{Doing, Failure, While as _};
use crate::identity::Identity;
use crate::sandbox::payload::{self, Begun};
use crate::sandbox::{Report, init};
use crate::status::Status;
use crate::step::{Network, Step};
use crate::sys::{self, Fork};
use crate::wire;

/// What to run, where.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) identity: Identity,
    /// The helper of the sandbox.
    pub(crate) helper: u32,
    /// The step that runs there, with the program of this one.
    pub(crate) step: Step,
}

/// Runs it. Errors are reported; only those of the report itself are returned.
pub(crate) fn serve(request: &Request, mut control: UnixStream) -> io::Result<()> {
    let report = match run(request, &mut control) {
        Ok(Some(status)) => Report::Ended { status, max_rss: sys::children_max_rss() },
        // Nobody wants to know any more.
        Ok(None) => return Ok(()),
        Err(failure) => Report::Failed(failure),
    };
    wire::send(&mut control, &report)
}

fn run(request: &Request, control: &mut UnixStream) -> Result<Option<Status>, Failure> {
    rustix::process::setsid().doing(Doing::Fork)?;
    let program = find(request.helper).doing(Doing::Join)?;
    let mut namespaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    // One cannot join where one is.
    namespaces.set(ThreadNameSpaceType::USER, request.identity != Identity::Root);
    namespaces.set(ThreadNameSpaceType::NETWORK, request.step.network != Network::Host);
    rustix::thread::move_into_thread_name_spaces(std::os::fd::AsFd::as_fd(&program), namespaces)
        .doing(Doing::Join)?;

    let (mut begun, theirs) = UnixStream::pair().doing(Doing::Talk)?;
    let child = match sys::fork().doing(Doing::Fork)? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            drop(begun);
            payload::main(&request.step, request.identity, None, theirs)
        }
    };
    drop(theirs);
    init::give_up_standard_streams().doing(Doing::Fork)?;
    match wire::receive(&mut begun).doing(Doing::Talk)? {
        None => {}
        Some(Begun::Failed(failure)) => return Err(failure),
        Some(Begun::NotStarted(reason)) => return Ok(Some(Status::NotStarted(reason))),
    }
    wait(child, control)
}

/// Waits for the program; kills its process group and returns nothing when the request is withdrawn.
fn wait(child: Pid, control: &UnixStream) -> Result<Option<Status>, Failure> {
    let pidfd = rustix::process::pidfd_open(child, PidfdFlags::empty()).doing(Doing::Fork)?;
    let mut withdrawn = false;
    loop {
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if !withdrawn {
            fds.push(PollFd::new(control, PollFlags::RDHUP));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).doing(Doing::Fork),
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            withdrawn = true;
            // It made a session, and so a group, of its own. Whatever left that ends with the step.
            let _ = rustix::process::kill_process_group(child, Signal::KILL);
        }
        if !fds[0].revents().is_empty() {
            let status = rustix::process::waitpid(Some(child), WaitOptions::empty()).doing(Doing::Fork)?;
            return Ok(status.filter(|_| !withdrawn).map(|(_, status)| init::ended(status)));
        }
    }
}

/// Finds the program of the sandbox that the process `helper` keeps, and returns a descriptor of it.
///
/// Numbers are used again, so each step is checked against what cannot be: the helper is a child of the program that
/// asks, which has not waited for it yet.
pub(crate) fn find(helper: u32) -> Result<std::os::fd::OwnedFd, Errno> {
    let init = child(helper, "1")?;
    let program = child(init, "2")?;
    let pid = i32::try_from(program).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    // Still the same, now that the descriptor is there?
    if child(helper, "1")? == init && child(init, "2")? == program { Ok(pidfd) } else { Err(Errno::SRCH) }
}

/// The child of `parent` that has `number` in its own pid namespace.
fn child(parent: u32, number: &str) -> Result<u32, Errno> {
    let processes = fs::read_dir("/proc").map_err(|_| Errno::SRCH)?;
    for entry in processes.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Processes come and go.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let innermost = field("NSpid:").and_then(|numbers| numbers.split_whitespace().last());
        if field("PPid:").and_then(|id| id.parse().ok()) == Some(parent) && innermost == Some(number) {
            return Ok(process);
        }
    }
    Err(Errno::SRCH)
}
