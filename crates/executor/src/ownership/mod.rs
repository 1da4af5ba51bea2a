//! Who was to own which file, where only one id exists (decision 13).
//!
//! In a user namespace of one id every file belongs to the caller, and the kernel refuses to give it to anybody else. So
//! the calls that would do that go to a *supervisor*, by seccomp's user notification: it does what the kernel would do
//! besides (copy the file up, clear set-id bits, fail where the file system is read-only), remembers the owner by the
//! file's inode and birth time in the directory of changes, and answers success. Changes of identity are remembered per
//! process and told back when asked for; the process stays what it was.
//!
//! What this does not do, and a step can notice:
//! - `stat` shows the step's user as owner of everything, and the capabilities of a file as none. So `cp -p` and `tar c`
//!   copy that owner. (Busybox's `chown`, which reads owners too, is understood.)
//! - A process that became another user by `setuid` has still all access, and files it makes belong to the step's user
//!   unless it gives them away. `USER` is not concerned: the one id is mapped to it.
//! - A device made by `mknod` is an empty file for the step.
//! - What is done in mounts (caches, tmpfs) is not remembered after the step.

mod busybox;
mod credentials;
mod ledger;
mod supervisor;
mod task;

pub(crate) use supervisor::{Link, Supervisor};

use serde::{Deserialize, Serialize};

/// So many entries stay well below what one frame may hold.
pub(crate) const PER_REPORT: usize = 1000;

/// What one id could not express about a file of a step's changes. The file is known by the inode number that it has in
/// the directory of changes; since numbers are used again, its birth time must agree as well.
///
/// A file without an entry belongs to the step's user if the step made it, and to whom it belonged before if the step
/// only changed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// Inode number.
    pub ino: u64,
    /// Birth time: seconds and nanoseconds since the epoch.
    pub born: (i64, u32),
    /// User, if it was given to one.
    pub uid: Option<u32>,
    /// Group, if it was given to one.
    pub gid: Option<u32>,
    /// The device that it was to be; it is an empty ordinary file with the right permissions.
    pub special: Option<Special>,
    /// The value of its xattr `security.capability`.
    pub capability: Option<Vec<u8>>,
}

/// A device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Special {
    /// A block device; else a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}
