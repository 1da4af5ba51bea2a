use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use wbuild_oci::Digest;

use crate::error::{At, StoreError};
use crate::store::{Store, private_folders};

/// The right to work on one key, among all processes that share the store. Given back when dropped, and by the kernel
/// when the process ends, however it ends.
#[derive(Debug)]
pub struct KeyLock {
    path: PathBuf,
    _file: File,
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Removed while it is still held: whoever waits on this inode sees that its name is gone and starts anew.
        let _ = fs::remove_file(&self.path);
    }
}

impl Store {
    /// Takes the lock of `key`, unless somebody has it: another process, or another thread of this one.
    ///
    /// # Errors
    /// When there is no telling.
    pub fn try_lock(&self, key: &Digest) -> Result<Option<KeyLock>, StoreError> {
        self.lock_with(key, FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes the lock of `key`, waiting until whoever has it is done or dead. Blocks the thread: look for the result
    /// again afterwards.
    ///
    /// # Errors
    /// When it cannot be had at all.
    pub fn lock(&self, key: &Digest) -> Result<KeyLock, StoreError> {
        loop {
            if let Some(lock) = self.lock_with(key, FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    fn lock_with(&self, key: &Digest, operation: FlockOperation) -> Result<Option<KeyLock>, StoreError> {
        self.writable()?;
        let path = self.layout().lock(key);
        // Each round means that another holder has come and gone meanwhile, so this ends.
        loop {
            let file = open_lock(&path)?;
            match flock(&file, operation) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error).at("lock", &path),
            }
            if is_current(&file, &path)? {
                return Ok(Some(KeyLock { path, _file: file }));
            }
        }
    }
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    let open = || {
        let flags = OFlags::NOFOLLOW.bits() as i32;
        File::options().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            private_folders(path.parent().unwrap_or(path))?;
            open()
        }
        other => other,
    }
    .at("lock", path)
}

/// Whether the locked file still has the name under which others would look for it.
fn is_current(file: &File, path: &Path) -> Result<bool, StoreError> {
    let locked = file.metadata().at("lock", path)?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (locked.dev(), locked.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("lock", path),
    }
}
