//! `pnpm-lock.yaml`: read line by line, so that every entry knows its bytes and a pruned lockfile is cut from the
//! original text.

mod header;
mod lines;
mod prune;
mod read;
mod reference;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use wbuild_report::{SourceFile, Span};

use crate::document::Located;
use crate::{DependencyKind, RelPath};

pub use header::{LockedCatalogEntry, LockedPatch, LockedSettings};
pub(crate) use lines::list_items;
pub(crate) use prune::Keep;
pub(crate) use read::lockfile_major;
pub(crate) use read::missing as missing_lockfile;
pub use reference::Reference;

/// The name of the file.
pub(crate) const LOCKFILE: &str = "pnpm-lock.yaml";

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockfileVersion {
    /// pnpm 8.
    V6,
    /// pnpm 9 to 12.
    V9,
}

/// A range of the lockfile's text. Entries hold these instead of strings; see [`Lockfile::text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    start: u32,
    end: u32,
}

impl Text {
    fn new(start: usize, end: usize) -> Self {
        // The size cap keeps offsets far below 4 GiB.
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: offset(start), end: offset(end) }
    }

    /// The bytes it covers.
    pub fn span(self) -> Span {
        Span::new(self.start as usize, self.end as usize)
    }
}

/// An entry's bytes: whole lines, and the blank lines before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) lead: usize,
    pub(crate) span: Span,
}

/// A top-level key with everything below it.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) name: String,
    /// The line of the key.
    pub(crate) head: Span,
    /// Blank lines before the key.
    pub(crate) lead: usize,
    /// Everything from the key's line to the last line that is not blank.
    pub(crate) span: Span,
}

/// A lockfile.
#[derive(Clone, Debug)]
pub struct Lockfile {
    file: Arc<SourceFile>,
    version: LockfileVersion,
    /// The document that is the lock; an earlier one holds pnpm's own environment.
    body: Span,
    sections: Vec<Section>,
    settings: LockedSettings,
    importers: Vec<Importer>,
    importer_by_dir: BTreeMap<RelPath, usize>,
    packages: Vec<LockedPackage>,
    packages_sorted: Vec<u32>,
    snapshots: Vec<Snapshot>,
    snapshots_sorted: Vec<u32>,
    edges: Vec<Edge>,
}

/// A workspace package as the lockfile knows it.
#[derive(Clone, Debug)]
pub struct Importer {
    /// Its directory.
    pub dir: RelPath,
    /// Its dependencies, without peers, in the file's order.
    pub dependencies: Vec<ImporterDependency>,
    /// `publishDirectory`
    pub publish_directory: Option<Text>,
    /// The key, for messages.
    pub key: Text,
    pub(crate) dependencies_meta: Option<Span>,
    pub(crate) cut: Cut,
}

/// A dependency of an [`Importer`].
#[derive(Clone, Copy, Debug)]
pub struct ImporterDependency {
    /// The name it is imported by.
    pub name: Text,
    /// What the manifest asked for when the lockfile was written.
    pub specifier: Text,
    /// What it resolved to.
    pub version: Text,
    /// Under which key it stands.
    pub kind: DependencyKind,
}

/// An entry of `packages`: what a package is, whoever depends on it.
#[derive(Clone, Copy, Debug)]
pub struct LockedPackage {
    /// `name@version` (in v6 `/name@version(peers)`).
    pub key: Text,
    pub(crate) resolution: Option<Text>,
    pub(crate) os: Option<Text>,
    pub(crate) cpu: Option<Text>,
    pub(crate) libc: Option<Text>,
    pub(crate) name: Option<Text>,
    pub(crate) cut: Cut,
}

/// An entry of `snapshots` (in v6 of `packages`): a package with its dependencies and peers resolved.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// `name@version(peers)`.
    pub key: Text,
    /// Only needed by optional dependencies.
    pub optional: bool,
    pub(crate) edges: (u32, u32),
    pub(crate) cut: Cut,
}

/// Which [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub(crate) u32);

/// A dependency of a [`Snapshot`].
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    /// The name it is imported by.
    pub name: Text,
    /// What it resolved to.
    pub version: Text,
}

