//! The rows of one table of an SQLite database that is given as bytes (sqlite.org/fileformat2.html): as much of the format as
//! rpm's database needs, and nothing is ever written.
//!
//! A library would be SQLite itself, a megabyte of C that is handed a stranger's file. This reads tables, overflow pages and
//! the write-ahead log, and nothing else. Whatever the bytes are, it ends: every page is visited once, and contents are
//! bounded by the size of the file.

use std::collections::{BTreeMap, BTreeSet};

/// The first bytes of every database.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// The header that the first page begins with.
const FILE_HEADER: usize = 100;

/// Headers of the write-ahead log and of each page in it.
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// SQLite's own limit on the depth of a tree (`BTCURSOR_MAX_DEPTH`).
const MAX_DEPTH: usize = 20;

const INTERIOR_TABLE: u8 = 5;
const LEAF_TABLE: u8 = 13;

/// A value of a row; numbers are not needed here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// Text or bytes.
    Bytes(Vec<u8>),
    /// A whole number.
    Integer(i64),
    /// Nothing, or a number with a fraction.
    Other,
}

/// The rows of a table as far as they can be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    /// One list of fields a row, in the order of its columns.
    pub(crate) rows: Vec<Vec<Field>>,
    /// Whether something was not as the format says, so that rows may be missing.
    pub(crate) damaged: bool,
}

/// The rows of `table`; `log` is the file `-wal` beside the database, which may be empty. `None` when these are no bytes of
/// a database in UTF-8 that has the table.
pub(crate) fn rows(database: &[u8], log: &[u8], table: &str) -> Option<Rows> {
    let pages = Pages::new(database, log)?;
    let schema = Walk::rows(&pages, 1);
    // Columns: type, name, tbl_name, rootpage, sql.
    let is_text = |field: Option<&Field>, text: &str| matches!(field, Some(Field::Bytes(bytes)) if bytes == text.as_bytes());
    let row = schema.rows.iter().find(|row| is_text(row.first(), "table") && is_text(row.get(1), table))?;
    let Some(Field::Integer(root)) = row.get(3) else { return None };
    Some(Walk::rows(&pages, u32::try_from(*root).ok()?))
}

/// The pages of a database, those of the log in place of older ones.
struct Pages<'a> {
    database: &'a [u8],
    newer: BTreeMap<u32, &'a [u8]>,
    size: usize,
    /// Bytes of a page that are not reserved for extensions.
    usable: usize,
}

impl<'a> Pages<'a> {
    fn new(database: &'a [u8], log: &'a [u8]) -> Option<Self> {
        let size = page_size(u32::from(be16(database, 16)?))?;
        let usable = size.checked_sub(usize::from(*database.get(20)?))?;
        // 0 is a database in which nothing was written yet.
        let is_utf8 = be32(database, 56)? <= 1;
        (database.starts_with(MAGIC) && usable >= 480 && is_utf8).then(|| Self {
            database,
            newer: committed(log, size),
            size,
            usable,
        })
    }

    /// A page by its number, which begins at 1.
    fn get(&self, number: u32) -> Option<&'a [u8]> {
        if let Some(page) = self.newer.get(&number) {
            return Some(page);
        }
        let start = usize::try_from(number.checked_sub(1)?).ok()?.checked_mul(self.size)?;
        self.database.get(start..start.checked_add(self.size)?)
    }

    /// More bytes than this no table has.
    fn bytes(&self) -> usize {
        self.database.len() + self.newer.len() * self.size
    }
}

/// A size of pages is a power of two; 65536 does not fit its field and stands there as 1.
fn page_size(field: u32) -> Option<usize> {
    let size = if field == 1 { 65_536 } else { usize::try_from(field).ok()? };
    (size.is_power_of_two() && (512..=65_536).contains(&size)).then_some(size)
}

/// The pages of the transactions in a write-ahead log that were finished: a log's frames count while their salt and running
/// checksum are right, up to the last one that says how large the database is then.
fn committed(log: &[u8], size: usize) -> BTreeMap<u32, &[u8]> {
    let mut done = BTreeMap::new();
    let (Some(magic), Some(header)) = (be32(log, 0), log.get(..LOG_HEADER)) else { return done };
    if magic & !1 != 0x377f_0682 || page_size(be32(log, 8).unwrap_or(0)) != Some(size) {
        return done;
    }
    let big_endian = magic & 1 == 1;
    let mut sum = checksum((0, 0), &header[..24], big_endian);
    if (Some(sum.0), Some(sum.1)) != (be32(header, 24), be32(header, 28)) {
        return done;
    }
    let mut open = BTreeMap::new();
    for frame in log[LOG_HEADER..].chunks_exact(FRAME_HEADER + size) {
        let (head, page) = frame.split_at(FRAME_HEADER);
        sum = checksum(checksum(sum, &head[..8], big_endian), page, big_endian);
        let is_sound =
            head[8..16] == header[16..24] && (Some(sum.0), Some(sum.1)) == (be32(head, 16), be32(head, 20));
        let (true, Some(number), Some(end)) = (is_sound, be32(head, 0), be32(head, 4)) else { break };
        open.insert(number, page);
        if end != 0 {
            done.append(&mut open);
        }
    }
    done
}

