use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use wbuild_oci::{Descriptor, Digest, HashingReader, MAX_DOCUMENT_BYTES};

use crate::export::{BlobFiles, Export, ExportError, INDEX_FILE, LAYOUT_FILE, LAYOUT_VERSION};
use crate::open::check_version;
use crate::others::{Found, Others};
use crate::verified::VerifiedReader;

/// What had to be done to bring a folder up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayoutChanges {
    /// Blobs that were there and right.
    pub kept: u64,
    /// Hard links to the store.
    pub linked: u64,
    /// Clones that share their blocks with the store.
    pub cloned: u64,
    /// Copies, and documents.
    pub written: u64,
    /// Blobs that were there and wrong, or writable; counted above too.
    pub repaired: u64,
    /// Blobs of earlier images.
    pub removed: u64,
}

/// Puts an image into the OCI layout in `folder`:
///
/// ```text
/// oci-layout             written first: whatever happens then, the folder is known as a layout
/// blobs/sha256/<hex>     mode 0444; layers are hard links to the store where that can be, else clones, else copies
/// index.json             replaced last, in one step: readers see the old image or the new one
/// ```
///
/// Blobs that are there already are kept if they are right: the same inode as in the store, the time of a verified copy
/// ([`BlobFiles::seal`]), or else the same digest. Wrong ones are replaced, and those that nothing names any more
/// removed, unless something stands in the index that cannot be followed. Because blobs may share the store's inodes,
/// **the folder is read-only to its users**.
///
/// A second export into the same folder waits for the first.
///
/// # Errors
/// When the folder holds something else, or cannot be read or written.
pub fn write_layout(
    folder: &Path,
    export: &Export,
    blobs: &dyn BlobFiles,
    others: Others,
) -> Result<LayoutChanges, ExportError> {
    let folder = Folder::open(folder)?;
    folder.replace(LAYOUT_FILE, LAYOUT_VERSION)?;
    let mut changes = LayoutChanges::default();
    let kept = folder.blob_folder()?;
    let mut found = match others {
        Others::Keep => Found::parse(&folder.small(INDEX_FILE)?.unwrap_or_default()),
        Others::Replace => Found::default(),
    };
    let place = found.retain_others_than(export, &|descriptor| kept.read_document(descriptor));
    for (digest, bytes) in &export.documents {
        kept.document(digest, bytes, &mut changes)?;
    }
    for layer in export.layers.values() {
        kept.layer(layer, blobs, &mut changes)?;
    }
    let (index, list) = found.with(export, place)?;
    if let Some(list) = &list {
        kept.document(&list.descriptor.digest, &list.bytes, &mut changes)?;
    }
    folder.replace(INDEX_FILE, &index)?;
    let mut named: BTreeSet<String> = list.iter().map(|list| list.descriptor.digest.hex()).collect();
    named.extend(export.documents.keys().chain(export.layers.keys()).map(Digest::hex));
    if let Some(needed) = found.blobs(&|descriptor| kept.read_document(descriptor)) {
        named.extend(needed);
        kept.remove_others(&named, &mut changes)?;
    }
    Ok(changes)
}

/// Whether [`write_layout`] would take `folder`: before a build, so that nobody waits for its end to learn that it would not.
/// Makes nothing.
///
/// # Errors
/// When the folder is there and holds something else, or cannot be listed.
pub fn check_layout_folder(folder: &Path) -> Result<(), ExportError> {
    match rustix::fs::open(folder, DIRECTORY, Mode::empty()) {
        Ok(fd) => Folder { path: folder.to_owned(), fd }.check_occupied(),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(ExportError::Write { what: "open", path: folder.to_owned(), source: error.into() }),
    }
}

/// Written under this name first. The folder is locked, so there is one writer.
const PARTIAL: &str = ".wbuild-partial";

