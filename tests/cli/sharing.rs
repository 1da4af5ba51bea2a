//! Remote caches: what one machine built, another one that has nothing does not build again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::context::{Build, TestContext, bases};

/// A step of every kind: owners, links, whiteouts, opaque directories, a large file, a cache mount, an empty change.
const DOCKERFILE: &str = r#"FROM alpine:3.23 AS build
RUN mkdir /data && for i in $(seq 1 40); do echo $i > /data/f$i; done && chown 1000:1001 /data/f3 && chmod 4750 /data/f4 && ln -s f1 /data/link && ln /data/f1 /data/hard && cp /bin/busybox /tool
COPY page.txt /src/
RUN --mount=type=cache,target=/cache cat /cache/known 2>/dev/null || echo the mount is empty; echo kept > /cache/known; mkdir -p /cache/deep; echo x > /cache/deep/x; cat /src/page.txt > /out.txt; stat -c '%u:%g %a' /data/f3 /data/f4; cat /data/f40
FROM alpine:3.23
RUN adduser -D -u 1001 app && rm -rf /etc/apk && mkdir /etc/apk && echo new > /etc/apk/x && rm /etc/motd && head -c 3000000 /dev/zero > /zeros
COPY --from=build /out.txt /data /out/
RUN true
CMD ["cat", "/out/out.txt"]
"#;

/// The steps of it.
pub(super) const STEPS: usize = 6;

pub(super) fn dockerfile(page: &str) -> TestContext {
    let context = TestContext::empty();
    context.write("Dockerfile", DOCKERFILE);
    context.write("page.txt", page);
    context
}

pub(super) fn build(context: &TestContext, args: &[&str]) -> Build {
    let mut all: Vec<String> = ["build", "--progress", "json"].map(str::to_owned).to_vec();
    all.extend(context.base_images());
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    all.extend(["--output", "type=oci,dest=../image,tar=false"].map(str::to_owned));
    let child = context.command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    context.finish_build(child)
}

/// A folder for a cache, and the flags for it.
pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self(folder)
    }

    pub(super) fn to(&self, more: &str) -> String {
        format!("--cache-to=type=local,dest={}/cache{more}", self.0.path().display())
    }

    pub(super) fn from(&self, more: &str) -> String {
        format!("--cache-from=type=local,src={}/cache{more}", self.0.path().display())
    }

    /// The files in it: contents, or indexes.
    pub(super) fn files(&self, kind: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.0.path().join("cache").join(kind))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files("cas").iter().map(|path| fs::metadata(path).unwrap().len()).sum()
    }
}

#[test]
fn a_machine_that_has_nothing_runs_no_step_of_a_dockerfile() {
    let Some(_) = bases() else { return };
    let folder = Folder::new();
    let first = build(&dockerfile("one"), &[&folder.to("")]);
    assert_eq!(first.steps("built").len(), STEPS);
    assert!(first.other_notes().iter().any(|note| note.contains("added")), "{:?}", first.other_notes());
    let second = dockerfile("one");
    let imported = build(&second, &[&folder.from("")]);
    assert_eq!(imported.digest(), first.digest());
    assert_eq!(imported.steps("built"), Vec::<&str>::new());
    assert_eq!(imported.warnings(), Vec::<&str>::new());
    // Nothing is new.
    let bytes = folder.bytes();
    let filled = build(&second, &[&folder.from(""), &folder.to("")]);
    let notes = filled.other_notes();
    assert!(!notes.iter().any(|note| note.contains("added")) && folder.bytes() == bytes, "{notes:?}");
    // Only what was needed came; without the cache the rest is made here.
    assert_eq!(build(&second, &[]).digest(), first.digest());
}

/// A folder that is not there is a mistake, unless this build makes it; a scope that is not there yet is worth a line.
#[test]
fn caches_that_have_nothing_are_named() {
    let small = || {
        let context = TestContext::empty();
        context.write("Dockerfile", "FROM scratch\nCOPY page.txt /\n");
        context.write("page.txt", "one");
        context
    };
    let folder = Folder::new();
    let lost = build(&small(), &[&folder.from("")]);
    let warnings = lost.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with("there is no cache at `") && warnings[0].ends_with("/cache`: no such folder"),
        "{warnings:?}"
    );
    assert_eq!(lost.other_notes(), Vec::<&str>::new());
    let first = build(&small(), &[&folder.from(""), &folder.to("")]);
    assert_eq!((first.digest(), first.warnings()), (lost.digest(), vec![]));
    assert!(first.other_notes()[0].ends_with("/cache: nothing found in main"), "{:?}", first.other_notes());
    let found = build(&small(), &[&folder.from("")]);
    assert_eq!((found.warnings(), found.other_notes()), (vec![], vec![]));
    let elsewhere = build(&small(), &[&folder.from(",scope=web")]);
    assert_eq!(elsewhere.warnings(), Vec::<&str>::new());
    assert!(
        elsewhere.other_notes()[0].ends_with("/cache: nothing found in web"),
        "{:?}",
        elsewhere.other_notes()
    );
}

