//! `wbuild image`: the image of an app of the workspace around the current folder.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, json};
use wbuild_attest::{Dependency, without_passwords};
use wbuild_engine::{
    Engine, EngineError, ExportOptions, ImageLocation, LeftOut, LocalContext, LocationError, OpenWorkspace,
    Options, SolveOptions, SpecChoice, StepFailure, locked_packages,
};
use wbuild_frontend::{Definition, Facts, Input, Needs, NoTarget, Spec, lower, needs, undecided};
use wbuild_graph::ImageRef;
use wbuild_layer::Times;
use wbuild_oci::{Digest, ImageConfig, Platform, Reference};
use wbuild_report::{Diagnostic, Hint, Warning, nearest};
use wbuild_solver::{Heard, NoCache, SolveError};

use super::attest::{Attestor, BuildFacts, IMAGE_BUILD, Requests};
use super::outputs::{Bare, Clients, Delivery, Outputs, plain_export};
use super::pinned::Lock;
use super::request::{any_platform, budget, build_args, jobs, labels, secrets, sharing};
use super::result::Job;
use super::timestamp::{Sources, created};
use super::{Failure, Session, examples, print};
use crate::args::ImageArgs;
use crate::progress::{ProgressMode, Terminal};
use crate::render::render_diagnostics;

/// As pnpm calls it.
const LOCKFILE: &str = "pnpm-lock.yaml";

pub(crate) fn run(args: &ImageArgs, session: &Session) -> Result<(), Failure> {
    let root = super::root_of(&args.app)?;
    let platform = platform(args.platform.as_deref())?;
    let requests = Requests::parse(&args.attest)?;
    let mut outputs = Outputs::parse(&args.output, Bare::Image, &platform, requests.make_index())?;
    let labels = labels(&args.labels)?;
    let build_args = build_args(&args.build_args, session)?;
    let created = created(&args.timestamp, session, &Sources::default())?;
    let budget = budget(session)?;
    let sharing = sharing(&args.sharing, session)?;
    let mut engine = open(args, session, &platform)?;
    engine.share(sharing);
    let lock = Lock::read(&root)?;
    lock.apply(&mut engine, &args.pulling, session)?;
    let workspace = engine.open_workspace(&root)?;
    let spec = spec(args, &workspace)?;
    if args.print_spec {
        return print(&spec.print());
    }
    let wants_facts = !requests.is_empty() || args.output.metadata_file.is_some();
    let Planned { engine, definition, warnings, notes, mut said, lockfiles } =
        plan(args, &build_args, engine, workspace, &spec, &platform, wants_facts)?;
    let name = args.target.clone().unwrap_or_else(|| definition.default_target.clone());
    let target = definition.target(&name).map_err(|error| match error {
        NoTarget::Unknown(error) => Failure::Usage { message: error.to_string(), hints: error.hints() },
        NoTarget::Prevented(reasons) => Failure::Diagnostics(reasons),
    })?;
    let folder = folder_name(&spec.app, &name, &definition.default_target);
    outputs.or_own_folder(root.join(".wbuild/image").join(folder));
    // What can be known to fail at the end is said before the work.
    outputs.check(&args.output, session)?;
    requests.check()?;

    let mode = args.progress.mode();
    let progress = session.progress(mode)?;
    notes.into_iter().for_each(|note| progress.note(note));
    for diagnostic in warnings.iter().chain(&definition.warnings) {
        match mode {
            // Programs want it as data, and whoever wants quiet wants warnings all the same.
            ProgressMode::Json | ProgressMode::Quiet => {
                said.push(Warning { message: diagnostic.to_string(), hints: diagnostic.hints() });
            }
            _ => progress
                .note(render_diagnostics(std::slice::from_ref(diagnostic), &Terminal::stderr().theme())),
        }
    }
    let options = SolveOptions {
        events: progress.sink(),
        cancellation: session.cancellation.clone(),
        jobs: jobs(args.jobs),
        no_cache: if args.no_cache { NoCache::Everything } else { NoCache::Nothing },
        heard: Heard::default(),
    };
    said.into_iter().for_each(|warning| options.events.hand_on(warning));
    let export = plain_export(Times::Fixed(created.seconds), created.seconds, labels);
    let facts = lockfiles.map(|lockfiles| {
        let default_target = &definition.default_target;
        build_facts(&spec, &name, default_target, &platform, build_args, &export, lockfiles)
    });
    let facts = facts.unwrap_or_default();
    let attestor = Attestor {
        requests: &requests,
        engine: &engine,
        definition: &definition,
        target,
        tags: &outputs.tags,
        facts,
    };
    let delivery = Delivery {
        engine: &engine,
        target,
        export: &export,
        outputs: &outputs,
        args: &args.output,
        attestor: &attestor,
        checkout: Some(&root),
        variable: &session.variable,
        cancellation: &session.cancellation,
        sent_early: Arc::default(),
        clients: Clients::default(),
    };
    let job = Job {
        engine: &engine,
        definition: &definition,
        solve: &options,
        delivery: &delivery,
        lock,
        pulling: &args.pulling,
        shown: &args.progress,
        budget,
    };
    job.run(progress, failure)
}

