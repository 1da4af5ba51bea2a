//! `wbuild pull`, `push` and `copy`: an image from one place to another, as it is.

mod place;
mod said;
mod source;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use wbuild_engine::{Engine, Transfer as Moves, registry_client};
use wbuild_image::{BlobFiles, Export, ImageParts, Others, write_archive_file, write_layout};
use wbuild_oci::{Descriptor, Digest, ImageConfig, Platform, Reference};
use wbuild_registry::{Blob, Content, RegistryClient, RegistryError, Repository, at_once};
use wbuild_remote::{Retry, Stop, Watch};

use super::outputs::{followed_blob, moving};
use super::{Failure, Session, print};
use crate::args::{CopyArgs, PullArgs, PushArgs};
use crate::progress::ProgressMode;
use crate::render::size;

use place::{Place, name};
use said::Said;
use source::{Source, Wanted};

pub(crate) fn pull(args: &PullArgs, session: &Session) -> Result<(), Failure> {
    let from = Place::Registry(name(&args.image)?);
    let wanted = wanted(args.which.all, args.which.platform.as_deref())?;
    let transfer = Transfer::open(session, args.home.home.as_ref(), args.progress.mode())?;
    let to: Vec<Place> = args.output.iter().map(|path| Place::output(path)).collect();
    transfer.run(session, &Errand { from, wanted, to, referrers: false })
}

pub(crate) fn push(args: &PushArgs, session: &Session) -> Result<(), Failure> {
    let to = args.images.iter().map(|image| destination(image)).collect::<Result<Vec<_>, _>>()?;
    let from = Place::local(&args.source)?;
    let wanted = wanted(args.platform.is_none(), args.platform.as_deref())?;
    let transfer = Transfer::open(session, args.home.home.as_ref(), args.progress.mode())?;
    transfer.run(session, &Errand { from, wanted, to, referrers: true })
}

pub(crate) fn copy(args: &CopyArgs, session: &Session) -> Result<(), Failure> {
    let from = Place::parse(&args.source)?;
    let to = match Place::parse(&args.destination)? {
        Place::Registry(_) => destination(&args.destination)?,
        other => other,
    };
    let wanted = wanted(args.which.all, args.which.platform.as_deref())?;
    let transfer = Transfer::open(session, args.home.home.as_ref(), args.progress.mode())?;
    let copied = transfer.run(session, &Errand { from, wanted, to: vec![to], referrers: true });
    copied.map_err(|failure| match failure {
        Failure::Failed { error, mut hints } => {
            hints.extend(
                [&args.source, &args.destination].into_iter().filter_map(|text| taken_for_image(text)),
            );
            Failure::Failed { error, hints }
        }
        other => other,
    })
}

/// `foo:bar` is an image of Docker Hub to docker, and a place of the kind `foo` to skopeo.
fn taken_for_image(text: &str) -> Option<String> {
    let (kind, _) = text.split_once(':').filter(|_| !text.contains(['/', '@']))?;
    let name = name(text).ok()?;
    (!matches!(kind, "oci" | "oci-archive" | "docker-archive"))
        .then(|| format!("`{text}` was taken for {name}; {}", place::TRANSPORTS))
}

/// Where to push to: under a name, not under a digest, which is what it is.
fn destination(text: &str) -> Result<Place, Failure> {
    let name = name(text)?;
    match name.digest {
        None => Ok(Place::Registry(name)),
        Some(_) => Err(Failure::usage(
            format!("`{text}` names a digest, and an image is pushed under a tag"),
            "its digest is what it is already",
        )),
    }
}

fn wanted(all: bool, platform: Option<&str>) -> Result<Wanted, Failure> {
    match (all, platform) {
        (true, _) => Ok(Wanted::Everything),
        (false, Some(text)) => Ok(Wanted::Platform(super::request::platform(text)?)),
        (false, None) => Ok(Wanted::Own),
    }
}

