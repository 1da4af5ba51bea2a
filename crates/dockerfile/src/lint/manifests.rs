//! The rule about the manifests of a pnpm workspace: pnpm installs what it finds. Where the manifest of a package is missing
//! that another one needs, it leaves a link that leads nowhere, and what fails is a later step.

use std::collections::BTreeSet;

use wbuild_report::Span;

use super::own::commands;
use super::rule::MISSING_MANIFEST;
use super::{At, ContextFiles, Findings, WorkspacePackage};
use crate::ast::Stage;
use crate::scope::{MountKind, RunStep, TransferStep};

/// What makes a folder the root of a workspace.
const WORKSPACE_FILE: &str = "pnpm-workspace.yaml";

/// Packages that a finding's sentence names; its hint has all of them.
const NAMED: usize = 5;

/// What a stage has of the workspace so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Manifests {
    /// Whether the workspace's own file is there.
    root: bool,
    /// Indices of the packages whose manifests are there.
    present: BTreeSet<usize>,
    /// Files of another stage may have brought manifests: nothing is known any more.
    unknown: bool,
    /// What the last install of the stage lacked.
    lacking: Option<Lacking>,
}

#[derive(Clone, Debug)]
struct Lacking {
    line: usize,
    span: Span,
    detail: String,
    hint: String,
}

impl Manifests {
    /// Files come from another stage or image.
    pub(super) fn foreign(&mut self) {
        self.unknown = true;
    }

    /// Files come from the context.
    pub(super) fn copied(&mut self, step: &TransferStep, context: &dyn ContextFiles) {
        let packages = context.packages();
        if !packages.is_empty() {
            self.add(&context.taken(step, &wanted(packages)));
        }
    }

    fn add(&mut self, taken: &[bool]) {
        let [root, packages @ ..] = taken else { return };
        self.root |= root;
        self.present.extend(packages.iter().enumerate().filter(|(_, taken)| **taken).map(|(index, _)| index));
    }

    /// A step runs: perhaps an install.
    pub(super) fn ran(&mut self, text: &str, run: &RunStep, context: &dyn ContextFiles, at: At<'_>) {
        let packages = context.packages();
        if self.unknown || packages.is_empty() {
            return;
        }
        let mut seen = self.clone();
        for mount in run.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Bind)) {
            match mount.from {
                None => seen.add(&context.mounted(&mount.source, &wanted(packages))),
                Some(_) => return,
            }
        }
        if !seen.root {
            return;
        }
        for words in commands(text) {
            if let Some(install) = Install::of(&words)
                && let Some(targets) = install.targets(packages, &seen.present)
            {
                self.lacking = seen.lacking(&targets, context, at);
            }
        }
    }

    fn lacking(&self, targets: &[usize], context: &dyn ContextFiles, at: At<'_>) -> Option<Lacking> {
        let packages = context.packages();
        let mut missing: BTreeSet<String> = BTreeSet::new();
        let mut by = Vec::new();
        for target in targets {
            let here = |directory: &String| {
                self.present.iter().any(|index| packages[*index].directory == *directory)
                    || !packages.iter().any(|package| package.directory == *directory)
            };
            let without: Vec<String> = context
                .closure(&packages[*target].directory)
                .into_iter()
                .filter(|directory| !here(directory))
                .collect();
            if !without.is_empty() {
                by.push(format!("`{}`", packages[*target].name));
                missing.extend(without);
            }
        }
        if missing.is_empty() {
            return None;
        }
        let mut names: Vec<String> =
            missing.iter().take(NAMED).map(|directory| format!("`{directory}/package.json`")).collect();
        if missing.len() > NAMED {
            names.push(format!("{} more", missing.len() - NAMED));
        }
        by.truncate(NAMED);
        let verb = if by.len() == 1 { "needs" } else { "need" };
        let lines: Vec<String> = missing.iter().map(|directory| copy_line(directory)).collect();
        Some(Lacking {
            line: at.line,
            span: at.span,
            detail: format!(
                "pnpm installs without {}, which {} {verb}, says nothing, and leaves links that lead nowhere",
                listed(&names),
                listed(&by)
            ),
            hint: format!("add above line {}:\n{}", at.line, lines.join("\n")),
        })
    }

    /// Reports what the last install of the stage lacked: an earlier one only fills the store.
    pub(super) fn at_end(&mut self, stage: &Stage, findings: &mut Findings<'_>) {
        let Some(lacking) = self.lacking.take() else { return };
        let comments = stage
            .instructions
            .iter()
            .find(|instruction| instruction.lines.first == lacking.line)
            .map_or(stage.comments.as_slice(), |instruction| instruction.comments.as_slice());
        let at = At { line: lacking.line, span: lacking.span, comments };
        findings.report_with(MISSING_MANIFEST, at, lacking.detail, &[&lacking.hint]);
    }
}

