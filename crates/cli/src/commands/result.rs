//! From a graph to what is written: solving, and once more where something turns out to be lost.

use std::sync::Arc;

use wbuild_engine::{Engine, EngineError, ExportedTo, SolveOptions};
use wbuild_frontend::Definition;
use wbuild_solver::SolveError;

use super::Failure;
use super::outputs::{Delivered, Delivery, DeliveryError, EarlyPush, Ready, finish};
use super::pinned::Lock;
use crate::args::{ProgressArgs, PullingArgs};
use crate::progress::Progress;
use crate::render::size;

/// Results can be lost where their trees are read, and then where their layers are written.
const MOST_LOSSES: usize = 2;

/// A build of which everything is known that can be known before it runs. From here on `wbuild image` and `wbuild build` do
/// the same.
pub(crate) struct Job<'a> {
    pub(crate) engine: &'a Arc<Engine>,
    pub(crate) definition: &'a Definition,
    pub(crate) solve: &'a SolveOptions,
    pub(crate) delivery: &'a Delivery<'a>,
    pub(crate) lock: Lock,
    pub(crate) pulling: &'a PullingArgs,
    pub(crate) shown: &'a ProgressArgs,
    /// How large the store may be afterwards.
    pub(crate) budget: u64,
}

impl Job<'_> {
    /// Solves the target, writes what was asked for, fills caches, and says what came of it.
    pub(crate) fn run(
        self,
        progress: Progress,
        failure: impl Fn(SolveError<EngineError>) -> Failure,
    ) -> Result<(), Failure> {
        if let Some(warning) = self.delivery.unattested() {
            self.solve.events.hand_on(warning);
        }
        let (delivered, ran) = match self.deliver(failure) {
            Ok((written, ran)) => (written.map_err(DeliveryError::failure), ran),
            Err(failure) => (Err(failure), false),
        };
        share(self.engine, &progress, delivered.as_ref().err());
        let delivered = delivered.and_then(|mut delivered| {
            if self.pulling.pin {
                delivered.said(self.lock.write(self.engine)?);
            }
            Ok(delivered)
        });
        finish(delivered, self.delivery, progress, self.shown.mode(), self.shown.quiet)?;
        if ran {
            // The result is written; a store that cannot be tidied now is tidied after the next build.
            let _ = self.engine.tidy(self.budget);
        }
        Ok(())
    }

    /// Solves the target and writes its files. Where that comes upon something of an earlier build that is gone, which nothing
    /// had needed until then, it is made again. Tells whether a step ran, too.
    fn deliver(
        &self,
        failure: impl Fn(SolveError<EngineError>) -> Failure,
    ) -> Result<(Result<Delivered, DeliveryError>, bool), Failure> {
        let target = self.delivery.target;
        let mut losses = 0;
        let ready = Ready::begin(self.engine, self.delivery).map_err(DeliveryError::failure)?;
        let options = SolveOptions {
            events: self.solve.events.clone(),
            cancellation: ready.cancellation(),
            jobs: self.solve.jobs,
            no_cache: self.solve.no_cache.clone(),
            heard: self.solve.heard.clone(),
        };
        let mut early = EarlyPush::begin(self.engine, self.definition, self.delivery);
        loop {
            let solved = self.engine.solve(self.definition, target, &options);
            let solution = solved.map_err(|error| match ready.wrong() {
                Some(wrong) => wrong.failure(),
                None => failure(error),
            })?;
            ready.end();
            if let Some(early) = early.take() {
                early.finish();
            }
            let solved = solution
                .get(target.vertex)
                .ok_or_else(|| Failure::usage("the target was not solved", "this is a bug of wbuild"))?;
            match self.delivery.write(&solution, &solved.snapshot) {
                Err(error) if losses < MOST_LOSSES && error.is_lost() => {
                    losses += 1;
                    self.engine.look_closely();
                }
                written => return Ok((written, solution.ran() > 0)),
            }
        }
    }
}

/// Fills the caches that were asked for, and says what went there. What succeeded before something failed is worth as much.
fn share(engine: &Engine, progress: &Progress, failure: Option<&Failure>) {
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
