use std::collections::BTreeSet;

use wbuild_graph::{
    Cache, CacheSharing, Capture, EnvInKey, Environment, Exec, FailureHint, Mount, MountKind, Op,
    PrivilegeSet, SecretEnv, StepLimits, StepTimes,
};
use wbuild_report::VertexId;
use wbuild_tree::EntryPath;

use super::deps::{Deps, network};
use super::environment::Environments;
use super::{Lowering, Stage, entry, glob, in_root, shown};
use crate::{HistoryRow, Next, SecretTarget, Task};

/// Stands in an environment for the first twenty hexadecimal digits of the step's own key. Only the engine knows it.
pub const INPUT_DIGEST: &str = "{input-digest}";

/// The variable from which the application's `generateBuildId` takes Next's build id (decision 9).
const BUILD_ID: &str = "WBUILD_BUILD_ID";

/// What Next keeps in its cache that must not leave with it (decisions 9 and 14): its keys, and what pages fetched.
const NOT_IN_CACHE: [&str; 3] = [".previewinfo", ".rscinfo", "fetch-cache"];

/// Files with times, which differ in every build.
const NEXT_TRACES: [&str; 2] = ["trace", "trace-build"];

/// Where programs write without meaning to leave something: never worth a warning.
const SCRATCH: [&str; 7] = [
    "tmp/**",
    "var/tmp/**",
    "root/**",
    "app/**/.turbo/**",
    "app/**/node_modules/.cache/**",
    "app/**/*.tsbuildinfo",
    "app/**/next-env.d.ts",
];

/// What stays out even where everything is an output.
pub(super) const CACHES: [&str; 2] = ["app/**/.turbo/**", "app/**/node_modules/.cache/**"];

/// The built workspace.
#[derive(Debug)]
pub(super) struct Builder {
    /// The stage `builder`.
    pub(super) stage: Stage,
    /// What the application's own task wrote, as a tree.
    pub(super) output: Option<VertexId>,
    /// What all tasks wrote.
    pub(super) outputs: Vec<VertexId>,
}

