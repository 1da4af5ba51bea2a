//! What a workspace says about a spec that nobody wrote.

use wbuild_report::{Diagnostic, Hint as _};
use wbuild_tree::EntryPath;
use wbuild_workspace::{
    EntryKind, Files, Manifest, NextFacts, RelPath, TurboConfigs, Workspace, WorkspaceError,
};

use super::{InferFacts, NodeVersion};

/// Where a health route lies, below `app` or `src/app`, with the path it answers.
const HEALTH: [&str; 4] = ["api/health", "api/healthz", "health", "healthz"];

/// What a route's file may end in.
const EXTENSIONS: [&str; 6] = ["ts", "js", "tsx", "jsx", "mts", "mjs"];

/// How many folders in parentheses may lie in one another above a route.
const GROUPS: usize = 3;

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
        let next = match workspace.is_next_app(app) {
            true => Some(NextFacts::read(files, workspace, app)?),
            false => None,
        };
        Ok(Self {
            app: app.label().to_owned(),
            dir: EntryPath::parse(app.dir.as_str()).unwrap_or_default(),
            why: match given {
                Some(_) => "asked for".to_owned(),
                None => "the only package that builds with next".to_owned(),
            },
            dist: next.as_ref().and_then(|next| EntryPath::parse(next.dist.as_str()).ok()),
            pnpm: workspace.settings.pnpm_version.clone(),
            pnpm_major: workspace.settings.pnpm_major,
            turbo: workspace.turbo_version().map(str::to_owned),
            turbo_config: !configs.missing,
            node: node(files, workspace, app)?,
            builds: builds.allow_all || !builds.allowed.is_empty(),
            dev: app.scripts.contains_key("dev"),
            health: health(files, app, next.as_ref())?,
            declared_env,
        })
    }
}

/// Where a version of Node may be pinned, the most exact first.
fn node(
    files: &dyn Files,
    workspace: &Workspace,
    app: &Manifest,
) -> Result<Option<NodeVersion>, WorkspaceError> {
    for name in [".node-version", ".nvmrc", ".tool-versions"] {
        let Ok(path) = RelPath::new(name) else { continue };
        let Some(bytes) = files.read(&path)? else { continue };
        if let Some(version) = NodeVersion::from_file(name, &String::from_utf8_lossy(&bytes)) {
            return Ok(Some(version));
        }
    }
    let packages = [workspace.root(), app];
    if let Some(version) = packages.into_iter().find_map(Manifest::volta_node) {
        return Ok(NodeVersion::from_file("volta.node", version));
    }
    let range = packages.into_iter().find_map(|package| package.engines.get("node"));
    Ok(range.and_then(|range| NodeVersion::from_engines(&range.value)))
}

/// The path of a route that says whether the application is well. Folders in parentheses are in no path.
fn health(
    files: &dyn Files,
    app: &Manifest,
    next: Option<&NextFacts>,
) -> Result<Option<String>, WorkspaceError> {
    let Some(next) = next else { return Ok(None) };
    // Where the beginning of every path is computed, nobody knows where to ask.
    let Some(base) = &next.base_path else { return Ok(None) };
    let end = if next.trailing_slash { "/" } else { "" };
    for route in HEALTH {
        for root in ["src/", ""] {
            let Ok(routes) = app.dir.join(&format!("{root}app")) else { continue };
            let parts: Vec<&str> = route.split('/').collect();
            if has_route(files, &routes, &parts, GROUPS)? || has_page(files, app, root, route)? {
                return Ok(Some(format!("{base}/{route}{end}")));
            }
        }
    }
    Ok(None)
}

/// Whether the app router answers the path `parts` below `folder`.
fn has_route(
    files: &dyn Files,
    folder: &RelPath,
    parts: &[&str],
    groups: usize,
) -> Result<bool, WorkspaceError> {
    let below = |name: &str| folder.join(name).ok();
    match parts.split_first() {
        None => {
            for name in EXTENSIONS.map(|extension| format!("route.{extension}")) {
                if let Some(path) = below(&name)
                    && files.read(&path)?.is_some()
                {
                    return Ok(true);
                }
            }
        }
        Some((first, rest)) => {
            if let Some(next) = below(first)
                && has_route(files, &next, rest, groups)?
            {
                return Ok(true);
            }
        }
    }
    let Some(left) = groups.checked_sub(1) else { return Ok(false) };
    for entry in files.list(folder)? {
        let group =
            entry.kind == EntryKind::Directory && entry.name.starts_with('(') && entry.name.ends_with(')');
        if group
            && let Some(folder) = below(&entry.name)
            && has_route(files, &folder, parts, left)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the pages router answers `route`: only below `api` without a page around it.
fn has_page(files: &dyn Files, app: &Manifest, root: &str, route: &str) -> Result<bool, WorkspaceError> {
    for extension in EXTENSIONS {
        for name in [format!("{route}.{extension}"), format!("{route}/index.{extension}")] {
            if let Ok(path) = app.dir.join(&format!("{root}pages/{name}"))
                && files.read(&path)?.is_some()
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_node() {
        let file = |text: &str| NodeVersion::from_file(".nvmrc", text).map(|node| node.version);
        assert_eq!(file("v22.16.0\n").as_deref(), Some("22.16.0"));
        assert_eq!(file("# comment\n22\n").as_deref(), Some("22"));
        assert_eq!(file("lts/*").as_deref(), Some("22"));
        assert_eq!(file("lts/Iron").as_deref(), Some("20"));
        assert_eq!(file("node"), None);
        assert_eq!(file(""), None);
        let tools = NodeVersion::from_file(".tool-versions", "python 3.12.1\nnodejs 20.19.1 # c\n").unwrap();
        assert_eq!((tools.version.as_str(), tools.from.as_str()), ("20.19.1", ".tool-versions"));
        let engines = |text: &str| NodeVersion::from_engines(text).map(|node| node.version);
        for (range, expected) in [
            // What create-turbo writes; Next 16 does not run on 18.
            (">=18", Some("22")),
            (">=20.19", Some("22")),
            ("^20.9.0", Some("20")),
            ("20.x", Some("20")),
            (">= 20 <23", Some("22")),
            ("^22.1.0 || ^24", Some("22")),
            (">=24", Some("24")),
            ("<22", Some("20")),
            ("~20.10", Some("20.10")),
            ("22.16.0", Some("22.16.0")),
            ("*", Some("22")),
            (">=99", None),
            ("lts/*", None),
        ] {
            assert_eq!(engines(range).as_deref(), expected, "{range}");
        }
    }
}
