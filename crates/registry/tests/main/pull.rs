use wbuild_oci::{Descriptor, Digest, Index, Platform, media, to_canonical_json};
use wbuild_registry::RegistryError;
use wbuild_report::Hint;
use wbuild_testkit::{FakeRegistry, Fault};

use crate::{bytes, client, client_with, fetch, index_over, made, name, watched};

fn amd64() -> Platform {
    Platform::linux("amd64")
}

#[test]
fn an_image_by_tag_and_by_digest() {
    let registry = FakeRegistry::start().unwrap();
    let (amd, arm) = (made(&amd64(), &[bytes(100_000)]), made(&Platform::linux("arm64"), &[bytes(50)]));
    amd.put(&registry, "a/b", None);
    arm.put(&registry, "a/b", None);
    let index = index_over(&[(&amd64(), &amd), (&Platform::linux("arm64"), &arm)]);
    let digest = registry.put_manifest("a/b", Some("v1"), media::INDEX, &index);
    let client = client();
    for reference in [
        name(&registry, "a/b:v1"),
        name(&registry, &format!("a/b@{digest}")),
        name(&registry, &format!("a/b:wrong@{digest}")),
    ] {
        let pulled = watched(|watch| client.resolve(&reference, &amd64(), watch)).0.unwrap();
        assert_eq!((pulled.root.digest, pulled.root.media_type.as_str()), (digest, media::INDEX));
        assert_eq!(pulled.image.descriptor.digest, amd.manifest.descriptor.digest);
        assert_eq!(pulled.documents.len(), 3);
        let layer = &pulled.image.layers[0].descriptor;
        assert!(fetch(&client, &reference, layer).unwrap() == amd.layers[0]);
    }
    // On loopback without TLS, and without a question about it.
    assert!(registry.asked().iter().all(|asked| !asked.ends_with("/v2/")));
    let missing =
        watched(|watch| client.resolve(&name(&registry, "a/b:v1"), &Platform::linux("s390x"), watch)).0;
    let text = missing.unwrap_err().to_string();
    assert!(text.ends_with("has no manifest for linux/s390x; it has linux/amd64, linux/arm64"), "{text}");
}

#[test]
fn what_is_not_there_is_said_with_names_like_it() {
    let registry = FakeRegistry::start().unwrap();
    let image = made(&amd64(), &[bytes(5)]);
    for tag in ["22-alpine", "22-slim", "20-alpine"] {
        image.put(&registry, "node", Some(tag));
    }
    let client = client();
    let host = registry.host();
    let failing = |rest: &str| watched(|watch| client.manifest(&name(&registry, rest), watch)).0.unwrap_err();
    let error = failing("node:22-alpin");
    assert_eq!(error.to_string(), format!("`{host}/node` has no `22-alpin`"));
    assert_eq!(error.hints(), ["did you mean `22-alpine`, `20-alpine`?"]);
    assert_eq!(failing("none:v1").to_string(), format!("`{host}` has no repository `none`"));
    let digest = Digest::of(b"nothing");
    assert_eq!(failing(&format!("node@{digest}")).to_string(), format!("`{host}/node` has no `{digest}`"));
    assert_eq!(watched(|watch| client.find(&name(&registry, "node:x"), watch)).0.unwrap(), None);
    let found = watched(|watch| client.find(&name(&registry, "node:22-slim"), watch)).0.unwrap().unwrap();
    assert_eq!(found.digest, image.manifest.descriptor.digest);
    let gone = Descriptor::new(media::LAYER, digest, 5);
    let error = fetch(&client, &name(&registry, "node"), &gone).unwrap_err();
    assert_eq!(error.to_string(), format!("`{host}/node` has no blob {digest}"));
}

