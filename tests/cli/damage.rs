//! A state directory that was damaged: what the next build, or `wbuild cache verify`, makes of it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use insta::assert_snapshot;
use serde_json::Value;

use crate::context::{Build, TestContext, base_layout, bases, skip};
use crate::layout::Layout;

/// Ways in which a file goes bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Truncated,
    Flipped,
    Deleted,
    /// A byte is another one under an unchanged time and size.
    Rotten,
}

impl Damage {
    fn do_to(self, path: &Path) {
        if self == Self::Deleted {
            return fs::remove_file(path).unwrap();
        }
        let meta = fs::metadata(path).unwrap();
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() * 2 / 3;
        match self {
            Self::Truncated => bytes.truncate(middle),
            _ if bytes.is_empty() => return,
            _ => bytes[middle] ^= 1,
        }
        // Over the old bytes, as a bad disk would: the inode stays. Root may write to any file.
        let mut file = fs::File::create(path).unwrap();
        file.write_all(&bytes).unwrap();
        if self == Self::Rotten {
            file.set_modified(meta.modified().unwrap()).unwrap();
        }
    }
}

/// Every regular file below a folder of the state directory.
fn files(context: &TestContext, folder: &str) -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                below(&entry.path(), found);
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    let mut found = Vec::new();
    below(&context.state().join(folder), &mut found);
    found.sort();
    found
}

/// A workspace whose outputs are large enough to be kept in several objects.
fn large() -> Option<TestContext> {
    bases()?;
    if !rustix::process::getuid().is_root() {
        skip("only root writes to files that are read-only, as a bad disk does");
        return None;
    }
    let context = TestContext::small();
    let many = |folder: &str| {
        format!(
            "\nmkdir -p {folder}/deep; for i in $(seq 300); do echo $i > {folder}/f$i; echo {folder} $i > {folder}/deep/f$i; done\n"
        )
    };
    for (script, folder) in
        [("packages/lib/generate.sh", "generated/many"), ("apps/web/build.sh", ".next/static/many")]
    {
        context.write(script, &(context.read(script) + &many(folder)));
    }
    Some(context)
}

/// Why each of its steps ran, in the order of the graph.
fn reasons(build: &Build) -> Vec<String> {
    let name = |vertex: &Value| {
        let declared =
            build.events.iter().find(|event| event["event"] == "declared" && event["vertex"] == *vertex);
        declared.map(|event| event["name"].as_str().unwrap().to_owned()).unwrap_or_default()
    };
    let mut found: Vec<_> = build
        .events
        .iter()
        .filter(|event| event["event"] == "finished" && event["outcome"] == "built")
        .map(|event| {
            (
                event["vertex"].as_u64(),
                format!("{}: {}", name(&event["vertex"]), event["because"].as_str().unwrap()),
            )
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, text)| text).collect()
}

#[test]
fn damage_of_any_kind_costs_time_and_no_result() {
    let Some(context) = large() else { return };
    let first = context.build(&[]).digest().to_owned();
    let page = context.read("apps/web/page.txt");
    context.write("apps/web/page.txt", "another page\n");
    let edited = context.build(&[]).digest().to_owned();
    assert_ne!(first, edited);
    let damages = [Damage::Truncated, Damage::Flipped, Damage::Deleted, Damage::Rotten];
    for (folder, damage) in
        ["trees", "blobs", "records"].into_iter().flat_map(|folder| damages.map(|damage| (folder, damage)))
    {
        let found = files(&context, folder);
        assert!(found.len() > 10, "{folder}: {found:?}");
        found.iter().for_each(|path| damage.do_to(path));
        // What needs little of it, what needs more of it, and what needs everything.
        context.write("apps/web/page.txt", &page);
        let again = context.build(&[]);
        assert_eq!(again.digest(), first, "{folder} {damage:?}");
        context.write("apps/web/page.txt", "another page\n");
        let again = context.build(&[]);
        assert_eq!(again.digest(), edited, "{folder} {damage:?}");
    }
    for path in files(&context, "trees") {
        Damage::Rotten.do_to(&path);
    }
    assert_eq!(context.build(&["--no-cache"]).digest(), edited);
}

