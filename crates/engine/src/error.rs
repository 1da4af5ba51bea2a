use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use wbuild_executor::{ExecError, NoIsolation, Status, WithinError};
use wbuild_graph::DeltaId;
use wbuild_oci::Digest;
use wbuild_report::{Diagnostic, Hint};
use wbuild_store::StoreError;
use wbuild_tree::{BuildError, EntryPath, TreeLoadError};

use crate::context_source::ContextPlaceError;
use crate::files::FileError;
use crate::native::NativeError;
use crate::outputs::OutputError;
use crate::remote::RemoteError;
use crate::trust::BundleError;
use crate::users::UserError;

/// A step ended with something else than success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFailure {
    /// The command as a person would write it.
    pub command: String,
    /// How it ended.
    pub status: Status,
    /// The last lines of its output.
    pub last_lines: Vec<String>,
    /// Where all of its output is.
    pub log: PathBuf,
    /// What the frontend and the engine know about likely causes.
    pub hints: Vec<String>,
}

impl fmt::Display for StepFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = beginning(&self.command);
        let more = if shown.len() < self.command.len() { "…" } else { "" };
        write!(f, "`{shown}{more}` did not complete successfully: {}", self.status)
    }
}

/// As much of a command as helps to know it again: a script can have a million lines.
fn beginning(command: &str) -> &str {
    const LONGEST: usize = 1000;
    &command[..command.floor_char_boundary(LONGEST)]
}

