use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::Errno;

use crate::foreseen::Foreseen;

/// Files that are being written by this process.
static PARTIAL: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Removes what is not complete of all outputs of this process, which ends now.
pub fn abandon_outputs() {
    for path in PARTIAL.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        // Nobody is left to be told.
        let _ = fs::remove_file(path);
    }
}

/// A file that somebody asked for with `--output`. A regular one appears, or changes, only when it is complete, and keeps
/// the mode of the one it replaces; what a link leads to is replaced, not the link. A pipe or a device is written to as it
/// is.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    replaces: Option<Replaces>,
}

#[derive(Debug)]
struct Replaces {
    /// Beside the path. As long as the file has no name, nothing is there, and a kill leaves nothing.
    partial: PathBuf,
    path: PathBuf,
    named: bool,
}

/// A file without a name; `None` where the file system has none, or where it could not be given one later.
fn nameless(folder: &Path) -> Option<File> {
    if !Path::new("/proc/self/fd").exists() {
        return None;
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    open(folder, flags, Mode::from_raw_mode(0o666)).ok().map(File::from)
}

impl OutputFile {
    /// Opens it.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub fn create(path: &Path) -> io::Result<Self> {
        // Follows a link that leads to something; one that leads nowhere gets its target made.
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(_) => match fs::read_link(path) {
                Ok(target) => path.parent().unwrap_or(Path::new("")).join(target),
                Err(_) => path.to_owned(),
            },
        };
        let existing = fs::metadata(&real).ok();
        if existing.as_ref().is_some_and(|meta| !meta.is_file() && !meta.is_dir()) {
            return Ok(Self { file: File::options().write(true).open(path)?, replaces: None });
        }
        if existing.as_ref().is_some_and(fs::Metadata::is_dir) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut name = real.file_name().unwrap_or_default().to_owned();
        name.push(format!(".wbuild-{}", std::process::id()));
        let partial = real.with_file_name(name);
        let nameless = nameless(real.parent().unwrap_or(Path::new("")));
        let named = nameless.is_none();
        let file = match nameless {
            Some(file) => file,
            None => File::create(&partial)?,
        };
        PARTIAL.lock().unwrap_or_else(PoisonError::into_inner).insert(partial.clone());
        let output = Self { file, replaces: Some(Replaces { partial, path: real, named }) };
        if let Some(meta) = existing {
            output.file.set_permissions(meta.permissions())?;
        }
        Ok(output)
    }

    /// It is what was foreseen; to be called when everything is in it.
    ///
    /// # Errors
    /// When that cannot be noted.
    pub fn note(&self, foreseen: Foreseen) -> io::Result<()> {
        match self.replaces {
            Some(_) => foreseen.note(&self.file),
            // A pipe or a device has no time of its own.
            None => Ok(()),
        }
    }

    /// It is complete: it takes its place.
    ///
    /// # Errors
    /// When it cannot.
    pub fn commit(mut self) -> io::Result<()> {
        let Some(replaces) = self.replaces.take() else { return Ok(()) };
        if !replaces.named {
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let link = || linkat(CWD, &own, CWD, &replaces.partial, AtFlags::SYMLINK_FOLLOW);
            let linked = match link() {
                // Left behind by a process that was killed here, and had our id.
                Err(Errno::EXIST) => fs::remove_file(&replaces.partial).and_then(|()| Ok(link()?)),
                other => other.map_err(io::Error::from),
            };
            linked.inspect_err(|_| {
                PARTIAL.lock().unwrap_or_else(PoisonError::into_inner).remove(&replaces.partial);
            })?;
        }
        PARTIAL.lock().unwrap_or_else(PoisonError::into_inner).remove(&replaces.partial);
        fs::rename(&replaces.partial, &replaces.path).inspect_err(|_| {
            // The error that matters is the first one.
            let _ = fs::remove_file(&replaces.partial);
        })
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(replaces) = &self.replaces {
            let _ = fs::remove_file(&replaces.partial);
            PARTIAL.lock().unwrap_or_else(PoisonError::into_inner).remove(&replaces.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(path: &Path, text: &str) -> io::Result<()> {
        let mut output = OutputFile::create(path)?;
        output.write_all(text.as_bytes())?;
        output.commit()
    }

    #[test]
    fn files_are_replaced_whole_and_links_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
        symlink("real", &link).unwrap();
        let mut unfinished = OutputFile::create(&link).unwrap();
        unfinished.write_all(b"half").unwrap();
        if nameless(folder.path()).is_some() {
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "a kill would leave nothing");
        }
        drop(unfinished);
        assert_eq!(fs::read_to_string(&real).unwrap(), "old");
        write(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
        assert_eq!(write(folder.path(), "x").unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn pipes_are_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || {
                let mut text = String::new();
                File::open(pipe).unwrap().read_to_string(&mut text).unwrap();
                text
            }
        });
        write(&pipe, "through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
    }
}