impl Lowering<'_> {
    /// Runs every task of the task graph as a step of its own.
    pub(super) fn builder(&mut self, environments: &Environments, base: &Stage, deps: &Deps) -> Builder {
        let tasks = &self.input.project.tasks;
        let mut diffs: Vec<Option<VertexId>> = Vec::with_capacity(tasks.len());
        for index in 0..tasks.len() {
            let below: Vec<VertexId> =
                before(tasks, index).into_iter().filter_map(|task| diffs[task]).collect();
            let diff = tasks[index]
                .script
                .is_some()
                .then(|| self.task(environments, base, deps, &tasks[index], &below));
            diffs.push(diff);
        }
        let rows: Vec<(VertexId, HistoryRow)> = tasks
            .iter()
            .zip(&diffs)
            .filter_map(|(task, diff)| Some(((*diff)?, HistoryRow::delta(format!("RUN {}", task.id)))))
            .collect();
        let own = tasks.iter().position(|task| self.is_own(task));
        let output = own.and_then(|index| diffs[index]);
        if output.is_none() {
            self.no_task();
        }
        let stage = self.workspace_stage("builder", base, deps, &rows);
        Builder { stage, output, outputs: diffs.into_iter().flatten().collect() }
    }

    /// Whether it is the task that makes the application.
    fn is_own(&self, task: &Task) -> bool {
        task.dir == self.input.project.app.dir && task.id.rsplit('#').next() == Some(&self.spec().build.task)
    }

    fn no_task(&mut self) {
        let spec = self.spec();
        let app = &self.input.project.app;
        let message =
            format!("`{}` has no script `{}`, so there is nothing to build", app.name, spec.build.task);
        let package = in_workspace(&app.dir, "package.json");
        let error = spec
            .error("build.task", message, "this task")
            .hint(format!("add it to `scripts` in {package}, or name another task in `build.task`"));
        for target in ["builder", "runner"] {
            self.prevented(target, error.clone());
        }
    }

    /// One task: what it wrote, as a delta.
    fn task(
        &mut self,
        environments: &Environments,
        base: &Stage,
        deps: &Deps,
        task: &Task,
        outputs: &[VertexId],
    ) -> VertexId {
        let step = format!("builder/{}", task.id);
        let name = format!("[builder] {}", task.id);
        let mut layers = vec![base.vertex];
        layers.extend(deps.layers.iter().map(|(vertex, _)| *vertex));
        layers.extend(self.sources(&step, &name, &task.inputs));
        layers.extend(outputs);
        let before = self.add_minor(&format!("{step}/before"), format!("{name} /app"), Op::Merge, layers);
        let exec = Op::Exec(Box::new(self.exec(environments, task)));
        let after = self.add(&step, &name, exec, vec![before]);
        self.add_minor(&format!("{step}/outputs"), format!("{name} outputs"), Op::Diff, vec![before, after])
    }

    fn exec(&self, environments: &Environments, task: &Task) -> Exec {
        let spec = self.spec();
        let own = self.is_own(task);
        let next = self.input.project.app.next.as_ref().filter(|_| own);
        let mut env = Vec::new();
        if next.is_some() && spec.normalise.next_build_id {
            env.push(Environment {
                name: BUILD_ID.to_owned(),
                value: INPUT_DIGEST.to_owned(),
                in_key: EnvInKey::NameOnly,
            });
        }
        let mut mounts = Vec::new();
        let mut secret_env = Vec::new();
        if let Some(next) = next {
            mounts.push(self.next_cache(next));
        }
        if own {
            self.secrets(&mut mounts, &mut secret_env);
        }
        Exec {
            argv: ["pnpm", "run", task.script.as_deref().unwrap_or_default()].map(str::to_owned).to_vec(),
            env: environments.task(task, &env),
            cwd: in_root(&task.dir),
            user: String::new(),
            network: network(spec.build.network),
            privileges: PrivilegeSet::Task,
            mounts,
            secret_env,
            hostname: None,
            hosts: Vec::new(),
            limits: StepLimits::default(),
            capture: self.capture(task, next),
            times: StepTimes::FromContent,
            on_failure: near_misses(task),
        }
    }

    fn next_cache(&self, next: &Next) -> Mount {
        let project = self.input.project;
        let platform = self.input.platform;
        let id =
            format!("next-cache {} {} {} {platform}", project.root, shown(&project.app.dir), next.version);
        Mount {
            target: in_root(&project.app.dir).join_path(&next.dist).join_path(&entry("cache")),
            kind: MountKind::Cache(Cache {
                sharing: CacheSharing::Locked,
                publish_on_success: true,
                never_publish: NOT_IN_CACHE.map(str::to_owned).to_vec(),
                ..Cache::shared(id)
            }),
        }
    }

    /// The secrets of the application's task. Those that are not required stay in the graph when they are not given:
    /// the graph is the same on every machine, and the engine puts into the key which of them were there.
    fn secrets(&self, mounts: &mut Vec<Mount>, secret_env: &mut Vec<SecretEnv>) {
        for (id, secret) in &self.spec().secrets {
            match &secret.target {
                SecretTarget::Env(name) => secret_env.push(SecretEnv {
                    name: name.clone(),
                    id: id.clone(),
                    required: secret.required,
                    version: Some(secret.version.clone()),
                }),
                SecretTarget::File(path) => mounts.push(Mount {
                    target: in_root(&entry(path)),
                    kind: MountKind::Secret {
                        id: id.clone(),
                        mode: 0o400,
                        uid: 0,
                        gid: 0,
                        required: secret.required,
                        version: Some(secret.version.clone()),
                    },
                }),
            }
        }
    }

    fn capture(&self, task: &Task, next: Option<&Next>) -> Capture {
        let below_root =
            |globs: &[String]| globs.iter().map(|text| format!("app/{text}")).collect::<Vec<_>>();
        let mut include = below_root(&task.outputs.include);
        let mut exclude = below_root(&task.outputs.exclude);
        let mut expected: Vec<String> = SCRATCH.map(str::to_owned).to_vec();
        if task.keeps_everything {
            push_once(&mut include, "app/**".to_owned());
            CACHES.into_iter().for_each(|cache| push_once(&mut exclude, cache.to_owned()));
        }
        if let Some(next) = next {
            let dist = glob(&in_root(&self.input.project.app.dir).join_path(&next.dist));
            // Whatever turbo.json says, this is what the image is made of.
            push_once(&mut include, format!("{dist}/**"));
            push_once(&mut exclude, format!("{dist}/cache/**"));
            expected.push(format!("{dist}/cache/**"));
            // Next adds to it what it misses.
            expected.push(format!("{}/tsconfig.json", glob(&in_root(&self.input.project.app.dir))));
            if self.spec().normalise.next_trace {
                for name in NEXT_TRACES {
                    push_once(&mut exclude, format!("{dist}/{name}"));
                    expected.push(format!("{dist}/{name}"));
                }
            }
        }
        Capture::Outputs { include, exclude, expected }
    }
}

fn push_once(list: &mut Vec<String>, item: String) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// The tasks that come before one, also through others, in order.
fn before(tasks: &[Task], index: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut pending = tasks[index].depends_on.clone();
    while let Some(task) = pending.pop() {
        if found.insert(task) {
            pending.extend(&tasks[task].depends_on);
        }
    }
    found
}

/// For each file that lies near but that the task does not see, in case it asks for it.
fn near_misses(task: &Task) -> Vec<FailureHint> {
    let hint = |path: &EntryPath| FailureHint {
        text: format!(
            "`{}` exists, but is not among the inputs of `{}`; if it needs it, add it to `inputs` in turbo.json",
            shown(path),
            task.id
        ),
        when_mentioned: Some(shown(&in_root(path))),
    };
    task.near_misses.iter().map(hint).collect()
}

fn in_workspace(dir: &EntryPath, name: &str) -> String {
    shown(&dir.join_path(&entry(name)))
}
