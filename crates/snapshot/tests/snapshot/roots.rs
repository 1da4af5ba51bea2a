use std::fs;
use std::io::Read;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use wbuild_graph::{DeltaId, Snapshot};
use wbuild_layer::{Recipe, Times, write_layer};
use wbuild_oci::Digest;
use wbuild_snapshot::{
    Existing, LayerSource, SnapshotError, TreeFace, Unpacking, View, disk_face, materialise, merged_tree,
    publish_exec, remember_tree_face, seal, stack_for_mount, tree_face, unpack_layer,
};
use wbuild_store::Store;
use wbuild_tree::{Entry, Lookup, Name, Node, Subtree, lookup};

use crate::{
    collected, delta_of, dir, disk, entry, exec, file, listing, meta, opaque, overlay, path, publish, store,
    symlink, tree,
};

/// Four deltas that use every mark.
fn deltas(store: &Store) -> Vec<Subtree> {
    let renewed = tree(store, vec![("fresh", file(store, "fresh"))]);
    vec![
        tree(
            store,
            vec![
                ("etc/passwd", file(store, "root:x:0:0:/root")),
                ("etc/removed", file(store, "r")),
                ("lib/old/a", file(store, "a")),
                ("lib/old/b", file(store, "b")),
                ("var/renewed/stale", file(store, "stale")),
                ("bin", symlink("usr/bin")),
                ("usr/bin/sh", file(store, "#!")),
                ("becomes-dir", file(store, "f")),
                ("becomes-file/x", file(store, "x")),
            ],
        ),
        tree(
            store,
            vec![
                ("etc/removed", Entry::whiteout()),
                ("lib/old", Entry::whiteout()),
                ("var/renewed", opaque(&renewed)),
                ("becomes-dir", Entry::whiteout()),
            ],
        ),
        tree(
            store,
            vec![
                ("lib/old", opaque(&tree(store, vec![("c", file(store, "c"))]))),
                ("becomes-dir/y", file(store, "y")),
                ("becomes-file", file(store, "now a file")),
                ("etc/group", symlink("/etc/passwd")),
                ("etc/pipe", Entry { meta: meta(0o644), node: Node::Fifo }),
            ],
        ),
        tree(
            store,
            vec![("etc", dir(0o700)), ("lib/old/d", file(store, "d")), ("up", symlink("../../../../etc"))],
        ),
    ]
}

const MERGED: [&str; 20] = [
    "/becomes-dir dir",
    "/becomes-dir/y file y",
    "/becomes-file file now a file",
    "/bin -> usr/bin",
    "/etc dir",
    "/etc/group -> /etc/passwd",
    "/etc/passwd file root:x:0:0:/root",
    "/etc/pipe fifo",
    "/lib dir",
    "/lib/old dir",
    "/lib/old/c file c",
    "/lib/old/d file d",
    "/up -> ../../../../etc",
    "/usr dir",
    "/usr/bin dir",
    "/usr/bin/sh file #!",
    "/var dir",
    "/var/renewed dir",
    "/var/renewed/fresh file fresh",
    "",
];

/// The same deltas, those of `as_disk` as what a step left behind: without a tree face.
fn snapshot(store: &Store, trees: &[Subtree], as_disk: &[usize]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (index, tree) in trees.iter().enumerate() {
        if !as_disk.contains(&index) {
            snapshot.deltas.push(delta_of(tree));
            continue;
        }
        let from = materialise(store, tree.digest(), disk()).unwrap().fs();
        let draft = store.draft().unwrap();
        fs::remove_dir(draft.fs()).unwrap();
        let copied = std::process::Command::new("cp").arg("-a").arg(&from).arg(draft.fs()).status().unwrap();
        assert!(copied.success());
        let key = exec(&format!("{index} {}", tree.digest()));
        publish(store, draft, key);
        snapshot.deltas.push(DeltaId::Exec(key));
    }
    snapshot
}

