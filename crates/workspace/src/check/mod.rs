//! What `pnpm install --frozen-lockfile` would say about a closure, and what it should say but does not: checked
//! without running it, all at once, with places.
//!
//! pnpm 10 passes silently over a missing linked package, a changed or deleted catalog entry, and a missing workspace
//! file. It also fails for what has nothing to do with the application: a package of another team that is not in the
//! lockfile yet. Here only the closure counts.
//!
//! Not checked: that a locked version satisfies its specifier (it did when pnpm wrote both), overrides whose
//! selector has a range (any override of the name is taken to apply), and what a `.pnpmfile.cjs` does to manifests
//! (with one, differing specifiers are warnings, and pnpm has the last word).

mod importers;
mod local;
mod settings;

use wbuild_report::Diagnostic;

use crate::{Closure, Files, Workspace, WorkspaceError};

pub(crate) use settings::pnpmfiles;

/// What to do about a lockfile that is behind.
pub(crate) const UPDATE_HINT: &str = "run `pnpm install --lockfile-only` and commit pnpm-lock.yaml";

/// Checks that the closure's manifests, settings and files are those that the lockfile was made for. Empty when
/// everything fits; otherwise errors, then warnings.
pub fn check_frozen(
    workspace: &Workspace,
    closure: &Closure,
    files: &dyn Files,
) -> Result<Vec<Diagnostic>, WorkspaceError> {
    let mut check = Check { workspace, closure, files, diagnostics: Vec::new() };
    check.settings()?;
    check.importers()?;
    check.local()?;
    let mut diagnostics = check.diagnostics;
    // The same fact can be found from two sides.
    let mut seen: Vec<String> = Vec::new();
    diagnostics.retain(|diagnostic| {
        let text = diagnostic.to_string();
        let new = !seen.contains(&text);
        seen.push(text);
        new
    });
    diagnostics.sort_by_key(|diagnostic| diagnostic.severity);
    Ok(diagnostics)
}

struct Check<'a> {
    workspace: &'a Workspace,
    closure: &'a Closure,
    files: &'a dyn Files,
    diagnostics: Vec<Diagnostic>,
}