/// The spec that counts. Whoever prints it to `wbuild.toml` has made an empty one first.
fn spec(args: &ImageArgs, workspace: &OpenWorkspace) -> Result<Spec, Failure> {
    let choice = match &args.app.file {
        Some(file) if args.print_spec && is_standard_output(file) => SpecChoice::FindToPrint,
        Some(file) => SpecChoice::File(super::existing_file(file, "--file")?),
        None if args.print_spec => SpecChoice::FindToPrint,
        None => SpecChoice::Find,
    };
    let app = super::known_app(workspace, args.app.app.as_deref())?;
    Ok(workspace.spec(&choice, app)?)
}

fn is_standard_output(path: &Path) -> bool {
    let out = rustix::fs::fstat(std::io::stdout());
    let file = std::fs::metadata(path);
    matches!((out, file), (Ok(out), Ok(file)) if (out.st_dev, out.st_ino) == (file.dev(), file.ino()))
}

fn open(args: &ImageArgs, session: &Session, platform: &Platform) -> Result<Engine, Failure> {
    let mut images = BTreeMap::new();
    for text in &args.build_contexts {
        let usage = || {
            let message = format!("`--build-context {text}` is not of the form NAME=PLACE");
            Failure::usage(message, "for example node:22-alpine=oci-layout://DIR")
        };
        let (name, place) = text.split_once('=').ok_or_else(usage)?;
        let place = ImageLocation::parse(place).map_err(|error: LocationError| {
            Failure::usage(
                error.to_string(),
                "an image is in a layout or a registry: oci-layout://DIR[:TAG|@DIGEST], docker-image://REF",
            )
        })?;
        images.insert(name.to_owned(), place);
    }
    let secrets = secrets(&args.secrets, session)?;
    let home = session.home(args.home.home.as_ref())?;
    let isolation = super::isolation(&args.isolation)?;
    let options =
        Options { home, platform: platform.clone(), images, secrets, agents: BTreeMap::new(), isolation };
    Ok(Engine::open(options, &session.variable)?)
}

/// Everything that is known before anything runs.
struct Planned {
    engine: Arc<Engine>,
    definition: Definition,
    warnings: Vec<Diagnostic>,
    /// In a line each.
    notes: Vec<String>,
    /// What is probably not as the person who typed the command believes.
    said: Vec<Warning>,
    /// Where something is to be said about the image.
    lockfiles: Option<Lockfiles>,
}

/// The lockfile of the workspace, and what the install gets of it.
struct Lockfiles {
    whole: Digest,
    pruned: Option<Vec<u8>>,
}

