//! Builds with real steps on a real base image, in a workspace of shell scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use insta::{assert_json_snapshot, assert_snapshot};
use serde_json::Value;

use crate::context::{TestContext, base_layout, bases, processes};
use crate::layout::Layout;

#[test]
fn the_second_build_reuses_everything() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let first = context.build(&[]);
    let digest = first.digest().to_owned();
    assert_snapshot!(first.steps("built").join("\n"), @"
    [base] cat > /usr/local/bin/pnpm <<'END' …
    [deps] pnpm install
    [builder] @small/lib#generate
    [builder] web#build
    ");
    let second = context.build(&[]);
    assert_eq!(second.digest(), digest);
    assert_eq!(second.steps("built"), [""; 0]);
}

#[test]
fn all_targets() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.edit("wbuild.toml", "[normalise]", "[dev]\ncmd = [\"next\", \"dev\"]\n\n[normalise]");
    let mut digests = Vec::new();
    for target in ["base", "deps", "builder", "dev", "runner"] {
        let output = format!("type=oci,dest=../{target},tar=false");
        let built = context.build(&["--target", target, "--output", &output]);
        digests.push(built.digest().to_owned());
    }
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 5);
    let dev = Layout::open(&context.folder().join("dev"));
    assert_eq!(dev.config()["config"]["Cmd"], serde_json::json!(["next", "dev"]));
    assert!(dev.files().contains_key("app/apps/web/page.txt"));
    assert!(!dev.files().keys().any(|path| path.contains(".next")));
    let base = Layout::open(&context.folder().join("base"));
    assert!(base.files().contains_key("usr/local/bin/pnpm"));
    assert!(!base.files().keys().any(|path| path.starts_with("app/")));
}

