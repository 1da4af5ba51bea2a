use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wbuild_image::DocumentBlob;
use wbuild_oci::{Descriptor, Digest, Manifest, Platform, media, to_canonical_json};
use wbuild_registry::{Blob, Content, PushReport, Pushed, RegistryClient, RegistryError, Repository};
use wbuild_remote::HttpError;
use wbuild_report::with_causes;
use wbuild_testkit::{FakeRegistry, Fault};

use crate::{bytes, client, client_with, index_over, made, name, watched};

fn push(client: &RegistryClient, registry: &FakeRegistry, names: &[&str], content: &Content) -> PushReport {
    let names: Vec<_> = names.iter().map(|rest| name(registry, rest)).collect();
    watched(|watch| client.push(&names, content, watch)).0.unwrap()
}

#[test]
fn what_is_there_is_not_sent() {
    let registry = FakeRegistry::start().unwrap();
    let image = made(&Platform::linux("amd64"), &[bytes(300_000), bytes(10)]);
    let client = client();
    let report = push(&client, &registry, &["a/r:v1", "a/r:latest"], &image.content());
    let sent_bytes = (300_010 + image.config.len()) as u64;
    assert_eq!(report, PushReport { tagged: 2, sent: 3, sent_bytes, ..PushReport::default() });
    assert_eq!(registry.manifest("a/r", "v1").unwrap(), image.manifest.bytes);
    assert!(registry.blob("a/r", &Digest::of(&image.layers[0])).unwrap() == image.layers[0]);
    // Unchanged: one question a tag. A new tag of it: two, and the manifest.
    let asked = registry.asked().len();
    let report = push(&client, &registry, &["a/r:v1", "a/r:latest"], &image.content());
    assert_eq!(report, PushReport { unchanged: 2, ..PushReport::default() });
    assert!(registry.asked()[asked..].iter().all(|asked| asked.starts_with("HEAD ")));
    assert_eq!(registry.asked().len(), asked + 2);
    push(&client, &registry, &["a/r:v2"], &image.content());
    let last = registry.asked().split_off(asked + 2);
    assert_eq!(last.iter().map(|asked| &asked[..4]).collect::<Vec<_>>(), ["HEAD", "HEAD", "PUT "]);
    // Another image with one layer of it.
    let other = made(&Platform::linux("amd64"), &[bytes(300_000), bytes(11)]);
    let report = push(&client, &registry, &["a/r:v3"], &other.content());
    assert_eq!((report.present, report.sent), (1, 2));
}

#[test]
fn another_repository_lends_what_it_has() {
    let registry = FakeRegistry::start().unwrap();
    let elsewhere = FakeRegistry::start().unwrap();
    let blob = Blob::bytes(media::LAYER, bytes(100_000));
    registry.put_blob("base", &bytes(100_000));
    let repository = |registry: &FakeRegistry, rest: &str| Repository::of(&name(registry, rest));
    let blob = blob.also_in([
        repository(&elsewhere, "x"),
        repository(&registry, "none"),
        repository(&registry, "base"),
    ]);
    let client = client();
    let push =
        |to: &str| watched(|watch| client.push_blob(&repository(&registry, to), &blob, watch)).0.unwrap();
    assert_eq!(push("app"), Pushed::Mounted);
    assert_eq!(push("app"), Pushed::Present);
    registry.lend_nothing();
    assert_eq!(push("other"), Pushed::Sent);
    registry.plan("POST", "mount=", 2, Fault::Status(403));
    assert_eq!(push("third"), Pushed::Sent);
    assert!(registry.seen().iter().all(|seen| seen.method != "POST" || seen.body.is_empty()));
}

#[test]
fn repositories_of_one_push_lend_to_each_other() {
    let registry = FakeRegistry::start().unwrap();
    let image = made(&Platform::linux("amd64"), &[bytes(100), bytes(5)]);
    let report = push(&client(), &registry, &["a:v1", "b:v1", "a:v2"], &image.content());
    assert_eq!((report.sent, report.mounted, report.tagged), (3, 3, 3));
}

#[test]
fn indexes_come_after_what_they_name() {
    let registry = FakeRegistry::start().unwrap();
    let (amd, arm) = (Platform::linux("amd64"), Platform::linux("arm64"));
    let images = [made(&amd, &[bytes(100), bytes(5)]), made(&arm, &[bytes(200), bytes(5)])];
    let bytes = index_over(&[(&amd, &images[0]), (&arm, &images[1])]);
    let descriptor = Descriptor::new(media::INDEX, Digest::of(&bytes), bytes.len() as u64);
    let content = Content {
        root: DocumentBlob { descriptor, bytes },
        manifests: images.iter().map(|image| image.manifest.clone()).collect(),
        blobs: images.iter().flat_map(|image| image.content().blobs).collect(),
    };
    let client = client();
    let report = push(&client, &registry, &["r:v1"], &content);
    // The layer that both have is sent once.
    assert_eq!((report.sent, report.tagged), (5, 1));
    let pulled = watched(|watch| client.resolve(&name(&registry, "r:v1"), &arm, watch)).0.unwrap();
    assert_eq!(pulled.image.descriptor.digest, images[1].manifest.descriptor.digest);
}

