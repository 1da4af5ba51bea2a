//! Mirrors that do not work, and registries that are not there yet.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use wbuild_oci::{Document, Platform};
use wbuild_registry::{CredentialFiles, RegistryClient, RegistryError, RegistryOptions, Rules};
use wbuild_remote::{HttpOptions, Stop, Waiting};
use wbuild_report::{Hint, with_causes};
use wbuild_testkit::{FakeRegistry, Fault};

use crate::{Made, bytes, client, client_with, fetch, made, name, watched};

/// Nobody listens there.
const DEAD: &str = "127.0.0.1:1";

fn amd64() -> Platform {
    Platform::linux("amd64")
}

fn rules(registry: &str, mirrors: &[&str]) -> String {
    format!("[registry.\"{registry}\"]\nmirrors = {mirrors:?}")
}

fn pull_all(client: &RegistryClient, registry: &FakeRegistry, image: &Made) {
    let reference = name(registry, "team/r:v1");
    watched(|watch| client.resolve(&reference, &amd64(), watch)).0.unwrap();
    let Document::Manifest(manifest) = Document::parse(&image.manifest.bytes).unwrap() else {
        panic!("it is one image");
    };
    for (layer, expected) in manifest.layers.iter().zip(&image.layers) {
        assert!(fetch(client, &reference, layer).unwrap() == *expected);
    }
}

#[test]
fn one_that_is_dead_is_asked_once() {
    let (good, registry) = (FakeRegistry::start().unwrap(), FakeRegistry::start().unwrap());
    let image = made(&amd64(), &[bytes(200_000), bytes(10)]);
    image.put(&good, "team/r", Some("v1"));
    let (client, waits) = client_with(&rules(&registry.host(), &[DEAD, &good.host()]), None);
    let reference = name(&registry, "team/r:v1");
    let (pulled, told) = watched(|watch| {
        client.resolve(&reference, &amd64(), watch)?;
        client.resolve(&reference, &amd64(), watch)
    });
    pulled.unwrap();
    pull_all(&client, &registry, &image);
    assert_eq!((waits.seconds(), registry.asked()), (Vec::new(), Vec::new()));
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    let begins = format!("the mirror {DEAD}: nothing listens at `{DEAD}`: ");
    assert!(told[0].starts_with(&begins) && told[0].ends_with("; it is not asked any more"), "{told:?}");
}

#[test]
fn one_that_hangs_or_fails_is_asked_once() {
    let image = made(&amd64(), &[bytes(200_000), bytes(10)]);
    for fault in [Fault::Held(0), Fault::Status(503), Fault::Limited(3600), Fault::Page] {
        let (mirror, registry) = (FakeRegistry::start().unwrap(), FakeRegistry::start().unwrap());
        image.put(&registry, "team/r", Some("v1"));
        image.put(&mirror, "team/r", Some("v1"));
        mirror.plan("GET", "/team/", usize::MAX, fault.clone());
        let (client, waits) = client_with(&rules(&registry.host(), &[&mirror.host()]), None);
        let reference = name(&registry, "team/r:v1");
        let (pulled, told) = watched(|watch| client.resolve(&reference, &amd64(), watch));
        pulled.unwrap();
        pull_all(&client, &registry, &image);
        assert_eq!((waits.seconds(), mirror.asked().len(), told.len()), (Vec::new(), 1, 1), "{fault:?}");
        if fault == Fault::Page {
            let said = told[0].to_string();
            assert!(
                said.contains("it is no manifest, but an answer 200, `text/html; charset=utf-8`"),
                "{said}"
            );
        }
    }
}

#[test]
fn one_that_worked_is_asked_again_and_then_no_more() {
    let (mirror, registry) = (FakeRegistry::start().unwrap(), FakeRegistry::start().unwrap());
    let image = made(&amd64(), &[bytes(200_000)]);
    image.put(&registry, "team/r", Some("v1"));
    image.put(&mirror, "team/r", Some("v1"));
    let (client, waits) = client_with(&rules(&registry.host(), &[&mirror.host()]), None);
    pull_all(&client, &registry, &image);
    mirror.plan("GET", "/team/", 2, Fault::Status(503));
    pull_all(&client, &registry, &image);
    assert_eq!((waits.seconds(), registry.asked().len()), (vec![0.5, 1.0], 0));
    mirror.plan("GET", "/team/", usize::MAX, Fault::Status(503));
    let asked = mirror.asked().len();
    pull_all(&client, &registry, &image);
    assert_eq!(mirror.asked().len(), asked + 3);
}

