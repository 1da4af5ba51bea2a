//! `wbuild build`: a Dockerfile, as `docker buildx build` would build it.

mod call;
mod contexts;
mod epoch;
mod failure;
mod flags;
mod lint;
mod source;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, json};
use wbuild_attest::{REDACTED, without_passwords};
use wbuild_dockerfile::lint::holds_secret;
use wbuild_dockerfile::{Dockerfile, PROXY_ARGS, Parsed, Settings, Source, parse};
use wbuild_engine::{
    ContextPlace, Engine, EngineError, ExportOptions, IsolationMode, Options, Secrets, SolveOptions,
};
use wbuild_frontend::{DockerfileBuild, DockerfileInput, Lowered, lower_dockerfile};
use wbuild_graph::{ImageRef, Op, Origin, Source as GraphSource};
use wbuild_layer::Times;
use wbuild_oci::{Digest, ImageConfig, Platform};
use wbuild_report::Diagnostic;
use wbuild_solver::Heard;

use super::attest::{Attestor, BuildFacts, DOCKERFILE_BUILD, Requests};
use super::outputs::{Bare, Clients, Delivery, Outputs, plain_export};
use super::pinned::Lock;
use super::request::{any_platform, budget, build_args, jobs, labels, secrets, sharing};
use super::result::Job;
use super::timestamp::{Sources, created};
use super::{Failure, Session};
use crate::args::{BuildArgs, Called, CheckArgs, DockerfileArgs};
use crate::progress::Terminal;
use crate::render::render_diagnostics;

use contexts::Contexts;
use lint::Told;
use source::Opened;

/// No chain of triggers asks for images more often than this.
const MAX_ROUNDS: usize = 100;

