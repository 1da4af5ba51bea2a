//! The stat index: which inode facts had which digest, so that what did not change is not read again.
//!
//! One file per context, named by the digest of the context's path:
//!
//! ```text
//! "wbuild-stat-index-1\n"
//! time of the run that wrote it: seconds i64, nanoseconds u32
//! number of records u64
//! records, 88 bytes each, in the order of the listing that was hashed:
//!     path key, inode, device, size u64; mtime, ctime seconds i64; their nanoseconds u32; SHA-256
//! checksum u64 over all of the above
//! ```
//!
//! All integers are little-endian. The file is disposable: one that is damaged or of another version is taken for empty
//! and replaced. A new format gets a new first line.
//!
//! A digest is reused only when path, inode, device, size and both times are the same *and* the inode's last change
//! was more than [`RACY_SECONDS`] before the run that recorded it: within the clock's granularity a file can change twice
//! and show the same times (git's "racy" rule).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use wbuild_oci::Digest;
use wbuild_tree::Time;

use crate::listing::Facts;

const MAGIC: &[u8] = b"wbuild-stat-index-1\n";
const HEADER: usize = MAGIC.len() + 8 + 4 + 8;
const RECORD: usize = 88;
const CHECKSUM: usize = 8;

/// Two seconds is the coarsest clock of a file system in use (FAT); ext4 and others tick every 4 to 10 ms.
const RACY_SECONDS: i64 = 2;

/// How far ahead of the expected record to look for one before an index over all of them is made.
const LOOK_AHEAD: usize = 16;

/// Records of paths that are not in the present listing (another ignore file, another policy) are kept up to this many
/// beyond the listing's own number.
const SPARE_RECORDS: usize = 1000;

/// The key of the context's root; see [`path_key`].
pub(crate) const PATH_KEY_ROOT: u64 = 0xcbf2_9ce4_8422_2325;

/// Stands for a path: FNV-1a over its names, each closed by a slash. It need not be free of collisions, for inode and times
/// are compared as well.
pub(crate) fn path_key(parent: u64, name: &[u8]) -> u64 {
    let step = |key: u64, byte: &u8| (key ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    step(name.iter().fold(parent, step), &b'/')
}

/// One remembered file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) path_key: u64,
    inode: u64,
    dev: u64,
    size: u64,
    mtime: Time,
    ctime: Time,
    pub(crate) content: Digest,
}

impl Record {
    pub(crate) const fn new(path_key: u64, facts: &Facts, content: Digest) -> Self {
        Self {
            path_key,
            inode: facts.inode,
            dev: facts.dev,
            size: facts.size,
            mtime: facts.mtime,
            ctime: facts.ctime,
            content,
        }
    }

    fn is_of(&self, facts: &Facts) -> bool {
        (self.inode, self.dev, self.size, self.mtime, self.ctime)
            == (facts.inode, facts.dev, facts.size, facts.mtime, facts.ctime)
    }

    fn write(&self, out: &mut Vec<u8>) {
        for number in [self.path_key, self.inode, self.dev, self.size] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.mtime.seconds.to_le_bytes());
        out.extend_from_slice(&self.ctime.seconds.to_le_bytes());
        out.extend_from_slice(&self.mtime.nanos.to_le_bytes());
        out.extend_from_slice(&self.ctime.nanos.to_le_bytes());
        out.extend_from_slice(self.content.as_bytes());
    }

    fn read(bytes: &[u8; RECORD]) -> Self {
        let mut content = [0; 32];
        content.copy_from_slice(&bytes[56..]);
        let time = |seconds: usize, nanos: usize| Time {
            seconds: u64_at(bytes, seconds).cast_signed(),
            nanos: u32_at(bytes, nanos),
        };
        Self {
            path_key: u64_at(bytes, 0),
            inode: u64_at(bytes, 8),
            dev: u64_at(bytes, 16),
            size: u64_at(bytes, 24),
            mtime: time(32, 48),
            ctime: time(40, 52),
            content: Digest::from_bytes(content),
        }
    }
}

/// The little-endian number at `at`; zero past the end, which callers have excluded.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// Four independent multiply-and-rotate lanes over words: notices damage at memory speed; no protection against intent.
fn checksum(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut lanes = [1_u64, 2, 3, 4];
    let blocks = bytes.chunks_exact(32);
    let rest = blocks.remainder();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            *lane = (*lane ^ u64_at(word, 0)).wrapping_mul(FACTOR).rotate_left(29);
        }
    }
    let mut sum = bytes.len() as u64;
    for byte in rest {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(FACTOR).rotate_left(29);
    }
    for lane in lanes {
        sum = (sum ^ lane).wrapping_mul(FACTOR).rotate_left(29);
    }
    sum ^ sum >> 32
}

