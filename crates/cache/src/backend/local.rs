use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use wbuild_oci::Digest;

use super::{Backend, action, readable, scope_name};
use crate::error::{At, CacheError, damaged};
use crate::index::{Index, MAX_INDEX};

/// A folder: `cas/<hex>` and `ac/<hex>`, as Bazel's HTTP caching protocol names them, so that a web server can serve it.
#[derive(Clone, Debug)]
pub struct LocalBackend {
    folder: PathBuf,
}

impl LocalBackend {
    /// The folder; made when something is stored.
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn content(&self, digest: &Digest) -> PathBuf {
        self.folder.join("cas").join(digest.hex())
    }

    fn open(&self, content: &Digest) -> Result<(PathBuf, File), CacheError> {
        let path = self.content(content);
        match File::open(&path) {
            Ok(file) => Ok((path, file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(CacheError::Gone(*content)),
            Err(error) => Err(error).at("read", &path),
        }
    }

    fn index_path(&self, scope: &str) -> PathBuf {
        self.folder.join("ac").join(scope_name(scope).hex())
    }

    fn read_index(&self, scope: &str) -> Result<Option<Vec<u8>>, CacheError> {
        let path = self.index_path(scope);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("read", &path),
        };
        let mut bytes = Vec::new();
        file.take(MAX_INDEX + 1).read_to_end(&mut bytes).at("read", &path)?;
        if bytes.len() as u64 > MAX_INDEX {
            return Err(CacheError::TooLarge { what: "the index".to_owned(), limit: MAX_INDEX });
        }
        action::unwrap(&bytes).map(Some)
    }

    /// A file beside `path` that takes its place when it is complete.
    fn place(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), CacheError> {
        let parent = path.parent().unwrap_or(path);
        fs::create_dir_all(parent).at("create", parent)?;
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(parent).at("create", path)?;
        fill(file.as_file_mut()).at("write", path)?;
        // As a web server of another user may read it.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(readable).at("write", path)?;
        file.persist(path).map_err(|error| error.error).at("create", path)?;
        Ok(())
    }
}

impl Backend for LocalBackend {
    fn place(&self) -> String {
        self.folder.display().to_string()
    }

    fn index(&self, scope: &str) -> Result<Option<Vec<u8>>, CacheError> {
        self.read_index(scope)
    }

    fn update(
        &self,
        scope: &str,
        merge: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Index>,
    ) -> Result<(), CacheError> {
        fs::create_dir_all(&self.folder).at("create", &self.folder)?;
        let path = self.folder.join("lock");
        let lock = File::create(&path).at("create", &path)?;
        flock(&lock, FlockOperation::LockExclusive).at("lock", &path)?;
        let Some(index) = merge(readable(self.read_index(scope))?) else { return Ok(()) };
        let bytes = action::wrap(&index.encode()?);
        Self::place(&self.index_path(scope), |file| file.write_all(&bytes))
    }

    fn small(&self, content: &Digest, limit: u64) -> Result<Vec<u8>, CacheError> {
        let (path, file) = self.open(content)?;
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).at("read", &path)?;
        match bytes.len() as u64 > limit {
            true => Err(CacheError::TooLarge { what: path.display().to_string(), limit }),
            false => Ok(bytes),
        }
    }

    fn part(&self, content: &Digest, range: Range<u64>) -> Result<Option<Vec<u8>>, CacheError> {
        let (path, file) = self.open(content)?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        match file.read_exact_at(&mut bytes, range.start) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(damaged(path.display().to_string(), "it is truncated"))
            }
            Err(error) => Err(error).at("read", &path),
        }
    }

    fn whole(&self, content: &Digest, _: u64, mut file: &File) -> Result<(), CacheError> {
        let (path, mut source) = self.open(content)?;
        io::copy(&mut source, &mut file).map(|_| ()).at("read", &path)
    }

    fn put(&self, content: &Digest, size: u64, path: &Path) -> Result<(), CacheError> {
        let target = self.content(content);
        if fs::metadata(&target).is_ok_and(|meta| meta.is_file() && meta.len() == size) {
            return Ok(());
        }
        let mut source = File::open(path).at("read", path)?;
        Self::place(&target, |file| io::copy(&mut source, file).map(|_| ()))
    }
}
