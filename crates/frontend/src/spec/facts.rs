//! What a workspace says about a spec that nobody wrote.

use wbuild_report::{Diagnostic, Hint as _};
use wbuild_tree::EntryPath;
use wbuild_workspace::{Files, Manifest, NextFacts, RelPath, TurboConfigs, Workspace, WorkspaceError};

use super::{InferFacts, NodeVersion};

/// Where a health route lies, below `app` or `src/app`, with the path it answers.
const HEALTH: [&str; 3] = ["api/health", "api/healthz", "health"];

impl InferFacts {
    /// Finds the application and what is known of it. `given` is its name or folder; without it, it is the only
    /// Next.js application.
    ///
    /// # Errors
    /// When there is no such application, or a file cannot be read.
    pub fn read(
        files: &dyn Files,
        workspace: &Workspace,
        given: Option<&str>,
    ) -> Result<Self, WorkspaceError> {
        let app = workspace.app(given).map_err(|error| {
            let mut diagnostic = Diagnostic::error(&workspace.file, error.to_string());
            diagnostic.hints = error.hints();
            WorkspaceError::from(diagnostic)
        })?;
        let configs = TurboConfigs::read(files, workspace)?;
        let mut declared_env: Vec<String> = configs
            .by_dir
            .values()
            .flat_map(|config| config.tasks.values())
            .flat_map(|task| task.env.iter().flatten())
            .map(|name| name.value.clone())
            .collect();
        declared_env.sort();
        declared_env.dedup();
        let builds = &workspace.settings.builds;
        Ok(Self {
            app: app.label().to_owned(),
            dir: EntryPath::parse(app.dir.as_str()).unwrap_or_default(),
            why: match given {
                Some(_) => "asked for".to_owned(),
                None => "the only package that builds with next".to_owned(),
            },
            dist: match workspace.is_next_app(app) {
                true => EntryPath::parse(NextFacts::read(files, workspace, app)?.dist.as_str()).ok(),
                false => None,
            },
            pnpm: workspace.settings.pnpm_version.clone(),
            turbo: turbo(workspace),
            node: node(files, workspace)?,
            builds: builds.allow_all || !builds.allowed.is_empty(),
            dev: app.scripts.contains_key("dev"),
            health: health(files, app)?,
            declared_env,
        })
    }
}

/// The version of turbo that the root depends on.
fn turbo(workspace: &Workspace) -> Option<String> {
    let lockfile = &workspace.lockfile;
    let importer = lockfile.importer(&RelPath::root())?;
    let found = importer.dependencies.iter().find(|dependency| lockfile.text(dependency.name) == "turbo")?;
    let version = lockfile.text(found.version);
    let version = version.split('(').next().unwrap_or(version);
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}

fn node(files: &dyn Files, workspace: &Workspace) -> Result<Option<NodeVersion>, WorkspaceError> {
    for name in [".node-version", ".nvmrc"] {
        let Ok(path) = RelPath::new(name) else { continue };
        let Some(bytes) = files.read(&path)? else { continue };
        if let Some(version) = NodeVersion::from_file(name, &String::from_utf8_lossy(&bytes)) {
            return Ok(Some(version));
        }
    }
    let range = workspace.root().engines.get("node");
    Ok(range.and_then(|range| NodeVersion::from_engines(&range.value)))
}

fn health(files: &dyn Files, app: &Manifest) -> Result<Option<String>, WorkspaceError> {
    for route in HEALTH {
        for (folder, names) in [("app", ["route.ts", "route.js"]), ("pages", [".ts", ".js"])] {
            for (root, name) in names.iter().flat_map(|name| [("src/", name), ("", name)]) {
                let separator = if folder == "app" { "/" } else { "" };
                let Ok(path) = app.dir.join(&format!("{root}{folder}/{route}{separator}{name}")) else {
                    continue;
                };
                if files.read(&path)?.is_some() {
                    return Ok(Some(format!("/{route}")));
                }
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_node() {
        let file = |text: &str| NodeVersion::from_file(".nvmrc", text).map(|node| node.version);
        assert_eq!(file("v22.16.0\n").as_deref(), Some("22.16.0"));
        assert_eq!(file("# comment\n22\n").as_deref(), Some("22"));
        assert_eq!(file("lts/*"), None);
        assert_eq!(file(""), None);
        let engines = |text: &str| NodeVersion::from_engines(text).map(|node| node.version);
        assert_eq!(engines(">=20.19").as_deref(), Some("20.19"));
        assert_eq!(engines("^22.1.0 || ^24").as_deref(), Some("22.1.0"));
        assert_eq!(engines(">= 20 <23").as_deref(), Some("20"));
        assert_eq!(engines("<23"), None);
        assert_eq!(engines("20.x").as_deref(), Some("20"));
        assert_eq!(engines("*"), None);
    }
}
