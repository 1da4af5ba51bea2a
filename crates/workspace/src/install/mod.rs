//! What `pnpm install` of a closure needs: the files to put before it, and the fields of its key.

mod hooks;
mod manifest;
mod pnpmfile;
mod stubs;
mod workspace_file;

use std::collections::{BTreeMap, BTreeSet};

use wbuild_report::Diagnostic;

use crate::check::pnpmfiles;
use crate::lockfile::{Keep, LOCKFILE};
use crate::manifest::MANIFEST;
use crate::settings::WORKSPACE_FILE;
use crate::source::{MAX_CONFIG, read_source};
use crate::{Closure, DirectoryUsage, Files, Lockfile, Manifest, RelPath, Workspace, WorkspaceError, order};

pub use manifest::{MANIFEST_FIELDS, ROOT_MANIFEST_FIELDS};

/// Settings that say nothing about what an install from a frozen lockfile writes.
const NOT_IN_KEY: [&str; 5] =
    ["auditConfig", "catalogMode", "cleanupUnusedCatalogs", "requiredScripts", "updateConfig"];

/// The scripts of a project that `pnpm install` runs, in its order.
const LIFECYCLE: [&str; 6] = ["preinstall", "install", "postinstall", "preprepare", "prepare", "postprepare"];

/// The install of a closure.
#[derive(Clone, Debug)]
pub struct InstallPlan {
    /// The files to put at the workspace root before pnpm runs; nothing else of the context is needed.
    pub files: BTreeMap<RelPath, PlannedFile>,
    /// Everything that the installed tree depends on, beside the platform and the versions of pnpm and Node. Names
    /// are unique and sorted. A change of a script, of a version that no range asks for, or of anything outside the
    /// closure changes no field.
    pub key: Vec<KeyField>,
    /// The closure's own lifecycle scripts, in the order in which pnpm would run them. What only installs git's hooks or
    /// checks which package manager it is run by is not among them: a build has no repository, and runs pnpm. `--ignore-scripts` leaves them
    /// out of the install; they run when the sources are there.
    pub scripts: Vec<LifecycleScript>,
    /// The pruned lockfile, which is among `files` too.
    pub lockfile: Lockfile,
    /// The environment variables that `.npmrc` files name outside of credentials, sorted.
    pub variables: Vec<String>,
    /// What is probably not as its author believes.
    pub warnings: Vec<Diagnostic>,
}

/// A file of an [`InstallPlan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFile {
    /// What it holds.
    pub content: Content,
    /// Whether it is executable; not meaningful for what is copied.
    pub executable: bool,
}

/// What a planned file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The file of the same path in the context.
    Copy,
    /// The directory of the same path in the context, whole (without `node_modules`).
    CopyTree,
}

/// A named part of the install's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyField {
    /// For example `manifest/apps/web`.
    pub name: String,
    /// What counts.
    pub value: KeyValue,
}

/// What a [`KeyField`] is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyValue {
    /// This text.
    Text(String),
    /// The content of this file of the context.
    File(RelPath),
    /// The content of this directory of the context (without `node_modules`).
    Tree(RelPath),
}

/// A lifecycle script of a workspace package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifecycleScript {
    /// The package's directory.
    pub dir: RelPath,
    /// Which script: `postinstall`.
    pub event: String,
    /// The command.
    pub command: String,
}

