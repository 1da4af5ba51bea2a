//! What the client does with registries that do what they should, and with those that do not. Nothing waits: time is a list
//! of waits.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod access;
mod faults;
mod mirrors;
mod pull;
mod push;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wbuild_image::{DocumentBlob, LayerRef};
use wbuild_oci::{
    Descriptor, DiffId, Digest, ImageConfig, Index, Manifest, Platform, Reference, media, to_canonical_json,
};
use wbuild_registry::{
    Blob, Content, CredentialFiles, RegistryClient, RegistryError, RegistryOptions, Repository, Rules,
};
use wbuild_remote::{HttpOptions, Retry, RetryPolicy, Stop, Waiting, Watch};
use wbuild_testkit::FakeRegistry;

/// Notes how long it would have waited.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits(Arc<Mutex<Vec<Duration>>>);

impl Waits {
    pub(crate) fn seconds(&self) -> Vec<f64> {
        self.0.lock().unwrap().iter().map(Duration::as_secs_f64).collect()
    }
}

impl Waiting for Waits {
    fn wait(&self, time: Duration, _stop: &Stop) {
        self.0.lock().unwrap().push(time);
    }

    fn jitter(&self) -> f64 {
        0.5
    }
}

/// A client with rules and a `config.json`, and what it waited.
pub(crate) fn client_with(rules: &str, config: Option<&Path>) -> (RegistryClient, Waits) {
    let waits = Waits::default();
    let retry = RetryPolicy { stall: Duration::from_millis(300), ..RetryPolicy::default() };
    let http = HttpOptions { waiting: Arc::new(waits.clone()), retry, ..HttpOptions::default() };
    let config = config.map(|path| path.display().to_string());
    let credentials = CredentialFiles::of_environment(&|name| match name {
        "DOCKER_CONFIG" => config.clone(),
        "PATH" => std::env::var("PATH").ok(),
        _ => None,
    });
    let rules = Rules::parse(rules, Path::new("/etc/registries.toml")).unwrap();
    (RegistryClient::new(RegistryOptions { rules, credentials, http }), waits)
}

pub(crate) fn client() -> RegistryClient {
    client_with("", None).0
}

/// Calls `work` with a watch that nobody stops, and gives what it was told.
pub(crate) fn watched<T>(work: impl FnOnce(&Watch<'_>) -> T) -> (T, Vec<Retry>) {
    let told = Mutex::default();
    let stop = Stop::new();
    let result = work(&Watch {
        stop: &stop,
        retrying: &|retry| {
            let told: &Mutex<Vec<Retry>> = &told;
            told.lock().unwrap().push(retry.clone());
        },
    });
    (result, told.into_inner().unwrap())
}

pub(crate) fn name(registry: &FakeRegistry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.host()).parse().unwrap()
}

/// Bytes that differ everywhere.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

/// An image of one platform with these layers, which are no tars.
pub(crate) struct Made {
    pub(crate) manifest: DocumentBlob,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
}

pub(crate) fn made(platform: &Platform, layers: &[Vec<u8>]) -> Made {
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        ..ImageConfig::default()
    };
    config.rootfs.kind = "layers".to_owned();
    let of = |bytes: &Vec<u8>| LayerRef {
        descriptor: Descriptor::new(media::LAYER_GZIP, Digest::of(bytes), bytes.len() as u64),
        diff_id: DiffId(Digest::of(bytes)),
    };
    let refs: Vec<LayerRef> = layers.iter().map(of).collect();
    config.rootfs.diff_ids = refs.iter().map(|layer| layer.diff_id).collect();
    let config = to_canonical_json(&config).unwrap();
    let descriptor = Descriptor::new(media::CONFIG, Digest::of(&config), config.len() as u64);
    let manifest = Manifest::new(descriptor, refs.into_iter().map(|layer| layer.descriptor).collect());
    let bytes = to_canonical_json(&manifest).unwrap();
    let descriptor = Descriptor::new(media::MANIFEST, Digest::of(&bytes), bytes.len() as u64);
    Made { manifest: DocumentBlob { descriptor, bytes }, config, layers: layers.to_vec() }
}

impl Made {
    /// Puts it into a registry.
    pub(crate) fn put(&self, registry: &FakeRegistry, repository: &str, tag: Option<&str>) {
        for blob in self.layers.iter().chain([&self.config]) {
            registry.put_blob(repository, blob);
        }
        registry.put_manifest(repository, tag, media::MANIFEST, &self.manifest.bytes);
    }

    pub(crate) fn content(&self) -> Content {
        let layers = self.layers.iter().map(|layer| Blob::bytes(media::LAYER_GZIP, layer.clone()));
        let config = Blob::bytes(media::CONFIG, self.config.clone());
        Content {
            root: self.manifest.clone(),
            manifests: Vec::new(),
            blobs: layers.chain([config]).collect(),
        }
    }
}

/// An index over images.
pub(crate) fn index_over(images: &[(&Platform, &Made)]) -> Vec<u8> {
    let entry = |(platform, made): &(&Platform, &Made)| Descriptor {
        platform: Some((*platform).clone()),
        ..made.manifest.descriptor.clone()
    };
    to_canonical_json(&Index::new(images.iter().map(entry).collect())).unwrap()
}

pub(crate) fn fetch(
    client: &RegistryClient,
    reference: &Reference,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, RegistryError> {
    let mut sink = Vec::new();
    watched(|watch| client.fetch(&Repository::of(reference), descriptor, &mut sink, watch)).0?;
    Ok(sink)
}
