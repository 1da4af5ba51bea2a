use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};
use wbuild_oci::{Descriptor, DiffId, Digest};
use wbuild_report::Hint;
use wbuild_tree::{
    Entry, EntryPath, LinkId, Meta, Node, Subtree, Time, TreeLoadError, TreeSource, Visit, walk,
};

use crate::header::{BLOCK, Header, Unsayable, kind, padding};
use crate::member::{Codec, MemberCache, MemberWriter, Written};
use crate::overlay;
use crate::recipe::{Compression, Recipe, Times};
use crate::stargz::{self, Chunk, Toc};
use crate::whiteout;

/// Where the bytes of a tree's files come from.
pub trait Contents {
    /// Opens the content with this digest. It need not be verified: the layer writer hashes what it reads and refuses
    /// anything else.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self, digest: &Digest, size: u64) -> io::Result<Box<dyn Read + '_>>;
}

/// A layer that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Bytes of the tar.
    pub uncompressed_size: u64,
    /// OCI media type of the blob.
    pub media_type: &'static str,
    /// What its descriptor says besides; readers of eStargz need it.
    pub annotations: BTreeMap<String, String>,
}

impl Layer {
    pub(crate) fn new(written: &Written, compression: Compression) -> Self {
        Self {
            diff_id: written.diff_id,
            digest: written.digest,
            size: written.size,
            uncompressed_size: written.uncompressed_size,
            media_type: compression.media_type(),
            annotations: BTreeMap::new(),
        }
    }

    /// The blob's descriptor for a manifest.
    pub fn descriptor(&self) -> Descriptor {
        let annotations = self.annotations.clone();
        Descriptor { annotations, ..Descriptor::new(self.media_type, self.digest, self.size) }
    }
}

/// Why a delta could not be written as a layer.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The name would be read as a whiteout.
    #[error("`{path}` cannot be in a layer: names that start with `.wh.` mean removed files there")]
    WhiteoutName {
        /// Where.
        path: EntryPath,
    },
    /// A name or path that no Linux system could unpack.
    #[error("`{path}` cannot be in a layer: its {what} is longer than {limit} bytes")]
    TooLong {
        /// Where.
        path: EntryPath,
        /// Which part.
        what: &'static str,
        /// The kernel's limit.
        limit: usize,
    },
    /// A name that the format of the layer needs for itself.
    #[error("`{path}` cannot be in an eStargz layer, which has a file of that name itself")]
    Reserved {
        /// Where.
        path: EntryPath,
    },
    /// An attribute that tar has no way to say.
    #[error("`{path}` has an extended attribute whose name cannot be written in a tar")]
    Xattr {
        /// Where.
        path: EntryPath,
    },
    /// Overlay's own marks (0:0 devices, `*.overlay.*` attributes) would act on whoever unpacks the layer.
    #[error("`{path}` cannot be in a layer: {what} is a control mark of overlay file systems")]
    OverlayMark {
        /// Where.
        path: EntryPath,
        /// Which mark.
        what: &'static str,
    },
    /// A device number out of range.
    #[error("`{path}` has the device number {major}:{minor}, which cannot be written in a tar")]
    Device {
        /// Where.
        path: EntryPath,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// The content cannot be read.
    #[error("cannot read the content {digest} of `{path}`")]
    Content {
        /// Of what.
        path: EntryPath,
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The content is not what its digest says.
    #[error(
        "the stored content of `{path}` is damaged: expected {digest} with {size} bytes, found {actual} with {actual_size}"
    )]
    Damaged {
        /// Of what.
        path: EntryPath,
        /// Expected digest.
        digest: Digest,
        /// Expected size.
        size: u64,
        /// Digest of what was read; of its beginning, when it is too long.
        actual: Digest,
        /// How much was read before giving up.
        actual_size: u64,
    },
    /// No such level.
    #[error("{compression:?} is out of range: gzip has levels 0 to 12, zstd 1 to 22")]
    Level {
        /// What was asked for.
        compression: Compression,
    },
    /// The delta could not be loaded.
    #[error(transparent)]
    Load(#[from] TreeLoadError),
    /// The blob that is compressed in another way.
    #[error("cannot read the layer")]
    Blob(#[source] io::Error),
    /// The blob cannot be written or compressed.
    #[error("cannot write the layer")]
    Output(#[source] io::Error),
}

impl Hint for WriteError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::WhiteoutName { path } => {
                vec![format!("rename `{path}`, or remove it in the step that makes it")]
            }
            Self::OverlayMark { path, .. } => vec![format!("remove `{path}` in the step that makes it")],
            _ => Vec::new(),
        }
    }
}