/// The log's checksum, over pairs of words.
fn checksum(from: (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let word = |bytes: &[u8]| match bytes.try_into() {
        Ok(word) if big_endian => u32::from_be_bytes(word),
        Ok(word) => u32::from_le_bytes(word),
        Err(_) => 0,
    };
    bytes.chunks_exact(8).fold(from, |(first, second), pair| {
        let first = first.wrapping_add(word(&pair[..4])).wrapping_add(second);
        (first, second.wrapping_add(word(&pair[4..])).wrapping_add(first))
    })
}

/// A walk through the tree of one table.
struct Walk<'a> {
    pages: &'a Pages<'a>,
    seen: BTreeSet<u32>,
    /// Bytes of contents that may still be read.
    left: usize,
    found: Rows,
}

impl<'a> Walk<'a> {
    fn rows(pages: &'a Pages<'a>, root: u32) -> Rows {
        let mut walk = Self { pages, seen: BTreeSet::new(), left: pages.bytes(), found: Rows::default() };
        if walk.page(root, 0).is_none() {
            walk.found.damaged = true;
        }
        walk.found
    }

    /// The rows at and below a page; `None` when it is none.
    fn page(&mut self, number: u32, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH || !self.seen.insert(number) {
            return None;
        }
        let page = self.pages.get(number)?;
        let start = if number == 1 { FILE_HEADER } else { 0 };
        let kind = *page.get(start)?;
        let cells = usize::from(be16(page, start + 3)?);
        let pointers = start + if kind == INTERIOR_TABLE { 12 } else { 8 };
        for cell in 0..cells {
            let at = usize::from(be16(page, pointers + 2 * cell)?);
            let is_sound = match kind {
                INTERIOR_TABLE => be32(page, at).and_then(|child| self.page(child, depth + 1)).is_some(),
                LEAF_TABLE => self.cell(page, at).map(|row| self.found.rows.push(row)).is_some(),
                _ => return None,
            };
            self.found.damaged |= !is_sound;
        }
        match kind {
            INTERIOR_TABLE => self.page(be32(page, start + 8)?, depth + 1),
            LEAF_TABLE => Some(()),
            _ => None,
        }
    }

    /// A row: its length, its number, and what of it fits the page; the rest is in a chain of other pages.
    fn cell(&mut self, page: &[u8], at: usize) -> Option<Vec<Field>> {
        let (length, at) = varint(page, at)?;
        let (_, at) = varint(page, at)?;
        let length = usize::try_from(length).ok()?;
        self.left = self.left.checked_sub(length)?;
        let here = self.in_page(length);
        let mut payload = page.get(at..at.checked_add(here)?)?.to_vec();
        let mut next = if here < length { be32(page, at + here)? } else { 0 };
        while payload.len() < length {
            let page = self.pages.get(next)?;
            let part = (length - payload.len()).min(self.pages.usable - 4);
            next = be32(page, 0)?;
            payload.extend_from_slice(page.get(4..4 + part)?);
        }
        record(&payload)
    }

    /// How much of a row of this length is on its own page ("B-tree Cell Format").
    fn in_page(&self, length: usize) -> usize {
        let usable = self.pages.usable;
        let most = usable - 35;
        if length <= most {
            return length;
        }
        let least = (usable - 12) * 32 / 255 - 23;
        let wanted = least + (length - least) % (usable - 4);
        if wanted <= most { wanted } else { least }
    }
}

/// The fields of a row ("Record Format").
fn record(payload: &[u8]) -> Option<Vec<Field>> {
    let (header, mut at) = varint(payload, 0)?;
    let header = usize::try_from(header).ok()?;
    let mut content = header;
    let mut fields = Vec::new();
    while at < header {
        let (kind, next) = varint(payload, at)?;
        at = next;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(kind).ok()?,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return None,
            _ => usize::try_from((kind - 12) / 2).ok()?,
        };
        let end = content.checked_add(length)?;
        let bytes = payload.get(content..end)?;
        content = end;
        fields.push(match kind {
            0 | 7 => Field::Other,
            1..=6 => Field::Integer(integer(bytes)),
            8 => Field::Integer(0),
            9 => Field::Integer(1),
            _ => Field::Bytes(bytes.to_vec()),
        });
    }
    Some(fields)
}

