use std::fs::File;
use std::io::{self, Read};

use rustix::io::Errno;
use wbuild_oci::{Digest, HashingReader, HashingWriter};
use wbuild_tree::EntryPath;

use crate::error::ContextError;
use crate::listing::Facts;
use crate::policy::FileKind;
use crate::root::ContextRoot;

/// Read at a time: large enough that system calls do not count, small enough for a cache.
const BUFFER: usize = 256 * 1024;

/// Where file contents go: the store's blobs, seen from here. Called from several threads at once.
pub trait BlobSink: Sync {
    /// Whether the blob is there already.
    fn contains(&self, content: &Digest) -> bool;

    /// Takes all that `source` delivers, `size` bytes if nothing goes wrong, and returns its digest. Must not keep
    /// anything when `source` fails.
    ///
    /// # Errors
    /// When it cannot be kept, or `source` fails.
    fn put_from(&self, source: &mut dyn Read, size: u64) -> io::Result<Digest>;
}

/// A regular file opened for one reading, with the facts it had then.
pub(crate) struct OpenFile {
    file: File,
    path: EntryPath,
    facts: Facts,
}

impl OpenFile {
    pub(crate) fn open(root: &ContextRoot, path: EntryPath) -> Result<Self, ContextError> {
        let file = match root.open_file(&path) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Err(ContextError::Vanished { path }),
            // A link or a socket now, or its directory is no directory any more.
            Err(Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => return Err(ContextError::Changed { path }),
            Err(errno) => return Err(ContextError::ReadFile { path, source: errno.into() }),
        };
        let facts = facts_of(&file, &path)?;
        if facts.kind != FileKind::File {
            return Err(ContextError::Changed { path });
        }
        Ok(Self { file, path, facts })
    }

    /// The descriptor, for one reading from the start.
    pub(crate) fn into_file(self) -> File {
        self.file
    }

    /// Opens what was listed, and nothing else.
    pub(crate) fn open_listed(
        root: &ContextRoot,
        path: EntryPath,
        listed: &Facts,
    ) -> Result<Self, ContextError> {
        let file = Self::open(root, path)?;
        if file.facts.same_content(listed) {
            Ok(file)
        } else {
            Err(ContextError::Changed { path: file.path })
        }
    }

    /// Reads it to its end and gives its digest.
    pub(crate) fn hash(mut self, buffer: &mut Vec<u8>) -> Result<Digest, ContextError> {
        buffer.resize(BUFFER, 0);
        let mut hash = HashingWriter::new(io::sink());
        let wrong = |source, path: &EntryPath| ContextError::ReadFile { path: path.clone(), source };
        loop {
            let read = match self.file.read(buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(wrong(source, &self.path)),
            };
            io::Write::write_all(&mut hash, &buffer[..read]).map_err(|source| wrong(source, &self.path))?;
        }
        let (content, size, _) = hash.finish();
        self.check_unchanged(size)?;
        Ok(content)
    }

    /// Reads it once, into the sink, and gives its digest.
    pub(crate) fn store(mut self, sink: &dyn BlobSink) -> Result<Digest, ContextError> {
        let size = self.facts.size;
        let mut source = Watched { file: &mut self.file, read: 0, failed: None };
        let stored = sink.put_from(&mut source, size);
        let (read, failed) = (source.read, source.failed);
        match (stored, failed) {
            (_, Some(kind)) => Err(ContextError::ReadFile { path: self.path, source: kind }),
            (Err(source), None) => Err(ContextError::Store { path: self.path, source }),
            (Ok(content), None) => {
                self.check_unchanged(read)?;
                Ok(content)
            }
        }
    }

    fn check_unchanged(&self, read: u64) -> Result<(), ContextError> {
        let now = facts_of(&self.file, &self.path)?;
        if read == self.facts.size && now.same_content(&self.facts) {
            Ok(())
        } else {
            Err(ContextError::Changed { path: self.path.clone() })
        }
    }
}

