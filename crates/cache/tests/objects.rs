//! Caches in object stores: moto's S3 where it can be installed, and a server that answers as all of them do.
#![cfg(feature = "object-stores")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use wbuild_cache::{Backend, CacheError, Entry, Holds, Index, Kind, Network, Place, Role};
use wbuild_oci::Digest;
use wbuild_testkit::{Body, HttpServer, Moto, Reply, Seen};

type Kept = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// PUT, GET, HEAD and conditions, as S3, Google's XML API and Azure's blob storage have them in common.
fn answer(kept: &Kept, seen: &Seen) -> Reply {
    let mut kept = kept.lock().unwrap();
    let path = seen.path.split('?').next().unwrap().to_owned();
    let tag = |bytes: &[u8]| format!("\"{}\"", &Digest::of(bytes).hex()[..16]);
    let number = |bytes: &[u8]| u64::from_str_radix(&Digest::of(bytes).hex()[..8], 16).unwrap().to_string();
    let found = kept.get(&path).cloned();
    if seen.method == "PUT" {
        let header = |name: &str| Some(seen.header(name).to_owned()).filter(|value| !value.is_empty());
        let generation = found.as_ref().map_or_else(|| "0".to_owned(), |bytes| number(bytes));
        let refused = header("if-none-match").is_some_and(|_| found.is_some())
            || header("if-match")
                .is_some_and(|wanted| found.as_ref().map(|bytes| tag(bytes)) != Some(wanted))
            || header("x-goog-if-generation-match").is_some_and(|wanted| wanted != generation);
        if refused {
            return Reply::status(412);
        }
        let reply = Reply::status(201)
            .header("ETag", tag(&seen.body))
            .header("x-goog-generation", number(&seen.body));
        kept.insert(path, seen.body.clone());
        return reply;
    }
    let Some(bytes) = found else { return Reply::status(404) };
    let reply = match seen.part() {
        Some((first, last)) => Reply::between(&bytes, first, last),
        None => Reply::ok(bytes.clone()),
    };
    reply
        .header("ETag", tag(&bytes))
        .header("x-goog-generation", number(&bytes))
        .header("Last-Modified", DATE)
}

fn connect(text: &str) -> Arc<dyn Backend> {
    Place::parse(Role::Export, text, &|_| None).unwrap().connect(&Network::default())
}

fn index(key: &str) -> Index {
    let entry = Entry {
        body: key.to_owned(),
        roots: Vec::new(),
        holds: Holds::Nothing,
        packs: [].into(),
        used: 3,
        signature: None,
    };
    let mut index = Index::default();
    index.entries.insert((Kind::Step, Digest::of(key.as_bytes())), entry);
    index
}

fn merged(stored: Option<Vec<u8>>, key: &str) -> Option<Index> {
    let mut merged = stored.map_or_else(Index::default, |bytes| Index::decode(&bytes).unwrap());
    merged.merge(index(key), None);
    Some(merged)
}

fn places(port: u16) -> [String; 3] {
    let url = format!("http://127.0.0.1:{port}");
    [
        format!("type=s3,bucket=b,prefix=p,endpoint_url={url},access_key_id=AK,secret_access_key=s3cret"),
        format!("type=gcs,bucket=b,prefix=p,endpoint_url={url},token=s3cret"),
        format!("type=azblob,container=b,prefix=p,account_url={url}/team,secret_access_key=czNjcmV0"),
    ]
}

#[test]
fn all_object_stores() {
    for text in places(0) {
        let kept = Kept::default();
        let keeping = Arc::clone(&kept);
        let server = HttpServer::start(move |seen| answer(&keeping, seen)).unwrap();
        let text = text.replace("127.0.0.1:0", &format!("127.0.0.1:{}", server.port()));
        let backend = connect(&text);
        use_it(&*backend);
        assert!(
            kept.lock().unwrap().keys().all(|key| key.contains("/p/") || key.contains("/p%2F")),
            "{text}"
        );
        assert!(server.seen().iter().all(|seen| !seen.header("authorization").is_empty()), "{text}");
    }
}

/// What every place does, also when somebody else writes between reading and writing.
fn use_it(backend: &dyn Backend) {
    assert!(backend.index("main").unwrap().is_none());
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), b"0123456789").unwrap();
    let content = Digest::of(b"0123456789");
    assert!(matches!(backend.small(&content, 10), Err(CacheError::Gone(_))));
    backend.put(&content, 10, file.path()).unwrap();
    assert_eq!(backend.part(&content, 2..5).unwrap().unwrap(), b"234");
    assert!(matches!(backend.small(&content, 9), Err(CacheError::TooLarge { .. })));
    backend.update("main", &mut |stored| merged(stored, "one")).unwrap();
    let mut first = true;
    backend
        .update("main", &mut |stored| {
            if std::mem::take(&mut first) {
                backend.update("main", &mut |stored| merged(stored, "two")).unwrap();
            }
            merged(stored, "three")
        })
        .unwrap();
    assert_eq!(Index::decode(&backend.index("main").unwrap().unwrap()).unwrap().entries.len(), 3);
}

#[test]
fn refusals_are_said_without_secrets() {
    let server = HttpServer::start(|_| {
        Reply::status(403).body(Body::Whole(b"<Error><Code>AccessDenied</Code></Error>".to_vec()))
    })
    .unwrap();
    for text in places(server.port()) {
        let error = connect(&text).index("main").unwrap_err();
        let text = format!("{error} {error:?} {}", std::error::Error::source(&error).unwrap());
        assert!(text.contains("403") || text.contains("AccessDenied"), "{text}");
        assert!(!text.contains("s3cret") && !text.contains("czNjcmV0"), "{text}");
    }
}

#[test]
fn moto_is_a_cache() {
    let Some(moto) = Moto::start(Path::new(env!("CARGO_TARGET_TMPDIR"))) else {
        eprintln!("skipped: moto[server] cannot be installed here, or does not start");
        return;
    };
    moto.make_bucket("builds").unwrap();
    let place = format!(
        "type=s3,bucket=builds,prefix=p,region=us-east-1,endpoint_url=http://127.0.0.1:{},access_key_id=AK,secret_access_key=s3cret",
        moto.port()
    );
    let backend = connect(&place);
    use_it(&*backend);
    // Above 16 MiB it goes in parts.
    let bytes: Vec<u8> = (0..17_usize << 20).map(|at| (at % 251) as u8).collect();
    let (content, size) = (Digest::of(&bytes), bytes.len() as u64);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &bytes).unwrap();
    backend.put(&content, size, file.path()).unwrap();
    assert_eq!(backend.part(&content, size - 3..size).unwrap().unwrap(), bytes[bytes.len() - 3..]);
    let copy = tempfile::NamedTempFile::new().unwrap();
    backend.whole(&content, size, copy.as_file()).unwrap();
    assert_eq!(fs::read(copy.path()).unwrap(), bytes);
}
