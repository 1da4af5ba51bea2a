use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use wbuild_report::SourceFile;

use super::*;
use crate::document::{Node, parse_yaml};
use crate::lockfile::prune::Keep;
use crate::testing::{lab, lab_v6, path, workspace};
use crate::{Closure, Files};

fn parse(text: &str) -> Result<Lockfile, String> {
    Lockfile::parse(&SourceFile::new("pnpm-lock.yaml", text))
        .map_err(|error| crate::testing::said(error.diagnostics()))
}

fn lab_text() -> String {
    text_of(&lab())
}

fn text_of(files: &crate::MemoryFiles) -> String {
    String::from_utf8(files.read(&path(LOCKFILE)).unwrap().unwrap().into_owned()).unwrap()
}

/// Everything that the line reader finds, as a YAML library finds it.
fn assert_equals_yaml(text: &str) {
    let lockfile = parse(text).unwrap();
    let yaml = parse_yaml(&SourceFile::new("pnpm-lock.yaml", text)).unwrap();
    let keys = |section: &str| -> Vec<String> {
        yaml.get(section).map(Node::members).unwrap_or_default().iter().map(|m| m.key.clone()).collect()
    };
    let importers: Vec<String> = lockfile.importers().iter().map(|i| i.dir.to_string()).collect();
    assert_eq!(importers, keys("importers"));
    for importer in lockfile.importers() {
        let node = yaml.get("importers").unwrap().get(&importer.dir.to_string()).unwrap();
        let mut expected = Vec::new();
        for (kind, key) in &DependencyKind::ALL[..3] {
            for member in node.get(key).map(Node::members).unwrap_or_default() {
                let field = |name| member.node.get(name).unwrap().as_text().unwrap();
                expected.push((*kind, member.key.clone(), field("specifier"), field("version")));
            }
        }
        let mut found: Vec<_> = importer
            .dependencies
            .iter()
            .map(|d| {
                let text = |t| lockfile.text(t).to_owned();
                (d.kind, text(d.name), text(d.specifier), text(d.version))
            })
            .collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{}", importer.dir);
    }
    let packages: Vec<&str> = lockfile.packages().iter().map(|p| lockfile.text(p.key)).collect();
    assert_eq!(packages, keys("packages"));
    let section = if lockfile.version() == LockfileVersion::V6 { "packages" } else { "snapshots" };
    let snapshots: Vec<&str> = lockfile.snapshots().map(|(_, s)| lockfile.text(s.key)).collect();
    assert_eq!(snapshots, keys(section));
    for (id, snapshot) in lockfile.snapshots() {
        let node = yaml.get(section).unwrap().get(lockfile.text(snapshot.key)).unwrap();
        let mut expected = BTreeMap::new();
        for key in ["dependencies", "optionalDependencies"] {
            for member in node.get(key).map(Node::members).unwrap_or_default() {
                expected.insert(member.key.clone(), member.node.as_text().unwrap());
            }
        }
        let found: BTreeMap<String, String> = lockfile
            .dependencies(id)
            .iter()
            .map(|edge| (lockfile.text(edge.name).to_owned(), lockfile.text(edge.version).to_owned()))
            .collect();
        assert_eq!(found, expected, "{}", lockfile.text(snapshot.key));
        assert_eq!(snapshot.optional, node.get("optional").and_then(Node::as_bool).unwrap_or(false));
    }
}

#[test]
fn the_line_reader_reads_what_a_yaml_library_reads() {
    assert_equals_yaml(&lab_text());
    assert_equals_yaml(&text_of(&lab_v6()));
    assert_equals_yaml(FORMS);
    assert_equals_yaml(&FORMS.replace('\n', "\r\n"));
}

/// Forms that pnpm writes and that the lab does not have.
const FORMS: &str = "lockfileVersion: '9.0'

importers:

  .: {}

  apps/web:
    devDependencies:
      a:
        specifier: '>=1 <2'
        version: 1.0.0
    publishDirectory: dist

packages:

  a@1.0.0:
    resolution: {integrity: sha512-x==}
    engines: {node: '>=18'}
    cpu: [x64, arm64]
    os:
      - linux
      - '!win32'
    libc: [musl]
    deprecated: |-
      use b: it is better
      dependencies:
        x: y
    hasBin: true

  ? '@x/long@1.0.0'
  : resolution: {integrity: sha512-y==}
    peerDependencies:
      a: '*'

snapshots:

  a@1.0.0:
    dependencies:
      '@x/long': 1.0.0(a@1.0.0)
    transitivePeerDependencies:
      - supports-color
    optional: true

  ? '@x/long@1.0.0(a@1.0.0)'
  : dependencies:
      a: 1.0.0
    optionalDependencies:
      b: link:packages/b
";

