//! What the store remembers of images in registries: what names stand for, and what belongs to an image.

use wbuild_oci::{Descriptor, Digest, Reference};
use wbuild_store::{RecordMeta, Ref, Store};

use crate::error::EngineError;

/// What is remembered of a name; another number makes it unknown.
const NAME_RECORD: &str = "image-name-1";

/// What keeps the parts of an image together.
const IMAGE_RECORD: &str = "image-1";

fn name_key(name: &Reference) -> Digest {
    Digest::of(format!("{NAME_RECORD}\0{name}").as_bytes())
}

/// What a name stood for when it was last looked up.
pub(crate) fn known_name(store: &Store, name: &Reference) -> Result<Option<Descriptor>, EngineError> {
    let stored = store.record(&name_key(name))?;
    // What cannot be read any more is asked for again.
    Ok(stored.and_then(|record| serde_json::from_slice(&record.body).ok()))
}

/// Remembers what a name stands for.
pub(crate) fn remember_name(store: &Store, name: &Reference, root: &Descriptor) -> Result<(), EngineError> {
    let body = serde_json::to_vec(root).map_err(EngineError::Message)?;
    let meta = RecordMeta { refs: vec![Ref::Blob(root.digest)] };
    Ok(store.replace_record(&name_key(name), &meta, &body)?)
}

/// Keeps documents and layers of an image together for as long as somebody uses it. `what` says for which platform. What is
/// not here yet counts when it is.
pub(crate) fn keep_image(
    store: &Store,
    root: &Digest,
    what: &str,
    blobs: impl Iterator<Item = Digest>,
) -> Result<(), EngineError> {
    let key = Digest::of(format!("{IMAGE_RECORD}\0{root}\0{what}").as_bytes());
    if store.record(&key)?.is_none() {
        let refs = blobs.map(Ref::Blob).collect();
        store.replace_record(&key, &RecordMeta { refs }, b"")?;
    }
    Ok(())
}
