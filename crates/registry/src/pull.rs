use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use wbuild_image::{BaseImage, Documents, ImageError, find_image, read_document};
use wbuild_oci::{Descriptor, Digest, Document, MAX_DOCUMENT_BYTES, Platform, Reference, media};
use wbuild_remote::{Expected, HeaderValue, HttpError, HttpUrl, Request, Sink, Transfer, Watch};
use wbuild_report::nearest;

use crate::client::{Call, MAX_ANSWER, RegistryClient};
use crate::error::{Named, RegistryError, codes, said, shown};
use crate::repository::Repository;
use crate::rules::Endpoint;

/// Everything that this crate can read, in one line.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                              application/vnd.docker.distribution.manifest.list.v2+json, \
                              application/vnd.docker.distribution.manifest.v2+json";

/// No blob is larger: as much as any layer may unpack to.
const MAX_BLOB: u64 = 64 << 30;

/// As many tags are looked through for one that was meant.
const MAX_TAGS: usize = 1000;

/// As many tags are shown where none is like the one that was meant.
const SHOWN_TAGS: usize = 5;

/// A manifest or index.
#[derive(Clone, Debug)]
pub struct FetchedManifest {
    /// Names it, with the media type that it has.
    pub descriptor: Descriptor,
    /// As it came.
    pub bytes: Vec<u8>,
    /// What it says.
    pub document: Document,
}

/// An image of a registry, all but the layers.
#[derive(Clone, Debug)]
pub struct PulledImage {
    /// What the reference names: the manifest, or an index that it was found in.
    pub root: Descriptor,
    /// The image for the platform.
    pub image: BaseImage,
    /// Every document that was read on the way, as it came: index, manifest, config.
    pub documents: BTreeMap<Digest, Vec<u8>>,
}

impl RegistryClient {
    /// What a reference names: its digest if it has one, else its tag.
    ///
    /// # Errors
    /// When there is none (tags with similar names are in the error), it cannot be had, is larger than 4 MiB, malformed, or has
    /// another digest than it should have.
    pub fn manifest(
        &self,
        reference: &Reference,
        watch: &Watch<'_>,
    ) -> Result<FetchedManifest, RegistryError> {
        let endpoints = self.sources(&Repository::of(reference), reference.digest.is_some())?;
        self.ask_in_turn(&endpoints, watch, |endpoint| {
            self.manifest_at(endpoint, reference, Near::Look, watch)
        })
    }

    /// The same of something that need not be there: `None` when it is not, and no similar names are looked for.
    ///
    /// # Errors
    /// As [`manifest`](Self::manifest).
    pub fn manifest_if_any(
        &self,
        reference: &Reference,
        watch: &Watch<'_>,
    ) -> Result<Option<FetchedManifest>, RegistryError> {
        let endpoints = self.sources(&Repository::of(reference), reference.digest.is_some())?;
        if_any(self.ask_in_turn(&endpoints, watch, |endpoint| {
            self.manifest_at(endpoint, reference, Near::Leave, watch)
        }))
    }

    /// The same from where a push goes, past all mirrors: for who is about to replace it.
    ///
    /// # Errors
    /// As [`manifest`](Self::manifest).
    pub fn manifest_to_replace(
        &self,
        reference: &Reference,
        watch: &Watch<'_>,
    ) -> Result<Option<FetchedManifest>, RegistryError> {
        let endpoint = self.target(&Repository::of(reference))?;
        if_any(self.manifest_at(&endpoint, reference, Near::Leave, watch))
    }