#[test]
fn the_image_is_what_the_spec_says() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.build(&["--label", "team=web", "--tag", "example/site:1"]).digest();
    let image = Layout::open(&context.path(".wbuild/image/web"));
    assert_json_snapshot!(image.config()["config"], @r#"
    {
      "Cmd": [
        "/bin/sh",
        "apps/web/server.js"
      ],
      "Env": [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PORT=3000"
      ],
      "ExposedPorts": {
        "3000/tcp": {}
      },
      "Healthcheck": {
        "Interval": 1000000000,
        "Test": [
          "CMD",
          "/bin/true"
        ]
      },
      "Labels": {
        "team": "web"
      },
      "User": "1001:1001",
      "WorkingDir": "/app"
    }
    "#);
    let base = Layout::open(&base_layout("alpine:3.23"));
    let (own, of_base) = (image.layers(), base.layers());
    assert_eq!(own[..of_base.len()], of_base[..], "the base's layers pass through");
    let files = image.files();
    let shown: Vec<String> = files
        .iter()
        .filter(|(path, _)| path.starts_with("app"))
        .map(|(path, file)| format!("{file} {path}"))
        .collect();
    assert_snapshot!(shown.join("\n"), @"
    0755 0:0 directory app
    0755 1001:1001 directory app/apps
    0755 1001:1001 directory app/apps/web
    0755 1001:1001 directory app/apps/web/.next
    0755 1001:1001 directory app/apps/web/.next/static
    0644 1001:1001 regular app/apps/web/.next/static/site.css
    0755 1001:1001 directory app/apps/web/public
    0644 1001:1001 regular app/apps/web/public/robots.txt
    0644 1001:1001 regular app/apps/web/server.js
    ");
    let tools = ["usr/local/bin/pnpm", "usr/local/bin/next"];
    assert!(tools.iter().all(|tool| !files.contains_key(*tool)), "no build tools");
    assert_snapshot!(context.run(&["run", ".wbuild/image/web", "--network", "none"]), @"
    exit 0
    -- stdout
    hello: the first page, apple, 1001
    ");
    assert_snapshot!(context.run(&["run", ".wbuild/image/web", "--network", "none", "--", "/bin/sh", "-c", "id; echo to stderr >&2; exit 7"]), @"
    exit 7
    -- stdout
    uid=1001(nextjs) gid=1001(nodejs) groups=1001(nodejs)
    -- stderr
    to stderr
    ");
}

#[test]
fn nothing_but_the_image_and_the_state_directory_is_written() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let before = context.listing();
    context.build(&[]).digest();
    let new: Vec<_> =
        context.listing().into_iter().filter(|(path, entry)| before.get(path) != Some(entry)).collect();
    let outside: Vec<_> = new.iter().filter(|(path, _)| !path.starts_with(context.path(".wbuild"))).collect();
    assert!(outside.is_empty(), "{outside:?}");
    assert_eq!(context.read(".wbuild/.gitignore"), "*\n");
    for folder in ["home", "tmp"] {
        let left: Vec<_> = fs::read_dir(context.folder().join(folder)).unwrap().collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
}

#[test]
fn an_edit_runs_only_what_it_concerns() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let first = context.build(&[]).digest().to_owned();

    context.write("apps/web/page.txt", "another page\n");
    let edited = context.build(&[]);
    assert_ne!(edited.digest(), first);
    assert_eq!(edited.steps("built"), ["[builder] web#build"]);
    let server = Layout::open(&context.path(".wbuild/image/web")).text("app/apps/web/server.js");
    assert!(server.contains("another page"), "{server}");

    for (path, text) in [
        ("README.md", "# Small\n"),
        ("apps/web/README.md", "# The site\n"),
        ("packages/other/index.js", "// no part of it\n"),
        ("apps/web/node_modules/next/index.js", "// installed by hand\n"),
        ("apps/web/.next/BUILD_ID", "built by hand\n"),
        (".env.local", "SECRET=1\n"),
    ] {
        context.write(path, text);
        let again = context.build(&[]);
        assert_eq!((again.digest(), again.steps("built")), (edited.digest(), vec![]), "{path}");
    }
    fs::set_permissions(context.path("apps/web/page.txt"), fs::Permissions::from_mode(0o664)).unwrap();
    assert_eq!(context.build(&[]).steps("built"), [""; 0], "a mode that git does not record");

    context.write("apps/web/page.txt", "the first page\n");
    let back = context.build(&[]);
    assert_eq!((back.digest(), back.steps("built")), (&*first, vec![]), "what was built once is known");
}

#[test]
fn a_workspace_without_turbo_json() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.remove("turbo.json");
    context.edit("packages/lib/package.json", "\"generate\"", "\"build\"");
    let first = context.build(&["--build-arg", "GREETING=good day"]);
    first.digest();
    let steps = first.steps("built");
    assert!(steps.ends_with(&["[builder] @small/lib#build", "[builder] web#build"]), "{steps:?}");
    let server = Layout::open(&context.path(".wbuild/image/web")).text("app/apps/web/server.js");
    assert!(server.contains("good day"), "scripts see what they are given: {server}");
    context.write("apps/web/page.txt", "another page\n");
    assert_eq!(context.build(&["--build-arg", "GREETING=good day"]).steps("built"), ["[builder] web#build"]);
}

#[test]
fn committed_env_files_are_sources() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write(".gitignore", ".env\n.env*.local\n");
    context.write("apps/web/.env.production", "A=1\n");
    context.build(&[]).digest();
    context.write("apps/web/.env", "SECRET=1\n");
    context.write("apps/web/.env.production.local", "SECRET=1\n");
    assert_eq!(context.build(&[]).steps("built"), [""; 0], "a developer's own");
    context.write("apps/web/.env.production", "A=2\n");
    assert_eq!(context.build(&[]).steps("built"), ["[builder] web#build"]);
}

