use std::collections::BTreeSet;

use super::{ROOT_NAME, TaskConfig, TaskId, TurboConfig, TurboConfigs};
use crate::document::Located;
use crate::{RelPath, Workspace};

/// In a list, stands for what the extended file says.
const EXTENDS: &str = "$TURBO_EXTENDS$";

/// A task of a package with everything that its configurations say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskDefinition {
    /// `dependsOn`
    pub depends_on: Vec<Located<String>>,
    /// `inputs`; `None` when no file says anything, which means all files of the package.
    pub inputs: Option<Vec<Located<String>>>,
    /// `outputs`
    pub outputs: Vec<Located<String>>,
    /// `env`
    pub env: Vec<Located<String>>,
    /// `passThroughEnv`
    pub pass_through_env: Vec<Located<String>>,
    /// `cache`; true unless it says otherwise.
    pub cache: Option<bool>,
    /// `persistent`: a server that never ends.
    pub persistent: Option<bool>,
    /// `outputLogs`
    pub output_logs: Option<String>,
}

impl TaskDefinition {
    /// The definition of a task, or `None` when no configuration of its package has one.
    pub fn of(configs: &TurboConfigs, workspace: &Workspace, id: &TaskId) -> Option<Self> {
        let mut chain = Vec::new();
        collect(configs, workspace, &id.dir, &mut BTreeSet::new(), &mut chain);
        let mut found: Option<Self> = None;
        for config in chain {
            let qualified = config.tasks.get(&id.to_string());
            // Within one file, `package#task` stands for itself: it takes nothing from `task`.
            let Some(task) = qualified.or_else(|| config.tasks.get(&id.task)) else { continue };
            if task.extends == Some(false) {
                found = task.says_something().then(Self::default);
            }
            if task.extends != Some(false) || found.is_some() {
                found.get_or_insert_with(Self::default).merge(task);
            }
        }
        found
    }

    fn merge(&mut self, task: &TaskConfig) {
        merge_list(&mut self.depends_on, task.depends_on.as_deref());
        if let Some(inputs) = &task.inputs {
            merge_list(self.inputs.get_or_insert_default(), Some(inputs));
        }
        merge_list(&mut self.outputs, task.outputs.as_deref());
        merge_list(&mut self.env, task.env.as_deref());
        merge_list(&mut self.pass_through_env, task.pass_through_env.as_deref());
        self.cache = task.cache.or(self.cache);
        self.persistent = task.persistent.or(self.persistent);
        self.output_logs = task.output_logs.clone().or_else(|| self.output_logs.take());
    }
}

/// A written list takes the place of the extended one, or is added to it.
fn merge_list(list: &mut Vec<Located<String>>, written: Option<&[Located<String>]>) {
    let Some(written) = written else { return };
    if !written.iter().any(|item| item.value == EXTENDS) {
        list.clear();
    }
    for item in written.iter().filter(|item| item.value != EXTENDS) {
        if !list.iter().any(|known| known.value == item.value) {
            list.push(item.clone());
        }
    }
}

/// The configurations that count for a package, the most general first.
fn collect<'a>(
    configs: &'a TurboConfigs,
    workspace: &Workspace,
    dir: &RelPath,
    visited: &mut BTreeSet<RelPath>,
    chain: &mut Vec<&'a TurboConfig>,
) {
    if !visited.insert(dir.clone()) {
        return;
    }
    let Some(config) = configs.by_dir.get(dir) else {
        return collect(configs, workspace, &RelPath::root(), visited, chain);
    };
    for extended in &config.extends {
        let target = match extended.value.as_str() {
            ROOT_NAME => Some(RelPath::root()),
            name => workspace.by_name(name).map(|package| package.dir.clone()),
        };
        if let Some(target) = target {
            collect(configs, workspace, &target, visited, chain);
        }
    }
    // Every package's configuration stands on the root's.
    collect(configs, workspace, &RelPath::root(), visited, chain);
    chain.push(config);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{path, turbo_lab, workspace};

    fn definition(config: &str) -> Option<TaskDefinition> {
        let mut files = turbo_lab();
        files.insert(path("a/lib/turbo.json"), config);
        let workspace = workspace(&files);
        let configs = TurboConfigs::read(&files, &workspace).unwrap();
        let id = TaskId { dir: path("a/lib"), package: "lib".into(), task: "build".into() };
        TaskDefinition::of(&configs, &workspace, &id)
    }

    fn values(list: &[Located<String>]) -> Vec<&str> {
        list.iter().map(|item| item.value.as_str()).collect()
    }

    #[test]
    fn package_configurations_stand_on_the_root() {
        let found =
            definition(r#"{"extends": ["//"], "tasks": {"build": {"outputs": ["$TURBO_EXTENDS$", "x"]}}}"#);
        let found = found.unwrap();
        assert_eq!(values(&found.outputs), ["q/**", "x"]);
        assert_eq!(values(&found.depends_on), ["generate"], "`lib#build` of the root, not `build`");
        let found =
            definition(r#"{"extends": ["//"], "tasks": {"build": {"outputs": ["x"], "cache": false}}}"#);
        let found = found.unwrap();
        assert_eq!((values(&found.outputs), found.cache), (vec!["x"], Some(false)));
        let found =
            definition(r#"{"extends": ["//"], "tasks": {"build": {"extends": false, "outputs": ["x"]}}}"#);
        assert!(found.unwrap().depends_on.is_empty());
        assert_eq!(definition(r#"{"extends": ["//"], "tasks": {"build": {"extends": false}}}"#), None);
    }
}