/// What provenance and inventory have to know of the request.
fn build_facts(
    spec: &Spec,
    target: &str,
    default_target: &str,
    platform: &Platform,
    build_args: BTreeMap<String, String>,
    export: &ExportOptions,
    lockfiles: Lockfiles,
) -> BuildFacts {
    let text = spec.print();
    let sha256 = |digest: &Digest| BTreeMap::from([("sha256".to_owned(), digest.hex())]);
    let mut parameters = Map::new();
    parameters.insert("app".to_owned(), spec.app.as_str().into());
    parameters.insert("target".to_owned(), target.into());
    parameters.insert("platform".to_owned(), platform.to_string().into());
    parameters.insert("spec".to_owned(), json!({ "digest": sha256(&Digest::of(text.as_bytes())) }));
    parameters.insert("sourceDateEpoch".to_owned(), export.created.into());
    let mut typed = Map::new();
    typed.insert("specText".to_owned(), without_passwords(&text).into());
    typed.insert("labels".to_owned(), json!(export.labels));
    let mut dependencies = vec![Dependency {
        uri: None,
        name: Some(LOCKFILE.to_owned()),
        digest: sha256(&lockfiles.whole),
        annotations: BTreeMap::new(),
    }];
    let pruned = lockfiles.pruned.unwrap_or_default();
    if !pruned.is_empty() {
        dependencies.push(Dependency {
            uri: None,
            name: Some(format!("{LOCKFILE} of the closure")),
            digest: sha256(&Digest::of(&pruned)),
            annotations: BTreeMap::new(),
        });
    }
    let name = if target == default_target { spec.app.clone() } else { format!("{}.{target}", spec.app) };
    BuildFacts {
        name,
        created: export.created,
        locked: locked_packages(LOCKFILE, &pruned).unwrap_or_default(),
        build_type: IMAGE_BUILD,
        parameters,
        build_args,
        typed,
        dependencies,
    }
}

/// Lowers the spec: what the workspace says, what the base images say, what was given.
fn plan(
    args: &ImageArgs,
    build_args: &BTreeMap<String, String>,
    mut engine: Engine,
    workspace: OpenWorkspace,
    spec: &Spec,
    platform: &Platform,
    attested: bool,
) -> Result<Planned, Failure> {
    let project = workspace.project(spec, platform)?;
    // Before images are asked for: the most likely target is the one that cannot be.
    let not_standalone = project.app.next.as_ref().map(|next| &next.not_standalone[..]).unwrap_or_default();
    if !not_standalone.is_empty() && args.target.as_deref().is_none_or(|name| name == "runner") {
        return Err(Failure::Diagnostics(not_standalone.to_vec()));
    }
    let needs = needs(spec);
    let mut facts = Facts::default();
    for reference in &needs.images {
        facts.images.insert(reference.clone(), image_config(&engine, reference, &needs.images)?);
    }
    // A variable that is no UTF-8 can stand in no key and no document.
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    for (name, value) in &variables {
        if needs.host_env.iter().any(|pattern| matches(pattern, name)) {
            facts.host_env.insert(name.clone(), value.clone());
        }
    }
    let lockfiles = attested.then(|| Lockfiles {
        whole: Digest::of(workspace.workspace.lockfile.file().text.as_bytes()),
        pruned: project
            .install
            .files
            .iter()
            .find(|file| file.path.as_bytes() == LOCKFILE.as_bytes())
            .map(|file| file.contents.clone()),
    });
    let left_out = left_out(&workspace.context);
    let mut said = missing_files(&workspace.context);
    said.extend(unused_contexts(args, &needs));
    engine.add_context("", workspace.context);
    let secrets = engine.secrets_given();
    let input = Input { spec, project: &project, facts: &facts, platform, build_args, secrets: &secrets };
    let not_passed_on = not_passed_on(&undecided(&input, variables.keys().map(String::as_str)));
    let definition = lower(&input).map_err(Failure::Diagnostics)?;
    let notes = left_out.into_iter().chain(not_passed_on).collect();
    Ok(Planned { engine: Arc::new(engine), definition, warnings: project.warnings, notes, said, lockfiles })
}

