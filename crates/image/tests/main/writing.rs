use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use wbuild_image::{
    ArchiveFormat, BlobFiles, Export, ExportError, LayoutChanges, OciLayout, Others, Select, assemble_index,
    write_archive, write_archive_file, write_layout,
};
use wbuild_oci::{Digest, Platform};

use crate::fixture::{Store, names};

fn blob(folder: &Path, digest: &Digest) -> std::path::PathBuf {
    folder.join("blobs/sha256").join(digest.hex())
}

fn index(folder: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap()
}

#[test]
fn a_layout_is_linked_kept_repaired_and_cleaned() {
    let store = Store::new();
    let (one, two, three) = (store.layer("a", "1"), store.layer("b", "2"), store.layer("c", "3"));
    let folder = tempfile::tempdir_in(store.0.path().parent().unwrap()).unwrap();
    let folder = folder.path().join("deep/out");
    let image = store.image("amd64", &[one.clone(), two.clone()]);
    let export = Export::image(&image, names(&["app:v1", "ghcr.io/o/app:v1"]));
    let changes = write_layout(&folder, &export, &store, Others::Replace).unwrap();
    assert_eq!(changes, LayoutChanges { linked: 2, written: 2, ..LayoutChanges::default() });
    let inode = |file: &Path| std::fs::metadata(file).unwrap().ino();
    assert_eq!(
        inode(&blob(&folder, &one.descriptor.digest)),
        inode(&store.blob(&one.descriptor.digest).unwrap())
    );
    for file in std::fs::read_dir(folder.join("blobs/sha256")).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o7777, 0o444);
    }
    let entries = index(&folder)["manifests"].as_array().unwrap().clone();
    let name = |at: usize, key: &str| entries[at]["annotations"][key].as_str().unwrap().to_owned();
    assert_eq!(entries.len(), 2);
    assert_eq!(name(0, "io.containerd.image.name"), "docker.io/library/app:v1");
    assert_eq!(name(1, "io.containerd.image.name"), "ghcr.io/o/app:v1");
    assert_eq!(name(1, "org.opencontainers.image.ref.name"), "v1");
    assert_eq!(entries[0]["digest"], entries[1]["digest"]);

    let again = write_layout(&folder, &export, &store, Others::Replace).unwrap();
    assert_eq!(again, LayoutChanges { kept: 4, ..LayoutChanges::default() });

    // A copied blob of equal size with other bytes, a writable one, a link, and a document that was edited.
    let manifest = blob(&folder, &image.manifest.descriptor.digest);
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes[3] ^= 1;
    std::fs::remove_file(&manifest).unwrap();
    std::fs::write(&manifest, bytes).unwrap();
    let first = blob(&folder, &one.descriptor.digest);
    std::fs::remove_file(&first).unwrap();
    symlink("/etc/passwd", &first).unwrap();
    let second = blob(&folder, &two.descriptor.digest);
    let size = std::fs::metadata(&second).unwrap().len() as usize;
    std::fs::remove_file(&second).unwrap();
    std::fs::write(&second, vec![0; size]).unwrap();
    std::fs::set_permissions(&second, std::fs::Permissions::from_mode(0o444)).unwrap();
    let repaired = write_layout(&folder, &export, &store, Others::Replace).unwrap();
    assert_eq!(
        repaired,
        LayoutChanges { kept: 1, linked: 2, written: 1, repaired: 3, ..LayoutChanges::default() }
    );
    assert_eq!(Digest::of(&std::fs::read(&first).unwrap()), one.descriptor.digest);
    assert_eq!(Digest::of(&std::fs::read(&second).unwrap()), two.descriptor.digest);

    // Another image: what it shares is kept, what it does not need goes, and other people's files stay.
    std::fs::write(folder.join("blobs/sha256/README"), "mine").unwrap();
    std::fs::write(folder.join("blobs/sha256/.wbuild-partial"), "killed").unwrap();
    let other = Export::image(&store.image("amd64", &[one.clone(), three]), Vec::new());
    let changes = write_layout(&folder, &other, &store, Others::Replace).unwrap();
    assert_eq!(
        changes,
        LayoutChanges { kept: 1, linked: 1, written: 2, removed: 3, ..LayoutChanges::default() }
    );
    assert!(
        !blob(&folder, &two.descriptor.digest).exists()
            && !folder.join("blobs/sha256/.wbuild-partial").exists()
    );
    assert!(folder.join("blobs/sha256/README").exists());
    let entries = index(&folder)["manifests"].as_array().unwrap().clone();
    assert_eq!(entries.len(), 1);
    assert!(entries[0].get("annotations").is_none());
}