/// `lib/**` is what one package builds and what another is written in.
#[test]
fn sources_that_look_like_outputs() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.edit("turbo.json", "[\".next/**\", ", "[\".next/**\", \"lib/**\", ");
    context.write(".gitignore", "node_modules\n.next\ngenerated\n/packages/*/lib\n");
    context.write("apps/web/lib/text.txt", "one\n");
    let first = context.build(&[]).digest().to_owned();
    context.write("packages/lib/lib/index.js", "// built by hand\n");
    context.write("packages/lib/generated/lib.txt", "by hand\n");
    let again = context.build(&[]);
    assert_eq!((again.digest(), again.steps("built")), (&*first, vec![]));
    context.write("apps/web/lib/text.txt", "two\n");
    assert_eq!(context.build(&[]).steps("built"), ["[builder] web#build"]);
}

#[test]
fn a_task_that_writes_the_same_bytes_invalidates_nothing() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.edit("wbuild.toml", "[args]\n", "[args]\nCOLOUR = \"red\"\n");
    context.edit("turbo.json", "\"generated/**\"]", "\"generated/**\"],\n      \"env\": [\"COLOUR\"]");
    let first = context.build(&[]).digest().to_owned();
    let again = context.build(&["--build-arg", "COLOUR=blue"]);
    assert_eq!(again.digest(), first);
    assert_eq!(again.steps("built"), ["[builder] @small/lib#generate"]);
}

#[test]
fn two_tasks_that_write_one_file_differently() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let script = "mkdir -p packages/lib/generated && echo pear > packages/lib/generated/lib.txt";
    context.edit(
        "package.json",
        "\"private\": true",
        &format!("\"private\": true,\n  \"scripts\": {{\n    \"content\": \"{script}\"\n  }}"),
    );
    context.edit(
        "turbo.json",
        "\"tasks\": {",
        "\"tasks\": {\n    \"//#content\": { \"outputs\": [\"packages/lib/generated/**\"] },",
    );
    context.edit("turbo.json", "\"^generate\"", "\"^generate\", \"//#content\"");
    let failed = context.build(&[]);
    assert_eq!(failed.output.code, 1);
    assert_snapshot!(failed.error(), @"
    exit 1
    -- stderr
    error: [builder] web#build failed
      caused by: `/app/packages/lib/generated/lib.txt` is written by [builder] @small/lib#generate and by [builder] //#content, with different bytes
    hint: let only one of them write it, or give them different `outputs` in turbo.json
    ");
}

#[test]
fn a_build_argument_is_in_the_key() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let first = context.build(&[]).digest().to_owned();
    let other = context.build(&["--build-arg", "GREETING=good morning"]);
    assert_ne!(other.digest(), first);
    assert_eq!(other.steps("built"), ["[builder] web#build"]);
    let server = Layout::open(&context.path(".wbuild/image/web")).text("app/apps/web/server.js");
    assert!(server.contains("good morning"), "{server}");
    let unknown = context.build(&["--build-arg", "GRETING=x"]);
    assert_eq!(unknown.digest(), first);
    let warned =
        unknown.events.iter().find(|event| event["message"].to_string().contains("GRETING")).unwrap();
    assert_snapshot!(format!("{} {}", warned["message"], warned["hints"]), @r#""wbuild.toml: no task declares the build argument `GRETING`, so none sees it" ["did you mean `GREETING`?","add `GRETING` to `env` of the task in turbo.json"]"#);
}

#[test]
fn a_base_image_that_the_build_does_not_use() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let built = context.build(&["--build-context", "alpine:3.22=oci-layout:///nowhere"]);
    built.digest();
    let warned = built.events.iter().filter(|event| event["event"] == "warned");
    let warned = warned.map(ToString::to_string).find(|warned| warned.contains("3.22")).unwrap();
    assert!(warned.contains("did you mean `alpine:3.23`?"), "{warned}");
}

