//! The 512-byte block that stands before every entry of a tar: where its fields lie, and how this crate writes it.
//!
//! Written is POSIX ustar; a PAX header goes before it only for what ustar cannot say. The extended header's own name
//! and times are constants, so that the same entry always has the same bytes.

use wbuild_tree::{Time, Xattrs};

use crate::pax;

/// Everything in a tar comes in blocks of this size.
pub(crate) const BLOCK: usize = 512;

/// Entry types, as in the header.
pub(crate) mod kind {
    pub(crate) const FILE: u8 = b'0';
    pub(crate) const FILE_V7: u8 = 0;
    pub(crate) const HARD_LINK: u8 = b'1';
    pub(crate) const SYMLINK: u8 = b'2';
    pub(crate) const CHAR_DEVICE: u8 = b'3';
    pub(crate) const BLOCK_DEVICE: u8 = b'4';
    pub(crate) const DIRECTORY: u8 = b'5';
    pub(crate) const FIFO: u8 = b'6';
    pub(crate) const CONTIGUOUS: u8 = b'7';
    pub(crate) const PAX: u8 = b'x';
    pub(crate) const PAX_GLOBAL: u8 = b'g';
    pub(crate) const GNU_LONG_NAME: u8 = b'L';
    pub(crate) const GNU_LONG_LINK: u8 = b'K';
    pub(crate) const GNU_SPARSE: u8 = b'S';
}

/// Where the fields lie.
pub(crate) mod field {
    use std::ops::Range;

    pub(crate) const NAME: Range<usize> = 0..100;
    pub(crate) const MODE: Range<usize> = 100..108;
    pub(crate) const UID: Range<usize> = 108..116;
    pub(crate) const GID: Range<usize> = 116..124;
    pub(crate) const SIZE: Range<usize> = 124..136;
    pub(crate) const MTIME: Range<usize> = 136..148;
    pub(crate) const CHECKSUM: Range<usize> = 148..156;
    pub(crate) const KIND: usize = 156;
    pub(crate) const LINK: Range<usize> = 157..257;
    pub(crate) const MAGIC: Range<usize> = 257..265;
    pub(crate) const MAJOR: Range<usize> = 329..337;
    pub(crate) const MINOR: Range<usize> = 337..345;
    pub(crate) const PREFIX: Range<usize> = 345..500;
}

/// Magic and version of POSIX ustar.
pub(crate) const USTAR: &[u8; 8] = b"ustar\x0000";

/// Magic and version of GNU tar's own format.
pub(crate) const GNU: &[u8; 8] = b"ustar  \0";

/// Largest numbers that fit the octal fields with their terminator.
const MAX_ID: u64 = 0o7_777_777;
const MAX_LARGE: u64 = 0o77_777_777_777;

/// The name of every extended header; never extracted by anything that knows PAX.
const PAX_NAME: &[u8] = b"././@PaxHeader";

/// What the header of one entry says.
#[derive(Debug)]
pub(crate) struct Header<'a> {
    /// With a slash at the end for directories.
    pub(crate) path: &'a [u8],
    /// Target of a link.
    pub(crate) link: &'a [u8],
    pub(crate) kind: u8,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    /// Major and minor number.
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: &'a Xattrs,
}

/// Why an entry cannot be said in a tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsayable {
    Xattr,
    Device,
}

