//! Base layers on disk. Those that are in registries are unpacked while they come, several at a time.
//!
//! What is unpacked of a layer that is still coming is a draft that nobody sees. It is published when the download has put
//! the blob into the store, verified by digest and size, and when what was unpacked has the digest of the blob and the diff id
//! of the image's config, too.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use wbuild_graph::{DeltaId, Snapshot};
use wbuild_layer::LayerError;
use wbuild_oci::DiffId;
use wbuild_snapshot::{LayerSource, Mtimes, SnapshotError, Unpacking, disk_face, tree_face, unpack_layer};

use crate::arrival::Arrival;
use crate::error::EngineError;
use crate::images::BaseLayer;
use crate::worker::Engine;

/// Layers that are unpacked at the same time: each decompresses in one thread and writes in another, and may take 128 MiB
/// for its window.
const MAX_AT_ONCE: usize = 4;

/// A base layer that is to be unpacked, and what it lies on.
struct Missing {
    layer: DiffId,
    below: Snapshot,
}

impl Engine {
    /// Sees to it that the base layers of a snapshot are on disk: those that are not are brought here and unpacked, all at
    /// the same time. No download waits for one that is unpacked, and nothing else than downloads is waited for.
    pub(crate) fn base_layers_on_disk(&self, snapshot: &Snapshot) -> Result<(), EngineError> {
        let missing = self.missing_base_layers(snapshot)?;
        let mut away = Vec::new();
        for Missing { layer, .. } in &missing {
            if let Some(base) = self.images.layer(layer)
                && base.is_away()?
            {
                away.push(base);
            }
        }
        let expecting = BaseLayer::expect_all(&away);
        let unpacked = thread::scope(|scope| {
            let coming = (!away.is_empty()).then(|| {
                scope.spawn(|| {
                    let _expecting = expecting;
                    BaseLayer::bring_all(&away)
                })
            });
            let unpacked = self.unpack_missing(&missing);
            match coming.map(thread::ScopedJoinHandle::join) {
                // What kept a layer from coming is why it was not unpacked.
                Some(Ok(Err(error))) => Err(error),
                _ => unpacked,
            }
        })?;
        for (Missing { layer, below }, unpacking) in missing.iter().zip(unpacked) {
            self.publish_base_layer(layer, unpacking, below)?;
        }
        Ok(())
    }

    fn missing_base_layers(&self, snapshot: &Snapshot) -> Result<Vec<Missing>, EngineError> {
        let disk = self.disk(Mtimes::Tree);
        let (mut missing, mut below) = (Vec::new(), Snapshot::default());
        for delta in &snapshot.deltas {
            if let DeltaId::Layer(layer) = delta
                && self.images.layer(layer).is_some()
                && (disk_face(&self.store, delta, disk)?.is_none()
                    || tree_face(&self.store, delta)?.is_none())
            {
                missing.push(Missing { layer: *layer, below: below.clone() });
            }
            below = below.with(*delta);
        }
        Ok(missing)
    }

    /// In the order in which they are given, as far as it can be: the lowest one is the first to come. The error is that of
    /// the lowest one that failed.
    fn unpack_missing(&self, missing: &[Missing]) -> Result<Vec<Unpacking>, EngineError> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let results = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..cores.clamp(2, MAX_AT_ONCE).min(missing.len()) {
                scope.spawn(|| {
                    while !failed.load(Ordering::Relaxed) {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(Missing { layer, .. }) = missing.get(index) else { return };
                        let result = self.unpack_base_layer(layer);
                        if result.is_err() {
                            failed.store(true, Ordering::Relaxed);
                        }
                        results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                    }
                });
            }
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    }

    /// Unpacks a base layer, while it comes if somebody is bringing it.
    pub(crate) fn unpack_base_layer(&self, layer: &DiffId) -> Result<Unpacking, EngineError> {
        let base = self.images.layer(layer).ok_or(EngineError::Lost { delta: DeltaId::Layer(*layer) })?;
        let Some(arrival) = base.arrival() else { return self.unpack_from(&base, layer, None) };
        let unpacked = self.unpack_from(&base, layer, Some(&arrival));
        // The parts of two files may have been read. The one in the store is the right one.
        if unpacked.is_err() && arrival.started_over() && arrival.wait() {
            return self.unpack_from(&base, layer, None);
        }
        unpacked
    }

    fn unpack_from(
        &self,
        base: &BaseLayer,
        layer: &DiffId,
        arrival: Option<&Arc<Arrival>>,
    ) -> Result<Unpacking, EngineError> {
        // Whatever keeps the blob from being opened says best what that is.
        let failed = Mutex::new(None);
        let opened = || arrival.map_or_else(|| base.open(), |arrival| base.open_arriving(arrival));
        let open = || match opened() {
            Ok(blob) => Ok(blob),
            Err(error) => {
                let text = error.to_string();
                failed.lock().unwrap_or_else(PoisonError::into_inner).replace(error);
                Err(io::Error::other(text))
            }
        };
        let source = LayerSource { diff_id: *layer, blob: base.descriptor.digest, open: &open };
        let unpacked = unpack_layer(&self.store, &source, self.disk(Mtimes::Tree).owners);
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let (Err(_), Some(error)) = (&unpacked, failed) {
            return Err(base.not_opened(error));
        }
        unpacked.map_err(|error| match error {
            // The disk's, not the layer's.
            error @ SnapshotError::Layer(LayerError::Disk { .. }) => error.into(),
            error @ SnapshotError::Layer(_) => base.not_unpacked(Box::new(error)),
            SnapshotError::Io { action: "read the layer", source, .. } => base.not_unpacked(Box::new(source)),
            error => lost(layer, error),
        })
    }

    /// Publishes what was unpacked, unless it is there. `below` is what the layer lies on, with all its base layers on disk.
    pub(crate) fn publish_base_layer(
        &self,
        layer: &DiffId,
        unpacking: Unpacking,
        below: &Snapshot,
    ) -> Result<(), EngineError> {
        let draft = match unpacking {
            Unpacking::There(_) => return Ok(()),
            Unpacking::Draft(draft) => draft,
        };
        let view = if below.deltas.is_empty() { None } else { Some(self.view_of(below)?) };
        draft.publish(&self.store, view.as_ref()).map(drop).map_err(|error| lost(layer, error))
    }
}

fn lost(layer: &DiffId, error: SnapshotError) -> EngineError {
    match error.is_lost() {
        true => EngineError::Lost { delta: DeltaId::Layer(*layer) },
        false => error.into(),
    }
}