#[test]
fn documents_that_are_something_else() {
    let registry = FakeRegistry::start().unwrap();
    let client = client();
    let image = made(&amd64(), &[bytes(5)]);
    image.put(&registry, "r", None);
    let text = String::from_utf8(image.manifest.bytes.clone()).unwrap();
    let index = to_canonical_json(&Index::new(vec![image.manifest.descriptor.clone(); 5000])).unwrap();
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    for (tag, media_type, body, expected) in [
        ("as-index", media::INDEX, text.clone(), "is referred to as"),
        ("v1", "application/vnd.docker.distribution.manifest.v1+prettyjws", "{}".to_owned(), "schema 1"),
        ("no-json", media::MANIFEST, "hello".to_owned(), "is not usable"),
        ("both", media::MANIFEST, text.replacen('{', "{\"manifests\":[],", 1), "is not usable"),
        ("huge", media::MANIFEST, format!("{text}{}", " ".repeat(4 << 20)), "is larger than 4194304 bytes"),
        ("wide", media::INDEX, String::from_utf8(index).unwrap(), "has 5000 entries"),
        (
            "foreign",
            media::MANIFEST,
            text.replace(media::LAYER_GZIP, foreign),
            "its bytes are not in the registry",
        ),
        (
            "chart",
            media::MANIFEST,
            text.replace(media::CONFIG, "application/vnd.cncf.helm.config.v1+json"),
            "is no image",
        ),
    ] {
        registry.put_manifest("r", Some(tag), media_type, body.as_bytes());
        let reference = name(&registry, &format!("r:{tag}"));
        let error = watched(|watch| client.resolve(&reference, &amd64(), watch)).0.unwrap_err().to_string();
        assert!(error.contains(expected), "{tag}: {error}");
    }
    // A media type that says nothing: the document does.
    registry.put_manifest("r", Some("plain"), "application/json", &image.manifest.bytes);
    let pulled = watched(|watch| client.resolve(&name(&registry, "r:plain"), &amd64(), watch)).0.unwrap();
    assert_eq!(pulled.root.media_type, media::MANIFEST);
}

#[test]
fn indexes_in_indexes_come_to_an_end() {
    let registry = FakeRegistry::start().unwrap();
    let image = made(&amd64(), &[bytes(5)]);
    image.put(&registry, "r", None);
    let mut inner = Descriptor { platform: Some(amd64()), ..image.manifest.descriptor.clone() };
    for depth in 1..=12 {
        let index = to_canonical_json(&Index::new(vec![inner])).unwrap();
        let digest = registry.put_manifest("r", Some(&format!("d{depth}")), media::INDEX, &index);
        inner = Descriptor {
            platform: Some(amd64()),
            ..Descriptor::new(media::INDEX, digest, index.len() as u64)
        };
    }
    let client = client();
    let resolve = |tag: &str| watched(|watch| client.resolve(&name(&registry, tag), &amd64(), watch)).0;
    resolve("r:d8").unwrap();
    let error = resolve("r:d12").unwrap_err().to_string();
    assert!(error.contains("lies in more than 8 others"), "{error}");
}

#[test]
fn a_cut_blob_is_resumed() {
    let registry = FakeRegistry::start().unwrap();
    let blob = bytes(1_000_000);
    let descriptor = Descriptor::new(media::LAYER, registry.put_blob("r", &blob), blob.len() as u64);
    registry.plan("GET", "/blobs/", 1, Fault::Cut(300_000));
    registry.plan("GET", "/blobs/", 1, Fault::Status(503));
    registry.plan("GET", "/blobs/", 1, Fault::Cut(300_000));
    let (client, waits) = client_with("", None);
    assert!(fetch(&client, &name(&registry, "r"), &descriptor).unwrap() == blob);
    let ranges: Vec<String> = registry.seen().iter().map(|seen| seen.header("range").to_owned()).collect();
    assert_eq!(ranges, ["", "bytes=300000-", "bytes=300000-", "bytes=600000-"]);
    assert_eq!(waits.seconds(), [0.5, 1.0, 0.5]);
}