#[test]
fn with_a_changed_file_steps_stand_on_what_was_imported() {
    let Some(_) = bases() else { return };
    let folder = Folder::new();
    build(&dockerfile("one"), &[&folder.to("")]).digest();
    let bytes = folder.bytes();
    let changed = dockerfile("two");
    let imported = build(&changed, &[&folder.from(""), &folder.to("")]);
    let alone = build(&dockerfile("two"), &[]);
    assert_eq!(imported.digest(), alone.digest());
    let built = imported.steps("built");
    assert!(built.len() < STEPS && !built.iter().any(|step| step.contains("mkdir /data")), "{built:?}");
    assert!(imported.log().contains("1000:1001 644\n0:0 4750\n40\n"), "{}", imported.log());
    // The mount came, too.
    assert!(imported.log().contains("kept\n"), "{}", imported.log());
    assert!(alone.log().contains("the mount is empty"), "{}", alone.log());
    // Only what is new went up.
    assert!(folder.bytes() - bytes < bytes / 4, "{} of {bytes}", folder.bytes());
    let without = build(&dockerfile("three"), &[&folder.from(",mounts=false")]);
    assert!(without.log().contains("the mount is empty"), "{}", without.log());
}

#[test]
fn a_plain_user_takes_what_root_built() {
    let Some(_) = bases() else { return };
    let folder = Folder::new();
    let root = build(&dockerfile("one"), &[&folder.to("")]);
    let Some(plain) = dockerfile("one").by_plain_user() else { return };
    let imported = build(&plain, &[&folder.from("")]);
    assert_eq!((imported.digest(), imported.steps("built").len()), (root.digest(), 0));
    plain.write("page.txt", "two");
    let changed = build(&plain, &[&folder.from("")]);
    if changed.output.stderr.contains("cannot run the step") {
        crate::context::skip("a plain user can run no steps here");
        return;
    }
    assert_eq!(changed.digest(), build(&dockerfile("two"), &[]).digest());
}

#[test]
fn a_workspace_is_imported_and_only_an_edited_task_runs() {
    let Some(_) = bases() else { return };
    let folder = Folder::new();
    let first = TestContext::small();
    let built = first.build(&[&folder.to("")]);
    let second = TestContext::small();
    let imported = second.build(&[&folder.from("")]);
    assert_eq!(
        (imported.digest(), imported.steps("built").len()),
        (built.digest(), 0),
        "{:?}",
        imported.steps("built")
    );
    let edit = |context: &TestContext| context.write("apps/web/extra.sh", "echo edited > /dev/null\n");
    let third = TestContext::small();
    edit(&third);
    let edited = third.build(&[&folder.from("")]);
    let expected = edited.steps("built");
    edit(&first);
    let local = first.build(&[]);
    assert_eq!((edited.digest(), expected), (local.digest(), local.steps("built")));
}

#[test]
fn min_holds_what_an_unchanged_build_needs() {
    let Some(_) = bases() else { return };
    let (min, max) = (Folder::new(), Folder::new());
    let first = dockerfile("one");
    build(&first, &[&min.to(",mode=min"), &max.to(",mode=max")]).digest();
    assert!(min.bytes() < max.bytes());
    let imported = build(&dockerfile("one"), &[&min.from("")]);
    assert_eq!((imported.digest(), imported.steps("built").len()), (build(&first, &[]).digest(), 0));
    // What it does not hold is made again.
    let changed = build(&dockerfile("two"), &[&min.from("")]);
    assert_eq!(changed.digest(), build(&dockerfile("two"), &[]).digest());
}

