//! Rules that need values: each stage is walked with its scope.

use std::collections::BTreeSet;
use std::sync::Arc;

use wbuild_report::{Diagnostic, Span};

use super::own::{self, Around, Facts};
use super::rule::{
    COPY_IGNORED_FILE, EXPOSE_INVALID_FORMAT, EXPOSE_PROTO_CASING, INVALID_BASE_IMAGE_PLATFORM,
    JSON_ARGS_RECOMMENDED, LEGACY_KEY_VALUE_FORMAT, MULTIPLE_INSTRUCTIONS_DISALLOWED,
    SECRETS_USED_IN_ARG_OR_ENV, UNDEFINED_VAR, WORKDIR_RELATIVE_PATH,
};
use super::{At, BaseImage, Findings, Lint};
use crate::ast::{CommandLine, Instruction, Kind, Stage};
use crate::parse::parse_trigger;
use crate::scope::{Applied, BaseFacts, FromLine, StageScope, Step, TransferSource, TransferStep};
use crate::source::Word;
use crate::stages::{Base, StageGraph};
use crate::statement::Pair;

/// A stage while and after it is walked.
#[derive(Clone)]
pub(super) struct State {
    pub(super) scope: StageScope,
    /// Whether the variables of the base are known.
    known: bool,
    shell: bool,
    workdir_set: bool,
    triggers: Vec<String>,
    pub(super) facts: Facts,
    /// An instruction made no sense: BuildKit stops there, and what follows may look wrong because of it.
    failed: bool,
}

/// Where the last CMD, ENTRYPOINT and HEALTHCHECK of a stage stand.
#[derive(Default)]
struct Last {
    cmd: Option<(usize, Span)>,
    entrypoint: Option<(usize, Span)>,
    healthcheck: Option<(usize, Span)>,
}

pub(super) fn check(
    lint: &Lint<'_>,
    lines: &[FromLine],
    findings: &mut Findings<'_>,
    errors: &mut Vec<Diagnostic>,
) {
    let dockerfile = lint.dockerfile;
    let graph = match StageGraph::new(dockerfile, lines, &|_| false) {
        Ok(graph) => graph,
        Err(problems) => {
            errors.extend(problems);
            return;
        }
    };
    let target = dockerfile.target(lint.global.settings().target.as_deref()).ok();
    let all: BTreeSet<usize>;
    let wanted = match lint.stages {
        Some(stages) => stages,
        None => {
            // A target that is asked for is checked with what it needs, as it would be built.
            all = match (&lint.global.settings().target, target) {
                (Some(name), Some(target)) if !name.is_empty() => graph.reachable(target),
                _ => (0..dockerfile.stages.len()).collect(),
            };
            &all
        }
    };
    errors.extend(graph.forward_uses(dockerfile, wanted));
    let mut states: Vec<Option<State>> = Vec::new();
    for (stage, line) in dockerfile.stages.iter().zip(lines) {
        if !wanted.contains(&stage.index) {
            states.push(None);
            continue;
        }
        let mut state = match graph.base(stage.index) {
            Base::Stage(base) => match states.get(*base).and_then(Option::as_ref) {
                Some(state) => State { scope: state.scope.child(), ..state.clone() },
                None => {
                    states.push(None);
                    continue;
                }
            },
            Base::Scratch => State::of_image(lint, Some(BaseImage::default())),
            Base::Image(image) => {
                let base = (lint.base)(image);
                check_platform(lint, stage, line, image, base.as_ref(), findings);
                State::of_image(lint, base)
            }
        };
        let mut walk = Walk { lint, stage, state: &mut state, last: Last::default(), findings, errors };
        walk.triggers(&line.base);
        for instruction in &stage.instructions {
            let at =
                At { line: instruction.lines.first, span: instruction.span, comments: &instruction.comments };
            walk.instruction(instruction, at);
        }
        if lint.own_rules && !state.failed {
            own::at_end(stage, &mut state, target == Some(stage.index), findings);
        }
        states.push(Some(state));
    }
}

fn check_platform(
    lint: &Lint<'_>,
    stage: &Stage,
    line: &FromLine,
    image: &str,
    base: Option<&BaseImage>,
    findings: &mut Findings<'_>,
) {
    let Some(actual) = base.and_then(|base| base.platform.as_ref()) else { return };
    let expected = line.platform.as_ref().unwrap_or(&lint.global.settings().target_platform);
    if expected.os != actual.os || expected.architecture != actual.architecture {
        let at = At { line: stage.lines.first, span: stage.base.span, comments: &[] };
        let (actual, expected) = (actual.to_string(), expected.to_string());
        findings.report(
            INVALID_BASE_IMAGE_PLATFORM,
            at,
            format!("Base image {image} was pulled with platform {actual:?}, expected {expected:?} for current build"),
        );
    }
}

