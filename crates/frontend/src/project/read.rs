//! From what the workspace crate knows to what lowering needs: above all, which files which task sees (decision 2).

use std::collections::{BTreeMap, BTreeSet};

use wbuild_oci::Platform;
use wbuild_report::{Diagnostic, Hint as _, Severity, nearest};
use wbuild_tree::EntryPath;
use wbuild_workspace::{
    Closure, Content, DirectoryUsage, EnvNames, Files, Finding, GitIgnores, InstallPlan, Manifest, NextFacts,
    Npmrc, NpmrcKind, PathError, RelPath, TaskGraph, TurboConfigs, Why, Workspace, WorkspaceError,
    check_frozen, command_words, tsconfig_chain,
};

use super::{
    App, Credentials, ForeignPackage, Install, InstallFile, LifecycleScript, Next, Project, Task, globs,
};
use crate::Spec;

/// Near misses that are kept for each task. Only those are named that a failing task mentions, so there may be many.
const MOST_NEAR_MISSES: usize = 500;

/// What a [`Project`] is read from.
#[derive(Clone, Copy)]
pub struct ProjectSource<'a> {
    /// The files of the workspace.
    pub files: &'a dyn Files,
    /// All files and links of the build context, the ignored ones already left out (decision 5).
    pub listing: &'a [RelPath],
    /// The symbolic links among them that lead to something inside the root, with what they lead to.
    pub links: &'a BTreeMap<RelPath, RelPath>,
    /// The workspace, already read.
    pub workspace: &'a Workspace,
    /// What is to be built.
    pub spec: &'a Spec,
    /// For which platform.
    pub platform: &'a Platform,
    /// The name of the workspace where its root package has none: that of its folder.
    pub fallback_name: &'a str,
}

impl std::fmt::Debug for ProjectSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProjectSource").field("listing", &self.listing.len()).finish_non_exhaustive()
    }
}

impl Project {
    /// Plans the build of the spec's application.
    ///
    /// # Errors
    /// Everything that is wrong with the workspace for this application.
    pub fn read(source: &ProjectSource<'_>) -> Result<Self, WorkspaceError> {
        let ProjectSource { files, workspace, spec, .. } = *source;
        let manifest = workspace.app(Some(&spec.app)).map_err(|error| {
            let mut diagnostic = spec.error("app", error.to_string(), "this package");
            diagnostic.hints = error.hints();
            WorkspaceError::from(diagnostic)
        })?;
        let configs = TurboConfigs::read(files, workspace)?;
        let graph = TaskGraph::new(workspace, &configs, &manifest.dir, &spec.build.task)
            .map_err(|error| unless_defined(error, source, &configs))?;
        let closure = Closure::with(workspace, &manifest.dir, &graph.packages());
        let mut warnings = check_frozen(workspace, &closure, files)?;
        if warnings.iter().any(|found| found.severity == Severity::Error) {
            return Err(WorkspaceError::Invalid(warnings));
        }
        warnings.extend(closure.cycle_warnings(workspace));
        let plan = InstallPlan::new(workspace, &closure, files)?;
        let next = match workspace.is_next_app(manifest) {
            true => Some(NextFacts::read(files, workspace, manifest)?),
            false => None,
        };
        let ignores = GitIgnores::read(files, source.listing)?;
        let reader = Reader::new(source, &closure, &graph, &ignores);
        for found in [&workspace.warnings, &configs.warnings, &graph.warnings, &plan.warnings] {
            warnings.extend(found.iter().cloned());
        }
        let next = match next {
            Some(facts) => Some(reader.next(manifest, facts, &mut warnings)?),
            None => None,
        };
        let tasks = reader.tasks(&mut warnings)?;
        reader.undeclared_entries(&mut warnings);
        Ok(Self {
            root: workspace.root().name.as_ref().map_or(source.fallback_name, |name| &name.value).to_owned(),
            app: App { name: manifest.label().to_owned(), dir: entry(&manifest.dir), next },
            pnpm: workspace.settings.pnpm_version.clone(),
            pnpm_major: workspace.settings.pnpm_major,
            install: reader.install(&plan),
            sources: reader.all_sources(&tasks),
            tasks,
            packages: closure
                .packages
                .keys()
                .filter(|dir| !dir.is_root() && **dir != manifest.dir)
                .map(entry)
                .collect(),
            foreign: reader.foreign(),
            warnings,
        })
    }
}

