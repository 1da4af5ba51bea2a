//! Results as files: in a folder (`type=local`), or as a tar of the root file system (`type=tar`).

mod folder;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use wbuild_graph::Snapshot;
use wbuild_image::{Foreseen, OutputFile};
use wbuild_layer::{Compression, Recipe, Times, WriteError, write_layer};
use wbuild_report::Hint;
use wbuild_tree::{Directory, Entry, EntryPath, Meta, Name, Node, PathError, Subtree};

use crate::error::EngineError;
use crate::export::StoreBlobs;
use crate::step::io_error;
use crate::worker::Engine;

use folder::write_folder;

/// What becomes of files that are in the folder already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// They stay, unless a file of the result has their name (`mode=copy`).
    #[default]
    Keep,
    /// They are removed (`mode=delete`): the folder holds afterwards what the result holds.
    Delete,
}

/// Where the files of a result go.
#[derive(Debug)]
pub enum FilesOutput<'a> {
    /// Into a folder, made if there is none: as plain files of the user who builds.
    Folder {
        /// Which.
        path: &'a Path,
        /// What becomes of what is there.
        existing: Existing,
    },
    /// Into a tar, which appears only when it is complete.
    Tar(&'a Path),
}

/// What files are given that no step has made.
#[derive(Debug)]
pub struct Dress<'a> {
    /// Their times.
    pub times: Times,
    /// A directory around everything, documents included.
    pub folder: Option<Name>,
    /// Documents beside them, by name; they stand in for files that are called the same.
    pub documents: &'a [(Name, Vec<u8>)],
}

impl Dress<'_> {
    /// Nothing but times.
    pub const fn plain(times: Times) -> Self {
        Self { times, folder: None, documents: &[] }
    }
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesWritten {
    /// How many entries, directories included.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Devices that only root can make, and which are not there.
    pub skipped: Vec<EntryPath>,
}

/// Why files cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A directory is where a file is to be.
    #[error("`{}` is a directory, and the result has something else there", path.display())]
    InTheWay {
        /// Where.
        path: PathBuf,
    },
    /// The folder is the root of this machine, whose own files would be replaced.
    #[error("`{}` is the root of this machine, and no output is written there", path.display())]
    OwnRoot {
        /// What it was called.
        path: PathBuf,
    },
    /// The tar.
    #[error("cannot write the tar")]
    Tar(#[from] WriteError),
    /// A document, or the folder around everything, has a name that no file has.
    #[error("cannot name a file of the output")]
    Name(#[from] PathError),
    /// The operating system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Whether files can be put into the folder at `path`, as far as that is known before there are any.
///
/// # Errors
/// [`OutputError::OwnRoot`]: a root file system over the machine's own is never what was meant, and BuildKit's exporter would
/// replace `/bin` and `/etc` there.
pub fn check_files_folder(path: &Path) -> Result<(), OutputError> {
    // One that is not there yet is not the root.
    match path.canonicalize() {
        Ok(real) if real.parent().is_none() => Err(OutputError::OwnRoot { path: path.to_owned() }),
        _ => Ok(()),
    }
}

impl Hint for OutputError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::InTheWay { path } => {
                vec![format!("remove `{}`, or let mode=delete do that", path.display())]
            }
            Self::OwnRoot { .. } => vec![
                "name a folder of its own for the output; a `type=tar` can be unpacked wherever that is meant".to_owned(),
            ],
            Self::Tar(error) => error.hints(),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                vec!["make room, or name a folder on a larger disk".to_owned()]
            }
            Self::Io { .. } | Self::Name(_) => Vec::new(),
        }
    }
}

impl Engine {
    /// Writes the files of a snapshot, all layers together. Every byte is compared with its digest on the way.
    ///
    /// # Errors
    /// When they are not all there, or cannot be written. A folder then holds some of them, a tar is not there.
    pub fn write_files(
        &self,
        snapshot: &Snapshot,
        dress: &Dress<'_>,
        output: &FilesOutput<'_>,
    ) -> Result<FilesWritten, EngineError> {
        let tree = self.dressed(snapshot, dress)?;
        let times = dress.times;
        match output {
            FilesOutput::Folder { path, existing } => {
                write_folder(&self.store, &tree, times, path, *existing)
            }
            FilesOutput::Tar(path) => {
                let foreseen = foreseen(&tree, times);
                if foreseen.is_at(path) {
                    let bytes = fs::metadata(path).map_err(io_error("read", path))?.len();
                    return Ok(FilesWritten { entries: tree.entries(), bytes, skipped: Vec::new() });
                }
                let mut out = OutputFile::create(path).map_err(io_error("create", path))?;
                let mut buffered = BufWriter::with_capacity(256 << 10, &mut out);
                let written = self.tar(&tree, times, &mut buffered)?;
                buffered.flush().map_err(io_error("write", path))?;
                drop(buffered);
                out.note(foreseen).map_err(io_error("set the time of", path))?;
                out.commit().map_err(io_error("replace", path))?;
                Ok(written)
            }
        }
    }

    /// Writes the files of a snapshot as a tar to `out`: equal files and times give equal bytes.
    ///
    /// # Errors
    /// As [`write_files`](Self::write_files).
    pub fn write_tar(
        &self,
        snapshot: &Snapshot,
        dress: &Dress<'_>,
        out: &mut dyn Write,
    ) -> Result<FilesWritten, EngineError> {
        let tree = self.dressed(snapshot, dress)?;
        self.tar(&tree, dress.times, out)
    }

    /// All files of a snapshot, and what they are given besides.
    fn dressed(&self, snapshot: &Snapshot, dress: &Dress<'_>) -> Result<Subtree, EngineError> {
        let mut tree = self.merged(snapshot)?;
        if !dress.documents.is_empty() {
            let mut directory = tree.open(&self.trees())?.as_ref().clone();
            for (name, bytes) in dress.documents {
                let content = self.store.put_bytes(bytes)?;
                let node = Node::File { content, size: bytes.len() as u64, link: None };
                directory.entries.insert(name.clone(), Entry { meta: Meta::new(0o644), node });
            }
            tree = Subtree::new(directory);
        }
        Ok(match &dress.folder {
            Some(folder) => {
                let entry = Entry::directory(Meta::new(0o755), tree);
                Subtree::new(Directory { entries: BTreeMap::from([(folder.clone(), entry)]) })
            }
            None => tree,
        })
    }

    fn tar(&self, tree: &Subtree, times: Times, out: &mut dyn Write) -> Result<FilesWritten, EngineError> {
        let recipe = Recipe { compression: Compression::None, times };
        let written = write_layer(&self.trees(), &StoreBlobs(&self.store), tree, &recipe, out);
        let layer = written.map_err(OutputError::Tar)?;
        Ok(FilesWritten { entries: tree.entries(), bytes: layer.size, skipped: Vec::new() })
    }
}

/// What a tar will be: the version is to be raised when its bytes change.
fn foreseen(tree: &Subtree, times: Times) -> Foreseen {
    let times = match times {
        Times::Keep => "keep".to_owned(),
        Times::Fixed(seconds) => seconds.to_string(),
    };
    Foreseen::new([b"tar/1".as_slice(), tree.digest().to_string().as_bytes(), times.as_bytes()], None)
}

#[cfg(test)]
mod tests;
