//! Pulling, pushing and copying, against a registry that can misbehave.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use insta::assert_snapshot;
use serde_json::{Value, json};
use wbuild_testkit::{Door, FakeRegistry, Fault};

use crate::context::{Output, TestContext};

/// A world with a layout `image` of one layer, and its digest.
fn with_image() -> (TestContext, String) {
    let context = TestContext::empty();
    let digest = build(&context, "image", "linux/amd64", "hello");
    (context, digest)
}

/// Builds an image of a file into a layout.
fn build(context: &TestContext, folder: &str, platform: &str, text: &str) -> String {
    context.write(&format!("{folder}-files/f"), text);
    context.write(&format!("{folder}-files/Dockerfile"), "FROM scratch\nCOPY f /f\nCMD [\"/f\"]\n");
    let output = format!("type=oci,tar=false,dest={folder}");
    let files = format!("{folder}-files");
    let said = context.run(&["build", "--progress", "quiet", "--platform", platform, "-o", &output, &files]);
    assert_eq!(said.code, 0, "{said}");
    said.stdout.lines().last().unwrap().to_owned()
}

/// What is said, with a registry's address replaced.
fn shown(said: &Output, registry: &FakeRegistry) -> String {
    said.to_string().replace(&registry.host(), "[REGISTRY]")
}

