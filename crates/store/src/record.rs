use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wbuild_oci::Digest;

use crate::entry::Ref;
use crate::error::{At, StoreError};
use crate::store::{LastUse, Store, private_folders};
use crate::workspace::Moment;

/// First bytes of a record file.
const MAGIC: &str = "wbuild-record-1 ";

/// Records hold a key's preimage and a result, not contents.
const MAX_BYTES: u64 = 64 << 20;

/// What the store itself has to know of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordMeta {
    /// What the record's result consists of: the collector keeps it as long as it keeps the record.
    pub refs: Vec<Ref>,
}

/// What came of a vertex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it refers to.
    pub meta: RecordMeta,
    /// The rest, as it was stored.
    pub body: Vec<u8>,
}

/// What became of a record that was to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is the first with its key.
    New,
    /// Another was first, and it stays: this one.
    Existing(Record),
}

/// A record file that was read.
enum Found {
    Nothing,
    Damaged { inode: u64 },
    Record { record: Record, used: Moment },
}

fn checksum(key: &Digest, rest: &[u8]) -> Digest {
    // The key is in it, so that two record files that changed places are noticed.
    let mut hasher = Sha256::new();
    hasher.update(key.as_bytes());
    hasher.update(rest);
    Digest::from_bytes(hasher.finalize().into())
}

fn encode(key: &Digest, meta: &RecordMeta, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut rest = serde_json::to_vec(meta)?;
    rest.push(b'\n');
    rest.extend_from_slice(body);
    let mut bytes = format!("{MAGIC}{}\n", checksum(key, &rest).hex()).into_bytes();
    bytes.extend_from_slice(&rest);
    Ok(bytes)
}

/// `None` when the bytes are not a record of this key.
fn decode(key: &Digest, bytes: &[u8]) -> Option<Record> {
    let (hex, rest) = bytes.strip_prefix(MAGIC.as_bytes())?.split_at_checked(64)?;
    let rest = rest.strip_prefix(b"\n")?;
    if checksum(key, rest).hex().as_bytes() != hex {
        return None;
    }
    let cut = rest.iter().position(|b| *b == b'\n')?;
    let meta = serde_json::from_slice(&rest[..cut]).ok()?;
    Some(Record { meta, body: rest[cut + 1..].to_vec() })
}

fn name_in_trash(key: &Digest) -> String {
    format!("record-{}", key.hex())
}