    fn manifest_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        near: Near,
        watch: &Watch<'_>,
    ) -> Result<FetchedManifest, RegistryError> {
        let what = what_of(reference);
        let reply = self.ask(
            &Call::pull(endpoint),
            watch,
            &|base| {
                let request = Request::get(manifest_url(base, endpoint, &what)?);
                Ok(request.with_header("accept", accepted()).staying_encrypted())
            },
            &mut |request| self.http_for(endpoint).send(request, MAX_DOCUMENT_BYTES, watch),
        );
        let reply = match reply {
            Err(RegistryError::Http(HttpError::Status { answer, .. })) if answer.status == 404 => {
                return Err(self.no_manifest(endpoint, reference, near, &codes(&answer), watch));
            }
            other => {
                other.map_err(|error| refused(error, endpoint, || format!("give the manifest `{what}`")))?
            }
        };
        let url = reply.url.to_string();
        let header =
            |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let stated = header("content-type").map(|stated| stated.split(';').next().unwrap_or_default().trim());
        if stated.is_some_and(|stated| stated.starts_with("application/vnd.docker.distribution.manifest.v1"))
        {
            return Err(RegistryError::Schema1 { url });
        }
        if let Some(encoding) = reply.encoding() {
            return Err(HttpError::Encoded { url, encoding }.into());
        }
        // The page of a proxy, or of another server: what is wrong with it as a manifest says nothing.
        if !reply.body.trim_ascii_start().starts_with(b"{") && !stated.is_some_and(is_manifest) {
            return Err(RegistryError::Protocol {
                registry: endpoint.registry.clone(),
                url,
                why: format!("it is no manifest, but {}", shown(&reply)),
            });
        }
        let found = Digest::of(&reply.body);
        // Some send digests of other kinds; what they are worth, nobody can say.
        let promised = header("docker-content-digest").and_then(|digest| digest.parse().ok());
        for expected in [reference.digest, promised].into_iter().flatten() {
            if expected != found {
                return Err(RegistryError::Digest { url, expected, found });
            }
        }
        let document = Document::parse(&reply.body)
            .map_err(|source| ImageError::Document { place: url.clone(), source })?;
        let media_type = media_type_of(&document, stated.unwrap_or_default());
        let descriptor = Descriptor::new(&media_type, found, reply.body.len() as u64);
        let fetched = FetchedManifest { descriptor, bytes: reply.body, document };
        // What kind it is must be beyond doubt, and its size reasonable.
        read_document(&fetched.descriptor, &One(&fetched, url))?;
        Ok(fetched)
    }

    fn no_manifest(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        look: Near,
        codes: &[crate::error::Code],
        watch: &Watch<'_>,
    ) -> RegistryError {
        let repository = || RegistryError::NoRepository {
            registry: endpoint.registry.clone(),
            name: endpoint.name.clone(),
        };
        if codes.iter().any(|code| code.code == "NAME_UNKNOWN") {
            return repository();
        }
        let (mut near, mut others, mut listed) = (Vec::new(), Vec::new(), false);
        if let (Some(tag), None, false, Near::Look) =
            (&reference.tag, &reference.digest, endpoint.mirror, look)
        {
            match self.tags_at(endpoint, watch) {
                Ok(mut tags) => {
                    // It may list what it has lost.
                    listed = tags.contains(tag);
                    tags.retain(|known| known != tag);
                    let found = nearest(tag, tags.iter().map(String::as_str));
                    near = found.into_iter().map(str::to_owned).collect();
                    others = tags;
                    others.truncate(SHOWN_TAGS);
                }
                Err(RegistryError::NoRepository { .. }) => return repository(),
                // It was only for a hint.
                Err(_) => {}
            }
        }
        RegistryError::NoManifest {
            reference: Box::new(Named(reference.clone())),
            what: what_of(reference),
            near,
            others,
            listed,
        }
    }

    /// What a reference names, without reading it; `None` when it names nothing. The media type is what the registry says.
    ///
    /// # Errors
    /// When the registry cannot be asked, or does not say.
    pub fn find(
        &self,
        reference: &Reference,
        watch: &Watch<'_>,
    ) -> Result<Option<Descriptor>, RegistryError> {
        let endpoint = self.target(&Repository::of(reference))?;
        self.find_at(&Call::pull(&endpoint), reference, watch)
    }

    pub(crate) fn find_at(
        &self,
        call: &Call<'_>,
        reference: &Reference,
        watch: &Watch<'_>,
    ) -> Result<Option<Descriptor>, RegistryError> {
        let what = what_of(reference);
        let reply = self.ask(
            call,
            watch,
            &|base| {
                let request = Request::head(manifest_url(base, call.endpoint, &what)?);
                Ok(request.with_header("accept", accepted()).staying_encrypted())
            },
            &mut |request| self.http_for(call.endpoint).send(request, MAX_ANSWER, watch),
        );
        let reply = match reply {
            Err(RegistryError::Http(HttpError::Status { answer, .. })) if answer.status == 404 => {
                return Ok(None);
            }
            other => {
                other.map_err(|error| refused(error, call.endpoint, || format!("say what `{what}` is")))?
            }
        };
        let header =
            |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let digest = header("docker-content-digest").and_then(|digest| digest.parse().ok());
        let media_type = header("content-type").and_then(|stated| stated.split(';').next()).map(str::trim);
        // Proxies that want a login answer everything.
        if digest.is_none() && !media_type.is_some_and(is_manifest) {
            return Ok(None);
        }
        let size = header("content-length").and_then(|size| size.parse().ok());
        Ok(digest.or(reference.digest).map(|digest| {
            Descriptor::new(header("content-type").unwrap_or_default(), digest, size.unwrap_or_default())
        }))
    }

    /// Which manifest or index a reference names now, by one question that is not repeated; mirrors count. `None` when the
    /// registry has it, but does not say.
    ///
    /// # Errors
    /// When there is none, or it cannot be had.
    pub fn look_up(&self, reference: &Reference, watch: &Watch<'_>) -> Result<Option<Digest>, RegistryError> {
        let endpoints = self.sources(&Repository::of(reference), reference.digest.is_some())?;
        let what = what_of(reference);
        self.ask_in_turn(&endpoints, watch, |endpoint| {
            let reply = self.ask(
                &Call::pull(endpoint),
                watch,
                &|base| {
                    let request = Request::head(manifest_url(base, endpoint, &what)?);
                    Ok(request.with_header("accept", accepted()).staying_encrypted().once())
                },
                &mut |request| self.http_for(endpoint).send(request, MAX_ANSWER, watch),
            );
            match reply {
                Err(RegistryError::Http(HttpError::Status { answer, .. })) if answer.status == 404 => {
                    Err(RegistryError::NoManifest {
                        reference: Box::new(Named(reference.clone())),
                        what: what.clone(),
                        near: Vec::new(),
                        others: Vec::new(),
                        listed: false,
                    })
                }
                Err(error) => Err(refused(error, endpoint, || format!("say what `{what}` is"))),
                Ok(reply) => {
                    let digest = reply.headers.get("docker-content-digest");
                    Ok(digest.and_then(|digest| digest.to_str().ok()?.trim().parse().ok()))
                }
            }
        })
    }

    /// Manifest and config of an image for a platform, all verified. Layers are [fetched](Self::fetch) when they are wanted.
    ///
    /// # Errors
    /// As [`manifest`](Self::manifest), and when there is nothing for the platform, or its layers are kept elsewhere.
    pub fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        watch: &Watch<'_>,
    ) -> Result<PulledImage, RegistryError> {
        let fetched = self.manifest(reference, watch)?;
        let root = fetched.descriptor;
        let reading = self.documents(Repository::of(reference), watch);
        reading.documents.borrow_mut().insert(root.digest, fetched.bytes);
        let image = find_image(root.clone(), platform, &reading)?;
        for layer in &image.layers {
            check_layer(&layer.descriptor)?;
        }
        Ok(PulledImage { root, image, documents: reading.documents.into_inner() })
    }

    /// The documents of a repository, for whoever reads images.
    pub fn documents<'a>(&'a self, repository: Repository, watch: &'a Watch<'a>) -> RemoteDocuments<'a> {
        RemoteDocuments { client: self, repository, watch, documents: RefCell::default() }
    }

    /// A document that a descriptor names: a manifest, index or config of at most 4 MiB, with its digest and size.
    ///
    /// # Errors
    /// When it is not there, cannot be had, is too large or another one.
    pub fn document(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        watch: &Watch<'_>,
    ) -> Result<Vec<u8>, RegistryError> {
        if is_manifest(&descriptor.media_type) {
            let reference = repository.reference(None, Some(descriptor.digest));
            let fetched = self.manifest(&reference, watch)?;
            return sized(fetched.bytes, descriptor, repository);
        }
        if descriptor.size > MAX_DOCUMENT_BYTES {
            let url = format!("{repository}@{}", descriptor.digest);
            return Err(HttpError::TooLarge { url, limit: MAX_DOCUMENT_BYTES }.into());
        }
        let mut bytes = Vec::new();
        self.fetch(repository, descriptor, &mut bytes, watch)?;
        Ok(bytes)
    }

    /// Downloads a blob into `sink`, from mirrors too; what was cut is resumed. The sink has all of it and nothing else when
    /// this succeeds, and garbage when it fails.
    ///
    /// # Errors
    /// When it is not there, cannot be had, or has another size or digest.
    pub fn fetch(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        sink: &mut dyn Sink,
        watch: &Watch<'_>,
    ) -> Result<(), RegistryError> {
        check_layer(descriptor)?;
        if descriptor.size > MAX_BLOB {
            let url = format!("{repository}@{}", descriptor.digest);
            return Err(HttpError::TooLarge { url, limit: MAX_BLOB }.into());
        }
        let expected = Expected { limit: descriptor.size, digest: Some(descriptor.digest) };
        let mut counted = Counted { sink, size: 0 };
        let mut transfer = Transfer::new(&mut counted);
        let endpoints = self.sources(repository, true)?;
        self.ask_in_turn(&endpoints, watch, |endpoint| {
            let done = self.ask(
                &Call::pull(endpoint),
                watch,
                &|base| Ok(Request::get(blob_url(base, endpoint, &descriptor.digest)?)),
                &mut |request| self.http_for(endpoint).go_on(&mut transfer, request, &expected, watch),
            );
            match done {
                Err(RegistryError::Http(HttpError::Status { answer, .. })) if answer.status == 404 => {
                    let repository = format!("{}/{}", endpoint.registry, endpoint.name);
                    Err(RegistryError::NoBlob { repository, digest: descriptor.digest })
                }
                other => other.map_err(|error| {
                    refused(error, endpoint, || format!("give the blob {}", descriptor.digest))
                }),
            }
        })?;
        match counted.size == descriptor.size {
            true => Ok(()),
            false => Err(RegistryError::Size {
                url: format!("{repository}@{}", descriptor.digest),
                expected: descriptor.size,
                found: counted.size,
            }),
        }
    }

    /// The bytes of a blob from one offset to another, unverified; `None` when no parts of blobs are given.
    ///
    /// # Errors
    /// When the blob is not there, is shorter, or cannot be had.
    pub fn fetch_part(
        &self,
        repository: &Repository,
        blob: &Digest,
        range: &Range<u64>,
        watch: &Watch<'_>,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Some(Vec::new()));
        }
        let endpoints = self.sources(repository, true)?;
        self.ask_in_turn(&endpoints, watch, |endpoint| {
            let asked = self.ask(
                &Call::pull(endpoint),
                watch,
                &|base| Ok(Request::get(blob_url(base, endpoint, blob)?).with_range(range)),
                &mut |request| self.http_for(endpoint).send(request, wanted, watch),
            );
            let reply = match asked {
                Ok(reply) => reply,
                // All of it came.
                Err(RegistryError::Http(HttpError::TooLarge { .. })) => return Ok(None),
                Err(RegistryError::Http(HttpError::Status { answer, .. })) if answer.status == 404 => {
                    let repository = format!("{}/{}", endpoint.registry, endpoint.name);
                    return Err(RegistryError::NoBlob { repository, digest: *blob });
                }
                Err(error) => return Err(refused(error, endpoint, || format!("give a part of {blob}"))),
            };
            if reply.status != 206 {
                return Ok(None);
            }
            let stated = reply.headers.get("content-range").and_then(|range| range.to_str().ok());
            let right = stated.is_none_or(|stated| stated.starts_with(&format!("bytes {}-", range.start)));
            match right && reply.body.len() as u64 == wanted {
                true => Ok(Some(reply.body)),
                false => Err(RegistryError::Protocol {
                    registry: endpoint.registry.clone(),
                    url: reply.url.to_string(),
                    why: "another part came than was asked for".to_owned(),
                }),
            }
        })
    }

    /// The first tags of a repository, at most a thousand.
    ///
    /// # Errors
    /// When there is no such repository, or they cannot be had.
    pub fn tags(&self, repository: &Repository, watch: &Watch<'_>) -> Result<Vec<String>, RegistryError> {
        let endpoint = self.target(repository)?;
        self.tags_at(&endpoint, watch)
    }

    fn tags_at(&self, endpoint: &Endpoint, watch: &Watch<'_>) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        let reply = self.ask(
            &Call::pull(endpoint),
            watch,
            &|base| Ok(Request::get(url(&format!("{base}{}/tags/list?n={MAX_TAGS}", endpoint.name))?)),
            &mut |request| self.http_for(endpoint).send(request, MAX_DOCUMENT_BYTES, watch),
        );
        let reply = match reply {
            Err(RegistryError::Http(HttpError::Status { answer, .. })) if answer.status == 404 => {
                let (registry, name) = (endpoint.registry.clone(), endpoint.name.clone());
                return Err(RegistryError::NoRepository { registry, name });
            }
            other => other.map_err(|error| refused(error, endpoint, || "list tags".to_owned()))?,
        };
        let tags: Tags = serde_json::from_slice(&reply.body).map_err(|_| RegistryError::Protocol {
            registry: endpoint.registry.clone(),
            url: reply.url.to_string(),
            why: "it is no list of tags".to_owned(),
        })?;
        let mut tags = tags.tags.unwrap_or_default();
        tags.truncate(MAX_TAGS);
        Ok(tags)
    }
}

