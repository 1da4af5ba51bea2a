mod app;
mod discover;

use std::collections::BTreeMap;
use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile};

use crate::document::{Node, Value, parse_yaml};
use crate::error::without_errors;
use crate::lockfile::{LOCKFILE, lockfile_major, missing_lockfile};
use crate::manifest::MANIFEST;
use crate::settings::{self, WORKSPACE_FILE};
use crate::source::{MAX_CONFIG, MAX_LOCKFILE, read_source};
use crate::{Files, Lockfile, Manifest, Npmrc, Reference, RelPath, Settings, WorkspaceError};

pub use app::AppError;

/// A pnpm workspace: its manifests, settings and lockfile.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// `pnpm-workspace.yaml`.
    pub file: Arc<SourceFile>,
    /// All packages by directory, the root among them.
    pub packages: BTreeMap<RelPath, Manifest>,
    /// What pnpm is told.
    pub settings: Settings,
    /// `pnpm-lock.yaml`.
    pub lockfile: Lockfile,
    /// The `.npmrc` of the root and of packages, by directory.
    pub npmrc: BTreeMap<RelPath, Npmrc>,
    /// What is probably not as its author believes.
    pub warnings: Vec<Diagnostic>,
}

impl Workspace {
    /// Reads the workspace whose root is the root of `files`. Everything that is wrong is said at once.
    pub fn read(files: &dyn Files) -> Result<Self, WorkspaceError> {
        let mut diagnostics = Vec::new();
        let root = match read_manifest(files, &RelPath::root(), &mut diagnostics)? {
            Some(root) => root,
            None => {
                let file = SourceFile::new(MANIFEST, "");
                return Err(Diagnostic::error(&file, "there is no package.json at the workspace root")
                    .hint("run wbuild at the root of the repository, or name it with `--directory`, and check that .dockerignore does not leave it out")
                    .into());
            }
        };
        let npmrc = read_npmrc(files, &RelPath::root())?;
        let lockfile = read_source(files, &child(LOCKFILE), MAX_LOCKFILE)?;
        let file = read_source(files, &child(WORKSPACE_FILE), MAX_CONFIG)?;
        let document = match &file {
            Some(file) => read_workspace_file(file, &mut diagnostics)?,
            None => {
                diagnostics.push(missing_workspace_file(files)?);
                None
            }
        };
        let parsed = file.as_ref().zip(document.as_ref());
        let written_by = lockfile.as_ref().and_then(|file| lockfile_major(&file.text));
        let settings = settings::read(parsed, &root, npmrc.as_ref(), written_by, &mut diagnostics);
        let packages = discover::discover(files, root, &settings, file.as_ref(), &mut diagnostics)?;
        check_names(&packages, &mut diagnostics);
        warn_settings_below_root(&packages, &mut diagnostics);

        let lockfile = match lockfile {
            Some(file) => match Lockfile::parse(&file) {
                Ok(lockfile) => Some(lockfile),
                Err(WorkspaceError::Invalid(found)) => {
                    diagnostics.extend(found);
                    None
                }
                Err(error) => return Err(error),
            },
            None => {
                diagnostics.push(missing_lockfile());
                None
            }
        };
        let warnings = without_errors(diagnostics)?;
        let (Some(file), Some(lockfile)) = (file, lockfile) else {
            // Each absence has put an error into the diagnostics, so this is not reached.
            return Err(WorkspaceError::Invalid(warnings));
        };

        let mut all_npmrc = BTreeMap::new();
        for dir in packages.keys().filter(|dir| !dir.is_root()) {
            if let Some(found) = read_npmrc(files, dir)? {
                all_npmrc.insert(dir.clone(), found);
            }
        }
        all_npmrc.extend(npmrc.map(|npmrc| (RelPath::root(), npmrc)));
        Ok(Self { file, packages, settings, lockfile, npmrc: all_npmrc, warnings })
    }

    /// The manifest of the root.
    pub fn root(&self) -> &Manifest {
        // `read` puts it there, and nothing takes it away.
        &self.packages[&RelPath::root()]
    }

    /// The package in a directory.
    pub fn package(&self, dir: &RelPath) -> Option<&Manifest> {
        self.packages.get(dir)
    }

    /// The package with a name.
    pub fn by_name(&self, name: &str) -> Option<&Manifest> {
        self.packages.values().find(|package| package.name.as_ref().is_some_and(|own| own.value == name))
    }

    /// What to call the package in `dir`: its name, or its directory.
    pub fn label<'a>(&'a self, dir: &'a RelPath) -> &'a str {
        match self.package(dir) {
            Some(package) => package.label(),
            None => dir.as_str(),
        }
    }