impl State {
    fn of_image(lint: &Lint<'_>, base: Option<BaseImage>) -> Self {
        let known = base.is_some();
        let base = base.unwrap_or_default();
        let facts = if known { base.facts } else { BaseFacts::default() };
        Self {
            scope: StageScope::new(lint.global, &facts),
            known,
            shell: base.shell,
            workdir_set: false,
            triggers: base.onbuild,
            facts: Facts::of_base(known, base.user, base.healthcheck),
            failed: false,
        }
    }
}

struct Walk<'a, 'f> {
    lint: &'a Lint<'a>,
    stage: &'a Stage,
    state: &'a mut State,
    last: Last,
    findings: &'a mut Findings<'f>,
    errors: &'a mut Vec<Diagnostic>,
}

impl Walk<'_, '_> {
    /// Triggers of the base run before the stage's own instructions; what they do wrong is reported at FROM.
    fn triggers(&mut self, base: &str) {
        let stage = self.stage;
        for trigger in std::mem::take(&mut self.state.triggers) {
            match parse_trigger(base, &trigger) {
                Ok(instruction) => {
                    let at = At { line: stage.lines.first, span: stage.span, comments: &[] };
                    self.instruction(&instruction, at);
                }
                Err(problems) => {
                    self.errors.extend(problems);
                    self.state.failed = true;
                }
            }
        }
    }

    /// One instruction; behind one that made no sense, further errors are told, and nothing else.
    fn instruction(&mut self, instruction: &Instruction, at: At<'_>) {
        let (found, errors) = (self.findings.len(), self.errors.len());
        self.look(instruction, at);
        if self.state.failed {
            self.findings.truncate(found);
        }
        self.state.failed |= self.errors.len() > errors;
    }

    fn look(&mut self, instruction: &Instruction, at: At<'_>) {
        let before = self.state.scope.workdir().to_owned();
        let applied = self.state.scope.apply_noting(instruction);
        // Spans of a trigger point into the image's text, not into this file.
        let inside = Arc::ptr_eq(&instruction.file, &self.lint.dockerfile.file);
        let place = |span: Span| if inside { At { span, ..at } } else { at };
        let undefined = match &applied {
            Ok(applied) => &applied.undefined,
            Err((_, undefined)) => undefined,
        };
        if self.state.known {
            for undefined in undefined {
                let near = undefined
                    .near
                    .as_ref()
                    .map(|near| format!(" (did you mean ${near}?)"))
                    .unwrap_or_default();
                let detail = format!("Usage of undefined variable '${}'{near}", undefined.name);
                self.findings.report(UNDEFINED_VAR, place(undefined.span), detail);
            }
        }
        let applied = match applied {
            Ok(applied) => applied,
            Err((error, _)) => return self.errors.push(*error),
        };
        let name = &instruction.keyword.text;
        match (&instruction.kind, &applied.step) {
            (Kind::Env(pairs), Step::Env(values)) => {
                self.legacy(pairs, name, at);
                for (pair, (key, _)) in pairs.iter().zip(values) {
                    self.secret_name("ENV", key, place(pair.key.span));
                }
            }
            (Kind::Label(pairs), _) => self.legacy(pairs, name, at),
            (Kind::Arg(items), _) => {
                for item in items {
                    self.secret_name("ARG", &item.name.text, place(item.name.span));
                }
            }
            (Kind::Cmd(line), _) => {
                let earlier = self.last.cmd.replace((at.line, at.span));
                self.once(earlier, name, at);
                self.json_form(line, name, at);
            }
            (Kind::Entrypoint(line), _) => {
                let earlier = self.last.entrypoint.replace((at.line, at.span));
                self.once(earlier, name, at);
                self.json_form(line, name, at);
            }
            (Kind::Healthcheck(_), _) => {
                let earlier = self.last.healthcheck.replace((at.line, at.span));
                self.once(earlier, name, at);
            }
            (Kind::Shell(_), _) => self.state.shell = true,
            (Kind::Workdir(_), _) => self.workdir(&applied, at),
            (Kind::Expose(_), _) => self.ports(&applied, at),
            (Kind::Copy(copy), Step::Copy(step)) if copy.from.is_none() => {
                self.ignored("Copy", step, &copy.transfer.sources, place);
            }
            (Kind::Add(add), Step::Add(step)) => self.ignored("Add", step, &add.transfer.sources, place),
            (Kind::Onbuild(_), Step::Onbuild(trigger)) => self.state.triggers.push(trigger.clone()),
            _ => {}
        }
        if self.lint.own_rules {
            let around = Around { workdir: &before, context: self.lint.context };
            own::instruction(instruction, &applied.step, around, self.state, at, self.findings);
        }
    }

