use std::fs::{self, File};
use std::io::{self, Read, Sink, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::ioctl_ficlone;
use wbuild_oci::{Digest, HashingReader, HashingWriter};

use crate::entry::Ref;
use crate::error::{At, StoreError};
use crate::sealed::{Kind, copy};
use crate::store::Store;

/// A blob that is being written. Dropped without [`finish`](Self::finish), it leaves nothing behind.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    path: PathBuf,
    file: File,
    /// Beside the file and not around it: a reflinked file is hashed without being written.
    hasher: HashingWriter<Sink>,
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer).map_err(|source| self.failed(source))?;
        self.hasher.write_all(&buffer[..written])?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter {
    /// Errors of a [`Write`] carry no path by themselves.
    fn failed(&self, source: io::Error) -> io::Error {
        if source.kind() == io::ErrorKind::Interrupted {
            return source;
        }
        StoreError::Io { action: "write", path: self.path.clone(), source }.into_io()
    }

    /// Writes everything that `reader` gives; tells errors of reading from errors of writing.
    fn take_all(&mut self, reader: &mut dyn Read, subject: &Path) -> Result<(), StoreError> {
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).at("read", subject),
            };
            self.file.write_all(&buffer[..read]).at("write", &self.path)?;
            self.hasher.write_all(&buffer[..read]).at("write", &self.path)?;
        }
    }

    /// What is written, for who reads it at offsets while it grows. Nothing has verified it yet.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn growing(&self) -> Result<File, StoreError> {
        self.file.try_clone().at("open", &self.path)
    }

    /// Publishes what was written, under its digest.
    ///
    /// # Errors
    /// When `expected` is given and is not the digest, or the blob cannot be written.
    pub fn finish(mut self, expected: Option<&Digest>) -> Result<(Digest, u64), StoreError> {
        let (digest, size, _) = std::mem::replace(&mut self.hasher, HashingWriter::new(io::sink())).finish();
        if let Some(&expected) = expected.filter(|expected| **expected != digest) {
            let subject = self.path.display().to_string();
            return Err(StoreError::DigestMismatch { subject, expected, found: digest });
        }
        self.store.publish_blob(&digest, size, &self.path, &self.file)?;
        Ok((digest, size))
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A blob, open for reading. What was published is what it was when its bytes were last read in full; a file that changed
/// since would not have been opened.
#[derive(Debug)]
pub struct Blob {
    store: Store,
    digest: Digest,
    file: File,
    size: u64,
}

impl Blob {
    /// Its size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The file, for reflinks.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// The file, at its beginning: for reading at offsets and sending. Nothing checks what is read from it.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Reads it from the beginning and checks the digest on the way: the last read fails, and the blob is dropped, if it
    /// is not what it should be. Bytes that leave the machine or end up in an image go through this.
    pub fn reader(self) -> BlobReader {
        let Self { store, digest, file, size } = self;
        BlobReader { store, digest, size, reader: Some(HashingReader::new(file)) }
    }
}

/// Reads a blob and checks it on the way; see [`Blob::reader`].
#[derive(Debug)]
pub struct BlobReader {
    store: Store,
    digest: Digest,
    size: u64,
    reader: Option<HashingReader<File>>,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(reader) = &mut self.reader else { return Ok(0) };
        let path = || self.store.blob_path(&self.digest);
        let read = match reader.read(buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(source) => {
                return Err(StoreError::Io { action: "read", path: path(), source }.into_io());
            }
        };
        if read > 0 || buffer.is_empty() {
            return Ok(read);
        }
        let Some(reader) = self.reader.take() else { return Ok(0) };
        let (digest, size) = reader.finish();
        if (digest, size) == (self.digest, self.size) {
            return Ok(0);
        }
        // Our file is consumed; the one in the store is looked at again, in full.
        Err(match self.store.check_blob(&self.digest) {
            Ok(()) => {
                StoreError::Damaged { what: Ref::Blob(self.digest), why: "it changed while it was read" }
            }
            Err(error) => error,
        }
        .into_io())
    }
}

