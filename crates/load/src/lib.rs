//! Images into the container engines of this machine: `--load` and `type=image`.
//!
//! - [`choose_engine`] finds docker or podman as their own programs would, [`choose_store`] containerd or containers-storage.
//! - [`load`] hands an image over, and with it only the layers that are missing there:
//!   - **docker's API**, where the daemon has a graph driver: what it knows by chain is left out of the archive. An image
//!     that is there gets its names and nothing is sent. A daemon with containerd's store gets everything.
//!   - **podman, skopeo** read a layout whose blobs are links to the store, and copy what they do not have.
//!   - **`docker load`, `ctr image import`** get everything, through a pipe.
//!
//! Not here: registries.

mod api;
mod choose;
mod error;
mod http;
mod program;

use std::path::Path;

use wbuild_image::{BlobFiles, Export, Image};

pub use choose::{Engine, Machine, Store, choose_engine, choose_store};
pub use error::LoadError;

/// What is handed over.
#[derive(Clone, Copy)]
pub struct Loading<'a> {
    /// The image.
    pub image: &'a Image,
    /// The same with its names.
    pub export: &'a Export,
    /// Its layers.
    pub blobs: &'a dyn BlobFiles,
    /// An empty folder on the file system of the blobs, so that they can be linked. Removed by whoever made it.
    pub scratch: &'a Path,
}

impl std::fmt::Debug for Loading<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loading").field("root", &self.export.root.digest).finish_non_exhaustive()
    }
}

/// What was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// To whom, for people.
    pub engine: String,
    /// Bytes of layers that went there; `None` where only the other side knows.
    pub sent: Option<u64>,
}

/// Whether docker or podman answers. Of their programs only they themselves know.
///
/// # Errors
/// When it does not.
pub fn reach(engine: &Engine) -> Result<(), LoadError> {
    match engine {
        Engine::Api(address) => api::reach(address),
        Engine::DockerProgram { .. } | Engine::Podman => Ok(()),
    }
}

/// Hands an image to docker or podman.
///
/// # Errors
/// When the engine cannot be reached, or refuses it.
pub fn load(engine: &Engine, loading: &Loading<'_>) -> Result<Loaded, LoadError> {
    match engine {
        Engine::Api(address) => api::load(address, loading),
        Engine::DockerProgram { context } => program::docker_load(context.as_deref(), loading),
        Engine::Podman => program::podman_pull(loading),
    }
}

/// Hands an image to the image store of this machine.
///
/// # Errors
/// As for [`load`].
pub fn store(store: &Store, loading: &Loading<'_>) -> Result<Loaded, LoadError> {
    match store {
        Store::Containerd { address, namespace } => program::ctr_import(address, namespace, loading),
        Store::Skopeo => program::skopeo_copy(loading),
        Store::Podman => program::podman_pull(loading),
    }
}