/// Why the engine could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A step failed.
    #[error("{0}")]
    Step(Box<StepFailure>),
    /// A step was stopped.
    #[error("stopped")]
    Cancelled,
    /// The sandbox could not be set up.
    #[error("the step could not be run")]
    Exec(#[source] ExecError),
    /// This machine can run no steps.
    #[error("this machine cannot run the step")]
    NoIsolation(#[source] Box<NoIsolation>),
    /// A helper failed.
    #[error("cannot {doing}")]
    Helper {
        /// What it was to do.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: WithinError,
    },
    /// The machine could not be probed.
    #[error("cannot find out what this machine allows")]
    Probe(#[source] wbuild_executor::ProbeError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tree.
    #[error(transparent)]
    Tree(#[from] TreeLoadError),
    /// Snapshots.
    #[error(transparent)]
    Snapshot(#[from] wbuild_snapshot::SnapshotError),
    /// A context.
    #[error(transparent)]
    Context(#[from] wbuild_context::ContextError),
    /// A base image.
    #[error("cannot use the image")]
    Layout(#[from] wbuild_image::LayoutError),
    /// An image could not be put together.
    #[error("cannot put the image together")]
    Assemble(#[from] wbuild_image::AssembleError),
    /// An image could not be written.
    #[error("cannot write the image")]
    Export(#[from] wbuild_image::ExportError),
    /// A layer could not be written.
    #[error("cannot write the layer of {name}")]
    WriteLayer {
        /// Whose.
        name: String,
        /// Why.
        #[source]
        source: wbuild_layer::WriteError,
    },
    /// A layer of a base image cannot be unpacked.
    #[error("cannot unpack `{}`, a layer of the base image", blob.display())]
    BaseLayer {
        /// Its blob, in the layout.
        blob: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A layer of a base image cannot be copied.
    #[error("cannot read `{}`, a layer of the base image", blob.display())]
    BaseBlob {
        /// Its blob, in the layout.
        blob: PathBuf,
        /// Why.
        #[source]
        source: Box<wbuild_image::ExportError>,
    },
    /// There is no space left where results go.
    #[error("there is no space left for the state directory `{}`", home.display())]
    Full {
        /// The state directory.
        home: PathBuf,
        /// What could not be written.
        #[source]
        source: Box<EngineError>,
    },
    /// The files of a delta are gone: they are made again.
    #[error("the files of {} are no longer in the store", delta.name())]
    Lost {
        /// Whose.
        delta: DeltaId,
    },
    /// A file operation.
    #[error(transparent)]
    File(#[from] Box<FileError<Self>>),
    /// A helper was not understood.
    #[error("a message between processes of wbuild is malformed")]
    Message(#[source] serde_json::Error),
    /// A native operation.
    #[error(transparent)]
    Native(#[from] NativeError),
    /// The user of a step.
    #[error(transparent)]
    User(#[from] UserError),
    /// The CA bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// An image registry.
    #[error(transparent)]
    Registry(Box<wbuild_registry::RegistryError>),
    /// The rules for registries.
    #[error(transparent)]
    Rules(#[from] wbuild_registry::RulesError),
    /// An image that runs nothing.
    #[error("the image `{reference}` has neither ENTRYPOINT nor CMD")]
    NoCommand {
        /// Which.
        reference: String,
    },
    /// An image that cannot be asked.
    #[error("the image has no HEALTHCHECK")]
    NoProbe,
    /// The ignore file.
    #[error(transparent)]
    IgnoreFile(#[from] wbuild_context::IgnoreFileError),
    /// A file of the workspace cannot be read.
    #[error("cannot read the workspace")]
    Workspace(#[source] Box<wbuild_workspace::WorkspaceError>),
    /// There is no workspace here.
    #[error("there is no pnpm-workspace.yaml in `{}` or in any folder above it", start.display())]
    NoWorkspace {
        /// Where the search began.
        start: PathBuf,
        /// The nearest lockfile of any package manager.
        lockfile: Option<PathBuf>,
    },
    /// A context that nobody gave.
    #[error("there is no context named `{name}`")]
    UnknownContext {
        /// Its name.
        name: String,
    },
    /// A base image that is not on this machine, and no registry may be asked.
    #[error("the base image `{reference}` is not at hand")]
    NoBaseImage {
        /// As written.
        reference: String,
        /// For which platform, if not this machine's.
        platform: Option<String>,
        /// What was given instead.
        given: Vec<String>,
        /// Whether a registry could have been asked.
        offline: bool,
    },
    /// A layer of a base image that nobody may fetch.
    #[error("layers of the base image `{image}` are not at hand: {digest}{}", more(*count))]
    LayerOffline {
        /// The image, as written.
        image: String,
        /// The first that is missing.
        digest: Digest,
        /// How many are.
        count: usize,
    },
    /// A document of an image is not on this machine, and no registry may be asked.
    #[error("the documents of an image are not at hand")]
    NotInStore,
    /// A name that no image has.
    #[error("`{}` cannot be the name of an image", name.escape_debug())]
    ImageName {
        /// As written.
        name: String,
        /// Why.
        #[source]
        source: wbuild_oci::ReferenceParseError,
    },
    /// A base image cannot be had from its registry.
    #[error("cannot get the base image `{reference}`")]
    BaseImage {
        /// As written.
        reference: String,
        /// Why.
        #[source]
        source: Box<wbuild_registry::RegistryError>,
    },
    /// What a name is pinned to is gone.
    #[error("`{}` pins `{reference}` to {digest}, which its registry does not have any more", file.display())]
    PinLost {
        /// The name, as written.
        reference: String,
        /// What it is pinned to.
        digest: Digest,
        /// The lock file.
        file: PathBuf,
        /// What the registry says.
        #[source]
        source: Box<wbuild_registry::RegistryError>,
    },
    /// A layer of a base image from a registry cannot be unpacked.
    #[error("cannot unpack the layer {digest} of the base image `{reference}`")]
    PulledLayer {
        /// The image, as written.
        reference: String,
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A required secret was not given.
    #[error("the step needs the secret `{id}`, which was not given")]
    NoSecret {
        /// Which.
        id: String,
    },
    /// The person asked that nothing is run.
    #[error("the step has to be run, and `--isolation norun` runs nothing")]
    NoRun,
    /// A required SSH agent was not given.
    #[error("the step needs the SSH agent `{id}`, which was not given")]
    NoAgent {
        /// Which.
        id: String,
    },
    /// What a cache mount is to begin with is not there.
    #[error("`{path}`, which the cache mount is to begin with, is no directory of its source")]
    NoSeed {
        /// The path.
        path: EntryPath,
    },
    /// A limit that the executor does not know.
    #[error("`{name}` is no resource that can be limited")]
    UnknownLimit {
        /// As written.
        name: String,
    },
    /// A file or a repository on the network.
    #[error(transparent)]
    Remote(Box<RemoteError>),
    /// What was given as a context.
    #[error(transparent)]
    ContextPlace(#[from] ContextPlaceError),
    /// Files cannot be written to where they were asked for.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Two tasks wrote one path.
    #[error("`{path}` is written by {first} and by {second}, with different bytes")]
    OutputConflict {
        /// Where.
        path: EntryPath,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// Something in the user's files.
    #[error("{}", first_of(.0))]
    Diagnostics(Vec<Diagnostic>),
    /// The operating system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<FileError<Self>> for EngineError {
    fn from(error: FileError<Self>) -> Self {
        match error {
            FileError::Resolve(wbuild_tree::ResolveError::Lookup(error)) => error,
            other => Self::File(Box::new(other)),
        }
    }
}

fn first_of(diagnostics: &[Diagnostic]) -> String {
    diagnostics.first().map_or_else(|| "the input is wrong".to_owned(), ToString::to_string)
}

impl EngineError {
    /// Whether the store no longer has what a record said it has: making it again helps, trying again does not.
    pub fn is_lost(&self) -> bool {
        is_lost(self)
    }

    /// The same, with the name of the state directory if its disk is full.
    pub(crate) fn on_disk_of(self, home: &Path) -> Self {
        // What a helper says comes as text.
        let told = matches!(&self, Self::Helper { source, .. } if full_in_words(source));
        if matches!(self, Self::Full { .. }) || !(told || is_full(&self)) {
            return self;
        }
        Self::Full { home: home.to_owned(), source: Box::new(self) }
    }
}

/// Whether a full disk is at the bottom of an error.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let kind =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let system = error.downcast_ref::<io::Error>();
    matches!(error.downcast_ref(), Some(&(Errno::NOSPC | Errno::DQUOT)))
        || system.is_some_and(kind)
        || system.and_then(io::Error::get_ref).is_some_and(|inner| is_full(inner))
        || error.source().is_some_and(is_full)
}

fn full_in_words(error: &WithinError) -> bool {
    let full = io::Error::from_raw_os_error(Errno::NOSPC.raw_os_error()).to_string();
    error.to_string().contains(&full)
}

/// Whether anything in an error's chain says that something in the store is gone or damaged. Errors that pass their
/// cause's message on as their own hide it from `source`, so these are looked into.
fn is_lost(error: &(dyn std::error::Error + 'static)) -> bool {
    let inside = match error.downcast_ref::<EngineError>() {
        Some(EngineError::Lost { .. }) => return true,
        Some(EngineError::Store(error)) => return error.is_lost(),
        Some(EngineError::Snapshot(error)) => {
            return error.is_lost() || std::error::Error::source(error).is_some_and(is_lost);
        }
        Some(EngineError::Tree(error)) => Some(error as &(dyn std::error::Error + 'static)),
        Some(EngineError::Native(NativeError::Load(error) | NativeError::Build(BuildError::Load(error)))) => {
            Some(error as _)
        }
        Some(EngineError::File(error)) => match &**error {
            FileError::Load(error) | FileError::Build(BuildError::Load(error)) => Some(error as _),
            FileError::Resolve(wbuild_tree::ResolveError::Lookup(error)) => Some(error as _),
            _ => None,
        },
        _ => None,
    };
    if let Some(inside) = inside {
        return is_lost(inside);
    }
    let tree = error.downcast_ref::<TreeLoadError>();
    let layer = error.downcast_ref::<wbuild_layer::WriteError>();
    matches!(tree, Some(TreeLoadError::Missing { .. } | TreeLoadError::Damaged { .. }))
        || matches!(layer, Some(wbuild_layer::WriteError::Damaged { .. }))
        || error.downcast_ref::<StoreError>().is_some_and(StoreError::is_lost)
        // What an error of reading carries.
        || error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).is_some_and(|inner| is_lost(inner))
        || error.source().is_some_and(is_lost)
}

/// How many there are besides the one that is named.
fn more(count: usize) -> String {
    if count > 1 { format!(" and {} more", count - 1) } else { String::new() }
}

/// What to do about a base image that is damaged.
pub(crate) const BASE_AGAIN: &str = "make the layout of the base image anew (scripts/base-image does), or name another one with --build-context";

/// Whether permissions are at the bottom of an error.
fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::PermissionDenied) || error.source().is_some_and(is_denied)
}

impl Hint for EngineError {
    fn hints(&self) -> Vec<String> {
        match self {
            error if error.is_lost() => vec![
                "`wbuild cache verify` finds all that is damaged in the state directory and drops it; the next build makes it again"
                    .to_owned(),
            ],
            Self::Full { .. } => vec![
                "free space on that disk; `wbuild cache prune` removes what has not been used for longest".to_owned(),
                "`WBUILD_HOME` names another state directory".to_owned(),
            ],
            Self::BaseBlob { .. } => vec![BASE_AGAIN.to_owned()],
            Self::BaseLayer { source, .. } => {
                let unpacking = source.downcast_ref::<wbuild_snapshot::SnapshotError>();
                let mut hints = unpacking.map(Hint::hints).unwrap_or_default();
                hints.push(BASE_AGAIN.to_owned());
                hints
            }
            Self::Step(failure) => failure.hints.clone(),
            Self::Exec(error) => error.hints(),
            Self::NoIsolation(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::Context(error) => error.hints(),
            Self::File(error) => error.hints(),
            Self::Layout(error) => {
                let hints = error.hints();
                if hints.is_empty() { vec![BASE_AGAIN.to_owned()] } else { hints }
            }
            Self::Assemble(error) => error.hints(),
            Self::Export(error) => error.hints(),
            Self::Snapshot(error) => error.hints(),
            Self::User(error) => error.hints(),
            Self::WriteLayer { source, .. } => source.hints(),
            Self::Remote(error) => error.hints(),
            Self::Registry(error) => error.hints(),
            Self::Rules(error) => error.hints(),
            Self::ContextPlace(error) => error.hints(),
            Self::Output(error) => error.hints(),
            Self::Diagnostics(diagnostics) => diagnostics.iter().flat_map(Hint::hints).collect(),
            Self::LayerOffline { image, .. } => {
                vec![format!(
                    "`wbuild pull {image}` brings all of it here; a build without --offline (WBUILD_OFFLINE) does, too"
                )]
            }
            Self::BaseImage { reference, source } => {
                let mut hints = source.hints();
                hints.push(format!(
                    "a copy of it can be used instead: --build-context {reference}=oci-layout://DIR or docker-image://NAME"
                ));
                hints
            }
            Self::PinLost { .. } => {
                vec!["`--pull --pin` pins what the name stands for now, and builds with that".to_owned()]
            }
            Self::PulledLayer { source, .. } => {
                let unpacking = source.downcast_ref::<wbuild_snapshot::SnapshotError>();
                unpacking.map(Hint::hints).unwrap_or_default()
            }
            Self::NoBaseImage { reference, platform, given, offline } => {
                let mut hints = Vec::new();
                if *offline {
                    let platform = platform.as_ref().map(|platform| format!("--platform {platform} "));
                    hints.push(format!(
                        "it was never pulled: `wbuild pull {}{reference}` does that, and so does a build without --offline \
                         (WBUILD_OFFLINE)",
                        platform.unwrap_or_default()
                    ));
                }
                hints.push(format!(
                    "name a copy of it: --build-context {reference}=oci-layout://DIR (scripts/base-image makes one)"
                ));
                hints.extend(
                    wbuild_report::nearest(reference, given.iter().map(String::as_str))
                        .into_iter()
                        .map(|name| format!("--build-context was given for `{name}`")),
                );
                hints
            }
            Self::OutputConflict { .. } => vec![
                "let only one of them write it, or give them different `outputs` in turbo.json".to_owned(),
            ],
            Self::NoCommand { .. } => vec!["give a command behind `--`".to_owned()],
            Self::NoProbe => {
                vec!["give the runner a healthcheck in the spec, or leave --until-healthy out".to_owned()]
            }
            Self::IgnoreFile(error) => error.hints(),
            Self::Workspace(error) if is_denied(&**error) => {
                vec!["make it readable for the user who builds".to_owned()]
            }
            Self::Workspace(error) => error.hints(),
            Self::NoWorkspace { lockfile, .. } => no_workspace(lockfile.as_deref()),
            Self::NoSecret { id } => {
                vec![format!("give it with --secret id={id},src=FILE or --secret id={id},env=NAME")]
            }
            Self::NoRun => vec![
                "leave --isolation out; `wbuild doctor` says what this machine allows and what is missing"
                    .to_owned(),
            ],
            Self::NoAgent { id } => vec![format!("give it with --ssh {id} or --ssh {id}=SOCKET")],
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                vec!["make room, or point WBUILD_HOME to a larger disk".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

fn no_workspace(lockfile: Option<&Path>) -> Vec<String> {
    let usual = "run wbuild inside a pnpm workspace, or name it with --directory".to_owned();
    let Some(lockfile) = lockfile else { return vec![usual] };
    let folder = lockfile.parent().unwrap_or(lockfile).display();
    let name = lockfile.file_name().unwrap_or_default().to_string_lossy();
    match name.as_ref() {
        "pnpm-lock.yaml" => vec![format!(
            "`{folder}` has a pnpm-lock.yaml: a pnpm-workspace.yaml beside it with `packages: ['.']` makes a workspace of its only package"
        )],
        _ => vec![
            usual,
            format!(
                "`{folder}` has a {name}; `wbuild build` takes any Dockerfile, whichever package manager it runs"
            ),
        ],
    }
}
