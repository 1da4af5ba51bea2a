//! The databases of rpm: `rpmdb.sqlite` of today's distributions, `Packages.db` of SUSE. Berkeley DB's `Packages`, which rpm
//! itself has given up, is not read.
//!
//! All of them hold the header of each installed package, in the form that
//! rpm-software-management.github.io/rpm/manual/format_header.html describes.

use crate::sqlite::{self, Field};
use crate::{Ecosystem, OsRelease, Package, Presence};

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SQLite's, with a log beside it.
    Sqlite,
    /// rpm's own: "ndb".
    Ndb,
    /// Berkeley DB's, of which nothing is read.
    BerkeleyDb,
}

impl Kind {
    /// The kinds, in the order in which they are looked for: a database that was converted may lie beside its old form.
    pub const ALL: [Self; 3] = [Self::Sqlite, Self::Ndb, Self::BerkeleyDb];

    /// The name of the file in one of [`FOLDERS`].
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Sqlite => "rpmdb.sqlite",
            Self::Ndb => "Packages.db",
            Self::BerkeleyDb => "Packages",
        }
    }
}

/// Where a database can be; the second is often a link to the first.
pub const FOLDERS: [&str; 2] = ["usr/lib/sysimage/rpm", "var/lib/rpm"];

/// What is appended to the name of SQLite's database for that of its log.
pub const LOG_SUFFIX: &str = "-wal";

/// What was read of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The installed packages, in the order of the database.
    pub packages: Vec<Package>,
    /// Whether something of it made no sense, so that packages may be missing.
    pub damaged: bool,
}

/// The packages of a database. `log` is what SQLite's file [`LOG_SUFFIX`] holds.
pub fn packages(kind: Kind, database: &[u8], log: &[u8], os: &OsRelease, place: &str) -> Read {
    // An empty database is one, too: `rpm -qa` makes it where rpm is only a tool.
    let found = match kind {
        Kind::Sqlite => sqlite::rows(database, log, "Packages")
            .map(|found| (found.rows.into_iter().filter_map(blob).collect(), found.damaged)),
        Kind::Ndb => ndb(database),
        Kind::BerkeleyDb => None,
    };
    let (headers, damaged) = found.unwrap_or((Vec::new(), true));
    let mut read = Read { packages: Vec::new(), damaged };
    for header in &headers {
        match Header::parse(header) {
            Some(header) => read.packages.extend(package(&header, os, place)),
            None => read.damaged = true,
        }
    }
    read
}

/// The second column of `Packages(hnum INTEGER PRIMARY KEY, blob BLOB)`.
fn blob(row: Vec<Field>) -> Option<Vec<u8>> {
    match row.into_iter().nth(1) {
        Some(Field::Bytes(bytes)) => Some(bytes),
        _ => None,
    }
}

/// Headers of an ndb (rpm's `lib/backend/ndb/rpmpkg.c`): a page or more of slots, each of which says where a blob is, in
/// blocks of 16 bytes. `None` when these are no bytes of one; whether a slot made no sense otherwise.
fn ndb(database: &[u8]) -> Option<(Vec<Vec<u8>>, bool)> {
    const BLOCK: usize = 16;
    const PAGE: usize = 4096;
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(database.get(at..at.checked_add(4)?)?.try_into().ok()?))
    };
    let magic = |text: &[u8; 4]| Some(u32::from_le_bytes(*text));
    if word(0) != magic(b"RpmP") || word(4) != Some(0) {
        return None;
    }
    let slots = usize::try_from(word(12)?).ok()?.checked_mul(PAGE)?;
    // The header has the place of two slots.
    let slots = database.get(..slots)?.len();
    let mut left = database.len();
    let mut headers = Vec::new();
    let mut damaged = false;
    for slot in (2 * BLOCK..slots).step_by(BLOCK) {
        let (index, start) = (word(slot + 4)?, word(slot + 8)?);
        if word(slot) != magic(b"Slot") || index == 0 || start == 0 {
            damaged |= word(slot) != magic(b"Slot");
            continue;
        }
        let header = usize::try_from(start).ok().and_then(|start| {
            let at = start.checked_mul(BLOCK)?;
            let length = usize::try_from(word(at.checked_add(12)?)?).ok()?;
            left = left.checked_sub(length)?;
            let is_it = word(at) == magic(b"BlbS") && word(at + 4) == Some(index);
            if is_it { database.get(at + 16..(at + 16).checked_add(length)?) } else { None }
        });
        damaged |= header.is_none();
        headers.extend(header.map(<[u8]>::to_vec));
    }
    Some((headers, damaged))
}