/// Writes deltas as layers.
///
/// The bytes are a function of the delta and the recipe:
///
/// - Entries come in tree order: sorted by bytes, a directory directly before its contents. Of the root itself
///   nothing is written.
/// - `.wh.NAME` stands where NAME would, `.wh..wh..opq` first in its directory; both are empty files of mode 0.
/// - The first name of a group of hard links is a file, the others are links to it.
/// - Headers are ustar, with a PAX header only for what ustar cannot say: paths and targets that are long or not
///   ASCII, sizes from 8 GiB, ids over 2097151, times before 1970 or below a second, extended attributes.
/// - Two zero blocks end it; there is no further padding.
/// - An eStargz layer begins with a landmark and ends with a table of contents.
pub struct LayerWriter<'a> {
    trees: &'a dyn TreeSource,
    contents: &'a dyn Contents,
    recipe: Recipe,
    cache: Option<&'a dyn MemberCache>,
}

impl fmt::Debug for LayerWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerWriter").field("recipe", &self.recipe).finish_non_exhaustive()
    }
}

/// Writes `delta` as a layer to `out`, in one pass, with bounded memory. Compression runs on the current rayon pool.
///
/// # Errors
/// When the delta or a content cannot be read, is damaged, or cannot be said in a layer; or when `out` fails. What was
/// written to `out` by then is garbage.
pub fn write_layer(
    trees: &dyn TreeSource,
    contents: &dyn Contents,
    delta: &Subtree,
    recipe: &Recipe,
    out: impl Write,
) -> Result<Layer, WriteError> {
    LayerWriter::new(trees, contents, *recipe).write(delta, out)
}

impl<'a> LayerWriter<'a> {
    /// A writer without a member cache.
    pub fn new(trees: &'a dyn TreeSource, contents: &'a dyn Contents, recipe: Recipe) -> Self {
        Self { trees, contents, recipe, cache: None }
    }

    /// Takes compressed members from `cache` and puts new ones there. Changes no bytes.
    #[must_use]
    pub fn with_cache(mut self, cache: &'a dyn MemberCache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// See [`write_layer`].
    ///
    /// # Errors
    /// As there.
    pub fn write(&self, delta: &Subtree, out: impl Write) -> Result<Layer, WriteError> {
        let compression = self.recipe.compression;
        let codec = Codec::new(&self.recipe).ok_or(WriteError::Level { compression })?;
        let written = rayon::in_place_scope(|scope| {
            let members = MemberWriter::new(scope, codec, self.cache, out);
            let mut tar = TarWriter {
                members,
                contents: self.contents,
                times: self.recipe.times,
                links: BTreeMap::new(),
                header: Vec::new(),
                toc: matches!(compression, Compression::Estargz { .. }).then(Toc::default),
            };
            tar.landmark()?;
            walk(self.trees, delta, &mut |path, entry| tar.entry(path, entry).map(|()| Visit::Into))?;
            tar.finish()
        });
        let (written, toc) = written?;
        let size = written.uncompressed_size;
        let annotations = toc.map(|toc| stargz::annotations(&toc, size)).unwrap_or_default();
        Ok(Layer { annotations, ..Layer::new(&written, compression) })
    }
}

/// The kernel's limits for names and paths.
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4095;

struct TarWriter<'a, 'b, 'scope, W> {
    members: MemberWriter<'b, 'scope, W>,
    contents: &'a dyn Contents,
    times: Times,
    /// First names of the groups seen so far. Groups are told apart by content too, and metadata is compared: grafted
    /// subtrees can bring equal numbers along.
    links: BTreeMap<(LinkId, Digest), (EntryPath, Meta)>,
    header: Vec<u8>,
    /// For eStargz.
    toc: Option<Toc>,
}

