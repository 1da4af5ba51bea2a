use std::collections::VecDeque;

use wbuild_tree::{EntryPath, MAX_SYMLINKS};

use crate::error::ContextError;
use crate::listing::{Listed, Listing};
use crate::policy::FileKind;

/// The part of a listing that is used, and so read: what stages that are built copy or mount.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    pub(crate) listing: &'a Listing,
    pub(crate) chosen: Vec<bool>,
}

impl Listing {
    /// Nothing yet.
    pub fn select_none(&self) -> Selection<'_> {
        Selection { listing: self, chosen: vec![false; self.len()] }
    }

    /// Everything.
    pub fn select_all(&self) -> Selection<'_> {
        Selection { listing: self, chosen: vec![true; self.len()] }
    }
}

impl Selection<'_> {
    /// Adds what `path` names and all that is in it; of the directories above only themselves. A symbolic link, last or
    /// on the way, is added too and followed inside of the context, as a process chrooted there would; a link that leads
    /// nowhere is added alone.
    ///
    /// # Errors
    /// When the path is not in the listing, or its links lead in circles.
    pub fn add(&mut self, path: &EntryPath) -> Result<(), ContextError> {
        let listing = self.listing;
        let mut pending: VecDeque<Vec<u8>> = path.components().map(|name| name.as_bytes().to_vec()).collect();
        let mut here: Option<usize> = None;
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    here = here.and_then(|index| listing.parent(index));
                    continue;
                }
                _ => {}
            }
            let Some(next) = listing.child(here, &name) else {
                return if links > 0 { Ok(()) } else { Err(listing.not_found(path)) };
            };
            let slot = &listing.slots[next];
            if slot.facts.kind != FileKind::Symlink {
                here = Some(next);
                continue;
            }
            links += 1;
            if links > MAX_SYMLINKS {
                return Err(ContextError::TooManyLinks { path: path.clone() });
            }
            self.choose(next);
            let target = &listing.targets[slot.target as usize];
            if target.starts_with(b"/") {
                here = None;
            }
            for part in target.split(|b| *b == b'/').rev() {
                pending.push_front(part.to_vec());
            }
        }
        match here {
            Some(index) => self.choose_all_in(index),
            None => self.chosen.fill(true),
        }
        Ok(())
    }

    /// Adds one entry of the listing with all that is in it, following nothing.
    ///
    /// The entry must come from the listing that this selection was made from.
    pub fn add_entry(&mut self, entry: Listed<'_>) {
        self.choose_all_in(entry.index());
    }

    /// Adds every entry for which `wanted` says so, with the directories above it. What is in a directory is asked about
    /// by itself.
    pub fn add_where(&mut self, mut wanted: impl FnMut(Listed<'_>) -> bool) {
        for entry in self.listing.entries() {
            if wanted(entry) {
                self.choose(entry.index());
            }
        }
    }

    /// Whether the entry is part of it.
    pub fn contains(&self, entry: Listed<'_>) -> bool {
        self.chosen.get(entry.index()).copied().unwrap_or(false)
    }

    fn choose_all_in(&mut self, index: usize) {
        self.choose(index);
        let end = self.listing.slots[index].end as usize;
        self.chosen[index..end].fill(true);
    }

    fn choose(&mut self, index: usize) {
        let mut here = Some(index);
        while let Some(index) = here {
            // What is chosen has all its parents chosen.
            if std::mem::replace(&mut self.chosen[index], true) {
                break;
            }
            here = self.listing.parent(index);
        }
    }
}
