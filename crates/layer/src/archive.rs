//! A strict tar reader: what two readers could take differently is an error, not a guess.
//!
//! Read are v7, POSIX ustar with PAX, and GNU tar's long names and base-256 numbers. Refused are sparse files,
//! multi-volume archives, PAX and GNU metadata on one entry, numbers with signs or without an end, sizes on entries that
//! have no data, metadata that belongs to no entry, and anything but zeros behind the end. A PAX size always wins over
//! the header's, so that no file can hide entries of another archive (CVE-2025-62518).

use std::fmt;
use std::io::{self, Read};

use wbuild_tree::{Meta, Time, Xattrs};

use crate::header::{BLOCK, GNU, USTAR, checksum, field, kind, padding};
use crate::pax::{self, Extended, MAX_EXTENDED};

/// Caps on what an archive may unpack to. Each has a name, which its error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `max-unpacked-bytes`: of the whole tar.
    pub bytes: u64,
    /// `max-entries`.
    pub entries: u64,
}

impl Default for Limits {
    /// 64 GiB, and four million entries: several times the largest images in use.
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 4_000_000 }
    }
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The bytes cannot be read or decompressed.
    #[error("cannot read the archive at byte {offset} of the tar")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ends too early.
    #[error("the archive is cut off at byte {offset}, in the middle of an entry")]
    Truncated {
        /// Where.
        offset: u64,
    },
    /// A header's checksum does not fit: this is no tar, or a damaged one.
    #[error("there is no valid tar header at byte {offset}")]
    Checksum {
        /// Where.
        offset: u64,
    },
    /// A number that is signed, negative, too large, not ended, or not a number.
    #[error("the tar header at byte {offset} has a malformed {field}")]
    Number {
        /// Where.
        offset: u64,
        /// Which field.
        field: &'static str,
    },
    /// Something that is not allowed, or that readers disagree on.
    #[error("the tar entry at byte {offset} is refused: {why}")]
    Refused {
        /// Where.
        offset: u64,
        /// Why.
        why: &'static str,
    },
    /// More bytes than allowed.
    #[error("the archive unpacks to more than {limit} bytes (limit `max-unpacked-bytes`)")]
    TooManyBytes {
        /// The cap.
        limit: u64,
    },
    /// More entries than allowed.
    #[error("the archive has more than {limit} entries (limit `max-entries`)")]
    TooManyEntries {
        /// The cap.
        limit: u64,
    },
}

/// What an entry of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveKind {
    /// A regular file; its bytes are read from the archive next.
    File {
        /// Bytes.
        size: u64,
    },
    /// Another name of an earlier entry.
    HardLink {
        /// That entry's path, as written.
        target: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// Verbatim.
        target: Vec<u8>,
    },
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// One entry of an archive, as it is written there: nothing is resolved or made safe yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveEntry {
    /// Where its header begins.
    pub offset: u64,
    /// Its path.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: ArchiveKind,
    /// Mode, owner, time, attributes.
    pub meta: Meta,
}

/// Reads an uncompressed tar from front to back.
pub struct Archive<R> {
    inner: R,
    limits: Limits,
    offset: u64,
    entries: u64,
    /// Bytes of the current entry that were not read yet, and zeros behind them.
    data: u64,
    pad: u64,
    ended: bool,
    /// Whether anything may follow the end.
    anything_follows: bool,
}

