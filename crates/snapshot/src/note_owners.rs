//! Whose the files of a step are, written on them where only one id exists.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags, openat, statx};
use serde::{Deserialize, Serialize};
use wbuild_layer::OwnerNote;
use wbuild_tree::Name;

use crate::collect::Override;
use crate::error::{At, SnapshotError};
use crate::folders::{FolderId, Folders, READ};
use crate::marks::{attributes, is_whiteout};

/// What to write owners on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NoteOwners {
    /// The upper directory that the step ran in.
    pub dir: PathBuf,
    /// User and group that it ran as.
    pub user: (u32, u32),
    /// What it gave away, among other things.
    pub overrides: Vec<Override>,
}

/// Writes on every file and directory whose it is: to whom the step gave it, else to whom it belonged in the layer that it
/// was copied up from, else the step's user. Gives the overrides back, complete, with those added that are for what can
/// carry no note (symbolic links, pipes).
///
/// Has to run where everything can be read and written, as [`collect`](crate::collect()).
///
/// # Errors
/// Names the path.
pub fn note_owners(request: &NoteOwners) -> Result<Vec<Override>, SnapshotError> {
    let mut folders = Folders::open(&request.dir)?;
    let user = OwnerNote { uid: request.user.0, gid: request.user.1 };
    let mut known: HashMap<u64, Override> =
        request.overrides.iter().map(|over| (over.inode, over.clone())).collect();
    let mut pending = vec![FolderId::ROOT];
    while let Some(folder) = pending.pop() {
        let directory = folders.descriptor(folder, READ)?;
        let shown = || folders.shown(folder);
        let mut below = Vec::new();
        for entry in Dir::read_from(&directory).at_with("read", shown)? {
            // `.` and `..` are no names.
            let Ok(name) = Name::new(entry.at_with("read", shown)?.file_name().to_bytes()) else { continue };
            let shown = || folders.shown(folder).join(name.as_os_str());
            if note(directory.as_fd(), &name, user, &mut known).at_with("note the owner of", shown)? {
                below.push(name);
            }
        }
        pending.extend(below.into_iter().map(|name| folders.add(folder, name)));
    }
    let mut overrides: Vec<Override> = known.into_values().collect();
    overrides.sort_by_key(|over| over.inode);
    Ok(overrides)
}

/// Whether it is a directory.
fn note(
    directory: BorrowedFd<'_>,
    name: &Name,
    user: OwnerNote,
    known: &mut HashMap<u64, Override>,
) -> rustix::io::Result<bool> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let stat = statx(directory, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    if is_whiteout(kind, rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor)) {
        return Ok(false);
    }
    let born = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
    let given = known.get_mut(&stat.stx_ino).filter(|over| over.born.is_none_or(|at| at == born));
    let complete = |over: &mut Override, otherwise: OwnerNote| {
        let owner =
            OwnerNote { uid: over.uid.unwrap_or(otherwise.uid), gid: over.gid.unwrap_or(otherwise.gid) };
        (over.uid, over.gid) = (Some(owner.uid), Some(owner.gid));
        owner
    };
    if !matches!(kind, FileType::Directory | FileType::RegularFile) {
        match given {
            Some(over) => {
                complete(over, user);
            }
            None if user == OwnerNote::ROOT => {}
            None => {
                let (uid, gid) = (Some(user.uid), Some(user.gid));
                let over =
                    Override { inode: stat.stx_ino, born: Some(born), uid, gid, ..Override::default() };
                known.insert(stat.stx_ino, over);
            }
        }
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(directory, name.as_bytes(), flags, Mode::empty())?;
    let found = attributes(file.as_fd())?;
    let before = match found.owner {
        Some(owner) => owner,
        None if found.copied_up => OwnerNote::ROOT,
        None => user,
    };
    let owner = given.map_or(before, |over| complete(over, before));
    if found.owner.unwrap_or(OwnerNote::ROOT) != owner {
        owner.replace(file.as_fd())?;
    }
    Ok(kind.is_dir())
}
