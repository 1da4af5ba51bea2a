use std::collections::BTreeSet;
use std::sync::Arc;

use wbuild_report::{SourceFile, Span};

use super::lines::{Lines, pair};
use super::{Cut, LockedSettings, Lockfile, LockfileVersion, Section, SnapshotId};
use crate::settings::catalog_name;
use crate::{RelPath, WorkspaceError};

/// What stays in a pruned lockfile.
pub(crate) struct Keep<'a> {
    pub(crate) importers: &'a BTreeSet<RelPath>,
    pub(crate) snapshots: &'a BTreeSet<SnapshotId>,
}

impl Lockfile {
    /// The patches of `patchedDependencies` that some kept snapshot has applied.
    pub(crate) fn kept_patches(&self, snapshots: &BTreeSet<SnapshotId>) -> BTreeSet<&str> {
        let patched: BTreeSet<(&str, &str)> = snapshots
            .iter()
            .filter(|id| self.is_patched(**id))
            .map(|id| (self.name_of(*id), self.version_of(*id)))
            .collect();
        let applies = |selector: &&str| {
            let name = crate::settings::selector_name(selector);
            let version = selector[name.len()..].strip_prefix('@');
            // `name` and `name@range` apply to whichever versions are patched; `name@1.0.0` only to that one.
            let exact =
                version.filter(|v| v.starts_with(|c: char| c.is_ascii_digit()) && !v.contains([' ', '|']));
            patched.iter().any(|(n, v)| *n == name && exact.is_none_or(|exact| exact == *v))
        };
        self.settings.patched_dependencies.keys().map(String::as_str).filter(applies).collect()
    }

    /// The entries of catalogs that kept importers or overrides use.
    fn kept_catalog_entries(&self, keep: &Keep<'_>) -> BTreeSet<(String, String)> {
        let mut used = BTreeSet::new();
        for dir in keep.importers {
            for dependency in
                self.importer(dir).map(|importer| importer.dependencies.as_slice()).unwrap_or_default()
            {
                if let Some(catalog) = catalog_name(self.text(dependency.specifier)) {
                    used.insert((catalog.to_owned(), self.text(dependency.name).to_owned()));
                }
            }
        }
        // An override has its catalog resolved in the lockfile, so an entry that no importer uses is kept when
        // some override asks for the package.
        let LockedSettings { catalogs, overrides, .. } = &self.settings;
        for (catalog, entries) in catalogs {
            for name in entries.keys() {
                let overridden = overrides.iter().any(|(selector, spec)| {
                    crate::settings::Selector::parse(selector).is_some_and(|selector| selector.name == name)
                        && entries[name].specifier.value == spec.value
                });
                if overridden {
                    used.insert((catalog.clone(), name.clone()));
                }
            }
        }
        used
    }

    /// The lockfile with only what `keep` names, cut from the original text: every line of it is a line of the
    /// original, in the same order.
    pub(crate) fn prune(&self, keep: &Keep<'_>) -> Result<Self, WorkspaceError> {
        let text = &self.file.text;
        let mut out = String::with_capacity(text.len());
        out.push_str(&text[..self.body.start]);
        let mut end = self.body.start;
        for section in &self.sections {
            end = section.span.end;
            let kept = self.kept_cuts(section, keep);
            match kept {
                None => out.push_str(&text[section.lead..section.span.end]),
                Some(cuts) if cuts.is_empty() => {}
                Some(cuts) => {
                    out.push_str(&text[section.lead..section.head.end]);
                    for cut in cuts {
                        out.push_str(&text[cut.lead..cut.span.end]);
                    }
                }
            }
        }
        out.push_str(&text[end..]);
        Self::parse(&SourceFile::new(self.file.name.clone(), out))
    }

    /// The entries of a section that stay; `None` when the section stays as it is.
    fn kept_cuts(&self, section: &Section, keep: &Keep<'_>) -> Option<Vec<Cut>> {
        let v6 = self.version == LockfileVersion::V6;
        match section.name.as_str() {
            "importers" => Some(
                self.importers.iter().filter(|i| keep.importers.contains(&i.dir)).map(|i| i.cut).collect(),
            ),
            "snapshots" | "packages" if v6 || section.name == "snapshots" => {
                Some(keep.snapshots.iter().map(|id| self.snapshot(*id).cut).collect())
            }
            "packages" => {
                let kept: BTreeSet<(usize, usize)> = keep
                    .snapshots
                    .iter()
                    .filter_map(|id| self.package_of(*id))
                    .map(|package| (package.cut.lead, package.cut.span.end))
                    .collect();
                Some(
                    self.packages
                        .iter()
                        .map(|package| package.cut)
                        .filter(|cut| kept.contains(&(cut.lead, cut.span.end)))
                        .collect(),
                )
            }
            "patchedDependencies" => {
                let kept = self.kept_patches(keep.snapshots);
                Some(self.entries(section, 2, &|key| kept.contains(key)))
            }
            "catalogs" => {
                let kept = self.kept_catalog_entries(keep);
                Some(self.kept_catalogs(section, &kept))
            }
            // Times of publication, by package.
            "time" => {
                let kept: BTreeSet<&str> = keep
                    .snapshots
                    .iter()
                    .filter_map(|id| self.package_of(*id))
                    .map(|package| self.text(package.key))
                    .collect();
                Some(self.entries(section, 2, &|key| kept.contains(key)))
            }
            _ => None,
        }
    }

    /// The entries at `indent` below a section whose key is wanted.
    fn entries(&self, section: &Section, indent: usize, wanted: &dyn Fn(&str) -> bool) -> Vec<Cut> {
        let mut lines = Lines::new(&self.file.text, Span::new(section.head.end, section.span.end));
        let mut cuts = Vec::new();
        while let Some(line) = lines.next() {
            let key = pair(line.text, line.content_start()).map(|pair| self.text(pair.key));
            let end = lines.skip_within(indent + 1).max(line.end);
            if key.is_some_and(wanted) {
                cuts.push(Cut { lead: line.lead, span: Span::new(line.start, end) });
            }
        }
        cuts
    }

    fn kept_catalogs(&self, section: &Section, kept: &BTreeSet<(String, String)>) -> Vec<Cut> {
        let mut cuts = Vec::new();
        for catalog in self.entries(section, 2, &|_| true) {
            let mut lines = Lines::new(&self.file.text, catalog.span);
            let Some(head) = lines.next() else { continue };
            let Some(name) = pair(head.text, head.content_start()).map(|pair| self.text(pair.key)) else {
                continue;
            };
            let below = Section {
                name: name.to_owned(),
                head: Span::new(head.start, head.end),
                lead: catalog.lead,
                span: catalog.span,
            };
            let entries = self.entries(&below, 4, &|key| kept.contains(&(name.to_owned(), key.to_owned())));
            if !entries.is_empty() {
                cuts.push(Cut { lead: catalog.lead, span: Span::new(head.start, head.end) });
                cuts.extend(entries);
            }
        }
        cuts
    }

    /// The whole text, as it would be written.
    pub fn to_text(&self) -> &str {
        &self.file.text
    }

    /// The same file under its own handle, for callers that point into it.
    pub fn source(&self) -> Arc<SourceFile> {
        Arc::clone(&self.file)
    }
}
