//! What helpers do inside the user namespace of steps (decision 10).

use std::io::{Read, Write};
use std::path::PathBuf;

use wbuild_executor::{Handler, Owned};
use wbuild_snapshot::{CollectRequest, Device, Override, collect};

/// Collects what a step wrote.
pub(crate) const COLLECT: &str = "collect";

/// Removes folders.
pub(crate) const REMOVE: &str = "remove";

/// To be registered with the executor before anything else happens in `main`.
pub fn handlers() -> [(&'static str, Handler); 2] {
    [(COLLECT, collect_here), (REMOVE, remove_here)]
}

fn collect_here(request: &mut dyn Read, reply: &mut dyn Write) -> Result<(), String> {
    let request: CollectRequest = serde_json::from_reader(request).map_err(chain)?;
    let collected = collect(&request).map_err(chain)?;
    serde_json::to_writer(reply, &collected).map_err(chain)
}

fn remove_here(request: &mut dyn Read, _: &mut dyn Write) -> Result<(), String> {
    let folders: Vec<PathBuf> = serde_json::from_reader(request).map_err(chain)?;
    folders.iter().try_for_each(|folder| wbuild_store::remove_tree(folder).map_err(chain))
}

/// An error with its causes, for the other side of the pipe.
fn chain<E: std::error::Error>(error: E) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
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
