//! The build context as own rules look at it: its listing, and few small files.

use std::cell::OnceCell;

use wbuild_context::{FileKind, IgnoreRules, Listed, SourcePattern};
use wbuild_dockerfile::lint::{ContextFiles, WorkspacePackage, may_hold_secrets};
use wbuild_dockerfile::{TransferSource, TransferStep};
use wbuild_engine::LocalContext;
use wbuild_tree::EntryPath;
use wbuild_workspace::{Closure, RelPath, Workspace};

/// Larger files are not looked into: what is looked for is written by hand.
const MAX_TEXT: u64 = 64 << 10;

/// Files that are looked into at most.
const MAX_SUSPECTS: usize = 200;

/// A listed context. Reads the workspace when it is first asked for.
pub(super) struct Files<'a> {
    context: &'a LocalContext,
    suspects: Vec<String>,
    workspace: OnceCell<Option<Workspace>>,
    packages: OnceCell<Vec<WorkspacePackage>>,
}

impl<'a> Files<'a> {
    /// Looks at all names once, except those in `node_modules` and `.git`.
    pub(super) fn new(context: &'a LocalContext) -> Self {
        let mut suspects = Vec::new();
        let mut open: Vec<Option<Listed<'_>>> = vec![None];
        while let Some(directory) = open.pop() {
            for entry in context.listing().children(directory) {
                let Ok(name) = std::str::from_utf8(entry.name()) else { continue };
                match entry.kind() {
                    FileKind::Directory if !matches!(name, "node_modules" | ".git") => open.push(Some(entry)),
                    FileKind::File if suspects.len() < MAX_SUSPECTS && may_hold_secrets(name) => {
                        suspects.push(String::from_utf8_lossy(entry.path().as_bytes()).into_owned());
                    }
                    _ => {}
                }
            }
        }
        suspects.sort_unstable();
        Self { context, suspects, workspace: OnceCell::new(), packages: OnceCell::new() }
    }

    fn workspace(&self) -> Option<&Workspace> {
        // A workspace that cannot be read is not this command's business: the rules about it are silent.
        self.workspace.get_or_init(|| Workspace::read(self.context).ok()).as_ref()
    }
}

impl ContextFiles for Files<'_> {
    fn suspects(&self) -> &[String] {
        &self.suspects
    }

    fn text(&self, path: &str) -> Option<String> {
        let path = EntryPath::parse(path).ok()?;
        let listing = self.context.listing();
        let entry = listing.get(&path).filter(|entry| entry.facts().size <= MAX_TEXT)?;
        let bytes = listing.root().read(&entry.path(), MAX_TEXT).ok()?;
        String::from_utf8(bytes).ok()
    }

    fn taken(&self, step: &TransferStep, paths: &[String]) -> Vec<bool> {
        if paths.is_empty() {
            return Vec::new();
        }
        let listing = self.context.listing();
        let mut selection = listing.select_none();
        for (_, source) in &step.sources {
            let TransferSource::Path(source) = source else { continue };
            let pattern =
                if step.parents { SourcePattern::parents(source) } else { SourcePattern::wildcard(source) };
            // What is no pattern takes nothing; who builds it says why.
            if let Ok(pattern) = pattern {
                selection.add_matching(&pattern);
            }
        }
        let excludes = IgnoreRules::from_patterns(&step.excludes).unwrap_or_default();
        paths
            .iter()
            .map(|path| {
                let entry = EntryPath::parse(path.as_str()).ok().and_then(|path| listing.get(&path));
                entry.is_some_and(|entry| selection.contains(entry)) && !excluded(&excludes, path)
            })
            .collect()
    }

    fn packages(&self) -> &[WorkspacePackage] {
        self.packages.get_or_init(|| {
            let Some(workspace) = self.workspace() else { return Vec::new() };
            let packages = workspace.packages.keys().filter(|directory| !directory.is_root());
            packages
                .map(|directory| WorkspacePackage {
                    directory: directory.as_str().to_owned(),
                    name: workspace.label(directory).to_owned(),
                })
                .collect()
        })
    }

    fn closure(&self, directory: &str) -> Vec<String> {
        let (Some(workspace), Ok(directory)) = (self.workspace(), RelPath::new(directory)) else {
            return Vec::new();
        };
        let closure = Closure::of(workspace, &directory);
        closure.packages.keys().map(|directory| directory.as_str().to_owned()).collect()
    }
}

/// Patterns of `--exclude` count from the source, wherever that is: from any directory above the file.
fn excluded(rules: &IgnoreRules, path: &str) -> bool {
    let ends = path.match_indices('/').map(|(at, _)| &path[at + 1..]);
    !rules.is_empty()
        && std::iter::once(path).chain(ends).any(|path| rules.matches_or_parent_matches(path.as_bytes()))
}
