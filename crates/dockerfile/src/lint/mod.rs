//! The lint: BuildKit's 22 rules with their names, texts and lines, and this project's own ones, whose names begin with
//! `wbuild/`.
//!
//! Rules about form are checked everywhere. Those that need values (`UndefinedVar`, `WorkdirRelativePath`, …) are checked in
//! the stages that are asked for: a build asks for those it needs, a check for all.

mod context;
mod form;
mod from;
mod manifests;
mod options;
mod own;
mod rule;
mod secret;
mod walk;

use std::collections::BTreeSet;
use std::sync::Arc;

use wbuild_oci::Platform;
use wbuild_report::{Diagnostic, SourceFile, Span};

pub use context::{ContextFiles, WorkspacePackage};
pub use options::{LintOptions, LintOptionsError};
pub use rule::{BUILDKIT_RULES, OWN_RULES, Rule};
pub use secret::{holds_secret, may_hold_secrets};
pub use walk::is_secret_name;

use crate::ast::Dockerfile;
use crate::problem::shortened;
use crate::scope::{BaseFacts, GlobalScope};

/// More findings of one file are not reported.
const MAX_FINDINGS: usize = 1000;

/// What is known of a base image.
#[derive(Clone, Debug, Default)]
pub struct BaseImage {
    /// What its variables start with.
    pub facts: BaseFacts,
    /// Whether its configuration has a shell.
    pub shell: bool,
    /// Its user; empty is root.
    pub user: String,
    /// Whether it has a health check.
    pub healthcheck: bool,
    /// Its triggers.
    pub onbuild: Vec<String>,
    /// What it was made for.
    pub platform: Option<Platform>,
}

/// What an ignore file says, for [`Lint::ignored`].
pub trait Ignored {
    /// Whether it has exceptions (`!pattern`). Then nothing is said about it.
    fn has_exceptions(&self) -> bool;
    /// Whether one of its patterns is exactly `*`, `**` or `**/*`.
    fn excludes_everything(&self) -> bool;
    /// Whether `path` or a directory above it is excluded.
    fn excludes(&self, path: &str) -> bool;
}

/// What to check, and with what knowledge.
pub struct Lint<'a> {
    /// The file.
    pub dockerfile: &'a Dockerfile,
    /// Its global scope.
    pub global: &'a Arc<GlobalScope>,
    /// Which rules; see [`Lint::options`].
    pub options: LintOptions,
    /// Also the rules of this project.
    pub own_rules: bool,
    /// The stages in which values are looked at; `None` is all of them.
    pub stages: Option<&'a BTreeSet<usize>>,
    /// What is known of an image. Without knowledge, nothing is said about its variables.
    pub base: &'a dyn Fn(&str) -> Option<BaseImage>,
    /// The ignore file of the build context.
    pub ignored: Option<&'a dyn Ignored>,
    /// The build context, for the rules of this project that look at it. Without it these say less.
    pub context: Option<&'a dyn ContextFiles>,
}

impl std::fmt::Debug for Lint<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lint").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Something a rule found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// What it found.
    pub detail: String,
    /// The line that BuildKit names: the first one of the instruction.
    pub line: usize,
    /// The place.
    pub span: Span,
    /// What to do.
    pub hints: Vec<String>,
}

impl Finding {
    /// The finding as a warning in `file`.
    pub fn diagnostic(&self, file: &Arc<SourceFile>) -> Diagnostic {
        let warning = Diagnostic::warning(file, self.detail.clone()).rule(self.rule.name).at(self.span, "");
        self.hints.iter().fold(warning, |warning, hint| warning.hint(hint.clone()))
    }
}

/// `Rule: detail (line N)`.
impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (line {})", self.rule.name, self.detail, self.line)
    }
}

/// What a check gives.
#[derive(Clone, Debug, Default)]
pub struct LintReport {
    /// What was found, by line.
    pub findings: Vec<Finding>,
    /// What cannot be built at all, in the stages that were looked at.
    pub errors: Vec<Diagnostic>,
    /// Set where findings fail the build: the sentence that says so.
    pub failure: Option<String>,
}

impl Lint<'_> {
    /// The options for a file: those of the build argument `BUILDKIT_DOCKERFILE_CHECK` if it is given, else those of the
    /// `# check=` directive.
    pub fn options(dockerfile: &Dockerfile, global: &GlobalScope) -> Result<LintOptions, Box<Diagnostic>> {
        if let Some(given) = global.settings().build_args.get("BUILDKIT_DOCKERFILE_CHECK") {
            return given.parse().map_err(|error: LintOptionsError| {
                Box::new(
                    Diagnostic::error(&dockerfile.file, error.to_string())
                        .hint("check `BUILDKIT_DOCKERFILE_CHECK`"),
                )
            });
        }
        let Some(word) = &dockerfile.directives.check else { return Ok(LintOptions::default()) };
        word.text.parse().map_err(|error: LintOptionsError| {
            let hint = "write `# check=skip=RuleA,RuleB;error=true`, without blanks";
            Box::new(Diagnostic::error(&dockerfile.file, error.to_string()).at(word.span, "").hint(hint))
        })
    }

    /// Checks.
    pub fn run(&self) -> LintReport {
        let mut findings = Findings { options: &self.options, own_rules: self.own_rules, list: Vec::new() };
        let mut errors = Vec::new();
        form::check(self.dockerfile, &mut findings);
        let lines = from::check(self.dockerfile, self.global, &mut findings, &mut errors);
        if let Some(lines) = lines {
            walk::check(self, &lines, &mut findings, &mut errors);
        }
        let mut list = findings.list;
        list.sort_by_key(|finding| finding.line);
        let failure = self.options.failure(&list);
        LintReport { findings: list, errors, failure }
    }
}

/// Where findings are collected.
pub(crate) struct Findings<'a> {
    options: &'a LintOptions,
    own_rules: bool,
    list: Vec<Finding>,
}

/// Where a finding belongs: line and place, and the comments whose `# check=` counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) line: usize,
    pub(crate) span: Span,
    pub(crate) comments: &'a [String],
}

impl Findings<'_> {
    pub(crate) fn report(&mut self, rule: Rule, at: At<'_>, detail: impl Into<String>) {
        self.report_with(rule, at, detail, &[]);
    }

    pub(crate) fn report_with(&mut self, rule: Rule, at: At<'_>, detail: impl Into<String>, hints: &[&str]) {
        if (rule.is_own() && !self.own_rules) || self.is_full() || !self.options.checks(&rule, at.comments) {
            return;
        }
        let hints = hints.iter().map(|hint| (*hint).to_owned()).collect();
        self.list.push(Finding { rule, detail: shortened(detail), line: at.line, span: at.span, hints });
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Forgets all but the first ones.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.list.truncate(len);
    }

    /// Whether there is room for more.
    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= MAX_FINDINGS
    }

    pub(crate) fn wants_own(&self) -> bool {
        self.own_rules
    }
}
