//! Remote caches that are written again and again: what stays, what grows, and what is told of earlier builds.

use std::fs;
use std::sync::Arc;

use serde_json::Value;
use wbuild_testkit::HttpServer;

use super::sharing::{Folder, build, dockerfile};
use super::sharing_servers::{Kept, keep};
use crate::context::{Build, TestContext, bases};

fn pages(page: &str) -> TestContext {
    let context = TestContext::empty();
    context.write("Dockerfile", "FROM scratch\nCOPY page.txt /\nCOPY other.txt /\n");
    context.write("page.txt", page);
    context.write("other.txt", "the same for all");
    context
}

#[test]
fn many_small_builds_leave_few_packs() {
    let kept = Kept::default();
    let keeping = Arc::clone(&kept);
    let server = HttpServer::start(move |seen| keep(&keeping, seen)).unwrap();
    let place = format!("type=http,url={}", server.url(""));
    let (to, from) = (format!("--cache-to={place}"), format!("--cache-from={place}"));
    let mut digests = Vec::new();
    let mut most = 0;
    for number in 0..40 {
        let before = server.seen().len();
        let built = build(&pages(&format!("page {number}")), &[&from, &to]);
        assert_eq!(built.warnings(), Vec::<&str>::new());
        digests.push(built.digest().to_owned());
        // Who adds something reads which objects are there already: one request a pack.
        let asked = server.seen()[before..].iter().filter(|seen| seen.method == "GET").count();
        most = most.max(asked);
    }
    // Where packs are rewritten, what is in them is read, too.
    assert!(most < 150, "{most}");
    let before = server.seen().len();
    build(&pages("one more"), &[&to]).digest();
    let asked = server.seen()[before..].iter().filter(|seen| seen.method == "GET").count();
    assert!(asked < 25, "{asked}");
    // Everything is there still, for machines that have nothing.
    for (number, digest) in digests.iter().enumerate().step_by(13) {
        let imported = build(&pages(&format!("page {number}")), &[&from]);
        assert_eq!((imported.digest(), imported.warnings()), (digest.as_str(), vec![]));
        assert_eq!(imported.steps("built"), Vec::<&str>::new(), "{number}");
    }
}

const COUNTER: &str = "FROM alpine:3.23\nCOPY page.txt /\n\
    RUN --mount=type=cache,target=/cache echo x >> /cache/builds; wc -l < /cache/builds\n";

#[test]
fn a_cache_mount_is_that_of_the_newest_build() {
    let Some(_) = bases() else { return };
    let folder = Folder::new();
    for number in 1..4 {
        let context = TestContext::empty();
        context.write("Dockerfile", COUNTER);
        context.write("page.txt", &number.to_string());
        let built = build(&context, &[&folder.from(""), &folder.to("")]);
        built.digest();
        assert_eq!(built.log().trim(), number.to_string());
    }
}

/// Why steps ran.
fn reasons(built: &Build) -> Vec<String> {
    let finished = built.events.iter().filter(|event| event["event"] == "finished");
    finished.filter_map(|event| event["because"].as_str().map(str::to_owned)).collect()
}

