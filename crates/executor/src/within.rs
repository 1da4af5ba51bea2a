use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags};
use rustix::pipe::PipeFlags;
use serde::{Deserialize, Serialize};

use crate::error::{ExecError, WithinError};
use crate::failure::Failure;
use crate::helper::{self, Handler, Helper};
use crate::identity::Identity;
use crate::isolation::Isolation;
use crate::{sys, wire};

/// Which handler to run as whom; what the handler itself is asked follows on the same socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    identity: Identity,
    name: String,
}

/// What the helper says when the handler is done.
#[derive(Debug, Serialize, Deserialize)]
enum Verdict {
    Done,
    Unknown,
    Refused(Failure),
    Failed(String),
}

impl Isolation {
    /// Runs the handler `name` as the identity that steps have, with every capability over their files: it can read
    /// and delete what they made, whatever its mode. Returns the whole reply.
    ///
    /// # Errors
    /// If no such handler was given to [`crate::init`], it failed, or the helper process did.
    pub fn within(&self, name: &str, request: &[u8]) -> Result<Vec<u8>, WithinError> {
        let mut call = self.call(name, request.to_vec())?;
        let mut reply = Vec::new();
        match call.read_to_end(&mut reply) {
            Ok(_) => {}
            // What the handler said tells more than the end of the pipe.
            Err(error) => {
                call.finish()?;
                return Err(ExecError::Talk(error).into());
            }
        }
        call.finish()?;
        Ok(reply)
    }

    /// As [`Isolation::within`], for replies that are too big to keep: they are read from the returned value.
    ///
    /// # Errors
    /// If the helper process cannot be started.
    pub fn call(&self, name: &str, request: Vec<u8>) -> Result<Call, WithinError> {
        let head = helper::Request::Within(Request { identity: self.identity(), name: name.to_owned() });
        let failed = |errno: rustix::io::Errno| ExecError::Helper(errno.into());
        let (reply, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let helper = Helper::start(&head, Stdio::from(theirs), Stdio::inherit())?;
        let mut to = helper.control.try_clone().map_err(ExecError::Talk)?;
        // The handler may begin to answer before it has read everything.
        let writer = std::thread::spawn(move || {
            let result = to.write_all(&request);
            let _ = to.shutdown(std::net::Shutdown::Write);
            result
        });
        Ok(Call { name: name.to_owned(), reply: File::from(reply), helper, writer: Some(writer) })
    }
}

/// A handler at work. Reading gives its reply; only [`Call::finish`] tells whether that was all of it. The handler is
/// stopped when this is dropped.
pub struct Call {
    name: String,
    reply: File,
    helper: Helper,
    writer: Option<JoinHandle<io::Result<()>>>,
}

impl Read for Call {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reply.read(buffer)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Call {
    /// Waits for the handler to end. What of its reply was not read is lost.
    ///
    /// # Errors
    /// If there is no such handler, or it failed.
    pub fn finish(mut self) -> Result<(), WithinError> {
        // A handler that still writes must not wait for us.
        io::copy(&mut self.reply, &mut io::sink()).map_err(ExecError::Talk)?;
        let verdict = wire::receive(&mut self.helper.control).map_err(ExecError::Talk)?;
        let status = self.helper.wait()?;
        if let Some(writer) = self.writer.take() {
            // A handler need not read its whole request; whether it did its work, the verdict says.
            let _ = writer.join();
        }
        match verdict {
            Some(Verdict::Done) => Ok(()),
            Some(Verdict::Unknown) => Err(WithinError::Unknown(self.name)),
            Some(Verdict::Failed(message)) => Err(WithinError::Handler(message)),
            Some(Verdict::Refused(failure)) => Err(ExecError::Setup(failure).into()),
            None => Err(ExecError::HelperDied { status }.into()),
        }
    }
}

/// Runs a handler. The helper ends with it, or with the program that wants the reply.
pub(crate) fn serve(
    request: &Request,
    handlers: &[(&str, Handler)],
    mut control: UnixStream,
) -> io::Result<()> {
    let verdict = match handlers.iter().find(|(name, _)| *name == request.name) {
        None => Verdict::Unknown,
        // Root of the namespace: a handler sees the files of steps as root's, and everything is permitted to it.
        Some((_, handler)) => match request.identity.enter(0, 0) {
            Err(failure) => Verdict::Refused(failure),
            Ok(()) => handle(*handler, &control)?,
        },
    };
    wire::send(&mut control, &verdict)
}

fn handle(handler: Handler, control: &UnixStream) -> io::Result<Verdict> {
    let mut reply = File::from(sys::take_standard(1)?);
    let null = helper::null()?;
    sys::set_standard(1, null.as_fd())?;
    let watched = control.try_clone()?;
    std::thread::spawn(move || end_with(&watched));
    let mut request = control.try_clone()?;
    Ok(match handler(&mut request, &mut reply) {
        Ok(()) => Verdict::Done,
        Err(message) => Verdict::Failed(message),
    })
}

/// Waits until the program is gone (not only done with asking) and ends this process then.
fn end_with(program: &UnixStream) {
    loop {
        let mut fds = [PollFd::new(program, PollFlags::empty())];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) => sys::exit_now(1),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
