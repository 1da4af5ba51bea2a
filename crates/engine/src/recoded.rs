//! Layers of a base image that are compressed in another way: only for `force-compression`. Each is made once and remembered.

use wbuild_graph::{DeltaId, Preimage, Snapshot};
use wbuild_image::LayerRef;
use wbuild_layer::{Compression, Expected, Recipe, Times, recode, write_layer};
use wbuild_oci::{Descriptor, media};
use wbuild_tree::{Entry, EntryPath, Meta};

use crate::error::EngineError;
use crate::export::{LayerRecord, StoreBlobs};
use crate::worker::Engine;

/// What such a layer is called in messages.
const NAME: &str = "the base image";

impl Engine {
    /// A layer of an opened base image in the compression that is asked for. One that has it already, at whatever level,
    /// passes as it is, as with BuildKit. The tar inside stays as it is, except that eStargz has files of its own in it:
    /// then it is written anew from what is in it.
    pub(crate) fn recoded(
        &self,
        layer: &LayerRef,
        compression: Compression,
    ) -> Result<LayerRef, EngineError> {
        if is_already(&layer.descriptor, compression) {
            return Ok(layer.clone());
        }
        let recipe = Recipe { compression, times: Times::Keep };
        let mut preimage = Preimage::new("base layer", 1);
        for (field, value) in recipe.fields() {
            preimage.text(field, value);
        }
        preimage.text("diff id", layer.diff_id.0.to_string());
        let key = preimage.key();
        if let Some(Some(known)) = self.known_layer(&key.0)? {
            return Ok(known.into());
        }
        let mut blob = self.store.blob_writer()?;
        let written = match compression {
            Compression::Estargz { .. } => {
                let delta = DeltaId::Layer(layer.diff_id);
                let view = self.view(&Snapshot { deltas: vec![delta] })?;
                let tree = self.tree_face(&delta)?;
                // Base layers are unpacked to disk only.
                let root = Entry::directory(Meta::new(0o755), tree.clone());
                view.bring_contents(&EntryPath::root(), &root)?;
                write_layer(&self.trees(), &StoreBlobs(&self.store), &tree, &recipe, &mut blob)
            }
            _ => {
                let base = self.images.layer(&layer.diff_id);
                let base = base.ok_or(EngineError::Lost { delta: DeltaId::Layer(layer.diff_id) })?;
                base.bring_with_others()?;
                recode(base.open()?, &Expected::diff_id(layer.diff_id), &recipe, &mut blob)
            }
        };
        let made = written.map_err(|source| EngineError::WriteLayer { name: NAME.to_owned(), source })?;
        blob.finish(Some(&made.digest))?;
        let record = LayerRecord { descriptor: made.descriptor(), diff_id: made.diff_id };
        self.remember_layer(&key.0, Some(&record))?;
        Ok(record.into())
    }
}

/// Whether a layer is compressed like this, as its media type says and, for eStargz, what is noted on it.
fn is_already(layer: &Descriptor, compression: Compression) -> bool {
    let lazy = || layer.annotations.contains_key("containerd.io/snapshot/stargz/toc.digest");
    match (wbuild_image::MediaTypes::Oci.layer(&layer.media_type), compression) {
        (media::LAYER_GZIP, Compression::Gzip { .. })
        | (media::LAYER_ZSTD, Compression::Zstd { .. })
        | (media::LAYER, Compression::None) => true,
        (media::LAYER_GZIP, Compression::Estargz { .. }) => lazy(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use wbuild_oci::Digest;

    use super::*;

    #[test]
    fn what_has_the_compression_passes() {
        let layer = |media_type: &str| Descriptor::new(media_type, Digest::of(b"x"), 1);
        let gzip = Compression::Gzip { level: 9 };
        assert!(
            is_already(&layer(media::LAYER_GZIP), gzip) && is_already(&layer(media::DOCKER_LAYER_GZIP), gzip)
        );
        assert!(!is_already(&layer(media::LAYER_ZSTD), gzip) && !is_already(&layer(media::LAYER), gzip));
        assert!(is_already(&layer(media::LAYER_ZSTD), Compression::ZSTD));
        let mut lazy = layer(media::LAYER_GZIP);
        assert!(!is_already(&lazy, Compression::Estargz { level: 6 }));
        lazy.annotations.insert("containerd.io/snapshot/stargz/toc.digest".to_owned(), "x".to_owned());
        assert!(is_already(&lazy, Compression::Estargz { level: 6 }) && is_already(&lazy, gzip));
    }
}
