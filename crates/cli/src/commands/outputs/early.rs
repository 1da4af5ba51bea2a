//! Pushing layers while later steps still run.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use wbuild_engine::{EarlyLayers, Engine, Transfer};
use wbuild_frontend::Definition;
use wbuild_image::LayerRef;
use wbuild_oci::{Digest, Reference};
use wbuild_registry::{Pushed, RegistryClient, Repository};
use wbuild_remote::{Retry, Stop, Watch};
use wbuild_solver::Subscription;

use super::deliver::Delivery;
use super::push::{client, followed_blob};
use super::{ImageOutput, ImagePlace, Output};

/// Layers that are pushed at the same time.
const AT_ONCE: usize = 2;

/// What was sent before the image was whole: by repository and digest, so many bytes.
#[derive(Debug, Default)]
pub(crate) struct SentEarly(Mutex<BTreeMap<(Repository, Digest), u64>>);

impl SentEarly {
    /// The bytes of a layer that went to a repository, if it was sent there.
    pub(super) fn bytes(&self, repository: &Repository, layer: &Digest) -> Option<u64> {
        let sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.get(&(repository.clone(), *layer)).copied()
    }
}

/// A push that has begun before there is an image. What goes wrong with it is left to the push of the image.
pub(crate) struct EarlyPush {
    layers: Option<EarlyLayers>,
    threads: Vec<JoinHandle<()>>,
    stop: Stop,
    _subscription: Subscription,
}

impl EarlyPush {
    /// Begins, if the image goes to a registry.
    pub(crate) fn begin(
        engine: &Arc<Engine>,
        definition: &Definition,
        delivery: &Delivery<'_>,
    ) -> Option<Self> {
        let (image, how) = delivery.outputs.list.iter().find_map(|output| match output {
            Output::Image(image @ ImageOutput { place: ImagePlace::Registry(how), .. }) => Some((image, how)),
            _ => None,
        })?;
        let names = delivery.outputs.names_of(image);
        let mut repositories: Vec<Repository> = names.iter().map(Repository::of).collect();
        repositories.sort();
        repositories.dedup();
        // The push of the image says what is wrong with it.
        let client = Arc::new(client(delivery, *how, &names).ok()?);
        let stop = Stop::new();
        let stopping = stop.clone();
        let subscription = delivery.cancellation.subscribe(move || stopping.stop());
        let (sender, layers) = channel::<LayerRef>();
        let layers = Arc::new(Mutex::new(layers));
        let to = Arc::new(To {
            engine: Arc::clone(engine),
            client,
            repositories,
            shown: names.iter().map(Reference::familiar).collect::<Vec<_>>().join(", "),
            sent: Arc::clone(&delivery.sent_early),
            transfer: Mutex::default(),
        });
        let threads = (0..AT_ONCE).map(|_| {
            let (to, layers, stop) = (Arc::clone(&to), Arc::clone(&layers), stop.clone());
            std::thread::spawn(move || to.push_all(&layers, &stop))
        });
        let threads = threads.collect();
        let options = delivery.options(&image.form);
        let take = move |layer| drop(sender.send(layer));
        let layers = engine.write_layers_early(&definition.graph, delivery.target, &options, take);
        Some(Self { layers: Some(layers), threads, stop, _subscription: subscription })
    }

    /// The image is about to be pushed, and all of it: waits for what is under way.
    pub(crate) fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Whoever pushes ends with the layers that were written.
        drop(self.layers.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for EarlyPush {
    /// There will be no image.
    fn drop(&mut self) {
        self.stop.stop();
        self.end();
    }
}

/// Where layers go.
struct To {
    engine: Arc<Engine>,
    client: Arc<RegistryClient>,
    repositories: Vec<Repository>,
    /// The names of the image.
    shown: String,
    sent: Arc<SentEarly>,
    /// As progress shows it, once there is something to show.
    transfer: Mutex<Option<Arc<Transfer>>>,
}

impl To {
    fn push_all(&self, layers: &Mutex<Receiver<LayerRef>>, stop: &Stop) {
        let retrying = |_: &Retry| {};
        let watch = Watch { stop, retrying: &retrying };
        loop {
            let next = layers.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(layer) = next else { return };
            for repository in &self.repositories {
                // One that failed is tried again with the image, which says why.
                let _ = self.push(&layer, repository, &watch);
            }
        }
    }

    fn push(
        &self,
        layer: &LayerRef,
        repository: &Repository,
        watch: &Watch<'_>,
    ) -> Result<(), wbuild_registry::RegistryError> {
        let descriptor = &layer.descriptor;
        if self.client.holds_blob(repository, descriptor, watch)? {
            return Ok(());
        }
        let path = self.engine.store().blob_path(&descriptor.digest);
        let blob = followed_blob(descriptor, &self.transfer(), move || Ok(path.clone()));
        if self.client.push_blob(repository, &blob, watch)? == Pushed::Sent {
            let mut sent = self.sent.0.lock().unwrap_or_else(PoisonError::into_inner);
            sent.insert((repository.clone(), descriptor.digest), descriptor.size);
        }
        Ok(())
    }

    fn transfer(&self) -> Arc<Transfer> {
        let mut known = self.transfer.lock().unwrap_or_else(PoisonError::into_inner);
        let begin =
            || self.engine.begin_transfer(format!("push layers of {} while later steps run", self.shown));
        Arc::clone(known.get_or_insert_with(begin))
    }
}