impl Store {
    /// The record of a key, counted as used. A damaged one is removed and is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn record(&self, key: &Digest) -> Result<Option<Record>, StoreError> {
        let path = self.layout().record(key);
        let (record, used) = match self.find_record(key, &path)? {
            Found::Record { record, used } => (record, used),
            Found::Nothing if self.layout().rescue(&path, &name_in_trash(key)) => {
                match self.find_record(key, &path)? {
                    Found::Record { record, used } => (record, used),
                    _ => return Ok(None),
                }
            }
            Found::Nothing => return Ok(None),
            Found::Damaged { inode } => {
                self.damaged_records().insert(*key);
                if self.writable().is_ok() {
                    self.layout().discard(&path, inode)?;
                }
                return Ok(None);
            }
        };
        Ok(self.note_use(&path, LastUse::Modification, used)?.then_some(record))
    }

    /// Whether this process came upon a damaged record of this key: it explains why there is none.
    pub fn had_damaged_record(&self, key: &Digest) -> bool {
        self.damaged_records().contains(key)
    }

    /// The record of a key without counting it as used, for explanations. `None` for a damaged one.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn peek_record(&self, key: &Digest) -> Result<Option<Record>, StoreError> {
        match self.find_record(key, &self.layout().record(key))? {
            Found::Record { record, .. } => Ok(Some(record)),
            Found::Nothing | Found::Damaged { .. } => Ok(None),
        }
    }

    fn find_record(&self, key: &Digest, path: &Path) -> Result<Found, StoreError> {
        let file = match open_plain(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error).at("read", path),
        };
        let meta = file.metadata().at("read", path)?;
        let damaged = Found::Damaged { inode: meta.ino() };
        if !meta.is_file() || meta.len() > MAX_BYTES {
            return Ok(damaged);
        }
        let mut bytes = Vec::with_capacity(meta.len() as usize);
        (&file).take(MAX_BYTES).read_to_end(&mut bytes).at("read", path)?;
        let used = Moment { seconds: meta.mtime(), nanos: meta.mtime_nsec() };
        Ok(decode(key, &bytes).map_or(damaged, |record| Found::Record { record, used }))
    }

    /// Stores the record of a key, unless there is one already: the first result of a key wins.
    ///
    /// Everything that `meta` refers to is in the store before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_record(&self, key: &Digest, meta: &RecordMeta, body: &[u8]) -> Result<Stored, StoreError> {
        let temporary =
            self.write_small(&encode(key, meta, body).at("encode", &self.layout().record(key))?)?;
        let path = self.layout().record(key);
        let result = self.put_record_file(key, &path, &temporary);
        let _ = fs::remove_file(&temporary);
        result
    }

    fn put_record_file(&self, key: &Digest, path: &Path, temporary: &Path) -> Result<Stored, StoreError> {
        for _ in 0..8 {
            // A hard link never replaces, on every file system that has links.
            match fs::hard_link(temporary, path) {
                Ok(()) => return Ok(Stored::New),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    private_folders(path.parent().unwrap_or(path))?;
                }
                Err(error) if error.kind() == ErrorKind::NotADirectory => {
                    self.layout().doom(path.parent().unwrap_or(path))?;
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    // A damaged one is gone after this, and so may be one that was just collected.
                    if let Some(existing) = self.record(key)? {
                        return Ok(Stored::Existing(existing));
                    }
                }
                Err(error) => return Err(error).at("create", path),
            }
        }
        Err(rustix::io::Errno::BUSY).at("create", path)
    }

    /// Stores the record of a key in place of the one that is there: for when what that one refers to is lost.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace_record(&self, key: &Digest, meta: &RecordMeta, body: &[u8]) -> Result<(), StoreError> {
        let path = self.layout().record(key);
        self.replace(&path, &encode(key, meta, body).at("encode", &path)?)
    }

    /// Forgets a key.
    ///
    /// # Errors
    /// When its record cannot be removed.
    pub fn remove_record(&self, key: &Digest) -> Result<(), StoreError> {
        self.writable()?;
        let path = self.layout().record(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).at("remove", &path),
            _ => Ok(()),
        }
    }

    /// Every key that has a record, in no order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn record_keys(&self) -> Result<Vec<Digest>, StoreError> {
        let mut keys = Vec::new();
        crate::usage::each_sharded(&self.layout().folder("records"), &mut |key, _| {
            keys.push(key);
            Ok(())
        })?;
        Ok(keys)
    }

    /// Points `name` (a hash of what identifies a step across builds) at the newest record of that step.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn set_latest(&self, name: &Digest, key: &Digest) -> Result<(), StoreError> {
        self.replace(&self.layout().latest(name), format!("{}\n", key.hex()).as_bytes())
    }

    /// The newest record of a step, if it is known.
    ///
    /// # Errors
    /// When that is there and cannot be read.
    pub fn latest(&self, name: &Digest) -> Result<Option<Digest>, StoreError> {
        let path = self.layout().latest(name);
        let mut text = String::new();
        match open_plain(&path).and_then(|file| file.take(65).read_to_string(&mut text)) {
            Ok(_) => Ok(text.strip_suffix('\n').and_then(|hex| Digest::from_hex(hex).ok())),
            // Damaged is unknown; it is only used to explain.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => Ok(None),
            Err(error) if error.kind() == ErrorKind::IsADirectory => Ok(None),
            Err(error) => Err(error).at("read", &path),
        }
    }

    /// A small file in the workspace.
    fn write_small(&self, bytes: &[u8]) -> Result<std::path::PathBuf, StoreError> {
        let (path, mut file) = self.temporary()?;
        let written = file.write_all(bytes).at("write", &path);
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        written.map(|()| path)
    }

    /// Replaces a small file atomically.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let temporary = self.write_small(bytes)?;
        let mut result = fs::rename(&temporary, path);
        if let Err(error) = &result {
            match error.kind() {
                ErrorKind::NotFound => private_folders(path.parent().unwrap_or(path))?,
                ErrorKind::IsADirectory | ErrorKind::DirectoryNotEmpty => {
                    self.layout().doom(path)?;
                }
                _ => {}
            }
            result = fs::rename(&temporary, path);
        }
        if result.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        result.at("create", path)
    }
}

/// Opens without following a link or waiting for a pipe; a file whose mode somebody took away gets it back.
fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let open = || File::options().read(true).custom_flags(flags.bits() as i32).open(path);
    match open() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            open()
        }
        other => other,
    }
}
