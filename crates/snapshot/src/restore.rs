//! What the files of an imported step cannot say about themselves.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use wbuild_layer::Owners;
use wbuild_store::Store;
use wbuild_tree::{Entry, EntryPath, Node, Subtree, Time, Visit, walk};

use crate::collect::{Device, Override};
use crate::error::{At, SnapshotError};

/// The attribute in which a file keeps the capabilities of its program.
const CAPABILITY: &[u8] = b"security.capability";

/// What the files of `root` in `dir` can neither be nor carry a note of, by inode, as the supervisor of a step records it:
/// owners of links and pipes, devices, capabilities. Devices that could not be made get an empty file as a place to stand.
///
/// # Errors
/// Names the path.
pub(crate) fn overrides_of(
    store: &Store,
    root: &Subtree,
    dir: &Path,
    owners: Owners,
) -> Result<Vec<Override>, SnapshotError> {
    let mut kept = Vec::new();
    if owners == Owners::Set {
        return Ok(kept);
    }
    walk(store, root, &mut |path, entry| {
        kept.extend(override_of(path, entry, dir)?);
        Ok::<_, SnapshotError>(Visit::Into)
    })?;
    Ok(kept)
}

fn override_of(path: &EntryPath, entry: &Entry, dir: &Path) -> Result<Option<Override>, SnapshotError> {
    let meta = &entry.meta;
    let device = match entry.node {
        Node::Whiteout => return Ok(None),
        Node::CharDevice { major, minor } => Some(Device { block: false, major, minor }),
        Node::BlockDevice { major, minor } => Some(Device { block: true, major, minor }),
        _ => None,
    };
    let capability =
        meta.xattrs.iter().find(|(name, _)| *name == CAPABILITY).map(|(_, value)| value.to_vec());
    // Files and directories carry a note.
    let noted = matches!(entry.node, Node::File { .. } | Node::Directory { .. });
    if (noted || (meta.uid, meta.gid) == (0, 0)) && device.is_none() && capability.is_none() {
        return Ok(None);
    }
    let place = dir.join(path.to_path_buf());
    if device.is_some() {
        stand_in(&place, meta.mtime)?;
    }
    let stat = fs::symlink_metadata(&place).at("read", &place)?;
    let born = stat.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok(Some(Override {
        inode: stat.ino(),
        born: born.and_then(|age| Some((i64::try_from(age.as_secs()).ok()?, age.subsec_nanos()))),
        uid: Some(meta.uid),
        gid: Some(meta.gid),
        // That of a device's stand-in is its own.
        mode: device.is_some().then_some(meta.mode),
        device,
        capability,
    }))
}

/// Makes the file that stands where a device should; its directory's time stays as it was.
fn stand_in(place: &Path, mtime: Time) -> Result<(), SnapshotError> {
    let directory = place.parent().unwrap_or(place);
    let before = fs::metadata(directory).and_then(|meta| meta.modified()).at("read", directory)?;
    let file = File::create_new(place).at("create", place)?;
    drop(file);
    set_modified(place, mtime).at("describe", place)?;
    File::open(directory).and_then(|directory| directory.set_modified(before)).at("describe", directory)
}

/// Sets a file's or directory's time of modification.
///
/// # Errors
/// The system's.
pub fn set_modified(path: &Path, mtime: Time) -> std::io::Result<()> {
    Ok(rustix::fs::utimensat(
        rustix::fs::CWD,
        path,
        &crate::pool::timestamps(mtime),
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )?)
}
