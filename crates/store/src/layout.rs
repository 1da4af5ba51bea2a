use std::path::{Path, PathBuf};

use wbuild_oci::Digest;

/// The folders of a state directory that callers fill themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Logs of steps.
    Logs,
    /// Indexes that can be computed again at any time: stat indexes, for example.
    Index,
}

/// Where things lie in a state directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// `folder/ab/<hex>`: 256 shards, because some file systems are slow with a million names in one directory.
    fn sharded(&self, folder: &str, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let mut path = self.root.join(folder);
        path.push(&hex[..2]);
        path.push(hex);
        path
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.sharded("blobs/sha256", digest)
    }

    pub(crate) fn tree(&self, digest: &Digest) -> PathBuf {
        self.sharded("trees", digest)
    }

    pub(crate) fn record(&self, key: &Digest) -> PathBuf {
        self.sharded("records", key)
    }

    pub(crate) fn pool(&self, key: &Digest) -> PathBuf {
        self.sharded("pool", key)
    }

    pub(crate) fn latest(&self, name: &Digest) -> PathBuf {
        self.root.join("latest").join(name.hex())
    }

    pub(crate) fn lock(&self, key: &Digest) -> PathBuf {
        self.root.join("locks").join(key.hex())
    }

    pub(crate) fn area(&self, area: Area) -> PathBuf {
        self.folder(match area {
            Area::Logs => "logs",
            Area::Index => "index",
        })
    }
}

impl Area {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Logs, Self::Index];
}
