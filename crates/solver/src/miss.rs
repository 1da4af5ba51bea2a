use wbuild_graph::{FieldValue, Preimage};
use wbuild_report::{FieldChange, MissReason};

use crate::worker::Worker;

/// At most this many changed fields are kept; the first says nearly always why.
const MAX_CHANGES: usize = 20;

/// Compares a key that missed with the latest record of the same step.
pub(crate) fn reason<W: Worker>(
    worker: &W,
    identity: &str,
    preimage: &Preimage,
) -> Result<MissReason, W::Error> {
    if let Some(what) = worker.why_lost(&preimage.key())? {
        return Ok(MissReason::ResultLost { what });
    }
    let Some(latest) = worker.latest(identity)? else { return Ok(MissReason::NeverBuilt) };
    let mut changes: Vec<FieldChange> = Vec::new();
    for change in preimage.changes_since(&latest.preimage) {
        let files = match (latest.preimage.get(&change.field), preimage.get(&change.field)) {
            (Some(FieldValue::Tree { .. }), Some(FieldValue::Tree { .. })) => {
                worker.explain(&latest.preimage, preimage, &change.field)
            }
            _ => Vec::new(),
        };
        if files.is_empty() {
            changes.push(change);
        } else {
            changes.extend(files);
        }
    }
    changes.truncate(MAX_CHANGES);
    if changes.is_empty() {
        // The same preimage, but its record is gone: the collector took it.
        return Ok(MissReason::ResultLost { what: "its record".to_owned() });
    }
    Ok(MissReason::Changed { changes })
}
