//! What the files of a disk face look like from outside: cheap to look at again, and different when somebody wrote to
//! them.

use std::os::fd::AsFd;
use std::path::Path;

use rayon::prelude::*;
use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use sha2::{Digest as _, Sha256};
use wbuild_oci::Digest;
use wbuild_tree::Name;

use crate::error::{At, SnapshotError};
use crate::folders::{FolderId, Folders, READ};

/// Changing what a seal covers means a new number.
const VERSION: &[u8] = b"wbuild-seal-1\n";

/// The seal of the files below `dir`: names, types, modes, sizes and modification times. Not their bytes, which nobody
/// could read before each use; not their owners, which differ by the user namespace they are looked at from; not what
/// making hard links to them changes.
///
/// Some hundred thousand files a second. Follows no link.
///
/// # Errors
/// When something cannot be read: directories that a step closed to others can be only from inside of its user
/// namespace.
pub fn seal(dir: &Path) -> Result<Digest, SnapshotError> {
    let mut folders = Folders::open(dir)?;
    let mut hasher = Sha256::new();
    hasher.update(VERSION);
    let mut level = vec![FolderId::ROOT];
    while !level.is_empty() {
        let listed: Result<Vec<Listed>, SnapshotError> =
            level.par_iter().map(|folder| list(&folders, *folder)).collect();
        let mut below = Vec::new();
        for (folder, listed) in level.iter().zip(listed?) {
            hasher.update(listed.digest);
            below.extend(listed.directories.into_iter().map(|name| folders.add(*folder, name)));
        }
        level = below;
    }
    Ok(Digest::from_bytes(hasher.finalize().into()))
}

/// One directory.
struct Listed {
    digest: [u8; 32],
    directories: Vec<Name>,
}

fn list(folders: &Folders, folder: FolderId) -> Result<Listed, SnapshotError> {
    let shown = || folders.shown(folder);
    let directory = folders.descriptor(folder, READ)?;
    let mut found: Vec<(Name, Stat)> = Vec::new();
    for entry in Dir::read_from(&directory).at_with("read", shown)? {
        // `.` and `..` are no names.
        let Ok(name) = Name::new(entry.at_with("read", shown)?.file_name().to_bytes()) else { continue };
        let stat = statat(directory.as_fd(), name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW);
        found.push((name, stat.at_with("read", shown)?));
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut hasher = Sha256::new();
    hasher.update((found.len() as u64).to_le_bytes());
    let mut directories = Vec::new();
    for (name, stat) in found {
        let is_directory = FileType::from_raw_mode(stat.st_mode).is_dir();
        hasher.update((name.as_bytes().len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(stat.st_mode.to_le_bytes());
        hasher.update(stat.st_rdev.to_le_bytes());
        // What a directory takes is the file system's affair.
        hasher.update(if is_directory { 0 } else { stat.st_size }.to_le_bytes());
        hasher.update(stat.st_mtime.to_le_bytes());
        hasher.update(stat.st_mtime_nsec.to_le_bytes());
        if is_directory {
            directories.push(name);
        }
    }
    Ok(Listed { digest: hasher.finalize().into(), directories })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn every_write_shows_and_links_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("fs");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/file"), "one").unwrap();
        fs::write(root.join("a/b/other"), "two").unwrap();
        let sealed = seal(&root).unwrap();
        fs::hard_link(root.join("a/file"), dir.path().join("link")).unwrap();
        assert_eq!(seal(&root).unwrap(), sealed);
        // Long ago, so that what follows has another time for certain.
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        fs::File::open(root.join("a/file")).unwrap().set_modified(long_ago).unwrap();
        let mut last = seal(&root).unwrap();
        assert_ne!(last, sealed);
        let changes: [&dyn Fn(); 5] = [
            &|| fs::write(root.join("a/file"), "uno").unwrap(),
            &|| fs::write(root.join("a/b/other"), "three").unwrap(),
            &|| fs::set_permissions(root.join("a/file"), fs::Permissions::from_mode(0o600)).unwrap(),
            &|| fs::rename(root.join("a/b/other"), root.join("a/b/renamed")).unwrap(),
            &|| fs::remove_file(root.join("a/b/renamed")).unwrap(),
        ];
        for (number, change) in changes.iter().enumerate() {
            change();
            let now = seal(&root).unwrap();
            assert_ne!(now, last, "change {number}");
            last = now;
        }
    }
}