impl Check<'_> {
    fn say(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{edit, lab, path, said, workspace};
    use crate::{LockfileVersion, MemoryFiles};

    fn check(files: &MemoryFiles) -> String {
        check_app(files, "apps/web")
    }

    fn check_app(files: &MemoryFiles, app: &str) -> String {
        let workspace = workspace(files);
        let closure = Closure::of(&workspace, &path(app));
        said(&check_frozen(&workspace, &closure, files).unwrap())
    }

    /// The lab after one change, without what is said of the lab itself.
    fn after(change: impl FnOnce(&mut MemoryFiles)) -> String {
        let mut files = lab();
        change(&mut files);
        // Hooks turn differing specifiers into warnings; most tests want the errors.
        let known = check(&lab());
        let said = check(&files);
        said.lines().filter(|line| !known.contains(line)).collect::<Vec<_>>().join("\n")
    }

    fn without_hooks(files: &mut MemoryFiles) {
        files.remove(&path(".pnpmfile.cjs"));
        let text = files.remove(&path("pnpm-lock.yaml")).unwrap();
        let text = String::from_utf8(text).unwrap();
        let kept: Vec<&str> =
            text.split_inclusive("\n\n").filter(|part| !part.starts_with("pnpmfileChecksum")).collect();
        files.insert(path("pnpm-lock.yaml"), kept.concat());
    }

    #[test]
    fn what_pnpm_wrote_fits() {
        insta::assert_snapshot!(check(&lab()), @"
        Warning: packages/a/package.json:1:65: the command `gen` of `@x/a` has no file yet
          hint: nothing to do when a task of the build writes it
        ");
        assert_eq!(check_app(&lab(), "apps/admin"), "");
        let v6 = crate::testing::lab_v6();
        assert_eq!(workspace(&v6).lockfile.version(), LockfileVersion::V6);
        insta::assert_snapshot!(check(&v6), @"
        Warning: packages/a/package.json:1:65: the command `gen` of `@x/a` has no file yet
          hint: nothing to do when a task of the build writes it
        ");
    }

    // The rows of the frozen-install matrix, in its order.

    #[test]
    fn row_catalog_value_changed() {
        insta::assert_snapshot!(after(|f| edit(f, "pnpm-workspace.yaml", "ms: ^2.1.3", "ms: ^2.0.0")), @"
        Error: pnpm-workspace.yaml:7:7: the catalog `default` has `ms` at `^2.0.0`, but the lockfile was made with `^2.1.3`
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        ");
    }

    #[test]
    fn row_catalog_deleted() {
        insta::assert_snapshot!(after(|f| edit(f, "pnpm-workspace.yaml", "  ms: ^2.1.3\n", "")), @"
        Error: apps/web/package.json:1:226: the catalog `default` has no entry for `ms`
          hint: add `ms` to the catalog in pnpm-workspace.yaml
        ");
        // An entry that only another application uses is none of this one's business.
        assert_eq!(after(|f| edit(f, "pnpm-workspace.yaml", "  lodash: 4.17.21\n", "")), "");
    }

    #[test]
    fn row_settings_differ() {
        insta::assert_snapshot!(after(|f| {
            edit(f, "pnpm-workspace.yaml", "  is-even>is-odd: 3.0.1", "  is-even>is-odd: 3.0.0\n  react: 19.0.0");
            edit(f, "pnpm-workspace.yaml", "  - fsevents", "  - other");
            edit(f, "pnpm-workspace.yaml", "react: '>=16'", "react: '>=17'");
            edit(f, ".pnpmfile.cjs", "hooks", "hooks /* changed */");
        }), @"
        Error: pnpm-workspace.yaml:17:19: the override `is-even>is-odd` is `3.0.0`, but the lockfile was made with `3.0.1`
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: pnpm-workspace.yaml:18:10: the override `react` is not in the lockfile
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: pnpm-workspace.yaml:19:1: `packageExtensions` has changed since the lockfile was made
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: pnpm-workspace.yaml:31:5: the ignored optional dependency `other` is not in the lockfile
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: pnpm-lock.yaml:224:5: the lockfile was made with the ignored optional dependency `fsevents`, which is no longer set
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: pnpm-lock.yaml:26:19: the .pnpmfile.cjs has changed since the lockfile was made
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Warning: apps/web/package.json:1:353: `fsevents` (`^2.3.3`) of `apps/web` is not in the lockfile
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        ");
        insta::assert_snapshot!(after(|f| {
            edit(f, "pnpm-workspace.yaml", "packageExtensions:", "injectWorkspacePackages: true\nx:");
            f.remove(&path(".pnpmfile.cjs"));
        }), @"
        Error: pnpm-lock.yaml:24:28: the lockfile was made with `packageExtensions`, which are no longer set
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: pnpm-lock.yaml:3:1: `injectWorkspacePackages` is true, but the lockfile was made with false
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: pnpm-lock.yaml:26:19: the lockfile was made with a .pnpmfile.cjs, which does not exist
          hint: restore it, check that .dockerignore does not leave it out, or run `pnpm install --lockfile-only`
        ");
    }

    #[test]
    fn row_patch_file_missing() {
        insta::assert_snapshot!(after(|f| { f.remove(&path("patches/ms.patch")); }), @"
        Error: pnpm-workspace.yaml:27:13: the patch file `patches/ms.patch` of `ms@2.1.3` does not exist
          hint: restore it, check that .dockerignore does not leave it out, or remove the entry and run `pnpm install --lockfile-only`
        ");
        // That of a package outside the closure is cut from what is installed.
        assert_eq!(
            after(|f| {
                f.remove(&path("patches/lodash.patch"));
            }),
            ""
        );
    }

    #[test]
    fn row_patch_content_differs() {
        insta::assert_snapshot!(after(|f| edit(f, "patches/ms.patch", "+ms", "+MS")), @"
        Error: pnpm-workspace.yaml:27:13: the patch file `patches/ms.patch` has changed since the lockfile was made
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        ");
        assert_eq!(
            after(|f| edit(f, "patches/ms.patch", "\n+ms", "\r\n+ms")),
            "",
            "as pnpm, line breaks do not count"
        );
        insta::assert_snapshot!(after(|f| {
            edit(f, "pnpm-workspace.yaml", "  ms@2.1.3: patches/ms.patch", "  is-odd@3.0.1: patches/ms.patch");
        }), @"
        Error: pnpm-workspace.yaml:27:17: the patch of `is-odd@3.0.1` is not in the lockfile
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: pnpm-lock.yaml:33:11: the lockfile was made with a patch of `ms@2.1.3`, which is no longer set
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        ");
    }

    #[test]
    fn row_linked_package_missing() {
        insta::assert_snapshot!(after(|f| { f.remove(&path("packages/b/package.json")); }), @"
        Error: apps/web/package.json:1:109: `@x/b` of `apps/web` is linked to `packages/b`, where there is no workspace package
          hint: restore it, check that .dockerignore does not leave it out, or remove the dependency and run `pnpm install --lockfile-only`
        ");
        insta::assert_snapshot!(after(|f| {
            f.remove(&path("tools/linked/package.json"));
            f.remove(&path("tools/linked/cli.js"));
        }), @"
        Error: apps/web/package.json:1:195: `linked` of `apps/web` is linked to `tools/linked`, which does not exist
          hint: restore it, check that .dockerignore does not leave it out, or remove the dependency and run `pnpm install --lockfile-only`
        ");
    }

    #[test]
    fn row_package_linked_from_the_root_missing() {
        insta::assert_snapshot!(after(|f| { f.remove(&path("packages/cfg/package.json")); }), @"
        Error: package.json:1:127: `cfg` of `.` is linked to `packages/cfg`, where there is no workspace package
          hint: restore it, check that .dockerignore does not leave it out, or remove the dependency and run `pnpm install --lockfile-only`
        ");
    }

    #[test]
    fn row_copied_package_missing() {
        insta::assert_snapshot!(after(|f| { f.remove(&path("vendor/filedep/package.json")); }), @"
        Error: apps/web/package.json:1:158: `filedep` of `apps/web` is copied from `vendor/filedep`, which has no package.json
          hint: restore it, check that .dockerignore does not leave it out, or remove the dependency and run `pnpm install --lockfile-only`
        ");
        insta::assert_snapshot!(after(|f| { f.remove(&path("packages/inj/package.json")); }), @"
        Error: apps/web/package.json:1:134: `inj` of `apps/web` is copied from `packages/inj`, which has no package.json
          hint: restore it, check that .dockerignore does not leave it out, or remove the dependency and run `pnpm install --lockfile-only`
        ");
        insta::assert_snapshot!(
            after(|f| edit(f, "vendor/filedep/package.json", "\"ms\":", "\"is-odd\":\"1\",\"ms\":")),
            @"
        Error: vendor/filedep/package.json:1:62: `is-odd` of `vendor/filedep` is not in the lockfile
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        "
        );
    }

    #[test]
    fn row_bin_file_missing_is_a_warning() {
        insta::assert_snapshot!(after(|f| { f.remove(&path("packages/a/bin/a.js")); }), @"Warning: packages/a/package.json:1:48: the command `acli` of `@x/a` has no file yet");
    }

    #[test]
    fn row_new_unrelated_package() {
        assert_eq!(
            after(|f| f
                .insert(path("packages/new/package.json"), r#"{"name": "new", "dependencies": {"x": "1"}}"#)),
            ""
        );
        assert_eq!(after(|f| edit(f, "packages/adm/package.json", "6.0.0", "5.0.0")), "");
    }

    #[test]
    fn row_specifier_changed_or_added() {
        insta::assert_snapshot!(after(|f| {
            without_hooks(f);
            edit(f, "apps/web/package.json", "\"react\":\"19.2.0\"", "\"react\":\"^19.2.0\",\"zod\":\"4\"");
            edit(f, "package.json", "\"is-number\":\"7.0.0\"", "\"cfg2\":\"workspace:*\"");
            edit(f, "packages/c/package.json", "\"dependencies\":{", "\"devDependencies\":{");
        }), @"
        Error: package.json:1:148: `cfg2` (`workspace:*`) of `.` is not in the lockfile
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: pnpm-lock.yaml:41:7: `is-number` (`7.0.0`) of `.` is in the lockfile, but not in its package.json
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: apps/web/package.json:1:287: `react` of `apps/web` is `^19.2.0` in package.json, but `19.2.0` in the lockfile
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: apps/web/package.json:1:303: `zod` (`4`) of `apps/web` is not in the lockfile
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: packages/c/package.json:1:59: `is-odd` of `packages/c` is in `devDependencies`, but the lockfile has it in `dependencies`
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        ");
        insta::assert_snapshot!(
            after(|f| edit(f, "apps/web/package.json", "\"react\":\"19.2.0\"", "\"react\":\"^19.2.0\"")),
            @"
        Warning: apps/web/package.json:1:287: `react` of `apps/web` is `^19.2.0` in package.json, but `19.2.0` in the lockfile
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        "
        );
    }

    #[test]
    fn row_version_and_scripts_changed() {
        assert_eq!(
            after(|f| {
                edit(f, "packages/a/package.json", "1.2.3", "9.9.9");
                edit(f, "apps/web/package.json", "node -e 1", "node -e 2");
            }),
            ""
        );
    }

    #[test]
    fn row_snapshot_entry_missing() {
        insta::assert_snapshot!(after(|f| {
            let text = String::from_utf8(f.remove(&path("pnpm-lock.yaml")).unwrap()).unwrap();
            let at = text.rfind("  scheduler@0.27.0: {}\n").unwrap();
            f.insert(path("pnpm-lock.yaml"), format!("{}{}", &text[..at], &text[at + 23..]));
        }), @"
        Error: pnpm-lock.yaml:272:18: `react-dom` of `apps/web` leads to `scheduler@0.27.0`, which the lockfile does not have
          hint: the lockfile is damaged; let pnpm mend it: `pnpm install --fix-lockfile`
        ");
    }

    #[test]
    fn meta_names_and_new_importers() {
        insta::assert_snapshot!(after(|f| {
            without_hooks(f);
            edit(f, "apps/web/package.json", "\"injected\":true", "\"injected\":false");
            edit(f, "packages/cfg/package.json", "\"cfg\"", "\"config\"");
            edit(f, "pnpm-lock.yaml", "  packages/c:\n    dependencies:\n      is-odd:\n        specifier: 3.0.0\n        version: 3.0.0\n\n", "");
        }), @"
        Error: package.json:1:127: `cfg` of `.` is linked to `packages/cfg`, which is now named `config`
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: apps/web/package.json:1:363: `dependenciesMeta` of `apps/web` is not that of the lockfile
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: packages/c/package.json:1:9: the lockfile has no entry for the package `c` in `packages/c`
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        Error: packages/inj/package.json:1:55: `cfg` of `packages/inj` is linked to `packages/cfg`, which is now named `config`
          hint: run `pnpm install --lockfile-only` and commit pnpm-lock.yaml
        ");
    }

    #[test]
    fn overrides_of_projects_are_no_difference() {
        // `is-odd` of `packages/c` is `^3.0.1` in its manifest; the lockfile shows the override.
        assert!(!check(&lab()).contains("is-odd"));
    }
}
