use std::fmt;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use wbuild_report::{Diagnostic, Hint};
use wbuild_tree::EntryPath;

/// Why a context cannot be read. Every variant names the path; nothing is ever taken for absent or empty because it could
/// not be read.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The folder itself.
    #[error("cannot open the context `{}`", path.display())]
    Root {
        /// As it was given.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A directory in it.
    #[error("cannot read the directory `{}`", shown(path))]
    ReadDirectory {
        /// Which.
        path: EntryPath,
        /// Why.
        #[source]
        source: Errno,
    },
    /// An entry's facts.
    #[error("cannot inspect `{}`", shown(path))]
    Inspect {
        /// Which.
        path: EntryPath,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A file's content.
    #[error("cannot read the file `{}`", shown(path))]
    ReadFile {
        /// Which.
        path: EntryPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was listed, and then it was not there.
    #[error("`{}` disappeared while the context was read", shown(path))]
    Vanished {
        /// Which.
        path: EntryPath,
    },
    /// Its size, times, inode or bytes are not what they were when the build first looked.
    #[error("`{}` changed during the build", shown(path))]
    Changed {
        /// Which.
        path: EntryPath,
    },
    /// Layers use this name to delete files of lower layers (OCI image-spec, layer.md, "Whiteouts").
    #[error(
        "`{}` cannot be part of an image: names that begin with `.wh.` mean deletions in a layer",
        shown(path)
    )]
    WhiteoutName {
        /// Which.
        path: EntryPath,
    },
    /// Deeper than [`MAX_DEPTH`](crate::MAX_DEPTH).
    #[error("`{}` lies more than {} directories deep", beginning(path), crate::MAX_DEPTH)]
    TooDeep {
        /// Which.
        path: EntryPath,
    },
    /// More than [`MAX_ENTRIES`](crate::MAX_ENTRIES).
    #[error("the context has more than {} entries", crate::MAX_ENTRIES)]
    TooMany,
    /// The blob sink did not take a file.
    #[error("cannot store the content of `{}`", shown(path))]
    Store {
        /// Which.
        path: EntryPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path that was selected is not in the listing.
    #[error("`{}` is not in the context", shown(path))]
    NotFound {
        /// Which.
        path: EntryPath,
        /// The line of the ignore file that leaves it out, if one does.
        ignored_by: Option<IgnoredBy>,
        /// Names beside it that may have been meant.
        nearest: Vec<String>,
    },
    /// A loop of links, or a chain of more than [`MAX_SYMLINKS`](wbuild_tree::MAX_SYMLINKS).
    #[error("`{}` goes through too many symbolic links", shown(path))]
    TooManyLinks {
        /// Which.
        path: EntryPath,
    },
}

/// The pattern that keeps a path out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredBy {
    /// The ignore file.
    pub file: String,
    /// 1-based.
    pub line: usize,
    /// As compiled.
    pub pattern: String,
}

impl fmt::Display for IgnoredBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of {} leaves it out: `{}`", self.line, self.file, self.pattern)
    }
}

/// Why the ignore file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IgnoreFileError {
    /// It is there and cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A link that leads out of the context, or something that is no file.
    #[error("`{}` is not a file inside of the context", path.display())]
    NotInside {
        /// Which.
        path: PathBuf,
    },
    /// It is read, and patterns are wrong.
    #[error("{} of `{}` cannot be used", count(diagnostics.len()), path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong, line by line.
        diagnostics: Vec<Diagnostic>,
    },
}

fn count(lines: usize) -> String {
    if lines == 1 { "a line".to_owned() } else { format!("{lines} lines") }
}

/// Relative, as a person writes it; control characters written out, so that a name cannot draw on the terminal.
pub(crate) fn shown(path: &EntryPath) -> String {
    if path.is_root() {
        return ".".to_owned();
    }
    let mut out = String::new();
    for c in String::from_utf8_lossy(path.as_bytes()).chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The first hundred characters.
fn beginning(path: &EntryPath) -> String {
    let mut text: String = shown(path).chars().take(100).collect();
    text.push('…');
    text
}

impl Hint for ContextError {
    fn hints(&self) -> Vec<String> {
        let ignore = |path: &EntryPath| format!("leave it out: add `{}` to .dockerignore", shown(path));
        match self {
            Self::ReadDirectory { path, source } if matches!(*source, Errno::ACCESS | Errno::PERM) => {
                vec!["make it readable for the user who builds".to_owned(), ignore(path)]
            }
            Self::ReadFile { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                vec!["make it readable for the user who builds".to_owned(), ignore(path)]
            }
            Self::WhiteoutName { path } => vec!["rename it".to_owned(), ignore(path)],
            Self::Vanished { path } | Self::Changed { path } => {
                vec!["build again when nothing writes to it any more".to_owned(), ignore(path)]
            }
            Self::NotFound { ignored_by: Some(ignored), .. } => {
                vec![ignored.to_string()]
            }
            Self::NotFound { nearest, .. } => {
                nearest.iter().map(|name| format!("did you mean `{name}`?")).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Hint for IgnoreFileError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::NotInside { .. } => vec!["copy the file instead of linking to it".to_owned()],
            Self::Invalid { diagnostics, .. } => diagnostics.iter().flat_map(Hint::hints).collect(),
            Self::Read { .. } => Vec::new(),
        }
    }
}
