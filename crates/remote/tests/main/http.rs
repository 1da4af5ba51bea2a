use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use wbuild_oci::Digest;
use wbuild_remote::{
    Authorization, Download, Expected, HttpError, HttpUrl, MIN_PROGRESS, Request, Sink, Stop, Validators,
    Watch,
};
use wbuild_report::Hint;
use wbuild_testkit::{Body, HttpServer, Reply, Seen};

use crate::{Waits, client, impatient, watched};

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn expected() -> Expected {
    Expected { limit: 10 << 20, digest: None }
}

fn get(server: &HttpServer, path: &str) -> Request {
    Request::get(HttpUrl::parse(&server.url(path)).unwrap())
}

/// Bytes that differ everywhere.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

/// Downloads; gives what came, and what the sink has.
fn download(request: &Request, expected: &Expected, waits: &Waits) -> (Result<Download, HttpError>, Vec<u8>) {
    let mut sink = Vec::new();
    let (result, _) = watched(|watch| client(waits).download(request, expected, &mut sink, watch));
    (result, sink)
}

fn validators(download: Result<Download, HttpError>) -> Validators {
    match download.unwrap() {
        Download::Received(received) => received.validators,
        Download::NotModified => panic!("it is new"),
    }
}

type Answer = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// Server that answers the first requests from a list, and then always as the last one.
fn in_turn(replies: Vec<Answer>) -> HttpServer {
    let next = AtomicUsize::new(0);
    HttpServer::start(move |seen| {
        let index = next.fetch_add(1, Ordering::SeqCst);
        replies[index.min(replies.len() - 1)](seen)
    })
    .unwrap()
}

#[test]
fn a_file_with_its_validators_and_digest() {
    let server =
        HttpServer::start(|_| Reply::ok("hello").header("ETag", "\"1\"").header("Last-Modified", DATE))
            .unwrap();
    let waits = Waits::default();
    let (result, sink) = download(&get(&server, "/f?x=1#part"), &expected(), &waits);
    let Download::Received(received) = result.unwrap() else { panic!("it is new") };
    assert_eq!(sink, b"hello");
    assert_eq!((received.digest, received.size), (Digest::of(b"hello"), 5));
    assert_eq!(received.validators.modified(), Some(784_111_777));
    let seen = &server.seen()[0];
    assert_eq!((seen.path.as_str(), seen.header("accept-encoding")), ("/f?x=1", "identity"));
    assert!(seen.header("user-agent").starts_with("wbuild/"));
}

#[test]
fn what_has_not_changed_is_not_sent_again() {
    let server = HttpServer::start(|seen| match seen.header("if-none-match") {
        "\"1\"" => Reply::status(304),
        _ => Reply::ok("hello").header("ETag", "\"1\"").header("Last-Modified", DATE),
    })
    .unwrap();
    let waits = Waits::default();
    let known = validators(download(&get(&server, "/f"), &expected(), &waits).0);
    let request = get(&server, "/f").unless(known);
    assert_eq!(download(&request, &expected(), &waits).0.unwrap(), Download::NotModified);
    let other = Validators { etag: Some("\"0\"".into()), last_modified: None };
    let (result, sink) = download(&get(&server, "/f").unless(other), &expected(), &waits);
    assert!(matches!(result, Ok(Download::Received(_))));
    assert_eq!(sink, b"hello");
    assert_eq!(server.seen()[1].header("if-modified-since"), DATE);
}

#[test]
fn a_server_that_only_says_its_etag_is_believed() {
    // Larger than is allowed: its body is not looked at.
    let server = HttpServer::start(|_| Reply::ok(bytes(1000)).header("ETag", "\"1\"")).unwrap();
    let known = Validators { etag: Some("\"1\"".into()), last_modified: None };
    let request = get(&server, "/f").unless(known);
    let (result, sink) = download(&request, &Expected { limit: 10, digest: None }, &Waits::default());
    assert_eq!((result.unwrap(), sink.len()), (Download::NotModified, 0));
}

