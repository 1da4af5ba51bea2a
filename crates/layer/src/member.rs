//! Compression in independent members, so that it runs on all cores and gives the same bytes on any number of them.
//!
//! A blob is a row of gzip members (or zstd frames), cut where the *contents* say and never where a thread happened to be:
//!
//! - an entry with [`LARGE`] bytes or more begins a member and ends one; within it, members hold [`MEMBER`] bytes of tar;
//! - smaller entries share members; a member ends after an entry when the SHA-256 of the entry's path ends in six zero
//!   bits, or when it has reached [`MEMBER`] bytes.
//!
//! - an eStargz layer is cut for its readers besides: see the `stargz` module.
//!
//! So a changed file changes the members it lies in, and the cut behind it is found again after 64 entries on average:
//! the other members keep their bytes, and a [`MemberCache`] saves compressing them again.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::Duration;

use libdeflater::{CompressionLvl, Compressor, Decompressor};
use rayon::Scope;
use sha2::{Digest as _, Sha256};
use wbuild_oci::{DiffId, Digest, HashingWriter};
use wbuild_tree::EntryPath;

use crate::recipe::{Compression, Recipe};
use crate::stargz::CHUNK;

/// Tar bytes of one member, at least, unless a cut comes first.
const MEMBER: usize = 1 << 20;

/// Files from this size on have members of their own.
pub(crate) const LARGE: u64 = 256 << 10;

/// Names a compressed member: SHA-256 of how it is compressed and of what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey(pub Digest);

/// Remembers compressed members, so that a layer in which one file changed is compressed only around that file.
///
/// It need not be reliable: what it returns is compared with what was to be compressed, and used only if it is that.
pub trait MemberCache: Sync {
    /// The compressed bytes kept under `key`, if any.
    fn get(&self, key: &MemberKey) -> Option<Vec<u8>>;

    /// Keeps compressed bytes; may as well not.
    fn put(&self, key: &MemberKey, compressed: &[u8]);
}

/// One way to compress members.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codec {
    compression: Compression,
    /// State of the key's hasher after the recipe's fields.
    domain: Digest,
}

impl Codec {
    /// `None` when the level is out of range.
    pub(crate) fn new(recipe: &Recipe) -> Option<Self> {
        let valid = match recipe.compression {
            Compression::None => true,
            Compression::Gzip { level } | Compression::Estargz { level } => {
                CompressionLvl::new(level.into()).is_ok()
            }
            Compression::Zstd { level } => (1..=22).contains(&level),
        };
        let mut fields = Vec::new();
        for (name, value) in recipe.member_fields() {
            for text in [name, &value] {
                fields.extend_from_slice(&(text.len() as u64).to_le_bytes());
                fields.extend_from_slice(text.as_bytes());
            }
        }
        valid.then(|| Self { compression: recipe.compression, domain: Digest::of(&fields) })
    }

    fn key(&self, plain: &[u8]) -> MemberKey {
        let hash = Sha256::new().chain_update(self.domain.as_bytes()).chain_update(plain);
        MemberKey(Digest::from_bytes(hash.finalize().into()))
    }

    fn compress(&self, plain: &[u8]) -> io::Result<Vec<u8>> {
        match self.compression {
            Compression::None => Ok(plain.to_vec()),
            Compression::Gzip { level } | Compression::Estargz { level } => {
                let level = CompressionLvl::new(level.into()).map_err(|_| io::ErrorKind::InvalidInput)?;
                let mut compressor = Compressor::new(level);
                let mut out = vec![0; compressor.gzip_compress_bound(plain.len())];
                let size = compressor.gzip_compress(plain, &mut out).map_err(io::Error::other)?;
                out.truncate(size);
                Ok(out)
            }
            Compression::Zstd { level } => {
                let mut compressor = zstd::bulk::Compressor::new(level.into())?;
                compressor.include_checksum(true)?;
                compressor.compress(plain)
            }
        }
    }