/// An undefined task is the spec's mistake when it is the one that the spec names.
fn unless_defined(
    error: WorkspaceError,
    source: &ProjectSource<'_>,
    configs: &TurboConfigs,
) -> WorkspaceError {
    let task = &source.spec.build.task;
    let names: BTreeSet<&str> = configs
        .by_dir
        .values()
        .flat_map(|config| config.tasks.keys())
        .map(|name| name.rsplit('#').next().unwrap_or(name))
        .collect();
    if configs.missing || names.contains(task.as_str()) {
        return error;
    }
    let mut diagnostic =
        source.spec.error("build.task", format!("turbo.json defines no task `{task}`"), "this task");
    if let Some(near) = nearest(task, names.iter().copied()).first() {
        diagnostic = diagnostic.hint(format!("did you mean `{near}`?"));
    }
    let all: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    diagnostic.hint(format!("it defines {}", all.join(", "))).into()
}

struct Reader<'a> {
    source: &'a ProjectSource<'a>,
    closure: &'a Closure,
    graph: &'a TaskGraph,
    /// The context, sorted, so that what lies below a folder is one slice.
    listing: Vec<&'a RelPath>,
    /// The files of each package of the closure that git does not leave out.
    packages: BTreeMap<&'a RelPath, Vec<&'a RelPath>>,
    ignores: &'a GitIgnores,
}

impl<'a> Reader<'a> {
    fn new(
        source: &'a ProjectSource<'a>,
        closure: &'a Closure,
        graph: &'a TaskGraph,
        ignores: &'a GitIgnores,
    ) -> Self {
        let mut listing: Vec<&RelPath> = source.listing.iter().collect();
        listing.sort();
        let mut reader = Self { source, closure, graph, listing, packages: BTreeMap::new(), ignores };
        for dir in closure.packages.keys().filter(|dir| !dir.is_root()) {
            let files = reader.below(dir).iter().copied().filter(|path| !ignores.is_ignored(path)).collect();
            reader.packages.insert(dir, files);
        }
        reader
    }

    /// Everything in the context below a folder other than the root.
    fn below(&self, dir: &RelPath) -> &[&'a RelPath] {
        let prefix = format!("{dir}/");
        let start = self.listing.partition_point(|path| path.as_str() < prefix.as_str());
        let length = self.listing[start..].partition_point(|path| path.as_str().starts_with(&prefix));
        &self.listing[start..start + length]
    }

