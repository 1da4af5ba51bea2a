//! Everything that can go wrong with a place, through whole builds: each fault while a cache is read and while it is written,
//! on a web server and on a registry. The image is always the right one, what is wrong is said once, and no wrong blob stays
//! in the store.

use std::sync::{Arc, Mutex, OnceLock};

use wbuild_testkit::{Body, FakeRegistry, Fault, HttpServer, Intake, Reply, Seen};

use super::sharing::{Folder, STEPS, build, dockerfile};
use super::sharing_servers::{Kept, keep};
use crate::context::{Build, TestContext, bases};

/// A cache that somebody filled, and the digest of what was built.
struct Filled {
    kept: Kept,
    digest: String,
}

fn filled() -> &'static Filled {
    static FILLED: OnceLock<Filled> = OnceLock::new();
    FILLED.get_or_init(|| {
        let kept = Kept::default();
        let keeping = Arc::clone(&kept);
        let server = HttpServer::start(move |seen| keep(&keeping, seen)).unwrap();
        let built = build(&dockerfile("one"), &[&format!("--cache-to=type=http,url={}", server.url(""))]);
        Filled { digest: built.digest().to_owned(), kept }
    })
}

/// As it was left, for a server of its own.
fn copy_of(kept: &Kept) -> Kept {
    Arc::new(Mutex::new(kept.lock().unwrap().clone()))
}

fn bytes_of(reply: &Reply) -> Vec<u8> {
    match reply.content() {
        Body::Whole(bytes) => bytes.clone(),
        _ => Vec::new(),
    }
}

/// That a build came to the right image with one warning, or none, and left a good store.
fn check(name: &str, context: &TestContext, built: &Build, warnings: usize) {
    assert_eq!(built.digest(), filled().digest, "{name}");
    assert_eq!(built.warnings().len(), warnings, "{name}: {:?}", built.warnings());
    let verified = context.run(&["cache", "verify"]);
    assert_eq!(verified.code, 0, "{name}: {verified}");
}

/// All cases at once: most of their time is waiting.
fn each<T: Sync>(cases: &[T], test: impl Fn(&T) + Sync) {
    // The one build that all compare with comes first.
    filled();
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| test(case));
        }
    });
}

/// What becomes of the answer to a request.
type Spoil = fn(&Seen, Reply) -> Reply;

fn cut(_: &Seen, reply: Reply) -> Reply {
    let bytes = bytes_of(&reply);
    let half = bytes.len() / 2;
    reply.body(Body::Cut(bytes, half))
}

fn held(_: &Seen, reply: Reply) -> Reply {
    let bytes = bytes_of(&reply);
    let half = bytes.len() / 2;
    reply.body(Body::Held(bytes, half))
}

fn truncated(_: &Seen, reply: Reply) -> Reply {
    let bytes = bytes_of(&reply);
    reply.body(Body::Whole(bytes[..bytes.len() / 2].to_vec()))
}

fn wrong(_: &Seen, reply: Reply) -> Reply {
    let bytes = bytes_of(&reply).iter().map(|byte| byte ^ 1).collect();
    reply.body(Body::Whole(bytes))
}

fn elsewhere(seen: &Seen, _: Reply) -> Reply {
    // A port that nobody listens on.
    Reply::status(307).header("Location", format!("http://127.0.0.1:9{}", seen.path))
}

fn circle(seen: &Seen, _: Reply) -> Reply {
    Reply::status(302).header("Location", seen.path.clone())
}

#[test]
fn whatever_a_web_server_answers_to_an_import() {
    let Some(_) = bases() else { return };
    let faults: [(&str, Spoil, usize); 11] = [
        ("404", |_, _| Reply::status(404), 1),
        ("403", |_, _| Reply::status(403), 1),
        ("503", |_, _| Reply::status(503), 1),
        ("429", |_, _| Reply::status(429).header("Retry-After", "1"), 1),
        ("wrong bytes", wrong, 1),
        ("truncated", truncated, 1),
        ("cut", cut, 1),
        ("hanging", held, 1),
        ("a login page", |_, _| Reply::ok("<html>please log in</html>"), 1),
        ("a redirect to itself", circle, 1),
        ("a redirect to nowhere", elsewhere, 1),
    ];
    each(&faults, |(name, spoil, warnings)| {
        for on in ["/ac/", "/cas/"] {
            // No index is no fault: nobody has filled it yet.
            let warnings = if (*name, on) == ("404", "/ac/") { 0 } else { *warnings };
            let spoil = *spoil;
            let kept = copy_of(&filled().kept);
            let server = HttpServer::start(move |seen| {
                let reply = keep(&kept, seen);
                if seen.path.contains(on) { spoil(seen, reply) } else { reply }
            })
            .unwrap();
            let context = dockerfile("one");
            let from = format!("--cache-from=type=http,url={},timeout=1s", server.url(""));
            check(&format!("{name} on {on}"), &context, &build(&context, &[&from]), warnings);
        }
    });
}

