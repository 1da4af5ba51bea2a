use std::collections::BTreeMap;

use wbuild_report::{Diagnostic, Span};

use super::{Check, UPDATE_HINT};
use crate::document::{Located, parse_yaml_part};
use crate::lockfile::{Importer, ImporterDependency, Reference};
use crate::settings::{Selector, matches_patterns, selector_name};
use crate::{Dependency, DependencyKind, Manifest, RelPath, WorkspaceError};

impl Check<'_> {
    pub(super) fn importers(&mut self) -> Result<(), WorkspaceError> {
        // Hooks may rewrite manifests, so with them a difference may be none; pnpm decides.
        let mut hooked = false;
        for path in super::settings::pnpmfiles(self.workspace) {
            hooked |= self.files.read(&path)?.is_some();
        }
        for dir in self.closure.packages.keys() {
            let Some(package) = self.workspace.package(dir) else { continue };
            let before = self.diagnostics.len();
            match self.workspace.lockfile.importer(dir) {
                Some(importer) => {
                    self.specifiers(package, importer);
                    self.dependencies_meta(package, importer);
                    self.publish_directory(package, importer);
                }
                None => self.absent(package),
            }
            if hooked {
                for diagnostic in &mut self.diagnostics[before..] {
                    diagnostic.severity = wbuild_report::Severity::Warning;
                }
            }
        }
        Ok(())
    }

    fn absent(&mut self, package: &Manifest) {
        if self.wanted(package).is_empty() {
            return;
        }
        let message =
            format!("the lockfile has no entry for the package `{}` in `{}`", package.label(), package.dir);
        let span = package.name.as_ref().map_or(Span::new(0, 0), |name| name.place.span);
        self.say(
            Diagnostic::error(&package.file, message)
                .at(span, "added after the lockfile was made")
                .hint(UPDATE_HINT),
        );
    }

    /// The dependencies that the lockfile should have, as pnpm counts them.
    fn wanted<'m>(&self, package: &'m Manifest) -> BTreeMap<&'m str, &'m Dependency> {
        let settings = &self.workspace.settings;
        let mut wanted = package.installed();
        if settings.auto_install_peers {
            for dependency in package.dependencies.iter().filter(|d| d.kind == DependencyKind::Peer) {
                wanted.entry(dependency.name.as_str()).or_insert(dependency);
            }
        }
        let ignored = &settings.ignored_optional_dependencies;
        wanted.retain(|name, dependency| {
            let linked =
                settings.exclude_links_from_lockfile && dependency.specifier.value.starts_with("link:");
            let optional = dependency.kind == DependencyKind::Optional && matches_patterns(ignored, name);
            !linked && !optional
        });
        wanted
    }

    fn specifiers(&mut self, package: &Manifest, importer: &Importer) {
        let lockfile = &self.workspace.lockfile;
        let wanted = self.wanted(package);
        let locked: BTreeMap<&str, &ImporterDependency> = importer
            .dependencies
            .iter()
            .map(|dependency| (lockfile.text(dependency.name), dependency))
            .collect();
        let importer_name = &package.dir;
        for (name, dependency) in &wanted {
            let specifier = &dependency.specifier;
            let overridden = self.overrides_of(package, name);
            let Some(found) = locked.get(name) else {
                if overridden.contains(&"-") {
                    continue;
                }
                let message =
                    format!("`{name}` (`{}`) of `{importer_name}` is not in the lockfile", specifier.value);
                self.say(specifier.error(message, "added after the lockfile was made").hint(UPDATE_HINT));
                continue;
            };
            let locked_specifier = lockfile.text(found.specifier);
            if locked_specifier != specifier.value
                && !overridden.iter().any(|spec| same_target(spec, locked_specifier))
            {
                let message = format!(
                    "`{name}` of `{importer_name}` is `{}` in package.json, but `{locked_specifier}` in the lockfile",
                    specifier.value
                );
                self.say(specifier.error(message, "changed after the lockfile was made").hint(UPDATE_HINT));
                continue;
            }
            let kind = match dependency.kind {
                DependencyKind::Peer => DependencyKind::Production,
                kind => kind,
            };
            if found.kind != kind {
                let message = format!(
                    "`{name}` of `{importer_name}` is in `{}`, but the lockfile has it in `{}`",
                    dependency.kind.key(),
                    found.kind.key()
                );
                self.say(specifier.error(message, "moved after the lockfile was made").hint(UPDATE_HINT));
            }
            self.workspace_reference(package, dependency, found);
        }
        for (name, found) in locked.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
            if self.extended(package, name) || !self.overrides_of(package, name).is_empty() {
                continue;
            }
            let message = format!(
                "`{name}` (`{}`) of `{importer_name}` is in the lockfile, but not in its package.json",
                lockfile.text(found.specifier)
            );
            let removed = lockfile.located((), found.name).error(message, "removed from package.json since");
            self.say(removed.hint(UPDATE_HINT));
        }
    }

    /// What overrides would make of the dependency `name` of `package`. Ranges in selectors are not weighed.
    fn overrides_of(&self, package: &Manifest, name: &str) -> Vec<&str> {
        self.workspace
            .settings
            .overrides
            .iter()
            .filter(|(selector, _)| {
                Selector::parse(selector).is_some_and(|selector| {
                    selector.name == name
                        && selector
                            .parent
                            .is_none_or(|parent| package.name.as_ref().is_some_and(|own| own.value == parent))
                })
            })
            .map(|(_, spec)| spec.value.as_str())
            .collect()
    }

    /// Whether `packageExtensions` may give the dependency `name` to `package`.
    fn extended(&self, package: &Manifest, name: &str) -> bool {
        let Some(own) = &package.name else { return false };
        let extensions = self.workspace.settings.package_extensions.as_ref();
        extensions.into_iter().flat_map(|node| node.value.members()).any(|member| {
            selector_name(&member.key) == own.value
                && DependencyKind::ALL.iter().any(|(_, key)| {
                    member.node.get(key).is_some_and(|dependencies| dependencies.get(name).is_some())
                })
        })
    }

    /// A dependency asked for as `workspace:` must be a package of the workspace, of that name.
    fn workspace_reference(
        &mut self,
        package: &Manifest,
        dependency: &Dependency,
        found: &ImporterDependency,
    ) {
        let Some(range) = dependency.specifier.value.strip_prefix("workspace:") else { return };
        let lockfile = &self.workspace.lockfile;
        let target = match lockfile.resolve(found.name, found.version) {
            Reference::Link(path) => package.dir.join(path).ok(),
            Reference::Snapshot(key) => {
                lockfile.find_snapshot(&key).and_then(|id| match lockfile.local_source(id)? {
                    crate::LocalSource::Directory(path) => RelPath::new(path).ok(),
                    crate::LocalSource::Tarball(_) => None,
                })
            }
        };
        let Some(target) = target else {
            let message = format!(
                "`{}` of `{}` is asked for as `{}`, but the lockfile has `{}`",
                dependency.name,
                package.dir,
                dependency.specifier.value,
                lockfile.text(found.version)
            );
            self.say(dependency.specifier.error(message, "not from the workspace").hint(UPDATE_HINT));
            return;
        };
        let Some(linked) = self.workspace.package(&target) else { return };
        // `workspace:other@*` and `workspace:../other` name another package on purpose.
        let plain = !range.contains('/') && !range.contains('@');
        let name = linked.name.as_ref().map_or("", |name| name.value.as_str());
        if plain && name != dependency.name {
            let message = format!(
                "`{}` of `{}` is linked to `{target}`, which is now named `{name}`",
                dependency.name, package.dir
            );
            self.say(dependency.specifier.error(message, "no package of this name").hint(UPDATE_HINT));
        }
    }

    fn dependencies_meta(&mut self, package: &Manifest, importer: &Importer) {
        let empty = serde_json::Value::Object(serde_json::Map::new());
        let member = package.document.member("dependenciesMeta");
        let wanted = member.map_or_else(|| empty.clone(), |member| member.node.to_json());
        let locked = match importer.dependencies_meta {
            Some(part) => match parse_yaml_part(self.workspace.lockfile.file(), part) {
                Ok(node) => node.to_json(),
                Err(diagnostic) => return self.say(*diagnostic),
            },
            None => empty,
        };
        if wanted == locked {
            return;
        }
        let message = format!("`dependenciesMeta` of `{}` is not that of the lockfile", package.dir);
        let diagnostic = match member {
            Some(member) => Located::new((), &package.file, member.key_span).error(message, "changed since"),
            None => self.workspace.lockfile.located((), importer.key).error(message, "has one here"),
        };
        self.say(diagnostic.hint(UPDATE_HINT));
    }

    fn publish_directory(&mut self, package: &Manifest, importer: &Importer) {
        let wanted = package.document.get("publishConfig").and_then(|config| config.get("directory"));
        let locked = importer.publish_directory.map(|text| self.workspace.lockfile.text(text));
        if wanted.and_then(|node| node.as_str()) == locked {
            return;
        }
        let message = format!("`publishConfig.directory` of `{}` is not that of the lockfile", package.dir);
        let span = package.key_span("publishConfig");
        self.say(Diagnostic::error(&package.file, message).at(span, "changed since").hint(UPDATE_HINT));
    }
}

/// Whether an override's value is what a lockfile's specifier shows: local targets are rewritten for the importer.
fn same_target(spec: &str, locked: &str) -> bool {
    spec == locked
        || ["link:", "file:"]
            .iter()
            .any(|protocol| spec.starts_with(protocol) && locked.starts_with(protocol))
}
