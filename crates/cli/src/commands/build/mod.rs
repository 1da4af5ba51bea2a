//! `wbuild build`: a Dockerfile, as `docker buildx build` would build it.

mod contexts;
mod failure;
mod flags;
mod lint;
mod outputs;
mod source;

use std::collections::BTreeMap;
use std::sync::Arc;

use wbuild_dockerfile::{Parsed, Settings, parse};
use wbuild_engine::{DEFAULT_BUDGET, Engine, ExportOptions, IsolationMode, Options, Secrets, SolveOptions};
use wbuild_frontend::{Definition, DockerfileBuild, DockerfileInput, Lowered, Target, lower_dockerfile};
use wbuild_graph::{ImageRef, Origin, Snapshot};
use wbuild_layer::{Recipe, Times};
use wbuild_oci::ImageConfig;
use wbuild_oci::Platform;
use wbuild_report::{Diagnostic, Severity};

use super::image::{build_args, labels, tags};
use super::{Failure, Session, WriteError};
use crate::args::{BuildArgs, CheckArgs, DockerfileArgs};
use crate::progress::{Clock, Progress, Terminal};
use crate::render::render_diagnostics;

use contexts::Contexts;
use outputs::Outputs;

/// No chain of triggers asks for images more often than this.
const MAX_ROUNDS: usize = 100;

pub(crate) fn run(args: &BuildArgs, session: &Session) -> Result<(), Failure> {
    let platform = super::image::any_platform(args.dockerfile.platform.as_deref())?;
    let outputs = Outputs::parse(args)?;
    let tags = tags(&args.tags)?;
    let labels = labels(&args.labels)?;
    let settings = settings(&args.dockerfile, platform.clone(), session)?;
    let steps = flags::steps(args)?;
    let budget = match (session.variable)("WBUILD_CACHE_LIMIT") {
        Some(limit) => super::cache::bytes(&limit)?,
        None => DEFAULT_BUDGET,
    };
    let contexts = Contexts::parse(&args.dockerfile)?;
    let mut secrets = Secrets::default();
    for text in &args.secrets {
        secrets.add(text, &session.variable).map_err(super::image::secret_failure)?;
    }
    let options = Options {
        home: session.home(args.home.home.as_ref())?,
        platform: platform.clone(),
        images: contexts.images.clone(),
        secrets,
        agents: flags::agents(&args.ssh, session)?,
        isolation: super::isolation(&args.isolation)?,
    };
    let mut engine = Engine::open(options, &session.variable)?;
    let opened = source::open(&args.dockerfile, &contexts, &mut engine, session)?;
    let Parsed { dockerfile, diagnostics } = parse(&opened.source);
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(Failure::Diagnostics(diagnostics));
    }
    let input = DockerfileInput {
        dockerfile: &dockerfile,
        settings,
        contexts: &contexts.named,
        steps: &steps,
        images: &[],
        project: &opened.project,
    };
    if args.check {
        return lint::check(&dockerfile, input.settings, &opened, &engine, false);
    }
    let (build, images) = lower(&input, &engine).map_err(Failure::Diagnostics)?;
    let created = flags::created(args, session, &build.global, opened.date)?;

    let terminal = Terminal::stderr();
    let progress = Progress::new(args.progress.progress, std::io::stderr(), &terminal, Clock::start())
        .map_err(|source| Failure::new(WriteError { path: "standard error".into(), source }))?;
    let notes = lint::warnings(&dockerfile, &build, &images, &opened)?;
    for diagnostic in diagnostics.iter().chain(&notes) {
        progress.note(render_diagnostics(std::slice::from_ref(diagnostic), &terminal.theme()));
    }
    let engine = Arc::new(engine);
    let jobs =
        args.jobs.map_or_else(|| std::thread::available_parallelism().map_or(2, Into::into), Into::into);
    let solve = SolveOptions {
        events: progress.sink(),
        cancellation: session.cancellation.clone(),
        jobs,
        no_cache: flags::no_cache(args, &build)?,
    };
    let target = build.definition.target(&build.definition.default_target).map_err(Failure::new)?;
    let times = if created.keep { Times::Keep } else { Times::Fixed(created.seconds) };
    let recipe = Recipe { times, ..Recipe::default() };
    let export = ExportOptions { recipe, created: created.seconds, labels };
    let done = solve_and_write(&Job {
        engine: &engine,
        definition: &build.definition,
        target,
        solve: &solve,
        export: &export,
        outputs: &outputs,
        tags,
        args,
        likely_causes: &|origin| lint::likely_causes(&dockerfile, &build, engine.context("").ok(), origin),
    });
    let done = match done {
        Ok(done) => {
            progress.finish();
            done
        }
        Err(failure) => return Err(failure.shown_by(progress, args.progress.progress)),
    };
    done.report(args, &outputs)?;
    if done.ran {
        // The result is written; a store that cannot be tidied now is tidied after the next build.
        let _ = engine.tidy(budget);
    }
    Ok(())
}