/// The index of an earlier run, opened for one pass in listing order.
#[derive(Debug)]
pub(crate) struct StatIndex {
    bytes: Vec<u8>,
    /// Inodes changed at or after this may have changed again unseen.
    racy_from: Time,
    records: usize,
    next: usize,
    by_key: Option<BTreeMap<u64, u32>>,
}

impl StatIndex {
    /// Knows nothing.
    pub(crate) const fn empty() -> Self {
        Self {
            bytes: Vec::new(),
            racy_from: Time { seconds: i64::MIN, nanos: 0 },
            records: 0,
            next: 0,
            by_key: None,
        }
    }

    /// Reads an index; an absent or damaged one is empty.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        let bytes = match std::fs::File::open(path) {
            Ok(mut file) => {
                let mut bytes = Vec::with_capacity(file.metadata().map_or(0, |meta| meta.len() as usize + 1));
                file.read_to_end(&mut bytes)?;
                bytes
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::empty()),
            Err(error) => return Err(error),
        };
        Ok(Self::parse(bytes).unwrap_or(Self::empty()))
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let body = bytes.len().checked_sub(CHECKSUM)?;
        if body < HEADER || !bytes.starts_with(MAGIC) || checksum(&bytes[..body]) != u64_at(&bytes, body) {
            return None;
        }
        let at = MAGIC.len();
        let records = usize::try_from(u64_at(&bytes, at + 12)).ok()?;
        if records.checked_mul(RECORD)? != body - HEADER {
            return None;
        }
        let written = u64_at(&bytes, at).cast_signed();
        let racy_from = Time { seconds: written.saturating_sub(RACY_SECONDS), nanos: u32_at(&bytes, at + 8) };
        Some(Self { bytes, racy_from, records, next: 0, by_key: None })
    }

    fn record(&self, index: usize) -> Option<Record> {
        let start = HEADER + index * RECORD;
        (index < self.records).then(|| self.bytes.get(start..)?.first_chunk().map(Record::read)).flatten()
    }

    fn key(&self, index: usize) -> Option<u64> {
        (index < self.records).then(|| u64_at(&self.bytes, HEADER + index * RECORD))
    }

    /// The remembered record of a path, if it is still true. Cheapest when asked in listing order.
    pub(crate) fn find(&mut self, path_key: u64, facts: &Facts) -> Option<Record> {
        let index = self.position(path_key)?;
        self.next = index + 1;
        self.record(index).filter(|record| record.is_of(facts) && record.ctime < self.racy_from)
    }

    fn position(&mut self, path_key: u64) -> Option<usize> {
        let ahead = (self.next..self.next + LOOK_AHEAD).find(|index| self.key(*index) == Some(path_key));
        if ahead.is_some() || self.records == 0 {
            return ahead;
        }
        let by_key = self.by_key.take().unwrap_or_else(|| {
            (0..self.records).filter_map(|index| Some((self.key(index)?, index as u32))).collect()
        });
        let found = by_key.get(&path_key).map(|index| *index as usize);
        self.by_key = Some(by_key);
        found
    }

    /// The records of paths that `listed` does not have and that are beyond doubt, if they are not too many.
    fn spare(&self, listed: &BTreeSet<u64>, limit: usize) -> Vec<Record> {
        let spare: Vec<Record> = (0..self.records)
            .filter_map(|index| self.record(index))
            .filter(|record| record.ctime < self.racy_from && !listed.contains(&record.path_key))
            .collect();
        if spare.len() > limit { Vec::new() } else { spare }
    }

    /// Replaces the index at `path`: `records` were checked at or after `started`; of this index's records, those of
    /// paths that are in no listing now are kept within limits.
    ///
    /// # Errors
    /// When it cannot be written. What was there stays.
    pub(crate) fn replace(
        &self,
        path: &Path,
        started: Time,
        mut records: Vec<Record>,
        listed: impl Iterator<Item = u64>,
    ) -> io::Result<()> {
        let listed: BTreeSet<u64> = listed.collect();
        records.extend(self.spare(&listed, listed.len() + SPARE_RECORDS));
        let mut out = Vec::with_capacity(HEADER + records.len() * RECORD + CHECKSUM);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&started.seconds.to_le_bytes());
        out.extend_from_slice(&started.nanos.to_le_bytes());
        out.extend_from_slice(&(records.len() as u64).to_le_bytes());
        records.iter().for_each(|record| record.write(&mut out));
        out.extend_from_slice(&checksum(&out).to_le_bytes());
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        // Not synced: after a crash it is either whole, or its checksum is wrong and it is made anew.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&out)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// Where something about the context at `root` is kept.
///
/// # Errors
/// When the context's own path cannot be found out.
pub(crate) fn state_file(state: &Path, root: &Path, kind: &str) -> io::Result<PathBuf> {
    let root = std::fs::canonicalize(root)?;
    Ok(state.join(format!("{}.{kind}", Digest::of(root.as_os_str().as_bytes()).hex())))
}

