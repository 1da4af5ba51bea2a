//! ctrl-C: the first asks the build to stop, so that it leaves no process and a usable store; a second one ends at once.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use wbuild_solver::Cancellation;

/// Cancels `token` at SIGINT or SIGTERM.
///
/// # Errors
/// When no signal handler can be installed.
pub(crate) fn cancel_on_signal(token: Cancellation) -> io::Result<()> {
    static ASKED: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if ASKED.swap(true, Ordering::SeqCst) {
            // Steps die with this process, and everything unfinished lies in its workspace: nothing half-made is visible.
            std::process::abort();
        }
        token.cancel();
    })
    .map_err(io::Error::other)
}