/// An open directory; all names are relative to it, and links in them are not followed.
struct Folder {
    path: PathBuf,
    fd: OwnedFd,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Folder {
    fn open(path: &Path) -> Result<Self, ExportError> {
        let failed = |what, source| ExportError::Write { what, path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(|e| failed("make the folder", e))?;
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(|e| failed("open", e.into()))?;
        rustix::fs::flock(&fd, FlockOperation::LockExclusive).map_err(|e| failed("lock", e.into()))?;
        let folder = Self { path: path.to_owned(), fd };
        folder.check_occupied()?;
        Ok(folder)
    }

    /// Nothing is removed or replaced in a folder that was never a layout.
    fn check_occupied(&self) -> Result<(), ExportError> {
        let failed = |source| ExportError::Write { what: "list", path: self.path.clone(), source };
        let occupied = |why: String| Err(ExportError::Occupied { folder: self.path.clone(), why });
        let mut found = false;
        let mut other = None;
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            match name.to_str() {
                Some(LAYOUT_FILE) => found = true,
                // All that a killed export can leave before the layout file.
                Some(PARTIAL) => {}
                _ => other = Some(name),
            }
        }
        match (found, other) {
            (true, _) => {
                check_version(&self.path.join(LAYOUT_FILE)).or_else(|error| occupied(error.to_string()))
            }
            (false, Some(name)) => occupied(format!("it has `{}`, but no `{LAYOUT_FILE}`", name.display())),
            (false, None) => Ok(()),
        }
    }

    fn blob_folder(&self) -> Result<Self, ExportError> {
        let blobs = self.subfolder("blobs")?;
        blobs.subfolder("sha256")
    }

    fn subfolder(&self, name: &str) -> Result<Self, ExportError> {
        let path = self.path.join(name);
        let failed =
            |what, source: Errno| ExportError::Write { what, path: path.clone(), source: source.into() };
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed("make the folder", error)),
        }
        let fd = rustix::fs::openat(&self.fd, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|e| failed("open", e))?;
        Ok(Self { path, fd })
    }

    fn failed(&self, what: &'static str, name: &str) -> impl Fn(io::Error) -> ExportError {
        let path = self.path.join(name);
        move |source| ExportError::Write { what, path: path.clone(), source }
    }

    /// Puts a small file in place in one step, unless it is there already.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        if self.holds(name, bytes)? {
            return Ok(());
        }
        let mut file = self.partial(name)?;
        file.write_all(bytes).map_err(self.failed("write", name))?;
        self.commit(&file, name, Mode::from_raw_mode(0o644))
    }

    /// Whether a small file is there with these bytes.
    fn holds(&self, name: &str, bytes: &[u8]) -> Result<bool, ExportError> {
        let Some(file) = self.existing(name)? else { return Ok(false) };
        if !file.metadata().is_ok_and(|found| found.is_file() && found.len() == bytes.len() as u64) {
            return Ok(false);
        }
        let mut found = Vec::with_capacity(bytes.len());
        Ok(file.take(bytes.len() as u64).read_to_end(&mut found).is_ok() && found == bytes)
    }

    /// The bytes of a small file, if it is there.
    fn small(&self, name: &str) -> Result<Option<Vec<u8>>, ExportError> {
        let Some(file) = self.existing(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT_BYTES).read_to_end(&mut bytes).map_err(self.failed("read", name))?;
        Ok(Some(bytes))
    }

    /// A document of another image.
    fn read_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ExportError> {
        let name = descriptor.digest.hex();
        let missing = || self.failed("read", &name)(io::ErrorKind::NotFound.into());
        self.small(&name)?.ok_or_else(missing)
    }

    /// A fresh file that is not in place yet.
    fn partial(&self, name: &str) -> Result<File, ExportError> {
        self.remove(PARTIAL)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, PARTIAL, flags, Mode::from_raw_mode(0o600))
            .map_err(|e| self.failed("make", name)(e.into()))?;
        Ok(File::from(fd))
    }

    fn commit(&self, file: &File, name: &str, mode: Mode) -> Result<(), ExportError> {
        rustix::fs::fchmod(file, mode).map_err(|e| self.failed("set the mode of", name)(e.into()))?;
        rustix::fs::renameat(&self.fd, PARTIAL, &self.fd, name)
            .map_err(|e| self.failed("replace", name)(e.into()))
    }

    fn remove(&self, name: &str) -> Result<(), ExportError> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed("remove", name)(error.into())),
        }
    }

    /// What is under a blob's name.
    fn existing(&self, name: &str) -> Result<Option<File>, ExportError> {
        // Whatever somebody put there: a pipe must not block, a link is not a blob.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::NOENT | Errno::LOOP | Errno::ACCESS | Errno::NXIO) => Ok(None),
            Err(error) => Err(self.failed("open", name)(error.into())),
        }
    }

    /// Whether a blob is there and right. `stored` is the file it was once linked from, `seal` the time of a verified
    /// copy.
    fn is_right(
        &self,
        name: &str,
        digest: &Digest,
        size: u64,
        stored: Option<&std::fs::Metadata>,
        seal: Option<SystemTime>,
    ) -> Result<bool, ExportError> {
        let Some(file) = self.existing(name)? else { return Ok(false) };
        let found = file.metadata().map_err(self.failed("read", name))?;
        if !found.is_file() || found.len() != size || found.mode() & 0o777 != 0o444 {
            return Ok(false);
        }
        if stored.is_some_and(|stored| (stored.dev(), stored.ino()) == (found.dev(), found.ino())) {
            return Ok(true);
        }
        if seal.is_some_and(|seal| is_sealed(&found, seal)) {
            return Ok(true);
        }
        let mut hash = HashingReader::new(&file);
        copy(&mut hash, &mut io::sink())
            .map_err(|(CopyError::Read(error) | CopyError::Write(error))| self.failed("read", name)(error))?;
        let right = hash.finish().0 == *digest;
        if let Some(seal) = seal.filter(|_| right) {
            // On a file system that refuses, the next export reads it again.
            let _ = file.set_modified(seal);
        }
        Ok(right)
    }

    /// Counts a blob as kept, or clears its place.
    fn keep_or_clear(
        &self,
        name: &str,
        right: bool,
        changes: &mut LayoutChanges,
    ) -> Result<bool, ExportError> {
        if right {
            changes.kept += 1;
            return Ok(true);
        }
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => changes.repaired += 1,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(self.failed("replace", name)(error.into())),
        }
        Ok(false)
    }

    fn document(
        &self,
        digest: &Digest,
        bytes: &[u8],
        changes: &mut LayoutChanges,
    ) -> Result<(), ExportError> {
        let name = digest.hex();
        let right = self.is_right(&name, digest, bytes.len() as u64, None, None)?;
        if self.keep_or_clear(&name, right, changes)? {
            return Ok(());
        }
        let mut file = self.partial(&name)?;
        file.write_all(bytes).map_err(self.failed("write", &name))?;
        changes.written += 1;
        self.commit(&file, &name, Mode::from_raw_mode(0o444))
    }

    fn layer(
        &self,
        layer: &Descriptor,
        blobs: &dyn BlobFiles,
        changes: &mut LayoutChanges,
    ) -> Result<(), ExportError> {
        let digest = layer.digest;
        let name = digest.hex();
        let unreadable = |source| ExportError::Blob { digest, source };
        let stored = blobs.blob(&digest).map_err(unreadable)?;
        let source = File::open(&stored).map_err(unreadable)?;
        let metadata = source.metadata().map_err(unreadable)?;
        let seal = blobs.seal(&digest, layer.size);
        let right = self.is_right(&name, &digest, layer.size, Some(&metadata), seal)?;
        if self.keep_or_clear(&name, right, changes)? {
            return Ok(());
        }
        if metadata.len() != layer.size {
            let (expected, actual) = (layer.size, metadata.len());
            let mismatch = crate::BlobMismatch::Size { digest, expected, actual };
            return Err(unreadable(io::Error::new(io::ErrorKind::InvalidData, mismatch)));
        }
        // A link shares its mode with the store, so a writable file is never linked.
        let linkable = metadata.mode() & 0o777 == 0o444;
        if linkable && rustix::fs::linkat(CWD, &stored, &self.fd, name.as_str(), AtFlags::empty()).is_ok() {
            // Links fail for many reasons: another file system, protected links, too many links. None is an error here.
            changes.linked += 1;
            return Ok(());
        }
        let mut file = self.partial(&name)?;
        if rustix::fs::ioctl_ficlone(file.as_fd(), source.as_fd()).is_ok() {
            changes.cloned += 1;
        } else {
            let mut reader = VerifiedReader::new(source, digest, layer.size);
            copy(&mut reader, &mut file).map_err(|error| match error {
                CopyError::Read(source) => unreadable(source),
                CopyError::Write(source) => self.failed("write", &name)(source),
            })?;
            if let Some(seal) = seal {
                let _ = file.set_modified(seal);
            }
            changes.written += 1;
        }
        self.commit(&file, &name, Mode::from_raw_mode(0o444))
    }

    /// Removes blobs that nothing names. Only what looks like a blob is touched.
    fn remove_others(
        &self,
        named: &BTreeSet<String>,
        changes: &mut LayoutChanges,
    ) -> Result<(), ExportError> {
        for entry in std::fs::read_dir(&self.path).map_err(self.failed("list", ""))? {
            let name = entry.map_err(self.failed("list", ""))?.file_name();
            let Some(name) = name.to_str() else { continue };
            if name == PARTIAL {
                self.remove(name)?;
            } else if Digest::from_hex(name).is_ok() && !named.contains(name) {
                self.remove(name)?;
                changes.removed += 1;
            }
        }
        Ok(())
    }
}

/// Whether a file has the time of a verified copy. Some file systems keep whole seconds only.
fn is_sealed(found: &std::fs::Metadata, seal: SystemTime) -> bool {
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    found.modified().is_ok_and(|modified| {
        let (modified, seal) = (since(modified), since(seal));
        modified == seal || modified == Duration::from_secs(seal.as_secs())
    })
}

/// Which side of a copy has failed.
pub(crate) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// As [`io::copy`], but it can be told whose fault an error was.
pub(crate) fn copy(reader: &mut impl Read, writer: &mut impl Write) -> Result<(), CopyError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => writer.write_all(&buffer[..read]).map_err(CopyError::Write)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Read(error)),
        }
    }
}
