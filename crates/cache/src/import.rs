use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wbuild_oci::Digest;
use wbuild_store::{Ref, Store, Upstream};

use crate::backend::Backend;
use crate::index::{Entry, Kind};
use crate::problems::Problems;
use crate::signature::Signature;
use crate::source::Source;

/// How caches are read.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Records have to be signed with it, if it is given.
    pub signature: Option<Signature>,
    /// An index that has not come by then is done without.
    pub patience: Duration,
}

impl Default for ImportOptions {
    /// No signatures; five seconds.
    fn default() -> Self {
        Self { signature: None, patience: Duration::from_secs(5) }
    }
}

/// Scopes of places that a build reads from, in the order in which they are asked.
#[derive(Debug)]
pub struct Import {
    sources: Vec<Arc<Source>>,
    signature: Option<Signature>,
    problems: Arc<Problems>,
}

impl Import {
    /// Begins to fetch the indexes of all of them, at once, and returns.
    pub fn open(
        scopes: Vec<(Arc<dyn Backend>, String)>,
        options: &ImportOptions,
        problems: Arc<Problems>,
    ) -> Self {
        let open = |(backend, scope)| Source::open(backend, scope, options.patience, Arc::clone(&problems));
        let sources = scopes.into_iter().map(open).collect();
        Self { sources, signature: options.signature.clone(), problems }
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
