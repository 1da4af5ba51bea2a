//! One module a command. A command gets its arguments and a [`Session`]; it returns what the exit code says.

mod attest;
pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod doctor;
pub(crate) mod image;
pub(crate) mod login;
mod outputs;
mod pinned;
mod request;
mod result;
pub(crate) mod run;
mod timestamp;
pub(crate) mod transfer;
pub(crate) mod workspace;

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use wbuild_context::IgnoreFileError;
use wbuild_engine::{LeftOut, OpenWorkspace, find_workspace};
use wbuild_report::{Diagnostic, Hint};
use wbuild_tree::EntryPath;

use crate::args::AppArgs;
use crate::exit;
use crate::progress::{Clock, LIMIT_VARIABLE, LogLimit, Progress, ProgressMode, Terminal};
use crate::render::{Theme, escape_bytes, render_diagnostics, render_error};

/// Why a command did not do what was asked: what is rendered, and the exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The arguments make no sense: 2.
    Usage { message: String, hints: Vec<String> },
    /// It cannot be done: 1.
    Failed { error: Box<dyn Error + Send + Sync>, hints: Vec<String> },
    /// Something is wrong in the person's files: 1.
    Diagnostics(Vec<Diagnostic>),
    /// Stopped by a signal: 130.
    Interrupted,
    /// Said already, to a program that reads progress: only the exit code is left.
    Said(u8),
}

impl Failure {
    /// An error of a crate below, with its hints.
    pub(crate) fn new<E: Error + Hint + Send + Sync + 'static>(error: E) -> Self {
        let hints = error.hints();
        Self::Failed { error: Box::new(error), hints }
    }

    /// 1 it failed, 2 wrong usage, 130 interrupted.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => exit::USAGE,
            Self::Failed { .. } | Self::Diagnostics(_) => exit::FAILED,
            Self::Interrupted => exit::INTERRUPTED,
            Self::Said(code) => *code,
        }
    }

    /// In one sentence.
    fn message(&self) -> String {
        match self {
            Self::Usage { message, .. } => message.clone(),
            Self::Failed { error, .. } => error.to_string(),
            Self::Diagnostics(found) => found.first().map(ToString::to_string).unwrap_or_default(),
            Self::Interrupted | Self::Said(_) => "interrupted".to_owned(),
        }
    }

    /// As a person reads it, with causes, places and hints.
    pub(crate) fn render(&self, theme: &Theme) -> String {
        match self {
            Self::Usage { message, hints } => render_error(&UsageError(message.clone()), hints, theme),
            Self::Failed { error, hints } => render_error(&**error, hints, theme),
            Self::Diagnostics(diagnostics) => render_diagnostics(diagnostics, theme),
            Self::Interrupted => "interrupted\n".to_owned(),
            Self::Said(_) => String::new(),
        }
    }

    /// Ends a view. One for programs says the failure itself; for people it is the last word below the view.
    pub(crate) fn shown_by(self, progress: Progress, mode: ProgressMode) -> Self {
        if mode != ProgressMode::Json || matches!(self, Self::Said(_)) {
            progress.finish();
            return self;
        }
        progress.error(self.message(), self.render(&Theme::plain()));
        progress.finish();
        Self::Said(self.exit_code())
    }

    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hints: vec![hint.into()] }
    }
}

impl From<wbuild_registry::RegistryError> for Failure {
    fn from(error: wbuild_registry::RegistryError) -> Self {
        if error.is_stopped() { Self::Interrupted } else { Self::new(error) }
    }
}

impl From<wbuild_engine::EngineError> for Failure {
    fn from(error: wbuild_engine::EngineError) -> Self {
        match error {
            wbuild_engine::EngineError::Diagnostics(diagnostics) => Self::Diagnostics(diagnostics),
            wbuild_engine::EngineError::IgnoreFile(IgnoreFileError::Invalid { diagnostics, .. }) => {
                Self::Diagnostics(diagnostics)
            }
            wbuild_engine::EngineError::Cancelled => Self::Interrupted,
            other => Self::new(other),
        }
    }
}

/// The arguments make no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// An output file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{}`", path.display())]
pub(crate) struct WriteError {
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: std::io::Error,
}

impl Hint for WriteError {}

/// What the process was given besides its arguments.
pub(crate) struct Session {
    /// Environment variables.
    pub(crate) variable: fn(&str) -> Option<String>,
    /// What ctrl-C cancels.
    pub(crate) cancellation: wbuild_solver::Cancellation,
    /// What else signals may do.
    pub(crate) interrupts: crate::interrupt::Interrupts,
}

