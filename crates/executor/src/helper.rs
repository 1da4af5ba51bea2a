//! Helper processes: the program started again, with one thread, to do what a process with several cannot do safely
//! (change namespaces, fork).

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde::{Deserialize, Serialize};

use crate::error::ExecError;
use crate::sandbox::enter;
use crate::{sandbox, sys, wire, within};

/// Work that is done in a helper process: reads a request to its end, writes a reply. The message of an error is for
/// people: a lowercase fragment with the paths in it.
pub type Handler = fn(&mut dyn Read, &mut dyn Write) -> Result<(), String>;

/// The argument that makes this program a helper. Not a word that a person would type.
const ARGUMENT: &str = "__wbuild-helper";

/// What a helper is asked to do, in the first frame on its standard input.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    Sandbox(Box<sandbox::Request>),
    Within(within::Request),
    Enter(Box<enter::Request>),
}

/// Must be the first thing that `main` does: if this process was started as a helper it does that work and never
/// returns.
pub fn init(handlers: &[(&str, Handler)]) {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|argument| argument != ARGUMENT) {
        return;
    }
    let code = match serve(handlers) {
        Ok(()) => 0,
        Err(_) => 1,
    };
    #[expect(clippy::exit, reason = "a helper must not go on to be the program")]
    std::process::exit(code);
}

fn serve(handlers: &[(&str, Handler)]) -> io::Result<()> {
    // Whatever else the surroundings of wbuild left open is not for a sandbox.
    sys::close_from(3)?;
    let mut control = UnixStream::from(sys::take_standard(0)?);
    let null = null()?;
    sys::set_standard(0, null.as_fd())?;
    match wire::receive(&mut control)? {
        Some(Request::Sandbox(request)) => sandbox::serve(&request, control),
        Some(Request::Within(request)) => within::serve(&request, handlers, control),
        Some(Request::Enter(request)) => enter::serve(&request, control),
        None => Ok(()),
    }
}

/// `/dev/null`, open for reading and writing.
pub(crate) fn null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// A started helper, seen from the program.
#[derive(Debug)]
pub(crate) struct Helper {
    child: Child,
    pub(crate) control: UnixStream,
}

impl Helper {
    /// Starts a helper and gives it its request. It sees the other end of [`Helper::control`] close when this process
    /// dies, however that happens, and ends then.
    pub(crate) fn start(request: &Request, stdout: Stdio, stderr: Stdio) -> Result<Self, ExecError> {
        let (control, theirs) = UnixStream::pair().map_err(ExecError::Helper)?;
        let child = Command::new("/proc/self/exe")
            .arg0("wbuild-helper")
            .arg(ARGUMENT)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(ExecError::Helper)?;
        let mut helper = Self { child, control };
        match wire::send(&mut helper.control, request) {
            Ok(()) => Ok(helper),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(ExecError::HelperDied { status: helper.wait()? })
            }
            Err(error) => Err(ExecError::Talk(error)),
        }
    }

    /// Tells the helper that nothing more will be asked, which a sandbox takes for the request to stop.
    pub(crate) fn hang_up(&self) {
        // Fails only when the helper is gone already.
        let _ = self.control.shutdown(Shutdown::Write);
    }

    /// Its process id, which stays its own until it is waited for.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn wait(&mut self) -> Result<ExitStatus, ExecError> {
        self.child.wait().map_err(ExecError::Helper)
    }
}

impl Drop for Helper {
    /// A helper never outlives what started it, and never stays behind as a zombie.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.control.shutdown(Shutdown::Both);
            let _ = self.child.wait();
        }
    }
}
