//! The operations. What each puts into its key is listed in `cache/keys.md`, with the reason.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use wbuild_oci::{Digest, Platform};
use wbuild_tree::{Chmod, EntryPath};

use crate::failure_hint::FailureHint;

/// One operation. Its inputs are those of its [`Vertex`](crate::Vertex), referred to by position.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Something from outside the graph.
    Source(Source),
    /// Runs one process on input 0.
    Exec(Box<Exec>),
    /// Changes files without running anything: on input 0, taking from the other inputs.
    File(FileOp),
    /// Stacks the inputs' deltas, the first lowest.
    Merge,
    /// What input 1 has on top of input 0.
    Diff,
    /// Adds a user and its group to input 0 as a tree operation.
    AddUser(AddUser),
    /// Splits the files of input 0 into several deltas, so that what changes together travels together.
    Partition(Partition),
    /// Passes input 0 on, without the files that are not wanted.
    Select(Select),
    /// Passes input 0 on, after checking it.
    Assert(Assert),
}

/// Something from outside the graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Nothing at all.
    Scratch,
    /// The layers of an image.
    Image(ImageRef),
    /// Files of a context.
    Local {
        /// Which context: `""` is the main one.
        context: String,
        /// Which of its files.
        files: Files,
    },
    /// A file fetched by HTTP: a tree with that one file in it.
    Http(HttpFile),
    /// The files of a git repository.
    Git(GitCheckout),
}

/// An image as it is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageRef {
    /// As written; the engine resolves it to one manifest.
    pub reference: String,
    /// For which platform; that of the build when `None`.
    pub platform: Option<Platform>,
}

impl ImageRef {
    /// The image for the platform of the build.
    pub fn new(reference: impl Into<String>) -> Self {
        Self { reference: reference.into(), platform: None }
    }
}

/// Which files of a context are taken, of those that the ignore file leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Files {
    /// All.
    All,
    /// Exactly these; directories stand for all that is in them.
    Paths(Vec<EntryPath>),
    /// What sources of COPY and ADD name: rooted paths, with wildcards as Go's `filepath.Match` has them unless `literal`.
    /// Symbolic links are followed inside of the context, and taken with what they lead to. What matches nothing adds
    /// nothing: whoever needs it says so.
    Matching {
        /// The paths.
        patterns: Vec<Pattern>,
    },
}

/// A path in which `*`, `?` and `[` may stand for more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Just this path.
    Literal(String),
    /// As Go's `filepath.Match`, component by component; `**` means nothing special.
    Wildcard(String),
    /// As `COPY --parents` has it: `**` stands for any number of components, and a first `/./` separates the part that is
    /// not repeated in the destination.
    Parents(String),
}

/// A file to be downloaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpFile {
    /// From where: `http` or `https`.
    pub url: String,
    /// What it is called in its tree.
    pub name: String,
    /// What it must be.
    pub checksum: Option<Digest>,
}

/// A repository to be checked out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GitCheckout {
    /// What git is told to fetch from.
    pub remote: String,
    /// A branch, tag or commit; the default branch when it is empty.
    pub reference: String,
    /// Only this directory of it; empty is all.
    pub subdirectory: String,
    /// The commit that the reference must be, or the beginning of its name.
    pub checksum: Option<String>,
    /// Whether `.git` is part of it.
    pub keep_git_dir: bool,
    /// Whether submodules are fetched.
    pub submodules: bool,
    /// Files get the time of the commit.
    pub commit_times: bool,
}

/// Runs one process.
#[derive(Clone, Debug, Serialize)]
pub struct Exec {
    /// Program and arguments; not a shell's text.
    pub argv: Vec<String>,
    /// The whole environment besides what the executor adds (CA bundle, proxies).
    pub env: Vec<Environment>,
    /// Working directory; made if it is missing.
    pub cwd: EntryPath,
    /// `user[:group]`, names or numbers; empty is root.
    pub user: String,
    /// Which network it sees.
    pub network: NetworkMode,
    /// What it may do.
    pub privileges: PrivilegeSet,
    /// What is mounted for it.
    pub mounts: Vec<Mount>,
    /// Secrets in its environment: never in the key.
    pub secret_env: Vec<SecretEnv>,
    /// The name that it sees its machine under; without one it is the executor's. In the key.
    pub hostname: Option<String>,
    /// Lines for its `/etc/hosts`. Their names are in the key, their addresses are not, as in BuildKit.
    pub hosts: Vec<(String, IpAddr)>,
    /// Limits; never in the key.
    pub limits: StepLimits,
    /// What becomes of what it wrote.
    pub capture: Capture,
    /// The times that it sees on its input's files, and that its own files get.
    pub times: StepTimes,
    /// What the frontend knows about likely causes, for the error of a step that fails.
    pub on_failure: Vec<FailureHint>,
}

/// Limits of a step; what is not given is as the executor has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StepLimits {
    /// Size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// Resource limits: name as in `--ulimit`, soft and hard; `None` is unlimited.
    pub ulimits: Vec<(String, Option<u64>, Option<u64>)>,
}

