//! Any bytes as an ignore file, then a path: decided without a panic, and the walk says what the single question says where
//! both are defined.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wbuild_context::IgnoreRules;

fuzz_target!(|input: (&[u8], &str)| {
    let (file, path) = input;
    let Ok(rules) = IgnoreRules::parse(".dockerignore", file) else { return };
    let path = path.trim_matches('/');
    let _ = rules.matches_or_parent_matches(path.as_bytes());
    let _ = rules.explain(path.as_bytes());
    let root = rules.root();
    let (_, below) = rules.directory(&root, b"apps");
    let _ = rules.excludes_file(&below, b"apps/web");
});