    /// The workspace packages that the package in `dir` depends on as such, in any kind but peer, sorted: what `^`
    /// means in a task's `dependsOn`. A plain `link:` or `file:` is not among them, as in turbo.
    pub fn internal_dependencies(&self, dir: &RelPath) -> Vec<RelPath> {
        let Some(importer) = self.lockfile.importer(dir) else { return Vec::new() };
        // `autoInstallPeers` puts peers among the other dependencies of the lockfile.
        let installed = self.package(dir).map(Manifest::installed).unwrap_or_default();
        let mut found: Vec<RelPath> = importer
            .dependencies
            .iter()
            .filter(|dependency| {
                let specifier = self.lockfile.text(dependency.specifier);
                let plain = !specifier.starts_with("link:") && !specifier.starts_with("file:");
                plain && installed.contains_key(self.lockfile.text(dependency.name))
            })
            .filter_map(|dependency| match self.lockfile.resolve(dependency.name, dependency.version) {
                Reference::Link(path) => dir.join(path).ok(),
                Reference::Snapshot(key) => {
                    let id = self.lockfile.find_snapshot(&key)?;
                    match self.lockfile.local_source(id)? {
                        crate::LocalSource::Directory(path) => RelPath::new(path).ok(),
                        crate::LocalSource::Tarball(_) => None,
                    }
                }
            })
            .filter(|target| self.packages.contains_key(target) && target != dir)
            .collect();
        found.sort();
        found.dedup();
        found
    }

    /// What the package in `dir` links to with a plain `link:`, packages of the workspace or not, sorted.
    pub fn plain_links(&self, dir: &RelPath) -> Vec<RelPath> {
        let Some(package) = self.package(dir) else { return Vec::new() };
        let links = package.dependencies.iter().filter_map(|d| d.specifier.value.strip_prefix("link:"));
        let mut found: Vec<RelPath> = links.filter_map(|path| dir.join(path).ok()).collect();
        found.sort();
        found.dedup();
        found
    }

    /// Whether a package is a Next.js application: it depends on `next` outside of peers and builds with it, in its
    /// script `build` or one that this runs.
    pub fn is_next_app(&self, package: &Manifest) -> bool {
        package.depends_on_next() && package.runs("build", "next")
    }

    /// The version of turbo that the root depends on, as the lockfile has it.
    pub fn turbo_version(&self) -> Option<&str> {
        let importer = self.lockfile.importer(&RelPath::root())?;
        let mut dependencies = importer.dependencies.iter();
        let found = dependencies.find(|dependency| self.lockfile.text(dependency.name) == "turbo")?;
        let version = self.lockfile.text(found.version).split('(').next()?;
        version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
    }
}

fn child(name: &str) -> RelPath {
    RelPath::root().child(name)
}

fn read_manifest(
    files: &dyn Files,
    dir: &RelPath,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Option<Manifest>, WorkspaceError> {
    let Some(file) = read_source(files, &dir.child(MANIFEST), MAX_CONFIG)? else { return Ok(None) };
    match Manifest::parse(dir, &file, diagnostics) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(diagnostic) if dir.is_root() => Err(diagnostic.into()),
        Err(diagnostic) => {
            diagnostics.push(*diagnostic);
            Ok(None)
        }
    }
}

fn read_npmrc(files: &dyn Files, dir: &RelPath) -> Result<Option<Npmrc>, WorkspaceError> {
    Ok(read_source(files, &dir.child(".npmrc"), MAX_CONFIG)?.map(|file| Npmrc::parse(&file)))
}