/// Whether tags with similar names are looked for where there is none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Near {
    Look,
    Leave,
}

fn if_any(found: Result<FetchedManifest, RegistryError>) -> Result<Option<FetchedManifest>, RegistryError> {
    match found {
        Err(error) if error.is_missing() => Ok(None),
        other => other.map(Some),
    }
}

/// A refusal that is not about credentials, in words.
pub(crate) fn refused(
    error: RegistryError,
    endpoint: &Endpoint,
    doing: impl Fn() -> String,
) -> RegistryError {
    match error {
        RegistryError::Http(HttpError::Status { answer, .. }) if answer.status != 429 => {
            RegistryError::Refused {
                place: format!("{}/{}", endpoint.registry, endpoint.name),
                doing: doing(),
                status: answer.status,
                said: said(&answer),
            }
        }
        other => other,
    }
}

pub(crate) fn url(text: &str) -> Result<HttpUrl, RegistryError> {
    Ok(HttpUrl::parse(text).map_err(HttpError::from)?)
}

pub(crate) fn manifest_url(base: &str, endpoint: &Endpoint, what: &str) -> Result<HttpUrl, RegistryError> {
    url(&format!("{base}{}/manifests/{what}", endpoint.name))
}

pub(crate) fn blob_url(base: &str, endpoint: &Endpoint, digest: &Digest) -> Result<HttpUrl, RegistryError> {
    url(&format!("{base}{}/blobs/{digest}", endpoint.name))
}

