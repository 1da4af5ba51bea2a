use std::collections::BTreeMap;
use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile, nearest};

use crate::document::{Dialect, Extract, Located, Member, Node, Value, parse_json};
use crate::error::without_errors;
use crate::source::{MAX_CONFIG, read_source};
use crate::{Files, RelPath, Workspace, WorkspaceError};

/// The keys of a task that turbo knows.
const TASK_KEYS: [&str; 15] = [
    "cache",
    "dependsOn",
    "description",
    "env",
    "envMode",
    "experimentalCI",
    "extends",
    "inputs",
    "interactive",
    "interruptible",
    "outputLogs",
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
    /// `tasks`: name, `package#name` or `//#name` to what is written.
    pub tasks: BTreeMap<String, TaskConfig>,
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
    /// Whether the workspace root has no configuration, so that the root's is an empty one.
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
        let warnings = without_errors(diagnostics)?;
        let missing = !by_dir.contains_key(&RelPath::root());
        if missing {
            by_dir.insert(RelPath::root(), TurboConfig::empty());
        }
        Ok(Self { by_dir, missing, warnings })
    }

    /// Fails where the workspace has no root configuration: its packages can be looked at without one, but no task can be
    /// planned.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn required(&self) -> Result<(), WorkspaceError> {
        if !self.missing {
            return Ok(());
        }
        let diagnostic = Diagnostic::error(&self.root().file, "there is no turbo.json at the workspace root")
            .hint("wbuild takes the order, inputs and outputs of tasks from it; the least is `{\"tasks\": {\"build\": {\"dependsOn\": [\"^build\"], \"outputs\": [\".next/**\", \"dist/**\"]}}}`");
        Err(diagnostic.into())
    }

    /// The root's configuration.
    pub fn root(&self) -> &TurboConfig {
        // `read` puts an empty one in where there is none.
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
    fn empty() -> Self {
        Self {
            dir: RelPath::root(),
            file: SourceFile::new("turbo.json", ""),
            extends: Vec::new(),
            tasks: BTreeMap::new(),
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
        if let Some(pipeline) = document.member("pipeline") {
            return Err(Box::new(
                Diagnostic::error(file, "`pipeline` is of turbo 1; turbo 2 calls it `tasks`")
                    .at(pipeline.key_span, "rename to `tasks`")
                    .hint("`npx @turbo/codemod migrate` rewrites the file"),
            ));
        }
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
            tasks: read_tasks(dir, document.get("tasks"), &mut extract),
            global_dependencies: strings(
                &mut extract,
                either("globalDependencies", "inputs"),
                "globalDependencies",
            ),
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
    let (depends_on, inputs, outputs) = (list("dependsOn"), list("inputs"), list("outputs"));
    let (env, pass_through_env) = (list("env"), list("passThroughEnv"));
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

    #[test]
    fn misplaced_keys_are_named() {
        let (_, said) = read("", r#"{"pipeline": {}}"#);
        insta::assert_snapshot!(said, @"turbo.json:1:2: `pipeline` is of turbo 1; turbo 2 calls it `tasks`");
        let (_, said) =
            read("a", r#"{"extends": ["//"], "globalEnv": [], "tasks": {"a#build": {"output": []}}}"#);
        insta::assert_snapshot!(said, @r"
        turbo.json:1:60: turbo knows no `output` of a task
        turbo.json:1:21: `globalEnv` belongs into the root's turbo.json
        turbo.json:1:48: `a#build` names a package inside a package's own turbo.json
        ");
    }
}