/// A number in two's complement, of up to eight bytes.
fn integer(bytes: &[u8]) -> i64 {
    let sign = bytes.first().map_or(0, |first| if *first >= 0x80 { -1 } else { 0 });
    bytes.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte))
}

/// A number of one to nine bytes, seven bits in each but the ninth, and where the next thing begins.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut number = 0;
    for index in 0..9 {
        let byte = *bytes.get(at + index)?;
        if index == 8 {
            return Some((number << 8 | u64::from(byte), at + 9));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some((number, at + index + 1));
        }
    }
    None
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Three packages, written by rpm 4.18; small pages, so that the tree has interior and overflow pages.
    const DATABASE: &[u8] = include_bytes!("../tests/fixtures/rpmdb.sqlite");

    /// The same table in larger pages with two of the packages; the third is in the log.
    const OLDER: &[u8] = include_bytes!("../tests/fixtures/logged.sqlite");
    const LOG: &[u8] = include_bytes!("../tests/fixtures/logged.sqlite-wal");

    fn lengths(rows: &Rows) -> Vec<usize> {
        let length = |row: &Vec<Field>| match &row[1] {
            Field::Bytes(bytes) => bytes.len(),
            other => panic!("{other:?}"),
        };
        rows.rows.iter().map(length).collect()
    }

    #[test]
    fn rows_with_overflow_pages() {
        let found = rows(DATABASE, b"", "Packages").unwrap();
        assert!(!found.damaged);
        assert_eq!(lengths(&found), [1412, 1300, 1320]);
        assert_eq!(rows(DATABASE, b"", "Other"), None);
        assert_eq!(rows(b"", b"", "Packages"), None);
    }

    #[test]
    fn transactions_of_the_log_count_when_they_are_finished() {
        assert_eq!(lengths(&rows(OLDER, b"", "Packages").unwrap()), [1412, 1300]);
        assert_eq!(lengths(&rows(OLDER, LOG, "Packages").unwrap()), [1412, 1300, 1320]);
        for cut in [0, 10, LOG_HEADER, LOG_HEADER + FRAME_HEADER + 7] {
            assert_eq!(lengths(&rows(OLDER, &LOG[..cut], "Packages").unwrap()), [1412, 1300]);
        }
        let mut broken = LOG.to_vec();
        broken[LOG_HEADER + FRAME_HEADER + 100] ^= 1;
        assert_eq!(lengths(&rows(OLDER, &broken, "Packages").unwrap()), [1412, 1300]);
    }

    #[test]
    fn numbers() {
        assert_eq!(varint(&[0x81, 0x00], 0), Some((128, 2)));
        assert_eq!(varint(&[0xff; 9], 0), Some((u64::MAX, 9)));
        assert_eq!(varint(&[0x81], 0), None);
        assert_eq!(integer(&[0xff, 0xfe]), -2);
        assert_eq!(integer(&[0x01, 0x00]), 256);
    }

    #[test]
    fn a_database_that_is_cut_says_so() {
        let cut = &DATABASE[..DATABASE.len() / 2];
        assert!(rows(cut, b"", "Packages").is_none_or(|found| found.damaged));
    }

    proptest! {
        /// Whatever the bytes are: an end, no panic, and no more than the file can hold.
        #[test]
        fn any_bytes(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
            log_changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        ) {
            for source in [DATABASE, OLDER] {
                let mut database = source.to_vec();
                let mut log = LOG.to_vec();
                changes.iter().for_each(|(at, byte)| database[at.index(source.len())] = *byte);
                log_changes.iter().for_each(|(at, byte)| log[at.index(LOG.len())] = *byte);
                if let Some(found) = rows(&database, &log, "Packages") {
                    let bytes: usize = found.rows.iter().flatten().map(|field| match field {
                        Field::Bytes(bytes) => bytes.len(),
                        _ => 0,
                    }).sum();
                    prop_assert!(bytes <= database.len() + log.len());
                }
            }
        }

        #[test]
        fn any_tail(tail in prop::collection::vec(any::<u8>(), 0..4096)) {
            let mut database = DATABASE[..FILE_HEADER].to_vec();
            database.extend(tail);
            let _ = rows(&database, b"", "Packages");
            let _ = record(&database[FILE_HEADER..]);
        }
    }
}