#[test]
fn a_variable_that_is_set_here_and_not_passed_on() {
    let Some(_) = bases() else { return };
    let context = TestContext::small().env("NEXT_PUBLIC_SITE", "https://example.com").env("GREETING", "x");
    let forgotten = |notes: Vec<&str>| notes.iter().any(|note| note.contains("NEXT_PUBLIC_SITE"));
    let built = context.build(&[]);
    built.digest();
    assert!(forgotten(built.notes()), "{}", built.output);
    assert!(!built.notes().iter().any(|note| note.contains("GREETING")), "it has a value in the spec");
    let built = context.build(&["--build-arg", "NEXT_PUBLIC_SITE"]);
    built.digest();
    assert!(!forgotten(built.notes()), "{}", built.output);
}

#[test]
fn the_stages_are_the_same_on_an_empty_store() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.edit(
        "wbuild.toml",
        "chmod 755",
        "for place in /root/.npm/_logs /tmp /var/log; do mkdir -p $place; date +%s.%N > $place/noise; done\nchmod 755",
    );
    context.edit(
        "wbuild.toml",
        "install) mkdir",
        "install) for place in /root/.npm/_logs /tmp; do mkdir -p $place; date +%s.%N > $place/noise; done; mkdir",
    );
    for target in ["base", "deps", "builder"] {
        let output = format!("type=oci,dest=../{target},tar=false");
        let digests = ["../first", "../second"].map(|home| {
            context.build(&["--target", target, "--home", home, "--output", &output]).digest().to_owned()
        });
        assert_eq!(digests[0], digests[1], "{target}");
        let files = Layout::open(&context.folder().join(target)).files();
        assert!(!files.keys().any(|path| path.contains("noise")), "{target}");
    }
}

#[test]
fn a_failing_install() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.edit("wbuild.toml", "install) mkdir", "install) echo no such package; exit 9; mkdir");
    assert_snapshot!(context.build(&[]).error(), @"
    exit 1
    -- stderr
    error: [deps] pnpm install: `pnpm install --frozen-lockfile` did not complete successfully: exit code 9; its full log is `[TEST]/state/logs/[BUILD]/006-deps--pnpm-install.log`
    hint: pnpm sees only the manifests and the lockfile of the application's closure; `wbuild workspace` lists it
    ");
}

#[test]
fn a_failing_task_that_asks_for_a_file_it_was_not_given() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write("apps/web/notes.md", "not an input");
    context.write("apps/web/extra.sh", "cat ./notes.md\n");
    assert_snapshot!(context.build(&[]).error(), @"
    exit 1
    -- stderr
    error: [builder] web#build: `pnpm run build` did not complete successfully: exit code 1; its full log is `[TEST]/state/logs/[BUILD]/016-builder--web-build.log`
    hint: `apps/web/notes.md` exists, but is not among the inputs of `web#build`; if it needs it, add it to `inputs` in turbo.json
    ");
}

#[test]
fn quiet_shows_the_last_lines_of_what_failed() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write("apps/web/extra.sh", "echo 'Type error: no'\nexit 3\n");
    let mut args = ["image", "--progress", "quiet"].map(str::to_owned).to_vec();
    args.extend(context.base_images());
    let said = context.run(&args).to_string();
    assert!(said.contains("\n  | Type error: no\n"), "{said}");
}

