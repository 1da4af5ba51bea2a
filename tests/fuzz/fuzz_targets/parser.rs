//! Any bytes as a Dockerfile: read, linted and lowered without a panic, whatever they hold.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use wbuild_dockerfile::{Settings, Source, parse};
use wbuild_frontend::{DockerfileInput, StepOptions, lower_dockerfile};

fuzz_target!(|bytes: &[u8]| {
    let Ok(source) = Source::decode("Dockerfile", bytes.to_vec()) else { return };
    let parsed = parse(&source);
    for diagnostic in &parsed.diagnostics {
        let _ = diagnostic.to_string();
    }
    if parsed.has_errors() {
        return;
    }
    let Ok(platform) = "linux/amd64".parse() else { return };
    let _ = lower_dockerfile(&DockerfileInput {
        dockerfile: &parsed.dockerfile,
        settings: Settings::plain(platform),
        contexts: &BTreeMap::new(),
        steps: &StepOptions::default(),
        images: &[],
        project: "fuzz",
    });
});