/// What is asked again when a server says so, or a connection breaks, is no fault.
#[test]
fn what_a_web_server_gives_at_the_second_try_costs_nothing() {
    let Some(_) = bases() else { return };
    let faults: [(&str, Spoil); 4] = [
        ("429", |_, _| Reply::status(429).header("Retry-After", "1")),
        ("502", |_, _| Reply::status(502)),
        ("cut", cut),
        ("hanging", held),
    ];
    each(&faults, |(name, spoil)| {
        let spoil = *spoil;
        for (on, method) in [("/ac/", "GET"), ("/cas/", "GET"), ("/cas/", "PUT"), ("/ac/", "PUT")] {
            let left = Mutex::new(1);
            let kept = if method == "GET" { copy_of(&filled().kept) } else { Kept::default() };
            let server = HttpServer::start(move |seen| {
                let reply = keep(&kept, seen);
                let mut left = left.lock().unwrap();
                if *left > 0 && seen.path.contains(on) && seen.method == method {
                    *left -= 1;
                    return spoil(seen, reply);
                }
                reply
            })
            .unwrap();
            let context = dockerfile("one");
            let place = format!("type=http,url={},timeout=1s", server.url(""));
            let flag = if method == "GET" { "--cache-from" } else { "--cache-to" };
            let built = build(&context, &[&format!("{flag}={place}")]);
            check(&format!("{name} on {method} {on}"), &context, &built, 0);
            let again = build(&dockerfile("one"), &[&format!("--cache-from={place}")]);
            assert_eq!(again.steps("built"), Vec::<&str>::new(), "{name} on {method} {on}");
        }
    });
}

#[test]
fn whatever_a_web_server_answers_to_an_export() {
    let Some(_) = bases() else { return };
    let faults: [(&str, Spoil); 7] = [
        ("403", |_, _| Reply::status(403)),
        ("413", |_, _| Reply::status(413)),
        ("503", |_, _| Reply::status(503)),
        ("429", |_, _| Reply::status(429).header("Retry-After", "1")),
        ("hanging", |_, reply| reply.body(Body::Held(vec![0; 10], 0))),
        ("a redirect to itself", circle),
        ("a redirect to nowhere", elsewhere),
    ];
    each(&faults, |(name, spoil)| {
        let spoil = *spoil;
        for on in ["/ac/", "/cas/"] {
            let kept = Kept::default();
            let keeping = Arc::clone(&kept);
            let server = HttpServer::start(move |seen| {
                if seen.method == "PUT" && seen.path.contains(on) {
                    return spoil(seen, Reply::status(201));
                }
                keep(&keeping, seen)
            })
            .unwrap();
            let context = dockerfile("one");
            let to = format!("--cache-to=type=http,url={},timeout=1s", server.url(""));
            let name = format!("{name} on {on}");
            let built = build(&context, &[&to]);
            check(&name, &context, &built, 1);
            assert_eq!(built.other_notes(), Vec::<&str>::new(), "{name}");
            // Nobody finds an index of what was not stored.
            assert!(!kept.lock().unwrap().keys().any(|path| path.contains("/ac/")), "{name}");
        }
    });
    // Connections that break while something is sent.
    for most in [0, 1000] {
        let server = HttpServer::start_admitting(
            |stream| Ok(Box::new(stream)),
            move |seen| if seen.method == "PUT" { Intake::Cut(most) } else { Intake::Whole },
            |_| Reply::status(404),
        )
        .unwrap();
        let context = dockerfile("one");
        let to = format!("--cache-to=type=http,url={},timeout=1s", server.url(""));
        check("cut", &context, &build(&context, &[&to]), 1);
    }
}