#[test]
fn progress_as_json_is_nothing_but_json() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let lines = |build: &crate::context::Build| {
        let stderr = build.output.stderr.clone();
        let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{line}"));
        stderr.lines().map(parse).map(|line| line["event"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let built = context.build(&[]);
    built.digest();
    assert_eq!(lines(&built).last().unwrap(), "end");
    assert!(built.notes().iter().any(|note| note.starts_with("image ")), "{}", built.output);
    context.write("apps/web/extra.sh", "exit 3\n");
    let failed = context.build(&[]);
    assert_eq!(lines(&failed)[lines(&failed).len() - 2..], ["error", "end"]);
    let refused = context.build(&["--target", "no-such"]);
    assert_eq!(
        (refused.output.code, lines(&refused)),
        (2, ["begin", "error", "end"].map(str::to_owned).to_vec())
    );
}

#[test]
fn files_that_cannot_be_in_the_context_are_named() {
    use std::os::unix::ffi::OsStrExt;
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let digest = context.build(&[]).digest().to_owned();
    fs::write(context.path("apps/web").join(std::ffi::OsStr::from_bytes(b"caf\xe9\x1b.txt")), "x").unwrap();
    fs::create_dir(context.path("apps/web/run")).unwrap();
    std::os::unix::net::UnixListener::bind(context.path("apps/web/run/socket")).unwrap();
    let built = context.build(&[]);
    assert_eq!(built.digest(), digest);
    assert_snapshot!(built.warnings().join("\n"), @r"
    left out of the build context: fifos, sockets and devices: `apps/web/run/socket`
    left out of the build context: names that are not UTF-8: `apps/web/caf\xe9\x1b.txt`
    ");
    let said = context.run(&["workspace"]).to_string();
    assert!(said.contains(r"`apps/web/caf\xe9\x1b.txt`") && said.contains("`apps/web/run/socket`"), "{said}");
}

#[test]
fn what_is_no_next_application_has_its_other_stages() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.edit("wbuild.toml", r#"app = "web""#, r#"app = "@small/lib""#);
    context.edit("wbuild.toml", "[build]", "[build]\ntask = \"generate\"");
    let built = context.build(&["--target", "builder"]);
    built.digest();
    let files = Layout::open(&context.path(".wbuild/image/small-lib.builder")).files();
    assert!(files.contains_key("app/packages/lib/generated/lib.txt"));
    context.build(&["--target", "deps"]).digest();
    assert_eq!(context.build(&[]).output.code, 1);
}

#[test]
fn each_stage_has_a_folder_of_its_own() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let digest = context.build(&[]).digest().to_owned();
    let base = context.build(&["--target", "base"]).digest().to_owned();
    let index = |folder: &str| context.read(&format!(".wbuild/image/{folder}/index.json"));
    assert!(index("web").contains(&digest) && index("web.base").contains(&base));
}

#[test]
fn another_folder_for_the_output_of_next() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.edit("apps/web/next.config.js", "module.exports = {", "module.exports = {\n  distDir: 'out',");
    let script = context.read("apps/web/build.sh").replace(".next", "out");
    context.write("apps/web/build.sh", &script);
    context.edit("turbo.json", ".next/**\", \"!.next/cache", "out/**\", \"!out/cache");
    context.build(&[]).digest();
    let files = Layout::open(&context.path(".wbuild/image/web")).files();
    assert!(files.contains_key("app/apps/web/out/static/site.css"), "{files:?}");
    assert!(files.contains_key("app/apps/web/server.js"));
    assert_eq!(context.cached("runs"), ["run\n"]);
}

#[test]
fn an_archive_can_be_run() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.build(&["--output", "../web.tar"]).digest();
    let said = context.run(&["run", "../web.tar", "--network", "none"]);
    assert_eq!(said.stdout, "hello: the first page, apple, 1001\n", "{said}");
    fs::write(context.folder().join("other.tar"), "not an archive").unwrap();
    assert_snapshot!(context.refused(&["run", "../other.tar"]), @"
    exit 1
    -- stderr
    error: cannot read `../other.tar` as an archive of an image
      caused by: failed to read entire block
    hint: `docker save`, `skopeo copy … oci-archive:FILE` and `wbuild image -o type=oci,dest=FILE.tar` write one
    ");
}

#[test]
fn a_port_that_is_taken() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.build(&[]).digest();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let asked = context.refused(&["run", ".wbuild/image/web", "--publish", &format!("{port}:3000")]);
    assert_snapshot!(asked.replace(&port, "[PORT]"), @"
    exit 1
    -- stderr
    error: port [PORT] of 127.0.0.1 is taken
    hint: `--publish 0:3000` takes any free port and says which
    ");
    // One that only the image names moves.
    context.edit("wbuild.toml", "expose = [3000]", &format!("expose = [{port}]"));
    context.build(&[]).digest();
    let said = context.run(&["run", ".wbuild/image/web"]);
    assert!(said.code == 0 && said.stderr.contains(&format!("port {port} is http://127.0.0.1:")), "{said}");
}

#[test]
fn a_failing_task() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write(
        "apps/web/extra.sh",
        "for i in $(seq 1 100); do echo line $i; done\necho 'Type error: no'\nexit 3\n",
    );
    let mut args = ["image", "--progress", "plain"].map(str::to_owned).to_vec();
    args.extend(context.base_images());
    let said = context.run(&args);
    assert_eq!(said.code, 1, "{said}");
    let shown = said.to_string();
    let last: Vec<&str> =
        shown.lines().skip_while(|line| !line.contains("failed [builder] web#build")).collect();
    assert_snapshot!(last.join("\n"), @"
    failed [builder] web#build after [TIME], the last 20 of 101 lines
      | line 82
      | line 83
      | line 84
      | line 85
      | line 86
      | line 87
      | line 88
      | line 89
      | line 90
      | line 91
      | line 92
      | line 93
      | line 94
      | line 95
      | line 96
      | line 97
      | line 98
      | line 99
      | line 100
      | Type error: no
      full log: [TEST]/state/logs/[BUILD]/016-builder--web-build.log
    failed after [TIME]: built 3 of 4 steps, 1 failed
    error: [builder] web#build: `pnpm run build` did not complete successfully: exit code 3; its full log is `[TEST]/state/logs/[BUILD]/016-builder--web-build.log`
    ");
    let log = said.stderr.split("full log: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
    let log = fs::read_to_string(log).unwrap();
    assert!(log.starts_with("line 1\n") && log.ends_with("line 100\nType error: no\n"), "{log}");
    assert!(!context.path(".wbuild").exists());
    // What was done before it is kept.
    context.write("apps/web/extra.sh", ":\n");
    let mended = context.build(&[]);
    mended.digest();
    assert!(mended.steps("reused").contains(&"[builder] @small/lib#generate"));
}

#[test]
fn undeclared_outputs_are_dropped_and_named() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write(
        "packages/lib/generate.sh",
        "mkdir -p generated\necho apple > generated/lib.txt\necho x > stray.txt\n",
    );
    let built = context.build(&[]);
    built.digest();
    assert_snapshot!(built.warnings().join("\n"), @"[builder] @small/lib#generate wrote files that are not declared as outputs, and they are dropped: /app/packages/lib/stray.txt");
    // Said again by what fails later, which may have needed it.
    context.write("apps/web/extra.sh", "cat ../../packages/lib/stray.txt\n");
    context.write(
        "packages/lib/generate.sh",
        "mkdir -p generated\necho apple > generated/lib.txt\necho y > stray.txt\n",
    );
    let failed = context.build(&[]);
    assert_eq!(failed.output.code, 1);
    let error = failed.error();
    assert!(error.lines().any(|line| line.starts_with("hint") && line.contains("stray.txt")), "{error}");
}

#[test]
fn a_task_sees_only_what_its_key_covers() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write(
        "apps/web/extra.sh",
        "test ! -e ../../packages/other\ntest ! -e ../../README.md\ntest -z \"$ODD\"\n",
    );
    context.write("README.md", "# Small\n");
    context.edit(
        "turbo.json",
        r#""inputs": ["$TURBO_DEFAULT$", "!*.md"]"#,
        r#""inputs": ["$TURBO_DEFAULT$"]"#,
    );
    context.env("ODD", "1").build(&[]).digest();
}

