use std::collections::VecDeque;

use wbuild_tree::{EntryPath, MAX_SYMLINKS, Name};

use crate::error::ContextError;
use crate::ignore::DirectoryVerdict;
use crate::listing::{Listed, Listing};
use crate::policy::FileKind;
use crate::sources::{Parents, SourcePattern, Wildcard};

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

/// Where a path leads in a listing.
enum Reached {
    /// To this entry; `None` is the root.
    Entry(Option<usize>),
    /// To nothing.
    Nowhere {
        /// Whether a link led there.
        by_link: bool,
    },
    /// In circles.
    Loop,
}

impl Selection<'_> {
    /// Adds what `path` names and all that is in it; of the directories above only themselves. A symbolic link, last or
    /// on the way, is added too and followed inside of the context, as a process chrooted there would; a link that leads
    /// nowhere is added alone.
    ///
    /// # Errors
    /// When the path is not in the listing, or its links lead in circles.
    pub fn add(&mut self, path: &EntryPath) -> Result<(), ContextError> {
        match self.follow(None, path) {
            Reached::Entry(entry) => self.choose_all_in(entry),
            Reached::Nowhere { by_link: true } => {}
            Reached::Nowhere { by_link: false } => return Err(self.listing.not_found(path)),
            Reached::Loop => return Err(ContextError::TooManyLinks { path: path.clone() }),
        }
        Ok(())
    }

    /// Adds what a source of COPY or ADD names. What names nothing adds nothing: whoever needs it finds out. The directory
    /// that a wildcard is looked for in is added by itself.
    pub fn add_matching(&mut self, pattern: &SourcePattern) {
        match pattern {
            SourcePattern::Path(path) => {
                if let Reached::Entry(entry) = self.follow(None, path) {
                    self.choose_all_in(entry);
                }
            }
            SourcePattern::Wildcard { below, wildcard } => {
                for entry in self.matching(below, wildcard) {
                    self.choose_all_in(entry);
                }
            }
            SourcePattern::Parents(parents) => match parents.pivot() {
                SourcePattern::Path(path) => {
                    if let Reached::Entry(entry) = self.follow(None, path) {
                        self.add_with_parents(entry, parents);
                    }
                }
                SourcePattern::Wildcard { below, wildcard } => {
                    for entry in self.matching(below, wildcard) {
                        self.add_with_parents(entry, parents);
                    }
                }
                SourcePattern::Parents(_) => {}
            },
        }
    }

    /// Follows a path from a directory. Adds the links that it goes through, and nothing else.
    fn follow(&mut self, from: Option<usize>, path: &EntryPath) -> Reached {
        let listing = self.listing;
        let mut pending: VecDeque<Vec<u8>> = path.components().map(|name| name.as_bytes().to_vec()).collect();
        let mut here = from;
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
                return Reached::Nowhere { by_link: links > 0 };
            };
            let slot = &listing.slots[next];
            if slot.facts.kind != FileKind::Symlink {
                here = Some(next);
                continue;
            }
            links += 1;
            if links > MAX_SYMLINKS {
                return Reached::Loop;
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
        Reached::Entry(here)
    }

    /// The entries below a directory that match, links followed, and nothing that lies in one of them.
    fn matching(&mut self, below: &EntryPath, wildcard: &Wildcard) -> Vec<Option<usize>> {
        let listing = self.listing;
        let mut found = Vec::new();
        let Reached::Entry(top) = self.follow(None, below) else { return found };
        if let Some(top) = top {
            self.choose(top);
        }
        let (mut next, end, prefix) = listing.inside(top);
        while next < end {
            let at = next;
            let slot = &listing.slots[at];
            next = slot.end as usize;
            let path = listing.path(at);
            let path = &path.as_bytes()[prefix..];
            if wildcard.matches(path) {
                let reached = match (slot.facts.kind, Name::new(listing.name(at))) {
                    (FileKind::Symlink, Ok(name)) => {
                        self.follow(listing.parent(at), &EntryPath::root().join(&name))
                    }
                    _ => Reached::Entry(Some(at)),
                };
                if let Reached::Entry(entry) = reached {
                    found.push(entry);
                }
            } else if slot.facts.kind == FileKind::Directory && wildcard.leads_to(path) {
                next = at + 1;
            }
        }
        found
    }

    /// Adds what is included in a directory. Nothing is followed.
    fn add_with_parents(&mut self, top: Option<usize>, parents: &Parents) {
        let listing = self.listing;
        if let Some(top) = top {
            self.choose(top);
        }
        let rules = parents.rules();
        let (mut next, end, prefix) = listing.inside(top);
        // The directories above, each with its end and what it hands down.
        let mut above = vec![(end, rules.root())];
        while next < end {
            let at = next;
            while above.last().is_some_and(|(end, _)| *end <= at) {
                above.pop();
            }
            let Some((_, inherited)) = above.last() else { break };
            let slot = &listing.slots[at];
            next = slot.end as usize;
            let path = listing.path(at);
            let path = &path.as_bytes()[prefix..];
            if slot.facts.kind != FileKind::Directory {
                if rules.excludes_file(inherited, path) {
                    self.choose(at);
                }
                continue;
            }
            let (verdict, handed_down) = rules.directory(inherited, path);
            if verdict != DirectoryVerdict::Taken {
                self.choose_all_in(Some(at));
            } else if parents.leads_to(path) {
                above.push((slot.end as usize, handed_down));
                next = at + 1;
            }
        }
    }

    /// Adds one entry of the listing with all that is in it, following nothing.
    ///
    /// The entry must come from the listing that this selection was made from.
    pub fn add_entry(&mut self, entry: Listed<'_>) {
        self.choose_all_in(Some(entry.index()));
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

    /// `None` is the root.
    fn choose_all_in(&mut self, entry: Option<usize>) {
        let Some(index) = entry else {
            self.chosen.fill(true);
            return;
        };
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