/// The fields that are asked for, by rpm's numbers (rpmtag.h).
mod tag {
    pub(super) const SHA256_HEADER: u32 = 273;
    pub(super) const NAME: u32 = 1000;
    pub(super) const VERSION: u32 = 1001;
    pub(super) const RELEASE: u32 = 1002;
    pub(super) const EPOCH: u32 = 1003;
    pub(super) const VENDOR: u32 = 1011;
    pub(super) const LICENSE: u32 = 1014;
    pub(super) const ARCH: u32 = 1022;
    pub(super) const SOURCE_RPM: u32 = 1044;
    pub(super) const MODULARITY_LABEL: u32 = 5096;
}

/// A header: entries of 16 bytes, and the bytes that they point into.
struct Header<'a> {
    entries: &'a [u8],
    store: &'a [u8],
}

impl<'a> Header<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let count = usize::try_from(be32(bytes, 0)?).ok()?;
        let length = usize::try_from(be32(bytes, 4)?).ok()?;
        let rest = bytes.get(8..)?;
        let (entries, store) = rest.split_at_checked(count.checked_mul(16)?)?;
        Some(Self { entries, store: store.get(..length)? })
    }

    /// Type and first byte of a field.
    fn find(&self, tag: u32) -> Option<(u32, &'a [u8])> {
        let entry = self.entries.chunks_exact(16).find(|entry| be32(entry, 0) == Some(tag))?;
        let at = usize::try_from(be32(entry, 8)?).ok()?;
        Some((be32(entry, 4)?, self.store.get(at..)?))
    }

    /// A text, or the first one of several.
    fn text(&self, tag: u32) -> Option<String> {
        const STRING: u32 = 6;
        const STRINGS: u32 = 8;
        const TRANSLATED: u32 = 9;
        let (STRING | STRINGS | TRANSLATED, bytes) = self.find(tag)? else { return None };
        let end = bytes.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8_lossy(&bytes[..end]).trim().to_owned();
        (!text.is_empty() && text != "(none)").then_some(text)
    }

    fn number(&self, tag: u32) -> Option<u32> {
        const INT32: u32 = 4;
        let (INT32, bytes) = self.find(tag)? else { return None };
        be32(bytes, 0)
    }
}

fn package(header: &Header<'_>, os: &OsRelease, place: &str) -> Option<Package> {
    // Keys that packages are checked with are kept as packages, too.
    let name = header.text(tag::NAME).filter(|name| name != "gpg-pubkey")?;
    let mut package = Package::new(Ecosystem::Rpm, name, Presence::Found);
    package.version = match (header.text(tag::VERSION), header.text(tag::RELEASE)) {
        (Some(version), Some(release)) => Some(format!("{version}-{release}")),
        (version, _) => version,
    };
    package.namespace = Some(namespace(&os.id).to_owned());
    package.license = header.text(tag::LICENSE);
    package.supplier = header.text(tag::VENDOR);
    package.qualifiers.insert("distro".to_owned(), os.distro());
    let epoch = header.number(tag::EPOCH).filter(|epoch| *epoch != 0);
    package.qualifiers.extend(epoch.map(|epoch| ("epoch".to_owned(), epoch.to_string())));
    package.qualifiers.extend(header.text(tag::ARCH).map(|arch| ("arch".to_owned(), arch)));
    let source = header.text(tag::SOURCE_RPM);
    package.qualifiers.extend(source.map(|source| ("upstream".to_owned(), source)));
    let facts = [("rpm-header-sha256", tag::SHA256_HEADER), ("rpm-module", tag::MODULARITY_LABEL)];
    for (name, tag) in facts {
        package.facts.extend(header.text(tag).map(|text| (name.to_owned(), text)));
    }
    package.places.insert(place.to_owned());
    Some(package)
}

