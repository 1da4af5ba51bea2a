use std::collections::BTreeMap;
use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile};

use super::read_manifest;
use crate::{Dots, EntryKind, Files, Glob, GlobError, GlobSet, Manifest, RelPath, Settings, WorkspaceError};

/// Directories in which pnpm never looks for packages.
const IGNORED: [&str; 2] = ["node_modules", "bower_components"];

/// Deeper directories are not searched for packages.
const MAX_DEPTH: usize = 64;

/// Finds the packages as pnpm does: positive globs in any order, `!` globs winning over all of them, the root always,
/// `node_modules` never.
pub(super) fn discover(
    files: &dyn Files,
    root: Manifest,
    settings: &Settings,
    file: Option<&Arc<SourceFile>>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<BTreeMap<RelPath, Manifest>, WorkspaceError> {
    let mut globs = GlobSet::default();
    for pattern in settings.packages.iter().flatten() {
        let (text, dots, set) = match pattern.value.strip_prefix('!') {
            Some(negated) => (negated, Dots::Matched, &mut globs.exclude),
            None => (pattern.value.as_str(), Dots::Hidden, &mut globs.include),
        };
        match Glob::new(&RelPath::root(), text, dots) {
            Ok(glob) => set.push(glob),
            // Taking away what lies outside the root takes nothing away.
            Err(GlobError::LeavesRoot { .. }) if pattern.value.starts_with('!') => {}
            Err(error) => {
                let mut diagnostic = pattern.error(error.to_string(), "this pattern");
                diagnostic.hints = wbuild_report::Hint::hints(&error);
                diagnostics.push(diagnostic);
            }
        }
    }
    let mut packages = BTreeMap::from([(RelPath::root(), root)]);
    let mut pending = vec![(RelPath::root(), 0)];
    while let Some((dir, depth)) = pending.pop() {
        for entry in files.list(&dir)? {
            if entry.kind == EntryKind::File || IGNORED.contains(&entry.name.as_str()) {
                continue;
            }
            let path = dir.child(&entry.name);
            // A pattern names the directory itself, so excluding a directory does not exclude those below it.
            let taken = globs.include.iter().any(|glob| glob.matches(&path))
                && !globs.exclude.iter().any(|glob| glob.matches(&path));
            if taken && let Some(manifest) = read_manifest(files, &path, diagnostics)? {
                packages.insert(path.clone(), manifest);
            } else if taken {
                warn_other_manifest(files, &path, file, diagnostics)?;
            }
            let below = globs.include.iter().any(|glob| glob.may_match_below(&path));
            if below && entry.kind == EntryKind::Directory && depth < MAX_DEPTH {
                pending.push((path, depth + 1));
            }
        }
    }
    Ok(packages)
}

fn warn_other_manifest(
    files: &dyn Files,
    dir: &RelPath,
    file: Option<&Arc<SourceFile>>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<(), WorkspaceError> {
    for name in ["package.yaml", "package.json5"] {
        if files.read(&dir.child(name))?.is_some()
            && let Some(file) = file
        {
            diagnostics.push(
                Diagnostic::warning(
                    file,
                    format!("`{dir}/{name}` is left out: wbuild reads package.json only"),
                )
                .hint("write it as package.json"),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::{path, workspace_files};
    use crate::{MemoryFiles, Workspace};

    /// The packages found for `globs` in one tree, by directory.
    fn found(globs: &str) -> Result<String, String> {
        let mut files = workspace_files(&format!("packages: {globs}\n"));
        for dir in [
            "apps/web",
            "apps/admin",
            "packages/a",
            "packages/a/nested",
            "packages/.hidden",
            "packages/test/fix",
            "packages/a/node_modules/dep",
            "tools",
            "libs/bower_components/x",
        ] {
            files.insert(path(&format!("{dir}/package.json")), "{}");
        }
        packages(&files)
    }

    fn packages(files: &MemoryFiles) -> Result<String, String> {
        match Workspace::read(files) {
            Ok(workspace) => {
                let dirs = workspace.packages.keys().filter(|dir| !dir.is_root());
                Ok(dirs.map(ToString::to_string).collect::<Vec<_>>().join(" "))
            }
            Err(error) => {
                Err(error.diagnostics().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            }
        }
    }

    /// What pnpm 10.18.2 and 12.21.0 find.
    #[test]
    fn globs_find_what_pnpm_finds() {
        for (globs, expected) in [
            ("[]", ""),
            ("['apps/*']", "apps/admin apps/web"),
            ("['packages/*']", "packages/a"),
            ("['packages/**']", "packages/a packages/a/nested packages/test/fix"),
            ("['{apps,packages}/*']", "apps/admin apps/web packages/a"),
            ("['./tools/', 'packages/.hidden']", "packages/.hidden tools"),
            ("['!packages/a', 'packages/**']", "packages/a/nested packages/test/fix"),
            ("['packages/**', '!**/test/**']", "packages/a packages/a/nested"),
            ("['packages/**', '!packages/a', 'packages/a']", "packages/a/nested packages/test/fix"),
            (
                "['**', '!packages/.*', '!../x']",
                "apps/admin apps/web packages/a packages/a/nested packages/test/fix tools",
            ),
            ("['nothing/*']", ""),
        ] {
            assert_eq!(found(globs).as_deref(), Ok(expected), "{globs}");
        }
    }

    #[test]
    fn globs_stay_inside_the_root() {
        insta::assert_snapshot!(found("['apps/*', '../other/*', '/etc', 'a/!(b)']").unwrap_err(), @"
        pnpm-workspace.yaml:1:22: the pattern `../other/*` leaves the workspace root
        pnpm-workspace.yaml:1:36: the pattern `/etc` is absolute
        pnpm-workspace.yaml:1:44: the pattern `a/!(b)` uses `!(…)`, which wbuild does not support
        ");
    }

    #[test]
    fn names_are_unique() {
        let mut files = workspace_files("packages: ['*']\n");
        files.insert(path("a/package.json"), r#"{"name": "ui"}"#);
        files.insert(path("b/package.json"), r#"{"name": "ui"}"#);
        insta::assert_snapshot!(packages(&files).unwrap_err(), @"b/package.json:1:10: two packages are named `ui`: `a` and `b`");
    }
}
