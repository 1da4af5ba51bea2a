use std::fmt;

use sha2::{Digest as _, Sha256};
use wbuild_oci::Digest;

/// A format of SBOMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SbomFormat {
    /// SPDX 2.3.
    Spdx,
    /// CycloneDX 1.6.
    CycloneDx,
}

impl SbomFormat {
    /// The type of the predicate of a statement (in-toto attestation, predicates).
    pub const fn predicate_type(self) -> &'static str {
        match self {
            Self::Spdx => "https://spdx.dev/Document",
            Self::CycloneDx => "https://cyclonedx.org/bom",
        }
    }

    /// What the file is called beside files of an output; that of SPDX is BuildKit's.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Spdx => "sbom.spdx.json",
            Self::CycloneDx => "sbom.cdx.json",
        }
    }
}

impl fmt::Display for SbomFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spdx => "spdx",
            Self::CycloneDx => "cyclonedx",
        })
    }
}

/// What a document is about, and who writes it.
#[derive(Clone, Debug)]
pub struct About {
    /// What the image is called.
    pub name: String,
    /// Its manifest; nothing when only its files are written.
    pub digest: Option<Digest>,
    /// `linux/amd64`.
    pub platform: String,
    /// The time of everything that is written, in the form of RFC 3339 with `Z`.
    pub created: String,
    /// The release of wbuild.
    pub version: String,
}

/// A UUID out of content: version 8 of RFC 9562, which leaves the bits to whoever makes it.
pub(crate) fn uuid(content: &[u8]) -> String {
    let hash: [u8; 32] = Sha256::digest(content).into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_say_their_version() {
        let made = uuid(b"x");
        assert_eq!(made.len(), 36);
        assert_eq!(made.as_bytes()[14], b'8');
        assert!(matches!(made.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }
}