/// `wbuild check`: the rules of BuildKit and of this project, on all stages.
pub(crate) fn check(args: &CheckArgs, session: &Session) -> Result<(), Failure> {
    let platform = super::image::any_platform(args.dockerfile.platform.as_deref())?;
    let contexts = Contexts::parse(&args.dockerfile)?;
    let options = Options {
        home: session.home(args.home.home.as_ref())?,
        platform: platform.clone(),
        images: contexts.images.clone(),
        secrets: Secrets::default(),
        agents: BTreeMap::new(),
        isolation: IsolationMode::NoRun,
    };
    let mut engine = Engine::open(options, &session.variable)?;
    let opened = source::open(&args.dockerfile, &contexts, &mut engine, session)?;
    let Parsed { dockerfile, diagnostics } = parse(&opened.source);
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(Failure::Diagnostics(diagnostics));
    }
    lint::check(&dockerfile, settings(&args.dockerfile, platform, session)?, &opened, &engine, true)
}

fn settings(args: &DockerfileArgs, platform: Platform, session: &Session) -> Result<Settings, Failure> {
    Ok(Settings {
        build_args: build_args(&args.build_args, session)?,
        target: args.target.clone(),
        build_platform: Platform::host(),
        target_platform: platform,
    })
}

/// The configurations of the base images.
type Images = Vec<(ImageRef, ImageConfig)>;

/// Lowers, asking for images until none is missing.
fn lower(input: &DockerfileInput<'_>, engine: &Engine) -> Result<(DockerfileBuild, Images), Vec<Diagnostic>> {
    let mut images = Images::new();
    for _ in 0..MAX_ROUNDS {
        let input = DockerfileInput { images: &images, ..input.clone() };
        match lower_dockerfile(&input)? {
            Lowered::Done(build) => return Ok((*build, images)),
            Lowered::Needs(wanted) => {
                let mut errors = Vec::new();
                let mut found = Vec::new();
                for image in wanted {
                    match engine.image_config(&image) {
                        Ok(config) => found.push((image, config)),
                        Err(error) => errors.push(failure::of_image(input.dockerfile, &image, &error)),
                    }
                }
                if !errors.is_empty() {
                    return Err(errors);
                }
                images.extend(found);
            }
        }
    }
    Err(vec![Diagnostic::error(
        &input.dockerfile.file,
        format!("the triggers of base images ask for other images more than {MAX_ROUNDS} times"),
    )])
}

/// What is to be done once everything is planned.
struct Job<'a> {
    engine: &'a Arc<Engine>,
    definition: &'a Definition,
    target: &'a Target,
    solve: &'a SolveOptions,
    export: &'a ExportOptions,
    outputs: &'a Outputs,
    tags: Vec<wbuild_oci::Reference>,
    args: &'a BuildArgs,
    /// What to tell the person whose step failed at a place of the Dockerfile.
    likely_causes: &'a dyn Fn(&Origin) -> Vec<String>,
}

fn solve_and_write(job: &Job<'_>) -> Result<outputs::Done, Failure> {
    let attempt = || -> Result<_, Failure> {
        let solution = job
            .engine
            .solve(job.definition, job.target, job.solve)
            .map_err(|error| failure::of_solve(error, &job.definition.graph, job.likely_causes))?;
        let snapshot: Snapshot = solution
            .get(job.target.vertex)
            .map(|solved| solved.snapshot.clone())
            .ok_or_else(|| Failure::usage("the target was not solved", "this is a bug of wbuild"))?;
        let written = outputs::write(job, &snapshot);
        Ok((written, solution.ran() > 0))
    };
    let (written, ran) = match attempt()? {
        // Something of an earlier build is gone, which nothing needed until now: it is made again.
        (Err(outputs::OutputError::Engine(error)), _) if error.is_lost() => {
            job.engine.look_closely();
            attempt()?
        }
        other => other,
    };
    let written = written.map_err(outputs::OutputError::failure)?;
    Ok(outputs::Done { written, ran })
}
