use std::fmt::Write as _;

use proptest::prelude::*;
use wbuild_frontend::{SecretTarget, Spec, needs};
use wbuild_report::SourceFile;

use crate::example::{SPEC, shown};

const SMALLEST: &str = r#"version = 1
app = "web"
[base]
image = "node:22.16.0-alpine"
[runner]
user = "nextjs"
uid = 1001
group = "nodejs"
gid = 1001
cmd = ["node", "apps/web/server.js"]
"#;

fn parse(text: &str) -> Result<Spec, String> {
    Spec::parse(&SourceFile::new("wbuild.toml", text)).map_err(|errors| shown(&errors))
}

#[test]
fn the_schema_is_the_parsers() {
    let written = include_str!("../../../../buildspec/web.schema.json");
    assert!(written == Spec::schema(), "buildspec/web.schema.json should be:\n{}", Spec::schema());
}

#[test]
fn every_key_is_explained() {
    let readme = include_str!("../../../../buildspec/README.md");
    let schema: serde_json::Value = serde_json::from_str(&Spec::schema()).unwrap();
    let mut missing = Vec::new();
    let mut pending = vec![schema];
    while let Some(schema) = pending.pop() {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let written =
                [format!("`{name}`"), format!("[{name}]"), format!("[{name}."), format!(".{name}]")];
            if !written.iter().any(|text| readme.contains(text)) {
                missing.push(name.clone());
            }
            pending.push(property.clone());
        }
        pending.push(schema["additionalProperties"].clone());
        pending.retain(serde_json::Value::is_object);
    }
    assert!(missing.is_empty(), "not in buildspec/README.md: {missing:?}");
}

#[test]
fn the_example_says_what_the_dockerfile_said() {
    let spec = parse(SPEC).unwrap();
    assert_eq!(spec.base, "node:22.16.0-alpine");
    assert_eq!(spec.toolchain.len(), 2);
    assert_eq!((spec.runner.user.uid, spec.runner.user.gid), (1001, 1001));
    assert_eq!(spec.runner.expose, ["3000/tcp"]);
    let probe = spec.runner.healthcheck.unwrap();
    let seconds = |duration: Option<u64>| duration.map(|nanoseconds| nanoseconds / 1_000_000_000);
    assert_eq!(
        (seconds(probe.interval), seconds(probe.timeout), seconds(probe.start_period), probe.retries),
        (Some(30), Some(3), Some(40), Some(3))
    );
    assert_eq!(
        spec.secrets["next-preview-keys"].target,
        SecretTarget::File("apps/web/.next/cache/.previewinfo".into())
    );
}

#[test]
fn what_is_printed_reads_the_same() {
    for text in [SPEC, SMALLEST] {
        let spec = parse(text).unwrap();
        let again = parse(&spec.print()).unwrap();
        assert_eq!(spec.print(), again.print());
        assert_eq!(spec.runner, again.runner);
        assert_eq!(spec.secrets, again.secrets);
        assert_eq!((spec.dev, spec.env, spec.args), (again.dev, again.env, again.args));
    }
}

#[test]
fn defaults() {
    let spec = parse(SMALLEST).unwrap();
    assert_eq!((spec.build.task.as_str(), spec.runner.image.as_str()), ("build", "node:22.16.0-alpine"));
    assert_eq!((spec.runner.workdir.as_str(), spec.runner.layers.len()), ("/app", 3));
    assert_eq!(needs(&spec).images, ["node:22.16.0-alpine"]);
}

