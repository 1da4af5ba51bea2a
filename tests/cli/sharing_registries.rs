//! Remote caches in image registries: one that misbehaves, and Debian's where it is installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use wbuild_testkit::{Door, FakeRegistry, Server, free_port};

use super::sharing::{STEPS, build, dockerfile};
use super::sharing_servers::round_trip;
use crate::context::{bases, skip};

/// `me` and `s3cret`, in base64 as docker's `config.json` has it, and as `htpasswd -B` writes it.
const AUTH: &str = "bWU6czNjcmV0";
const HTPASSWD: &str = "me:$2y$05$tPbse.Uw.9J0n2kk7CP1i.S7PgWGvL8tEkxhtQd49o7Z5WOo.jqVa\n";

/// A folder with docker's `config.json`, as `docker login` leaves it.
fn logged_in(host: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(r#"{{"auths":{{"{host}":{{"auth":"{AUTH}"}}}}}}"#);
    fs::write(folder.path().join("config.json"), config).unwrap();
    folder
}

#[test]
fn a_registry_is_a_cache() {
    let Some(_) = bases() else { return };
    for door in [Door::Open, Door::Bearer("me", "s3cret")] {
        let registry = FakeRegistry::start_with(door, |stream| Ok(Box::new(stream))).unwrap();
        let docker = logged_in(&registry.host());
        let env = [("DOCKER_CONFIG", docker.path().to_str().unwrap())];
        let name = format!("{}/team/cache:web", registry.host());
        round_trip(&format!("type=registry,ref={name},mode=max,image-manifest=true"), &name, &env);
        assert!(registry.manifest("team/cache", "web").is_some());
        // Another scope takes from `main`, and has a tag of its own.
        let context = dockerfile("two").env("DOCKER_CONFIG", env[0].1).env("GITHUB_REF_NAME", "fix/it");
        let imported = build(&context, &[&format!("--cache-from={name}"), &format!("--cache-to={name}")]);
        assert_eq!((imported.steps("built").len(), imported.warnings()), (0, vec![]));
    }
}

#[test]
fn a_closed_registry_is_said_and_the_password_is_not() {
    let Some(_) = bases() else { return };
    let registry =
        FakeRegistry::start_with(Door::Basic("me", "other"), |stream| Ok(Box::new(stream))).unwrap();
    let docker = logged_in(&registry.host());
    let context = dockerfile("one").env("DOCKER_CONFIG", docker.path().to_str().unwrap());
    let name = format!("{}/team/cache", registry.host());
    let built = build(&context, &[&format!("--cache-from={name}"), &format!("--cache-to={name}")]);
    assert_eq!((built.steps("built").len(), built.warnings().len()), (STEPS, 2), "{:?}", built.warnings());
    assert!(built.warnings()[0].contains("does not let us pull `team/cache`"), "{:?}", built.warnings());
    let shown = format!("{}{}", built.output.stdout, built.output.stderr);
    assert!(!shown.contains("s3cret") && !shown.contains(AUTH), "{shown}");
}

/// Debian's docker-registry, with a password.
fn docker_registry(folder: &Path) -> Option<Server> {
    let port = free_port().unwrap();
    let folder_name = folder.display();
    fs::write(folder.join("htpasswd"), HTPASSWD).unwrap();
    let config = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {folder_name}/data\nhttp:\n  addr: 127.0.0.1:{port}\nauth:\n  htpasswd:\n    realm: test\n    path: {folder_name}/htpasswd\n"
    );
    fs::write(folder.join("config.yml"), config).unwrap();
    Server::start(port, Command::new("docker-registry").arg("serve").arg(folder.join("config.yml")))
}

#[test]
fn docker_registry_is_a_cache() {
    let Some(_) = bases() else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = docker_registry(folder.path()) else {
        skip("docker-registry is not installed, or does not start");
        return;
    };
    let host = format!("127.0.0.1:{}", server.port);
    let docker = logged_in(&host);
    let env = [("DOCKER_CONFIG", docker.path().to_str().unwrap())];
    let place = format!("type=registry,ref={host}/team/cache:web");
    round_trip(&place, &place, &env);
}
