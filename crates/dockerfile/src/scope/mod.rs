//! What the variables of a Dockerfile are worth at each line: the global scope for FROM lines, and a [`StageScope`] that walks a
//! stage's instructions and turns each into a [`Step`] with nothing left to expand.
//!
//! All of it is pure: base images come in as [`BaseFacts`]. Errors are those that `docker build` finds only in stages that it
//! builds, so they are found here and not by the parser.

mod env;
mod epoch;
mod global;
mod history;
mod mount;
mod persistent;
mod stage;
mod step;

pub use env::Env;
pub use epoch::epoch_source;
pub use global::{CONTROL_ARGS, Epoch, FromLine, GlobalScope, PLATFORM_ARGS, PROXY_ARGS, Proxies, Settings};
pub use history::created_by;
#[cfg(test)]
pub(crate) use history::go_quote;
pub use mount::{Mount, MountKind, Ownership, Sharing};
pub use stage::{Applied, BaseFacts, DEFAULT_PATH, MAX_STAGE_BYTES, StageScope, Undefined};
pub(crate) use step::with_shell;
pub use step::{Command, InlineFile, RunStep, Step, TransferSource, TransferStep};
