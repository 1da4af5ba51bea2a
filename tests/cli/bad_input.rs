//! Bad input: each gets an error with its place and what to do, before anything runs, and leaves workspace and state
//! directory as they were.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use insta::assert_snapshot;

use crate::context::{TestContext, bases, skip};

#[test]
fn no_workspace() {
    let context = TestContext::empty();
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: there is no pnpm-workspace.yaml in `[TEST]/site` or in any folder above it
    hint: run wbuild inside a pnpm workspace, or name it with --directory
    ");
}

#[test]
fn no_workspace_but_a_lockfile() {
    let context = TestContext::empty();
    context.write("package-lock.json", "{}");
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: there is no pnpm-workspace.yaml in `[TEST]/site` or in any folder above it
    hint 1: run wbuild inside a pnpm workspace, or name it with --directory
    hint 2: `[TEST]/site` has a package-lock.json; `wbuild build` takes any Dockerfile, whichever package manager it runs
    ");
    context.write("pnpm-lock.yaml", "lockfileVersion: '9.0'\n");
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: there is no pnpm-workspace.yaml in `[TEST]/site` or in any folder above it
    hint: `[TEST]/site` has a pnpm-lock.yaml: a pnpm-workspace.yaml beside it with `packages: ['.']` makes a workspace of its only package
    ");
}

