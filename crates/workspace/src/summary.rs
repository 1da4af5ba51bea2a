use serde::Serialize;

use crate::{Closure, Link, Why, Workspace};

/// What `wbuild workspace` prints: who is in an application's closure and why, and who is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkspaceSummary {
    /// The application's name.
    pub app: String,
    /// Its directory.
    pub dir: String,
    /// The pnpm that is pinned.
    pub pnpm: Option<String>,
    /// The workspace packages of the closure, sorted by directory.
    pub packages: Vec<PackageSummary>,
    /// Directories and tarballs of the repository that the install needs beside them.
    pub files: Vec<PackageSummary>,
    /// The workspace packages that are left out.
    pub left_out: Vec<PackageSummary>,
    /// Cycles, each as names with the first repeated at the end.
    pub cycles: Vec<Vec<String>>,
    /// How many entries of the lockfile are needed.
    pub dependencies: usize,
    /// How many there are.
    pub all_dependencies: usize,
}

/// A package in a [`WorkspaceSummary`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackageSummary {
    /// Its name, or its directory when it has none.
    pub name: String,
    /// Its directory.
    pub dir: String,
    /// How it is reached: one step for each dependency on the way. Empty for the application, the root, and what is
    /// left out.
    pub why: Vec<WhyStep>,
}

/// One dependency on the way to a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WhyStep {
    /// The package that depends.
    pub from: String,
    /// On what.
    pub name: String,
    /// How it is asked for.
    pub specifier: String,
    /// The key of package.json.
    pub kind: &'static str,
    /// Packages from elsewhere that lie between.
    pub through: Vec<String>,
}

impl WorkspaceSummary {
    /// The summary of a closure.
    pub fn new(workspace: &Workspace, closure: &Closure) -> Self {
        let step = |link: &Link| WhyStep {
            from: workspace.label(&link.from).to_owned(),
            name: link.name.clone(),
            specifier: link.specifier.clone(),
            kind: link.kind.key(),
            through: link.through.clone(),
        };
        let package = |dir: &crate::RelPath| PackageSummary {
            name: workspace.label(dir).to_owned(),
            dir: dir.to_string(),
            why: closure.chain(dir).into_iter().map(step).collect(),
        };
        let tarballs = closure.tarballs.iter().map(|(path, why)| PackageSummary {
            name: path.to_string(),
            dir: path.to_string(),
            why: match why {
                Why::Dependency(link) => vec![step(link)],
                Why::Root | Why::App | Why::Task => Vec::new(),
            },
        });
        Self {
            app: workspace.label(&closure.app).to_owned(),
            dir: closure.app.to_string(),
            pnpm: workspace.settings.pnpm_version.clone(),
            packages: closure.packages.keys().map(package).collect(),
            files: closure
                .directories
                .keys()
                .filter(|dir| !closure.packages.contains_key(*dir))
                .map(package)
                .chain(tarballs)
                .collect(),
            left_out: closure.left_out.iter().map(package).collect(),
            cycles: closure
                .cycles
                .iter()
                .map(|cycle| cycle.iter().map(|dir| workspace.label(dir).to_owned()).collect())
                .collect(),
            dependencies: closure.snapshots.len(),
            all_dependencies: workspace.lockfile.snapshots().count(),
        }
    }
}