#[test]
fn one_damaged_object_leads_to_the_step_that_made_it() {
    let Some(context) = large() else { return };
    context.build(&[]).digest();
    context.write("apps/web/page.txt", "another page\n");
    let edited = context.build(&[]).digest().to_owned();
    context.write("apps/web/page.txt", "the first page\n");
    context.build(&[]).digest();
    fs::remove_dir_all(context.state().join("deltas")).unwrap();
    // Whatever the object is: at most what leads to it is built again, and the result is the same.
    let objects = files(&context, "trees");
    for (index, path) in objects.iter().enumerate().step_by(objects.len().div_ceil(6)) {
        if !path.exists() {
            continue;
        }
        let damage = [Damage::Rotten, Damage::Deleted][index % 2];
        damage.do_to(path);
        context.write("apps/web/extra.sh", &format!("# {index}\n"));
        let built = context.build(&[]);
        built.digest();
        assert!(built.steps("built").len() <= 4, "{:?}", reasons(&built));
        context.write("apps/web/page.txt", "another page\n");
        context.write("apps/web/extra.sh", "");
        assert_eq!(context.build(&[]).digest(), edited, "{}", path.display());
        context.write("apps/web/page.txt", "the first page\n");
    }
}

#[test]
fn verify_finds_what_is_damaged_and_the_next_build_makes_it_again() {
    let Some(context) = large() else { return };
    let digest = context.build(&[]).digest().to_owned();
    // The delta of the toolchain gets a tree, too.
    let base = context.build(&["--target", "base", "--output", "../base"]).digest().to_owned();
    let whole = context.run(&["cache", "verify"]);
    assert!(whole.code == 0 && whole.stdout.ends_with(" checked, 0 damaged\n"), "{whole}");

    let tool =
        files(&context, "deltas").into_iter().find(|path| path.ends_with("usr/local/bin/next")).unwrap();
    Damage::Rotten.do_to(&tool);
    let said = context.run(&["cache", "verify"]);
    let said = said.to_string();
    let (list, counts) = said.rsplit_once('\n').unwrap();
    assert_snapshot!(list, @"
    exit 0
    -- stdout
    damaged and dropped: delta step-[DIGEST]: `/usr/local/bin/next` is not what it was
    runs again: [base] cat > /usr/local/bin/pnpm <<'END' …
    ");
    assert!(counts.ends_with(" checked, 1 damaged, 1 step runs again"), "{counts}");
    let again = context.run(&["cache", "verify"]);
    assert!(again.stdout.ends_with(" checked, 0 damaged\n"), "{again}");
    let rebuilt = context.build(&["--target", "base", "--output", "../base"]);
    assert_eq!(rebuilt.digest(), base);
    assert_eq!(reasons(&rebuilt).len(), 1, "{:?}", reasons(&rebuilt));
    assert!(reasons(&rebuilt)[0].ends_with("its result is no longer in the store (its files were damaged)"));

    let damages = [Damage::Rotten, Damage::Deleted];
    for (folder, damage) in ["trees", "blobs", "records", "deltas"]
        .into_iter()
        .flat_map(|folder| damages.map(|damage| (folder, damage)))
    {
        files(&context, folder).iter().step_by(3).for_each(|path| damage.do_to(path));
        assert_eq!(context.run(&["cache", "verify"]).code, 0);
        let again = context.run(&["cache", "verify"]);
        assert!(again.stdout.ends_with(" checked, 0 damaged\n"), "{folder} {damage:?}: {again}");
        context.write("apps/web/extra.sh", "# needs everything below it\n");
        context.build(&[]).digest();
        context.write("apps/web/extra.sh", "");
        assert_eq!(context.build(&[]).digest(), digest, "{folder} {damage:?}");
        let rebuilt = context.build(&["--target", "base", "--output", "../base"]);
        assert_eq!(rebuilt.digest(), base, "{folder} {damage:?}");
    }
}

/// What a step left behind is looked at before another step stands on it.
#[test]
fn files_of_a_step_that_somebody_wrote_to_are_made_again() {
    let Some(context) = large() else { return };
    context.build(&[]).digest();
    context.write("apps/web/page.txt", "another page\n");
    let edited = context.build(&[]).digest().to_owned();
    let clean = context.build(&["--target", "base", "--output", "../clean"]).digest().to_owned();
    for name in ["usr/local/bin/next", "bin/busybox", "app/packages/lib/words.txt", "delta.json"] {
        let found = files(&context, "deltas");
        let path =
            found.iter().find(|path| path.ends_with(name)).unwrap_or_else(|| panic!("{name}: {found:?}"));
        Damage::Flipped.do_to(path);
        context.write("apps/web/extra.sh", &format!("# {name}\n"));
        context.build(&[]).digest();
        context.write("apps/web/extra.sh", "");
        assert_eq!(context.build(&["--target", "base", "--output", "../base"]).digest(), clean, "{name}");
        let built = context.build(&[]);
        assert_eq!(built.digest(), edited, "{name}");
    }
    // Before anybody asked for its tree: it would be what is exported.
    let fresh = TestContext::small();
    fresh.build(&[]).digest();
    let tool = files(&fresh, "deltas").into_iter().find(|path| path.ends_with("usr/local/bin/next")).unwrap();
    Damage::Flipped.do_to(&tool);
    let base = fresh.build(&["--target", "base", "--output", "../base"]);
    assert_eq!(base.digest(), clean);
}

#[test]
fn a_forced_step_counts_from_then_on() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.edit(
        "wbuild.toml",
        "chmod 755 /usr",
        "cat /proc/sys/kernel/random/uuid > /stamp\nchmod 755 /usr",
    );
    let stamp = |args: &[&str]| {
        let all = [&["--target", "base", "--output", "../base"], args].concat();
        let digest = context.build(&all).digest().to_owned();
        (digest, Layout::open(&context.folder().join("base")).text("stamp"))
    };
    let first = stamp(&[]);
    assert_eq!(stamp(&[]), first);
    let forced = stamp(&["--no-cache"]);
    assert_ne!(forced, first);
    assert_eq!(stamp(&[]), forced, "what was forced takes the place of what was there");
    let again = stamp(&["--no-cache"]);
    assert!(again != forced && stamp(&[]) == again);
    assert!(context.run(&["cache", "verify"]).stdout.ends_with(" 0 damaged\n"));
    // The old ones are deleted by those who come after whoever could have been reading them.
    let left: Vec<_> = fs::read_dir(context.state().join("trash")).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_remembered_layer_that_is_damaged_is_written_again() {
    let Some(context) = large() else { return };
    let archive = ["--output", "type=oci,dest=../image.tar"];
    let digest = context.build(&archive).digest().to_owned();
    let bytes = fs::read(context.folder().join("image.tar")).unwrap();
    let layers: Vec<PathBuf> = files(&context, "blobs")
        .into_iter()
        .filter(|path| fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]))
        .collect();
    assert!(!layers.is_empty());
    layers.iter().for_each(|path| Damage::Rotten.do_to(path));
    let again = context.build(&archive);
    assert_eq!(again.digest(), digest);
    assert!(fs::read(context.folder().join("image.tar")).unwrap() == bytes, "the same to the last byte");
}

