//! From a graph to what is written: solving, and once more where something turns out to be lost.

use std::sync::Arc;

use wbuild_engine::{Engine, EngineError, ExportedTo, SolveOptions};
use wbuild_frontend::{Definition, Target};
use wbuild_graph::Snapshot;
use wbuild_solver::{Solution, SolveError};

use super::Failure;
use crate::progress::Progress;
use crate::render::size;

/// Results can be lost where their trees are read, and then where their layers are written.
const MOST_LOSSES: usize = 2;

/// Solves a target and does `write` with its files. Where that comes upon something of an earlier build that is gone, which
/// nothing had needed until then, it is made again. Tells whether a step ran, too.
pub(crate) fn solve_and<T, E>(
    engine: &Arc<Engine>,
    definition: &Definition,
    target: &Target,
    options: &SolveOptions,
    failure: impl Fn(SolveError<EngineError>) -> Failure,
    is_lost: impl Fn(&E) -> bool,
    write: &dyn Fn(&Solution, &Snapshot) -> Result<T, E>,
) -> Result<(Result<T, E>, bool), Failure> {
    let mut losses = 0;
    loop {
        let solution = engine.solve(definition, target, options).map_err(&failure)?;
        let solved = solution
            .get(target.vertex)
            .ok_or_else(|| Failure::usage("the target was not solved", "this is a bug of wbuild"))?;
        match write(&solution, &solved.snapshot) {
            Err(error) if losses < MOST_LOSSES && is_lost(&error) => {
                losses += 1;
                engine.look_closely();
            }
            written => return Ok((written, solution.ran() > 0)),
        }
    }
}

/// Fills the caches that were asked for, and says what went there. What succeeded before something failed is worth as much.
pub(crate) fn share(engine: &Engine, progress: &Progress, failure: Option<&Failure>) {
    if matches!(failure, Some(Failure::Interrupted)) {
        return;
    }
    for (place, scopes) in engine.empty_caches() {
        progress.note(format!("cache {place}: nothing found in {}", scopes.join(", ")));
    }
    for ExportedTo { place, records, bytes } in engine.finish_sharing() {
        if records > 0 || bytes > 0 {
            let results = if records == 1 { "1 result" } else { &format!("{records} results") };
            progress.note(format!("cache {place}: {results} added ({})", size(bytes)));
        }
    }
}