fn read_workspace_file(
    file: &Arc<SourceFile>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Option<Node>, WorkspaceError> {
    match parse_yaml(file) {
        Ok(node) if matches!(node.value, Value::Map(_) | Value::Null) => Ok(Some(node)),
        Ok(node) => {
            diagnostics.push(
                Diagnostic::error(file, format!("a workspace file must be a map, not {}", node.kind()))
                    .at(node.span, "not a map"),
            );
            Ok(None)
        }
        Err(diagnostic) => {
            diagnostics.push(*diagnostic);
            Ok(None)
        }
    }
}

fn missing_workspace_file(files: &dyn Files) -> Result<Diagnostic, WorkspaceError> {
    let file = SourceFile::new(WORKSPACE_FILE, "");
    let diagnostic = Diagnostic::error(
        &file,
        "there is no pnpm-workspace.yaml at the workspace root: pnpm would install the root package only",
    );
    for wrong in ["pnpm-workspace.yml", "pnpm-workspaces.yaml", "pnpm-workspaces.yml"] {
        if files.read(&child(wrong))?.is_some() {
            return Ok(diagnostic.hint(format!("rename `{wrong}` to `{WORKSPACE_FILE}`")));
        }
    }
    Ok(diagnostic.hint("create it with `packages:` and the globs of the packages, and check that .dockerignore does not leave it out"))
}

fn check_names(packages: &BTreeMap<RelPath, Manifest>, diagnostics: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<&str, &Manifest> = BTreeMap::new();
    for package in packages.values() {
        let Some(name) = &package.name else { continue };
        if let Some(first) = seen.get(name.value.as_str()) {
            let message =
                format!("two packages are named `{}`: `{}` and `{}`", name.value, first.dir, package.dir);
            diagnostics.push(name.error(message, "the second one").hint(
                "rename one, or take it out of the workspace with a `!` pattern in pnpm-workspace.yaml",
            ));
        } else {
            seen.insert(&name.value, package);
        }
    }
}

fn warn_settings_below_root(packages: &BTreeMap<RelPath, Manifest>, diagnostics: &mut Vec<Diagnostic>) {
    for package in packages.values().filter(|package| !package.dir.is_root()) {
        for key in ["pnpm", "resolutions"] {
            let Some(member) = package.document.member(key) else { continue };
            // `executionEnv` is the one setting that pnpm reads below the root.
            if member.node.members().iter().all(|member| member.key == "executionEnv") {
                continue;
            }
            diagnostics.push(
                Diagnostic::warning(
                    &package.file,
                    format!("pnpm reads `{key}` of the root package.json only"),
                )
                .at(member.key_span, "has no effect"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{edit, lab, path, said, workspace_files};

    fn problems(files: &crate::MemoryFiles) -> String {
        said(Workspace::read(files).unwrap_err().diagnostics())
    }

    #[test]
    fn the_lab_is_read() {
        let workspace = Workspace::read(&lab()).unwrap();
        assert_eq!(workspace.packages.len(), 11);
        assert_eq!(said(&workspace.warnings), "");
        assert_eq!(
            workspace.internal_dependencies(&path("packages/b")),
            [path("packages/c"), path("packages/cyc1")]
        );
        let web: Vec<String> =
            workspace.internal_dependencies(&path("apps/web")).iter().map(ToString::to_string).collect();
        assert_eq!(
            web,
            ["packages/a", "packages/b", "packages/inj"],
            "`file:` and `link:` are not among them"
        );
    }

    #[test]
    fn missing_files_are_said() {
        let mut files = workspace_files("packages: []\n");
        files.remove(&path("pnpm-workspace.yaml"));
        files.remove(&path("pnpm-lock.yaml"));
        insta::assert_snapshot!(problems(&files), @"
        Error: pnpm-workspace.yaml: there is no pnpm-workspace.yaml at the workspace root: pnpm would install the root package only
          hint: create it with `packages:` and the globs of the packages, and check that .dockerignore does not leave it out
        Error: pnpm-lock.yaml: the workspace has no pnpm-lock.yaml at its root
          hint: write it with `pnpm install --lockfile-only` and commit it, and check that .dockerignore does not leave it out
        ");
        files.insert(path("pnpm-workspace.yml"), "");
        insta::assert_snapshot!(problems(&files), @"
        Error: pnpm-workspace.yaml: there is no pnpm-workspace.yaml at the workspace root: pnpm would install the root package only
          hint: rename `pnpm-workspace.yml` to `pnpm-workspace.yaml`
        Error: pnpm-lock.yaml: the workspace has no pnpm-lock.yaml at its root
          hint: write it with `pnpm install --lockfile-only` and commit it, and check that .dockerignore does not leave it out
        ");
        files.remove(&path("package.json"));
        insta::assert_snapshot!(problems(&files), @"
        Error: package.json: there is no package.json at the workspace root
          hint: run wbuild at the root of the repository, or name it with `--directory`, and check that .dockerignore does not leave it out
        ");
    }

    #[test]
    fn unreadable_texts_are_said_together() {
        let mut files = lab();
        edit(&mut files, "pnpm-workspace.yaml", "catalogs:", "catalog:");
        edit(&mut files, "apps/web/package.json", "\"version\":", "version:");
        edit(&mut files, "pnpm-lock.yaml", "lockfileVersion: '9.0'", "lockfileVersion: '7.0'");
        insta::assert_snapshot!(problems(&files), @"
        Error: pnpm-workspace.yaml:9:1: not valid YAML: duplicate mapping key: catalog
        Error: pnpm-lock.yaml:1:1: lockfile version unknown: `7.0`
          hint: write it with a pnpm from 8 to 12: `pnpm install --lockfile-only`
        ");
        files.insert(path("package.json"), vec![b'{', 0xff, b'}']);
        insta::assert_snapshot!(problems(&files), @"Error: package.json:1:2: is not valid UTF-8");
    }
}