/// Calls `work` with a watch that says what is retried, and ends when the person does.
pub(super) fn watched<T>(
    session: &Session,
    say: &mut dyn FnMut(&str),
    work: impl FnOnce(&Watch<'_>) -> T,
) -> T {
    let stop = Stop::new();
    let stopping = stop.clone();
    let _subscription = session.cancellation.subscribe(move || stopping.stop());
    let say = std::cell::RefCell::new(say);
    let retrying = |retry: &Retry| (say.borrow_mut())(&retry.to_string());
    work(&Watch { stop: &stop, retrying: &retrying })
}

/// What is to be brought where.
struct Errand {
    from: Place,
    wanted: Wanted,
    to: Vec<Place>,
    /// Also what refers to the image: SBOMs, provenance.
    referrers: bool,
}

/// An image under way.
struct Transfer {
    engine: Arc<Engine>,
    client: Arc<RegistryClient>,
    said: Said,
}

impl Transfer {
    fn open(session: &Session, home: Option<&PathBuf>, mode: ProgressMode) -> Result<Self, Failure> {
        let engine = Arc::new(Engine::open(session.plain_options(home)?, &session.variable)?);
        let client = Arc::new(registry_client(&session.variable)?);
        let said = Said::new(mode)?;
        engine.follow_transfers(said.sink());
        Ok(Self { engine, client, said })
    }

    fn run(self, session: &Session, errand: &Errand) -> Result<(), Failure> {
        let warnings = self.said.sink();
        let mut say = |text: &str| warnings.warn(None, text, Vec::new());
        let done = watched(session, &mut say, |watch| {
            let source = Source::open(&self.engine, &errand.from)?;
            let parts = source.parts(&self.client, &errand.wanted, watch)?;
            // Another one than was asked for is an error already.
            let wanted = Platform::host();
            if let (Wanted::Own, Some(found)) = (&errand.wanted, platform_of(&parts))
                && !found.satisfies(&wanted)
            {
                self.said
                    .line(&format!("warning: this image is for {found}, and there is none for {wanted}"));
            }
            self.bring(&source, &parts, errand, watch)?;
            if errand.to.is_empty() {
                self.keep(&source, &parts, &errand.wanted)?;
                let (layers, size) = (counted(parts.layers.len(), "layer"), size(parts.size()));
                let name = source.name().unwrap_or_default();
                self.said.line(&format!("pulled {name} ({size} in {layers})"));
            }
            Ok(parts.root.descriptor.digest)
        });
        match done {
            Ok(digest) => {
                self.said.finish();
                print(&format!("{digest}\n"))
            }
            Err(failure) => Err(self.said.failed(failure)),
        }
    }

    fn bring(
        &self,
        source: &Source,
        parts: &ImageParts,
        errand: &Errand,
        watch: &Watch<'_>,
    ) -> Result<(), Failure> {
        let Errand { wanted, to, .. } = errand;
        let referrers = match errand.referrers {
            true => source.referrers(&self.client, &parts.root.descriptor.digest, watch)?,
            false => Vec::new(),
        };
        let names: Vec<Reference> = to
            .iter()
            .filter_map(|place| match place {
                Place::Registry(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        // What only passes from one registry to another is fetched when it turns out that it is needed.
        if names.len() < to.len() || to.is_empty() {
            self.fetch(source, &parts.layers, watch)?;
            for (_, found) in &referrers {
                self.fetch(source, &found.layers, watch)?;
            }
        }
        let files = Files { source, engine: &self.engine };
        let export = |tag: Option<&str>| -> Result<Export, Failure> {
            let export = Export::parts(parts, source.names(tag, wanted)?);
            export.with_found_referrers(&referrers).map_err(Failure::new)
        };
        for place in to {
            match place {
                Place::Registry(_) => {}
                Place::Layout { folder, tag } => {
                    let export = export(tag.as_deref())?;
                    write_layout(folder, &export, &files, Others::Keep).map_err(Failure::new)?;
                    self.wrote(&folder.display().to_string(), parts);
                }
                Place::Archive { file, format, tag } => {
                    let export = export(tag.as_deref())?;
                    write_archive_file(&export, *format, &files, file).map_err(Failure::new)?;
                    self.wrote(&file.display().to_string(), parts);
                }
            }
        }
        if !names.is_empty() {
            self.push(source, parts, &names, watch)?;
            self.push_referrers(source, parts, &referrers, &names, watch)?;
        }
        self.said_referrers(&referrers);
        Ok(())
    }

    /// Keeps an image whose layers are in the store, so that builds find it there.
    fn keep(&self, source: &Source, parts: &ImageParts, wanted: &Wanted) -> Result<(), Failure> {
        let store = self.engine.store();
        let mut blobs: Vec<Digest> = parts.layers.iter().map(|layer| layer.digest).collect();
        for document in parts.manifests.iter().chain(&parts.configs).chain([&parts.root]) {
            blobs.push(store.put_bytes(&document.bytes).map_err(Failure::new)?);
        }
        let Some((name, root)) = source.looked_up() else { return Ok(()) };
        blobs.push(store.put_bytes(&root.bytes).map_err(Failure::new)?);
        Ok(self.engine.remember_image(name, &root.descriptor, &wanted.to_string(), blobs.into_iter())?)
    }

    fn wrote(&self, place: &str, parts: &ImageParts) {
        let layers = counted(parts.layers.len(), "layer");
        self.said.line(&format!("image {place} ({} in {layers})", size(parts.size())));
    }

    /// Brings the layers to this machine, as far as they are not there.
    fn fetch(&self, source: &Source, layers: &[Descriptor], watch: &Watch<'_>) -> Result<(), Failure> {
        let Some(repository) = source.repository() else {
            // Blobs of a layout may become files of another one as they are, and pass for verified there.
            return layers.iter().try_for_each(|layer| source.verify(layer));
        };
        let pulling = self.engine.begin_transfer(format!("pull {}", source.name().unwrap_or_default()));
        let part = |layer: &Descriptor| pulling.part(layer.digest.to_string(), layer.size);
        layers.iter().for_each(|layer| part(layer).announce());
        let pulled = at_once(layers, watch, |layer, watch| {
            self.engine.pull_blob(&self.client, &repository, layer, watch, Some(part(layer)))
        });
        pulled.map(drop).map_err(|error| {
            pulling.fail();
            error.into()
        })
    }

    fn push(
        &self,
        source: &Source,
        parts: &ImageParts,
        names: &[Reference],
        watch: &Watch<'_>,
    ) -> Result<(), Failure> {
        let familiar: Vec<String> = names.iter().map(Reference::familiar).collect();
        let ways = self.ways(source, &familiar.join(", "));
        let configs = parts.configs.iter().map(|config| {
            let blob = Blob::bytes(&config.descriptor.media_type, config.bytes.clone());
            ways.followed(blob).also_in(source.repository())
        });
        let layers = parts.layers.iter().map(|layer| self.blob(source, layer, &ways));
        let content = Content {
            root: parts.root.clone(),
            manifests: parts.manifests.clone(),
            blobs: configs.chain(layers).collect(),
        };
        let pushed = self.client.push(names, &content, watch);
        let report = pushed.inspect_err(|_| ways.fail())?;
        drop((content, ways));
        let verb = if report.tagged == 0 { "unchanged" } else { "pushed" };
        for name in names {
            self.said.line(&format!("{verb} {}", name.familiar()));
        }
        if report.tagged == 0 {
            return Ok(());
        }
        if report.sent > 0 {
            let sent = counted(report.sent, "blob");
            self.said.line(&format!("sent {} in {sent}", size(report.sent_bytes)));
        }
        Ok(())
    }

    /// What belongs to the image follows it into each repository.
    fn push_referrers(
        &self,
        source: &Source,
        parts: &ImageParts,
        referrers: &[(Descriptor, ImageParts)],
        names: &[Reference],
        watch: &Watch<'_>,
    ) -> Result<(), Failure> {
        if referrers.is_empty() {
            return Ok(());
        }
        let subject = parts.root.descriptor.digest;
        let ways = self.ways(source, "what is said about it");
        let repositories: BTreeSet<Repository> = names.iter().map(Repository::of).collect();
        for repository in &repositories {
            let known = self.client.referrers(repository, &subject, watch)?;
            for (listed, found) in referrers {
                if known.iter().any(|known| known.digest == listed.digest) {
                    continue;
                }
                let layers = found.layers.iter().map(|layer| self.blob(source, layer, &ways));
                let configs = found
                    .configs
                    .iter()
                    .map(|config| Blob::bytes(&config.descriptor.media_type, config.bytes.clone()));
                let blobs: Vec<Blob> = layers.chain(configs).collect();
                at_once(&blobs, watch, |blob, watch| self.client.push_blob(repository, blob, watch))?;
                self.client.attach(repository, &subject, &found.root, listed, watch)?;
            }
        }
        Ok(())
    }

    fn said_referrers(&self, referrers: &[(Descriptor, ImageParts)]) {
        if !referrers.is_empty() {
            self.said.line(&format!("with {} about it", counted(referrers.len(), "document")));
        }
    }

    /// How an image goes from its source to registries.
    fn ways(&self, source: &Source, to: &str) -> Ways {
        let pulling = source.name().map(|name| format!("pull {name}"));
        Ways {
            pulling: pulling.map(|name| self.engine.begin_transfer(name)),
            pushing: self.engine.begin_transfer(format!("push {to}")),
        }
    }

    fn blob(&self, source: &Source, layer: &Descriptor, ways: &Ways) -> Blob {
        let here = source.blob_path(&layer.digest);
        let path = here.unwrap_or_else(|| self.engine.store().blob_path(&layer.digest));
        let blob = followed_blob(layer, &ways.pushing, move || Ok(path.clone()));
        let (Some(repository), Some(pulling)) = (source.repository(), &ways.pulling) else { return blob };
        let (engine, client) = (Arc::clone(&self.engine), Arc::clone(&self.client));
        let (from, wanted, pulling) = (repository.clone(), layer.clone(), Arc::clone(pulling));
        let fetch = move |watch: &Watch<'_>| {
            let part = pulling.part(wanted.digest.to_string(), wanted.size);
            engine.pull_blob(&client, &from, &wanted, watch, Some(part)).map(drop).map_err(
                |error| match error {
                    wbuild_engine::EngineError::Registry(error) => *error,
                    wbuild_engine::EngineError::Cancelled => wbuild_remote::HttpError::Stopped.into(),
                    other => RegistryError::Source {
                        what: format!("the blob {}", wanted.digest),
                        source: Box::new(other),
                    },
                },
            )
        };
        blob.prepared_by(fetch).also_in([repository])
    }
}

/// What is shown of an image on its way to registries.
struct Ways {
    /// From one.
    pulling: Option<Arc<Moves>>,
    pushing: Arc<Moves>,
}

impl Ways {
    /// A document, which is at hand.
    fn followed(&self, blob: Blob) -> Blob {
        let descriptor = &blob.descriptor;
        let part = Mutex::new(self.pushing.part(descriptor.digest.to_string(), descriptor.size));
        blob.told_to(move |pushed| {
            part.lock().unwrap_or_else(PoisonError::into_inner).end(moving(pushed));
        })
    }

    fn fail(&self) {
        self.pushing.fail();
        self.pulling.iter().for_each(|pulling| pulling.fail());
    }
}

/// For which platform the config of an image says that it is.
fn platform_of(parts: &ImageParts) -> Option<Platform> {
    let [config] = &parts.configs[..] else { return None };
    let config: ImageConfig = serde_json::from_slice(&config.bytes).ok()?;
    let words = [Some(config.os), Some(config.architecture), config.variant];
    let words: Vec<String> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
    words.join("/").parse().ok().filter(|_| words.len() > 1)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Where the layers of an image are on this machine.
struct Files<'a> {
    source: &'a Source,
    engine: &'a Engine,
}

impl BlobFiles for Files<'_> {
    fn blob(&self, digest: &Digest) -> io::Result<PathBuf> {
        Ok(self.source.blob_path(digest).unwrap_or_else(|| self.engine.store().blob_path(digest)))
    }

    fn seal(&self, digest: &Digest, size: u64) -> Option<SystemTime> {
        Some(wbuild_engine::seal_time(digest, size))
    }
}
