//! Every kind of output, as other tools read it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::context::{TestContext, bases, skip};
use crate::docker::Docker;

/// A few files, large and small, a link, something that goes away again.
fn project() -> TestContext {
    let context = TestContext::empty();
    let large: String = (0..200_000_u32).map(|n| format!("{}\n", n.wrapping_mul(2_654_435_761))).collect();
    context.write("files/large", &large);
    context.write("files/a/small", "small");
    context.write("files/gone", "gone");
    context.write("other/gone", "not gone");
    std::os::unix::fs::symlink("a/small", context.path("files/link")).unwrap();
    context.write("Dockerfile", "FROM scratch\nCOPY files /\nCOPY other /\nCMD [\"/bin/none\"]\n");
    context
}

/// A tool; `None`, with the reason printed, when it is not installed.
fn tool(program: &str) -> Option<Command> {
    if Command::new(program).arg("--version").output().is_err() {
        skip(&format!("{program} is not installed"));
        return None;
    }
    Some(Command::new(program))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// `wbuild build`; gives its digest.
fn build(context: &TestContext, args: &[&str]) -> String {
    let output = context.run(&[&["build", "--progress", "plain"], args, &["."]].concat());
    assert_eq!(output.code, 0, "{output}");
    output.stdout.trim().to_owned()
}

fn blob(layout: &Path, descriptor: &Value) -> Value {
    let hex = descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:");
    serde_json::from_slice(&fs::read(layout.join("blobs/sha256").join(hex)).unwrap()).unwrap()
}

fn index(layout: &Path) -> Value {
    serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap()
}

fn manifest(layout: &Path) -> Value {
    blob(layout, &index(layout)["manifests"][0])
}

fn diff_ids(layout: &Path) -> Value {
    blob(layout, &manifest(layout)["config"])["rootfs"]["diff_ids"].clone()
}

fn media_types(layout: &Path) -> Vec<String> {
    let manifest = manifest(layout);
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["mediaType"].as_str().unwrap().to_owned()).collect()
}

const COMPRESSIONS: [(&str, &str); 4] =
    [("gzip", "tar+gzip"), ("zstd", "tar+zstd"), ("estargz", "tar+gzip"), ("uncompressed", "tar")];

#[test]
fn one_build_writes_every_compression_and_others_read_it() {
    let context = project();
    let specs = COMPRESSIONS.map(|(name, _)| format!("type=oci,dest=../{name},tar=false,compression={name}"));
    let mut args = vec!["-t", "web:1"];
    args.extend(specs.iter().flat_map(|spec| ["-o", spec]));
    args.extend(["-o", "type=oci,dest=../oci.tar", "-o", "type=docker,dest=../docker.tar"]);
    args.extend(["-o", "type=local,dest=../local", "-o", "type=tar,dest=../files.tar"]);
    let digest = build(&context, &args);
    let at = |name: &str| context.folder().join(name);
    assert_eq!(index(&at("gzip"))["manifests"][0]["digest"], digest);
    for (name, media_type) in COMPRESSIONS {
        let wanted = format!("application/vnd.oci.image.layer.v1.{media_type}");
        assert_eq!(media_types(&at(name)), [wanted.clone(), wanted], "{name}");
    }
    // Whatever the compression, the same files; eStargz brings its own along.
    assert_eq!(diff_ids(&at("zstd")), diff_ids(&at("gzip")));
    assert_eq!(diff_ids(&at("uncompressed")), diff_ids(&at("gzip")));
    assert_ne!(diff_ids(&at("estargz")), diff_ids(&at("gzip")));
    assert_eq!(fs::read_to_string(at("local/gone")).unwrap(), "not gone");

    for (name, _) in COMPRESSIONS {
        let source = format!("oci:{}:1", at(name).display());
        if let Some(mut skopeo) = tool("skopeo") {
            // Reads every blob and compares its digest; the config says what is in them.
            run(skopeo
                .args(["--insecure-policy", "copy", "-q", &source])
                .arg(format!("dir:{}", at("dir").display())));
        }
        // umoci of Debian 12 knows no zstd.
        if let Some(mut umoci) = tool("umoci").filter(|_| name != "zstd") {
            let bundle = at(&format!("{name}-unpacked"));
            let image = source.trim_start_matches("oci:");
            run(umoci.args(["unpack", "--rootless", "--image", image]).arg(&bundle));
            assert_eq!(fs::read_to_string(bundle.join("rootfs/a/small")).unwrap(), "small");
            assert_eq!(fs::read_to_string(bundle.join("rootfs/gone")).unwrap(), "not gone");
            let large = fs::read(bundle.join("rootfs/large")).unwrap();
            assert!(large == fs::read(context.path("files/large")).unwrap(), "{name}");
        }
    }
    for source in ["oci-archive:oci.tar", "docker-archive:docker.tar"] {
        let Some(mut skopeo) = tool("skopeo") else { return };
        let source = source.replace(':', &format!(":{}/", context.folder().display()));
        run(skopeo.args(["inspect", &source]));
    }
}

