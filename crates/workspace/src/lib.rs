//! What `wbuild` knows of pnpm workspaces, Turborepo and Next.js. Pure: file contents come in through [`Files`],
//! plans and diagnostics go out; nothing is read from disk, written, or run.
//!
//! The way through, as a build goes it:
//!
//! 1. [`Workspace::read`]: `pnpm-workspace.yaml`, all `package.json`s, `.npmrc`s and `pnpm-lock.yaml`, or everything
//!    that is wrong with them at once.
//! 2. [`Workspace::app`]: the application to build.
//! 3. [`TurboConfigs::read`] and [`TaskGraph::new`]: its tasks in order, with inputs, outputs and environment.
//! 4. [`Closure::of`]: the part of the workspace and of the lockfile that it needs, and why.
//! 5. [`check_frozen`]: whether lockfile, manifests and settings fit together there.
//! 6. [`InstallPlan::new`]: the files that `pnpm install --frozen-lockfile` needs, and the fields of its key.
//! 7. [`NextFacts::read`], [`tsconfig_chain`], [`Lockfile::foreign_packages`]: what the build and the image need to
//!    know beside.
//!
//! Nothing is trusted by path: every path in any of these files is resolved inside the root or is an error that
//! names the file and the place. Sizes are capped, nothing recurses as deep as a file wants, and nothing depends on
//! the order of a hash map.

mod check;
mod closure;
mod document;
mod error;
mod files;
mod glob;
mod install;
mod lockfile;
mod manifest;
mod names;
mod next;
mod npmrc;
mod object_hash;
mod order;
mod path;
mod platform;
mod range;
mod settings;
mod source;
mod summary;
#[cfg(test)]
mod testing;
mod tsconfig;
mod turbo;
mod workspace;

pub use check::check_frozen;
pub use closure::{Broken, BrokenReference, Closure, Directory, DirectoryUsage, Link, Why};
pub use document::{Located, Place};
pub use error::WorkspaceError;
pub use files::{Entry, EntryKind, Files, MemoryFiles, ReadError};
pub use glob::{Dots, Glob, GlobError, GlobSet};
pub use install::{
    Content, InstallPlan, KeyField, KeyValue, LifecycleScript, MANIFEST_FIELDS, PlannedFile,
    ROOT_MANIFEST_FIELDS,
};
pub use lockfile::{
    Edge, Importer, ImporterDependency, LocalSource, LockedCatalogEntry, LockedPackage, LockedPatch,
    LockedSettings, Lockfile, LockfileVersion, Reference, Snapshot, SnapshotId, Text,
};
pub use manifest::{Dependency, DependencyKind, Manifest, PackageManager, words as command_words};
pub use names::invalid_package_name;
pub use next::{BUILD_ID_VARIABLE, Finding, NextFacts};
pub use npmrc::{Npmrc, NpmrcKind, NpmrcLine};
pub use path::{PathError, RelPath};
pub use platform::{ForeignPackage, Platform};
pub use range::VersionRange;
pub use settings::{ASSUMED_PNPM_MAJOR, Architectures, BuildPolicy, Settings};
pub use summary::{PackageSummary, WhyStep, WorkspaceSummary};
pub use tsconfig::{TsconfigChain, tsconfig_chain};
pub use turbo::{
    EnvFiles, EnvNames, GitIgnores, GlobalInputs, Inputs, Outputs, Task, TaskConfig, TaskDefinition,
    TaskGraph, TaskId, TurboConfig, TurboConfigs,
};
pub use workspace::{AppError, Workspace};