#[test]
fn what_is_damaged_is_built_again_and_said_once() {
    let Some(_) = bases() else { return };
    let folder = Folder::new();
    let digest = build(&dockerfile("one"), &[&folder.to("")]).digest().to_owned();
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
    let damages: [Damage<'_>; 5] = [
        ("cas", &|path| {
            let mut bytes = fs::read(path).unwrap();
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
            fs::write(path, bytes).unwrap();
        }),
        ("cas", &|path| fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap()),
        ("cas", &|path| fs::remove_file(path).unwrap()),
        ("ac", &|path| fs::write(path, "nonsense").unwrap()),
        ("ac", &|path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (number, (kind, damage)) in damages.iter().enumerate() {
        let copy = Folder::new();
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .arg(folder.0.path().join("cache"))
            .arg(copy.0.path())
            .status();
        assert!(copied.unwrap().success());
        copy.files(kind).iter().for_each(|path| damage(path));
        let context = dockerfile("one");
        let built = build(&context, &[&copy.from("")]);
        assert_eq!(built.digest(), digest, "{number}");
        assert_eq!(built.warnings().len(), 1, "{number}: {:?}", built.warnings());
        let verified = context.run(&["cache", "verify"]);
        assert_eq!(verified.code, 0, "{number}: {verified}");
        // The next who fills it repairs it.
        build(&context, &[&copy.to("")]).digest();
        if *kind == "ac" {
            let imported = build(&dockerfile("one"), &[&copy.from("")]);
            assert_eq!((imported.digest(), imported.steps("built").len()), (digest.as_str(), 0), "{number}");
        }
    }
}

#[test]
fn with_a_key_only_signed_records_count() {
    let Some(_) = bases() else { return };
    let key = |context: TestContext, key: &str| context.env("WBUILD_CACHE_SIGNATURE_KEY", key);
    let (signed, unsigned) = (Folder::new(), Folder::new());
    let digest = build(&key(dockerfile("one"), "ours"), &[&signed.to("")]).digest().to_owned();
    build(&dockerfile("one"), &[&unsigned.to("")]).digest();
    let cases = [(&signed, "ours", 0, 0), (&signed, "theirs", STEPS, 1), (&unsigned, "ours", STEPS, 1)];
    for (folder, secret, built, warnings) in cases {
        let imported = build(&key(dockerfile("one"), secret), &[&folder.from("")]);
        assert_eq!(imported.digest(), digest);
        assert_eq!((imported.steps("built").len(), imported.warnings().len()), (built, warnings), "{secret}");
    }
    // Who has no key trusts the place.
    assert_eq!(build(&dockerfile("one"), &[&signed.from("")]).steps("built").len(), 0);
}

#[test]
fn branches_have_scopes_and_fall_back() {
    let Some(_) = bases() else { return };
    let folder = Folder::new();
    let on = |branch: &str, page: &str| dockerfile(page).env("CI_COMMIT_REF_NAME", branch);
    build(&on("main", "one"), &[&folder.to("")]).digest();
    let bytes = folder.bytes();
    // Nothing has to go up again for another branch.
    let branch = build(&on("feature", "one"), &[&folder.from(""), &folder.to("")]);
    assert_eq!((branch.steps("built").len(), folder.bytes()), (0, bytes));
    assert_eq!(folder.files("ac").len(), 2);
    build(&on("feature", "two"), &[&folder.from(""), &folder.to("")]).digest();
    let imported = |branch: &str| build(&on(branch, "two"), &[&folder.from("")]).steps("built").len();
    assert_eq!(imported("feature"), 0);
    assert!(imported("other") > 0);
    assert_eq!(build(&dockerfile("two"), &[&folder.from(",scope=feature")]).steps("built").len(), 0);
    // A pull request from outside reads only.
    let outside = on("outside", "three").env("WBUILD_CACHE_READONLY", "1");
    build(&outside, &[&folder.from(""), &folder.to("")]).digest();
    assert_eq!(folder.files("ac").len(), 2);
}

#[test]
fn a_place_that_cannot_be_used_is_said_once() {
    let Some(_) = bases() else { return };
    let folder = Folder::new();
    fs::write(folder.0.path().join("cache"), "a file").unwrap();
    let built = build(&dockerfile("one"), &[&folder.to(""), &folder.from("")]);
    assert_eq!(built.steps("built").len(), STEPS);
    let warnings = built.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn flags_that_name_no_place() {
    let context = dockerfile("one");
    let cases = [
        ("--cache-to=type=locl,dest=x", "did you mean `local`?"),
        ("--cache-to=type=local", "it needs dest="),
        ("--cache-from=type=local,dest=x", "it needs src="),
        ("--cache-to=type=local,dest=x,mode=all", "mode=min or mode=max"),
        ("--cache-to=type=local,dest=x,colour=red", "`colour` means nothing here"),
    ];
    for (flag, expected) in cases {
        let output = context.run(&["build", flag, "."]);
        assert_eq!(output.code, 2, "{output}");
        assert!(output.stderr.contains(expected), "{flag}: {output}");
    }
}