impl<W: Write> TarWriter<'_, '_, '_, W> {
    /// Says at the beginning of an eStargz layer that nothing of it is to be fetched ahead.
    fn landmark(&mut self) -> Result<(), WriteError> {
        if self.toc.is_none() {
            return Ok(());
        }
        let (bytes, size) = (&stargz::LANDMARK, stargz::LANDMARK.len() as u64);
        let meta = Meta { mtime: Time::NORMAL, ..Meta::new(0o644) };
        let header = Header { size, ..self.plain(stargz::LANDMARK_NAME.as_bytes(), &meta, kind::FILE) };
        let root = EntryPath::root();
        self.encode(&root, &header)?;
        self.members.begin_contents().map_err(WriteError::Output)?;
        let chunk = Chunk { member: self.members.member(), digest: Digest::of(bytes), size };
        self.note(&header, Some(chunk.digest), &[chunk]);
        for part in [bytes, &[0; BLOCK][..padding(size)]] {
            self.members.put(part).map_err(WriteError::Output)?;
        }
        self.members.end(&root).map_err(WriteError::Output)
    }

    /// Ends the tar, and writes what stands behind it. Gives the digest of the table of contents, if there is one.
    fn finish(mut self) -> Result<(Written, Option<Digest>), WriteError> {
        let mut digest = None;
        let mut footer = None;
        if let Some(toc) = self.toc.take() {
            let (starts, offset) = self.members.settle().map_err(WriteError::Output)?;
            let json = toc.finish(starts).map_err(|error| WriteError::Output(error.into()))?;
            digest = Some(Digest::of(&json));
            footer = Some(stargz::footer(offset));
            let (xattrs, size) = (wbuild_tree::Xattrs::none(), json.len() as u64);
            let meta = Meta { mtime: Time::NORMAL, xattrs, ..Meta::new(0o444) };
            let header = Header { size, ..self.plain(stargz::TOC_NAME.as_bytes(), &meta, kind::FILE) };
            self.encode(&EntryPath::root(), &header)?;
            for part in [&json, &[0; BLOCK][..padding(size)]] {
                self.members.put(part).map_err(WriteError::Output)?;
            }
        }
        self.members.put(&[0; 2 * BLOCK]).map_err(WriteError::Output)?;
        if let Some(footer) = footer {
            self.members.put_raw(&footer).map_err(WriteError::Output)?;
        }
        Ok((self.members.finish().map_err(WriteError::Output)?, digest))
    }

    /// Notes an entry for lazy readers.
    fn note(&mut self, header: &Header<'_>, content: Option<Digest>, chunks: &[Chunk]) {
        if let Some(toc) = &mut self.toc {
            toc.add(header, content, chunks);
        }
    }

    fn entry(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), WriteError> {
        check(path, entry)?;
        let reserved = [stargz::TOC_NAME, stargz::LANDMARK_NAME];
        if self.toc.is_some() && reserved.iter().any(|name| name.as_bytes() == path.as_bytes()) {
            return Err(WriteError::Reserved { path: path.clone() });
        }
        let mut name = path.as_bytes().to_vec();
        let kind = match &entry.node {
            Node::Directory { opaque, .. } => {
                name.push(b'/');
                self.header(path, &name, &entry.meta, kind::DIRECTORY)?;
                if *opaque {
                    name.extend_from_slice(whiteout::OPAQUE);
                    return self.mark(path, &name);
                }
                return Ok(());
            }
            Node::Whiteout => {
                let base = name.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
                name.splice(base..base, whiteout::PREFIX.iter().copied());
                return self.mark(path, &name);
            }
            Node::File { content, size, link } => return self.file(path, &entry.meta, content, *size, *link),
            Node::Symlink { .. } => kind::SYMLINK,
            Node::Fifo => kind::FIFO,
            Node::CharDevice { .. } => kind::CHAR_DEVICE,
            Node::BlockDevice { .. } => kind::BLOCK_DEVICE,
        };
        let (link, device) = match &entry.node {
            Node::Symlink { target } => (&**target, (0, 0)),
            Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
                (&[][..], (*major, *minor))
            }
            _ => (&[][..], (0, 0)),
        };
        self.put_header(path, &Header { link, device, ..self.plain(&name, &entry.meta, kind) })?;
        self.members.end(path).map_err(WriteError::Output)
    }

    fn plain<'h>(&self, name: &'h [u8], meta: &'h Meta, kind: u8) -> Header<'h> {
        Header {
            path: name,
            link: &[],
            kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            size: 0,
            mtime: self.times.of(meta.mtime),
            device: (0, 0),
            xattrs: &meta.xattrs,
        }
    }

    fn header(&mut self, path: &EntryPath, name: &[u8], meta: &Meta, kind: u8) -> Result<(), WriteError> {
        self.put_header(path, &self.plain(name, meta, kind))?;
        self.members.end(path).map_err(WriteError::Output)
    }

    /// An empty file that means something.
    fn mark(&mut self, path: &EntryPath, name: &[u8]) -> Result<(), WriteError> {
        let meta = Meta { mtime: Time::NORMAL, ..Meta::new(0) };
        self.header(path, name, &meta, kind::FILE)
    }

    fn file(
        &mut self,
        path: &EntryPath,
        meta: &Meta,
        content: &Digest,
        size: u64,
        link: Option<LinkId>,
    ) -> Result<(), WriteError> {
        if let Some(link) = link {
            match self.links.get(&(link, *content)) {
                Some((first, first_meta)) if first_meta == meta => {
                    let first = first.clone();
                    let none = wbuild_tree::Xattrs::none();
                    let header = Header {
                        link: first.as_bytes(),
                        xattrs: &none,
                        ..self.plain(path.as_bytes(), meta, kind::HARD_LINK)
                    };
                    self.put_header(path, &header)?;
                    return self.members.end(path).map_err(WriteError::Output);
                }
                Some(_) => {}
                None => {
                    self.links.insert((link, *content), (path.clone(), meta.clone()));
                }
            }
        }
        let header = Header { size, ..self.plain(path.as_bytes(), meta, kind::FILE) };
        self.members.begin(size).map_err(WriteError::Output)?;
        self.encode(path, &header)?;
        let chunks = self.copy(path, content, size)?;
        self.note(&header, Some(*content), &chunks);
        self.members.put(&[0; BLOCK][..padding(size)]).map_err(WriteError::Output)?;
        self.members.end(path).map_err(WriteError::Output)
    }

    /// Copies a file's bytes and checks that they are the right ones: every real read does. Gives the chunks of eStargz.
    fn copy(&mut self, path: &EntryPath, content: &Digest, size: u64) -> Result<Vec<Chunk>, WriteError> {
        let mut chunks = Chunks::new(self.toc.is_some(), *content, size);
        let unreadable = |source| WriteError::Content { path: path.clone(), digest: *content, source };
        let mut hash = Sha256::new();
        let mut left = size;
        let mut beyond = 0;
        if size > 0 {
            self.members.begin_contents().map_err(WriteError::Output)?;
            let mut reader = self.contents.open(content, size).map_err(unreadable)?;
            while left > 0 {
                let read = self.members.fill(&mut *reader, left, &mut hash).map_err(unreadable)?;
                if read == 0 {
                    break;
                }
                left -= read as u64;
                chunks.add(self.members.member(), self.members.last(read));
                self.members.cut().map_err(WriteError::Output)?;
            }
            if left == 0 {
                beyond = io::copy(&mut reader.take(1), &mut io::sink()).map_err(unreadable)?;
            }
        }
        let actual = Digest::from_bytes(hash.finalize().into());
        if left > 0 || beyond > 0 || actual != *content {
            let actual_size = size - left + beyond;
            return Err(WriteError::Damaged {
                path: path.clone(),
                digest: *content,
                size,
                actual,
                actual_size,
            });
        }
        Ok(chunks.finish())
    }

    /// The header of an entry without contents.
    fn put_header(&mut self, path: &EntryPath, header: &Header<'_>) -> Result<(), WriteError> {
        let empty = (header.kind == kind::FILE).then(|| Digest::of(b""));
        self.note(header, empty, &[]);
        self.encode(path, header)
    }

    fn encode(&mut self, path: &EntryPath, header: &Header<'_>) -> Result<(), WriteError> {
        self.header.clear();
        header.encode(&mut self.header).map_err(|unsayable| match unsayable {
            Unsayable::Xattr => WriteError::Xattr { path: path.clone() },
            Unsayable::Device => {
                let (major, minor) = header.device;
                WriteError::Device { path: path.clone(), major, minor }
            }
        })?;
        self.members.put(&self.header).map_err(WriteError::Output)
    }
}