    fn legacy(&mut self, pairs: &[Pair], name: &str, at: At<'_>) {
        for _ in pairs.iter().filter(|pair| pair.legacy) {
            self.findings.report(
                LEGACY_KEY_VALUE_FORMAT,
                at,
                format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"),
            );
        }
    }

    fn secret_name(&mut self, instruction: &str, name: &str, at: At<'_>) {
        if is_secret_name(name) {
            self.findings.report(
                SECRETS_USED_IN_ARG_OR_ENV,
                at,
                format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})"),
            );
        }
    }

    /// The earlier of two is reported: it is the one without effect.
    fn once(&mut self, earlier: Option<(usize, Span)>, name: &str, at: At<'_>) {
        if let Some((line, span)) = earlier {
            self.findings.report(
                MULTIPLE_INSTRUCTIONS_DISALLOWED,
                At { line, span, ..at },
                format!(
                    "Multiple {name} instructions should not be used in the same stage because only the last one will \
                     be used"
                ),
            );
        }
    }

    fn json_form(&mut self, line: &CommandLine, name: &str, at: At<'_>) {
        if matches!(line, CommandLine::Shell(_)) && !self.state.shell {
            self.findings.report(
                JSON_ARGS_RECOMMENDED,
                at,
                format!("JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"),
            );
        }
    }

    fn workdir(&mut self, applied: &Applied, at: At<'_>) {
        let path = applied.written_workdir.as_deref().unwrap_or("/");
        if !std::mem::replace(&mut self.state.workdir_set, true) && !path.starts_with('/') {
            self.findings.report(
                WORKDIR_RELATIVE_PATH,
                at,
                format!("Relative workdir {path:?} can have unexpected results if the base image changes"),
            );
        }
    }

    fn ports(&mut self, applied: &Applied, at: At<'_>) {
        for (text, spec) in &applied.ports {
            if spec.odd_case {
                let detail = format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
                self.findings.report(EXPOSE_PROTO_CASING, at, detail);
            }
            if spec.names_host {
                self.findings.report(
                    EXPOSE_INVALID_FORMAT,
                    at,
                    format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'"),
                );
            }
        }
    }

    fn ignored<'w>(
        &mut self,
        verb: &str,
        step: &TransferStep,
        words: &[Word],
        place: impl Fn(Span) -> At<'w>,
    ) {
        let Some(ignored) = self.lint.ignored.filter(|ignored| !ignored.has_exceptions()) else { return };
        for ((text, source), word) in step.sources.iter().zip(words) {
            if matches!(source, TransferSource::Remote(_)) {
                continue;
            }
            let path = clean(text);
            let root = matches!(path.as_str(), "." | "/");
            if (!root || ignored.excludes_everything()) && (ignored.excludes(&path) || root) {
                let detail = format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore");
                self.findings.report(COPY_IGNORED_FILE, place(word.span), detail);
            }
        }
    }
}

/// Go's `filepath.Clean`.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// Whether a name is that of a secret: one of its words says so, and none says that it is public, a file or a version.
pub fn is_secret_name(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let has =
        |words: &[&str]| name.split('_').any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)));
    has(&SECRET) && !has(&HARMLESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets() {
        for name in ["SUPER_Secret", "password", "auth", "git_key", "SECRET_PASSPHRASE", "DB_PASSWORD_OLD"] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "PUBLIC_KEY",
            "public_token",
            "SECRET_PASSPHRASE_FILE",
            "AUTH_MODULE_VERSION",
            "sunflower",
            "KEYBOARD",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn paths_are_cleaned_as_in_go() {
        for (path, cleaned) in [
            ("./a//b/", "a/b"),
            ("/", "/"),
            ("a/..", "."),
            ("../x", "../x"),
            ("/../x", "/x"),
            ("", "."),
            ("a/../../b", "../b"),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }
}
