//! Files whose name says what is in them: blobs and trees.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, Timestamps, fchmod, fstat, futimens, openat, statat,
};
use rustix::io::Errno;
use wbuild_oci::{Digest, HashingWriter};
use wbuild_tree::TreeDigest;

use crate::entry::Ref;
use crate::error::{At, StoreError};
use crate::seal;
use crate::store::{LastUse, NOW, Store, private_folders};
use crate::trees::read_object;

/// Published files are never written again.
const PUBLISHED: Mode = Mode::RUSR.union(Mode::RGRP).union(Mode::ROTH);

/// Tree objects hold metadata only; none of a sane tree comes near this.
pub(crate) const MAX_TREE_BYTES: u64 = 1 << 30;

/// What kind of sealed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Blob,
    Tree,
}

impl Kind {
    pub(crate) fn path(self, store: &Store, digest: &Digest) -> PathBuf {
        match self {
            Self::Blob => store.layout().blob(digest),
            Self::Tree => store.layout().tree(digest),
        }
    }

    pub(crate) fn name_in_trash(self, digest: &Digest) -> String {
        match self {
            Self::Blob => format!("blob-{}", digest.hex()),
            Self::Tree => format!("tree-{}", digest.hex()),
        }
    }

    pub(crate) const fn what(self, digest: &Digest) -> Ref {
        match self {
            Self::Blob => Ref::Blob(*digest),
            Self::Tree => Ref::Tree(TreeDigest(*digest)),
        }
    }

    /// Whether the file holds what its name says, by reading all of it.
    fn is_genuine(self, file: &mut File, digest: &Digest) -> io::Result<bool> {
        match self {
            Self::Blob => {
                let mut hasher = HashingWriter::new(io::sink());
                copy(file, &mut hasher)?;
                Ok(hasher.finish().0 == *digest)
            }
            Self::Tree => {
                let mut bytes = Vec::new();
                file.take(MAX_TREE_BYTES).read_to_end(&mut bytes)?;
                Ok(read_object(TreeDigest(*digest), &bytes).is_ok())
            }
        }
    }
}