#[test]
fn an_upload_goes_on_where_it_was_cut() {
    let registry = FakeRegistry::start().unwrap();
    let blob = bytes(3_000_000);
    registry.plan("PUT", "/uploads/", 1, Fault::CutUpload(1_000_000));
    registry.plan("PATCH", "/uploads/", 1, Fault::CutUpload(1_000_000));
    let read = Arc::new(AtomicU64::new(0));
    let (counted, whole) = (Arc::clone(&read), blob.clone());
    let descriptor = Descriptor::new(media::LAYER, Digest::of(&blob), blob.len() as u64);
    let pushed = Blob::new(descriptor.clone(), move |offset| {
        counted.fetch_max(offset, Ordering::SeqCst);
        Ok(Box::new(std::io::Cursor::new(whole[offset as usize..].to_vec())))
    });
    let (client, waits) = client_with("", None);
    let repository = Repository::of(&name(&registry, "r"));
    let (result, told) = watched(|watch| client.push_blob(&repository, &pushed, watch));
    assert_eq!(result.unwrap(), Pushed::Sent);
    assert!(registry.blob("r", &descriptor.digest).unwrap() == blob);
    assert_eq!((read.load(Ordering::SeqCst), told.len(), waits.seconds()), (3_000_000, 2, vec![0.5, 0.5]));
    let methods: Vec<String> = registry.seen().iter().map(|seen| seen.method.clone()).collect();
    let expected = ["HEAD", "POST", "PUT", "HEAD", "GET", "PATCH", "HEAD", "GET", "PATCH", "PUT"];
    assert_eq!(methods, expected);
    assert_eq!(registry.seen()[8].header("content-range"), "2000000-2999999");
}

#[test]
fn a_lost_upload_begins_again_and_a_lost_answer_does_not() {
    let registry = FakeRegistry::start().unwrap();
    let client = client();
    let repository = Repository::of(&name(&registry, "r"));
    let push = |bytes: Vec<u8>| {
        let blob = Blob::bytes(media::LAYER, bytes);
        watched(|watch| client.push_blob(&repository, &blob, watch)).0.unwrap()
    };
    registry.plan("PUT", "/uploads/", 1, Fault::LostUpload(100_000));
    assert_eq!(push(bytes(200_000)), Pushed::Sent);
    let asked = registry.asked().len();
    registry.plan("PUT", "/uploads/", 1, Fault::LostAnswer);
    assert_eq!(push(bytes(200_001)), Pushed::Sent);
    let asked: Vec<String> = registry.asked()[asked..].iter().map(|asked| asked[..4].to_owned()).collect();
    assert_eq!(asked, ["HEAD", "POST", "PUT ", "HEAD"]);
    assert_eq!(push(Vec::new()), Pushed::Sent);
}

#[test]
fn what_a_registry_refuses_is_said_once() {
    let registry = FakeRegistry::start().unwrap();
    let client = client();
    let repository = Repository::of(&name(&registry, "r"));
    // Bytes that are not those of its digest.
    let descriptor = Descriptor::new(media::LAYER, Digest::of(b"good"), 4);
    let digest = descriptor.digest;
    let blob = Blob::new(descriptor, |_| Ok(Box::new(&b"evil"[..])));
    let error = watched(|watch| client.push_blob(&repository, &blob, watch)).0.unwrap_err();
    // The registry never had all of them.
    assert!(matches!(error, RegistryError::Http(HttpError::Payload { .. })), "{error:?}");
    let found = Digest::of(b"evil");
    let damaged = format!("the blob {digest} is damaged: what is there has the digest {found}");
    assert!(with_causes(&error).ends_with(&damaged), "{}", with_causes(&error));
    assert_eq!(registry.blobs().len(), 0);
    for (bytes, why) in [(&b"goo"[..], "it has 3 of 4 bytes"), (b"goods", "it has more than 4 bytes")] {
        let descriptor = Descriptor::new(media::LAYER, digest, 4);
        let blob = Blob::new(descriptor, move |_| Ok(Box::new(bytes)));
        let error = watched(|watch| client.push_blob(&repository, &blob, watch)).0.unwrap_err();
        assert!(with_causes(&error).ends_with(why), "{}", with_causes(&error));
    }
    let gone = Blob::file(Descriptor::new(media::LAYER, digest, 4), "/missing/blob".into());
    let error = watched(|watch| client.push_blob(&repository, &gone, watch)).0.unwrap_err();
    assert!(matches!(error, RegistryError::Http(HttpError::Payload { .. })), "{error:?}");
    // A manifest whose blobs are not there.
    let image = made(&Platform::linux("amd64"), &[bytes(5)]);
    let manifest = watched(|watch| client.push_manifest(&name(&registry, "r:v1"), &image.manifest, watch));
    let error = manifest.0.unwrap_err().to_string();
    assert!(
        error.ends_with("refused to take the manifest `v1`: 404 Not Found: manifest blob unknown"),
        "{error}"
    );
}

