//! What records say in a remote cache.

use serde::{Deserialize, Serialize};
use wbuild_graph::{DeltaId, FieldValue, Key, Preimage, Snapshot};
use wbuild_oci::Digest;
use wbuild_solver::Record;
use wbuild_store::Ref;
use wbuild_tree::{ContentDigest, TreeDigest};

/// Bumped when an older wbuild would misread what a newer one writes. Bodies of other versions are none.
const VERSION: u32 = 1;

/// The result of a vertex. Its preimage is not in it: whoever finds it by its key has that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StepBody {
    version: u32,
    /// With `logs=true`: a name may hold arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    snapshot: Snapshot,
    took_ms: u64,
    /// The tree face of the step's own delta, if it has one and it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) face: Option<Face>,
    /// With `logs=true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) explained: Option<Explained>,
}

/// Names a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Face {
    pub(super) tree: TreeDigest,
    pub(super) content: ContentDigest,
}

/// What a miss is explained with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Explained {
    /// SHA-256 of what identifies the step across builds.
    pub(super) step: Digest,
    /// When it was uploaded, in seconds since 1970: of several the newest explains best.
    pub(super) built: u64,
    /// What its key was computed from.
    pub(super) preimage: Preimage,
}

impl StepBody {
    pub(super) fn new(record: &Record, face: Option<Face>, explained: Option<Explained>) -> Self {
        Self {
            version: VERSION,
            name: explained.is_some().then(|| record.name.clone()),
            snapshot: record.snapshot.clone(),
            took_ms: record.took_ms,
            face,
            explained,
        }
    }

    /// `None` for what this version does not read.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str::<Self>(text).ok().filter(|body| body.version == VERSION)
    }

    pub(super) fn write(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    /// The record that it is here.
    pub(super) fn into_record(self, identity: &str, preimage: Preimage) -> Record {
        Record {
            version: Record::VERSION,
            name: self.name.unwrap_or_else(|| identity.to_owned()),
            preimage,
            snapshot: self.snapshot,
            took_ms: self.took_ms,
            set_aside: None,
        }
    }
}

/// What is in a cache mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MountBody {
    pub(super) tree: TreeDigest,
}

/// The deltas that a vertex made itself: what it only stands on is in its key.
pub(super) fn own_deltas(key: &Key, record: &Record) -> Vec<DeltaId> {
    let stands_on = |delta: &DeltaId| {
        record.preimage.fields.iter().any(|field| match (&field.value, delta) {
            (FieldValue::Tree { tree, .. }, DeltaId::Tree { tree: own, .. }) => tree == own,
            (FieldValue::Digest(digest), delta) => *digest == delta.root_key(),
            _ => false,
        })
    };
    let own = |delta: &&DeltaId| match delta {
        DeltaId::Layer(_) => false,
        DeltaId::Exec(made_by) => made_by == key,
        DeltaId::Tree { .. } => !stands_on(delta),
    };
    record.snapshot.deltas.iter().filter(own).copied().collect()
}

/// What a step's record refers to in a cache.
pub(super) fn roots(own: &[DeltaId], face: Option<&Face>) -> Vec<Ref> {
    let root = |delta: &DeltaId| match delta {
        DeltaId::Tree { tree, .. } => Some(Ref::Tree(*tree)),
        DeltaId::Exec(_) => face.map(|face| Ref::Tree(face.tree)),
        DeltaId::Layer(_) => None,
    };
    own.iter().filter_map(root).collect()
}
