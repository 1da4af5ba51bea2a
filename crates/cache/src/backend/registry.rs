use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use wbuild_image::DocumentBlob;
use wbuild_oci::{
    Descriptor, Digest, Document, MAX_DOCUMENT_BYTES, Manifest, Reference, media, to_canonical_json,
};
use wbuild_registry::{
    Blob, CredentialFiles, FetchedManifest, RegistryClient, RegistryError, RegistryOptions, Repository, Rules,
};
use wbuild_remote::{HttpError, Stop, Watch};

use super::web::{Into, Network, options};
use super::{Backend, readable, scope_name};
use crate::error::{CacheError, damaged};
use crate::index::{Index, MAX_INDEX, PackInfo};

/// What the manifest is, what its config is, and what its layers are.
const CACHE: &str = "application/vnd.wbuild.cache.v1";
const INDEX: &str = "application/vnd.wbuild.cache.index.v1";
const PACK: &str = "application/vnd.wbuild.cache.pack.v1";
const DIRECTORY: &str = "application/vnd.wbuild.cache.directory.v1+zstd";

/// For people who look at the manifest.
const SCOPE: &str = "dev.wbuild.cache.scope";

/// An index that is no larger is in the manifest, too: it comes with the first request. Registries refuse manifests of more
/// than 4 MiB.
const EMBEDDED: usize = 1 << 20;

/// The scope whose tag is the one that was given.
const MAIN: &str = "main";

/// The tag of a scope begins with the one that was given, and is no longer than a tag may be.
const LONGEST_TAG: usize = 128;
pub(crate) const LONGEST_GIVEN_TAG: usize = 96;

/// How often an index is written again when somebody else wrote at the same time.
const ROUNDS: usize = 4;

/// A repository of an image registry: a manifest for each scope, whose config is the index, and whose layers are the packs
/// with their directories. Nothing that the index needs is ever collected as garbage.
#[derive(Debug)]
pub struct RegistryBackend {
    client: RegistryClient,
    reference: Reference,
    repository: Repository,
    stop: Stop,
    /// Whether the registry gives parts of blobs, as far as that is known.
    parts: AtomicBool,
}

impl RegistryBackend {
    /// The repository of a reference, whose tag is that of the scope `main` and the beginning of all others.
    pub fn new(reference: Reference, rules: Rules, credentials: CredentialFiles, network: &Network) -> Self {
        let options = RegistryOptions { rules, credentials, http: options(network) };
        Self {
            client: RegistryClient::new(options),
            repository: Repository::of(&reference),
            reference,
            stop: Stop::new(),
            parts: AtomicBool::new(true),
        }
    }

