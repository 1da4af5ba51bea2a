//! The layers of a base image in a registry, which come when somebody needs them.

use std::io::Read;
use std::sync::{Arc, Mutex, Weak};

use wbuild_oci::{Descriptor, Digest};
use wbuild_registry::{Repository, at_once};

use crate::arrival::{Arrival, ArrivingBlob, Expecting};
use crate::base_registry::{BaseRegistries, locked};
use crate::error::EngineError;
use crate::registries::{Followers, is_here, pull_blob};
use crate::transfers::Transfer;

/// An image of a registry; its layers may not be here yet.
#[derive(Debug)]
pub(crate) struct PulledBase {
    pub(crate) registries: Arc<BaseRegistries>,
    pub(crate) repository: Repository,
    /// The name as the person wrote it.
    pub(crate) written: String,
    /// What the name is pinned to, if that decided what it is.
    pub(crate) pin: Option<Digest>,
    /// What is under way, if anything is.
    pub(crate) transfer: Mutex<Weak<Transfer>>,
}

impl PulledBase {
    /// Brings layers here, several at a time and the first ones first, as far as they are not here.
    pub(crate) fn bring(&self, layers: &[Descriptor]) -> Result<(), EngineError> {
        let mut missing: Vec<&Descriptor> = Vec::new();
        for layer in layers {
            let here = is_here(&self.registries.store, &self.repository, layer);
            if !here.map_err(|error| self.about(error))? && !missing.contains(&layer) {
                missing.push(layer);
            }
        }
        let Some(first) = missing.first() else { return Ok(()) };
        let registries = &self.registries;
        if registries.is_offline() {
            return Err(EngineError::LayerOffline {
                image: self.written.clone(),
                digest: first.digest,
                count: missing.len(),
            });
        }
        let _expecting = self.expect(missing.iter().map(|layer| layer.digest));
        let client = registries.client()?;
        let transfer = self.transfer();
        let brought = registries.following().watched(|watch| {
            at_once(&missing, watch, |layer, watch| {
                let followers = Followers {
                    part: Some(transfer.part(layer.digest.to_string(), layer.size)),
                    arrival: registries.arrivals.of(&layer.digest),
                };
                pull_blob(&registries.store, client, &self.repository, layer, watch, followers)
            })
        });
        brought.map(drop).map_err(|error| {
            transfer.fail();
            self.about(error)
        })
    }

    /// Has layers be readable as soon as [`bring`](Self::bring) has something of them. Until this is dropped, somebody brings
    /// them.
    pub(crate) fn expect(&self, layers: impl IntoIterator<Item = Digest>) -> Expecting {
        self.registries.arrivals.expect(layers)
    }

    /// A layer that somebody is bringing.
    pub(crate) fn arrival(&self, layer: &Digest) -> Option<Arc<Arrival>> {
        self.registries.arrivals.of(layer)
    }

    /// The one that is under way, or a new one.
    fn transfer(&self) -> Arc<Transfer> {
        let mut known = locked(&self.transfer);
        if let Some(transfer) = known.upgrade() {
            return transfer;
        }
        let transfer = self.registries.transfers.begin(format!("pull {}", self.written));
        *known = Arc::downgrade(&transfer);
        transfer
    }

    /// Whether a layer is on this machine.
    pub(crate) fn is_here(&self, digest: &Digest) -> Result<bool, EngineError> {
        Ok(self.registries.store.holds_blob(digest)?)
    }

    /// Opens a layer, which comes first if need be; it is verified while it is read, and dropped if it is damaged.
    pub(crate) fn open_blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + Send>, EngineError> {
        self.bring(std::slice::from_ref(layer))?;
        Ok(Box::new(self.registries.store.open_blob(&layer.digest)?.reader()))
    }

    /// Opens a layer that somebody is bringing.
    pub(crate) fn open_arriving(&self, layer: &Descriptor, arrival: &Arc<Arrival>) -> Box<dyn Read + Send> {
        let store = self.registries.store.clone();
        Box::new(ArrivingBlob::new(store, layer.digest, Arc::clone(arrival)))
    }

    /// Which image it was about, and what pinned it.
    pub(crate) fn about(&self, error: EngineError) -> EngineError {
        let EngineError::Registry(source) = error else { return error };
        let reference = self.written.clone();
        match self.pin {
            Some(digest) if source.is_missing() => {
                EngineError::PinLost { reference, digest, file: self.registries.pin_file(), source }
            }
            _ => EngineError::BaseImage { reference, source },
        }
    }
}
