use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile, Span};

use crate::document::{Dialect, Extract, Located, Node, Value, parse_json};
use crate::{RelPath, invalid_package_name};

/// The name of the file.
pub(crate) const MANIFEST: &str = "package.json";

/// A `package.json`.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The directory it stands in.
    pub dir: RelPath,
    /// Its text.
    pub file: Arc<SourceFile>,
    /// `name`.
    pub name: Option<Located<String>>,
    /// `version`.
    pub version: Option<String>,
    /// `private`.
    pub private: bool,
    /// `scripts`: name to command.
    pub scripts: BTreeMap<String, Located<String>>,
    /// All dependencies, in the order of [`DependencyKind`] and of the file.
    pub dependencies: Vec<Dependency>,
    /// Names of dependencies that `dependenciesMeta` says are injected.
    pub injected: Vec<String>,
    /// `bin`: name of the command to the file, relative to the package.
    pub bin: BTreeMap<String, Located<String>>,
    /// `directories.bin`: a directory all of whose files are commands.
    pub bin_directory: Option<Located<String>>,
    /// `packageManager`, where it is written.
    pub package_manager: Option<Located<PackageManager>>,
    /// `engines`: what the package runs on (`node`, `pnpm`).
    pub engines: BTreeMap<String, Located<String>>,
    pub(crate) document: Node,
}

/// One dependency of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// The name it is imported by.
    pub name: String,
    /// What is asked for: `^19.0.0`, `workspace:*`, `catalog:`, `npm:other@1`.
    pub specifier: Located<String>,
    /// Under which key it stands.
    pub kind: DependencyKind,
}

/// The four kinds of dependencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DependencyKind {
    /// `dependencies`
    Production,
    /// `devDependencies`
    Development,
    /// `optionalDependencies`
    Optional,
    /// `peerDependencies`
    Peer,
}

impl DependencyKind {
    /// All of them, with the key they stand under.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Production, "dependencies"),
        (Self::Development, "devDependencies"),
        (Self::Optional, "optionalDependencies"),
        (Self::Peer, "peerDependencies"),
    ];

    /// The key in `package.json`.
    pub fn key(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// `packageManager`, as corepack writes it: `pnpm@10.18.2+sha512.…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageManager {
    /// `pnpm`, or another one.
    pub name: String,
    /// The version without the integrity.
    pub version: String,
    /// `sha512.…`, when given.
    pub integrity: Option<String>,
}

impl PackageManager {
    fn parse(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once('@')?;
        let (version, integrity) = match rest.split_once('+') {
            Some((version, integrity)) => (version, Some(integrity.to_owned())),
            None => (rest, None),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
        let valid = !name.is_empty() && !version.is_empty() && version.chars().all(plain);
        valid.then(|| Self { name: name.to_owned(), version: version.to_owned(), integrity })
    }

    /// The first number of the version.
    pub fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }
}