#[test]
fn a_cut_is_resumed_by_range() {
    let file = bytes(300_000);
    let served = file.clone();
    let server = HttpServer::start(move |seen| {
        match seen.range() {
            None => Reply::ok("").body(Body::Cut(served.clone(), 100_000)),
            Some(first @ 0..200_000) => {
                Reply::part(&served, first).body(Body::Cut(served[first..].to_vec(), 120_000))
            }
            Some(first) => Reply::part(&served, first),
        }
        .header("ETag", "\"1\"")
    })
    .unwrap();
    let waits = Waits::default();
    let (result, sink) = download(&get(&server, "/f"), &expected(), &waits);
    let Download::Received(received) = result.unwrap() else { panic!("it is new") };
    assert_eq!((received.digest, sink == file), (Digest::of(&file), true));
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!((seen[1].header("range"), seen[1].header("if-range")), ("bytes=100000-", "\"1\""));
    assert_eq!(seen[2].header("range"), "bytes=220000-");
    // Each try brought something, so each wait is the first.
    assert_eq!(waits.seconds(), [0.5, 0.5]);
}

#[test]
fn a_file_that_changed_meanwhile_is_fetched_anew() {
    // If-Range did not match: the whole new version comes.
    let (old, new) = (bytes(100_000), vec![b'n'; 100_000]);
    let sent = new.clone();
    let server = in_turn(vec![
        Box::new(move |_| Reply::ok("").body(Body::Cut(old.clone(), 70_000)).header("ETag", "\"1\"")),
        Box::new(move |_| Reply::ok(sent.clone()).header("ETag", "\"2\"")),
    ]);
    let (result, sink) = download(&get(&server, "/f"), &expected(), &Waits::default());
    assert_eq!(validators(result).etag.as_deref(), Some("\"2\""));
    assert_eq!(sink, new);
}

#[test]
fn a_part_that_is_another_part_is_not_taken() {
    let wrong: [fn(&[u8]) -> Reply; 4] = [
        |file| Reply::part(file, 0),
        |file| Reply::part(&file[..90_000], 70_000),
        |file| Reply::part(file, 70_000).header("ETag", "\"2\""),
        |_| Reply::status(416),
    ];
    for wrong in wrong {
        let file = bytes(100_000);
        let [cut, part, whole] = [file.clone(), file.clone(), file.clone()];
        let server = in_turn(vec![
            Box::new(move |_| Reply::ok("").body(Body::Cut(cut.clone(), 70_000)).header("ETag", "\"1\"")),
            Box::new(move |_| wrong(&part)),
            Box::new(move |_| Reply::ok(whole.clone()).header("ETag", "\"1\"")),
        ]);
        let (result, sink) = download(&get(&server, "/f"), &expected(), &Waits::default());
        result.unwrap();
        assert_eq!(sink, file);
        assert_eq!(server.seen()[2].range(), None);
    }
}

#[test]
fn without_validators_a_cut_file_starts_over_unless_its_digest_is_known() {
    let file = bytes(100_000);
    for digest in [None, Some(Digest::of(&file))] {
        let served = file.clone();
        let server = HttpServer::start(move |seen| match seen.range() {
            Some(first) => Reply::part(&served, first),
            None => Reply::ok("").body(Body::Cut(served.clone(), 70_000)),
        })
        .unwrap();
        let (result, sink) =
            download(&get(&server, "/f"), &Expected { limit: 1 << 20, digest }, &Waits::default());
        if digest.is_some() {
            result.unwrap();
            assert_eq!((sink, server.seen().len()), (file.clone(), 2));
        } else {
            // The same place again and again is no progress; the first try was some.
            assert!(matches!(result, Err(HttpError::Network { tries: 5, .. })), "{result:?}");
            assert_eq!(server.seen().len(), 5);
        }
    }
}

#[test]
fn parts_of_two_versions_are_noticed_by_the_digest() {
    let (old, new) = (vec![b'o'; 100_000], vec![b'n'; 100_000]);
    let digest = Digest::of(&new);
    let [part, whole] = [new.clone(), new.clone()];
    let server = in_turn(vec![
        Box::new(move |_| Reply::ok("").body(Body::Cut(old.clone(), 70_000))),
        Box::new(move |seen| Reply::part(&part, seen.range().unwrap())),
        Box::new(move |_| Reply::ok(whole.clone())),
    ]);
    let expected = Expected { limit: 1 << 20, digest: Some(digest) };
    let (result, sink) = download(&get(&server, "/f"), &expected, &Waits::default());
    result.unwrap();
    assert_eq!(sink, new);
}

