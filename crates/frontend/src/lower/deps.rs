use wbuild_graph::{
    Cache, Capture, Copy, Exec, FailureHint, FileAction, FileOp, Mount, MountKind, NetworkMode, Op,
    PrivilegeSet, StepLimits, StepTimes,
};
use wbuild_report::VertexId;

use super::builder::CACHES;
use super::environment::Environments;
use super::{BY_ROOT, Lowering, Stage, entry, in_root, shown};
use crate::HistoryRow;

/// Where pnpm's store is mounted. pnpm writes the path into `node_modules/.modules.yaml`.
const STORE: &str = "pnpm/store";

/// What a person would type for the install.
const INSTALL: &str = "pnpm install --frozen-lockfile";

/// The installed dependencies.
#[derive(Debug)]
pub(super) struct Deps {
    /// The stage `deps`: the manifests are still the pruned ones.
    pub(super) stage: Stage,
    /// What to put on `base` for everything after: what pnpm read, what it installed, and what lifecycle scripts did.
    /// The pruned manifests cost no key anything, since the install's covers them, and let pnpm and Next find the
    /// workspace root; the sources of a task lie over them.
    pub(super) layers: Vec<(VertexId, HistoryRow)>,
}

impl Lowering<'_> {
    /// Installs the closure's dependencies.
    pub(super) fn deps(&mut self, environments: &Environments, base: &Stage) -> Deps {
        let files = self.install_input();
        let before = self.add_minor("deps/before", "[deps] /app", Op::Merge, vec![base.vertex, files]);
        let exec = Op::Exec(Box::new(self.install(environments)));
        let after = self.add("deps/install", "[deps] pnpm install", exec, vec![before]);
        let install = self.add_minor("deps/diff", "[deps] node_modules", Op::Diff, vec![before, after]);

        let copied = HistoryRow::delta("COPY pruned manifests and lockfile to /app");
        let installed = HistoryRow::delta(format!("RUN {INSTALL}"));
        let mut history = base.history.clone();
        history.extend([copied.clone(), installed.clone()]);
        let mut layers = vec![(files, copied), (install, installed)];
        layers.extend(self.lifecycle(environments, base, &layers));
        Deps { stage: Stage { vertex: after, history }, layers }
    }

    /// What pnpm reads: nothing else is there, so that nothing else can be in the key.
    fn install_input(&mut self) -> VertexId {
        let install = &self.input.project.install;
        let scratch = self.scratch();
        let mut inputs = vec![scratch];
        let mut actions = Vec::new();
        if let Some(local) = self.local("deps/files", "[deps]", &install.verbatim) {
            inputs.push(local);
            actions.push(FileAction::Copy(Copy {
                input: 1,
                source: entry(""),
                target: in_root(&entry("")),
                owner: Some(BY_ROOT),
            }));
        }
        let mut files: Vec<_> = install.files.iter().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        actions.extend(files.into_iter().map(|file| FileAction::Mkfile {
            path: in_root(&file.path),
            contents: file.contents.clone(),
            mode: if file.executable { 0o755 } else { 0o644 },
            owner: BY_ROOT,
        }));
        self.add_minor("deps/files", "[deps] manifests and lockfile", Op::File(FileOp { actions }), inputs)
    }

    fn install(&self, environments: &Environments) -> Exec {
        let project = self.input.project;
        let mut script = format!("{INSTALL} --ignore-scripts\n");
        if project.install.builds {
            // Only what `onlyBuiltDependencies` allows; projects have no scripts here, since their manifests are
            // reduced to what an install reads.
            script.push_str("pnpm rebuild --recursive\n");
        }
        if self.spec().normalise.pnpm_state {
            script.push_str(&format!("node -e '{NORMALISE}'\n"));
        }
        Exec {
            argv: shell(script, INSTALL),
            // NODE_ENV is not production here: a build needs the development dependencies.
            env: environments.pnpm(&[
                ("store_dir", "/pnpm/store"),
                // A hard link between the store and the delta would let a later step write into the store.
                ("package_import_method", "clone-or-copy"),
                // Else what a build script wrote comes from the store on a second machine, not from running it.
                ("side_effects_cache", "false"),
                ("update_notifier", "false"),
            ]),
            cwd: in_root(&entry("")),
            user: String::new(),
            network: network(self.spec().install.network),
            privileges: PrivilegeSet::Task,
            mounts: [self.pnpm_store()]
                .into_iter()
                .chain(self.install_noise())
                .chain(self.credentials())
                .collect(),
            secret_env: Vec::new(),
            hostname: None,
            hosts: Vec::new(),
            limits: StepLimits::default(),
            capture: Capture::All,
            times: StepTimes::Kept,
            on_failure: self.install_hints(),
        }
    }

    fn install_hints(&self) -> Vec<FailureHint> {
        let missing = self.missing_credentials().map(|name| {
            FailureHint::always(format!(
                "`.npmrc` names `${{{name}}}`, and no secret of that name was given: --secret id={name},env={name}"
            ))
        });
        let closure = "pnpm sees only the manifests and the lockfile of the application's closure; `wbuild workspace` lists it";
        missing.chain([FailureHint::always(closure)]).collect()
    }

    /// What the repository's credentials name, and nobody gave. It may be for a registry that nothing comes from.
    pub(super) fn missing_credentials(&self) -> impl Iterator<Item = &String> {
        let names = self.input.project.install.credential_names.iter();
        names.filter(|name| !self.input.secrets.contains(*name))
    }

    /// The repository's credentials as the user's own `.npmrc`, in memory. `${NAME}` in it is a secret of that name: the
    /// repository cannot have the environment of the machine expanded into its requests.
    fn credentials(&self) -> Option<Mount> {
        let lines = &self.input.project.install.credentials.0;
        let contents = lines.clone().into_bytes();
        let kind = MountKind::Scratchpad { contents, mode: 0o600 };
        (!lines.is_empty()).then(|| Mount { target: entry("root/.npmrc"), kind })
    }

    fn pnpm_store(&self) -> Mount {
        let platform = self.input.platform;
        let version = match self.input.project.pnpm_major {
            ..=9 => 3,
            10 => 10,
            _ => 11,
        };
        let mut id = format!("pnpm-store-v{version}-{}-{}", platform.os, platform.architecture);
        if let Some(variant) = &platform.variant {
            id = format!("{id}-{variant}");
        }
        Mount { target: entry(STORE), kind: MountKind::Cache(Cache::shared(id)) }
    }

    /// The projects' own scripts of an install, which `--ignore-scripts` left out.
    fn lifecycle(
        &mut self,
        environments: &Environments,
        base: &Stage,
        installed: &[(VertexId, HistoryRow)],
    ) -> Option<(VertexId, HistoryRow)> {
        let scripts = &self.input.project.install.scripts;
        if scripts.is_empty() {
            return None;
        }
        let mut commands = String::new();
        let mut names: Vec<String> = Vec::new();
        let mut runs: Vec<String> = Vec::new();
        for script in scripts {
            commands.push_str(&format!(
                "cd {}\npnpm run {}\n",
                quote(&format!("/{}", shown(&in_root(&script.dir)))),
                quote(&script.event)
            ));
            names.push(format!("{} of {}", script.event, script.package));
            runs.push(format!("pnpm --filter {} run {}", script.package, script.event));
        }
        let paths: Vec<_> = scripts.iter().flat_map(|script| script.inputs.iter().cloned()).collect();
        let mut inputs = vec![base.vertex];
        inputs.extend(installed.iter().map(|(vertex, _)| *vertex));
        inputs.extend(self.sources("builder/lifecycle", "[builder] lifecycle", &paths));
        let before =
            self.add_minor("builder/lifecycle/before", "[builder] lifecycle /app", Op::Merge, inputs);
        let exec = Exec {
            argv: shell(commands, &runs.join(" && ")),
            // Each script is named here, so pnpm must not run its neighbours `pre…` and `post…` as well.
            env: environments.pnpm(&[
                ("enable_pre_post_scripts", "false"),
                ("update_notifier", "false"),
                ("verify_deps_before_run", "false"),
            ]),
            cwd: in_root(&entry("")),
            user: String::new(),
            network: network(self.spec().install.network),
            privileges: PrivilegeSet::Task,
            mounts: self.install_noise().into(),
            secret_env: Vec::new(),
            hostname: None,
            hosts: Vec::new(),
            limits: StepLimits::default(),
            // Everything, but named by what it is: a script that runs again, since something that it may have read has
            // changed, mostly writes the same.
            capture: Capture::Outputs {
                include: vec!["**".to_owned()],
                exclude: CACHES.map(str::to_owned).to_vec(),
                expected: CACHES.map(str::to_owned).to_vec(),
            },
            times: StepTimes::Kept,
            on_failure: Vec::new(),
        };
        let name = format!("[builder] {}", names.join(", "));
        let after = self.add("builder/lifecycle/run", name, Op::Exec(Box::new(exec)), vec![before]);
        let diff = self.add_minor(
            "builder/lifecycle/diff",
            "[builder] lifecycle files",
            Op::Diff,
            vec![before, after],
        );
        Some((diff, HistoryRow::delta(format!("RUN {}", names.join(", ")))))
    }
}

