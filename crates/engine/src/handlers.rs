//! What helpers do inside the user namespace of steps (decision 10).

use std::io::{Read, Write};
use std::path::PathBuf;

use wbuild_executor::{Handler, Owned};
use wbuild_snapshot::{
    CheckRequest, CollectRequest, Device, NoteOwners, Override, check, collect, note_owners, seal,
};

/// Collects what a step wrote.
pub(crate) const COLLECT: &str = "collect";

/// Looks at the files of a disk face.
pub(crate) const SEAL: &str = "seal";

/// Compares a disk face with its tree.
pub(crate) const CHECK: &str = "check";

/// Removes folders.
pub(crate) const REMOVE: &str = "remove";

/// Writes on the files of a step whose they are.
pub(crate) const NOTE_OWNERS: &str = "note-owners";

/// To be registered with the executor before anything else happens in `main`.
pub fn handlers() -> [(&'static str, Handler); 5] {
    [
        (COLLECT, collect_here),
        (SEAL, seal_here),
        (CHECK, check_here),
        (REMOVE, remove_here),
        (NOTE_OWNERS, note_owners_here),
    ]
}

fn collect_here(request: &mut dyn Read, reply: &mut dyn Write) -> Result<(), String> {
    let request: CollectRequest = serde_json::from_reader(request).map_err(told)?;
    let collected = collect(&request).map_err(told)?;
    serde_json::to_writer(reply, &collected).map_err(told)
}

fn seal_here(request: &mut dyn Read, reply: &mut dyn Write) -> Result<(), String> {
    let folder: PathBuf = serde_json::from_reader(request).map_err(told)?;
    serde_json::to_writer(reply, &seal(&folder).map_err(told)?).map_err(told)
}

fn check_here(request: &mut dyn Read, reply: &mut dyn Write) -> Result<(), String> {
    let request: CheckRequest = serde_json::from_reader(request).map_err(told)?;
    serde_json::to_writer(reply, &check(&request).map_err(told)?).map_err(told)
}

fn remove_here(request: &mut dyn Read, _: &mut dyn Write) -> Result<(), String> {
    let folders: Vec<PathBuf> = serde_json::from_reader(request).map_err(told)?;
    folders.iter().try_for_each(|folder| wbuild_store::remove_tree(folder).map_err(told))
}

fn note_owners_here(request: &mut dyn Read, reply: &mut dyn Write) -> Result<(), String> {
    let request: NoteOwners = serde_json::from_reader(request).map_err(told)?;
    serde_json::to_writer(reply, &note_owners(&request).map_err(told)?).map_err(told)
}

/// For the other side of the pipe.
fn told<E: std::error::Error>(error: E) -> String {
    wbuild_report::with_causes(&error)
}

/// An owner as the executor recorded it, for the collector.
pub(crate) fn owner(owned: &Owned) -> Override {
    Override {
        inode: owned.ino,
        born: Some(owned.born),
        uid: owned.uid,
        gid: owned.gid,
        mode: None,
        device: owned.special.map(|special| Device {
            block: special.block,
            major: special.major,
            minor: special.minor,
        }),
        capability: owned.capability.clone(),
    }
}
