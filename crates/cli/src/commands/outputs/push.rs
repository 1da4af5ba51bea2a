//! `--push`: a built image to the registries that its names say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wbuild_engine::{
    BuiltImage, EngineError, Transfer, TransferPart, insecure_registry_client, registry_client,
};
use wbuild_image::Export;
use wbuild_oci::{Descriptor, Reference};
use wbuild_registry::{Blob, Content, Pushed, RegistryClient, Repository, at_once};
use wbuild_remote::{Retry, Stop, Watch};
use wbuild_report::Moving;

use super::Push;
use super::deliver::{Delivery, DeliveryError};
use crate::render::size;

/// Pushes, and tells in a line what was sent. Blobs that are there are not sent; those of the base image are lent by its
/// repository where that is in the same registry, and fetched only when they have to be sent; `lenders` have got the image
/// before.
pub(super) fn push(
    delivery: &Delivery<'_>,
    built: &BuiltImage,
    export: &Export,
    how: Push,
    lenders: &[Repository],
) -> Result<String, DeliveryError> {
    let client = client(delivery, how, &export.names)?;
    let stop = Stop::new();
    let stopping = stop.clone();
    let _subscription = delivery.cancellation.subscribe(move || stopping.stop());
    let retrying = |_: &Retry| {};
    let watch = Watch { stop: &stop, retrying: &retrying };
    let familiar: Vec<String> = export.names.iter().map(Reference::familiar).collect();
    let transfer = delivery.engine.begin_transfer(format!("push {}", familiar.join(", ")));
    let parts = export.pushed().map_err(|error| EngineError::Layout(error.into()))?;
    let source = Arc::new(built.source());
    let documents = parts.configs.iter().map(|config| {
        let blob = Blob::bytes(&config.descriptor.media_type, config.bytes.clone());
        blob.also_in(lenders.iter().cloned())
    });
    let layers = parts.layers.iter().map(|layer| {
        // An attestation is a document of the image itself.
        if let Some(bytes) = export.document(&layer.digest) {
            return Blob::bytes(&layer.media_type, bytes.to_vec());
        }
        let (source, digest) = (Arc::clone(&source), layer.digest);
        let blob = followed_blob(layer, &transfer, move || source.path(&digest));
        blob.also_in(built.base_repository().cloned()).also_in(lenders.iter().cloned())
    });
    let content = Content {
        root: parts.root.clone(),
        manifests: parts.manifests.clone(),
        blobs: documents.chain(layers).collect(),
    };
    let names: Vec<Reference> = match how.by_digest {
        false => export.names.clone(),
        true => {
            let digest = Some(export.root.digest);
            let of = |name: &Reference| Reference { tag: None, digest, ..name.clone() };
            export.names.iter().map(of).collect()
        }
    };
    let pushed = client.push(&names, &content, &watch).map_err(EngineError::from);
    let pushed = pushed.and_then(|report| {
        push_referrers(&client, &names, export, &watch)?;
        Ok(report)
    });
    let mut report = pushed.inspect_err(|_| transfer.fail())?;
    let repositories: BTreeSet<Repository> = names.iter().map(Repository::of).collect();
    for (repository, layer) in
        repositories.iter().flat_map(|to| parts.layers.iter().map(move |layer| (to, layer)))
    {
        let Some(how) = delivery.sent_early.how(repository, &layer.digest) else { continue };
        report.present = report.present.saturating_sub(1);
        match how {
            Pushed::Sent => {
                report.sent += 1;
                report.sent_bytes += layer.size;
            }
            Pushed::Mounted => report.mounted += 1,
            Pushed::Present => report.present += 1,
        }
    }
    let shown: Vec<String> = names.iter().map(Reference::familiar).collect();
    let what = if report.tagged == 0 { "unchanged" } else { "pushed" };
    let (shown, sent, all) = (shown.join(", "), size(report.sent_bytes), size(built.size()));
    Ok(format!(
        "{what} {shown} (sent {sent} of {all}; {} blobs there, {} lent)",
        report.present, report.mounted
    ))
}

/// The clients of a build's outputs, each made once: what one has learnt of a registry, tokens included, serves the trial of
/// a push, layers that go early, and the image. Those that trust the hosts of some names are by these names.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<BTreeMap<Vec<Reference>, Arc<RegistryClient>>>);

/// The client for a push.
pub(super) fn client(
    delivery: &Delivery<'_>,
    how: Push,
    names: &[Reference],
) -> Result<Arc<RegistryClient>, EngineError> {
    let trusted = if how.insecure { names } else { &[] };
    let mut known = delivery.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(client) = known.get(trusted) {
        return Ok(Arc::clone(client));
    }
    let client = Arc::new(match trusted {
        [] => registry_client(delivery.variable)?,
        trusted => insecure_registry_client(delivery.variable, trusted)?,
    });
    known.insert(trusted.to_vec(), Arc::clone(&client));
    Ok(client)
}

/// The blob of a layer whose file is where `path` says, as a part of a transfer.
pub(crate) fn followed_blob(
    layer: &Descriptor,
    transfer: &Arc<Transfer>,
    path: impl Fn() -> io::Result<PathBuf> + Send + Sync + 'static,
) -> Blob {
    let part = Arc::new(Mutex::new(transfer.part(layer.digest.to_string(), layer.size)));
    let told = Arc::clone(&part);
    let open = move |offset| {
        let mut file = File::open(path()?)?;
        file.seek(SeekFrom::Start(offset))?;
        locked(&part).again_from(offset);
        Ok(Box::new(Counted { file, part: Arc::clone(&part) }) as Box<dyn Read + Send>)
    };
    Blob::new(layer.clone(), open).told_to(move |pushed| {
        locked(&told).end(moving(pushed));
    })
}

/// What became of a blob, as progress has it.
pub(crate) fn moving(pushed: Pushed) -> Moving {
    match pushed {
        Pushed::Present => Moving::Present,
        Pushed::Mounted => Moving::Lent,
        Pushed::Sent => Moving::Done,
    }
}

/// A layer that is read while somebody follows.
struct Counted {
    file: File,
    part: Arc<Mutex<TransferPart>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        locked(&self.part).moved(read as u64);
        Ok(read)
    }
}

fn locked(part: &Mutex<TransferPart>) -> MutexGuard<'_, TransferPart> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is said about the image follows it.
fn push_referrers(
    client: &RegistryClient,
    names: &[Reference],
    export: &Export,
    watch: &Watch<'_>,
) -> Result<(), EngineError> {
    let repositories: BTreeSet<Repository> = names.iter().map(Repository::of).collect();
    for repository in &repositories {
        for referrer in export.referrers() {
            let blobs: Vec<Blob> = referrer
                .blobs
                .iter()
                .map(|blob| Blob::bytes(&blob.descriptor.media_type, blob.bytes.clone()))
                .collect();
            at_once(&blobs, watch, |blob, watch| client.push_blob(repository, blob, watch))?;
            let listed = &referrer.manifest.descriptor;
            client.attach(repository, &export.root.digest, &referrer.manifest, listed, watch)?;
        }
    }
    Ok(())
}
