//! Signals. The first ctrl-C asks a build to stop, so that it leaves no process and a usable store; a second one ends at
//! once. `wbuild run` passes them on instead, as soon as there is somebody to pass them to.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use wbuild_solver::Cancellation;

type Answer = Box<dyn FnMut(i32) + Send>;

/// So long a build that was asked to stop may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where nothing runs that could be asked to stop (an image is being written, standard input is being read), the process
/// ends: what is unfinished of outputs is removed, and the store is made for it.
fn end() {
    wbuild_image::abandon_outputs();
    #[expect(clippy::exit, reason = "nobody is left who could return")]
    std::process::exit(i32::from(crate::exit::INTERRUPTED));
}

/// What signals to this process do.
pub(crate) struct Interrupts {
    handle: Handle,
    answer: Arc<Mutex<Answer>>,
}

impl Interrupts {
    /// Cancels `token` at SIGINT, SIGTERM or SIGHUP.
    ///
    /// # Errors
    /// When no signal handler can be installed.
    pub(crate) fn cancel(token: Cancellation) -> io::Result<Self> {
        let mut asked = false;
        let cancel = move |_| {
            if std::mem::replace(&mut asked, true) {
                // Steps die with this process, and everything unfinished lies in its workspace: nothing half-made is
                // visible.
                std::process::abort();
            }
            if token.cancel() {
                // Whoever listened stops soon; should it hang, this process does not.
                let _ = std::thread::Builder::new().spawn(|| {
                    std::thread::sleep(PATIENCE);
                    end();
                });
            } else {
                end();
            }
        };
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(cancel)));
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let handle = signals.handle();
        let answering = Arc::clone(&answer);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                answering.lock().unwrap_or_else(PoisonError::into_inner)(signal);
            }
        })?;
        Ok(Self { handle, answer })
    }

    /// From now on calls `answer`, with the number of the signal, and for `more` signals too. It must not block.
    ///
    /// # Errors
    /// When no signal handler can be installed.
    pub(crate) fn answer(&self, more: &[i32], answer: impl FnMut(i32) + Send + 'static) -> io::Result<()> {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(answer);
        more.iter().try_for_each(|signal| self.handle.add_signal(*signal))
    }
}
