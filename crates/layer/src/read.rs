use std::io::{self, Read};

use wbuild_oci::{DiffId, Digest, HashingWriter};
use wbuild_report::Hint;
use wbuild_tree::{Entry, EntryPath, Meta, Name, Node, PathError, Subtree};

use crate::archive::{Archive, ArchiveData, ArchiveEntry, ArchiveError, ArchiveKind, Limits};
use crate::blob::{BlobFacts, BlobReader, Expected, read_ahead};
use crate::overlay;
use crate::stage::{Action, PlaceError, Placed, Placement, Stage, check_target};
use crate::whiteout::{self, Meaning};

/// Where the bytes of a layer's files go.
pub trait ContentSink {
    /// Takes all bytes of `content`, which are `size` many, and says what their digest is.
    ///
    /// # Errors
    /// When they cannot be read or kept.
    fn put(&self, content: &mut dyn Read, size: u64) -> io::Result<Digest>;
}

/// A sink that keeps nothing: for those who want a layer's tree only.
#[derive(Clone, Copy, Debug, Default)]
pub struct DigestOnly;

impl ContentSink for DigestOnly {
    fn put(&self, content: &mut dyn Read, _size: u64) -> io::Result<Digest> {
        let mut hash = HashingWriter::new(io::sink());
        io::copy(content, &mut hash)?;
        Ok(hash.finish().0)
    }
}

/// What names that start with `.wh.` are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whiteouts {
    /// Marks, as in a layer.
    #[default]
    Honour,
    /// An error: in an archive that somebody adds to an image they would remove what they should not know of.
    Refuse,
}

/// How a layer is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Caps.
    pub limits: Limits,
    /// A layer, or just an archive.
    pub whiteouts: Whiteouts,
}

/// A layer as a delta.
#[derive(Clone, Debug)]
pub struct LayerTree {
    /// The tree face of the delta.
    pub tree: Subtree,
    /// The metadata of the root directory, if the layer has an entry for it.
    pub root: Option<Meta>,
    /// The layer hides everything below it. A tree cannot say that of its root: drop the layers below.
    pub opaque_root: bool,
    /// Directories that only entries below them imply, in tree order. They have mode 0755 and belong to root here; where
    /// a lower layer has the directory, its metadata is the right one.
    pub implied: Vec<EntryPath>,
    /// Entries that had overlay's own attributes, which were left out.
    pub without_marks: Vec<EntryPath>,
    /// Digests and sizes; what was expected was found.
    pub blob: BlobFacts,
}

/// Why a layer cannot be read or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The blob is no archive that can be trusted.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A path that leads out of the root, or is none.
    #[error("the tar entry at byte {offset} has an unusable path")]
    Path {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: PathError,
    },
    /// A name that starts like a whiteout where it cannot be one.
    #[error("`{path}` starts like a whiteout, but means nothing")]
    WhiteoutName {
        /// Where.
        path: EntryPath,
    },
    /// A whiteout in an archive that is no layer.
    #[error("`{path}` would remove files: names that start with `.wh.` are only allowed in layers")]
    Whiteout {
        /// Where.
        path: EntryPath,
    },
    /// Overlay's own whiteout, which would act on whoever mounts it.
    #[error("`{path}` is the device 0:0, a control mark of overlay file systems")]
    OverlayMark {
        /// Where.
        path: EntryPath,
    },
    /// It does not fit to what the layer had before.
    #[error("`{path}` cannot be unpacked")]
    Place {
        /// Where.
        path: EntryPath,
        /// Why.
        #[source]
        source: PlaceError,
    },
    /// The sink failed.
    #[error("cannot store the content of `{path}`")]
    Store {
        /// Of what.
        path: EntryPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk failed.
    #[error("cannot {what} `{path}` while unpacking")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// Inside the target.
        path: EntryPath,
        /// Why.
        #[source]
        source: rustix::io::Errno,
    },
    /// The blob is another one than expected.
    #[error("the layer blob is damaged: expected {expected}, found {actual}")]
    Digest {
        /// From the manifest.
        expected: Digest,
        /// Of what came.
        actual: Digest,
    },
    /// The tar in it is another one than expected.
    #[error("the layer's contents have the diff id {actual}, but the image config says {expected}")]
    DiffId {
        /// From the config.
        expected: DiffId,
        /// Of what came.
        actual: DiffId,
    },
}