impl InstallPlan {
    /// Plans the install of a closure that [`check_frozen`](crate::check_frozen) found no error in.
    pub fn new(workspace: &Workspace, closure: &Closure, files: &dyn Files) -> Result<Self, WorkspaceError> {
        let importers: BTreeSet<RelPath> = closure.packages.keys().cloned().collect();
        let keep = Keep { importers: &importers, snapshots: &closure.snapshots };
        let lockfile = workspace.lockfile.prune(&keep)?;
        let patches: BTreeSet<&str> = workspace.lockfile.kept_patches(&closure.snapshots);
        let mut planner = Planner {
            workspace,
            closure,
            files,
            patches,
            planned: BTreeMap::new(),
            fields: BTreeMap::new(),
            warnings: Vec::new(),
        };
        planner.copied();
        planner.manifests()?;
        planner.settings()?;
        let variables = planner.npmrc();
        let text = lockfile.to_text().to_owned();
        planner.text(root(LOCKFILE), text.clone().into_bytes());
        planner.field("lockfile", KeyValue::Text(text));
        if let Some(version) = &workspace.settings.pnpm_version {
            planner.field("pnpm", KeyValue::Text(version.clone()));
        }
        let key = planner.fields.into_iter().map(|(name, value)| KeyField { name, value }).collect();
        Ok(Self {
            files: planner.planned,
            key,
            scripts: scripts(workspace, closure),
            lockfile,
            variables,
            warnings: planner.warnings,
        })
    }
}

fn root(name: &str) -> RelPath {
    RelPath::root().child(name)
}

struct Planner<'a> {
    workspace: &'a Workspace,
    closure: &'a Closure,
    files: &'a dyn Files,
    patches: BTreeSet<&'a str>,
    planned: BTreeMap<RelPath, PlannedFile>,
    fields: BTreeMap<String, KeyValue>,
    warnings: Vec<Diagnostic>,
}

impl Planner<'_> {
    fn plan(&mut self, path: RelPath, content: Content, executable: bool) {
        // What lies in a directory that is copied whole comes with it.
        let within =
            |other: &RelPath| self.closure.is_copied(other) && path.is_within(other) && path != *other;
        if self.closure.directories.keys().any(within) {
            return;
        }
        self.planned.entry(path).or_insert(PlannedFile { content, executable });
    }

    fn text(&mut self, path: RelPath, bytes: Vec<u8>) {
        self.plan(path, Content::Bytes(bytes), false);
    }

    fn field(&mut self, name: impl Into<String>, value: KeyValue) {
        self.fields.insert(name.into(), value);
    }

    fn copied(&mut self) {
        for (dir, directory) in &self.closure.directories {
            if directory.usage == DirectoryUsage::Copied {
                self.plan(dir.clone(), Content::CopyTree, false);
                self.field(format!("directory/{dir}"), KeyValue::Tree(dir.clone()));
            }
        }
        for path in self.closure.tarballs.keys() {
            self.plan(path.clone(), Content::Copy, false);
            self.field(format!("tarball/{path}"), KeyValue::File(path.clone()));
        }
    }

    fn manifests(&mut self) -> Result<(), WorkspaceError> {
        for dir in self.closure.packages.keys() {
            if let Some(package) = self.workspace.package(dir) {
                self.manifest(package)?;
            }
        }
        // pnpm links the commands of a plain `link:` target too, for which it reads its manifest.
        for (dir, directory) in &self.closure.directories {
            let known = self.closure.packages.contains_key(dir) || directory.usage == DirectoryUsage::Copied;
            if let Some(file) = read_source(self.files, &dir.child(MANIFEST), MAX_CONFIG)?.filter(|_| !known)
            {
                let package = Manifest::parse(dir, &file, &mut self.warnings)?;
                self.manifest(&package)?;
            }
        }
        Ok(())
    }

    fn manifest(&mut self, package: &Manifest) -> Result<(), WorkspaceError> {
        if self.closure.is_copied(&package.dir) {
            return Ok(());
        }
        let reduced = manifest::reduce(self.workspace, self.closure, package, &self.patches);
        self.text(package.dir.child(MANIFEST), reduced.clone().into_bytes());
        self.field(format!("manifest/{}", package.dir), KeyValue::Text(reduced));
        for (path, stub) in stubs::stubs(package, self.files)? {
            self.field(format!("bin/{path}"), KeyValue::Text(stub.clone()));
            self.plan(path, Content::Bytes(stub.into_bytes()), true);
        }
        Ok(())
    }

    fn settings(&mut self) -> Result<(), WorkspaceError> {
        let settings = &self.workspace.settings;
        let text = workspace_file::prune(&self.workspace.file, &self.patches)?;
        self.text(root(WORKSPACE_FILE), text.into_bytes());
        for (name, value) in &settings.in_force {
            if !NOT_IN_KEY.contains(&name.as_str()) && name != "patchedDependencies" {
                self.field(format!("settings/{name}"), KeyValue::Text(value.to_string()));
            }
        }
        for (selector, path) in &settings.patched_dependencies {
            if self.patches.contains(selector.as_str()) {
                self.plan(path.value.clone(), Content::Copy, false);
                self.field(format!("patch/{selector}"), KeyValue::File(path.value.clone()));
            }
        }
        let mut pnpmfiles = pnpmfiles(self.workspace);
        if !settings.ignore_pnpmfile {
            // Newer versions look for it; older ones do not mind it.
            pnpmfiles.push(root(".pnpmfile.mjs"));
        }
        for path in pnpmfiles {
            for path in pnpmfile::with_modules(self.files, &path)? {
                self.plan(path.clone(), Content::Copy, false);
                self.field(format!("pnpmfile/{path}"), KeyValue::File(path));
            }
        }
        Ok(())
    }

    fn npmrc(&mut self) -> Vec<String> {
        let mut variables = BTreeSet::new();
        for (dir, npmrc) in &self.workspace.npmrc {
            if !self.closure.packages.contains_key(dir) {
                continue;
            }
            variables.extend(npmrc.variables().into_iter().map(str::to_owned));
            let stripped = npmrc.without_credentials();
            if !stripped.trim().is_empty() {
                self.text(dir.child(".npmrc"), stripped.into_bytes());
            }
            let canonical = npmrc.canonical();
            if !canonical.is_empty() {
                self.field(format!("npmrc/{dir}"), KeyValue::Text(canonical));
            }
        }
        variables.into_iter().collect()
    }
}

