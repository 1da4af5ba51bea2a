use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use wbuild_oci::Digest;

/// A blob is not what its descriptor says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobMismatch {
    /// Too short or too long.
    #[error("the blob {digest} should have {expected} bytes, but has {actual}")]
    Size {
        /// Which.
        digest: Digest,
        /// From its descriptor.
        expected: u64,
        /// What was read; of a longer one, only the beginning.
        actual: u64,
    },
    /// Other bytes.
    #[error("the blob {digest} is damaged: its bytes have the digest {actual}")]
    Digest {
        /// Which.
        digest: Digest,
        /// Of what was read.
        actual: Digest,
    },
}

/// Reads a blob and compares it with its descriptor. The last read, the one that would say "end", fails when it is
/// another one: use nothing of it before.
#[derive(Debug)]
pub struct VerifiedReader<R> {
    inner: R,
    digest: Digest,
    size: u64,
    hash: Sha256,
    read: u64,
}

impl<R: Read> VerifiedReader<R> {
    /// Expects exactly this blob from `inner`.
    pub fn new(inner: R, digest: Digest, size: u64) -> Self {
        Self { inner, digest, size, hash: Sha256::new(), read: 0 }
    }

    /// Reads the whole blob.
    ///
    /// # Errors
    /// When it cannot be read or is another one. The [`BlobMismatch`] is inside the error.
    pub fn into_bytes(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let wrong = |mismatch: BlobMismatch| io::Error::new(io::ErrorKind::InvalidData, mismatch);
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        self.hash.update(&buffer[..read]);
        if self.read > self.size || (read == 0 && self.read < self.size) {
            return Err(wrong(BlobMismatch::Size {
                digest: self.digest,
                expected: self.size,
                actual: self.read,
            }));
        }
        if read == 0 {
            let actual = Digest::from_bytes(self.hash.clone().finalize().into());
            if actual != self.digest {
                return Err(wrong(BlobMismatch::Digest { digest: self.digest, actual }));
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_blob_is_read_to_its_end() {
        let read = |bytes: &[u8], digest, size| {
            VerifiedReader::new(bytes, digest, size)
                .into_bytes()
                .map_err(|error| error.downcast::<BlobMismatch>().unwrap())
        };
        let digest = Digest::of(b"abc");
        assert_eq!(read(b"abc", digest, 3).unwrap(), b"abc");
        assert!(matches!(read(b"ab", digest, 3), Err(BlobMismatch::Size { actual: 2, .. })));
        assert!(matches!(read(b"abcd", digest, 3), Err(BlobMismatch::Size { .. })));
        assert!(matches!(read(b"abd", digest, 3), Err(BlobMismatch::Digest { .. })));
        assert!(matches!(read(b"", digest, 0), Err(BlobMismatch::Digest { .. })));
    }
}
