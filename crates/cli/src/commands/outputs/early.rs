//! Pushing layers while later steps still run.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use wbuild_engine::{EarlyLayers, EarlyTaker, Engine, Transfer};
use wbuild_frontend::Definition;
use wbuild_image::LayerRef;
use wbuild_layer::Recipe;
use wbuild_oci::{Digest, Reference};
use wbuild_registry::{Pushed, RegistryClient, RegistryError, Repository};
use wbuild_remote::{Retry, Stop, Watch};
use wbuild_solver::Subscription;

use super::deliver::Delivery;
use super::push::{client, followed_blob};
use super::{ImageOutput, ImagePlace, Output};

/// Layers that are pushed at the same time.
const AT_ONCE: usize = 2;

/// What came to be in repositories before the image was whole, and how.
#[derive(Debug, Default)]
pub(crate) struct SentEarly(Mutex<BTreeMap<(Repository, Digest), Pushed>>);

impl SentEarly {
    /// How a repository came by a layer, if it did before the image was whole.
    pub(super) fn how(&self, repository: &Repository, layer: &Digest) -> Option<Pushed> {
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
    /// Begins, if the image goes to registries: for all of them.
    pub(crate) fn begin(
        engine: &Arc<Engine>,
        definition: &Definition,
        delivery: &Delivery<'_>,
    ) -> Option<Self> {
        let mut groups: BTreeMap<Recipe, Group> = BTreeMap::new();
        for output in &delivery.outputs.list {
            let Output::Image(image @ ImageOutput { place: ImagePlace::Registry(how), .. }) = output else {
                continue;
            };
            let names = delivery.outputs.names_of(image);
            // The push of the image says what is wrong with it.
            let Ok(client) = client(delivery, *how, &names) else { continue };
            groups.entry(delivery.options(&image.form).recipe).or_default().add(&client, &names);
        }
        if groups.is_empty() {
            return None;
        }
        let stop = Stop::new();
        let stopping = stop.clone();
        let subscription = delivery.cancellation.subscribe(move || stopping.stop());
        let (mut takers, mut threads) = (Vec::new(), Vec::new());
        for (recipe, group) in groups {
            let (sender, layers) = channel::<LayerRef>();
            takers.push(EarlyTaker { recipe, take: Box::new(move |layer| drop(sender.send(layer))) });
            let layers = Arc::new(Mutex::new(layers));
            let to = Arc::new(To {
                engine: Arc::clone(engine),
                group,
                sent: Arc::clone(&delivery.sent_early),
                transfer: Mutex::default(),
            });
            threads.extend((0..AT_ONCE).map(|_| {
                let (to, layers, stop) = (Arc::clone(&to), Arc::clone(&layers), stop.clone());
                std::thread::spawn(move || to.push_all(&layers, &stop))
            }));
        }
        let layers = engine.write_layers_early(&definition.graph, delivery.target, takers);
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

/// Repositories that get the same layers, and the names of the image there.
#[derive(Default)]
struct Group {
    repositories: Vec<(Arc<RegistryClient>, Repository)>,
    names: Vec<String>,
}

impl Group {
    fn add(&mut self, client: &Arc<RegistryClient>, names: &[Reference]) {
        for name in names {
            let repository = Repository::of(name);
            if !self.repositories.iter().any(|(_, known)| *known == repository) {
                self.repositories.push((Arc::clone(client), repository));
            }
            let familiar = name.familiar();
            if !self.names.contains(&familiar) {
                self.names.push(familiar);
            }
        }
    }
}

/// Where layers go.
struct To {
    engine: Arc<Engine>,
    group: Group,
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
            // What one repository has got, it lends to the next.
            let mut lenders: Vec<Repository> = Vec::new();
            for (client, repository) in &self.group.repositories {
                // One that failed is tried again with the image, which says why.
                if self.push(&layer, client, repository, &lenders, &watch).is_ok() {
                    lenders.push(repository.clone());
                }
            }
        }
    }

    fn push(
        &self,
        layer: &LayerRef,
        client: &RegistryClient,
        repository: &Repository,
        lenders: &[Repository],
        watch: &Watch<'_>,
    ) -> Result<(), RegistryError> {
        let descriptor = &layer.descriptor;
        if client.holds_blob(repository, descriptor, watch)? {
            return Ok(());
        }
        let path = self.engine.store().blob_path(&descriptor.digest);
        let blob = followed_blob(descriptor, &self.transfer(), move || Ok(path.clone()));
        let pushed = client.push_blob(repository, &blob.also_in(lenders.iter().cloned()), watch)?;
        if pushed != Pushed::Present {
            let mut sent = self.sent.0.lock().unwrap_or_else(PoisonError::into_inner);
            sent.insert((repository.clone(), descriptor.digest), pushed);
        }
        Ok(())
    }

    fn transfer(&self) -> Arc<Transfer> {
        let mut known = self.transfer.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = || {
            let names = self.group.names.join(", ");
            self.engine.begin_transfer(format!("push layers of {names} while later steps run"))
        };
        Arc::clone(known.get_or_insert_with(begin))
    }
}