/// The lifecycle scripts, packages after those they depend on; within a cycle, by directory.
fn scripts(workspace: &Workspace, closure: &Closure) -> Vec<LifecycleScript> {
    let dirs: Vec<&RelPath> = closure.packages.keys().collect();
    let edges: Vec<Vec<usize>> = dirs
        .iter()
        .map(|dir| {
            let targets = workspace.internal_dependencies(dir);
            targets.iter().filter_map(|target| dirs.binary_search(&target).ok()).collect()
        })
        .collect();
    let mut found = Vec::new();
    if let Some(script) = workspace.root().scripts.get("pnpm:devPreinstall") {
        found.push(LifecycleScript {
            dir: RelPath::root(),
            event: "pnpm:devPreinstall".to_owned(),
            command: script.value.clone(),
        });
    }
    for node in order::topological_lenient(&edges) {
        let Some(package) = workspace.package(dirs[node]) else { continue };
        for event in LIFECYCLE {
            if let Some(script) =
                package.scripts.get(event).filter(|script| !hooks::only_hooks(&script.value))
            {
                found.push(LifecycleScript {
                    dir: package.dir.clone(),
                    event: event.to_owned(),
                    command: script.value.clone(),
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryFiles;
    use crate::testing::{edit, lab, lab_v6, path, workspace};

    fn plan(files: &MemoryFiles, app: &str) -> InstallPlan {
        let workspace = workspace(files);
        let closure = Closure::of(&workspace, &path(app));
        InstallPlan::new(&workspace, &closure, files).unwrap()
    }

    fn text<'a>(plan: &'a InstallPlan, file: &str) -> &'a str {
        match &plan.files[&path(file)].content {
            Content::Bytes(bytes) => std::str::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// What pnpm 10.18.2 accepts with `--frozen-lockfile`.
    #[test]
    fn the_plan_of_the_lab() {
        let plan = plan(&lab(), "apps/web");
        let files = plan.files.iter().map(|(path, file)| match &file.content {
            Content::Bytes(bytes) => {
                format!("{path} {} bytes{}", bytes.len(), if file.executable { ", executable" } else { "" })
            }
            other => format!("{path} {other:?}"),
        });
        let without_lock = files.filter(|line| !line.starts_with("pnpm-lock")).collect::<Vec<_>>();
        insta::assert_snapshot!(without_lock.join("\n"), @"
        .npmrc 31 bytes
        .pnpmfile.cjs Copy
        apps/web/package.json 469 bytes
        package.json 135 bytes
        packages/a/bin/a.js 20 bytes, executable
        packages/a/dist/gen.mjs 0 bytes, executable
        packages/a/package.json 187 bytes
        packages/b/package.json 126 bytes
        packages/c/package.json 88 bytes
        packages/cfg/package.json 20 bytes
        packages/cyc1/package.json 72 bytes
        packages/cyc2/package.json 72 bytes
        packages/inj CopyTree
        patches/ms.patch Copy
        pnpm-workspace.yaml 497 bytes
        tools/linked/cli.js 10 bytes, executable
        tools/linked/package.json 42 bytes
        vendor/filedep CopyTree
        ");
        insta::assert_snapshot!(text(&plan, "apps/web/package.json"), @r#"
        {
          "dependencies": {
            "@x/a": "workspace:*",
            "@x/b": "workspace:^1.0.0",
            "filedep": "file:../../vendor/filedep",
            "inj": "workspace:*",
            "is-even": "1.0.0",
            "linked": "link:../../tools/linked",
            "ms": "catalog:",
            "ms-old": "npm:ms@2.0.0",
            "react": "19.2.0",
            "react-dom": "19.2.0"
          },
          "dependenciesMeta": {
            "inj": {
              "injected": true
            }
          },
          "name": "web",
          "optionalDependencies": {
            "fsevents": "^2.3.3"
          }
        }
        "#);
        insta::assert_snapshot!(text(&plan, "packages/b/package.json"), @r#"
        {
          "dependencies": {
            "c-alias": "workspace:c@*",
            "cyc1": "workspace:*"
          },
          "name": "@x/b",
          "version": "1.0.0"
        }
        "#);
        assert_eq!(text(&plan, "packages/a/bin/a.js"), "#!/usr/bin/env node\n");
        assert_eq!(text(&plan, "packages/a/dist/gen.mjs"), "");
        assert_eq!(
            plan.scripts,
            [LifecycleScript { dir: RelPath::root(), event: "prepare".into(), command: "echo hi".into() }]
        );
    }

    #[test]
    fn every_setting_and_file_has_a_field() {
        let names =
            |plan: InstallPlan| plan.key.into_iter().map(|field| field.name).collect::<Vec<_>>().join("\n");
        insta::assert_snapshot!(names(plan(&lab(), "apps/web")), @"
        bin/packages/a/bin/a.js
        bin/packages/a/dist/gen.mjs
        bin/tools/linked/cli.js
        directory/packages/inj
        directory/vendor/filedep
        lockfile
        manifest/.
        manifest/apps/web
        manifest/packages/a
        manifest/packages/b
        manifest/packages/c
        manifest/packages/cfg
        manifest/packages/cyc1
        manifest/packages/cyc2
        manifest/tools/linked
        npmrc/.
        patch/ms@2.1.3
        pnpm
        pnpmfile/.pnpmfile.cjs
        settings/ignoredOptionalDependencies
        settings/overrides
        settings/packageExtensions
        ");
    }

    fn key_after(change: impl FnOnce(&mut MemoryFiles)) -> Vec<String> {
        let mut files = lab();
        let before = plan(&files, "apps/web").key;
        change(&mut files);
        let after = plan(&files, "apps/web").key;
        let mut changed: Vec<String> = after
            .iter()
            .filter(|field| !before.contains(field))
            .chain(before.iter().filter(|field| !after.contains(field)))
            .map(|field| field.name.clone())
            .collect();
        changed.sort();
        changed.dedup();
        changed
    }

    #[test]
    fn what_pnpm_does_not_read_is_in_no_field() {
        let none: [String; 0] = [];
        assert_eq!(key_after(|f| edit(f, "apps/web/package.json", "node -e 1", "next dev")), none, "scripts");
        assert_eq!(key_after(|f| edit(f, "packages/a/package.json", "1.2.3", "9.9.9")), none, "versions");
        assert_eq!(
            key_after(|f| edit(f, "apps/web/package.json", "{\"name\"", "{ \"name\"")),
            none,
            "spaces"
        );
        assert_eq!(key_after(|f| edit(f, "pnpm-workspace.yaml", "# workspace", "# other")), none, "comments");
        assert_eq!(
            key_after(|f| edit(f, "apps/admin/package.json", "\"react\":\"18.3.1\"", "\"x\":\"1\"")),
            none
        );
        assert_eq!(key_after(|f| edit(f, "packages/a/bin/a.js", "acli", "other")), none, "sources");
        assert_eq!(
            key_after(|f| {
                f.remove(&path("patches/lodash.patch"));
            }),
            none,
            "patches of others"
        );
    }

    #[test]
    fn what_pnpm_reads_is_in_a_field() {
        // `workspace:^1.0.0` compares the version.
        assert_eq!(
            key_after(|f| edit(
                f,
                "packages/b/package.json",
                "\"version\":\"1.0.0\"",
                "\"version\":\"1.1.0\""
            )),
            ["manifest/packages/b"]
        );
        assert_eq!(key_after(|f| edit(f, ".npmrc", "false", "true")), ["npmrc/."]);
        assert_eq!(
            key_after(|f| edit(f, "packages/a/bin/a.js", "env node", "env bun")),
            ["bin/packages/a/bin/a.js"]
        );
        assert_eq!(key_after(|f| edit(f, "package.json", "10.18.2", "10.19.0")), ["manifest/.", "pnpm"]);
        assert_eq!(
            key_after(|f| edit(
                f,
                "pnpm-lock.yaml",
                "  scheduler@0.27.0:\n",
                "  scheduler@0.27.0:\n    deprecated: x\n"
            )),
            ["lockfile"]
        );
    }

    #[test]
    fn credentials_are_in_no_file_and_no_field() {
        let mut files = lab();
        files.insert(
            path(".npmrc"),
            "//r.test/:_authToken=SECRET\n_password=SECRET\nregistry=https://${HOST}/\n",
        );
        files.insert(path("packages/a/.npmrc"), "_auth=SECRET\n");
        let plan = plan(&files, "apps/web");
        assert!(!format!("{:?}", plan.key).contains("SECRET"));
        assert_eq!(text(&plan, ".npmrc"), "registry=https://${HOST}/\n");
        assert!(!plan.files.contains_key(&path("packages/a/.npmrc")));
        assert_eq!(plan.variables, ["HOST"]);
    }

    #[test]
    fn settings_in_the_manifest_are_cut_too() {
        let plan = plan(&lab_v6(), "apps/web");
        insta::assert_snapshot!(text(&plan, "package.json"), @r#"
        {
          "devDependencies": {
            "cfg": "workspace:*",
            "is-number": "7.0.0"
          },
          "name": "lab",
          "packageManager": "pnpm@8.15.9",
          "pnpm": {
            "overrides": {
              "is-even>is-odd": "3.0.1",
              "is-odd": "3.0.0"
            },
            "packageExtensions": {
              "is-even@*": {
                "dependencies": {
                  "ms": "*"
                }
              }
            },
            "patchedDependencies": {
              "ms@2.1.3": "patches/ms.patch"
            }
          }
        }
        "#);
        assert!(text(&plan, "pnpm-lock.yaml").contains("ms@2.1.3"));
        assert!(!text(&plan, "pnpm-lock.yaml").contains("lodash"));
    }
}
