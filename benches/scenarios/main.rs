//! What `wbuild image` and `wbuild build` cost, measured beside their peers in one run: `docker build` with BuildKit, and the
//! bare commands in a chroot of the same base tree. Prints ratios; nothing here asserts a time. How to run it: benches/README.md.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints what it measured")]

mod arguments;
mod bare;
mod contest;
mod docker;
mod dockerfiles;
mod machine;
mod problem;
mod pulled;
mod pushed;
mod registry;
mod run;
mod site;
mod wbuild;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use arguments::{Arguments, OF_THE_EXAMPLE, Scenario};
use bare::Bare;
use contest::{Contest, Goal, Lane};
use docker::Docker;
use dockerfiles::Dockerfiles;
use problem::{Problem, Skipped, doing};
use run::{Peak, run};
use site::Site;
use wbuild::Wbuild;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        // `cargo test --all-targets` starts benches, too, and means a test.
        Ok(None) => return ExitCode::SUCCESS,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<(), Problem> {
    let work = arguments.work_folder()?;
    println!("{}", machine::facts(work.path()));
    if arguments.needs(&OF_THE_EXAMPLE) {
        on_the_example(arguments, work.path())?;
    }
    if arguments.needs(&[Scenario::Pull]) {
        pull(arguments, work.path())?;
    }
    if arguments.needs(&[Scenario::Dockerfiles, Scenario::Many, Scenario::Long]) {
        on_dockerfiles(arguments, work.path())?;
    }
    println!("{}", machine::load("load after the last measurement"));
    Ok(())
}

fn on_the_example(arguments: &Arguments, work: &Path) -> Result<(), Problem> {
    let base = arguments.base_image("node")?;
    eprintln!("preparing: every peer builds once …");
    let wbuild = Wbuild::new(&arguments.wbuild, &base, work)?;
    wbuild.build()?;
    let docker = peer(
        "docker build",
        arguments.needs(&[Scenario::Unchanged, Scenario::Edit, Scenario::Push]),
        || {
            let docker = Docker::start(&[&base], work)?;
            run(docker.build(), Peak::Loose)?;
            Ok(docker)
        },
    )?;
    let bare = peer("bare commands", arguments.needs(&[Scenario::Edit, Scenario::Cold]), || {
        Bare::unpack(&wbuild, work)
    })?;
    println!("{}", machine::load("load before the first measurement"));
    for scenario in &arguments.scenarios {
        match scenario {
            Scenario::Unchanged => unchanged(arguments, &wbuild, docker.as_ref())?,
            Scenario::Nothing => nothing_to_do(&wbuild)?,
            Scenario::Edit => edit(arguments, &wbuild, docker.as_ref(), bare.as_ref())?,
            Scenario::Cold => cold(arguments, &wbuild, bare.as_ref())?,
            Scenario::Push => push(arguments, &wbuild, docker.as_ref(), work)?,
            Scenario::Pull | Scenario::Dockerfiles | Scenario::Many | Scenario::Long => {}
        }
    }
    Ok(())
}

/// A base image from a registry.
fn pull(arguments: &Arguments, work: &Path) -> Result<(), Problem> {
    let base = arguments.base_image("node")?;
    // Beside the daemon of the other scenarios, which has ended.
    let work = work.join("pulling");
    fs::create_dir_all(&work).map_err(doing("create", &work))?;
    let Some(docker) = peer("docker pull", true, || Docker::start(&[], &work))? else { return Ok(()) };
    println!("{}", machine::load("load before the first pull"));
    let runs = arguments.runs_of(Scenario::Pull);
    pushed::said(pulled::pulled(runs, &arguments.wbuild, &base, &docker, &work))
}

fn on_dockerfiles(arguments: &Arguments, work: &Path) -> Result<(), Problem> {
    let base = arguments.base_image("alpine")?;
    // Beside the daemon of the other scenarios, which has ended.
    let work = work.join("second");
    fs::create_dir_all(&work).map_err(doing("create", &work))?;
    let needed = arguments.needs(&[Scenario::Dockerfiles, Scenario::Many]);
    let docker = peer("docker build", needed, || Docker::start(&[&base], &work))?;
    let dockerfiles = Dockerfiles::new(arguments, docker.as_ref(), &base, &work)?;
    println!("{}", machine::load("load before the first Dockerfile"));
    for scenario in &arguments.scenarios {
        match scenario {
            Scenario::Dockerfiles => dockerfiles.small()?,
            Scenario::Many => dockerfiles.many()?,
            Scenario::Long => dockerfiles.long()?,
            Scenario::Unchanged
            | Scenario::Nothing
            | Scenario::Edit
            | Scenario::Cold
            | Scenario::Push
            | Scenario::Pull => {}
        }
    }
    Ok(())
}