    fn watch(&self) -> Watch<'_> {
        // Said once, when it is given up.
        Watch { stop: &self.stop, retrying: &|_| () }
    }

    /// The name of a scope's manifest.
    fn name_of(&self, scope: &str) -> Reference {
        let given = self.reference.tag.as_deref().unwrap_or("latest");
        Reference { tag: Some(tag_of(given, scope)), ..self.reference.clone() }
    }

    fn failed(&self, action: &'static str, error: RegistryError) -> CacheError {
        match error {
            RegistryError::NoBlob { digest, .. } => CacheError::Gone(digest),
            RegistryError::Digest { url, .. } | RegistryError::Http(HttpError::Digest { url, .. }) => {
                damaged(url, "its bytes have another digest")
            }
            RegistryError::Size { url, .. } => damaged(url, "it has another size"),
            RegistryError::Protocol { url, .. } => damaged(url, "what came is not what was asked for"),
            error => CacheError::Server { action, place: self.place(), source: Box::new(error) },
        }
    }

    fn fetch(&self, blob: &Descriptor) -> Result<Vec<u8>, CacheError> {
        let mut bytes = Vec::new();
        match self.client.fetch(&self.repository, blob, &mut bytes, &self.watch()) {
            Ok(()) => Ok(bytes),
            // The digest is right, and less was expected to be possible.
            Err(RegistryError::Size { found, expected, .. }) if found < expected => Ok(bytes),
            Err(error) => Err(self.failed("read", error)),
        }
    }

    /// The index that a manifest holds, or names.
    fn index_of(
        &self,
        name: &Reference,
        found: Option<FetchedManifest>,
    ) -> Result<Option<Vec<u8>>, CacheError> {
        let Some(found) = found else { return Ok(None) };
        let Document::Manifest(Manifest { config, .. }) = found.document else {
            return Err(self.is_something_else(name));
        };
        if config.media_type != INDEX {
            return Err(self.is_something_else(name));
        }
        if config.size > MAX_INDEX {
            return Err(CacheError::TooLarge { what: "the index".to_owned(), limit: MAX_INDEX });
        }
        let embedded = config.rest.get("data").and_then(|data| BASE64_STANDARD.decode(data.as_str()?).ok());
        match embedded {
            Some(bytes) if Digest::of(&bytes) == config.digest => Ok(Some(bytes)),
            _ => self.fetch(&config).map(Some),
        }
    }

    fn is_something_else(&self, name: &Reference) -> CacheError {
        let why = format!("`{}` is an image, or another tool's cache; take another tag", name.familiar());
        CacheError::Server { action: "use", place: self.place(), source: why.into() }
    }

    /// Stores an index and the manifest that holds it; says the manifest's digest.
    fn write(&self, name: &Reference, scope: &str, index: &mut Index) -> Result<Digest, CacheError> {
        for again in [true, false] {
            let bytes = index.encode()?;
            self.client
                .push_blob(&self.repository, &Blob::bytes(INDEX, bytes.clone()), &self.watch())
                .map_err(|error| self.failed("write", error))?;
            let manifest = manifest_of(scope, &bytes, index.packs.values())?;
            match self.client.push_manifest(name, &manifest, &self.watch()) {
                Ok(()) => return Ok(manifest.descriptor.digest),
                // It names what is not there: somebody cleaned up.
                Err(RegistryError::Refused { status: 400 | 404, .. }) if again => {
                    index.forget(&self.lost(index)?);
                }
                Err(error) => return Err(self.failed("write", error)),
            }
        }
        // The second try has returned.
        Err(CacheError::Gone(Digest::of(b"")))
    }

    /// Packs that are listed, and not there.
    fn lost(&self, index: &Index) -> Result<BTreeSet<Digest>, CacheError> {
        let mut lost = BTreeSet::new();
        for pack in index.packs.values() {
            for blob in blobs_of(pack) {
                let held = self.client.holds_blob(&self.repository, &blob, &self.watch());
                if !held.map_err(|error| self.failed("ask", error))? {
                    lost.insert(pack.data);
                    break;
                }
            }
        }
        Ok(lost)
    }
}

fn blobs_of(pack: &PackInfo) -> [Descriptor; 2] {
    [
        Descriptor::new(PACK, pack.data, pack.size),
        Descriptor::new(DIRECTORY, pack.directory, pack.directory_size),
    ]
}

fn manifest_of<'a>(
    scope: &str,
    index: &[u8],
    packs: impl Iterator<Item = &'a PackInfo>,
) -> Result<DocumentBlob, CacheError> {
    let bare = Descriptor::new(INDEX, Digest::of(index), index.len() as u64);
    let mut layers: Vec<Descriptor> = packs.flat_map(blobs_of).collect();
    if layers.is_empty() {
        // Some registries refuse manifests without any.
        layers.push(bare.clone());
    }
    let mut config = bare;
    if index.len() <= EMBEDDED {
        config.rest.insert("data".to_owned(), BASE64_STANDARD.encode(index).into());
    }
    let mut manifest = Manifest::new(config, layers);
    manifest.rest.insert("artifactType".to_owned(), CACHE.into());
    manifest.annotations.insert(SCOPE.to_owned(), scope.to_owned());
    let failed = |error: serde_json::Error| CacheError::Io {
        action: "encode",
        path: "the manifest of the cache".into(),
        source: error.into(),
    };
    let bytes = to_canonical_json(&manifest).map_err(failed)?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        let what = "the manifest with the list of packs".to_owned();
        return Err(CacheError::TooLarge { what, limit: MAX_DOCUMENT_BYTES });
    }
    let descriptor = Descriptor::new(media::MANIFEST, Digest::of(&bytes), bytes.len() as u64);
    Ok(DocumentBlob { descriptor, bytes })
}

/// `TAG` for `main`; `TAG-fix-login-1a2b3c4d5e6f` for all others, which can have names that no tag can have.
fn tag_of(given: &str, scope: &str) -> String {
    if scope == MAIN {
        return given.to_owned();
    }
    let name = scope_name(scope);
    let short = &name.hex()[..12];
    let left = LONGEST_TAG.saturating_sub(given.len() + short.len() + 2);
    let readable = |c: char| if c.is_ascii_alphanumeric() || "._".contains(c) { c } else { '-' };
    let readable: String = scope.chars().map(readable).take(left).collect();
    format!("{given}-{readable}-{short}")
}

