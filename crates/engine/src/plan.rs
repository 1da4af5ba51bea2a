//! From a folder to something that can be lowered: the workspace around it, its context, its spec, its project.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wbuild_context::{Exclusion, IgnoreRules, LeftOutReason, ListOptions, Policy};
use wbuild_frontend::{InferFacts, Project, ProjectSource, SPEC_FILE, Spec};
use wbuild_oci::Platform;
use wbuild_report::SourceFile;
use wbuild_tree::EntryPath;
use wbuild_workspace::{
    EntryKind, EnvFiles, Files, GitIgnores, NextFacts, Outputs, RelPath, TurboConfigs, Workspace,
    WorkspaceError,
};

use crate::contexts::LocalContext;
use crate::error::EngineError;
use crate::step::io_error;
use crate::worker::Engine;

/// The file that makes a folder the root of a workspace.
const WORKSPACE_FILE: &str = "pnpm-workspace.yaml";

/// What package managers write beside the manifest.
const LOCKFILES: [&str; 5] = ["pnpm-lock.yaml", "package-lock.json", "yarn.lock", "bun.lock", "bun.lockb"];

/// The file that says what is not committed.
const GITIGNORE: &str = ".gitignore";

/// Specs are written by hand.
const MAX_SPEC_BYTES: u64 = 1 << 20;

/// A workspace read from disk.
#[derive(Debug)]
pub struct OpenWorkspace {
    /// Its root.
    pub root: PathBuf,
    /// Its files, as a build sees them.
    pub context: LocalContext,
    /// What they say.
    pub workspace: Workspace,
}

/// Where the spec comes from.
#[derive(Clone, Debug)]
pub enum SpecChoice {
    /// This file.
    File(PathBuf),
    /// `wbuild.toml` of the application or the workspace root, else inferred.
    Find,
    /// As `Find`, but for somebody who prints it: an empty file is the one that a shell has just made for what will be
    /// printed.
    FindToPrint,
}

/// The root of the workspace around `start`: the nearest folder with a `pnpm-workspace.yaml`.
///
/// # Errors
/// When there is none up to the root of the file system.
pub fn find_workspace(start: &Path) -> Result<PathBuf, EngineError> {
    if !std::fs::metadata(start).map_err(io_error("find", start))?.is_dir() {
        return Err(io_error("search in", start)(std::io::ErrorKind::NotADirectory.into()));
    }
    let start = std::path::absolute(start).map_err(io_error("find", start))?;
    match start.ancestors().find(|folder| folder.join(WORKSPACE_FILE).is_file()) {
        Some(root) => Ok(root.to_owned()),
        None => {
            let lockfile = |folder: &Path| {
                LOCKFILES.map(|name| folder.join(name)).into_iter().find(|path| path.is_file())
            };
            let lockfile = start.ancestors().find_map(lockfile);
            Err(EngineError::NoWorkspace { start, lockfile })
        }
    }
}

impl Engine {
    /// Reads the workspace at `root`.
    ///
    /// # Errors
    /// When its files cannot be read, or are wrong.
    pub fn open_workspace(&self, root: &Path) -> Result<OpenWorkspace, EngineError> {
        let options =
            || Ok::<_, EngineError>(ListOptions::new(Policy::Workspace, IgnoreRules::load(root, None)?));
        let mut context = self.list_context(root, options()?)?;
        let workspace = Workspace::read(&context)?;
        // What tasks write must not be taken for sources (decision 5). Which paths these are is known only now; most
        // checkouts have none of them.
        let configs = TurboConfigs::read(&context, &workspace)?;
        let outputs = declared_outputs(&context, &workspace, &configs)?;
        let built = context.listing().entries().any(|entry| {
            relative(entry.path().as_bytes())
                .is_some_and(|path| outputs.iter().any(|one| one.outputs.matches(&path)))
        });
        // What is committed is a source, whatever a pattern for all packages says: `lib/**` is an output of one and the
        // source of another. Without a .gitignore, nothing is known of what is committed.
        let known =
            built && context.listing().get(&EntryPath::parse(GITIGNORE).unwrap_or_default()).is_some();
        let ignores = if known { Some(Arc::new(GitIgnores::scan(&context)?)) } else { None };
        // Which of its `.env*` files are sources is known only now, too.
        let environment =
            context.left_out().iter().any(|left_out| left_out.reason == LeftOutReason::Environment);
        if built || environment {
            let mut options = options()?;
            if environment {
                let sources = EnvFiles::read(&context, &workspace, &configs)?;
                options = options.declared(move |path: &[u8], _| {
                    relative(path).is_some_and(|path| sources.contains(&path))
                });
            }
            for Declared { task, outputs, always } in outputs {
                let ignores = ignores.clone().filter(|_| !always);
                options = options.excluding(Exclusion::new(task, move |path: &[u8], directory| {
                    let committed =
                        |path: &RelPath| ignores.as_ref().is_some_and(|i| !i.leaves_out(path, directory));
                    relative(path).is_some_and(|path| outputs.matches(&path) && !committed(&path))
                }));
            }
            context = self.list_context(root, options)?;
        }
        Ok(OpenWorkspace { root: root.to_owned(), context, workspace })
    }
}

/// A path of the listing as plans have it.
fn relative(path: &[u8]) -> Option<RelPath> {
    RelPath::new(std::str::from_utf8(path).ok()?).ok()
}

/// What is written in a build.
struct Declared {
    /// By whom.
    task: String,
    outputs: Outputs,
    /// Whether it is no source even where git knows it.
    always: bool,
}