/// The digest that `index.json` names first.
fn digest_of(context: &TestContext, layout: &str) -> String {
    let index: Value = serde_json::from_str(&context.read(&format!("{layout}/index.json"))).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

fn ok(said: Output) -> Output {
    assert_eq!(said.code, 0, "{said}");
    said
}

#[test]
fn an_image_comes_back_as_it_was() {
    let (context, digest) = with_image();
    let registry = FakeRegistry::start().unwrap();
    let name = |rest: &str| format!("{}/{rest}", registry.host());
    let said = ok(context.run(&["push", "image", &name("team/app:v1"), &name("team/app:latest")]));
    assert_snapshot!(shown(&said, &registry), @"
    exit 0
    -- stdout
    sha256:[DIGEST]
    -- stderr
    pushed sha256:[DIGEST] ([SIZE])
    pushed sha256:[DIGEST] ([SIZE])
    pushed [REGISTRY]/team/app:v1
    pushed [REGISTRY]/team/app:latest
    sent [SIZE] in 2 blobs
    ");
    assert_eq!(said.stdout.trim(), digest);
    // Once more: one question a tag.
    let asked = registry.asked().len();
    let said = ok(context.run(&["push", "image", &name("team/app:v1")]));
    assert_snapshot!(shown(&said, &registry), @"
    exit 0
    -- stdout
    sha256:[DIGEST]
    -- stderr
    unchanged [REGISTRY]/team/app:v1
    ");
    assert_eq!(registry.asked()[asked..], ["HEAD /v2/team/app/manifests/v1".to_owned()]);
    // Into the state directory, a folder, an archive, and from there to another repository.
    ok(context.run(&["pull", &name("team/app:v1")]));
    let said = ok(context.run(&["pull", &name("team/app:v1"), "-o", "back"]));
    assert_snapshot!(shown(&said, &registry), @"
    exit 0
    -- stdout
    sha256:[DIGEST]
    -- stderr
    1 blob there already, [SIZE]
    image back ([SIZE] in 1 layer)
    ");
    assert_eq!(digest_of(&context, "back"), digest);
    ok(context.run(&["copy", &name("team/app:v1"), "oci-archive:back.tar:v2"]));
    ok(context.run(&["push", "back.tar", &name("other/app:v2")]));
    ok(context.run(&["copy", &name("other/app:v2"), &name("third/app:v3")]));
    let pinned = name(&format!("third/app@{digest}"));
    let said = ok(context.run(&["copy", &pinned, "oci:again:mine"]));
    assert_eq!((said.stdout.trim(), digest_of(&context, "again")), (&*digest, digest.clone()));
    ok(context.run(&["copy", "oci:again:mine", "docker-archive:again.tar"]));
    // What one repository has is lent to another.
    let asked = registry.asked();
    assert!(
        asked
            .iter()
            .any(|asked| asked.contains("third/app/blobs/uploads/?mount=") && asked.contains("from=other")),
        "{asked:?}"
    );
    assert!(!asked.iter().any(|asked| asked.starts_with("PUT /v2/third/app/blobs")), "{asked:?}");
}

#[test]
fn what_is_not_there() {
    let (context, _) = with_image();
    let registry = FakeRegistry::start().unwrap();
    let name = |rest: &str| format!("{}/{rest}", registry.host());
    ok(context.run(&["push", "image", &name("app:22-alpine")]));
    let mut said = Vec::new();
    for args in [
        vec!["pull".to_owned(), name("app:22-alpin")],
        vec!["pull".to_owned(), name("none")],
        vec!["pull".to_owned(), "Node".to_owned()],
        vec!["push".to_owned(), "image".to_owned(), format!("{}@sha256:{}", name("app"), "0".repeat(64))],
        vec!["push".to_owned(), "missing".to_owned(), name("app")],
        vec!["copy".to_owned(), "oci:image:v9".to_owned(), name("app")],
        vec!["copy".to_owned(), name("app:22-alpine"), "oci:".to_owned()],
    ] {
        said.push(shown(&context.run(&args), &registry));
    }
    assert_snapshot!(said.join("\n\n"), @"
    exit 1
    -- stderr
    error: `[REGISTRY]/app` has no `22-alpin`
    hint: did you mean `22-alpine`?

    exit 1
    -- stderr
    error: `[REGISTRY]` has no repository `none`

    exit 2
    -- stderr
    error: `Node` is not a repository name: lower-case letters, digits, and single `.`, `_`, `-` between them
    hint: names are of the form [HOST/]REPOSITORY[:TAG|@DIGEST]

    exit 2
    -- stderr
    error: `[REGISTRY]/app@sha256:[DIGEST]` names a digest, and an image is pushed under a tag
    hint: its digest is what it is already

    exit 2
    -- stderr
    error: `missing` is neither a folder nor a file
    hint: name the folder of an OCI layout, such as .wbuild/image/web, or a tar of one

    exit 1
    -- stderr
    error: `image` has no image with the tag `v9`
    hint: none of its images has a tag; leave the tag away

    exit 2
    -- stderr
    error: `oci:` names no path
    hint: for example oci:out/web:v1
    ");
}

#[test]
fn nobody_listens_at_the_port() {
    let said = TestContext::empty().env("WBUILD_HTTP_RETRIES", "0").run(&["pull", "127.0.0.1:1/app"]);
    assert_snapshot!(said, @"
    exit 1
    -- stderr
    error: nothing listens at `127.0.0.1:1`
      caused by: the connection for `https://127.0.0.1:1/v2/` failed
      caused by: error sending request
      caused by: client error (Connect)
      caused by: tcp connect error
      caused by: Connection refused (os error 111)
    hint: is the registry started, and the port right?
    ");
}

#[test]
fn several_platforms_are_copied_whole_or_one_of_them() {
    let (context, amd) = with_image();
    let arm = build(&context, "arm", "linux/arm64", "arm");
    let registry = FakeRegistry::start().unwrap();
    let name = |rest: &str| format!("{}/{rest}", registry.host());
    for (folder, tag) in [("image", "amd64"), ("arm", "arm64")] {
        ok(context.run(&["push", folder, &name(&format!("app:{tag}"))]));
    }
    let entry = |digest: &str, architecture: &str| {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": registry.manifest("app", digest).unwrap().len(),
            "platform": { "os": "linux", "architecture": architecture },
        })
    };
    let index = json!({ "schemaVersion": 2, "manifests": [entry(&amd, "amd64"), entry(&arm, "arm64")] });
    let media_type = "application/vnd.oci.image.index.v1+json";
    let digest =
        registry.put_manifest("app", Some("all"), media_type, index.to_string().as_bytes()).to_string();
    let said = ok(context.run(&["copy", "--all", &name("app:all"), "oci:whole"]));
    assert_eq!((said.stdout.trim(), digest_of(&context, "whole")), (&*digest, digest.clone()));
    let said = ok(context.run(&["copy", "--platform", "linux/arm64", &name("app:all"), "oci:one"]));
    assert!(!said.stderr.contains("warning"), "{said}");
    // What has one platform only is not taken for another one.
    let said = context.run(&["copy", "--platform", "linux/arm64", &name("app:amd64"), "oci:other"]);
    assert!(said.code == 1 && said.stderr.contains("is for linux/amd64 and not for linux/arm64"), "{said}");
    assert_eq!(digest_of(&context, "one"), arm);
    // A layout is pushed as it is.
    let said = ok(context.run(&["push", "whole", &name("copy:all")]));
    assert_eq!(said.stdout.trim(), digest);
    assert_eq!(registry.manifest("copy", "all").unwrap(), index.to_string().into_bytes());
    let said = context.run(&["pull", "--platform", "linux/s390x", &name("app:all")]);
    assert_snapshot!(shown(&said, &registry), @"
    exit 1
    -- stderr
    error: the image sha256:[DIGEST] has no manifest for linux/s390x; it has linux/amd64, linux/arm64
    ");
}

/// Puts an index around some manifests into a repository.
fn put_index(registry: &FakeRegistry, tag: &str, manifests: &[Value]) -> Value {
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests }).to_string();
    let digest = registry.put_manifest("app", Some(tag), media_type, index.as_bytes());
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": index.len() })
}

#[test]
fn images_that_are_none_or_are_hidden_well() {
    let (context, digest) = with_image();
    let registry = FakeRegistry::start().unwrap();
    let name = |tag: &str| format!("{}/app:{tag}", registry.host());
    ok(context.run(&["push", "image", &name("v1")]));
    let manifest: Value = serde_json::from_slice(&registry.manifest("app", "v1").unwrap()).unwrap();
    let size = registry.manifest("app", "v1").unwrap().len();
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let entry = json!({ "mediaType": manifest_type, "digest": digest, "size": size });
    let put = |tag: &str, media_type: &str, body: &[u8]| {
        registry.put_manifest("app", Some(tag), media_type, body);
    };
    put("schema1", "application/vnd.docker.distribution.manifest.v1+prettyjws", b"{\"schemaVersion\": 1}");
    put("page", manifest_type, b"<html>");
    put("large", manifest_type, &vec![b' '; 5 << 20]);
    let layer = |media_type: &str| {
        let mut manifest = manifest.clone();
        manifest["layers"][0]["mediaType"] = json!(media_type);
        manifest.to_string()
    };
    put(
        "foreign",
        manifest_type,
        layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip").as_bytes(),
    );
    let mut artifact = manifest.clone();
    artifact["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    put("chart", manifest_type, artifact.to_string().as_bytes());
    put_index(&registry, "huge", &vec![entry.clone(); 5000]);
    let mut nested = entry.clone();
    for depth in 0..12 {
        nested["platform"] = json!({ "os": "linux", "architecture": "amd64" });
        nested = put_index(&registry, &format!("depth{depth}"), &[nested]);
    }
    let of = |platform: Value| {
        let mut entry = entry.clone();
        entry["platform"] = platform;
        entry
    };
    let arm = |variant: &str| of(json!({ "os": "linux", "architecture": "arm", "variant": variant }));
    put_index(
        &registry,
        "arm",
        &[arm("v5"), arm("v6"), of(json!({ "os": "windows", "architecture": "amd64" }))],
    );
    let tags = ["schema1", "page", "large", "foreign", "chart", "huge", "depth11", "arm"];
    let said: Vec<String> = tags
        .iter()
        .map(|tag| shown(&context.run(&["pull", "--platform", "linux/amd64", &name(tag)]), &registry))
        .collect();
    assert_snapshot!(said.join("\n\n"), @"
    exit 1
    -- stderr
    error: `http://[REGISTRY]/v2/app/manifests/schema1` is an image of Docker's schema 1, which has no digests that could be checked
    hint: push it again with a newer Docker

    exit 1
    -- stderr
    error: `http://[REGISTRY]/v2/app/manifests/page` is not usable
      caused by: the document is not a valid manifest or index
      caused by: expected value at line 1 column 1

    exit 1
    -- stderr
    error: `http://[REGISTRY]/v2/app/manifests/large` is larger than 4194304 bytes
    hint: registries do not do that: check the name of the host, and what stands before the registry

    exit 1
    -- stderr
    error: the layer sha256:[DIGEST] is `application/vnd.docker.image.rootfs.foreign.diff.tar.gzip`: its bytes are not in the registry

    exit 1
    -- stderr
    error: sha256:[DIGEST] is no image: its config is `application/vnd.cncf.helm.config.v1+json`

    exit 1
    -- stderr
    error: the index sha256:[DIGEST] has 5000 entries; more than 4096 are refused

    exit 1
    -- stderr
    error: the index sha256:[DIGEST] lies in more than 8 others

    exit 1
    -- stderr
    error: the image sha256:[DIGEST] has no manifest for linux/amd64; it has linux/arm/v5, linux/arm/v6, windows/amd64
    ");
    // What is not too deep, and what does where there is nothing better.
    ok(context.run(&["pull", "--platform", "linux/amd64", &name("depth3")]));
    for (platform, code) in [("linux/arm/v7", 0), ("linux/arm64", 0), ("linux/arm/v5", 0), ("linux/386", 1)] {
        let said = context.run(&["pull", "--platform", platform, &name("arm")]);
        assert_eq!(said.code, code, "{platform}: {said}");
    }
}

#[test]
fn layers_of_all_kinds_are_unpacked() {
    let context = TestContext::empty().env("WBUILD_OFFLINE", "0");
    let registry = FakeRegistry::start().unwrap();
    context.write("files/f", "hello");
    context.write("files/Dockerfile", "FROM scratch\nCOPY f /f\n");
    for kind in ["gzip", "zstd", "uncompressed", "estargz"] {
        let output = format!("type=oci,tar=false,dest={kind},compression={kind},force-compression=true");
        ok(context.run(&["build", "--progress", "quiet", "-o", &output, "files"]));
        let name = format!("{}/app:{kind}", registry.host());
        ok(context.run(&["push", kind, &name]));
        context.write("again/Dockerfile", &format!("FROM scratch\nCOPY --from={name} /f /g\n"));
        let fresh = format!("state-{kind}");
        let args = ["build", "--home", &fresh, "--progress", "quiet", "-o", "type=local,dest=out", "again"];
        ok(context.run(&args));
        assert_eq!(context.read("out/g"), "hello", "{kind}");
        fs::remove_dir_all(context.path("out")).unwrap();
    }
}

fn log_in(context: &TestContext, host: &str, user: &str, password: &str) -> Output {
    let mut command = context.command(&["login", host, "--username", user, "--password-stdin"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    context.output(output.status, &output.stdout, &output.stderr)
}

#[test]
fn login_opens_a_registry_and_logout_closes_it() {
    for door in [Door::Basic("u", "hunter2"), Door::Bearer("u", "hunter2")] {
        let (context, _) = with_image();
        let registry = FakeRegistry::start_with(door.clone(), |stream| Ok(Box::new(stream))).unwrap();
        let name = format!("{}/team/app:v1", registry.host());
        let config = context.folder().join("home/.docker/config.json");
        fs::create_dir_all(config.parent().unwrap()).unwrap();
        fs::write(&config, r#"{"psFormat":"x"}"#).unwrap();
        let mut said = vec![
            context.run(&["push", "image", &name]),
            log_in(&context, &registry.host(), "u", "wrong\n"),
            log_in(&context, &registry.host(), "u", "hunter2\n"),
            context.run(&["push", "image", &name]),
        ];
        let written = fs::read_to_string(&config).unwrap();
        assert!(written.contains("psFormat") && written.contains("\"auth\""), "{written}");
        assert_eq!(fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o600);
        said.extend([
            context.run(&["logout", &registry.host()]),
            context.run(&["logout", &registry.host()]),
            context.run(&["pull", &name]),
        ]);
        let said: Vec<String> = said.iter().map(|said| shown(said, &registry)).collect();
        let said = said.join("\n\n");
        assert!(!said.contains("hunter2") && !said.contains("wrong\n"));
        if matches!(door, Door::Basic(..)) {
            assert_snapshot!(said, @"
            exit 1
            -- stderr
            error: `[REGISTRY]` does not let us push to `team/app`: 401 Unauthorized
            hint 1: no credentials for `[REGISTRY]` were found; looked at `[TEST]/home/.docker/config.json` (nothing for it), `[TEST]/home/.config/containers/auth.json` (there is none)
            hint 2: `wbuild login [REGISTRY]` writes them; or the name is wrong: registries say this of what does not exist, too

            exit 1
            -- stderr
            error: `[REGISTRY]` refused to log in: 401 Unauthorized: unauthorized
            hint: the name or the password is wrong; many registries want a token for a password

            exit 0
            -- stdout
            logged in to [REGISTRY] as u; kept in [TEST]/home/.docker/config.json, readable to whoever can read that file

            exit 0
            -- stdout
            sha256:[DIGEST]
            -- stderr
            pushed sha256:[DIGEST] ([SIZE])
            pushed sha256:[DIGEST] ([SIZE])
            pushed [REGISTRY]/team/app:v1
            sent [SIZE] in 2 blobs

            exit 0
            -- stdout
            forgot the credentials for [REGISTRY] in [TEST]/home/.docker/config.json

            exit 0
            -- stdout
            there were no credentials for [REGISTRY]

            exit 1
            -- stderr
            error: `[REGISTRY]` does not let us pull `team/app`: 401 Unauthorized: unauthorized
            hint 1: no credentials for `[REGISTRY]` were found; looked at `[TEST]/home/.docker/config.json` (nothing for it), `[TEST]/home/.config/containers/auth.json` (there is none)
            hint 2: `wbuild login [REGISTRY]` writes them; or the name is wrong: registries say this of what does not exist, too
            ");
        }
    }
}

#[test]
fn login_needs_somebody_and_something() {
    let context = TestContext::empty();
    let mut said = Vec::new();
    for args in [
        &["login", "ghcr.io/team", "-u", "u", "--password-stdin"][..],
        &["login", "ghcr.io", "--password-stdin"],
        &["login", "ghcr.io", "-u", "u"],
        &["login", "ghcr.io", "-u", "u", "--password-stdin"],
    ] {
        said.push(context.run(args).to_string());
    }
    assert_snapshot!(said.join("\n\n"), @"
    exit 2
    -- stderr
    error: `ghcr.io/team` is no host of a registry
    hint: for example ghcr.io, or localhost:5000

    exit 2
    -- stderr
    error: nobody is there to ask for a user name
    hint: name it with --username

    exit 2
    -- stderr
    error: nobody is there to ask for a password
    hint: pipe it in, with --password-stdin

    exit 2
    -- stderr
    error: the password is empty
    hint: a token of the registry does as well as a password
    ");
}

#[test]
fn rules_for_registries() {
    let (context, digest) = with_image();
    let (registry, mirror) = (FakeRegistry::start().unwrap(), FakeRegistry::start().unwrap());
    let name = format!("{}/app:v1", registry.host());
    ok(context.run(&["push", "image", &format!("{}/proxy/app:v1", mirror.host())]));
    let rules = context.folder().join("registries.toml");
    let context = context.env("WBUILD_CONFIG", rules.to_str().unwrap());
    fs::write(
        &rules,
        format!("[registry.\"{}\"]\nmirrors = [\"{}/proxy\"]\n", registry.host(), mirror.host()),
    )
    .unwrap();
    let said = ok(context.run(&["pull", &name]));
    assert_eq!((said.stdout.trim(), registry.asked().len()), (&*digest, 0));
    // What is pushed goes to the registry itself.
    ok(context.run(&["push", "image", &name]));
    assert!(registry.manifest("app", "v1").is_some());
    fs::write(&rules, format!("[[registry]]\nlocation = \"{}\"\nblocked = true\n", registry.host())).unwrap();
    let mut said = vec![shown(&context.run(&["pull", &name]), &registry)];
    for text in ["[registry.\"a\"]\nmirror = []\n", "[registry"] {
        fs::write(&rules, text).unwrap();
        said.push(context.run(&["pull", &name]).to_string());
    }
    assert_snapshot!(said.join("\n\n"), @r#"
    exit 1
    -- stderr
    error: `[REGISTRY]` is blocked
    hint: [TEST]/registries.toml says so

    exit 1
    -- stderr
    error: `[TEST]/registries.toml`: registry."a": there is no `mirror`; did you mean `mirrors`?

    exit 1
    -- stderr
    error: `[TEST]/registries.toml` is no TOML
      caused by: TOML parse error at line 1, column 10
            |
          1 | [registry
            |          ^
          unclosed table, expected `]`
    "#);
}

#[test]
fn what_breaks_off_goes_on() {
    let (context, digest) = with_image();
    let registry = FakeRegistry::start().unwrap();
    let name = format!("{}/app:v1", registry.host());
    registry.plan("PUT", "/uploads/", 1, Fault::CutUpload(10));
    registry.plan("PUT", "/manifests/", 1, Fault::Limited(0));
    ok(context.run(&["push", "image", &name]));
    registry.plan("GET", "/blobs/", 1, Fault::Cut(10));
    registry.plan("GET", "/manifests/", 1, Fault::Status(503));
    let said = ok(context.run(&["pull", &name]));
    assert_eq!(said.stdout.trim(), digest);
    assert!(said.stderr.contains("503 Service Unavailable; trying again in"), "{said}");
    // Wrong bytes leave nothing behind.
    let fresh = context.env("WBUILD_HOME", "other-state");
    registry.plan("GET", "/blobs/", usize::MAX, Fault::WrongByte);
    let said = fresh.run(&["pull", &name, "-o", "wrong"]);
    assert!(said.code == 1 && said.stderr.contains("has the digest"), "{said}");
    assert!(!fresh.path("wrong/index.json").exists());
    let blobs = fresh.path("other-state/blobs");
    let files = |path: &std::path::Path| fs::read_dir(path).map_or(0, |entries| entries.count());
    let count: usize =
        fs::read_dir(&blobs).map_or(0, |found| found.map(|entry| files(&entry.unwrap().path())).sum());
    assert_eq!(count, 0, "something is in {}", blobs.display());
}

#[test]
fn what_belongs_to_an_image_follows_it() {
    let context = TestContext::empty();
    context.write("files/f", "hello");
    context.write("files/Dockerfile", "FROM scratch\nCOPY f /f\n");
    let args =
        ["build", "--progress", "quiet", "--sbom", "true", "-o", "type=oci,tar=false,dest=image", "files"];
    let digest = ok(context.run(&args)).stdout.trim().to_owned();
    for api in [false, true] {
        let registry = FakeRegistry::start().unwrap();
        if api {
            registry.list_referrers();
        }
        let name = format!("{}/app:v1", registry.host());
        for _ in 0..2 {
            let said = ok(context.run(&["push", "image", &name]));
            assert!(said.stderr.contains("with 1 document about it"), "{said}");
        }
        let tag = digest.replace(':', "-");
        assert_eq!(registry.manifest("app", &tag).is_none(), api);
        let artifacts = registry
            .seen()
            .iter()
            .filter(|seen| {
                seen.method == "PUT"
                    && seen.path.contains("/manifests/")
                    && String::from_utf8_lossy(&seen.body).contains("\"subject\"")
            })
            .count();
        assert_eq!(artifacts, 1);
        // From the registry into a layout, under its name, and from there to the next registry.
        let copied = format!("oci:copied-{api}");
        let said = ok(context.run(&["copy", &name, &copied]));
        assert!(said.stdout.trim() == digest && said.stderr.contains("with 1 document about it"), "{said}");
        let archive = format!("oci-archive:{api}.tar");
        ok(context.run(&["copy", &copied, &archive]));
        let index: Value = serde_json::from_slice(&archived(&context, api)).unwrap();
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], name);
        let next = format!("{}/next:v1", registry.host());
        assert!(ok(context.run(&["copy", &archive, &next])).stderr.contains("with 1 document about it"));
        assert_eq!(registry.manifest("next", &tag).is_none(), api);
    }
}

/// `index.json` of an archive.
fn archived(context: &TestContext, api: bool) -> Vec<u8> {
    let mut tar = tar::Archive::new(fs::File::open(context.path(&format!("{api}.tar"))).unwrap());
    let is_index = |entry: &tar::Entry<'_, fs::File>| entry.path().unwrap().ends_with("index.json");
    let mut entry = tar.entries().unwrap().map(Result::unwrap).find(is_index).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
    bytes
}

#[test]
fn places_that_are_mistyped() {
    let context = TestContext::empty();
    context.write("image/oci-layout", "{}");
    context.write("files/a", "a");
    context.write("archive.tar", "no tar");
    context.write("archive.gz", "");
    fs::write(context.path("archive.gz"), [0x1f, 0x8b, 8, 0]).unwrap();
    let mut said = Vec::new();
    for args in [
        &["copy", "image", "example.test/app"][..],
        &["copy", "oci-dir:image", "example.test/app"],
        &["copy", "containers-storage:alpine", "oci:out"],
        &["copy", "docker:example.test/app", "oci:out"],
        &["copy", "https://example.test/app", "oci:out"],
        &["copy", "oci:image", "out.tar"],
        &["copy", "oci:image", "./out"],
        &["copy", "oci:files", "oci:out"],
        &["push", "files", "127.0.0.1:1/app"],
        &["push", "archive.tar", "127.0.0.1:1/app"],
        &["push", "archive.gz", "127.0.0.1:1/app"],
        &["push", "image", "foo:bar/app"],
        &["pull", "--platform", "linux/amd46", "example.test/app"],
    ] {
        said.push(format!("{}\n{}", args.join(" "), context.run(args)));
    }
    assert_snapshot!(said.join("\n\n"));
}

#[test]
fn a_registry_is_asked_no_more_than_it_must_be() {
    // The more each question costs it, the more it counts: a registry with hashed passwords needs a tenth of a second.
    let requests = |door: Door| {
        let (context, _) = with_image();
        let registry = FakeRegistry::start_with(door, |stream| Ok(Box::new(stream))).unwrap();
        let name = |rest: &str| format!("{}/{rest}", registry.host());
        let auth = json!({ "auths": { registry.host(): { "username": "u", "password": "hunter2" } } });
        let config = context.folder().join("home/.docker");
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("config.json"), auth.to_string()).unwrap();
        let mut counts = Vec::new();
        for args in [
            vec!["push".to_owned(), "image".to_owned(), name("app:v1"), name("app:v2")],
            vec!["push".to_owned(), "image".to_owned(), name("app:v1"), name("app:v2")],
            vec!["pull".to_owned(), name("app:v1")],
        ] {
            let before = registry.asked().len();
            ok(context.run(&args));
            let asked = registry.asked().split_off(before);
            counts.push((asked.len(), asked.iter().filter(|asked| asked.contains("/token")).count()));
        }
        counts
    };
    // Two tags, the digest, two blobs of three requests each, two tags; then two tags; then manifest, config and layer.
    assert_eq!(requests(Door::Open), [(11, 0), (2, 0), (3, 0)]);
    // One is refused, and says what is wanted; one token is enough.
    assert_eq!(requests(Door::Basic("u", "hunter2")), [(12, 0), (3, 0), (4, 0)]);
    assert_eq!(requests(Door::Bearer("u", "hunter2")), [(13, 1), (4, 1), (5, 1)]);
}