/// One environment variable of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// How much of it enters the key and the record.
    pub in_key: EnvInKey,
}

/// How a value enters key and record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnvInKey {
    /// Name and value, readable in the record.
    Shown,
    /// Name and value, the value as its SHA-256 only.
    Hashed,
    /// The name only: turbo's `passThroughEnv`.
    NameOnly,
    /// Nothing: proxies, and the place of an agent's socket.
    Never,
}

/// Which network a step sees (decision 16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// The host's where nothing better is installed.
    Default,
    /// The host's, asked for.
    Host,
    /// An empty one with only loopback.
    None,
}

/// What a step may do (decision 17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrivilegeSet {
    /// A Dockerfile's `RUN`: BuildKit's fourteen capabilities, set-id programs work.
    Run,
    /// Install steps and tasks of `wbuild image`: no new privileges.
    Task,
    /// `RUN --security=insecure`: all that this process may give.
    Insecure,
}

/// A secret as an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SecretEnv {
    /// The variable.
    pub name: String,
    /// The secret.
    pub id: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// For a secret that the step bakes into its output (decision 9): then this version, set by the user, and whether
    /// the secret is given enter the key.
    pub version: Option<String>,
}

/// One mount of a step.
#[derive(Clone, Debug, Serialize)]
pub struct Mount {
    /// Where.
    pub target: EntryPath,
    /// What.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountKind {
    /// Files of an input, read-only unless `writable`; writes are discarded.
    Bind {
        /// Position in the vertex' inputs.
        input: usize,
        /// What of it.
        source: EntryPath,
        /// Whether the step may write to its own copy.
        writable: bool,
    },
    /// A directory that outlives builds and never becomes part of a layer.
    Cache(Cache),
    /// Empty, in memory.
    Tmpfs {
        /// In bytes.
        size: Option<u64>,
    },
    /// A secret as a file in memory.
    Secret {
        /// Which.
        id: String,
        /// Permission bits.
        mode: u16,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Whether the step fails without it.
        required: bool,
        /// As [`SecretEnv::version`].
        version: Option<String>,
    },
    /// The socket of an SSH agent, by its name in the build.
    Ssh {
        /// Which.
        id: String,
        /// Permission bits.
        mode: u16,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Whether the step fails without it.
        required: bool,
    },
    /// A file whose contents belong to the step, read-only: the script of a heredoc.
    Script {
        /// Its bytes; they are in the key.
        contents: Vec<u8>,
        /// Permission bits.
        mode: u16,
    },
    /// A small file made for this step only, in memory: never in the key.
    Scratchpad {
        /// Its bytes; `${NAME}` stands for the secret of that name, if it is given.
        contents: Vec<u8>,
        /// Permission bits.
        mode: u16,
    },
}

/// A cache mount (decision 14).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// Names it within the state directory; on disk it is always a hash.
    pub id: String,
    /// How several steps share it.
    pub sharing: CacheSharing,
    /// Written copy-on-write and published only when the step succeeds.
    pub publish_on_success: bool,
    /// Names that are taken out before it is published: what must never leave with it (decision 9).
    pub never_publish: Vec<String>,
    /// Whether the step can only read it.
    pub read_only: bool,
    /// Owner of the directory when it is made.
    pub uid: u32,
    /// Group of the directory when it is made.
    pub gid: u32,
    /// Mode of the directory when it is made.
    pub mode: u16,
    /// What it holds when it is made.
    pub seed: Option<CacheSeed>,
    /// What of it the step sees.
    pub inside: EntryPath,
}

impl Cache {
    /// One that all steps use at once, made empty with mode 0755 for root.
    pub fn shared(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            sharing: CacheSharing::Shared,
            publish_on_success: false,
            never_publish: Vec::new(),
            read_only: false,
            uid: 0,
            gid: 0,
            mode: 0o755,
            seed: None,
            inside: EntryPath::default(),
        }
    }
}

/// What a cache mount holds at first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheSeed {
    /// Position in the vertex' inputs.
    pub input: usize,
    /// What of it.
    pub source: EntryPath,
}

/// How steps share a cache mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheSharing {
    /// At once.
    Shared,
    /// One after the other.
    Locked,
    /// A fresh one for whoever comes second.
    Private,
}

/// What becomes of what a step wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capture {
    /// All of it is the delta, named by the step's key.
    All,
    /// Only declared outputs are, as a tree named by its content; deletions elsewhere and undeclared writes are dropped,
    /// and the latter named in a warning (decision 3).
    Outputs {
        /// Globs relative to the root.
        include: Vec<String>,
        /// Globs relative to the root.
        exclude: Vec<String>,
        /// Undeclared writes below these are never worth a warning: caches, temporary files.
        expected: Vec<String>,
    },
}

/// Times of files, as steps see them and as captured trees have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepTimes {
    /// Steps see the trees' own times; what they write keeps its times until a layer is made.
    Kept,
    /// Steps see times made from content (decision 7); captured files get the normal time.
    FromContent,
}