/// `docker-archive:` of skopeo and `docker save` before Docker 25 hold no layout.
#[test]
fn archives_of_older_tools_are_read() {
    let context = project();
    build(&context, &["-t", "app:v1", "-o", "type=oci,dest=image,tar=false"]);
    let Some(mut skopeo) = tool("skopeo") else { return };
    let at = |name: &str| context.path(name);
    let archive = format!("docker-archive:{}:app:v1", at("old.tar").display());
    run(skopeo
        .args(["--insecure-policy", "copy", "-q"])
        .arg(format!("oci:{}", at("image").display()))
        .arg(&archive));
    let said = context.run(&["copy", "docker-archive:old.tar", "oci:copied"]);
    assert_eq!(said.code, 0, "{said}");
    assert_eq!(diff_ids(&at("copied")), diff_ids(&at("image")));
    let index: Value = serde_json::from_slice(&fs::read(at("copied/index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "v1");
}

#[test]
fn levels_are_other_layers_and_nothing_is_compressed_twice() {
    let context = project();
    let of = |level: u8, jobs: &str| {
        let spec = format!("type=oci,dest=../l{level},tar=false,compression=zstd,compression-level={level}");
        build(&context, &["-j", jobs, "-o", &spec])
    };
    assert_ne!(of(1, "1"), of(19, "1"));
    let fresh = TestContext::env(project(), "RAYON_NUM_THREADS", "1");
    let spec = "type=oci,dest=../l,tar=false,compression=zstd,compression-level=19";
    assert_eq!(build(&fresh, &["-o", spec]), of(19, "4"), "threads change nothing");
}

#[test]
fn base_layers_pass_unless_they_are_forced() {
    if bases().is_none() {
        return;
    }
    let context = project();
    context.write("Dockerfile", "FROM alpine:3.23\nCOPY files /\n");
    let images = context.base_images();
    let mut args: Vec<&str> = images.iter().map(String::as_str).collect();
    let specs: Vec<String> = ["plain", "zstd", "uncompressed", "estargz"]
        .iter()
        .map(|name| match *name {
            "plain" => "type=oci,dest=../plain,tar=false,compression=zstd".to_owned(),
            name => format!("type=oci,dest=../{name},tar=false,compression={name},force-compression=true"),
        })
        .collect();
    args.extend(specs.iter().flat_map(|spec| ["-o", spec]));
    build(&context, &args);
    let at = |name: &str| context.folder().join(name);
    let types = media_types(&at("plain"));
    assert!(types[0].ends_with("gzip") && types.last().unwrap().ends_with("zstd"), "{types:?}");
    assert!(media_types(&at("zstd")).iter().all(|found| found.ends_with("zstd")));
    assert!(media_types(&at("uncompressed")).iter().all(|found| found.ends_with("tar")));
    assert_eq!(diff_ids(&at("zstd")), diff_ids(&at("plain")));
    for layer in manifest(&at("estargz"))["layers"].as_array().unwrap() {
        assert!(layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"].is_string(), "{layer}");
    }
    let Some(mut umoci) = tool("umoci") else { return };
    let bundle = at("bundle");
    run(umoci.args(["unpack", "--rootless", "--image"]).arg(tagged(&at("estargz"))).arg(&bundle));
    assert!(bundle.join("rootfs/bin/busybox").exists());
}

/// `FOLDER:TAG` of a layout whose only image has no name: gives it one.
fn tagged(layout: &Path) -> String {
    let mut index = index(layout);
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = "x".into();
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    format!("{}:x", layout.display())
}

#[test]
fn what_was_built_is_told_as_buildx_tells_it() {
    let context = project();
    let digest = build(
        &context,
        &[
            "-t",
            "web:1",
            "-t",
            "localhost:5000/a/web",
            "-o",
            "type=oci,dest=../out,tar=false",
            "--annotation",
            "org.example.note=x",
            "--annotation",
            "manifest-descriptor:org.example.other=y",
            "--metadata-file",
            "../metadata.json",
            "--iidfile",
            "../iid",
        ],
    );
    let text = fs::read_to_string(context.folder().join("metadata.json")).unwrap();
    let metadata: Value = serde_json::from_str(&text).unwrap();
    let out = context.folder().join("out");
    let manifest = manifest(&out);
    assert_eq!(manifest["annotations"]["org.example.note"], "x");
    assert_eq!(metadata["containerimage.digest"], digest);
    assert_eq!(metadata["containerimage.config.digest"], manifest["config"]["digest"]);
    assert_eq!(fs::read_to_string(context.folder().join("iid")).unwrap(), manifest["config"]["digest"]);
    assert_eq!(metadata["image.name"], "docker.io/library/web:1,localhost:5000/a/web:latest");
    let descriptor = &metadata["containerimage.descriptor"];
    assert_eq!(descriptor["annotations"]["org.example.other"], "y");
    assert_eq!(descriptor["annotations"]["org.opencontainers.image.created"], "1970-01-01T00:00:01Z");
    assert_eq!(index(&out)["manifests"][0]["annotations"]["org.example.other"], "y");
    assert!(metadata["buildx.build.ref"].as_str().unwrap().split('/').count() == 3, "{text}");
    // How it came to be, unless somebody wants to know more or less of that.
    let definition = &metadata["buildx.build.provenance"]["buildDefinition"];
    assert_eq!(definition["buildType"], "urn:wbuild:build:dockerfile:v1");
    assert_eq!(definition["externalParameters"].get("dockerfileText"), None);
    let with = |mode: &str| {
        let context = project().env("BUILDX_METADATA_PROVENANCE", mode);
        build(&context, &["--metadata-file", "../metadata.json"]);
        let text = fs::read_to_string(context.folder().join("metadata.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(with("disabled").get("buildx.build.provenance"), None);
    let max = &with("max")["buildx.build.provenance"]["buildDefinition"];
    assert!(max["externalParameters"]["dockerfileText"].is_string());
    // With -q the id alone, as docker has it.
    let quiet = context.run(&["build", "-q", "."]);
    assert_eq!((quiet.stderr.as_str(), quiet.code), ("", 0), "{quiet}");
    assert!(quiet.stdout.starts_with("sha256:") && quiet.stdout.lines().count() == 1);
}

/// An archive that is there and that nobody has touched stays; one that somebody did touch is written.
#[test]
fn an_archive_that_is_there_already_stays() {
    use std::os::unix::fs::MetadataExt;
    let context = project();
    let at = |name: &str| context.folder().join(name);
    let write = || {
        let args = ["-t", "web:1", "-o", "type=oci,dest=../oci.tar", "-o", "type=docker,dest=../docker.tar"];
        build(&context, &args);
        ["oci.tar", "docker.tar"]
            .map(|name| (fs::metadata(at(name)).unwrap().ino(), fs::read(at(name)).unwrap()))
    };
    let [(oci, bytes), (docker, _)] = write();
    if fs::metadata(at("oci.tar")).unwrap().mtime_nsec() % 1_000_000_000 == 0 {
        return skip("this file system keeps no fractions of seconds");
    }
    assert_eq!(write().map(|(inode, _)| inode), [oci, docker]);
    // The same size, another byte.
    let mut other = bytes.clone();
    other[600] ^= 1;
    fs::write(at("oci.tar"), other).unwrap();
    let [(again, mended), (kept, _)] = write();
    assert!(again != oci && mended == bytes && kept == docker);
    // Another image in its place.
    context.write("files/small", "other");
    let [(_, changed), _] = write();
    assert!(changed != bytes);
}

#[test]
fn a_folder_keeps_its_other_images() {
    let context = project();
    let out = context.folder().join("out");
    let write = |tag: &str| build(&context, &["-t", tag, "-o", "type=oci,dest=../out,tar=false"]);
    let first = write("web:1");
    context.write("other/gone", "changed");
    let second = write("web:2");
    let digests = || -> Vec<String> {
        let index = index(&out);
        let entries = index["manifests"].as_array().unwrap().iter();
        entries.map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(digests(), [first, second.clone()]);
    assert_eq!(write("web:1"), second);
    assert_eq!(digests(), [second.clone(), second.clone()]);
    if let Some(mut skopeo) = tool("skopeo") {
        let theirs = ["--insecure-policy", "copy", "-q"];
        run(skopeo
            .args(theirs)
            .arg(format!("oci:{}:2", out.display()))
            .arg(format!("oci:{}:x", out.display())));
        context.write("other/gone", "once more");
        write("web:2");
        assert_eq!(digests().len(), 3);
        run(Command::new("skopeo").args(["inspect", &format!("oci:{}:x", out.display())]));
    }
}

#[test]
fn docker_gets_only_the_layers_that_it_lacks() {
    let context = project();
    let Some(docker) = Docker::start(&context.folder().join("docker")) else { return };
    let context = context.env("DOCKER_HOST", &docker.host);
    let load = |args: &[&str]| {
        let output = context.run(&[&["build", "--progress", "plain", "--load"], args, &["."]].concat());
        assert_eq!(output.code, 0, "{output}");
        output.stderr.lines().find(|line| line.starts_with("loaded")).unwrap().to_owned()
    };
    let all = load(&["-t", "web:1"]);
    assert!(all.starts_with("loaded web:1 into docker at unix://") && !all.contains("(0 B"), "{all}");
    // The same image under another name: nothing is sent.
    assert!(load(&["-t", "web:2"]).contains("(0 B of "));
    docker.run(&["image", "inspect", "web:1", "web:2"]);
    // Another last layer: that alone is.
    context.write("other/gone", "changed");
    let one = load(&["-t", "web:2"]);
    assert!(one.contains(" B of ") && !one.contains("(0 B"), "{one}");
    docker.run(&["image", "inspect", "web:2"]);
    let saved = context.folder().join("saved.tar");
    docker.run(&["save", "--output", saved.to_str().unwrap(), "web:2"]);
    if let Some(mut skopeo) = tool("skopeo") {
        // What came together over three loads is an image: every layer can be read.
        let target = format!("oci:{}:x", context.folder().join("back").display());
        run(skopeo
            .args(["--insecure-policy", "copy", "-q"])
            .arg(format!("docker-archive:{}", saved.display()))
            .arg(target));
        let config =
            blob(&context.folder().join("back"), &manifest(&context.folder().join("back"))["config"]);
        let out = context.folder().join("out");
        build(&context, &["-o", "type=oci,dest=../out,tar=false"]);
        assert_eq!(config["rootfs"]["diff_ids"], diff_ids(&out));
    }
    // Archives of every compression, as docker reads them.
    for (name, _) in COMPRESSIONS.iter().filter(|(name, _)| *name != "zstd") {
        let archive = context.folder().join(format!("{name}.tar"));
        let spec = format!("type=docker,dest={},compression={name}", archive.display());
        build(&context, &["-t", &format!("loaded:{name}"), "-o", &spec]);
        docker.run(&["load", "--quiet", "--input", archive.to_str().unwrap()]);
        docker.run(&["image", "inspect", &format!("loaded:{name}")]);
    }
}

/// podman's store in a folder of the test's.
fn storage(context: &TestContext) -> PathBuf {
    let conf = context.folder().join("storage.conf");
    let folder = context.folder().display();
    fs::write(
        &conf,
        format!("[storage]\ndriver = \"vfs\"\nrunroot = \"{folder}/run\"\ngraphroot = \"{folder}/graph\"\n"),
    )
    .unwrap();
    conf
}

#[test]
fn podman_and_containers_storage_take_images() {
    if !rustix::process::getuid().is_root() || tool("podman").is_none() || tool("skopeo").is_none() {
        skip("needs root, podman and skopeo");
        return;
    }
    let context = project();
    let conf = storage(&context);
    let podman = |args: &[&str]| run(Command::new("podman").args(args).env("CONTAINERS_STORAGE_CONF", &conf));
    build(&context, &["-t", "archived:1", "-o", "type=docker,dest=../docker.tar"]);
    podman(&["load", "--quiet", "--input", context.folder().join("docker.tar").to_str().unwrap()]);
    let context = context.env("CONTAINERS_STORAGE_CONF", conf.to_str().unwrap());
    let context = context.env("CONTAINERD_ADDRESS", "/nowhere");
    build(&context, &["-t", "stored:1", "-o", "type=image,compression=zstd"]);
    if Path::new("/var/run/docker.sock").exists() {
        skip("a docker of this machine would be loaded into");
    } else {
        build(&context, &["-t", "loaded:1", "-t", "example.test/a/b:2", "--load"]);
        for name in ["loaded:1", "example.test/a/b:2"] {
            podman(&["image", "exists", name]);
        }
    }
    for name in ["archived:1", "docker.io/library/stored:1"] {
        podman(&["image", "exists", name]);
    }
    let images = podman(&["images", "--quiet", "--no-trunc"]);
    let mut ids: Vec<&str> = images.lines().collect();
    ids.dedup();
    assert_eq!(ids.len(), 1, "one image under all names:\n{images}");
    assert!(!podman(&["images"]).contains("wbuild"), "no name of wbuild's own is left");
}

#[test]
fn without_an_engine_that_is_said_before_anything_runs() {
    let context = project();
    context.write("Dockerfile", "FROM scratch\nRUN never\n");
    let context = context.env("DOCKER_HOST", "unix:///nowhere").env("CONTAINERD_ADDRESS", "/nowhere");
    let context = context.env("PATH", "/nowhere");
    let answer = context.refused(&["build", "--progress", "plain", "-t", "a", "-o", "type=image", "."]);
    assert!(answer.contains("no containerd at `/nowhere`, and neither skopeo nor podman"), "{answer}");
    assert!(!answer.contains("RUN never"), "{answer}");
    let answer = context.refused(&["build", "--progress", "plain", "-o", "type=docker,context=far", "."]);
    assert!(answer.contains("there is no `docker` program, which the context `far` needs"), "{answer}");
}

#[test]
fn the_machines_own_root_is_no_output() {
    let context = TestContext::empty();
    // No files: a mistake here must not cost the machine its own.
    context.write("Dockerfile", "FROM scratch\nLABEL a=b\n");
    for place in ["type=local,dest=/", "type=local,dest=/,mode=delete", "/"] {
        let output = context.run(&["build", "-o", place, "."]);
        assert_eq!(output.code, 1, "{output}");
        let said =
            "error: `/` is the root of this machine, and no output is written there\nhint: name a folder";
        assert!(output.stderr.contains(said), "{output}");
    }
}
