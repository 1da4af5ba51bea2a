//! `wbuild image`: the image of an app of the workspace around the current folder.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use wbuild_engine::{
    BuiltImage, DEFAULT_BUDGET, Engine, ExportOptions, ImageLocation, LocalContext, LocationError,
    OpenWorkspace, Options, SecretError, Secrets, SolveOptions, SpecChoice, StepFailure, find_workspace,
};
use wbuild_frontend::{Definition, Facts, Input, Spec, lower, needs};
use wbuild_graph::ImageRef;
use wbuild_image::{ArchiveFormat, Export, write_archive_file, write_layout};
use wbuild_layer::{Recipe, Times};
use wbuild_oci::{Platform, Reference};
use wbuild_report::{Diagnostic, Hint};
use wbuild_solver::{Solution, SolveError};

use super::{Failure, Session, WriteError, print};
use crate::args::ImageArgs;
use crate::progress::{Clock, Progress, Terminal};
use crate::render::{render_diagnostics, size};

/// Where an image goes.
#[derive(Debug, PartialEq, Eq)]
enum Output {
    /// A folder, blobs linked from the store.
    Layout(PathBuf),
    /// A tar of one.
    Archive(PathBuf),
}

pub(crate) fn run(args: &ImageArgs, session: &Session) -> Result<(), Failure> {
    let start = args.app.directory.clone().unwrap_or_else(|| PathBuf::from("."));
    let root = find_workspace(&start)?;
    let platform = platform(args.platform.as_deref())?;
    let outputs = args.outputs.iter().map(|text| output(text)).collect::<Result<Vec<_>, _>>()?;
    let tags = tags(&args.tags)?;
    let labels = labels(&args.labels)?;
    let build_args = build_args(&args.build_args, session)?;
    let created = created(&args.timestamp, session)?;
    let budget = match (session.variable)("WBUILD_CACHE_LIMIT") {
        Some(limit) => super::cache::bytes(&limit)?,
        None => DEFAULT_BUDGET,
    };
    let engine = open(args, session, &platform)?;
    let workspace = engine.open_workspace(&root)?;
    let choice = args.app.file.clone().map_or(SpecChoice::Find, SpecChoice::File);
    let spec = workspace.spec(&choice, args.app.app.as_deref())?;
    if args.print_spec {
        return print(&spec.print());
    }
    let Planned { engine, definition, warnings, left_out } =
        plan(&build_args, engine, workspace, &spec, &platform)?;
    let name = args.target.clone().unwrap_or_else(|| definition.default_target.clone());
    let target = definition
        .target(&name)
        .map_err(|error| Failure::Usage { message: error.to_string(), hints: error.hints() })?;

    let terminal = Terminal::stderr();
    let progress = Progress::new(args.progress.progress, std::io::stderr(), &terminal, Clock::start())
        .map_err(|source| Failure::new(WriteError { path: "standard error".into(), source }))?;
    if let Some(left_out) = left_out {
        progress.note(left_out);
    }
    for diagnostic in warnings.iter().chain(&definition.warnings) {
        progress.note(render_diagnostics(std::slice::from_ref(diagnostic), &terminal.theme()));
    }
    let jobs =
        args.jobs.map_or_else(|| std::thread::available_parallelism().map_or(2, Into::into), Into::into);
    let options = SolveOptions {
        events: progress.sink(),
        cancellation: session.cancellation.clone(),
        jobs,
        no_cache: args.no_cache,
    };
    let recipe = Recipe { times: Times::Fixed(created), ..Recipe::default() };
    let export = ExportOptions { recipe, created, labels };
    let attempt = || {
        let solution = engine.solve(&definition, target, &options).map_err(failure)?;
        let snapshot = snapshot(&solution, target.vertex)?;
        Ok((engine.export(target, &snapshot, &export), solution.ran() > 0))
    };
    let built = attempt().and_then(|(built, ran)| match built {
        // Something of an earlier build is gone, which nothing needed until now: it is made again.
        Err(error) if error.is_lost() => {
            engine.look_closely();
            attempt()
        }
        built => Ok((built, ran)),
    });
    let (built, ran) = match built.and_then(|(built, ran)| Ok((built?, ran))) {
        Ok(built) => built,
        Err(failure) => {
            progress.finish();
            return Err(failure);
        }
    };
    let app_folder = root.join(".wbuild/image").join(folder_name(&spec.app));
    let outputs = if outputs.is_empty() { vec![Output::Layout(app_folder)] } else { outputs };
    let export = Export::image(&built.image, tags);
    for output in &outputs {
        write(output, &export, &built, &root)?;
    }
    progress.finish();
    report(args, &built, &export, &outputs)?;
    if ran {
        // The image is written; a store that cannot be tidied now is tidied after the next build.
        let _ = engine.tidy(budget);
    }
    Ok(())
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
                "base images come from OCI layouts: oci-layout://DIR[:TAG|@DIGEST]",
            )
        })?;
        images.insert(name.to_owned(), place);
    }
    let mut secrets = Secrets::default();
    for text in &args.secrets {
        secrets.add(text, &session.variable).map_err(secret_failure)?;
    }
    let home = session.home(args.home.home.as_ref())?;
    let isolation = super::isolation(&args.isolation)?;
    let options =
        Options { home, platform: platform.clone(), images, secrets, agents: BTreeMap::new(), isolation };
    Ok(Engine::open(options, &session.variable)?)
}