impl Store {
    /// Starts a blob.
    ///
    /// # Errors
    /// When no file can be made in the workspace.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        let (path, file) = self.temporary()?;
        Ok(BlobWriter { store: self.clone(), path, file, hasher: HashingWriter::new(io::sink()) })
    }

    /// Stores everything that `reader` gives.
    ///
    /// # Errors
    /// The reader's, with `subject` (what is being read: a path, a reference) as the path; when `expected` is given and
    /// is not the digest; when the blob cannot be written.
    pub fn put_blob(
        &self,
        reader: &mut dyn Read,
        subject: &Path,
        expected: Option<&Digest>,
    ) -> Result<(Digest, u64), StoreError> {
        let mut writer = self.blob_writer()?;
        writer.take_all(reader, subject)?;
        writer.finish(expected).map_err(|error| about(error, subject))
    }

    /// Stores bytes that are in memory; writes nothing when they are there already.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        if self.holds_blob(&digest)? {
            return Ok(digest);
        }
        let (path, mut file) = self.temporary()?;
        let published = file
            .write_all(bytes)
            .at("write", &path)
            .and_then(|()| self.publish(Kind::Blob, &digest, &path, &file, bytes.len() as u64));
        if published.is_err() {
            let _ = fs::remove_file(&path);
        }
        published.map(|()| digest)
    }

    /// Stores a file's content: shared with the file where the file system can do that (reflink), else copied. With
    /// `expected`, a blob that is there already is taken for it without reading the file.
    ///
    /// The bytes that are hashed are those that are stored, so a file that changes meanwhile is stored as one of the
    /// states it was in, or (with `expected`) refused.
    ///
    /// # Errors
    /// `DigestMismatch` names `subject`. Others as with [`put_blob`](Self::put_blob).
    pub fn put_file(
        &self,
        source: &File,
        subject: &Path,
        expected: Option<&Digest>,
    ) -> Result<(Digest, u64), StoreError> {
        if let Some(expected) = expected
            && self.holds_blob(expected)?
        {
            return Ok((*expected, self.open_blob(expected)?.size()));
        }
        let mut writer = self.blob_writer()?;
        match ioctl_ficlone(&writer.file, source) {
            Ok(()) => {
                copy(&mut &writer.file, &mut writer.hasher).at("read", &writer.path)?;
            }
            // Another file system, or one that cannot share.
            Err(_) => writer.take_all(&mut FromStart { file: source, offset: 0 }, subject)?,
        }
        writer.finish(expected).map_err(|error| about(error, subject))
    }

    /// Whether the blob can be had: it is here as it was published, or upstream.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.holds_blob(digest)? || self.upstream_has(&Ref::Blob(*digest)))
    }

    /// Opens a blob; one that is upstream is brought here first.
    ///
    /// # Errors
    /// [`StoreError::is_lost`] when it is not there or was damaged.
    pub fn open_blob(&self, digest: &Digest) -> Result<Blob, StoreError> {
        let (file, size) = match self.open_sealed(Kind::Blob, digest) {
            Err(error) if error.is_lost() && self.fetch_missing(&Ref::Blob(*digest)) => {
                self.open_sealed(Kind::Blob, digest)?
            }
            other => other?,
        };
        Ok(Blob { store: self.clone(), digest: *digest, file, size })
    }

    /// Reads a whole blob of at most `cap` bytes and checks it.
    ///
    /// # Errors
    /// As [`open_blob`](Self::open_blob), and when it is larger.
    pub fn read_blob(&self, digest: &Digest, cap: u64) -> Result<Vec<u8>, StoreError> {
        let mut blob = self.open_blob(digest)?;
        if blob.size > cap {
            return Err(StoreError::TooLarge { what: Ref::Blob(*digest), size: blob.size, cap });
        }
        let mut bytes = Vec::with_capacity(blob.size as usize);
        blob.file.read_to_end(&mut bytes).at("read", &self.blob_path(digest))?;
        if Digest::of(&bytes) != *digest {
            return Err(self.drop_damaged(Kind::Blob, digest, &blob.file, "its bytes have another digest"));
        }
        Ok(bytes)
    }

    /// Where the blob is, or would be: for hard links and reflinks. Whoever links it has had it checked with
    /// [`holds_blob`](Self::holds_blob), and lets nobody write through the link.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        Kind::Blob.path(self, digest)
    }

    /// Reads a blob in full; drops it if it is damaged.
    ///
    /// # Errors
    /// [`StoreError::is_lost`] when it is not there or was damaged.
    pub fn check_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let mut blob = self.open_blob(digest)?;
        let mut hasher = HashingWriter::new(io::sink());
        copy(&mut blob.file, &mut hasher).at("read", &self.blob_path(digest))?;
        if hasher.finish().0 == *digest {
            return Ok(());
        }
        Err(self.drop_damaged(Kind::Blob, digest, &blob.file, "its bytes have another digest"))
    }

    fn publish_blob(&self, digest: &Digest, size: u64, path: &Path, file: &File) -> Result<(), StoreError> {
        // Already there: its file stays, so that links to it (exported layouts) go on sharing one inode.
        if self.holds_blob(digest)? {
            return Ok(());
        }
        self.publish(Kind::Blob, digest, path, file, size)
    }
}

/// Reads a file from its beginning, wherever others who share it are.
struct FromStart<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Names what was stored instead of the temporary file.
fn about(error: StoreError, subject: &Path) -> StoreError {
    match error {
        StoreError::DigestMismatch { expected, found, .. } => {
            StoreError::DigestMismatch { subject: subject.display().to_string(), expected, found }
        }
        other => other,
    }
}
