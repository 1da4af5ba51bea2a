//! What an image registry keeps of a cache, also where it loses something, or others write at the same time.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;

use wbuild_cache::{Backend, CacheError, Entry, Holds, Index, Kind, Network, PackInfo, RegistryBackend};
use wbuild_oci::Digest;
use wbuild_registry::{CredentialFiles, Rules};
use wbuild_testkit::{FakeRegistry, Fault};

const NAME: &str = "team/cache";

fn backend(registry: &FakeRegistry) -> RegistryBackend {
    let reference = format!("{}/{NAME}:web", registry.host()).parse().unwrap();
    RegistryBackend::new(reference, Rules::default(), CredentialFiles::default(), &Network::default())
}

/// Stores a content.
fn put(backend: &RegistryBackend, bytes: &[u8]) -> Digest {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    backend.put(&Digest::of(bytes), bytes.len() as u64, file.path()).unwrap();
    Digest::of(bytes)
}

/// An index with one record, whose pack is stored.
fn index(backend: &RegistryBackend, key: &str) -> Index {
    let (data, directory) = (format!("data of {key}"), format!("directory of {key}"));
    let pack = PackInfo {
        data: put(backend, data.as_bytes()),
        size: data.len() as u64,
        directory: put(backend, directory.as_bytes()),
        directory_size: directory.len() as u64,
    };
    let entry = Entry {
        body: key.to_owned(),
        roots: Vec::new(),
        holds: Holds::Contents,
        packs: [pack.data].into(),
        used: 3,
        signature: None,
    };
    let mut index = Index::default();
    index.packs.insert(pack.data, pack);
    index.entries.insert((Kind::Step, Digest::of(key.as_bytes())), entry);
    index
}

/// Adds to what is there, as an export does; says how often it was asked to.
fn add(backend: &RegistryBackend, scope: &str, new: &Index) -> Result<usize, CacheError> {
    let mut asked = 0;
    backend.update(scope, &mut |stored| {
        asked += 1;
        let before = stored.map_or_else(Index::default, |bytes| Index::decode(&bytes).unwrap());
        let mut merged = before.clone();
        merged.merge(new.clone(), None);
        (merged != before).then_some(merged)
    })?;
    Ok(asked)
}

fn bodies(backend: &RegistryBackend, scope: &str) -> BTreeSet<String> {
    let bytes = backend.index(scope).unwrap().unwrap();
    Index::decode(&bytes).unwrap().entries.into_values().map(|entry| entry.body).collect()
}

#[test]
fn an_import_is_one_request() {
    let registry = FakeRegistry::start().unwrap();
    let writer = backend(&registry);
    assert!(writer.index("main").unwrap().is_none());
    assert_eq!(add(&writer, "main", &index(&writer, "a")).unwrap(), 1);
    assert_eq!(add(&writer, "a/b", &index(&writer, "b")).unwrap(), 1);
    assert_eq!(bodies(&writer, "main"), ["a".to_owned()].into());
    assert_eq!(bodies(&writer, "a/b"), ["b".to_owned()].into());
    assert!(registry.manifest(NAME, "web").is_some());
    let reader = backend(&registry);
    reader.index("main").unwrap();
    let before = registry.asked().len();
    reader.index("main").unwrap();
    assert_eq!(registry.asked()[before..], [format!("GET /v2/{NAME}/manifests/web")]);
    // Nothing new: nothing is written.
    let before = registry.asked().len();
    add(&reader, "main", &index(&reader, "a")).unwrap();
    assert!(!registry.asked()[before..].iter().any(|asked| asked.starts_with("PUT")));
}

#[test]
fn contents_in_parts_and_whole() {
    let registry = FakeRegistry::start().unwrap();
    let backend = backend(&registry);
    let content = put(&backend, b"0123456789");
    assert_eq!(backend.part(&content, 2..5).unwrap().unwrap(), b"234");
    assert_eq!(backend.small(&content, 10).unwrap(), b"0123456789");
    assert_eq!(backend.small(&content, 100).unwrap(), b"0123456789");
    assert!(backend.small(&content, 9).is_err());
    let file = tempfile::NamedTempFile::new().unwrap();
    backend.whole(&content, 10, file.as_file()).unwrap();
    assert_eq!(fs::read(file.path()).unwrap(), b"0123456789");
    let gone = Digest::of(b"nowhere");
    assert!(matches!(backend.part(&gone, 0..1), Err(CacheError::Gone(_))));
    assert!(matches!(backend.small(&gone, 1), Err(CacheError::Gone(_))));
    registry.plan("GET", "/blobs/", 1, Fault::NoRange);
    assert_eq!(backend.part(&content, 2..5).unwrap(), None);
    registry.plan("GET", "/blobs/", usize::MAX, Fault::WrongByte);
    assert!(matches!(backend.small(&content, 10), Err(CacheError::Damaged { .. })));
}

#[test]
fn who_comes_between_loses_nothing() {
    let registry = FakeRegistry::start().unwrap();
    let backend = backend(&registry);
    let (one, two) = (index(&backend, "one"), index(&backend, "two"));
    add(&backend, "main", &one).unwrap();
    // Afterwards the tag names something else: looked at again.
    registry.plan("HEAD", "/manifests/web", 1, Fault::WrongDigestHeader);
    assert_eq!(add(&backend, "main", &two).unwrap(), 2);
    assert_eq!(bodies(&backend, "main"), ["one".to_owned(), "two".to_owned()].into());
}

#[test]
fn packs_that_were_cleaned_up_are_forgotten() {
    let registry = FakeRegistry::start().unwrap();
    let backend = backend(&registry);
    let one = index(&backend, "one");
    add(&backend, "main", &one).unwrap();
    registry.remove_blob(NAME, one.packs.keys().next().unwrap());
    add(&backend, "main", &index(&backend, "two")).unwrap();
    assert_eq!(bodies(&backend, "main"), ["two".to_owned()].into());
}

#[test]
fn an_image_is_not_overwritten() {
    let registry = FakeRegistry::start().unwrap();
    let image = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}},"layers":[]}}"#,
        Digest::of(b"{}")
    );
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    registry.put_manifest(NAME, Some("web"), media_type, image.as_bytes());
    let backend = backend(&registry);
    let error = add(&backend, "main", &index(&backend, "a")).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("take another tag"), "{error}");
    assert_eq!(registry.manifest(NAME, "web").unwrap(), image.as_bytes());
}
