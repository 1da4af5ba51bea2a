use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use wbuild_report::{Diagnostic, nearest};

use super::{Check, UPDATE_HINT};
use crate::document::Located;
use crate::settings::{catalog_name, selector_name};
use crate::{LockfileVersion, RelPath, WorkspaceError, object_hash};

/// pnpm's default.
const PNPMFILE: &str = ".pnpmfile.cjs";

impl Check<'_> {
    pub(super) fn settings(&mut self) -> Result<(), WorkspaceError> {
        self.overrides();
        self.package_extensions();
        self.ignored_optional_dependencies();
        self.patches()?;
        self.switches();
        self.pnpmfile()?;
        self.catalogs();
        Ok(())
    }

    fn overrides(&mut self) {
        let workspace = self.workspace;
        self.compare("override", &workspace.settings.overrides, &workspace.lockfile.settings().overrides);
    }

    /// Says for each key of two maps whether the lockfile's value is another one, missing, or left over.
    fn compare(
        &mut self,
        what: &str,
        wanted: &BTreeMap<String, Located<String>>,
        locked: &BTreeMap<String, Located<String>>,
    ) {
        for (key, value) in wanted {
            let diagnostic = match locked.get(key) {
                Some(locked) if locked.value == value.value => continue,
                Some(locked) => value.error(
                    format!(
                        "the {what} `{key}` is `{}`, but the lockfile was made with `{}`",
                        value.value, locked.value
                    ),
                    "not what the lockfile has",
                ),
                None => value.error(
                    format!("the {what} `{key}` is not in the lockfile"),
                    "added after the lockfile was made",
                ),
            };
            self.say(diagnostic.hint(UPDATE_HINT));
        }
        for (key, value) in locked.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
            self.say(
                value
                    .error(
                        format!("the lockfile was made with the {what} `{key}`, which is no longer set"),
                        "no longer set",
                    )
                    .hint(UPDATE_HINT),
            );
        }
    }

    fn package_extensions(&mut self) {
        let locked = self.workspace.lockfile.settings().package_extensions_checksum.as_ref();
        let set = self.workspace.settings.package_extensions.as_ref();
        // pnpm 9 and earlier wrote another kind of hash, without a prefix; it is pnpm's to compare.
        if locked.is_some_and(|locked| !locked.value.starts_with("sha256-")) {
            return;
        }
        let diagnostic = match (set, locked) {
            (None, None) => return,
            (Some(set), Some(locked)) if object_hash::checksum(&set.value) == locked.value => return,
            (Some(set), Some(_)) => {
                set.error("`packageExtensions` has changed since the lockfile was made", "changed")
            }
            (Some(set), None) => {
                set.error("`packageExtensions` was added after the lockfile was made", "not in the lockfile")
            }
            (None, Some(locked)) => locked.error(
                "the lockfile was made with `packageExtensions`, which are no longer set",
                "no longer set",
            ),
        };
        self.say(diagnostic.hint(UPDATE_HINT));
    }

    fn ignored_optional_dependencies(&mut self) {
        let map = |list: &[Located<String>]| -> BTreeMap<String, Located<String>> {
            list.iter().map(|entry| (entry.value.clone(), entry.clone())).collect()
        };
        let wanted = map(&self.workspace.settings.ignored_optional_dependencies);
        let locked = map(&self.workspace.lockfile.settings().ignored_optional_dependencies);
        self.compare("ignored optional dependency", &wanted, &locked);
    }

    fn patches(&mut self) -> Result<(), WorkspaceError> {
        let lockfile = &self.workspace.lockfile;
        let kept = lockfile.kept_patches(&self.closure.snapshots);
        let names: BTreeSet<&str> = self.closure.snapshots.iter().map(|id| lockfile.name_of(*id)).collect();
        for (selector, path) in &self.workspace.settings.patched_dependencies {
            let locked = lockfile.settings().patched_dependencies.get(selector);
            // A patch of a package that the application does not use is cut from what is installed.
            if !kept.contains(selector.as_str())
                && (locked.is_some() || !names.contains(selector_name(selector)))
            {
                continue;
            }
            let Some(locked) = locked else {
                let message = format!("the patch of `{selector}` is not in the lockfile");
                self.say(path.error(message, "added after the lockfile was made").hint(UPDATE_HINT));
                continue;
            };
            let Some(content) = self.files.read(&path.value)? else {
                let message = format!("the patch file `{}` of `{selector}` does not exist", path.value);
                self.say(path.error(message, "no such file").hint(
                    "restore it, check that .dockerignore does not leave it out, or remove the entry and run `pnpm install --lockfile-only`",
                ));
                continue;
            };
            if locked.path.as_ref().is_some_and(|locked| *locked != path.value.as_str()) {
                let message = format!(
                    "the patch of `{selector}` is `{}`, but the lockfile has `{}`",
                    path.value,
                    locked.path.as_deref().unwrap_or_default()
                );
                self.say(path.error(message, "moved since the lockfile was made").hint(UPDATE_HINT));
            }
            let hash = hex::encode(Sha256::digest(normalised(&content)));
            // Before pnpm 10 the hash was a shorter one of another kind; pnpm compares that itself.
            if locked.hash.value.len() == hash.len() && locked.hash.value != hash {
                let message =
                    format!("the patch file `{}` has changed since the lockfile was made", path.value);
                self.say(path.error(message, "its SHA-256 is another one").hint(UPDATE_HINT));
            }
        }
        for selector in kept {
            if !self.workspace.settings.patched_dependencies.contains_key(selector) {
                let locked = &lockfile.settings().patched_dependencies[selector];
                let message =
                    format!("the lockfile was made with a patch of `{selector}`, which is no longer set");
                self.say(locked.hash.error(message, "no longer set").hint(UPDATE_HINT));
            }
        }
        Ok(())
    }

    fn switches(&mut self) {
        let settings = &self.workspace.settings;
        let locked = self.workspace.lockfile.settings();
        let max = locked.peers_suffix_max_length.unwrap_or(1000);
        let switches = [
            (
                "autoInstallPeers",
                settings.auto_install_peers.to_string(),
                locked.auto_install_peers.map(|value| value.to_string()),
            ),
            (
                "excludeLinksFromLockfile",
                settings.exclude_links_from_lockfile.to_string(),
                locked.exclude_links_from_lockfile.map(|value| value.to_string()),
            ),
            (
                "injectWorkspacePackages",
                settings.inject_workspace_packages.to_string(),
                Some(locked.inject_workspace_packages.unwrap_or(false).to_string()),
            ),
            ("peersSuffixMaxLength", settings.peers_suffix_max_length.to_string(), Some(max.to_string())),
        ];
        for (key, value, locked) in switches {
            let Some(locked) = locked.filter(|locked| *locked != value) else { continue };
            let file = self.workspace.lockfile.file();
            let mut diagnostic = Diagnostic::error(
                file,
                format!("`{key}` is {value}, but the lockfile was made with {locked}"),
            );
            if let Some(section) = self.workspace.lockfile.section("settings") {
                diagnostic = diagnostic.at(section.head, "the settings it was made with");
            }
            self.say(diagnostic.hint(UPDATE_HINT));
        }
    }

    fn pnpmfile(&mut self) -> Result<(), WorkspaceError> {
        let settings = &self.workspace.settings;
        let locked = self.workspace.lockfile.settings().pnpmfile_checksum.as_ref();
        let mut contents = Vec::new();
        let mut has_hooks = false;
        for path in pnpmfiles(self.workspace) {
            match self.files.read(&path)? {
                Some(content) => {
                    let content = normalised(&content);
                    has_hooks |= content.windows(5).any(|window| window == b"hooks");
                    contents.push((path, content));
                }
                None if path.as_str() == PNPMFILE => {}
                None => {
                    let place = settings.pnpmfiles.iter().find(|file| file.value == path);
                    if let Some(place) = place {
                        let message = format!("the pnpmfile `{path}` does not exist");
                        self.say(place.error(message, "no such file"));
                    }
                }
            }
        }
        contents.sort();
        let checksum = match contents.as_slice() {
            [] => None,
            [(_, one)] => Some(object_hash::prefixed(one)),
            several => {
                let hashes: Vec<String> =
                    several.iter().map(|(_, content)| object_hash::prefixed(content)).collect();
                Some(object_hash::prefixed(hashes.join(",").as_bytes()))
            }
        };
        match (locked, checksum) {
            (Some(locked), None) => self.say(
                locked
                    .error(
                        "the lockfile was made with a .pnpmfile.cjs, which does not exist",
                        "of a file that is gone",
                    )
                    .hint("restore it, check that .dockerignore does not leave it out, or run `pnpm install --lockfile-only`"),
            ),
            (Some(locked), Some(checksum)) if locked.value.starts_with("sha256-") && locked.value != checksum => {
                self.say(
                    locked
                        .error("the .pnpmfile.cjs has changed since the lockfile was made", "of another content")
                        .hint(UPDATE_HINT),
                );
            }
            // pnpm 8 did not record it.
            (None, Some(_)) if has_hooks && self.workspace.lockfile.version() == LockfileVersion::V9 => self.say(
                Diagnostic::warning(
                    self.workspace.lockfile.file(),
                    "the lockfile knows no .pnpmfile.cjs, but there is one that seems to have hooks",
                )
                .hint(UPDATE_HINT),
            ),
            _ => {}
        }
        Ok(())
    }

    fn catalogs(&mut self) {
        let lockfile = &self.workspace.lockfile;
        let mut checked = BTreeSet::new();
        for dir in self.closure.packages.keys() {
            let Some(package) = self.workspace.package(dir) else { continue };
            for dependency in &package.dependencies {
                let Some(catalog) = catalog_name(&dependency.specifier.value) else { continue };
                let wanted =
                    self.workspace.settings.from_catalog(&dependency.name, &dependency.specifier.value);
                let locked = lockfile
                    .settings()
                    .catalogs
                    .get(catalog)
                    .and_then(|entries| entries.get(&dependency.name));
                let Some(wanted) = wanted else {
                    self.missing_catalog_entry(catalog, &dependency.name, &dependency.specifier);
                    continue;
                };
                if !checked.insert((catalog.to_owned(), dependency.name.clone())) {
                    continue;
                }
                if let Some(locked) = locked
                    && locked.specifier.value != wanted.value
                {
                    let message = format!(
                        "the catalog `{catalog}` has `{}` at `{}`, but the lockfile was made with `{}`",
                        dependency.name, wanted.value, locked.specifier.value
                    );
                    self.say(wanted.error(message, "not what the lockfile has").hint(UPDATE_HINT));
                }
            }
        }
    }

    fn missing_catalog_entry(&mut self, catalog: &str, name: &str, specifier: &Located<String>) {
        let catalogs = &self.workspace.settings.catalogs;
        let message = match catalogs.get(catalog) {
            Some(_) => format!("the catalog `{catalog}` has no entry for `{name}`"),
            None => format!("there is no catalog `{catalog}` in pnpm-workspace.yaml"),
        };
        let mut diagnostic = specifier.error(message, "refers to it");
        let near = match catalogs.get(catalog) {
            Some(entries) => nearest(name, entries.keys().map(String::as_str)),
            None => nearest(catalog, catalogs.keys().map(String::as_str)),
        };
        diagnostic = match near.first() {
            Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
            None => diagnostic.hint(format!("add `{name}` to the catalog in pnpm-workspace.yaml")),
        };
        self.say(diagnostic);
    }
}

/// The pnpmfiles that pnpm loads: its default, and those that a setting names.
pub(crate) fn pnpmfiles(workspace: &crate::Workspace) -> Vec<RelPath> {
    if workspace.settings.ignore_pnpmfile {
        return Vec::new();
    }
    let mut paths = vec![RelPath::root().child(PNPMFILE)];
    paths.extend(workspace.settings.pnpmfiles.iter().map(|file| file.value.clone()));
    paths.sort();
    paths.dedup();
    paths
}

/// The content as pnpm hashes it: decoded as UTF-8, line breaks as on Unix.
fn normalised(content: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(content).replace("\r\n", "\n").into_bytes()
}
