use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wbuild_report::{Diagnostic, nearest};

use super::inputs::globs;
use super::{EnvNames, Inputs, Outputs, ROOT_NAME, TaskDefinition, TaskId, TurboConfigs};
use crate::document::Located;
use crate::error::without_errors;
use crate::{GlobSet, Manifest, RelPath, Workspace, WorkspaceError, order};

/// The tasks that a task of an application needs, each after those it depends on.
#[derive(Clone, Debug)]
pub struct TaskGraph {
    /// The tasks in an order in which they can run; the last one is not necessarily the one asked for.
    pub tasks: Vec<Task>,
    /// Which of them was asked for.
    pub target: usize,
    /// What counts for every task.
    pub global: GlobalInputs,
    /// What is probably not as its author believes.
    pub warnings: Vec<Diagnostic>,
}

/// One task of a package.
#[derive(Clone, Debug)]
pub struct Task {
    /// Which.
    pub id: TaskId,
    /// The script's command; without one the task only passes on what it waits for.
    pub command: Option<Located<String>>,
    /// The tasks it waits for, as positions in [`TaskGraph::tasks`], sorted. All are before it.
    pub dependencies: Vec<usize>,
    /// Which files it reads.
    pub inputs: Inputs,
    /// Which files it writes.
    pub outputs: Outputs,
    /// The environment variables that count, those of `globalEnv` not among them.
    pub env: EnvNames,
    /// Environment variables that it sees but that do not count by value.
    pub pass_through_env: EnvNames,
    /// Whether its result may be reused; `cache: false` says no.
    pub cache: bool,
    /// `outputLogs`, if written.
    pub output_logs: Option<String>,
    /// Where turbo.json defines it last.
    pub definition: TaskDefinition,
}

/// What counts for every task of a workspace.
#[derive(Clone, Debug)]
pub struct GlobalInputs {
    /// `globalDependencies`, from the root.
    pub files: GlobSet,
    /// `globalEnv`
    pub env: EnvNames,
    /// `globalPassThroughEnv`
    pub pass_through_env: EnvNames,
}

impl TaskGraph {
    /// The graph of `task` (usually `build`) of the package in `app`.
    pub fn new(
        workspace: &Workspace,
        configs: &TurboConfigs,
        app: &RelPath,
        task: &str,
    ) -> Result<Self, WorkspaceError> {
        let mut builder = Builder {
            workspace,
            configs,
            indices: BTreeMap::new(),
            nodes: Vec::new(),
            pending: VecDeque::new(),
            diagnostics: Vec::new(),
        };
        let id = builder.id(app, task);
        builder.add(id, None);
        while let Some(index) = builder.pending.pop_front() {
            builder.follow(index);
        }
        builder.finish()
    }

    /// The directories of the packages that have tasks here, sorted. One that is not in the application's closure
    /// is there because a `package#task` names it; see [`Closure::with`](crate::Closure::with).
    pub fn packages(&self) -> Vec<RelPath> {
        let mut dirs: Vec<RelPath> = self.tasks.iter().map(|task| task.id.dir.clone()).collect();
        dirs.sort();
        dirs.dedup();
        dirs
    }
}

struct Node {
    id: TaskId,
    definition: TaskDefinition,
    dependencies: Vec<usize>,
}

struct Builder<'a> {
    workspace: &'a Workspace,
    configs: &'a TurboConfigs,
    indices: BTreeMap<TaskId, usize>,
    nodes: Vec<Node>,
    pending: VecDeque<usize>,
    diagnostics: Vec<Diagnostic>,
}