/// Where a package comes from, when that is the workspace itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalSource<'a> {
    /// A directory: `file:` dependencies and injected packages. From the root.
    Directory(&'a str),
    /// A tarball in the repository. From the root.
    Tarball(&'a str),
}

impl Lockfile {
    /// The file.
    pub fn file(&self) -> &Arc<SourceFile> {
        &self.file
    }

    /// The format.
    pub fn version(&self) -> LockfileVersion {
        self.version
    }

    /// What it says about settings.
    pub fn settings(&self) -> &LockedSettings {
        &self.settings
    }

    /// The text of a range.
    pub fn text(&self, text: Text) -> &str {
        &self.file.text[text.start as usize..text.end as usize]
    }

    /// All importers, in the file's order.
    pub fn importers(&self) -> &[Importer] {
        &self.importers
    }

    /// The importer of a directory.
    pub fn importer(&self, dir: &RelPath) -> Option<&Importer> {
        self.importer_by_dir.get(dir).map(|index| &self.importers[*index])
    }

    /// All packages, in the file's order.
    pub fn packages(&self) -> &[LockedPackage] {
        &self.packages
    }

    /// The package with this key.
    pub fn package(&self, key: &str) -> Option<&LockedPackage> {
        let found = self
            .packages_sorted
            .binary_search_by(|index| self.text(self.packages[*index as usize].key).cmp(key))
            .ok()?;
        Some(&self.packages[self.packages_sorted[found] as usize])
    }

    /// All snapshots, in the file's order.
    pub fn snapshots(&self) -> impl Iterator<Item = (SnapshotId, &Snapshot)> {
        (0u32..).map(SnapshotId).zip(&self.snapshots)
    }

    /// A snapshot.
    pub fn snapshot(&self, id: SnapshotId) -> &Snapshot {
        &self.snapshots[id.0 as usize]
    }

    /// The snapshot with this key.
    pub fn find_snapshot(&self, key: &str) -> Option<SnapshotId> {
        let found = self
            .snapshots_sorted
            .binary_search_by(|index| self.text(self.snapshots[*index as usize].key).cmp(key))
            .ok()?;
        Some(SnapshotId(self.snapshots_sorted[found]))
    }

    /// The dependencies of a snapshot, its resolved peers among them.
    pub fn dependencies(&self, id: SnapshotId) -> &[Edge] {
        let (from, to) = self.snapshot(id).edges;
        &self.edges[from as usize..to as usize]
    }

    /// The entry of `packages` that a snapshot is a variant of.
    pub fn package_of(&self, id: SnapshotId) -> Option<&LockedPackage> {
        let key = self.text(self.snapshot(id).key);
        match self.version {
            LockfileVersion::V6 => self.package(key),
            LockfileVersion::V9 => self.package(reference::without_suffix(key)),
        }
    }

    /// The name of a snapshot's package.
    pub fn name_of(&self, id: SnapshotId) -> &str {
        let key = self.text(self.snapshot(id).key);
        match self.package_of(id).and_then(|package| package.name) {
            Some(name) => self.text(name),
            None => reference::name_and_version(key).0,
        }
    }

    /// The version of a snapshot's package: a number, or a URL or path for what does not come from a registry.
    pub fn version_of(&self, id: SnapshotId) -> &str {
        reference::name_and_version(self.text(self.snapshot(id).key)).1
    }

    /// Whether a patch was applied to a snapshot.
    pub fn is_patched(&self, id: SnapshotId) -> bool {
        self.text(self.snapshot(id).key).contains("(patch_hash=")
    }

    /// Where a snapshot's package comes from, when that is the workspace itself.
    pub fn local_source(&self, id: SnapshotId) -> Option<LocalSource<'_>> {
        let resolution = self.text(self.package_of(id)?.resolution?);
        if lines::flow_field(resolution, "type") == Some("directory") {
            return lines::flow_field(resolution, "directory").map(LocalSource::Directory);
        }
        let tarball = lines::flow_field(resolution, "tarball")?;
        tarball.strip_prefix("file:").map(LocalSource::Tarball)
    }

    /// The checksums of a snapshot's tarball, in the form of Subresource Integrity; what comes from git or a folder has
    /// none.
    pub fn integrity(&self, id: SnapshotId) -> Option<&str> {
        lines::flow_field(self.text(self.package_of(id)?.resolution?), "integrity")
    }

    /// Where a snapshot's tarball is, when the lockfile says it: those of a registry are where the registry has them.
    pub fn tarball(&self, id: SnapshotId) -> Option<&str> {
        lines::flow_field(self.text(self.package_of(id)?.resolution?), "tarball")
    }

    /// What a dependency of an importer or a snapshot resolved to.
    pub fn resolve<'a>(&'a self, name: Text, version: Text) -> Reference<'a> {
        reference::resolve(self.version, self.text(name), self.text(version))
    }

    /// A value with its place in this file.
    pub(crate) fn located<T>(&self, value: T, text: Text) -> Located<T> {
        Located::new(value, &self.file, text.span())
    }

    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }
}
