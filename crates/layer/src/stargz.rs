//! eStargz: a gzip layer that a lazy snapshotter can read file by file (containerd/stargz-snapshotter, docs/estargz.md).
//!
//! ```text
//! gzip members       headers share members; the contents of a file begin one, and each 4 MiB chunk of them begins one
//! one gzip member    the tar entry `stargz.index.json`: where everything is (TOC), then the end of the tar
//! 51 bytes           an empty gzip member whose extra field holds the offset of the member above
//! ```
//!
//! To everybody else it is an ordinary layer with two files more: the TOC and a landmark, which says that nothing is to be
//! fetched ahead.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use wbuild_oci::Digest;
use wbuild_tree::Time;

use crate::header::{Header, kind};

/// The entry that holds the TOC.
pub(crate) const TOC_NAME: &str = "stargz.index.json";

/// The landmark of a layer of which nothing is fetched ahead.
pub(crate) const LANDMARK_NAME: &str = ".no.prefetch.landmark";

/// What is in a landmark.
pub(crate) const LANDMARK: [u8; 1] = [0xf];

/// Bytes of contents that one chunk has at most; stargz-snapshotter's default.
pub(crate) const CHUNK: u64 = 4 << 20;

/// Where a descriptor says which TOC a layer has: readers trust the TOC by it.
const ANNOTATION_TOC: &str = "containerd.io/snapshot/stargz/toc.digest";

/// Where it says how large the tar is.
const ANNOTATION_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// Annotations of a layer's descriptor.
pub(crate) fn annotations(toc: &Digest, uncompressed_size: u64) -> BTreeMap<String, String> {
    [(ANNOTATION_TOC, toc.to_string()), (ANNOTATION_SIZE, uncompressed_size.to_string())]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

/// A chunk of a file's contents.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    /// In which member it begins.
    pub(crate) member: usize,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// The table of contents, as it grows.
#[derive(Debug, Default)]
pub(crate) struct Toc {
    entries: Vec<(Entry, Option<usize>)>,
}

/// Fields and their names are those of stargz-snapshotter's `TOCEntry`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(rename = "modtime", skip_serializing_if = "Option::is_none")]
    modified: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_digest: Option<Digest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Toc {
    /// Notes an entry of the tar. `content` is the digest of a regular file's contents, `chunks` are the pieces of those that
    /// are not empty. Names that are not UTF-8 cannot be said in JSON; they are replaced as Go does.
    pub(crate) fn add(&mut self, header: &Header<'_>, content: Option<Digest>, chunks: &[Chunk]) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut entry = Entry {
            name: text(header.path),
            kind: match header.kind {
                kind::HARD_LINK => "hardlink",
                kind::SYMLINK => "symlink",
                kind::CHAR_DEVICE => "char",
                kind::BLOCK_DEVICE => "block",
                kind::DIRECTORY => "dir",
                kind::FIFO => "fifo",
                _ => "reg",
            },
            size: header.size,
            modified: modified(header.mtime),
            link_name: text(header.link),
            mode: header.mode.into(),
            uid: header.uid.into(),
            gid: header.gid.into(),
            dev_major: header.device.0.into(),
            dev_minor: header.device.1.into(),
            xattrs: header.xattrs.iter().map(|(name, value)| (text(name), STANDARD.encode(value))).collect(),
            digest: content,
            ..Entry::default()
        };
        let mut offset = 0;
        for (number, chunk) in chunks.iter().enumerate() {
            entry.chunk_offset = offset;
            offset += chunk.size;
            // The size of the last chunk is what is left.
            entry.chunk_size = if number + 1 < chunks.len() { chunk.size } else { 0 };
            entry.chunk_digest = Some(chunk.digest);
            let next = Entry { name: entry.name.clone(), kind: "chunk", ..Entry::default() };
            self.entries.push((std::mem::replace(&mut entry, next), Some(chunk.member)));
        }
        if chunks.is_empty() {
            self.entries.push((entry, None));
        }
    }

    /// The JSON, once it is known where each member begins.
    pub(crate) fn finish(self, members: &[u64]) -> Result<Vec<u8>, serde_json::Error> {
        #[derive(Serialize)]
        struct Document {
            version: u32,
            entries: Vec<Entry>,
        }
        let entries = self.entries.into_iter().map(|(mut entry, member)| {
            entry.offset = member.and_then(|member| members.get(member)).copied().unwrap_or_default();
            entry
        });
        serde_json::to_vec(&Document { version: 1, entries: entries.collect() })
    }
}

/// RFC 3339 in seconds; the epoch is not written.
fn modified(time: Time) -> Option<String> {
    // To the nearest second, as Go's `Round` does.
    let seconds = time.seconds + i64::from(time.nanos >= 500_000_000);
    let time = jiff::Timestamp::from_second(seconds).ok().filter(|_| seconds != 0)?;
    Some(time.to_string())
}

/// The last bytes of a blob: an empty gzip member that says where the member with the TOC begins.
pub(crate) fn footer(toc_offset: u64) -> Vec<u8> {
    let field = format!("{toc_offset:016x}STARGZ");
    let mut bytes = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    bytes.extend_from_slice(&(field.len() as u16 + 4).to_le_bytes());
    bytes.extend_from_slice(b"SG");
    bytes.extend_from_slice(&(field.len() as u16).to_le_bytes());
    bytes.extend_from_slice(field.as_bytes());
    // A stored block of nothing, its checksum and its size.
    bytes.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use wbuild_tree::Xattrs;

    use super::*;

    #[test]
    fn the_footer_is_an_empty_member_of_51_bytes() {
        let bytes = footer(0x1234);
        assert_eq!(bytes.len(), 51);
        assert_eq!(&bytes[16..38], b"0000000000001234STARGZ");
        let mut nothing = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut nothing).unwrap();
        assert!(nothing.is_empty());
    }

    #[test]
    fn entries_and_chunks() {
        let xattrs = Xattrs::none();
        let header = Header {
            path: b"a",
            link: b"",
            kind: kind::FILE,
            mode: 0o644,
            uid: 0,
            gid: 5,
            size: 7,
            mtime: Time { seconds: 1, nanos: 0 },
            device: (0, 0),
            xattrs: &xattrs,
        };
        let chunk = |member, size| Chunk { member, digest: Digest::of(b"c"), size };
        let mut toc = Toc::default();
        toc.add(&header, Some(Digest::of(b"all")), &[chunk(1, 4), chunk(2, 3)]);
        toc.add(&Header { kind: kind::DIRECTORY, path: b"d/", size: 0, ..header }, None, &[]);
        let json: serde_json::Value = serde_json::from_slice(&toc.finish(&[0, 10, 20]).unwrap()).unwrap();
        let (all, c) = (Digest::of(b"all"), Digest::of(b"c"));
        assert_eq!(
            json,
            serde_json::json!({ "version": 1, "entries": [
                { "name": "a", "type": "reg", "size": 7, "modtime": "1970-01-01T00:00:01Z", "mode": 0o644, "gid": 5,
                  "offset": 10, "digest": all, "chunkSize": 4, "chunkDigest": c },
                { "name": "a", "type": "chunk", "offset": 20, "chunkOffset": 4, "chunkDigest": c },
                { "name": "d/", "type": "dir", "modtime": "1970-01-01T00:00:01Z", "mode": 0o644, "gid": 5 },
            ] })
        );
    }
}