impl Hint for LayerError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Disk { what: "make the whiteout", source: rustix::io::Errno::PERM, .. } => vec![
                "whiteouts without privileges need Linux 5.8 or later, and a seccomp profile that allows mknod".to_owned(),
            ],
            Self::Disk { what: "mark as opaque", source: rustix::io::Errno::OPNOTSUPP, .. } => {
                vec!["move the state directory to a file system with user extended attributes".to_owned()]
            }
            Self::Disk { what: "set the owner of", source: rustix::io::Errno::INVAL, .. } => {
                vec!["the user namespace does not map this id; add a range for this user in `/etc/subuid`".to_owned()]
            }
            Self::Archive(ArchiveError::Read { source, .. }) if source.kind() == io::ErrorKind::Unsupported => {
                vec!["push the image again with gzip or zstd layers".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

/// Reads a layer as a tree; the bytes of its files go to `sink`. Both digests are checked where they are expected; on an
/// error, what the sink has by then is of files that may never have been meant.
///
/// # Errors
/// When the layer is damaged, hostile, over a limit, or not the expected one, or when the sink fails.
pub fn read_tree(
    blob: impl Read + Send,
    expected: &Expected,
    options: &ReadOptions,
    sink: &dyn ContentSink,
) -> Result<LayerTree, LayerError> {
    read_layer(blob, expected, options, &mut TreeFace { sink })
}

/// The side of a delta that is being made while its layer is read.
pub(crate) trait Face {
    /// Does what a placement asks for; `entry` is what is to be made.
    fn place(&mut self, placement: &Placement, entry: Option<&Entry>) -> Result<(), LayerError>;

    /// Does what a placement asks for, for a regular file: takes its bytes.
    fn file<R: Read>(
        &mut self,
        placement: &Placement,
        meta: &Meta,
        data: &mut ArchiveData<'_, R>,
    ) -> Result<Digest, LayerError>;

    /// Everything was placed.
    fn finish(&mut self, stage: &Stage) -> Result<(), LayerError>;
}

struct TreeFace<'a> {
    sink: &'a dyn ContentSink,
}

impl Face for TreeFace<'_> {
    fn place(&mut self, _placement: &Placement, _entry: Option<&Entry>) -> Result<(), LayerError> {
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        placement: &Placement,
        _meta: &Meta,
        data: &mut ArchiveData<'_, R>,
    ) -> Result<Digest, LayerError> {
        let size = data.left();
        let failed = |source: io::Error| match source.downcast::<ArchiveError>() {
            Ok(error) => LayerError::Archive(error),
            Err(source) => LayerError::Store { path: placement.path.clone(), source },
        };
        let digest = self.sink.put(data, size).map_err(failed)?;
        match data.left() {
            0 => Ok(digest),
            _ => Err(failed(io::Error::other("the sink did not take all of it"))),
        }
    }

    fn finish(&mut self, _stage: &Stage) -> Result<(), LayerError> {
        Ok(())
    }
}

/// Reads a layer and makes one face of it, the tree always.
pub(crate) fn read_layer<F: Face>(
    blob: impl Read + Send,
    expected: &Expected,
    options: &ReadOptions,
    face: &mut F,
) -> Result<LayerTree, LayerError> {
    let unreadable = |source| LayerError::Archive(ArchiveError::Read { offset: 0, source });
    let reader = BlobReader::new(blob).map_err(unreadable)?;
    let (result, reader) = read_ahead(reader, |tar| {
        let (stage, without_marks) = read_entries(&mut Archive::new(tar, options.limits), options, face)?;
        Ok::<_, LayerError>((stage.finish(), without_marks))
    });
    let reader = reader.map_err(unreadable)?;
    let (finished, without_marks) = match (result, expected.digest) {
        (Ok(result), _) => result,
        // Garbage in, whatever error out: that the blob is not the right one is what has to be known.
        (Err(LayerError::Archive(error)), Some(expected)) if !is_limit(&error) => {
            return Err(match reader.raw_digest() {
                Ok(actual) if actual != expected => LayerError::Digest { expected, actual },
                _ => LayerError::Archive(error),
            });
        }
        (Err(error), _) => return Err(error),
    };
    let blob = reader.finish().map_err(unreadable)?;
    if let Some(expected) = expected.digest.filter(|expected| *expected != blob.digest) {
        return Err(LayerError::Digest { expected, actual: blob.digest });
    }
    if let Some(expected) = expected.diff_id.filter(|expected| *expected != blob.diff_id) {
        return Err(LayerError::DiffId { expected, actual: blob.diff_id });
    }
    Ok(LayerTree {
        tree: finished.tree,
        root: finished.root,
        opaque_root: finished.opaque_root,
        implied: finished.implied,
        without_marks,
        blob,
    })
}

/// Makes one face of what an archive holds. Gives what was placed, and the entries that had marks of overlay's.
pub(crate) fn read_entries<R: Read, F: Face>(
    archive: &mut Archive<R>,
    options: &ReadOptions,
    face: &mut F,
) -> Result<(Stage, Vec<EntryPath>), LayerError> {
    let mut layer =
        LayerReader { archive, options: *options, stage: Stage::new(), without_marks: Vec::new() };
    layer.run(face)?;
    face.finish(&layer.stage)?;
    Ok((layer.stage, layer.without_marks))
}

const fn is_limit(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::TooManyBytes { .. } | ArchiveError::TooManyEntries { .. })
}

