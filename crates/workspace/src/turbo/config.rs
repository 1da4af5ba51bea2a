use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile, Span, nearest};

use super::ROOT_NAME;
use crate::document::{Dialect, Extract, Located, Member, Node, Value, parse_json};
use crate::error::without_errors;
use crate::source::{MAX_CONFIG, read_source};
use crate::{Files, RelPath, Workspace, WorkspaceError};

/// The keys of a task that turbo knows.
const TASK_KEYS: [&str; 17] = [
    "cache",
    "dependsOn",
    "description",
    // Of turbo 1.
    "dotEnv",
    "env",
    "envMode",
    "experimentalCI",
    "extends",
    "inputs",
    "interactive",
    "interruptible",
    "outputLogs",
    // Of turbo 1.
    "outputMode",
    "outputs",
    "passThroughEnv",
    "persistent",
    "with",
];

/// A `turbo.json` or `turbo.jsonc`.
#[derive(Clone, Debug)]
pub struct TurboConfig {
    /// The directory it stands in.
    pub dir: RelPath,
    /// Its text.
    pub file: Arc<SourceFile>,
    /// `extends`: `//`, and since turbo 2.6 names of packages.
    pub extends: Vec<Located<String>>,
    /// `tasks`, `pipeline` in turbo 1: name, `package#name` or `//#name` to what is written.
    pub tasks: BTreeMap<String, TaskConfig>,
    /// Where `pipeline` stands, if it does.
    pub(super) pipeline: Option<Span>,
    /// `globalDependencies` (or `global.inputs`).
    pub global_dependencies: Vec<Located<String>>,
    /// `globalEnv`
    pub global_env: Vec<Located<String>>,
    /// `globalPassThroughEnv`
    pub global_pass_through_env: Vec<Located<String>>,
}

/// A task as it is written in one file. A list that is not written is `None`, so that another file's counts.
#[derive(Clone, Debug)]
pub struct TaskConfig {
    /// The key.
    pub name: Located<String>,
    /// `extends: false` starts from nothing instead of the files that are extended.
    pub extends: Option<bool>,
    /// `dependsOn`
    pub depends_on: Option<Vec<Located<String>>>,
    /// `inputs`
    pub inputs: Option<Vec<Located<String>>>,
    /// `outputs`
    pub outputs: Option<Vec<Located<String>>>,
    /// `env`
    pub env: Option<Vec<Located<String>>>,
    /// `passThroughEnv`
    pub pass_through_env: Option<Vec<Located<String>>>,
    /// `cache`
    pub cache: Option<bool>,
    /// `persistent`
    pub persistent: Option<bool>,
    /// `outputLogs`
    pub output_logs: Option<String>,
}

impl TaskConfig {
    /// Whether it says anything but `extends`.
    pub(super) fn says_something(&self) -> bool {
        self.depends_on.is_some()
            || self.inputs.is_some()
            || self.outputs.is_some()
            || self.env.is_some()
            || self.pass_through_env.is_some()
            || self.cache.is_some()
            || self.persistent.is_some()
            || self.output_logs.is_some()
    }
}

/// All turbo configurations of a workspace.
#[derive(Clone, Debug)]
pub struct TurboConfigs {
    /// By directory; the root's is always there.
    pub by_dir: BTreeMap<RelPath, TurboConfig>,
    /// Whether the workspace root has no configuration, so that the root's is inferred from the scripts: a script runs
    /// after that of the same name of the packages that its own depends on, as `pnpm run --recursive` has it, and
    /// whatever it writes stays.
    pub missing: bool,
    /// What is probably not as its author believes.
    pub warnings: Vec<Diagnostic>,
}

