//! Base images in registries. What a name stands for is asked once a build, documents are kept in the store, and layers come
//! when somebody needs their files.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use wbuild_image::{BaseImage, Documents, ImageError, find_image};
use wbuild_oci::{Descriptor, Digest, MAX_DOCUMENT_BYTES, Platform, Reference};
use wbuild_registry::{RegistryClient, RegistryError, Repository, check_layer};
use wbuild_remote::Watch;
use wbuild_report::{Event, EventSink, Hint, Warning, with_causes};
use wbuild_solver::Cancellation;
use wbuild_store::Store;

use crate::arrival::Arrivals;
use crate::error::EngineError;
use crate::known_images::{keep_image, known_name, remember_name};
use crate::pulled_base::PulledBase;
use crate::registries::registry_client;
use crate::remote::Following;
use crate::transfers::Transfers;

/// When registries are asked for base images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asking {
    /// What each tag is now; what it was is good enough where no registry answers. Tags that are pinned are what they are
    /// pinned to.
    #[default]
    Usual,
    /// What each tag is now, and no less, whatever is pinned.
    Always,
    /// Never.
    Never,
}

/// What names of images stand for until somebody pins them anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// The file that says so.
    pub file: PathBuf,
    /// By name with its tag.
    pub names: BTreeMap<Reference, Digest>,
}

/// How base images are had that no `--build-context` names.
#[derive(Clone, Debug)]
pub struct Pulling {
    /// When registries are asked.
    pub asking: Asking,
    /// What is pinned.
    pub pins: Pins,
    /// Whether what names stand for is pinned anew after this build.
    pub pinning: bool,
    /// The variables of the environment: where rules and credentials are. Read when a registry is asked for the first time.
    pub variable: fn(&str) -> Option<String>,
    /// What ends it before a solve has begun.
    pub cancellation: Cancellation,
}

/// The registries of a build.
#[derive(Debug)]
pub(crate) struct BaseRegistries {
    pulling: Pulling,
    pub(crate) store: Store,
    pub(crate) transfers: Arc<Transfers>,
    /// Layers that are being brought.
    pub(crate) arrivals: Arc<Arrivals>,
    client: OnceLock<RegistryClient>,
    /// Nobody, as long as nothing is solved.
    following: Mutex<Option<Following>>,
    /// What names turned out to stand for in this build.
    roots: Mutex<BTreeMap<Reference, Descriptor>>,
    /// What is to be said when somebody listens.
    warnings: Arc<Mutex<Vec<Warning>>>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BaseRegistries {
    pub(crate) fn new(pulling: Pulling, store: Store, transfers: Arc<Transfers>) -> Self {
        Self {
            pulling,
            store,
            transfers,
            arrivals: Arc::default(),
            client: OnceLock::new(),
            following: Mutex::default(),
            roots: Mutex::default(),
            warnings: Arc::default(),
        }
    }

    pub(crate) fn follow(&self, following: Following) {
        let waiting = std::mem::take(&mut *locked(&self.warnings));
        waiting.into_iter().for_each(|warning| following.events.hand_on(warning));
        *locked(&self.following) = Some(following);
    }

    fn warn(&self, message: String, hints: Vec<String>) {
        self.following().events.warn(None, message, hints);
    }

    /// What every name of this build stood for, without those that have a digest.
    pub(crate) fn resolved(&self) -> BTreeMap<Reference, Digest> {
        let roots = locked(&self.roots);
        let named = roots.iter().filter(|(name, _)| name.digest.is_none());
        named.map(|(name, root)| (name.clone(), root.digest)).collect()
    }

    pub(crate) fn following(&self) -> Following {
        let cancellation = self.pulling.cancellation.clone();
        let later = || {
            let warnings = Arc::clone(&self.warnings);
            let events = EventSink::new(move |event| {
                if let Event::Warned { warning, .. } = event {
                    locked(&warnings).push(warning);
                }
            });
            Following { events, cancellation }
        };
        locked(&self.following).clone().unwrap_or_else(later)
    }

    pub(crate) fn is_offline(&self) -> bool {
        self.pulling.asking == Asking::Never
    }

    /// Made when something is asked for the first time: most builds ask for little, and some for nothing.
    pub(crate) fn client(&self) -> Result<&RegistryClient, EngineError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = registry_client(&self.pulling.variable)?;
        Ok(self.client.get_or_init(|| client))
    }

    /// The image of a name for a platform: its documents, from the store as far as they are there. `written` is the name as
    /// the person knows it; `None` when it is not on this machine, and nobody may be asked.
    pub(crate) fn open(
        self: &Arc<Self>,
        written: &str,
        platform: &Platform,
    ) -> Result<Option<(BaseImage, PulledBase)>, EngineError> {
        let name: Reference =
            written.parse().map_err(|source| EngineError::ImageName { name: written.to_owned(), source })?;
        let base = PulledBase {
            registries: Arc::clone(self),
            repository: Repository::of(&name),
            written: written.to_owned(),
            pin: self.pin_of(&name),
            transfer: Mutex::default(),
        };
        let opened = self.following().watched(|watch| self.documents(&name, &base, platform, watch));
        match opened {
            Ok(image) => Ok(image.map(|image| (image, base))),
            Err(EngineError::NotInStore) => Ok(None),
            Err(error) => Err(base.about(error)),
        }
    }

