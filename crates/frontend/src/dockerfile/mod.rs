//! Lowers a Dockerfile to a graph, as BuildKit's frontend does (`dockerfile2llb`).
//!
//! ```text
//! FROM image      Source::Image                    FROM stage     the stage's vertex, its variables and configuration
//! RUN             Exec, all of what it writes      COPY, ADD      File(Transfer); with --link on nothing, then Merge
//! WORKDIR         File(Workdir)                    all others     the image's configuration only
//! ```
//!
//! Every instruction that changes files has one vertex and leaves one delta, which becomes one layer. Only stages that the
//! target needs are lowered.

mod config;
mod context;
mod run;
mod stage;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use wbuild_dockerfile::{Dockerfile, FromRef, GlobalScope, Kind, Settings, StageGraph};
use wbuild_graph::{Graph, ImageRef, NetworkMode, Origin, StepLimits};
use wbuild_oci::{ImageConfig, Platform};
use wbuild_report::{Diagnostic, VertexId};

use crate::{Definition, Target};

pub use context::NamedContext;
use stage::Lowering;

/// What a Dockerfile is lowered with.
#[derive(Clone, Debug)]
pub struct DockerfileInput<'a> {
    /// The file, read without errors.
    pub dockerfile: &'a Dockerfile,
    /// Build arguments, target and platforms.
    pub settings: Settings,
    /// `--build-context`, by name as given.
    pub contexts: &'a BTreeMap<String, NamedContext>,
    /// What steps get.
    pub steps: &'a StepOptions,
    /// The configurations of images that are known so far.
    pub images: &'a [(ImageRef, ImageConfig)],
    /// Tells builds of different projects apart in explanations.
    pub project: &'a str,
}

/// What RUN steps get besides what the Dockerfile says.
#[derive(Clone, Debug)]
pub struct StepOptions {
    /// `--network`.
    pub network: NetworkMode,
    /// `--add-host`.
    pub hosts: Vec<(String, IpAddr)>,
    /// `--shm-size`, `--ulimit`.
    pub limits: StepLimits,
    /// `--allow network.host`.
    pub allow_host_network: bool,
    /// `--allow security.insecure`.
    pub allow_insecure: bool,
}

impl Default for StepOptions {
    fn default() -> Self {
        Self {
            network: NetworkMode::Default,
            hosts: Vec::new(),
            limits: StepLimits::default(),
            allow_host_network: false,
            allow_insecure: false,
        }
    }
}

/// How far lowering got.
#[derive(Debug)]
pub enum Lowered {
    /// All the way.
    Done(Box<DockerfileBuild>),
    /// Until the configurations of some images are known.
    Needs {
        /// These.
        bases: Vec<ImageRef>,
        /// Images that files are copied from by COPY, as far as that is known: for who says all that is missing at once.
        sources: Vec<ImageRef>,
    },
}

/// A Dockerfile, lowered.
#[derive(Debug)]
pub struct DockerfileBuild {
    /// The graph with one target.
    pub definition: Definition,
    /// The stages that were lowered, by index: those that lint rules about values look at.
    pub stages: BTreeSet<usize>,
    /// The steps of each stage, by the name that progress shows.
    pub steps: BTreeMap<String, Vec<VertexId>>,
    /// The first RUN of each platform that is not the one that builds, which may not be able to run its programs.
    pub foreign: Vec<ForeignRun>,
    /// Names that ARG declares, before the first stage, in those that were lowered, and in their triggers.
    pub declared: BTreeSet<String>,
    /// The variables before the first stage.
    pub global: Arc<GlobalScope>,
}

/// A RUN for another platform than the one that builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRun {
    /// For which.
    pub platform: Platform,
    /// The instruction.
    pub origin: Origin,
}

