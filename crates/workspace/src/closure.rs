use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wbuild_report::Diagnostic;

use crate::lockfile::{ImporterDependency, LocalSource, Reference, Text};
use crate::{DependencyKind, Lockfile, PathError, RelPath, SnapshotId, Workspace, order};

/// Everything that an application's install and build need of the workspace: what can be reached in the lockfile
/// from the application and from the root, through dependencies of every kind.
///
/// Development dependencies count, since they build the application; so do targets of plain `link:`, which neither
/// pnpm's own filter nor `turbo prune` follow, so that they dangle there.
#[derive(Clone, Debug)]
pub struct Closure {
    /// The application's directory.
    pub app: RelPath,
    /// The workspace packages, by directory, each with the dependency it was first reached by.
    pub packages: BTreeMap<RelPath, Why>,
    /// Directories whose whole content the install needs: `file:` dependencies, injected packages, and targets of
    /// `link:` that are no workspace packages.
    pub directories: BTreeMap<RelPath, Directory>,
    /// Tarballs in the repository that are depended on.
    pub tarballs: BTreeMap<RelPath, Why>,
    /// The entries of the lockfile.
    pub snapshots: BTreeSet<SnapshotId>,
    /// The workspace packages that are not needed, sorted.
    pub left_out: Vec<RelPath>,
    /// Paths around cycles of packages, each with its first package repeated at the end. pnpm allows them.
    pub cycles: Vec<Vec<RelPath>>,
    /// References of the lockfile that lead nowhere.
    pub broken: Vec<Broken>,
}

/// Why something is in a [`Closure`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is the root, which every install needs.
    Root,
    /// It is the application.
    App,
    /// A task of it is needed, without a dependency on it.
    Task,
    /// Something depends on it.
    Dependency(Link),
}

/// A dependency that leads to a package or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The workspace package it starts from.
    pub from: RelPath,
    /// The dependency's name in that package.
    pub name: String,
    /// What that package asks for.
    pub specifier: String,
    /// In which way.
    pub kind: DependencyKind,
    /// The packages from elsewhere that lie between, when it is not a direct dependency.
    pub through: Vec<String>,
}

/// A directory whose whole content is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// How it is used.
    pub usage: DirectoryUsage,
    /// What needs it.
    pub why: Why,
}

/// How a directory of the workspace is used by an install.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DirectoryUsage {
    /// A symbolic link points to it.
    Linked,
    /// pnpm copies it into `node_modules` when it installs, so it must be whole by then.
    Copied,
}

/// A reference of the lockfile that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What refers.
    pub why: Link,
    /// The reference in the lockfile.
    pub place: Text,
    /// What is the matter.
    pub problem: BrokenReference,
}

/// What is the matter with a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokenReference {
    /// There is no such entry in `snapshots`.
    NoSnapshot(String),
    /// The entry in `snapshots` has none in `packages`.
    NoPackage(String),
    /// The path is not inside the root.
    Path(PathError),
}

impl Closure {
    /// Says which packages depend on each other. pnpm allows it, but installs and builds them in an order that nobody
    /// chose.
    pub fn cycle_warnings(&self, workspace: &Workspace) -> Vec<Diagnostic> {
        let warn = |cycle: &Vec<RelPath>| {
            let [from, to, ..] = cycle.as_slice() else { return None };
            let names: Vec<String> = cycle.iter().map(|dir| format!("`{}`", workspace.label(dir))).collect();
            let package = workspace.packages.get(from)?;
            let name = workspace.label(to);
            let dependency = package.dependencies.iter().find(|dependency| dependency.name == name);
            let message = format!("packages depend on each other: {}", names.join(" → "));
            let warning = match dependency {
                Some(dependency) => dependency.specifier.warning(message, "leads back to this package"),
                None => Diagnostic::warning(&package.file, message),
            };
            Some(warning.hint("move what both need to a package of its own"))
        };
        self.cycles.iter().filter_map(warn).collect()
    }

    /// The closure of the package in `app`.
    pub fn of(workspace: &Workspace, app: &RelPath) -> Self {
        Self::with(workspace, app, &[])
    }

