//! What happens after a build: leftovers of dead processes go, what was made is settled on disk, and now and then the
//! store is brought back under its budget.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use wbuild_store::{Area, Collection};

use crate::error::EngineError;
use crate::handlers;
use crate::step::io_error;
use crate::worker::Engine;

/// What the store may take unless `WBUILD_CACHE_LIMIT` says otherwise.
pub const DEFAULT_BUDGET: u64 = 20 << 30;

/// Counting what the store takes means looking at every file in it: at most this often.
const COLLECT_EVERY: Duration = Duration::from_secs(6 * 3600);

/// What was used in this time stays, whatever the budget.
const YOUNG: Duration = Duration::from_secs(30 * 60);

impl Engine {
    /// Brings the state directory in order after a build that ran steps.
    ///
    /// # Errors
    /// When it cannot; the build is not the worse for it.
    pub fn tidy(&self, budget: u64) -> Result<(), EngineError> {
        // What is looked through now is what is here.
        self.store.set_upstream(None);
        self.remove(self.store.sweep()?)?;
        self.store.settle()?;
        let marker = self.store.area(Area::Index)?.join("last-collection");
        let recent = |time: SystemTime| time.elapsed().is_ok_and(|age| age < COLLECT_EVERY);
        if std::fs::metadata(&marker).and_then(|meta| meta.modified()).is_ok_and(recent) {
            return Ok(());
        }
        std::fs::write(&marker, "").map_err(io_error("write", &marker))?;
        let collected = self.store.collect(Collection { budget, younger_than: YOUNG })?;
        self.remove(collected.left)
    }

    /// Removes what is over `budget` now; gives the bytes freed and kept.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn prune(&self, budget: u64) -> Result<(u64, u64), EngineError> {
        self.remove(self.store.sweep()?)?;
        let collected = self.store.collect(Collection { budget, younger_than: Duration::ZERO })?;
        self.remove(collected.left)?;
        Ok((collected.freed, collected.kept))
    }

    /// Deletes folders that steps may have made unreadable: where this process cannot, a helper in their namespace can.
    fn remove(&self, folders: Vec<PathBuf>) -> Result<(), EngineError> {
        let stubborn: Vec<PathBuf> =
            folders.into_iter().filter(|folder| wbuild_store::remove_tree(folder).is_err()).collect();
        if stubborn.is_empty() {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&stubborn).map_err(EngineError::Message)?;
        let helper = |source| EngineError::Helper { doing: "remove leftovers of an earlier build", source };
        self.isolation()?.within(handlers::REMOVE, &bytes).map_err(helper)?;
        Ok(())
    }

    /// The store, for commands that look after it.
    pub fn store(&self) -> &wbuild_store::Store {
        &self.store
    }
}
