//! An archive back into a layout: nothing of it is trusted but its form, since whoever reads the layout checks every digest.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use wbuild_report::Hint;

use crate::export::{INDEX_FILE, LAYOUT_FILE};

/// The folders of a layout.
const FOLDERS: [&str; 3] = ["", "blobs", "blobs/sha256"];

/// Why a file is no archive of an image, or could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive cannot be read.
    #[error("cannot read `{}` as an OCI archive", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is some other tar.
    #[error("`{}` is no OCI archive: there is no `{LAYOUT_FILE}` in it", path.display())]
    NoLayout {
        /// Which.
        path: PathBuf,
    },
    /// A file of the layout cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Hint for UnpackError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoLayout { .. } => {
                vec![
                    "`docker save` writes one since Docker 25; `wbuild image -o type=oci,dest=FILE.tar` does"
                        .to_owned(),
                ]
            }
            _ => Vec::new(),
        }
    }
}

/// Unpacks the tar of a layout, as `type=oci` writes it, to the empty folder `folder`. Entries that are no part of a layout
/// are passed over, among them `docker save`'s own index.
///
/// # Errors
/// When it is no tar, holds no layout, or cannot be written.
pub fn unpack_archive(archive: &Path, folder: &Path) -> Result<(), UnpackError> {
    let read = |source| UnpackError::Read { path: archive.to_owned(), source };
    for name in FOLDERS {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).map_err(|source| UnpackError::Write { path, source })?;
    }
    let mut tar = tar::Archive::new(BufReader::with_capacity(256 << 10, File::open(archive).map_err(read)?));
    let mut found = false;
    for entry in tar.entries().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        let Some(name) = name_in_layout(&entry.path_bytes()) else { continue };
        if !entry.header().entry_type().is_file() {
            continue;
        }
        found |= name == LAYOUT_FILE;
        let path = folder.join(name);
        let file = File::create(&path).map_err(|source| UnpackError::Write { path: path.clone(), source })?;
        copy(&mut entry, file, &path, &read)?;
    }
    if found { Ok(()) } else { Err(UnpackError::NoLayout { path: archive.to_owned() }) }
}

fn copy(
    from: &mut impl io::Read,
    mut to: File,
    path: &Path,
    read: &dyn Fn(io::Error) -> UnpackError,
) -> Result<(), UnpackError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read(error)),
        };
        io::Write::write_all(&mut to, &buffer[..length])
            .map_err(|source| UnpackError::Write { path: path.to_owned(), source })?;
    }
}

/// The name of a file that a layout has: no other leaves the folder, or gets into it.
fn name_in_layout(path: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(path).ok()?;
    let text = text.strip_prefix("./").unwrap_or(text);
    let blob = text
        .strip_prefix("blobs/sha256/")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    (blob || [INDEX_FILE, LAYOUT_FILE].contains(&text)).then(|| text.to_owned())
}

/// Whether a path names a tar by its ending, as `--output FILE.tar` does.
pub fn is_archive_name(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().ends_with(b".tar") && name.len() > 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_layout_are_unpacked() {
        let blob = format!("blobs/sha256/{}", "0a".repeat(32));
        for name in [&*blob, "index.json", "./oci-layout"] {
            assert!(name_in_layout(name.as_bytes()).is_some(), "{name}");
        }
        for name in
            ["manifest.json", "../index.json", "/oci-layout", "blobs/sha256/../../x", "blobs/sha256/0A"]
        {
            assert_eq!(name_in_layout(name.as_bytes()), None, "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.tar");
        std::fs::write(&file, [0; 1024]).unwrap();
        let error = unpack_archive(&file, &folder.path().join("out")).unwrap_err();
        assert!(matches!(error, UnpackError::NoLayout { .. }), "{error}");
        std::fs::write(&file, "not a tar, but some text that is longer than a header of one ".repeat(20))
            .unwrap();
        let error = unpack_archive(&file, &folder.path().join("out")).unwrap_err();
        assert!(matches!(error, UnpackError::Read { .. }), "{error}");
    }

    #[test]
    fn archives_are_known_by_their_ending() {
        assert!(is_archive_name(Path::new("out/web.tar")));
        for name in ["web", "web.tar/x", ".tar", "web.tar.gz", "tar"] {
            assert!(!is_archive_name(Path::new(name)), "{name}");
        }
    }
}