#[test]
fn a_damaged_base_image_is_named() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let layout = context.folder().join("layout");
    let copied =
        std::process::Command::new("cp").arg("-r").arg(base_layout("alpine:3.23")).arg(&layout).status();
    assert!(copied.unwrap().success());
    let blobs = layout.join("blobs/sha256");
    let largest = |folder: &Path| {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.max_by_key(|path| fs::metadata(path).unwrap().size()).unwrap()
    };
    let layer = largest(&blobs);
    let place = format!("alpine:3.23=oci-layout://{}", layout.display());
    let build = |args: &[&str]| {
        let all =
            [&["image", "--target", "base", "--build-context", &place, "--progress", "quiet"], args].concat();
        let said = context.run(&all);
        assert_eq!(said.code, 1, "{said}");
        said.to_string()
    };
    let whole = fs::read(&layer).unwrap();
    fs::write(&layer, &whole[..whole.len() / 2]).unwrap();
    let said = build(&[]);
    // How much of it is there is the base image's affair.
    let lines: Vec<&str> =
        said.lines().filter(|line| !line.contains("bytes, but has") && !line.contains("at byte")).collect();
    assert_snapshot!(lines.join("\n"), @"
    exit 1
    -- stderr
    failed [base] /app after [TIME]
    error: [base] /app failed
      caused by: cannot unpack `[TEST]/layout/blobs/sha256/[DIGEST]`, a layer of the base image
    hint: make the layout of the base image anew (scripts/base-image does), or name another one with --build-context
    ");
    fs::remove_file(&layer).unwrap();
    assert_snapshot!(build(&[]), @"
    exit 1
    -- stderr
    failed [base] /app after [TIME]
    error: [base] /app failed
      caused by: cannot unpack `[TEST]/layout/blobs/sha256/[DIGEST]`, a layer of the base image
      caused by: cannot read `[TEST]/layout/blobs/sha256/[DIGEST]`
      caused by: No such file or directory (os error 2)
    hint: make the layout of the base image anew (scripts/base-image does), or name another one with --build-context
    ");
    fs::write(layout.join("index.json"), "{").unwrap();
    let said = build(&[]);
    assert!(
        said.contains("[TEST]/layout/index.json") && said.contains("make the layout of the base image anew"),
        "{said}"
    );
}

#[test]
fn a_full_disk_names_the_state_directory() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    fs::create_dir(context.state()).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    let mounted =
        |size: &std::ffi::CStr| rustix::mount::mount("tmpfs", context.state(), "tmpfs", flags, size);
    if let Err(error) = mounted(c"size=5m,mode=0700") {
        return skip(&format!("a small tmpfs cannot be mounted here ({error})"));
    }
    let said = context.build(&["--target", "base"]);
    rustix::mount::unmount(context.state(), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(said.output.code, 1, "{}", said.output);
    let error = said.output.to_string();
    let state = "there is no space left for the state directory `[TEST]/state`";
    assert!(error.contains(state), "{error}\n{state}");
    assert!(error.contains("wbuild cache prune") && error.contains("WBUILD_HOME"), "{error}");
}

#[test]
fn reasons_are_in_words_and_about_the_same_build() {
    let Some(context) = large() else { return };
    context.build(&["--target", "base", "--output", "../base"]).digest();
    let other = |from: &str, to: &str| context.edit("wbuild.toml", from, to);
    other("exec sh build.sh", "exec /bin/sh build.sh");
    let changed = context.build(&["--target", "base", "--output", "../base"]);
    assert_snapshot!(reasons(&changed).join("\n"), @r"[base] cat > /usr/local/bin/pnpm <<'END' …: the command changed: `…\necho 'exec sh build.sh'…` → `…\necho 'exec /bin/sh build.sh'…`");
    // The record of the first is gone, and the second is not what it is to be compared with.
    other("exec /bin/sh build.sh", "exec sh build.sh");
    files(&context, "records").iter().for_each(|path| Damage::Truncated.do_to(path));
    let damaged = context.build(&["--target", "base", "--output", "../base"]);
    assert_snapshot!(reasons(&damaged).join("\n"), @"
    [base] /app: its result is no longer in the store (its record was damaged)
    [base] cat > /usr/local/bin/pnpm <<'END' …: its result is no longer in the store (its record was damaged)
    ");
}

#[test]
fn a_failed_step_says_how_long_it_took() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write("apps/web/extra.sh", "exit 3\n");
    let failed = context.build(&[]);
    let finished =
        failed.events.iter().find(|event| event["event"] == "finished" && event["outcome"] == "failed");
    assert!(finished.unwrap()["seconds"].as_f64().unwrap() > 0.0, "{finished:?}");
}