fn facts_of(file: &File, path: &EntryPath) -> Result<Facts, ContextError> {
    match rustix::fs::fstat(file) {
        Ok(stat) => Ok(Facts::of(&stat)),
        Err(source) => Err(ContextError::Inspect { path: path.clone(), source }),
    }
}

/// Tells a failure to read from a failure to store.
struct Watched<'a> {
    file: &'a mut File,
    read: u64,
    failed: Option<io::Error>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer) {
            Ok(read) => {
                self.read += read as u64;
                Ok(read)
            }
            Err(error) => {
                let told = io::Error::new(error.kind(), "the file cannot be read");
                if error.kind() != io::ErrorKind::Interrupted {
                    self.failed = Some(error);
                }
                Err(told)
            }
        }
    }
}

/// A file of the context, read again after it was hashed. Delivers exactly the bytes that were hashed: the last of them
/// are handed out only once the digest of all of them is known to be right.
#[derive(Debug)]
pub struct VerifiedReader {
    /// Gone once it is verified.
    file: Option<HashingReader<File>>,
    path: EntryPath,
    content: Digest,
    left: u64,
}

impl ContextRoot {
    /// Opens a file whose content is known already, to read it. An empty one is not looked for: there is nothing to
    /// read (and a socket that stands for an empty file cannot be opened).
    ///
    /// # Errors
    /// When it cannot be opened, or does not have that size any more. Reading fails with
    /// [`ContextError::Changed`] inside of the [`io::Error`] when the bytes are not those of `content`.
    pub fn open_verified(
        &self,
        path: &EntryPath,
        content: Digest,
        size: u64,
    ) -> Result<VerifiedReader, ContextError> {
        let mut file = None;
        if size > 0 || content != Digest::of(b"") {
            let open = OpenFile::open(self, path.clone())?;
            if open.facts.size != size {
                return Err(ContextError::Changed { path: open.path });
            }
            file = Some(HashingReader::new(open.file));
        }
        Ok(VerifiedReader { file, path: path.clone(), content, left: size })
    }

    /// Puts a file whose digest is known into `sink`, unless it is there.
    ///
    /// # Errors
    /// When it cannot be read or stored, or has changed.
    pub fn store(
        &self,
        path: &EntryPath,
        content: Digest,
        size: u64,
        sink: &dyn BlobSink,
    ) -> Result<(), ContextError> {
        if sink.contains(&content) {
            return Ok(());
        }
        let mut reader = self.open_verified(path, content, size)?;
        match sink.put_from(&mut reader, size) {
            Ok(stored) if stored == content => Ok(()),
            Ok(_) => Err(ContextError::Changed { path: path.clone() }),
            Err(error) => Err(match error.downcast::<ContextError>() {
                Ok(error) => error,
                Err(source) => ContextError::Store { path: path.clone(), source },
            }),
        }
    }
}

impl VerifiedReader {
    /// How many bytes are still to come.
    pub const fn remaining(&self) -> u64 {
        self.left
    }

    /// Everything was read: was it what it should be? Asked once.
    fn verify(&mut self) -> io::Result<()> {
        let Some(mut reader) = self.file.take() else { return Ok(()) };
        // Grown since: then there is a byte more.
        let grown = read_some(&mut reader, &mut [0])? > 0;
        if !grown && reader.finish().0 == self.content {
            return Ok(());
        }
        // Whoever reads on after the error must not take it for the end.
        self.left = 1;
        Err(self.changed())
    }

    fn changed(&self) -> io::Error {
        io::Error::other(ContextError::Changed { path: self.path.clone() })
    }
}

fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl Read for VerifiedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            self.verify()?;
            return Ok(0);
        }
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(file) = &mut self.file else { return Err(self.changed()) };
        let read = match read_some(file, &mut buffer[..wanted]) {
            Ok(0) => return Err(self.changed()),
            Ok(read) => read,
            Err(source) => {
                let path = self.path.clone();
                return Err(io::Error::new(source.kind(), ContextError::ReadFile { path, source }));
            }
        };
        self.left -= read as u64;
        if self.left == 0 {
            self.verify()?;
        }
        Ok(read)
    }
}