/// A document about an image.
fn artifact(subject: &Descriptor, kind: &str) -> (DocumentBlob, Descriptor) {
    let config = Descriptor::new("application/vnd.oci.empty.v1+json", Digest::of(b"{}"), 2);
    let mut manifest = Manifest::new(config, Vec::new());
    manifest.rest.insert("subject".to_owned(), serde_json::to_value(subject).unwrap());
    manifest.rest.insert("artifactType".to_owned(), kind.into());
    let bytes = to_canonical_json(&manifest).unwrap();
    let descriptor = Descriptor::new(media::MANIFEST, Digest::of(&bytes), bytes.len() as u64);
    let mut listed = descriptor.clone();
    listed.rest.insert("artifactType".to_owned(), kind.into());
    (DocumentBlob { descriptor, bytes }, listed)
}

#[test]
fn referrers_are_listed_by_the_registry_or_under_a_tag() {
    for api in [false, true] {
        let registry = FakeRegistry::start().unwrap();
        if api {
            registry.list_referrers();
        }
        let client = client();
        let repository = Repository::of(&name(&registry, "r"));
        let image = made(&Platform::linux("amd64"), &[bytes(5)]);
        push(&client, &registry, &["r:v1"], &image.content());
        let subject = image.manifest.descriptor.clone();
        let listed = || watched(|watch| client.referrers(&repository, &subject.digest, watch)).0.unwrap();
        assert!(listed().is_empty());
        let empty = Blob::bytes("application/vnd.oci.empty.v1+json", b"{}".to_vec());
        watched(|watch| client.push_blob(&repository, &empty, watch)).0.unwrap();
        for kind in ["text/sbom", "text/provenance", "text/sbom"] {
            let (document, entry) = artifact(&subject, kind);
            watched(|watch| client.attach(&repository, &subject.digest, &document, &entry, watch)).0.unwrap();
        }
        assert_eq!(listed().len(), 2);
        let tag = format!("sha256-{}", subject.digest.hex());
        assert_eq!(registry.manifest("r", &tag).is_none(), api);
    }
}

#[test]
fn what_was_not_kept_was_not_pushed() {
    let image = made(&Platform::linux("amd64"), &[bytes(300_000)]);
    // A proxy that wants a login answers everything with a page, or only what changes something.
    for methods in [&["PUT"][..], &["HEAD", "PUT"], &["HEAD", "POST", "PUT", "GET"]] {
        let registry = FakeRegistry::start().unwrap();
        for method in methods {
            registry.plan(method, "/v2/", usize::MAX, Fault::Page);
        }
        let names = [name(&registry, "r:v1")];
        let error = watched(|watch| client().push(&names, &image.content(), watch)).0.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{methods:?}: {error:?}");
        assert!(
            text.contains("200, `text/html; charset=utf-8`, that begins with `<html><body>Welcome"),
            "{text}"
        );
        assert_eq!((registry.manifest("r", "v1"), registry.blobs().len()), (None, 0), "{methods:?}");
    }
    let registry = FakeRegistry::start().unwrap();
    registry.plan("PUT", "/manifests/", usize::MAX, Fault::Page);
    let names = [name(&registry, "r:v1")];
    let error = watched(|watch| client().push(&names, &image.content(), watch)).0.unwrap_err();
    assert!(
        error.to_string().contains("it did not keep the manifest `v1`, but gave an answer 200"),
        "{error}"
    );
}

#[test]
fn another_answer_does_where_all_was_kept() {
    let image = made(&Platform::linux("amd64"), &[bytes(300_000)]);
    for status in [200, 202, 204] {
        let registry = FakeRegistry::start().unwrap();
        registry.plan("PUT", "/v2/", usize::MAX, Fault::Says(status));
        push(&client(), &registry, &["r:v1"], &image.content());
        assert_eq!(registry.manifest("r", "v1").unwrap(), image.manifest.bytes);
        assert_eq!(registry.blobs().len(), 2);
    }
}

#[test]
fn a_push_is_tried_without_anything_to_push() {
    let registry = FakeRegistry::start().unwrap();
    let repository = Repository::of(&name(&registry, "r"));
    let check = || watched(|watch| client().check_push(&repository, watch)).0;
    check().unwrap();
    let asked: Vec<String> = registry.asked().iter().map(|asked| asked[..5].to_owned()).collect();
    assert_eq!(asked, ["POST ", "DELET"]);
    registry.plan("POST", "/uploads/", 1, Fault::Status(403));
    assert!(matches!(check().unwrap_err(), RegistryError::Denied { .. }));
    registry.plan("POST", "/uploads/", 1, Fault::Page);
    assert!(
        check().unwrap_err().to_string().contains("it names no place for an upload, but gave an answer 200")
    );
    registry.plan("POST", "/uploads/", usize::MAX, Fault::Redirect("http://127.0.0.1:1/nothing".to_owned()));
    assert_eq!(check().unwrap_err().to_string(), format!("cannot push to `{}/r`", registry.host()));
}
