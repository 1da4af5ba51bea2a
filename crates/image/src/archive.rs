use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use tar::{EntryType, Header};
use wbuild_oci::{Digest, to_canonical_json};

use crate::export::{BlobFiles, Export, ExportError, INDEX_FILE, LAYOUT_FILE, LAYOUT_VERSION, Listed};
use crate::foreseen::Foreseen;
use crate::layout::{CopyError, copy};
use crate::output_file::OutputFile;
use crate::verified::VerifiedReader;

/// What an archive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI layout as a tar.
    Oci,
    /// The same with the `manifest.json` that `docker load` wants; one platform.
    Docker,
}

/// Times of the archive's own entries: the normal time of everything that is written here.
const MTIME: u64 = 1;

/// The version of how archives are written; another one when their bytes change.
const FORM: &[u8] = b"archive/1";

/// Tar's unit.
const BLOCK: u64 = 512;

/// The zeros at the end, in bytes.
const END: usize = 1024;

/// Writes a layout as a tar. Its entries come in order of names, as containerd writes them, with fixed owners, modes and
/// times: equal exports give equal bytes. Layers are verified while they are copied.
///
/// # Errors
/// When a blob cannot be read or is damaged, or `out` fails. What was written by then is garbage.
pub fn write_archive(
    export: &Export,
    format: ArchiveFormat,
    blobs: &dyn BlobFiles,
    out: impl Write,
) -> Result<(), ExportError> {
    write_entries(entries(export, format)?, blobs, out)
}

fn write_entries(
    entries: Vec<(String, Content<'_>)>,
    blobs: &dyn BlobFiles,
    out: impl Write,
) -> Result<(), ExportError> {
    let mut tar = Tar { out };
    for (name, content) in entries {
        match content {
            Content::Folder => tar.folder(&name)?,
            Content::Bytes(bytes) => tar.file(&name, &bytes)?,
            Content::Blob { digest, size } => {
                let unreadable = |source| ExportError::Blob { digest, source };
                let file = blobs.blob(&digest).and_then(File::open).map_err(unreadable)?;
                tar.header(&name, EntryType::Regular, size)?;
                let mut reader = VerifiedReader::new(file, digest, size);
                copy(&mut reader, &mut tar.out).map_err(|error| match error {
                    CopyError::Read(source) => unreadable(source),
                    CopyError::Write(source) => ExportError::Archive(source),
                })?;
                tar.pad(size)?;
            }
        }
    }
    tar.out.write_all(&[0; END]).and_then(|()| tar.out.flush()).map_err(ExportError::Archive)
}

/// As [`write_archive`], into a file that appears only when it is complete. One that is there already, and that nobody has
/// touched, stays ([`Foreseen`]).
///
/// # Errors
/// As there, and when the file cannot be made.
pub fn write_archive_file(
    export: &Export,
    format: ArchiveFormat,
    blobs: &dyn BlobFiles,
    path: &Path,
) -> Result<(), ExportError> {
    let failed = |what| {
        let path = path.to_owned();
        move |source| ExportError::Write { what, path, source }
    };
    let entries = entries(export, format)?;
    let foreseen = foreseen(&entries);
    if foreseen.is_at(path) {
        return Ok(());
    }
    let mut file = OutputFile::create(path).map_err(failed("make"))?;
    write_entries(entries, blobs, BufWriter::with_capacity(256 << 10, &mut file))?;
    file.note(foreseen).map_err(failed("set the time of"))?;
    file.commit().map_err(failed("replace"))
}

/// What an entry of an archive is.
enum Content<'a> {
    Folder,
    Bytes(Cow<'a, [u8]>),
    Blob { digest: Digest, size: u64 },
}

impl Content<'_> {
    fn size(&self) -> u64 {
        match self {
            Self::Folder => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob { size, .. } => *size,
        }
    }
}

/// The entries of an archive, in their order.
fn entries(export: &Export, format: ArchiveFormat) -> Result<Vec<(String, Content<'_>)>, ExportError> {
    let mut entries =
        vec![("blobs/".to_owned(), Content::Folder), ("blobs/sha256/".to_owned(), Content::Folder)];
    let mut all: Vec<&Digest> = export.documents.keys().chain(export.layers.keys()).collect();
    all.sort();
    for digest in all {
        let content = match (export.documents.get(digest), export.layers.get(digest)) {
            (Some(bytes), _) => Content::Bytes(Cow::Borrowed(bytes)),
            (None, Some(layer)) => Content::Blob { digest: layer.digest, size: layer.size },
            (None, None) => continue,
        };
        entries.push((blob_path(digest), content));
    }
    let owned = |bytes: Vec<u8>| Content::Bytes(Cow::Owned(bytes));
    entries.push((INDEX_FILE.to_owned(), owned(export.index_json(Listed::Never)?)));
    if format == ArchiveFormat::Docker {
        entries.push(("manifest.json".to_owned(), owned(docker_manifest(export)?)));
    }
    entries.push((LAYOUT_FILE.to_owned(), Content::Bytes(Cow::Borrowed(LAYOUT_VERSION))));
    Ok(entries)
}

/// What an archive will be. Blobs count by their digests, in their names.
fn foreseen(entries: &[(String, Content<'_>)]) -> Foreseen {
    let size = entries.iter().map(|(_, content)| BLOCK + content.size().next_multiple_of(BLOCK)).sum::<u64>();
    let mut parts = vec![FORM];
    for (name, content) in entries {
        parts.push(name.as_bytes());
        parts.push(match content {
            Content::Bytes(bytes) => bytes,
            Content::Folder | Content::Blob { .. } => &[],
        });
    }
    Foreseen::new(parts, Some(size + END as u64))
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The older index of `docker save`, pointing into the layout.
fn docker_manifest(export: &Export) -> Result<Vec<u8>, ExportError> {
    let [(config, layers)] = &export.images[..] else {
        return Err(ExportError::SeveralPlatforms { platforms: export.images.len() });
    };
    let tags: Vec<String> = export.names.iter().map(wbuild_oci::Reference::familiar).collect();
    let layers: Vec<String> = layers.iter().map(blob_path).collect();
    let manifest = serde_json::json!([{ "Config": blob_path(config), "RepoTags": tags, "Layers": layers }]);
    to_canonical_json(&manifest).map_err(ExportError::Json)
}

struct Tar<W> {
    out: W,
}

impl<W: Write> Tar<W> {
    fn header(&mut self, name: &str, kind: EntryType, size: u64) -> Result<(), ExportError> {
        // GNU's format, for layers of 8 GiB and more; all names are short.
        let mut header = Header::new_gnu();
        header.set_path(name).map_err(ExportError::Archive)?;
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o444 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(MTIME);
        header.set_cksum();
        self.out.write_all(header.as_bytes()).map_err(ExportError::Archive)
    }

    fn folder(&mut self, name: &str) -> Result<(), ExportError> {
        self.header(name, EntryType::Directory, 0)
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.header(name, EntryType::Regular, bytes.len() as u64)?;
        self.out.write_all(bytes).map_err(ExportError::Archive)?;
        self.pad(bytes.len() as u64)
    }

    fn pad(&mut self, size: u64) -> Result<(), ExportError> {
        let padding = size.next_multiple_of(BLOCK) - size;
        io::copy(&mut io::Read::take(io::repeat(0), padding), &mut self.out).map_err(ExportError::Archive)?;
        Ok(())
    }
}