#[test]
fn a_chunked_answer_that_ends_early_is_a_cut() {
    let server = in_turn(vec![
        Box::new(|_| {
            Reply::ok("x").header("Transfer-Encoding", "chunked").body(Body::Cut(b"5\r\nab".to_vec(), 5))
        }),
        Box::new(|_| Reply::status(200).body(Body::Chunked(bytes(5000)))),
    ]);
    let (result, sink) = download(&get(&server, "/f"), &expected(), &Waits::default());
    result.unwrap();
    assert_eq!(sink, bytes(5000));
}

#[test]
fn busy_servers_are_asked_again_as_late_as_they_say() {
    let statuses = [(429, Some("0")), (503, Some("7")), (500, Some("86400")), (408, None)];
    let mut replies: Vec<Answer> = Vec::new();
    for (status, after) in statuses {
        replies.push(Box::new(move |_| match after {
            Some(after) => Reply::status(status).header("Retry-After", after),
            None => Reply::status(status),
        }));
    }
    replies.push(Box::new(|_| Reply::ok("x")));
    let server = in_turn(replies);
    let waits = Waits::default();
    let request = get(&server, "/secret?token=abc");
    let mut sink = Vec::new();
    let (result, told) = watched(|watch| client(&waits).download(&request, &expected(), &mut sink, watch));
    result.unwrap();
    assert_eq!(waits.seconds(), [0.0, 7.0, 60.0, 4.0]);
    assert_eq!(told.len(), 4);
    let text = told[1].to_string();
    assert!(text.contains("503 Service Unavailable; trying again in 7.0 s"), "{text}");
    assert!(!text.contains("abc"), "{text}");
}

#[test]
fn tries_come_to_an_end() {
    let server = HttpServer::start(|_| Reply::status(503)).unwrap();
    let waits = Waits::default();
    let (result, _) = download(&get(&server, "/f"), &expected(), &waits);
    assert_eq!(result.unwrap_err().status(), Some(503));
    assert_eq!((server.seen().len(), waits.seconds()), (5, vec![0.5, 1.0, 2.0, 4.0]));
}

#[test]
fn what_a_server_refuses_is_asked_once() {
    for status in [400, 401, 403, 404, 410] {
        let server = HttpServer::start(move |_| {
            Reply::status(status).header("WWW-Authenticate", "Bearer").body(Body::Whole(vec![b'x'; 100_000]))
        })
        .unwrap();
        let waits = Waits::default();
        let (result, _) = download(&get(&server, "/f"), &expected(), &waits);
        let Err(HttpError::Status { answer, .. }) = result else { panic!("{result:?}") };
        assert_eq!((answer.status, answer.body.len()), (status, 64 << 10));
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert_eq!((server.seen().len(), waits.seconds().len()), (1, 0));
    }
}

#[test]
fn too_large_is_noticed_before_and_while_it_comes() {
    let limit = Expected { limit: 4999, digest: None };
    for body in [Body::Whole(bytes(5000)), Body::Chunked(bytes(5000))] {
        let server = HttpServer::start(move |_| Reply::status(200).body(body.clone())).unwrap();
        let (result, sink) = download(&get(&server, "/f"), &limit, &Waits::default());
        let url = server.url("/f");
        assert_eq!(result.unwrap_err().to_string(), format!("`{url}` is larger than 4999 bytes"));
        assert!(sink.len() < 5000);
        let (read, _) = watched(|watch| {
            client(&Waits::default()).read(&get(&server, "/f"), 4999, watch).map(|read| read.1)
        });
        assert!(matches!(read, Err(HttpError::TooLarge { .. })));
    }
}