#[test]
fn no_standalone_server_was_built() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write("apps/web/build.sh", "mkdir -p .next/static\n");
    let failed = context.build(&[]);
    assert_eq!(failed.output.code, 1);
    assert_snapshot!(failed.error(), @"
    exit 1
    -- stderr
    error: [runner] standalone output failed
      caused by: `app/apps/web/.next/standalone` does not exist: the application built no standalone server; add the line `output: 'standalone',` to the next.config of `apps/web`
    ");
}

#[test]
fn a_tracing_root_that_misses_the_workspace() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write(
        "apps/web/build.sh",
        "mkdir -p .next/static .next/standalone\n: > .next/standalone/server.js\n",
    );
    assert_snapshot!(context.build(&[]).error(), @"
    exit 1
    -- stderr
    error: [runner] standalone output failed
      caused by: `app/apps/web/.next/standalone/apps/web/server.js` does not exist: Next's tracing root is not the workspace root, so modules and packages outside of it are missing; set `outputFileTracingRoot: path.join(__dirname, '../..')` in the next.config of `apps/web`
    ");
}

#[test]
fn a_link_into_nowhere() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write(
        "apps/web/extra.sh",
        "mkdir -p .next/standalone/node_modules\nln -s .pnpm/gone .next/standalone/node_modules/gone\n",
    );
    assert_snapshot!(context.build(&[]).error(), @"
    exit 1
    -- stderr
    error: [runner] links failed
      caused by: `/app/node_modules/gone` is a symbolic link to `.pnpm/gone`, which does not exist in the image
    ");
}

