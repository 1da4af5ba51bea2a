use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use tar::{EntryType, Header};
use wbuild_oci::{Digest, to_canonical_json};

use crate::export::{BlobFiles, Export, ExportError, INDEX_FILE, LAYOUT_FILE, LAYOUT_VERSION, Listed};
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
    let mut tar = Tar { out };
    tar.folder("blobs/")?;
    tar.folder("blobs/sha256/")?;
    let mut all: Vec<&Digest> = export.documents.keys().chain(export.layers.keys()).collect();
    all.sort();
    for digest in all {
        let name = blob_path(digest);
        if let Some(bytes) = export.documents.get(digest) {
            tar.file(&name, bytes)?;
        } else if let Some(layer) = export.layers.get(digest) {
            let unreadable = |source| ExportError::Blob { digest: layer.digest, source };
            let file = blobs.blob(digest).and_then(File::open).map_err(unreadable)?;
            tar.header(&name, EntryType::Regular, layer.size)?;
            let mut reader = VerifiedReader::new(file, layer.digest, layer.size);
            copy(&mut reader, &mut tar.out).map_err(|error| match error {
                CopyError::Read(source) => unreadable(source),
                CopyError::Write(source) => ExportError::Archive(source),
            })?;
            tar.pad(layer.size)?;
        }
    }
    tar.file(INDEX_FILE, &export.index_json(Listed::Never)?)?;
    if format == ArchiveFormat::Docker {
        tar.file("manifest.json", &docker_manifest(export)?)?;
    }
    tar.file(LAYOUT_FILE, LAYOUT_VERSION)?;
    tar.out.write_all(&[0; 1024]).and_then(|()| tar.out.flush()).map_err(ExportError::Archive)
}

/// As [`write_archive`], into a file that appears only when it is complete.
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
    let mut file = OutputFile::create(path).map_err(failed("make"))?;
    write_archive(export, format, blobs, BufWriter::with_capacity(256 << 10, &mut file))?;
    file.commit().map_err(failed("replace"))
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
        let padding = (512 - size % 512) % 512;
        io::copy(&mut io::Read::take(io::repeat(0), padding), &mut self.out).map_err(ExportError::Archive)?;
        Ok(())
    }
}
