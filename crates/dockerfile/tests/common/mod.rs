//! What the tests share: reading a Dockerfile, and walking its stages.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::sync::Arc;

use wbuild_dockerfile::{
    Applied, Base, BaseFacts, Dockerfile, GlobalScope, Settings, Source, StageGraph, StageScope, parse,
};
use wbuild_oci::Platform;
use wbuild_report::{Diagnostic, Severity};

pub(crate) fn read(text: &str) -> Result<Dockerfile, Vec<Diagnostic>> {
    parse(&Source::from_text("Dockerfile", text)).into_result().map(|(dockerfile, _)| dockerfile)
}

pub(crate) fn settings(build_args: &[(&str, &str)]) -> Settings {
    let mut settings = Settings::plain(Platform::linux("amd64"));
    settings.build_args =
        build_args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    settings
}

/// Every stage after its last instruction, and what each instruction gave.
pub(crate) struct Walked {
    pub(crate) scopes: Vec<StageScope>,
    pub(crate) applied: Vec<Applied>,
}

impl Walked {
    pub(crate) fn last(&self) -> &StageScope {
        self.scopes.last().expect("there is a stage")
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.last().env().get(name)
    }
}

/// Walks all stages; images have the variables of `base`.
pub(crate) fn walk(
    text: &str,
    build_args: &[(&str, &str)],
    base: &[(&str, &str)],
) -> Result<Walked, Vec<Diagnostic>> {
    let dockerfile = read(text)?;
    let one = |error: Box<Diagnostic>| vec![*error];
    let global = Arc::new(GlobalScope::new(&dockerfile, settings(build_args)).map_err(one)?);
    let lines = dockerfile
        .stages
        .iter()
        .map(|stage| global.from_line(stage).map_err(one))
        .collect::<Result<Vec<_>, _>>()?;
    let graph = StageGraph::new(&dockerfile, &lines, &|_| false)?;
    let facts = BaseFacts {
        env: base.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        workdir: String::new(),
    };
    let mut walked = Walked { scopes: Vec::new(), applied: Vec::new() };
    let mut by_stage: BTreeMap<usize, StageScope> = BTreeMap::new();
    for stage in &dockerfile.stages {
        let mut scope = match graph.base(stage.index) {
            Base::Stage(index) => by_stage[index].child(),
            Base::Scratch => StageScope::new(&global, &BaseFacts::default()),
            Base::Image(_) => StageScope::new(&global, &facts),
        };
        for instruction in &stage.instructions {
            walked.applied.push(scope.apply(instruction).map_err(one)?);
        }
        by_stage.insert(stage.index, scope.clone());
        walked.scopes.push(scope);
    }
    Ok(walked)
}

/// The first error that reading or walking gives.
pub(crate) fn errors(text: &str) -> Vec<Diagnostic> {
    walk(text, &[], &[]).err().unwrap_or_default()
}

/// `file:line:column: message`, other places, and hints.
pub(crate) fn rendered(diagnostics: &[Diagnostic]) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        let word = if diagnostic.severity == Severity::Error { "error" } else { "warning" };
        out.push_str(&format!("{word}: {diagnostic}\n"));
        for (nth, label) in diagnostic.labels.iter().enumerate() {
            let text = &diagnostic.file.text[label.span.start..label.span.end];
            let (line, column) = diagnostic.file.position(label.span.start);
            let shown: String = text.chars().take(60).collect();
            let note = if label.text.is_empty() { String::new() } else { format!("  {}", label.text) };
            if nth == 0 {
                out.push_str(&format!("  | {}{note}\n", shown.escape_debug()));
            } else {
                out.push_str(&format!("  | {line}:{column} {}{note}\n", shown.escape_debug()));
            }
        }
        for hint in &diagnostic.hints {
            out.push_str(&format!("  hint: {hint}\n"));
        }
    }
    out
}
