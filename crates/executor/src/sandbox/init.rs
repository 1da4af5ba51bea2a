//! The first process of a sandbox: sets it up, starts the program, and then only reaps.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use crate::failure::{Doing, Failure, While as _};
use crate::helper::null;
use crate::ownership::Link;
use crate::sandbox::forward;
use crate::sandbox::payload::{self, Begun};
use crate::sandbox::{Report, Request, mount, root};
use crate::status::Status;
use crate::step::Network;
use crate::sys::{self, Fork};
use crate::wire;

/// The ways to the processes that serve the sandbox from outside.
#[derive(Debug)]
pub(crate) struct Links {
    pub(crate) owners: Option<Link>,
    pub(crate) forward: Option<forward::Link>,
}

/// Runs as pid 1. The kernel kills the rest of the sandbox when this returns to nowhere.
pub(crate) fn main(request: &Request, links: Links, mut helper: UnixStream) -> ! {
    let report = match run(request, links, &mut helper) {
        Ok((status, max_rss)) => Report::Ended { status, max_rss },
        Err(failure) => Report::Failed(failure),
    };
    // If the helper is gone, so is everybody who would want to know.
    let _ = wire::send(&mut helper, &report);
    sys::exit_now(0)
}

fn run(request: &Request, links: Links, helper: &mut UnixStream) -> Result<(Status, u64), Failure> {
    let step = &request.step;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).doing(Doing::Fork)?;
    rustix::thread::set_name(c"wbuild-init").doing(Doing::Fork)?;
    // What the helper has open beside what it gave to this process.
    let Links { owners: link, forward } = links;
    let kept =
        [Some(helper.as_fd()), link.as_ref().map(Link::as_fd), forward.as_ref().map(forward::Link::as_fd)];
    sys::keep_only(&kept.into_iter().flatten().collect::<Vec<_>>()).doing(Doing::Fork)?;
    rustix::process::umask(Mode::empty());
    // Hundreds of layers are as many descriptors. The program starts with the limit that was.
    let files = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: files.maximum, maximum: files.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).doing(Doing::Limits)?;
    let mut namespaces =
        UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWCGROUP;
    if step.network != Network::Host {
        namespaces |= UnshareFlags::NEWNET;
    }
    sys::unshare(namespaces).doing(Doing::Namespaces)?;
    if step.network != Network::Host {
        sys::loopback_up().doing(Doing::Loopback)?;
    }
    if let Some(forward) = forward {
        forward.hand_over()?;
    }
    rustix::system::sethostname(step.hostname.as_bytes()).doing(Doing::HostName)?;
    mount::make_private().doing(Doing::Namespaces)?;

    let built = root::build(step, request.identity, request.parts)?;
    // Before the program can use them: should this process be killed, the helper knows what to remove.
    let stubs = built.made.into_iter().map(Into::into).collect();
    wire::send(helper, &Report::Stubs(stubs)).doing(Doing::Talk)?;
    mount::pivot(built.root.as_fd()).doing(Doing::PivotRoot)?;
    drop(built.root);

    let (mut begun, theirs) = UnixStream::pair().doing(Doing::Talk)?;
    let program = match sys::fork().doing(Doing::Fork)? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            drop(begun);
            let _ = rustix::process::setrlimit(Resource::Nofile, files);
            payload::main(step, request.identity, link, theirs)
        }
    };
    drop((theirs, link));
    harmless()?;
    // The end of the stream without a word is the close-on-exec of a program that runs.
    match wire::receive(&mut begun).doing(Doing::Talk)? {
        None => wire::send(helper, &Report::Running).doing(Doing::Talk)?,
        Some(Begun::Failed(failure)) => return Err(failure),
        Some(Begun::NotStarted(reason)) => return Ok((Status::NotStarted(reason), 0)),
    }
    let status = reap_until(program).doing(Doing::Fork)?;
    Ok((status, sys::children_max_rss()))
}

/// Gives up everything: this process is in reach of the program, which may be root in the same user namespace.
fn harmless() -> Result<(), Failure> {
    give_up_standard_streams().doing(Doing::Fork)?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )
    .doing(Doing::Capabilities)?;
    // Its memory, descriptors and binary (the host's) are nobody's business: CVE-2019-5736.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(Doing::Capabilities)?;
    // Changing capabilities may have cleared it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).doing(Doing::Fork)
}

/// The program's output ends when the last process of the step closes it, so nobody else may have it open.
pub(crate) fn give_up_standard_streams() -> std::io::Result<()> {
    let null = null()?;
    for standard in 0..=2 {
        sys::set_standard(standard, null.as_fd())?;
    }
    Ok(())
}

/// Waits for all children, the program's orphans among them, until the program itself ends.
fn reap_until(program: Pid) -> Result<Status, Errno> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == program => return Ok(ended(status)),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// What a wait status means.
pub(crate) fn ended(status: WaitStatus) -> Status {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Status::Exited(code),
        (None, Some(signal)) => Status::Signalled(signal),
        (None, None) => Status::Signalled(0),
    }
}
