use std::collections::BTreeMap;
use std::path::Path;

use wbuild_image::{Export, LayoutError, OciLayout, Others, Select, assemble_index, write_layout};
use wbuild_oci::{Digest, Platform};
use wbuild_report::Hint;

use crate::fixture::{Store, names};

fn message(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn amd64() -> Platform {
    Platform::linux("amd64")
}

/// A layout whose documents are whatever a test wants, with right digests.
struct Forged(tempfile::TempDir);

impl Forged {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        std::fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Keeps a document, and gives a descriptor of it as JSON.
    fn add(&self, kind: &str, text: &str) -> String {
        let digest = Digest::of(text.as_bytes());
        std::fs::write(self.path().join("blobs/sha256").join(digest.hex()), text).unwrap();
        let kind = format!("application/vnd.oci.image.{kind}.v1+json");
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{}}}"#, text.len())
    }

    fn index(&self, manifests: &str) -> &Self {
        std::fs::write(
            self.path().join("index.json"),
            format!(r#"{{"schemaVersion":2,"manifests":[{manifests}]}}"#),
        )
        .unwrap();
        self
    }

    fn error(&self) -> String {
        match OciLayout::open(self.path()).and_then(|layout| layout.image(&Select::Only, &amd64())) {
            Ok(image) => panic!("was read: {image:?}"),
            Err(error) => message(&error),
        }
    }
}

#[test]
fn images_are_found_by_tag_name_and_digest() {
    let store = Store::new();
    let layer = store.layer("a", "1");
    let image = store.image("amd64", std::slice::from_ref(&layer));
    let folder = tempfile::tempdir().unwrap();
    let export = Export::image(&image, names(&["app:3.23", "ghcr.io/o/app:other"]));
    write_layout(folder.path(), &export, &store, Others::Keep).unwrap();
    let layout = OciLayout::open(folder.path()).unwrap();
    assert_eq!(layout.tags(), ["3.23", "other"]);
    let digest = image.manifest.descriptor.digest;
    for select in [
        Select::Only,
        Select::Tag("3.23".into()),
        Select::Tag("ghcr.io/o/app:other".into()),
        Select::Digest(digest),
    ] {
        let found = layout.image(&select, &amd64()).unwrap();
        assert_eq!((found.descriptor.digest, &found.layers[..]), (digest, &[layer.clone()][..]));
        assert_eq!(found.config.config.cmd.as_deref(), Some(&["/bin/app".to_owned()][..]));
    }
    let error = layout.image(&Select::Tag("3.32".into()), &amd64()).unwrap_err();
    assert!(error.to_string().contains("no image with the tag `3.32`"));
    assert_eq!(error.hints(), ["did you mean `3.23`?"]);
    let error = layout.image(&Select::Tag("unlike-any".into()), &amd64()).unwrap_err();
    assert_eq!(error.hints(), ["there is `3.23`, `other`"]);
    assert!(layout.image(&Select::Digest(Digest::of(b"?")), &amd64()).is_err());
}

#[test]
fn platforms_are_chosen_in_indexes() {
    let store = Store::new();
    let images =
        [store.image("amd64", &[store.layer("a", "1")]), store.image("arm64", &[store.layer("a", "2")])];
    let index = assemble_index(&images, BTreeMap::new()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    write_layout(folder.path(), &Export::index(&index, &images, names(&["app:v1"])), &store, Others::Keep)
        .unwrap();
    let layout = OciLayout::open(folder.path()).unwrap();
    for (platform, image) in [("linux/amd64", &images[0]), ("linux/arm64/v8", &images[1])] {
        let found = layout.image(&Select::Tag("v1".into()), &platform.parse().unwrap()).unwrap();
        assert_eq!(found.descriptor.digest, image.manifest.descriptor.digest);
    }
    let error = layout.image(&Select::Only, &Platform::linux("s390x")).unwrap_err();
    assert!(
        error.to_string().ends_with("has no manifest for linux/s390x; it has linux/amd64, linux/arm64"),
        "{error}"
    );
    let found = layout.image(&Select::Digest(images[1].manifest.descriptor.digest), &amd64()).unwrap();
    assert_eq!(found.config.architecture, "arm64");
}

#[test]
fn several_images_need_a_name() {
    let store = Store::new();
    let forged = Forged::new();
    let mut entries = Vec::new();
    for (tag, image) in [("a", store.image("amd64", &[])), ("b", store.image("arm64", &[]))] {
        for document in [&image.config, &image.manifest] {
            forged.add("x", std::str::from_utf8(&document.bytes).unwrap());
        }
        let mut entry = serde_json::to_value(&image.manifest.descriptor).unwrap();
        entry["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": tag });
        entry.as_object_mut().unwrap().remove("platform");
        entries.push(entry.to_string());
    }
    forged.index(&entries.join(","));
    let layout = OciLayout::open(forged.path()).unwrap();
    let error = layout.image(&Select::Only, &amd64()).unwrap_err();
    assert!(matches!(error, LayoutError::Ambiguous { count: 2, .. }));
    assert_eq!(error.hints(), ["name one by its tag: `a`, `b`"]);
    // An image that stands alone is taken as it is.
    assert_eq!(layout.image(&Select::Tag("b".into()), &amd64()).unwrap().config.architecture, "arm64");
    assert!(Forged::new().index("").error().contains("has no image"));
}