#[test]
fn both_are_named_where_neither_gives_it() {
    let mirror = FakeRegistry::start().unwrap();
    let (client, _) = client_with(&rules(DEAD, &[&mirror.host()]), None);
    let reference = format!("{DEAD}/team/r:v1").parse().unwrap();
    let error = watched(|watch| client.resolve(&reference, &amd64(), watch)).0.unwrap_err();
    let text = with_causes(&error);
    let begins = format!("the mirror `{0}`: `{0}` has no", mirror.host());
    assert!(text.starts_with(&begins) || text.contains("has no"), "{text}");
    let own = format!(", and the registry itself cannot be reached: nothing listens at `{DEAD}`");
    assert!(text.contains(&own), "{text}");
}

#[test]
fn a_mirror_without_a_registry_behind_it_is_asked_again() {
    let mirror = FakeRegistry::start().unwrap();
    let image = made(&amd64(), &[bytes(200_000)]);
    image.put(&mirror, "team/r", Some("v1"));
    mirror.plan("GET", "/team/", 2, Fault::Status(503));
    let (client, _) = client_with(&rules(DEAD, &[&mirror.host()]), None);
    let reference = format!("{DEAD}/team/r:v1").parse().unwrap();
    watched(|watch| client.resolve(&reference, &amd64(), watch)).0.unwrap();
}

#[test]
fn where_nothing_listens_is_said() {
    let reference = format!("{DEAD}/team/r:v1").parse().unwrap();
    let (client, waits) = client_with("", None);
    let (pulled, told) = watched(|watch| client.manifest(&reference, watch));
    let error = pulled.unwrap_err();
    assert_eq!(error.to_string(), format!("nothing listens at `{DEAD}`"));
    assert_eq!(error.hints(), ["is the registry started, and the port right?"]);
    assert_eq!((waits.seconds(), told.len()), (vec![0.5, 1.0, 2.0, 4.0], 4));
    // One question is one question.
    assert!(matches!(
        watched(|watch| client.look_up(&reference, watch)).0.unwrap_err(),
        RegistryError::Silent { .. }
    ));
    assert_eq!(waits.seconds().len(), 4);
}

/// Lets the registry listen when somebody has waited for it twice.
#[derive(Debug)]
struct Starting {
    port: u16,
    registry: u16,
    waits: Mutex<usize>,
}

impl Waiting for Starting {
    fn wait(&self, _: Duration, _: &Stop) {
        let mut waits = self.waits.lock().unwrap();
        *waits += 1;
        if *waits == 2 {
            let (listener, to) = (TcpListener::bind(("127.0.0.1", self.port)).unwrap(), self.registry);
            thread::spawn(move || {
                for from in listener.incoming() {
                    let (from, to) = (from.unwrap(), TcpStream::connect(("127.0.0.1", to)).unwrap());
                    for (mut from, mut to) in
                        [(from.try_clone().unwrap(), to.try_clone().unwrap()), (to, from)]
                    {
                        thread::spawn(move || {
                            let _ = io::copy(&mut from, &mut to);
                            let _ = to.shutdown(std::net::Shutdown::Write);
                        });
                    }
                }
            });
        }
    }

    fn jitter(&self) -> f64 {
        0.5
    }
}

#[test]
fn a_registry_that_is_still_starting_is_waited_for() {
    let registry = FakeRegistry::start().unwrap();
    let image = made(&amd64(), &[bytes(200_000)]);
    image.put(&registry, "r", Some("v1"));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let starting = Starting { port, registry: registry.port(), waits: Mutex::default() };
    let client = RegistryClient::new(RegistryOptions {
        rules: Rules::default(),
        credentials: CredentialFiles::of_environment(&|_| None),
        http: HttpOptions { waiting: Arc::new(starting), ..HttpOptions::default() },
    });
    let reference = format!("127.0.0.1:{port}/r:v1").parse().unwrap();
    watched(|watch| client.resolve(&reference, &amd64(), watch)).0.unwrap();
    assert_eq!(
        watched(|watch| self::client().find(&name(&registry, "r:v1"), watch)).0.unwrap().unwrap().digest,
        image.manifest.descriptor.digest
    );
}
