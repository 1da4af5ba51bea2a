//! Lint rules during a build, and as a command of their own.

use std::fmt::Write as _;
use std::sync::Arc;

use wbuild_context::IgnoreRules;
use wbuild_dockerfile::Dockerfile;
use wbuild_dockerfile::lint::{BaseImage, Finding, Ignored, Lint};
use wbuild_dockerfile::{BaseFacts, GlobalScope, Settings};
use wbuild_engine::Engine;
use wbuild_frontend::DockerfileBuild;
use wbuild_graph::ImageRef;
use wbuild_oci::ImageConfig;
use wbuild_report::{Diagnostic, SourceFile};

use super::source::Opened;
use crate::commands::{Failure, print};

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

/// Checks every stage and prints what was found, as `docker build --check` does. `own_rules` adds those of this project.
pub(super) fn check(
    dockerfile: &Dockerfile,
    settings: Settings,
    opened: &Opened,
    engine: &Engine,
    own_rules: bool,
) -> Result<(), Failure> {
    let one = |error: Box<Diagnostic>| Failure::Diagnostics(vec![*error]);
    let global = Arc::new(GlobalScope::new(dockerfile, settings).map_err(one)?);
    let options = Lint::options(dockerfile, &global).map_err(one)?;
    // An image that is not at hand is no mistake here: less is known then.
    let base =
        |reference: &str| engine.image_config(&ImageRef::new(reference)).ok().map(|config| facts(&config));
    let report = Lint {
        dockerfile,
        global: &global,
        options,
        own_rules,
        stages: None,
        base: &base,
        ignored: Some(&Rules(&opened.rules)),
    }
    .run();
    let mut text = String::new();
    for finding in &report.findings {
        show(&mut text, &dockerfile.file, finding);
    }
    let _ = match report.findings.len() {
        0 => writeln!(text, "Check complete, no warnings found."),
        1 => writeln!(text, "Check complete, 1 warning has been found!"),
        count => writeln!(text, "Check complete, {count} warnings have been found!"),
    };
    print(&text)?;
    let mut errors = report.errors;
    if let Some(failure) = report.failure {
        errors.push(Diagnostic::error(&dockerfile.file, failure));
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::Diagnostics(errors)) }
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