    /// Whether `compressed` is `plain`; ten times as fast as compressing it.
    fn holds(&self, compressed: &[u8], plain: &[u8]) -> bool {
        let mut out = vec![0; plain.len()];
        let size = match self.compression {
            Compression::None => return compressed == plain,
            Compression::Gzip { .. } | Compression::Estargz { .. } => {
                Decompressor::new().gzip_decompress(compressed, &mut out).ok()
            }
            Compression::Zstd { .. } => zstd::bulk::decompress_to_buffer(compressed, &mut out[..]).ok(),
        };
        size == Some(plain.len()) && out == plain
    }

    fn compress_cached(&self, plain: &[u8], cache: Option<&dyn MemberCache>) -> io::Result<Vec<u8>> {
        let Some(cache) = cache else { return self.compress(plain) };
        let key = self.key(plain);
        if let Some(compressed) = cache.get(&key).filter(|compressed| self.holds(compressed, plain)) {
            return Ok(compressed);
        }
        let compressed = self.compress(plain)?;
        cache.put(&key, &compressed);
        Ok(compressed)
    }
}

/// What was written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) diff_id: DiffId,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) uncompressed_size: u64,
}

/// Takes a tar entry by entry and writes its members in order. Compression runs on the scope's pool; at most
/// `look_ahead` members exist at a time, so memory is bounded whatever the layer's size.
pub(crate) struct MemberWriter<'a, 'scope, W> {
    scope: &'a Scope<'scope>,
    codec: Codec,
    cache: Option<&'scope dyn MemberCache>,
    look_ahead: usize,
    pending: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    out: HashingWriter<W>,
    tar: Sha256,
    tar_size: u64,
    /// The open member.
    open: Vec<u8>,
    /// Whether members are cut for the readers of eStargz.
    lazy: bool,
    /// Bytes after which the contents that are being written get a new member; none while it is no large entry.
    limit: Option<usize>,
    /// How many members were closed.
    closed: usize,
    /// Where each member that was written begins.
    starts: Vec<u64>,
    written: u64,
}

impl<'a, 'scope, W: Write> MemberWriter<'a, 'scope, W> {
    pub(crate) fn new(
        scope: &'a Scope<'scope>,
        codec: Codec,
        cache: Option<&'scope dyn MemberCache>,
        out: W,
    ) -> Self {
        Self {
            scope,
            codec,
            cache,
            look_ahead: 2 * rayon::current_num_threads() + 2,
            pending: VecDeque::new(),
            out: HashingWriter::new(out),
            tar: Sha256::new(),
            tar_size: 0,
            open: Vec::new(),
            lazy: matches!(codec.compression, Compression::Estargz { .. }),
            limit: None,
            closed: 0,
            starts: Vec::new(),
            written: 0,
        }
    }

    /// Starts an entry with this many bytes of contents.
    pub(crate) fn begin(&mut self, size: u64) -> io::Result<()> {
        if size < LARGE || self.lazy {
            return Ok(());
        }
        self.limit = Some(MEMBER);
        self.close()
    }

    /// Starts the contents of an entry, which have a member of their own for lazy readers.
    pub(crate) fn begin_contents(&mut self) -> io::Result<()> {
        if !self.lazy {
            return Ok(());
        }
        self.limit = Some(CHUNK as usize);
        self.close()
    }

    /// The number of the member that is open.
    pub(crate) fn member(&self) -> usize {
        self.closed
    }

    /// What was appended last.
    pub(crate) fn last(&self, size: usize) -> &[u8] {
        &self.open[self.open.len() - size..]
    }

