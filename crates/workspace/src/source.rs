//! Reading a file of the user as text, with its size capped.

use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile, Span};

use crate::{Files, RelPath, WorkspaceError};

/// Largest manifest, configuration or workspace file that is read. Real ones are below 100 kB.
pub(crate) const MAX_CONFIG: usize = 4 << 20;

/// Largest lockfile that is read. The largest seen in public repositories is below 4 MB.
pub(crate) const MAX_LOCKFILE: usize = 128 << 20;

/// The text of `path`, or `None` when there is no such file.
pub(crate) fn read_source(
    files: &dyn Files,
    path: &RelPath,
    limit: usize,
) -> Result<Option<Arc<SourceFile>>, WorkspaceError> {
    let Some(bytes) = files.read(path)? else { return Ok(None) };
    if bytes.len() > limit {
        let file = SourceFile::new(path.to_string(), "");
        let message = format!("is {} bytes long, more than the {limit} that wbuild reads", bytes.len());
        return Err(Diagnostic::error(&file, message).into());
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Some(SourceFile::new(path.to_string(), text))),
        Err(error) => {
            let file = SourceFile::new(path.to_string(), String::from_utf8_lossy(bytes));
            let at = error.valid_up_to();
            let end = file.text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
            Err(Diagnostic::error(&file, "is not valid UTF-8").at(Span::new(at, end), "here").into())
        }
    }
}