#[test]
fn mirrors_are_asked_first_and_believed_no_more_than_others() {
    let (mirror, registry) = (FakeRegistry::start().unwrap(), FakeRegistry::start().unwrap());
    let image = made(&amd64(), &[bytes(200_000)]);
    image.put(&registry, "team/r", Some("v1"));
    let rules = format!("[registry.\"{}\"]\nmirrors = [\"{}/proxy\"]", registry.host(), mirror.host());
    let (client, _) = client_with(&rules, None);
    let reference = name(&registry, "team/r:v1");
    let layer = &image.manifest;
    let layer = match wbuild_oci::Document::parse(&layer.bytes).unwrap() {
        wbuild_oci::Document::Manifest(manifest) => manifest.layers[0].clone(),
        wbuild_oci::Document::Index(_) => panic!("it is one image"),
    };
    // It has nothing; then it lies; then it breaks off in the middle; then it does what it should.
    watched(|watch| client.resolve(&reference, &amd64(), watch)).0.unwrap();
    assert_eq!(mirror.asked()[0], "GET /v2/proxy/team/r/manifests/v1");
    image.put(&mirror, "proxy/team/r", Some("v1"));
    let asked = registry.asked().len();
    mirror.plan("GET", "/manifests/", 1, Fault::WrongByte);
    let (pulled, told) = watched(|watch| client.resolve(&reference, &amd64(), watch));
    pulled.unwrap();
    assert_eq!((registry.asked().len(), told.len()), (asked + 1, 1));
    mirror.plan("GET", "/blobs/", 1, Fault::Cut(100_000));
    mirror.plan("GET", "/blobs/", 1, Fault::Status(404));
    assert!(fetch(&client, &reference, &layer).unwrap() == image.layers[0]);
    let last = registry.seen().pop().unwrap();
    assert_eq!(last.header("range"), "bytes=100000-");
    mirror.plan("GET", "/blobs/", 1, Fault::WrongByte);
    assert!(fetch(&client, &reference, &layer).unwrap() == image.layers[0]);
    let asked = registry.asked().len();
    watched(|watch| client.resolve(&reference, &amd64(), watch)).0.unwrap();
    assert!(fetch(&client, &reference, &layer).unwrap() == image.layers[0]);
    assert_eq!(registry.asked().len(), asked);
}

#[test]
fn many_blobs_at_once() {
    let registry = FakeRegistry::start().unwrap();
    let blobs: Vec<Vec<u8>> = (0..8).map(|index| bytes(100_000 + index)).collect();
    let client = client();
    let reference = name(&registry, "r");
    std::thread::scope(|scope| {
        for blob in &blobs {
            let descriptor = Descriptor::new(media::LAYER, registry.put_blob("r", blob), blob.len() as u64);
            let (client, reference) = (&client, &reference);
            scope.spawn(move || assert!(fetch(client, reference, &descriptor).unwrap() == *blob));
        }
    });
}

#[test]
fn what_is_blocked_or_speaks_another_protocol() {
    let registry = FakeRegistry::start().unwrap();
    let host = registry.host();
    let blocked = format!("[[registry]]\nlocation = \"{host}/team\"\nblocked = true");
    let (client, _) = client_with(&blocked, None);
    let error = watched(|watch| client.manifest(&name(&registry, "team/r"), watch)).0.unwrap_err();
    assert_eq!(error.to_string(), format!("`{host}/team` is blocked"));
    assert!(matches!(error, RegistryError::Blocked { .. }) && registry.asked().is_empty());
    assert_eq!(error.hints(), ["/etc/registries.toml says so"]);
}

#[test]
fn no_tag_is_meant_by_itself() {
    let registry = FakeRegistry::start().unwrap();
    let image = made(&amd64(), &[bytes(5)]);
    image.put(&registry, "r", Some("1"));
    registry.plan("GET", "/manifests/1", 1, Fault::Status(404));
    let error = watched(|watch| client().manifest(&name(&registry, "r:1"), watch)).0.unwrap_err();
    assert_eq!(error.hints(), ["the registry lists `1`, and does not give it: push the image again"]);
}

#[test]
fn bytes_that_are_damaged_are_the_registrys_business() {
    let registry = FakeRegistry::start().unwrap();
    let digest = registry.put_blob("r", &bytes(1000));
    registry.plan("GET", "/blobs/", 1, Fault::WrongByte);
    let descriptor = Descriptor::new(media::LAYER, digest, 1000);
    let error = fetch(&client(), &name(&registry, "r"), &descriptor).unwrap_err();
    assert!(error.to_string().contains(&format!("{}/v2/r/blobs", registry.host())), "{error}");
    assert!(error.to_string().contains(&format!("but {digest} is expected")), "{error}");
    assert_eq!(error.hints().len(), 1);
    assert!(error.hints()[0].contains("or something between"), "{:?}", error.hints());
}
