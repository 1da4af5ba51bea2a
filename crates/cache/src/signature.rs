use std::fmt;

use ring::hmac;
use wbuild_oci::Digest;

use crate::index::Kind;

/// What is signed begins with this.
const CONTEXT: &[u8] = b"wbuild-cache-record-1\0";

/// Signs records and checks their signatures: HMAC-SHA256 over kind, key and body, with a secret that those share who trust
/// each other's records (decision 18).
#[derive(Clone)]
pub struct Signature(hmac::Key);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature")
    }
}

impl Signature {
    /// With this secret; `None` when it is empty.
    pub fn new(secret: &[u8]) -> Option<Self> {
        (!secret.is_empty()).then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    fn text(kind: Kind, key: &Digest, body: &str) -> Vec<u8> {
        // Kind and key have fixed lengths or an end, so no two records have one text.
        [CONTEXT, kind.name().as_bytes(), b"\0", key.as_bytes(), body.as_bytes()].concat()
    }

    /// The signature of a record.
    pub fn sign(&self, kind: Kind, key: &Digest, body: &str) -> Digest {
        let tag = hmac::sign(&self.0, &Self::text(kind, key, body));
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        Digest::from_bytes(bytes)
    }

    /// Whether a record was signed with the same secret. Takes as long for a wrong one as for a right one.
    pub fn fits(&self, kind: Kind, key: &Digest, body: &str, signature: &Digest) -> bool {
        hmac::verify(&self.0, &Self::text(kind, key, body), signature.as_bytes()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_record_and_secret_fit() {
        let signature = Signature::new(b"secret").unwrap();
        let (key, other) = (Digest::of(b"key"), Digest::of(b"other"));
        let signed = signature.sign(Kind::Step, &key, "body");
        assert!(signature.fits(Kind::Step, &key, "body", &signed));
        assert!(!signature.fits(Kind::Layer, &key, "body", &signed));
        assert!(!signature.fits(Kind::Step, &other, "body", &signed));
        assert!(!signature.fits(Kind::Step, &key, "bodY", &signed));
        assert!(!Signature::new(b"Secret").unwrap().fits(Kind::Step, &key, "body", &signed));
        assert!(Signature::new(b"").is_none());
    }
}