#[test]
fn views_answer_alike_whichever_face_there_is() {
    let (_dir, store) = store();
    let trees = deltas(&store);
    for as_disk in [&[][..], &[0, 1, 2, 3], &[1, 3], &[0, 2]] {
        let view = View::new(&store, &snapshot(&store, &trees, as_disk), disk()).unwrap();
        let read = |text: &str| {
            view.read_file(&path(text), 100).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
        };
        assert_eq!(read("etc/passwd").as_deref(), Some("root:x:0:0:/root"), "{as_disk:?}");
        assert_eq!(read("etc/group"), read("up/passwd"));
        assert_eq!(read("bin/sh").as_deref(), Some("#!"));
        assert_eq!(read("becomes-dir/y").as_deref(), Some("y"));
        assert_eq!(read("becomes-file").as_deref(), Some("now a file"));
        assert_eq!(read("lib/old/d").as_deref(), Some("d"));
        for gone in
            ["etc/removed", "lib/old/a", "var/renewed/stale", "becomes-file/x", "no/where", "etc/passwd/x"]
        {
            assert_eq!(read(gone), None, "{gone} {as_disk:?}");
            assert!(entry(&view, gone).is_none(), "{gone} {as_disk:?}");
        }
        assert_eq!(entry(&view, "etc").unwrap().meta.mode, 0o700);
        let Node::File { content, size, .. } = entry(&view, "lib/old/c").unwrap().node else {
            panic!("a file")
        };
        assert_eq!((content, size), (Digest::of(b"c"), 1));
        let names = |text: &str| {
            let names = view.list(&path(text)).unwrap();
            let shown =
                |(name, directory): (&Name, &bool)| format!("{name}{}", if *directory { "/" } else { "" });
            names.iter().map(shown).collect::<Vec<_>>().join(" ")
        };
        let merged = merged_tree(&store, &snapshot(&store, &trees, &[])).unwrap();
        for at in ["", "etc", "lib/old", "var/renewed", "becomes-dir", "bin", "no/where", "etc/passwd"] {
            let tree = match lookup(&store, &merged, &path(at)).unwrap() {
                Some(entry) => entry.contents().cloned().unwrap_or_else(Subtree::empty),
                None if at.is_empty() => merged.clone(),
                None => Subtree::empty(),
            };
            let expected: Vec<String> = tree
                .open(&store)
                .unwrap()
                .entries
                .iter()
                .map(|(name, entry)| format!("{name}{}", if entry.is_directory() { "/" } else { "" }))
                .collect();
            assert_eq!(names(at), expected.join(" "), "{at} {as_disk:?}");
        }
        let made_of = |text: &str| view.made_of(&path(text)).unwrap().len();
        assert_eq!((made_of(""), made_of("no/where"), made_of("etc/passwd")), (4, 0, 1));
        assert_eq!(made_of("var/renewed"), 1, "an opaque directory starts anew");
        let outline = view.outline().entry(&path("lib/old/c")).unwrap().unwrap();
        assert!(matches!(outline.node, Node::File { size: 1, .. }));
        let error = view.read_file(&path("etc/pipe"), 100).unwrap_err();
        assert_eq!(error.to_string(), "`/etc/pipe` is not a regular file");
        assert!(matches!(view.read_file(&path("etc"), 100), Err(SnapshotError::NotAFile { .. })));
        assert!(matches!(
            view.read_file(&path("etc/passwd"), 5),
            Err(SnapshotError::TooLarge { size: 16, .. })
        ));
    }
}

