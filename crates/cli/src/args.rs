//! The command line as typed. Where docker buildx has a flag for it, it is the same flag with the same meaning.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::progress::ProgressMode;

/// `wbuild`, as typed.
#[derive(Debug, Parser)]
#[command(
    name = "wbuild",
    about = "Builds OCI images from pnpm workspaces and Dockerfiles, without a daemon and without root",
    version = crate::version::SHORT,
    long_version = crate::version::LONG,
    propagate_version = true,
    max_term_width = 110
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build the image of an app of the pnpm workspace around the current folder
    Image(Box<ImageArgs>),
    /// Build the image of a Dockerfile, as `docker buildx build` does
    Build(Box<BuildArgs>),
    /// Check a Dockerfile without building it
    Check(Box<CheckArgs>),
    /// Start an image in the sandbox, or find out whether it gets healthy
    Run(RunArgs),
    /// Fetch an image from a registry: into the state directory, or as an OCI layout
    Pull(PullArgs),
    /// Send an image to registries
    Push(PushArgs),
    /// Copy an image from one place to another
    Copy(CopyArgs),
    /// Check credentials for a registry, and keep them where docker does
    Login(LoginArgs),
    /// Forget the credentials for a registry
    Logout(LogoutArgs),
    /// Show which packages an app is made of, and why
    Workspace(WorkspaceArgs),
    /// Say what this machine allows, and what to change where it allows too little
    Doctor(DoctorArgs),
    /// Look after the state directory
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Print a script that completes wbuild's arguments in a shell
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Where state is kept.
#[derive(Debug, Args)]
pub(crate) struct HomeArgs {
    /// The state directory: cache, records, logs [env: WBUILD_HOME] [default: wbuild in the XDG cache directory]
    // Not clap's `env`: a variable that is set would make the usage line show the flag as if it had to be given.
    #[arg(long = "home", value_name = "DIR", global = true)]
    pub(crate) home: Option<PathBuf>,
}

/// How progress is shown.
#[derive(Debug, Args)]
pub(crate) struct ProgressArgs {
    /// auto, tty, plain, json or quiet
    #[arg(long, env = "WBUILD_PROGRESS", value_name = "MODE", default_value = "auto")]
    progress: ProgressMode,

    /// Show nothing, and print the image id (the digest of its configuration)
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

impl ProgressArgs {
    /// What was asked for.
    pub(crate) fn mode(&self) -> ProgressMode {
        if self.quiet { ProgressMode::Quiet } else { self.progress }
    }
}

/// How base images are had that no `--build-context` names.
#[derive(Debug, Args)]
pub(crate) struct PullingArgs {
    /// Ask registries what the tags of base images are now, whatever wbuild.lock says, and do not make do with what they were
    #[arg(long)]
    pub(crate) pull: bool,

    /// Write to wbuild.lock what the tags of base images stand for, and builds use that from then on; with --pull for those
    /// that are in it, too
    #[arg(long)]
    pub(crate) pin: bool,

    /// Ask no registry: only base images that are on this machine are used
    #[arg(long, env = "WBUILD_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) offline: bool,
}

/// What to write, and what to say about it.
#[derive(Debug, Default, Args)]
pub(crate) struct OutputArgs {
    /// Name of the image (may be repeated)
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub(crate) tags: Vec<String>,

    /// What to write: type=(oci|docker|local|tar|registry|image|cacheonly)[,dest=PATH][,KEY=VALUE]… (may be repeated). A bare
    /// path is a folder for files (wbuild build), or an OCI folder or FILE.tar (wbuild image)
    #[arg(short, long = "output", value_name = "SPEC")]
    pub(crate) outputs: Vec<String>,

    /// Load the image into docker or podman: type=docker
    #[arg(long)]
    pub(crate) load: bool,

    /// Push the image to its registry: type=registry
    #[arg(long)]
    pub(crate) push: bool,

    /// Note something on the image; LEVEL is manifest (if none is given) or manifest-descriptor
    #[arg(long = "annotation", value_name = "[LEVEL:]KEY=VALUE")]
    pub(crate) annotations: Vec<String>,

    /// Write the image id (the digest of its configuration) to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,

    /// Write digests and names as JSON to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
}

/// Which remote caches are read and filled.
#[derive(Debug, Args)]
pub(crate) struct SharingArgs {
    /// Reuse what a cache has (may be repeated): type=local,src=FOLDER, type=http,url=URL, type=registry,ref=NAME (or just
    /// NAME), type=s3|gcs|azblob,bucket=…, type=turbo, type=gha (cache/remote.md)
    #[arg(long = "cache-from", value_name = "SPEC")]
    pub(crate) cache_from: Vec<String>,