pub(crate) fn accepted() -> HeaderValue {
    HeaderValue::from_static(MANIFEST_TYPES)
}

pub(crate) fn what_of(reference: &Reference) -> String {
    let digest = reference.digest.map(|digest| digest.to_string());
    digest.or_else(|| reference.tag.clone()).unwrap_or_else(|| "latest".to_owned())
}

fn is_manifest(media_type: &str) -> bool {
    [media::MANIFEST, media::INDEX, media::DOCKER_MANIFEST, media::DOCKER_INDEX].contains(&media_type)
}

/// The registry's word, if it is one that is known; else what the document says itself, or is.
fn media_type_of(document: &Document, stated: &str) -> String {
    if is_manifest(stated) {
        return stated.to_owned();
    }
    let (own, else_) = match document {
        Document::Index(index) => (&index.media_type, media::INDEX),
        Document::Manifest(manifest) => (&manifest.media_type, media::MANIFEST),
    };
    own.clone().filter(|own| !own.is_empty()).unwrap_or_else(|| else_.to_owned())
}

/// Layers of Windows that were not to be passed on are at addresses that their descriptors name, or nowhere.
///
/// # Errors
/// When it is such a layer.
pub fn check_layer(descriptor: &Descriptor) -> Result<(), RegistryError> {
    let media_type = &descriptor.media_type;
    if media_type.contains(".foreign.") || media_type.contains(".nondistributable.") {
        return Err(RegistryError::Foreign { digest: descriptor.digest, media_type: media_type.clone() });
    }
    Ok(())
}

