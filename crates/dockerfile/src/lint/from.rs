//! Rules about FROM lines: they need the global scope only.

use std::collections::BTreeSet;
use std::sync::Arc;

use wbuild_oci::Reference;
use wbuild_report::Diagnostic;

use super::rule::{
    FROM_PLATFORM_FLAG_CONST_DISALLOWED, INVALID_DEFAULT_ARG_IN_FROM, LATEST_TAG, REDUNDANT_TARGET_PLATFORM,
    UNDEFINED_ARG_IN_FROM,
};
use super::{At, Findings};
use crate::ast::{Dockerfile, Stage};
use crate::expand::Seen;
use crate::scope::{FromLine, GlobalScope};
use crate::source::Word;
use crate::suggest::{did_you_mean, suggest};
use crate::values::platform;

/// Checks all stages. `None` when a line cannot be evaluated; the stages are then not known.
pub(super) fn check(
    dockerfile: &Dockerfile,
    global: &Arc<GlobalScope>,
    findings: &mut Findings<'_>,
    errors: &mut Vec<Diagnostic>,
) -> Option<Vec<FromLine>> {
    check_defaults(dockerfile, global, findings);
    let mut known: BTreeSet<&str> = global.env().names().into_iter().collect();
    known.extend(global.declared());
    let mut lines = Vec::new();
    for stage in &dockerfile.stages {
        match global.from_line(stage) {
            Ok(line) => {
                undefined(stage, &stage.base, &line.base_seen, &known, findings);
                check_platform(stage, &line, global, &known, findings);
                lines.push(line);
            }
            Err(error) => {
                // The same variables are why it cannot be evaluated.
                for word in std::iter::once(&stage.base).chain(&stage.platform) {
                    undefined(stage, word, &global.seen_in(word), &known, findings);
                }
                errors.push(*error);
            }
        }
    }
    if findings.wants_own() {
        check_versions(dockerfile, &lines, findings);
    }
    (lines.len() == dockerfile.stages.len()).then_some(lines)
}

fn at<'a>(stage: &'a Stage, word: &Word) -> At<'a> {
    At { line: stage.lines.first, span: word.span, comments: &stage.comments }
}

fn undefined(stage: &Stage, word: &Word, seen: &Seen, known: &BTreeSet<&str>, findings: &mut Findings<'_>) {
    for (name, range) in seen.unset.iter().filter(|(name, _)| !known.contains(name.as_str())) {
        if findings.is_full() {
            return;
        }
        let near = did_you_mean(suggest(name, known.iter().copied()));
        let place = At { span: word.part(range.clone()), ..at(stage, word) };
        findings.report(
            UNDEFINED_ARG_IN_FROM,
            place,
            format!("FROM argument '{name}' is not declared{near}"),
        );
    }
}

fn check_platform(
    stage: &Stage,
    line: &FromLine,
    global: &GlobalScope,
    known: &BTreeSet<&str>,
    findings: &mut Findings<'_>,
) {
    let (Some(word), Some((text, seen))) = (&stage.platform, &line.platform_seen) else { return };
    undefined(stage, word, seen, known, findings);
    let only_target = seen.set.len() == 1 && seen.unset.is_empty() && seen.set.contains("TARGETPLATFORM");
    if only_target && global.env().get("TARGETPLATFORM") == Some(text) {
        findings.report(
            REDUNDANT_TARGET_PLATFORM,
            at(stage, word),
            format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                word.text
            ),
        );
    }
    let constant = seen.set.is_empty() && seen.unset.is_empty();
    if constant
        && let Ok(parsed) = platform(text, &global.settings().build_platform)
        && !stage.name.contains(&parsed.os)
        && !stage.name.contains(&parsed.architecture)
    {
        findings.report(
            FROM_PLATFORM_FLAG_CONST_DISALLOWED,
            at(stage, word),
            format!("FROM --platform flag should not use constant value {text:?}"),
        );
    }
}

/// Whether the bases still have a name when no build argument is given.
fn check_defaults(dockerfile: &Dockerfile, global: &GlobalScope, findings: &mut Findings<'_>) {
    // What fails here fails the build too, and is said there.
    let Ok(defaults) = global.with_defaults(dockerfile) else { return };
    for stage in &dockerfile.stages {
        let Ok(base) = defaults.base_text(stage) else { return };
        if base.parse::<Reference>().is_err() {
            findings.report(
                INVALID_DEFAULT_ARG_IN_FROM,
                At { line: stage.lines.first, span: stage.base.span, comments: &[] },
                format!(
                    "Default value for ARG {} results in empty or invalid base image name",
                    stage.base.text
                ),
            );
        }
    }
}

fn check_versions(dockerfile: &Dockerfile, lines: &[FromLine], findings: &mut Findings<'_>) {
    let mut names = BTreeSet::from(["scratch"]);
    for (stage, line) in dockerfile.stages.iter().zip(lines) {
        let is_image = !names.contains(line.base.as_str());
        names.insert(stage.name.as_str());
        if !is_image {
            continue;
        }
        if let Ok(reference) = line.base.parse::<Reference>()
            && reference.digest.is_none()
            && reference.tag.as_deref() == Some("latest")
        {
            findings.report_with(
                LATEST_TAG,
                at(stage, &stage.base),
                format!("The base image `{}` has no version, so it changes under this build", line.base),
                &["name a version, as in `node:22.16.0-alpine`, or a digest"],
            );
        }
    }
}
