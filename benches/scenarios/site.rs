//! A copy of the example monorepo. Every peer has its own: what one writes into it is not to be found by another.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::problem::{Problem, doing};
use crate::run::copy_folder;

/// A sentence of the home page, which an edit extends.
const SENTENCE: &str = "Short courses on working with language models.";

/// The copy.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) path: PathBuf,
}

impl Site {
    /// The example as it is in the checkout, at `path`, which must not exist.
    pub(crate) fn copy_to(path: PathBuf) -> Result<Self, Problem> {
        copy_folder(&repository().join("tests/monorepo"), &path)?;
        Ok(Self { path })
    }

    /// One that is there already.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Edits one line of the home page, another way each round.
    pub(crate) fn edit_page(&self, round: usize) -> Result<(), Problem> {
        let page = "apps/web/src/app/page.tsx";
        let original = repository().join("tests/monorepo").join(page);
        let text = fs::read_to_string(&original).map_err(doing("read", &original))?;
        let edited = text.replace(SENTENCE, &format!("{SENTENCE} Edition {}.", round + 1));
        if edited == text {
            let source = std::io::Error::other(format!("it has no longer the sentence `{SENTENCE}`"));
            return Err(doing("edit", &original)(source));
        }
        self.write(page, &edited)
    }

    /// Adds text at the end of a file.
    pub(crate) fn append(&self, file: &str, text: &str) -> Result<(), Problem> {
        let path = self.path.join(file);
        let opened = File::options().append(true).open(&path);
        opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(doing("extend", &path))
    }

    /// Replaces text in a file.
    pub(crate) fn replace(&self, file: &str, old: &str, new: &str) -> Result<(), Problem> {
        let path = self.path.join(file);
        let text = fs::read_to_string(&path).map_err(doing("read", &path))?;
        self.write(file, &text.replace(old, new))
    }

    /// Gives a file another modification time.
    pub(crate) fn touch(&self, file: &str) -> Result<(), Problem> {
        let path = self.path.join(file);
        let opened = File::options().append(true).open(&path);
        opened.and_then(|file| file.set_modified(SystemTime::now())).map_err(doing("touch", &path))
    }

    /// Gives a file another mode.
    pub(crate) fn set_mode(&self, file: &str, mode: u32) -> Result<(), Problem> {
        let path = self.path.join(file);
        fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(doing("change the mode of", &path))
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Problem> {
        let path = self.path.join(file);
        fs::write(&path, text).map_err(doing("write", &path))
    }
}

/// The checkout that this program was built from.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
