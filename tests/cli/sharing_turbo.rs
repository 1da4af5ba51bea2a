//! A server of Turborepo's remote cache API as a remote cache.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use wbuild_testkit::{HttpServer, Reply, Seen, Server, free_port};

use super::sharing::{STEPS, build, dockerfile};
use super::sharing_servers::{Kept, keep, round_trip};
use crate::context::{TestContext, bases, skip};

/// The version that is tested.
const REAL: &str = "turborepo-remote-cache@2.12.0";

/// How a server of the API may be.
#[derive(Clone, Copy, Default)]
struct Turbo {
    /// What is there stays.
    keeps_the_first: bool,
    /// And says so.
    conflicts: bool,
    status: Option<&'static str>,
}

impl Turbo {
    fn start(self, kept: &Kept) -> HttpServer {
        let kept = Arc::clone(kept);
        HttpServer::start(move |seen| self.answer(&kept, seen)).unwrap()
    }

    fn answer(self, kept: &Kept, seen: &Seen) -> Reply {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        if seen.header("authorization") != "Bearer s3cret" {
            return Reply::status(401);
        }
        if query != "teamId=team_1&slug=web" {
            return Reply::status(400);
        }
        match (seen.method.as_str(), path) {
            ("GET", "/v8/artifacts/status") => match self.status {
                Some(status) => Reply::ok(format!(r#"{{"status":"{status}"}}"#)),
                None => Reply::status(404),
            },
            ("POST", "/v8/artifacts/events") => Reply::ok(""),
            ("PUT", _) if self.keeps_the_first && kept.lock().unwrap().contains_key(&seen.path) => {
                Reply::status(if self.conflicts { 409 } else { 202 })
            }
            ("PUT", _) => {
                let is_right = seen.header("content-type") == "application/octet-stream"
                    && seen.header("x-artifact-duration").parse::<u64>().is_ok();
                if is_right { keep(kept, seen) } else { Reply::status(400) }
            }
            _ => {
                let mut plain = seen.clone();
                plain.headers.remove("range");
                keep(kept, &plain)
            }
        }
    }
}

/// The variables that `turbo` reads.
fn with_turbo(context: TestContext, api: &str) -> TestContext {
    let variables =
        [("TURBO_API", api), ("TURBO_TOKEN", "s3cret"), ("TURBO_TEAM", "web"), ("TURBO_TEAMID", "team_1")];
    variables.into_iter().fold(context, |context, (name, value)| context.env(name, value))
}

fn variables(api: &str) -> [(&str, &str); 4] {
    [("TURBO_API", api), ("TURBO_TOKEN", "s3cret"), ("TURBO_TEAM", "web"), ("TURBO_TEAMID", "team_1")]
}

#[test]
fn a_turbo_server_is_a_cache_with_nothing_but_its_variables() {
    let Some(_) = bases() else { return };
    let kept = Kept::default();
    let server = Turbo { status: Some("enabled"), ..Turbo::default() }.start(&kept);
    let api = server.url("");
    round_trip("type=turbo", "type=turbo", &variables(&api));
    // No name could be one of Turborepo's own, which have 16 digits.
    let names: BTreeSet<String> = kept
        .lock()
        .unwrap()
        .keys()
        .map(|path| path.strip_prefix("/v8/artifacts/").unwrap().split('?').next().unwrap().to_owned())
        .collect();
    assert!(names.iter().all(|name| name.len() == 64), "{names:?}");
    let events = server.seen().into_iter().filter(|seen| seen.path.contains("/events"));
    let events: Vec<String> = events.map(|seen| String::from_utf8(seen.body).unwrap()).collect();
    assert!(events[0].contains(r#""event":"MISS""#) && events[1].contains(r#""event":"HIT""#), "{events:?}");
    // An import of what is unchanged begins with one request, and everything that it needs is whole artifacts.
    let before = server.seen().len();
    let imported = build(&with_turbo(dockerfile("two"), &api), &["--cache-from=type=turbo"]);
    assert_eq!(imported.steps("built").len(), 0);
    let asked: Vec<String> = server.seen()[before..].iter().map(|seen| seen.method.clone()).collect();
    assert!(asked.iter().all(|method| method == "GET"), "{asked:?}");
}

#[test]
fn a_turbo_server_that_replaces_nothing_gets_versions() {
    let Some(_) = bases() else { return };
    for conflicts in [false, true] {
        let turbo = Turbo { keeps_the_first: true, conflicts, status: None };
        let server = turbo.start(&Kept::default());
        round_trip("type=turbo", "type=turbo", &variables(&server.url("")));
    }
}

#[test]
fn a_turbo_cache_that_is_switched_off_or_of_others_is_said_once() {
    let Some(_) = bases() else { return };
    let digest = build(&dockerfile("one"), &[]).digest().to_owned();
    let off = Turbo { status: Some("over_limit"), ..Turbo::default() }.start(&Kept::default());
    let built = build(&with_turbo(dockerfile("one"), &off.url("")), &["--cache-to=type=turbo"]);
    assert_eq!((built.digest(), built.warnings().len()), (digest.as_str(), 1), "{:?}", built.warnings());
    assert!(built.warnings()[0].contains("`over_limit`"), "{:?}", built.warnings());
    assert!(!off.seen().iter().any(|seen| seen.method == "PUT"));
    let other = with_turbo(dockerfile("one"), &off.url("")).env("TURBO_TOKEN", "0ther");
    let built = build(&other, &["--cache-from=type=turbo"]);
    let said = (built.steps("built").len(), built.warnings().len());
    assert_eq!(said, (STEPS, 1), "{:?}", built.warnings());
    assert!(!built.output.to_string().contains("0ther"), "{}", built.output);
    let output = dockerfile("one").run(&["build", "--cache-to=type=turbo", "."]);
    assert!(output.code == 2 && output.stderr.contains("set TURBO_TOKEN"), "{output}");
}

/// The folder of a package from npm, installed once.
pub(super) fn from_npm(package: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(package.replace(['@', '/'], "-"));
    let done = folder.join("installed");
    if !done.exists() {
        let installed = Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--no-save", "--prefix"])
            .arg(&folder)
            .arg(package)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !installed.is_ok_and(|status| status.success()) {
            return None;
        }
        std::fs::write(&done, "").unwrap();
    }
    Some(folder.join("node_modules"))
}

#[test]
fn turborepo_remote_cache_is_a_cache() {
    let Some(_) = bases() else { return };
    let Some(modules) = from_npm(REAL) else {
        skip("npm is not installed, or cannot install turborepo-remote-cache");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let port = free_port().unwrap();
    let mut command = Command::new("node");
    command
        .arg(modules.join("turborepo-remote-cache/dist/cli.js"))
        .current_dir(folder.path())
        .env("NODE_ENV", "production")
        .env("HOST", "127.0.0.1")
        .env("PORT", port.to_string())
        .env("TURBO_TOKEN", "s3cret")
        .env("STORAGE_PROVIDER", "local")
        .env("STORAGE_PATH", folder.path())
        .env("STORAGE_PATH_USE_TMP_FOLDER", "false");
    let Some(server) = Server::start(port, &mut command) else {
        skip("node is not installed, or turborepo-remote-cache does not start");
        return;
    };
    let api = format!("http://127.0.0.1:{}", server.port);
    round_trip("type=turbo", "type=turbo", &variables(&api));
}

/// A client as small as the alpine base has one.
const CLIENT: &str = r#"FROM alpine:3.23
COPY page.txt /
RUN host=${TURBO_API#http://}; \
    get() { wget -q -O - --header "Authorization: Bearer $1" "$TURBO_API/v8/artifacts/$2?slug=$TURBO_TEAM"; }; \
    get "$TURBO_TOKEN" 0123456789abcdef > /found || echo a miss; \
    get wrong 0123456789abcdef || echo refused; \
    printf 'PUT /v8/artifacts/0123456789abcdef?slug=%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 8\r\n\r\nartifact' "$TURBO_TEAM" "$TURBO_TOKEN" | nc ${host%:*} ${host#*:} | head -n 1; \
    get "$TURBO_TOKEN" 0123456789abcdef; echo; cp page.txt /found
"#;

fn client(page: &str) -> TestContext {
    let context = TestContext::empty();
    context.write("Dockerfile", CLIENT);
    context.write("page.txt", page);
    context
}

#[test]
fn turbo_in_a_step_finds_the_store_as_its_remote_cache() {
    let Some(_) = bases() else { return };
    let context = client("one");
    let first = build(&context, &["--turbo-cache"]);
    let log = first.log();
    assert!(log.contains("a miss\n") && log.contains("refused\n"), "{log}");
    assert!(log.contains("202 Accepted") && log.ends_with("artifact\n"), "{log}");
    // The next build's step finds it; another project's does not.
    context.write("page.txt", "two");
    assert!(!build(&context, &["--turbo-cache"]).log().contains("a miss\n"));
    context.write("page.txt", "three");
    assert!(build(&context, &["--turbo-cache=docs"]).log().contains("a miss\n"));
    // It is in no key and no layer: a build without it finds the step, and makes the same image.
    context.write("page.txt", "one");
    let without = build(&context, &[]);
    assert_eq!((without.digest(), without.steps("built").len()), (first.digest(), 0));
    assert_eq!(context.run(&["cache", "verify"]).code, 0);
}

#[test]
fn without_the_flag_or_a_network_or_with_a_cache_of_its_own_a_step_gets_nothing() {
    let Some(_) = bases() else { return };
    let said = |run: &str, args: &[&str]| {
        let context = TestContext::empty();
        context.write("Dockerfile", &format!("FROM alpine:3.23\n{run} env | grep ^TURBO_ || echo none\n"));
        let built = build(&context, args);
        (built.log(), built.warnings().len())
    };
    assert_eq!(said("RUN", &[]), ("none\n".to_owned(), 0));
    assert_eq!(said("RUN", &["--turbo-cache", "--network", "none"]), ("none\n".to_owned(), 1));
    assert_eq!(said("RUN --network=none", &["--turbo-cache"]), ("none\n".to_owned(), 1));
    let own = said("ENV TURBO_API=http://own.example\nRUN", &["--turbo-cache"]);
    assert_eq!(own, ("TURBO_API=http://own.example\n".to_owned(), 0));
    let output = client("one").run(&["build", "--turbo-cache=a/b", "."]);
    assert!(output.code == 2 && output.stderr.contains("--turbo-cache=web"), "{output}");
}
