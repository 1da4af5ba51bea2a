use std::io;
use std::path::PathBuf;

use wbuild_image::ExportError;
use wbuild_report::Hint;

/// Why an image could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Nobody to load it into.
    #[error("there is no docker and no podman to load the image into")]
    NoEngine {
        /// A socket that is there, and that this user may not use.
        refused: Option<PathBuf>,
    },
    /// Only docker's own program gets there.
    #[error("there is no `docker` program, which {} needs", context.as_ref().map_or_else(|| "DOCKER_HOST".to_owned(), |name| format!("the context `{name}`")))]
    NoDockerProgram {
        /// A context of docker's; `DOCKER_HOST` otherwise.
        context: Option<String>,
    },
    /// No image store.
    #[error(
        "there is no image store on this machine: no containerd at `{address}`, and neither skopeo nor podman"
    )]
    NoStore {
        /// Where containerd was looked for.
        address: String,
    },
    /// containerd, but nothing to talk to it with.
    #[error("containerd is at `{address}`, but there is no `ctr` to give it the image")]
    NoCtr {
        /// Its socket.
        address: String,
    },
    /// The image has no name, and the store keeps none without.
    #[error("an image needs a name in {store}")]
    Nameless {
        /// Which store.
        store: &'static str,
    },
    /// It does not answer.
    #[error("cannot talk to the engine at `{address}`")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It answers with an error.
    #[error("the engine at `{address}` refuses to {what}: {}", said.escape_debug())]
    Refused {
        /// Where.
        address: String,
        /// What it was asked.
        what: String,
        /// Its words.
        said: String,
    },
    /// A program cannot be started.
    #[error("cannot run `{program}`")]
    Start {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed: {}", said.escape_debug())]
    Program {
        /// As it was called.
        command: String,
        /// The end of what it said.
        said: String,
    },
    /// The image cannot be read or written.
    #[error(transparent)]
    Export(#[from] ExportError),
}

impl Hint for LoadError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoEngine { refused: Some(socket) } => vec![format!(
                "docker's socket `{}` is not open to this user: membership in its group is",
                socket.display()
            )],
            Self::NoEngine { refused: None } => vec![
                "looked for: DOCKER_HOST, docker's contexts and socket, CONTAINER_HOST, podman; an archive for later: \
                 `-o type=docker,dest=FILE.tar`"
                    .to_owned(),
            ],
            Self::NoDockerProgram { .. } => vec!["install docker's command line".to_owned()],
            Self::NoStore { .. } => vec![
                "CONTAINERD_ADDRESS names another socket; skopeo or podman reach containers-storage".to_owned(),
            ],
            Self::NoCtr { .. } => vec!["`ctr` comes with containerd".to_owned()],
            Self::Nameless { .. } => vec!["--tag NAME".to_owned()],
            Self::Export(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}