impl Session {
    /// Begins the view of a build, on standard error.
    pub(crate) fn progress(&self, mode: ProgressMode) -> Result<Progress, Failure> {
        let limit = LogLimit::parse((self.variable)(LIMIT_VARIABLE).as_deref());
        Progress::limited(mode, std::io::stderr(), &Terminal::stderr(), Clock::start(), limit)
            .map_err(|source| Failure::new(WriteError { path: "standard error".into(), source }))
    }

    /// What commands open a session with that build nothing.
    pub(crate) fn plain_options(&self, home: Option<&PathBuf>) -> Result<wbuild_engine::Options, Failure> {
        Ok(wbuild_engine::Options {
            home: self.home(home)?,
            platform: wbuild_oci::Platform::host(),
            images: std::collections::BTreeMap::new(),
            secrets: wbuild_engine::Secrets::default(),
            agents: std::collections::BTreeMap::new(),
            isolation: wbuild_engine::IsolationMode::Auto,
        })
    }

    /// The state directory: as given, else `wbuild` in the XDG cache directory.
    pub(crate) fn home(&self, given: Option<&PathBuf>) -> Result<PathBuf, Failure> {
        // An empty variable is none, as with those of the XDG directories.
        let named = given.cloned().or_else(|| std::env::var_os("WBUILD_HOME").map(PathBuf::from));
        if let Some(home) = named.filter(|home| !home.as_os_str().is_empty()) {
            // The nearest that is there: whatever is missing below a folder is made.
            let there = home.ancestors().find_map(|path| Some((path, std::fs::metadata(path).ok()?)));
            if let Some((path, _)) = there.filter(|(_, found)| !found.is_dir()) {
                return Err(Failure::usage(
                    format!("`{}` is not a folder, so no state can be kept in it", path.display()),
                    "name another state directory with --home or WBUILD_HOME",
                ));
            }
            return Ok(home);
        }
        let absolute =
            |name: &str| (self.variable)(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(cache) = absolute("XDG_CACHE_HOME") {
            return Ok(cache.join("wbuild"));
        }
        match absolute("HOME") {
            Some(home) => Ok(home.join(".cache/wbuild")),
            None => {
                Err(Failure::usage("there is no HOME to keep state in", "name a state directory with --home"))
            }
        }
    }
}

/// The root of the workspace around the folder that was named, else around the current one.
pub(crate) fn root_of(args: &AppArgs) -> Result<PathBuf, Failure> {
    let start = args.directory.clone().unwrap_or_else(|| PathBuf::from("."));
    if let Some(named) = &args.directory
        && !named.is_dir()
    {
        let why = if named.exists() { "is no folder" } else { "does not exist" };
        return Err(Failure::usage(
            format!("`{}`, which --directory names, {why}", named.display()),
            "name a folder of a pnpm workspace",
        ));
    }
    Ok(find_workspace(&start)?)
}

/// A file that a flag names.
pub(crate) fn existing_file(path: &Path, flag: &str) -> Result<PathBuf, Failure> {
    if path.exists() {
        return Ok(path.to_owned());
    }
    Err(Failure::usage(
        format!("`{}`, which {flag} names, does not exist", path.display()),
        "paths are relative to the current folder",
    ))
}

/// The app that `--app` names, if it does.
pub(crate) fn known_app<'a>(
    workspace: &OpenWorkspace,
    named: Option<&'a str>,
) -> Result<Option<&'a str>, Failure> {
    if let Some(error) = named.and_then(|name| workspace.workspace.app(Some(name)).err()) {
        return Err(Failure::Usage { message: error.to_string(), hints: error.hints() });
    }
    Ok(named)
}

/// The first of the paths that were left out for one reason.
pub(crate) fn examples(out: &LeftOut) -> String {
    listed(out.examples.iter(), out.count)
}

/// Some of `count` paths.
fn listed<'a>(named: impl Iterator<Item = &'a EntryPath>, count: usize) -> String {
    let mut paths: Vec<String> = named.map(|path| format!("`{}`", escape_bytes(path.as_bytes()))).collect();
    if count > paths.len() {
        paths.push(format!("and {} more", count - paths.len()));
    }
    paths.join(", ")
}

/// Results go to standard output; a closed pipe is nobody's mistake.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(WriteError { path: "standard output".into(), source: error }))
        }
        _ => Ok(()),
    }
}

/// `--isolation`.
pub(crate) fn isolation(text: &str) -> Result<wbuild_engine::IsolationMode, Failure> {
    match text {
        "auto" => Ok(wbuild_engine::IsolationMode::Auto),
        "overlay" => Ok(wbuild_engine::IsolationMode::Overlay),
        "norun" => Ok(wbuild_engine::IsolationMode::NoRun),
        other => Err(Failure::usage(
            format!("`--isolation {other}` is not a way to isolate steps"),
            "there are auto, overlay and norun",
        )),
    }
}
