//! Where a setting may stand: three files, of which each major of pnpm reads other parts.

use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile, Span};

use crate::document::{Member, Node};
use crate::{Manifest, Npmrc, NpmrcKind};

/// The settings that pnpm 10 and earlier read from the `pnpm` field of the root package.json.
const MANIFEST_SETTINGS: [&str; 20] = [
    "allowNonAppliedPatches",
    "allowUnusedPatches",
    "allowedDeprecatedVersions",
    "allowBuilds",
    "auditConfig",
    "configDependencies",
    "executionEnv",
    "ignorePatchFailures",
    "ignoredBuiltDependencies",
    "ignoredOptionalDependencies",
    "neverBuiltDependencies",
    "onlyBuiltDependencies",
    "onlyBuiltDependenciesFile",
    "overrides",
    "packageExtensions",
    "patchedDependencies",
    "peerDependencyRules",
    "requiredScripts",
    "supportedArchitectures",
    "updateConfig",
];

/// The files that settings are read from.
pub(crate) struct Layers<'a> {
    pub(crate) major: u32,
    pub(crate) workspace: Option<(&'a Arc<SourceFile>, &'a Node)>,
    pub(crate) root: &'a Manifest,
    pub(crate) npmrc: Option<&'a Npmrc>,
}

/// A setting that was found, with the file it stands in.
pub(crate) struct Found<'a> {
    pub(crate) file: &'a Arc<SourceFile>,
    pub(crate) member: &'a Member,
}

impl<'a> Layers<'a> {
    /// pnpm 10 made pnpm-workspace.yaml a place for settings.
    fn workspace_has_settings(&self) -> bool {
        self.major >= 10
    }

    /// pnpm 11 stopped reading `package.json#pnpm`, and everything but registries and credentials in .npmrc.
    fn workspace_only(&self) -> bool {
        self.major >= 11
    }

    /// A setting by its camel-case name. Where the manifest has it, it wins over the workspace file as a whole: nothing is
    /// merged (pnpm 10.0 to 10.30 write lockfiles so).
    pub(crate) fn find(&self, key: &str) -> Option<Found<'a>> {
        self.of_manifest(key).or_else(|| self.of_workspace(key))
    }

    fn of_workspace(&self, key: &str) -> Option<Found<'a>> {
        let (file, document) = self.workspace.filter(|_| self.workspace_has_settings())?;
        Some(Found { file, member: document.member(key)? })
    }

    fn of_manifest(&self, key: &str) -> Option<Found<'a>> {
        if self.workspace_only() || !MANIFEST_SETTINGS.contains(&key) {
            return None;
        }
        let member = self.root.document.get("pnpm")?.member(key)?;
        // Overrides that override nothing are as good as none.
        let none = key == "overrides" && member.node.is_empty();
        (!none).then_some(Found { file: &self.root.file, member })
    }

    /// A plain setting, also from .npmrc (as `kebab-case`), as text.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        if let Some(found) = self.find(key) {
            return found.member.node.as_text();
        }
        if self.workspace_only() {
            return None;
        }
        Some(self.npmrc?.setting(&kebab_case(key))?.value.clone())
    }

    /// A switch.
    pub(crate) fn flag(&self, key: &str, default: bool) -> bool {
        match self.text(key).as_deref() {
            Some("true" | "deep") => true,
            Some("false") => false,
            _ => default,
        }
    }

    /// Every setting in force that stands in the workspace file or the manifest.
    pub(crate) fn all(&self) -> Vec<Found<'a>> {
        let pnpm = self.root.document.get("pnpm").map(Node::members).unwrap_or_default();
        let mut found: Vec<Found<'a>> =
            pnpm.iter().filter_map(|member| self.of_manifest(&member.key)).collect();
        let of_workspace = self.workspace.map(|(_, document)| document.members()).unwrap_or_default();
        for member in of_workspace {
            if !found.iter().any(|other| other.member.key == member.key) {
                found.extend(self.of_workspace(&member.key));
            }
        }
        found
    }

    /// Warns about settings that stand where the pinned major does not look.
    pub(crate) fn warn_misplaced(&self, diagnostics: &mut Vec<Diagnostic>) {
        let major = self.major;
        if !self.workspace_has_settings()
            && let Some((file, document)) = self.workspace
        {
            for member in document.members() {
                if !matches!(member.key.as_str(), "packages" | "catalog" | "catalogs") {
                    let message =
                        format!("pnpm {major} does not read `{}` of pnpm-workspace.yaml", member.key);
                    diagnostics.push(
                        Diagnostic::warning(file, message)
                            .at(member.key_span, "has no effect")
                            .hint("settings in pnpm-workspace.yaml need pnpm 10; before it they stand in `pnpm` of package.json"),
                    );
                }
            }
        }
        self.warn_hidden(diagnostics);
        if !self.workspace_only() {
            return;
        }
        for key in ["pnpm", "resolutions"] {
            let Some(member) = self.root.document.member(key).filter(|member| !member.node.is_empty()) else {
                continue;
            };
            diagnostics.push(
                Diagnostic::warning(
                    &self.root.file,
                    format!("pnpm {major} does not read `{key}` of package.json"),
                )
                .at(member.key_span, "has no effect: its patches, overrides and other settings are dropped")
                .hint("move the settings to pnpm-workspace.yaml"),
            );
        }
        if let Some(npmrc) = self.npmrc {
            for line in npmrc.lines.iter().filter(|line| line.kind == NpmrcKind::Setting) {
                // Only the key is shown: the caller's snippet must not print a whole .npmrc line by line.
                let span = Span::new(line.span.start, line.span.start + line.key.len());
                let message = format!("pnpm {major} does not read `{}` of .npmrc", line.key);
                diagnostics.push(
                    Diagnostic::warning(&npmrc.file, message)
                        .at(span, "has no effect")
                        .hint(format!("write it as `{}` in pnpm-workspace.yaml", camel_case(&line.key))),
                );
            }
        }
    }
}

impl Layers<'_> {
    /// Warns about settings of the workspace file that the manifest has, too.
    fn warn_hidden(&self, diagnostics: &mut Vec<Diagnostic>) {
        for key in MANIFEST_SETTINGS {
            let (Some(hidden), Some(_)) = (self.of_workspace(key), self.of_manifest(key)) else { continue };
            let message = format!("pnpm {} takes `{key}` from `pnpm` of package.json alone", self.major);
            diagnostics.push(
                Diagnostic::warning(hidden.file, message)
                    .at(hidden.member.key_span, "has no effect")
                    .hint("move what stands in package.json here"),
            );
        }
    }
}

pub(crate) fn kebab_case(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn camel_case(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut upper = false;
    for c in key.chars() {
        if c == '-' {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}