/// Puts fixed times into the two files in which pnpm says when it ran, and, from 11 on, when its lockfile was written. Both are
/// YAML or JSON, depending on its version.
const NORMALISE: &str = r#"
const fs = require("fs"), dir = "node_modules/", never = "Thu, 01 Jan 1970 00:00:01 GMT";
for (const name of fs.existsSync(dir) ? fs.readdirSync(dir) : []) {
  if (name !== ".modules.yaml" && !name.startsWith(".pnpm-workspace-state")) continue;
  const text = fs.readFileSync(dir + name, "utf8");
  fs.writeFileSync(dir + name, text
    .replace(/^(prunedAt: ).*$/m, (_, key) => key + never)
    .replace(/("prunedAt": ")[^"]*/, (_, key) => key + never)
    .replace(/("lastValidatedTimestamp": )\d+/, (_, key) => key + 1000)
    .replace(/("(?:recordedAtNs|ctimeNs)": )\d+/g, (_, key) => key + 1000000000));
}
"#;

pub(super) fn network(allowed: bool) -> NetworkMode {
    if allowed { NetworkMode::Default } else { NetworkMode::None }
}

/// A script that stops at the first failure. `name` is what a person would have typed: the shell's own `$0`, and what errors
/// call the step.
fn shell(script: String, name: &str) -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-ec".to_owned(), script, name.to_owned()]
}

/// A word for the shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