#[test]
fn processes_of_a_step_end_with_it() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write("apps/web/extra.sh", "(trap '' HUP TERM; setsid sleep 86401.25) >/dev/null 2>&1 &\n");
    context.build(&[]).digest();
    assert_eq!(processes("86401.25"), [0; 0]);
}

#[test]
fn two_processes_run_each_step_once() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let layout = |name: &str| format!("type=oci,dest=../{name},tar=false");
    let first = context.start_build(&["--output", &layout("one")]);
    let second = context.start_build(&["--output", &layout("two")]);
    let (first, second) = (context.finish_build(first), context.finish_build(second));
    assert_eq!(first.digest(), second.digest());
    let mut ran: Vec<&str> = first.steps("built").into_iter().chain(second.steps("built")).collect();
    ran.sort_unstable();
    let mut once = ran.clone();
    once.dedup();
    assert_eq!(ran, once);
    // The stand-in for `next build` leaves a line for each run in its cache.
    assert_eq!(context.cached("runs"), ["run\n"]);
}

#[test]
fn no_cache_runs_everything_and_comes_to_the_same() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let first = context.build(&[]).digest().to_owned();
    let forced = context.build(&["--no-cache"]);
    assert_eq!(forced.digest(), first);
    assert_eq!(forced.steps("reused"), [""; 0]);
    assert_eq!(context.cached("runs"), ["run\nrun\n"], "cache mounts stay");
}

#[test]
fn the_digest_depends_on_nothing_else() {
    let Some(_) = bases() else { return };
    let first = TestContext::small();
    let digest = first.build(&["--jobs", "1"]).digest().to_owned();
    // Another path, another umask, a state directory of its own, more jobs, other times.
    let second = TestContext::small();
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "umask 077 && exec \"$0\" \"$@\""]);
    let mut args = ["image", "--jobs", "8"].map(str::to_owned).to_vec();
    args.extend(second.base_images());
    let wbuild = second.command(&args);
    command.arg(wbuild.get_program()).args(wbuild.get_args()).current_dir(second.site()).env_clear();
    command.envs(wbuild.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    let other = second.output(output.status, &output.stdout, &output.stderr);
    assert_eq!(other.stdout.trim(), digest, "{other}");
}

#[test]
fn what_programs_read() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let built = context.build(&[
        "--iidfile",
        "../iid",
        "--metadata-file",
        "../metadata",
        "--tag",
        "example/site:1",
        "--output",
        "type=oci,dest=../site.tar",
    ]);
    let metadata: Value =
        serde_json::from_slice(&fs::read(context.folder().join("metadata")).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], built.digest());
    assert_eq!(metadata["image.name"], "docker.io/example/site:1");
    assert_eq!(
        metadata["containerimage.config.digest"],
        fs::read_to_string(context.folder().join("iid")).unwrap()
    );
    assert!(context.folder().join("site.tar").exists() && !context.path(".wbuild").exists());
}

