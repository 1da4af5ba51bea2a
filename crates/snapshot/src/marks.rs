//! The marks by which an overlay file system keeps what is gone: devices 0:0 and an attribute on opaque directories.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;
use wbuild_layer::OwnerNote;
use wbuild_tree::Xattrs;

/// As our mounts (`userxattr`) write and read it.
const OPAQUE: &str = "user.overlay.opaque";

/// The prefixes of everything that overlay file systems keep for themselves.
const CONTROL: [&[u8]; 2] = [b"user.overlay.", b"trusted.overlay."];

/// Attributes that belong to the content of an image. All others say something of the machine (`security.selinux`,
/// `system.posix_acl_access`, `trusted.*`).
fn is_content(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.") && name != OwnerNote::ATTRIBUTE.as_bytes()
}

/// Whether a node is a whiteout.
pub(crate) fn is_whiteout(kind: FileType, device: u64) -> bool {
    kind == FileType::CharacterDevice && device == 0
}

/// Marks an open directory as opaque.
pub(crate) fn set_opaque(directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
    fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
}

/// The extended attributes of something.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) content: Xattrs,
    pub(crate) opaque: bool,
    /// Overlay took it from a layer below.
    pub(crate) copied_up: bool,
    /// Whose it is, where the machine could not express it.
    pub(crate) owner: Option<OwnerNote>,
    /// Control data that refers to other files.
    pub(crate) foreign: Option<String>,
}

/// Reads the attributes of an open file or directory.
pub(crate) fn attributes(file: BorrowedFd<'_>) -> rustix::io::Result<Attributes> {
    let mut found = Attributes::default();
    for name in names(file)? {
        if let Some(mark) = CONTROL.iter().find_map(|prefix| name.strip_prefix(*prefix)) {
            match mark {
                // `x` says that whiteouts below are attributes, which nothing here makes.
                b"opaque" => found.opaque |= value(file, &name)? == b"y",
                b"origin" => found.copied_up = true,
                b"redirect" | b"metacopy" => {
                    found.foreign = Some(String::from_utf8_lossy(&name).into_owned());
                }
                _ => {}
            }
        } else if name == OwnerNote::ATTRIBUTE.as_bytes() {
            found.owner = OwnerNote::parse(&value(file, &name)?);
        } else if is_content(&name) {
            found.content.insert(&name, &value(file, &name)?);
        }
    }
    Ok(found)
}

fn names(file: BorrowedFd<'_>) -> rustix::io::Result<Vec<Vec<u8>>> {
    // Most have none, or one that fits.
    let mut buffer = vec![0_u8; 512];
    loop {
        match flistxattr(file, buffer.as_mut_slice()) {
            Ok(length) => {
                let list = buffer[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
                return Ok(list.map(<[u8]>::to_vec).collect());
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
    }
}

fn value(file: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; 512];
    loop {
        match fgetxattr(file, name, buffer.as_mut_slice()) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            // Values have at most 64 KiB.
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(error) => return Err(error),
        }
    }
}