impl Backend for RegistryBackend {
    fn place(&self) -> String {
        self.reference.familiar()
    }

    fn index(&self, scope: &str) -> Result<Option<Vec<u8>>, CacheError> {
        let name = self.name_of(scope);
        let found = self.client.manifest_if_any(&name, &self.watch());
        self.index_of(&name, found.map_err(|error| self.failed("read", error))?)
    }

    fn update(
        &self,
        scope: &str,
        merge: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Index>,
    ) -> Result<(), CacheError> {
        let name = self.name_of(scope);
        for _ in 0..ROUNDS {
            let found = self.client.manifest_to_replace(&name, &self.watch());
            let found = found.map_err(|error| self.failed("read", error))?;
            let stored = readable(self.index_of(&name, found))?;
            let Some(mut index) = merge(stored) else { return Ok(()) };
            let written = self.write(&name, scope, &mut index)?;
            // A registry knows no locks: whoever came between reading and writing is found out afterwards.
            match self.client.find(&name, &self.watch()) {
                Ok(Some(now)) if now.digest != written => {}
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn small(&self, content: &Digest, limit: u64) -> Result<Vec<u8>, CacheError> {
        self.fetch(&Descriptor::new(DIRECTORY, *content, limit))
    }

    fn part(&self, content: &Digest, range: Range<u64>) -> Result<Option<Vec<u8>>, CacheError> {
        if !self.gives_parts() {
            return Ok(None);
        }
        let part = self.client.fetch_part(&self.repository, content, &range, &self.watch());
        let part = part.map_err(|error| self.failed("read", error))?;
        if part.is_none() {
            self.parts.store(false, Ordering::Relaxed);
        }
        Ok(part)
    }

    fn gives_parts(&self) -> bool {
        self.parts.load(Ordering::Relaxed)
    }

    fn whole(&self, content: &Digest, size: u64, file: &File) -> Result<(), CacheError> {
        let blob = Descriptor::new(PACK, *content, size);
        let fetched = self.client.fetch(&self.repository, &blob, &mut Into(file), &self.watch());
        fetched.map_err(|error| self.failed("read", error))
    }

    fn put(&self, content: &Digest, size: u64, path: &Path) -> Result<(), CacheError> {
        let blob = Blob::file(Descriptor::new(PACK, *content, size), path.to_owned());
        let pushed = self.client.push_blob(&self.repository, &blob, &self.watch());
        pushed.map(|_| ()).map_err(|error| self.failed("write", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_scopes() {
        assert_eq!(tag_of("web", "main"), "web");
        let tag = tag_of("web", "fix/login & more");
        assert!(tag.starts_with("web-fix-login---more-"), "{tag}");
        assert_ne!(tag_of("web", "a/b"), tag_of("web", "a-b"));
        let long = tag_of(&"t".repeat(LONGEST_GIVEN_TAG), &"ü".repeat(300));
        assert_eq!(long.len(), LONGEST_TAG);
        for tag in [tag, long] {
            format!("localhost:5000/cache:{tag}").parse::<Reference>().unwrap();
        }
    }

    #[test]
    fn a_small_index_is_in_the_manifest() {
        let pack =
            PackInfo { data: Digest::of(b"p"), size: 5, directory: Digest::of(b"d"), directory_size: 7 };
        for (index, embedded) in [(vec![1; 10], true), (vec![2; EMBEDDED + 1], false)] {
            let manifest = manifest_of("dev", &index, std::iter::once(&pack)).unwrap();
            let Ok(Document::Manifest(read)) = Document::parse(&manifest.bytes) else {
                panic!("no manifest")
            };
            assert_eq!(read.config.rest.contains_key("data"), embedded);
            assert_eq!((read.config.digest, read.layers.len()), (Digest::of(&index), 2));
            assert_eq!(read.annotations[SCOPE], "dev");
        }
        let empty = manifest_of("dev", b"x", [].iter()).unwrap();
        let Ok(Document::Manifest(read)) = Document::parse(&empty.bytes) else { panic!("no manifest") };
        assert_eq!(read.layers.len(), 1);
    }
}
