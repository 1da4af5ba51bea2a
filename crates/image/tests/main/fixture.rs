//! A store of layer blobs, and images made of them.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use wbuild_image::{Assembly, BlobFiles, Image, LayerRef, Row, assemble};
use wbuild_layer::{Contents, Recipe, write_layer};
use wbuild_oci::{Digest, Execution, HistoryEntry, ImageConfig, Reference};
use wbuild_tree::{Entry, EntryPath, MemoryTrees, Meta, TreeBuilder};

/// Blobs in a folder, as the store has them: 0444 and by digest.
pub(crate) struct Store(pub(crate) tempfile::TempDir);

impl Store {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn add(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let file = self.blob(&digest).unwrap();
        if !file.exists() {
            std::fs::write(&file, bytes).unwrap();
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o444)).unwrap();
        }
        digest
    }

    /// A layer with one file.
    pub(crate) fn layer(&self, path: &str, text: &str) -> LayerRef {
        struct Text<'a>(&'a str);
        impl Contents for Text<'_> {
            fn open(&self, _digest: &Digest, _size: u64) -> io::Result<Box<dyn Read + '_>> {
                Ok(Box::new(self.0.as_bytes()))
            }
        }
        let mut builder = TreeBuilder::new();
        let entry = Entry::file(Meta::new(0o644), Digest::of(text.as_bytes()), text.len() as u64);
        builder.insert(&MemoryTrees::default(), &EntryPath::parse(path).unwrap(), entry).unwrap();
        let mut blob = Vec::new();
        let delta = builder.finish();
        let layer =
            write_layer(&MemoryTrees::default(), &Text(text), &delta, &Recipe::default(), &mut blob).unwrap();
        self.add(&blob);
        LayerRef { descriptor: layer.descriptor(), diff_id: layer.diff_id }
    }

    /// An image with these layers.
    pub(crate) fn image(&self, architecture: &str, layers: &[LayerRef]) -> Image {
        let line = |text: String| HistoryEntry {
            created: Some("1970-01-01T00:00:01Z".to_owned()),
            created_by: Some(text),
            ..HistoryEntry::default()
        };
        let rows = layers.iter().enumerate().map(|(number, layer)| Row::Layer {
            layer: layer.clone(),
            history: Some(line(format!("COPY {number}"))),
        });
        let assembly = Assembly {
            config: ImageConfig {
                created: Some("1970-01-01T00:00:01Z".to_owned()),
                architecture: architecture.to_owned(),
                os: "linux".to_owned(),
                config: Execution { cmd: Some(vec!["/bin/app".to_owned()]), ..Execution::default() },
                ..ImageConfig::default()
            },
            rows: rows.chain([Row::Metadata(line("CMD".to_owned()))]).collect(),
            ..Assembly::default()
        };
        assemble(assembly).unwrap()
    }
}

impl BlobFiles for Store {
    fn blob(&self, digest: &Digest) -> io::Result<PathBuf> {
        Ok(self.0.path().join(digest.hex()))
    }

    fn seal(&self, digest: &Digest, size: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_micros(u64::from(digest.as_bytes()[0]) + size))
    }
}

pub(crate) fn names(texts: &[&str]) -> Vec<Reference> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}
