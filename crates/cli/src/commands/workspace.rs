//! `wbuild workspace`: which packages an app is made of and why, what is left out, and the pruned workspace on disk.

use std::path::Path;

use wbuild_engine::{Engine, LeftOut, OpenWorkspace};
use wbuild_workspace::{
    Closure, Content, Files, InstallPlan, PackageSummary, RelPath, TurboConfigs, WorkspaceSummary,
};

use super::{Failure, Session, WriteError, examples, print};
use crate::args::{WorkspaceArgs, WorkspaceCommand};
use crate::render::{Align, Table, Theme};

/// Paths that are named of what is left out as expected.
const EXAMPLES: usize = 3;

pub(crate) fn run(args: &WorkspaceArgs, session: &Session) -> Result<(), Failure> {
    let root = super::root_of(&args.app)?;
    let engine = Engine::open(session.plain_options(args.home.home.as_ref())?, &session.variable)?;
    let open = engine.open_workspace(&root)?;
    let named = super::known_app(&open, args.app.app.as_deref())?;
    let app = open.workspace.app(named).map_err(Failure::new)?;
    let closure = closure(&open, &app.dir);
    if let Some(WorkspaceCommand::Prune { folder }) = &args.command {
        return prune(&open, &closure, folder);
    }
    let summary = WorkspaceSummary::new(&open.workspace, &closure);
    if args.json {
        let text = serde_json::to_string_pretty(&summary)
            .map_err(|error| Failure::Failed { error: Box::new(error), hints: Vec::new() })?;
        return print(&format!("{text}\n"));
    }
    let mut text = String::new();
    let mut table = Table::new([("PACKAGE", Align::Left), ("FOLDER", Align::Left), ("WHY", Align::Left)]);
    for package in summary.packages.iter().chain(&summary.files) {
        table.row([package.name.clone(), package.dir.clone(), why(package, &summary)]);
    }
    text.push_str(&table.render(&Theme::plain()));
    if !summary.left_out.is_empty() {
        text.push_str("\nleft out\n");
        for package in &summary.left_out {
            text.push_str(&format!("  {} ({})\n", package.name, package.dir));
        }
    }
    for cycle in &summary.cycles {
        text.push_str(&format!("\ncycle (pnpm allows it): {}\n", cycle.join(" → ")));
    }
    text.push_str(&format!(
        "\n{} of {} locked dependencies are needed\n",
        summary.dependencies, summary.all_dependencies
    ));
    let left_out = open.context.left_out();
    if !left_out.is_empty() {
        text.push_str("not in the build context, besides what .dockerignore says\n");
        for out in left_out {
            let named = if out.reason.is_surprising() { out.examples.len() } else { EXAMPLES };
            let few = LeftOut { examples: out.examples.iter().take(named).cloned().collect(), ..out.clone() };
            text.push_str(&format!("  {} ({}): {}\n", out.reason, out.count, examples(&few)));
        }
    }
    print(&text)?;
    let diagnostics = wbuild_workspace::check_frozen(&open.workspace, &closure, &open.context)
        .map_err(wbuild_engine::EngineError::from)?;
    if diagnostics.is_empty() { Ok(()) } else { Err(Failure::Diagnostics(diagnostics)) }
}

/// With the packages of the build's task graph, where there is one.
fn closure(open: &OpenWorkspace, dir: &RelPath) -> Closure {
    let graph = TurboConfigs::read(&open.context, &open.workspace)
        .and_then(|configs| wbuild_workspace::TaskGraph::new(&open.workspace, &configs, dir, "build"));
    // What is wrong with the task graph is said by a build; the packages can be shown without it.
    let of_tasks = graph.map(|graph| graph.packages()).unwrap_or_default();
    Closure::with(&open.workspace, dir, &of_tasks)
}

fn why(package: &PackageSummary, summary: &WorkspaceSummary) -> String {
    match package.why.last() {
        None if package.name == summary.app => "the app".to_owned(),
        None if package.dir.is_empty() || package.dir == "." => "the root".to_owned(),
        None => "a task of the build".to_owned(),
        Some(step) => {
            let through = match step.through.as_slice() {
                [] => String::new(),
                through => format!(" through {}", through.join(", ")),
            };
            format!("{} of {} ({}){through}", step.kind, step.from, step.specifier)
        }
    }
}

fn prune(open: &OpenWorkspace, closure: &Closure, folder: &Path) -> Result<(), Failure> {
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |source| Failure::new(WriteError { path, source })
    };
    let plan = InstallPlan::new(&open.workspace, closure, &open.context)
        .map_err(wbuild_engine::EngineError::from)?;
    std::fs::create_dir(folder).map_err(wrong(folder))?;
    for (path, file) in &plan.files {
        let target = folder.join(path.as_str());
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(wrong(parent))?;
        }
        match &file.content {
            Content::Bytes(bytes) => std::fs::write(&target, bytes).map_err(wrong(&target))?,
            Content::Copy => copy(open, path, &target)?,
            Content::CopyTree => copy_tree(open, path, folder)?,
        }
        if file.executable {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755))
                .map_err(wrong(&target))?;
        }
    }
    print(&format!("{} files in {}\n", plan.files.len(), folder.display()))
}

fn copy(open: &OpenWorkspace, path: &RelPath, target: &Path) -> Result<(), Failure> {
    let read = open.context.read(path).map_err(Failure::new)?;
    let bytes = read.ok_or_else(|| {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        Failure::new(WriteError { path: target.to_owned(), source })
    })?;
    std::fs::write(target, bytes)
        .map_err(|source| Failure::new(WriteError { path: target.to_owned(), source }))
}

fn copy_tree(open: &OpenWorkspace, dir: &RelPath, folder: &Path) -> Result<(), Failure> {
    let target = folder.join(dir.as_str());
    std::fs::create_dir_all(&target)
        .map_err(|source| Failure::new(WriteError { path: target.clone(), source }))?;
    for entry in open.context.list(dir).map_err(Failure::new)? {
        let Ok(path) = dir.join(&entry.name) else { continue };
        match entry.kind {
            wbuild_workspace::EntryKind::Directory => copy_tree(open, &path, folder)?,
            _ => copy(open, &path, &folder.join(path.as_str()))?,
        }
    }
    Ok(())
}
