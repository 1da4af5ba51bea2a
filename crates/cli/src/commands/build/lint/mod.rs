//! Lint rules during a build, and as a command of their own.

mod files;
mod root_only;

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::{Value, json};
use wbuild_context::IgnoreRules;
use wbuild_dockerfile::Dockerfile;
use wbuild_dockerfile::lint::{
    BaseImage, ContextFiles, Finding, Ignored, Lint, LintOptions, OWN_RULES, Rule,
};
use wbuild_dockerfile::{BaseFacts, GlobalScope, Settings, Stage, StageGraph};
use wbuild_engine::{Engine, LocalContext};
use wbuild_frontend::DockerfileBuild;
use wbuild_graph::{ImageRef, Origin};
use wbuild_oci::ImageConfig;
use wbuild_report::{Diagnostic, Severity, SourceFile, Span};

use super::source::Opened;
use crate::commands::{Failure, print};

use files::Files;

struct Rules<'a>(&'a IgnoreRules);

impl Ignored for Rules<'_> {
    fn has_exceptions(&self) -> bool {
        self.0.patterns().iter().any(wbuild_context::Pattern::is_exception)
    }

    fn excludes_everything(&self) -> bool {
        self.0.patterns().iter().any(|pattern| matches!(pattern.text(), b"*" | b"**" | b"**/*"))
    }

    fn excludes(&self, path: &str) -> bool {
        self.0.matches_or_parent_matches(path.as_bytes())
    }
}

/// What lint rules want to know of an image.
fn facts(config: &ImageConfig) -> BaseImage {
    let env = config.config.env.iter().filter_map(|pair| pair.split_once('='));
    BaseImage {
        facts: BaseFacts {
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            workdir: config.config.working_dir.clone(),
        },
        shell: !config.config.shell.is_empty(),
        user: config.config.user.clone(),
        healthcheck: config.config.healthcheck.is_some(),
        onbuild: config.config.on_build.clone(),
        platform: Some(config.platform()),
    }
}

/// What BuildKit's rules find in the stages that are built.
pub(super) fn warnings(
    dockerfile: &Dockerfile,
    build: &DockerfileBuild,
    images: &[(ImageRef, ImageConfig)],
    opened: &Opened,
) -> Result<Vec<Diagnostic>, Failure> {
    let base = |reference: &str| {
        images.iter().find(|(image, _)| image.reference == reference).map(|(_, config)| facts(config))
    };
    let options =
        Lint::options(dockerfile, &build.global).map_err(|error| Failure::Diagnostics(vec![*error]))?;
    let report = Lint {
        dockerfile,
        global: &build.global,
        options,
        own_rules: false,
        stages: Some(&build.stages),
        base: &base,
        ignored: Some(&Rules(&opened.rules)),
        context: None,
    }
    .run();
    if let Some(failure) = report.failure {
        let mut all: Vec<Diagnostic> =
            report.findings.iter().map(|finding| finding.diagnostic(&dockerfile.file)).collect();
        all.push(Diagnostic::error(&dockerfile.file, failure));
        return Err(Failure::Diagnostics(all));
    }
    Ok(report.findings.iter().map(|finding| finding.diagnostic(&dockerfile.file)).collect())
}

/// How the rules are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// With those of this project.
    pub(super) own_rules: bool,
    /// As one JSON document, in the shape that buildx has.
    pub(super) json: bool,
}

/// Checks every stage and prints what was found, as `docker build --check` does.
pub(super) fn check(
    dockerfile: &Dockerfile,
    settings: Settings,
    opened: &Opened,
    engine: &Engine,
    told: Told,
) -> Result<(), Failure> {
    let Told { own_rules, json } = told;
    let one = |error: Box<Diagnostic>| Failure::Diagnostics(vec![*error]);
    let global = Arc::new(GlobalScope::new(dockerfile, settings).map_err(one)?);
    let options = Lint::options(dockerfile, &global).map_err(one)?;
    // An image that is not at hand is no mistake here: less is known then.
    let base =
        |reference: &str| engine.image_config(&ImageRef::new(reference)).ok().map(|config| facts(&config));
    let context = engine.context("").ok().filter(|_| own_rules);
    let files = context.map(Files::new);
    let report = Lint {
        dockerfile,
        global: &global,
        options: options.clone(),
        own_rules,
        stages: None,
        base: &base,
        ignored: Some(&Rules(&opened.rules)),
        context: files.as_ref().map(|files| files as &dyn ContextFiles),
    }
    .run();
    let mut text = String::new();
    for finding in &report.findings {
        show(&mut text, &dockerfile.file, finding);
    }
    let mut findings = report.findings;
    if let Some(context) = context
        && let Some((file, found)) = root_only::check(&opened.rules, context.listing(), &options)
    {
        for finding in &found {
            show(&mut text, &file, finding);
        }
        findings.extend(found);
    }
    let _ = match (report.errors.len(), findings.len()) {
        (0, 0) => writeln!(text, "Check complete, no warnings found."),
        (0, 1) => writeln!(text, "Check complete, 1 warning has been found!"),
        (0, count) => writeln!(text, "Check complete, {count} warnings have been found!"),
        // What stands behind an error of a stage was not looked at.
        (_, 0) => Ok(()),
        (_, 1) => writeln!(text, "1 warning has been found before an error ended the check."),
        (_, count) => writeln!(text, "{count} warnings have been found before an error ended the check."),
    };
    if json {
        text = report_document(&dockerfile.file, &findings, &report.errors);
    }
    print(&text)?;
    let mut errors = report.errors;
    if let Some(failure) = options.failure(&findings) {
        errors.push(Diagnostic::error(&dockerfile.file, failure));
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::Diagnostics(errors)) }
}

