use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use wbuild_oci::{Platform, media};
use wbuild_registry::{Kept, RegistryClient, RegistryError, Repository};
use wbuild_report::Hint;
use wbuild_testkit::{Door, FakeRegistry, Fault, HttpServer, Reply, Stream};

use crate::{bytes, client_with, fetch, made, name, watched};

fn behind(door: Door) -> FakeRegistry {
    FakeRegistry::start_with(door, |stream| Ok(Box::new(stream))).unwrap()
}

/// A folder with a `config.json` that knows the registry.
fn config(registry: &FakeRegistry, entry: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(r#"{{"auths":{{"{}":{entry}}}}}"#, registry.host());
    fs::write(folder.path().join("config.json"), text).unwrap();
    folder
}

fn password(user: &str, password: &str) -> String {
    let auth = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
    format!(r#"{{"auth":"{auth}"}}"#)
}

fn knowing(folder: &Path) -> RegistryClient {
    client_with("", Some(folder)).0
}

fn resolve(client: &RegistryClient, registry: &FakeRegistry) -> Result<(), RegistryError> {
    let reference = name(registry, "team/r:v1");
    watched(|watch| client.resolve(&reference, &Platform::linux("amd64"), watch)).0.map(|_| ())
}

#[test]
fn each_kind_of_credentials_opens_its_door() {
    let image = made(&Platform::linux("amd64"), &[bytes(50_000)]);
    for (door, entry) in [
        (Door::Basic("u", "hunter2"), password("u", "hunter2")),
        (Door::Bearer("u", "hunter2"), password("u", "hunter2")),
        (Door::Bearer("u", "hunter2"), r#"{"identitytoken":"identity"}"#.to_owned()),
        (Door::PublicBearer("u", "hunter2"), "{}".to_owned()),
    ] {
        let registry = behind(door.clone());
        image.put(&registry, "team/r", Some("v1"));
        let folder = config(&registry, &entry);
        let client = knowing(folder.path());
        resolve(&client, &registry)
            .unwrap_or_else(|error| panic!("{door:?} {entry}: {error} {:?}", error.hints()));
        let descriptor = wbuild_oci::Descriptor::new(
            media::LAYER_GZIP,
            wbuild_oci::Digest::of(&image.layers[0]),
            image.layers[0].len() as u64,
        );
        fetch(&client, &name(&registry, "team/r"), &descriptor).unwrap();
        // Asked in vain once, and one token for all of it.
        let asked = registry.asked();
        let tokens = asked.iter().filter(|asked| asked.contains("/token")).count();
        assert_eq!(tokens, usize::from(!matches!(door, Door::Basic(..))), "{asked:?}");
        assert_eq!(asked.len(), 4 + tokens, "{asked:?}");
        assert!(!format!("{client:?}").contains("hunter2"));
    }
}

#[test]
fn wrong_and_missing_credentials_say_what_was_looked_at() {
    for door in [Door::Basic("u", "hunter2"), Door::Bearer("u", "hunter2")] {
        let registry = behind(door);
        let host = registry.host();
        let folder = config(&registry, &password("u", "wrong"));
        let file = folder.path().join("config.json").display().to_string();
        let error = resolve(&knowing(folder.path()), &registry).unwrap_err();
        let text = error.to_string();
        assert_eq!(text, format!("`{host}` does not let us pull `team/r`: 401 Unauthorized: unauthorized"));
        assert_eq!(
            error.hints(),
            [
                format!("the credentials of `{file}` were shown; they are wrong, or not for this repository"),
                format!("`wbuild login {host}` writes new ones"),
            ]
        );
        fs::write(&file, "{}").unwrap();
        let error = resolve(&knowing(folder.path()), &registry).unwrap_err();
        let hints = error.hints().join("\n");
        assert!(
            hints.contains(&format!(
                "no credentials for `{host}` were found; looked at `{file}` (nothing for it)"
            )),
            "{hints}"
        );
        assert!(registry.asked().len() < 8, "{:?}", registry.asked());
        fs::write(&file, format!(r#"{{"auths":{{"{host}":{{"auth":"aHVudGVyMg=="}}}}}}"#)).unwrap();
        let hints = resolve(&knowing(folder.path()), &registry).unwrap_err().hints().join("\n");
        assert!(
            hints.contains(&format!("`{file}` (the `auth` of `{host}` is no NAME:PASSWORD in base64)")),
            "{hints}"
        );
    }
}

#[test]
fn a_token_that_ended_is_replaced() {
    let registry = behind(Door::PublicBearer("u", "p"));
    let image = made(&Platform::linux("amd64"), &[bytes(500_000)]);
    image.put(&registry, "team/r", Some("v1"));
    let (client, _) = client_with("", None);
    resolve(&client, &registry).unwrap();
    // One that was just had and is refused is not asked for again and again.
    registry.plan("GET", "/manifests/", 1, Fault::Status(401));
    let error = resolve(&client, &registry).unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
    resolve(&client, &registry).unwrap();
}

#[test]
fn tokens_that_end_in_the_middle_are_replaced() {
    let registry = behind(Door::Bearer("u", "hunter2"));
    let image = made(&Platform::linux("amd64"), &[bytes(500_000), bytes(100)]);
    let folder = config(&registry, &password("u", "hunter2"));
    let client = knowing(folder.path());
    let names = [name(&registry, "team/r:v1")];
    for (method, path) in [("PUT", "/uploads/"), ("PUT", "/manifests/"), ("HEAD", "/blobs/")] {
        registry.plan(method, path, 1, Fault::TokensEnd);
    }
    watched(|watch| client.push(&names, &image.content(), watch)).0.unwrap();
    resolve(&client, &registry).unwrap();
    for path in ["/manifests/", "/blobs/"] {
        registry.plan("GET", path, 1, Fault::TokensEnd);
    }
    resolve(&client, &registry).unwrap();
    let tokens = registry.asked().iter().filter(|asked| asked.contains("/token")).count();
    assert!(tokens <= 8, "{:?}", registry.asked());
    // A registry that takes none is not asked for ever.
    registry.plan("GET", "/blobs/", usize::MAX, Fault::TokensEnd);
    let asked = registry.asked().len();
    let error = resolve(&client, &registry).unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
    assert!(registry.asked().len() < asked + 8, "{:?}", registry.asked());
}

#[test]
fn uploads_at_another_host_get_no_credentials() {
    for door in [Door::Basic("u", "hunter2"), Door::Bearer("u", "hunter2")] {
        let registry = behind(door.clone());
        let storage = registry.also_at(Door::Open).unwrap();
        let image = made(&Platform::linux("amd64"), &[bytes(500_000), bytes(100)]);
        let folder = config(&registry, &password("u", "hunter2"));
        registry.plan(
            "POST",
            "/uploads/",
            usize::MAX,
            Fault::UploadsAt(format!("http://{}", storage.host())),
        );
        registry.plan("PUT", "/uploads/", 1, Fault::CutUpload(200_000));
        let names = [name(&registry, "team/r:v1")];
        watched(|watch| knowing(folder.path()).push(&names, &image.content(), watch)).0.unwrap();
        assert_eq!(registry.manifest("team/r", "v1").unwrap(), image.manifest.bytes);
        let seen = storage.seen();
        assert!(
            seen.len() > 3 && seen.iter().all(|seen| seen.header("authorization").is_empty()),
            "{door:?}"
        );
    }
}

#[test]
fn credentials_go_to_their_host_and_to_its_token_server_only() {
    let registry = behind(Door::Basic("u", "hunter2"));
    let other = HttpServer::start(|_| Reply::ok("stolen")).unwrap();
    let folder = config(&registry, &password("u", "hunter2"));
    let client = knowing(folder.path());
    registry.plan("GET", "/manifests/", 1, Fault::Status(401));
    registry.plan("GET", "/manifests/", 2, Fault::Redirect(other.url("/x")));
    let image = made(&Platform::linux("amd64"), &[bytes(50)]);
    image.put(&registry, "team/r", Some("v1"));
    // Refused without a challenge, then redirected.
    resolve(&client, &registry).unwrap_err();
    resolve(&client, &registry).unwrap_err();
    let seen = other.seen();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.header("authorization").is_empty()));
    // Another host as token server: it is asked, since those of the large registries are elsewhere.
    let elsewhere = HttpServer::start(|_| Reply::ok(r#"{"token":"t"}"#)).unwrap();
    let registry = behind(Door::Bearer("u", "hunter2"));
    registry.send_for_tokens_to(&elsewhere.url("/token?x=1"));
    let folder = config(&registry, &password("u", "hunter2"));
    resolve(&knowing(folder.path()), &registry).unwrap_err();
    assert!(elsewhere.seen()[0].header("authorization").starts_with("Basic "));
    assert!(
        elsewhere.seen()[0]
            .path
            .starts_with("/token?x=1&service=fake&scope=repository%3Ateam%2Fr%3Apull&account=u")
    );
    for realm in ["ftp://x/y", "not a url", "file:///etc/passwd"] {
        let registry = behind(Door::Bearer("u", "hunter2"));
        registry.send_for_tokens_to(realm);
        let error = resolve(&knowing(folder.path()), &registry).unwrap_err();
        assert!(matches!(error, RegistryError::Token { .. }), "{error}");
    }
}

#[test]
fn documents_of_token_servers_are_bounded() {
    for (body, expected) in [
        ("x".repeat(2 << 20), "is larger than 1048576 bytes"),
        ("nope".to_owned(), "no JSON of a token"),
        ("{}".to_owned(), "there is no token in its answer"),
        ("{\"token\":\"a\\nb\"}".to_owned(), "no header can hold its token"),
    ] {
        let server = HttpServer::start(move |_| Reply::ok(body.clone())).unwrap();
        let registry = behind(Door::Bearer("u", "p"));
        registry.send_for_tokens_to(&server.url("/"));
        let (client, _) = client_with("", None);
        let error = resolve(&client, &registry).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn login_asks_the_registry_first() {
    for door in [Door::Basic("u", "hunter2"), Door::Bearer("u", "hunter2"), Door::Open] {
        let registry = behind(door.clone());
        let folder = tempfile::tempdir().unwrap();
        let client = knowing(folder.path());
        let log_in =
            |password: &str| watched(|watch| client.log_in(&registry.host(), "u", password, watch)).0;
        if door != Door::Open {
            let error = log_in("wrong").unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("`{registry}` refused to log in: 401 Unauthorized: unauthorized")
            );
            assert!(!folder.path().join("config.json").exists());
        }
        assert!(matches!(log_in("hunter2").unwrap(), Kept::File(_)));
        made(&Platform::linux("amd64"), &[bytes(5)]).put(&registry, "team/r", Some("v1"));
        resolve(&knowing(folder.path()), &registry).unwrap();
        assert!(client.log_out(&registry.host()).unwrap().is_some());
        assert!(client.log_out(&registry.host()).unwrap().is_none());
    }
}

#[test]
fn pushing_asks_for_what_it_needs() {
    let registry = behind(Door::PublicBearer("u", "hunter2"));
    let image = made(&Platform::linux("amd64"), &[bytes(50_000)]);
    let (stranger, _) = client_with("", None);
    let names = [name(&registry, "team/r:v1")];
    let error = watched(|watch| stranger.push(&names, &image.content(), watch)).0.unwrap_err();
    assert!(error.to_string().contains("does not let us push to `team/r`"), "{error}");
    let folder = config(&registry, &password("u", "hunter2"));
    let client = knowing(folder.path());
    let other = Repository::of(&name(&registry, "base/node"));
    registry.put_blob("base/node", &image.layers[0]);
    let mut content = image.content();
    content.blobs[0] = content.blobs[0].clone().also_in([other]);
    let report = watched(|watch| client.push(&names, &content, watch)).0.unwrap();
    assert_eq!((report.mounted, report.sent, report.tagged), (1, 1, 1));
    let asked = registry.asked().join("\n");
    assert!(
        asked.contains("scope=repository%3Ateam%2Fr%3Apull%2Cpush&scope=repository%3Abase%2Fnode%3Apull"),
        "{asked}"
    );
}

/// A registry with a certificate that nobody has signed.
fn encrypted(door: Door) -> FakeRegistry {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    FakeRegistry::start_with(door, move |stream: TcpStream| {
        let connection = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(connection, stream)) as Box<dyn Stream>)
    })
    .unwrap()
}

#[test]
fn what_was_encrypted_stays_so() {
    let image = made(&Platform::linux("amd64"), &[bytes(50)]);
    let tokens = HttpServer::start(|_| Reply::ok(r#"{"token":"t"}"#)).unwrap();
    for (entry, asked) in [
        (password("u", "hunter2"), 0),
        (r#"{"identitytoken":"identity"}"#.to_owned(), 0),
        ("{}".to_owned(), 1),
    ] {
        let registry = encrypted(Door::Bearer("u", "hunter2"));
        image.put(&registry, "team/r", Some("v1"));
        registry.send_for_tokens_to(&tokens.url("/token"));
        let folder = config(&registry, &entry);
        let rules = format!("[registry.\"{}\"]\ninsecure = true", registry.host());
        let (client, _) = client_with(&rules, Some(folder.path()));
        let error = resolve(&client, &registry).unwrap_err();
        // To ask for a token for nobody in particular is no secret.
        assert_eq!(tokens.seen().len(), asked, "{error}");
        assert_eq!(
            error.to_string().contains("because it is not encrypted and the registry is"),
            asked == 0,
            "{error}"
        );
    }
    // Nothing says that this one may be believed.
    let registry = encrypted(Door::Open);
    let error = resolve(&client_with("", None).0, &registry).unwrap_err();
    assert!(error.hints().join("\n").contains("`ca = [\"FILE\"]`"), "{error}");
    assert!(registry.asked().is_empty());
}

#[test]
fn only_what_has_a_digest_may_come_unencrypted() {
    let image = made(&Platform::linux("amd64"), &[bytes(50_000)]);
    let registry = encrypted(Door::Open);
    let plain = registry.also_at(Door::Open).unwrap();
    image.put(&registry, "team/r", Some("v1"));
    let rules = format!("[registry.\"{}\"]\ninsecure = true", registry.host());
    let (client, _) = client_with(&rules, None);
    resolve(&client, &registry).unwrap();
    let elsewhere = |rest: &str| Fault::Redirect(format!("http://{}/v2/team/r/{rest}", plain.host()));
    registry.plan("GET", "/manifests/", 1, elsewhere("manifests/v1"));
    let error = resolve(&client, &registry).unwrap_err().to_string();
    assert!(error.contains("it was asked for by https, and `http://127.0.0.1:"), "{error}");
    let digest = wbuild_oci::Digest::of(&image.layers[0]);
    let layer = wbuild_oci::Descriptor::new(media::LAYER_GZIP, digest, 50_000);
    registry.plan("GET", "/blobs/", 1, elsewhere(&format!("blobs/{digest}")));
    assert!(fetch(&client, &name(&registry, "team/r"), &layer).unwrap() == image.layers[0]);
    for to in ["file:///etc/passwd", "ftp://h/x", "http://", "gopher:x"] {
        registry.plan("GET", "/blobs/", 1, Fault::Redirect(to.to_owned()));
        let error = fetch(&client, &name(&registry, "team/r"), &layer).unwrap_err().to_string();
        assert!(error.contains("redirects to where nothing is fetched from"), "{to}: {error}");
    }
    registry.plan("GET", "/blobs/", usize::MAX, Fault::RedirectLoop);
    let error = fetch(&client, &name(&registry, "team/r"), &layer).unwrap_err().to_string();
    assert!(error.ends_with("more than 10 redirects"), "{error}");
}

#[test]
fn a_host_that_should_speak_https_is_not_spoken_to_without() {
    let registry = behind(Door::Open);
    // Another name for this machine, of which nothing is known.
    let host = format!("LOCALHOST:{}", registry.port());
    let reference = format!("{host}/team/r:v1").parse().unwrap();
    let (client, _) = client_with("", None);
    let error = watched(|watch| client.manifest(&reference, watch)).0.unwrap_err();
    assert_eq!(error.to_string(), format!("`{host}` speaks plain http, but https is expected of it"));
    let hint = format!(
        "if that is meant, write `[registry.\"{host}\"]` and `http = true` into /etc/registries.toml"
    );
    assert_eq!((error.hints(), registry.asked().len()), (vec![hint], 0));
    let (client, _) = client_with(&format!("[registry.\"{host}\"]\nhttp = true"), None);
    let error = watched(|watch| client.manifest(&reference, watch)).0.unwrap_err();
    assert!(error.is_missing(), "{error}");
}