/// The outputs that any task of any package declares, by task, and what Next writes without being asked.
fn declared_outputs(
    files: &dyn Files,
    workspace: &Workspace,
    configs: &TurboConfigs,
) -> Result<Vec<Declared>, WorkspaceError> {
    let mut found = Vec::new();
    for (dir, package) in &workspace.packages {
        let name = if dir.is_root() { "//" } else { package.label() };
        for task in configs.task_names() {
            let Some(definition) = configs.definition(workspace, dir, task) else { continue };
            // What is wrong with a pattern is said where the task is planned.
            let outputs = Outputs::new(dir, &definition.outputs, &mut Vec::new());
            // A pattern that takes the whole package says nothing about what is no source.
            let whole = outputs.matches(&package.dir.join("package.json").unwrap_or_default());
            if !outputs.is_empty() && !whole {
                found.push(Declared { task: format!("{name}#{task}"), outputs, always: false });
            }
        }
        if workspace.is_next_app(package) {
            let dist = NextFacts::read(files, workspace, package)?.dist;
            // The second refers to the first, in a way that `next dev` and `next build` do not agree about.
            for written in [dist.as_str(), "next-env.d.ts"] {
                if let Ok(path) = dir.join(written) {
                    let task = format!("next build of {}", package.label());
                    found.push(Declared { task, outputs: Outputs::below(&path), always: true });
                }
            }
        }
    }
    Ok(found)
}

impl OpenWorkspace {
    /// The spec of an application: read, or inferred.
    ///
    /// # Errors
    /// When it cannot be read or is wrong, or there is no such application.
    pub fn spec(&self, choice: &SpecChoice, app: Option<&str>) -> Result<Spec, EngineError> {
        let path = match choice {
            SpecChoice::File(path) => Some(path.clone()),
            SpecChoice::Find | SpecChoice::FindToPrint => {
                let printed = matches!(choice, SpecChoice::FindToPrint);
                let empty = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.len() == 0);
                let dir = self.workspace.app(app).ok().map(|app| self.root.join(app.dir.as_str()));
                let places = dir.into_iter().chain([self.root.clone()]).map(|dir| dir.join(SPEC_FILE));
                places.into_iter().find(|path| path.exists() && !(printed && empty(path)))
            }
        };
        let Some(path) = path else {
            let facts = InferFacts::read(&self.context, &self.workspace, app)?;
            return wbuild_frontend::infer(&facts).map_err(EngineError::Diagnostics);
        };
        let size = std::fs::metadata(&path).map_err(io_error("read", &path))?.len();
        if size > MAX_SPEC_BYTES {
            let source =
                std::io::Error::other(format!("it has {size} bytes; a spec has at most {MAX_SPEC_BYTES}"));
            return Err(io_error("read", &path)(source));
        }
        let text = std::fs::read_to_string(&path).map_err(io_error("read", &path))?;
        let shown = path.strip_prefix(&self.root).unwrap_or(&path).display().to_string();
        let mut spec = Spec::parse(&SourceFile::new(shown, text)).map_err(EngineError::Diagnostics)?;
        if let Some(app) = app {
            app.clone_into(&mut spec.app);
        }
        Ok(spec)
    }

    /// The application's project: what is installed, which tasks run on which files.
    ///
    /// # Errors
    /// Everything that is wrong with the workspace for this application, at once.
    pub fn project(&self, spec: &Spec, platform: &Platform) -> Result<Project, EngineError> {
        let (mut listing, mut links) = (Vec::new(), Vec::new());
        list_files(&self.context, &RelPath::root(), &mut listing, &mut links)?;
        // A file with credentials is no source: its other lines reach the install, and the credentials only its process.
        listing.retain(|path| {
            let npmrc = path.name() == Some(".npmrc");
            let parent = path.parent().unwrap_or_else(RelPath::root);
            !npmrc || self.workspace.npmrc.get(&parent).is_none_or(|npmrc| npmrc.credentials().is_empty())
        });
        let name = self.root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Project::read(&ProjectSource {
            files: &self.context,
            listing: &listing,
            links: &self.targets(links),
            workspace: &self.workspace,
            spec,
            platform,
            fallback_name: &name,
        })?)
    }
}

impl OpenWorkspace {
    /// The symbolic links that lead to something inside the root, by the path that is written in them.
    fn targets(&self, links: Vec<RelPath>) -> BTreeMap<RelPath, RelPath> {
        let target = |path: &RelPath| {
            let entry = self.context.listing().get(&EntryPath::parse(path.as_str()).ok()?)?;
            let target = std::str::from_utf8(entry.target()?).ok()?;
            path.parent()?.join(target).ok()
        };
        links.into_iter().filter_map(|path| Some((path.clone(), target(&path)?))).collect()
    }
}

fn list_files(
    files: &dyn Files,
    directory: &RelPath,
    found: &mut Vec<RelPath>,
    links: &mut Vec<RelPath>,
) -> Result<(), WorkspaceError> {
    for entry in files.list(directory)? {
        // Names with odd characters can be in a layer, but no pattern of a workspace means them.
        let Ok(path) = directory.join(&entry.name) else { continue };
        match entry.kind {
            EntryKind::Directory => list_files(files, &path, found, links)?,
            EntryKind::File => found.push(path),
            EntryKind::Link => {
                links.push(path.clone());
                found.push(path);
            }
        }
    }
    Ok(())
}

impl From<WorkspaceError> for EngineError {
    fn from(error: WorkspaceError) -> Self {
        match error {
            WorkspaceError::Invalid(diagnostics) => Self::Diagnostics(diagnostics),
            read => Self::Workspace(Box::new(read)),
        }
    }
}