#[test]
fn fields_of_packages() {
    let lockfile = parse(FORMS).unwrap();
    let id = lockfile.find_snapshot("a@1.0.0").unwrap();
    let platform = |os: &str, libc: &str| crate::Platform {
        os: os.to_owned(),
        cpu: "x64".to_owned(),
        libc: Some(libc.to_owned()),
    };
    let because = |platform: &crate::Platform| {
        lockfile.foreign_packages([id], platform).first().map(|foreign| foreign.because)
    };
    assert_eq!(because(&platform("linux", "musl")), None);
    assert_eq!(because(&platform("linux", "glibc")), Some("libc"));
    assert_eq!(because(&platform("win32", "musl")), Some("os"));
    let long = lockfile.find_snapshot("@x/long@1.0.0(a@1.0.0)").unwrap();
    assert_eq!((lockfile.name_of(long), lockfile.version_of(long)), ("@x/long", "1.0.0"));
    assert!(lockfile.package_of(long).is_some());
    assert_eq!(lockfile.store_directory(long), "@x+long@1.0.0_a@1.0.0");
}

#[test]
fn the_lock_is_the_last_document() {
    let two = format!(
        "---\nlockfileVersion: '9.0'\n\nimporters:\n\n  .:\n    configDependencies: {{}}\n---\n{FORMS}"
    );
    let lockfile = parse(&two).unwrap();
    assert_eq!(lockfile.importers().len(), 2);
    let keep = Keep { importers: &BTreeSet::from([path("")]), snapshots: &BTreeSet::new() };
    let pruned = lockfile.prune(&keep).unwrap();
    assert!(pruned.to_text().starts_with("---\nlockfileVersion"), "the first document stays");
    assert_eq!(pruned.importers().len(), 1);
}