impl Builder<'_> {
    fn id(&self, dir: &RelPath, task: &str) -> TaskId {
        let package = if dir.is_root() { ROOT_NAME } else { self.workspace.label(dir) };
        TaskId { dir: dir.clone(), package: package.to_owned(), task: task.to_owned() }
    }

    /// The node of a task, made if it is new; `None` with a diagnostic when it has no definition.
    fn add(&mut self, id: TaskId, asked: Option<&Located<String>>) -> Option<usize> {
        if let Some(index) = self.indices.get(&id) {
            return Some(*index);
        }
        let root = self.configs.root();
        // The root has only the tasks that say so.
        let enabled = !id.dir.is_root() || root.tasks.contains_key(&id.to_string());
        let definition = TaskDefinition::of(self.configs, self.workspace, &id).filter(|_| enabled);
        let Some(definition) = definition else {
            self.undefined(&id, asked);
            return None;
        };
        let index = self.nodes.len();
        self.indices.insert(id.clone(), index);
        self.nodes.push(Node { id, definition, dependencies: Vec::new() });
        self.pending.push_back(index);
        Some(index)
    }

    fn undefined(&mut self, id: &TaskId, asked: Option<&Located<String>>) {
        let root = self.configs.root();
        if self.configs.missing {
            return self.no_script(id);
        }
        let message = format!("turbo.json defines no task `{id}`");
        let mut diagnostic = match asked {
            Some(asked) => asked.error(message, "depends on it"),
            None => Diagnostic::error(&root.file, message),
        };
        let names = root.tasks.keys().map(String::as_str);
        let whole = nearest(&id.to_string(), names.clone()).into_iter();
        // The root has no task that is not named for it, so a near plain name is no help there.
        let near = whole
            .chain(nearest(&id.task, names))
            .find(|name| !id.dir.is_root() || name.starts_with(ROOT_NAME));
        diagnostic = match near {
            Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
            None if id.dir.is_root() => {
                diagnostic.hint(format!("a task of the root package needs a definition of its own: `{id}`"))
            }
            None => diagnostic.hint(format!("define `{}` in the `tasks` of turbo.json", id.task)),
        };
        self.diagnostics.push(diagnostic);
    }

    /// Without a turbo.json, every script is a task.
    fn no_script(&mut self, id: &TaskId) {
        let package = self.workspace.package(&id.dir).unwrap_or(self.workspace.root());
        let message =
            format!("`{}` has no script `{}`, and there is no turbo.json", package.label(), id.task);
        let mut diagnostic = Diagnostic::error(&package.file, message);
        let span = package.key_span("scripts");
        if package.document.member("scripts").is_some() {
            diagnostic = diagnostic.at(span, "not among these");
        }
        if let Some(near) = nearest(&id.task, package.scripts.keys().map(String::as_str)).first() {
            diagnostic = diagnostic.hint(format!("did you mean `{near}`?"));
        }
        self.diagnostics.push(diagnostic);
    }

    fn follow(&mut self, index: usize) {
        let id = self.nodes[index].id.clone();
        let depends_on = self.nodes[index].definition.depends_on.clone();
        let mut dependencies = Vec::new();
        for asked in &depends_on {
            let targets = if let Some(task) = asked.value.strip_prefix('^') {
                self.topological(&id, task)
            } else if let Some((package, task)) = asked.value.split_once('#') {
                self.qualified(asked, package, task).into_iter().collect()
            } else {
                vec![self.id(&id.dir, &asked.value)]
            };
            for target in targets {
                dependencies.extend(self.add(target, Some(asked)));
            }
        }
        dependencies.sort_unstable();
        dependencies.dedup();
        self.nodes[index].dependencies = dependencies;
    }

    /// `^task`: the task in every workspace package that this one depends on, whether it has the script or not.
    fn topological(&self, id: &TaskId, task: &str) -> Vec<TaskId> {
        let root = self.configs.root();
        self.workspace
            .internal_dependencies(&id.dir)
            .iter()
            .map(|dir| self.id(dir, task))
            .filter(|id| !id.dir.is_root() || root.tasks.contains_key(&id.to_string()))
            .collect()
    }

    fn qualified(&mut self, asked: &Located<String>, package: &str, task: &str) -> Option<TaskId> {
        if package == ROOT_NAME {
            return Some(self.id(&RelPath::root(), task));
        }
        if let Some(found) = self.workspace.by_name(package) {
            return Some(self.id(&found.dir, task));
        }
        let names = self.workspace.packages.values().map(Manifest::label);
        let mut diagnostic =
            asked.error(format!("`{}` names no package of the workspace", asked.value), "no such package");
        if let Some(near) = nearest(package, names).first() {
            diagnostic = diagnostic.hint(format!("did you mean `{near}#{task}`?"));
        }
        self.diagnostics.push(diagnostic);
        None
    }

    fn finish(mut self) -> Result<TaskGraph, WorkspaceError> {
        let edges: Vec<Vec<usize>> = self.nodes.iter().map(|node| node.dependencies.clone()).collect();
        let sorted = match order::topological(&edges) {
            Ok(sorted) => sorted,
            Err(cycle) => {
                // Within one package, only `dependsOn` can have made it.
                let dir = |node: &usize| &self.nodes[*node].id.dir;
                if cycle.iter().skip(1).any(|node| dir(node) != dir(&cycle[0])) {
                    self.pass_through();
                }
                let edges: Vec<Vec<usize>> =
                    self.nodes.iter().map(|node| node.dependencies.clone()).collect();
                match order::topological(&edges) {
                    Ok(sorted) => sorted,
                    Err(cycle) => {
                        self.cycle(&cycle);
                        return Err(WorkspaceError::Invalid(self.diagnostics));
                    }
                }
            }
        };
        let mut position = vec![0; self.nodes.len()];
        for (at, node) in sorted.iter().enumerate() {
            position[*node] = at;
        }
        let nodes = std::mem::take(&mut self.nodes);
        let mut tasks: Vec<(usize, Task)> = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.into_iter().enumerate() {
            let mut dependencies: Vec<usize> = node.dependencies.iter().map(|to| position[*to]).collect();
            dependencies.sort_unstable();
            tasks.push((position[index], self.task(node.id, node.definition, dependencies)));
        }
        tasks.sort_by_key(|(at, _)| *at);
        let root = self.configs.root();
        let global = GlobalInputs {
            files: globs(&RelPath::root(), &root.global_dependencies, &mut self.diagnostics),
            env: EnvNames::new(&root.global_env),
            pass_through_env: EnvNames::new(&root.global_pass_through_env),
        };
        let target = position.first().copied().unwrap_or_default();
        let warnings = without_errors(self.diagnostics)?;
        Ok(TaskGraph { tasks: tasks.into_iter().map(|(_, task)| task).collect(), target, global, warnings })
    }

    /// Lets every task wait for the scripts that it waits for through tasks without one: packages may depend on each other
    /// in a circle as long as no script waits for another that waits for it.
    fn pass_through(&mut self) {
        let runs: Vec<bool> = self.nodes.iter().map(|node| self.command(&node.id).is_some()).collect();
        let found: Vec<Vec<usize>> = (0..self.nodes.len())
            .map(|start| {
                let mut seen = BTreeSet::new();
                let mut pending = self.nodes[start].dependencies.clone();
                while let Some(node) = pending.pop() {
                    if seen.insert(node) && !runs[node] {
                        pending.extend(&self.nodes[node].dependencies);
                    }
                }
                seen.into_iter().filter(|node| runs[*node] && *node != start).collect()
            })
            .collect();
        for (node, dependencies) in self.nodes.iter_mut().zip(found) {
            node.dependencies = dependencies;
        }
    }

    fn command(&self, id: &TaskId) -> Option<&Located<String>> {
        self.workspace.package(&id.dir)?.scripts.get(&id.task)
    }

    fn task(&mut self, id: TaskId, definition: TaskDefinition, dependencies: Vec<usize>) -> Task {
        let package = self.workspace.package(&id.dir);
        let command = self.command(&id).cloned();
        if definition.persistent == Some(true) && command.is_some() {
            self.persistent(&id);
        }
        if let Some(command) = command.as_ref().filter(|command| runs_turbo(&command.value)) {
            self.diagnostics.push(
                command
                    .warning(
                        format!("the script of `{id}` runs turbo, whose tasks wbuild then does not see"),
                        "here",
                    )
                    .hint("name what it runs in `dependsOn` instead"),
            );
        }
        let mut env = EnvNames::new(&definition.env);
        // turbo infers the framework and counts its public variables.
        if package.is_some_and(Manifest::depends_on_next) {
            env.add("NEXT_PUBLIC_*");
        }
        Task {
            inputs: Inputs::new(&id.dir, definition.inputs.as_deref(), &mut self.diagnostics),
            outputs: Outputs::new(&id.dir, &definition.outputs, &mut self.diagnostics),
            env,
            pass_through_env: EnvNames::new(&definition.pass_through_env),
            cache: definition.cache.unwrap_or(true),
            output_logs: definition.output_logs.clone(),
            id,
            command,
            dependencies,
            definition,
        }
    }

    fn persistent(&mut self, id: &TaskId) {
        let root = RelPath::root();
        let configs = [&id.dir, &root].into_iter().filter_map(|dir| self.configs.by_dir.get(dir));
        let place = configs
            .filter_map(|config| config.tasks.get(&id.to_string()).or_else(|| config.tasks.get(&id.task)))
            .find(|task| task.persistent == Some(true))
            .map(|task| task.name.clone());
        let message = format!("`{id}` is persistent: it never ends, so nothing can be built after it");
        let diagnostic = match place {
            Some(place) => place.error(message, "defined here"),
            None => Diagnostic::error(&self.configs.root().file, message),
        };
        self.diagnostics.push(diagnostic.hint("take it out of `dependsOn`, or build another task"));
    }

    fn cycle(&mut self, cycle: &[usize]) {
        let path: Vec<String> = cycle.iter().map(|node| self.nodes[*node].id.to_string()).collect();
        let message = format!("tasks wait for each other: {}", path.join(" → "));
        let first = cycle.first().map(|node| &self.nodes[*node]);
        let next = cycle.get(1).map(|node| self.nodes[*node].id.task.clone()).unwrap_or_default();
        // The entry of `dependsOn` that leads to the next task of the cycle.
        let place = first.and_then(|node| {
            node.definition
                .depends_on
                .iter()
                .find(|item| item.value.trim_start_matches('^').rsplit('#').next() == Some(next.as_str()))
        });
        let diagnostic = match place {
            Some(place) => place.error(message, "leads back"),
            None => Diagnostic::error(&self.configs.root().file, message),
        };
        self.diagnostics.push(diagnostic.hint(match self.configs.missing {
            true => "packages may depend on each other in a circle, their scripts cannot run in one: a turbo.json can say which does not wait",
            false => "packages may depend on each other in a circle, tasks may not: take one out of `dependsOn`, or define `package#task` without it",
        }));
    }
}

