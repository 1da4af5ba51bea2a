//! Base images from a registry: what is asked, what is kept, and what happens when it is gone.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use insta::assert_snapshot;
use serde_json::{Value, json};
use wbuild_oci::Digest;
use wbuild_testkit::{Door, FakeRegistry, Fault};

use crate::context::{Output, TestContext, skip};
use crate::layout::Layout;

/// A world that may ask registries, and one of them with an image of two layers, `team/base:1`.
fn with_base() -> (TestContext, FakeRegistry) {
    let context = TestContext::empty().env("WBUILD_OFFLINE", "0");
    let registry = FakeRegistry::start().unwrap();
    push_base(&context, &registry, "one");
    (context, registry)
}

fn push_base(context: &TestContext, registry: &FakeRegistry, text: &str) {
    context.write("base/one", text);
    context.write("base/two", "two");
    context.write(
        "base/Dockerfile",
        "FROM scratch\nCOPY one /etc/one\nCOPY two /etc/two\nENV FROM_BASE=yes\nCMD [\"/etc/one\"]\n",
    );
    ok(context.run(&["build", "--progress", "quiet", "-o", "type=oci,tar=false,dest=base-image", "base"]));
    ok(context.run(&["push", "base-image", &name(registry, "team/base:1")]));
    // Builds begin with nothing of it.
    fs::remove_dir_all(context.state()).unwrap();
}

fn name(registry: &FakeRegistry, rest: &str) -> String {
    format!("{}/{rest}", registry.host())
}

fn ok(said: Output) -> Output {
    assert_eq!(said.code, 0, "{said}");
    said
}

fn shown(said: &Output, registry: &FakeRegistry) -> String {
    carets(&said.to_string().replace(&registry.host(), "[REGISTRY]"))
}

/// As many as a name is long, and ports are not equally long.
fn carets(text: &str) -> String {
    regex::Regex::new(r"\^+").unwrap().replace_all(text, "^").into_owned()
}

/// Builds a Dockerfile into the layout `out`.
fn build(context: &TestContext, dockerfile: &str, flags: &[&str]) -> Output {
    context.write("app/Dockerfile", dockerfile);
    let mut args = vec!["build", "--progress", "plain"];
    if !flags.contains(&"-o") {
        args.extend(["-o", "type=oci,tar=false,dest=out"]);
    }
    args.extend(flags);
    args.push("app");
    context.run(&args)
}

/// What is asked of a registry meanwhile, without the first look at whether it is one.
fn asked(registry: &FakeRegistry, work: impl FnOnce()) -> Vec<String> {
    let before = registry.asked().len();
    work();
    registry.asked().split_off(before).into_iter().filter(|asked| !asked.ends_with(" /v2/")).collect()
}

fn blobs(asked: &[String]) -> usize {
    asked.iter().filter(|asked| asked.starts_with("GET") && asked.contains("/blobs/")).count()
}

#[test]
fn layers_come_when_they_are_needed() {
    let (context, registry) = with_base();
    let from = format!("FROM {}\nLABEL a=b\n", name(&registry, "team/base:1"));
    // Nothing needs a file: manifest and config.
    let first = asked(&registry, || {
        ok(build(&context, &from, &["-o", "type=cacheonly"]));
    });
    assert_eq!((first.len(), blobs(&first)), (2, 1), "{first:?}");
    // An image needs the blobs, as they are.
    let second = asked(&registry, || {
        ok(build(&context, &from, &[]));
    });
    assert_eq!((second.len(), blobs(&second)), (3, 2), "{second:?}");
    let (base, out) = (Layout::open(&context.path("base-image")), Layout::open(&context.path("out")));
    assert_eq!(base.layers(), out.layers());
    assert!(out.config()["config"]["Env"].as_array().unwrap().contains(&json!("FROM_BASE=yes")));
    // From then on one question, whatever is made of it.
    let third = asked(&registry, || {
        ok(build(
            &context,
            &format!("FROM scratch\nCOPY --from={} /etc/two /two\n", name(&registry, "team/base:1")),
            &[],
        ));
    });
    assert_eq!(third, ["HEAD /v2/team/base/manifests/1"]);
    assert_eq!(Layout::open(&context.path("out")).text("two"), "two");
    // And none for what cannot change.
    let digest = base_digest(&context);
    let fourth = asked(&registry, || {
        ok(build(&context, &format!("FROM {}\n", name(&registry, &format!("team/base@{digest}"))), &[]));
    });
    assert_eq!(fourth, [""; 0]);
}