    /// Appends to the entry.
    pub(crate) fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.space()));
            self.open.extend_from_slice(now);
            bytes = later;
            self.cut()?;
        }
        Ok(())
    }

    /// Appends at most `size` bytes from `source`, in one read, and shows them to `hash`. Zero at its end. Only reading
    /// can fail: [`cut`](Self::cut) has to be called after every read.
    pub(crate) fn fill(&mut self, source: &mut dyn Read, size: u64, hash: &mut Sha256) -> io::Result<usize> {
        const READ: u64 = 256 << 10;
        let want = size.min(READ).min(self.space() as u64) as usize;
        let start = self.open.len();
        self.open.resize(start + want, 0);
        let read = loop {
            match source.read(&mut self.open[start..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.open.truncate(start + read.as_ref().map_or(0, |read| *read));
        let read = read?;
        hash.update(&self.open[start..]);
        Ok(read)
    }

    /// Closes the open member if it belongs to a large entry and is full.
    pub(crate) fn cut(&mut self) -> io::Result<()> {
        if self.limit.is_some_and(|limit| self.open.len() >= limit) { self.close() } else { Ok(()) }
    }

    /// Ends the entry at `path`.
    pub(crate) fn end(&mut self, path: &EntryPath) -> io::Result<()> {
        let large = self.limit.take().is_some();
        let small = || self.open.len() < MEMBER && Digest::of(path.as_bytes()).as_bytes()[31] & 0x3f != 0;
        // What follows the contents of a file may share its member: a lazy reader stops in time.
        if (large && !self.lazy) || !small() { self.close() } else { Ok(()) }
    }

    /// Ends a member, writes all there are, and tells where each begins and the next one will.
    pub(crate) fn settle(&mut self) -> io::Result<(&[u64], u64)> {
        self.close()?;
        self.write_pending(0)?;
        Ok((&self.starts, self.written))
    }

    /// Writes bytes that are no part of the tar.
    pub(crate) fn put_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.settle()?;
        self.out.write_all(bytes)
    }

    /// Writes what is left.
    pub(crate) fn finish(mut self) -> io::Result<Written> {
        self.settle()?;
        self.out.flush()?;
        let (digest, size, _) = self.out.finish();
        let diff_id = DiffId(Digest::from_bytes(self.tar.finalize().into()));
        Ok(Written { diff_id, digest, size, uncompressed_size: self.tar_size })
    }

    /// How much more fits before the open member must be cut.
    fn space(&self) -> usize {
        self.limit.map_or(usize::MAX, |limit| limit - self.open.len())
    }

    fn close(&mut self) -> io::Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        let plain = std::mem::take(&mut self.open);
        self.tar.update(&plain);
        self.tar_size += plain.len() as u64;
        self.closed += 1;
        if self.codec.compression == Compression::None {
            self.out.write_all(&plain)?;
            self.open = plain;
            self.open.clear();
            return Ok(());
        }
        self.write_pending(self.look_ahead - 1)?;
        let (sender, receiver) = sync_channel(1);
        let (codec, cache) = (self.codec, self.cache);
        self.scope.spawn(move |_| {
            // Nobody receives after an error: then the result does not matter.
            let _ = sender.send(codec.compress_cached(&plain, cache));
        });
        self.pending.push_back(receiver);
        Ok(())
    }

    /// Writes members in order until at most so many are left.
    fn write_pending(&mut self, left: usize) -> io::Result<()> {
        while self.pending.len() > left {
            let Some(next) = self.pending.pop_front() else { break };
            let compressed = wait(&next)?;
            self.starts.push(self.written);
            self.written += compressed.len() as u64;
            self.out.write_all(&compressed)?;
        }
        Ok(())
    }
}

/// Waits for a member. On a thread of the pool it works on other members meanwhile: with one thread, nobody else would.
fn wait(member: &Receiver<io::Result<Vec<u8>>>) -> io::Result<Vec<u8>> {
    loop {
        match member.try_recv() {
            Ok(compressed) => return compressed,
            Err(TryRecvError::Disconnected) => return Err(io::Error::other("a compression thread has died")),
            Err(TryRecvError::Empty) => {}
        }
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => {}
            Some(rayon::Yield::Idle) => match member.recv_timeout(Duration::from_millis(1)) {
                Ok(compressed) => return compressed,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            },
            None => match member.recv() {
                Ok(compressed) => return compressed,
                Err(_) => return Err(io::Error::other("a compression thread has died")),
            },
        }
    }
}