impl TurboConfigs {
    /// Reads the root's configuration and those of all packages.
    pub fn read(files: &dyn Files, workspace: &Workspace) -> Result<Self, WorkspaceError> {
        let mut diagnostics = Vec::new();
        let mut by_dir = BTreeMap::new();
        for dir in workspace.packages.keys() {
            if let Some(config) = read_config(files, dir, &mut diagnostics)? {
                by_dir.insert(dir.clone(), config);
            }
        }
        let missing = !by_dir.contains_key(&RelPath::root());
        if missing {
            by_dir.insert(RelPath::root(), TurboConfig::inferred(workspace));
        }
        let turbo_1 = workspace.turbo_version().is_some_and(|version| version.starts_with("1."));
        for config in by_dir.values() {
            let Some(pipeline) = config.pipeline.filter(|_| !turbo_1) else { continue };
            diagnostics.push(
                Diagnostic::error(&config.file, "`pipeline` is of turbo 1; turbo 2 calls it `tasks`")
                    .at(pipeline, "rename to `tasks`")
                    .hint("`npx @turbo/codemod migrate` rewrites the file"),
            );
        }
        Ok(Self { by_dir, missing, warnings: without_errors(diagnostics)? })
    }

    /// The root's configuration.
    pub fn root(&self) -> &TurboConfig {
        // `read` puts an inferred one in where there is none.
        &self.by_dir[&RelPath::root()]
    }
}

