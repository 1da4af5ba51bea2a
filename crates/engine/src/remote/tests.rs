use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wbuild_oci::Digest;
use wbuild_report::Event;
use wbuild_testkit::{Body, HttpServer, Reply, Seen};
use wbuild_tree::lookup;

use super::*;
use crate::testing::{Repository, engine, listing};

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn file(url: &str, checksum: Option<Digest>) -> HttpFile {
    HttpFile { url: url.to_owned(), name: "f".to_owned(), checksum }
}

/// Serves one file, which knows its ETag.
fn serves(text: &'static str) -> HttpServer {
    HttpServer::start(move |seen| {
        let etag = format!("\"{}\"", Digest::of(text.as_bytes()).hex());
        if seen.header("if-none-match") == etag {
            return Reply::status(304);
        }
        Reply::ok(text).header("ETag", etag).header("Last-Modified", DATE)
    })
    .unwrap()
}

#[test]
fn a_file_is_a_tree_and_asked_about_once_in_each_build() {
    let home = tempfile::tempdir().unwrap();
    let server = serves("hello");
    let mut trees = Vec::new();
    for build in 0..2 {
        let engine = engine(home.path(), &[]);
        for _ in 0..2 {
            let tree = engine.http_source(&file(&server.url("/x"), None)).unwrap();
            assert_eq!(listing(&engine, &tree), ["/f 600 hello"]);
            trees.push(tree.digest());
            if build == 0 {
                let path = wbuild_tree::EntryPath::parse("f").unwrap();
                let meta = lookup(&engine.store, &tree, &path).unwrap().unwrap().meta;
                assert_eq!((meta.uid, meta.gid, meta.mtime.seconds), (0, 0, 784_111_777));
            }
        }
    }
    trees.dedup();
    assert_eq!(trees.len(), 1);
    let asked: Vec<bool> = server.seen().iter().map(|seen| seen.header("if-none-match").is_empty()).collect();
    assert_eq!(asked, [true, false]);
}

#[test]
fn a_file_that_changed_is_fetched_again() {
    let home = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    let server = HttpServer::start(move |_| {
        Reply::ok(format!("version {}", count.fetch_add(1, Ordering::SeqCst))).header("ETag", "W/\"weak\"")
    })
    .unwrap();
    for version in ["/f 600 version 0", "/f 600 version 1"] {
        let engine = engine(home.path(), &[]);
        let tree = engine.http_source(&file(&server.url("/x"), None)).unwrap();
        assert_eq!(listing(&engine, &tree), [version]);
    }
}

#[test]
fn what_is_known_by_its_checksum_needs_no_network() {
    let home = tempfile::tempdir().unwrap();
    let server = serves("hello");
    let (url, elsewhere) = (server.url("/x"), server.url("/elsewhere"));
    let checksum = Some(Digest::of(b"hello"));
    engine(home.path(), &[]).http_source(&file(&url, checksum)).unwrap();
    assert_eq!(server.seen().len(), 1);
    drop(server);
    let engine = engine(home.path(), &[]);
    for url in [url, elsewhere] {
        let tree = engine.http_source(&file(&url, checksum)).unwrap();
        assert_eq!(listing(&engine, &tree), ["/f 600 hello"]);
    }
}

#[test]
fn a_wrong_checksum_shows_both_and_keeps_nothing() {
    let home = tempfile::tempdir().unwrap();
    let server = serves("evil");
    let engine = engine(home.path(), &[]);
    let error = engine.http_source(&file(&server.url("/x"), Some(Digest::of(b"good")))).unwrap_err();
    let [good, evil] = [Digest::of(b"good"), Digest::of(b"evil")];
    let text = error.to_string();
    assert!(text.contains(&good.to_string()) && text.contains(&evil.to_string()), "{text}");
    assert!(!engine.store.has_blob(&evil).unwrap());
}

#[test]
fn what_was_collected_is_fetched_again() {
    let home = tempfile::tempdir().unwrap();
    let server = serves("hello");
    let engine = engine(home.path(), &[]);
    let asked = file(&server.url("/x"), None);
    engine.http_source(&asked).unwrap();
    fs::remove_file(engine.store.blob_path(&Digest::of(b"hello"))).unwrap();
    let tree = engine.http_source(&asked).unwrap();
    assert_eq!(listing(&engine, &tree), ["/f 600 hello"]);
    // Without saying that it has the old one: it has not.
    assert_eq!(server.seen()[1].header("if-none-match"), "");
}

#[test]
fn secrets_of_a_host_reach_that_host() {
    let home = tempfile::tempdir().unwrap();
    let server = HttpServer::start(|seen: &Seen| Reply::ok(seen.header("authorization"))).unwrap();
    let id = format!("HTTP_AUTH_TOKEN_127.0.0.1:{}", server.port());
    let engine = engine(home.path(), &[(&id, "abc\n"), ("HTTP_AUTH_TOKEN_other", "wrong")]);
    let tree = engine.http_source(&file(&server.url("/x"), None)).unwrap();
    assert_eq!(listing(&engine, &tree), ["/f 600 Bearer abc"]);
    assert!(is_for_sources(&id) && is_for_sources("GIT_AUTH_TOKEN.github.com") && !is_for_sources("npm"));
}

