use std::fmt;

use serde::{Deserialize, Serialize};

/// One named field of a key's preimage that differs between the record found and the key wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// The field's path in the preimage, for example `env/DATABASE_URL` or `input/apps/web/src/app/page.tsx`.
    pub field: String,
    /// Its value in the nearest earlier record; `None` when it was not there.
    pub old: Option<String>,
    /// Its value now; `None` when it is gone.
    pub new: Option<String>,
}

/// Why a vertex could not be reused. Produced by the solver from two preimages, never from text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum MissReason {
    /// No record of an earlier run of this vertex exists.
    NeverBuilt,
    /// An earlier record exists, and these fields of its preimage differ (the most telling first).
    Changed {
        /// The differing fields; never empty.
        changes: Vec<FieldChange>,
    },
    /// The record was found, but what it points to is gone from the store or damaged.
    ResultLost {
        /// What is missing.
        what: String,
    },
    /// `--no-cache` or `--no-cache-filter` named it.
    Forced,
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverBuilt => write!(f, "never built before"),
            Self::Changed { changes } => match changes.as_slice() {
                [] => write!(f, "changed"),
                [first, rest @ ..] => {
                    match (&first.old, &first.new) {
                        (None, _) => write!(f, "`{}` is new", first.field)?,
                        (_, None) => write!(f, "`{}` is gone", first.field)?,
                        _ => write!(f, "`{}` changed", first.field)?,
                    }
                    if rest.is_empty() { Ok(()) } else { write!(f, " (and {} more)", rest.len()) }
                }
            },
            Self::ResultLost { what } => write!(f, "its result is no longer in the store ({what})"),
            Self::Forced => write!(f, "forced by --no-cache"),
        }
    }
}