fn read_config(
    files: &dyn Files,
    dir: &RelPath,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Option<TurboConfig>, WorkspaceError> {
    let json = read_source(files, &dir.child("turbo.json"), MAX_CONFIG)?;
    let jsonc = read_source(files, &dir.child("turbo.jsonc"), MAX_CONFIG)?;
    let file = match (json, jsonc) {
        (Some(json), Some(_)) => {
            diagnostics.push(
                Diagnostic::error(&json, "there is a turbo.json and a turbo.jsonc in the same directory")
                    .hint("turbo refuses to choose; remove one"),
            );
            return Ok(None);
        }
        (Some(file), None) | (None, Some(file)) => file,
        (None, None) => return Ok(None),
    };
    match TurboConfig::parse(dir, &file, diagnostics) {
        Ok(config) => Ok(Some(config)),
        Err(diagnostic) => {
            diagnostics.push(*diagnostic);
            Ok(None)
        }
    }
}

impl TurboConfig {
    /// What stands for the root's where there is none.
    fn inferred(workspace: &Workspace) -> Self {
        let file = SourceFile::new("turbo.json", "");
        let located = |text: String| Located::new(text, &file, Span::new(0, 0));
        let scripts: BTreeSet<&String> =
            workspace.packages.values().flat_map(|package| package.scripts.keys()).collect();
        let mut tasks = BTreeMap::new();
        for script in scripts {
            // The root has only the tasks that are named for it.
            for name in [script.clone(), format!("{ROOT_NAME}#{script}")] {
                let task = TaskConfig {
                    name: located(name.clone()),
                    extends: None,
                    depends_on: Some(vec![located(format!("^{script}"))]),
                    inputs: None,
                    outputs: None,
                    // Nothing says which variables a script reads, so it sees what it is given.
                    env: Some(vec![located("*".to_owned())]),
                    pass_through_env: None,
                    cache: Some(false),
                    persistent: None,
                    output_logs: None,
                };
                tasks.insert(name, task);
            }
        }
        Self {
            dir: RelPath::root(),
            file,
            extends: Vec::new(),
            tasks,
            pipeline: None,
            global_dependencies: Vec::new(),
            global_env: Vec::new(),
            global_pass_through_env: Vec::new(),
        }
    }

    /// Reads the text of the configuration in `dir`. Problems that leave it readable are added to `diagnostics`.
    pub fn parse(
        dir: &RelPath,
        file: &Arc<SourceFile>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Result<Self, Box<Diagnostic>> {
        let document = parse_json(file, Dialect::WithComments)?;
        let pipeline = document.member("pipeline");
        let mut extract = Extract { file, diagnostics };
        let strings = |extract: &mut Extract<'_>, node: Option<&Node>, what: &str| {
            node.map(|node| extract.strings(what, node)).unwrap_or_default()
        };
        // `futureFlags.globalConfiguration` moves the global keys below `global`.
        let global = document.get("global");
        let either =
            |old: &str, new: &str| document.get(old).or_else(|| global.and_then(|global| global.get(new)));
        let config = Self {
            dir: dir.clone(),
            file: Arc::clone(file),
            extends: strings(&mut extract, document.get("extends"), "extends"),
            tasks: read_tasks(
                dir,
                document.get("tasks").or(pipeline.map(|pipeline| &pipeline.node)),
                &mut extract,
            ),
            pipeline: pipeline.map(|pipeline| pipeline.key_span),
            global_dependencies: [either("globalDependencies", "inputs"), document.get("globalDotEnv")]
                .into_iter()
                .flat_map(|node| strings(&mut extract, node, "globalDependencies"))
                .collect(),
            global_env: strings(&mut extract, either("globalEnv", "env"), "globalEnv"),
            global_pass_through_env: strings(
                &mut extract,
                either("globalPassThroughEnv", "passThroughEnv"),
                "globalPassThroughEnv",
            ),
        };
        config.check_place(&document, &mut extract);
        Ok(config)
    }

    /// What a package's configuration may not say, and the root's neither.
    fn check_place(&self, document: &Node, extract: &mut Extract<'_>) {
        if self.dir.is_root() {
            if let Some(member) = document.member("extends") {
                extract.diagnostics.push(
                    Diagnostic::error(&self.file, "the root's turbo.json extends nothing")
                        .at(member.key_span, "only for packages"),
                );
            }
            return;
        }
        for key in ["globalDependencies", "globalEnv", "globalPassThroughEnv", "global"] {
            if let Some(member) = document.member(key) {
                extract.diagnostics.push(
                    Diagnostic::error(&self.file, format!("`{key}` belongs into the root's turbo.json"))
                        .at(member.key_span, "not for packages"),
                );
            }
        }
        for task in self.tasks.values().filter(|task| task.name.value.contains('#')) {
            let bare = task.name.value.rsplit('#').next().unwrap_or_default();
            extract.diagnostics.push(
                task.name
                    .error(
                        format!("`{}` names a package inside a package's own turbo.json", task.name.value),
                        "without the package",
                    )
                    .hint(format!("write `{bare}`")),
            );
        }
    }
}

fn read_tasks(
    dir: &RelPath,
    tasks: Option<&Node>,
    extract: &mut Extract<'_>,
) -> BTreeMap<String, TaskConfig> {
    let Some(tasks) = tasks else {
        if dir.is_root() {
            extract.diagnostics.push(
                Diagnostic::warning(extract.file, "turbo.json defines no `tasks`")
                    .hint("define at least `build`"),
            );
        }
        return BTreeMap::new();
    };
    if !matches!(tasks.value, Value::Map(_)) {
        extract.mismatch("tasks", "an object", tasks);
    }
    tasks.members().iter().map(|member| (member.key.clone(), read_task(member, extract))).collect()
}

fn read_task(member: &Member, extract: &mut Extract<'_>) -> TaskConfig {
    let node = &member.node;
    if !matches!(node.value, Value::Map(_)) {
        extract.mismatch(&member.key, "an object", node);
    }
    for field in node.members().iter().filter(|field| !TASK_KEYS.contains(&field.key.as_str())) {
        let near = nearest(&field.key, TASK_KEYS);
        let message = format!("turbo knows no `{}` of a task", field.key);
        let mut diagnostic = Diagnostic::warning(extract.file, message).at(field.key_span, "has no effect");
        if let Some(near) = near.first() {
            diagnostic = diagnostic.hint(format!("did you mean `{near}`?"));
        }
        extract.diagnostics.push(diagnostic);
    }
    let mut list = |key: &str| {
        let node = node.get(key)?;
        Some(extract.strings(&format!("{}.{key}", member.key), node))
    };
    let (mut depends_on, mut inputs, outputs) = (list("dependsOn"), list("inputs"), list("outputs"));
    let (mut env, pass_through_env) = (list("env"), list("passThroughEnv"));
    let dot_env = list("dotEnv");
    // In turbo 1, `$NAME` in `dependsOn` is a variable, and `dotEnv` names files besides the inputs.
    if let Some(depends_on) = &mut depends_on {
        for mut variable in depends_on.extract_if(.., |item| is_variable(&item.value)) {
            variable.value.remove(0);
            env.get_or_insert_default().push(variable);
        }
    }
    if let Some(dot_env) = dot_env {
        let default = || vec![extract.located("$TURBO_DEFAULT$".to_owned(), node.span)];
        inputs.get_or_insert_with(default).extend(dot_env);
    }
    let mut flag = |key: &str| extract.bool(&format!("{}.{key}", member.key), node.get(key)?);
    let (extends, cache, persistent) = (flag("extends"), flag("cache"), flag("persistent"));
    TaskConfig {
        name: extract.located(member.key.clone(), member.key_span),
        extends,
        depends_on,
        inputs,
        outputs,
        env,
        pass_through_env,
        cache,
        persistent,
        output_logs: node.get("outputLogs").and_then(Node::as_text),
    }
}

/// `$NAME`, as turbo 1 writes a variable; `$TURBO_EXTENDS$` is none.
fn is_variable(text: &str) -> bool {
    text.starts_with('$') && !text.ends_with('$')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &str, text: &str) -> (Option<TurboConfig>, String) {
        let mut diagnostics = Vec::new();
        let config = TurboConfig::parse(
            &RelPath::new(dir).unwrap(),
            &SourceFile::new("turbo.json", text),
            &mut diagnostics,
        )
        .map_err(|diagnostic| diagnostics.push(*diagnostic))
        .ok();
        (config, diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn comments_and_lists_are_read() {
        let (config, said) = read(
            "",
            "{ // c\n \"tasks\": {\"build\": {\"dependsOn\": [\"^build\",], \"cache\": false}},\n \"globalEnv\": [\"CI\"],\n}",
        );
        let config = config.unwrap();
        assert_eq!(said, "");
        assert_eq!(config.tasks["build"].depends_on.as_ref().unwrap()[0].value, "^build");
        assert_eq!(config.tasks["build"].cache, Some(false));
        assert!(config.tasks["build"].outputs.is_none());
        assert_eq!(config.global_env[0].value, "CI");
    }

    /// As turbo 1.13 reads it.
    #[test]
    fn pipelines_of_turbo_1_are_tasks() {
        let (config, said) = read(
            "",
            r#"{"globalDotEnv": [".env"], "globalDependencies": ["a"], "pipeline": {"build": {
                "dependsOn": ["^build", "$TOKEN"], "dotEnv": [".env.production"], "outputMode": "new-only"}}}"#,
        );
        let config = config.unwrap();
        assert_eq!(said, "");
        let values =
            |list: &[Located<String>]| list.iter().map(|i| i.value.clone()).collect::<Vec<_>>().join(" ");
        let build = &config.tasks["build"];
        assert_eq!(values(build.depends_on.as_ref().unwrap()), "^build");
        assert_eq!(values(build.env.as_ref().unwrap()), "TOKEN");
        assert_eq!(values(build.inputs.as_ref().unwrap()), "$TURBO_DEFAULT$ .env.production");
        assert_eq!(values(&config.global_dependencies), "a .env");
        assert!(config.pipeline.is_some());
    }

    #[test]
    fn misplaced_keys_are_named() {
        let (_, said) =
            read("a", r#"{"extends": ["//"], "globalEnv": [], "tasks": {"a#build": {"output": []}}}"#);
        insta::assert_snapshot!(said, @r"
        turbo.json:1:60: turbo knows no `output` of a task
        turbo.json:1:21: `globalEnv` belongs into the root's turbo.json
        turbo.json:1:48: `a#build` names a package inside a package's own turbo.json
        ");
    }
}
