//! From the spec and the workspace to the graph.
//!
//! ```text
//! base     image < /app < toolchain lines
//! deps     base < pruned manifests and lockfile < pnpm install
//! builder  deps < lifecycle scripts < sources < outputs of the tasks     (each task sees its own part of it)
//! runner   image < user < links < modules < packages < application
//! dev      deps < lifecycle scripts < sources
//! ```
//!
//! Everything is installed and built at `/app`, in the image and in every step: pnpm's shims and Next's server.js hold
//! the path.

mod base;
mod builder;
mod config;
mod deps;
mod environment;
mod noise;
mod runner;
mod sources;

use std::collections::BTreeMap;

use wbuild_graph::{Graph, ImageRef, Op, Owner, Source, Vertex};
use wbuild_oci::ImageConfig;
use wbuild_report::{Diagnostic, Severity, SourceFile, VertexId};
use wbuild_tree::EntryPath;

use crate::{Definition, HistoryRow, Input, Spec, Target};

pub use builder::INPUT_DIGEST;
pub(crate) use config::from_image;
pub use environment::undecided;

/// Where the workspace lies in every step and image.
const ROOT: &str = "app";

/// Who made the rows of a history.
const COMMENT: &str = "wbuild";

/// The target that is built when none is named.
const DEFAULT_TARGET: &str = "runner";

/// Makes the graph of all targets.
///
/// # Errors
/// Everything in the spec that does not fit to the workspace, the images, or what was given on the command line.
pub fn lower(input: &Input<'_>) -> Result<Definition, Vec<Diagnostic>> {
    let mut lowering = Lowering {
        input: *input,
        graph: Graph::new(),
        diagnostics: Vec::new(),
        prevented: BTreeMap::new(),
        scratch: None,
    };
    lowering.check_secrets();
    lowering.check_pnpm();
    lowering.check_user();
    lowering.check_credentials();
    let base_config = lowering.image_config("base.image", &input.spec.base);
    let runner_config = match input.spec.runner.image == input.spec.base {
        true => base_config.clone(),
        false => lowering.image_config("runner.image", &input.spec.runner.image),
    };
    let (Some(base_config), Some(runner_config)) = (base_config, runner_config) else {
        return Err(lowering.diagnostics);
    };
    let environment = environment::Environments::new(input, &base_config, &mut lowering.diagnostics);
    let base = lowering.base(&environment);
    let deps = lowering.deps(&environment, &base);
    let builder = lowering.builder(&environment, &base, &deps);
    let runner = lowering.runner(&builder);
    let dev = lowering.workspace_stage("dev", &base, &deps, &[]);

    let spec = input.spec;
    let mut targets = BTreeMap::new();
    let of_base = |stage: &Stage, name: &str| Target {
        vertex: stage.vertex,
        base_image: Some(ImageRef::new(&spec.base)),
        config: config::of_stage(spec, name, &base_config),
        comment: COMMENT,
        history: stage.history.clone(),
    };
    targets.insert("base".to_owned(), of_base(&base, "base"));
    targets.insert("deps".to_owned(), of_base(&deps.stage, "deps"));
    targets.insert("builder".to_owned(), of_base(&builder.stage, "builder"));
    if spec.dev.is_some() {
        let mut target = of_base(&dev, "dev");
        target.history.extend(config::dev_rows(spec));
        targets.insert("dev".to_owned(), target);
    }
    let mut history = runner.history.clone();
    history.extend(config::runner_rows(spec));
    targets.insert(
        "runner".to_owned(),
        Target {
            vertex: runner.vertex,
            base_image: Some(ImageRef::new(&spec.runner.image)),
            config: config::of_runner(spec, &runner_config),
            comment: COMMENT,
            history,
        },
    );

    let (errors, warnings): (Vec<_>, Vec<_>) =
        lowering.diagnostics.into_iter().partition(|diagnostic| diagnostic.severity == Severity::Error);
    if errors.is_empty() {
        targets.retain(|name, _| !lowering.prevented.contains_key(name));
        Ok(Definition {
            graph: lowering.graph,
            targets,
            prevented: lowering.prevented,
            default_target: DEFAULT_TARGET.to_owned(),
            warnings,
        })
    } else {
        Err(errors)
    }
}

/// A root file system with what stands on the base image so far.
#[derive(Clone, Debug)]
struct Stage {
    vertex: VertexId,
    history: Vec<HistoryRow>,
}

struct Lowering<'a> {
    input: Input<'a>,
    graph: Graph,
    diagnostics: Vec<Diagnostic>,
    /// Targets that this application cannot have, and why.
    prevented: BTreeMap<String, Vec<Diagnostic>>,
    scratch: Option<VertexId>,
}