    /// The closure of the package in `app` and of others whose tasks it needs
    /// ([`TaskGraph::packages`](crate::TaskGraph::packages)).
    pub fn with(workspace: &Workspace, app: &RelPath, others: &[RelPath]) -> Self {
        let mut walk = Walk {
            workspace,
            lockfile: &workspace.lockfile,
            closure: Self {
                app: app.clone(),
                packages: BTreeMap::new(),
                directories: BTreeMap::new(),
                tarballs: BTreeMap::new(),
                snapshots: BTreeSet::new(),
                left_out: Vec::new(),
                cycles: Vec::new(),
                broken: Vec::new(),
            },
            parents: BTreeMap::new(),
            pending: VecDeque::new(),
        };
        // The application first, so that what both need is explained by it.
        walk.add_package(app.clone(), Why::App);
        walk.add_package(RelPath::root(), Why::Root);
        walk.run();
        for other in others {
            walk.add_package(other.clone(), Why::Task);
        }
        walk.run();
        let mut closure = walk.closure;
        closure.left_out =
            workspace.packages.keys().filter(|dir| !closure.packages.contains_key(*dir)).cloned().collect();
        closure.cycles = cycles(workspace, &closure);
        closure
    }

    /// The dependencies from the application (or the root) to `dir`, in order; empty for those two themselves.
    pub fn chain(&self, dir: &RelPath) -> Vec<&Link> {
        let mut chain = Vec::new();
        let mut at = dir;
        while let Some(Why::Dependency(link)) =
            self.packages.get(at).or_else(|| self.directories.get(at).map(|directory| &directory.why))
        {
            chain.push(link);
            at = &link.from;
        }
        chain.reverse();
        chain
    }

    /// Whether pnpm copies the package or directory `dir` when it installs.
    pub fn is_copied(&self, dir: &RelPath) -> bool {
        self.directories.get(dir).is_some_and(|directory| directory.usage == DirectoryUsage::Copied)
    }
}

enum Step {
    Package(RelPath),
    Snapshot(SnapshotId),
}

/// How a snapshot was first reached.
enum Parent {
    Package(RelPath, ImporterDependency),
    Snapshot(SnapshotId),
}

struct Walk<'a> {
    workspace: &'a Workspace,
    lockfile: &'a Lockfile,
    closure: Closure,
    parents: BTreeMap<SnapshotId, Parent>,
    pending: VecDeque<Step>,
}