    fn documents(
        &self,
        name: &Reference,
        base: &PulledBase,
        platform: &Platform,
        watch: &Watch<'_>,
    ) -> Result<Option<BaseImage>, EngineError> {
        let Some(root) = self.root(name, base.pin, watch)? else { return Ok(None) };
        let documents = KnownDocuments {
            registries: self,
            repository: &base.repository,
            watch,
            read: RefCell::default(),
        };
        let image = find_image(root.clone(), platform, &documents)?;
        image.layers.iter().try_for_each(|layer| check_layer(&layer.descriptor))?;
        let read = documents.read.into_inner().into_iter();
        let layers = image.layers.iter().map(|layer| layer.descriptor.digest);
        keep_image(&self.store, &root.digest, &platform.to_string(), read.chain(layers))?;
        Ok(Some(image))
    }

    /// What counts as pinned in this build.
    fn pin_of(&self, name: &Reference) -> Option<Digest> {
        let honoured = self.pulling.asking != Asking::Always && name.digest.is_none();
        self.pulling.pins.names.get(name).copied().filter(|_| honoured)
    }

    /// The file that pins names.
    pub(crate) fn pin_file(&self) -> PathBuf {
        self.pulling.pins.file.clone()
    }

    /// What a name stands for in this build; `None` when that is not known here, and nobody may be asked.
    fn root(
        &self,
        name: &Reference,
        pin: Option<Digest>,
        watch: &Watch<'_>,
    ) -> Result<Option<Descriptor>, EngineError> {
        if let Some(known) = locked(&self.roots).get(name) {
            return Ok(Some(known.clone()));
        }
        let root = match name.digest.or(pin) {
            Some(digest) => self.by_digest(name, digest, watch)?,
            None => self.by_tag(name, watch)?,
        };
        if let Some(root) = &root {
            locked(&self.roots).insert(name.clone(), root.clone());
            self.compare_with_pin(name, root.digest);
        }
        Ok(root)
    }

    /// Pins are not passed over in silence.
    fn compare_with_pin(&self, name: &Reference, found: Digest) {
        let pinned = self.pulling.pins.names.get(name).filter(|pinned| **pinned != found);
        if let Some(pinned) = pinned.filter(|_| name.digest.is_none() && !self.pulling.pinning) {
            let (name, file) = (name.familiar(), self.pulling.pins.file.display());
            let message = format!("`{name}` is {found} now, and `{file}` pins it to {pinned}");
            self.warn(message, vec!["`--pull --pin` pins what it is now".to_owned()]);
        }
    }

    /// A digest never changes what it is: nobody is asked about one that is known.
    fn by_digest(
        &self,
        name: &Reference,
        digest: Digest,
        watch: &Watch<'_>,
    ) -> Result<Option<Descriptor>, EngineError> {
        if let Some(root) = self.known(&digest)? {
            return Ok(Some(root));
        }
        if self.is_offline() {
            return Ok(None);
        }
        let wanted = Reference { digest: Some(digest), ..name.clone() };
        let fetched = self.client()?.manifest(&wanted, watch)?;
        self.store.put_bytes(&fetched.bytes)?;
        Ok(Some(fetched.descriptor))
    }

    fn by_tag(&self, name: &Reference, watch: &Watch<'_>) -> Result<Option<Descriptor>, EngineError> {
        let known = match known_name(&self.store, name)? {
            Some(known) if self.known(&known.digest)?.is_some() => Some(known),
            _ => None,
        };
        if self.is_offline() {
            return Ok(known);
        }
        let client = self.client()?;
        if let Some(known) = known {
            match client.look_up(name, watch) {
                Ok(Some(digest)) if digest == known.digest => return Ok(Some(known)),
                Err(error) if error.is_stopped() => return Err(error.into()),
                Err(error) if error.is_unreachable() && self.pulling.asking == Asking::Usual => {
                    let name = name.familiar();
                    let message = format!(
                        "using `{name}` as it was when it was last looked up: {}",
                        with_causes(&error)
                    );
                    self.warn(message, error.hints());
                    return Ok(Some(known));
                }
                // Another one by now, or a reason that asking for it says better.
                _ => {}
            }
        }
        let fetched = client.manifest(name, watch)?;
        self.store.put_bytes(&fetched.bytes)?;
        remember_name(&self.store, name, &fetched.descriptor)?;
        Ok(Some(fetched.descriptor))
    }

    /// A manifest or index that is in the store. What it is, it says itself.
    fn known(&self, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
        let bytes = self.stored(digest)?;
        Ok(bytes.map(|bytes| Descriptor::new("", *digest, bytes.len() as u64)))
    }

    fn stored(&self, digest: &Digest) -> Result<Option<Vec<u8>>, EngineError> {
        if !self.store.holds_blob(digest)? {
            return Ok(None);
        }
        match self.store.read_blob(digest, MAX_DOCUMENT_BYTES) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_lost() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Documents of a repository: those in the store, and the others from the registry.
struct KnownDocuments<'a> {
    registries: &'a BaseRegistries,
    repository: &'a Repository,
    watch: &'a Watch<'a>,
    /// What was read.
    read: RefCell<Vec<Digest>>,
}

impl Documents for KnownDocuments<'_> {
    type Error = EngineError;

    fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, EngineError> {
        let (registries, digest) = (self.registries, &descriptor.digest);
        self.read.borrow_mut().push(*digest);
        if let Some(bytes) = registries.stored(digest)?
            && bytes.len() as u64 == descriptor.size
        {
            return Ok(bytes);
        }
        if registries.is_offline() {
            return Err(EngineError::NotInStore);
        }
        let bytes = registries.client()?.document(self.repository, descriptor, self.watch)?;
        registries.store.put_bytes(&bytes)?;
        Ok(bytes)
    }

    fn place(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.repository)
    }
}

impl From<ImageError> for EngineError {
    fn from(error: ImageError) -> Self {
        RegistryError::from(error).into()
    }
}
