use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddrV4};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::capability::CapabilitySet;
use crate::wire;

/// One process to run, and everything that it will see.
///
/// Paths on the host are trusted as far as the process that made the step is; every path *inside* the root (mount
/// targets, the working directory) is resolved inside it, whatever symbolic links it holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// The root file system.
    pub root: Root,
    /// What is mounted into it besides `/proc`, `/sys`, `/dev`, `/etc/hosts` and `/etc/resolv.conf`.
    /// Parents are mounted before what lies below them; of two equal targets the later one wins.
    pub mounts: Vec<Mount>,
    /// The program and its arguments. A program without a slash is looked up in `PATH` of [`Step::env`].
    #[serde(with = "wire::names")]
    pub argv: Vec<OsString>,
    /// The whole environment; nothing is inherited.
    #[serde(with = "wire::variables")]
    pub env: Vec<(OsString, OsString)>,
    /// The working directory; made, for the user of the step, where it is missing.
    #[serde(with = "wire::path")]
    pub cwd: PathBuf,
    /// Who the process is.
    pub user: User,
    /// The name of the machine, which `/etc/hosts` also gets.
    pub hostname: String,
    /// Further lines of `/etc/hosts`.
    pub add_hosts: Vec<Host>,
    /// What of the network it can reach.
    pub network: Network,
    /// What the kernel lets it do.
    pub privileges: Privileges,
    /// Resource limits to set; the others are inherited.
    pub limits: Vec<Limit>,
    /// Size of `/dev/shm` in bytes; 64 MiB when `None`, as Docker has it.
    pub shm_size: Option<u64>,
}

impl Step {
    /// A step with an empty environment and no mounts, as root in `/`, with Docker's privileges and no network.
    pub fn new(root: Root, argv: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            root,
            mounts: Vec::new(),
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: "/".into(),
            user: User::default(),
            hostname: "wbuild".to_owned(),
            add_hosts: Vec::new(),
            network: Network::None,
            privileges: Privileges::default(),
            limits: Vec::new(),
            shm_size: None,
        }
    }
}

/// A program to run beside that of a step, in its sandbox.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory, which must exist.
    pub cwd: PathBuf,
    /// Who the process is. With [`crate::Identity::SingleId`] only the step's own user can be.
    pub user: User,
}

/// Where the root file system comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// An overlay whose changes land in `upper`, ready to be renamed away when the step has ended.
    ///
    /// The mount is `volatile`: the kernel skips what the step syncs, so nothing in `upper` is durable until the
    /// caller syncs it.
    Overlay {
        /// Read-only directories, the topmost first. May be empty (`FROM scratch`).
        #[serde(with = "wire::names")]
        lowers: Vec<PathBuf>,
        /// Gets the changes. Usually empty.
        #[serde(with = "wire::path")]
        upper: PathBuf,
        /// An empty directory on the file system of `upper`, for what overlayfs needs besides. Emptied again when
        /// the step ends; after a kill it can be removed with [`crate::Isolation::within`] or as root.
        #[serde(with = "wire::path")]
        scratch: PathBuf,
    },
    /// An overlay that cannot be written to.
    ReadOnly {
        /// Directories, the topmost first.
        #[serde(with = "wire::names")]
        lowers: Vec<PathBuf>,
    },
    /// A directory that is used, and changed, as it is.
    Directory(#[serde(with = "wire::path")] PathBuf),
}

/// Something mounted into the root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Where, as an absolute path inside the root. Created when missing.
    #[serde(with = "wire::path")]
    pub target: PathBuf,
    /// What.
    pub kind: MountKind,
}

/// What a [`Mount`] shows. None of these can hold device nodes or set-id programs that work.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountKind {
    /// A file, directory or socket from elsewhere.
    Bind {
        /// From where.
        source: Source,
        /// Whether the step may write.
        access: Access,
    },
    /// An empty directory in memory, gone with the step.
    Tmpfs {
        /// How many bytes it may hold; half of the machine's memory when `None`.
        size: Option<u64>,
        /// The permissions of the directory.
        mode: u32,
        /// Its owner, as far as the identity can express it.
        owner: User,
    },
    /// A file in memory, read-only and gone with the step: how a secret gets in without touching a disk.
    File {
        /// What it holds.
        content: Content,
        /// Its permissions.
        mode: u32,
        /// Its owner, as far as the identity can express it.
        owner: User,
    },
}

/// From where a bind mount comes: a trusted place, and a path inside it that is resolved inside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// The place.
    pub base: Base,
    /// A path inside the place, resolved without ever leaving it; empty or `/` for the place itself.
    #[serde(with = "wire::path")]
    pub inside: PathBuf,
}

impl Source {
    /// A file or directory of the host, as it is named.
    pub fn host(path: impl Into<PathBuf>) -> Self {
        Self { base: Base::Host(path.into()), inside: PathBuf::new() }
    }

    /// Something inside a stack of layers.
    pub fn layers(lowers: Vec<PathBuf>, inside: impl Into<PathBuf>) -> Self {
        Self { base: Base::Layers(lowers), inside: inside.into() }
    }
}

/// The trusted part of a [`Source`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Base {
    /// A path of the host.
    Host(#[serde(with = "wire::path")] PathBuf),
    /// A root file system given as directories, the topmost first.
    Layers(#[serde(with = "wire::names")] Vec<PathBuf>),
}

/// Whether a step may write into a bind mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Writing fails.
    ReadOnly,
    /// Writing changes the source: a cache directory.
    ReadWrite,
    /// Writing works, changes nothing outside, and is forgotten: `RUN --mount=type=bind,rw`. Directories and
    /// regular files; of a file, the step gets a copy in memory.
    Discarded,
}

/// Bytes that may be secret: not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content(pub Vec<u8>);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes)", self.0.len())
    }
}

/// Numeric identity of a process or owner of a file; root by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups. Of no effect on files.
    pub groups: Vec<u32>,
}

impl User {
    /// A user without supplementary groups.
    pub const fn new(uid: u32, gid: u32) -> Self {
        Self { uid, gid, groups: Vec::new() }
    }
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

/// What of the network a step reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// What the host reaches. Abstract Unix sockets of the host are fenced off where landlock can (version 6).
    Host,
    /// Only a loopback interface of its own.
    None,
    /// A loopback interface of its own, of which some ports are reached from the host.
    Private {
        /// Which.
        forward: Vec<Forward>,
    },
}

/// A port of a step that the host can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Where to listen on the host. If the port is taken the next free one is used; port 0 means any.
    pub host: SocketAddrV4,
    /// The port inside.
    pub guest: u16,
}

/// What the kernel lets a step do. The system call filter is the same for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// The capabilities that root has in the step, and the most that anybody can get.
    pub capabilities: CapabilitySet,
    /// Whether set-id programs and file capabilities give nothing.
    pub no_new_privileges: bool,
}

impl Default for Privileges {
    /// As `docker build` runs a step.
    fn default() -> Self {
        Self { capabilities: CapabilitySet::DOCKER, no_new_privileges: false }
    }
}

/// A resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Of what.
    pub resource: Resource,
    /// What the process starts with; `None` for no limit.
    pub soft: Option<u64>,
    /// How far it may raise that; `None` for no limit.
    pub hard: Option<u64>,
}

/// What can be limited, by the names of `docker build --ulimit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names of getrlimit(2)")]
pub enum Resource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Sigpending,
    Stack,
}
