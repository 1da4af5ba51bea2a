use std::fmt;

use wbuild_tree::EntryPath;

use crate::ignore::IgnoreRules;

/// What of a folder becomes part of a context, and with which metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// What `docker build` takes: everything that the ignore file leaves, with its modes, times and hard links, owned by
    /// root. Only `.wbuild/` is left out besides, and a socket becomes an empty file.
    Dockerfile,
    /// What a fresh clone would hold: modes as git has them, one constant time, no empty directories, nothing that is
    /// neither file, directory nor link, and no name that is not UTF-8; and nothing that installing and building leaves behind.
    Workspace,
}

/// Decides about a path (and whether it is a directory). Must give the same answer every time.
type PathTest = Box<dyn Fn(&[u8], bool) -> bool + Send + Sync>;

/// Paths that the caller wants left out under [`Policy::Workspace`]: the declared outputs of a task.
pub struct Exclusion {
    label: String,
    test: PathTest,
}

impl Exclusion {
    /// Leaves out every path for which `test` says so; it is given the path relative to the context and whether that is a
    /// directory. A directory is left out with all that is in it. `label` is what the report calls the reason.
    pub fn new(label: impl Into<String>, test: impl Fn(&[u8], bool) -> bool + Send + Sync + 'static) -> Self {
        Self { label: label.into(), test: Box::new(test) }
    }
}

impl fmt::Debug for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Exclusion").field(&self.label).finish()
    }
}

/// How to list a context.
pub struct ListOptions {
    /// Which files count, and how.
    pub policy: Policy,
    /// The compiled ignore file.
    pub rules: IgnoreRules,
    /// Declared outputs. Only [`Policy::Workspace`] looks at them.
    pub exclusions: Vec<Exclusion>,
    declared: Option<PathTest>,
    /// Files that this process writes to while it lists.
    own: Vec<Vec<u8>>,
}

impl ListOptions {
    /// With this policy and these rules, and nothing else.
    pub const fn new(policy: Policy, rules: IgnoreRules) -> Self {
        Self { policy, rules, exclusions: Vec::new(), declared: None, own: Vec::new() }
    }

    /// Adds declared outputs.
    #[must_use]
    pub fn excluding(mut self, exclusion: Exclusion) -> Self {
        self.exclusions.push(exclusion);
        self
    }

    /// Leaves out a file, by its path relative to the context, that this process writes to: its own log would change while
    /// it is read.
    #[must_use]
    pub fn without_own(mut self, path: impl Into<Vec<u8>>) -> Self {
        self.own.push(path.into());
        self
    }

    /// Says which `.env*` files are declared inputs, and so stay under [`Policy::Workspace`].
    #[must_use]
    pub fn declared(mut self, test: impl Fn(&[u8], bool) -> bool + Send + Sync + 'static) -> Self {
        self.declared = Some(Box::new(test));
        self
    }

    /// Why the policy leaves out an entry that the ignore file leaves in, if it does.
    pub(crate) fn leaves_out(&self, name: &[u8], path: &[u8], kind: FileKind) -> Option<LeftOutReason> {
        let directory = kind == FileKind::Directory;
        if name == b".wbuild" && directory {
            return Some(LeftOutReason::State);
        }
        if !directory && self.own.iter().any(|own| own == path) {
            return Some(LeftOutReason::OwnOutput);
        }
        if self.policy == Policy::Dockerfile {
            return None;
        }
        match name {
            b".wbuild" => return Some(LeftOutReason::State),
            b"node_modules" => return Some(LeftOutReason::NodeModules),
            b".git" => return Some(LeftOutReason::Git),
            b".turbo" => return Some(LeftOutReason::Turbo),
            _ => {}
        }
        let declared = || self.declared.as_ref().is_some_and(|test| test(path, directory));
        if name.starts_with(b".env") && !declared() {
            return Some(LeftOutReason::Environment);
        }
        if let Some(exclusion) = self.exclusions.iter().find(|exclusion| (exclusion.test)(path, directory)) {
            return Some(LeftOutReason::Output(exclusion.label.clone()));
        }
        if !matches!(kind, FileKind::File | FileKind::Directory | FileKind::Symlink) {
            return Some(LeftOutReason::Special);
        }
        std::str::from_utf8(name).is_err().then_some(LeftOutReason::Name)
    }
}

impl fmt::Debug for ListOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListOptions")
            .field("policy", &self.policy)
            .field("rules", &self.rules)
            .field("exclusions", &self.exclusions)
            .field("declared", &self.declared.is_some())
            .finish()
    }
}

/// Why the policy, and not the ignore file, left something out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOutReason {
    /// wbuild's own `.wbuild`.
    State,
    /// What this process itself writes to: standard output or standard error.
    OwnOutput,
    /// `node_modules`: installed in the build.
    NodeModules,
    /// `.git`.
    Git,
    /// `.turbo`: turbo's logs and cache.
    Turbo,
    /// `.env*`, unless declared.
    Environment,
    /// A declared output, by the label of its [`Exclusion`].
    Output(String),
    /// A fifo, socket or device.
    Special,
    /// A name that is no UTF-8: no file of a workspace could refer to it.
    Name,
}

impl LeftOutReason {
    /// Whether a person will hardly expect it, so that it must be said for each path and not only be counted.
    pub fn is_surprising(&self) -> bool {
        matches!(self, Self::Special | Self::Name)
    }
}

impl fmt::Display for LeftOutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State => f.write_str(".wbuild"),
            Self::OwnOutput => f.write_str("the output of this build"),
            Self::NodeModules => f.write_str("node_modules"),
            Self::Git => f.write_str(".git"),
            Self::Turbo => f.write_str(".turbo"),
            Self::Environment => f.write_str("undeclared .env files"),
            Self::Output(label) => write!(f, "outputs of {label}"),
            Self::Special => f.write_str("fifos, sockets and devices"),
            Self::Name => f.write_str("names that are not UTF-8"),
        }
    }
}

/// Everything that was left out for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Why.
    pub reason: LeftOutReason,
    /// How many entries; a directory counts once, whatever is in it.
    pub count: usize,
    /// The first of them in path order, at most [`LeftOut::EXAMPLES`].
    pub examples: Vec<EntryPath>,
}

impl LeftOut {
    /// How many paths are named.
    pub const EXAMPLES: usize = 10;
}

/// What an entry of a context is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket; an empty file in the tree, as docker build has it.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}
