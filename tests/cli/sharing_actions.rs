//! GitHub's cache service as a remote cache: a fake of the service and of the blob store behind it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use wbuild_testkit::{HttpServer, Reply, Seen};

use super::sharing::{STEPS, build, dockerfile};
use super::sharing_servers::{Kept, keep, round_trip};
use crate::context::bases;

#[derive(Default)]
struct Entries {
    /// By key: the version, and when it was finished.
    finished: BTreeMap<String, (String, usize)>,
    begun: BTreeMap<String, String>,
    limited: usize,
}

/// The service; what is uploaded is in `kept`.
struct Actions {
    service: HttpServer,
    blobs: HttpServer,
    entries: Arc<Mutex<Entries>>,
}

impl Actions {
    fn start() -> Self {
        let (kept, entries) = (Kept::default(), Arc::new(Mutex::new(Entries::default())));
        let keeping = Arc::clone(&kept);
        let blobs = HttpServer::start(move |seen| {
            let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
            let is_right = query == "sig=s1gned"
                && seen.header("authorization").is_empty()
                && (seen.method != "PUT" || seen.header("x-ms-blob-type") == "BlockBlob");
            let plain = Seen { path: path.to_owned(), ..seen.clone() };
            if is_right { keep(&keeping, &plain) } else { Reply::status(403) }
        })
        .unwrap();
        let (known, at) = (Arc::clone(&entries), blobs.url(""));
        let service =
            HttpServer::start(move |seen| answer(&mut known.lock().unwrap(), &kept, &at, seen)).unwrap();
        Self { service, blobs, entries }
    }

    fn variables(&self) -> [(&'static str, String); 2] {
        [("ACTIONS_RESULTS_URL", self.service.url("/")), ("ACTIONS_RUNTIME_TOKEN", "s3cret".to_owned())]
    }
}

fn answer(entries: &mut Entries, kept: &Kept, blobs: &str, seen: &Seen) -> Reply {
    if seen.header("authorization") != "Bearer s3cret" || seen.header("content-type") != "application/json" {
        return Reply::status(401);
    }
    if entries.limited > 0 {
        entries.limited -= 1;
        return Reply::status(429).header("Retry-After", "1");
    }
    let asked: Value = serde_json::from_slice(&seen.body).unwrap();
    let (key, version) = (asked["key"].as_str().unwrap(), asked["version"].as_str().unwrap());
    assert!(key.len() <= 512, "{key}");
    let url = |key: &str| format!("{blobs}/{key}?sig=s1gned");
    let say = |answer: Value| Reply::ok(answer.to_string());
    match seen.path.strip_prefix("/twirp/github.actions.results.api.v1.CacheService/") {
        Some("CreateCacheEntry") => {
            if entries.begun.contains_key(key) {
                return Reply::status(409);
            }
            entries.begun.insert(key.to_owned(), version.to_owned());
            say(json!({ "ok": true, "signed_upload_url": url(key) }))
        }
        Some("FinalizeCacheEntryUpload") => {
            let size = kept.lock().unwrap().get(&format!("/{key}")).map(|bytes| bytes.len().to_string());
            let ok = entries.begun.get(key).is_some_and(|begun| begun == version)
                && size.as_deref() == asked["size_bytes"].as_str();
            if ok {
                let number = entries.finished.len();
                entries.finished.insert(key.to_owned(), (version.to_owned(), number));
            }
            say(json!({ "ok": ok, "entry_id": "1" }))
        }
        Some("GetCacheEntryDownloadURL") => {
            let wanted: Vec<&str> =
                asked["restore_keys"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let exact = entries.finished.get_key_value(key);
            let newest = entries
                .finished
                .iter()
                .filter(|(known, _)| wanted.iter().any(|prefix| known.starts_with(prefix)))
                .max_by_key(|(_, (_, number))| *number);
            match exact.or(newest).filter(|(_, (of, _))| of == version) {
                Some((found, _)) => {
                    say(json!({ "ok": true, "signed_download_url": url(found), "matched_key": found }))
                }
                None => say(json!({ "ok": false, "signed_download_url": "", "matched_key": "" })),
            }
        }
        _ => Reply::status(404),
    }
}

#[test]
fn the_cache_service_of_github_is_a_cache() {
    let Some(_) = bases() else { return };
    let actions = Actions::start();
    let variables = actions.variables();
    let env = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    round_trip("type=gha", "type=gha", &env);
    // The newest of several indexes is read, with one question and one request.
    let indexes = actions.entries.lock().unwrap().finished.keys().filter(|key| key.contains("index")).count();
    assert_eq!(indexes, 2);
    assert!(actions.blobs.seen().iter().all(|seen| seen.header("authorization").is_empty()));
    let before = actions.service.seen().len();
    // Limits are waited for.
    actions.entries.lock().unwrap().limited = 1;
    let context = env.iter().fold(dockerfile("two"), |context, (name, value)| context.env(name, value));
    let imported = build(&context, &["--cache-from=type=gha"]);
    assert_eq!((imported.steps("built").len(), imported.warnings()), (0, vec![]));
    assert!(actions.service.seen()[before].path.ends_with("/GetCacheEntryDownloadURL"));
}

#[test]
fn a_token_that_may_not_write_costs_a_warning_and_is_not_shown() {
    let Some(_) = bases() else { return };
    let actions = Actions::start();
    let flag = format!("--cache-to=type=gha,url={},token=0ther", actions.service.url("/"));
    let built = build(&dockerfile("one"), &[&flag]);
    assert_eq!((built.steps("built").len(), built.warnings().len()), (STEPS, 1), "{:?}", built.warnings());
    assert!(!built.output.to_string().contains("0ther"), "{}", built.output);
    let output = dockerfile("one").run(&["build", "--cache-to=type=gha", "."]);
    assert!(output.code == 2 && output.stderr.contains("ghaction-github-runtime"), "{output}");
}
