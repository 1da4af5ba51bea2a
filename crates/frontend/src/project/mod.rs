mod globs;
mod read;

use wbuild_report::Diagnostic;
use wbuild_tree::EntryPath;

pub use read::ProjectSource;

/// What lowering has to know of a workspace and one application in it. Paths are relative to the workspace root.
#[derive(Clone, Debug, Default)]
pub struct Project {
    /// The name of the root package, or of its folder's: tells this workspace's steps and caches from others'.
    pub root: String,
    /// The application.
    pub app: App,
    /// The version of pnpm that is pinned.
    pub pnpm: Option<String>,
    /// The major of pnpm whose rules hold.
    pub pnpm_major: u32,
    /// The install of the closure.
    pub install: Install,
    /// The tasks to run, each after those it depends on. Tasks without a command pass through.
    pub tasks: Vec<Task>,
    /// All files of the closure's packages, and the root files that belong to them: what a person needs to go on by
    /// hand.
    pub sources: Vec<EntryPath>,
    /// The folders of the closure's other packages, without the root.
    pub packages: Vec<EntryPath>,
    /// Packages of the lockfile that the target's C library cannot load.
    pub foreign: Vec<ForeignPackage>,
    /// What is probably not as its author believes.
    pub warnings: Vec<Diagnostic>,
}

/// The application.
#[derive(Clone, Debug, Default)]
pub struct App {
    /// Its package name.
    pub name: String,
    /// Its folder.
    pub dir: EntryPath,
    /// What is known of it as a Next.js application; `None` when it is none.
    pub next: Option<Next>,
}

/// A Next.js application.
#[derive(Clone, Debug, Default)]
pub struct Next {
    /// The version in the lockfile.
    pub version: String,
    /// Where it writes, relative to the application: `.next`.
    pub dist: EntryPath,
    /// The files of `public` in the context.
    pub public: Vec<EntryPath>,
    /// The folder below `standalone` that holds `server.js`: the application's path from the tracing root.
    pub server: EntryPath,
    /// Why it has no server that could run alone, and so no stage `runner`, with what else is to be mended in its
    /// configuration; empty when it has one as far as that says.
    pub not_standalone: Vec<Diagnostic>,
}

/// The install of the closure.
#[derive(Clone, Debug, Default)]
pub struct Install {
    /// Files that are made for it.
    pub files: Vec<InstallFile>,
    /// Files and folders of the context that it takes as they are.
    pub verbatim: Vec<EntryPath>,
    /// The credentials of the repository's `.npmrc` files: never in a file, a key or a log (decision 6).
    pub credentials: Credentials,
    /// The variables that those name as `${NAME}`: each is a secret of that name.
    pub credential_names: Vec<String>,
    /// Whether a dependency of the closure may run scripts of its own.
    pub builds: bool,
    /// The projects' own lifecycle scripts, in the order in which pnpm would run them.
    pub scripts: Vec<LifecycleScript>,
}

/// Lines of an `.npmrc` that nobody is shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(pub String);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({} lines)", self.0.lines().count())
    }
}

/// A file made for the install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallFile {
    /// Where.
    pub path: EntryPath,
    /// Its bytes.
    pub contents: Vec<u8>,
    /// Whether it can be run.
    pub executable: bool,
}

/// A lifecycle script of a workspace package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifecycleScript {
    /// The package.
    pub package: String,
    /// Its folder.
    pub dir: EntryPath,
    /// Which script: `postinstall`.
    pub event: String,
    /// What the step may see of the context.
    pub inputs: Vec<EntryPath>,
}

/// One task of the task graph.
#[derive(Clone, Debug, Default)]
pub struct Task {
    /// As turbo writes it: `web#build`, `//#content`.
    pub id: String,
    /// The package's folder.
    pub dir: EntryPath,
    /// The script's name, when the package has it.
    pub script: Option<String>,
    /// Positions of the tasks that come before it.
    pub depends_on: Vec<usize>,
    /// All files of the context that it sees (decision 2).
    pub inputs: Vec<EntryPath>,
    /// Files of the context that lie near but that it does not see: named when it fails.
    pub near_misses: Vec<EntryPath>,
    /// What it writes.
    pub outputs: Outputs,
    /// Whether everything that it writes is an output, declared or not: nobody declares what a task writes that is never
    /// cached (`cache: false`), and what it writes is there for the tasks after it.
    pub keeps_everything: bool,
    /// Names, with `*`, whose values are in the key: its `env` and the workspace's `globalEnv`. `!` takes away.
    pub env: Vec<String>,
    /// Names, with `*`, of which only the name is in the key.
    pub pass_through: Vec<String>,
}

/// The outputs of a task, as globs relative to the workspace root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// These.
    pub include: Vec<String>,
    /// But not these.
    pub exclude: Vec<String>,
}

/// A package for another C library.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignPackage {
    /// Its name.
    pub name: String,
    /// Its folder in `node_modules/.pnpm`.
    pub folder: String,
}
