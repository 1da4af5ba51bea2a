use std::fs;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use wbuild_remote::{Authorization, HttpError, HttpUrl, Payload, Reply, Request};
use wbuild_testkit::{HttpServer, Intake, Reply as Answer};

use crate::{Waits, client, impatient, watched};

fn url(server: &HttpServer, path: &str) -> HttpUrl {
    HttpUrl::parse(&server.url(path)).unwrap()
}

fn send(request: &Request, waits: &Waits) -> Result<Reply, HttpError> {
    watched(|watch| client(waits).send(request, 100, watch)).0
}

/// Bytes that differ everywhere.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

#[test]
fn each_method_sends_what_it_is_given() {
    let server = HttpServer::start(|_| {
        Answer::status(202).header("Location", "/next").body(wbuild_testkit::Body::Whole(b"taken".to_vec()))
    })
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("blob");
    fs::write(&file, bytes(300_000)).unwrap();
    let waits = Waits::default();
    for request in [
        Request::put(url(&server, "/put"), Payload::file(file, 300_000)),
        Request::post(url(&server, "/post"), Payload::bytes("hello")),
        Request::patch(url(&server, "/patch"), Payload::bytes("")),
        Request::head(url(&server, "/head")),
    ] {
        let reply = send(&request, &waits).unwrap();
        assert_eq!((reply.status, reply.headers["location"].to_str().unwrap()), (202, "/next"));
        assert_eq!(reply.body, if request.url().identity().ends_with("head") { &b""[..] } else { b"taken" });
    }
    let seen = server.seen();
    let heads: Vec<_> =
        seen.iter().map(|seen| (seen.method.as_str(), seen.header("content-length"))).collect();
    assert_eq!(heads, [("PUT", "300000"), ("POST", "5"), ("PATCH", "0"), ("HEAD", "")]);
    assert!(seen[0].body == bytes(300_000) && seen[1].body == b"hello");
}

#[test]
fn what_is_sent_again_is_opened_again() {
    let count = Arc::new(AtomicUsize::new(0));
    let (cuts, answers) = (Arc::clone(&count), AtomicUsize::new(0));
    let server = HttpServer::start_admitting(
        |stream| Ok(Box::new(stream)),
        move |_| if cuts.fetch_add(1, Ordering::SeqCst) == 0 { Intake::Cut(1000) } else { Intake::Whole },
        move |_| match answers.fetch_add(1, Ordering::SeqCst) {
            1 => Answer::status(429).header("Retry-After", "3"),
            2 => Answer::status(503),
            _ => Answer::status(201),
        },
    )
    .unwrap();
    let opened = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&opened);
    let payload = Payload::reopened(200_000, move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(io::Cursor::new(bytes(200_000))))
    });
    let waits = Waits::default();
    let reply = send(&Request::put(url(&server, "/x"), payload), &waits).unwrap();
    assert_eq!((reply.status, opened.load(Ordering::SeqCst)), (201, 4));
    assert_eq!(waits.seconds(), [0.5, 3.0, 2.0]);
    assert!(server.seen()[3].body == bytes(200_000));
}

#[test]
fn what_is_refused_or_sent_once_is_not_sent_again() {
    for (status, once, tries) in
        [(400, false, 1), (401, false, 1), (413, false, 1), (500, true, 1), (500, false, 5)]
    {
        let server = HttpServer::start(move |_| Answer::status(status)).unwrap();
        let request = Request::put(url(&server, "/x"), Payload::bytes("x"));
        let request = if once { request.once() } else { request };
        let error = send(&request, &Waits::default()).unwrap_err();
        assert_eq!((error.status(), server.seen().len()), (Some(status), tries));
        assert_eq!(error.may_pass(), status == 500);
    }
}

#[test]
fn what_cannot_be_read_or_changed_is_said() {
    let server = HttpServer::start(|_| Answer::status(201)).unwrap();
    let of = |size, length| {
        Payload::reopened(size, move || Ok(Box::new(io::Cursor::new(bytes(length))) as Box<dyn Read + Send>))
    };
    let folder = tempfile::tempdir().unwrap();
    for (payload, why) in [
        (of(100_000, 99_999), "less of it than there was before"),
        (of(99_999, 100_000), "more of it than there was before"),
        (Payload::file(folder.path().join("missing"), 5), "missing`: No such file"),
    ] {
        let error = send(&Request::put(url(&server, "/x"), payload), &Waits::default()).unwrap_err();
        let HttpError::Payload { source, .. } = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains(why), "{source}");
    }
    assert!(server.seen().iter().all(|seen| seen.body.len() < 99_999), "nothing was taken for whole");
}

