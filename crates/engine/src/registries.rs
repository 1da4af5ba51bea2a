//! Image registries, with what this machine trusts, its proxies, and the person's rules and credentials.

use std::collections::BTreeMap;

use wbuild_oci::{Descriptor, Digest};
use wbuild_registry::{CredentialFiles, RegistryClient, RegistryError, RegistryOptions, Repository, Rules};
use wbuild_remote::{HttpOptions, Proxies, Watch};
use wbuild_store::Store;

use crate::base_registry::{BaseRegistries, Pulling};
use crate::error::EngineError;
use crate::remote::IntoStore;
use crate::trust::Trust;
use crate::worker::Engine;

impl From<RegistryError> for EngineError {
    fn from(error: RegistryError) -> Self {
        match error {
            error if error.is_stopped() => Self::Cancelled,
            other => Self::Registry(Box::new(other)),
        }
    }
}

/// A client for image registries, as this person has it set up: `registries.toml`, docker's and podman's credentials, the CA
/// bundle and proxies of the environment. Connects only when it is asked for something.
///
/// # Errors
/// When the rules or the bundle cannot be read.
pub fn registry_client(variable: &dyn Fn(&str) -> Option<String>) -> Result<RegistryClient, EngineError> {
    let trust = Trust::of_machine(variable)?;
    let rules = Rules::load(variable)?;
    let http = HttpOptions {
        roots: trust.bundle().unwrap_or_default().to_vec(),
        proxies: Proxies::of(variable),
        ..HttpOptions::default()
    };
    let credentials = CredentialFiles::of_environment(variable);
    Ok(RegistryClient::new(RegistryOptions { rules, credentials, http }))
}

impl Engine {
    /// Brings a blob of a registry into the store, unless it is there. Says whether it was downloaded.
    ///
    /// # Errors
    /// When it cannot be had, is another one, or the store cannot be written.
    pub fn pull_blob(
        &self,
        client: &RegistryClient,
        repository: &Repository,
        descriptor: &Descriptor,
        watch: &Watch<'_>,
    ) -> Result<bool, EngineError> {
        pull_blob(&self.store, client, repository, descriptor, watch)
    }

    /// Takes base images that no `--build-context` names from registries.
    pub fn pull_from(&mut self, pulling: Pulling) {
        let registries = BaseRegistries::new(pulling, self.store.clone());
        // The first one stays: a session has one.
        let _ = self.images.registries.set(registries);
    }

    /// What the names of base images from registries stood for in this session, in their full form.
    pub fn resolved_images(&self) -> BTreeMap<String, Digest> {
        self.images.registries.get().map(BaseRegistries::resolved).unwrap_or_default()
    }
}

/// See [`Engine::pull_blob`].
pub(crate) fn pull_blob(
    store: &Store,
    client: &RegistryClient,
    repository: &Repository,
    descriptor: &Descriptor,
    watch: &Watch<'_>,
) -> Result<bool, EngineError> {
    if store.has_blob(&descriptor.digest)? {
        return Ok(false);
    }
    // One after the other, so that what two ask for is fetched once.
    let _lock = store.lock(&descriptor.digest)?;
    if store.has_blob(&descriptor.digest)? {
        return Ok(false);
    }
    let mut blob = IntoStore::new(store)?;
    client.fetch(repository, descriptor, &mut blob, watch)?;
    blob.finish(Some(&descriptor.digest))?;
    Ok(true)
}