/// Makes the graph of the target.
///
/// # Errors
/// Every mistake that `docker build` would find in the stages that are built, as far as they do not follow from each other.
pub fn lower_dockerfile(input: &DockerfileInput<'_>) -> Result<Lowered, Vec<Diagnostic>> {
    let dockerfile = input.dockerfile;
    let one = |diagnostic: Box<Diagnostic>| vec![*diagnostic];
    let target = dockerfile.target(input.settings.target.as_deref()).map_err(one)?;
    let global = Arc::new(GlobalScope::new(dockerfile, input.settings.clone()).map_err(one)?);
    let mut lines = Vec::with_capacity(dockerfile.stages.len());
    let mut errors = Vec::new();
    for stage in &dockerfile.stages {
        match global.from_line(stage) {
            Ok(line) => lines.push(line),
            Err(error) => errors.push(*error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let replaced =
        |name: &str| context::find(input.contexts, name, &input.settings.target_platform).is_some();
    let stages = StageGraph::new(dockerfile, &lines, &replaced)?;
    let mut roots = BTreeSet::from([target]);
    loop {
        let mut reachable = BTreeSet::new();
        for root in &roots {
            reachable.append(&mut stages.reachable(*root));
        }
        let forward = stages.forward_uses(dockerfile, &reachable);
        if !forward.is_empty() {
            return Err(forward);
        }
        let mut lowering = Lowering::new(input, &global, &stages, &lines);
        lowering.all(&reachable, target);
        let Lowering { graph, built, errors, missing, unreached, steps, foreign, mut declared, .. } =
            lowering;
        if !errors.is_empty() {
            return Err(errors);
        }
        if !missing.is_empty() {
            return Ok(Lowered::Needs { bases: missing, sources: sources(input, &reachable) });
        }
        // Triggers of base images use stages that nothing in the file does.
        let before = roots.len();
        roots.extend(unreached);
        if roots.len() > before {
            continue;
        }
        let Some(state) = built.get(&target) else {
            return Err(vec![Diagnostic::error(&dockerfile.file, "the target stage could not be lowered")]);
        };
        let name = dockerfile.stages[target].display_name();
        let mut config = state.finished();
        let (built_for, wanted) = (&input.settings.build_platform, &input.settings.target_platform);
        // What was asked for counts, whatever the base image says.
        if !same_platform(built_for, wanted) {
            config.os.clone_from(&wanted.os);
            config.architecture.clone_from(&wanted.architecture);
            config.variant.clone_from(&wanted.variant);
        }
        let target = Target {
            vertex: state.vertex,
            base_image: state.base_image.clone(),
            config,
            comment: "buildkit.dockerfile.v0",
            history: state.rows(),
        };
        let definition = definition(graph, name, target);
        declared.extend(global.declared().map(str::to_owned));
        let build = DockerfileBuild { definition, stages: reachable, steps, foreign, declared, global };
        return Ok(Lowered::Done(Box::new(build)));
    }
}

/// The images that `COPY --from` names in some stages.
fn sources(input: &DockerfileInput<'_>, stages: &BTreeSet<usize>) -> Vec<ImageRef> {
    let dockerfile = input.dockerfile;
    let mut found = Vec::new();
    let instructions = stages.iter().flat_map(|stage| &dockerfile.stages[*stage].instructions);
    for instruction in instructions {
        if let Kind::Copy(copy) = &instruction.kind
            && let Some(from) = &copy.from
            && let Ok(FromRef::External(name)) = dockerfile.copy_from(&from.text)
            && name != "scratch"
            && context::find(input.contexts, &name, &input.settings.target_platform).is_none()
        {
            let image = ImageRef::new(name);
            if !found.contains(&image) {
                found.push(image);
            }
        }
    }
    found
}

fn definition(graph: Graph, name: String, target: Target) -> Definition {
    Definition {
        graph,
        targets: BTreeMap::from([(name.clone(), target)]),
        prevented: BTreeMap::new(),
        default_target: name,
        warnings: Vec::new(),
    }
}

/// Whether two platforms can run each other's programs as far as their names say.
fn same_platform(one: &Platform, other: &Platform) -> bool {
    one.os == other.os && one.architecture == other.architecture && one.variant == other.variant
}