#[test]
fn redirects_repeat_what_is_sent_or_are_refused() {
    let other = HttpServer::start(|_| Answer::status(201)).unwrap();
    let target = other.url("/there");
    let server = HttpServer::start(move |seen| {
        let status = seen.path.trim_start_matches('/').parse().unwrap();
        Answer::status(status).header("Location", target.clone())
    })
    .unwrap();
    let waits = Waits::default();
    let put = |status: u16, payload: Payload| {
        let url = url(&server, &format!("/{status}"));
        let authorization = Authorization::bearer(url.origin(), "secret");
        send(&Request::put(url, payload).with_authorization(authorization), &waits)
    };
    for status in [307, 308] {
        assert_eq!(put(status, Payload::bytes("x")).unwrap().status, 201);
        let error = put(status, Payload::secret("token")).unwrap_err();
        assert!(error.to_string().contains("secrets to another host"), "{error}");
    }
    for status in [301, 302, 303] {
        let error = put(status, Payload::bytes("x")).unwrap_err();
        assert!(matches!(error, HttpError::Redirect { .. }), "{error}");
    }
    let seen = other.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.body == b"x" && seen.header("authorization").is_empty()));
    assert!(server.seen().iter().all(|seen| seen.header("authorization") == "Bearer secret"));
    assert!(!format!("{:?}", Payload::secret("token")).contains("token"));
}

#[test]
fn a_server_that_takes_nothing_is_given_up() {
    let server = HttpServer::start_admitting(
        |stream| Ok(Box::new(stream)),
        |_| Intake::Held(10),
        |_| Answer::status(201),
    )
    .unwrap();
    // More than the buffers of two sockets hold.
    let payload = Payload::reopened(64 << 20, || Ok(Box::new(io::repeat(1))));
    let request = Request::put(url(&server, "/x"), payload);
    let result = watched(|watch| impatient().send(&request, 100, watch)).0;
    assert!(matches!(result, Err(HttpError::Stalled { .. })), "{result:?}");
}

#[test]
fn what_must_be_looked_at_first_goes_on_where_it_was() {
    // The server has a part after each failure; the caller asks for how much, and sends the rest.
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (noted, count) = (Arc::clone(&kept), AtomicUsize::new(0));
    let server = HttpServer::start_admitting(
        |stream| Ok(Box::new(stream)),
        move |seen| match count.fetch_add(usize::from(seen.method == "PATCH"), Ordering::SeqCst) {
            0..4 if seen.method == "PATCH" => Intake::Cut(100_000),
            _ => Intake::Whole,
        },
        move |seen| {
            let mut kept = noted.lock().unwrap();
            kept.extend_from_slice(&seen.body);
            Answer::status(204).header("Range", kept.len().to_string())
        },
    )
    .unwrap();
    let file = bytes(450_000);
    let (waits, target) = (Waits::default(), url(&server, "/x"));
    let client = client(&waits);
    let (result, told) = watched(|watch| {
        client.keep_trying(
            &target,
            watch,
            &mut 0_u64,
            |position| *position,
            |position| {
                let asked = client.send(&Request::get(target.clone()).once(), 100, watch)?;
                *position = asked.headers["range"].to_str().unwrap().parse().unwrap();
                let rest = file[*position as usize..].to_vec();
                client.send(&Request::patch(target.clone(), Payload::bytes(rest)).once(), 100, watch)
            },
        )
    });
    result.unwrap();
    assert!(*kept.lock().unwrap() == file);
    assert_eq!(told.len(), 4);
    // Each try brought something: none of the waits is longer than the first.
    assert_eq!(waits.seconds(), [0.5; 4]);
}

#[test]
fn many_threads_send_at_once() {
    let server = HttpServer::start(|_| Answer::status(201)).unwrap();
    let waits = Waits::default();
    let client = client(&waits);
    thread::scope(|scope| {
        for index in 0..8 {
            let (client, server) = (&client, &server);
            scope.spawn(move || {
                let request = Request::put(url(server, &format!("/{index}")), Payload::bytes(bytes(100_000)));
                watched(|watch| client.send(&request, 100, watch)).0.unwrap();
            });
        }
    });
    assert_eq!(server.seen().len(), 8);
}
