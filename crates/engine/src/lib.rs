//! The solver's [`Worker`](wbuild_solver::Worker) and one build session around it: [`Engine`] brings together the store, the
//! contexts, the base images and the executor, solves a frontend's definition, and turns the result into an image.
//!
//! - `describe`: what enters which key.
//! - `files`, `native`: operations on trees; they run nothing. `inputs` is what they take files from.
//! - `step`, `caches`, `secrets`, `trust`, `turbo`, `users`: one process in a root file system.
//! - `plan`: from a folder to a workspace, a spec and a project.
//! - `faces`: both faces of deltas, and whether they still are what they were.
//! - `verify`: reading everything that is stored.
//! - `remote`: files by HTTP and git repositories, as sources.
//! - `registries`: a client for image registries. `base_registry`: base images from them; `pulled_base`: their layers;
//!   `known_images`: what is remembered of them.
//! - `transfers`: what moves to and from registries, for progress.
//! - `context_source`: what a person gives as a context, as a folder.
//! - `outputs`: results as files in a folder, or as a tar of the root file system.
//! - `export`: deltas to layers to an image. `early`: layers while later steps still run.
//! - `attest`: which packages are in a result, and what it was made of.
//! - `sharing`: what is stored, to and from remote caches.
//! - `baked`: keys that frameworks write into their output, and results that are not reproducible.
//! - `conflict`: two tasks that write one path.
//! - `container`: an image's process and its probe.
//! - [`handlers`]: what helpers do inside the user namespace of steps.

mod arrival;
mod attest;
mod baked;
mod base_layers;
mod base_registry;
mod caches;
mod conflict;
mod container;
mod context_source;
mod contexts;
mod describe;
mod difference;
mod early;
mod error;
mod export;
mod faces;
mod files;
mod handlers;
mod images;
mod inputs;
mod known_images;
mod native;
mod outputs;
mod plan;
mod pulled_base;
mod recoded;
mod registries;
mod remote;
mod secrets;
mod session;
mod sharing;
mod step;
#[cfg(test)]
mod testing;
mod transfers;
mod trust;
mod turbo;
mod upkeep;
mod users;
mod verify;
mod worker;

pub use attest::{ProvenanceOptions, locked_packages};
pub use base_registry::{Asking, Pins, Pulling};
pub use container::{Container, ContainerNetwork, ContainerOptions, ContainerProcess, Health, Probe};
pub use context_source::{ContextPlace, ContextPlaceError, OpenedContext, REMOTE_DOCKERFILE};
pub use contexts::LocalContext;
pub use early::{EarlyLayers, EarlyTaker};
pub use error::{EngineError, StepFailure};
pub use export::{BlobSource, BuiltImage, BuiltLayer, Carrier, ExportOptions, timestamp};
pub use files::{FileError, Missing, UnpackError};
pub use handlers::handlers;
pub use images::{ImageLocation, LocationError};
pub use native::NativeError;
pub use outputs::{Dress, Existing, FilesOutput, FilesWritten, OutputError, check_files_folder};
pub use plan::{OpenWorkspace, SpecChoice, find_workspace};
pub use registries::{insecure_registry_client, registry_client};
pub use remote::RemoteError;
pub use secrets::{MAX_SECRET_BYTES, SecretError, Secrets};
pub use session::{IsolationMode, Options, SolveOptions};
pub use sharing::{ExportedTo, Sharing};
pub use step::is_limit;
pub use transfers::{Transfer, TransferPart};
pub use trust::BundleError;
pub use upkeep::DEFAULT_BUDGET;
pub use users::{ResolvedUser, UserError, resolve_user};
pub use verify::Verified;
pub use wbuild_context::LeftOut;
pub use wbuild_store::{Draft, seal_time};
pub use worker::Engine;