/// Changes files without running anything.
#[derive(Clone, Debug, Serialize)]
pub struct FileOp {
    /// One after the other, each seeing the one before.
    pub actions: Vec<FileAction>,
}

/// An owner by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// One change.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileAction {
    /// Takes files from another input.
    Copy(Copy),
    /// Takes files from other inputs the way COPY and ADD of a Dockerfile do.
    Transfer(Box<Transfer>),
    /// Makes a working directory with its parents, all 0755 and owned by a user; one that exists is left as it is.
    Workdir {
        /// Where.
        path: EntryPath,
        /// `user[:group]`, looked up in what lies below; empty is root.
        user: String,
    },
    /// Makes a directory with its parents.
    Mkdir {
        /// Where.
        path: EntryPath,
        /// Permission bits.
        mode: u16,
        /// Owner of what is made.
        owner: Owner,
    },
    /// Writes a file.
    Mkfile {
        /// Where.
        path: EntryPath,
        /// Its bytes.
        contents: Vec<u8>,
        /// Permission bits.
        mode: u16,
        /// Owner.
        owner: Owner,
    },
    /// Makes a symbolic link.
    Symlink {
        /// Where.
        path: EntryPath,
        /// To what, verbatim.
        target: String,
        /// Owner.
        owner: Owner,
    },
    /// Removes something that must exist.
    Remove {
        /// Where.
        path: EntryPath,
    },
}

/// Takes files from another input: a graft of its tree, whatever its size.
#[derive(Clone, Debug, Serialize)]
pub struct Copy {
    /// Position in the vertex' inputs.
    pub input: usize,
    /// What of it; a directory means its contents.
    pub source: EntryPath,
    /// Where to; made with its parents if it is missing.
    pub target: EntryPath,
    /// New owner of everything copied; the source's own when `None`.
    pub owner: Option<Owner>,
}

/// COPY or ADD, with the path rules of a Dockerfile: wildcards, a destination that is a directory or becomes one,
/// directories whose contents are taken, links followed in the destination. The sources are taken one after the other.
#[derive(Clone, Debug, Serialize)]
pub struct Transfer {
    /// What is taken.
    pub sources: Vec<TransferSource>,
    /// Where to.
    pub target: EntryPath,
    /// Whether the target was written as a directory: with a slash or a dot at its end.
    pub into_directory: bool,
    /// New owner of everything; the source's own when `None`, and root for what is made on the way.
    pub owner: Option<Account>,
    /// New permission bits of everything, parents that are made included.
    pub mode: Option<Chmod>,
    /// Patterns of what is left out, as in an ignore file, relative to each source directory.
    pub excludes: Vec<String>,
}

/// One source of a [`Transfer`].
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransferSource {
    /// Files of an input.
    Files {
        /// Position in the vertex' inputs.
        input: usize,
        /// Which.
        pattern: Pattern,
        /// What becomes of archives.
        unpack: Unpack,
    },
    /// A file whose contents stand in the Dockerfile: mode 0644, owner root.
    Inline {
        /// Its name, if the target is a directory.
        name: String,
        /// Its bytes.
        contents: Vec<u8>,
    },
}

/// What becomes of archives among the sources of ADD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unpack {
    /// They are files like others.
    Never,
    /// A regular file that is a tar archive, plain or compressed with gzip, bzip2, xz or zstd, is replaced by what is in it.
    Archives,
}

/// A user and perhaps a group, as `--chown` names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// The user.
    pub user: AccountId,
    /// The group. Without one it is the primary group of a named user, and the number of a numbered one.
    pub group: Option<AccountId>,
    /// Position of the input whose `/etc/passwd` and `/etc/group` know the names.
    pub input: usize,
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountId {
    /// By number.
    Number(u32),
    /// By name.
    Name(String),
}

/// Adds a user and its group (native; `addgroup` and `adduser` as tree operations).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AddUser {
    /// User name.
    pub user: String,
    /// User number.
    pub uid: u32,
    /// Group name.
    pub group: String,
    /// Group number.
    pub gid: u32,
    /// Home directory, as written into passwd; not made.
    pub home: String,
    /// Login shell, as written into passwd.
    pub shell: String,
}

/// One of the deltas that [`Partition`] makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// For history and reports.
    pub name: String,
    /// Globs relative to the root; the first part with a match takes the file.
    pub include: Vec<String>,
    /// Takes only symbolic links, wherever they are.
    pub links_only: bool,
}

/// Splits files into deltas. Always makes one delta per part and one for the rest, empty ones included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// In the order in which they are tried and stacked.
    pub parts: Vec<Part>,
    /// Name of the last part, which takes what no other took.
    pub rest: String,
}

/// Leaves files out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Select {
    /// Globs relative to the root; empty means everything.
    pub include: Vec<String>,
    /// Globs relative to the root.
    pub exclude: Vec<String>,
}

/// Checks on a tree; the build stops where one fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Assert {
    /// Files that must exist, each with what to say and do when they do not.
    pub exists: BTreeMap<String, String>,
    /// No symbolic link below here may dangle.
    pub no_dangling_links: Option<EntryPath>,
}
