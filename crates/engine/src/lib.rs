//! The solver's [`Worker`](wbuild_solver::Worker) and one build session around it: [`Engine`] brings together the store, the
//! contexts, the base images and the executor, solves a frontend's definition, and turns the result into an image.
//!
//! - `describe`: what enters which key.
//! - `files`, `native`: operations on trees; they run nothing.
//! - `step`, `caches`, `secrets`, `trust`, `users`: one process in a root file system.
//! - `plan`: from a folder to a workspace, a spec and a project.
//! - `export`: deltas to layers to an image.
//! - `baked`: keys that frameworks write into their output, and results that are not reproducible.
//! - `conflict`: two tasks that write one path.
//! - `container`: an image's process and its probe.
//! - [`handlers`]: what helpers do inside the user namespace of steps.

mod baked;
mod caches;
mod conflict;
mod container;
mod contexts;
mod describe;
mod error;
mod export;
mod files;
mod handlers;
mod images;
mod native;
mod plan;
mod secrets;
mod session;
mod step;
mod trust;
mod upkeep;
mod users;
mod worker;

pub use container::{Container, ContainerNetwork, ContainerOptions, Health, Probe};
pub use contexts::LocalContext;
pub use error::{EngineError, StepFailure};
pub use export::{BuiltImage, BuiltLayer, ExportOptions};
pub use files::FileError;
pub use handlers::handlers;
pub use images::{ImageLocation, LocationError};
pub use native::NativeError;
pub use plan::{OpenWorkspace, SpecChoice, find_workspace};
pub use secrets::{MAX_SECRET_BYTES, SecretError, Secrets};
pub use session::{Options, SolveOptions};
pub use trust::BundleError;
pub use upkeep::DEFAULT_BUDGET;
pub use users::{ResolvedUser, UserError, resolve_user};
pub use worker::Engine;
