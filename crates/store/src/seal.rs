//! The seal: evidence in the file itself that it is still as it was published.
//!
//! A sealed file's modification time is a function of its digest and size. Every later write, truncation, or exchange
//! for another file gives it another time, so that one `stat` tells whether it has to be hashed again. Against a list
//! of (size, time, inode) beside each file this needs no second file that could be lost, stale or torn, survives a
//! restore from a backup, and sees two files that changed places.
//!
//! The size is in it because of power loss: journals keep a file's times and lose its data, and then the file is
//! shorter (ext4 with delayed allocation and XFS both set the size when the data has been written).

use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Stat, Timespec};
use wbuild_oci::Digest;

/// Sealed times lie before this second (September 2001): no clock that is right gives such a time to a later write.
const SECONDS: u64 = 1_000_000_000;

/// Sealed times are whole microseconds, which every file system worth the name keeps; never zero, so that zero tells of
/// a file system that keeps whole seconds only.
const MICROS: u64 = 999_999;

/// The modification time that says: these are the `size` bytes with this digest.
pub(crate) fn time(digest: &Digest, size: u64) -> Timespec {
    let bytes = digest.as_bytes();
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
    // The multiplier is splitmix64's; it spreads sizes that differ in few bits over the whole range.
    let mixed = (word(0) ^ size).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let other = (word(8) ^ size.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    Timespec { tv_sec: (1 + mixed % SECONDS) as i64, tv_nsec: ((1 + other % MICROS) * 1000) as _ }
}

/// The same for copies of blobs outside of the store, which are then known again without being read.
pub fn seal_time(digest: &Digest, size: u64) -> SystemTime {
    let sealed = time(digest, size);
    SystemTime::UNIX_EPOCH + Duration::new(sealed.tv_sec.unsigned_abs(), sealed.tv_nsec as u32)
}

/// Whether a file is as it was published.
pub(crate) fn is_intact(stat: &Stat, digest: &Digest) -> bool {
    let Ok(size) = u64::try_from(stat.st_size) else { return false };
    let sealed = time(digest, size);
    let nanos = stat.st_mtime_nsec as i64;
    FileType::from_raw_mode(stat.st_mode).is_file()
        && stat.st_mtime == sealed.tv_sec
        && (nanos == 0 || nanos == sealed.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_differ_by_digest_and_by_size() {
        let digest = Digest::of(b"x");
        let seal = |digest: &Digest, size| {
            let time = time(digest, size);
            (time.tv_sec, time.tv_nsec)
        };
        assert_ne!(seal(&digest, 0), seal(&digest, 1));
        assert_ne!(seal(&digest, 4096), seal(&digest, 8192));
        assert_ne!(seal(&digest, 1), seal(&Digest::of(b"y"), 1));
        for number in 0_u64..1000 {
            let (seconds, nanos) = seal(&Digest::of(&number.to_le_bytes()), number);
            assert!((1..=1_000_000_000).contains(&seconds) && (1000..1_000_000_000).contains(&nanos));
        }
    }

    #[test]
    fn vector() {
        // A change here means that every blob of every store is hashed once more: give it a feature flag.
        let sealed = time(&Digest::of(b"wbuild"), 6);
        assert_eq!((sealed.tv_sec, sealed.tv_nsec), (38_802_636, 37_773_000));
        let since = seal_time(&Digest::of(b"wbuild"), 6).duration_since(SystemTime::UNIX_EPOCH);
        assert_eq!(since.unwrap(), Duration::new(38_802_636, 37_773_000));
    }
}
