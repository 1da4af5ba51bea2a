//! What an edit costs to push: the bytes that a registry is sent, and the time of build and push together.

use std::path::Path;
use std::time::Duration;

use crate::docker::Docker;
use crate::problem::{Problem, Skipped};
use crate::registry::Registry;
use crate::run::{Peak, run, settle};
use crate::wbuild::Wbuild;

/// What wbuild may send, as a share of what docker sends.
const GOAL: f64 = 0.1;

/// One builder's rounds.
#[derive(Default)]
struct Lane {
    bytes: Vec<u64>,
    walls: Vec<Duration>,
}

impl Lane {
    fn median(&self) -> (u64, Duration) {
        let (mut bytes, mut walls) = (self.bytes.clone(), self.walls.clone());
        bytes.sort_unstable();
        walls.sort_unstable();
        (bytes[bytes.len() / 2], walls[walls.len() / 2])
    }
}

/// One line of a page is edited, the image built and pushed, each builder to a registry of its own that has the image of
/// before the edit. `runs` is at least 1.
pub(crate) fn pushed(runs: usize, wbuild: &Wbuild, docker: &Docker, work: &Path) -> Result<(), Skipped> {
    let (own, its) =
        (Registry::start(&work.join("registry-wbuild"))?, Registry::start(&work.join("registry-docker"))?);
    let (mut first, mut second) = (Lane::default(), Lane::default());
    let name = |registry: &Registry, round: usize| format!("{}/bench/web:{round}", registry.host());
    eprintln!("one line of a page edited, built and pushed:");
    // Round 0 is the image of before, and not counted.
    for round in 0..=runs {
        wbuild.site.edit_page(round + 100)?;
        docker.site.edit_page(round + 100)?;
        settle()?;
        let built = run(wbuild.push(&name(&own, round)), Peak::Loose)?;
        let sent = own.received();
        settle()?;
        let other = run(docker.build_and_push(&name(&its, round)), Peak::Loose)?;
        let also_sent = its.received();
        eprintln!("  round {round}: {sent} bytes, {also_sent} bytes by docker");
        if round > 0 {
            first.bytes.push(sent);
            first.walls.push(built.wall);
            second.bytes.push(also_sent);
            second.walls.push(other.wall);
        }
    }
    print(runs, &first, &second);
    Ok(())
}

fn print(runs: usize, own: &Lane, its: &Lane) {
    let ((own_bytes, own_wall), (its_bytes, its_wall)) = (own.median(), its.median());
    let share = own_bytes as f64 / its_bytes.max(1) as f64;
    let judged = if share <= GOAL { "met" } else { "missed" };
    println!("\n## one line of a page edited: built and pushed\n");
    println!("| | median of {runs}: sent | time | wbuild sends | goal | |");
    println!("|---|---|---|---|---|---|");
    println!("| wbuild image --push | {own_bytes} bytes | {:.2} s | | | |", own_wall.as_secs_f64());
    println!(
        "| docker build, docker push | {its_bytes} bytes | {:.2} s | {:.1} % | at most {:.0} % | {judged} |",
        its_wall.as_secs_f64(),
        share * 100.0,
        GOAL * 100.0
    );
}

/// A peer that is missing is no failure.
pub(crate) fn said(result: Result<(), Skipped>) -> Result<(), Problem> {
    match result {
        Err(Skipped::Missing(reason)) => {
            println!("skipped: what is pushed: {reason}");
            Ok(())
        }
        Err(Skipped::Problem(problem)) => Err(problem),
        Ok(()) => Ok(()),
    }
}