/// Prints the document of a check of a file that cannot be read.
pub(super) fn tell_of_errors(problems: &[Diagnostic]) -> Result<(), Failure> {
    let Some(first) = problems.first() else { return Ok(()) };
    print(&report_document(&first.file, &[], problems))
}

/// All of a check as buildx writes it with `format=json`, which knows one error.
fn report_document(file: &SourceFile, findings: &[Finding], errors: &[Diagnostic]) -> String {
    let warnings: Vec<Value> = findings.iter().map(|finding| document(file, finding)).collect();
    let sources = [json!({ "filename": file.name, "data": BASE64.encode(&file.text) })];
    let mut all = json!({ "warnings": warnings, "sources": sources });
    if let Some(error) = errors.iter().find(|problem| problem.severity == Severity::Error) {
        let place = error.labels.first().map(|label| location(file, label.span));
        all["buildError"] = json!({ "message": error.message, "location": place });
    }
    format!("{all:#}\n")
}

/// What own rules have to say to somebody whose step failed: which manifests an install lacked that the step at `origin`
/// stands on. Reads the workspace, so it is asked for only then.
pub(super) fn likely_causes(
    dockerfile: &Dockerfile,
    build: &DockerfileBuild,
    context: Option<&LocalContext>,
    origin: &Origin,
) -> Vec<String> {
    causes(dockerfile, build, context, origin).unwrap_or_default()
}

/// `None` where nothing can be said.
fn causes(
    dockerfile: &Dockerfile,
    build: &DockerfileBuild,
    context: Option<&LocalContext>,
    origin: &Origin,
) -> Option<Vec<String>> {
    let stage_of = |span: Span| -> Option<&Stage> {
        let mut stages = dockerfile.stages.iter();
        stages.find(|stage| stage.instructions.iter().any(|instruction| instruction.span == span))
    };
    let failed = stage_of(origin.span).filter(|_| Arc::ptr_eq(&origin.file, &dockerfile.file))?;
    let command = origin.file.text.get(origin.span.start..origin.span.end)?;
    if !uses_packages(command) {
        return None;
    }
    let lines: Vec<_> =
        dockerfile.stages.iter().map(|stage| build.global.from_line(stage).ok()).collect::<Option<_>>()?;
    let reached = StageGraph::new(dockerfile, &lines, &|_| false).ok()?.reachable(failed.index);
    let files = Files::new(context?);
    let mut options: LintOptions = Lint::options(dockerfile, &build.global).ok()?;
    let others = OWN_RULES.iter().filter(|rule| **rule != Rule::MISSING_MANIFEST);
    options.skip.extend(others.map(|rule| rule.name.to_owned()));
    let report = Lint {
        dockerfile,
        global: &build.global,
        options,
        own_rules: true,
        stages: Some(&build.stages),
        base: &|_| None,
        ignored: None,
        context: Some(&files),
    }
    .run();
    let mut hints = Vec::new();
    for finding in report.findings.iter().filter(|finding| finding.rule == Rule::MISSING_MANIFEST) {
        let Some(stage) = stage_of(finding.span).filter(|stage| reached.contains(&stage.index)) else {
            continue;
        };
        if stage.index != failed.index || finding.span.start < origin.span.start {
            hints.push(format!("in line {}, {}", finding.line, finding.detail));
            hints.extend(finding.hints.iter().cloned());
        }
    }
    Some(hints)
}

/// Whether a RUN likely fails for want of a package.
fn uses_packages(command: &str) -> bool {
    const TOOLS: [&str; 10] = ["turbo", "next", "pnpm", "pnpx", "npm", "npx", "yarn", "node", "tsc", "vite"];
    let mut words = command.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
    words.any(|word| TOOLS.contains(&word))
}

/// One finding as buildx writes it with `format=json`.
fn document(file: &SourceFile, finding: &Finding) -> Value {
    json!({
        "ruleName": finding.rule.name,
        "description": finding.rule.description,
        "url": finding.rule.url(),
        "detail": finding.detail,
        "location": location(file, finding.span),
    })
}

fn location(file: &SourceFile, span: Span) -> Value {
    let (first, _) = file.position(span.start);
    let (last, _) = file.position(span.end.saturating_sub(1).max(span.start));
    json!({ "ranges": [{ "start": { "line": first }, "end": { "line": last } }] })
}

/// One finding, in the form that buildx prints and tools read.
fn show(text: &mut String, file: &SourceFile, finding: &Finding) {
    const AROUND: usize = 2;
    let (first, _) = file.position(finding.span.start);
    let (last, _) = file.position(finding.span.end.saturating_sub(1).max(finding.span.start));
    let _ = writeln!(text, "WARNING: {}", finding.rule.name);
    let _ = writeln!(text, "{}", finding.detail);
    let _ = writeln!(text, "{}:{}", file.name, finding.line);
    let _ = writeln!(text, "--------------------");
    let from = finding.line.min(first).saturating_sub(AROUND).max(1);
    let lines = file.text.lines().enumerate().skip(from - 1).take(last + AROUND + 1 - from);
    for (index, line) in lines {
        let number = index + 1;
        let mark = if (finding.line.min(first)..=last).contains(&number) { ">>>" } else { "   " };
        let line: String = line.chars().filter(|c| !c.is_control() || *c == '\t').take(200).collect();
        let _ = writeln!(text, "{number:>4} | {mark} {line}");
    }
    let _ = writeln!(text, "--------------------");
    for hint in &finding.hints {
        let _ = writeln!(text, "hint: {hint}");
    }
    let _ = writeln!(text);
}
