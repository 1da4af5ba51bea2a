use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

/// How far apart the times of a file that nobody has touched are, in seconds: it is noted and then takes its place.
const TOUCHED: u64 = 2;

const NANOS: u64 = 1_000_000_000;

/// A file of which it is known before it is written what will be in it, so that one that is there already may stay.
///
/// A file that is written gets the fraction of the second of its time from what it is made of, and keeps its seconds. Such a
/// file of the right size is what would be written again: whoever changes it changes its time, and whoever gives it back the
/// time that it had is found out by the time of that change. A file system that keeps no fractions has every file written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreseen {
    nanos: u64,
    /// In bytes, where it is known.
    size: Option<u64>,
}

impl Foreseen {
    /// Names everything that a file is made of, the version of its form included; equal parts give equal bytes.
    pub fn new<'a>(parts: impl IntoIterator<Item = &'a [u8]>, size: Option<u64>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let hash: [u8; 32] = hash.finalize().into();
        let number = hash.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        // A clock that counts in coarser steps never shows this.
        Self { nanos: number % (NANOS - 1) / 2 * 2 + 1, size }
    }

    /// Whether this is the file at `path`.
    pub fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|found| {
            found.is_file()
                && self.size.is_none_or(|size| size == found.len())
                && u64::try_from(found.mtime_nsec()) == Ok(self.nanos)
                && found.ctime().abs_diff(found.mtime()) <= TOUCHED
        })
    }

    /// Notes on a file that it is this one.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn note(&self, file: &File) -> io::Result<()> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // The second before: a file of the future makes other programs wonder.
        let time = Duration::from_secs(now.as_secs().saturating_sub(1)) + Duration::from_nanos(self.nanos);
        file.set_modified(SystemTime::UNIX_EPOCH + time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stays_what_it_is_until_somebody_touches_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let foreseen = Foreseen::new([b"a".as_slice(), b"b"], Some(4));
        assert_ne!(foreseen, Foreseen::new([b"ab".as_slice()], Some(4)));
        assert!(!foreseen.is_at(&path));
        fs::write(&path, "text").unwrap();
        assert!(!foreseen.is_at(&path));
        foreseen.note(&File::options().write(true).open(&path).unwrap()).unwrap();
        if !foreseen.is_at(&path) {
            eprintln!("skipped: this file system keeps no fractions of seconds");
            return;
        }
        assert!(!Foreseen::new([b"a".as_slice(), b"b"], Some(5)).is_at(&path));
        assert!(!Foreseen::new([b"c".as_slice()], Some(4)).is_at(&path));
        fs::write(&path, "TEXT").unwrap();
        assert!(!foreseen.is_at(&path), "its time is another");
        // As `touch -r` does long afterwards, or an archive that is unpacked.
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let seconds = hour_ago.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let kept =
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(foreseen.nanos);
        File::options().write(true).open(&path).unwrap().set_modified(kept).unwrap();
        assert!(!foreseen.is_at(&path), "the change of its time is newer");
    }
}
