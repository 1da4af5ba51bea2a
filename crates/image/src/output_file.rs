use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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
    partial: PathBuf,
    path: PathBuf,
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
        let file = File::create(&partial)?;
        PARTIAL.lock().unwrap_or_else(PoisonError::into_inner).insert(partial.clone());
        let output = Self { file, replaces: Some(Replaces { partial, path: real }) };
        if let Some(meta) = existing {
            output.file.set_permissions(meta.permissions())?;
        }
        Ok(output)
    }

    /// It is complete: it takes its place.
    ///
    /// # Errors
    /// When it cannot.
    pub fn commit(mut self) -> io::Result<()> {
        let Some(replaces) = self.replaces.take() else { return Ok(()) };
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
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
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
