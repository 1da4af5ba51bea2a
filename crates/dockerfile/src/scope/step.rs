use wbuild_oci::Digest;

use super::mount::Mount;
use crate::ast::{Device, Healthcheck, Network, Script, Security};
use crate::values::{Chmod, Owner, Port, Remote};

/// An instruction with everything expanded and checked: what there is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// ADD
    Add(Box<TransferStep>),
    /// ARG: names with the values they have now, if any.
    Arg(Vec<(String, Option<String>)>),
    /// CMD
    Cmd(Command),
    /// COPY
    Copy(Box<TransferStep>),
    /// ENTRYPOINT
    Entrypoint(Command),
    /// ENV
    Env(Vec<(String, String)>),
    /// EXPOSE, in the order that history shows.
    Expose(Vec<Port>),
    /// HEALTHCHECK
    Healthcheck(Healthcheck),
    /// LABEL
    Label(Vec<(String, String)>),
    /// MAINTAINER
    Maintainer(String),
    /// ONBUILD: the trigger as the configuration keeps it.
    Onbuild(String),
    /// RUN
    Run(Box<RunStep>),
    /// SHELL
    Shell(Vec<String>),
    /// STOPSIGNAL
    StopSignal(String),
    /// USER
    User(String),
    /// VOLUME
    Volume(Vec<String>),
    /// WORKDIR: the new working directory, joined to the one before.
    Workdir(String),
}

/// A command line for an image's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// As it is.
    Exec(Vec<String>),
    /// The last argument for the stage's shell.
    Shell(String),
}

impl Command {
    /// Program and arguments, with `shell` in front of a text.
    pub fn argv(&self, shell: &[String]) -> Vec<String> {
        match self {
            Self::Exec(argv) => argv.clone(),
            Self::Shell(text) => with_shell(shell, text.clone()),
        }
    }
}

/// The words of a shell with a text as its last argument.
pub(crate) fn with_shell(shell: &[String], text: String) -> Vec<String> {
    shell.iter().cloned().chain([text]).collect()
}

/// RUN.
#[derive(Clone, Debug, PartialEq)]
pub struct RunStep {
    /// What to run.
    pub script: Script,
    /// What is mounted for it, in order.
    pub mounts: Vec<Mount>,
    /// Its network.
    pub network: Network,
    /// Its privileges.
    pub security: Security,
    /// Its devices.
    pub devices: Vec<Device>,
}

/// A source of COPY or ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferSource {
    /// A path, perhaps with wildcards, of the context or of `--from`.
    Path(String),
    /// Something to fetch; ADD only.
    Remote(Remote),
}

/// A file whose content stands in the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineFile {
    /// Its name, if the destination is a directory.
    pub name: String,
    /// Its content.
    pub content: String,
}

/// COPY or ADD.
#[derive(Clone, Debug, PartialEq)]
pub struct TransferStep {
    /// Sources with the text that history shows.
    pub sources: Vec<(String, TransferSource)>,
    /// Heredocs; copied after the sources.
    pub inline: Vec<InlineFile>,
    /// The destination as it was written, which history shows.
    pub destination: String,
    /// The destination from the root. A `/` or `/.` at its end, which makes it a directory, is kept.
    pub target: String,
    /// `--from` of COPY.
    pub from: Option<String>,
    /// `--chown`, with its text.
    pub chown: Option<(String, Owner)>,
    /// `--chmod`, with its text.
    pub chmod: Option<(String, Chmod)>,
    /// `--link`
    pub link: bool,
    /// `--parents` of COPY.
    pub parents: bool,
    /// `--exclude`
    pub excludes: Vec<String>,
    /// `--checksum` of ADD of a file by HTTP.
    pub checksum: Option<Digest>,
    /// `--checksum` of ADD of a repository: a commit, or the beginning of one.
    pub commit: Option<String>,
    /// `--unpack` of ADD. Unless it is given, local archives are unpacked and downloaded ones are not.
    pub unpack: Option<bool>,
    /// Whether a repository's `.git` is kept: `--keep-git-dir`, or the key of that name in its URL.
    pub keep_git_dir: bool,
}
