//! An archive back into a layout: nothing of it is trusted but its form, since whoever reads the layout checks every digest.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use wbuild_report::Hint;

use crate::export::{INDEX_FILE, LAYOUT_FILE};
use crate::saved::{Saved, clean};

/// The folders of a layout.
const FOLDERS: [&str; 3] = ["", "blobs", "blobs/sha256"];

/// Why a file is no archive of an image, or could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive cannot be read.
    #[error("cannot read `{}` as an archive of an image", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is compressed as a whole, which archives of images are not.
    #[error("`{}` is compressed with {how}, and archives of images are read as they are", path.display())]
    Compressed {
        /// Which.
        path: PathBuf,
        /// `gzip`, `zstd` …
        how: &'static str,
    },
    /// It is some other tar.
    #[error("`{}` is no archive of an image: there is neither `{LAYOUT_FILE}` nor `manifest.json` in it", path.display())]
    NoLayout {
        /// Which.
        path: PathBuf,
    },
    /// A document of the layout could not be made.
    #[error("cannot write an image's documents")]
    Json(#[source] serde_json::Error),
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
            Self::Compressed { how, .. } => {
                let program = if *how == "gzip" { "gunzip --keep" } else { "zstd --decompress" };
                vec![format!("`{program} FILE` writes one that is not")]
            }
            Self::NoLayout { .. } | Self::Read { .. } => {
                vec![
                    "`docker save`, `skopeo copy … oci-archive:FILE` and `wbuild image -o type=oci,dest=FILE.tar` write one"
                        .to_owned(),
                ]
            }
            _ => Vec::new(),
        }
    }
}

/// Unpacks the tar of a layout, as `type=oci` writes it, to the empty folder `folder`. Entries that are no part of a layout
/// are passed over, unless there is none: then it may be an archive as `docker save` wrote it before Docker 25, which
/// becomes a layout.
///
/// # Errors
/// When it is no tar, holds no image, or cannot be written.
pub fn unpack_archive(archive: &Path, folder: &Path) -> Result<(), UnpackError> {
    let read = |source| UnpackError::Read { path: archive.to_owned(), source };
    for name in FOLDERS {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).map_err(|source| UnpackError::Write { path, source })?;
    }
    let mut reader = BufReader::with_capacity(256 << 10, File::open(archive).map_err(read)?);
    let how = match reader.fill_buf().map_err(read)? {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        _ => None,
    };
    if let Some(how) = how {
        return Err(UnpackError::Compressed { path: archive.to_owned(), how });
    }
    let mut tar = tar::Archive::new(reader);
    let mut found = false;
    let staging = folder.join("saved");
    let mut saved = Saved::new(archive, staging.clone());
    for entry in tar.entries().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        let kind = entry.header().entry_type();
        let path = match name_in_layout(&entry.path_bytes()) {
            Some(name) if kind.is_file() => {
                found |= name == LAYOUT_FILE;
                folder.join(name)
            }
            Some(_) => continue,
            None => {
                let Some(name) = std::str::from_utf8(&entry.path_bytes()).ok().and_then(clean) else {
                    continue;
                };
                if kind.is_symlink() || kind.is_hard_link() {
                    if let Some(target) = link_target(&entry, &name) {
                        saved.link(name, target);
                    }
                    continue;
                }
                if !kind.is_file() {
                    continue;
                }
                saved.file(name)?
            }
        };
        let file = File::create(&path).map_err(|source| UnpackError::Write { path: path.clone(), source })?;
        copy(&mut entry, file, &path, &read)?;
    }
    if !found {
        return saved.into_layout(folder);
    }
    match std::fs::remove_dir_all(&staging) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(UnpackError::Write { path: staging, source })
        }
        _ => Ok(()),
    }
}

/// What a link names, from the root of the archive: the target of a symbolic link is relative to its folder.
fn link_target<R: io::Read>(entry: &tar::Entry<'_, R>, name: &str) -> Option<String> {
    let target = entry.link_name_bytes()?;
    let target = std::str::from_utf8(&target).ok()?;
    let relative = entry.header().entry_type().is_symlink() && !target.starts_with('/');
    let folder = name.rsplit_once('/').map(|(folder, _)| folder).filter(|_| relative);
    Some(folder.map_or_else(|| target.to_owned(), |folder| format!("{folder}/{target}")))
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
