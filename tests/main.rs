//! What a person sees: everything here goes through the built binary. One test binary, since linking takes longer than
//! most of the tests.
//!
//! `WBUILD_TEST_E2E=0` leaves out the build of the example monorepo, which takes minutes and an npm registry.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cli {
    mod as_buildkit;
    mod attest;
    mod bad_input;
    mod base_images;
    mod build;
    mod check;
    mod commands;
    mod damage;
    mod dialect;
    mod differential;
    mod docker_registry;
    mod dockerfile_builds;
    mod dockerfile_errors;
    mod dockerfiles;
    mod example;
    mod faults;
    mod hostile_dockerfiles;
    mod interrupted;
    mod outputs;
    mod plain_user;
    mod registries;
    mod registry_trouble;
    mod secrecy;
    mod sharing;
    mod sharing_actions;
    mod sharing_faults;
    mod sharing_over_time;
    mod sharing_registries;
    mod sharing_servers;
    mod sharing_turbo;
    mod signals;
    mod usage;
}
mod context;
mod docker;
mod layout;

use std::fs;
use std::path::Path;

/// A file without a `mod` line would never be compiled.
#[test]
fn no_file_is_forgotten() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli");
    let main = include_str!("main.rs");
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(module) = name.strip_suffix(".rs") else { continue };
        assert!(main.contains(&format!("mod {module};")), "tests/main.rs has no `mod {module};`");
    }
}
