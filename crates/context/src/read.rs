use std::fs::File;
use std::io::Read;

use wbuild_tree::EntryPath;

use crate::content::OpenFile;
use crate::error::ContextError;
use crate::root::ContextRoot;

impl ContextRoot {
    /// Reads a file whose content is not known yet: a manifest or a lockfile that a build is planned with. At most `cap`
    /// bytes.
    ///
    /// # Errors
    /// When it cannot be read, is no regular file, or is larger.
    pub fn read(&self, path: &EntryPath, cap: u64) -> Result<Vec<u8>, ContextError> {
        let mut file: File = OpenFile::open(self, path.clone())?.into_file();
        let failed = |source| ContextError::ReadFile { path: path.clone(), source };
        let mut bytes = Vec::new();
        Read::by_ref(&mut file).take(cap + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > cap {
            return Err(failed(std::io::Error::other(format!("it has more than {cap} bytes"))));
        }
        Ok(bytes)
    }
}
