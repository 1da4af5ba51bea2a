//! Base images from registries: looked up once a build, remembered by what they turned out to be, their layers fetched when
//! somebody reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use wbuild_image::{BaseImage, Documents, ImageError, VerifiedReader, find_image};
use wbuild_oci::{Descriptor, Digest, MAX_DOCUMENT_BYTES, Platform, Reference};
use wbuild_registry::{RegistryClient, Repository, at_once};
use wbuild_remote::Watch;
use wbuild_store::{RecordMeta, Ref, Store};

use crate::error::EngineError;
use crate::registries::pull_blob;
use crate::remote::Following;

/// How base images are had that no `--build-context` names.
#[derive(Debug)]
pub struct Pulling {
    /// The client for registries.
    pub client: RegistryClient,
    /// Nothing is asked: what was pulled before is taken, and the rest is missing.
    pub offline: bool,
    /// What names stand for, in the full form with their tags.
    pub pins: BTreeMap<String, Digest>,
}

/// The registries of a build.
#[derive(Debug)]
pub(crate) struct BaseRegistries {
    pulling: Pulling,
    store: Store,
    following: Mutex<Following>,
    /// What names turned out to stand for in this build.
    resolved: Mutex<BTreeMap<String, Digest>>,
}

/// An image of a registry; its layers may not be here yet.
#[derive(Debug)]
pub(crate) struct PulledBase {
    pub(crate) repository: Repository,
    layers: Vec<Descriptor>,
    /// One fetches, the others wait.
    fetching: Mutex<()>,
}

/// What is remembered of an image: enough to read its documents again without asking anybody.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    root: Descriptor,
    documents: Vec<Digest>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BaseRegistries {
    pub(crate) fn new(pulling: Pulling, store: Store) -> Self {
        Self { pulling, store, following: Mutex::default(), resolved: Mutex::default() }
    }

    pub(crate) fn follow(&self, following: Following) {
        *locked(&self.following) = following;
    }

    /// What every name of this build stood for, with its tag.
    pub(crate) fn resolved(&self) -> BTreeMap<String, Digest> {
        locked(&self.resolved).clone()
    }

    fn watched<T>(&self, work: impl FnOnce(&Watch<'_>) -> T) -> T {
        let following = locked(&self.following).clone();
        following.watched(work)
    }

    /// The image of a name for a platform: its documents. A digest, in the name or pinned, is asked for only when it is not
    /// known yet; for a tag one question tells whether it still stands for the same.
    pub(crate) fn open(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<(BaseImage, PulledBase)>, EngineError> {
        let name = reference.to_string();
        let digest = reference.digest.or_else(|| self.pulling.pins.get(&name).copied());
        let exact = Reference { digest, ..reference.clone() };
        let key = key_of(&exact, platform);
        let known = self.known(&key, platform)?;
        let (root, image) = match known {
            Some(known) if self.pulling.offline || digest.is_some() => known,
            None if self.pulling.offline => return Ok(None),
            Some(known) => {
                let found = self.watched(|watch| self.pulling.client.find(&exact, watch))?;
                match found.is_some_and(|found| found.digest == known.0) {
                    true => known,
                    false => self.ask(&key, &exact, platform)?,
                }
            }
            None => self.ask(&key, &exact, platform)?,
        };
        if reference.digest.is_none() {
            locked(&self.resolved).insert(name, root);
        }
        let layers = image.layers.iter().map(|layer| layer.descriptor.clone()).collect();
        let repository = Repository::of(reference);
        Ok(Some((image, PulledBase { repository, layers, fetching: Mutex::default() })))
    }

    /// What is remembered, if all of it is there.
    fn known(&self, key: &Digest, platform: &Platform) -> Result<Option<(Digest, BaseImage)>, EngineError> {
        let Some(record) = self.store.record(key)? else { return Ok(None) };
        let Ok(known) = serde_json::from_slice::<Known>(&record.body) else { return Ok(None) };
        let mut documents = BTreeMap::new();
        for digest in known.documents {
            match self.store.read_blob(&digest, MAX_DOCUMENT_BYTES) {
                Ok(bytes) => documents.insert(digest, bytes),
                Err(error) if error.is_lost() => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        }
        let image = find_image(known.root.clone(), platform, &Remembered(documents)).ok();
        Ok(image.map(|image| (known.root.digest, image)))
    }

    fn ask(
        &self,
        key: &Digest,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<(Digest, BaseImage), EngineError> {
        let pulled = self.watched(|watch| self.pulling.client.resolve(reference, platform, watch))?;
        for bytes in pulled.documents.values() {
            self.store.put_bytes(bytes)?;
        }
        let documents: Vec<Digest> = pulled.documents.keys().copied().collect();
        let refs: Vec<Ref> = documents.iter().copied().map(Ref::Blob).collect();
        let digest = pulled.root.digest;
        let body = serde_json::to_vec(&Known { root: pulled.root, documents }).unwrap_or_default();
        let meta = RecordMeta { refs };
        // By its digest, too: a name may be pinned tomorrow.
        let by_digest = key_of(&Reference { digest: Some(digest), ..reference.clone() }, platform);
        for key in BTreeSet::from([*key, by_digest]) {
            self.store.replace_record(&key, &meta, &body)?;
        }
        Ok((digest, pulled.image))
    }

    /// Brings all layers of an image that are not here, several at a time: who reads one is about to read the others.
    pub(crate) fn bring(&self, base: &PulledBase) -> Result<(), EngineError> {
        let _turn = locked(&base.fetching);
        let mut missing = Vec::new();
        for layer in &base.layers {
            if !self.store.has_blob(&layer.digest)? {
                missing.push(layer);
            }
        }
        if let (Some(layer), true) = (missing.first(), self.pulling.offline) {
            let (image, digest) = (base.repository.to_string(), layer.digest);
            return Err(EngineError::LayerOffline { image, digest, count: missing.len() });
        }
        self.watched(|watch| {
            at_once(&missing, watch, |layer, watch| {
                pull_blob(&self.store, &self.pulling.client, &base.repository, layer, watch)
            })
        })?;
        Ok(())
    }

    /// Opens a layer, fetched before if need be; it is verified while it is read.
    pub(crate) fn open_blob(
        &self,
        base: &PulledBase,
        descriptor: &Descriptor,
    ) -> Result<VerifiedReader<File>, EngineError> {
        self.bring(base)?;
        let file = self.store.open_blob(&descriptor.digest)?.into_file();
        Ok(VerifiedReader::new(file, descriptor.digest, descriptor.size))
    }
}

/// Where an image is remembered: by what was asked for.
fn key_of(reference: &Reference, platform: &Platform) -> Digest {
    // With a digest, the tag says nothing more.
    let tag = reference.tag.clone().filter(|_| reference.digest.is_none());
    let reference = Reference { tag, ..reference.clone() };
    Digest::of(format!("wbuild-pulled-1\0{reference}\0{platform}").as_bytes())
}

/// Documents that were read once.
struct Remembered(BTreeMap<Digest, Vec<u8>>);

/// They are of no use any more: why does not matter, they are asked for again.
struct Forgotten;

impl From<ImageError> for Forgotten {
    fn from(_: ImageError) -> Self {
        Self
    }
}

impl Documents for Remembered {
    type Error = Forgotten;

    fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Forgotten> {
        self.0.get(&descriptor.digest).cloned().ok_or(Forgotten)
    }

    fn place(&self, digest: &Digest) -> String {
        digest.to_string()
    }
}