#[test]
fn a_link_where_a_folder_was_leads_nowhere_outside() {
    let (_dir, store) = store();
    let draft = store.draft().unwrap();
    std::os::unix::fs::symlink("/etc", draft.fs().join("evil")).unwrap();
    mknodat(CWD, draft.fs().join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    publish(&store, draft, exec("evil"));
    let snapshot = Snapshot { deltas: vec![DeltaId::Exec(exec("evil"))] };
    let view = View::new(&store, &snapshot, disk()).unwrap();
    assert!(entry(&view, "evil/passwd").is_none());
    assert_eq!(view.read_file(&path("evil/passwd"), 1 << 20).unwrap(), None);
    assert!(view.open(&path("evil/passwd")).is_err());
    assert!(matches!(view.read_file(&path("pipe"), 9), Err(SnapshotError::NotAFile { .. })));
}

#[test]
fn trees_are_merged_in_order() {
    let (_dir, store) = store();
    let trees = deltas(&store);
    let merged = merged_tree(&store, &snapshot(&store, &trees, &[])).unwrap();
    store.put_tree(&merged).unwrap();
    assert_eq!(listing(&store, merged.digest()), MERGED[..19]);
    let with_disk = snapshot(&store, &trees, &[2]);
    let error = merged_tree(&store, &with_disk).unwrap_err();
    assert!(error.is_lost() && error.to_string().starts_with("the tree face of `exec-"), "{error}");
    let delta = with_disk.deltas[2];
    let folder = disk_face(&store, &delta, disk()).unwrap();
    remember_tree_face(&store, &delta, folder.as_ref(), &TreeFace::of(trees[2].digest())).unwrap();
    assert_eq!(merged_tree(&store, &with_disk).unwrap(), merged);
    // The face belongs to these files, and not to what another run of the step wrote.
    let DeltaId::Exec(key) = delta else { panic!("it was published as a step's") };
    let draft = store.draft().unwrap();
    let sealed = seal(&draft.fs()).unwrap();
    publish_exec(&store, draft, key, sealed, Existing::Goes).unwrap();
    assert_eq!(tree_face(&store, &delta).unwrap(), None);
    assert!(merged_tree(&store, &with_disk).unwrap_err().is_lost());
}

/// What an overlay of these lowers shows; `None` where none can be mounted.
fn mounted(store: &Store, lowers: &[PathBuf]) -> Option<Vec<String>> {
    let target = tempfile::tempdir().unwrap();
    let mount = overlay(target.path(), lowers, None)?;
    let reply = collected(store, target.path());
    drop(mount);
    Some(listing(store, reply.tree))
}

#[test]
fn stacks_show_what_the_merged_tree_has_merged_or_not() {
    let (_dir, store) = store();
    let trees = deltas(&store);
    for tree in &trees {
        materialise(&store, tree.digest(), disk()).unwrap();
    }
    let snapshot = snapshot(&store, &trees, &[1, 2]);
    let whole = stack_for_mount(&store, &snapshot, disk(), 10).unwrap();
    assert_eq!(whole.len(), 4);
    for limit in [2, 3] {
        let stack = stack_for_mount(&store, &snapshot, disk(), limit).unwrap();
        assert!(stack.len() <= limit);
        assert_eq!(stack_for_mount(&store, &snapshot, disk(), limit).unwrap(), stack);
        if let (Some(merged), Some(plain)) = (mounted(&store, &stack), mounted(&store, &whole)) {
            assert_eq!(merged, plain);
            assert_eq!(merged, MERGED[..19]);
        }
    }
}

#[test]
fn six_hundred_deltas_fit_into_one_mount() {
    let (_dir, store) = store();
    let mut snapshot = Snapshot::default();
    for number in 0..600_u32 {
        let mut entries = vec![("last", file(&store, &number.to_string()))];
        let (own, gone) = (format!("d/{number}"), format!("d/{}", number.wrapping_sub(1)));
        entries.push((own.as_str(), file(&store, "x")));
        // Every third takes away what the one before it made.
        if number % 3 == 1 {
            entries.push((gone.as_str(), Entry::whiteout()));
        }
        let tree = tree(&store, entries);
        materialise(&store, tree.digest(), disk()).unwrap();
        snapshot.deltas.push(delta_of(&tree));
    }
    let merged = merged_tree(&store, &snapshot).unwrap();
    assert_eq!(merged.entries(), 402);
    store.put_tree(&merged).unwrap();
    // What the executor takes.
    let stack = stack_for_mount(&store, &snapshot, disk(), 499).unwrap();
    assert_eq!(stack.len(), 352);
    if let Some(shown) = mounted(&store, &stack) {
        assert_eq!(shown, listing(&store, merged.digest()));
    }
    // The next snapshot finds the merged folder made.
    let next = snapshot.with(delta_of(&tree(&store, vec![("next", file(&store, "n"))])));
    materialise(
        &store,
        match next.deltas[600] {
            DeltaId::Tree { tree, .. } => tree,
            _ => unreachable!(),
        },
        disk(),
    )
    .unwrap();
    assert_eq!(stack_for_mount(&store, &next, disk(), 499).unwrap().last(), stack.last());
}

#[test]
fn layers_have_both_faces_and_take_implied_directories_from_below() {
    struct Blobs<'a>(&'a Store);
    impl wbuild_layer::Contents for Blobs<'_> {
        fn open(&self, digest: &Digest, _size: u64) -> std::io::Result<Box<dyn Read + '_>> {
            Ok(Box::new(self.0.open_blob(digest).map_err(std::io::Error::other)?.reader()))
        }
    }
    let (_dir, store) = store();
    let base =
        tree(&store, vec![("srv", dir(0o711)), ("srv/app", dir(0o700)), ("srv/app/x", file(&store, "x"))]);
    materialise(&store, base.digest(), disk()).unwrap();
    let delta = tree(&store, vec![("srv/app/y", file(&store, "y")), ("srv/app/x", Entry::whiteout())]);
    let mut blob = Vec::new();
    let recipe = Recipe { times: Times::Keep, ..Recipe::default() };
    let whole = write_layer(&store, &Blobs(&store), &delta, &recipe, &mut blob).unwrap();
    // As other builders write them: without the directories.
    let tar = without_directories(&blob);
    let diff_id = wbuild_oci::DiffId(Digest::of(&tar));
    assert_ne!(whole.diff_id, diff_id);
    let below = Snapshot { deltas: vec![delta_of(&base)] };
    let view = View::new(&store, &below, disk()).unwrap();
    let open = || Ok(Box::new(std::io::Cursor::new(tar.clone())) as Box<dyn Read + Send>);
    let source = LayerSource { diff_id, blob: Digest::of(&tar), open: &open };
    let Unpacking::Draft(draft) = unpack_layer(&store, &source, disk().owners).unwrap() else { panic!() };
    assert_eq!(store.delta_names().unwrap().len(), 1, "only what is below");
    let face = draft.publish(&store, Some(&view)).unwrap();
    let Unpacking::There(again) = unpack_layer(&store, &source, disk().owners).unwrap() else { panic!() };
    assert_eq!(again.folder, face.folder);
    assert_eq!(face.tree.implied, [path("srv"), path("srv/app")]);
    let mode = |path: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(face.folder.fs().join(path)).unwrap().mode() & 0o7777
    };
    assert_eq!((mode("srv"), mode("srv/app")), (0o711, 0o700));
    let snapshot = below.with(DeltaId::Layer(diff_id));
    let merged = merged_tree(&store, &snapshot).unwrap();
    let view = View::new(&store, &snapshot, disk()).unwrap();
    let y = Digest::of(b"y");
    fs::remove_file(store.blob_path(&y)).unwrap();
    for (name, mode) in [("srv", 0o711), ("srv/app", 0o700)] {
        let in_tree = lookup(&store, &merged, &path(name)).unwrap().unwrap();
        assert_eq!((in_tree.meta.mode, entry(&view, name).unwrap().meta.mode), (mode, mode), "{name}");
    }
    assert!(entry(&view, "srv/app/x").is_none());
    // Contents of layers are on disk only, until somebody wants them elsewhere.
    assert_eq!(view.read_file(&path("srv/app/y"), 9).unwrap().unwrap(), b"y");
    let srv = lookup(&store, &merged, &path("srv")).unwrap().unwrap();
    view.bring_contents(&path("srv"), &srv).unwrap();
    assert_eq!(store.read_blob(&y, 9).unwrap(), b"y");
}

/// The tar in a gzipped layer without its directory entries.
fn without_directories(blob: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("layer.tar.gz"), blob).unwrap();
    let script = "import tarfile\n\
        source = tarfile.open('layer.tar.gz'); target = tarfile.open('out.tar', 'w')\n\
        [target.addfile(m, source.extractfile(m) if m.isfile() else None) for m in source if not m.isdir()]\n\
        target.close()";
    let status =
        std::process::Command::new("python3").args(["-c", script]).current_dir(dir.path()).status().unwrap();
    assert!(status.success());
    fs::read(dir.path().join("out.tar")).unwrap()
}
