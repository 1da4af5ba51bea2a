//! Image registries, with what this machine trusts, its proxies, and the person's rules and credentials.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use wbuild_oci::{Descriptor, Digest, Reference};
use wbuild_registry::{CredentialFiles, RegistryClient, RegistryError, RegistryOptions, Repository, Rules};
use wbuild_remote::{HttpOptions, Proxies, RetryPolicy, Sink, Watch};
use wbuild_report::{EventSink, Moving};
use wbuild_store::{Store, StoreError};

use crate::arrival::Arrival;
use crate::base_registry::{BaseRegistries, Pulling};
use crate::error::EngineError;
use crate::known_images::{keep_image, remember_name};
use crate::remote::IntoStore;
use crate::transfers::{Transfer, TransferPart};
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
    insecure_registry_client(variable, &[])
}

/// The same, for which the registries of these names may speak plain http, or show any certificate.
///
/// # Errors
/// As [`registry_client`].
pub fn insecure_registry_client(
    variable: &dyn Fn(&str) -> Option<String>,
    names: &[Reference],
) -> Result<RegistryClient, EngineError> {
    let trust = Trust::of_machine(variable)?;
    let mut rules = Rules::load(variable)?;
    for name in names {
        rules.accept_insecure(&Repository::of(name));
    }
    let http = HttpOptions {
        roots: trust.bundle().unwrap_or_default().to_vec(),
        roots_from: trust.bundle_path().map(Into::into),
        proxies: Proxies::of(variable),
        retry: RetryPolicy::of(variable).map_err(RegistryError::from)?,
        ..HttpOptions::default()
    };
    let credentials = CredentialFiles::of_environment(variable);
    Ok(RegistryClient::new(RegistryOptions { rules, credentials, http }))
}

impl Engine {
    /// Brings a blob of a registry into the store, unless it is there. Says whether it was downloaded, and `part` how far it
    /// is.
    ///
    /// # Errors
    /// When it cannot be had, is another one, or the store cannot be written.
    pub fn pull_blob(
        &self,
        client: &RegistryClient,
        repository: &Repository,
        descriptor: &Descriptor,
        watch: &Watch<'_>,
        part: Option<TransferPart>,
    ) -> Result<bool, EngineError> {
        if is_here(&self.store, repository, descriptor)? {
            if let Some(mut part) = part {
                part.end(Moving::Present);
            }
            return Ok(false);
        }
        let followers = Followers { part, arrival: None };
        pull_blob(&self.store, client, repository, descriptor, watch, followers)
    }

    /// From now on what moves is said to `events`, though nothing is solved.
    pub fn follow_transfers(&self, events: EventSink) {
        self.transfers.follow(events, 0);
    }

    /// Something begins to move to or from a registry: `push web:1`.
    pub fn begin_transfer(&self, name: String) -> Arc<Transfer> {
        self.transfers.begin(name)
    }

    /// Takes base images that no `--build-context` names from registries.
    pub fn pull_from(&mut self, pulling: Pulling) {
        let registries =
            Arc::new(BaseRegistries::new(pulling, self.store.clone(), Arc::clone(&self.transfers)));
        // The first one stays: a session has one.
        let _ = self.images.registries.set(registries);
    }

    /// What the names of base images from registries stood for in this session.
    pub fn resolved_images(&self) -> BTreeMap<Reference, Digest> {
        self.images.registries.get().map(|registries| registries.resolved()).unwrap_or_default()
    }

    /// Remembers an image whose documents and layers are in the store: what its name stands for, and what belongs to it.
    /// `what` says for which platform.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn remember_image(
        &self,
        name: &Reference,
        root: &Descriptor,
        what: &str,
        blobs: impl Iterator<Item = Digest>,
    ) -> Result<(), EngineError> {
        if name.digest.is_none() {
            remember_name(&self.store, name, root)?;
        }
        keep_image(&self.store, &root.digest, what, blobs)
    }
}

/// Who wants to know how far a download is.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    /// Shows it.
    pub(crate) part: Option<TransferPart>,
    /// Reads it.
    pub(crate) arrival: Option<Arc<Arrival>>,
}

/// See [`Engine::pull_blob`]; the caller has found that it [is not here](is_here).
pub(crate) fn pull_blob(
    store: &Store,
    client: &RegistryClient,
    repository: &Repository,
    descriptor: &Descriptor,
    watch: &Watch<'_>,
    followers: Followers,
) -> Result<bool, EngineError> {
    let arrival = followers.arrival.clone();
    let pulled = pull_missing(store, client, repository, descriptor, watch, followers);
    if let Some(arrival) = arrival {
        arrival.ended(pulled.as_ref().map(drop));
    }
    pulled
}

fn pull_missing(
    store: &Store,
    client: &RegistryClient,
    repository: &Repository,
    descriptor: &Descriptor,
    watch: &Watch<'_>,
    followers: Followers,
) -> Result<bool, EngineError> {
    // One after the other, so that what two ask for is fetched once.
    let _lock = store.lock(&descriptor.digest)?;
    if is_here(store, repository, descriptor)? {
        return Ok(false);
    }
    let mut blob = Followed { blob: IntoStore::new(store)?, followers };
    blob.show()?;
    client.fetch(repository, descriptor, &mut blob, watch)?;
    blob.blob.finish(Some(&descriptor.digest))?;
    if let Some(mut part) = blob.followers.part {
        part.end(Moving::Done);
    }
    Ok(true)
}

/// Whether a blob is in the store.
///
/// # Errors
/// When it has another size than its descriptor says: whoever downloads it fails, too.
pub(crate) fn is_here(
    store: &Store,
    repository: &Repository,
    descriptor: &Descriptor,
) -> Result<bool, EngineError> {
    if !store.holds_blob(&descriptor.digest)? {
        return Ok(false);
    }
    let found = match store.open_blob(&descriptor.digest) {
        Ok(blob) => blob.size(),
        Err(error) if error.is_lost() => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if found == descriptor.size {
        return Ok(true);
    }
    let url = format!("{repository}@{}", descriptor.digest);
    Err(RegistryError::Size { url, expected: descriptor.size, found }.into())
}

/// A download that somebody follows.
struct Followed<'a> {
    blob: IntoStore<'a>,
    followers: Followers,
}

impl Followed<'_> {
    /// To who reads it: from now on it comes into this file.
    fn show(&self) -> Result<(), StoreError> {
        if let Some(arrival) = &self.followers.arrival {
            arrival.comes_into(self.blob.growing()?);
        }
        Ok(())
    }
}

impl Sink for Followed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.blob.write(bytes)?;
        if let Some(part) = &mut self.followers.part {
            part.moved(bytes.len() as u64);
        }
        if let Some(arrival) = &self.followers.arrival {
            arrival.moved(bytes.len() as u64);
        }
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        if let Some(part) = &mut self.followers.part {
            part.again_from(0);
        }
        self.blob.restart()?;
        self.show().map_err(io::Error::other)
    }
}