#[test]
fn an_output_that_cannot_be_written() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write("file", "");
    // All of it is known before anything runs.
    let flags = [
        ["--output", "file"],
        ["--output", "file/x.tar"],
        ["--output", "apps"],
        ["--iidfile", "nowhere/iid"],
        ["--metadata-file", "apps"],
    ];
    for flag in flags {
        let failed = context.build(&[&["--target", "base"][..], &flag].concat());
        assert_eq!((failed.output.code, failed.steps("built").len()), (1, 0), "{flag:?} {}", failed.output);
        assert!(!failed.events.iter().any(|event| event["event"] == "started"));
    }
    let failed = context.build(&["--target", "base", "--output", "type=oci,dest=file/x,tar=false"]);
    assert_eq!(failed.output.code, 1);
    assert_snapshot!(failed.error(), @"
    exit 1
    -- stderr
    error: cannot write `file/x`
      caused by: Not a directory (os error 20)
    ");
}

#[test]
fn until_healthy() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write("apps/web/extra.sh", "echo 'exec sleep 86402.25' > server\n");
    context.edit("apps/web/build.sh", "\ncat > $server/server.js <<END\n", "\n: <<END\n");
    context.edit(
        "apps/web/build.sh",
        "\necho \"body",
        "\ncp server $server/server.js\nrm server\necho \"body",
    );
    context.build(&[]).digest();
    let said = context.run(&["run", ".wbuild/image/web", "--until-healthy", "--publish", "0:3000"]);
    assert_eq!(said.code, 0, "{said}");
    assert!(said.stderr.contains("\nhealthy after "), "{said}");
    assert_eq!(processes("86402.25"), [0; 0]);
    context.edit(
        "wbuild.toml",
        "cmd = [\"/bin/true\"]\ninterval = \"1s\"",
        "cmd = [\"/bin/sh\", \"-c\", \"echo not yet; exit 1\"]\ninterval = \"1ms\"\nretries = 2",
    );
    context.build(&[]).digest();
    let said = context.run(&["run", ".wbuild/image/web", "--until-healthy", "--network", "none"]);
    assert_snapshot!(said, @"
    exit 1
    -- stderr
    unhealthy: 2 probes failed in a row; the last one said: not yet
    ");
    assert_eq!(processes("86402.25"), [0; 0]);
}

/// BuildKit clips what a step logs; the file with the log has everything, and of a failure the end is shown.
#[test]
fn a_step_that_logs_much_does_not_fill_the_terminal() {
    if bases().is_none() {
        return;
    }
    let context = TestContext::empty().env("BUILDKIT_STEP_LOG_MAX_SIZE", "2048");
    context.write("Dockerfile", "FROM alpine:3.23\nRUN seq 1 100000 && echo the very end && false\n");
    let mut args: Vec<String> = ["build", "--progress", "plain"].map(str::to_owned).to_vec();
    args.extend(context.base_images());
    args.push(".".to_owned());
    let failed = context.run(&args);
    assert_eq!(failed.code, 1, "{failed}");
    let said = failed
        .stderr
        .lines()
        .find(|line| line.contains("[output clipped, log limit 2KiB reached; full log: "));
    let said = said.unwrap_or_else(|| panic!("{failed}"));
    let log = said.split("full log: ").nth(1).unwrap().trim_end_matches(']');
    assert_eq!(fs::read_to_string(log).unwrap().lines().count(), 100_001);
    assert!(failed.stderr.contains(" the very end"), "{failed}");
    assert!(!failed.stderr.contains(" 50000\n") && failed.stderr.len() < 64 << 10, "{failed}");
}