    /// Fill a cache (may be repeated): as --cache-from, type=local,dest=FOLDER; with [,mode=min|max][,scope=NAME]
    #[arg(long = "cache-to", value_name = "SPEC")]
    pub(crate) cache_to: Vec<String>,
}

/// Which workspace and which app of it.
#[derive(Debug, Args)]
pub(crate) struct AppArgs {
    /// The app's package name or folder [default: what the spec says, or the only Next.js app]
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) app: Option<String>,

    /// The spec [default: wbuild.toml of the app or of the workspace root; inferred where there is none]
    #[arg(short, long, value_name = "FILE", global = true)]
    pub(crate) file: Option<PathBuf>,

    /// Start looking for the workspace in this folder instead of the current one
    #[arg(short = 'C', long = "directory", value_name = "DIR", global = true)]
    pub(crate) directory: Option<PathBuf>,
}

/// What is said about the result.
#[derive(Debug, Args)]
pub(crate) struct AttestArgs {
    /// Say which packages are in the image: true, false, or format=(spdx|cyclonedx)[,dest=FILE]
    #[arg(long, value_name = "SPEC", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) sbom: Vec<String>,

    /// Say how the image came to be (SLSA v1): true, false, or mode=(min|max)[,version=v1][,builder-id=URI][,dest=FILE]
    #[arg(long, value_name = "SPEC", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) provenance: Vec<String>,

    /// The same in one flag: type=sbom or type=provenance, then as there
    #[arg(long, value_name = "type=TYPE,…")]
    pub(crate) attest: Vec<String>,

    /// Put both into an image index, as docker buildx does, instead of artifacts that refer to the image
    #[arg(long)]
    pub(crate) attest_index: bool,
}

/// `wbuild image`.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(flatten)]
    pub(crate) app: AppArgs,

    /// The stage to build: base, deps, builder, runner, dev
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,

    #[command(flatten)]
    pub(crate) pulling: PullingArgs,

    /// Set a build argument; without a value it comes from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub(crate) build_args: Vec<String>,

    /// A base image instead of a registry's: NAME=(oci-layout://DIR[:TAG|@DIGEST] | docker-image://REF)
    #[arg(long = "build-context", value_name = "NAME=PLACE")]
    pub(crate) build_contexts: Vec<String>,

    /// A secret for the steps that ask for it: id=ID[,src=FILE|,env=NAME]
    #[arg(long = "secret", value_name = "SPEC")]
    pub(crate) secrets: Vec<String>,

    /// Add a label to the image
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,

    /// For which platform
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,

    #[command(flatten)]
    pub(crate) sharing: SharingArgs,

    /// Reuse nothing
    #[arg(long)]
    pub(crate) no_cache: bool,

    /// Times of everything that is written: epoch (or SOURCE_DATE_EPOCH), or seconds since 1970
    #[arg(long, value_name = "epoch|SECONDS", default_value = "epoch")]
    pub(crate) timestamp: String,

    /// How steps are isolated: auto, overlay, or norun for builds that run nothing
    #[arg(long, env = "WBUILD_ISOLATION", value_name = "MODE", default_value = "auto")]
    pub(crate) isolation: String,

    /// How many steps run at once [default: the number of processors]
    #[arg(short, long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,

    /// Print the spec that is used, and build nothing
    #[arg(long)]
    pub(crate) print_spec: bool,

    #[command(flatten)]
    pub(crate) attest: AttestArgs,

    #[command(flatten)]
    pub(crate) progress: ProgressArgs,

    #[command(flatten)]
    pub(crate) home: HomeArgs,
}

/// Which Dockerfile, and what it is read with.
#[derive(Debug, Args)]
pub(crate) struct DockerfileArgs {
    /// The Dockerfile; - is standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<String>,

    /// The stage to build [default: the last one]
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,

    /// Set a build argument; without a value it comes from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub(crate) build_args: Vec<String>,

    /// A further context: NAME=(PATH | docker-image://REF | oci-layout://DIR[:TAG|@DIGEST] | https://… | git)
    #[arg(long = "build-context", value_name = "NAME=PLACE")]
    pub(crate) build_contexts: Vec<String>,

    /// For which platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,

    /// The build context: a folder, - for a tar archive on standard input, the URL of an archive, a git repository
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub(crate) context: String,
}

/// What `--call` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// What.
    pub(crate) what: Called,
    /// As JSON.
    pub(crate) json: bool,
}

/// The names are those of buildx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    Build,
    Check,
    Outline,
    Targets,
}

impl std::str::FromStr for Call {
    type Err = String;