/// The configuration of a base image. One that is not at hand is said together with the others.
fn image_config(engine: &Engine, reference: &str, all: &[String]) -> Result<ImageConfig, Failure> {
    let config = |name: &str| engine.image_config(&ImageRef::new(name));
    let error = match config(reference) {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    if !matches!(error, EngineError::NoBaseImage { .. }) {
        return Err(error.into());
    }
    let is_missing =
        |name: &&String| *name != reference && matches!(config(name), Err(EngineError::NoBaseImage { .. }));
    let mut hints = error.hints();
    hints.extend(all.iter().filter(is_missing).map(|name| format!("`{name}` is not at hand, too")));
    Err(Failure::Failed { error: Box::new(error), hints })
}

/// What an installed or built checkout holds and a build does not see, in one line (decision 5).
fn left_out(context: &LocalContext) -> Option<String> {
    let expected = context.left_out().iter().filter(|out| !out.reason.is_surprising());
    let reasons: Vec<String> = expected.map(|out| format!("{} ({})", out.reason, out.count)).collect();
    (!reasons.is_empty()).then(|| format!("left out of the build context: {}", reasons.join(", ")))
}

/// Files that a person would expect in the build and that it does not see: each by its path.
fn missing_files(context: &LocalContext) -> Vec<Warning> {
    let surprising = context.left_out().iter().filter(|out| out.reason.is_surprising());
    let warning = |out: &LeftOut| Warning {
        message: format!("left out of the build context: {}: {}", out.reason, examples(out)),
        hints: vec!["rename or remove them, or name them in .dockerignore".to_owned()],
    };
    surprising.map(warning).collect()
}

/// `--build-context` for images that nothing stands on.
fn unused_contexts(args: &ImageArgs, needs: &Needs) -> Vec<Warning> {
    let same = |a: &str, b: &str| {
        a == b || matches!((a.parse::<Reference>(), b.parse::<Reference>()), (Ok(a), Ok(b)) if a == b)
    };
    let names = args.build_contexts.iter().filter_map(|text| Some(text.split_once('=')?.0));
    let unused = names.filter(|name| !needs.images.iter().any(|image| same(name, image)));
    let warning = |name: &str| {
        let mut hints: Vec<String> = nearest(name, needs.images.iter().map(String::as_str))
            .first()
            .map(|near| format!("did you mean `{near}`?"))
            .into_iter()
            .collect();
        hints.push(format!("the build uses `{}`", needs.images.join("`, `")));
        Warning { message: format!("--build-context names `{name}`, which the build does not use"), hints }
    };
    unused.map(warning).collect()
}

/// Variables of this shell that a task asks for and does not get: with `turbo run` it would.
fn not_passed_on(names: &[String]) -> Option<String> {
    let first = names.first()?;
    Some(format!(
        "set here and declared in turbo.json, but not passed to the build: {} (`--build-arg {first}` passes one, `from-host` in the spec does so always)",
        names.join(", ")
    ))
}

/// Whether a name fits a pattern with at most trailing `*`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((before, after)) => {
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
        }
        None => pattern == name,
    }
}

fn platform(given: Option<&str>) -> Result<Platform, Failure> {
    let host = Platform::host();
    let Some(text) = given else { return Ok(host) };
    let wanted = any_platform(Some(text))?;
    if !host.satisfies(&wanted) {
        let message = format!("steps for {wanted} cannot be run on this machine, which is {host}");
        return Err(Failure::usage(message, format!("leave --platform out, or build on a {wanted} machine")));
    }
    Ok(wanted)
}

fn failure(error: SolveError<EngineError>) -> Failure {
    match error {
        SolveError::Cancelled => Failure::Interrupted,
        SolveError::Vertex { source: EngineError::Step(step), name, beside, .. } => {
            let mut hints = step.hints.clone();
            hints.extend(Some(beside.to_string()).filter(|said| !said.is_empty()));
            Failure::Failed { error: Box::new(StepError { name, step: *step }), hints }
        }
        SolveError::Vertex { source: EngineError::Diagnostics(diagnostics), .. } => {
            Failure::Diagnostics(diagnostics)
        }
        SolveError::Vertex { source: EngineError::Cancelled, .. } => Failure::Interrupted,
        other => Failure::new(other),
    }
}

/// A step failed: in one sentence, with the place of its log. The last lines were shown by the progress view.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {step}; its full log is `{}`", step.log.display())]
struct StepError {
    name: String,
    step: StepFailure,
}

/// Names of packages can have a scope; a folder's cannot have a slash. Each stage has a folder of its own, so that none takes
/// the place of the image that is shipped.
fn folder_name(app: &str, target: &str, default: &str) -> String {
    let app = app.trim_start_matches('@').replace('/', "-");
    if target == default { app } else { format!("{app}.{target}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_scoped_packages() {
        assert_eq!(folder_name("@acme/web", "runner", "runner"), "acme-web");
        assert_eq!(folder_name("web", "runner", "runner"), "web");
        assert_eq!(folder_name("web", "deps", "runner"), "web.deps");
    }
}
