use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use wbuild_oci::Digest;
use wbuild_store::{Blob, RecordMeta, Ref, Store};

/// A larger artifact is none.
pub(super) const MAX_ARTIFACT: u64 = 2 << 30;

/// Bytes that one session takes in.
const MAX_SESSION: u64 = 16 << 30;

/// Bytes of a signature.
const MAX_TAG: usize = 1024;

/// Bumped when an older wbuild would misread what a newer one writes.
const VERSION: u32 = 1;

/// What Turborepo stored, by its hashes. Each is a blob, and a record that keeps it as long as it is used.
#[derive(Debug)]
pub(super) struct Artifacts {
    store: Store,
    name: String,
    token: String,
    taken: AtomicU64,
}

/// What is kept of an artifact besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    version: u32,
    artifact: Digest,
    /// What its task took, in milliseconds, as the client said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) duration: Option<u64>,
    /// Its signature, as the client said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tag: Option<String>,
}

/// Why an artifact is not taken.
#[derive(Debug)]
pub(super) enum Refused {
    TooLarge,
    Full,
    Malformed,
    /// The store cannot be written, or the client went away.
    Failed,
}

impl Artifacts {
    pub(super) fn new(store: Store, name: &str, token: &str) -> Self {
        Self { store, name: name.to_owned(), token: token.to_owned(), taken: AtomicU64::new(0) }
    }

    /// Whether these are the credentials of this session. Takes as long for wrong ones of the same length as for right ones.
    pub(super) fn admits(&self, authorization: &str) -> bool {
        let Some(shown) = authorization.strip_prefix("Bearer ") else { return false };
        shown.len() == self.token.len()
            && shown.bytes().zip(self.token.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }

    fn key(&self, hash: &str) -> Option<Digest> {
        let is_hash = (1..=128).contains(&hash.len())
            && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        is_hash.then(|| Digest::of(format!("wbuild-turbo-artifact-1\0{}\0{hash}", self.name).as_bytes()))
    }

    /// An artifact, counted as used.
    pub(super) fn get(&self, hash: &str) -> Option<(About, Blob)> {
        let record = self.store.record(&self.key(hash)?).ok()??;
        let about: About = serde_json::from_slice(&record.body).ok()?;
        let blob = (about.version == VERSION).then(|| self.store.open_blob(&about.artifact).ok())??;
        Some((about, blob))
    }

    /// Whether one may be taken in, before any of it is read.
    pub(super) fn admit(&self, hash: &str, size: u64, tag: Option<&str>) -> Result<(), Refused> {
        if self.key(hash).is_none() || tag.is_some_and(|tag| tag.len() > MAX_TAG) {
            return Err(Refused::Malformed);
        }
        if size > MAX_ARTIFACT {
            return Err(Refused::TooLarge);
        }
        if self.taken.fetch_add(size, Ordering::Relaxed).saturating_add(size) > MAX_SESSION {
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// Takes in one of `size` bytes, which is all that `body` gives. It replaces what was there: who is told to run tasks again stores them again.
    pub(super) fn put(
        &self,
        hash: &str,
        size: u64,
        body: &mut dyn Read,
        duration: Option<u64>,
        tag: Option<&str>,
    ) -> Result<(), Refused> {
        let key = self.key(hash).ok_or(Refused::Malformed)?;
        let subject = Path::new("an artifact of turbo");
        let (artifact, read) = self.store.put_blob(body, subject, None).map_err(|_| Refused::Failed)?;
        if read != size {
            // Nobody refers to it; it goes with the next collection.
            return Err(Refused::Malformed);
        }
        let about = About { version: VERSION, artifact, duration, tag: tag.map(str::to_owned) };
        let body = serde_json::to_vec(&about).map_err(|_| Refused::Failed)?;
        let meta = RecordMeta { refs: vec![Ref::Blob(artifact)] };
        self.store.replace_record(&key, &meta, &body).map_err(|_| Refused::Failed)
    }
}
