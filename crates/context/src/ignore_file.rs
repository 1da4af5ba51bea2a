//! Which ignore file a build uses, and reading it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::IgnoreFileError;
use crate::ignore::{IgnoreRules, MAX_IGNORE_BYTES};

impl IgnoreRules {
    /// The rules for a build: those of `<Dockerfile>.dockerignore` beside the Dockerfile if there is one, even an empty
    /// one; else those of `.dockerignore` at the context's root; else none. Only *not there* means none: a file that cannot
    /// be read is an error (docker takes it for absent and sends everything).
    ///
    /// A link is followed as long as it stays in the context, or for the first file in the Dockerfile's folder: messages
    /// quote lines, and these must not be another file's.
    ///
    /// # Errors
    /// When the file cannot be read, leads elsewhere, or has patterns that cannot be compiled.
    pub fn load(context: &Path, dockerfile: Option<&Path>) -> Result<Self, IgnoreFileError> {
        if let Some(dockerfile) = dockerfile {
            let mut name: OsString = dockerfile.into();
            name.push(".dockerignore");
            let path = PathBuf::from(name);
            let folder = match dockerfile.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            if let Some(bytes) = read(&path, &[folder, context])? {
                return compile(path, &bytes);
            }
        }
        let path = context.join(".dockerignore");
        match read(&path, &[context])? {
            Some(bytes) => compile(path, &bytes),
            None => Ok(Self::none()),
        }
    }
}

fn compile(path: PathBuf, bytes: &[u8]) -> Result<IgnoreRules, IgnoreFileError> {
    let name = path.strip_prefix(".").unwrap_or(&path).to_string_lossy();
    IgnoreRules::parse(&name, bytes).map_err(|diagnostics| IgnoreFileError::Invalid { path, diagnostics })
}

fn read(path: &Path, inside: &[&Path]) -> Result<Option<Vec<u8>>, IgnoreFileError> {
    let wrong = |source: io::Error| IgnoreFileError::Read { path: path.to_owned(), source };
    let real = match std::fs::canonicalize(path) {
        Ok(real) => real,
        // A dangling link is there, and means something; only nothing at all is nothing.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            return Ok(None);
        }
        Err(error) => return Err(wrong(error)),
    };
    let mut folders = inside.iter().filter_map(|folder| std::fs::canonicalize(folder).ok());
    if !folders.any(|folder| real.starts_with(folder)) {
        return Err(IgnoreFileError::NotInside { path: path.to_owned() });
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file =
        File::from(rustix::fs::open(&real, flags, Mode::empty()).map_err(|errno| wrong(errno.into()))?);
    if !file.metadata().map_err(wrong)?.is_file() {
        return Err(IgnoreFileError::NotInside { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, so that too large is told from just large enough.
    file.take(MAX_IGNORE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(wrong)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_file_beside_the_dockerfile_wins_even_when_empty() {
        let folder = tempfile::tempdir().unwrap();
        let context = folder.path().join("c");
        fs::create_dir(&context).unwrap();
        let dockerfile = folder.path().join("web.Dockerfile");
        assert!(IgnoreRules::load(&context, Some(&dockerfile)).unwrap().is_empty());
        fs::write(context.join(".dockerignore"), "a\n").unwrap();
        assert!(IgnoreRules::load(&context, Some(&dockerfile)).unwrap().excludes(b"a"));
        fs::write(folder.path().join("web.Dockerfile.dockerignore"), "").unwrap();
        assert!(IgnoreRules::load(&context, Some(&dockerfile)).unwrap().is_empty());
        assert!(!IgnoreRules::load(&context, None).unwrap().is_empty());
    }

    #[test]
    fn links_that_leave_fifos_and_dangling_links_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let context = folder.path().join("c");
        fs::create_dir(&context).unwrap();
        let ignore = context.join(".dockerignore");
        fs::write(folder.path().join("secret"), "[\n").unwrap();
        symlink("../secret", &ignore).unwrap();
        assert!(matches!(IgnoreRules::load(&context, None), Err(IgnoreFileError::NotInside { .. })));
        fs::remove_file(&ignore).unwrap();
        symlink("nowhere", &ignore).unwrap();
        assert!(matches!(IgnoreRules::load(&context, None), Err(IgnoreFileError::Read { .. })));
        fs::remove_file(&ignore).unwrap();
        fs::write(context.join("real"), "x\n").unwrap();
        symlink("real", &ignore).unwrap();
        assert!(IgnoreRules::load(&context, None).unwrap().excludes(b"x"));
        fs::remove_file(&ignore).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &ignore, Mode::RUSR).unwrap();
        assert!(matches!(IgnoreRules::load(&context, None), Err(IgnoreFileError::NotInside { .. })));
    }
}
