//! What pnpm is told by `pnpm-workspace.yaml`, `package.json#pnpm` and `.npmrc`, read as the pinned major reads them.

mod layers;
mod read;

use std::collections::BTreeMap;

use crate::document::{Located, Node};
use crate::{RelPath, invalid_package_name};

pub(crate) use read::read;

/// The name of the workspace file.
pub(crate) const WORKSPACE_FILE: &str = "pnpm-workspace.yaml";

/// The major whose rules hold when nothing pins a version.
pub const ASSUMED_PNPM_MAJOR: u32 = 10;

/// The settings of a workspace that decide about its dependencies.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The pnpm that is pinned by `packageManager`, without integrity; `None` when nothing pins one.
    pub pnpm_version: Option<String>,
    /// Its major, or [`ASSUMED_PNPM_MAJOR`].
    pub pnpm_major: u32,
    /// `packages`: the globs of the workspace file. `None` when the file has no such key.
    pub packages: Option<Vec<Located<String>>>,
    /// `catalog` (as `default`) and `catalogs`: catalog to package to specifier.
    pub catalogs: BTreeMap<String, BTreeMap<String, Located<String>>>,
    /// `overrides` (and, up to pnpm 10, `resolutions`), with `$name` and `catalog:` resolved.
    pub overrides: BTreeMap<String, Located<String>>,
    /// `patchedDependencies`: selector to patch file.
    pub patched_dependencies: BTreeMap<String, Located<RelPath>>,
    /// `ignoredOptionalDependencies`: patterns.
    pub ignored_optional_dependencies: Vec<Located<String>>,
    /// Which dependencies may run install scripts.
    pub builds: BuildPolicy,
    /// `injectWorkspacePackages`
    pub inject_workspace_packages: bool,
    /// `autoInstallPeers`
    pub auto_install_peers: bool,
    /// `excludeLinksFromLockfile`
    pub exclude_links_from_lockfile: bool,
    /// `peersSuffixMaxLength`
    pub peers_suffix_max_length: u64,
    /// `linkWorkspacePackages`: plain ranges resolve to workspace packages too.
    pub link_workspace_packages: bool,
    /// `sharedWorkspaceLockfile`: one lockfile for all packages. wbuild needs it.
    pub shared_workspace_lockfile: bool,
    /// `nodeLinker`: `isolated`, `hoisted`, `pnp`.
    pub node_linker: String,
    /// `supportedArchitectures`
    pub supported_architectures: Architectures,
    /// `pnpmfile`, where it names other files than the default.
    pub pnpmfiles: Vec<Located<RelPath>>,
    /// `ignorePnpmfile`
    pub ignore_pnpmfile: bool,
    pub(crate) package_extensions: Option<Located<Node>>,
    /// Every setting of the workspace file and of `package.json#pnpm` that is in force, without `packages` and
    /// catalogs: what the install key is made of.
    pub(crate) in_force: BTreeMap<String, serde_json::Value>,
}

/// Which dependencies may run install scripts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildPolicy {
    /// `onlyBuiltDependencies` (pnpm 10) and the names that `allowBuilds` (pnpm 11) allows.
    pub allowed: Vec<String>,
    /// `neverBuiltDependencies`, `ignoredBuiltDependencies`, and the names that `allowBuilds` denies.
    pub denied: Vec<String>,
    /// `dangerouslyAllowAllBuilds`, and pnpm 9 and earlier, which run every script unless a list says otherwise.
    pub allow_all: bool,
}

impl BuildPolicy {
    /// Whether the package `name` (at `version`) may run its install scripts.
    pub fn allows(&self, name: &str, version: &str) -> bool {
        let matches = |entry: &String| {
            let (entry_name, versions) = match entry.rfind('@').filter(|at| *at > 0) {
                Some(at) => (&entry[..at], Some(&entry[at + 1..])),
                None => (entry.as_str(), None),
            };
            // `name@1.0.0 || 2.0.0` lists exact versions; pnpm takes no ranges here.
            matches_pattern(entry_name, name)
                && versions.is_none_or(|list| list.split("||").any(|one| one.trim() == version))
        };
        if self.denied.iter().any(matches) {
            return false;
        }
        self.allow_all || self.allowed.iter().any(matches)
    }
}

