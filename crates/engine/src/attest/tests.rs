use wbuild_attest::npm::Locked;
use wbuild_attest::{Inventory, Presence};
use wbuild_frontend::Target;
use wbuild_graph::Snapshot;
use wbuild_oci::ImageConfig;
use wbuild_report::VertexId;
use wbuild_tree::{Entry, EntryPath, Meta, TreeBuilder};

use crate::Engine;

/// The packages of a root file system with these files.
fn inventory(files: &[(&str, &[u8])], locked: &[Locked]) -> Inventory {
    let home = tempfile::tempdir().unwrap();
    let engine = crate::testing::engine(home.path(), &[]);
    let mut builder = TreeBuilder::new();
    for (path, bytes) in files {
        let entry = match bytes.strip_prefix(b"-> ") {
            Some(target) => Entry::symlink(target),
            None => {
                let content = engine.store.put_bytes(bytes).unwrap();
                Entry::file(Meta::new(0o644), content, bytes.len() as u64)
            }
        };
        builder.insert(&engine.trees(), &EntryPath::parse(path).unwrap(), entry).unwrap();
    }
    let tree = builder.finish();
    engine.store.put_tree(&tree).unwrap();
    look(&engine, &Snapshot::of_tree(tree.digest(), tree.content()), locked)
}

fn look(engine: &Engine, snapshot: &Snapshot, locked: &[Locked]) -> Inventory {
    let target = Target {
        vertex: VertexId(0),
        base_image: None,
        config: ImageConfig::default(),
        comment: "test",
        history: Vec::new(),
    };
    engine.inventory(&target, snapshot, locked).unwrap()
}

#[test]
fn packages_of_debian_and_of_distroless() {
    let found = inventory(
        &[
            ("usr/lib/os-release", b"ID=debian\nVERSION_ID=\"12\"\n"),
            ("etc/os-release", b"-> ../usr/lib/os-release"),
            ("var/lib/dpkg/status", b"Package: bash\nStatus: install ok installed\nVersion: 5.2\n"),
            ("var/lib/dpkg/status.d/base", b"Package: base-files\nVersion: 12\n"),
            ("var/lib/dpkg/status.d/base.md5sums", b"Package: no\n"),
        ],
        &[],
    );
    let purls: Vec<&String> = found.packages().keys().collect();
    assert_eq!(
        purls,
        ["pkg:deb/debian/base-files@12?distro=debian-12", "pkg:deb/debian/bash@5.2?distro=debian-12"]
    );
    let place = found.packages().values().next().unwrap().places.first().unwrap();
    assert_eq!(place, "var/lib/dpkg/status.d/base");
}

#[test]
fn what_is_not_read_is_noted() {
    let found = inventory(
        &[
            ("usr/lib/sysimage/rpm/rpmdb.sqlite", b"SQLite"),
            ("usr/local/bin/node", b"program"),
            ("a/node_modules/b/package.json", b"{"),
            ("pnpm-lock.yaml", b"nothing\n"),
        ],
        &[],
    );
    assert!(found.packages().is_empty());
    let notes: Vec<&String> = found.notes.iter().collect();
    assert_eq!(
        notes,
        [
            "/a/node_modules/b/package.json is no manifest",
            "/pnpm-lock.yaml is no lockfile that can be read",
            "/usr/local/bin/node is there, and nothing says which version it is",
            "packages of rpm may be missing here: not all of its database /usr/lib/sysimage/rpm/rpmdb.sqlite makes sense",
        ]
    );
}

#[test]
fn packages_are_told_from_those_that_are_only_locked() {
    let locked = |name: &str| Locked {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        integrity: Some("sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=".to_owned()),
        ..Locked::default()
    };
    let store = "node_modules/.pnpm/there@1.0.0/node_modules/there";
    let found = inventory(
        &[
            (&format!("{store}/package.json"), br#"{"name":"there","version":"1.0.0"}"#),
            ("node_modules/there", format!("-> .pnpm/there@1.0.0/{store}").as_bytes()),
        ],
        &[locked("there"), locked("tool")],
    );
    let presence: Vec<(&str, Presence)> =
        found.packages().iter().map(|(purl, package)| (purl.as_str(), package.presence)).collect();
    assert_eq!(
        presence,
        [("pkg:npm/there@1.0.0", Presence::Found), ("pkg:npm/tool@1.0.0", Presence::Locked)]
    );
    let there = &found.packages()["pkg:npm/there@1.0.0"];
    assert_eq!(there.places.iter().collect::<Vec<_>>(), [store]);
    assert_eq!(there.checksums.len(), 1);
}

#[test]
fn integrity_of_the_lockfile_that_pnpm_leaves() {
    let lock = b"lockfileVersion: '9.0'\n\nsettings:\n  autoInstallPeers: true\n\nimporters:\n\n  .:\n    dependencies:\n      \
        a:\n        specifier: 1.0.0\n        version: 1.0.0\n\npackages:\n\n  a@1.0.0:\n    resolution: {integrity: \
        sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=}\n\nsnapshots:\n\n  a@1.0.0: {}\n";
    let found = inventory(
        &[
            ("srv/node_modules/.pnpm/lock.yaml", lock),
            (
                "srv/node_modules/.pnpm/a@1.0.0/node_modules/a/package.json",
                br#"{"name":"a","version":"1.0.0"}"#,
            ),
        ],
        &[],
    );
    assert_eq!(found.packages()["pkg:npm/a@1.0.0"].checksums.len(), 1, "{:?}", found.notes);
}

#[test]
fn node_says_its_version_in_a_header() {
    let found = inventory(
        &[
            ("usr/local/bin/node", b"program"),
            (
                "usr/local/include/node/node_version.h",
                b"#define NODE_MAJOR_VERSION 22\n#define NODE_MINOR_VERSION 16\n#define NODE_PATCH_VERSION 0\n",
            ),
        ],
        &[],
    );
    assert!(found.packages().contains_key("pkg:generic/node@22.16.0"), "{found:?}");
}