struct LayerReader<'a, R> {
    archive: &'a mut Archive<R>,
    options: ReadOptions,
    stage: Stage,
    without_marks: Vec<EntryPath>,
}

impl<R: Read> LayerReader<'_, R> {
    fn run<F: Face>(&mut self, face: &mut F) -> Result<(), LayerError> {
        while let Some(mut entry) = self.archive.next_entry()? {
            let path = EntryPath::parse(&entry.path)
                .map_err(|source| LayerError::Path { offset: entry.offset, source })?;
            let limit = self.options.limits.entries;
            if self.stage.len() > limit {
                return Err(ArchiveError::TooManyEntries { limit }.into());
            }
            if !entry.drop_xattrs(overlay::is_mark).is_empty() {
                self.without_marks.push(path.clone());
            }
            match self.meaning(&path, &entry.kind)? {
                Meaning::Plain => self.plain(&path, entry, face)?,
                Meaning::Whiteout(name) => {
                    let gone = path.parent().unwrap_or_default().join(&name);
                    let placement = self.stage.place(&gone, Placed::Whiteout).map_err(|e| at(&path, e))?;
                    face.place(&placement, Some(&Entry::whiteout()))?;
                }
                Meaning::Opaque => {
                    let directory = path.parent().unwrap_or_default();
                    let placement = self.stage.opaque(&directory).map_err(|e| at(&path, e))?;
                    face.place(&placement, None)?;
                }
            }
        }
        Ok(())
    }

    /// Looks at every name of a path: a directory `.wh.x` means nothing.
    fn meaning(&self, path: &EntryPath, kind: &ArchiveKind) -> Result<Meaning, LayerError> {
        let meaningless = || LayerError::WhiteoutName { path: path.clone() };
        let mut names: Vec<Name> = path.components().collect();
        let Some(last) = names.pop() else { return Ok(Meaning::Plain) };
        if names.iter().any(|name| name.as_bytes().starts_with(whiteout::PREFIX)) {
            return Err(meaningless());
        }
        let meaning = whiteout::meaning(&last).map_err(|_| meaningless())?;
        if meaning == Meaning::Plain {
            return Ok(meaning);
        }
        match (self.options.whiteouts, kind) {
            (Whiteouts::Refuse, _) => Err(LayerError::Whiteout { path: path.clone() }),
            // aufs made them hard links.
            (Whiteouts::Honour, ArchiveKind::File { .. } | ArchiveKind::HardLink { .. }) => Ok(meaning),
            _ => Err(meaningless()),
        }
    }

    fn plain<F: Face>(
        &mut self,
        path: &EntryPath,
        entry: ArchiveEntry,
        face: &mut F,
    ) -> Result<(), LayerError> {
        let meta = entry.meta;
        let node = match entry.kind {
            ArchiveKind::File { size } => {
                let placed = Placed::File { meta: meta.clone(), size };
                let placement = self.stage.place(path, placed).map_err(|e| at(path, e))?;
                let content = face.file(&placement, &meta, &mut self.archive.data())?;
                self.stage.set_content(content);
                return Ok(());
            }
            ArchiveKind::Directory => {
                let made = Entry::directory(meta.clone(), Subtree::empty());
                let placement = self.stage.place(path, Placed::Directory(meta)).map_err(|e| at(path, e))?;
                return face.place(&placement, Some(&made));
            }
            ArchiveKind::HardLink { target } => {
                let target = EntryPath::parse(&target)
                    .map_err(|source| LayerError::Path { offset: entry.offset, source })?;
                let placement = self.stage.link(path, &target).map_err(|e| at(path, e))?;
                let copied =
                    if let Action::Copy(entry) = &placement.action { Some(entry.clone()) } else { None };
                return face.place(&placement, copied.as_ref());
            }
            ArchiveKind::Symlink { target } => {
                check_target(&target).map_err(|e| at(path, e))?;
                Node::Symlink { target: target.into_boxed_slice() }
            }
            ArchiveKind::Fifo => Node::Fifo,
            ArchiveKind::CharDevice { major: 0, minor: 0 } => {
                return Err(LayerError::OverlayMark { path: path.clone() });
            }
            ArchiveKind::CharDevice { major, minor } => Node::CharDevice { major, minor },
            ArchiveKind::BlockDevice { major, minor } => Node::BlockDevice { major, minor },
        };
        // Linux has no modes on links; trees always say 0777.
        let mode = if matches!(node, Node::Symlink { .. }) { 0o777 } else { meta.mode };
        let made = Entry { meta: Meta { mode, ..meta }, node };
        let placement = self.stage.place(path, Placed::Other(made.clone())).map_err(|e| at(path, e))?;
        face.place(&placement, Some(&made))
    }
}

fn at(path: &EntryPath, source: PlaceError) -> LayerError {
    LayerError::Place { path: path.clone(), source }
}
