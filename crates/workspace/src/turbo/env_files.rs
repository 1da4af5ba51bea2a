use super::{GitIgnores, Inputs, ROOT_NAME, TaskDefinition, TaskId, TurboConfigs};
use crate::{Files, Glob, GlobSet, RelPath, Workspace, WorkspaceError};

/// Which `.env*` files belong to the sources of a workspace, and which to somebody's machine.
///
/// Next's documentation has `.env`, `.env.production` and their like committed, and everything named `.local` not. A file
/// is taken for a source when it is an input of a task and git does not ignore it, or when `inputs` or
/// `globalDependencies` name it in full: `.env*`, which `create-turbo` writes, is not meant to put a developer's own
/// secrets into an image. Where the root has no `.gitignore`, nothing is known of what is committed, and a task that says
/// nothing about its inputs has no such file among them.
#[derive(Clone, Debug)]
pub struct EnvFiles {
    inputs: Vec<Inputs>,
    global: GlobSet,
    /// `None` where nothing is known of git.
    ignores: Option<GitIgnores>,
}

impl EnvFiles {
    /// Those of the tasks of all packages.
    ///
    /// # Errors
    /// When a `.gitignore` cannot be read.
    pub fn read(
        files: &dyn Files,
        workspace: &Workspace,
        configs: &TurboConfigs,
    ) -> Result<Self, WorkspaceError> {
        let known = files.read(&RelPath::root().child(".gitignore"))?.is_some();
        let mut inputs = Vec::new();
        for dir in workspace.packages.keys() {
            for task in configs.task_names() {
                let Some(definition) = configs.definition(workspace, dir, task) else { continue };
                // What is wrong with a pattern is said where the task is planned.
                inputs.push(Inputs::new(dir, definition.inputs.as_deref(), &mut Vec::new()));
            }
        }
        let global = &configs.root().global_dependencies;
        Ok(Self {
            inputs,
            global: super::inputs::globs(&RelPath::root(), global, &mut Vec::new()),
            ignores: if known { Some(GitIgnores::scan(files)?) } else { None },
        })
    }

    /// Whether the file `path`, whose name begins with `.env`, is a source.
    pub fn contains(&self, path: &RelPath) -> bool {
        let local = path.name().is_some_and(|name| name.ends_with(".local"));
        let own = local || self.ignores.as_ref().is_some_and(|ignores| ignores.is_ignored(path));
        let names = |globs: &GlobSet| {
            let named = |glob: &Glob| glob.matches(path) && (!own || glob.literals().is_some());
            globs.include.iter().any(named)
        };
        let committed = self.ignores.is_some() && !own;
        self.inputs.iter().any(|inputs| {
            let taken = names(&inputs.globs) || (inputs.default && committed && path.is_within(&inputs.dir));
            taken && !inputs.globs.exclude.iter().any(|glob| glob.matches(path))
        }) || names(&self.global)
    }
}

impl TurboConfigs {
    /// The names of all tasks, without packages, sorted.
    pub fn task_names(&self) -> std::collections::BTreeSet<&str> {
        let tasks = self.by_dir.values().flat_map(|config| config.tasks.keys());
        tasks.map(|task| task.rsplit_once('#').map_or(task.as_str(), |(_, task)| task)).collect()
    }

    /// The definition of a task of the package in `dir`. The root has only those that are defined for it.
    pub fn definition(&self, workspace: &Workspace, dir: &RelPath, task: &str) -> Option<TaskDefinition> {
        let package = if dir.is_root() { ROOT_NAME } else { workspace.label(dir) };
        let id = TaskId { dir: dir.clone(), package: package.to_owned(), task: task.to_owned() };
        let enabled = !dir.is_root() || self.root().tasks.contains_key(&id.to_string());
        TaskDefinition::of(self, workspace, &id).filter(|_| enabled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{path, workspace, workspace_files};

    fn taken(turbo: &str, gitignore: Option<&str>) -> String {
        let mut files = workspace_files("packages: ['apps/*']\n");
        files.insert(path("apps/web/package.json"), r#"{"name": "web", "scripts": {"build": "next build"}}"#);
        files.insert(path("turbo.json"), turbo);
        if let Some(text) = gitignore {
            files.insert(path(".gitignore"), text);
        }
        let workspace = workspace(&files);
        let configs = TurboConfigs::read(&files, &workspace).unwrap();
        let found = EnvFiles::read(&files, &workspace, &configs).unwrap();
        let names = [".env", ".env.production", ".env.local", "apps/web/.env", "apps/web/.env.production"]
            .into_iter()
            .chain(["apps/web/.env.local", "apps/web/.env.production.local"]);
        names.filter(|name| found.contains(&path(name))).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn committed_files_are_sources_and_a_developers_own_are_not() {
        let default = r#"{"tasks": {"build": {}}}"#;
        let ignore = "/.env\n.env\n*.local\n";
        assert_eq!(taken(default, Some(ignore)), "apps/web/.env.production");
        assert_eq!(taken(default, None), "", "nothing is known of what is committed");
        let wildcard = r#"{"tasks": {"build": {"inputs": ["$TURBO_DEFAULT$", ".env*"]}}}"#;
        assert_eq!(taken(wildcard, Some(ignore)), "apps/web/.env.production");
        assert_eq!(taken(wildcard, None), "apps/web/.env apps/web/.env.production");
        let named = r#"{"tasks": {"build": {"inputs": ["src/**", ".env", ".env.local"]}}}"#;
        assert_eq!(taken(named, Some(ignore)), "apps/web/.env apps/web/.env.local");
        let without = r#"{"tasks": {"build": {"inputs": ["$TURBO_DEFAULT$", "!.env*"]}}}"#;
        assert_eq!(taken(without, Some(ignore)), "");
        // What create-turbo wrote for turbo 1.
        let global =
            r#"{"globalDependencies": ["**/.env.*local", ".env"], "tasks": {"build": {"inputs": ["src"]}}}"#;
        assert_eq!(taken(global, Some(ignore)), ".env");
    }
}