fn runs_turbo(command: &str) -> bool {
    let words = command.split(|c: char| c.is_whitespace() || ";&|()".contains(c));
    words.filter(|word| !word.is_empty()).any(|word| word == "turbo" || word.ends_with("/turbo"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{edit, path, said, turbo_lab, workspace};
    use crate::{Closure, GitIgnores, MemoryFiles};

    fn graph(files: &MemoryFiles, app: &str, task: &str) -> Result<TaskGraph, String> {
        let workspace = workspace(files);
        let error = |error: WorkspaceError| said(error.diagnostics());
        let configs = TurboConfigs::read(files, &workspace).map_err(error)?;
        TaskGraph::new(&workspace, &configs, &path(app), task).map_err(error)
    }

    #[test]
    fn tasks_inputs_and_outputs_equal_those_of_turbo() {
        let files = turbo_lab();
        let graph = graph(&files, "a/app", "build").unwrap();
        let listing: Vec<RelPath> = files.iter().map(|(path, _)| path.clone()).collect();
        let ignores = GitIgnores::scan(&files).unwrap();
        let lines = graph.tasks.iter().map(|task| {
            let mut after: Vec<String> =
                task.dependencies.iter().map(|at| graph.tasks[*at].id.to_string()).collect();
            after.sort();
            let inputs = task.inputs.select(&listing, &ignores);
            let inputs: Vec<String> = inputs.iter().map(|path| path.relative_to(&task.id.dir)).collect();
            let outputs: Vec<&str> = task.outputs.globs.include.iter().map(crate::Glob::as_str).collect();
            format!(
                "{} {:?} after [{}] in [{}] out [{}]{}",
                task.id,
                task.command.as_ref().map(|command| command.value.as_str()),
                after.join(" "),
                inputs.join(" "),
                outputs.join(" "),
                if task.cache { "" } else { " uncached" }
            )
        });
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r#"
        leaf#generate None after [] in [README.md package.json src/i.ts] out []
        mid#generate None after [] in [README.md package.json src/i.ts] out []
        //#content Some("echo c") after [] in [content/a.md package.json turbo.json] out [a/app/gen/**]
        lib#generate Some("echo g") after [] in [README.md package.json src/i.ts turbo.json] out []
        lib#build Some("echo l") after [lib#generate] in [README.md package.json src/i.ts turbo.json] out [q/** x/**] uncached
        mid#build None after [//#content lib#build mid#generate] in [README.md package.json src/i.ts] out [dist/**]
        app#build Some("echo b") after [leaf#generate mid#build] in [package.json src/i.ts ../../content/a.md] out []
        "#);
        assert_eq!(graph.tasks[graph.target].id.to_string(), "app#build");
        assert!(graph.global.files.matches(&path("pnpm-workspace.yaml")));
        assert!(graph.global.env.matches("CI_X"));
        let mid = graph.tasks.iter().find(|task| task.id.to_string() == "mid#build").unwrap();
        assert!(mid.env.matches("NEXT_PUBLIC_A") && !mid.env.matches("NEXT_PUBLIC_X"));
    }

    #[test]
    fn tasks_come_after_those_they_wait_for() {
        let graph = graph(&turbo_lab(), "a/app", "build").unwrap();
        for (at, task) in graph.tasks.iter().enumerate() {
            assert!(task.dependencies.iter().all(|before| *before < at), "{}", task.id);
        }
    }

    #[test]
    fn packages_of_tasks_join_the_closure() {
        let files = turbo_lab();
        let workspace = workspace(&files);
        let graph = graph(&files, "a/app", "build").unwrap();
        let closure = Closure::with(&workspace, &path("a/app"), &graph.packages());
        assert!(closure.packages.contains_key(&path("a/leaf")));
    }

    #[test]
    fn graphs_that_cannot_be_built() {
        let files = turbo_lab();
        let mut out = Vec::new();
        for task in ["deploy", "dev", "loop", "nope", "biuld"] {
            out.push(graph(&files, "a/app", task).unwrap_err());
        }
        let after = |from: &str, to: &str| {
            let mut files = turbo_lab();
            edit(&mut files, "turbo.json", from, to);
            graph(&files, "a/app", "build").unwrap_err()
        };
        out.push(after("\"leaf#generate\"", "\"leav#generate\", \"//#build\""));
        out.push(after("\"^build\", \"leaf#generate\"", "\"^bild\""));
        out.push(after("\"dist/**\"", "\"../../../dist/**\""));
        out.push(after("\"tasks\"", "\"pipeline\""));
        out.push(after("{", ""));
        let mut files = turbo_lab();
        files.insert(path("turbo.jsonc"), "{}");
        out.push(graph(&files, "a/app", "build").unwrap_err());
        files.remove(&path("turbo.json"));
        files.remove(&path("turbo.jsonc"));
        out.push(graph(&files, "a/app", "biuld").unwrap_err());
        insta::assert_snapshot!(out.join("\n"), @r#"
        Error: turbo.json:18:5: `app#dev` is persistent: it never ends, so nothing can be built after it
          hint: take it out of `dependsOn`, or build another task
        Error: turbo.json:18:5: `app#dev` is persistent: it never ends, so nothing can be built after it
          hint: take it out of `dependsOn`, or build another task
        Error: turbo.json:20:29: tasks wait for each other: app#loop → app#back → app#loop
          hint: packages may depend on each other in a circle, tasks may not: take one out of `dependsOn`, or define `package#task` without it
        Error: turbo.json: turbo.json defines no task `app#nope`
          hint: define `nope` in the `tasks` of turbo.json
        Error: turbo.json: turbo.json defines no task `app#biuld`
          hint: did you mean `app#build`?
        Error: turbo.json:15:31: `leav#generate` names no package of the workspace
          hint: did you mean `leaf#generate`?
        Error: turbo.json:15:48: turbo.json defines no task `//#build`
          hint: a task of the root package needs a definition of its own: `//#build`
        Error: turbo.json:15:21: turbo.json defines no task `mid#bild`
          hint: did you mean `build`?
        Error: turbo.json:8:19: the pattern `../../../dist/**` leaves the workspace root
          hint: a workspace cannot reach outside its root; move the files inside
        Error: turbo.json:5:3: `pipeline` is of turbo 1; turbo 2 calls it `tasks`
          hint: `npx @turbo/codemod migrate` rewrites the file
        Error: turbo.json:3:23: the file goes on after its value
        Error: turbo.json: there is a turbo.json and a turbo.jsonc in the same directory
          hint: turbo refuses to choose; remove one
        Error: a/app/package.json:1:37: `app` has no script `biuld`, and there is no turbo.json
          hint: did you mean `build`?
        "#);
    }

    /// As `pnpm --filter app... run build` has it.
    #[test]
    fn without_a_turbo_json_scripts_run_after_those_of_dependencies() {
        let mut files = turbo_lab();
        for name in ["turbo.json", "a/lib/turbo.json"] {
            files.remove(&path(name));
        }
        let graph = graph(&files, "a/app", "build").unwrap();
        let tasks = graph.tasks.iter().map(|task| {
            assert!(task.env.matches("ANYTHING") && task.inputs.default && !task.cache);
            let after: Vec<String> =
                task.dependencies.iter().map(|at| graph.tasks[*at].id.to_string()).collect();
            format!("{} after [{}]", task.id, after.join(" "))
        });
        insta::assert_snapshot!(tasks.collect::<Vec<_>>().join("\n"), @"
        leaf#build after []
        lib#build after [leaf#build]
        mid#build after [lib#build]
        app#build after [mid#build]
        ");
    }

    #[test]
    fn packages_in_a_circle_are_fine_where_their_scripts_are_not() {
        let mut files = turbo_lab();
        for name in ["turbo.json", "a/lib/turbo.json"] {
            files.remove(&path(name));
        }
        // As pnpm 10.18.2 writes it.
        files.insert(
            path("a/leaf/package.json"),
            r#"{"name": "leaf", "dependencies": {"mid": "workspace:*"}}"#,
        );
        edit(
            &mut files,
            "pnpm-lock.yaml",
            "  a/leaf: {}\n",
            "  a/leaf:\n    dependencies:\n      mid:\n        specifier: workspace:*\n        version: link:../mid\n",
        );
        let found = graph(&files, "a/app", "build").unwrap();
        let order: Vec<String> = found.tasks.iter().map(|task| task.id.to_string()).collect();
        let at = |name: &str| order.iter().position(|id| id == name).unwrap();
        assert!(at("lib#build") < at("app#build"), "{order:?}");
        assert_eq!(found.tasks[at("app#build")].dependencies, [at("lib#build")]);
        // A script of the circle that waits for another one of it.
        files.insert(
            path("a/leaf/package.json"),
            r#"{"name": "leaf", "scripts": {"build": "x"}, "dependencies": {"mid": "workspace:*"}}"#,
        );
        insta::assert_snapshot!(graph(&files, "a/app", "build").unwrap_err(), @"
        Error: turbo.json:1:1: tasks wait for each other: lib#build → leaf#build → lib#build
          hint: packages may depend on each other in a circle, their scripts cannot run in one: a turbo.json can say which does not wait
        ");
    }

    #[test]
    fn scripts_that_run_turbo_are_warned_about() {
        let mut files = turbo_lab();
        edit(&mut files, "a/app/package.json", "echo b", "cd ../.. && turbo run build");
        insta::assert_snapshot!(said(&graph(&files, "a/app", "build").unwrap().warnings), @"
        Warning: a/app/package.json:1:58: the script of `app#build` runs turbo, whose tasks wbuild then does not see
          hint: name what it runs in `dependsOn` instead
        ");
    }
}