/// Sets up a peer when a scenario needs it. One that this machine cannot have is skipped, and the reason printed.
fn peer<T>(
    name: &str,
    needed: bool,
    start: impl FnOnce() -> Result<T, Skipped>,
) -> Result<Option<T>, Problem> {
    if !needed {
        return Ok(None);
    }
    match start() {
        Ok(peer) => Ok(Some(peer)),
        Err(Skipped::Missing(reason)) => {
            println!("skipped: {name}: {reason}");
            Ok(None)
        }
        Err(Skipped::Problem(problem)) => Err(problem),
    }
}

/// Nothing changed since the last build.
fn unchanged(arguments: &Arguments, wbuild: &Wbuild, docker: Option<&Docker>) -> Result<(), Problem> {
    let mut contest = Contest::new("nothing changed", arguments.runs_of(Scenario::Unchanged));
    contest.add(Lane::new("wbuild image", || wbuild.image(&wbuild.home)));
    if let Some(docker) = docker {
        contest.add(Lane::new("docker build", || docker.build()).goal(Goal::Times(35.0)));
        let saved = Lane::new("docker build, docker save", || docker.build_and_save());
        contest.add(saved.goal(Goal::Times(35.0)));
    }
    contest.run()
}

/// One line of a page was edited.
fn edit(
    arguments: &Arguments,
    wbuild: &Wbuild,
    docker: Option<&Docker>,
    bare: Option<&Bare>,
) -> Result<(), Problem> {
    let mut contest = Contest::new("one line of a page edited", arguments.runs_of(Scenario::Edit));
    contest.add(
        Lane::new("wbuild image", || wbuild.image(&wbuild.home)).before(|round| wbuild.site.edit_page(round)),
    );
    if let Some(bare) = bare {
        bare.build()?;
        contest.add(
            Lane::new("bare next build, cache kept", || bare.next_build())
                .before(|round| bare.site().edit_page(round))
                .goal(Goal::Share(1.15)),
        );
    }
    if let Some(docker) = docker {
        contest
            .add(Lane::new("docker build", || docker.build()).before(|round| docker.site.edit_page(round)));
    }
    contest.run()
}

/// Nothing is built yet except the base tree; pnpm's store has every package.
fn cold(arguments: &Arguments, wbuild: &Wbuild, bare: Option<&Bare>) -> Result<(), Problem> {
    let cold = wbuild.cold()?;
    let mut contest =
        Contest::new("cold, base tree at hand, pnpm store warm", arguments.runs_of(Scenario::Cold));
    contest.add(Lane::new("wbuild image", || wbuild.image(&cold.home)).before(|_| cold.reset()));
    if let Some(bare) = bare {
        bare.build()?;
        contest.add(
            Lane::new("bare pnpm install and tasks", || bare.everything())
                .before(|_| bare.reset())
                .goal(Goal::Share(1.1)),
        );
    }
    contest.run()
}

/// What a push sends after an edit.
fn push(arguments: &Arguments, wbuild: &Wbuild, docker: Option<&Docker>, work: &Path) -> Result<(), Problem> {
    match docker {
        Some(docker) => pushed::said(pushed::pushed(arguments.runs_of(Scenario::Push), wbuild, docker, work)),
        None => Ok(()),
    }
}

/// Edits after which little or nothing may run: counts steps, not time.
fn nothing_to_do(wbuild: &Wbuild) -> Result<(), Problem> {
    type Edit = fn(&Site) -> Result<(), Problem>;
    let edits: [(&str, Edit); 5] = [
        ("nothing", |_| Ok(())),
        ("`README.md` of the root", |site| site.append("README.md", "\nOne more line.\n")),
        ("modification time of `apps/web/src/app/page.tsx`", |site| site.touch("apps/web/src/app/page.tsx")),
        ("mode of `apps/web/src/app/page.tsx` from 0644 to 0664", |site| {
            site.set_mode("apps/web/src/app/page.tsx", 0o664)
        }),
        ("`scripts.dev` of `apps/web/package.json`", |site| {
            site.replace("apps/web/package.json", "next dev", "next dev --turbopack")
        }),
    ];
    println!("\n## what an edit makes run\n");
    println!("| edited | steps run | which |");
    println!("|---|---|---|");
    // What came before counts for none of them.
    wbuild.build()?;
    for (name, edit) in edits {
        edit(&wbuild.site)?;
        let built = wbuild.build()?;
        println!("| {name} | {} of {} | {} |", built.ran.len(), built.steps, built.ran.join(", "));
    }
    Ok(())
}
