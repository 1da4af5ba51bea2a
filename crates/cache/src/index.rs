use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use serde::{Deserialize, Serialize};
use wbuild_oci::Digest;
use wbuild_store::Ref;

use crate::error::{CacheError, damaged};
use crate::signature::Signature;

/// First bytes of an index; the SHA-256 of the rest in hex and a line feed follow.
const MAGIC: &[u8] = b"wbuild-cache-index-1 ";

/// The version of what is in it.
const VERSION: u32 = 1;

/// No index is larger, as it is stored and as it is read.
pub(crate) const MAX_INDEX: u64 = 32 << 20;
const MAX_TEXT: u64 = 256 << 20;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The result of a vertex.
    Step,
    /// A layer blob.
    Layer,
    /// What is in a cache mount.
    Mount,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Layer => "layer",
            Self::Mount => "mount",
        }
    }
}

/// How much of what a record refers to is in the packs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holds {
    /// Nothing: only the record is there, which says what later keys are.
    #[default]
    Nothing,
    /// Trees, without the contents of files.
    Listing,
    /// All of it.
    Contents,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What its owner keeps, as text.
    pub body: String,
    /// What it refers to.
    pub roots: Vec<Ref>,
    /// How much of that is there.
    pub holds: Holds,
    /// The packs in which that is, by their data's digest.
    pub packs: BTreeSet<Digest>,
    /// The day of its last use, counted from 1970.
    pub used: u32,
    /// Its signature.
    pub signature: Option<Digest>,
}

/// A pack: its bytes, and the directory that says what is where in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackInfo {
    /// Of the bytes.
    pub data: Digest,
    /// How many.
    pub size: u64,
    /// Of the directory.
    pub directory: Digest,
    /// Bytes of the directory.
    pub directory_size: u64,
}

/// What one scope has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// By kind and key.
    pub entries: BTreeMap<(Kind, Digest), Entry>,
    /// By the digest of their data.
    pub packs: BTreeMap<Digest, PackInfo>,
    /// How many packs there were when somebody last looked for some that are worth rewriting.
    pub looked_through: usize,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    packs: Vec<PackInfo>,
    records: Vec<StoredEntry>,
    #[serde(default, skip_serializing_if = "is_zero")]
    looked_through: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it like that")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
struct StoredEntry {
    kind: Kind,
    key: Digest,
    body: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    roots: Vec<Ref>,
    holds: Holds,
    /// Places in the list of packs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    packs: Vec<usize>,
    used: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<Digest>,
}

impl Index {
    /// As a backend keeps it.
    ///
    /// # Errors
    /// When it cannot be compressed.
    pub fn encode(&self) -> Result<Vec<u8>, CacheError> {
        let packs: Vec<PackInfo> = self.packs.values().cloned().collect();
        let place = |digest: &Digest| packs.iter().position(|pack| pack.data == *digest);
        let entry = |((kind, key), entry): (&(Kind, Digest), &Entry)| StoredEntry {
            kind: *kind,
            key: *key,
            body: entry.body.clone(),
            roots: entry.roots.clone(),
            holds: entry.holds,
            packs: entry.packs.iter().filter_map(place).collect(),
            used: entry.used,
            signature: entry.signature,
        };
        let records = self.entries.iter().map(entry).collect();
        let failed = |source: std::io::Error| CacheError::Io {
            action: "encode",
            path: "the index of the cache".into(),
            source,
        };
        let text = serde_json::to_vec(&Stored {
            version: VERSION,
            packs: packs.clone(),
            records,
            looked_through: self.looked_through,
        })
        .map_err(|error| failed(error.into()))?;
        let packed = zstd::bulk::compress(&text, zstd::DEFAULT_COMPRESSION_LEVEL).map_err(failed)?;
        Ok([MAGIC, Digest::of(&packed).hex().as_bytes(), b"\n", &packed].concat())
    }

