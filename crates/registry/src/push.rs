use std::collections::BTreeSet;

use wbuild_image::DocumentBlob;
use wbuild_oci::{Descriptor, Digest, Document, Reference};
use wbuild_remote::{HeaderValue, HttpError, Payload, Request, Watch};

use crate::at_once::at_once;
use crate::client::{Call, MAX_ANSWER, RegistryClient};
use crate::error::{RegistryError, codes, shown};
use crate::pull::{manifest_url, refused, what_of};
use crate::repository::Repository;
use crate::upload::{Blob, CREATED, Pushed};

/// What is to be in a repository.
#[derive(Clone, Debug)]
pub struct Content {
    /// What the tags are to name: a manifest, or an index.
    pub root: DocumentBlob,
    /// The manifests that the root names, if it is an index; those that are named by others come first.
    pub manifests: Vec<DocumentBlob>,
    /// Configs and layers.
    pub blobs: Vec<Blob>,
}

/// What a push did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushReport {
    /// Tags that named the same already.
    pub unchanged: usize,
    /// Tags that name it now.
    pub tagged: usize,
    /// Blobs that were there.
    pub present: usize,
    /// Blobs that another repository lent.
    pub mounted: usize,
    /// Blobs that were sent.
    pub sent: usize,
    /// Their bytes.
    pub sent_bytes: u64,
}

impl RegistryClient {
    /// Pushes an image under one or more names. Names that stand for it already cost one question each, and blobs that are there
    /// one more; a repository that has the manifest has its blobs.
    ///
    /// # Errors
    /// The first one. What was pushed by then stays, but no tag names it before all of it is there.
    pub fn push(
        &self,
        names: &[Reference],
        content: &Content,
        watch: &Watch<'_>,
    ) -> Result<PushReport, RegistryError> {
        let mut report = PushReport::default();
        let mut done = BTreeSet::new();
        // What one repository has got, it lends to the next.
        let mut content = content.clone();
        for name in names {
            let repository = Repository::of(name);
            if done.insert(repository.clone()) {
                let of_it: Vec<&Reference> =
                    names.iter().filter(|name| Repository::of(name) == repository).collect();
                self.push_to(&repository, &of_it, &content, watch, &mut report)?;
                let lent = |blob: Blob| blob.also_in([repository.clone()]);
                content.blobs = content.blobs.into_iter().map(lent).collect();
            }
        }
        Ok(report)
    }