#[test]
fn a_wrong_digest_shows_both() {
    let server = HttpServer::start(|_| Reply::ok("evil")).unwrap();
    let digest = Some(Digest::of(b"good"));
    let (result, _) = download(&get(&server, "/f"), &Expected { limit: 100, digest }, &Waits::default());
    let error = result.unwrap_err();
    let [good, evil] = [Digest::of(b"good"), Digest::of(b"evil")];
    let url = server.url("/f");
    assert_eq!(error.to_string(), format!("`{url}` has the digest {evil}, but {good} is expected"));
    assert!(error.hints()[0].contains(&evil.to_string()));
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn credentials_stay_with_their_host() {
    let other = HttpServer::start(|_| Reply::ok("x")).unwrap();
    let target = other.url("/there");
    let server = HttpServer::start(move |seen| match seen.path.as_str() {
        "/here" => Reply::status(307).header("Location", "/again"),
        _ => Reply::status(302).header("Location", target.clone()),
    })
    .unwrap();
    let url = HttpUrl::parse(&server.url("/here")).unwrap();
    let token = Authorization::bearer(url.origin(), "secret").unwrap();
    let in_url = HttpUrl::parse(&server.url("/here").replace("http://", "http://user:secret@")).unwrap();
    for request in [Request::get(url).with_authorization(Some(token)), Request::get(in_url)] {
        let (result, _) = download(&request, &expected(), &Waits::default());
        result.unwrap();
    }
    for seen in server.seen() {
        assert!(!seen.header("authorization").is_empty(), "{seen:?}");
        assert_eq!(seen.header("host"), format!("127.0.0.1:{}", server.port()));
    }
    assert_eq!(other.seen().len(), 2);
    for seen in other.seen() {
        assert_eq!((seen.header("authorization"), seen.header("referer")), ("", ""), "{seen:?}");
    }
}

#[test]
fn redirects_lead_to_http_and_end() {
    for (location, why) in [
        ("file:///etc/passwd", "`file` is not fetched; only http and https are"),
        ("ftp://user:secret@x/", "`ftp` is not fetched; only http and https are"),
        ("http://[", "`http://[` is no URL: invalid IPv6 address"),
        ("/", "more than 10 redirects"),
    ] {
        let server = HttpServer::start(move |_| Reply::status(302).header("Location", location)).unwrap();
        let (result, _) = download(&get(&server, "/"), &expected(), &Waits::default());
        let text = result.unwrap_err().to_string();
        assert!(text.ends_with(why), "{text}");
        assert!(!text.contains("secret"));
    }
    let server = HttpServer::start(|_| Reply::status(302)).unwrap();
    let (result, _) = download(&get(&server, "/"), &expected(), &Waits::default());
    assert!(result.unwrap_err().to_string().ends_with("it names no location"));
}

#[test]
fn refused_connections_are_tried_again() {
    let closed = HttpServer::start(|_| Reply::status(200)).unwrap();
    let request = get(&closed, "/f");
    drop(closed);
    let waits = Waits::default();
    let (result, _) = download(&request, &expected(), &waits);
    assert!(matches!(result, Err(HttpError::Network { tries: 5, .. })), "{result:?}");
    assert_eq!(waits.seconds().len(), 4);
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    for body in [Body::Held(bytes(1000), 0), Body::Held(bytes(1000), 500)] {
        let server = HttpServer::start(move |_| Reply::status(200).body(body.clone())).unwrap();
        let mut sink = Vec::new();
        let (result, _) =
            watched(|watch| impatient().download(&get(&server, "/f"), &expected(), &mut sink, watch));
        assert!(matches!(result, Err(HttpError::Stalled { .. })), "{result:?}");
        assert_eq!(server.seen().len(), 2);
    }
}

#[test]
fn stop_ends_a_download() {
    let stop = Stop::new();
    let stopping = stop.clone();
    let server = HttpServer::start(move |_| {
        stopping.stop();
        Reply::status(200).body(Body::Held(bytes(1000), 10))
    })
    .unwrap();
    let mut sink = Vec::new();
    let watch = Watch { stop: &stop, retrying: &|_| () };
    let waits = Waits::default();
    let result = client(&waits).download(&get(&server, "/f"), &expected(), &mut sink, &watch);
    assert!(matches!(result, Err(HttpError::Stopped)), "{result:?}");
}

#[test]
fn a_sink_that_fails_ends_it() {
    struct Full;
    impl Sink for Full {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn restart(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let server = HttpServer::start(|_| Reply::ok("x")).unwrap();
    let (result, _) = watched(|watch| {
        client(&Waits::default()).download(&get(&server, "/f"), &expected(), &mut Full, watch)
    });
    assert!(matches!(result, Err(HttpError::Sink { .. })), "{result:?}");
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn one_client_serves_many_threads() {
    let file = bytes(MIN_PROGRESS as usize * 3);
    let served = file.clone();
    let server = HttpServer::start(move |_| Reply::ok(served.clone())).unwrap();
    let client = client(&Waits::default());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let (read, _) = watched(|watch| client.read(&get(&server, "/f"), 1 << 20, watch));
                assert!(read.unwrap().1 == file);
            });
        }
    });
}
