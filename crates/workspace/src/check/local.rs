use wbuild_report::{Diagnostic, Span};

use super::{Check, UPDATE_HINT};
use crate::closure::{Broken, BrokenReference, Directory, DirectoryUsage, Link, Why};
use crate::manifest::MANIFEST;
use crate::{DependencyKind, RelPath, WorkspaceError};

const LEFT_OUT_HINT: &str = "restore it, check that .dockerignore does not leave it out, or remove the dependency and run `pnpm install --lockfile-only`";

impl Check<'_> {
    pub(super) fn local(&mut self) -> Result<(), WorkspaceError> {
        for broken in &self.closure.broken {
            self.broken(broken);
        }
        for (dir, why) in &self.closure.packages {
            if self.workspace.package(dir).is_none() {
                self.missing_package(dir, why);
            }
        }
        for (dir, directory) in &self.closure.directories {
            self.directory(dir, directory)?;
        }
        for (path, why) in &self.closure.tarballs {
            if self.files.read(path)?.is_none() {
                self.missing(why, &format!("the tarball `{path}` does not exist"), "no such file");
            }
        }
        self.bins()
    }

    /// Points at the dependency in the manifest that asks for something.
    fn missing(&mut self, why: &Why, message: &str, label: &str) {
        let Why::Dependency(link) = why else { return };
        let package = self.workspace.package(&link.from);
        let dependency = package
            .and_then(|package| package.dependencies.iter().find(|dependency| dependency.name == link.name));
        let diagnostic = match (dependency, package) {
            (Some(dependency), _) => dependency.specifier.error(message, label),
            (None, Some(package)) => Diagnostic::error(&package.file, message),
            (None, None) => Diagnostic::error(self.workspace.lockfile.file(), message),
        };
        self.say(diagnostic.hint(LEFT_OUT_HINT));
    }

    fn missing_package(&mut self, dir: &RelPath, why: &Why) {
        let Why::Dependency(Link { from, name, .. }) = why else { return };
        let message =
            format!("`{name}` of `{from}` is linked to `{dir}`, where there is no workspace package");
        self.missing(why, &message, "its package is missing");
    }

    fn directory(&mut self, dir: &RelPath, directory: &Directory) -> Result<(), WorkspaceError> {
        let Why::Dependency(link) = &directory.why else { return Ok(()) };
        let (name, from) = (&link.name, &link.from);
        match directory.usage {
            DirectoryUsage::Linked => {
                if self.files.list(dir)?.is_empty() {
                    let message = format!("`{name}` of `{from}` is linked to `{dir}`, which does not exist");
                    self.missing(&directory.why, &message, "no such directory");
                }
            }
            DirectoryUsage::Copied => {
                if self.files.read(&dir.child(MANIFEST))?.is_none() {
                    let message =
                        format!("`{name}` of `{from}` is copied from `{dir}`, which has no package.json");
                    self.missing(&directory.why, &message, "no such package");
                } else {
                    self.copied(dir)?;
                }
            }
        }
        Ok(())
    }

    /// The dependencies of a `file:` package were resolved when the lockfile was made; new ones are not in it.
    fn copied(&mut self, dir: &RelPath) -> Result<(), WorkspaceError> {
        // A workspace package is compared as an importer.
        if self.workspace.package(dir).is_some() {
            return Ok(());
        }
        let Some(file) =
            crate::source::read_source(self.files, &dir.child(MANIFEST), crate::source::MAX_CONFIG)?
        else {
            return Ok(());
        };
        let manifest = match crate::Manifest::parse(dir, &file, &mut self.diagnostics) {
            Ok(manifest) => manifest,
            Err(diagnostic) => {
                self.say(*diagnostic);
                return Ok(());
            }
        };
        let lockfile = &self.workspace.lockfile;
        let variants = self.closure.snapshots.iter().filter(|id| {
            matches!(lockfile.local_source(**id), Some(crate::LocalSource::Directory(path)) if RelPath::new(path).as_ref() == Ok(dir))
        });
        for id in variants {
            let locked: Vec<&str> =
                lockfile.dependencies(*id).iter().map(|edge| lockfile.text(edge.name)).collect();
            for dependency in &manifest.dependencies {
                let needed = matches!(dependency.kind, DependencyKind::Production | DependencyKind::Optional);
                if needed && !locked.contains(&dependency.name.as_str()) {
                    let message = format!("`{}` of `{dir}` is not in the lockfile", dependency.name);
                    self.say(
                        dependency
                            .specifier
                            .error(message, "added after the lockfile was made")
                            .hint(UPDATE_HINT),
                    );
                }
            }
        }
        Ok(())
    }

    fn broken(&mut self, broken: &Broken) {
        let Link { from, name, .. } = &broken.why;
        let located = self.workspace.lockfile.located((), broken.place);
        let diagnostic = match &broken.problem {
            BrokenReference::NoSnapshot(key) => located.error(
                format!("`{name}` of `{from}` leads to `{key}`, which the lockfile does not have"),
                "no such entry",
            ),
            BrokenReference::NoPackage(key) => located.error(
                format!("`{name}` of `{from}` leads to `{key}`, which the lockfile's `packages` do not have"),
                "no such package",
            ),
            BrokenReference::Path(error) => {
                located.error(format!("`{name}` of `{from}`: {error}"), "not inside the workspace")
            }
        };
        self.say(diagnostic.hint("the lockfile is damaged; let pnpm mend it: `pnpm install --fix-lockfile`"));
    }

    /// A command whose file is not there at install time gets no entry in `.bin`; wbuild puts an empty file there,
    /// which is right when the build makes the real one, and hides a mistake when nothing does.
    fn bins(&mut self) -> Result<(), WorkspaceError> {
        for (dir, why) in &self.closure.packages {
            let (Why::Dependency(_), Some(package)) = (why, self.workspace.package(dir)) else { continue };
            for (command, path) in &package.bin {
                let Ok(target) = dir.join(path.value.trim_start_matches('/')) else { continue };
                if self.files.read(&target)?.is_none() {
                    let message = format!("the command `{command}` of `{}` has no file yet", package.label());
                    let span = path.place.span;
                    self.say(
                        Diagnostic::warning(&package.file, message)
                            .at(Span::new(span.start, span.end), "made by a task, or missing")
                            .hint("nothing to do when a task of the build writes it"),
                    );
                }
            }
        }
        Ok(())
    }
}
