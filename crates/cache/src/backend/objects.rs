use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use wbuild_oci::Digest;
use wbuild_remote::{HttpOptions, ObjectError, ObjectService, ObjectStore, Version};

use super::web::{Into, Network, options};
use super::{Backend, action, readable, scope_name};
use crate::error::{CacheError, damaged};
use crate::index::{Index, MAX_INDEX};

/// How often an index is merged again when somebody else wrote at the same time.
const ROUNDS: usize = 8;

/// A bucket or container, and what it takes to reach it.
#[derive(Clone)]
pub struct ObjectsPlace {
    /// Whose.
    pub service: ObjectService,
    /// By `object_store`'s names; some are secret.
    pub settings: Vec<(&'static str, String)>,
    /// All names begin with it and a slash, if it is not empty.
    pub prefix: String,
    /// For people.
    pub shown: String,
}

impl fmt::Debug for ObjectsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectsPlace").field("shown", &self.shown).finish_non_exhaustive()
    }
}

/// A bucket of S3 or Google Cloud Storage, or a container of Azure's blob storage: `cas/<hex>` and `ac/<hex>`, as in a folder.
/// Where the service knows conditional writes, nobody loses anything.
#[derive(Debug)]
pub struct ObjectsBackend {
    place: ObjectsPlace,
    options: HttpOptions,
    /// Made when it is first used: whatever is wrong with it is said as anything that is wrong with a cache.
    store: OnceLock<Result<ObjectStore, String>>,
}

impl ObjectsBackend {
    /// The place.
    pub fn new(place: ObjectsPlace, network: &Network) -> Self {
        Self { place, options: options(network), store: OnceLock::new() }
    }

    fn store(&self) -> Result<&ObjectStore, CacheError> {
        let make = || {
            let made = ObjectStore::new(self.place.service, &self.place.settings, &self.options);
            made.map_err(|error| error.to_string())
        };
        self.store.get_or_init(make).as_ref().map_err(|why| CacheError::Server {
            action: "use",
            place: self.place(),
            source: why.clone().into(),
        })
    }

    fn key(&self, kind: &str, name: &Digest) -> String {
        match self.place.prefix.as_str() {
            "" => format!("{kind}/{}", name.hex()),
            prefix => format!("{prefix}/{kind}/{}", name.hex()),
        }
    }

    fn failed(&self, action: &'static str, content: Option<&Digest>, error: ObjectError) -> CacheError {
        match (error, content) {
            (ObjectError::Missing(_), Some(content)) => CacheError::Gone(*content),
            (ObjectError::TooLarge { key, limit }, _) => CacheError::TooLarge { what: key, limit },
            (error, _) => CacheError::Server { action, place: self.place(), source: Box::new(error) },
        }
    }

    fn stored(&self, scope: &str) -> Result<Option<(Vec<u8>, Version)>, CacheError> {
        match self.store()?.read(&self.key("ac", &scope_name(scope)), MAX_INDEX) {
            Ok(found) => Ok(Some(found)),
            Err(ObjectError::Missing(_)) => Ok(None),
            Err(error) => Err(self.failed("read", None, error)),
        }
    }
}

impl Backend for ObjectsBackend {
    fn place(&self) -> String {
        self.place.shown.clone()
    }

    fn index(&self, scope: &str) -> Result<Option<Vec<u8>>, CacheError> {
        self.stored(scope)?.map(|(message, _)| action::unwrap(&message)).transpose()
    }

    fn update(
        &self,
        scope: &str,
        merge: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Index>,
    ) -> Result<(), CacheError> {
        for _ in 0..ROUNDS {
            let (stored, version) = self.stored(scope)?.unzip();
            let stored = stored.map(|message| action::unwrap(&message)).transpose();
            let Some(index) = merge(readable(stored)?) else { return Ok(()) };
            let key = self.key("ac", &scope_name(scope));
            let replaced = self.store()?.replace(&key, &action::wrap(&index.encode()?), version);
            if replaced.map_err(|error| self.failed("write", None, error))? {
                return Ok(());
            }
        }
        let why = "others write there all the time";
        Err(CacheError::Server { action: "write", place: self.place(), source: why.into() })
    }

    fn small(&self, content: &Digest, limit: u64) -> Result<Vec<u8>, CacheError> {
        let read = self.store()?.read(&self.key("cas", content), limit);
        read.map(|(bytes, _)| bytes).map_err(|error| self.failed("read", Some(content), error))
    }

    fn part(&self, content: &Digest, range: Range<u64>) -> Result<Option<Vec<u8>>, CacheError> {
        let wanted = range.end.saturating_sub(range.start);
        let part = self.store()?.part(&self.key("cas", content), range);
        let part = part.map_err(|error| self.failed("read", Some(content), error))?;
        match part.len() as u64 == wanted {
            true => Ok(Some(part)),
            false => Err(damaged(format!("{content} in {}", self.place()), "it is truncated")),
        }
    }

    fn whole(&self, content: &Digest, size: u64, file: &File) -> Result<(), CacheError> {
        let came = self.store()?.download(&self.key("cas", content), size, &mut Into(file));
        came.map_err(|error| self.failed("read", Some(content), error))
    }

    fn put(&self, content: &Digest, size: u64, path: &Path) -> Result<(), CacheError> {
        let key = self.key("cas", content);
        let there = self.store()?.size(&key).map_err(|error| self.failed("ask", None, error))?;
        if there == Some(size) {
            return Ok(());
        }
        self.store()?.put_file(&key, path, size).map_err(|error| self.failed("write", None, error))
    }
}