#[test]
fn doubtful_documents_are_refused() {
    let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let manifest = |forged: &Forged, config: &str| {
        let config = forged.add("config", config);
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#)
    };
    let with = |text: String, kind: &str| {
        let forged = Forged::new();
        let manifest = manifest(&forged, config);
        let entry = forged.add(kind, &text.replace("MANIFEST", &manifest));
        forged.index(&entry).error()
    };
    let table = [
        // CVE-2021-41190: one digest, two readings.
        (
            with(r#"{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}"#.into(), "manifest"),
            "could be read in two ways",
        ),
        (
            with("MANIFEST".into(), "index"),
            "is referred to as `application/vnd.oci.image.index.v1+json`, but is a manifest",
        ),
        (with(r#"{"schemaVersion":2,"manifests":[]}"#.into(), "manifest"), "but is an index"),
        (with("null".into(), "manifest"), "neither"),
        (with(r#"{"schemaVersion":1,"config":{},"layers":[]}"#.into(), "manifest"), "is not usable"),
        (with("[".repeat(100_000), "manifest"), "is not usable"),
    ];
    for (error, expected) in table {
        assert!(error.contains(expected), "{error}");
    }
    for (config, expected) in [
        ("null", "is not usable"),
        ("[]", "is not usable"),
        (r#"{"architecture":1}"#, "is not usable"),
        (r#"{"rootfs":{"type":"layers","diff_ids":["sha256:../../etc/passwd"]}}"#, "is not usable"),
        (
            r#"{"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#,
            "has 0 layers, but its config lists 1",
        ),
    ] {
        let forged = Forged::new();
        let manifest = manifest(&forged, config);
        let entry = forged.add("manifest", &manifest);
        let error = forged.index(&entry).error();
        assert!(error.contains(expected), "{error}");
    }
    let forged = Forged::new();
    let chart = forged.add("config", "{}").replace("oci.image.config", "cncf.helm.config");
    let entry = forged.add("manifest", &format!(r#"{{"schemaVersion":2,"config":{chart},"layers":[]}}"#));
    assert!(forged.index(&entry).error().contains("is no image: its config is"));
}

#[test]
fn digests_and_sizes_are_compared_before_anything_is_parsed() {
    let forged = Forged::new();
    let entry = forged.add("manifest", "{}");
    let digest = Digest::of(b"{}");
    let file = forged.path().join("blobs/sha256").join(digest.hex());
    std::fs::write(&file, "[]").unwrap();
    assert!(forged.index(&entry).error().contains("its bytes have the digest"));
    std::fs::write(&file, "{} ").unwrap();
    assert!(forged.error().contains("should have 2 bytes"));
    let huge = entry.replace(r#""size":2"#, &format!(r#""size":{}"#, 5 << 20));
    assert!(forged.index(&huge).error().contains("are never read"));
    for (size, expected) in [("-1", "is not usable"), ("1e400", "is not usable"), ("\"2\"", "is not usable")]
    {
        let error = forged.index(&entry.replace(r#""size":2"#, &format!(r#""size":{size}"#))).error();
        assert!(error.contains(expected), "{error}");
    }
    let traversal = entry.replace(&digest.to_string(), "sha256:../../../../etc/passwd");
    assert!(forged.index(&traversal).error().contains("is not usable"));
    std::fs::remove_file(&file).unwrap();
    assert!(forged.index(&entry).error().contains("No such file"));
    // A pipe is not waited for.
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &file, kind, rustix::fs::Mode::RWXU, 0).unwrap();
    assert!(forged.error().contains("not a regular file"));
}

#[test]
fn folders_that_are_no_layouts_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let error = |folder: &Path| message(&OciLayout::open(folder).unwrap_err());
    assert!(error(folder.path()).contains("oci-layout` is no OCI layout: there is no such file"));
    std::fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"2"}"#).unwrap();
    assert!(error(folder.path()).contains("it has the version `2`"));
    std::fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    assert!(error(folder.path()).contains("index.json"));
    std::fs::write(folder.path().join("index.json"), vec![b' '; (4 << 20) + 1]).unwrap();
    assert!(error(folder.path()).contains("more than 4194304 bytes"));
}

#[test]
fn indexes_that_never_end_are_given_up() {
    let forged = Forged::new();
    let mut entry = forged.add("manifest", "{}");
    for _ in 0..12 {
        entry = forged.add("index", &format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#));
    }
    assert!(forged.index(&entry).error().contains("lies in more than 8 others"));
}