/// An index that is garbage is replaced; one that names what is gone is mended by the next who builds that again.
#[test]
fn what_is_garbage_or_stale_is_mended() {
    let Some(_) = bases() else { return };
    let steps = |place: &str| {
        let context = dockerfile("one");
        let built = build(&context, &[&format!("--cache-from={place}")]);
        (built.steps("built").len(), built.warnings().len())
    };
    for (name, kind, warnings) in [("garbage", "/ac/", 1), ("gone", "/cas/", 1)] {
        let kept = copy_of(&filled().kept);
        for (path, bytes) in kept.lock().unwrap().iter_mut() {
            if path.contains("/ac/") && kind == "/ac/" {
                *bytes = b"nonsense".to_vec();
            }
        }
        kept.lock().unwrap().retain(|path, _| kind == "/ac/" || !path.contains("/cas/"));
        let keeping = Arc::clone(&kept);
        let server = HttpServer::start(move |seen| keep(&keeping, seen)).unwrap();
        let place = format!("type=http,url={}", server.url(""));
        let context = dockerfile("one");
        let built = build(&context, &[&format!("--cache-from={place}"), &format!("--cache-to={place}")]);
        check(name, &context, &built, warnings);
        assert!(built.steps("built").len() >= STEPS, "{name}");
        assert_eq!(steps(&place), (0, 0), "{name}");
    }
    // The same in a folder, where data is lost, and the directories are there.
    let folder = Folder::new();
    build(&dockerfile("one"), &[&folder.to("")]).digest();
    let largest = |path: &std::path::PathBuf| std::fs::metadata(path).unwrap().len();
    let data = folder.files("cas").into_iter().max_by_key(largest).unwrap();
    std::fs::remove_file(data).unwrap();
    let context = dockerfile("one");
    check("lost", &context, &build(&context, &[&folder.from(""), &folder.to("")]), 1);
    let imported = build(&dockerfile("one"), &[&folder.from("")]);
    assert_eq!((imported.steps("built").len(), imported.warnings().len()), (0, 0));
}

/// The repository of the cache.
const CACHE: &str = "team/cache";

/// Another registry with the same cache.
fn same_as(full: &FakeRegistry) -> FakeRegistry {
    let registry = FakeRegistry::start().unwrap();
    for (repository, digest) in full.blobs() {
        registry.put_blob(&repository, &full.blob(&repository, &digest).unwrap());
    }
    let manifest = full.manifest(CACHE, "latest").unwrap();
    registry.put_manifest(CACHE, Some("latest"), "application/vnd.oci.image.manifest.v1+json", &manifest);
    registry
}

#[test]
fn whatever_a_registry_does() {
    let Some(_) = bases() else { return };
    let full = FakeRegistry::start().unwrap();
    build(&dockerfile("one"), &[&format!("--cache-to={}/{CACHE}", full.host())]).digest();
    let always = usize::MAX;
    let nowhere = Fault::Redirect("http://127.0.0.1:9/blob".to_owned());
    let faults = [
        (Fault::Status(403), always),
        (Fault::Status(404), always),
        (Fault::Status(503), always),
        (Fault::Limited(1), always),
        (Fault::Cut(10), always),
        (Fault::Held(10), always),
        (Fault::WrongByte, always),
        (Fault::Shortened, always),
        (nowhere, always),
        // At the second try it costs nothing.
        (Fault::Status(502), 1),
        (Fault::Limited(1), 1),
        (Fault::Cut(10), 1),
    ];
    each(&faults, |(fault, times)| {
        for path in ["/manifests/", "/blobs/"] {
            let registry = same_as(&full);
            registry.plan("GET", path, *times, fault.clone());
            let context = dockerfile("one");
            let from = format!("--cache-from=type=registry,ref={}/{CACHE},timeout=1s", registry.host());
            let built = build(&context, &[&from]);
            // No manifest is no fault: nobody has filled it yet.
            let is_fault = *times > 1 && (fault, path) != (&Fault::Status(404), "/manifests/");
            check(&format!("{fault:?} on {path}, {times}"), &context, &built, usize::from(is_fault));
            assert!(*times > 1 || built.steps("built").is_empty(), "{fault:?} on {path}, once");
        }
    });
    let refusals = [
        ("POST", "/uploads/", Fault::Status(403)),
        ("POST", "/uploads/", Fault::Status(503)),
        ("POST", "/uploads/", Fault::Limited(1)),
        ("PUT", "/uploads/", Fault::Status(503)),
        ("PUT", "/uploads/", Fault::CutUpload(10)),
        ("PUT", "/uploads/", Fault::HeldUpload(10)),
        ("PUT", "/manifests/", Fault::Status(403)),
        ("PUT", "/manifests/", Fault::Status(413)),
        ("PUT", "/manifests/", Fault::HeldUpload(10)),
        ("PUT", "/manifests/", Fault::Limited(1)),
    ];
    each(&refusals, |(method, path, fault)| {
        let registry = FakeRegistry::start().unwrap();
        registry.plan(method, path, always, fault.clone());
        let context = dockerfile("one");
        let to = format!("--cache-to=type=registry,ref={}/{CACHE},timeout=1s", registry.host());
        let built = build(&context, &[&to]);
        check(&format!("{method} {path} {fault:?}"), &context, &built, 1);
    });
}