impl<R> fmt::Debug for Archive<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive")
            .field("offset", &self.offset)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Archive<R> {
    /// Reads from `inner`.
    pub const fn new(inner: R, limits: Limits) -> Self {
        Self { inner, limits, offset: 0, entries: 0, data: 0, pad: 0, ended: false, anything_follows: false }
    }

    /// Takes the archive for whole when its end is reached, whatever comes behind it: another archive, a signature, a
    /// checksum that is cut off. As tar, gunzip and docker build's `ADD` do; what is part of an image is read strictly.
    #[must_use]
    pub const fn whatever_follows(mut self) -> Self {
        self.anything_follows = true;
        self
    }

    /// The next entry; what was left unread of the one before is passed over. `None` at the end, when everything behind
    /// it was read too and is zero.
    ///
    /// # Errors
    /// When the archive is damaged, malformed, ambiguous or too large. There is no going on after an error.
    pub fn next_entry(&mut self) -> Result<Option<ArchiveEntry>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        self.skip()?;
        let mut pax: Option<Extended> = None;
        let mut gnu_path: Option<Vec<u8>> = None;
        let mut gnu_link: Option<Vec<u8>> = None;
        let start = self.offset;
        loop {
            let offset = self.offset;
            let refused = |why| ArchiveError::Refused { offset, why };
            let Some(block) = self.header()? else {
                if pax.is_some() || gnu_path.is_some() || gnu_link.is_some() {
                    return Err(refused("the archive ends with metadata that belongs to no entry"));
                }
                self.ended = true;
                return Ok(None);
            };
            // Counted are headers of any kind: a row of millions of global headers is no entry, but work.
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(ArchiveError::TooManyEntries { limit: self.limits.entries });
            }
            let gnu = gnu_path.is_some() || gnu_link.is_some();
            match block[field::KIND] {
                kind::PAX | kind::PAX_GLOBAL if &block[field::MAGIC] != USTAR => {
                    return Err(refused("a PAX header is not in POSIX format"));
                }
                kind::PAX_GLOBAL => {
                    if pax.is_some() || gnu {
                        return Err(refused("a global PAX header stands between an entry and its metadata"));
                    }
                    let records = self.extended(&block, offset)?;
                    pax::check_global(&records).map_err(refused)?;
                }
                kind::PAX => {
                    if pax.is_some() {
                        return Err(refused("it has two PAX headers"));
                    }
                    let records = self.extended(&block, offset)?;
                    pax = Some(pax::parse(&records).map_err(refused)?);
                }
                kind @ (kind::GNU_LONG_NAME | kind::GNU_LONG_LINK) => {
                    let slot = if kind == kind::GNU_LONG_NAME { &mut gnu_path } else { &mut gnu_link };
                    if slot.is_some() {
                        return Err(refused("it has two GNU long names"));
                    }
                    *slot = Some(long_name(&self.extended(&block, offset)?).map_err(refused)?);
                }
                _ => {
                    let mut extended = pax.unwrap_or_default();
                    extended.path = extended.path.or(gnu_path);
                    extended.link = extended.link.or(gnu_link);
                    return self.entry(&block, extended, start, offset).map(Some);
                }
            }
            if pax.is_some() && (gnu_path.is_some() || gnu_link.is_some()) {
                return Err(refused("it mixes PAX and GNU metadata"));
            }
        }
    }

    /// The bytes of the current file.
    pub const fn data(&mut self) -> ArchiveData<'_, R> {
        ArchiveData(self)
    }

    /// How many bytes of the tar were read.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// What the archive is read from.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        extended: Extended,
        start: u64,
        offset: u64,
    ) -> Result<ArchiveEntry, ArchiveError> {
        let refused = |why| ArchiveError::Refused { offset, why };
        let number = |range, field| parse_number(&block[range]).ok_or(ArchiveError::Number { offset, field });
        let unsigned = |range, field| {
            number(range, field)
                .and_then(|n| u64::try_from(n).map_err(|_| ArchiveError::Number { offset, field }))
        };
        let id = |range, field| {
            unsigned(range, field)
                .and_then(|n| u32::try_from(n).map_err(|_| ArchiveError::Number { offset, field }))
        };
        let path = match extended.path {
            Some(path) => path,
            None => header_path(block),
        };
        if path.is_empty() {
            return Err(refused("it has no name"));
        }
        let link = extended.link.unwrap_or_else(|| until_nul(&block[field::LINK]).to_vec());
        let size = match extended.size {
            Some(size) => size,
            None => unsigned(field::SIZE, "size")?,
        };
        let kind = match block[field::KIND] {
            kind::FILE_V7 if path.ends_with(b"/") => ArchiveKind::Directory,
            kind::FILE | kind::FILE_V7 | kind::CONTIGUOUS if path.ends_with(b"/") => {
                return Err(refused("it is a file whose name ends with a slash"));
            }
            kind::FILE | kind::FILE_V7 | kind::CONTIGUOUS => ArchiveKind::File { size },
            kind::HARD_LINK => ArchiveKind::HardLink { target: link },
            kind::SYMLINK => ArchiveKind::Symlink { target: link },
            kind::DIRECTORY => ArchiveKind::Directory,
            kind::FIFO => ArchiveKind::Fifo,
            kind::CHAR_DEVICE => ArchiveKind::CharDevice {
                major: id(field::MAJOR, "device number")?,
                minor: id(field::MINOR, "device number")?,
            },
            kind::BLOCK_DEVICE => ArchiveKind::BlockDevice {
                major: id(field::MAJOR, "device number")?,
                minor: id(field::MINOR, "device number")?,
            },
            kind::GNU_SPARSE => return Err(refused("it is a sparse file, which is not supported")),
            _ => return Err(refused("its type is unknown")),
        };
        if !matches!(kind, ArchiveKind::File { .. }) && size != 0 {
            return Err(refused("it has a size, but its type has no data"));
        }
        if matches!(&kind, ArchiveKind::HardLink { target } | ArchiveKind::Symlink { target } if target.is_empty())
        {
            return Err(refused("it is a link without a target"));
        }
        let mtime = match extended.mtime {
            Some(mtime) => mtime,
            None => Time { seconds: number(field::MTIME, "time")?, nanos: 0 },
        };
        let meta = Meta {
            mode: (unsigned(field::MODE, "mode")? & 0o7777) as u16,
            uid: extended.uid.map_or_else(|| id(field::UID, "uid"), Ok)?,
            gid: extended.gid.map_or_else(|| id(field::GID, "gid"), Ok)?,
            mtime,
            xattrs: extended.xattrs,
        };
        // To `chown`, this id means "leave it".
        if meta.uid == u32::MAX || meta.gid == u32::MAX {
            return Err(refused("its owner is not a valid id"));
        }
        self.data = if let ArchiveKind::File { size } = kind { size } else { 0 };
        self.pad = padding(self.data) as u64;
        if self.data > self.limits.bytes {
            return Err(ArchiveError::TooManyBytes { limit: self.limits.bytes });
        }
        Ok(ArchiveEntry { offset: start, path, kind, meta })
    }

    /// The next header block, checked; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let offset = self.offset;
        let mut block = [0; BLOCK];
        match self.read_up_to(&mut block)? {
            // Some writers leave the closing blocks out; whether something is missing, the diff id tells.
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(ArchiveError::Truncated { offset: self.offset }),
        }
        if block.iter().all(|b| *b == 0) {
            self.only_zeros()?;
            return Ok(None);
        }
        let stated = parse_number(&block[field::CHECKSUM]);
        if stated != Some(checksum(&block).into()) {
            return Err(ArchiveError::Checksum { offset });
        }
        if !matches!(&block[field::MAGIC], magic if magic == USTAR || magic == GNU || magic == [0; 8]) {
            return Err(ArchiveError::Refused {
                offset,
                why: "its format is neither POSIX, nor GNU, nor v7",
            });
        }
        Ok(Some(block))
    }

    /// The data of a header that describes the next entry.
    fn extended(&mut self, block: &[u8; BLOCK], offset: u64) -> Result<Vec<u8>, ArchiveError> {
        let size = parse_number(&block[field::SIZE]).and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or(ArchiveError::Number { offset, field: "size" })?;
        if size > MAX_EXTENDED {
            return Err(ArchiveError::Refused { offset, why: "its extended header is larger than 1 MiB" });
        }
        let mut bytes = vec![0; size as usize + padding(size)];
        if self.read_up_to(&mut bytes)? < bytes.len() {
            return Err(ArchiveError::Truncated { offset: self.offset });
        }
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    /// Passes over the rest of the current entry.
    fn skip(&mut self) -> Result<(), ArchiveError> {
        let mut buffer = [0; 16 << 10];
        while self.data + self.pad > 0 {
            let want = (self.data + self.pad).min(buffer.len() as u64) as usize;
            let read = self.read_up_to(&mut buffer[..want])? as u64;
            if read < want as u64 {
                return Err(ArchiveError::Truncated { offset: self.offset });
            }
            let data = read.min(self.data);
            self.data -= data;
            self.pad -= read - data;
        }
        Ok(())
    }

    /// Reads what follows the first block of zeros: padding, of which there can be any amount.
    fn only_zeros(&mut self) -> Result<(), ArchiveError> {
        let mut buffer = [0; 16 << 10];
        loop {
            let offset = self.offset;
            // Read all the same: whoever writes into a pipe wants to get rid of it.
            match self.read_up_to(&mut buffer) {
                Err(_) if self.anything_follows => return Ok(()),
                Ok(read) if self.anything_follows && read > 0 && self.offset < self.limits.bytes => {}
                Ok(_) if self.anything_follows => return Ok(()),
                Err(error) => return Err(error),
                Ok(0) => return Ok(()),
                Ok(read) if buffer[..read].iter().all(|b| *b == 0) => {}
                _ => {
                    return Err(ArchiveError::Refused {
                        offset,
                        why: "something follows the end of the archive",
                    });
                }
            }
        }
    }

    /// Fills `buffer` unless the tar ends before.
    fn read_up_to(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        loop {
            match self.inner.read(buffer) {
                Ok(read) => {
                    self.offset += read as u64;
                    if self.offset > self.limits.bytes {
                        return Err(ArchiveError::TooManyBytes { limit: self.limits.bytes });
                    }
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ArchiveError::Read { offset: self.offset, source }),
            }
        }
    }
}

