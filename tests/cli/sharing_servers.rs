//! Remote caches on servers: fakes that misbehave, and real ones where they are installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use wbuild_testkit::{Body, HttpServer, Moto, Reply, Seen, Server, free_port};

use super::sharing::{STEPS, build, dockerfile};
use crate::context::{TestContext, bases, skip};

/// What a server keeps, by path.
pub(super) type Kept = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// `bytes=A-B` of a range.
fn range(seen: &Seen) -> Option<(usize, usize)> {
    let (first, last) = seen.header("range").strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Keeps what is put, and gives it back, as any web server that takes PUT.
pub(super) fn keep(kept: &Kept, seen: &Seen) -> Reply {
    let mut kept = kept.lock().unwrap();
    match seen.method.as_str() {
        "PUT" => {
            kept.insert(seen.path.clone(), seen.body.clone());
            Reply::status(201)
        }
        _ => match (kept.get(&seen.path), range(seen)) {
            (None, _) => Reply::status(404),
            (Some(bytes), None) => Reply::ok(bytes.clone()),
            (Some(bytes), Some((first, _))) if first >= bytes.len() => Reply::status(416),
            (Some(bytes), Some((first, last))) => {
                let last = last.min(bytes.len() - 1);
                Reply::status(206)
                    .header("Content-Range", format!("bytes {first}-{last}/{}", bytes.len()))
                    .body(Body::Whole(bytes[first..=last].to_vec()))
            }
        },
    }
}

fn bytes_of(reply: &Reply) -> Vec<u8> {
    match reply.content() {
        Body::Whole(bytes) => bytes.clone(),
        _ => Vec::new(),
    }
}

/// One machine fills the cache, another one that has nothing takes everything from it, and a third one builds on it.
pub(super) fn round_trip(to: &str, from: &str, env: &[(&str, &str)]) {
    let machine = |page: &str| {
        env.iter().fold(dockerfile(page), |context: TestContext, (name, value)| context.env(name, value))
    };
    let (to, from) = (format!("--cache-to={to}"), format!("--cache-from={from}"));
    let filled = build(&machine("one"), &[&to]);
    assert_eq!((filled.steps("built").len(), filled.warnings()), (STEPS, vec![]), "{}", filled.output);
    let imported = build(&machine("one"), &[&from, &to]);
    assert_eq!(imported.digest(), filled.digest());
    assert_eq!((imported.steps("built"), imported.warnings()), (vec![], vec![]));
    assert_eq!(imported.other_notes(), Vec::<&str>::new());
    let changed = build(&machine("two"), &[&from, &to]);
    assert_eq!(changed.digest(), build(&dockerfile("two"), &[]).digest());
    assert!(changed.steps("built").len() < STEPS);
    assert!(changed.log().contains("kept\n"), "{}", changed.log());
    let again = build(&machine("two"), &[&from]);
    assert_eq!((again.digest(), again.steps("built").len()), (changed.digest(), 0));
}

/// The same with a workspace.
fn workspace_round_trip(place: &str, env: &[(&str, &str)]) {
    let machine = || {
        env.iter().fold(TestContext::small(), |context: TestContext, (name, value)| context.env(name, value))
    };
    let filled = machine().build(&[&format!("--cache-to={place}")]);
    let imported = machine().build(&[&format!("--cache-from={place}")]);
    assert_eq!(imported.digest(), filled.digest());
    assert_eq!((imported.steps("built"), imported.warnings()), (vec![], vec![]));
}

#[test]
fn a_web_server_is_a_cache() {
    let Some(_) = bases() else { return };
    let kept = Kept::default();
    let keeping = Arc::clone(&kept);
    let server = HttpServer::start(move |seen| match seen.header("authorization") {
        "Basic bWU6c2VjcmV0" => keep(&keeping, seen),
        _ => Reply::status(401),
    })
    .unwrap();
    let place = format!("type=http,url=http://me:secret@127.0.0.1:{}/wbuild", server.port());
    round_trip(&place, &place, &[]);
    assert!(
        kept.lock()
            .unwrap()
            .keys()
            .all(|path| path.starts_with("/wbuild/cas/") || path.starts_with("/wbuild/ac/"))
    );
    // Import begins with one request.
    let before = server.seen().len();
    let imported =
        build(&dockerfile("two"), &[&format!("--cache-from={place}"), "--output", "type=cacheonly"]);
    imported.digest();
    let first = &server.seen()[before];
    assert!(first.path.starts_with("/wbuild/ac/"), "{first:?}");
    let bearer = HttpServer::start(move |seen| match seen.header("authorization") {
        "Bearer s3cret" => keep(&kept, seen),
        _ => Reply::status(401),
    })
    .unwrap();
    let from = format!("--cache-from=type=http,url={},token=s3cret", bearer.url("/wbuild"));
    assert_eq!(build(&dockerfile("two"), &[&from]).steps("built").len(), 0);
}

#[test]
fn a_server_that_gives_no_ranges_or_adds_to_indexes() {
    let Some(_) = bases() else { return };
    let kept = Kept::default();
    let server = HttpServer::start(move |seen| {
        let mut plain = seen.clone();
        plain.headers.remove("range");
        let reply = keep(&kept, &plain);
        // As bazel-remote says who the worker was: field 9, two bytes.
        match seen.method == "GET" && seen.path.contains("/ac/") && bytes_of(&reply).len() > 1 {
            true => Reply::ok([bytes_of(&reply).as_slice(), &[9 << 3 | 2, 2, b'm', b'e']].concat()),
            false => reply,
        }
    })
    .unwrap();
    let place = format!("type=http,url={}", server.url(""));
    round_trip(&place, &place, &[]);
}

#[test]
fn a_server_that_never_answers_is_not_waited_for() {
    let Some(_) = bases() else { return };
    let server = HttpServer::start(|_| Reply::ok("").body(Body::Held(vec![0; 10], 0))).unwrap();
    let built = build(&dockerfile("one"), &[&format!("--cache-from=type=http,url={}", server.url(""))]);
    assert_eq!((built.steps("built").len(), built.warnings().len()), (STEPS, 1), "{:?}", built.warnings());
    assert!(built.warnings()[0].contains("did not answer in 5 seconds"), "{:?}", built.warnings());
    // Nobody is there at all.
    let port = free_port().unwrap();
    let place = format!("type=http,url=http://127.0.0.1:{port}");
    let args = [format!("--cache-from={place}"), format!("--cache-to={place}")];
    let built = build(&dockerfile("one"), &args.each_ref().map(String::as_str));
    assert_eq!((built.steps("built").len(), built.warnings().len()), (STEPS, 2), "{:?}", built.warnings());
}

/// The configuration of `cache/remote.md`.
fn nginx(folder: &Path) -> Option<Server> {
    let documented = include_str!("../../cache/nginx.conf");
    let port = free_port().unwrap();
    let conf = documented
        .replace("/var/cache/wbuild", &folder.join("cache").display().to_string())
        .replace("listen 8080", &format!("listen 127.0.0.1:{port}"));
    let top = format!(
        "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log; events {{}}\nhttp {{ access_log off; client_body_temp_path {0}/body; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n{conf}\n}}\n",
        folder.display()
    );
    fs::create_dir(folder.join("cache")).unwrap();
    fs::write(folder.join("nginx.conf"), top).unwrap();
    let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
    Server::start(port, Command::new(program).arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")))
}

#[test]
fn s3_is_a_cache() {
    let Some(_) = bases() else { return };
    let Some(moto) = Moto::start(Path::new(env!("CARGO_TARGET_TMPDIR"))) else {
        skip("moto[server] cannot be installed here, or does not start");
        return;
    };
    moto.make_bucket("builds").unwrap();
    let place =
        format!("type=s3,bucket=builds,region=us-east-1,endpoint_url=http://127.0.0.1:{}", moto.port());
    let keys = [("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "s3cret")];
    round_trip(&place, &place, &keys);
    // Where a step's description needs something from the bucket, its task has to wait for it.
    workspace_round_trip(&place, &keys);
}

#[test]
fn nginx_is_a_cache() {
    let Some(_) = bases() else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = nginx(folder.path()) else {
        skip("nginx is not installed, or does not start");
        return;
    };
    let place = format!("type=http,url=http://127.0.0.1:{}", server.port);
    round_trip(&place, &place, &[]);
    // The folder that it serves is one for `type=local`, too.
    let local = format!("--cache-from=type=local,src={}", folder.path().join("cache").display());
    assert_eq!(build(&dockerfile("two"), &[&local]).steps("built").len(), 0);
}