impl Manifest {
    /// Reads the text of the `package.json` in `dir`. Problems that leave it usable are added to `diagnostics`.
    pub fn parse(
        dir: &RelPath,
        file: &Arc<SourceFile>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Result<Self, Box<Diagnostic>> {
        let document = parse_json(file, Dialect::Strict)?;
        if !matches!(document.value, Value::Map(_)) {
            return Err(Box::new(
                Diagnostic::error(file, "a package.json must be an object")
                    .at(document.span, "not an object"),
            ));
        }
        let mut extract = Extract { file, diagnostics };
        let mut manifest = Self {
            dir: dir.clone(),
            file: Arc::clone(file),
            name: document.get("name").and_then(|node| extract.string("name", node)),
            version: document.get("version").and_then(Node::as_text),
            private: document.get("private").and_then(Node::as_bool).unwrap_or(false),
            scripts: document.get("scripts").map(|n| extract.string_map("scripts", n)).unwrap_or_default(),
            dependencies: Vec::new(),
            injected: Vec::new(),
            bin: BTreeMap::new(),
            bin_directory: None,
            package_manager: None,
            engines: document.get("engines").map(|n| extract.string_map("engines", n)).unwrap_or_default(),
            document: Node::new(document.span, Value::Null),
        };
        manifest.read_dependencies(&document, &mut extract);
        manifest.read_bin(&document, &mut extract);
        manifest.read_package_manager(&document, &mut extract);
        manifest.check_names(&mut extract);
        if let Some(workspaces) = document.member("workspaces").filter(|_| dir.is_root()) {
            extract.diagnostics.push(
                Diagnostic::warning(file, "pnpm does not read `workspaces` of a package.json")
                    .at(workspaces.key_span, "has no effect")
                    .hint("list the packages in pnpm-workspace.yaml"),
            );
        }
        manifest.document = document;
        Ok(manifest)
    }

    fn read_dependencies(&mut self, document: &Node, extract: &mut Extract<'_>) {
        for (kind, key) in DependencyKind::ALL {
            let Some(node) = document.get(key) else { continue };
            if !matches!(node.value, Value::Map(_) | Value::Null) {
                extract.mismatch(key, "a map of strings", node);
            }
            for member in node.members() {
                let Some(specifier) = extract.string(&format!("{key}.{}", member.key), &member.node) else {
                    continue;
                };
                if let Some(problem) = invalid_package_name(&member.key) {
                    let message = format!("`{}` is not a package name: it {problem}", member.key);
                    extract
                        .diagnostics
                        .push(Diagnostic::error(extract.file, message).at(member.key_span, "this name"));
                    continue;
                }
                self.dependencies.push(Dependency { name: member.key.clone(), specifier, kind });
            }
        }
        for member in document.get("dependenciesMeta").map(Node::members).unwrap_or_default() {
            if member.node.get("injected").and_then(Node::as_bool) == Some(true) {
                self.injected.push(member.key.clone());
            }
        }
    }

    fn read_bin(&mut self, document: &Node, extract: &mut Extract<'_>) {
        match document.get("bin") {
            None => {}
            Some(node) if node.as_str().is_some() => {
                if let (Some(path), Some(name)) = (extract.string("bin", node), &self.name) {
                    let command = name.value.rsplit('/').next().unwrap_or_default();
                    self.bin.insert(command.to_owned(), path);
                }
            }
            Some(node) => self.bin = extract.string_map("bin", node),
        }
        self.bin_directory = document
            .get("directories")
            .and_then(|directories| directories.get("bin"))
            .and_then(|node| extract.string("directories.bin", node));
        let dir = self.dir.clone();
        let outside = |path: &Located<String>| dir.join(path.value.trim_start_matches('/')).err();
        for path in self.bin.values().chain(&self.bin_directory) {
            if let Some(error) = outside(path) {
                extract.diagnostics.push(path.error(format!("bin: {error}"), "leaves the workspace"));
            }
        }
        self.bin.retain(|_, path| outside(path).is_none());
        self.bin_directory.take_if(|path| outside(path).is_some());
    }

    fn read_package_manager(&mut self, document: &Node, extract: &mut Extract<'_>) {
        let Some(text) = document.get("packageManager").and_then(|n| extract.string("packageManager", n))
        else {
            return self.read_dev_engine(document, extract);
        };
        match PackageManager::parse(&text.value) {
            Some(value) => self.package_manager = Some(Located { value, place: text.place }),
            None => extract.diagnostics.push(
                text.error("`packageManager` must be `name@version`", "not a name and a version")
                    .hint("for example `pnpm@10.18.2`"),
            ),
        }
    }

    /// `devEngines.packageManager`, which is a pin when its version is an exact one.
    fn read_dev_engine(&mut self, document: &Node, extract: &Extract<'_>) {
        let Some(node) = document.get("devEngines").and_then(|engines| engines.get("packageManager")) else {
            return;
        };
        let text = |key: &str| node.get(key).and_then(Node::as_str);
        let (Some(name), Some(version)) = (text("name"), text("version")) else { return };
        let exact = version.split('.').count() == 3 && version.starts_with(|c: char| c.is_ascii_digit());
        if let Some(value) = PackageManager::parse(&format!("{name}@{version}")).filter(|_| exact) {
            self.package_manager = Some(extract.located(value, node.span));
        }
    }

    fn check_names(&self, extract: &mut Extract<'_>) {
        if let Some(name) = &self.name
            && let Some(problem) = invalid_package_name(&name.value)
        {
            let message = format!("`{}` is not a package name: it {problem}", name.value);
            extract.diagnostics.push(name.error(message, "this name"));
        }
    }

    /// The name, or the directory where there is none: what a person would call it.
    pub fn label(&self) -> &str {
        match &self.name {
            Some(name) => &name.value,
            None if self.dir.is_root() => ".",
            None => self.dir.as_str(),
        }
    }

    /// What decides the version of a dependency that is listed under several keys: pnpm lets `optionalDependencies`
    /// win over `dependencies` and that over `devDependencies`. Peers are not among them.
    pub fn installed(&self) -> BTreeMap<&str, &Dependency> {
        let mut out = BTreeMap::new();
        for kind in [DependencyKind::Development, DependencyKind::Production, DependencyKind::Optional] {
            for dependency in self.dependencies.iter().filter(|dependency| dependency.kind == kind) {
                out.insert(dependency.name.as_str(), dependency);
            }
        }
        out
    }

    /// The files that others load of the package, as far as they are written without a pattern: `main`, `module`, `types`
    /// and everything in `exports`.
    pub fn entry_points(&self) -> Vec<Located<String>> {
        let mut found = Vec::new();
        let fields = ["main", "module", "types", "exports"];
        let mut pending: Vec<&Node> = fields.iter().filter_map(|field| self.document.get(field)).collect();
        while let Some(node) = pending.pop() {
            if let Some(text) = node.as_str().filter(|text| !text.contains('*')) {
                found.push(Located::new(text.to_owned(), &self.file, node.span));
            }
            pending.extend(node.members().iter().map(|member| &member.node));
        }
        found.sort_by_key(|entry| entry.place.span.start);
        found
    }

    /// Whether it depends on `next` outside of peers.
    pub fn depends_on_next(&self) -> bool {
        let next =
            |dependency: &Dependency| dependency.name == "next" && dependency.kind != DependencyKind::Peer;
        self.dependencies.iter().any(next)
    }

    /// Whether the script `script`, or one that it runs by name, has the word `program`.
    pub fn runs(&self, script: &str, program: &str) -> bool {
        let mut pending = vec![script];
        let mut seen = BTreeSet::new();
        while let Some(name) = pending.pop() {
            let Some(script) = self.scripts.get(name).filter(|_| seen.insert(name)) else { continue };
            for word in words(&script.value) {
                if word == program || word.rsplit('/').next() == Some(program) {
                    return true;
                }
                // `pnpm run build:next`, `run-s build:*` and their like.
                let (beginning, wildcard) = match word.strip_suffix('*') {
                    Some(beginning) => (beginning, true),
                    None => (word, false),
                };
                let named = self.scripts.keys().filter(|other| match wildcard {
                    true => !beginning.is_empty() && other.starts_with(beginning),
                    false => *other == word,
                });
                pending.extend(named.map(String::as_str));
            }
        }
        false
    }

    /// `volta.node`: the version that volta pins.
    pub fn volta_node(&self) -> Option<&str> {
        self.document.get("volta")?.get("node")?.as_str()
    }

    /// The place of the key `name` of the file, for messages; the start of the file when it is not there.
    pub(crate) fn key_span(&self, name: &str) -> Span {
        self.document.member(name).map_or(Span::new(0, 0), |member| member.key_span)
    }
}

/// The words of a command line, without what belongs to the shell.
pub fn words(command: &str) -> impl Iterator<Item = &str> {
    command.split(|c: char| c.is_whitespace() || ";&|()\"'`".contains(c)).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &str) -> (Manifest, Vec<String>) {
        let mut diagnostics = Vec::new();
        let file = SourceFile::new("apps/web/package.json", text);
        let manifest = Manifest::parse(&RelPath::new("apps/web").unwrap(), &file, &mut diagnostics).unwrap();
        (manifest, diagnostics.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn fields_are_read() {
        let (web, diagnostics) = manifest(
            r#"{"name": "@repo/web", "version": "1.0.0", "bin": "cli.js", "scripts": {"build": "next build"},
                "dependencies": {"a": "1", "b": "^2"}, "optionalDependencies": {"a": "3"},
                "devDependencies": {"b": "4"}, "peerDependencies": {"react": "*"},
                "dependenciesMeta": {"b": {"injected": true}}, "packageManager": "pnpm@10.18.2+sha512.ab"}"#,
        );
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        assert_eq!(web.bin["web"].value, "cli.js");
        assert_eq!(web.injected, ["b"]);
        let installed: Vec<_> = web.installed().values().map(|d| d.specifier.value.clone()).collect();
        assert_eq!(installed, ["3", "^2"]);
        let pm = web.package_manager.unwrap().value;
        assert_eq!((pm.major(), pm.integrity.as_deref()), (Some(10), Some("sha512.ab")));
    }

    #[test]
    fn bad_fields_are_said_all_at_once() {
        let (_, diagnostics) = manifest(
            r#"{"name": "../evil", "bin": {"x": "../../../etc/passwd"}, "dependencies": {"..": "1", "a": 1},
                "packageManager": "pnpm", "scripts": []}"#,
        );
        insta::assert_snapshot!(diagnostics.join("\n"), @"
        apps/web/package.json:2:54: `scripts` must be a map of strings, not a list
        apps/web/package.json:1:75: `..` is not a package name: it starts with a dot or an underscore
        apps/web/package.json:1:91: `dependencies.a` must be a string, not a number
        apps/web/package.json:1:34: bin: `../../../etc/passwd` leaves the workspace root (from `apps/web`)
        apps/web/package.json:2:35: `packageManager` must be `name@version`
        apps/web/package.json:1:10: `../evil` is not a package name: it starts with a dot or an underscore
        ");
    }
}