/// The paths that are looked for: the workspace's own file, then the manifest of each package.
fn wanted(packages: &[WorkspacePackage]) -> Vec<String> {
    let manifests = packages.iter().map(|package| format!("{}/package.json", package.directory));
    std::iter::once(WORKSPACE_FILE.to_owned()).chain(manifests).collect()
}

fn copy_line(directory: &str) -> String {
    if directory.contains(char::is_whitespace) {
        return format!(r#"COPY ["{directory}/package.json", "./{directory}/package.json"]"#);
    }
    format!("COPY {directory}/package.json ./{directory}/package.json")
}

fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A `pnpm install`, as far as it is understood.
struct Install<'a> {
    filters: Vec<&'a str>,
}

impl<'a> Install<'a> {
    /// `None` for other commands, and for installs of something else than the workspace with development dependencies.
    fn of(words: &[&'a str]) -> Option<Self> {
        let words = match words {
            ["corepack", rest @ ..] => rest,
            words => words,
        };
        let ["pnpm", rest @ ..] = words else { return None };
        let mut filters = Vec::new();
        let mut verb = None;
        let mut words = rest.iter();
        while let Some(word) = words.next() {
            match *word {
                "--filter" | "-F" => filters.push(unquoted(words.next()?)),
                "-C" | "--dir" | "-w" | "--workspace-root" | "--ignore-workspace" | "-g" | "--global"
                | "-P" | "--prod" | "--production" | "--lockfile-only" => return None,
                word if word.starts_with("--filter=") => filters.push(unquoted(&word["--filter=".len()..])),
                word if word.starts_with("--dir=") || word.starts_with("--filter-prod") => return None,
                word if word.starts_with('-') => {}
                word => verb = verb.or(Some(word)),
            }
        }
        matches!(verb, Some("install" | "i")).then_some(Self { filters })
    }

    /// The packages that are installed with all they need. `None` when a filter is not understood.
    fn targets(&self, packages: &[WorkspacePackage], present: &BTreeSet<usize>) -> Option<Vec<usize>> {
        if self.filters.is_empty() {
            return Some(present.iter().copied().collect());
        }
        self.filters
            .iter()
            .map(|filter| {
                let name = filter.strip_suffix("...")?;
                let by_name = |name: &str| packages.iter().position(|package| package.name == name);
                let by_end = || {
                    let mut found = packages.iter().enumerate().filter(|(_, package)| {
                        package.name.starts_with('@') && package.name.rsplit('/').next() == Some(name)
                    });
                    let (index, _) = found.next()?;
                    found.next().is_none().then_some(index)
                };
                let by_directory = || {
                    let directory = name.strip_prefix("./")?.trim_end_matches('/');
                    packages.iter().position(|package| package.directory == directory)
                };
                by_name(name).or_else(by_end).or_else(by_directory)
            })
            .collect()
    }
}

fn unquoted(word: &str) -> &str {
    word.trim_matches(['"', '\''])
}