    /// Whether bytes begin as those of an index do.
    pub(crate) fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// Reads what a backend kept.
    ///
    /// # Errors
    /// When it is damaged, or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, CacheError> {
        let wrong = |why| damaged("the index".to_owned(), why);
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| wrong("it has no header of this version"))?;
        let (hex, rest) = rest.split_at_checked(64).ok_or_else(|| wrong("it is truncated"))?;
        let packed = rest.strip_prefix(b"\n").ok_or_else(|| wrong("its header is malformed"))?;
        if Digest::of(packed).hex().as_bytes() != hex {
            return Err(wrong("its bytes have another checksum"));
        }
        let mut text = Vec::new();
        let decoder = zstd::stream::read::Decoder::new(packed).map_err(|_| wrong("it is not compressed"))?;
        decoder.take(MAX_TEXT + 1).read_to_end(&mut text).map_err(|_| wrong("it is not compressed"))?;
        if text.len() as u64 > MAX_TEXT {
            return Err(CacheError::TooLarge { what: "the index".to_owned(), limit: MAX_TEXT });
        }
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } =
            serde_json::from_slice(&text).map_err(|_| wrong("it is no JSON of its kind"))?;
        if version != VERSION {
            return Err(CacheError::Version { found: version, known: VERSION });
        }
        let stored: Stored = serde_json::from_slice(&text).map_err(|_| wrong("it is no JSON of its kind"))?;
        let mut index = Self { looked_through: stored.looked_through, ..Self::default() };
        for one in stored.records {
            let packs: Option<BTreeSet<Digest>> =
                one.packs.iter().map(|place| stored.packs.get(*place).map(|pack| pack.data)).collect();
            let packs = packs.ok_or_else(|| wrong("a record names a pack that is not listed"))?;
            let StoredEntry { kind, key, body, roots, holds, used, signature, .. } = one;
            index.entries.insert((kind, key), Entry { body, roots, holds, packs, used, signature });
        }
        index.packs = stored.packs.into_iter().map(|pack| (pack.data, pack)).collect();
        Ok(index)
    }

    /// Takes in what a build has to add. The first result of a key stays, unless its signature is wrong; it gets the packs of
    /// one that is the same and holds more.
    pub fn merge(&mut self, new: Self, signature: Option<&Signature>) {
        for ((kind, key), entry) in new.entries {
            let Some(known) = self.entries.get_mut(&(kind, key)) else {
                self.entries.insert((kind, key), entry);
                continue;
            };
            let trusted = signature.is_none_or(|signature| {
                known.signature.is_some_and(|known_as| signature.fits(kind, &key, &known.body, &known_as))
            });
            // What is in a cache mount is no result: the newest is the best.
            if !trusted || kind == Kind::Mount || known.body == entry.body && entry.holds > known.holds {
                *known = entry;
            } else {
                known.used = known.used.max(entry.used);
            }
        }
        for (digest, pack) in new.packs {
            self.packs.entry(digest).or_insert(pack);
        }
    }

    /// Leaves out records that nobody used since `day`, and packs that no record needs. Says how many records that were
    /// in packs.
    pub fn prune(&mut self, day: u32) -> usize {
        let held = |index: &Self| index.entries.values().filter(|entry| !entry.packs.is_empty()).count();
        let before = held(self);
        self.entries.retain(|_, entry| entry.used >= day);
        self.drop_packs();
        before - held(self)
    }

    /// Leaves out packs that no record needs.
    pub(crate) fn drop_packs(&mut self) {
        let needed: BTreeSet<Digest> = self.entries.values().flat_map(|entry| entry.packs.clone()).collect();
        self.packs.retain(|digest, _| needed.contains(digest));
        self.looked_through = self.looked_through.min(self.packs.len());
    }

    /// Leaves out packs that are lost, and records of which something was in them.
    pub(crate) fn forget(&mut self, lost: &BTreeSet<Digest>) {
        self.entries.retain(|_, entry| entry.packs.is_disjoint(lost));
        self.packs.retain(|digest, _| !lost.contains(digest));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(body: &str, holds: Holds, pack: &[u8]) -> Entry {
        Entry {
            body: body.to_owned(),
            roots: vec![Ref::Blob(Digest::of(body.as_bytes()))],
            holds,
            packs: [Digest::of(pack)].into(),
            used: 3,
            signature: None,
        }
    }

    fn index(entries: &[(&str, Entry)]) -> Index {
        let mut index = Index::default();
        for (key, entry) in entries {
            for data in &entry.packs {
                let pack = PackInfo { data: *data, size: 5, directory: Digest::of(b"d"), directory_size: 7 };
                index.packs.insert(*data, pack);
            }
            index.entries.insert((Kind::Step, Digest::of(key.as_bytes())), entry.clone());
        }
        index
    }

    #[test]
    fn what_is_written_is_read() {
        let index =
            index(&[("a", entry("x", Holds::Contents, b"1")), ("b", entry("y", Holds::Nothing, b"2"))]);
        assert_eq!(Index::decode(&index.encode().unwrap()).unwrap(), index);
        assert_eq!(Index::decode(&Index::default().encode().unwrap()).unwrap(), Index::default());
    }

    proptest! {
        #[test]
        fn damage_is_noticed(at in 0_usize..400, bit in 0_u8..8) {
            let mut bytes = index(&[("a", entry("x", Holds::Contents, b"1"))]).encode().unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(Index::decode(&bytes).is_err());
            bytes.truncate(at);
            prop_assert!(Index::decode(&bytes).is_err());
        }

        #[test]
        fn anything_is_read_without_a_panic(bytes: Vec<u8>) {
            let whole = [MAGIC, Digest::of(&bytes).hex().as_bytes(), b"\n", &bytes].concat();
            let _ = Index::decode(&whole);
        }
    }

    #[test]
    fn the_first_result_stays_and_gets_more_of_itself() {
        let merged = |old: Entry, new: Entry| {
            let mut merged = index(&[("a", old)]);
            merged.merge(index(&[("a", new)]), None);
            merged.entries.into_values().next().unwrap()
        };
        let old = entry("x", Holds::Listing, b"1");
        assert_eq!(merged(old.clone(), entry("y", Holds::Contents, b"2")).body, "x");
        assert_eq!(merged(old.clone(), entry("x", Holds::Contents, b"2")).holds, Holds::Contents);
        assert_eq!(merged(old.clone(), entry("x", Holds::Nothing, b"2")), old);
        let used = Entry { used: 9, ..entry("y", Holds::Contents, b"2") };
        assert_eq!(merged(old, used).used, 9);
    }

    #[test]
    fn a_wrong_signature_makes_way() {
        let signature = Signature::new(b"secret").unwrap();
        let key = Digest::of(b"a");
        let signed = |body: &str, by: &Signature| Entry {
            signature: Some(by.sign(Kind::Step, &key, body)),
            ..entry(body, Holds::Contents, b"1")
        };
        let forged = signed("forged", &Signature::new(b"other").unwrap());
        let mut merged = index(&[("a", forged)]);
        merged.merge(index(&[("a", signed("true", &signature))]), Some(&signature));
        assert_eq!(merged.entries.values().next().unwrap().body, "true");
    }

    #[test]
    fn what_is_unused_goes_with_its_packs() {
        let old = Entry { used: 1, ..entry("x", Holds::Contents, b"1") };
        let mut index = index(&[("a", old), ("b", entry("y", Holds::Contents, b"2"))]);
        index.prune(2);
        assert_eq!(index.entries.len(), 1);
        assert_eq!(index.packs.keys().collect::<Vec<_>>(), [&Digest::of(b"2")]);
    }
}
