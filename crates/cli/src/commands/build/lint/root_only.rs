//! The rule about patterns of the ignore file that act on the root only. In `.gitignore` `node_modules` is every
//! `node_modules`; in `.dockerignore` it is the root's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use wbuild_context::{FileKind, IgnoreRules, Listed, Listing, Pattern, Wildcard};
use wbuild_dockerfile::lint::{Finding, LintOptions, Rule, may_hold_secrets};
use wbuild_report::{SourceFile, Span};

/// Paths that a finding names.
const NAMED: usize = 3;

/// What no image wants, wherever it lies.
const NEVER_WANTED: [&str; 16] = [
    "node_modules",
    ".next",
    ".turbo",
    ".git",
    ".github",
    ".vscode",
    ".idea",
    ".DS_Store",
    ".cache",
    ".vercel",
    ".pnpm-store",
    "playwright-report",
    "test-results",
    "storybook-static",
    "__pycache__",
    ".venv",
];

/// What is made by a build when it lies beside a manifest. Elsewhere it may be a source.
const MADE: [&str; 5] = ["out", "build", "dist", "coverage", ".output"];

/// What a pattern leaves in the context.
#[derive(Debug, Default)]
struct Left {
    /// The first ones, with how many files are in them if they are directories.
    named: Vec<(String, Option<usize>)>,
    count: usize,
}

/// Findings in the ignore file that `rules` came from, and that file. `None` if there are none.
pub(super) fn check(
    rules: &IgnoreRules,
    listing: &Listing,
    options: &LintOptions,
) -> Option<(Arc<SourceFile>, Vec<Finding>)> {
    let path = rules.file()?;
    let found = search(rules, listing);
    if found.is_empty() {
        return None;
    }
    // It was read a moment ago; if it is gone since then, there is nothing to point at.
    let text = String::from_utf8_lossy(&std::fs::read(path).ok()?).into_owned();
    let shown = Path::new(path).strip_prefix(listing.root().path()).unwrap_or(Path::new(path));
    let file = SourceFile::new(shown.display().to_string(), text);
    let findings: Vec<Finding> = found
        .into_iter()
        .filter_map(|(index, left)| finding(&file, &rules.patterns()[index], &left, options))
        .collect();
    (!findings.is_empty()).then_some((file, findings))
}

fn finding(file: &SourceFile, pattern: &Pattern, left: &Left, options: &LintOptions) -> Option<Finding> {
    let span = pattern.span().unwrap_or(Span::new(0, 0));
    // With a slash it says that the root's is meant.
    let rooted = file.text.get(span.start..span.end).is_some_and(|raw| raw.trim_start().starts_with('/'));
    if rooted || !options.checks(&Rule::ROOT_ONLY_IGNORE, &comments(&file.text, pattern.line())) {
        return None;
    }
    let name = String::from_utf8_lossy(pattern.text());
    let mut named: Vec<String> = left
        .named
        .iter()
        .map(|(path, files)| match files {
            Some(1) => format!("`{path}/` (1 file)"),
            Some(files) => format!("`{path}/` ({files} files)"),
            None => format!("`{path}`"),
        })
        .collect();
    if left.count > named.len() {
        named.push(format!("{} more", left.count - named.len()));
    }
    let verb = if left.count == 1 { "is" } else { "are" };
    let listed = match named.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        names => names.concat(),
    };
    Some(Finding {
        rule: Rule::ROOT_ONLY_IGNORE,
        detail: format!("`{name}` leaves out the root's only: {listed} {verb} part of the context"),
        line: pattern.line(),
        span,
        hints: vec![format!("write `**/{name}`, or `/{name}` if only the root's is meant")],
    })
}

/// The comment lines directly above a line, without their `#`, as a Dockerfile's instruction has them.
fn comments(text: &str, line: usize) -> Vec<String> {
    let lines: Vec<&str> = text.lines().take(line.saturating_sub(1)).collect();
    let above = lines.iter().rev().map_while(|line| line.trim().strip_prefix('#'));
    above.map(|comment| comment.trim().to_owned()).collect()
}

