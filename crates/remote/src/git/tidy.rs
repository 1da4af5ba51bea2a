use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::error::GitError;

/// Makes a checkout what its commit says: modes that no umask had a part in, no trace of git's own files unless they
/// stay, and the commit's time if that is wanted. The folder is this process's alone, so paths stay what they are.
pub(crate) fn tidy(root: &Path, keep_git_dir: bool, time: Option<i64>) -> Result<(), GitError> {
    let mut pending = vec![root.to_owned()];
    // Directories come before what is in them, and get their times after it.
    let mut directories: Vec<PathBuf> = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).map_err(failed("read", &directory))? {
            let entry = entry.map_err(failed("read", &directory))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(failed("read", &path))?;
            if !keep_git_dir && entry.file_name() == ".git" {
                let removed = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(failed("remove", &path))?;
                continue;
            }
            if kind.is_dir() {
                pending.push(path);
                continue;
            }
            if kind.is_file() {
                let mode = entry.metadata().map_err(failed("read", &path))?.permissions().mode();
                set_mode(&path, if mode & 0o100 == 0 { 0o644 } else { 0o755 })?;
            }
            if let Some(time) = time {
                set_time(&path, time)?;
            }
        }
        directories.push(directory);
    }
    for directory in directories.iter().rev() {
        set_mode(directory, 0o755)?;
        if let Some(time) = time {
            set_time(directory, time)?;
        }
    }
    Ok(())
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> GitError + 'a {
    move |source| GitError::Io { action, path: path.to_owned(), source }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), GitError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
}

fn set_time(path: &Path, seconds: i64) -> Result<(), GitError> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed("set the time of", path)(error.into()))
}