fn base_digest(context: &TestContext) -> String {
    let index: Value = serde_json::from_str(&context.read("base-image/index.json")).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

/// A registry that has the real base image, and its name there; this machine has it no more.
fn with_alpine(context: &TestContext) -> Option<(FakeRegistry, String)> {
    let images = context.base_images();
    let layout = images.iter().find_map(|arg| arg.strip_prefix("alpine:3.23=oci-layout://"))?;
    let registry = FakeRegistry::start().unwrap();
    let base = name(&registry, "library/alpine:3.23");
    ok(context.run(&["push", layout, &base]));
    fs::remove_dir_all(context.state()).unwrap();
    Some((registry, base))
}

#[test]
fn a_step_runs_on_it() {
    let context = TestContext::empty().env("WBUILD_OFFLINE", "0");
    let Some((registry, base)) = with_alpine(&context) else { return skip("there is no base image") };
    let context_flag = format!("tools=docker-image://{base}");
    let text = format!(
        "FROM {base}\nRUN --mount=from=tools,target=/tools cat /tools/etc/os-release | grep ^ID= > /id\n"
    );
    ok(build(&context, &text, &["--build-context", &context_flag]));
    assert_eq!(Layout::open(&context.path("out")).text("id"), "ID=alpine\n");
    let again = asked(&registry, || {
        ok(build(&context, &text, &["--build-context", &context_flag]));
    });
    assert_eq!(again, ["HEAD /v2/library/alpine/manifests/3.23"]);
}

#[test]
fn a_registry_that_is_gone() {
    let (context, registry) = with_base();
    let from = format!("FROM {}\nLABEL a=b\n", name(&registry, "team/base:1"));
    let before = ok(build(&context, &from, &[])).stdout;
    let host = registry.host();
    drop(registry);
    let said = ok(build(&context, &from, &[]));
    assert_eq!(said.stdout, before);
    let text = said.stderr.replace(&host, "[REGISTRY]");
    assert!(text.contains("using `[REGISTRY]/team/base:1` as it was when it was last looked up: "), "{text}");
    let said = ok(build(&context, &from, &["--offline"]));
    assert_eq!(said.stdout, before);
    assert!(!said.stderr.contains("looked up"), "{said}");
}

#[test]
fn offline() {
    let (context, registry) = with_base();
    let base = name(&registry, "team/base:1");
    let from = format!("FROM {base}\nLABEL a=b\n");
    let mut said = Vec::new();
    let asked = asked(&registry, || said.push(shown(&build(&context, &from, &["--offline"]), &registry)));
    assert_eq!(asked, [""; 0]);
    // All that is missing at once, and nothing that is not needed.
    let other = name(&registry, "team/other:1");
    let unused = format!("FROM {base} AS unused\nCOPY --from=nobody:1 /a /a\n");
    let two = format!("{unused}FROM {base}\nCOPY --from={other} /etc/one /one\nCOPY --from=scratch / /x\n");
    let both = build(&context, &two, &["--offline"]).stderr;
    assert_eq!(both.matches("is not at hand").count(), 2, "{both}");
    assert!(both.contains(&format!("`{other}` is not at hand")) && both.contains(":4:13"), "{both}");
    // The documents alone are not enough for an image.
    ok(build(&context, &from, &["-o", "type=cacheonly"]));
    ok(build(&context, &from, &["-o", "type=cacheonly", "--offline"]));
    said.push(shown(&build(&context, &from, &["--offline"]), &registry));
    ok(context.run(&["pull", &base]));
    ok(build(&context, &from, &["--offline"]));
    // What a pull alone brings.
    fs::remove_dir_all(context.state()).unwrap();
    ok(context.run(&["pull", &base]));
    ok(build(&context, &from, &["--offline"]));
    said.push(shown(&build(&context, &from, &["--offline", "--pull"]), &registry));
    assert_snapshot!(said.join("\n\n"), @"
    exit 1
    -- stderr
    error: the base image `[REGISTRY]/team/base:1` is not at hand
     --> Dockerfile:1:6
      |
    1 | FROM [REGISTRY]/team/base:1
      |      ^
      |
      = hint: it was never pulled: `wbuild pull [REGISTRY]/team/base:1` does that, and so does a build without --offline (WBUILD_OFFLINE)
      = hint: name a copy of it: --build-context [REGISTRY]/team/base:1=oci-layout://DIR (scripts/base-image makes one)

    exit 1
    -- stderr
    built 0 of 0 steps, in [TIME]
    error: layers of the base image `[REGISTRY]/team/base:1` are not at hand: sha256:[DIGEST] and 1 more
    hint: `wbuild pull [REGISTRY]/team/base:1` brings all of it here; a build without --offline (WBUILD_OFFLINE) does, too

    exit 2
    -- stderr
    error: `--pull` asks registries, and `--offline` asks none
    hint: leave one of them out; WBUILD_OFFLINE is the same as --offline
    ");
}

#[test]
fn pins() {
    let (context, registry) = with_base();
    let from = format!("FROM {}\nLABEL a=b\n", name(&registry, "team/base:1"));
    ok(build(&context, &from, &["--pin"]));
    let pinned = base_digest(&context);
    let lock = context.read("app/wbuild.lock");
    assert!(lock.contains(&format!("\"{}\" = \"{pinned}\"\n", name(&registry, "team/base:1"))), "{lock}");
    let old = Layout::open(&context.path("out")).layers();
    // The tag moves on; the build does not, and asks nothing once it has what is pinned.
    push_base(&context, &registry, "another");
    ok(build(&context, &from, &["--pin"]));
    assert_eq!(Layout::open(&context.path("out")).layers(), old);
    assert_eq!(asked(&registry, || drop(ok(build(&context, &from, &[])))), [""; 0]);
    assert_eq!(context.read("app/wbuild.lock"), lock);
    // Asked to, it takes what the tag is now, and says that this is not what is pinned.
    let said = ok(build(&context, &from, &["--pull"]));
    assert_ne!(Layout::open(&context.path("out")).layers(), old);
    assert_eq!(context.read("app/wbuild.lock"), lock);
    let warning = format!("is {} now, and `app/wbuild.lock` pins it to {pinned}", base_digest(&context));
    assert!(said.stderr.contains(&warning) && said.stderr.contains("`--pull --pin` pins"), "{said}");
    let said = ok(build(&context, &from, &["--pull", "--pin"]));
    assert!(!said.stderr.contains("warning"), "{said}");
    assert!(context.read("app/wbuild.lock").contains(&base_digest(&context)));
    // What it is pinned to can be lost.
    context.write("app/wbuild.lock", &lock.replace(&pinned, &format!("sha256:{}", "0".repeat(64))));
    let mut said = vec![shown(&build(&context, &from, &[]), &registry)];
    context.write("app/wbuild.lock", "version = 1\n[images]\nnode = 22\n");
    said.push(shown(&build(&context, &from, &[]), &registry));
    assert_snapshot!(said.join("\n\n"), @"
    exit 1
    -- stderr
    error: `app/wbuild.lock` pins `[REGISTRY]/team/base:1` to sha256:[DIGEST], which its registry does not have any more: `[REGISTRY]/team/base` has no `sha256:[DIGEST]`
     --> Dockerfile:1:6
      |
    1 | FROM [REGISTRY]/team/base:1
      |      ^
      |
      = hint: `--pull --pin` pins what the name stands for now, and builds with that

    exit 1
    -- stderr
    error: `app/wbuild.lock` is no lock file of wbuild
      caused by: TOML parse error at line 3, column 8
            |
          3 | node = 22
            |        ^
          invalid type: integer `22`, expected a string
    hint: remove it and build with `--pin`: that writes it anew
    ");
}

#[test]
fn a_layer_with_other_bytes() {
    let (context, registry) = with_base();
    let base = name(&registry, "team/base:1");
    ok(build(&context, &format!("FROM {base}\n"), &["-o", "type=cacheonly"]));
    registry.plan("GET", "/blobs/", 100, Fault::WrongByte);
    let copy = format!("FROM scratch\nCOPY --from={base} /etc/one /one\n");
    let said = build(&context, &copy, &[]);
    assert_eq!(said.code, 1, "{said}");
    assert!(said.stderr.contains("has the digest sha256:"), "{said}");
    ok(context.run(&["cache", "verify"]));
}

/// A base whose layer is so large that it comes in many pieces, and what is built with it.
fn with_large_base() -> (TestContext, FakeRegistry, String) {
    let context = TestContext::empty().env("WBUILD_OFFLINE", "0");
    let registry = FakeRegistry::start().unwrap();
    // Nothing that can be compressed, and another one in each piece.
    let noise: String = (0..20_000).map(|number| Digest::of(format!("{number}").as_bytes()).hex()).collect();
    push_base(&context, &registry, &noise);
    let copy = format!("FROM scratch\nCOPY --from={} /etc/one /one\n", name(&registry, "team/base:1"));
    (context, registry, copy)
}

/// The folders of unpacked layers.
fn unpacked(context: &TestContext) -> usize {
    let deltas = fs::read_dir(context.state().join("deltas"));
    deltas.map_or(0, |found| {
        found
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("layer"))
            .count()
    })
}

#[test]
fn a_layer_that_comes_in_pieces_is_unpacked_right() {
    let (context, registry, copy) = with_large_base();
    let digest = |said: Output| ok(said).stdout.trim().to_owned();
    let expected = digest(build(&context, &copy, &[]));
    assert_eq!(unpacked(&context), 2);
    let again = |context: &TestContext| {
        fs::remove_dir_all(context.state()).unwrap();
        digest(build(context, &copy, &[]))
    };
    // Resumed.
    registry.plan("GET", "/blobs/", 4, Fault::Cut(400_000));
    let asked = asked(&registry, || assert_eq!(again(&context), expected));
    assert!(blobs(&asked) >= 4, "{asked:?}");
    // From the beginning again, since the registry gives no parts.
    registry.plan("GET", "/blobs/", 2, Fault::Cut(400_000));
    registry.plan("GET", "/blobs/", usize::MAX, Fault::NoRange);
    assert_eq!(again(&context), expected);
    registry.forgive();
    // Other bytes first: what was unpacked of them is not what is used.
    let mirror = FakeRegistry::start().unwrap();
    ok(context.run(&["copy", &name(&registry, "team/base:1"), &name(&mirror, "team/base:1")]));
    mirror.plan("GET", "/blobs/", usize::MAX, Fault::WrongByte);
    let context = mirrored(context, &registry.host(), &mirror.host());
    assert_eq!(again(&context), expected);
    assert_eq!(unpacked(&context), 2);
}

#[test]
fn nothing_is_left_of_a_layer_that_does_not_come() {
    let (context, registry, copy) = with_large_base();
    for fault in [Fault::WrongByte, Fault::Shortened] {
        registry.plan("GET", "/blobs/", usize::MAX, Fault::NoRange);
        ok(build(&context, &format!("FROM {}\n", name(&registry, "team/base:1")), &["-o", "type=cacheonly"]));
        registry.forgive();
        registry.plan("GET", "/blobs/", usize::MAX, fault.clone());
        let said = build(&context, &copy, &[]);
        assert_eq!(said.code, 1, "{fault:?}: {said}");
        assert!(!said.stderr.contains("given up"), "{fault:?}: {said}");
        assert_eq!(unpacked(&context), 0, "{fault:?}");
        ok(context.run(&["cache", "verify"]));
        registry.forgive();
    }
    ok(build(&context, &copy, &[]));
}

#[test]
fn what_only_passes_through_is_not_unpacked() {
    let (context, registry, _) = with_large_base();
    let from = format!("FROM {}\nLABEL a=b\n", name(&registry, "team/base:1"));
    ok(build(&context, &from, &[]));
    ok(build(&context, &from, &["-o", &format!("type=registry,name={}", name(&registry, "other/app:1"))]));
    ok(context.run(&["pull", &name(&registry, "team/base:1")]));
    assert_eq!(unpacked(&context), 0);
}

#[test]
fn images_that_cannot_be_had() {
    let (context, registry) = with_base();
    let host = registry.host();
    let locked = FakeRegistry::start_with(Door::Basic("u", "secret"), |stream| Ok(Box::new(stream))).unwrap();
    let mut said = Vec::new();
    for text in [
        format!("FROM {host}/team/base:2\n"),
        format!("FROM {host}/team/bose:1\n"),
        format!("FROM {}/team/base:1\n", locked.host()),
        format!("FROM scratch\nCOPY --from={host}/team/none:1 /a /b\n"),
        "FROM Base\n".to_owned(),
    ] {
        let output = build(&context, &text, &[]).to_string();
        said.push(output.replace(&host, "[REGISTRY]").replace(&locked.host(), "[LOCKED]"));
    }
    assert_snapshot!(carets(&said.join("\n\n")), @r#"
    exit 1
    -- stderr
    error: cannot get the base image `[REGISTRY]/team/base:2`: `[REGISTRY]/team/base` has no `2`
     --> Dockerfile:1:6
      |
    1 | FROM [REGISTRY]/team/base:2
      |      ^
      |
      = hint: did you mean `1`?
      = hint: a copy of it can be used instead: --build-context [REGISTRY]/team/base:2=oci-layout://DIR or docker-image://NAME

    exit 1
    -- stderr
    error: cannot get the base image `[REGISTRY]/team/bose:1`: `[REGISTRY]` has no repository `team/bose`
     --> Dockerfile:1:6
      |
    1 | FROM [REGISTRY]/team/bose:1
      |      ^
      |
      = hint: a copy of it can be used instead: --build-context [REGISTRY]/team/bose:1=oci-layout://DIR or docker-image://NAME

    exit 1
    -- stderr
    error: cannot get the base image `[LOCKED]/team/base:1`: `[LOCKED]` does not let us pull `team/base`: 401 Unauthorized: unauthorized
     --> Dockerfile:1:6
      |
    1 | FROM [LOCKED]/team/base:1
      |      ^
      |
      = hint: no credentials for `[LOCKED]` were found; looked at `[TEST]/home/.docker/config.json` (there is none), `[TEST]/home/.config/containers/auth.json` (there is none)
      = hint: `wbuild login [LOCKED]` writes them; or the name is wrong: registries say this of what does not exist, too
      = hint: a copy of it can be used instead: --build-context [LOCKED]/team/base:1=oci-layout://DIR or docker-image://NAME

    exit 1
    -- stderr
    error: cannot get the base image `[REGISTRY]/team/none:1`: `[REGISTRY]` has no repository `team/none`
     --> Dockerfile:2:13
      |
    2 | COPY --from=[REGISTRY]/team/none:1 /a /b
      |             ^
      |
      = hint: a copy of it can be used instead: --build-context [REGISTRY]/team/none:1=oci-layout://DIR or docker-image://NAME

    exit 1
    -- stderr
    error: failed to parse stage name "Base": invalid reference format: `Base` is not a repository name: lower-case letters, digits, and single `.`, `_`, `-` between them
     --> Dockerfile:1:6
      |
    1 | FROM Base
      |      ^
      |
      = hint: names of images are lower-case: `registry/repository:tag`
    "#);
}

/// A file of rules that sends what is asked of one registry to another first.
fn mirrored(context: TestContext, registry: &str, mirror: &str) -> TestContext {
    let rules = format!("[registry.\"{registry}\"]\nmirrors = [\"{mirror}\"]\n");
    context.write("registries.toml", &rules);
    let file = context.path("registries.toml").display().to_string();
    context.env("WBUILD_CONFIG", &file)
}

#[test]
fn what_is_not_there_any_more_is_not_made_do_with() {
    let (context, registry) = with_base();
    let base = name(&registry, "team/base:1");
    let from = format!("FROM {base}\nLABEL a=b\n");
    ok(build(&context, &from, &[]));
    for (status, says) in [(404, "has no `1`"), (401, "does not let us pull"), (403, "does not let us pull")]
    {
        registry.plan("HEAD", "/manifests/1", 1, Fault::Status(status));
        registry.plan("GET", "/manifests/1", 1, Fault::Status(status));
        let said = build(&context, &from, &[]);
        assert!(said.code == 1 && said.stderr.contains(says), "{status}: {said}");
        registry.forgive();
    }
    // One that does not answer the question is as one that is not there; with --pull that is not good enough.
    registry.plan("HEAD", "/manifests/1", 1, Fault::Status(503));
    let said = ok(build(&context, &from, &[]));
    assert!(said.stderr.contains(&format!("using `{base}` as it was")), "{said}");
    let nowhere = Fault::Redirect("ftp://nowhere".to_owned());
    registry.plan("HEAD", "/manifests/1", 2, nowhere.clone());
    registry.plan("GET", "/manifests/1", 1, nowhere);
    let said = ok(build(&context, &from, &[]));
    assert!(said.stderr.contains(&format!("using `{base}` as it was")), "{said}");
    let said = build(&context, &from, &["--pull"]);
    assert!(said.code == 1 && said.stderr.contains(&format!("cannot get the base image `{base}`")), "{said}");
}

#[test]
fn a_mirror_and_its_registry_that_are_gone() {
    let (context, registry) = with_base();
    let mirror = FakeRegistry::start().unwrap();
    ok(context.run(&["copy", &name(&registry, "team/base:1"), &name(&mirror, "team/base:1")]));
    fs::remove_dir_all(context.state()).unwrap();
    let context = mirrored(context, &registry.host(), &mirror.host());
    let from = format!("FROM {}\nLABEL a=b\n", name(&registry, "team/base:1"));
    let of_registry = asked(&registry, || drop(ok(build(&context, &from, &[]))));
    assert_eq!(of_registry, [""; 0]);
    // The mirror alone is gone: the registry itself says what the tag is.
    drop(mirror);
    let said = ok(build(&context, &from, &[]));
    assert!(!said.stderr.contains("as it was"), "{said}");
    drop(registry);
    let said = ok(build(&context, &from, &[]));
    assert!(said.stderr.contains("as it was when it was last looked up"), "{said}");
}

#[test]
fn an_app_stands_on_an_image_of_a_registry() {
    let context = TestContext::small().env("WBUILD_OFFLINE", "0");
    let Some((registry, base)) = with_alpine(&context) else { return skip("there is no base image") };
    let place = format!("alpine:3.23=docker-image://{base}");
    let build = |flags: &[&str]| {
        let args = ["image", "--progress", "plain", "--target", "base", "--build-context", &place];
        context.run(&[&args[..], flags].concat())
    };
    let built = ok(build(&["--pin"]));
    assert!(context.read("wbuild.lock").contains(&format!("\"{base}\" = \"sha256:")), "{built}");
    context.remove("wbuild.lock");
    ok(build(&["--offline"]));
    drop(registry);
    let said = ok(build(&[]));
    assert_eq!(said.stdout, built.stdout);
    assert!(said.stderr.contains(&format!("using `{base}` as it was")), "{said}");
}

/// Nobody used anything for a long time.
fn age_records(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => age_records(&path),
            false => fs::File::open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap(),
        }
    }
}

#[test]
fn pruning_keeps_an_image_whole_or_not_at_all() {
    let (context, registry) = with_base();
    let base = name(&registry, "team/base:1");
    let from = format!("FROM {base}\nLABEL a=b\n");
    ok(context.run(&["pull", &base]));
    ok(context.run(&["cache", "prune", "--keep", "1GB"]));
    let nothing = asked(&registry, || drop(ok(build(&context, &from, &["--offline"]))));
    assert_eq!(nothing, [""; 0]);
    age_records(&context.state().join("records"));
    ok(context.run(&["cache", "prune", "--keep", "0"]));
    let said = build(&context, &from, &["--offline"]);
    assert!(said.code == 1 && said.stderr.contains("it was never pulled"), "{said}");
    ok(build(&context, &from, &[]));
    // A layer alone that is gone comes again.
    let layer = Layout::open(&context.path("base-image")).layers().remove(1);
    let hex = layer.trim_start_matches("sha256:");
    fs::remove_file(context.state().join("blobs/sha256").join(&hex[..2]).join(hex)).unwrap();
    let said = build(&context, &from, &["--offline"]);
    assert!(said.stderr.contains(&format!("are not at hand: {layer}\n")), "{said}");
    let again = asked(&registry, || drop(ok(build(&context, &from, &[]))));
    assert_eq!(blobs(&again), 1, "{again:?}");
}

#[test]
fn rules_are_read_when_a_registry_is_needed() {
    let (context, registry) = with_base();
    context.write("registries.toml", "[registry.\"a\"]\nmirror = []\n");
    let file = context.path("registries.toml").display().to_string();
    let context = context.env("WBUILD_CONFIG", &file);
    ok(build(&context, "FROM scratch\nCOPY . /\n", &[]));
    let said = build(&context, &format!("FROM {}\n", name(&registry, "team/base:1")), &[]);
    assert_snapshot!(shown(&said, &registry).replace(&file, "[FILE]"), @r#"
    exit 1
    -- stderr
    error: `[TEST]/site/registries.toml`: registry."a": there is no `mirror`; did you mean `mirrors`?
     --> Dockerfile:1:6
      |
    1 | FROM [REGISTRY]/team/base:1
      |      ^
    "#);
}

#[test]
fn a_lock_names_images_however_they_are_written() {
    let (context, registry) = with_base();
    let base = name(&registry, "team/base");
    ok(context.run(&["copy", &format!("{base}:1"), &format!("{base}:latest")]));
    ok(build(&context, &format!("FROM {base}:latest\n"), &["--pin"]));
    let nothing = asked(&registry, || drop(ok(build(&context, &format!("FROM {base}\n"), &[]))));
    assert_eq!(nothing, [""; 0]);
    // What comes on standard input has no folder.
    let dockerfile = fs::File::open(context.path("app/Dockerfile")).unwrap();
    let output = context.command(&["build", "--pin", "-"]).stdin(dockerfile).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("`--pin` writes wbuild.lock into the context, which is no folder"), "{said}");
}

#[test]
fn what_moves_is_shown() {
    let (context, registry) = with_base();
    let base = name(&registry, "team/base:1");
    let from = format!("FROM {base}\nLABEL a=b\n");
    let app = format!("type=registry,name={}", name(&registry, "team/app:1"));
    let said = ok(build(&context, &from, &["-o", "type=oci,tar=false,dest=out", "-o", &app]));
    let layers = Layout::open(&context.path("base-image")).layers();
    let mut text = said.to_string().replace(&registry.host(), "[REGISTRY]");
    // Several come at once, and are through in any order.
    let mut lines: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
    lines.sort_unstable();
    text = lines.join("\n");
    assert_snapshot!(text, @r"
    #1 DONE [TIME]
    #1 [TIME] sha256:[DIGEST] [SIZE] / [SIZE] done
    #1 [TIME] sha256:[DIGEST] [SIZE] / [SIZE] done
    #1 pull [REGISTRY]/team/base:1
    #2 DONE [TIME]
    #2 [TIME] sha256:[DIGEST] [SIZE] lent by another repository
    #2 [TIME] sha256:[DIGEST] [SIZE] lent by another repository
    #2 push [REGISTRY]/team/app:1
    ");
    let json = ["build", "--progress", "json", "-o", "type=cacheonly", "app"];
    context.write("app/Dockerfile", &format!("FROM scratch\nCOPY --from={base} /etc /etc\n"));
    fs::remove_dir_all(context.state()).unwrap();
    let said = ok(context.run(&json));
    for layer in layers {
        let done = said.stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut done = done.filter(|event| event["event"] == "moved" && event["part"] == layer.as_str());
        assert!(done.next_back().is_some_and(|event| event["state"] == "done"), "{said}");
    }
}

/// The second step ends when the registry has the layer of the first one.
#[test]
fn layers_are_pushed_while_later_steps_run() {
    let context = TestContext::empty().env("WBUILD_OFFLINE", "0");
    let images = context.base_images();
    let Some(place) = images.iter().find(|arg| arg.starts_with("alpine:3.23=")) else {
        return skip("there is no base image");
    };
    let registry = FakeRegistry::start().unwrap();
    let first = "FROM alpine:3.23\nRUN echo early > /early\n";
    ok(build(&context, first, &["--build-context", place]));
    let layer = Layout::open(&context.path("out")).layers().pop().unwrap();
    fs::remove_dir_all(context.state()).unwrap();
    let look = format!("wget -q -O /dev/null http://{}/v2/team/app/blobs/{layer}", registry.host());
    let text = format!("{first}RUN for i in $(seq 300); do {look} && exit 0; sleep 0.1; done; exit 1\n");
    let app = name(&registry, "team/app:1");
    let output = format!("type=registry,name={app}");
    let host = ["--network", "host", "--allow", "network.host"];
    let said = ok(build(&context, &text, &[&host[..], &["--build-context", place, "-o", &output]].concat()));
    assert!(said.stderr.contains(&format!("push layers of {app} while later steps run")), "{said}");
    // What was sent early counts as sent, and is sent once.
    assert!(said.stderr.contains("; 0 blobs there, 0 lent)"), "{said}");
    let is_sent = |asked: &&String| asked.starts_with("PUT") && asked.contains("/team/app/blobs/");
    assert_eq!(registry.asked().iter().filter(is_sent).count(), registry.blobs().len());
}

/// The second step ends when every place has the layer of the first one, in the form that is wanted there.
#[test]
fn layers_are_pushed_early_wherever_they_go() {
    let context = TestContext::empty().env("WBUILD_OFFLINE", "0");
    let images = context.base_images();
    let Some(place) = images.iter().find(|arg| arg.starts_with("alpine:3.23=")) else {
        return skip("there is no base image");
    };
    let (one, two) = (FakeRegistry::start().unwrap(), FakeRegistry::start().unwrap());
    let first = "FROM alpine:3.23\nRUN echo early > /early\n";
    let layer = |compression: &str| {
        let output = format!("type=oci,tar=false,dest=out,compression={compression}");
        ok(build(&context, first, &["--build-context", place, "-o", &output]));
        Layout::open(&context.path("out")).layers().pop().unwrap()
    };
    let (gzip, zstd) = (layer("gzip"), layer("zstd"));
    fs::remove_dir_all(context.state()).unwrap();
    let places = [
        (&one, "team/app", &gzip),
        (&one, "team/other", &gzip),
        (&two, "app", &gzip),
        (&one, "small/app", &zstd),
    ];
    let looks: Vec<String> = places
        .iter()
        .map(|(registry, repository, layer)| {
            format!("wget -q -O /dev/null http://{}/v2/{repository}/blobs/{layer}", registry.host())
        })
        .collect();
    let text = format!(
        "{first}RUN for i in $(seq 300); do {} && exit 0; sleep 0.1; done; exit 1\n",
        looks.join(" && ")
    );
    let outputs = [
        format!("type=registry,\"name={},{}\"", name(&one, "team/app:1"), name(&one, "team/app:2")),
        format!("type=registry,name={}", name(&one, "team/other:1")),
        format!("type=registry,name={}", name(&two, "app:1")),
        format!("type=registry,name={},compression=zstd", name(&one, "small/app:1")),
    ];
    let mut flags = vec!["--network", "host", "--allow", "network.host", "--build-context", place];
    flags.extend(outputs.iter().flat_map(|output| ["-o", output]));
    let said = ok(build(&context, &text, &flags));
    // What one repository has got is lent to the next.
    let sent = |registry: &FakeRegistry, repository: &str| {
        let is_sent =
            |asked: &&String| asked.starts_with("PUT") && asked.contains(&format!("/{repository}/blobs/"));
        registry.asked().iter().filter(is_sent).count()
    };
    assert_eq!((sent(&one, "team/other"), sent(&one, "team/app")), (0, sent(&two, "app")), "{said}");
    for (registry, repository, tag) in [
        (&one, "team/app", "1"),
        (&one, "team/app", "2"),
        (&one, "team/other", "1"),
        (&two, "app", "1"),
        (&one, "small/app", "1"),
    ] {
        assert!(registry.manifest(repository, tag).is_some(), "{repository}:{tag}");
    }
}

#[test]
fn a_mirror_that_is_passed_over_is_named_by_builds() {
    let (context, registry) = with_base();
    let base = name(&registry, "team/base:1");
    let dead = format!("127.0.0.1:{}", wbuild_testkit::free_port().unwrap());
    let context = mirrored(context, &registry.host(), &dead);
    let said = build(&context, &format!("FROM {base}\nLABEL a=b\n"), &[]);
    let warned = format!("warning: the mirror {dead}: ");
    assert!(said.code == 0 && said.stderr.matches(&warned).count() == 1, "{said}");
    assert!(said.stderr.contains("it is not asked any more"), "{said}");
}