pub(super) fn secret_failure(error: SecretError) -> Failure {
    match error {
        SecretError::Malformed { .. } => Failure::usage(error.to_string(), "--secret id=token,env=TOKEN"),
        other => Failure::new(other),
    }
}

/// Everything that is known before anything runs.
struct Planned {
    engine: Arc<Engine>,
    definition: Definition,
    warnings: Vec<Diagnostic>,
    left_out: Option<String>,
}

/// Lowers the spec: what the workspace says, what the base images say, what was given.
fn plan(
    build_args: &BTreeMap<String, String>,
    mut engine: Engine,
    workspace: OpenWorkspace,
    spec: &Spec,
    platform: &Platform,
) -> Result<Planned, Failure> {
    let project = workspace.project(spec, platform)?;
    let needs = needs(spec);
    let mut facts = Facts::default();
    for reference in &needs.images {
        facts.images.insert(reference.clone(), engine.image_config(&ImageRef::new(reference))?);
    }
    // A variable that is no UTF-8 can stand in no key and no document.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    for (name, value) in variables {
        if needs.host_env.iter().any(|pattern| matches(pattern, &name)) {
            facts.host_env.insert(name, value);
        }
    }
    let left_out = left_out(&workspace.context);
    engine.add_context("", workspace.context);
    let secrets = engine.secrets_given();
    let input = Input { spec, project: &project, facts: &facts, platform, build_args, secrets: &secrets };
    let definition = lower(&input).map_err(Failure::Diagnostics)?;
    Ok(Planned { engine: Arc::new(engine), definition, warnings: project.warnings, left_out })
}

/// What an installed or built checkout holds and a build does not see, in one line (decision 5).
fn left_out(context: &LocalContext) -> Option<String> {
    let reasons: Vec<String> =
        context.left_out().iter().map(|out| format!("{} ({})", out.reason, out.count)).collect();
    (!reasons.is_empty()).then(|| format!("left out of the build context: {}", reasons.join(", ")))
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

/// A platform that an image can be for, whether or not its steps can run here.
pub(super) fn any_platform(given: Option<&str>) -> Result<Platform, Failure> {
    let Some(text) = given else { return Ok(Platform::host()) };
    text.parse()
        .map_err(|error: wbuild_oci::PlatformParseError| Failure::usage(error.to_string(), "linux/amd64"))
}

pub(super) fn tags(given: &[String]) -> Result<Vec<Reference>, Failure> {
    let parse = |text: &String| {
        text.parse().map_err(|error: wbuild_oci::ReferenceParseError| {
            Failure::usage(error.to_string(), "a name is of the form [HOST/]REPOSITORY[:TAG]")
        })
    };
    given.iter().map(parse).collect()
}

pub(super) fn build_args(given: &[String], session: &Session) -> Result<BTreeMap<String, String>, Failure> {
    let mut values = BTreeMap::new();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            // Without a value it comes from the environment, and where that has none it is not given (docker).
            None => (text.as_str(), (session.variable)(text)),
        };
        let usable = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(usable) {
            let message =
                format!("`--build-arg {}` does not begin with the name of a variable", text.escape_debug());
            return Err(Failure::usage(
                message,
                "--build-arg NAME=VALUE, or NAME to take it from the environment",
            ));
        }
        values.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(values)
}

pub(super) fn labels(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let parse = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => {
            Err(Failure::usage(format!("`--label {text}` is not of the form NAME=VALUE"), "--label team=web"))
        }
    };
    given.iter().map(parse).collect()
}

/// `type=oci,dest=PATH[,tar=false]`; a bare path is a folder (docker's short form of `local`, here a layout).
fn output(text: &str) -> Result<Output, Failure> {
    let usage = |message: String| {
        Failure::usage(
            message,
            "outputs are of the form type=oci,dest=FILE.tar or type=oci,dest=FOLDER,tar=false",
        )
    };
    if text.is_empty() {
        return Err(usage("--output names nothing".to_owned()));
    }
    if !text.contains('=') {
        return Ok(Output::Layout(PathBuf::from(text)));
    }
    let (mut kind, mut dest, mut tar) = (None, None, true);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("type", value)) => kind = Some(value.to_owned()),
            Some(("dest", value)) => dest = Some(PathBuf::from(value)),
            Some(("tar", value)) => tar = value != "false",
            _ => return Err(usage(format!("`{part}` means nothing in --output"))),
        }
    }
    match (kind.as_deref(), dest) {
        (Some("oci"), Some(dest)) if tar => Ok(Output::Archive(dest)),
        (Some("oci"), Some(dest)) => Ok(Output::Layout(dest)),
        (Some("oci"), None) => Err(usage("--output type=oci needs a dest".to_owned())),
        (kind, _) => {
            Err(usage(format!("this version writes outputs of type oci, not `{}`", kind.unwrap_or_default())))
        }
    }
}