/// `supportedArchitectures`; an empty list means the machine's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Architectures {
    /// `linux`, `darwin`, `current`
    pub os: Vec<String>,
    /// `x64`, `arm64`, `current`
    pub cpu: Vec<String>,
    /// `glibc`, `musl`, `current`
    pub libc: Vec<String>,
}

impl Settings {
    /// What the catalog says for `specifier` (`catalog:`, `catalog:react18`) of the package `name`; `None` when it
    /// is not a catalog specifier or the entry is missing.
    pub fn from_catalog(&self, name: &str, specifier: &str) -> Option<&Located<String>> {
        self.catalogs.get(catalog_name(specifier)?)?.get(name)
    }
}

/// The catalog that a specifier names.
pub(crate) fn catalog_name(specifier: &str) -> Option<&str> {
    let name = specifier.strip_prefix("catalog:")?.trim();
    Some(if name.is_empty() { "default" } else { name })
}

/// pnpm's name patterns: `*` stands for any characters, also `/`.
pub(crate) fn matches_pattern(pattern: &str, name: &str) -> bool {
    let mut rest = name;
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A list of patterns where `!x` takes away, the last match deciding, as pnpm's matcher has it.
pub(crate) fn matches_patterns(patterns: &[Located<String>], name: &str) -> bool {
    let only_negative = !patterns.is_empty() && patterns.iter().all(|p| p.value.starts_with('!'));
    let mut matched = only_negative;
    for pattern in patterns {
        match pattern.value.strip_prefix('!') {
            Some(negative) if matches_pattern(negative, name) => matched = false,
            None if matches_pattern(&pattern.value, name) => matched = true,
            _ => {}
        }
    }
    matched
}

/// An override's selector: `name`, `name@range`, `parent>name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector<'a> {
    pub(crate) parent: Option<&'a str>,
    pub(crate) name: &'a str,
}

impl<'a> Selector<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        // pnpm's delimiter is `>` after a character other than space, `|` and `@`: `a@>1` is a range.
        let bytes = text.as_bytes();
        let delimiter = (1..bytes.len()).find(|at| bytes[*at] == b'>' && !b" |@".contains(&bytes[at - 1]));
        let (parent, child) = match delimiter {
            Some(at) => (Some(selector_name(&text[..at])), &text[at + 1..]),
            None => (None, text),
        };
        let name = selector_name(child);
        invalid_package_name(name).is_none().then_some(Self { parent, name })
    }
}

/// The name in `name` or `name@range`.
pub(crate) fn selector_name(selector: &str) -> &str {
    match selector.char_indices().skip(1).find(|(_, c)| *c == '@') {
        Some((at, _)) => &selector[..at],
        None => selector,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        for (text, parent, name) in [
            ("foo", None, "foo"),
            ("@a/b@^1", None, "@a/b"),
            ("foo@1>bar@2", Some("foo"), "bar"),
            ("foo@>1", None, "foo"),
            ("@a/b>@c/d", Some("@a/b"), "@c/d"),
        ] {
            assert_eq!(Selector::parse(text), Some(Selector { parent, name }), "{text}");
        }
        assert_eq!(Selector::parse("../x"), None);
    }

    #[test]
    fn name_patterns() {
        assert!(matches_pattern("@esbuild/*", "@esbuild/linux-x64"));
        assert!(matches_pattern("*", "a/b"));
        assert!(matches_pattern("a*c*", "abcd"));
        assert!(!matches_pattern("a", "ab"));
        assert!(!matches_pattern("*b", "abc"));
    }

    #[test]
    fn build_policies() {
        let policy = BuildPolicy {
            allowed: vec!["sharp".into(), "esbuild@0.25.0 || 0.25.1".into(), "@swc/*".into()],
            denied: vec!["@swc/evil".into()],
            allow_all: false,
        };
        assert!(policy.allows("sharp", "1.0.0"));
        assert!(policy.allows("esbuild", "0.25.1"));
        assert!(!policy.allows("esbuild", "0.25.2"));
        assert!(policy.allows("@swc/core", "1.0.0"));
        assert!(!policy.allows("@swc/evil", "1.0.0"));
        assert!(!policy.allows("other", "1.0.0"));
    }
}
