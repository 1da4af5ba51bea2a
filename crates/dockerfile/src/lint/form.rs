//! Rules about how things are written; they need no values.

use std::collections::BTreeSet;

use super::rule::{
    CONSISTENT_INSTRUCTION_CASING, DUPLICATE_STAGE_NAME, FROM_AS_CASING, HIDDEN_TEXT,
    INVALID_DEFINITION_DESCRIPTION, MAINTAINER_DEPRECATED, NO_EMPTY_CONTINUATION, RESERVED_STAGE_NAME,
    STAGE_NAME_CASING,
};
use super::{At, Findings};
use crate::ast::{Dockerfile, Instruction, Kind, Stage};
use wbuild_report::Span;

pub(super) fn check(dockerfile: &Dockerfile, findings: &mut Findings<'_>) {
    for (line, span) in &dockerfile.empty_continuations {
        findings.report(
            NO_EMPTY_CONTINUATION,
            At { line: *line, span: *span, comments: &[] },
            "Empty continuation line",
        );
    }
    for instruction in &dockerfile.globals {
        check_instruction(instruction, findings);
    }
    for stage in &dockerfile.stages {
        check_from(stage, findings);
        for instruction in &stage.instructions {
            check_instruction(instruction, findings);
        }
    }
    check_names(dockerfile, findings);
    check_casing(dockerfile, findings);
    if findings.wants_own() {
        check_hidden(dockerfile, findings);
    }
}

fn at_stage(stage: &Stage) -> At<'_> {
    At { line: stage.lines.first, span: stage.span, comments: &stage.comments }
}

fn check_from(stage: &Stage, findings: &mut Findings<'_>) {
    let at = at_stage(stage);
    if let (Some(written), Some(keyword)) = (&stage.written_name, &stage.as_keyword) {
        if written.text != stage.name {
            let at = At { span: written.span, ..at };
            findings.report(
                STAGE_NAME_CASING,
                at,
                format!("Stage name '{}' should be lowercase", written.text),
            );
        }
        let from = &stage.keyword.text;
        let matches = if *from == from.to_lowercase() {
            keyword.text == keyword.text.to_lowercase()
        } else {
            // A FROM of mixed case is reported as such, and not once more here.
            *from != from.to_uppercase() || keyword.text == keyword.text.to_uppercase()
        };
        if !matches {
            let at = At { span: keyword.span, ..at };
            findings.report(
                FROM_AS_CASING,
                at,
                format!("'{}' and '{from}' keywords' casing do not match", keyword.text),
            );
        }
    }
    check_description("FROM", &[stage.name.as_str()], &stage.comments, at, findings);
}

fn check_instruction(instruction: &Instruction, findings: &mut Findings<'_>) {
    let at = At { line: instruction.lines.first, span: instruction.span, comments: &instruction.comments };
    match &instruction.kind {
        Kind::Maintainer(_) => {
            findings.report(
                MAINTAINER_DEPRECATED,
                At { span: instruction.keyword.span, ..at },
                "Maintainer instruction is deprecated in favor of using label",
            );
        }
        Kind::Arg(items) => {
            let names: Vec<&str> = items.iter().map(|item| item.name.text.as_str()).collect();
            check_description("ARG", &names, &instruction.comments, at, findings);
        }
        _ => {}
    }
}

fn check_description(
    name: &str,
    keys: &[&str],
    comments: &[String],
    at: At<'_>,
    findings: &mut Findings<'_>,
) {
    let Some(last) = comments.last() else { return };
    let Some(first_key) = keys.first().filter(|key| !key.is_empty()) else { return };
    let word = last.split(' ').next().unwrap_or_default();
    if keys.contains(&word) {
        return;
    }
    let example = if keys.len() > 1 { "<arg_key>" } else { first_key };
    findings.report(
        INVALID_DEFINITION_DESCRIPTION,
        at,
        format!("Comment for {name} should follow the format: `# {example} <description>`"),
    );
}

fn check_names(dockerfile: &Dockerfile, findings: &mut Findings<'_>) {
    let mut seen = BTreeSet::new();
    for stage in dockerfile.stages.iter().filter(|stage| !stage.name.is_empty()) {
        let span = stage.written_name.as_ref().map_or(stage.span, |name| name.span);
        // Skip comments do not act on these, as in BuildKit.
        let at = At { line: stage.lines.first, span, comments: &[] };
        if matches!(stage.name.as_str(), "scratch" | "context") {
            findings.report(
                RESERVED_STAGE_NAME,
                at,
                format!("Stage name should not use the same name as reserved stage {:?}", stage.name),
            );
        }
        if !seen.insert(stage.name.as_str()) {
            findings.report(
                DUPLICATE_STAGE_NAME,
                at,
                format!("Duplicate stage name {:?}, stage names should be unique", stage.name),
            );
        }
    }
}

/// Lower case wins only with more words in lower case than in upper case; words of mixed case have no vote.
fn check_casing(dockerfile: &Dockerfile, findings: &mut Findings<'_>) {
    let keywords = || {
        dockerfile.stages.iter().flat_map(|stage| {
            let instructions =
                stage.instructions.iter().map(|instruction| (&instruction.keyword, instruction.lines.first));
            std::iter::once((&stage.keyword, stage.lines.first)).chain(instructions)
        })
    };
    let (mut lower, mut upper) = (0, 0);
    for (keyword, _) in keywords() {
        if keyword.text == keyword.text.to_lowercase() {
            lower += 1;
        } else if keyword.text == keyword.text.to_uppercase() {
            upper += 1;
        }
    }
    for (keyword, line) in keywords() {
        let (right, wanted) = if lower > upper {
            (keyword.text.to_lowercase(), "lowercase")
        } else {
            (keyword.text.to_uppercase(), "uppercase")
        };
        if keyword.text != right {
            findings.report(
                CONSISTENT_INSTRUCTION_CASING,
                At { line, span: keyword.span, comments: &[] },
                format!(
                    "Command '{}' should match the case of the command majority ({wanted})",
                    keyword.text
                ),
            );
        }
    }
}

/// Characters that make an editor show text in another order than a builder reads it ("Trojan Source", CVE-2021-42574).
fn check_hidden(dockerfile: &Dockerfile, findings: &mut Findings<'_>) {
    let hidden = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut last_line = 0;
    for (at, c) in dockerfile.file.text.match_indices(hidden) {
        let line = dockerfile.lines.line(at);
        if line != last_line {
            let place = At { line, span: Span::new(at, at + c.len()), comments: &[] };
            let code = c.chars().next().map_or(0, u32::from);
            findings.report_with(
                HIDDEN_TEXT,
                place,
                format!(
                    "This line has the invisible character U+{code:04X}, which changes the direction of text"
                ),
                &["remove it, or write it as an escape"],
            );
        }
        last_line = line;
    }
}
