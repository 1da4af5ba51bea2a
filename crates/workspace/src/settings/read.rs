use std::collections::BTreeMap;
use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile, nearest};

use super::layers::{Found, Layers};
use super::{ASSUMED_PNPM_MAJOR, Architectures, BuildPolicy, Selector, Settings, catalog_name};
use crate::document::{Extract, Located, Node};
use crate::{Manifest, Npmrc, RelPath, VersionRange};

/// Reads the settings in force. `written_by` is the major that the lockfile was surely written by. Problems are added to
/// `diagnostics`.
pub(crate) fn read(
    workspace: Option<(&Arc<SourceFile>, &Node)>,
    root: &Manifest,
    npmrc: Option<&Npmrc>,
    written_by: Option<u32>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Settings {
    let pinned = root.package_manager.as_ref();
    if let Some(other) = pinned.filter(|pinned| pinned.value.name != "pnpm") {
        diagnostics.push(
            other
                .error(format!("the workspace is pinned to {}, not pnpm", other.value.name), "not pnpm")
                .hint("wbuild image builds pnpm workspaces; `wbuild build` takes any Dockerfile"),
        );
    }
    let pinned = pinned.filter(|pinned| pinned.value.name == "pnpm");
    let major =
        pinned.and_then(|pinned| pinned.value.major()).or(written_by).unwrap_or_else(|| assumed_major(root));
    let layers = Layers { major, workspace, root, npmrc };
    layers.warn_misplaced(diagnostics);

    let catalogs = workspace.map(|(file, node)| read_catalogs(file, node, diagnostics)).unwrap_or_default();
    let mut reader = Reader { layers, diagnostics };
    let overrides = reader.overrides(&catalogs);
    Settings {
        pnpm_version: pinned.map(|pinned| pinned.value.version.clone()),
        pnpm_major: major,
        packages: workspace.and_then(|(file, node)| {
            let node = node.get("packages")?;
            Some(Extract { file, diagnostics: reader.diagnostics }.strings("packages", node))
        }),
        overrides,
        patched_dependencies: reader.patched_dependencies(),
        ignored_optional_dependencies: reader.strings("ignoredOptionalDependencies"),
        builds: reader.builds(),
        supported_architectures: reader.architectures(),
        pnpmfiles: reader.pnpmfiles(),
        package_extensions: reader.layers.find("packageExtensions").and_then(|found| {
            (!found.member.node.is_empty())
                .then(|| Located::new(found.member.node.clone(), found.file, found.member.key_span))
        }),
        inject_workspace_packages: reader.layers.flag("injectWorkspacePackages", false),
        auto_install_peers: reader.layers.flag("autoInstallPeers", major >= 8),
        exclude_links_from_lockfile: reader.layers.flag("excludeLinksFromLockfile", false),
        peers_suffix_max_length: reader
            .layers
            .text("peersSuffixMaxLength")
            .and_then(|text| text.parse().ok())
            .unwrap_or(1000),
        // pnpm 9 turned it off.
        link_workspace_packages: reader.layers.flag("linkWorkspacePackages", major < 9),
        shared_workspace_lockfile: reader.layers.flag("sharedWorkspaceLockfile", true),
        node_linker: reader.layers.text("nodeLinker").unwrap_or_else(|| "isolated".to_owned()),
        ignore_pnpmfile: reader.layers.flag("ignorePnpmfile", false),
        in_force: reader.in_force(),
        catalogs,
    }
}

/// What `engines.pnpm` asks for, where nothing pins a version.
fn assumed_major(root: &Manifest) -> u32 {
    let range = root.engines.get("pnpm").and_then(|range| VersionRange::parse(&range.value));
    let allowed = |major: &u32| range.as_ref().is_none_or(|range| range.allows_newest_of(*major));
    [ASSUMED_PNPM_MAJOR, 9, 11, 12].into_iter().find(allowed).unwrap_or(ASSUMED_PNPM_MAJOR)
}

fn read_catalogs(
    file: &Arc<SourceFile>,
    document: &Node,
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<String, BTreeMap<String, Located<String>>> {
    let mut extract = Extract { file, diagnostics };
    let mut catalogs = BTreeMap::new();
    for member in document.get("catalogs").map(Node::members).unwrap_or_default() {
        let what = format!("catalogs.{}", member.key);
        catalogs.insert(member.key.clone(), extract.string_map(&what, &member.node));
    }
    if let Some(member) = document.member("catalog") {
        if catalogs.contains_key("default") {
            extract.diagnostics.push(
                Diagnostic::error(file, "the default catalog is defined twice")
                    .at(member.key_span, "here and in `catalogs.default`"),
            );
        }
        catalogs.insert("default".to_owned(), extract.string_map("catalog", &member.node));
    }
    catalogs
}

struct Reader<'a, 'd> {
    layers: Layers<'a>,
    diagnostics: &'d mut Vec<Diagnostic>,
}

impl Reader<'_, '_> {
    fn extract<T>(&mut self, found: &Found<'_>, read: impl FnOnce(&mut Extract<'_>, &str, &Node) -> T) -> T {
        let mut extract = Extract { file: found.file, diagnostics: self.diagnostics };
        read(&mut extract, &found.member.key, &found.member.node)
    }

    fn strings(&mut self, key: &str) -> Vec<Located<String>> {
        let Some(found) = self.layers.find(key) else { return Vec::new() };
        self.extract(&found, |extract, what, node| extract.strings(what, node))
    }

    fn names(&mut self, key: &str) -> Vec<String> {
        self.strings(key).into_iter().map(|name| name.value).collect()
    }

    fn string_map(&mut self, key: &str) -> Option<BTreeMap<String, Located<String>>> {
        let found = self.layers.find(key)?;
        Some(self.extract(&found, |extract, what, node| extract.string_map(what, node)))
    }

    fn overrides(
        &mut self,
        catalogs: &BTreeMap<String, BTreeMap<String, Located<String>>>,
    ) -> BTreeMap<String, Located<String>> {
        let root = self.layers.root;
        let mut overrides = BTreeMap::new();
        // Yarn's `resolutions` count as overrides as long as the manifest does, and hide those of the workspace file.
        if self.layers.major < 11
            && let Some(node) = root.document.get("resolutions")
        {
            overrides =
                Extract { file: &root.file, diagnostics: self.diagnostics }.string_map("resolutions", node);
        }
        let hidden = !overrides.is_empty()
            && self.layers.find("overrides").is_some_and(|found| !Arc::ptr_eq(found.file, &root.file));
        if !hidden {
            overrides.extend(self.string_map("overrides").unwrap_or_default());
        }
        let installed = root.installed();
        for (selector, spec) in &mut overrides {
            let Some(parsed) = Selector::parse(selector) else {
                self.diagnostics.push(
                    spec.error(format!("`{selector}` is not a selector of a package"), "of this override"),
                );
                continue;
            };
            if let Some(name) = spec.value.strip_prefix('$') {
                match installed.get(name) {
                    Some(dependency) => spec.value.clone_from(&dependency.specifier.value),
                    None => self.diagnostics.push(
                        spec.error(
                            format!("the override `{selector}` refers to `{name}`, which the root package.json does not depend on"),
                            "no such dependency",
                        ),
                    ),
                }
            }
            if let Some(catalog) = catalog_name(&spec.value) {
                match catalogs.get(catalog).and_then(|entries| entries.get(parsed.name)) {
                    Some(entry) => spec.value.clone_from(&entry.value),
                    None => {
                        let known = catalogs.get(catalog).map(|c| c.keys().map(String::as_str));
                        let near = nearest(parsed.name, known.into_iter().flatten()).join("`, `");
                        let message = format!(
                            "the catalog `{catalog}` has no entry for `{}`, which the override `{selector}` uses",
                            parsed.name
                        );
                        let mut diagnostic = spec.error(message, "no such entry");
                        if !near.is_empty() {
                            diagnostic = diagnostic.hint(format!("it has `{near}`"));
                        }
                        self.diagnostics.push(diagnostic);
                    }
                }
            }
        }
        overrides
    }

    fn patched_dependencies(&mut self) -> BTreeMap<String, Located<RelPath>> {
        let mut out = BTreeMap::new();
        for (selector, path) in self.string_map("patchedDependencies").unwrap_or_default() {
            match RelPath::new(&path.value) {
                Ok(value) => {
                    out.insert(selector, Located { value, place: path.place });
                }
                Err(error) => self.diagnostics.push(
                    path.error(format!("the patch of `{selector}`: {error}"), "not inside the workspace"),
                ),
            }
        }
        out
    }

    fn builds(&mut self) -> BuildPolicy {
        let only = self.layers.find("onlyBuiltDependencies").is_some();
        let mut policy = BuildPolicy {
            allowed: self.names("onlyBuiltDependencies"),
            denied: self.names("neverBuiltDependencies"),
            allow_all: self.layers.flag("dangerouslyAllowAllBuilds", self.layers.major < 10 && !only),
        };
        policy.denied.extend(self.names("ignoredBuiltDependencies"));
        for (name, value) in self.string_map("allowBuilds").unwrap_or_default() {
            match value.value.as_str() {
                "true" => policy.allowed.push(name),
                "false" => policy.denied.push(name),
                _ => self.diagnostics.push(
                    value.warning(format!("`allowBuilds.{name}` must be true or false"), "counts as neither"),
                ),
            }
        }
        policy
    }

    fn architectures(&mut self) -> Architectures {
        let mut out = Architectures::default();
        let Some(found) = self.layers.find("supportedArchitectures") else { return out };
        for (key, list) in [("os", &mut out.os), ("cpu", &mut out.cpu), ("libc", &mut out.libc)] {
            if let Some(node) = found.member.node.get(key) {
                let what = format!("supportedArchitectures.{key}");
                let values = Extract { file: found.file, diagnostics: self.diagnostics }.strings(&what, node);
                *list = values.into_iter().map(|value| value.value).collect();
            }
        }
        out
    }

    /// `pnpmfile` is one path or, since pnpm 10.13, a list.
    fn pnpmfiles(&mut self) -> Vec<Located<RelPath>> {
        let paths = match self.layers.find("pnpmfile") {
            Some(found) if found.member.node.as_str().is_some() => {
                self.extract(&found, |extract, what, node| extract.string(what, node)).into_iter().collect()
            }
            Some(_) => self.strings("pnpmfile"),
            None => match self.layers.npmrc.and_then(|npmrc| Some((npmrc, npmrc.setting("pnpmfile")?))) {
                Some((npmrc, line)) if self.layers.major < 11 => {
                    vec![Located::new(line.value.clone(), &npmrc.file, line.span)]
                }
                _ => Vec::new(),
            },
        };
        let mut out = Vec::new();
        for path in paths {
            match RelPath::new(&path.value) {
                Ok(value) => out.push(Located { value, place: path.place }),
                Err(error) => {
                    self.diagnostics
                        .push(path.error(format!("pnpmfile: {error}"), "not inside the workspace"));
                }
            }
        }
        out
    }

    fn in_force(&self) -> BTreeMap<String, serde_json::Value> {
        self.layers
            .all()
            .into_iter()
            .filter(|found| !matches!(found.member.key.as_str(), "packages" | "catalog" | "catalogs"))
            .map(|found| (found.member.key.clone(), found.member.node.to_json()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::parse_yaml;

    fn settings(yaml: &str, package: &str, npmrc: &str) -> (Settings, String) {
        let mut diagnostics = Vec::new();
        let yaml = SourceFile::new("pnpm-workspace.yaml", yaml);
        let node = parse_yaml(&yaml).unwrap();
        let package = SourceFile::new("package.json", package);
        let root = Manifest::parse(&RelPath::root(), &package, &mut diagnostics).unwrap();
        let npmrc = Npmrc::parse(&SourceFile::new(".npmrc", npmrc));
        let settings = read(Some((&yaml, &node)), &root, Some(&npmrc), None, &mut diagnostics);
        let said = diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        (settings, said)
    }

    const YAML: &str = "packages: [a/*]\ncatalog:\n  react: ^19.0.0\noverrides:\n  react: 'catalog:'\n  \
        next>ws: $ws\npatchedDependencies:\n  ms@2.1.3: patches/ms.patch\nonlyBuiltDependencies: [sharp]\n\
        autoInstallPeers: false\n";

    #[test]
    fn pnpm_10_reads_all_three_files() {
        let (settings, said) = settings(
            YAML,
            r#"{"packageManager": "pnpm@10.18.2", "devDependencies": {"ws": "8.0.0"},
                "pnpm": {"overrides": {}, "ignoredOptionalDependencies": ["fsevents"]}}"#,
            "node-linker=hoisted\nauto-install-peers=true\n",
        );
        assert_eq!(said, "");
        assert_eq!(settings.overrides["react"].value, "^19.0.0");
        assert_eq!(settings.overrides["next>ws"].value, "8.0.0");
        assert_eq!(settings.ignored_optional_dependencies[0].value, "fsevents");
        assert_eq!(settings.patched_dependencies["ms@2.1.3"].value.as_str(), "patches/ms.patch");
        assert_eq!(settings.node_linker, "hoisted");
        assert!(!settings.auto_install_peers);
        assert!(settings.builds.allows("sharp", "1") && !settings.builds.allows("esbuild", "1"));
    }

    #[test]
    fn engines_say_which_pnpm_where_nothing_pins_one() {
        for (engines, expected) in
            [(">=9", 10), ("^9.12.0", 9), (">=9 <10", 9), (">=11", 11), ("nonsense", 10)]
        {
            let package = format!(r#"{{"engines": {{"pnpm": "{engines}"}}}}"#);
            let (settings, _) = settings("packages: []\n", &package, "");
            assert_eq!((settings.pnpm_major, settings.pnpm_version), (expected, None), "{engines}");
        }
        let pinned = r#"{"devEngines": {"packageManager": {"name": "pnpm", "version": "9.15.9"}}}"#;
        assert_eq!(settings("packages: []\n", pinned, "").0.pnpm_version.as_deref(), Some("9.15.9"));
    }

    /// What pnpm 10.0, 10.6, 10.18 and 10.30 wrote into lockfiles.
    #[test]
    fn pnpm_10_takes_a_setting_from_the_manifest_alone_where_both_have_it() {
        let both = r#"{"packageManager": "pnpm@10.18.2", "pnpm": {"overrides": {"kept": "1"}}}"#;
        let (of_both, said) = settings("packages: []\noverrides:\n  gone: '2'\n", both, "");
        assert_eq!(of_both.overrides.keys().collect::<Vec<_>>(), ["kept"]);
        insta::assert_snapshot!(said, @"pnpm-workspace.yaml:2:1: pnpm 10 takes `overrides` from `pnpm` of package.json alone");
        let yarn = r#"{"packageManager": "pnpm@10.18.2", "resolutions": {"ms": "2.1.3"}}"#;
        let (of_yarn, _) = settings("packages: []\noverrides:\n  gone: '2'\n", yarn, "");
        assert_eq!(of_yarn.overrides.keys().collect::<Vec<_>>(), ["ms"]);
    }

    #[test]
    fn pnpm_11_warns_about_what_it_does_not_read() {
        let (settings, said) = settings(
            "packages: []\n",
            r#"{"packageManager": "pnpm@11.2.0", "pnpm": {"overrides": {"a": "1"}}}"#,
            "registry=https://r.test\nauto-install-peers=false\n//r.test/:_authToken=x\n",
        );
        insta::assert_snapshot!(said, @"
        package.json:1:35: pnpm 11 does not read `pnpm` of package.json
        .npmrc:2:1: pnpm 11 does not read `auto-install-peers` of .npmrc
        ");
        assert!(settings.overrides.is_empty() && settings.auto_install_peers);
    }

    #[test]
    fn pnpm_9_reads_no_settings_from_the_workspace_file() {
        let (settings, said) = settings(YAML, r#"{"packageManager": "pnpm@9.0.0"}"#, "");
        assert!(settings.overrides.is_empty() && settings.builds.allow_all);
        insta::assert_snapshot!(said, @r"
        pnpm-workspace.yaml:4:1: pnpm 9 does not read `overrides` of pnpm-workspace.yaml
        pnpm-workspace.yaml:7:1: pnpm 9 does not read `patchedDependencies` of pnpm-workspace.yaml
        pnpm-workspace.yaml:9:1: pnpm 9 does not read `onlyBuiltDependencies` of pnpm-workspace.yaml
        pnpm-workspace.yaml:10:1: pnpm 9 does not read `autoInstallPeers` of pnpm-workspace.yaml
        ");
    }

    #[test]
    fn wrong_settings_are_said_all_at_once() {
        let (_, said) = settings(
            "packages: apps\ncatalog: {react: 1}\noverrides: {reac: 'catalog:', a: $b}\n\
             patchedDependencies: {x@1: ../../x.patch}\n",
            r#"{"packageManager": "yarn@4.0.0"}"#,
            "",
        );
        insta::assert_snapshot!(said, @"
        package.json:1:20: the workspace is pinned to yarn, not pnpm
        pnpm-workspace.yaml:3:34: the override `a` refers to `b`, which the root package.json does not depend on
        pnpm-workspace.yaml:3:19: the catalog `default` has no entry for `reac`, which the override `reac` uses
        pnpm-workspace.yaml:1:11: `packages` must be a list of strings, not a string
        pnpm-workspace.yaml:4:28: the patch of `x@1`: `../../x.patch` leaves the workspace root (from `.`)
        ");
    }
}
