//! What it takes to have a base image of a registry on disk: pulled and unpacked.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::contest::{Contest, Goal, Lane};
use crate::docker::Docker;
use crate::problem::{Problem, Skipped, doing};
use crate::registry::Registry;
use crate::run::{Peak, remove_folder, run};
use crate::wbuild::BaseImage;

/// Both bring all of the image and unpack it, with nothing of it at hand: docker by a pull, wbuild for a file that is copied
/// from it, since it unpacks nothing that nobody reads.
pub(crate) fn pulled(
    runs: usize,
    program: &Path,
    base: &BaseImage,
    docker: &Docker,
    work: &Path,
) -> Result<(), Skipped> {
    let registry = Registry::start(&work.join("registry-pull"))?;
    let name = format!("{}/bench/base:1", registry.host());
    let layout = base.place.trim_start_matches("oci-layout://");
    let mut push = Command::new(program);
    push.args(["push", layout, &name]).arg("--home").arg(work.join("home-push"));
    run(push, Peak::Loose)?;
    let (folder, home) = (work.join("pull"), work.join("home-pull"));
    fs::create_dir_all(&folder).map_err(doing("create", &folder))?;
    let dockerfile = folder.join("Dockerfile");
    fs::write(&dockerfile, format!("FROM scratch\nCOPY --from={name} /etc/os-release /\n"))
        .map_err(doing("write", &dockerfile))?;
    let build = || {
        let mut command = Command::new(program);
        command.args(["build", "--progress", "quiet", "--output", "type=cacheonly"]);
        command.arg("--home").arg(&home).arg(&folder);
        command
    };
    let mut contest = Contest::new("a base image pulled and unpacked, nothing at hand", runs);
    contest.add(Lane::new("wbuild build", build).before(|_| remove_folder(&home)));
    let there = Cell::new(false);
    let forget = |_| -> Result<(), Problem> {
        match there.replace(true) {
            true => run(docker.remove_image(&name), Peak::Loose).map(drop),
            false => Ok(()),
        }
    };
    contest.add(Lane::new("docker pull", || docker.pull(&name)).before(forget).goal(Goal::Share(0.5)));
    Ok(contest.run()?)
}