pub(crate) fn run(args: &BuildArgs, session: &Session) -> Result<(), Failure> {
    let platform = any_platform(args.dockerfile.platform.as_deref())?;
    let requests = Requests::parse(&args.attest)?;
    requests.check()?;
    let outputs = Outputs::parse(&args.output, Bare::Files, &platform, requests.make_index())?;
    outputs.check(&args.output, session)?;
    let labels = labels(&args.labels)?;
    let mut settings = settings(&args.dockerfile, platform.clone(), session)?;
    let steps = flags::steps(args)?;
    let budget = budget(session)?;
    let contexts = Contexts::parse(&args.dockerfile)?;
    let options = Options {
        home: session.home(args.home.home.as_ref())?,
        platform: platform.clone(),
        images: contexts.images.clone(),
        secrets: secrets(&args.secrets, session)?,
        agents: flags::agents(&args.ssh, session)?,
        isolation: super::isolation(&args.isolation)?,
    };
    let sharing = sharing(&args.sharing, session)?;
    let mut engine = Engine::open(options, &session.variable)?;
    engine.share(sharing);
    if let Some(name) = flags::turbo_cache(args)? {
        engine.serve_turbo(name).map_err(Failure::new)?;
    }
    let opened = source::open(&args.dockerfile, &contexts, &mut engine, session)?;
    engine.set_project(&opened.project);
    let lock = match &opened.place {
        ContextPlace::Folder(folder) => Lock::read(folder)?,
        _ => Lock::nowhere(&args.pulling)?,
    };
    lock.apply(&mut engine, &args.pulling, session)?;
    let checks = args.check || args.call.what == Called::Check;
    let Parsed { dockerfile, diagnostics } = match read(&opened.source) {
        Err(Failure::Diagnostics(problems)) if checks && args.call.json => {
            lint::tell_of_errors(&problems)?;
            return Err(Failure::Diagnostics(problems));
        }
        read => read?,
    };
    let epoch = match args.call.what {
        Called::Build if !args.check => {
            epoch::resolve(&dockerfile, &mut settings, &opened, &contexts, &engine, session)?
        }
        _ => None,
    };
    let input = DockerfileInput {
        dockerfile: &dockerfile,
        settings,
        contexts: &contexts.named,
        steps: &steps,
        images: &[],
        project: &opened.project,
    };
    match args.call.what {
        Called::Build if !args.check => {}
        Called::Build | Called::Check => {
            let told = Told { own_rules: false, json: args.call.json };
            return lint::check(&dockerfile, input.settings, &opened, &engine, told);
        }
        Called::Outline => return call::outline(&dockerfile, input.settings, args.call.json),
        Called::Targets => return call::targets(&dockerfile, args.call.json),
    }
    let (build, images) =
        lower(&input, &engine).map_err(|diagnostics| match session.cancellation.is_cancelled() {
            true => Failure::Interrupted,
            false => Failure::Diagnostics(diagnostics),
        })?;
    // A shared cache may have what a machine of that platform has built.
    if args.sharing.cache_from.is_empty() {
        failure::of_foreign(&build.foreign, &engine)?;
    }
    let build_arg = epoch.as_deref().or_else(|| build.global.source_date_epoch());
    let sources = Sources { build_arg, of_context: opened.date, named: Some(&opened.dates), may_keep: true };
    let created = created(&args.timestamp, session, &sources)?;
    let mode = args.progress.mode();

    let progress = session.progress(mode)?;
    let notes = lint::warnings(&dockerfile, &build, &images, &opened)?;
    for diagnostic in diagnostics.iter().chain(&notes) {
        progress.note(render_diagnostics(std::slice::from_ref(diagnostic), &Terminal::stderr().theme()));
    }
    let unused = flags::unused(&input.settings.build_args, &build.declared);
    for warning in opened.warnings.iter().cloned().chain(unused) {
        progress.sink().hand_on(warning);
    }
    let engine = Arc::new(engine);
    let solve = SolveOptions {
        events: progress.sink(),
        cancellation: session.cancellation.clone(),
        jobs: jobs(args.jobs),
        no_cache: flags::no_cache(args, &build)?,
        heard: Heard::default(),
    };
    let target = build.definition.target(&build.definition.default_target).map_err(Failure::new)?;
    let times = if created.keep { Times::Keep } else { Times::Fixed(created.seconds) };
    let likely_causes =
        |origin: &Origin| lint::likely_causes(&dockerfile, &build, engine.context("").ok(), origin);
    let failure = |error| failure::of_solve(error, &build.definition.graph, &likely_causes);
    let export = plain_export(times, created.seconds, labels);
    let facts = if requests.is_empty() && args.output.metadata_file.is_none() {
        BuildFacts::default()
    } else {
        build_facts(args, &opened, &contexts, &engine, &input.settings, &export)?
    };
    let definition = &build.definition;
    let tags = &outputs.tags;
    let attestor = Attestor { requests: &requests, engine: &engine, definition, target, tags, facts };
    let delivery = Delivery {
        engine: &engine,
        target,
        export: &export,
        outputs: &outputs,
        args: &args.output,
        attestor: &attestor,
        checkout: None,
        variable: &session.variable,
        cancellation: &session.cancellation,
        sent_early: Arc::default(),
        clients: Clients::default(),
    };
    let job = Job {
        engine: &engine,
        definition,
        solve: &solve,
        delivery: &delivery,
        lock,
        pulling: &args.pulling,
        shown: &args.progress,
        budget,
    };
    job.run(progress, failure)
}

/// What provenance and inventory have to know of the request.
fn build_facts(
    args: &BuildArgs,
    opened: &Opened,
    contexts: &Contexts,
    engine: &Engine,
    settings: &Settings,
    export: &ExportOptions,
) -> Result<BuildFacts, Failure> {
    let text = &opened.source.file().text;
    // Where it lies on this machine is nobody's business.
    let path = Path::new(&opened.source.file().name).file_name().unwrap_or_default().to_string_lossy();
    let sha256 = BTreeMap::from([("sha256".to_owned(), Digest::of(text.as_bytes()).hex())]);
    let mut parameters = Map::new();
    parameters.insert("dockerfile".to_owned(), json!({ "path": path, "digest": sha256 }));
    if let Some(target) = &settings.target {
        parameters.insert("target".to_owned(), target.as_str().into());
    }
    parameters.insert("platform".to_owned(), settings.target_platform.to_string().into());
    parameters.insert("sourceDateEpoch".to_owned(), export.created.into());
    let mut typed = Map::new();
    typed.insert("dockerfileText".to_owned(), without_secrets(text).into());
    typed.insert("labels".to_owned(), json!(export.labels));
    typed.insert("network".to_owned(), args.network.as_str().into());
    typed.insert("allow".to_owned(), json!(args.allow));
    let places = [("context", &opened.place)].into_iter();
    let places = places.chain(contexts.files.iter().map(|(name, place)| (name.as_str(), place)));
    let mut dependencies = Vec::new();
    for (name, place) in places {
        dependencies.extend(engine.context_dependency(name, place)?);
    }
    // Proxies are no inputs, and may have passwords.
    let given = settings.build_args.iter().filter(|(name, _)| !PROXY_ARGS.contains(&name.as_str()));
    Ok(BuildFacts {
        name: settings.target.clone().unwrap_or_else(|| "image".to_owned()),
        created: export.created,
        locked: Vec::new(),
        build_type: DOCKERFILE_BUILD,
        parameters,
        build_args: given.map(|(name, value)| (name.clone(), value.clone())).collect(),
        typed,
        dependencies,
    })
}