    fn push_to(
        &self,
        repository: &Repository,
        names: &[&Reference],
        content: &Content,
        watch: &Watch<'_>,
        report: &mut PushReport,
    ) -> Result<(), RegistryError> {
        let endpoint = self.target(repository)?;
        let call = Call::push(&endpoint);
        let root = content.root.descriptor.digest;
        let mut missing = Vec::new();
        for name in names {
            let found = self.find_at(&call, name, watch)?;
            match found.is_some_and(|found| found.digest == root) {
                true => report.unchanged += 1,
                false => missing.push(*name),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let by_digest = repository.reference(None, Some(root));
        let known = report.unchanged > 0 || self.find_at(&call, &by_digest, watch)?.is_some();
        if !known {
            self.push_parts(repository, content, watch, report)?;
        }
        for name in missing {
            let pushed = self.push_manifest(name, &content.root, watch);
            match pushed {
                Err(RegistryError::Refused { status: 400 | 404, .. }) if known => {
                    // It had the manifest, and lost something of it.
                    self.push_parts(repository, content, watch, report)?;
                    self.push_manifest(name, &content.root, watch)?;
                }
                other => other?,
            }
            report.tagged += 1;
        }
        Ok(())
    }

    fn push_parts(
        &self,
        repository: &Repository,
        content: &Content,
        watch: &Watch<'_>,
        report: &mut PushReport,
    ) -> Result<(), RegistryError> {
        self.push_blobs(repository, &content.blobs, watch, report)?;
        for manifest in &content.manifests {
            let name = repository.reference(None, Some(manifest.descriptor.digest));
            if self.find(&name, watch)?.is_none() {
                self.push_manifest(&name, manifest, watch)?;
            }
        }
        Ok(())
    }

    /// Several at a time, the largest first.
    fn push_blobs(
        &self,
        repository: &Repository,
        blobs: &[Blob],
        watch: &Watch<'_>,
        report: &mut PushReport,
    ) -> Result<(), RegistryError> {
        let mut seen = BTreeSet::new();
        let mut blobs: Vec<&Blob> = blobs.iter().filter(|blob| seen.insert(blob.descriptor.digest)).collect();
        blobs.sort_by_key(|blob| (std::cmp::Reverse(blob.descriptor.size), blob.descriptor.digest));
        let pushed = at_once(&blobs, watch, |blob, watch| {
            Ok::<_, RegistryError>((self.push_blob(repository, blob, watch)?, blob.descriptor.size))
        })?;
        for (pushed, size) in pushed {
            match pushed {
                Pushed::Present => report.present += 1,
                Pushed::Mounted => report.mounted += 1,
                Pushed::Sent => {
                    report.sent += 1;
                    report.sent_bytes += size;
                }
            }
        }
        Ok(())
    }

    /// Puts a manifest or index under the tag of a name, or under its digest. All that it names must be there.
    ///
    /// # Errors
    /// When the registry refuses it, or fails too often.
    pub fn push_manifest(
        &self,
        name: &Reference,
        manifest: &DocumentBlob,
        watch: &Watch<'_>,
    ) -> Result<(), RegistryError> {
        self.put_manifest(name, manifest, watch).map(|_| ())
    }

    /// Says whether the registry took note of its subject.
    pub(crate) fn put_manifest(
        &self,
        name: &Reference,
        manifest: &DocumentBlob,
        watch: &Watch<'_>,
    ) -> Result<bool, RegistryError> {
        let endpoint = self.target(&Repository::of(name))?;
        let digest = manifest.descriptor.digest;
        let what = what_of(name);
        let media_type = HeaderValue::from_str(&manifest.descriptor.media_type)
            .map_err(|_| HttpError::Setup { why: format!("the media type of {digest} cannot be sent") })?;
        let reply = self
            .ask(
                &Call::push(&endpoint),
                watch,
                &|base| {
                    let payload = Payload::bytes(manifest.bytes.clone());
                    let request = Request::put(manifest_url(base, &endpoint, &what)?, payload);
                    Ok(request.with_header("content-type", media_type.clone()))
                },
                &mut |request| self.http.send(request, MAX_ANSWER, watch),
            )
            .map_err(|error| refused(error, &endpoint, || format!("take the manifest `{what}`")))?;
        let header =
            |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let found = header("docker-content-digest").and_then(|digest| digest.parse().ok());
        match found {
            Some(found) if found != digest => {
                Err(RegistryError::Digest { url: reply.url.to_string(), expected: digest, found })
            }
            _ if reply.status == CREATED => Ok(header("oci-subject").is_some()),
            // Some say so in another way: what counts is whether it is there.
            _ => match self.find_at(&Call::push(&endpoint), name, watch)? {
                Some(kept) if kept.digest == digest => Ok(header("oci-subject").is_some()),
                _ => Err(RegistryError::Protocol {
                    registry: endpoint.registry.clone(),
                    url: reply.url.to_string(),
                    why: format!("it did not keep the manifest `{what}`, but gave {}", shown(&reply)),
                }),
            },
        }
    }

    /// Everything that refers to a manifest: SBOMs, provenance, signatures. Asks the referrers API, else looks at the tag that
    /// stands in for it (distribution-spec, "Listing Referrers").
    ///
    /// # Errors
    /// When neither can be had; none is an empty list.
    pub fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        watch: &Watch<'_>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let endpoint = self.target(repository)?;
        let asked = self.ask(
            &Call::pull(&endpoint),
            watch,
            &|base| {
                let url = crate::pull::url(&format!("{base}{}/referrers/{subject}", endpoint.name))?;
                Ok(Request::get(url).with_header("accept", crate::pull::accepted()))
            },
            &mut |request| self.http.send(request, wbuild_oci::MAX_DOCUMENT_BYTES, watch),
        );
        match asked {
            Ok(reply) => match Document::parse(&reply.body) {
                Ok(Document::Index(index)) => Ok(index.manifests),
                _ => Err(RegistryError::Protocol {
                    registry: endpoint.registry.clone(),
                    url: reply.url.to_string(),
                    why: "it is no list of referrers".to_owned(),
                }),
            },
            Err(RegistryError::Http(HttpError::Status { answer, .. }))
                if matches!(answer.status, 400 | 404 | 405) || !codes(&answer).is_empty() =>
            {
                Ok(self
                    .fallback_index(repository, subject, watch)?
                    .map(|index| index.manifests)
                    .unwrap_or_default())
            }
            Err(error) => Err(refused(error, &endpoint, || "list referrers".to_owned())),
        }
    }

    fn fallback_index(
        &self,
        repository: &Repository,
        subject: &Digest,
        watch: &Watch<'_>,
    ) -> Result<Option<wbuild_oci::Index>, RegistryError> {
        match self.manifest(&listing_tag(repository, subject), watch) {
            Ok(fetched) => match fetched.document {
                Document::Index(index) => Ok(Some(index)),
                Document::Manifest(_) => Ok(None),
            },
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Pushes a manifest that has a `subject`, and makes sure that it is found as one of its referrers: by the registry itself,
    /// else by the tag that stands in. `listed` is how it is listed there: with its artifact type and annotations. Its blobs
    /// must be there.
    ///
    /// # Errors
    /// As [`push_manifest`](Self::push_manifest).
    pub fn attach(
        &self,
        repository: &Repository,
        subject: &Digest,
        manifest: &DocumentBlob,
        listed: &Descriptor,
        watch: &Watch<'_>,
    ) -> Result<(), RegistryError> {
        let name = repository.reference(None, Some(manifest.descriptor.digest));
        if self.put_manifest(&name, manifest, watch)? {
            return Ok(());
        }
        let mut index = self
            .fallback_index(repository, subject, watch)?
            .unwrap_or_else(|| wbuild_oci::Index::new(Vec::new()));
        if index.manifests.iter().any(|entry| entry.digest == listed.digest) {
            return Ok(());
        }
        index.manifests.push(listed.clone());
        let bytes = wbuild_oci::to_canonical_json(&index).map_err(|error| HttpError::Setup {
            why: format!("a document cannot be written as JSON: {error}"),
        })?;
        let descriptor = Descriptor::new(wbuild_oci::media::INDEX, Digest::of(&bytes), bytes.len() as u64);
        let index = DocumentBlob { descriptor, bytes };
        self.push_manifest(&listing_tag(repository, subject), &index, watch)
    }
}

/// `sha256-<hex>` (distribution-spec, "Referrers Tag Schema").
fn listing_tag(repository: &Repository, subject: &Digest) -> Reference {
    repository.reference(Some(wbuild_image::fallback_tag(subject)), None)
}
