//! Errors with their place in the Dockerfile.

use wbuild_dockerfile::{Dockerfile, Kind, Word};
use wbuild_engine::{Engine, EngineError};
use wbuild_frontend::ForeignRun;
use wbuild_graph::{Graph, ImageRef, Origin};
use wbuild_oci::Platform;
use wbuild_report::{Diagnostic, Hint, nearest, with_causes};
use wbuild_solver::SolveError;

use crate::commands::Failure;

/// A base image that cannot be used, at the lines that name it.
pub(super) fn of_image(dockerfile: &Dockerfile, image: &ImageRef, error: &EngineError) -> Diagnostic {
    let mut diagnostic = Diagnostic::error(&dockerfile.file, with_causes(error));
    let names_it = |word: &&Word| word.text == image.reference;
    let bases = || dockerfile.stages.iter().map(|stage| &stage.base);
    let instructions = || dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let copies = instructions().filter_map(|instruction| match &instruction.kind {
        Kind::Copy(copy) => copy.from.as_ref(),
        _ => None,
    });
    let word = bases().chain(copies).find(names_it).map(|word| word.span);
    // It may stand in a mount, or come of variables.
    let run = || instructions().find(|instruction| instruction.text.contains(&image.reference));
    let span = word.or_else(|| run().map(|instruction| instruction.span));
    if let Some(span) = span.or_else(|| bases().next().map(|word| word.span)) {
        diagnostic = diagnostic.at(span, "");
    }
    // Only stages above can be meant: this one was taken for an image.
    let stage = dockerfile.stage_named(&image.reference).map(|stage| &dockerfile.stages[stage]);
    if let Some(later) = stage {
        let (line, _) = dockerfile.file.position(later.keyword.span.start);
        diagnostic = diagnostic.hint(format!(
            "the stage `{}` is defined later, at line {line}, and FROM knows those above it: move it up",
            later.name
        ));
    } else if !image.reference.contains(['/', ':', '@']) {
        let names = dockerfile.stages.iter().map(|stage| stage.name.as_str()).filter(|name| !name.is_empty());
        if let Some(near) = nearest(&image.reference, names).first() {
            diagnostic = diagnostic.hint(format!("did you mean the stage `{near}`?"));
        }
    }
    error.hints().into_iter().fold(diagnostic, Diagnostic::hint)
}

/// RUN steps whose programs this machine cannot run, which is known before anything is built.
pub(super) fn of_foreign(runs: &[ForeignRun], engine: &Engine) -> Result<(), Failure> {
    let mut found = Vec::new();
    for ForeignRun { platform, origin } in runs {
        if engine.runs(platform)? {
            continue;
        }
        let host = Platform::host();
        let message = format!("this machine is {host} and cannot run the programs of {platform}");
        let mut diagnostic = Diagnostic::error(&origin.file, message).at(origin.span, "");
        if platform.os == host.os {
            let architecture = &platform.architecture;
            diagnostic = diagnostic.hint(format!(
                "install an emulator: `docker run --privileged --rm tonistiigi/binfmt --install {architecture}`, or the \
                 package `qemu-user-binfmt` (`qemu-user-static` on older systems)"
            ));
        }
        found.push(diagnostic.hint(
            "let the step run on this machine, in a stage that begins with `FROM --platform=$BUILDPLATFORM`, and \
             copy from there",
        ));
    }
    if found.is_empty() { Ok(()) } else { Err(Failure::Diagnostics(found)) }
}

/// Why a graph could not be solved, at the instruction it is about. `likely_causes` is asked when a step failed there.
pub(super) fn of_solve(
    error: SolveError<EngineError>,
    graph: &Graph,
    likely_causes: &dyn Fn(&Origin) -> Vec<String>,
) -> Failure {
    match error {
        SolveError::Cancelled | SolveError::Vertex { source: EngineError::Cancelled, .. } => {
            Failure::Interrupted
        }
        SolveError::Vertex { source: EngineError::Diagnostics(diagnostics), .. } => {
            Failure::Diagnostics(diagnostics)
        }
        SolveError::Vertex { id, name, source, beside } => {
            let mut hints = source.hints();
            hints.extend(Some(beside.to_string()).filter(|said| !said.is_empty()));
            let message = match &source {
                EngineError::Step(step) => {
                    format!("{step}; its full log is `{}`", step.log.display())
                }
                other => with_causes(other),
            };
            let Some(origin) = &graph.vertex(id).origin else {
                let error = SolveError::Vertex { id, name, source, beside };
                return Failure::Failed { error: Box::new(error), hints };
            };
            if matches!(source, EngineError::Step(_)) {
                hints.extend(likely_causes(origin));
            }
            let diagnostic = Diagnostic::error(&origin.file, message).at(origin.span, "");
            Failure::Diagnostics(vec![hints.into_iter().fold(diagnostic, Diagnostic::hint)])
        }
        other => Failure::new(other),
    }
}
