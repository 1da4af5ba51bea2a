//! Repositories, by the machine's `git` program.

mod checkout;
mod error;
mod fetch;
mod program;
mod refs;
mod remote;
mod tidy;

pub use checkout::Checkout;
pub use error::GitError;
pub use fetch::Resolved;
pub use program::{Git, GitOptions};
pub use remote::{CommitId, GitRemote, GitRemoteError, Reference, ReferenceError};
