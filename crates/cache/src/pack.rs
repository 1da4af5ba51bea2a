//! Packs as they are written: small objects together in frames, large ones alone.

use std::io::{self, Read, Write};
use std::path::Path;

use tempfile::{NamedTempFile, TempPath};
use wbuild_oci::{Digest, HashingWriter};

use crate::directory::{Codec, Directory, Frame, Object, ObjectKind};
use crate::error::{At, CacheError};
use crate::frames::IN_MEMORY;

/// A frame is closed when it holds so many bytes: what is read for one small file is not much more than that.
const FRAME: usize = 1 << 20;

/// Larger objects have frames of their own.
pub(crate) const SMALL: u64 = 1 << 20;

/// As much of a large object tells whether compressing it is worth anything.
const SAMPLE: usize = 128 << 10;

const LEVEL: i32 = 3;

/// A pack in the making.
#[derive(Debug)]
pub(crate) struct PackWriter {
    file: HashingWriter<NamedTempFile>,
    offset: u64,
    directory: Directory,
    blobs: Open,
    trees: Open,
}

/// A frame that is not full yet.
#[derive(Debug, Default)]
struct Open {
    bytes: Vec<u8>,
    objects: Vec<Object>,
}

/// A pack that is complete.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) path: TempPath,
    pub(crate) data: Digest,
    pub(crate) size: u64,
    pub(crate) directory: Vec<u8>,
}

impl PackWriter {
    /// Begins one in a folder.
    pub(crate) fn new(folder: &Path) -> Result<Self, CacheError> {
        let file = NamedTempFile::new_in(folder).at("create a file in", folder)?;
        Ok(Self {
            file: HashingWriter::new(file),
            offset: 0,
            directory: Directory::default(),
            blobs: Open::default(),
            trees: Open::default(),
        })
    }

    /// How large it is by now, more or less.
    pub(crate) fn size(&self) -> u64 {
        self.offset + (self.blobs.bytes.len() + self.trees.bytes.len()) as u64
    }

    /// Adds an object that is in memory.
    pub(crate) fn add(&mut self, kind: ObjectKind, digest: Digest, bytes: &[u8]) -> Result<(), CacheError> {
        let open = match kind {
            ObjectKind::Blob => &mut self.blobs,
            ObjectKind::Tree => &mut self.trees,
        };
        open.bytes.extend_from_slice(bytes);
        open.objects.push(Object { kind, digest, size: bytes.len() as u64 });
        if open.bytes.len() >= FRAME {
            let full = std::mem::take(open);
            self.close(full)?;
        }
        Ok(())
    }

    fn close(&mut self, open: Open) -> Result<(), CacheError> {
        if open.objects.is_empty() {
            return Ok(());
        }
        let packed =
            zstd::bulk::compress(&open.bytes, LEVEL).at("compress", Path::new("a frame of a pack"))?;
        // What is hardly smaller is not worth the time of unpacking it.
        let (codec, stored) = match packed.len() < open.bytes.len() - open.bytes.len() / 16 {
            true => (Codec::Zstd, packed),
            false => (Codec::Raw, open.bytes),
        };
        let digest = Digest::of(&stored);
        self.write(&stored)?;
        let stored = stored.len() as u64;
        let offset = self.offset;
        self.directory.frames.push(Frame { offset, stored, codec, digest, objects: open.objects });
        self.offset += stored;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        self.file.write_all(bytes).at("write", Path::new("a pack for the cache"))
    }

    /// Adds a blob that is read once; small ones go with others.
    pub(crate) fn add_blob(
        &mut self,
        digest: Digest,
        size: u64,
        reader: &mut dyn Read,
        path: &Path,
    ) -> Result<(), CacheError> {
        if size <= SMALL {
            let mut bytes = Vec::with_capacity(size as usize);
            reader.read_to_end(&mut bytes).at("read", path)?;
            return self.add(ObjectKind::Blob, digest, &bytes);
        }
        // A large one that is read into memory by the other side would be refused there.
        debug_assert!(SMALL + FRAME as u64 <= IN_MEMORY);
        let mut sample = vec![0; SAMPLE];
        let mut filled = 0;
        while filled < SAMPLE {
            match reader.read(&mut sample[filled..]).at("read", path)? {
                0 => break,
                read => filled += read,
            }
        }
        sample.truncate(filled);
        let tried = zstd::bulk::compress(&sample, LEVEL).at("compress", path)?;
        let codec = if tried.len() < filled - filled / 16 { Codec::Zstd } else { Codec::Raw };
        let mut frame = HashingWriter::new(&mut self.file);
        let mut whole = io::Cursor::new(sample).chain(reader);
        match codec {
            Codec::Raw => io::copy(&mut whole, &mut frame).map(|_| ()),
            Codec::Zstd => zstd::stream::copy_encode(&mut whole, &mut frame, LEVEL),
        }
        .at("pack", path)?;
        let (of_frame, stored, _) = frame.finish();
        let objects = vec![Object { kind: ObjectKind::Blob, digest, size }];
        self.directory.frames.push(Frame { offset: self.offset, stored, codec, digest: of_frame, objects });
        self.offset += stored;
        Ok(())
    }

    /// Closes it; `None` when nothing is in it.
    pub(crate) fn finish(mut self) -> Result<Option<Pack>, CacheError> {
        let (trees, blobs) = (std::mem::take(&mut self.trees), std::mem::take(&mut self.blobs));
        self.close(trees)?;
        self.close(blobs)?;
        if self.directory.frames.is_empty() {
            return Ok(None);
        }
        let (data, size, file) = self.file.finish();
        let directory = self.directory.encode()?;
        Ok(Some(Pack { path: file.into_temp_path(), data, size, directory }))
    }
}