#[test]
fn unknown_formats_are_named() {
    let mut out = Vec::new();
    for text in [
        "",
        "lockfileVersion: 5.4\n",
        "lockfileVersion: '10.0'\n",
        "{\n\t\"lockfileVersion\": \"13\",\n\t\"packages\": {}\n}\n",
        "dependencies: {}\n",
        "lockfileVersion: '9.0'\n\nimporters:\n\n<<<<<<< HEAD\n  .: {}\n",
        "lockfileVersion: '9.0'\n\nimporters:\n\n  .:\n   dependencies:\n",
        "lockfileVersion: '9.0'\n\nsnapshots:\n\n  'it''s@1': {}\n",
        "lockfileVersion: '9.0'\n\nsnapshots:\n\n  a@1: {}\n\n  a@1: {}\n",
        "lockfileVersion: '9.0'\n\nimporters:\n\n  ../x: {}\n",
        "lockfileVersion: '9.0'\n\nsnapshots:\n\n  a@1:\n    dependencies:\n      - b\n",
    ] {
        out.push(parse(text).unwrap_err());
    }
    insta::assert_snapshot!(out.join("\n"), @"
    Error: pnpm-lock.yaml: the lockfile is empty
      hint: write it with `pnpm install --lockfile-only`
    Error: pnpm-lock.yaml:1:1: lockfile version unknown: 5.4 is of pnpm 7 or older
      hint: write it anew with pnpm 9 or later: `pnpm install --lockfile-only`
    Error: pnpm-lock.yaml:1:1: lockfile version unknown: `10.0`
      hint: write it with a pnpm from 8 to 12: `pnpm install --lockfile-only`
    Error: pnpm-lock.yaml:2:3: lockfile version unknown: 13 is an experimental format of pnpm 12
      hint: remove `lockfile.format` from pnpm-workspace.yaml and run `pnpm install --lockfile-only`
    Error: pnpm-lock.yaml: lockfile version unknown: none is written
      hint: write it with `pnpm install --lockfile-only`
    Error: pnpm-lock.yaml:5:1: the lockfile holds a merge conflict
      hint: resolve it with `pnpm install --lockfile-only`
    Error: pnpm-lock.yaml:6:4: this line is not as pnpm writes lockfiles
      hint: let pnpm write the lockfile anew: `pnpm install --lockfile-only`
    Error: pnpm-lock.yaml:5:3: this line is not as pnpm writes lockfiles
      hint: let pnpm write the lockfile anew: `pnpm install --lockfile-only`
    Error: pnpm-lock.yaml:7:3: `a@1` is in the lockfile twice
    Error: pnpm-lock.yaml:5:3: importer: `../x` leaves the workspace root (from `.`)
    Error: pnpm-lock.yaml:7:7: this line is not as pnpm writes lockfiles
      hint: let pnpm write the lockfile anew: `pnpm install --lockfile-only`
    ");
}

#[test]
fn a_pruned_lockfile_is_written_as_pnpm_writes_it() {
    let workspace = workspace(&lab());
    let closure = Closure::of(&workspace, &path("apps/admin"));
    let importers = closure.packages.keys().cloned().collect();
    let pruned =
        workspace.lockfile.prune(&Keep { importers: &importers, snapshots: &closure.snapshots }).unwrap();
    insta::assert_snapshot!(pruned.to_text(), @"
    lockfileVersion: '9.0'

    settings:
      autoInstallPeers: true
      excludeLinksFromLockfile: false

    catalogs:
      default:
        lodash:
          specifier: 4.17.21
          version: 4.17.21
      old:
        ms:
          specifier: 2.0.0
          version: 2.0.0

    overrides:
      is-odd: 3.0.0
      is-even>is-odd: 3.0.1

    packageExtensionsChecksum: sha256-yMo9VZXP1pnbfzwS2mUOCrdnhEJcN2+WoFpp1iD/0q0=

    pnpmfileChecksum: sha256-PVj+MyFqYFzSD0ZbemT5/CG520ew469gbogcyN23Pwk=

    patchedDependencies:
      lodash@4.17.21:
        hash: 9887dfb092f8e6f582750e7fb7d7752d39a86bfdd3da851f1aeb3e503f93d12f
        path: patches/lodash.patch

    importers:

      .:
        devDependencies:
          cfg:
            specifier: workspace:*
            version: link:packages/cfg
          is-number:
            specifier: 7.0.0
            version: 7.0.0

      apps/admin:
        dependencies:
          adm:
            specifier: workspace:*
            version: link:../../packages/adm
          lodash:
            specifier: 'catalog:'
            version: 4.17.21(patch_hash=9887dfb092f8e6f582750e7fb7d7752d39a86bfdd3da851f1aeb3e503f93d12f)
          ms:
            specifier: catalog:old
            version: 2.0.0
          react:
            specifier: 18.3.1
            version: 18.3.1

      packages/adm:
        dependencies:
          is-number:
            specifier: 6.0.0
            version: 6.0.0

      packages/cfg: {}

    packages:

      is-number@6.0.0:
        resolution: {integrity: sha512-Wu1VHeILBK8KAWJUAiSZQX94GmOE45Rg6/538fKwiloUu21KncEkYGPqob2oSZ5mUT73vLGrHQjKw3KMPwfDzg==}
        engines: {node: '>=0.10.0'}

      is-number@7.0.0:
        resolution: {integrity: sha512-41Cifkg6e8TylSpdtTpeLVMqvSBEVzTttHvERD741+pnZ8ANv0004MRL43QKPDlK9cGvNp6NZWZUBlbGXYxxng==}
        engines: {node: '>=0.12.0'}

      js-tokens@4.0.0:
        resolution: {integrity: sha512-RdJUflcE3cUzKiMqQgsCu06FPu9UdIJO0beYbPhHN4k6apgJtifcoCtT9bcxOpYBtpD2kCM6Sbzg4CausW/PKQ==}

      lodash@4.17.21:
        resolution: {integrity: sha512-v2kDEe57lecTulaDIuNTPy3Ry4gLGJ6Z1O3vE1krgXZNrsQ+LFTGHVxVjcXPs17LhbZVGedAJv8XZ1tvj5FvSg==}

      loose-envify@1.4.0:
        resolution: {integrity: sha512-lyuxPGr/Wfhrlem2CL/UcnUc1zcqKAImBDzukY7Y5F/yQiNdko6+fRLevlw1HgMySw7f611UIY408EtxRSoK3Q==}
        hasBin: true

      ms@2.0.0:
        resolution: {integrity: sha512-Tpp60P6IUJDTuOq/5Z8cdskzJujfwqfOTkrwIwj7IRISpnkJnT6SyJ4PCPnGMoFjC9ddhal5KVIYtAt97ix05A==}

      react@18.3.1:
        resolution: {integrity: sha512-wS+hAgJShR0KhEvPJArfuPVN1+Hz1t0Y6n5jLrGQbkb4urgPE/0Rve+1kMB1v/oWgHgm4WIcV+i7F2pTVj+2iQ==}
        engines: {node: '>=0.10.0'}

    ignoredOptionalDependencies:
      - fsevents

    snapshots:

      is-number@6.0.0: {}

      is-number@7.0.0: {}

      js-tokens@4.0.0: {}

      lodash@4.17.21(patch_hash=9887dfb092f8e6f582750e7fb7d7752d39a86bfdd3da851f1aeb3e503f93d12f): {}

      loose-envify@1.4.0:
        dependencies:
          js-tokens: 4.0.0

      ms@2.0.0: {}

      react@18.3.1:
        dependencies:
          loose-envify: 1.4.0
    ");
}

#[test]
fn keeping_everything_changes_nothing() {
    for text in [lab_text(), text_of(&lab_v6()), FORMS.to_owned()] {
        let lockfile = parse(&text).unwrap();
        let importers = lockfile.importers().iter().map(|i| i.dir.clone()).collect();
        let snapshots = lockfile.snapshots().map(|(id, _)| id).collect();
        let pruned = lockfile.prune(&Keep { importers: &importers, snapshots: &snapshots }).unwrap();
        assert_eq!(pruned.to_text(), text);
    }
}

/// A lockfile of `count` packages, each depending on those that `edges` says.
fn generated(importers: &[Vec<usize>], edges: &[Vec<usize>]) -> String {
    let mut text = "lockfileVersion: '9.0'\n\nimporters:\n".to_owned();
    for (index, dependencies) in importers.iter().enumerate() {
        text.push_str(&format!("\n  i{index}:\n"));
        if !dependencies.is_empty() {
            text.push_str("    dependencies:\n");
        }
        for to in dependencies {
            text.push_str(&format!("      p{to}:\n        specifier: ^1.0.0\n        version: 1.0.{to}\n"));
        }
    }
    text.push_str("\npackages:\n");
    for index in 0..edges.len() {
        text.push_str(&format!("\n  p{index}@1.0.{index}:\n    resolution: {{integrity: x}}\n"));
    }
    text.push_str("\nsnapshots:\n");
    for (index, targets) in edges.iter().enumerate() {
        if targets.is_empty() {
            text.push_str(&format!("\n  p{index}@1.0.{index}: {{}}\n"));
            continue;
        }
        text.push_str(&format!("\n  p{index}@1.0.{index}:\n    dependencies:\n"));
        for to in targets {
            text.push_str(&format!("      p{to}: 1.0.{to}\n"));
        }
    }
    text
}

fn graph() -> impl Strategy<Value = (Vec<Vec<usize>>, Vec<Vec<usize>>)> {
    (1usize..12).prop_flat_map(|count| {
        let targets =
            || prop::collection::btree_set(0..count, 0..3).prop_map(|set| set.into_iter().collect());
        (prop::collection::vec(targets(), 1..4), prop::collection::vec(targets(), count))
    })
}

proptest! {
    #[test]
    fn pruning_is_closed_idempotent_and_cut_from_the_text((importers, edges) in graph()) {
        let text = generated(&importers, &edges);
        assert_equals_yaml(&text);
        let lockfile = parse(&text).unwrap();
        // What the first importer reaches.
        let mut reached = BTreeSet::new();
        let mut pending = importers[0].clone();
        while let Some(node) = pending.pop() {
            if reached.insert(node) {
                pending.extend(&edges[node]);
            }
        }
        let kept = BTreeSet::from([path("i0")]);
        let ids = |lockfile: &Lockfile| {
            let key = |node: &usize| lockfile.find_snapshot(&format!("p{node}@1.0.{node}")).unwrap();
            reached.iter().map(key).collect::<BTreeSet<SnapshotId>>()
        };
        let pruned = lockfile.prune(&Keep { importers: &kept, snapshots: &ids(&lockfile) }).unwrap();
        prop_assert_eq!(pruned.snapshots().count(), reached.len());
        prop_assert_eq!(pruned.packages().len(), reached.len());
        prop_assert_eq!(pruned.importers().len(), 1);
        for (id, _) in pruned.snapshots() {
            prop_assert!(pruned.package_of(id).is_some());
            for edge in pruned.dependencies(id) {
                let Reference::Snapshot(key) = pruned.resolve(edge.name, edge.version) else { panic!() };
                prop_assert!(pruned.find_snapshot(&key).is_some(), "{} is referred to", key);
            }
        }
        for (_, snapshot) in pruned.snapshots() {
            let entry = &pruned.to_text()[snapshot.cut.span.start..snapshot.cut.span.end];
            prop_assert!(text.contains(entry));
        }
        let again = pruned.prune(&Keep { importers: &kept, snapshots: &ids(&pruned) }).unwrap();
        prop_assert_eq!(again.to_text(), pruned.to_text());
    }

    #[test]
    fn no_text_makes_it_panic(lines in prop::collection::vec("( {0,8})('?[a-z@/]{0,6}'?:?( ?[a-z0-9{}\\[\\]:']{0,8})|- x|\\? a|: b|---|#)", 0..25)) {
        let _either = parse(&format!("lockfileVersion: '9.0'\n{}", lines.join("\n")));
    }

    #[test]
    fn no_cut_of_the_lab_makes_it_panic(at in 0usize..9000, length in 0usize..60) {
        let text = lab_text();
        let at = at.min(text.len());
        let end = (at + length).min(text.len());
        if let (Some(head), Some(tail)) = (text.get(..at), text.get(end..)) {
            let _either = parse(&format!("{head}{tail}"));
        }
    }
}
