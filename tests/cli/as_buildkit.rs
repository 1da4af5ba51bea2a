//! What a run beside BuildKit once showed to differ, and does no longer.

use std::ops::Deref;

use crate::context::{TestContext, bases};
use crate::layout::Layout;

const SEED: &str = "FROM alpine:3.23 AS seed\nRUN mkdir -p /sub /real && echo seeded > /sub/f && ln -s /sub /to && ln -s /real /link\n";

/// An image, as long as its folder is there.
struct Built {
    layout: Layout,
    _context: TestContext,
}

impl Deref for Built {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        &self.layout
    }
}

/// The image of a Dockerfile with one file `a` in its context; `None` where there are no base images.
fn image(dockerfile: &str, args: &[&str]) -> Option<Built> {
    bases()?;
    let context = TestContext::empty();
    context.write("Dockerfile", dockerfile);
    context.write("a", "A");
    let mut all: Vec<String> =
        ["build", "--progress", "quiet", "-o", "type=oci,dest=../out,tar=false"].map(str::to_owned).to_vec();
    all.extend(context.base_images());
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    all.push(".".to_owned());
    let output = context.run(&all);
    assert_eq!(output.code, 0, "{output}");
    Some(Built { layout: Layout::open(&context.folder().join("out")), _context: context })
}

#[test]
fn the_name_of_the_machine_and_the_file_with_a_name() {
    let dockerfile = "FROM alpine:3.23\nRUN cat /etc/hostname > /file && hostname > /name\n";
    let Some(plain) = image(dockerfile, &[]) else { return };
    // The file is the image's own.
    assert_eq!((plain.text("file").trim(), plain.text("name").trim()), ("localhost", "buildkitsandbox"));
    let Some(named) = image(dockerfile, &["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=other"]) else { return };
    assert_eq!(named.text("name").trim(), "other");
}

#[test]
fn groups_of_a_user_include_the_primary_one() {
    let dockerfile =
        "FROM alpine:3.23\nRUN adduser -D app && addgroup app audio\nUSER app\nRUN id -G > /tmp/groups\n";
    let Some(image) = image(dockerfile, &[]) else { return };
    assert_eq!(image.text("tmp/groups").trim(), "1000 18");
}

#[test]
fn cache_mounts_begin_with_what_their_source_holds() {
    let run = "FROM seed\nRUN --mount=type=cache,from=seed,source=/sub,target=/c cat /c/f > /found\n";
    let Some(image) = image(&format!("{SEED}{run}"), &[]) else { return };
    assert_eq!(image.text("found"), "seeded\n");
}

#[test]
fn mounts_from_scratch_are_empty() {
    let run = "FROM alpine:3.23\nRUN --mount=from=scratch,target=/empty ls -A /empty | wc -l > /count\n";
    let Some(image) = image(run, &[]) else { return };
    assert_eq!(image.text("count").trim(), "0");
}

#[test]
fn bind_mounts_follow_links_of_their_source_and_of_their_target() {
    let run = "FROM seed\nRUN --mount=from=seed,source=/to,target=/b cat /b/f > /source\n\
        RUN --mount=target=/link cat /real/a > /target\n";
    let Some(image) = image(&format!("{SEED}{run}"), &[]) else { return };
    assert_eq!((image.text("source").as_str(), image.text("target").as_str()), ("seeded\n", "A"));
}

#[test]
fn a_file_that_is_copied_again_is_in_no_layer_twice() {
    let Some(image) = image("FROM scratch\nCOPY a /\nCOPY a /\n", &[]) else { return };
    let mut entries = Vec::new();
    image.headers(&mut |path, _| entries.push(path.to_owned()));
    assert_eq!((image.layers().len(), entries), (2, vec!["a".to_owned()]));
}

#[test]
fn what_a_step_needs_of_an_empty_root_stays() {
    let dockerfile = "FROM alpine:3.23 AS tools\nFROM scratch\nCOPY --from=tools /bin/busybox /bin/\n\
        COPY --from=tools /lib/ld-musl-x86_64.so.1 /lib/\nRUN [\"/bin/busybox\", \"true\"]\n";
    let Some(image) = image(dockerfile, &[]) else { return };
    let mut folders = Vec::new();
    image.headers(&mut |path, header| {
        if header.entry_type().is_dir() {
            folders.push(path.trim_end_matches('/').to_owned());
        }
    });
    for folder in ["dev", "proc", "sys"] {
        assert!(folders.iter().any(|found| found == folder), "{folders:?}");
    }
}

#[test]
fn platforms_have_the_variant_that_says_something() {
    let dockerfile = "FROM scratch\nCOPY a /\n";
    for (platform, architecture, variant) in [
        ("linux/arm64/v8", "arm64", None),
        ("linux/arm", "arm", Some("v7")),
        ("linux/amd64/v1", "amd64", None),
    ] {
        let Some(image) = image(dockerfile, &["--platform", platform]) else { return };
        let config = image.config();
        assert_eq!(config["architecture"], architecture, "{platform}");
        assert_eq!(config.get("variant").and_then(|variant| variant.as_str()), variant, "{platform}");
    }
}

#[test]
fn a_working_directory_that_nobody_sets() {
    let Some(scratch) = image("FROM scratch\nCOPY a /\n", &[]) else { return };
    assert_eq!(scratch.config()["config"]["WorkingDir"], "/");
    let Some(set) = image("FROM alpine:3.23\nWORKDIR rel\nWORKDIR ative\n", &[]) else { return };
    assert_eq!(set.config()["config"]["WorkingDir"], "/rel/ative");
}

/// The sizes of a mount are part of what a step is: another size is another step.
#[test]
fn mounts_with_another_size_or_owner_are_other_steps() {
    if bases().is_none() {
        return;
    }
    let context = TestContext::empty();
    let build = |mount: &str| {
        context.write("Dockerfile", &format!("FROM alpine:3.23\nRUN --mount={mount},target=/m true\n"));
        let mut args: Vec<String> = ["build", "--progress", "plain"].map(str::to_owned).to_vec();
        args.extend(context.base_images());
        args.push(".".to_owned());
        let output = context.run(&args);
        assert_eq!(output.code, 0, "{output}");
        output.stderr.contains("CACHED")
    };
    let cached = ["type=tmpfs,size=1m", "type=tmpfs,size=2m", "type=tmpfs,size=1m"].map(build);
    assert_eq!(cached, [false, false, true]);
    let cached = ["type=cache,uid=1", "type=cache,uid=2", "type=cache,uid=2"].map(build);
    assert_eq!(cached, [false, false, true]);
}

#[test]
fn undefined_variables_of_a_line_that_fails_are_told_with_the_error() {
    let context = TestContext::empty();
    context.write("Dockerfile", "FROM scratch\nLABEL a=\"${MISSING:?must be given}\"\n");
    let output = context.run(&["build", ".", "--check"]);
    assert_eq!(output.code, 1, "{output}");
    assert!(output.stdout.contains("UndefinedVar"), "{output}");
    assert!(output.stderr.contains("must be given"), "{output}");
}