/// A Dockerfile without lines that hold something in the form of a secret.
fn without_secrets(text: &str) -> String {
    let line = |line: &str| match holds_secret(line) {
        true => format!("# {REDACTED}"),
        false => without_passwords(line).into_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// `wbuild check`: the rules of BuildKit and of this project, on all stages.
pub(crate) fn check(args: &CheckArgs, session: &Session) -> Result<(), Failure> {
    let platform = any_platform(args.dockerfile.platform.as_deref())?;
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
    let Parsed { dockerfile, .. } = read(&opened.source)?;
    lint::check(
        &dockerfile,
        settings(&args.dockerfile, platform, session)?,
        &opened,
        &engine,
        Told { own_rules: true, json: false },
    )
}

/// Reads a Dockerfile; what is wrong with it is said all at once.
fn read(source: &Source) -> Result<Parsed, Failure> {
    let parsed = parse(source);
    if parsed.has_errors() { Err(Failure::Diagnostics(parsed.diagnostics)) } else { Ok(parsed) }
}

fn settings(args: &DockerfileArgs, platform: Platform, session: &Session) -> Result<Settings, Failure> {
    let mut build_args = build_args(&args.build_args, session)?;
    // As buildx has it: the variable is a build argument where none is given, so that steps can declare it, too, and a
    // default in the Dockerfile does not count.
    if let Some(epoch) = (session.variable)("SOURCE_DATE_EPOCH").filter(|value| !value.is_empty()) {
        build_args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert(epoch);
    }
    Ok(Settings {
        build_args,
        target: args.target.clone(),
        build_platform: Platform::host(),
        target_platform: platform,
    })
}

/// Opens the images that files are copied from, so that what is wrong with one is said at its line.
fn open_sources(
    dockerfile: &Dockerfile,
    build: &DockerfileBuild,
    engine: &Engine,
) -> Result<(), Vec<Diagnostic>> {
    let images = build.definition.graph.iter().filter_map(|(_, vertex)| match &vertex.op {
        Op::Source(GraphSource::Image(image)) => Some(image),
        _ => None,
    });
    let wrong = images.filter_map(|image| {
        let error = engine.image_config(image).err()?;
        Some(failure::of_image(dockerfile, image, &error))
    });
    let errors: Vec<Diagnostic> = wrong.collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// The configurations of the base images.
type Images = Vec<(ImageRef, ImageConfig)>;

/// Lowers, asking for images until none is missing.
fn lower(input: &DockerfileInput<'_>, engine: &Engine) -> Result<(DockerfileBuild, Images), Vec<Diagnostic>> {
    let mut images = Images::new();
    for _ in 0..MAX_ROUNDS {
        let input = DockerfileInput { images: &images, ..input.clone() };
        match lower_dockerfile(&input)? {
            Lowered::Done(build) => {
                open_sources(input.dockerfile, &build, engine)?;
                return Ok((*build, images));
            }
            Lowered::Needs { bases, sources } => {
                let mut errors = Vec::new();
                let mut found = Vec::new();
                for image in bases {
                    match engine.image_config(&image) {
                        Ok(config) => found.push((image, config)),
                        Err(error) => errors.push(failure::of_image(input.dockerfile, &image, &error)),
                    }
                }
                if !errors.is_empty() {
                    // What else is missing is said with it.
                    for image in sources {
                        if let Err(error @ EngineError::NoBaseImage { .. }) = engine.image_config(&image) {
                            errors.push(failure::of_image(input.dockerfile, &image, &error));
                        }
                    }
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