impl Walk<'_> {
    fn run(&mut self) {
        while let Some(step) = self.pending.pop_front() {
            match step {
                Step::Package(dir) => self.package(&dir),
                Step::Snapshot(id) => self.snapshot(id),
            }
        }
    }

    fn add_package(&mut self, dir: RelPath, why: Why) {
        if !self.closure.packages.contains_key(&dir) {
            self.closure.packages.insert(dir.clone(), why);
            self.pending.push_back(Step::Package(dir));
        }
    }

    fn add_directory(&mut self, dir: RelPath, usage: DirectoryUsage, why: Why) {
        let known = self.closure.directories.get_mut(&dir);
        match known {
            Some(known) => known.usage = known.usage.max(usage),
            None => {
                self.closure.directories.insert(dir, Directory { usage, why });
            }
        }
    }

    fn package(&mut self, dir: &RelPath) {
        let Some(importer) = self.lockfile.importer(dir) else { return };
        for dependency in &importer.dependencies {
            match self.lockfile.resolve(dependency.name, dependency.version) {
                Reference::Link(path) => {
                    let link = self.link(dir, *dependency, Vec::new());
                    self.linked(dir.join(path), dependency.version, link);
                }
                Reference::Snapshot(key) => match self.lockfile.find_snapshot(&key) {
                    Some(id) => self.add_snapshot(id, Parent::Package(dir.clone(), *dependency)),
                    None => {
                        let why = self.link(dir, *dependency, Vec::new());
                        self.broken(why, dependency.version, BrokenReference::NoSnapshot(key));
                    }
                },
            }
        }
    }

    fn add_snapshot(&mut self, id: SnapshotId, parent: Parent) {
        if self.closure.snapshots.insert(id) {
            self.parents.insert(id, parent);
            self.pending.push_back(Step::Snapshot(id));
        }
    }

    fn snapshot(&mut self, id: SnapshotId) {
        match self.lockfile.local_source(id) {
            Some(LocalSource::Directory(path)) => match RelPath::new(path) {
                Ok(dir) => {
                    let why = Why::Dependency(self.link_to(id));
                    self.add_directory(dir.clone(), DirectoryUsage::Copied, why.clone());
                    if self.workspace.packages.contains_key(&dir) {
                        self.add_package(dir, why);
                    }
                }
                Err(error) => self.broken_snapshot(id, BrokenReference::Path(error)),
            },
            Some(LocalSource::Tarball(path)) => match RelPath::new(path) {
                Ok(path) => {
                    let why = Why::Dependency(self.link_to(id));
                    self.closure.tarballs.entry(path).or_insert(why);
                }
                Err(error) => self.broken_snapshot(id, BrokenReference::Path(error)),
            },
            None => {}
        }
        if self.lockfile.package_of(id).is_none() {
            let key = self.lockfile.text(self.lockfile.snapshot(id).key).to_owned();
            self.broken_snapshot(id, BrokenReference::NoPackage(key));
        }
        for edge in self.lockfile.dependencies(id) {
            match self.lockfile.resolve(edge.name, edge.version) {
                // Inside a snapshot, links are written from the root.
                Reference::Link(path) => {
                    let mut link = self.link_to(id);
                    link.through.push(self.lockfile.name_of(id).to_owned());
                    self.linked(RelPath::new(path), edge.version, link);
                }
                Reference::Snapshot(key) => match self.lockfile.find_snapshot(&key) {
                    Some(target) => self.add_snapshot(target, Parent::Snapshot(id)),
                    None => {
                        let mut why = self.link_to(id);
                        why.through.push(self.lockfile.name_of(id).to_owned());
                        self.broken(why, edge.version, BrokenReference::NoSnapshot(key));
                    }
                },
            }
        }
    }

    fn linked(&mut self, target: Result<RelPath, PathError>, place: Text, link: Link) {
        match target {
            Ok(dir)
                if self.workspace.packages.contains_key(&dir) || self.lockfile.importer(&dir).is_some() =>
            {
                self.add_package(dir, Why::Dependency(link));
            }
            Ok(dir) => self.add_directory(dir, DirectoryUsage::Linked, Why::Dependency(link)),
            Err(error) => self.broken(link, place, BrokenReference::Path(error)),
        }
    }

    fn broken(&mut self, why: Link, place: Text, problem: BrokenReference) {
        self.closure.broken.push(Broken { why, place, problem });
    }

    fn broken_snapshot(&mut self, id: SnapshotId, problem: BrokenReference) {
        let why = self.link_to(id);
        self.broken(why, self.lockfile.snapshot(id).key, problem);
    }

    fn link(&self, from: &RelPath, dependency: ImporterDependency, through: Vec<String>) -> Link {
        Link {
            from: from.clone(),
            name: self.lockfile.text(dependency.name).to_owned(),
            specifier: self.lockfile.text(dependency.specifier).to_owned(),
            kind: dependency.kind,
            through,
        }
    }

    /// The dependency of a workspace package by which a snapshot was reached, with what lies between.
    fn link_to(&self, id: SnapshotId) -> Link {
        let mut through = Vec::new();
        let mut at = id;
        loop {
            match &self.parents[&at] {
                Parent::Snapshot(parent) => {
                    through.push(self.lockfile.name_of(*parent).to_owned());
                    at = *parent;
                }
                Parent::Package(dir, dependency) => {
                    through.reverse();
                    return self.link(dir, *dependency, through);
                }
            }
        }
    }
}

