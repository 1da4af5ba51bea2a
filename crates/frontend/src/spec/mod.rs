//! The buildspec: what a person writes into `wbuild.toml`, and what is inferred where there is none.

mod check;
mod facts;
mod infer;
mod print;
mod read;
mod schema;
mod shape;
mod value;

use std::collections::BTreeMap;
use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile, Span};

pub use infer::{InferFacts, NodeVersion, infer};

/// The name under which a spec is looked for, in the application's folder and then at the workspace root.
pub const SPEC_FILE: &str = "wbuild.toml";

/// What is to be built.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The application: a package's name or folder.
    pub app: String,
    /// The image that everything is installed and built in.
    pub base: String,
    /// Shell lines that put the tools onto the base image.
    pub toolchain: Vec<String>,
    /// How dependencies are installed.
    pub install: InstallSpec,
    /// How the application is built.
    pub build: BuildSpec,
    /// The environment of every task.
    pub env: BTreeMap<String, String>,
    /// Build arguments with their defaults.
    pub args: BTreeMap<String, String>,
    /// Secrets of the application's own task, by id.
    pub secrets: BTreeMap<String, SecretSpec>,
    /// The image that is shipped.
    pub runner: RunnerSpec,
    /// The image to develop in.
    pub dev: Option<DevSpec>,
    /// Which sources of noise are taken out.
    pub normalise: Normalise,
    /// Where all this was written.
    pub origin: Origin,
}

/// How dependencies are installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSpec {
    /// Whether the install reaches the network.
    pub network: bool,
}

/// How the application is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildSpec {
    /// The task of turbo's task graph.
    pub task: String,
    /// Whether tasks reach the network.
    pub network: bool,
    /// Names, with `*`, of variables that come from the host when they are set there and a task declares them.
    pub from_host: Vec<String>,
}

/// A secret of the application's task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSpec {
    /// How the task gets it.
    pub target: SecretTarget,
    /// Enters the key in the secret's place: changed by the person when a new value shall count.
    pub version: String,
    /// Whether the build stops without it.
    pub required: bool,
}

/// How a task gets a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretTarget {
    /// As this variable.
    Env(String),
    /// As this file: a path relative to the workspace root.
    File(String),
}

/// The image that is shipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerSpec {
    /// What it stands on.
    pub image: String,
    /// Who it runs as.
    pub user: User,
    /// Where it starts, an absolute path.
    pub workdir: String,
    /// Its environment, over the base image's.
    pub env: BTreeMap<String, String>,
    /// `3000/tcp`
    pub expose: Vec<String>,
    /// Its probe.
    pub healthcheck: Option<Probe>,
    /// Replaces the base image's.
    pub entrypoint: Option<Vec<String>>,
    /// What it runs.
    pub cmd: Vec<String>,
    /// Its labels, over the base image's.
    pub labels: BTreeMap<String, String>,
    /// What gets a layer of its own; the rest is the application's.
    pub layers: Vec<Layer>,
}

/// A user with its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its group's name.
    pub group: String,
    /// Its group's number.
    pub gid: u32,
}

/// What gets a layer of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Symbolic links, which tie the modules together.
    Links,
    /// Modules of others.
    Modules,
    /// Packages of the workspace.
    Packages,
}

/// A probe. Durations are nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The command.
    pub cmd: Vec<String>,
    /// Between two probes.
    pub interval: Option<u64>,
    /// Of one probe.
    pub timeout: Option<u64>,
    /// After the start, while failures do not count.
    pub start_period: Option<u64>,
    /// Between two probes during the start period.
    pub start_interval: Option<u64>,
    /// Failures in a row until unhealthy.
    pub retries: Option<u64>,
}

/// The image to develop in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevSpec {
    /// What it runs.
    pub cmd: Vec<String>,
    /// Its environment, over the base image's.
    pub env: BTreeMap<String, String>,
    /// `3000/tcp`
    pub expose: Vec<String>,
}

/// Which known sources of noise are taken out, so that the same inputs give the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Normalise {
    /// The times in pnpm's two state files.
    pub pnpm_state: bool,
    /// Next's build id: comes from the input digest as `WBUILD_BUILD_ID`.
    pub next_build_id: bool,
    /// Next's `trace` and `trace-build`, which hold times: not among the outputs.
    pub next_trace: bool,
}

/// Where the parts of a [`Spec`] were written.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The file, or what was inferred, as text.
    pub file: Arc<SourceFile>,
    /// Whether there is no such file.
    pub inferred: bool,
    places: BTreeMap<String, Span>,
    notes: BTreeMap<String, String>,
}

impl Spec {
    /// Reads a spec.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the file.
    pub fn parse(file: &Arc<SourceFile>) -> Result<Self, Vec<Diagnostic>> {
        let (tree, places) = read::read(file)?;
        let spec = value::spec(
            &tree,
            Origin { file: Arc::clone(file), inferred: false, places, notes: BTreeMap::new() },
        );
        check::check(&spec)?;
        Ok(spec)
    }

    /// Writes it with all defaults, so that [`parse`](Self::parse) reads the same, and with what was noted while it
    /// was inferred.
    pub fn print(&self) -> String {
        print::print(self)
    }

    /// The JSON schema of the file: the contents of `buildspec/web.schema.json`.
    pub fn schema() -> String {
        schema::schema()
    }

    /// An error about the part at `path`, such as `runner.image`.
    pub(crate) fn error(
        &self,
        path: &str,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Diagnostic {
        self.place(Diagnostic::error(&self.origin.file, message), path, label)
    }

    /// A warning about the part at `path`.
    pub(crate) fn warning(
        &self,
        path: &str,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Diagnostic {
        self.place(Diagnostic::warning(&self.origin.file, message), path, label)
    }

    fn place(&self, diagnostic: Diagnostic, path: &str, label: impl Into<String>) -> Diagnostic {
        match self.origin.places.get(path) {
            Some(span) => diagnostic.at(*span, label),
            None => diagnostic,
        }
    }
}