    /// `name[,format=text|json]`, as buildx reads it.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let what = match parts.next().unwrap_or_default() {
            "build" => Called::Build,
            "check" | "lint" => Called::Check,
            "outline" => Called::Outline,
            "targets" => Called::Targets,
            other => return Err(format!("`{other}` is none of build, check, outline, targets")),
        };
        let mut json = false;
        for part in parts {
            match part {
                "format=json" => json = true,
                "format=text" => json = false,
                other => return Err(format!("`{other}` is neither format=text nor format=json")),
            }
        }
        Ok(Self { what, json })
    }
}

/// `wbuild check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) dockerfile: DockerfileArgs,

    #[command(flatten)]
    pub(crate) home: HomeArgs,
}

/// `wbuild build`.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub(crate) dockerfile: DockerfileArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,

    #[command(flatten)]
    pub(crate) pulling: PullingArgs,

    /// A secret for the steps that ask for it: id=ID[,src=FILE|,env=NAME]
    #[arg(long = "secret", value_name = "SPEC")]
    pub(crate) secrets: Vec<String>,

    /// An SSH agent for the steps that ask for it: default or ID=SOCKET
    #[arg(long = "ssh", value_name = "default|ID[=SOCKET]")]
    pub(crate) ssh: Vec<String>,

    /// Add a label to the image
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,

    /// The network of steps: default, host or none
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub(crate) network: String,

    /// Allow what steps may not do otherwise: network.host, security.insecure
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    pub(crate) allow: Vec<String>,

    /// Add a line to /etc/hosts of steps
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    pub(crate) add_hosts: Vec<String>,

    /// Size of /dev/shm of steps
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<String>,

    /// A resource limit of steps
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimits: Vec<String>,

    #[command(flatten)]
    pub(crate) sharing: SharingArgs,

    /// Let `turbo` in steps find its remote cache: artifacts in the state directory, under a name for each project
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "wbuild")]
    pub(crate) turbo_cache: Option<String>,

    /// Reuse nothing
    #[arg(long)]
    pub(crate) no_cache: bool,

    /// Reuse no step of these stages
    #[arg(long, value_name = "STAGE")]
    pub(crate) no_cache_filter: Vec<String>,

    /// Check the Dockerfile and build nothing: `--call check`
    #[arg(long, conflicts_with = "call")]
    pub(crate) check: bool,

    /// Build, or only say something about the Dockerfile: its mistakes, what the target can be given, which targets
    /// there are; `,format=json` for programs
    #[arg(
        long,
        value_name = "build|check|outline|targets",
        default_value = "build",
        hide_default_value = true
    )]
    pub(crate) call: Call,

    /// Times of everything that is written: epoch (or SOURCE_DATE_EPOCH), keep, or seconds since 1970
    #[arg(long, value_name = "epoch|keep|SECONDS", default_value = "epoch")]
    pub(crate) timestamp: String,

    /// How steps are isolated: auto, overlay, or norun for builds that run nothing
    #[arg(long, env = "WBUILD_ISOLATION", value_name = "MODE", default_value = "auto")]
    pub(crate) isolation: String,

    /// How many steps run at once [default: the number of processors]
    #[arg(short, long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,

    #[command(flatten)]
    pub(crate) attest: AttestArgs,

    #[command(flatten)]
    pub(crate) progress: ProgressArgs,

    #[command(flatten)]
    pub(crate) home: HomeArgs,
}

/// `wbuild run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// An image as `wbuild image` writes it: an OCI layout, DIR[:TAG], or a tar of one
    pub(crate) image: String,

    /// A command instead of the image's own
    #[arg(last = true)]
    pub(crate) command: Vec<String>,

    /// Run the image's HEALTHCHECK, and end with 0 as soon as it is healthy
    #[arg(long)]
    pub(crate) until_healthy: bool,

    /// Forward a port of 127.0.0.1 (0 is any free one) [default: every port that the image EXPOSEs, or the next free one]
    #[arg(short, long = "publish", value_name = "[HOST:]PORT")]
    pub(crate) publish: Vec<String>,

    /// Set a variable
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,

    /// private, host or none
    #[arg(long, value_name = "MODE", default_value = "private")]
    pub(crate) network: String,

    /// How long a process that was sent SIGTERM may take to end
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) stop_timeout: u32,

    #[command(flatten)]
    pub(crate) home: HomeArgs,
}

/// `wbuild pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The image: NAME[:TAG|@DIGEST]
    pub(crate) image: String,

    /// Write it as an OCI layout: FOLDER, or FILE.tar for an archive
    #[arg(short, long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) which: WhichPlatforms,

    #[command(flatten)]
    pub(crate) progress: ProgressArgs,

    #[command(flatten)]
    pub(crate) home: HomeArgs,
}