#[test]
fn errors_point_into_the_file() {
    let mut out = String::new();
    let mut case = |name: &str, from: &str, to: &str| {
        assert!(SPEC.contains(from), "{from}");
        let errors = parse(&SPEC.replacen(from, to, 1)).map(|_| ()).expect_err(name);
        let _ = writeln!(out, "--- {name}\n{errors}");
    };
    case("unknown key", "task = \"build\"", "tasks = \"build\"");
    case("unknown key, no near one", "task = \"build\"", "xyz = \"build\"");
    case("unknown table", "[toolchain]", "[toolchian]");
    case("a key of the wrong table", "[dev.env]", "[dev.environment]");
    case("wrong type", "app = \"web\"", "app = [\"web\"]");
    case("a number for a variable", "PORT = \"3000\"", "PORT = 3000");
    case("a number out of range", "uid = 1001", "uid = -1");
    case("another version", "version = 1\n", "version = 2\n");
    case("not a duration", "interval = \"30s\"", "interval = \"30\"");
    case("not a port", "expose = [3000]", "expose = [3000, 99999]");
    case("an empty command", "cmd = [\"node\", \"apps/web/server.js\"]", "cmd = []");
    case("missing keys", "user = \"nextjs\"\nuid = 1001\n", "");
    case("not a reference", "image = \"node:22.16.0-alpine\"", "image = \"Node Latest\"");
    case("not a variable", "NODE_ENV = \"production\"", "\"NODE-ENV\" = \"production\"");
    case("a user that would break passwd", "user = \"nextjs\"", "user = \"a:0:0\"");
    case("a relative workdir", "workdir = \"/app\"", "workdir = \"app\"");
    case("a secret with two targets", "file = \"apps", "env = \"A\"\nfile = \"apps");
    case("a secret without target", "env = \"NEXT_SERVER_ACTIONS_ENCRYPTION_KEY\"\n", "");
    case("a secret outside", "file = \"apps/web", "file = \"../../apps/web");
    case("a secret in env", "NODE_ENV = \"production\"", "NEXT_SERVER_ACTIONS_ENCRYPTION_KEY = \"x\"");
    case("args and env", "[args]\n", "[args]\nNODE_ENV = \"x\"\n");
    case("unknown layer", "workdir = \"/app\"", "layers = [\"module\"]");
    case("syntax", "app = \"web\"", "app = \"web");
    case("a key twice", "app = \"web\"", "app = \"web\"\napp = \"web\"");
    insta::assert_snapshot!(out);
}

#[test]
fn several_errors_at_once() {
    let text = "version = 1\napp = 3\nbse = 1\n[base]\nimage = true\n[runner]\nuid = 5000000000\n";
    insta::assert_snapshot!(parse(text).map(|_| ()).unwrap_err(), @r#"
    wbuild.toml:2:7: `app` must be a string
      `3`: a number
      hint: put it in quotes: "3"
    wbuild.toml:3:1: unknown key `bse` in the spec
      `bse`: not a key of it
      hint: did you mean `base`?
    wbuild.toml:5:9: `base.image` must be a string
      `true`: a boolean
      hint: put it in quotes: "true"
    wbuild.toml:6:1: `runner.user` is missing
      `[runner]`: has no `user`
      hint: name of the user it runs as
    wbuild.toml:6:1: `runner.group` is missing
      `[runner]`: has no `group`
      hint: name of the user's group
    wbuild.toml:6:1: `runner.gid` is missing
      `[runner]`: has no `gid`
      hint: number of that group
    wbuild.toml:6:1: `runner.cmd` is missing
      `[runner]`: has no `cmd`
      hint: what it runs
    wbuild.toml:7:7: `runner.uid` must be a number between 0 and 4294967294
      `5000000000`: this number
    "#);
}

#[test]
fn an_empty_file() {
    insta::assert_snapshot!(parse("").map(|_| ()).unwrap_err(), @"
    wbuild.toml: `version` is missing
      hint: version of this format
    wbuild.toml: `app` is missing
      hint: the application: the name of a workspace package, or its folder
    wbuild.toml: `base` is missing
      hint: stage `base`: what everything is installed and built in
    wbuild.toml: `runner` is missing
      hint: stage `runner`: the image that is shipped
    ");
}

#[test]
fn a_huge_file_is_refused() {
    let text = format!("{SPEC}\n#{}", " ".repeat(1 << 20));
    assert!(parse(&text).map(|_| ()).unwrap_err().contains("more than the 1048576"));
}

proptest! {
    /// Any text is a spec or an error with places inside the text; values come back as they went in.
    #[test]
    fn nothing_panics(text in "[\\[\\]a-z=\"\n .#{}0-9']{0,80}") {
        if let Err(errors) = Spec::parse(&SourceFile::new("wbuild.toml", text.clone())) {
            for label in errors.iter().flat_map(|error| &error.labels) {
                prop_assert!(label.span.start <= label.span.end && label.span.end <= text.len());
            }
        }
    }

    #[test]
    fn values_survive_printing(value in any::<String>().prop_filter("no NUL", |text| !text.contains('\0'))) {
        let mut spec = parse(SMALLEST).unwrap();
        spec.env.insert("VALUE".into(), value.clone());
        spec.runner.labels.insert(format!("label.{value}"), value.clone());
        let again = parse(&spec.print()).unwrap();
        prop_assert_eq!(&again.env["VALUE"], &value);
        prop_assert_eq!(again.runner.labels, spec.runner.labels);
    }
}