/// The bytes of an archive's current file; ends where the file ends.
#[derive(Debug)]
pub struct ArchiveData<'a, R>(&'a mut Archive<R>);

impl<R: Read> ArchiveData<'_, R> {
    /// How many bytes are left.
    pub const fn left(&self) -> u64 {
        self.0.data
    }

    /// Reads some bytes; zero at the end of the file.
    ///
    /// # Errors
    /// As [`Archive::next_entry`].
    pub fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let want = self.0.data.min(buffer.len() as u64) as usize;
        if want == 0 {
            return Ok(0);
        }
        match self.0.read_some(&mut buffer[..want])? {
            0 => Err(ArchiveError::Truncated { offset: self.0.offset }),
            read => {
                self.0.data -= read as u64;
                Ok(read)
            }
        }
    }
}

/// For those who take any reader. The [`ArchiveError`] is inside the [`io::Error`].
impl<R: Read> Read for ArchiveData<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_some(buffer).map_err(io::Error::other)
    }
}

/// A GNU long name: the bytes before the NUL that ends it.
fn long_name(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    match until_nul(bytes) {
        [] => Err("a GNU long name is empty"),
        name if bytes[name.len()..].iter().any(|b| *b != 0) => {
            Err("a GNU long name has bytes behind its end")
        }
        name => Ok(name.to_vec()),
    }
}

