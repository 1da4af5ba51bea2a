//! Images that are not what they seem to be, on their way, and outputs that nobody takes.

use std::fs;

use serde_json::{Value, json};
use wbuild_testkit::{Door, FakeRegistry, Fault};

use crate::context::{Output, TestContext, bases, skip};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A world with a layout `image` of one layer, for amd64.
fn with_image(args: &[&str]) -> TestContext {
    let context = TestContext::empty();
    context.write("files/f", "hello");
    context.write("files/Dockerfile", "FROM scratch\nCOPY f /f\nCMD [\"/f\"]\n");
    let output = ["build", "--progress", "quiet", "--platform", "linux/amd64", "files", "-o"];
    let output = output.iter().chain(&["type=oci,tar=false,dest=image"]).chain(args);
    ok(context.run(&output.collect::<Vec<_>>()));
    context
}

fn ok(said: Output) -> Output {
    assert_eq!(said.code, 0, "{said}");
    said
}

fn failed(said: &Output, expected: &str) {
    assert!(said.code == 1 && said.stderr.contains(expected), "{said}");
}

fn json(context: &TestContext, path: &str) -> Value {
    serde_json::from_str(&context.read(path)).unwrap()
}

fn blob_path(digest: &Value) -> String {
    format!("image/blobs/sha256/{}", digest.as_str().unwrap().trim_start_matches("sha256:"))
}

/// Digest and manifest of the image.
fn manifest(context: &TestContext) -> (Value, Value) {
    let digest = json(context, "image/index.json")["manifests"][0]["digest"].clone();
    let manifest = json(context, &blob_path(&digest));
    (digest, manifest)
}

#[test]
fn a_platform_that_was_asked_for_is_what_comes() {
    let context = with_image(&[]);
    let registry = FakeRegistry::start().unwrap();
    let name = format!("{}/app:v1", registry.host());
    ok(context.run(&["push", "image", &name]));
    let other = "was found, but is for linux/amd64 and not for linux/arm64";
    for args in [
        &["pull", "--platform", "linux/arm64", &name][..],
        &["copy", "--platform", "linux/arm64", &name, "oci:other"],
        &["push", "--platform", "linux/arm64", "image", &name],
    ] {
        failed(&context.run(args), other);
    }
    ok(context.run(&["pull", "--platform", "linux/amd64", &name]));
    ok(context.run(&["push", "--platform", "linux/amd64", "image", &name]));
    ok(context.run(&["pull", &name]));
}

#[test]
fn a_damaged_layout_is_said_to_be_damaged() {
    let context = with_image(&[]);
    let (_, manifest) = manifest(&context);
    let layer = context.path(&blob_path(&manifest["layers"][0]["digest"]));
    let mut bytes = fs::read(&layer).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::remove_file(&layer).unwrap();
    fs::write(&layer, bytes).unwrap();
    let registry = FakeRegistry::start().unwrap();
    let name = format!("{}/app:v1", registry.host());
    let said = context.run(&["push", "image", &name]);
    failed(&said, "is damaged: what is there has the digest");
    assert!(registry.manifest("app", "v1").is_none(), "{said}");
    assert!(!said.stderr.contains(&format!("pushed {name}")), "{said}");
    let said = context.run(&["run", "image"]);
    failed(&said, "a layer of the image");
    assert!(!said.stderr.contains("base"), "{said}");
}

#[test]
fn only_the_name_that_was_asked_for_goes_along() {
    let context = with_image(&["-t", "one:1"]);
    ok(context.run(&["copy", "oci:image", "oci:image:two"]));
    let names = |tag: &str| {
        ok(context.run(&["copy", &format!("oci:image:{tag}"), "docker-archive:x.tar"]));
        let list = std::process::Command::new("tar")
            .args(["-xOf", "x.tar", "manifest.json"])
            .current_dir(context.path(""))
            .output()
            .unwrap();
        let list: Value = serde_json::from_slice(&list.stdout).unwrap();
        list[0]["RepoTags"].to_string()
    };
    assert_eq!(names("1"), r#"["one:1"]"#);
    assert!(names("two").contains(":two") && !names("two").contains("one:1\""), "{}", names("two"));
}

#[test]
fn attestations_are_no_platforms() {
    let context = with_image(&["--provenance", "--attest-index"]);
    ok(context.run(&["copy", "--all", "oci:image", "docker-archive:x.tar"]));
}

#[test]
fn sizes_count_where_the_blob_is_here() {
    let context = with_image(&[]);
    let registry = FakeRegistry::start().unwrap();
    let name = format!("{}/app:v1", registry.host());
    ok(context.run(&["push", "image", &name]));
    ok(context.run(&["pull", &name]));
    let (_, mut manifest) = manifest(&context);
    manifest["layers"][0]["size"] = json!(1_u64 << 50);
    registry.put_manifest("app", Some("huge"), MANIFEST, manifest.to_string().as_bytes());
    let said = context.run(&["pull", &format!("{}/app:huge", registry.host())]);
    failed(&said, "but 1125899906842624 are expected");
}

#[test]
fn a_proxy_that_wants_a_login_is_no_registry() {
    let context = with_image(&[]);
    let registry = FakeRegistry::start().unwrap();
    let name = format!("{}/app:v1", registry.host());
    for method in ["PUT", "POST", "HEAD"] {
        registry.plan(method, "/v2/", usize::MAX, Fault::Page);
        let said = context.run(&["push", "image", &name]);
        failed(&said, "begins with `<html><body>Welcome");
        assert!(!said.stderr.contains("pushed "), "{said}");
    }
    registry.plan("GET", "/manifests/", 1, Fault::Page);
    let said = context.run(&["pull", &name]);
    failed(&said, "it is no manifest, but an answer 200, `text/html; charset=utf-8`");
}

#[test]
fn outputs_that_nobody_takes_are_found_before_the_end() {
    if bases().is_none() {
        return skip("no base image to run a step in");
    }
    let context = TestContext::empty().online().env("WBUILD_HTTP_RETRIES", "0");
    let closed = FakeRegistry::start_with(Door::Basic("u", "p"), |stream| Ok(Box::new(stream))).unwrap();
    let name = format!("{}/app:v1", closed.host());
    // Nobody waits for the step.
    context.write("Dockerfile", "FROM alpine:3.23\nRUN sleep 3600\n");
    let run = |context: &TestContext, output: &[&str]| {
        let mut args = vec!["build".to_owned(), "--progress".to_owned(), "plain".to_owned()];
        args.extend(context.base_images());
        args.extend(output.iter().map(|arg| (*arg).to_owned()));
        context.run(&args)
    };
    failed(&run(&context, &["--push", "-t", &name, "."]), "does not let us push to `app`: 401 Unauthorized");
    failed(&run(&context, &["--push", "-t", "127.0.0.1:1/app:v1", "."]), "nothing listens at `127.0.0.1:1`");
    let context = context.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    failed(&run(&context, &["--load", "-t", "app", "."]), "the engine at `unix:///nowhere/docker.sock`");
}

#[test]
fn where_nothing_runs_nobody_is_asked_whether_they_would() {
    let context = with_image(&[]);
    let registry = FakeRegistry::start().unwrap();
    let name = format!("{}/app:v1", registry.host());
    let push = || {
        let args =
            ["build", "--progress", "quiet", "--platform", "linux/amd64", "files", "--push", "-t", &name];
        ok(context.run(&args));
    };
    push();
    let asked = registry.asked().len();
    push();
    let asked = registry.asked().split_off(asked);
    assert!(asked.iter().all(|asked| asked.starts_with("HEAD ")), "{asked:?}");
}
