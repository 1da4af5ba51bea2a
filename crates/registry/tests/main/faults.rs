//! Every fault × pull, push: the right result or a clear error, in a bounded number of tries, and no wrong blob anywhere.

use wbuild_oci::{Descriptor, Digest, Platform, media};
use wbuild_registry::{RegistryError, Repository};
use wbuild_report::Hint;
use wbuild_testkit::{FakeRegistry, Fault};

use crate::{bytes, client, fetch, made, name, watched};

/// More than any of them may be asked.
const MOST: usize = 100;

fn faults(elsewhere: &str) -> Vec<Fault> {
    vec![
        Fault::Page,
        Fault::Status(400),
        Fault::Status(404),
        Fault::Status(405),
        Fault::Status(408),
        Fault::Status(500),
        Fault::Status(503),
        Fault::Limited(3),
        Fault::Limited(86_400),
        Fault::Cut(0),
        Fault::Cut(100),
        Fault::Held(100),
        Fault::WrongByte,
        Fault::Shortened,
        Fault::WrongDigestHeader,
        Fault::Redirect(elsewhere.to_owned()),
        Fault::NoRange,
        Fault::CutUpload(1000),
        Fault::LostUpload(1000),
        Fault::HeldUpload(1000),
        Fault::LostAnswer,
        Fault::Status(401),
        Fault::Status(403),
        Fault::Status(413),
        Fault::Status(416),
        Fault::Length(7),
        Fault::Length(1_000_000),
        Fault::Compressed,
        Fault::Dripped,
        Fault::RedirectLoop,
        Fault::Redirect("file:///etc/passwd".to_owned()),
        Fault::UploadsAt("http://127.0.0.1:1".to_owned()),
    ]
}

fn pulled(registry: &FakeRegistry) -> Result<Vec<Vec<u8>>, RegistryError> {
    let client = client();
    let reference = name(registry, "r:v1");
    let image = watched(|watch| client.resolve(&reference, &Platform::linux("amd64"), watch)).0?;
    image.image.layers.iter().map(|layer| fetch(&client, &reference, &layer.descriptor)).collect()
}

#[test]
fn pull() {
    let layers = [bytes(300_000), bytes(10)];
    for (method, path) in [("GET", "/manifests/"), ("GET", "/blobs/")] {
        for times in [1, 2, usize::MAX] {
            for fault in faults("http://127.0.0.1:1/nothing") {
                // Each of its tries takes as long as is waited for.
                if fault == Fault::Dripped && times > 1 {
                    continue;
                }
                let registry = FakeRegistry::start().unwrap();
                made(&Platform::linux("amd64"), &layers).put(&registry, "r", Some("v1"));
                registry.plan(method, path, times, fault.clone());
                let case = format!("{path} {times} {fault:?}");
                match pulled(&registry) {
                    Ok(found) => assert!(found == layers, "{case}"),
                    Err(error) => {
                        let text = error.to_string();
                        assert!(!text.is_empty() && !text.contains('\n'), "{case}: {text}");
                        let passing = matches!(
                            fault,
                            Fault::Status(408 | 500 | 503)
                                | Fault::Limited(_)
                                | Fault::Cut(_)
                                | Fault::Held(_)
                                | Fault::NoRange
                                | Fault::Dripped
                        );
                        assert!(times > 2 || !passing, "{case}: {text}");
                    }
                }
                assert!(registry.asked().len() < MOST, "{case}: {}", registry.asked().len());
            }
        }
    }
}

#[test]
fn push() {
    let image = made(&Platform::linux("amd64"), &[bytes(300_000), bytes(10)]);
    for (method, path) in [
        ("HEAD", "/blobs/"),
        ("HEAD", "/manifests/"),
        ("POST", "/uploads/"),
        ("PUT", "/uploads/"),
        ("PUT", "/manifests/"),
    ] {
        for times in [1, 2, usize::MAX] {
            for fault in faults("http://127.0.0.1:1/nothing") {
                // Each of its tries takes as long as is waited for.
                if fault == Fault::Dripped && times > 1 {
                    continue;
                }
                let registry = FakeRegistry::start().unwrap();
                registry.plan(method, path, times, fault.clone());
                let case = format!("{method} {path} {times} {fault:?}");
                let client = client();
                let names = [name(&registry, "r:v1")];
                let result = watched(|watch| client.push(&names, &image.content(), watch)).0;
                let there = registry.manifest("r", "v1");
                match &result {
                    Ok(_) => {
                        assert_eq!(there.as_ref(), Some(&image.manifest.bytes), "{case}");
                        for layer in &image.layers {
                            assert!(registry.blob("r", &Digest::of(layer)).as_ref() == Some(layer), "{case}");
                        }
                    }
                    Err(error) => {
                        let text = error.to_string();
                        assert!(!text.is_empty() && !text.contains('\n'), "{case}: {text}");
                        let passing = matches!(
                            fault,
                            Fault::Status(408 | 500 | 503)
                                | Fault::Limited(_)
                                | Fault::Cut(_)
                                | Fault::NoRange
                                | Fault::Dripped
                                | Fault::CutUpload(_)
                                | Fault::LostUpload(_)
                                | Fault::HeldUpload(_)
                                | Fault::LostAnswer
                        );
                        assert!(times > 2 || !passing, "{case}: {text}");
                    }
                }
                // Whatever happened: a tag stands for a whole image.
                if there.is_some() {
                    assert!(
                        image.layers.iter().all(|layer| registry.blob("r", &Digest::of(layer)).is_some()),
                        "{case}"
                    );
                }
                assert!(registry.asked().len() < MOST, "{case}: {}", registry.asked().len());
            }
        }
    }
}