    /// The files of a package, without what git leaves out.
    fn package(&self, dir: &RelPath) -> impl Iterator<Item = &'a RelPath> {
        self.packages.get(dir).into_iter().flatten().copied()
    }

    /// The files that lie in the root itself.
    fn at_root(&self) -> impl Iterator<Item = &'a RelPath> {
        self.listing.iter().copied().filter(|path| !path.as_str().contains('/'))
    }

    fn next(
        &self,
        app: &Manifest,
        facts: NextFacts,
        warnings: &mut Vec<Diagnostic>,
    ) -> Result<Next, WorkspaceError> {
        let is_error = |diagnostic: &&Diagnostic| diagnostic.severity == Severity::Error;
        let errors = facts.diagnostics.iter().filter(is_error).count();
        let not_standalone = match facts.standalone {
            // Said once. Only the runner needs the server: the other stages have what they have without it.
            Finding::No if errors == 1 => facts.diagnostics.clone(),
            _ if errors > 0 => return Err(WorkspaceError::Invalid(facts.diagnostics)),
            _ => Vec::new(),
        };
        warnings.extend(
            facts
                .diagnostics
                .into_iter()
                .map(|diagnostic| Diagnostic { severity: Severity::Warning, ..diagnostic }),
        );
        let public = app.dir.join("public").map(|dir| {
            // Served as it is, whatever git thinks of it.
            self.below(&dir).iter().copied().map(entry).collect()
        });
        Ok(Next {
            version: facts.version.unwrap_or_default(),
            dist: entry(&facts.dist),
            public: public.unwrap_or_default(),
            server: entry(&app.dir),
            not_standalone,
        })
    }

    fn install(&self, plan: &InstallPlan) -> Install {
        let mut install = Install::default();
        for (path, file) in &plan.files {
            match &file.content {
                Content::Bytes(contents) => install.files.push(InstallFile {
                    path: entry(path),
                    contents: contents.clone(),
                    executable: file.executable,
                }),
                Content::Copy | Content::CopyTree => install.verbatim.push(entry(path)),
            }
        }
        let workspace = self.source.workspace;
        install.credentials = Credentials(workspace.npmrc.values().map(Npmrc::credentials).collect());
        let lines = workspace.npmrc.values().flat_map(|npmrc| &npmrc.lines);
        let credentials = lines.filter(|line| line.kind == NpmrcKind::Credential);
        install.credential_names = credentials.flat_map(|line| line.variables.iter().cloned()).collect();
        install.credential_names.sort();
        install.credential_names.dedup();
        let lockfile = &workspace.lockfile;
        install.builds = self
            .closure
            .snapshots
            .iter()
            .any(|id| workspace.settings.builds.allows(lockfile.name_of(*id), lockfile.version_of(*id)));
        install.scripts = plan
            .scripts
            .iter()
            .map(|script| LifecycleScript {
                package: workspace.label(&script.dir).to_owned(),
                dir: entry(&script.dir),
                event: script.event.clone(),
                inputs: self.lifecycle_inputs(&script.dir, &script.command),
            })
            .collect();
        install
    }

    /// What a lifecycle script sees: its package (of the root, the manifest, and everything that is in no other package
    /// where the root is the application), and what its command names. A command that runs scripts of other packages
    /// sees all of them.
    fn lifecycle_inputs(&self, dir: &RelPath, command: &str) -> Vec<EntryPath> {
        let words = self.all_words(dir, command);
        let mut named: BTreeSet<RelPath> = words
            .iter()
            .flat_map(|word| [dir.join(word), RelPath::new(word)])
            .chain(self.by_habit(dir, &words))
            .flatten()
            .filter(|path| !path.is_root() && path != dir)
            .collect();
        let elsewhere = |word: &&str| {
            let options = ["-r", "--recursive", "-F", "--filter", "turbo"];
            options.contains(word) || word.starts_with("--filter=")
        };
        let others = words.iter().any(|word| elsewhere(&word.as_str()));
        named.extend(["package.json"].into_iter().filter_map(|name| dir.join(name).ok()));
        let own = !dir.is_root() || self.closure.app.is_root();
        let package = |path: &RelPath| match dir.is_root() {
            false => path.is_within(dir),
            // Nothing reads the texts at the root.
            true if path.as_str().ends_with(".md") && !path.as_str().contains('/') => false,
            true => {
                !self.source.workspace.packages.keys().any(|other| !other.is_root() && path.is_within(other))
            }
        };
        let of_closure =
            |path: &RelPath| self.packages.keys().any(|package| path.is_within(package)) || package(path);
        let mut files: BTreeSet<RelPath> = self
            .source
            .listing
            .iter()
            .filter(|path| {
                let seen = own && package(path) || others && of_closure(path);
                seen && !self.ignores.is_ignored(path) || named.iter().any(|name| path.is_within(name))
            })
            .cloned()
            .collect();
        self.follow_links(&mut files);
        files.iter().map(entry).collect()
    }

    /// The words of a command and of the package's scripts that it runs by name.
    fn all_words(&self, dir: &RelPath, command: &str) -> BTreeSet<String> {
        let scripts = self.source.workspace.package(dir).map(|package| &package.scripts);
        let mut all = BTreeSet::new();
        let mut pending = vec![command];
        while let Some(command) = pending.pop() {
            for word in command_words(command) {
                // `--schema=prisma/schema.prisma`
                let value = word.split_once('=').map_or(word, |(_, value)| value);
                for word in [word, value] {
                    if all.insert(word.to_owned()) {
                        pending.extend(scripts.and_then(|s| s.get(word)).map(|script| script.value.as_str()));
                    }
                }
            }
        }
        all
    }

    /// The files outside of its package that a task's command names, itself or in a script that it runs: turbo counts them
    /// only where `inputs` or `globalDependencies` do, but they are there for it.
    fn named_elsewhere(&self, dir: &RelPath, command: &str) -> Vec<RelPath> {
        let words = self.all_words(dir, command);
        let named =
            words.iter().filter(|word| word.starts_with("../")).filter_map(|word| dir.join(word).ok());
        let files = named.filter(|path| !path.is_root()).flat_map(|path| {
            let own = self.listing.binary_search(&&path).map(|at| self.listing[at]).ok();
            let below = self.below(&path).iter().copied().filter(|path| !self.ignores.is_ignored(path));
            own.into_iter().chain(below).cloned().collect::<Vec<_>>()
        });
        files.collect()
    }

    /// What programs look for without being told.
    fn by_habit(&self, dir: &RelPath, words: &BTreeSet<String>) -> Vec<Result<RelPath, PathError>> {
        let prisma = words.contains("prisma").then_some(["prisma", "schema.prisma", "prisma.config.ts"]);
        let patches = words.contains("patch-package").then_some(["patches"; 1]);
        let names = prisma.into_iter().flatten().chain(patches.into_iter().flatten());
        names.map(|name| dir.join(name)).collect()
    }

    fn tasks(&self, warnings: &mut Vec<Diagnostic>) -> Result<Vec<Task>, WorkspaceError> {
        let mut chains: BTreeMap<RelPath, Vec<RelPath>> = BTreeMap::new();
        let mut tasks = Vec::with_capacity(self.graph.tasks.len());
        for task in &self.graph.tasks {
            let dir = &task.id.dir;
            let reached = self.reached(dir);
            let mut inputs: BTreeSet<RelPath> =
                task.inputs.select(self.source.listing, self.ignores).into_iter().collect();
            for package in &reached {
                inputs.extend(self.package(package).cloned());
            }
            let global = &self.graph.global.files;
            inputs.extend(self.source.listing.iter().filter(|path| global.matches(path)).cloned());
            for package in reached.iter().chain([dir]) {
                inputs.extend(self.configuration(package, &mut chains, warnings)?);
                inputs.extend(self.linked(package));
            }
            if let Some(command) = &task.command {
                inputs.extend(self.named_elsewhere(dir, &command.value));
            }
            self.follow_links(&mut inputs);
            let near_misses = self
                .package(dir)
                .chain(self.at_root())
                .filter(|path| !inputs.contains(*path))
                .take(MOST_NEAR_MISSES)
                .map(entry)
                .collect();
            let written = task.definition.outputs.iter().map(|output| output.value.as_str());
            tasks.push(Task {
                id: task.id.to_string(),
                dir: entry(dir),
                script: task.command.as_ref().map(|_| task.id.task.clone()),
                depends_on: task.dependencies.clone(),
                inputs: inputs.iter().map(entry).collect(),
                near_misses,
                outputs: globs::outputs(dir, written),
                keeps_everything: !task.cache,
                env: names([&task.env, &self.graph.global.env]),
                pass_through: names([&task.pass_through_env, &self.graph.global.pass_through_env]),
            });
        }
        Ok(tasks)
    }

    /// The files of folders that a package links to and that are no packages of the workspace: with `link:`, or since
    /// an override has its dependencies link to them.
    fn linked(&self, package: &RelPath) -> Vec<RelPath> {
        let plain = self.source.workspace.plain_links(package);
        let linked = self.closure.directories.iter().filter(|(dir, directory)| {
            let indirect =
                matches!(&directory.why, Why::Dependency(link) if !link.through.is_empty() || link.from.is_root());
            directory.usage == DirectoryUsage::Linked && (indirect || plain.contains(dir))
        });
        let files = linked.flat_map(|(dir, _)| self.below(dir)).filter(|path| !self.ignores.is_ignored(path));
        files.map(|path| (*path).clone()).collect()
    }

    /// Adds what symbolic links among the files lead to: whoever reads the link reads that.
    fn follow_links(&self, files: &mut BTreeSet<RelPath>) {
        let mut pending: Vec<&RelPath> = self.source.links.keys().collect();
        loop {
            let before = pending.len();
            pending.retain(|link| {
                if !files.contains(*link) {
                    return true;
                }
                let target = &self.source.links[*link];
                if self.listing.binary_search(&target).is_ok() {
                    files.insert(target.clone());
                } else if !target.is_root() {
                    let below = self.below(target).iter().filter(|path| !self.ignores.is_ignored(path));
                    files.extend(below.map(|path| (*path).clone()));
                }
                false
            });
            if pending.len() == before {
                return;
            }
        }
    }

    /// Warns about packages that are loaded by files which nobody committed and no task of theirs declares: they are built,
    /// dropped, and missed by whoever loads them.
    fn undeclared_entries(&self, warnings: &mut Vec<Diagnostic>) {
        let app = &self.closure.app;
        for dir in self.closure.packages.keys().filter(|dir| !dir.is_root() && *dir != app) {
            let tasks: Vec<_> =
                self.graph.tasks.iter().filter(|t| t.id.dir == *dir && t.command.is_some()).collect();
            let Some(last) = tasks.last().filter(|_| tasks.iter().all(|task| task.cache)) else { continue };
            let Some(package) = self.source.workspace.package(dir) else { continue };
            let missing = package.entry_points().into_iter().find(|entry| {
                let Ok(path) = dir.join(&entry.value) else { return false };
                let exists = self.listing.binary_search(&&path).is_ok() || !self.below(&path).is_empty();
                // Without an extension, Node tries several.
                let whole = path.name().is_some_and(|name| name.contains('.'));
                whole && !exists && !self.graph.tasks.iter().any(|task| task.outputs.matches(&path))
            });
            if let Some(entry) = missing {
                let message = format!(
                    "`{}` is loaded by `{}`, which is no file of it, and no task declares it as an output",
                    package.label(),
                    entry.value
                );
                let folder =
                    entry.value.trim_start_matches("./").split('/').next().unwrap_or_default().to_owned();
                warnings.push(
                    Diagnostic::warning(&entry.place.file, message)
                        .at(entry.place.span, "missing for whoever loads it")
                        .hint(format!(
                            "if `{}` writes it, add `{folder}/**` to its `outputs` in turbo.json",
                            last.id
                        )),
                );
            }
        }
    }

    /// The workspace packages that a package depends on, also through others.
    fn reached(&self, dir: &RelPath) -> BTreeSet<RelPath> {
        let workspace = self.source.workspace;
        let mut found = BTreeSet::new();
        let mut pending = vec![dir.clone()];
        while let Some(package) = pending.pop() {
            let mut dependencies = workspace.internal_dependencies(&package);
            let plain = workspace.plain_links(&package).into_iter();
            dependencies.extend(plain.filter(|target| workspace.packages.contains_key(target)));
            for dependency in dependencies {
                if dependency != *dir && found.insert(dependency.clone()) {
                    pending.push(dependency);
                }
            }
        }
        // Nobody depends on the root for its files.
        found.remove(&RelPath::root());
        found
    }

    /// The files that a package's `tsconfig.json` stands on, wherever they lie.
    fn configuration(
        &self,
        package: &RelPath,
        chains: &mut BTreeMap<RelPath, Vec<RelPath>>,
        warnings: &mut Vec<Diagnostic>,
    ) -> Result<Vec<RelPath>, WorkspaceError> {
        if let Some(known) = chains.get(package) {
            return Ok(known.clone());
        }
        let Ok(path) = package.join("tsconfig.json") else { return Ok(Vec::new()) };
        let chain = tsconfig_chain(self.source.files, self.source.workspace, &path)?;
        for missing in &chain.missing {
            warnings.push(
                Diagnostic::warning(&missing.place.file, format!("`{}` does not exist", missing.value))
                    .at(missing.place.span, "extends it"),
            );
        }
        let in_context = |path: &RelPath| self.listing.binary_search(&path).is_ok();
        let files: Vec<RelPath> = chain.files.into_iter().filter(in_context).collect();
        chains.insert(package.clone(), files.clone());
        Ok(files)
    }

    /// What a person needs to go on by hand: the closure's packages, what its tasks see, and the files at the root.
    fn all_sources(&self, tasks: &[Task]) -> Vec<EntryPath> {
        let mut all: BTreeSet<EntryPath> =
            tasks.iter().flat_map(|task| task.inputs.iter().cloned()).collect();
        all.extend(self.packages.values().flatten().copied().map(entry));
        all.extend(self.at_root().filter(|path| !self.ignores.is_ignored(path)).map(entry));
        all.into_iter().collect()
    }

    fn foreign(&self) -> Vec<ForeignPackage> {
        let platform = self.source.platform;
        let Some(libc) = libc(&self.source.spec.runner.image) else { return Vec::new() };
        let cpu = match platform.architecture.as_str() {
            "amd64" => "x64",
            "386" => "ia32",
            "ppc64le" => "ppc64",
            other => other,
        };
        let platform = wbuild_workspace::Platform {
            os: platform.os.clone(),
            cpu: cpu.to_owned(),
            libc: Some(libc.to_owned()),
        };
        let found = self
            .source
            .workspace
            .lockfile
            .foreign_packages(self.closure.snapshots.iter().copied(), &platform);
        // Unless the workspace asks for several platforms, pnpm installs those of the machine, and only the C library
        // of the base image and that of the runner can differ.
        let several = self.source.workspace.settings.supported_architectures != Default::default();
        let mut foreign: Vec<ForeignPackage> = found
            .into_iter()
            .filter(|package| several || package.because == "libc")
            .map(|package| ForeignPackage { name: package.name, folder: package.directory })
            .collect();
        foreign.sort();
        foreign.dedup();
        foreign
    }
}

