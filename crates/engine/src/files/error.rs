use wbuild_context::SourceError;
use wbuild_layer::ArchiveError;
use wbuild_report::Hint;
use wbuild_tree::{BuildError, EntryPath, PathError, ResolveError, TreeLoadError};

use crate::users::UserError;

/// Why a file operation cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum FileError<E> {
    /// The source of a native copy is not there.
    #[error("`{path}` is not there to be copied")]
    NoSource {
        /// The source.
        path: EntryPath,
    },
    /// A source of COPY or ADD is not there.
    #[error("`{path}` not found in {}{}", missing.place, led_to(path, reached))]
    NotFound {
        /// The source.
        path: EntryPath,
        /// Where its links lead, if it has any.
        reached: EntryPath,
        /// What is known about it.
        missing: Box<Missing>,
    },
    /// A source or an exclusion is malformed.
    #[error("`{text}` cannot be used as a pattern")]
    Pattern {
        /// As written.
        text: String,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// What is to be removed is not there.
    #[error("`{path}` is not there to be removed")]
    NothingToRemove {
        /// The path.
        path: EntryPath,
    },
    /// A file cannot become a directory's place.
    #[error("`{path}` is a directory; a file cannot take its place")]
    IsDirectory {
        /// The path.
        path: EntryPath,
    },
    /// A directory cannot take a file's place.
    #[error("`{path}` is not a directory; the files of a directory cannot be copied into it")]
    IsNoDirectory {
        /// The path.
        path: EntryPath,
    },
    /// COPY of a file onto a directory; BuildKit's sentence.
    #[error("cannot replace to directory {path} with file")]
    FileOverDirectory {
        /// The directory.
        path: EntryPath,
    },
    /// COPY of a directory onto something else; BuildKit's sentence.
    #[error("cannot copy to non-directory: {path}")]
    DirectoryOverFile {
        /// What is there.
        path: EntryPath,
    },
    /// A directory cannot be made where something else is.
    #[error("`{path}` cannot be a directory: there is a file")]
    NotADirectory {
        /// What is there.
        path: EntryPath,
    },
    /// A path that no Linux system could open.
    #[error("the path `{}…` is longer than 4095 bytes", path.to_string().chars().take(100).collect::<String>())]
    TooLong {
        /// The path.
        path: EntryPath,
    },
    /// A path leads nowhere.
    #[error(transparent)]
    Resolve(#[from] ResolveError<E>),
    /// The delta cannot be put together.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A tree cannot be loaded.
    #[error(transparent)]
    Load(#[from] TreeLoadError),
    /// A new file's contents cannot be stored or read.
    #[error("cannot store the contents of `{path}`")]
    Contents {
        /// The new file.
        path: EntryPath,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An owner cannot be looked up.
    #[error(transparent)]
    Owner(#[from] UserError),
    /// An archive cannot be unpacked.
    #[error("cannot unpack the archive `{path}`")]
    Archive {
        /// The archive.
        path: EntryPath,
        /// Why.
        #[source]
        source: UnpackError,
    },
}

/// What is wrong with an archive that ADD should unpack.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is damaged, ambiguous or too large.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] std::io::Error),
    /// A path that none can have.
    #[error("the tar entry at byte {offset} has an unusable path")]
    Path {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: PathError,
    },
    /// A name that would remove files once it is in a layer.
    #[error("`{path}` would remove files: names that start with `.wh.` mean removed files in an image")]
    Whiteout {
        /// In the archive.
        path: EntryPath,
    },
    /// Something that no layer, or no Linux system, can hold.
    #[error("`{path}` is refused: {why}")]
    Refused {
        /// In the archive.
        path: EntryPath,
        /// Why.
        why: &'static str,
    },
    /// A hard link to what is not there, or cannot be linked.
    #[error("`{path}` is a hard link to `{target}`, which is no file of the archive")]
    Target {
        /// In the archive.
        path: EntryPath,
        /// What it should be linked to.
        target: EntryPath,
    },
}

/// What is known about a source that is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Where it was looked for: "the build context".
    pub place: String,
    /// Which line of an ignore file left it out.
    pub ignored: Option<String>,
    /// Names beside it that may have been meant.
    pub nearest: Vec<String>,
}

fn led_to(path: &EntryPath, reached: &EntryPath) -> String {
    if path == reached { String::new() } else { format!(": its links lead to `{reached}`") }
}

impl<E> Hint for FileError<E> {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::NotFound { missing, .. } => match &missing.ignored {
                Some(ignored) => vec![ignored.clone()],
                None => missing.nearest.iter().map(|name| format!("did you mean `{name}`?")).collect(),
            },
            Self::Pattern { source, .. } => source.hints(),
            Self::Owner(error) => error.hints(),
            Self::Archive { source: UnpackError::Whiteout { .. }, .. } => {
                vec!["rename the file in the archive, or keep it packed with --unpack=false".to_owned()]
            }
            Self::IsDirectory { .. } => {
                vec!["give the file another name, or remove the directory in an earlier step".to_owned()]
            }
            Self::NotADirectory { .. } => {
                vec!["name another destination, or remove the file in an earlier step".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}