/// `wbuild push`.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// An OCI layout, DIR[:TAG], or a tar of one
    pub(crate) source: String,

    /// Where to: NAME[:TAG] (several may be given)
    #[arg(required = true)]
    pub(crate) images: Vec<String>,

    /// Only the image of one platform [default: all that is there]
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,

    #[command(flatten)]
    pub(crate) progress: ProgressArgs,

    #[command(flatten)]
    pub(crate) home: HomeArgs,
}

/// `wbuild copy`.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// NAME[:TAG|@DIGEST] of a registry, oci:DIR[:TAG], oci-archive:FILE or docker-archive:FILE
    pub(crate) source: String,

    /// The same
    pub(crate) destination: String,

    #[command(flatten)]
    pub(crate) which: WhichPlatforms,

    #[command(flatten)]
    pub(crate) progress: ProgressArgs,

    #[command(flatten)]
    pub(crate) home: HomeArgs,
}

/// What to take of an image for several platforms.
#[derive(Debug, Args)]
pub(crate) struct WhichPlatforms {
    /// The platform [default: that of this machine]
    #[arg(long, value_name = "OS/ARCH", conflicts_with = "all")]
    pub(crate) platform: Option<String>,

    /// All platforms, and the index as it is
    #[arg(long)]
    pub(crate) all: bool,
}

/// `wbuild login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The registry
    #[arg(value_name = "HOST", default_value = "docker.io")]
    pub(crate) registry: String,

    /// Who
    #[arg(short, long = "username", value_name = "USER")]
    pub(crate) user: Option<String>,

    /// Read the password, or a token, from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

/// `wbuild logout`.
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// The registry
    #[arg(value_name = "HOST", default_value = "docker.io")]
    pub(crate) registry: String,
}

/// `wbuild workspace`.
#[derive(Debug, Args)]
pub(crate) struct WorkspaceArgs {
    #[command(flatten)]
    pub(crate) app: AppArgs,

    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) home: HomeArgs,

    #[command(subcommand)]
    pub(crate) command: Option<WorkspaceCommand>,
}

/// What to do with the workspace.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// Write the pruned workspace that the install step gets to a new folder
    Prune {
        /// Which; must not exist yet
        folder: PathBuf,
    },
}

/// `wbuild doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) home: HomeArgs,
}

/// `wbuild cache`.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// What takes how much room
    Du {
        #[command(flatten)]
        home: HomeArgs,
    },
    /// Remove what was not used for longest, down to a budget
    Prune {
        /// What may stay, in bytes or as 20GB; nothing by default
        #[arg(long, value_name = "SIZE", default_value = "0")]
        keep: String,

        #[command(flatten)]
        home: HomeArgs,
    },
    /// Read everything and drop what is damaged
    Verify {
        #[command(flatten)]
        home: HomeArgs,
    },
}

/// Flags that `docker buildx` takes a value for, and that stand for themselves here, too.
const WITH_OR_WITHOUT: [&str; 2] = ["--sbom", "--provenance"];

/// The command line with the values of such flags joined to them: of `--sbom true .` only the first word can be one. What
/// comes after `--` is somebody else's.
pub(crate) fn joined(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    let mut open = true;
    for arg in args {
        open &= arg != "--";
        let text = arg.to_str().unwrap_or_default();
        let is_value = ["true", "false"].contains(&text)
            || text.split(',').all(|part| !part.starts_with(['-', '.', '/']) && part.contains('='));
        match joined.last_mut() {
            Some(flag) if open && is_value && WITH_OR_WITHOUT.iter().any(|name| *flag == *name) => {
                flag.push("=");
                flag.push(arg);
            }
            _ => joined.push(arg),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_joined_and_a_context_is_not() {
        let join = |text: &str| {
            let joined = joined(text.split(' ').map(OsString::from));
            joined.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        };
        for (given, expected) in [
            ("wbuild build --sbom true .", "wbuild build --sbom=true ."),
            ("wbuild build --sbom .", "wbuild build --sbom ."),
            ("wbuild build --sbom --provenance mode=max .", "wbuild build --sbom --provenance=mode=max ."),
            ("wbuild image --sbom format=spdx,dest=a/b", "wbuild image --sbom=format=spdx,dest=a/b"),
            ("wbuild build --sbom ./a=b", "wbuild build --sbom ./a=b"),
            ("wbuild run x -- --sbom true", "wbuild run x -- --sbom true"),
        ] {
            assert_eq!(join(given), expected);
        }
    }
}