fn header_path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[field::NAME]);
    // GNU's format has other things where POSIX has the prefix.
    let prefix = if &block[field::MAGIC] == USTAR { until_nul(&block[field::PREFIX]) } else { &[] };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

/// Whether a block is the header of something, and so begins an archive.
pub(crate) fn is_header(block: &[u8; BLOCK]) -> bool {
    block.iter().any(|b| *b != 0) && parse_number(&block[field::CHECKSUM]) == Some(checksum(block).into())
}

/// A header's number: octal digits between optional spaces, ended by a space or NUL; or GNU's base-256, which can be
/// negative. An empty field is zero, as everybody reads it.
fn parse_number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        return parse_base_256(field);
    }
    let digits = field.iter().position(|b| *b != b' ').map_or(&[][..], |start| &field[start..]);
    let end = digits.iter().position(|b| !matches!(b, b'0'..=b'7'));
    let (digits, rest) = match end {
        Some(end) => digits.split_at(end),
        None if digits.is_empty() => return Some(0),
        // The next field's digits would be read as this one's by readers that look for an end.
        None => return None,
    };
    if rest.iter().any(|b| !matches!(b, b' ' | 0)) {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, digit| value.checked_mul(8)?.checked_add((digit - b'0').into()))
}

/// Two's complement, the first bit set as a mark and the second one the sign.
fn parse_base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let mut value: i128 = if negative { -1 } else { 0 };
    for byte in std::iter::once(first).chain(field[1..].iter().copied()) {
        value = (value << 8) | i128::from(byte);
    }
    i64::try_from(value).ok()
}

impl ArchiveEntry {
    /// Takes out the attributes that are overlay's own: to whoever mounts them they are orders.
    pub fn drop_marks(&mut self) {
        self.drop_xattrs(crate::overlay::is_mark);
    }

    /// Takes the attributes out that `unwanted` names, and returns their names.
    pub(crate) fn drop_xattrs(&mut self, unwanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        if !self.meta.xattrs.iter().any(|(name, _)| unwanted(name)) {
            return Vec::new();
        }
        let mut dropped = Vec::new();
        let mut kept = Xattrs::none();
        for (name, value) in self.meta.xattrs.iter() {
            if unwanted(name) {
                dropped.push(name.to_vec());
            } else {
                kept.insert(name, value);
            }
        }
        self.meta.xattrs = kept;
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ended_unsigned_and_in_range() {
        let table: [(&[u8], Option<i64>); 14] = [
            (b"0000644\0", Some(0o644)),
            (b"000644 \0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"00000644", None),
            (b"-000644\0", None),
            (b"+000644\0", None),
            (b"0000648\0", None),
            (b"06 44\0\0\0", None),
            (b"0x644\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\x00", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ];
        for (field, expected) in table {
            assert_eq!(parse_number(field), expected, "{field:?}");
        }
    }
}
