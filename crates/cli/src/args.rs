//! The command line as typed. Where docker buildx has a flag for it, it is the same flag with the same meaning.

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
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build the image of an app of the pnpm workspace around the current folder
    Image(Box<ImageArgs>),
}

/// Where state is kept.
#[derive(Debug, Args)]
pub struct HomeArgs {
    /// The state directory: cache, records, logs [default: wbuild in the XDG cache directory]
    #[arg(long = "home", env = "WBUILD_HOME", value_name = "DIR", global = true)]
    pub home: Option<PathBuf>,
}

/// How progress is shown.
#[derive(Debug, Args)]
pub struct ProgressArgs {
    /// auto, tty, plain, json or quiet
    #[arg(long, env = "WBUILD_PROGRESS", value_name = "MODE", default_value = "auto")]
    pub progress: ProgressMode,
}

/// Which workspace and which app of it.
#[derive(Debug, Args)]
pub struct AppArgs {
    /// The app's package name or folder [default: what the spec says, or the only Next.js app]
    #[arg(long, value_name = "NAME")]
    pub app: Option<String>,

    /// The spec [default: wbuild.toml of the app or of the workspace root; inferred where there is none]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Start looking for the workspace in this folder instead of the current one
    #[arg(short = 'C', long = "directory", value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// `wbuild image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    #[command(flatten)]
    pub app: AppArgs,

    /// The stage to build: base, deps, builder, runner, dev
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,

    /// Name of the image (may be repeated)
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub tags: Vec<String>,

    /// Set a build argument; without a value it comes from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub build_args: Vec<String>,

    /// Where a base image is: NAME=oci-layout://DIR[:TAG|@DIGEST]
    #[arg(long = "build-context", value_name = "NAME=PLACE")]
    pub build_contexts: Vec<String>,

    /// A secret for the steps that ask for it: id=ID[,src=FILE|,env=NAME]
    #[arg(long = "secret", value_name = "SPEC")]
    pub secrets: Vec<String>,

    /// Add a label to the image
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub labels: Vec<String>,

    /// What to write: type=oci,dest=PATH[,tar=false] [default: the folder .wbuild/image/APP of the workspace]
    #[arg(short, long = "output", value_name = "SPEC")]
    pub outputs: Vec<String>,

    /// For which platform
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,

    /// Reuse nothing
    #[arg(long)]
    pub no_cache: bool,

    /// Write the image id (the digest of its configuration) to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,

    /// Write digests and names as JSON to a file
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,

    /// Times of everything that is written: epoch (or SOURCE_DATE_EPOCH), or seconds since 1970
    #[arg(long, value_name = "epoch|SECONDS", default_value = "epoch")]
    pub timestamp: String,

    /// How many steps run at once [default: the number of processors]
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<usize>,

    /// Print the spec that is used, and build nothing
    #[arg(long)]
    pub print_spec: bool,

    #[command(flatten)]
    pub progress: ProgressArgs,

    #[command(flatten)]
    pub home: HomeArgs,
}
