use std::sync::OnceLock;

use crate::error::ContextError;
use crate::listing::{Listing, NONE, Slot};
use crate::policy::{FileKind, LeftOut, ListOptions, Policy};
use crate::root::ContextRoot;
use crate::walk::{Findings, Found, FoundDirectory, MAX_ENTRIES};

/// A directory whose entries are being taken over.
struct Level {
    entries: std::vec::IntoIter<Found>,
    /// Where its names begin in the listing's.
    first_name: u32,
    /// Its own place in the listing; `None` for the root.
    index: Option<usize>,
    /// Goes when nothing is in it.
    only_for_contents: bool,
}

/// Brings what the threads found into tree order. Without recursion: trees may be deep.
pub(crate) fn assemble(
    root: ContextRoot,
    options: ListOptions,
    findings: Findings,
) -> Result<Listing, ContextError> {
    let count = findings.directories.iter().map(|directory| directory.number + 1).max().unwrap_or(0);
    let mut directories: Vec<Option<FoundDirectory>> = Vec::new();
    directories.resize_with(count, || None);
    let mut total = 0;
    let mut names = 0;
    for directory in findings.directories {
        total += directory.entries.len();
        names += directory.names.len();
        let number = directory.number;
        directories[number] = Some(directory);
    }
    if total > MAX_ENTRIES || u32::try_from(names).is_err() {
        return Err(ContextError::TooMany);
    }
    let mut listing = Listing {
        root,
        policy: options.policy,
        rules: options.rules,
        slots: Vec::with_capacity(total),
        names: Vec::with_capacity(names),
        targets: Vec::new(),
        left_out: group(findings.left_out),
        by_key: OnceLock::new(),
    };
    // Takes over the names of a directory in one piece, and says where they begin.
    let mut open = |names: &mut Vec<u8>, number: u32| {
        let found = directories.get_mut(number as usize).and_then(Option::take);
        let first_name = names.len() as u32;
        let entries = found.map(|found| {
            names.extend_from_slice(&found.names);
            found.entries
        });
        (first_name, entries.unwrap_or_default().into_iter())
    };
    let (first_name, entries) = open(&mut listing.names, 0);
    let mut stack = vec![Level { entries, first_name, index: None, only_for_contents: false }];
    let mut whiteout = None;
    while let Some(level) = stack.last_mut() {
        let Some(found) = level.entries.next() else {
            let Some(Level { index: Some(index), only_for_contents, .. }) = stack.pop() else { break };
            let end = listing.slots.len();
            if only_for_contents && end == index + 1 {
                listing.slots.pop();
                whiteout = whiteout.filter(|at| *at != index);
            } else {
                listing.slots[index].end = end as u32;
            }
            continue;
        };
        let index = listing.slots.len();
        listing.slots.push(Slot {
            name: (level.first_name + found.name.0, found.name.1),
            parent: level.index.map_or(NONE, |parent| parent as u32),
            end: index as u32 + 1,
            target: listing.targets.len() as u32,
            path_key: found.path_key,
            facts: found.facts,
        });
        listing.targets.extend(found.target);
        if whiteout.is_none() && listing.name(index).starts_with(b".wh.") {
            whiteout = Some(index);
        }
        if found.facts.kind == FileKind::Directory {
            // git knows no empty directories, and an install or a build may have left some behind.
            let only_for_contents = found.only_for_contents || options.policy == Policy::Workspace;
            let (first_name, entries) = open(&mut listing.names, found.directory);
            stack.push(Level { entries, first_name, index: Some(index), only_for_contents });
        }
    }
    match whiteout {
        Some(index) => Err(ContextError::WhiteoutName { path: listing.path(index) }),
        None => Ok(listing),
    }
}

fn group(mut left_out: Vec<(crate::LeftOutReason, wbuild_tree::EntryPath)>) -> Vec<LeftOut> {
    left_out.sort();
    let mut groups: Vec<LeftOut> = Vec::new();
    for (reason, path) in left_out {
        if groups.last().is_none_or(|last| last.reason != reason) {
            groups.push(LeftOut { reason, count: 0, examples: Vec::new() });
        }
        if let Some(group) = groups.last_mut() {
            group.count += 1;
            if group.examples.len() < LeftOut::EXAMPLES {
                group.examples.push(path);
            }
        }
    }
    groups
}
