//! The marks by which an overlay file system stores whiteouts and opaque directories. They act on whoever mounts them,
//! so they are made by this crate only and never taken from a layer.

use crate::owner_note::OwnerNote;

/// The attribute of an opaque directory, as every mount here (`userxattr`) reads it.
pub(crate) const OPAQUE: &str = "user.overlay.opaque";

/// Whether an attribute is overlay's own, or wbuild's.
pub(crate) fn is_mark(name: &[u8]) -> bool {
    [&b"user.overlay."[..], b"trusted.overlay."].iter().any(|prefix| name.starts_with(prefix))
        || name == OwnerNote::ATTRIBUTE.as_bytes()
}
