use std::fs;

use rustix::io::Errno;
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::failure::{Doing, Failure, While as _};
use crate::sys;

/// As whom steps and handlers work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// Real root with real ids; no user namespace.
    Root,
    /// A user namespace with one id, which is the caller's outside and the step's user inside. Other owners are
    /// recorded and not applied, see [`crate::Owned`].
    SingleId,
}

/// The ids of the caller that an [`Identity::SingleId`] namespace maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Caller {
    pub(crate) fn current() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }
}

impl Identity {
    /// Puts this process, which must be single-threaded, into the namespace of this identity. Afterwards it has
    /// all capabilities there, and files of the caller belong to `uid` and `gid`.
    pub(crate) fn enter(self, uid: u32, gid: u32) -> Result<(), Failure> {
        match self {
            Self::Root => Ok(()),
            Self::SingleId => {
                let caller = Caller::current();
                sys::unshare(UnshareFlags::NEWUSER).doing(Doing::UserNamespace)?;
                // A process without privileges outside may only map its group after giving up setgroups(2).
                for (path, content) in [
                    ("/proc/self/setgroups", "deny".to_owned()),
                    ("/proc/self/uid_map", format!("{uid} {} 1\n", caller.uid)),
                    ("/proc/self/gid_map", format!("{gid} {} 1\n", caller.gid)),
                ] {
                    fs::write(path, content).doing_to(Doing::UserNamespace, path)?;
                }
                Ok(())
            }
        }
    }

    /// Whether files can be given to `uid` and `gid`: in a namespace of one id, only to the step's own user, to
    /// whom they belong anyway.
    pub(crate) fn give(self, fd: impl std::os::fd::AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
        match self {
            Self::Root => rustix::fs::fchown(
                fd,
                Some(rustix::fs::Uid::from_raw(uid)),
                Some(rustix::fs::Gid::from_raw(gid)),
            ),
            Self::SingleId => Ok(()),
        }
    }
}
