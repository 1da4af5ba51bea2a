//! The build graph in BuildKit's vocabulary (LLB): [`Op`]s in [`Vertex`]es in an immutable [`Graph`], made by a frontend
//! and solved by the solver; [`Key`]s with the [`Preimage`] they were computed from; and [`Snapshot`]s, the results,
//! as ordered stacks of deltas.
//!
//! Pure data: nothing here reads a file or runs anything.

mod failure_hint;
mod graph;
mod key;
mod op;
mod snapshot;

pub use failure_hint::FailureHint;
pub use graph::{Graph, Origin, Vertex};
pub use key::{Field, FieldValue, Key, Preimage};
pub use op::{
    Account, AccountId, AddUser, Assert, Cache, CacheSeed, CacheSharing, Capture, Copy, EnvInKey,
    Environment, Exec, FileAction, FileOp, Files, GitCheckout, HttpFile, ImageRef, Mount, MountKind,
    NetworkMode, Op, Owner, Part, Partition, Pattern, PrivilegeSet, SecretEnv, Select, Source, StepLimits,
    StepTimes, Transfer, TransferSource, Unpack,
};
pub use snapshot::{DeltaId, Snapshot};