#[test]
fn writable_blobs_and_other_file_systems_are_copied() {
    let store = Store::new();
    let layer = store.layer("a", "1");
    let stored = store.blob(&layer.descriptor.digest).unwrap();
    std::fs::set_permissions(&stored, std::fs::Permissions::from_mode(0o644)).unwrap();
    let export = Export::image(&store.image("amd64", std::slice::from_ref(&layer)), Vec::new());
    let folder = tempfile::tempdir_in(store.0.path().parent().unwrap()).unwrap();
    let changes = write_layout(folder.path(), &export, &store, Others::Replace).unwrap();
    assert_eq!((changes.linked, changes.written + changes.cloned), (0, 3));
    let copy = blob(folder.path(), &layer.descriptor.digest);
    assert_ne!(std::fs::metadata(&copy).unwrap().ino(), std::fs::metadata(&stored).unwrap().ino());
    // The copy is known again by its time; one that was written to since is not.
    let inode = |file: &Path| std::fs::metadata(file).unwrap().ino();
    let (before, read) = (inode(&copy), LayoutChanges { kept: 3, ..LayoutChanges::default() });
    assert_eq!(
        std::fs::metadata(&copy).unwrap().modified().ok(),
        store.seal(&layer.descriptor.digest, layer.descriptor.size)
    );
    assert_eq!(write_layout(folder.path(), &export, &store, Others::Replace).unwrap(), read);
    assert_eq!(inode(&copy), before);
    let mut bytes = std::fs::read(&copy).unwrap();
    bytes[3] ^= 1;
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&copy, bytes).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(write_layout(folder.path(), &export, &store, Others::Replace).unwrap().repaired, 1);
    assert_eq!(Digest::of(&std::fs::read(&copy).unwrap()), layer.descriptor.digest);
    // One that is right, but has another time, is read once and sealed again.
    let touched = std::fs::File::open(&copy).unwrap();
    touched.set_modified(std::time::SystemTime::now()).unwrap();
    assert_eq!(write_layout(folder.path(), &export, &store, Others::Replace).unwrap(), read);
    assert_eq!(
        std::fs::metadata(&copy).unwrap().modified().ok(),
        store.seal(&layer.descriptor.digest, layer.descriptor.size)
    );
    std::fs::set_permissions(&stored, std::fs::Permissions::from_mode(0o444)).unwrap();
    if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
        let changes = write_layout(memory.path(), &export, &store, Others::Replace).unwrap();
        assert_eq!((changes.linked, changes.written), (0, 3));
    } else {
        println!("skipped: no second file system at /dev/shm");
    }
}

#[test]
fn damaged_and_missing_store_blobs_are_errors() {
    let store = Store::new();
    let layer = store.layer("a", "1");
    let export = Export::image(&store.image("amd64", std::slice::from_ref(&layer)), Vec::new());
    let stored = store.blob(&layer.descriptor.digest).unwrap();
    let bytes = std::fs::read(&stored).unwrap();
    let mut wrong = bytes.clone();
    wrong[9] ^= 1;
    for (bytes, expected) in [(wrong, "is damaged"), (bytes[1..].to_vec(), "bytes, but has")] {
        std::fs::remove_file(&stored).unwrap();
        std::fs::write(&stored, bytes).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut results =
            vec![write_archive(&export, ArchiveFormat::Oci, &store, std::io::sink()).unwrap_err()];
        // A clone is not read, so only a copy notices wrong bytes.
        if let Err(error) = write_layout(folder.path(), &export, &store, Others::Replace) {
            results.push(error);
        }
        for error in results {
            let ExportError::Blob { source, .. } = &error else { panic!("{error}") };
            assert!(source.to_string().contains(expected), "{source}");
        }
        assert!(!folder.path().join("index.json").exists());
    }
    std::fs::remove_file(&stored).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let error = write_layout(folder.path(), &export, &store, Others::Replace).unwrap_err();
    assert!(error.to_string().contains(&layer.descriptor.digest.to_string()), "{error}");
    // The next export finishes what that one began.
    store.layer("a", "1");
    write_layout(folder.path(), &export, &store, Others::Replace).unwrap();
}

#[test]
fn other_folders_are_refused_untouched() {
    let store = Store::new();
    let export = Export::image(&store.image("amd64", &[]), Vec::new());
    for (file, content) in [
        ("precious", "x"),
        ("index.json", "{}"),
        ("oci-layout", "{}"),
        ("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(file), content).unwrap();
        let error = write_layout(folder.path(), &export, &store, Others::Replace).unwrap_err();
        assert!(matches!(error, ExportError::Occupied { .. }), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read_to_string(folder.path().join(file)).unwrap(), content);
    }
    // A link where the blobs should be leads nobody anywhere.
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), folder.path().join("blobs")).unwrap();
    std::fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    assert!(write_layout(folder.path(), &export, &store, Others::Replace).is_err());
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn several_exports_into_one_folder_wait_for_each_other() {
    let store = Store::new();
    let layers: Vec<_> = (0..4).map(|number| store.layer("a", &format!("text {number}"))).collect();
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for layer in &layers {
            let (store, folder) = (&store, &folder);
            scope.spawn(move || {
                let export = Export::image(&store.image("amd64", std::slice::from_ref(layer)), Vec::new());
                write_layout(folder.path(), &export, store, Others::Replace).unwrap();
            });
        }
    });
    let layout = OciLayout::open(folder.path()).unwrap();
    let image = layout.image(&Select::Only, &Platform::linux("amd64")).unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap().count(), 3);
    layout.open_blob(&image.layers[0].descriptor).unwrap().into_bytes().unwrap();
}

