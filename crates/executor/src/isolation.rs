use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::sandbox::system::Procfs;

/// How steps are kept apart from the machine. Found by [`crate::Machine::probe`], part of a build's provenance, and
/// never changed silently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
#[non_exhaustive]
pub enum Isolation {
    /// Namespaces, an overlay, masked `/proc`, a system call filter, few capabilities.
    Overlay {
        /// As whom.
        identity: Identity,
        /// With which `/proc`.
        procfs: Procfs,
    },
}

impl Isolation {
    /// As whom steps and handlers work.
    pub fn identity(&self) -> Identity {
        match self {
            Self::Overlay { identity, .. } => *identity,
        }
    }

    /// Which `/proc` steps have.
    pub fn procfs(&self) -> Procfs {
        match self {
            Self::Overlay { procfs, .. } => *procfs,
        }
    }
}