impl<'a> Lowering<'a> {
    fn spec(&self) -> &'a Spec {
        self.input.spec
    }

    /// Takes a target away: the others can be built all the same.
    fn prevented(&mut self, target: &str, error: Diagnostic) {
        self.prevented.entry(target.to_owned()).or_default().push(error);
    }

    /// Adds a vertex. `step` names it within the application, the same in every build.
    fn add(&mut self, step: &str, name: impl Into<String>, op: Op, inputs: Vec<VertexId>) -> VertexId {
        self.push(step, name.into(), op, inputs, false)
    }

    /// Adds a vertex that nobody wants to look at.
    fn add_minor(&mut self, step: &str, name: impl Into<String>, op: Op, inputs: Vec<VertexId>) -> VertexId {
        self.push(step, name.into(), op, inputs, true)
    }

    fn push(&mut self, step: &str, name: String, op: Op, inputs: Vec<VertexId>, minor: bool) -> VertexId {
        let project = self.input.project;
        let identity = format!("{}/{}/{step}", project.root, project.app.name);
        self.graph.add(Vertex { op, inputs, name, identity, minor, origin: None })
    }

    fn scratch(&mut self) -> VertexId {
        if let Some(scratch) = self.scratch {
            return scratch;
        }
        let scratch = self.add_minor("scratch", "scratch", Op::Source(Source::Scratch), Vec::new());
        self.scratch = Some(scratch);
        scratch
    }

    fn check_secrets(&mut self) {
        let spec = self.spec();
        for (id, secret) in &spec.secrets {
            if secret.required && !self.input.secrets.contains(id) {
                self.diagnostics.push(
                    spec.error(
                        &format!("secrets.{id}@key"),
                        format!("the secret `{id}` is required and was not given"),
                        "required",
                    )
                    .hint(format!("give it with `--secret id={id},env=NAME` or `--secret id={id},src=FILE`")),
                );
            }
        }
    }

    /// An install that lacks a credential says so only after minutes, when the registry refuses.
    fn check_credentials(&mut self) {
        // Never the file itself: its lines are credentials.
        let file = SourceFile::new(".npmrc", "");
        let warning = |name: &String| {
            Diagnostic::warning(
                &file,
                format!("`${{{name}}}` stands in it, and no secret of that name was given"),
            )
            .hint(format!("--secret id={name},env={name}, or id={name},src=FILE"))
        };
        let warnings: Vec<Diagnostic> = self.missing_credentials().map(warning).collect();
        self.diagnostics.extend(warnings);
    }

    /// What runs as root in the image is what an image is usually made to avoid; a person may still want it.
    fn check_user(&mut self) {
        let spec = self.spec();
        let user = &spec.runner.user;
        for (place, id, what) in [
            ("runner.uid", user.uid, "the image runs as root"),
            ("runner.gid", user.gid, "the image runs in root's group"),
        ] {
            if id == 0 {
                self.diagnostics.push(
                    spec.warning(place, format!("{what}, and Kubernetes' `runAsNonRoot` refuses it"), "root")
                        .hint("use a number of your own, such as 1001"),
                );
            }
        }
    }

    /// A pnpm other than the pinned one downloads that one in every step, or refuses to work without a network.
    fn check_pnpm(&mut self) {
        let spec = self.spec();
        let Some(pinned) = &self.input.project.pnpm else { return };
        for (index, line) in spec.toolchain.iter().enumerate() {
            let mut versions = line.split_whitespace().filter_map(|word| word.strip_prefix("pnpm@"));
            // Only an exact version is surely another one.
            let other = versions.find(|version| version.split('.').count() == 3 && version != pinned);
            if let Some(other) = other {
                let message = format!(
                    "the toolchain has pnpm {other}, but `packageManager` in package.json pins {pinned}"
                );
                self.diagnostics.push(
                    spec.warning(&format!("toolchain.run.{index}"), message, "another version")
                        .hint(format!("write `pnpm@{pinned}` here, or change the pin")),
                );
            }
        }
    }

    fn image_config(&mut self, place: &str, reference: &str) -> Option<ImageConfig> {
        let spec = self.spec();
        let Some(config) = self.input.facts.images.get(reference) else {
            self.diagnostics.push(spec.error(
                place,
                format!("the image `{reference}` was not found"),
                "this image",
            ));
            return None;
        };
        if !config.platform().satisfies(self.input.platform) {
            let message = format!(
                "the image `{reference}` is for {}, not for {}",
                config.platform(),
                self.input.platform
            );
            self.diagnostics.push(spec.error(place, message, "this image"));
            return None;
        }
        if !config.config.on_build.is_empty() {
            let message =
                format!("the image `{reference}` has ONBUILD instructions, which wbuild does not run");
            self.diagnostics.push(spec.warning(place, message, "this image"));
        }
        Some(config.clone())
    }
}

/// Where a path of the workspace lies in a step.
fn in_root(path: &EntryPath) -> EntryPath {
    root().join_path(path)
}

fn root() -> EntryPath {
    entry(ROOT)
}

/// A path that is written in this crate.
fn entry(path: &str) -> EntryPath {
    EntryPath::parse(path).expect("a path without `..` and NUL")
}

/// A path as text, for names and messages.
fn shown(path: &EntryPath) -> String {
    String::from_utf8_lossy(path.as_bytes()).into_owned()
}

/// A path as the beginning of a glob: its characters mean themselves.
fn glob(path: &EntryPath) -> String {
    let mut out = String::new();
    for c in shown(path).chars() {
        if "*?[{\\".contains(c) {
            out.extend(['[', c, ']']);
        } else {
            out.push(c);
        }
    }
    out
}

const BY_ROOT: Owner = Owner { uid: 0, gid: 0 };