/// Whether a file changed so shortly before a run that it can change again within that run, or later, without a trace.
pub(crate) fn is_racy(ctime: Time, started: Time) -> bool {
    ctime >= Time { seconds: started.seconds.saturating_sub(RACY_SECONDS), ..started }
}

/// The present time, by the clock that local file systems stamp inodes with.
pub(crate) fn now() -> Time {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Time { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() },
        // Before 1970 everything is racy, and so re-hashed.
        Err(_) => Time { seconds: i64::MIN, nanos: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::FileKind;

    fn facts(inode: u64, ctime: i64) -> Facts {
        Facts {
            kind: FileKind::File,
            mode: 0o644,
            size: inode * 10,
            mtime: Time { seconds: 5, nanos: 6 },
            ctime: Time { seconds: ctime, nanos: 7 },
            inode,
            dev: 3,
            nlink: 1,
            rdev: 0,
        }
    }

    fn key(number: u64) -> u64 {
        path_key(PATH_KEY_ROOT, number.to_string().as_bytes())
    }

    fn written(folder: &Path, count: u64, started: i64) -> PathBuf {
        let path = folder.join("i.stat");
        let records =
            (0..count).map(|n| Record::new(key(n), &facts(n, 100), Digest::of(&n.to_le_bytes()))).collect();
        StatIndex::empty()
            .replace(&path, Time { seconds: started, nanos: 0 }, records, (0..count).map(key))
            .unwrap();
        path
    }

    #[test]
    fn records_come_back_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), 200, 1000);
        let mut index = StatIndex::load(&path).unwrap();
        for n in (0..200).chain((0..200).rev()).chain([7, 150, 3]) {
            assert_eq!(index.find(key(n), &facts(n, 100)).unwrap().content, Digest::of(&n.to_le_bytes()));
        }
        assert!(index.find(key(200), &facts(200, 100)).is_none());
    }

    #[test]
    fn any_other_fact_is_a_miss() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = StatIndex::load(&written(folder.path(), 3, 1000)).unwrap();
        let same = facts(1, 100);
        let nanos = |seconds, nanos| Time { seconds, nanos };
        for other in [
            Facts { size: 11, ..same },
            Facts { inode: 2, ..same },
            Facts { dev: 4, ..same },
            Facts { mtime: nanos(5, 7), ..same },
            Facts { ctime: nanos(100, 8), ..same },
        ] {
            assert!(index.find(key(1), &other).is_none());
        }
        assert!(index.find(key(2), &same).is_none(), "another path");
        assert!(index.find(key(1), &Facts { mode: 0o755, ..same }).is_some(), "the mode is no content");
    }

    #[test]
    fn what_changed_shortly_before_is_racy() {
        let folder = tempfile::tempdir().unwrap();
        for (started, found) in [(101, false), (102, false), (103, true)] {
            let mut index = StatIndex::load(&written(folder.path(), 1, started)).unwrap();
            assert_eq!(index.find(key(0), &facts(0, 100)).is_some(), found, "{started}");
        }
    }

    #[test]
    fn every_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), 3, 1000);
        let good = std::fs::read(&path).unwrap();
        assert!(StatIndex::parse(good.clone()).is_some());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(StatIndex::parse(bad).is_none(), "byte {at}");
            assert!(StatIndex::parse(good[..at].to_vec()).is_none(), "cut at {at}");
        }
        std::fs::write(&path, b"rubbish").unwrap();
        assert_eq!(StatIndex::load(&path).unwrap().records, 0);
        assert_eq!(StatIndex::load(&folder.path().join("none")).unwrap().records, 0);
    }

    #[test]
    fn the_format_is_stable() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = std::fs::read(written(folder.path(), 2, 1000)).unwrap();
        assert_eq!(bytes.len(), HEADER + 2 * RECORD + CHECKSUM);
        assert_eq!(
            Digest::of(&bytes).short(),
            "65a653c28f4b",
            "a change of the format needs a new first line, so that old files are told apart"
        );
    }

    #[test]
    fn unlisted_records_survive_unless_they_are_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), 3, 1000);
        let index = StatIndex::load(&path).unwrap();
        let new = vec![Record::new(key(1), &facts(1, 100), Digest::of(b"new"))];
        index.replace(&path, Time { seconds: 2000, nanos: 0 }, new, [key(1)].into_iter()).unwrap();
        let mut index = StatIndex::load(&path).unwrap();
        assert_eq!(index.records, 3);
        assert_eq!(index.find(key(1), &facts(1, 100)).unwrap().content, Digest::of(b"new"));
        assert!(index.find(key(0), &facts(0, 100)).is_some());
    }
}