/// As [`io::copy`], with a buffer that suits files.
pub(crate) fn copy(from: &mut dyn Read, to: &mut dyn io::Write) -> io::Result<u64> {
    let mut buffer = vec![0; 128 * 1024];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => {
                to.write_all(&buffer[..read])?;
                copied += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Store {
    /// Whether it is there, as it was published. What is found damaged is dropped.
    pub(crate) fn has_sealed(&self, kind: Kind, digest: &Digest) -> Result<bool, StoreError> {
        let path = kind.path(self, digest);
        match statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if seal::is_intact(&stat, digest) && self.is_trusted(kind, digest) => {
                self.note_use(&path, LastUse::Access, LastUse::Access.of(&stat))
            }
            Ok(_) | Err(Errno::NOENT | Errno::ACCESS) => match self.open_sealed(kind, digest) {
                Ok(_) => Ok(true),
                Err(error) if error.is_lost() => Ok(false),
                Err(error) => Err(error),
            },
            Err(error) => Err(error).at("read", &path),
        }
    }

    /// Opens it for reading. A file that is not as it was published is hashed before it is given out.
    pub(crate) fn open_sealed(&self, kind: Kind, digest: &Digest) -> Result<(File, u64), StoreError> {
        let path = kind.path(self, digest);
        let missing = || StoreError::Missing { what: kind.what(digest) };
        // The access time is the last use, and only we say what a use is: a collector that reads a tree uses nothing.
        let mut flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOATIME;
        let mut repaired = false;
        let file = loop {
            match openat(CWD, &path, flags, Mode::empty()) {
                Ok(file) => break file,
                Err(Errno::NOENT)
                    if !repaired && self.layout().rescue(&path, &kind.name_in_trash(digest)) => {}
                Err(Errno::NOENT) => return Err(missing()),
                // Only the file's owner may ask for it, which in some user namespaces we do not seem to be.
                Err(Errno::PERM) if flags.contains(OFlags::NOATIME) => {
                    flags.remove(OFlags::NOATIME);
                    continue;
                }
                // Somebody changed its mode; it is ours, so we can change it back.
                Err(Errno::ACCESS) if !repaired => {
                    fs::set_permissions(&path, Permissions::from_mode(PUBLISHED.bits())).at("read", &path)?;
                }
                Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => {
                    let stat = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW).at("read", &path)?;
                    return Err(self.damaged(kind, digest, &path, &stat, "it is not a regular file"));
                }
                Err(error) => return Err(error).at("read", &path),
            }
            repaired = true;
        };
        let mut file = File::from(file);
        let stat = fstat(&file).at("read", &path)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(self.damaged(kind, digest, &path, &stat, "it is not a regular file"));
        }
        if !seal::is_intact(&stat, digest) || !self.is_trusted(kind, digest) {
            if !kind.is_genuine(&mut file, digest).at("read", &path)? {
                return Err(self.damaged(kind, digest, &path, &stat, "its bytes have another digest"));
            }
            file.seek(SeekFrom::Start(0)).at("read", &path)?;
            if self.writable().is_ok() {
                self.seal(&file, digest, stat.st_size as u64).at("seal", &path)?;
            }
            self.note_read(kind, digest);
        } else if !self.note_use(&path, LastUse::Access, LastUse::Access.of(&stat))? {
            return Err(missing());
        }
        Ok((file, stat.st_size as u64))
    }

    /// Whether its seal is enough.
    fn is_trusted(&self, kind: Kind, digest: &Digest) -> bool {
        self.read().as_ref().is_none_or(|read| read.contains(&kind.what(digest)))
    }

    fn note_read(&self, kind: Kind, digest: &Digest) {
        if let Some(read) = &mut *self.read() {
            read.insert(kind.what(digest));
        }
    }

    /// Drops what was found damaged, and says so.
    fn damaged(
        &self,
        kind: Kind,
        digest: &Digest,
        path: &Path,
        stat: &Stat,
        why: &'static str,
    ) -> StoreError {
        let dropped = self.writable().and_then(|()| self.layout().discard(path, stat.st_ino));
        match dropped {
            Ok(()) => StoreError::Damaged { what: kind.what(digest), why },
            Err(error) => error,
        }
    }

    /// Drops a sealed file whose bytes were read and found wrong.
    pub(crate) fn drop_damaged(
        &self,
        kind: Kind,
        digest: &Digest,
        file: &File,
        why: &'static str,
    ) -> StoreError {
        let path = kind.path(self, digest);
        match fstat(file).at("read", &path) {
            Ok(stat) => self.damaged(kind, digest, &path, &stat, why),
            Err(error) => error,
        }
    }

    fn seal(&self, file: &File, digest: &Digest, size: u64) -> rustix::io::Result<()> {
        fchmod(file, PUBLISHED)?;
        let times = Timestamps { last_access: NOW, last_modification: seal::time(digest, size) };
        futimens(file, &times)
    }

    /// Renames a finished file of the workspace to where its digest says. Not synchronised to the disk: after a power
    /// failure the seal tells what was lost.
    pub(crate) fn publish(
        &self,
        kind: Kind,
        digest: &Digest,
        temporary: &Path,
        file: &File,
        size: u64,
    ) -> Result<(), StoreError> {
        self.seal(file, digest, size).at("write", temporary)?;
        let path = kind.path(self, digest);
        for _ in 0..4 {
            let error = match fs::rename(temporary, &path) {
                Ok(()) => {
                    self.note_read(kind, digest);
                    return Ok(());
                }
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::NotFound => private_folders(path.parent().unwrap_or(&path))?,
                // A folder lies where a file belongs: damage, out of the way with it.
                io::ErrorKind::IsADirectory | io::ErrorKind::DirectoryNotEmpty => {
                    self.layout().doom(&path)?;
                }
                // The same for the shard.
                io::ErrorKind::NotADirectory => {
                    self.layout().doom(path.parent().unwrap_or(&path))?;
                }
                _ => return Err(error).at("create", &path),
            }
        }
        Err(Errno::BUSY).at("create", &path)
    }
}