#[test]
fn a_build_that_is_cancelled_waits_for_nothing() {
    let home = tempfile::tempdir().unwrap();
    let engine = engine(home.path(), &[]);
    let following = Following::default();
    engine.remotes.follow(following.clone());
    let server = HttpServer::start(move |_| {
        following.cancellation.cancel();
        Reply::status(200).body(Body::Held(vec![0; 100], 10))
    })
    .unwrap();
    let error = engine.http_source(&file(&server.url("/x"), None)).unwrap_err();
    assert!(matches!(error, EngineError::Cancelled), "{error}");
}

#[test]
fn what_is_tried_again_is_said() {
    let home = tempfile::tempdir().unwrap();
    let engine = engine(home.path(), &[]);
    let said = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&said);
    let events = EventSink::new(move |event| noted.lock().unwrap().push(event));
    engine.remotes.follow(Following { events, ..Following::default() });
    let count = AtomicUsize::new(0);
    let server = HttpServer::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::status(429).header("Retry-After", "0"),
        _ => Reply::ok("hello"),
    })
    .unwrap();
    engine.http_source(&file(&server.url("/x"), None)).unwrap();
    let said = said.lock().unwrap();
    let [Event::Warned { warning, .. }] = &said[..] else { panic!("{said:?}") };
    assert!(warning.message.contains("429 Too Many Requests; trying again"), "{}", warning.message);
}

#[test]
fn a_name_is_a_name() {
    let home = tempfile::tempdir().unwrap();
    let server = serves("hello");
    for name in ["", "..", "a/b"] {
        let asked = HttpFile { name: name.to_owned(), ..file(&server.url("/x"), None) };
        let error = engine(home.path(), &[]).http_source(&asked).unwrap_err();
        assert_eq!(error.to_string(), format!("a file cannot be called `{name}`"));
    }
}

fn checkout(server: &HttpServer) -> GitCheckout {
    GitCheckout {
        remote: server.url("/x.git"),
        reference: "main".to_owned(),
        subdirectory: String::new(),
        checksum: None,
        keep_git_dir: false,
        submodules: true,
        commit_times: false,
    }
}

#[test]
fn a_checkout_is_fetched_once_for_each_commit() {
    let Some(repository) = Repository::new() else { return };
    let home = tempfile::tempdir().unwrap();
    let server = repository.serve();
    let objects = || server.seen().iter().filter(|seen| seen.path.contains("/objects/")).count();
    let tree = |text: &str| {
        let engine = engine(home.path(), &[]);
        let tree = engine.git_source(&checkout(&server)).unwrap();
        assert_eq!(listing(&engine, &tree), ["/dir/ 755".to_owned(), format!("/dir/f 644 {text}")]);
        // A build sees one commit, whatever happens meanwhile.
        let again = engine.git_source(&checkout(&server)).unwrap();
        assert_eq!(again.digest(), tree.digest());
        tree.digest()
    };
    let first = tree("one");
    let fetched = objects();
    assert!(fetched > 0);
    assert_eq!(tree("one"), first);
    assert_eq!(objects(), fetched);
    repository.commit("two");
    assert_ne!(tree("two"), first);
}

/// What is known from elsewhere does not make a wrong checksum right.
#[test]
fn a_known_commit_is_not_what_another_reference_is() {
    let Some(repository) = Repository::new() else { return };
    let home = tempfile::tempdir().unwrap();
    let commit = repository.git(&["rev-parse", "HEAD"]);
    repository.git(&["branch", "old"]);
    repository.commit("two");
    let server = repository.serve();
    let of = |reference: &str| GitCheckout {
        checksum: Some(commit.clone()),
        reference: reference.to_owned(),
        ..checkout(&server)
    };
    let engine = engine(home.path(), &[]);
    engine.git_source(&of("old")).unwrap();
    let error = engine.git_source(&of("main")).unwrap_err().to_string();
    assert!(error.contains(&format!("{commit} is expected")), "{error}");
}

#[test]
fn a_commit_that_is_known_needs_no_network() {
    let Some(repository) = Repository::new() else { return };
    let home = tempfile::tempdir().unwrap();
    let commit = repository.git(&["rev-parse", "HEAD"]);
    let server = repository.serve();
    let pinned =
        GitCheckout { checksum: Some(commit.clone()), subdirectory: "dir".to_owned(), ..checkout(&server) };
    engine(home.path(), &[]).git_source(&pinned).unwrap();
    let wrong = GitCheckout { checksum: Some("abc1234".to_owned()), ..checkout(&server) };
    let error = engine(home.path(), &[]).git_source(&wrong).unwrap_err().to_string();
    assert!(error.contains(&commit) && error.contains("abc1234"), "{error}");
    drop(server);
    let engine = engine(home.path(), &[]);
    let tree = engine.git_source(&pinned).unwrap();
    assert_eq!(listing(&engine, &tree), ["/f 644 one"]);
}