#[test]
fn with_logs_the_first_miss_of_a_machine_is_explained() {
    let Some(_) = bases() else { return };
    let (with, without) = (Folder::new(), Folder::new());
    let context = |argument: &str| {
        let context = dockerfile("one");
        let text = context.read("Dockerfile");
        context.write("Dockerfile", &text.replace("RUN true", &format!("RUN true {argument}")));
        context.write("token", "s3cret-value");
        context.edit(
            "Dockerfile",
            "RUN --mount=type=cache",
            "RUN --mount=type=secret,id=token,env=TOKEN --mount=type=cache",
        );
        context
    };
    let secret = ["--secret", "id=token,src=token"];
    let first = context("first");
    build(&first, &[secret[0], secret[1], &with.to(",logs=true"), &without.to("")]).digest();
    for folder in [&with, &without] {
        let built = build(&context("second"), &[secret[0], secret[1], &folder.from("")]);
        built.digest();
        let reasons = reasons(&built);
        let is_explained = reasons.iter().any(|why| why.contains("`true first` → `true second`"));
        assert_eq!(is_explained, std::ptr::eq(folder, &with), "{reasons:?}");
        assert_eq!(reasons.iter().any(|why| why.contains("never built")), std::ptr::eq(folder, &without));
    }
    // Only who asks for it uploads arguments; values of secrets nobody does.
    let uploaded = |folder: &Folder, needle: &str| {
        let files = folder.files("ac").into_iter().chain(folder.files("cas"));
        files
            .map(|path| unpacked(&fs::read(path).unwrap()))
            .any(|bytes| bytes.windows(needle.len()).any(|window| window == needle.as_bytes()))
    };
    assert_eq!((uploaded(&with, "true first"), uploaded(&without, "true first")), (true, false));
    assert!(!uploaded(&with, "s3cret-value") && !uploaded(&without, "s3cret-value"));
}

/// Bytes, and what is in every part of them that zstd unpacks.
fn unpacked(bytes: &[u8]) -> Vec<u8> {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let mut all = bytes.to_vec();
    for at in 0..bytes.len() {
        if bytes[at..].starts_with(&ZSTD) {
            let mut text = Vec::new();
            // A frame ends where it ends; what follows it is no part of it.
            let decoder = zstd::stream::read::Decoder::with_buffer(&bytes[at..]).unwrap();
            let _ = std::io::Read::read_to_end(&mut decoder.single_frame(), &mut text);
            all.extend(text);
        }
    }
    all
}

/// Two results, of which the last stage takes something, and an edit that only one of them depends on.
const TWO: &str = "FROM alpine:3.23 AS b\nRUN mkdir /o1 /o2 && echo fixed > /o1/f\nCOPY page.txt /srv/\n\
    RUN cat /srv/page.txt > /o2/w\nFROM alpine:3.23\nRUN echo other > /other\n\
    COPY --from=b /o1 /o1\nCOPY --from=b /o2 /o2\n";

#[test]
fn what_was_imported_without_its_files_is_counted_once() {
    let Some(_) = bases() else { return };
    let folder = Folder::new();
    let context = || {
        let context = TestContext::empty();
        context.write("Dockerfile", TWO);
        context.write("page.txt", "first");
        context
    };
    build(&context(), &[&folder.to("")]).digest();
    let second = context();
    build(&second, &[&folder.from("")]).digest();
    second.write("page.txt", "edited");
    let built = build(&second, &[]);
    built.digest();
    // The first step is made again for its files; what the last stage had is there.
    let last = |vertex: &Value| {
        let of = |event: &&Value| event["event"] == "finished" && event["vertex"] == *vertex;
        built.events.iter().filter(of).map(|event| event["outcome"].as_str().unwrap()).collect::<Vec<_>>()
    };
    let steps: Vec<&Value> = built
        .events
        .iter()
        .filter(|event| event["event"] == "declared" && event["minor"] == false)
        .map(|event| &event["vertex"])
        .collect();
    let outcomes: Vec<_> = steps.iter().map(|vertex| last(vertex)).collect();
    assert!(outcomes.iter().all(|said| said.iter().filter(|outcome| **outcome == "built").count() <= 1));
    assert!(outcomes.iter().all(|said| said.iter().filter(|outcome| **outcome == "reused").count() <= 1));
    let ran = outcomes.iter().filter(|said| said.last() == Some(&"built")).count();
    let end = built.events.iter().find(|event| event["event"] == "end").unwrap();
    assert_eq!(
        (end["built"].as_u64(), end["total"].as_u64()),
        (Some(ran as u64), Some(steps.len() as u64)),
        "{end}"
    );
    assert!(ran >= 3, "{outcomes:?}");
}