/// Seconds since the epoch for everything that is written.
fn created(timestamp: &str, session: &Session) -> Result<i64, Failure> {
    let (text, from) = match (timestamp, (session.variable)("SOURCE_DATE_EPOCH")) {
        ("epoch", Some(value)) => (value, "SOURCE_DATE_EPOCH"),
        ("epoch", None) => return Ok(1),
        (given, _) => (given.to_owned(), "--timestamp"),
    };
    text.parse().map_err(|_| {
        Failure::usage(format!("{from} is `{text}`, which is no number of seconds"), "for example 1700000000")
    })
}

fn snapshot(solution: &Solution, vertex: wbuild_report::VertexId) -> Result<wbuild_graph::Snapshot, Failure> {
    let solved = solution.get(vertex).map(|solved| solved.snapshot.clone());
    solved.ok_or_else(|| Failure::usage("the target was not solved", "this is a bug of wbuild"))
}

fn failure(error: SolveError<wbuild_engine::EngineError>) -> Failure {
    match error {
        SolveError::Cancelled => Failure::Interrupted,
        SolveError::Vertex { source: wbuild_engine::EngineError::Step(step), name, .. } => {
            let StepFailure { hints, .. } = &*step;
            let hints = hints.clone();
            Failure::Failed { error: Box::new(StepError { name, step: *step }), hints }
        }
        SolveError::Vertex { source: wbuild_engine::EngineError::Diagnostics(diagnostics), .. } => {
            Failure::Diagnostics(diagnostics)
        }
        SolveError::Vertex { source: wbuild_engine::EngineError::Cancelled, .. } => Failure::Interrupted,
        other => {
            let hints = match &other {
                SolveError::Vertex { source, .. } => source.hints(),
                _ => Vec::new(),
            };
            Failure::Failed { error: Box::new(other), hints }
        }
    }
}

/// A step failed: in one sentence, with the place of its log. The last lines were shown by the progress view.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {step}; its full log is `{}`", step.log.display())]
struct StepError {
    name: String,
    step: StepFailure,
}

/// Names of packages can have a scope; a folder's cannot have a slash.
fn folder_name(app: &str) -> String {
    app.trim_start_matches('@').replace('/', "-")
}

fn write(output: &Output, export: &Export, built: &BuiltImage, root: &Path) -> Result<(), Failure> {
    match output {
        Output::Layout(folder) => {
            // What wbuild writes into a checkout is no part of it.
            let own = root.join(".wbuild");
            if folder.starts_with(&own) {
                let ignore = own.join(".gitignore");
                let wrong = |source| Failure::new(WriteError { path: ignore.clone(), source });
                std::fs::create_dir_all(folder).map_err(wrong)?;
                if !ignore.exists() {
                    std::fs::write(&ignore, "*\n").map_err(wrong)?;
                }
            }
            write_layout(folder, export, built).map_err(Failure::new)?;
        }
        Output::Archive(path) => {
            write_archive_file(export, ArchiveFormat::Oci, built, path).map_err(Failure::new)?;
        }
    }
    Ok(())
}

fn report(args: &ImageArgs, built: &BuiltImage, export: &Export, outputs: &[Output]) -> Result<(), Failure> {
    let digest = built.image.manifest.descriptor.digest;
    let config = built.image.config.descriptor.digest;
    let put = |path: &PathBuf, text: String| {
        std::fs::write(path, text).map_err(|source| Failure::new(WriteError { path: path.clone(), source }))
    };
    if let Some(path) = &args.iidfile {
        put(path, config.to_string())?;
    }
    if let Some(path) = &args.metadata_file {
        let names: Vec<String> = export.names.iter().map(ToString::to_string).collect();
        let metadata = json!({
            "containerimage.digest": digest,
            "containerimage.config.digest": config,
            "containerimage.descriptor": built.image.manifest.descriptor,
            "image.name": names.join(","),
            "wbuild.layers": built.layers,
        });
        put(path, format!("{metadata:#}\n"))?;
    }
    let mut err = std::io::stderr();
    for output in outputs {
        let (Output::Layout(path) | Output::Archive(path)) = output;
        // Only for people: scripts read the digest from standard output.
        let _ = writeln!(
            err,
            "image {} ({} in {} layers)",
            path.display(),
            size(built.size()),
            built.layers.len()
        );
    }
    print(&format!("{digest}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_as_buildx_writes_them() {
        let parse = |text: &str| output(text).ok();
        assert_eq!(parse("type=oci,dest=a.tar"), Some(Output::Archive("a.tar".into())));
        assert_eq!(parse("type=oci,dest=a,tar=false"), Some(Output::Layout("a".into())));
        assert_eq!(parse("out"), Some(Output::Layout("out".into())));
        for wrong in ["type=oci", "type=docker,dest=x", "type=oci,dest=x,compression=zstd"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn folders_of_scoped_packages() {
        assert_eq!(folder_name("@acme/web"), "acme-web");
        assert_eq!(folder_name("web"), "web");
    }
}