#[test]
fn no_workspace_where_the_flag_points() {
    let context = TestContext::example();
    assert_snapshot!(context.refused(&["image", "--directory", "/proc"]), @"
    exit 1
    -- stderr
    error: there is no pnpm-workspace.yaml in `/proc` or in any folder above it
    hint: run wbuild inside a pnpm workspace, or name it with --directory
    ");
    assert_snapshot!(context.refused(&["image", "--directory", "nowhere"]), @"
    exit 2
    -- stderr
    error: `nowhere`, which --directory names, does not exist
    hint: name a folder of a pnpm workspace
    ");
}

#[test]
fn an_unknown_app() {
    let context = TestContext::example();
    assert_snapshot!(context.refused(&["image", "--app", "wep"]), @"
    exit 2
    -- stderr
    error: no package of the workspace is called `wep`
    hint 1: did you mean `web`?
    hint 2: the workspace has `ai-whisperers`, `admin`, `web`, `@repo/database`, `@repo/email`, `@repo/legacy-api`, `@repo/tsconfig`, `@repo/ui`
    ");
    assert_snapshot!(context.refused(&["image", "--app", "@repo/databases"]), @"
    exit 2
    -- stderr
    error: no package of the workspace is called `@repo/databases`
    hint 1: did you mean `@repo/database`?
    hint 2: the workspace has `ai-whisperers`, `admin`, `web`, `@repo/database`, `@repo/email`, `@repo/legacy-api`, `@repo/tsconfig`, `@repo/ui`
    ");
}

#[test]
fn an_unknown_app_in_the_spec() {
    let context = TestContext::small();
    context.edit("wbuild.toml", r#"app = "web""#, r#"app = "wed""#);
    assert_snapshot!(context.refused(&["image"]), @r#"
    exit 1
    -- stderr
    error: no package of the workspace is called `wed`
     --> wbuild.toml:4:7
      |
    4 | app = "wed"
      |       ^^^^^ this package
      |
      = hint: did you mean `web`?
      = hint: the workspace has `small`, `web`, `@small/lib`, `other`
    "#);
}

#[test]
fn an_app_that_is_no_next_application() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.edit("wbuild.toml", r#"app = "web""#, r#"app = "other""#);
    let mut args = vec!["image".to_owned()];
    args.extend(context.base_images());
    assert_snapshot!(context.refused(&args), @r#"
    exit 1
    -- stderr
    error: `other` has no script `build`, so there is nothing to build
    --> wbuild.toml
     = hint: add it to `scripts` in packages/other/package.json, or name another task in `build.task`

    error: `other` is not a Next.js application, and only those have a stage `runner`
     --> wbuild.toml:4:7
      |
    4 | app = "other"
      |       ^^^^^^^ this package
      |
      = hint: a Next.js application depends on `next` and builds with `next build`
      = hint: `--target builder` has what its tasks wrote, `--target deps` its dependencies
    "#);
}

#[test]
fn no_app_can_be_chosen() {
    let context = TestContext::small();
    context.remove("wbuild.toml");
    fs::remove_dir_all(context.path("apps/web")).unwrap();
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: no package of the workspace builds with `next`, so there is no application to infer
    --> pnpm-workspace.yaml
     = hint: name one with `--app`: `small`, `@small/lib`, `other`
     = hint: these are all that `packages` of pnpm-workspace.yaml finds
    ");
}

#[test]
fn a_manifest_that_changed_after_the_lockfile_was_made() {
    let context = TestContext::example();
    context.edit("apps/web/package.json", r#""next": "16.4.6""#, r#""next": "16.5.0""#);
    assert_snapshot!(context.refused(&["image"]), @r#"
    exit 1
    -- stderr
    error: `next` of `apps/web` is `16.5.0` in package.json, but `16.4.6` in the lockfile
      --> apps/web/package.json:13:13
       |
    13 |     "next": "16.5.0",
       |             ^^^^^^^^ changed after the lockfile was made
       |
       = hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
    "#);
}

#[test]
fn a_dependency_that_the_lockfile_does_not_know() {
    let context = TestContext::example();
    context.edit(
        "packages/ui/package.json",
        r#""devDependencies": {"#,
        "\"dependencies\": { \"clsx\": \"^2.1.0\" },\n  \"devDependencies\": {",
    );
    assert_snapshot!(context.refused(&["image"]), @r#"
    exit 1
    -- stderr
    error: `clsx` (`^2.1.0`) of `packages/ui` is not in the lockfile
      --> packages/ui/package.json:15:29
       |
    15 |   "dependencies": { "clsx": "^2.1.0" },
       |                             ^^^^^^^^ added after the lockfile was made
       |
       = hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
    "#);
}

#[test]
fn a_lockfile_that_is_behind_elsewhere_is_nobodys_business() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.edit(
        "packages/other/package.json",
        r#""private": true"#,
        "\"private\": true,\n  \"dependencies\": { \"x\": \"1.0.0\" }",
    );
    let mut args = ["image", "--target", "no-such"].map(str::to_owned).to_vec();
    args.extend(context.base_images());
    assert_snapshot!(context.refused(&args), @"
    exit 2
    -- stderr
    error: there is no target `no-such`
    hint: the targets are `base`, `builder`, `deps`, `runner`
    ");
}

#[test]
fn a_catalog_entry_that_changed() {
    let context = TestContext::example();
    context.edit("pnpm-workspace.yaml", "react-dom: 19.2.0", "react-dom: 19.3.0");
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: the catalog `default` has `react-dom` at `19.3.0`, but the lockfile was made with `19.2.0`
      --> pnpm-workspace.yaml:11:14
       |
    11 |   react-dom: 19.3.0
       |              ^^^^^^ not what the lockfile has
       |
       = hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
    ");
}

#[test]
fn a_workspace_package_that_is_gone() {
    let context = TestContext::example();
    fs::remove_dir_all(context.path("packages/ui")).unwrap();
    assert_snapshot!(context.refused(&["image"]), @r#"
    exit 1
    -- stderr
    error: `@repo/ui` of `apps/web` is linked to `packages/ui`, where there is no workspace package
      --> apps/web/package.json:12:17
       |
    12 |     "@repo/ui": "workspace:*",
       |                 ^^^^^^^^^^^^^ its package is missing
       |
       = hint: restore it, check that .dockerignore does not leave it out, or remove the dependency and run `pnpm install --lockfile-only`
    "#);
}

#[test]
fn no_lockfile() {
    let context = TestContext::small();
    context.remove("pnpm-lock.yaml");
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: the workspace has no pnpm-lock.yaml at its root
    --> pnpm-lock.yaml
     = hint: write it with `pnpm install --lockfile-only` and commit it, and check that .dockerignore does not leave it out
    ");
}

#[test]
fn a_lockfile_version_that_is_unknown() {
    let context = TestContext::small();
    context.edit("pnpm-lock.yaml", "lockfileVersion: '9.0'", "lockfileVersion: '12.0'");
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: lockfile version unknown: `12.0`
     --> pnpm-lock.yaml:1:1
      |
    1 | lockfileVersion: '12.0'
      | ^^^^^^^^^^^^^^^^^^^^^^^ wbuild reads 6.0 and 9.0
      |
      = hint: write it with a pnpm from 8 to 12: `pnpm install --lockfile-only`
    ");
}

#[test]
fn a_lockfile_with_conflict_markers() {
    let context = TestContext::small();
    context.edit(
        "pnpm-lock.yaml",
        "  packages/lib: {}\n",
        "<<<<<<< HEAD\n  packages/lib: {}\n=======\n  packages/lob: {}\n>>>>>>> x\n",
    );
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: the lockfile holds a merge conflict
      --> pnpm-lock.yaml:20:1
       |
    20 | <<<<<<< HEAD
       | ^^^^^^^ conflict marker
       |
       = hint: resolve it with `pnpm install --lockfile-only`
    ");
}

#[test]
fn a_workspace_glob_that_leaves_the_root() {
    let context = TestContext::small();
    context.write("pnpm-workspace.yaml", "packages:\n  - apps/*\n  - ../elsewhere/*\n");
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: the pattern `../elsewhere/*` leaves the workspace root
     --> pnpm-workspace.yaml:3:5
      |
    3 |   - ../elsewhere/*
      |     ^^^^^^^^^^^^^^ this pattern
      |
      = hint: a workspace cannot reach outside its root; move the files inside
    ");
}

#[test]
fn manifests_that_are_no_json() {
    let context = TestContext::small();
    context.write("packages/lib/package.json", "{ \"name\": \"lib\",, }\n");
    assert_snapshot!(context.refused(&["image"]), @r#"
    exit 1
    -- stderr
    error: expected a key in double quotes, or `}`
     --> packages/lib/package.json:1:17
      |
    1 | { "name": "lib",, }
      |                 ^ here
    "#);
}

#[test]
fn no_standalone_output() {
    // The example's own configuration, with `path.join(__dirname, '../..')` and an import of a type.
    let context = TestContext::example();
    context.edit("apps/web/next.config.ts", "  output: 'standalone',\n", "");
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: the application does not build a standalone server
     --> apps/web/next.config.ts:4:28
      |
    4 | const config: NextConfig = {
      |                            ^ `output: 'standalone'` is missing
      |
      = hint: add the line `output: 'standalone',` to the configuration in `apps/web/next.config.ts`
    ");
}

#[test]
fn another_output() {
    let context = TestContext::small();
    context.edit("apps/web/next.config.js", "output: 'standalone'", "output: 'export'");
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: the application does not build a standalone server
     --> apps/web/next.config.js:4:3
      |
    4 |   output: 'export',
      |   ^^^^^^ `output: 'standalone'` is missing
      |
      = hint: add the line `output: 'standalone',` to the configuration in `apps/web/next.config.js`
    ");
    // Only the runner needs the server.
    let Some(_) = bases() else { return };
    for target in ["base", "deps", "builder"] {
        let built = context.build(&["--target", target]);
        built.digest();
        let said = ["apps/web/next.config.js:4:3: the application does not build a standalone server"];
        assert_eq!(built.warnings(), said, "{target}");
    }
}

#[test]
fn no_next_configuration() {
    let context = TestContext::small();
    context.remove("apps/web/next.config.js");
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: `web` has no next.config, so it does not build a standalone server
    --> apps/web/next.config.mjs
     = hint: create `apps/web/next.config.mjs` with `export default { output: 'standalone' };`
    ");
}

#[test]
fn a_base_image_that_is_missing() {
    let context = TestContext::small();
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: the base image `alpine:3.23` is not at hand
    hint 1: it was never pulled: `wbuild pull alpine:3.23` does that, and so does a build without --offline (WBUILD_OFFLINE)
    hint 2: name a copy of it: --build-context alpine:3.23=oci-layout://DIR (scripts/base-image makes one)
    ");
    // Something of nearly that name was given.
    assert_snapshot!(context.refused(&["image", "--build-context", "alpine:3.32=oci-layout://nowhere"]), @"
    exit 1
    -- stderr
    error: the base image `alpine:3.23` is not at hand
    hint 1: it was never pulled: `wbuild pull alpine:3.23` does that, and so does a build without --offline (WBUILD_OFFLINE)
    hint 2: name a copy of it: --build-context alpine:3.23=oci-layout://DIR (scripts/base-image makes one)
    hint 3: --build-context was given for `alpine:3.32`
    ");
}

#[test]
fn a_base_image_that_is_no_image() {
    let context = TestContext::small();
    assert_snapshot!(context.refused(&["image", "--build-context", "alpine:3.23=oci-layout://nowhere"]), @"
    exit 1
    -- stderr
    error: cannot use the image
      caused by: `nowhere/oci-layout` is no OCI layout: there is no such file
    hint: make the layout of the base image anew (scripts/base-image does), or name another one with --build-context
    ");
    context.write("layout/index.json", "{}");
    context.write("layout/oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
    assert_snapshot!(context.refused(&["image", "--build-context", "alpine:3.23=oci-layout://layout"]), @"
    exit 1
    -- stderr
    error: cannot use the image
      caused by: `layout/index.json` is not usable
      caused by: the document has neither `manifests` nor `config` and `layers`
    hint: make the layout of the base image anew (scripts/base-image does), or name another one with --build-context
    ");
}

#[test]
fn an_unknown_target() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let mut args = ["image", "--target", "runer"].map(str::to_owned).to_vec();
    args.extend(context.base_images());
    assert_snapshot!(context.refused(&args), @"
    exit 2
    -- stderr
    error: there is no target `runer`
    hint 1: did you mean `runner`?
    hint 2: the targets are `base`, `builder`, `deps`, `runner`
    ");
}

#[test]
fn everything_wrong_with_a_spec_at_once() {
    let context = TestContext::small();
    context.write(
        "wbuild.toml",
        r#"version = 1
app = "web"

[base]
imgae = "node:22.16.0-alpine"

[build]
task = 7

[runner]
user = "next js"
uid = -1
group = "nodejs"
gid = 1001
cmd = "node server.js"
expose = [300000]
env = { "A=B" = "c" }

[runner.healthcheck]
cmd = ["true"]
interval = "30 parsecs"
"#,
    );
    assert_snapshot!(context.refused(&["image"]), @r#"
    exit 1
    -- stderr
    error: `base.image` is missing
     --> wbuild.toml:4:1
      |
    4 | [base]
      | ^^^^^^ has no `image`
      |
      = hint: an image reference; a tag with the exact version, or a digest

    error: unknown key `imgae` in `base`
     --> wbuild.toml:5:1
      |
    5 | imgae = "node:22.16.0-alpine"
      | ^^^^^ not a key of it
      |
      = hint: did you mean `image`?

    error: `build.task` must be a string
     --> wbuild.toml:8:8
      |
    8 | task = 7
      |        ^ a number
      |
      = hint: put it in quotes: "7"

    error: `runner.uid` must be a number between 0 and 4294967294
      --> wbuild.toml:12:7
       |
    12 | uid = -1
       |       ^^ this number

    error: `runner.cmd` must be a list
      --> wbuild.toml:15:7
       |
    15 | cmd = "node server.js"
       |       ^^^^^^^^^^^^^^^^ a string

    error: `runner.expose.0` must be a port between 1 and 65535, such as 3000 or "53/udp"
      --> wbuild.toml:16:11
       |
    16 | expose = [300000]
       |           ^^^^^^ not a port

    error: `runner.healthcheck.interval` must be a duration of at least one millisecond, such as "30s", "1m30s" or "500ms"
      --> wbuild.toml:21:12
       |
    21 | interval = "30 parsecs"
       |            ^^^^^^^^^^^^ not a duration
    "#);
}

#[test]
fn names_that_would_do_harm() {
    let context = TestContext::small();
    context.edit("wbuild.toml", "user = \"nextjs\"", "user = \"nextjs:x:0:0\"");
    context.edit("wbuild.toml", "env = { PORT = \"3000\" }", "env = { \"PORT=1\" = \"3000\" }");
    context.edit("wbuild.toml", "\"apps/web/credentials\"", "\"../../etc/passwd\"");
    assert_snapshot!(context.refused(&["image"]), @r#"
    exit 1
    -- stderr
    error: the file of the secret `credentials` must lie inside the workspace
      --> wbuild.toml:37:8
       |
    37 | file = "../../etc/passwd"
       |        ^^^^^^^^^^^^^^^^^^ not a path relative to the workspace root

    error: `runner.user` must be a letter or `_`, then letters, digits, `_`, `-` or `.`; at most 32
      --> wbuild.toml:40:8
       |
    40 | user = "nextjs:x:0:0"
       |        ^^^^^^^^^^^^^^ not an account's name

    error: `PORT=1` is not the name of a variable
      --> wbuild.toml:44:9
       |
    44 | env = { "PORT=1" = "3000" }
       |         ^^^^^^^^ letters, digits and `_` only
    "#);
}

#[test]
fn a_spec_that_is_no_toml() {
    let context = TestContext::small();
    context.write("wbuild.toml", "version = 1\napp = \"web\n");
    assert_snapshot!(context.refused(&["image"]), @r#"
    exit 1
    -- stderr
    error: invalid basic string, expected `"`
     --> wbuild.toml:2:11
      |
    2 | app = "web
      |           ^ here
    "#);
}

#[test]
fn a_spec_of_another_version() {
    let context = TestContext::small();
    context.edit("wbuild.toml", "version = 1\n", "version = 2\n");
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: `version` must be 1
     --> wbuild.toml:3:11
      |
    3 | version = 2
      |           ^ this number
    ");
}

#[test]
fn a_spec_that_is_not_there() {
    let context = TestContext::small();
    assert_snapshot!(context.refused(&["image", "--file", "web.toml"]), @"
    exit 2
    -- stderr
    error: `web.toml`, which --file names, does not exist
    hint: paths are relative to the current folder
    ");
}

#[test]
fn a_task_that_turbo_does_not_know() {
    let context = TestContext::small();
    context.edit("wbuild.toml", "[build]\n", "[build]\ntask = \"biuld\"\n");
    assert_snapshot!(context.refused(&["image"]), @r#"
    exit 1
    -- stderr
    error: turbo.json defines no task `biuld`
      --> wbuild.toml:25:8
       |
    25 | task = "biuld"
       |        ^^^^^^^ this task
       |
       = hint: did you mean `build`?
       = hint: it defines `build`, `generate`
    "#);
}

#[test]
fn a_turbo_configuration_that_is_wrong() {
    let context = TestContext::small();
    context.edit("turbo.json", r#""dependsOn": ["^generate"]"#, r#""dependsOn": "^generate""#);
    assert_snapshot!(context.refused(&["image"]), @r#"
    exit 1
    -- stderr
    error: `build.dependsOn` must be a list of strings, not a string
     --> turbo.json:8:20
      |
    8 |       "dependsOn": "^generate",
      |                    ^^^^^^^^^^^ not a list of strings
    "#);
}

#[test]
fn a_secret_that_is_required() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.edit("wbuild.toml", "[secrets.token]\n", "[secrets.token]\nrequired = true\n");
    let mut args = vec!["image".to_owned()];
    args.extend(context.base_images());
    assert_snapshot!(context.refused(&args), @"
    exit 1
    -- stderr
    error: the secret `token` is required and was not given
      --> wbuild.toml:33:10
       |
    33 | [secrets.token]
       |          ^^^^^ required
       |
       = hint: give it with `--secret id=token,env=NAME` or `--secret id=token,src=FILE`
    ");
}

#[test]
fn a_file_that_cannot_be_read() {
    let Some(context) = TestContext::small().by_plain_user() else { return };
    let Some(_) = bases() else { return };
    fs::set_permissions(context.path("packages/lib/package.json"), fs::Permissions::from_mode(0o000))
        .unwrap();
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: cannot read the workspace
      caused by: cannot read `packages/lib/package.json`
      caused by: Permission denied (os error 13)
    hint: make it readable for the user who builds
    ");
}

#[test]
fn a_source_that_cannot_be_read() {
    let Some(context) = TestContext::small().by_plain_user() else { return };
    let Some(_) = bases() else { return };
    fs::set_permissions(context.path("packages/lib/words.txt"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut args = ["image", "--progress", "plain"].map(str::to_owned).to_vec();
    args.extend(context.base_images());
    let said = context.run(&args);
    assert_eq!(said.code, 1, "{said}");
    // Two steps want the file; whether both had come to it is nobody's matter.
    let causes = said.stderr.split(" context failed\n").last().unwrap_or_default();
    let causes: Vec<&str> = causes.lines().filter(|line| !line.contains("failed, too")).collect();
    assert_snapshot!(causes.join("\n"), @"
      caused by: cannot read the file `packages/lib/words.txt`
      caused by: Permission denied (os error 13)
    hint 1: make it readable for the user who builds
    hint 2: leave it out: add `packages/lib/words.txt` to .dockerignore
    ");
    // What is mended is built.
    fs::set_permissions(context.path("packages/lib/words.txt"), fs::Permissions::from_mode(0o644)).unwrap();
    context.build(&["--target", "deps"]).digest();
}

#[test]
fn a_folder_that_cannot_be_read() {
    let Some(context) = TestContext::small().by_plain_user() else { return };
    fs::set_permissions(context.path("packages/lib"), fs::Permissions::from_mode(0o300)).unwrap();
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: cannot read the directory `packages/lib`
      caused by: Permission denied (os error 13)
    hint 1: make it readable for the user who builds
    hint 2: leave it out: add `packages/lib` to .dockerignore
    ");
}

#[test]
fn a_state_directory_that_cannot_be_used() {
    let context = TestContext::small();
    context.write("file", "");
    assert_snapshot!(context.refused(&["image", "--home", "file/state"]), @"
    exit 2
    -- stderr
    error: `file` is not a folder, so no state can be kept in it
    hint: name another state directory with --home or WBUILD_HOME
    ");
}

#[test]
fn a_state_directory_of_a_later_version() {
    let context = TestContext::small();
    context.refused(&["image"]);
    let version = fs::read_dir(context.state()).unwrap().map(|entry| entry.unwrap().path());
    let Some(version) =
        version.filter(|path| path.is_file()).find(|path| path.to_string_lossy().contains("ersion"))
    else {
        skip("the state directory has no file with its version");
        return;
    };
    fs::write(&version, "999\n").unwrap();
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: the base image `alpine:3.23` is not at hand
    hint 1: it was never pulled: `wbuild pull alpine:3.23` does that, and so does a build without --offline (WBUILD_OFFLINE)
    hint 2: name a copy of it: --build-context alpine:3.23=oci-layout://DIR (scripts/base-image makes one)
    ");
}

#[test]
fn packages_that_depend_on_each_other_are_allowed() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.edit(
        "packages/lib/package.json",
        r#""private": true"#,
        "\"private\": true,\n  \"dependencies\": { \"other\": \"workspace:*\" }",
    );
    context.edit(
        "packages/other/package.json",
        r#""private": true"#,
        "\"private\": true,\n  \"dependencies\": { \"@small/lib\": \"workspace:*\" }",
    );
    let link = |from: &str, name: &str| {
        format!(
            "  packages/{from}:\n    dependencies:\n      '{name}':\n        specifier: workspace:*\n        version: link:../{}\n",
            name.trim_start_matches("@small/")
        )
    };
    context.edit("pnpm-lock.yaml", "  packages/lib: {}\n", &link("lib", "other"));
    context.edit("pnpm-lock.yaml", "  packages/other: {}\n", &link("other", "@small/lib"));
    let mut args = ["image", "--target", "builder"].map(str::to_owned).to_vec();
    args.extend(context.base_images());
    let built = context.run(&args);
    assert_eq!(built.code, 0, "{built}");
    let warning: Vec<&str> =
        built.stderr.lines().skip_while(|line| !line.starts_with("warning:")).take(7).collect();
    assert_snapshot!(warning.join("\n"), @r#"
    warning: packages depend on each other: `@small/lib` → `other` → `@small/lib`
     --> packages/lib/package.json:4:30
      |
    4 |   "dependencies": { "other": "workspace:*" },
      |                              ^^^^^^^^^^^^^ leads back to this package
      |
      = hint: move what both need to a package of its own
    "#);
}
