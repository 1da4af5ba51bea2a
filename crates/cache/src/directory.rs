//! The directory of a pack: which objects are in which frame.

use std::io::Read;

use wbuild_oci::Digest;

use crate::error::{CacheError, damaged};

/// First bytes of a directory, before it is compressed.
const MAGIC: &[u8] = b"wbuild-cache-directory-1\n";

/// No directory is larger: at 41 bytes an object that is some million.
pub(crate) const MAX_DIRECTORY: u64 = 64 << 20;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Bytes, by SHA-256.
    Blob,
    /// One directory, by its tree digest, in the object encoding of `wbuild-tree`.
    Tree,
}

/// One object of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: ObjectKind,
    /// Its name.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}

/// How the bytes of a frame are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As they are: what is compressed already.
    Raw,
    /// By zstd.
    Zstd,
}

/// A range of a pack that is read as a whole: objects one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it begins in the pack.
    pub offset: u64,
    /// Its bytes there.
    pub stored: u64,
    /// How they are stored.
    pub codec: Codec,
    /// SHA-256 of them.
    pub digest: Digest,
    /// What is in it, in this order.
    pub objects: Vec<Object>,
}

impl Frame {
    /// Its bytes once they are not compressed any more.
    pub fn size(&self) -> u64 {
        self.objects.iter().fold(0, |sum, object| sum.saturating_add(object.size))
    }
}

/// All frames of a pack, in the order of their offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// The frames.
    pub frames: Vec<Frame>,
}

impl Directory {
    /// As a backend keeps it.
    ///
    /// # Errors
    /// When it cannot be compressed.
    pub fn encode(&self) -> Result<Vec<u8>, CacheError> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&(self.frames.len() as u32).to_le_bytes());
        for frame in &self.frames {
            out.extend_from_slice(&frame.offset.to_le_bytes());
            out.extend_from_slice(&frame.stored.to_le_bytes());
            out.push(u8::from(frame.codec == Codec::Zstd));
            out.extend_from_slice(frame.digest.as_bytes());
            out.extend_from_slice(&(frame.objects.len() as u32).to_le_bytes());
            for object in &frame.objects {
                out.push(u8::from(object.kind == ObjectKind::Tree));
                out.extend_from_slice(object.digest.as_bytes());
                out.extend_from_slice(&object.size.to_le_bytes());
            }
        }
        zstd::bulk::compress(&out, zstd::DEFAULT_COMPRESSION_LEVEL).map_err(|source| CacheError::Io {
            action: "encode",
            path: "the directory of a pack".into(),
            source,
        })
    }

    /// Reads what a backend kept, for a pack of `size` bytes.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn decode(bytes: &[u8], size: u64) -> Result<Self, CacheError> {
        let wrong = |why| damaged("the directory of a pack".to_owned(), why);
        let decoder = zstd::stream::read::Decoder::new(bytes).map_err(|_| wrong("it is not compressed"))?;
        let mut text = Vec::new();
        decoder.take(MAX_DIRECTORY + 1).read_to_end(&mut text).map_err(|_| wrong("it is not compressed"))?;
        if text.len() as u64 > MAX_DIRECTORY {
            let what = "the directory of a pack".to_owned();
            return Err(CacheError::TooLarge { what, limit: MAX_DIRECTORY });
        }
        let rest = text.strip_prefix(MAGIC).ok_or_else(|| wrong("it has no header of this version"))?;
        let mut reader = Reader { rest };
        let directory = reader.directory().ok_or_else(|| wrong("it is truncated or malformed"))?;
        let mut end = 0_u64;
        for frame in &directory.frames {
            let after = frame.offset.checked_add(frame.stored).filter(|after| *after <= size);
            if frame.offset < end || frame.objects.is_empty() {
                return Err(wrong("its frames overlap or are empty"));
            }
            end = after.ok_or_else(|| wrong("a frame is not in the pack"))?;
        }
        if !reader.rest.is_empty() {
            return Err(wrong("bytes follow its end"));
        }
        Ok(directory)
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.array::<1>()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn digest(&mut self) -> Option<Digest> {
        self.array().map(Digest::from_bytes)
    }

    fn directory(&mut self) -> Option<Directory> {
        let mut frames = Vec::new();
        for _ in 0..self.count()? {
            let (offset, stored) = (self.u64()?, self.u64()?);
            let codec = if self.flag()? { Codec::Zstd } else { Codec::Raw };
            let digest = self.digest()?;
            let mut objects = Vec::new();
            for _ in 0..self.count()? {
                let kind = if self.flag()? { ObjectKind::Tree } else { ObjectKind::Blob };
                objects.push(Object { kind, digest: self.digest()?, size: self.u64()? });
            }
            frames.push(Frame { offset, stored, codec, digest, objects });
        }
        Some(Directory { frames })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn directories() -> impl Strategy<Value = Directory> {
        let object =
            (any::<bool>(), any::<[u8; 32]>(), any::<u32>()).prop_map(|(tree, digest, size)| Object {
                kind: if tree { ObjectKind::Tree } else { ObjectKind::Blob },
                digest: Digest::from_bytes(digest),
                size: size.into(),
            });
        let frame = (1_u64..1000, any::<bool>(), proptest::collection::vec(object, 1..4));
        proptest::collection::vec(frame, 0..5).prop_map(|frames| {
            let mut offset = 0;
            let frames = frames.into_iter().map(|(stored, zstd, objects)| {
                let codec = if zstd { Codec::Zstd } else { Codec::Raw };
                let frame = Frame { offset, stored, codec, digest: Digest::of(b"frame"), objects };
                offset += stored;
                frame
            });
            Directory { frames: frames.collect() }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(directory in directories()) {
            prop_assert_eq!(Directory::decode(&directory.encode().unwrap(), 5000).unwrap(), directory);
        }

        #[test]
        fn anything_is_read_without_a_panic(bytes: Vec<u8>) {
            let whole = zstd::bulk::compress(&[MAGIC, &bytes].concat(), 1).unwrap();
            let _ = Directory::decode(&whole, 1 << 20);
            let _ = Directory::decode(&bytes, 1 << 20);
        }
    }

    #[test]
    fn a_frame_lies_in_its_pack() {
        let object = Object { kind: ObjectKind::Blob, digest: Digest::of(b"x"), size: 1 };
        let frame = |offset, stored| Frame {
            offset,
            stored,
            codec: Codec::Raw,
            digest: Digest::of(b"x"),
            objects: vec![object],
        };
        let read = |frames| Directory::decode(&Directory { frames }.encode().unwrap(), 10);
        assert!(read(vec![frame(0, 4), frame(4, 6)]).is_ok());
        for wrong in [vec![frame(0, 11)], vec![frame(4, 1), frame(0, 1)], vec![frame(u64::MAX, 2)]] {
            assert!(read(wrong).is_err());
        }
    }
}