fn sized(bytes: Vec<u8>, descriptor: &Descriptor, repository: &Repository) -> Result<Vec<u8>, RegistryError> {
    let (expected, found) = (descriptor.size, bytes.len() as u64);
    match expected == found {
        true => Ok(bytes),
        false => {
            Err(RegistryError::Size { url: format!("{repository}@{}", descriptor.digest), expected, found })
        }
    }
}

/// The manifest that was just read.
struct One<'a>(&'a FetchedManifest, String);

impl Documents for One<'_> {
    type Error = ImageError;

    fn read(&self, _: &Descriptor) -> Result<Vec<u8>, ImageError> {
        Ok(self.0.bytes.clone())
    }

    fn place(&self, _: &Digest) -> String {
        self.1.clone()
    }
}

/// Reads documents, and remembers them.
#[derive(Debug)]
pub struct RemoteDocuments<'a> {
    client: &'a RegistryClient,
    repository: Repository,
    watch: &'a Watch<'a>,
    documents: RefCell<BTreeMap<Digest, Vec<u8>>>,
}

impl Documents for RemoteDocuments<'_> {
    type Error = RegistryError;

    fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        if let Some(known) = self.documents.borrow().get(&descriptor.digest) {
            return Ok(known.clone());
        }
        let bytes = self.client.document(&self.repository, descriptor, self.watch)?;
        self.documents.borrow_mut().insert(descriptor.digest, bytes.clone());
        Ok(bytes)
    }

    fn place(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.repository)
    }
}

/// Counts what its sink has.
struct Counted<'a> {
    sink: &'a mut dyn Sink,
    size: u64,
}

impl Sink for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.sink.write(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.size = 0;
        self.sink.restart()
    }
}
