//! From the bytes of a frame to what is in it.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use wbuild_oci::Digest;
use wbuild_store::{BlobWriter, Store, StoreError};
use wbuild_tree::TreeDigest;

use crate::directory::{Codec, Frame, ObjectKind};
use crate::error::{CacheError, damaged};

/// A frame of files that is larger holds one, and is not read into memory.
pub(crate) const IN_MEMORY: u64 = 4 << 20;

/// No frame of trees is larger; they are read into memory in any case.
const MAX_TREES: u64 = 256 << 20;

/// Whether a frame holds one blob that is not read into memory.
pub(crate) fn is_large(frame: &Frame) -> bool {
    let blob = matches!(frame.objects.as_slice(), [object] if object.kind == ObjectKind::Blob);
    blob && frame.size().max(frame.stored) > IN_MEMORY
}

/// Trees that came, by their names, as objects.
pub(crate) type TreeObjects = HashMap<TreeDigest, Vec<u8>>;

fn wrong(why: &'static str) -> CacheError {
    damaged("a frame of a pack".to_owned(), why)
}

/// Checks and unpacks a frame that is in memory: blobs go into the store, unless they are there, trees into `trees`.
pub(crate) fn unpack(
    store: &Store,
    frame: &Frame,
    stored: &[u8],
    trees: &mut TreeObjects,
) -> Result<(), CacheError> {
    if Digest::of(stored) != frame.digest {
        return Err(wrong("its bytes have another digest"));
    }
    let size = frame.size();
    let trees_only = frame.objects.iter().all(|object| object.kind == ObjectKind::Tree);
    if size > if trees_only { MAX_TREES } else { IN_MEMORY } {
        return Err(wrong("it is larger than it may be"));
    }
    let plain = match frame.codec {
        Codec::Raw => stored.to_vec(),
        Codec::Zstd => {
            let mut plain = Vec::with_capacity(size as usize);
            let decoder =
                zstd::stream::read::Decoder::new(stored).map_err(|_| wrong("it is not compressed"))?;
            decoder.take(size + 1).read_to_end(&mut plain).map_err(|_| wrong("it is not compressed"))?;
            plain
        }
    };
    if plain.len() as u64 != size {
        return Err(wrong("it has another size"));
    }
    let mut rest = plain.as_slice();
    for object in &frame.objects {
        let (bytes, after) =
            rest.split_at_checked(object.size as usize).ok_or_else(|| wrong("it is truncated"))?;
        rest = after;
        match object.kind {
            ObjectKind::Tree => {
                trees.insert(TreeDigest(object.digest), bytes.to_vec());
            }
            ObjectKind::Blob => {
                if Digest::of(bytes) != object.digest {
                    return Err(wrong("a file in it has another digest"));
                }
                store.put_bytes(bytes)?;
            }
        }
    }
    Ok(())
}

/// Takes the bytes of a frame with one large blob as they come.
pub(crate) struct LargeFrame<'a> {
    blob: Digest,
    size: u64,
    sink: Sink<'a>,
}

enum Sink<'a> {
    Raw(Counted),
    Zstd(Box<zstd::stream::write::Decoder<'a, Counted>>),
}

/// Refuses what is more than was announced.
struct Counted {
    writer: BlobWriter,
    left: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.left = self.left.checked_sub(written as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LargeFrame<'_> {
    /// Begins with one that [`is_large`]; `None` for others.
    pub(crate) fn begin(store: &Store, frame: &Frame) -> Result<Option<Self>, CacheError> {
        let [object] = frame.objects.as_slice() else { return Ok(None) };
        if !is_large(frame) {
            return Ok(None);
        }
        let counted = Counted { writer: store.blob_writer()?, left: object.size };
        let sink = match frame.codec {
            Codec::Raw => Sink::Raw(counted),
            Codec::Zstd => Sink::Zstd(Box::new(
                zstd::stream::write::Decoder::new(counted).map_err(|_| wrong("it is not compressed"))?,
            )),
        };
        Ok(Some(Self { blob: object.digest, size: object.size, sink }))
    }

    /// Everything came: the blob is published if it is the right one.
    pub(crate) fn finish(self) -> Result<(), CacheError> {
        let counted = match self.sink {
            Sink::Raw(counted) => counted,
            Sink::Zstd(mut decoder) => {
                decoder.flush().map_err(|_| wrong("it is not compressed"))?;
                decoder.into_inner()
            }
        };
        if counted.left != 0 {
            return Err(wrong("it has another size"));
        }
        match counted.writer.finish(Some(&self.blob)) {
            Ok((_, size)) if size == self.size => Ok(()),
            Ok(_) => Err(wrong("it has another size")),
            Err(StoreError::DigestMismatch { .. }) => Err(wrong("a file in it has another digest")),
            Err(error) => Err(error.into()),
        }
    }
}

impl Write for LargeFrame<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Raw(counted) => counted.write(bytes),
            Sink::Zstd(decoder) => decoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