/// The pieces of a file for the readers of eStargz, as they are copied.
struct Chunks {
    wanted: bool,
    content: Digest,
    /// Of the chunk that is being copied; without, the file is one chunk, whose digest is known.
    hash: Option<Sha256>,
    filled: u64,
    done: Vec<Chunk>,
}

impl Chunks {
    fn new(wanted: bool, content: Digest, size: u64) -> Self {
        let hash = (wanted && size > stargz::CHUNK).then(Sha256::new);
        Self { wanted, content, hash, filled: 0, done: Vec::new() }
    }

    /// Takes bytes that lie in one member: those of another member are another chunk.
    fn add(&mut self, member: usize, bytes: &[u8]) {
        if !self.wanted {
            return;
        }
        if self.done.last().is_none_or(|chunk| chunk.member != member) {
            self.close();
            self.done.push(Chunk { member, digest: self.content, size: 0 });
        }
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.filled += bytes.len() as u64;
    }

    fn close(&mut self) {
        let Some(chunk) = self.done.last_mut() else { return };
        chunk.size = std::mem::take(&mut self.filled);
        if let Some(hash) = &mut self.hash {
            chunk.digest = Digest::from_bytes(std::mem::take(hash).finalize().into());
        }
    }

    fn finish(mut self) -> Vec<Chunk> {
        self.close();
        self.done
    }
}

/// What can be in a tree but must not be in a layer.
fn check(path: &EntryPath, entry: &Entry) -> Result<(), WriteError> {
    let bytes = path.as_bytes();
    let name = bytes.rsplit(|b| *b == b'/').next().unwrap_or_default();
    if name.starts_with(whiteout::PREFIX) {
        return Err(WriteError::WhiteoutName { path: path.clone() });
    }
    let target = match &entry.node {
        Node::Symlink { target } => target.len(),
        _ => 0,
    };
    for (what, length, limit) in
        [("name", name.len(), NAME_MAX), ("path", bytes.len(), PATH_MAX), ("link target", target, PATH_MAX)]
    {
        if length > limit {
            return Err(WriteError::TooLong { path: path.clone(), what, limit });
        }
    }
    let mark = |what| WriteError::OverlayMark { path: path.clone(), what };
    if matches!(entry.node, Node::CharDevice { major: 0, minor: 0 }) {
        return Err(mark("the device 0:0"));
    }
    if entry.meta.xattrs.iter().any(|(name, _)| overlay::is_mark(name)) {
        return Err(mark("an `overlay` attribute"));
    }
    Ok(())
}