/// What each pattern leaves, by its index. One look at each name; what is in a directory that was found is only counted.
fn search(rules: &IgnoreRules, listing: &Listing) -> BTreeMap<usize, Left> {
    let mut exact: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut wild: Vec<(Wildcard, usize)> = Vec::new();
    for (index, pattern) in rules.patterns().iter().enumerate() {
        let text = pattern.text();
        if pattern.is_exception() || text.contains(&b'/') || text.starts_with(b"**") {
            continue;
        }
        if !Wildcard::is_in(text) {
            exact.entry(text).or_insert(index);
        } else if let Ok(wildcard) = Wildcard::new(text) {
            wild.push((wildcard, index));
        }
    }
    let mut found: BTreeMap<usize, Left> = BTreeMap::new();
    if exact.is_empty() && wild.is_empty() {
        return found;
    }
    let mut open: Vec<Listed<'_>> =
        listing.children(None).filter(|entry| entry.kind() == FileKind::Directory).collect();
    open.reverse();
    while let Some(directory) = open.pop() {
        let beside = listing.children(Some(directory)).any(|entry| entry.name() == b"package.json");
        let first = open.len();
        for entry in listing.children(Some(directory)) {
            let is_directory = entry.kind() == FileKind::Directory;
            let pattern = || {
                let name = entry.name();
                let wild =
                    || wild.iter().find(|(wildcard, _)| wildcard.matches(name)).map(|(_, index)| *index);
                exact.get(name).copied().or_else(wild)
            };
            if is_unwanted(entry.name(), beside)
                && let Some(index) = pattern()
            {
                let left = found.entry(index).or_default();
                left.count += 1;
                if left.named.len() < NAMED {
                    let files = is_directory.then(|| files_in(listing, entry));
                    let path = String::from_utf8_lossy(entry.path().as_bytes()).into_owned();
                    left.named.push((path, files));
                }
            } else if is_directory && entry.name() != b"node_modules" {
                open.push(entry);
            }
        }
        open[first..].reverse();
    }
    found
}

fn is_unwanted(name: &[u8], beside_manifest: bool) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    NEVER_WANTED.contains(&name)
        || (beside_manifest && MADE.contains(&name))
        || name.ends_with(".tsbuildinfo")
        || Path::new(name).extension().is_some_and(|extension| extension == "log")
        || may_hold_secrets(name)
}

fn files_in(listing: &Listing, directory: Listed<'_>) -> usize {
    let mut open = vec![directory];
    let mut files = 0;
    while let Some(directory) = open.pop() {
        for entry in listing.children(Some(directory)) {
            if entry.kind() == FileKind::Directory {
                open.push(entry);
            } else {
                files += 1;
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use std::fs;

    use wbuild_context::{ContextRoot, ListOptions, Policy};

    use super::*;

    const FILES: [&str; 12] = [
        "package.json",
        "README.md",
        "node_modules/x/index.js",
        "content/a.md",
        "apps/web/package.json",
        "apps/web/.env",
        "apps/web/.next/a",
        "apps/web/dist/index.js",
        "apps/web/src/build/plan.ts",
        "packages/ui/node_modules/y/a.js",
        "packages/ui/node_modules/y/b.js",
        "packages/ui/npm-debug.log.1",
    ];

    fn found(ignore: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for file in FILES {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        fs::write(folder.path().join(".dockerignore"), ignore).unwrap();
        let rules = IgnoreRules::load(folder.path(), None).unwrap();
        let root = ContextRoot::open(folder.path()).unwrap();
        let listing = root.list(ListOptions::new(Policy::Dockerfile, rules.clone())).unwrap();
        let Some((file, findings)) = check(&rules, &listing, &LintOptions::default()) else {
            return Vec::new();
        };
        assert_eq!(file.name, ".dockerignore");
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_root_only_pattern_leaves_is_named_with_its_line() {
        assert_eq!(
            found("node_modules\n.next\ndist\n.env*\nbuild\n"),
            [
                "wbuild/RootOnlyIgnore: `node_modules` leaves out the root's only: `packages/ui/node_modules/` (2 files) is part of the context (line 1)",
                "wbuild/RootOnlyIgnore: `.next` leaves out the root's only: `apps/web/.next/` (1 file) is part of the context (line 2)",
                "wbuild/RootOnlyIgnore: `dist` leaves out the root's only: `apps/web/dist/` (1 file) is part of the context (line 3)",
                "wbuild/RootOnlyIgnore: `.env*` leaves out the root's only: `apps/web/.env` is part of the context (line 4)",
            ]
        );
    }

    #[test]
    fn what_is_meant_that_way_is_not_reported() {
        for ignore in [
            "**/node_modules\n",
            "/node_modules\n",
            "node_modules\n**/node_modules\n",
            "node_modules\npackages\n",
            // Contents and sources that share a name with something at the root.
            "*.md\nREADME.md\nbuild\n",
            "# check=skip=wbuild/RootOnlyIgnore\nnode_modules\n",
            "",
        ] {
            assert!(found(ignore).is_empty(), "{ignore:?}: {:?}", found(ignore));
        }
    }
}
