//! The command line: wrong usage is exit code 2 and says what is right; what is asked for on standard output is there.

use std::fs;

use insta::assert_snapshot;

use crate::context::TestContext;

#[test]
fn unknown_commands_and_flags() {
    let context = TestContext::empty();
    assert_snapshot!(context.refused(&["imgae"]), @"
    exit 2
    -- stderr
    error: unrecognized subcommand 'imgae'

      tip: a similar subcommand exists: 'image'

    Usage: wbuild <COMMAND>

    For more information, try '--help'.
    ");
    assert_snapshot!(context.refused(&["image", "--targt", "base"]), @"
    exit 2
    -- stderr
    error: unexpected argument '--targt' found

      tip: a similar argument exists: '--target'

    Usage: wbuild image --target <STAGE>

    For more information, try '--help'.
    ");
    assert_snapshot!(context.refused(&["image", "surplus"]), @"
    exit 2
    -- stderr
    error: unexpected argument 'surplus' found

    Usage: wbuild image [OPTIONS]

    For more information, try '--help'.
    ");
    assert_snapshot!(context.refused(&["run"]), @"
    exit 2
    -- stderr
    error: the following required arguments were not provided:
      <IMAGE>

    Usage: wbuild run <IMAGE> [-- <COMMAND>...]

    For more information, try '--help'.
    ");
}

#[test]
fn no_command_is_a_question() {
    let context = TestContext::empty();
    let said = context.run::<&str>(&[]);
    assert_eq!(said.code, 2);
    assert!(said.stderr.contains("Usage: wbuild <COMMAND>"), "{said}");
}

#[test]
fn help_and_version_go_to_standard_output() {
    let context = TestContext::empty();
    for args in [&["--help"][..], &["image", "--help"], &["run", "-h"]] {
        let said = context.run(args);
        assert!(said.code == 0 && said.stdout.contains("Usage: wbuild") && said.stderr.is_empty(), "{said}");
    }
    let said = context.run(&["--version"]);
    assert!(said.stdout.starts_with(&format!("wbuild {}", env!("CARGO_PKG_VERSION"))), "{said}");
}

#[test]
fn outputs() {
    let context = TestContext::small();
    assert_snapshot!(context.refused(&["image", "--output", "type=oci,tar=false"]), @"
    exit 2
    -- stderr
    error: --output type=oci needs a dest
    hint: for example type=oci,dest=FOLDER,tar=false
    ");
    assert_snapshot!(context.refused(&["image", "--output", "type=dokcer,dest=x.tar"]), @"
    exit 2
    -- stderr
    error: `dokcer` is no type of --output
    hint: did you mean `docker`?
    ");
    assert_snapshot!(context.refused(&["build", "--output", "type=oci,dest=x,compresion=zstd", "."]), @"
    exit 2
    -- stderr
    error: `compresion` means nothing to type=oci in --output
    hint: did you mean `compression`?
    ");
    assert_snapshot!(context.refused(&["image", "--output", ""]), @"
    exit 2
    -- stderr
    error: --output names nothing
    hint: for example type=oci,dest=image.tar or type=oci,dest=FOLDER,tar=false or type=local,dest=FOLDER
    ");
    assert_snapshot!(context.refused(&["build", "--annotation", "mainfest:a=b", "."]), @"
    exit 2
    -- stderr
    error: `mainfest` is no level of annotations
    hint: did you mean `manifest`?
    ");
    assert_snapshot!(context.refused(&["build", "--push", "."]), @"
    exit 2
    -- stderr
    error: a tag is needed to push an image
    hint: --tag HOST/REPOSITORY:TAG
    ");
    assert_snapshot!(context.refused(&["build", "--platform", "linux/amd64,linux/arm64", "."]), @"
    exit 2
    -- stderr
    error: `--platform linux/amd64,linux/arm64` names several platforms, and a build is for one
    hint: build each with a --tag of its own; `docker buildx imagetools create` puts them under one name
    ");
}

#[test]
fn two_outputs_in_one_place() {
    let context = TestContext::small();
    assert_snapshot!(context.refused(&["image", "-o", "out", "-o", "type=oci,dest=out,tar=false"]), @"
    exit 2
    -- stderr
    error: two outputs go to `out`
    hint: give each a place of its own
    ");
    assert_snapshot!(context.refused(&["build", "-o", "-", "-o", "type=oci", "."]), @"
    exit 2
    -- stderr
    error: two outputs go to standard output
    hint: give each a place of its own
    ");
}

#[test]
fn build_arguments() {
    let context = TestContext::small();
    assert_snapshot!(context.refused(&["image", "--build-arg", "=x"]), @"
    exit 2
    -- stderr
    error: `--build-arg =x` does not begin with the name of a variable
    hint: --build-arg NAME=VALUE, or NAME to take it from the environment
    ");
    assert_snapshot!(context.refused(&["image", "--build-arg", "NO SUCH=x"]), @"
    exit 2
    -- stderr
    error: `--build-arg NO SUCH=x` does not begin with the name of a variable
    hint: --build-arg NAME=VALUE, or NAME to take it from the environment
    ");
}

#[test]
fn platforms() {
    let context = TestContext::small();
    assert_snapshot!(context.refused(&["image", "--platform", "x86"]), @"
    exit 2
    -- stderr
    error: `x86` is not a platform of the form `os/architecture[/variant]`, such as `linux/arm64`
    hint: for example linux/amd64 or linux/arm64
    ");
    assert_snapshot!(context.refused(&["image", "--platform", "linux/s390x"]), @"
    exit 2
    -- stderr
    error: steps for linux/s390x cannot be run on this machine, which is linux/amd64
    hint: leave --platform out, or build on a linux/s390x machine
    ");
    assert_snapshot!(context.refused(&["image", "--platform", "windows/amd64"]), @"
    exit 2
    -- stderr
    error: steps for windows/amd64 cannot be run on this machine, which is linux/amd64
    hint: leave --platform out, or build on a windows/amd64 machine
    ");
}

#[test]
fn secrets() {
    let context = TestContext::small();
    assert_snapshot!(context.refused(&["image", "--secret", "token"]), @"
    exit 2
    -- stderr
    error: `--secret token` is not of the form id=ID[,src=FILE|,env=NAME]
    hint: --secret id=token,env=TOKEN
    ");
    assert_snapshot!(context.refused(&["image", "--secret", "id=,src=x"]), @"
    exit 2
    -- stderr
    error: `--secret id=,src=x` is not of the form id=ID[,src=FILE|,env=NAME]
    hint: --secret id=token,env=TOKEN
    ");
    assert_snapshot!(context.refused(&["image", "--secret", "id=token,src=no-such-file"]), @"
    exit 2
    -- stderr
    error: cannot read the secret `token` from `no-such-file`: No such file or directory (os error 2)
    ");
    assert_snapshot!(context.refused(&["image", "--secret", "id=token,env=NO_SUCH"]), @"
    exit 2
    -- stderr
    error: the secret `token` comes from the variable `NO_SUCH`, which is not set
    ");
}

#[test]
fn labels_tags_and_base_images() {
    let context = TestContext::small();
    assert_snapshot!(context.refused(&["image", "--label", "team"]), @"
    exit 2
    -- stderr
    error: `--label team` is not of the form NAME=VALUE
    hint: --label team=web
    ");
    assert_snapshot!(context.refused(&["image", "--tag", "Not A Name"]), @"
    exit 2
    -- stderr
    error: `Not A Name` is not a repository name: lower-case letters, digits, and single `.`, `_`, `-` between them
    hint: a name is of the form [HOST/]REPOSITORY[:TAG]
    ");
    assert_snapshot!(context.refused(&["image", "--build-context", "alpine:3.23"]), @"
    exit 2
    -- stderr
    error: `--build-context alpine:3.23` is not of the form NAME=PLACE
    hint: for example node:22-alpine=oci-layout://DIR
    ");
    assert_snapshot!(context.refused(&["image", "--build-context", "alpine:3.23=https://example.com"]), @"
    exit 2
    -- stderr
    error: `https://example.com` is not of the form NAME=oci-layout://DIR[:TAG|@DIGEST] or NAME=docker-image://REF
    hint: an image is in a layout or a registry: oci-layout://DIR[:TAG|@DIGEST], docker-image://REF
    ");
}

#[test]
fn numbers() {
    let context = TestContext::small();
    assert_snapshot!(context.refused(&["image", "--jobs", "0"]), @"
    exit 2
    -- stderr
    error: invalid value '0' for '--jobs <N>': number would be zero for non-zero type

    For more information, try '--help'.
    ");
    assert_snapshot!(context.refused(&["image", "--timestamp", "yesterday"]), @"
    exit 2
    -- stderr
    error: --timestamp is `yesterday`, which is no number of seconds
    hint: for example 1700000000
    ");
    assert_snapshot!(context.refused(&["image", "--progress", "loud"]), @"
    exit 2
    -- stderr
    error: invalid value 'loud' for '--progress <MODE>': unknown progress mode `loud`; there are auto, tty, plain, json and quiet

    For more information, try '--help'.
    ");
}

#[test]
fn a_limit_of_the_cache() {
    let context = TestContext::small().env("WBUILD_CACHE_LIMIT", "much");
    assert_snapshot!(context.refused(&["image"]), @"
    exit 2
    -- stderr
    error: `much` is no size
    hint: for example 20GB
    ");
}

#[test]
fn an_environment_that_is_no_utf_8() {
    use std::os::unix::ffi::OsStrExt;
    let context = TestContext::small();
    let value = std::ffi::OsStr::from_bytes(b"\xff");
    let mut args = vec!["image".to_owned(), "--target".to_owned(), "no-such".to_owned()];
    args.extend(context.base_images());
    let output = context.command(&args).env("ODD", value).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn images_to_run() {
    let context = TestContext::empty();
    assert_snapshot!(context.refused(&["run", "nowhere"]), @"
    exit 1
    -- stderr
    error: `nowhere/oci-layout` is no OCI layout: there is no such file
    ");
    assert_snapshot!(context.refused(&["run", "nowhere", "--publish", "http"]), @"
    exit 2
    -- stderr
    error: `--publish http` is not of the form [HOST:]PORT
    hint: -p 8080:3000
    ");
    assert_snapshot!(context.refused(&["run", "nowhere", "--network", "bridge"]), @"
    exit 2
    -- stderr
    error: `bridge` is no network
    hint: --network private, host or none
    ");
}

#[test]
fn a_printed_spec_is_read_back_as_it_is() {
    for context in [TestContext::example(), TestContext::small()] {
        let first = context.run(&["image", "--print-spec"]);
        assert!(first.code == 0 && first.stderr.is_empty(), "{first}");
        context.write("wbuild.toml", &first.stdout);
        let again = context.run(&["image", "--print-spec"]);
        let plain =
            |text: &str| text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        assert_eq!(plain(&first.stdout), plain(&again.stdout));
    }
}

#[test]
fn a_spec_can_be_printed_to_where_it_is_looked_for() {
    for path in ["wbuild.toml", "apps/web/wbuild.toml"] {
        let context = TestContext::example();
        let printed = context.run(&["image", "--print-spec"]).stdout;
        for args in [&["image", "--print-spec"][..], &["image", "--print-spec", "--file", path]] {
            let file = fs::File::create(context.path(path)).unwrap();
            let status = context.command(args).stdout(file).status().unwrap();
            assert!(status.success(), "{args:?}");
            assert_eq!(context.read(path), printed);
        }
        context.write(path, "");
        assert!(context.refused(&["image"]).contains(path), "only for whoever prints it is it not there");
    }
}

#[test]
fn what_is_inferred_is_what_the_example_says() {
    let context = TestContext::example();
    let inferred = context.run(&["image", "--print-spec"]);
    assert_snapshot!(inferred, @r#"
    exit 0
    -- stdout
    # Inferred, since there is no wbuild.toml. `wbuild image --print-spec > wbuild.toml` keeps it.
    version = 1
    # apps/web/package.json: the only package that builds with next
    app = "web"

    [base]
    # from .node-version
    image = "node:22.16.0-alpine"

    [toolchain]
    # turbo from pnpm-lock.yaml; pnpm from packageManager; compilers, because dependencies may build native code
    run = [
      "npm install -g turbo@2.11.11 pnpm@10.18.2",
      "apk add --no-cache libc6-compat python3 make g++ openssl",
    ]

    [install]
    network = true

    [build]
    task = "build"
    network = true
    from-host = []

    [env]
    NEXT_TELEMETRY_DISABLED = "1"
    NODE_ENV = "production"

    [args]
    # declared in turbo.json; the build itself connects to no database
    DATABASE_URL = "postgresql://placeholder:placeholder@placeholder:5432/placeholder?schema=public"

    [secrets.next-preview-keys]
    file = "apps/web/.next/cache/.previewinfo"
    version = "1"
    required = false

    [secrets.next-server-actions-key]
    env = "NEXT_SERVER_ACTIONS_ENCRYPTION_KEY"
    version = "1"
    required = false

    [runner]
    image = "node:22.16.0-alpine"
    user = "nextjs"
    uid = 1001
    group = "nodejs"
    gid = 1001
    workdir = "/app"
    expose = ["3000/tcp"]
    cmd = ["node", "apps/web/server.js"]
    layers = ["links", "modules", "packages"]

    [runner.env]
    HOSTNAME = "0.0.0.0"
    NEXT_TELEMETRY_DISABLED = "1"
    NODE_ENV = "production"
    PORT = "3000"

    [runner.healthcheck]
    cmd = ["node", "-e", "require('http').get(`http://127.0.0.1:${process.env.PORT||3000}/api/health`, (r) => process.exit(r.statusCode === 200 ? 0 : 1)).on('error', () => process.exit(1))"]
    interval = "30s"
    timeout = "3s"
    start-period = "40s"
    retries = 3

    [runner.labels]
    "org.opencontainers.image.title" = "web"

    [dev]
    cmd = ["turbo", "run", "dev", "--filter=web"]
    expose = ["3000/tcp"]

    [dev.env]
    CHOKIDAR_USEPOLLING = "true"
    NEXT_TELEMETRY_DISABLED = "1"
    NODE_ENV = "development"

    [normalise]
    pnpm-state = true
    next-build-id = true
    next-trace = true
    "#);
    assert!(!context.path(".wbuild").exists());
}

#[test]
fn the_workspace_is_found_from_a_folder_in_it() {
    let context = TestContext::example();
    let root = context.run(&["image", "--print-spec"]);
    let below = context.run(&["image", "--print-spec", "-C", "apps/web/src"]);
    assert_eq!(root.to_string(), below.to_string());
    let outside =
        context.command(&["image", "--print-spec", "-C", "site"]).current_dir(context.folder()).output();
    assert_eq!(String::from_utf8_lossy(&outside.unwrap().stdout), root.stdout);
}

#[test]
fn looking_at_a_state_directory_does_not_make_it() {
    let context = TestContext::empty();
    for command in ["du", "verify", "prune"] {
        let said = context.run(&["cache", command]);
        assert!(said.code == 0 && said.stdout.starts_with("there is no state directory"), "{said}");
    }
    assert!(!context.state().exists());
}

#[test]
fn the_state_directory_is_where_it_is_said_to_be() {
    let context = TestContext::small();
    context.run(&["image"]);
    assert!(context.state().exists());
    let context = TestContext::small();
    context.run(&["image", "--home", "../other"]);
    assert!(!context.state().exists() && context.folder().join("other").exists());
    let context = TestContext::small();
    context.command(&["image"]).env_remove("WBUILD_HOME").output().unwrap();
    assert!(context.folder().join("home/.cache/wbuild").exists());
    let context = TestContext::small().env("WBUILD_HOME", "");
    context.run(&["image"]);
    assert!(context.folder().join("home/.cache/wbuild").exists(), "an empty variable is none");
    let context = TestContext::small();
    let cache = context.folder().join("xdg");
    context.command(&["image"]).env_remove("WBUILD_HOME").env("XDG_CACHE_HOME", &cache).output().unwrap();
    assert!(
        cache.join("wbuild").exists()
            && fs::read_dir(context.folder().join("home")).unwrap().next().is_none()
    );
}

#[test]
fn the_version_tells_commit_and_features() {
    let said = TestContext::empty().run(&["--version"]);
    let lines: Vec<&str> = said.stdout.lines().collect();
    let [version, commit, features] = lines[..] else { panic!("{said}") };
    assert_eq!(version, concat!("wbuild ", env!("CARGO_PKG_VERSION")));
    let commit = commit.strip_prefix("commit: ").unwrap();
    assert!(commit == "unknown" || commit.chars().all(|c| c.is_ascii_hexdigit()), "{said}");
    assert!(features.starts_with("features: frontends=buildspec+dockerfile, "), "{said}");
}
