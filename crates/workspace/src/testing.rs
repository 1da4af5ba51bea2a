//! What tests of several modules start from.

use wbuild_report::Diagnostic;

use crate::{MemoryFiles, RelPath, Workspace};

/// A path that is known to be good.
pub(crate) fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

/// The files of a text in which `-- path --` begins each.
pub(crate) fn files(text: &str) -> MemoryFiles {
    let mut files = MemoryFiles::new();
    let mut current: Option<(RelPath, String)> = None;
    for line in text.split_inclusive('\n') {
        if let Some(name) = line.trim_end().strip_prefix("-- ").and_then(|rest| rest.strip_suffix(" --")) {
            if let Some((path, content)) = current.replace((path(name), String::new())) {
                files.insert(path, content);
            }
        } else if let Some((_, content)) = &mut current {
            content.push_str(line);
        }
    }
    if let Some((path, content)) = current {
        files.insert(path, content);
    }
    files
}

/// A workspace with all that the format knows: its lockfile was written by pnpm 10.18.2, which also accepts what
/// this crate prunes from it.
pub(crate) fn lab() -> MemoryFiles {
    files(include_str!("../tests/fixtures/lab.txtar"))
}

/// The same for pnpm 8.15.9, whose lockfile is v6.
pub(crate) fn lab_v6() -> MemoryFiles {
    files(include_str!("../tests/fixtures/lab-v6.txtar"))
}

/// A workspace of tasks; what tests say of it was printed by turbo 2.11.11.
pub(crate) fn turbo_lab() -> MemoryFiles {
    files(include_str!("../tests/fixtures/turbo.txtar"))
}

/// A workspace of nothing but this workspace file.
pub(crate) fn workspace_files(workspace: &str) -> MemoryFiles {
    let mut files = MemoryFiles::new();
    files.insert(path("package.json"), r#"{"name": "root", "packageManager": "pnpm@10.18.2"}"#);
    files.insert(path("pnpm-workspace.yaml"), workspace);
    files.insert(path("pnpm-lock.yaml"), "lockfileVersion: '9.0'\n\nimporters:\n\n  .: {}\n");
    files
}

/// Replaces one occurrence of `from` in a file that has it.
pub(crate) fn edit(files: &mut MemoryFiles, file: &str, from: &str, to: &str) {
    let text = String::from_utf8(files.remove(&path(file)).unwrap()).unwrap();
    assert!(text.contains(from), "{file} has no {from:?}");
    files.insert(path(file), text.replacen(from, to, 1));
}

/// The workspace of files that are known to be good.
pub(crate) fn workspace(files: &MemoryFiles) -> Workspace {
    match Workspace::read(files) {
        Ok(workspace) => workspace,
        Err(error) => panic!("{}", said(error.diagnostics())),
    }
}

/// Diagnostics with their hints, one line each.
pub(crate) fn said(diagnostics: &[Diagnostic]) -> String {
    let mut lines = Vec::new();
    for diagnostic in diagnostics {
        lines.push(format!("{:?}: {diagnostic}", diagnostic.severity));
        lines.extend(diagnostic.hints.iter().map(|hint| format!("  hint: {hint}")));
    }
    lines.join("\n")
}