/// What purls of a distribution's packages are named for: the vendor, where that is not what os-release says.
fn namespace(id: &str) -> &str {
    match id {
        "rhel" => "redhat",
        _ if id.starts_with("opensuse") => "opensuse",
        _ => id,
    }
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Three packages, written by rpm 4.18.
    const SQLITE: &[u8] = include_bytes!("../tests/fixtures/rpmdb.sqlite");

    const PURLS: [&str; 3] = [
        "pkg:rpm/redhat/beta@2.0~rc1-1?arch=x86_64&distro=rhel-9.4&epoch=3&upstream=beta-2.0~rc1-1.src.rpm",
        "pkg:rpm/redhat/gamma@7-1?arch=noarch&distro=rhel-9.4&upstream=gamma-7-1.src.rpm",
        "pkg:rpm/redhat/alpha@1.2.3-4.el9?arch=noarch&distro=rhel-9.4&upstream=alpha-1.2.3-4.el9.src.rpm",
    ];

    fn os() -> OsRelease {
        OsRelease { id: "rhel".into(), version: Some("9.4".into()), name: None }
    }

    fn purls(read: &Read) -> Vec<String> {
        read.packages.iter().map(Package::purl).collect()
    }

    /// The headers in an ndb: a page of slots, then blobs.
    fn as_ndb(headers: &[Vec<u8>]) -> Vec<u8> {
        let mut database = [b"RpmP".as_slice(), &[0; 8], &1_u32.to_le_bytes(), &[0; 16]].concat();
        let mut blobs = Vec::new();
        for (index, header) in (1_u32..).zip(headers) {
            let at = u32::try_from((4096 + blobs.len()) / 16).unwrap();
            let length = u32::try_from(header.len()).unwrap();
            let words = |magic: &[u8; 4], words: [u32; 3]| {
                [magic.as_slice(), &words.map(u32::to_le_bytes).concat()].concat()
            };
            let blocks = length.div_ceil(16) + 2;
            database.extend(words(b"Slot", [index, at, blocks]));
            blobs.extend(words(b"BlbS", [index, 1, length]));
            blobs.extend(header);
            blobs.resize(blobs.len().next_multiple_of(16) + 16, 0);
        }
        while database.len() < 4096 {
            database.extend([b"Slot".as_slice(), &[0; 12]].concat());
        }
        database.extend(blobs);
        database
    }

    fn headers() -> Vec<Vec<u8>> {
        sqlite::rows(SQLITE, b"", "Packages").unwrap().rows.into_iter().filter_map(blob).collect()
    }

    #[test]
    fn packages_of_either_kind() {
        let read = packages(Kind::Sqlite, SQLITE, b"", &os(), "var/lib/rpm/rpmdb.sqlite");
        assert!(!read.damaged);
        assert_eq!(purls(&read), PURLS);
        let beta = &read.packages[0];
        assert_eq!(beta.license.as_deref(), Some("Apache-2.0"));
        assert_eq!(beta.supplier.as_deref(), Some("Some Vendor"));
        assert_eq!(beta.facts["rpm-header-sha256"].len(), 64);
        let read = packages(Kind::Ndb, &as_ndb(&headers()), b"", &os(), "x");
        assert!(!read.damaged);
        assert_eq!(purls(&read), PURLS);
    }

    #[test]
    fn a_part_that_makes_no_sense_is_said_and_the_rest_is_read() {
        let mut headers = headers();
        headers[1].truncate(40);
        let read = packages(Kind::Ndb, &as_ndb(&headers), b"", &os(), "x");
        assert!(read.damaged);
        assert_eq!(purls(&read), [PURLS[0], PURLS[2]]);
        for kind in Kind::ALL {
            assert!(packages(kind, b"no database", b"", &os(), "x").damaged);
        }
    }

    #[test]
    fn distributions_by_the_names_that_purls_have() {
        let names = ["rhel", "opensuse-leap", "opensuse-tumbleweed", "fedora", "sles"].map(namespace);
        assert_eq!(names, ["redhat", "opensuse", "opensuse", "fedora", "sles"]);
    }

    proptest! {
        #[test]
        fn any_bytes(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
            for (kind, mut database) in [(Kind::Sqlite, SQLITE.to_vec()), (Kind::Ndb, as_ndb(&headers()))] {
                let length = database.len();
                changes.iter().for_each(|(at, byte)| database[at.index(length)] = *byte);
                prop_assert!(packages(kind, &database, &database, &os(), "x").packages.len() <= length);
            }
        }

        #[test]
        fn any_header(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(header) = Header::parse(&bytes) {
                let _ = package(&header, &os(), "x");
            }
        }
    }
}