/// The C library of an image, as far as its reference says: the official images are named for it.
fn libc(reference: &str) -> Option<&'static str> {
    let reference: wbuild_oci::Reference = reference.parse().ok()?;
    let tag = reference.tag.unwrap_or_default();
    let alpine = |text: &str| text.contains("alpine") || text.contains("musl");
    if alpine(&tag) || alpine(&reference.repository) {
        return Some("musl");
    }
    let debian = ["slim", "bookworm", "bullseye", "trixie", "debian", "ubuntu"];
    let glibc = debian.iter().any(|word| tag.contains(word) || reference.repository.contains(word))
        || reference.repository == "library/node";
    glibc.then_some("glibc")
}

/// Names and `!` names as one list.
fn names<const N: usize>(lists: [&EnvNames; N]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for list in lists {
        all.extend(list.include.iter().cloned());
        all.extend(list.exclude.iter().map(|name| format!("!{name}")));
    }
    all.sort();
    all.dedup();
    all
}

fn entry(path: &RelPath) -> EntryPath {
    // Both are normalised, and neither leaves the root.
    EntryPath::parse(path.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_tell_the_c_library() {
        for (reference, expected) in [
            ("node:22.16.0-alpine", Some("musl")),
            ("alpine:3.23", Some("musl")),
            ("node:22.16.0", Some("glibc")),
            ("node:22-slim", Some("glibc")),
            ("ghcr.io/acme/base:1", None),
        ] {
            assert_eq!(libc(reference), expected, "{reference}");
        }
    }
}