#[test]
fn a_redirect_to_another_host_brings_the_right_blob_or_none() {
    let (registry, other) = (FakeRegistry::start().unwrap(), FakeRegistry::start().unwrap());
    let blob = bytes(300_000);
    let descriptor = Descriptor::new(media::LAYER, registry.put_blob("r", &blob), blob.len() as u64);
    let wrong = other.put_blob("x", &bytes(300_001));
    other.put_blob("r", &blob);
    let reference = name(&registry, "r");
    let to =
        |digest: &Digest, repository: &str| format!("http://{}/v2/{repository}/blobs/{digest}", other.host());
    registry.plan("GET", "/blobs/", 2, Fault::Redirect(to(&descriptor.digest, "r")));
    other.plan("GET", "/blobs/", 1, Fault::Cut(100_000));
    assert!(fetch(&client(), &reference, &descriptor).unwrap() == blob);
    registry.plan("GET", "/blobs/", 1, Fault::Redirect(to(&wrong, "x")));
    let error = fetch(&client(), &reference, &descriptor).unwrap_err().to_string();
    assert!(error.contains("is larger than 300000 bytes"), "{error}");
}

#[test]
fn a_stopped_transfer_waits_for_nothing() {
    let registry = FakeRegistry::start().unwrap();
    registry.plan("GET", "", usize::MAX, Fault::Limited(60));
    let client = client();
    let stop = wbuild_remote::Stop::new();
    let stopping = stop.clone();
    let watch = wbuild_remote::Watch { stop: &stop, retrying: &move |_| stopping.stop() };
    let error = client.manifest(&name(&registry, "r:v1"), &watch).unwrap_err();
    assert!(error.is_stopped(), "{error}");
    let error = client.push_blob(
        &Repository::of(&name(&registry, "r")),
        &wbuild_registry::Blob::bytes(media::LAYER, bytes(10)),
        &watch,
    );
    assert!(error.unwrap_err().is_stopped());
}

#[test]
fn what_follows_one_after_the_other() {
    let registry = FakeRegistry::start().unwrap();
    let blob = bytes(300_000);
    let descriptor = Descriptor::new(media::LAYER, registry.put_blob("r", &blob), blob.len() as u64);
    let reference = name(&registry, "r");
    // What came before the cut is not worth anything to a server that does not know ranges, or does not like this one.
    for second in [Fault::Status(416), Fault::NoRange, Fault::Length(9)] {
        registry.plan("GET", "/blobs/", 1, Fault::Cut(100_000));
        registry.plan("GET", "/blobs/", 1, second.clone());
        assert!(fetch(&client(), &reference, &descriptor).unwrap() == blob, "{second:?}");
    }
    let ranges: Vec<String> = registry
        .seen()
        .iter()
        .map(|seen| seen.header("range").to_owned())
        .filter(|range| !range.is_empty())
        .collect();
    assert_eq!(ranges.iter().filter(|range| *range == "bytes=100000-").count(), 3, "{ranges:?}");
}

#[test]
fn what_was_compressed_on_the_way_is_named() {
    let registry = FakeRegistry::start().unwrap();
    let image = made(&Platform::linux("amd64"), &[bytes(300_000)]);
    image.put(&registry, "r", Some("v1"));
    for path in ["/blobs/", "/manifests/"] {
        registry.plan("GET", path, 1, Fault::Compressed);
        let error = pulled(&registry).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("came compressed (`Content-Encoding: gzip`), which was not asked for"),
            "{error}"
        );
        assert_eq!(error.hints().len(), 1);
    }
}

#[test]
fn a_manifest_that_may_be_seen_but_not_had() {
    let registry = FakeRegistry::start().unwrap();
    made(&Platform::linux("amd64"), &[bytes(10)]).put(&registry, "r", Some("v1"));
    registry.plan("GET", "/manifests/", usize::MAX, Fault::Status(403));
    let (client, reference) = (client(), name(&registry, "r:v1"));
    assert!(watched(|watch| client.look_up(&reference, watch)).0.unwrap().is_some());
    let error = pulled(&registry).unwrap_err();
    assert_eq!(error.to_string(), format!("`{registry}` does not let us pull `r`: 403 Forbidden"));
}

#[test]
fn more_than_is_taken_at_once_goes_in_parts() {
    let registry = FakeRegistry::start().unwrap();
    let large = bytes(20_000_000);
    let repository = Repository::of(&name(&registry, "r"));
    let push = |bytes: &[u8]| {
        let blob = wbuild_registry::Blob::bytes(media::LAYER, bytes.to_vec());
        watched(|watch| client().push_blob(&repository, &blob, watch)).0
    };
    registry.plan("PUT", "/uploads/", 1, Fault::Status(413));
    push(&large).unwrap();
    assert!(registry.blob("r", &Digest::of(&large)).unwrap() == large);
    let sizes: Vec<usize> =
        registry.seen().iter().filter(|seen| seen.method == "PATCH").map(|seen| seen.body.len()).collect();
    assert_eq!(sizes, [16 << 20, 20_000_000 - (16 << 20)]);
    // What is small already cannot be made smaller.
    for method in ["PUT", "PATCH"] {
        registry.plan(method, "/uploads/", usize::MAX, Fault::Status(413));
    }
    for blob in [&large[1..], &large[..100]] {
        let error = push(blob).unwrap_err();
        assert!(error.to_string().ends_with("413 Payload Too Large"), "{error}");
        assert!(error.hints()[0].contains("`client_max_body_size` in nginx"), "{:?}", error.hints());
    }
}