impl Header<'_> {
    /// Appends the header's blocks: the PAX header if there has to be one, then the ustar block.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), Unsayable> {
        let mut block = [0; BLOCK];
        let mut records = Vec::new();
        match split_path(self.path) {
            Some((prefix, name)) => {
                block[field::NAME][..name.len()].copy_from_slice(name);
                block[field::PREFIX][..prefix.len()].copy_from_slice(prefix);
            }
            None => {
                pax::append(&mut records, b"path", self.path);
                put_ascii(&mut block[field::NAME], self.path);
            }
        }
        if self.link.len() > field::LINK.len() || !self.link.is_ascii() {
            pax::append(&mut records, b"linkpath", self.link);
        }
        put_ascii(&mut block[field::LINK], self.link);
        for (key, range, value) in [("uid", field::UID, self.uid), ("gid", field::GID, self.gid)] {
            put_number(&mut block[range], &mut records, key, value.into(), MAX_ID);
        }
        put_number(&mut block[field::SIZE], &mut records, "size", self.size, MAX_LARGE);
        match u64::try_from(self.mtime.seconds) {
            Ok(seconds) if seconds <= MAX_LARGE && self.mtime.nanos == 0 => {
                put_octal(&mut block[field::MTIME], seconds);
            }
            seconds => {
                pax::append(&mut records, b"mtime", pax::format_time(self.mtime).as_bytes());
                put_octal(&mut block[field::MTIME], seconds.map_or(0, |seconds| seconds.min(MAX_LARGE)));
            }
        }
        put_octal(&mut block[field::MODE], u64::from(self.mode & 0o7777));
        let (major, minor) = (u64::from(self.device.0), u64::from(self.device.1));
        if major > MAX_ID || minor > MAX_ID {
            return Err(Unsayable::Device);
        }
        if matches!(self.kind, kind::CHAR_DEVICE | kind::BLOCK_DEVICE) {
            put_octal(&mut block[field::MAJOR], major);
            put_octal(&mut block[field::MINOR], minor);
        }
        for (name, value) in self.xattrs.iter() {
            // A key ends at its first `=`; GNU tar's way to escape one is known to GNU tar only.
            if name.is_empty() || name.contains(&b'=') || name.contains(&0) {
                return Err(Unsayable::Xattr);
            }
            pax::append(&mut records, &[pax::XATTR, name].concat(), value);
        }
        if !records.is_empty() {
            let mut extended = [0; BLOCK];
            put_ascii(&mut extended[field::NAME], PAX_NAME);
            put_octal(&mut extended[field::MODE], 0o644);
            for range in [field::UID, field::GID, field::MTIME] {
                put_octal(&mut extended[range], 0);
            }
            put_octal(&mut extended[field::SIZE], records.len() as u64);
            seal(&mut extended, kind::PAX);
            out.extend_from_slice(&extended);
            out.extend_from_slice(&records);
            out.resize(out.len() + padding(records.len() as u64), 0);
        }
        seal(&mut block, self.kind);
        out.extend_from_slice(&block);
        Ok(())
    }
}

/// Zero bytes between the end of `size` bytes of data and the next block.
pub(crate) const fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// Prefix and name of a path that ustar can hold; `None` when it needs PAX. The rule is that of Go's archive/tar, so
/// that our layers and docker's look alike.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= field::NAME.len() {
        return Some((&[], path));
    }
    let longest = if path.len() > field::PREFIX.len() + 1 {
        field::PREFIX.len() + 1
    } else if path.ends_with(b"/") {
        path.len() - 1
    } else {
        path.len()
    };
    let cut = path[..longest].iter().rposition(|b| *b == b'/')?;
    let (prefix, name) = (&path[..cut], &path[cut + 1..]);
    let fits = !prefix.is_empty()
        && prefix.len() <= field::PREFIX.len()
        && !name.is_empty()
        && name.len() <= field::NAME.len();
    fits.then_some((prefix, name))
}

/// As much as fits of the ASCII bytes; where that is not all, a PAX record has the whole.
fn put_ascii(field: &mut [u8], bytes: &[u8]) {
    for (to, from) in field.iter_mut().zip(bytes.iter().filter(|b| b.is_ascii())) {
        *to = *from;
    }
}

fn put_number(field: &mut [u8], records: &mut Vec<u8>, key: &str, value: u64, max: u64) {
    if value > max {
        pax::append(records, key.as_bytes(), value.to_string().as_bytes());
        put_octal(field, 0);
    } else {
        put_octal(field, value);
    }
}

/// Zero-padded octal digits, and a NUL in the last byte.
fn put_octal(field: &mut [u8], mut value: u64) {
    let digits = field.len() - 1;
    for byte in field[..digits].iter_mut().rev() {
        *byte = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    field[digits] = 0;
}

/// Type, magic and checksum.
fn seal(block: &mut [u8; BLOCK], kind: u8) {
    block[field::KIND] = kind;
    block[field::MAGIC].copy_from_slice(USTAR);
    let sum = checksum(block);
    // Six digits, NUL, space: the one field with a form of its own.
    put_octal(&mut block[148..155], sum.into());
    block[155] = b' ';
}

/// The sum of all bytes, those of the checksum itself taken as spaces.
pub(crate) fn checksum(block: &[u8; BLOCK]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b)).sum::<u32>();
    sum(&block[..field::CHECKSUM.start]) + 8 * u32::from(b' ') + sum(&block[field::CHECKSUM.end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_as_go_does() {
        let dir = "d".repeat(90);
        let file = "f".repeat(99);
        let long = "l".repeat(101);
        let table: [(String, Option<(usize, usize)>); 8] = [
            ("a".into(), Some((0, 1))),
            (format!("{dir}/{file}"), Some((90, 99))),
            (format!("{dir}/{dir}/"), Some((90, 91))),
            (long.clone(), None),
            (format!("d/{long}"), None),
            (format!("{dir}/{dir}/{dir}"), None),
            (format!("{}/{file}", "p".repeat(155)), Some((155, 99))),
            ("ü".into(), None),
        ];
        for (path, expected) in table {
            let found = split_path(path.as_bytes()).map(|(prefix, name)| (prefix.len(), name.len()));
            assert_eq!(found, expected, "{path}");
        }
    }
}