fn cycles(workspace: &Workspace, closure: &Closure) -> Vec<Vec<RelPath>> {
    let dirs: Vec<&RelPath> = closure.packages.keys().collect();
    let edges: Vec<Vec<usize>> = dirs
        .iter()
        .map(|dir| {
            workspace
                .internal_dependencies(dir)
                .iter()
                .filter_map(|target| dirs.binary_search(&target).ok())
                .collect()
        })
        .collect();
    order::cycles(&edges)
        .into_iter()
        .map(|cycle| cycle.into_iter().map(|node| dirs[node].clone()).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkspaceSummary;
    use crate::testing::{edit, lab, lab_v6, path, workspace};

    fn names<'a>(dirs: impl IntoIterator<Item = &'a RelPath>) -> String {
        dirs.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    /// `turbo prune` 2.11.11 keeps the same importers and the same entries of the lockfile.
    #[test]
    fn closures_equal_those_of_turbo() {
        for files in [lab(), lab_v6()] {
            let workspace = workspace(&files);
            let web = Closure::of(&workspace, &path("apps/web"));
            assert_eq!(
                names(web.packages.keys()),
                ". apps/web packages/a packages/b packages/c packages/cfg packages/cyc1 packages/cyc2 packages/inj"
            );
            assert_eq!(names(web.directories.keys()), "packages/inj tools/linked vendor/filedep");
            assert!(web.is_copied(&path("packages/inj")) && !web.is_copied(&path("tools/linked")));
            assert_eq!(names(&web.left_out), "apps/admin packages/adm");
            assert_eq!(web.cycles, [[path("packages/cyc1"), path("packages/cyc2"), path("packages/cyc1")]]);
            assert!(web.broken.is_empty());
            let admin = Closure::of(&workspace, &path("apps/admin"));
            assert_eq!(names(admin.packages.keys()), ". apps/admin packages/adm packages/cfg");
        }
        let workspace = workspace(&lab());
        let count = |app: &str| Closure::of(&workspace, &path(app)).snapshots.len();
        assert_eq!((count("apps/web"), count("apps/admin")), (12, 7));
    }

    #[test]
    fn every_package_has_its_reason() {
        let workspace = workspace(&lab());
        let closure = Closure::with(&workspace, &path("apps/web"), &[path("packages/adm")]);
        let mut lines = Vec::new();
        for dir in closure.packages.keys().chain(closure.directories.keys()) {
            let steps = closure.chain(dir).into_iter().map(|link| {
                format!("{} -> {} ({}, {})", link.from, link.name, link.specifier, link.kind.key())
            });
            lines.push(format!("{dir}: {}", steps.collect::<Vec<_>>().join(" | ")));
        }
        assert_eq!(closure.packages[&path("packages/adm")], Why::Task);
        insta::assert_snapshot!(lines.join("\n"), @"
        .: 
        apps/web: 
        packages/a: apps/web -> @x/a (workspace:*, dependencies)
        packages/adm: 
        packages/b: apps/web -> @x/b (workspace:^1.0.0, dependencies)
        packages/c: apps/web -> @x/b (workspace:^1.0.0, dependencies) | packages/b -> c-alias (workspace:c@*, dependencies)
        packages/cfg: . -> cfg (workspace:*, devDependencies)
        packages/cyc1: apps/web -> @x/b (workspace:^1.0.0, dependencies) | packages/b -> cyc1 (workspace:*, dependencies)
        packages/cyc2: apps/web -> @x/b (workspace:^1.0.0, dependencies) | packages/b -> cyc1 (workspace:*, dependencies) | packages/cyc1 -> cyc2 (workspace:*, dependencies)
        packages/inj: apps/web -> inj (workspace:*, dependencies)
        packages/inj: apps/web -> inj (workspace:*, dependencies)
        tools/linked: apps/web -> linked (link:../../tools/linked, dependencies)
        vendor/filedep: apps/web -> filedep (file:../../vendor/filedep, dependencies)
        ");
        let summary = WorkspaceSummary::new(&workspace, &Closure::of(&workspace, &path("apps/web")));
        assert_eq!((summary.dependencies, summary.all_dependencies), (12, 16));
        assert_eq!(summary.files.len(), 2);
        assert_eq!(summary.cycles, [["cyc1", "cyc2", "cyc1"]]);
    }

    #[test]
    fn paths_in_the_lockfile_stay_inside() {
        let mut files = lab();
        edit(
            &mut files,
            "pnpm-lock.yaml",
            "version: link:../../tools/linked",
            "version: link:../../../outside",
        );
        edit(&mut files, "pnpm-lock.yaml", "{directory: vendor/filedep,", "{directory: ../vendor,");
        let closure = Closure::of(&workspace(&files), &path("apps/web"));
        let problems: Vec<String> = closure.broken.iter().map(|b| format!("{:?}", b.problem)).collect();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.contains("LeavesRoot")));
    }

    #[test]
    fn links_inside_snapshots_start_at_the_root() {
        // An injected package whose own dependency is linked.
        let mut files = lab();
        edit(
            &mut files,
            "pnpm-lock.yaml",
            "      cfg: link:packages/cfg\n",
            "      adm: link:packages/adm\n",
        );
        let closure = Closure::of(&workspace(&files), &path("apps/web"));
        let chain = closure.chain(&path("packages/adm"));
        assert_eq!(chain[0].through, ["inj"]);
    }
}
