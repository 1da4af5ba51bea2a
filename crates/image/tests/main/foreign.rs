//! What other tools say about our layouts, and we about theirs.

use std::path::Path;
use std::process::Command;

use wbuild_image::{ArchiveFormat, Export, OciLayout, Others, Select, write_archive_file, write_layout};
use wbuild_oci::Platform;

use crate::fixture::{Store, names};

/// Runs a tool; `None`, with the reason printed, when there is none.
fn run(program: &str, arguments: &[&str], folder: &Path) -> Option<String> {
    let Ok(run) = Command::new(program).args(arguments).current_dir(folder).output() else {
        println!("skipped: {program} is not installed");
        return None;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(run.status.success(), "{program} {arguments:?}: {}{}", text(&run.stdout), text(&run.stderr));
    Some(text(&run.stdout))
}

#[test]
fn skopeo_reads_our_layouts_and_archives_and_we_read_its() {
    let store = Store::new();
    let image = store.image("amd64", &[store.layer("a/file", "one"), store.layer("a/other", "two")]);
    let folder = tempfile::tempdir().unwrap();
    let export = Export::image(&image, names(&["app:v1"]));
    write_layout(&folder.path().join("out"), &export, &store, Others::Keep).unwrap();
    write_archive_file(&export, ArchiveFormat::Oci, &store, &folder.path().join("oci.tar")).unwrap();
    write_archive_file(&export, ArchiveFormat::Docker, &store, &folder.path().join("docker.tar")).unwrap();
    let digest = image.manifest.descriptor.digest.to_string();
    for source in ["oci:out:v1", "oci-archive:oci.tar:v1"] {
        let Some(said) = run("skopeo", &["inspect", source], folder.path()) else { return };
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["Digest"], digest.as_str());
        assert_eq!(said["Layers"].as_array().unwrap().len(), 2);
        assert_eq!(said["Architecture"], "amd64");
    }
    let policy = ["--insecure-policy", "copy", "-q"];
    let copy = |from: &str, to: &str| run("skopeo", &[&policy[..], &[from, to]].concat(), folder.path());
    // The whole image through skopeo and back; what it wrote, we read.
    copy("oci:out:v1", "oci:theirs:copied").unwrap();
    let theirs = OciLayout::open(&folder.path().join("theirs")).unwrap();
    let read = theirs.image(&Select::Tag("copied".into()), &Platform::linux("amd64")).unwrap();
    assert_eq!(read.descriptor.digest, image.manifest.descriptor.digest);
    copy("docker-archive:docker.tar:app:v1", "oci:loaded:v1").unwrap();
    let loaded = OciLayout::open(&folder.path().join("loaded")).unwrap();
    let read = loaded.image(&Select::Only, &Platform::linux("amd64")).unwrap();
    assert_eq!(read.config.rootfs.diff_ids.len(), 2);
    // And a layout that skopeo made is one we write into.
    write_layout(&folder.path().join("theirs"), &export, &store, Others::Keep).unwrap();
}

#[test]
fn umoci_unpacks_our_layouts() {
    let store = Store::new();
    let image = store.image("amd64", &[store.layer("a/file", "one"), store.layer("a/other", "two")]);
    let folder = tempfile::tempdir().unwrap();
    write_layout(
        &folder.path().join("out"),
        &Export::image(&image, names(&["app:v1"])),
        &store,
        Others::Keep,
    )
    .unwrap();
    let arguments = ["unpack", "--rootless", "--image", "out:v1", "bundle"];
    if run("umoci", &arguments, folder.path()).is_none() {
        return;
    }
    let root = folder.path().join("bundle/rootfs/a");
    assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), "one");
    assert_eq!(std::fs::read_to_string(root.join("other")).unwrap(), "two");
}
