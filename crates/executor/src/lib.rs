//! Runs one process in a root file system, or one function in the namespace where such a root can be read.
//!
//! [`Machine::probe`] finds out what the machine allows; [`Isolation::run`] runs a [`Step`]; [`Isolation::within`] runs
//! a [`Handler`]. All three start this program again as a *helper* with one thread, so [`init`] must be the first thing
//! that `main` does.
//!
//! What a step gets: its own mount, pid, ipc, uts, cgroup and (unless it uses the host's network) net namespace, a user
//! namespace when not started by root; a root made by overlayfs; `/proc`, `/sys` and `/dev` as Docker masks them; a
//! system call allow-list; only the capabilities that its [`Privileges`] name; no descriptors above 2, nothing of the
//! surrounding environment. All its processes are gone when its first one ends, when it is cancelled, and when this
//! process dies.
//!
//! What it does not get: a limit on memory or processes beyond [`Limit`]s, and protection against a kernel that is
//! broken below these interfaces.
//!
//! ```text
//! wbuild ──spawn──▶ helper            session of its own, user namespace; ends when wbuild does
//!                    ├─▶ supervisor   only with a single id: records who was to own which file
//!                    └─▶ init         pid 1 of the sandbox: mounts, pivots, then reaps
//!                         └─▶ program drops privileges, filters its system calls, execs
//! ```

mod cancel;
mod capability;
mod error;
mod failure;
mod foreign;
mod helper;
mod identity;
mod isolation;
mod machine;
mod ownership;
mod running;
mod sandbox;
mod seccomp;
mod status;
mod step;
mod sys;
mod wire;
mod within;

pub use cancel::CancelToken;
pub use capability::CapabilitySet;
pub use error::{ExecError, WithinError};
pub use failure::{Doing, Failure};
pub use helper::{Handler, init};
pub use identity::Identity;
pub use isolation::Isolation;
pub use machine::{Attempt, Machine, NoIsolation, ProbeError, Refusal};
pub use ownership::{Owned, Special};
pub use running::{Entry, Running};
pub use sandbox::system::Procfs;
pub use status::{Finished, NotStarted, Status, Stub};
pub use step::{
    Access, Base, Content, Forward, Host, Limit, Mount, MountKind, Network, Privileges, Program, Resource,
    Root, Source, Step, User,
};
pub use within::Call;
