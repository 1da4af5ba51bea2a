use std::collections::BTreeMap;
use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile};

use super::Section;
use crate::document::{Extract, Located, Node, Value, parse_yaml_part};

/// The sections of a lockfile that say which settings it was made with. They are small, so they are read as YAML.
const HEADER: [&str; 7] = [
    "settings",
    "catalogs",
    "overrides",
    "packageExtensionsChecksum",
    "pnpmfileChecksum",
    "ignoredOptionalDependencies",
    "patchedDependencies",
];

/// The settings that a lockfile was made with.
#[derive(Clone, Debug, Default)]
pub struct LockedSettings {
    /// `settings.autoInstallPeers`
    pub auto_install_peers: Option<bool>,
    /// `settings.excludeLinksFromLockfile`
    pub exclude_links_from_lockfile: Option<bool>,
    /// `settings.peersSuffixMaxLength`
    pub peers_suffix_max_length: Option<u64>,
    /// `settings.injectWorkspacePackages`
    pub inject_workspace_packages: Option<bool>,
    /// `overrides`
    pub overrides: BTreeMap<String, Located<String>>,
    /// `packageExtensionsChecksum`
    pub package_extensions_checksum: Option<Located<String>>,
    /// `pnpmfileChecksum`
    pub pnpmfile_checksum: Option<Located<String>>,
    /// `ignoredOptionalDependencies`
    pub ignored_optional_dependencies: Vec<Located<String>>,
    /// `patchedDependencies`: selector to patch.
    pub patched_dependencies: BTreeMap<String, LockedPatch>,
    /// `catalogs`: catalog to package to entry. Only what some package uses is here.
    pub catalogs: BTreeMap<String, BTreeMap<String, LockedCatalogEntry>>,
}

/// A patch as the lockfile knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedPatch {
    /// SHA-256 of the patch file, in hexadecimal.
    pub hash: Located<String>,
    /// Its path; pnpm 11 and later do not write it.
    pub path: Option<String>,
}

/// An entry of a catalog as the lockfile knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedCatalogEntry {
    /// What the catalog said.
    pub specifier: Located<String>,
    /// What it resolved to.
    pub version: String,
}

/// Reads the header's sections. Problems are added to `diagnostics`.
pub(super) fn read(
    file: &Arc<SourceFile>,
    sections: &[Section],
    diagnostics: &mut Vec<Diagnostic>,
) -> LockedSettings {
    let mut settings = LockedSettings::default();
    for section in sections.iter().filter(|section| HEADER.contains(&section.name.as_str())) {
        let node = match parse_yaml_part(file, section.span) {
            Ok(node) => node,
            Err(diagnostic) => {
                diagnostics.push(*diagnostic);
                continue;
            }
        };
        let Some(node) = node.get(&section.name) else { continue };
        let mut extract = Extract { file, diagnostics };
        match section.name.as_str() {
            "settings" => read_settings(node, &mut settings),
            "catalogs" => settings.catalogs = read_catalogs(node, &mut extract),
            "overrides" => settings.overrides = extract.string_map("overrides", node),
            "packageExtensionsChecksum" => {
                settings.package_extensions_checksum = extract.string("packageExtensionsChecksum", node);
            }
            "pnpmfileChecksum" => settings.pnpmfile_checksum = extract.string("pnpmfileChecksum", node),
            "ignoredOptionalDependencies" => {
                settings.ignored_optional_dependencies = extract.strings("ignoredOptionalDependencies", node);
            }
            _ => settings.patched_dependencies = read_patches(node, &mut extract),
        }
    }
    settings
}

fn read_settings(node: &Node, settings: &mut LockedSettings) {
    let flag = |key: &str| node.get(key).and_then(Node::as_bool);
    settings.auto_install_peers = flag("autoInstallPeers");
    settings.exclude_links_from_lockfile = flag("excludeLinksFromLockfile");
    settings.inject_workspace_packages = flag("injectWorkspacePackages");
    settings.peers_suffix_max_length =
        node.get("peersSuffixMaxLength").and_then(Node::as_text).and_then(|text| text.parse().ok());
}

fn read_catalogs(
    node: &Node,
    extract: &mut Extract<'_>,
) -> BTreeMap<String, BTreeMap<String, LockedCatalogEntry>> {
    let mut catalogs: BTreeMap<String, BTreeMap<String, LockedCatalogEntry>> = BTreeMap::new();
    for catalog in node.members() {
        let entries = catalogs.entry(catalog.key.clone()).or_default();
        for entry in catalog.node.members() {
            let specifier = entry.node.get("specifier");
            let version = entry.node.get("version").and_then(Node::as_text);
            match (specifier.and_then(Node::as_text).zip(specifier), version) {
                (Some((text, node)), Some(version)) => {
                    let specifier = extract.located(text, node.span);
                    entries.insert(entry.key.clone(), LockedCatalogEntry { specifier, version });
                }
                _ => extract.mismatch(&entry.key, "a specifier and a version", &entry.node),
            }
        }
    }
    catalogs
}

/// `{hash, path}` up to pnpm 10, the bare hash after it.
fn read_patches(node: &Node, extract: &mut Extract<'_>) -> BTreeMap<String, LockedPatch> {
    let mut patches = BTreeMap::new();
    for member in node.members() {
        let (hash, path) = match &member.node.value {
            Value::Map(_) => (member.node.get("hash"), member.node.get("path").and_then(Node::as_text)),
            _ => (Some(&member.node), None),
        };
        match hash.and_then(|hash| Some(extract.located(hash.as_text()?, hash.span))) {
            Some(hash) => {
                patches.insert(member.key.clone(), LockedPatch { hash, path });
            }
            None => extract.mismatch(&member.key, "a hash", &member.node),
        }
    }
    patches
}