#[test]
fn other_images_of_a_folder_stay() {
    let store = Store::new();
    let layers = ["1", "2", "3"].map(|text| store.layer("a", text));
    let image = |at: usize| store.image("amd64", &layers[at..=at]);
    let folder = tempfile::tempdir().unwrap();
    let write = |at: usize, tags: &[&str], others| {
        write_layout(folder.path(), &Export::image(&image(at), names(tags)), &store, others).unwrap()
    };
    let tags = || OciLayout::open(folder.path()).unwrap().tags();
    let blobs = || std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap().count();
    write(0, &["app:1"], Others::Keep);
    write(1, &["app:2"], Others::Keep);
    assert_eq!((tags(), blobs()), (vec!["1".to_owned(), "2".to_owned()], 6));
    let digest = |at: usize| image(at).manifest.descriptor.digest;
    let found = |tag: &str| {
        let layout = OciLayout::open(folder.path()).unwrap();
        let image = layout.image(&Select::Tag(tag.to_owned()), &Platform::linux("amd64")).unwrap();
        layout.open_blob(&image.layers[0].descriptor).unwrap().into_bytes().unwrap();
        image.descriptor.digest
    };
    assert_eq!((found("1"), found("2")), (digest(0), digest(1)));
    // The same tag again: what only the old one had goes.
    assert_eq!(write(2, &["app:1"], Others::Keep).removed, 3);
    assert_eq!((found("1"), found("2"), blobs()), (digest(2), digest(1), 6));
    write(0, &[], Others::Keep);
    write(1, &[], Others::Keep);
    assert_eq!((index(folder.path())["manifests"].as_array().unwrap().len(), blobs()), (3, 6));
    // A neighbour that cannot be followed: nothing is removed any more.
    std::fs::remove_file(blob(folder.path(), &digest(2))).unwrap();
    assert_eq!(write(0, &["app:2"], Others::Keep).removed, 0);
    write(0, &["app:3"], Others::Replace);
    assert_eq!((tags(), blobs()), (vec!["3".to_owned()], 3));
}

#[test]
fn archives_are_deterministic_layouts() {
    let store = Store::new();
    let layers = [store.layer("a", "1"), store.layer("b", "2")];
    let image = store.image("amd64", &layers);
    let export = Export::image(&image, names(&["app:v1"]));
    let archive = |format| {
        let mut bytes = Vec::new();
        write_archive(&export, format, &store, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(archive(ArchiveFormat::Oci), archive(ArchiveFormat::Oci));
    let mut files = BTreeMap::new();
    let mut order = Vec::new();
    for entry in tar::Archive::new(&archive(ArchiveFormat::Docker)[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        order.push(name.clone());
        files.insert(name, bytes);
    }
    assert!(order.is_sorted(), "{order:?}");
    let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(manifest[0]["RepoTags"][0], "app:v1");
    let mut named: Vec<&str> =
        manifest[0]["Layers"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    named.push(manifest[0]["Config"].as_str().unwrap());
    for name in named {
        assert_eq!(Digest::of(&files[name]).hex(), name.trim_start_matches("blobs/sha256/"));
    }
    // Unpacked, it is a layout.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("image.tar");
    write_archive_file(&export, ArchiveFormat::Oci, &store, &file).unwrap();
    let layout = folder.path().join("layout");
    tar::Archive::new(std::fs::File::open(&file).unwrap()).unpack(&layout).unwrap();
    let read = OciLayout::open(&layout)
        .unwrap()
        .image(&Select::Tag("v1".into()), &Platform::linux("amd64"))
        .unwrap();
    assert_eq!(read.descriptor.digest, image.manifest.descriptor.digest);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);

    let images = [image, store.image("arm64", &layers)];
    let index = assemble_index(&images, BTreeMap::new()).unwrap();
    let export = Export::index(&index, &images, Vec::new());
    let error = write_archive(&export, ArchiveFormat::Docker, &store, std::io::sink()).unwrap_err();
    assert!(matches!(error, ExportError::SeveralPlatforms { platforms: 2 }));
}
