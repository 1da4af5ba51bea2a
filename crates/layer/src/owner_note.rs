use std::os::fd::BorrowedFd;

use rustix::fs::{XattrFlags, fremovexattr, fsetxattr};
use rustix::io::Errno;

/// Whose a file is, written on the file itself where the file system cannot be told (one id only, decision 13).
///
/// An extended attribute, because an overlay takes it along when a step changes a file of a layer below: what was copied
/// up has it and belongs to whom it belonged, what the step made has none and belongs to the step's user. Nothing else
/// tells the two apart: overlay's own mark of origin is not made for files with several names, which all of the pool's have.
/// No note says root.
///
/// It is no content: no tree and no layer has it, and it is not taken from one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnerNote {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl OwnerNote {
    /// The attribute's name.
    pub const ATTRIBUTE: &str = "user.wbuild.owner";

    /// Root's.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };

    /// Reads the value of the attribute; `None` for what nobody here wrote.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
        Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    }

    /// Writes it on an open file or directory that has none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(self, file: BorrowedFd<'_>) -> rustix::io::Result<()> {
        if self == Self::ROOT {
            return Ok(());
        }
        let value = format!("{}:{}", self.uid, self.gid);
        fsetxattr(file, Self::ATTRIBUTE, value.as_bytes(), XattrFlags::empty())
    }

    /// Writes it on an open file or directory in the place of what is there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn replace(self, file: BorrowedFd<'_>) -> rustix::io::Result<()> {
        if self != Self::ROOT {
            return self.write(file);
        }
        match fremovexattr(file, Self::ATTRIBUTE) {
            Err(Errno::NODATA) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(OwnerNote::parse(b"1000:33"), Some(OwnerNote { uid: 1000, gid: 33 }));
        for wrong in [&b""[..], b"1", b"a:b", b"1:-1", b"4294967296:0", b"\xff:1"] {
            assert_eq!(OwnerNote::parse(wrong), None);
        }
    }
}
