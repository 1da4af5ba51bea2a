use serde::{Deserialize, Serialize};
use wbuild_graph::{Preimage, Snapshot};

/// What is remembered of a solved vertex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Format of this record; see [`Record::VERSION`].
    pub version: u32,
    /// The vertex' name when it ran.
    pub name: String,
    /// What the key was computed from.
    pub preimage: Preimage,
    /// The result.
    pub snapshot: Snapshot,
    /// How long it took, in milliseconds: what a hit saves.
    pub took_ms: u64,
    /// Why it was set aside: what it refers to is damaged. Such a record is reused by nobody; it stays to explain why the
    /// vertex ran again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<String>,
}

/// Why the bytes of a record are none.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON of the expected shape.
    #[error("the record is damaged")]
    Damaged(#[from] serde_json::Error),
    /// Written by another version.
    #[error("the record has version {found}; this wbuild reads {}", Record::VERSION)]
    Version {
        /// What it says.
        found: u32,
    },
}

impl Record {
    /// In the place of a record of which nothing is left to be read.
    pub fn of_nothing(why: &str) -> Self {
        Self {
            version: Self::VERSION,
            name: String::new(),
            preimage: Preimage::default(),
            snapshot: Snapshot::default(),
            took_ms: 0,
            set_aside: Some(why.to_owned()),
        }
    }

    /// Bumped when the shape of a record changes so that an older wbuild would misread it.
    pub const VERSION: u32 = 1;

    /// As the store keeps it.
    ///
    /// # Panics
    /// Never: the type always serialises.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("records are plain data")
    }

    /// Reads a stored record.
    ///
    /// # Errors
    /// When it is damaged or of another version; either is a miss.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: Self = serde_json::from_slice(bytes)?;
        if record.version != Self::VERSION {
            return Err(RecordError::Version { found: record.version });
        }
        Ok(record)
    }
}
