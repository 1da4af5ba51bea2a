//! An index at a place where nobody says whether what is there can be replaced.
//!
//! The first who writes a scope puts a mark under its name, then the index over the mark, and looks. Where the index is
//! there now, things can be replaced: the index stays under that name. Where the mark is still there, they cannot: the index
//! goes under a name of its own for each version, counted from 1, and readers that find the mark look for the newest.

use wbuild_oci::Digest;

use super::readable;
use crate::error::{CacheError, damaged};
use crate::index::Index;

/// What stands for an index that has versions.
const MARK: &[u8] = b"wbuild-cache-versions-1\n";

/// No scope has more versions.
const MOST: u64 = 1 << 24;

/// So many others may write at the same time.
const TRIES: usize = 8;

/// Small documents by name.
pub(crate) trait Slots {
    fn read(&self, name: &Digest) -> Result<Option<Vec<u8>>, CacheError>;

    fn is_there(&self, name: &Digest) -> Result<bool, CacheError>;

    /// Stores one. That there is one already, and stays, is no error.
    fn write(&self, name: &Digest, bytes: Vec<u8>) -> Result<(), CacheError>;
}

fn slot(scope: &str, version: u64) -> Digest {
    match version {
        0 => super::scope_name(scope),
        version => Digest::of(format!("wbuild-cache-scope-1\0{scope}\0{version}").as_bytes()),
    }
}

/// What a scope has: its index, or that it has versions.
enum Found {
    Nothing,
    Mark,
    Index(Vec<u8>),
}

fn first(slots: &impl Slots, scope: &str) -> Result<Found, CacheError> {
    Ok(match readable(slots.read(&slot(scope, 0)))? {
        None => Found::Nothing,
        Some(bytes) if Index::is_one(&bytes) => Found::Index(bytes),
        // Whatever else it is, it is in the way.
        Some(_) => Found::Mark,
    })
}

/// The index of a scope.
pub(crate) fn index(slots: &impl Slots, scope: &str) -> Result<Option<Vec<u8>>, CacheError> {
    match slots.read(&slot(scope, 0))? {
        None => Ok(None),
        Some(bytes) if Index::is_one(&bytes) => Ok(Some(bytes)),
        Some(bytes) if bytes == MARK => match newest(slots, scope)? {
            0 => Ok(None),
            version => slots.read(&slot(scope, version)),
        },
        Some(_) => Err(damaged("the index".to_owned(), "it is none")),
    }
}

/// The number of the newest version; 0 when there is none.
fn newest(slots: &impl Slots, scope: &str) -> Result<u64, CacheError> {
    let is_there = |version| slots.is_there(&slot(scope, version));
    let (mut there, mut missing) = (0, 1);
    while missing < MOST && is_there(missing)? {
        (there, missing) = (missing, missing * 2);
    }
    while missing - there > 1 {
        let middle = there + (missing - there) / 2;
        match is_there(middle)? {
            true => there = middle,
            false => missing = middle,
        }
    }
    Ok(there)
}

