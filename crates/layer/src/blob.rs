//! A layer's blob as it comes: compressed in one of three ways, and to be believed only after both of its digests.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, sync_channel};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use wbuild_oci::{DiffId, Digest, HashingReader};

/// What a blob is expected to be. What is not known is not checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Digest of the blob, from the manifest.
    pub digest: Option<Digest>,
    /// Digest of the tar, from the config.
    pub diff_id: Option<DiffId>,
}

impl Expected {
    /// Both digests.
    pub const fn both(digest: Digest, diff_id: DiffId) -> Self {
        Self { digest: Some(digest), diff_id: Some(diff_id) }
    }

    /// Only that of the tar.
    pub const fn diff_id(diff_id: DiffId) -> Self {
        Self { digest: None, diff_id: Some(diff_id) }
    }
}

/// What a blob was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobFacts {
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Bytes of the tar.
    pub uncompressed_size: u64,
}

/// Larger zstd windows are refused: each would be that much memory. 128 MiB is zstd's own limit for `--long`.
pub(crate) const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// What goes from the decompressing thread to the reading one, at a time and at most.
pub(crate) const CHUNK: usize = 64 << 10;
const CHUNKS_AHEAD: usize = 32;

type Raw<R> = BufReader<HashingReader<R>>;

enum Decoder<R: Read> {
    Plain(Raw<R>),
    Gzip(Box<MultiGzDecoder<Raw<R>>>),
    Zstd(zstd::Decoder<'static, Raw<R>>),
}

/// Decompresses, and hashes what goes in and what comes out.
pub(crate) struct BlobReader<R: Read> {
    decoder: Decoder<R>,
    hash: Sha256,
    size: u64,
}

impl<R: Read> BlobReader<R> {
    /// Looks at the first bytes to see what it is: media types in manifests are wrong often enough.
    pub(crate) fn new(blob: R) -> io::Result<Self> {
        let mut raw = BufReader::with_capacity(CHUNK, HashingReader::new(blob));
        let start = raw.fill_buf()?;
        let decoder = match start {
            [0x1f, 0x8b, ..] => Decoder::Gzip(Box::new(MultiGzDecoder::new(raw))),
            // A frame, or a frame to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let mut decoder = zstd::Decoder::with_buffer(raw)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Decoder::Zstd(decoder)
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err(unsupported("xz")),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => return Err(unsupported("bzip2")),
            _ => Decoder::Plain(raw),
        };
        Ok(Self { decoder, hash: Sha256::new(), size: 0 })
    }

    /// Says what the blob was, of which everything was decompressed.
    pub(crate) fn finish(self) -> io::Result<BlobFacts> {
        let (digest, size) = self.decoder.into_raw()?;
        let diff_id = DiffId(Digest::from_bytes(self.hash.finalize().into()));
        Ok(BlobFacts { digest, size, diff_id, uncompressed_size: self.size })
    }

    /// The digest of the blob when it makes no sense to decompress the rest.
    pub(crate) fn raw_digest(self) -> io::Result<Digest> {
        self.decoder.into_raw().map(|(digest, _)| digest)
    }
}

impl<R: Read> Decoder<R> {
    /// Reads what is left of the blob as it is.
    fn into_raw(self) -> io::Result<(Digest, u64)> {
        let mut raw = match self {
            Self::Plain(raw) => raw,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        };
        io::copy(&mut raw, &mut io::sink())?;
        Ok(raw.into_inner().finish())
    }
}

impl<R: Read> Read for BlobReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.decoder {
            Decoder::Plain(raw) => raw.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }?;
        self.hash.update(&buffer[..read]);
        self.size += read as u64;
        Ok(read)
    }
}

fn unsupported(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("it is compressed with {what}; layers are gzip, zstd or plain tar"),
    )
}

/// Lets `body` read what `reader` delivers, which runs on a thread of its own: decompressing and hashing take as long as
/// writing files does. The reader comes back as far as it got.
pub(crate) fn read_ahead<R: Read + Send, T>(
    mut reader: R,
    body: impl FnOnce(&mut dyn Read) -> T,
) -> (T, io::Result<R>) {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(CHUNKS_AHEAD);
        let thread = scope.spawn(move || {
            loop {
                let mut chunk = vec![0; CHUNK];
                let result = reader.read(&mut chunk).map(|read| chunk.truncate(read));
                let last = result.is_err() || chunk.is_empty();
                // Nobody receives when the body has given up.
                if sender.send(result.map(|()| chunk)).is_err() || last {
                    return reader;
                }
            }
        });
        let mut ahead = Ahead { receiver, chunk: Vec::new(), position: 0, ended: false };
        let result = body(&mut ahead);
        drop(ahead);
        (result, thread.join().map_err(|_| io::Error::other("the decompressing thread has died")))
    })
}

struct Ahead {
    receiver: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    position: usize,
    ended: bool,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.chunk.len() && !self.ended {
            self.chunk = self.receiver.recv().map_err(io::Error::other)??;
            self.position = 0;
            self.ended = self.chunk.is_empty();
        }
        let read = (self.chunk.len() - self.position).min(buffer.len());
        buffer[..read].copy_from_slice(&self.chunk[self.position..self.position + read]);
        self.position += read;
        Ok(read)
    }
}
