use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use wbuild_oci::Digest;
use wbuild_store::{Ref, Store, Upstream};

use crate::backend::Backend;
use crate::index::{Entry, Kind};
use crate::problems::Problems;
use crate::signature::Signature;
use crate::source::Source;

/// A scope that is read.
#[derive(Clone, Debug)]
pub struct ImportScope {
    /// The place.
    pub backend: Arc<dyn Backend>,
    /// Its name there.
    pub scope: String,
    /// An index that has not come by then is done without.
    pub patience: Duration,
}

/// Scopes of places that a build reads from, in the order in which they are asked.
#[derive(Debug)]
pub struct Import {
    sources: Vec<Arc<Source>>,
    signature: Option<Signature>,
    problems: Arc<Problems>,
}

impl Import {
    /// Begins to fetch the indexes of all of them, at once, and returns. Records have to be signed with `signature`, if it is
    /// given.
    pub fn open(scopes: Vec<ImportScope>, signature: Option<Signature>, problems: Arc<Problems>) -> Self {
        let open = |ImportScope { backend, scope, patience }| {
            Source::open(backend, scope, patience, Arc::clone(&problems))
        };
        let sources = scopes.into_iter().map(open).collect();
        Self { sources, signature, problems }
    }

    /// The record of a key: of the first scope that has one which may be used.
    pub fn record(&self, kind: Kind, key: &Digest) -> Option<Entry> {
        self.sources.iter().find_map(|source| {
            let loaded = source.loaded()?;
            let entry = loaded.index.entries.get(&(kind, *key))?;
            self.is_trusted(kind, key, entry, &source.backend.place()).then(|| entry.clone())
        })
    }

    /// All records of a kind that may be used, those of the first scopes last.
    pub fn records(&self, kind: Kind) -> Vec<(Digest, Entry)> {
        let mut found = Vec::new();
        for source in self.sources.iter().rev() {
            let Some(loaded) = source.loaded() else { continue };
            for ((of, key), entry) in &loaded.index.entries {
                if *of == kind && self.is_trusted(kind, key, entry, &source.backend.place()) {
                    found.push((*key, entry.clone()));
                }
            }
        }
        found
    }

    /// Places that have none of the scopes that are read from them, as far as they have answered; with those scopes.
    pub fn absent(&self) -> BTreeMap<String, Vec<String>> {
        let mut places: BTreeMap<String, Vec<&Source>> = BTreeMap::new();
        for source in &self.sources {
            places.entry(source.backend.place()).or_default().push(source);
        }
        places.retain(|_, sources| sources.iter().all(|source| source.is_absent()));
        let scopes = |sources: Vec<&Source>| sources.iter().map(|source| source.scope.clone()).collect();
        places.into_iter().map(|(place, sources)| (place, scopes(sources))).collect()
    }

    /// Packs of a place that have turned out to be gone or damaged.
    pub fn lost(&self, place: &str) -> BTreeSet<Digest> {
        let of_place = self.sources.iter().filter(|source| source.backend.place() == place);
        of_place.flat_map(|source| source.lost()).collect()
    }

    fn is_trusted(&self, kind: Kind, key: &Digest, entry: &Entry, place: &str) -> bool {
        let Some(signature) = &self.signature else { return true };
        match &entry.signature {
            Some(signed) if signature.fits(kind, key, &entry.body, signed) => true,
            Some(_) => {
                self.mistrust(place, "signed with another key than WBUILD_CACHE_SIGNATURE_KEY");
                false
            }
            None => {
                self.mistrust(place, "not signed");
                false
            }
        }
    }

    fn mistrust(&self, place: &str, why: &str) {
        let message = format!("records of the cache `{place}` are not used: they are {why}");
        self.problems.say(&format!("{why} {place}"), message, Vec::new());
    }
}

impl Upstream for Import {
    fn has(&self, what: &Ref) -> bool {
        self.sources.iter().any(|source| source.has(what))
    }

    fn fetch(&self, store: &Store, wanted: &[Ref]) {
        for source in &self.sources {
            source.fetch(store, wanted);
        }
    }
}