/// Replaces the index of a scope, or adds a version.
pub(crate) fn update(
    slots: &impl Slots,
    scope: &str,
    merge: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Index>,
) -> Result<(), CacheError> {
    let replaced = slot(scope, 0);
    match first(slots, scope)? {
        Found::Index(before) => {
            let Some(index) = merge(Some(before)) else { return Ok(()) };
            return slots.write(&replaced, index.encode()?);
        }
        Found::Nothing => slots.write(&replaced, MARK.to_vec())?,
        Found::Mark => {}
    }
    let mut version = newest(slots, scope)?;
    let mut before = match version {
        0 => None,
        version => readable(slots.read(&slot(scope, version)))?,
    };
    for _ in 0..TRIES {
        let Some(index) = merge(before) else { return Ok(()) };
        let bytes = index.encode()?;
        if version == 0 {
            slots.write(&replaced, bytes.clone())?;
            if matches!(first(slots, scope)?, Found::Index(_)) {
                return Ok(());
            }
        }
        version += 1;
        let name = slot(scope, version);
        slots.write(&name, bytes.clone())?;
        before = readable(slots.read(&name))?;
        if before.as_ref() == Some(&bytes) {
            return Ok(());
        }
        // Another one was quicker: that one is added to.
    }
    Err(damaged("the index".to_owned(), "what is written to it is not there afterwards"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Mutex;

    use super::*;
    use crate::index::{Entry, Holds, Kind};

    #[derive(Default)]
    struct Place {
        kept: Mutex<BTreeMap<Digest, Vec<u8>>>,
        keeps_the_first: bool,
        reads: Mutex<usize>,
    }

    impl Slots for Place {
        fn read(&self, name: &Digest) -> Result<Option<Vec<u8>>, CacheError> {
            *self.reads.lock().unwrap() += 1;
            Ok(self.kept.lock().unwrap().get(name).cloned())
        }

        fn is_there(&self, name: &Digest) -> Result<bool, CacheError> {
            Ok(self.kept.lock().unwrap().contains_key(name))
        }

        fn write(&self, name: &Digest, bytes: Vec<u8>) -> Result<(), CacheError> {
            let mut kept = self.kept.lock().unwrap();
            if !self.keeps_the_first || !kept.contains_key(name) {
                kept.insert(*name, bytes);
            }
            Ok(())
        }
    }

    fn with(number: u32) -> impl FnMut(Option<Vec<u8>>) -> Option<Index> {
        move |stored| {
            let mut index = stored.map_or_else(Index::default, |bytes| Index::decode(&bytes).unwrap());
            let entry = Entry {
                body: number.to_string(),
                roots: Vec::new(),
                holds: Holds::Nothing,
                packs: BTreeSet::new(),
                used: number,
                signature: None,
            };
            index.entries.insert((Kind::Step, Digest::of(&number.to_le_bytes())), entry);
            Some(index)
        }
    }

    fn entries(place: &Place) -> usize {
        let index = index(place, "main").unwrap().unwrap();
        Index::decode(&index).unwrap().entries.len()
    }

    #[test]
    fn what_can_be_replaced_is_and_costs_one_read() {
        let place = Place::default();
        assert_eq!(index(&place, "main").unwrap(), None);
        for number in 0..5 {
            update(&place, "main", &mut with(number)).unwrap();
        }
        assert_eq!(place.kept.lock().unwrap().len(), 1);
        *place.reads.lock().unwrap() = 0;
        assert_eq!((entries(&place), *place.reads.lock().unwrap()), (5, 1));
    }

    #[test]
    fn what_cannot_be_replaced_gets_versions() {
        let place = Place { keeps_the_first: true, ..Place::default() };
        for number in 0..21 {
            update(&place, "main", &mut with(number)).unwrap();
            assert_eq!(entries(&place), number as usize + 1);
        }
        // The server forgot some; others begin again, and lose nothing of what they see.
        place.kept.lock().unwrap().remove(&slot("main", 1));
        assert_eq!(index(&place, "main").unwrap(), None);
        update(&place, "main", &mut with(100)).unwrap();
        assert!(entries(&place) > 1);
    }

    #[test]
    fn who_writes_at_the_same_time_loses_nothing_where_there_are_versions() {
        let place = Place { keeps_the_first: true, ..Place::default() };
        update(&place, "main", &mut with(0)).unwrap();
        let mut raced = false;
        update(&place, "main", &mut |stored| {
            if !std::mem::replace(&mut raced, true) {
                update(&place, "main", &mut with(1)).unwrap();
            }
            with(2)(stored)
        })
        .unwrap();
        assert_eq!(entries(&place), 3);
    }

    #[test]
    fn what_is_in_the_way_is_gone_around() {
        for keeps_the_first in [false, true] {
            let place = Place { keeps_the_first, ..Place::default() };
            place.kept.lock().unwrap().insert(slot("main", 0), b"nonsense".to_vec());
            assert!(index(&place, "main").is_err());
            update(&place, "main", &mut with(0)).unwrap();
            if !keeps_the_first {
                assert_eq!(entries(&place), 1);
            }
        }
    }
}
