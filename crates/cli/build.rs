//! Tells the binary which commit it was made from. A source archive has none.

use std::path::Path;
use std::process::Command;

fn main() {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=WBUILD_COMMIT={commit}");
    println!("cargo::rerun-if-changed=build.rs");
    // A commit writes the branch's file, which a worktree shares with its main checkout, or the packed one; a checkout
    // writes HEAD. A file that is not there yet must not be named: cargo would build every time.
    let own = git(&["rev-parse", "--absolute-git-dir"]);
    let shared = git(&["rev-parse", "--path-format=absolute", "--git-common-dir"]);
    let places = own.iter().map(|folder| format!("{folder}/HEAD")).chain(
        shared.iter().flat_map(|folder| [format!("{folder}/refs/heads"), format!("{folder}/packed-refs")]),
    );
    for place in places.filter(|place| Path::new(place).exists()) {
        println!("cargo::rerun-if-changed={place}");
    }
}
