//! What a person can give as a context, and how it becomes a folder: local folders as they are; archives from standard
//! input or by HTTP unpacked; repositories checked out. The folders lie in this process's part of the state directory and
//! are gone with it.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use wbuild_dockerfile::{MAX_DOCKERFILE_BYTES, Remote};
use wbuild_graph::GitCheckout;
use wbuild_layer::{LayerError, Limits, Owners, read_archive, unpack_archive};
use wbuild_remote::{GitRemote, HttpUrl};
use wbuild_report::{EventSink, Hint};
use wbuild_solver::Cancellation;
use wbuild_tree::EntryPath;

use crate::error::EngineError;
use crate::remote::{Following, RemoteError};
use crate::step::io_error;
use crate::worker::Engine;

/// What a Dockerfile is called that came alone, by a URL (BuildKit's name for it).
pub const REMOTE_DOCKERFILE: &str = "context";

/// Where a context is.
#[derive(Clone, Debug)]
pub enum ContextPlace {
    /// A folder of this machine.
    Folder(PathBuf),
    /// An archive or a Dockerfile on standard input.
    Stdin,
    /// An archive or a Dockerfile.
    Http(HttpUrl),
    /// A git repository.
    Git(Box<GitCheckout>),
}

/// Why a context cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ContextPlaceError {
    /// A git URL whose options make no sense.
    #[error("`{text}` is not the address of a git repository")]
    Git {
        /// As given, without secrets.
        text: String,
        /// Why.
        #[source]
        source: wbuild_dockerfile::RemoteError,
    },
    /// A URL that is none.
    #[error(transparent)]
    Url(#[from] wbuild_remote::UrlError),
    /// The archive is damaged or hostile.
    #[error("cannot unpack the context from {from}")]
    Archive {
        /// From where.
        from: String,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// Something that is neither an archive nor short enough to be a Dockerfile.
    #[error("{from} is no archive, and larger than any Dockerfile ({MAX_DOCKERFILE_BYTES} bytes)")]
    NeitherNor {
        /// From where.
        from: String,
    },
    /// It cannot be read.
    #[error("cannot read the context from {from}")]
    Read {
        /// From where.
        from: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Hint for ContextPlaceError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::NeitherNor { .. } => {
                vec!["give a tar archive, plain or compressed with gzip, bzip2, xz or zstd".to_owned()]
            }
            Self::Archive { source, .. } => source.hints(),
            _ => Vec::new(),
        }
    }
}

/// A context that can be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedContext {
    /// The folder.
    pub root: PathBuf,
    /// Whether an ignore file in it counts: only in folders of this machine (C04).
    pub apply_ignore_file: bool,
    /// The Dockerfile, where one came instead of an archive. One that came by a URL lies in the folder too, as
    /// [`REMOTE_DOCKERFILE`].
    pub dockerfile_text: Option<Vec<u8>>,
    /// What `SOURCE_DATE_EPOCH=context` means, in seconds since the epoch: the time of the commit, what the server says of
    /// the file, or the newest time in the archive. Nothing for folders.
    pub date: Option<i64>,
    /// Devices of an archive, which are not in the folder.
    pub without_devices: Vec<EntryPath>,
}

/// As a person knows it, without secrets.
impl fmt::Display for ContextPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "the folder `{}`", folder.display()),
            Self::Stdin => f.write_str("the archive on standard input"),
            Self::Http(url) => write!(f, "`{url}`"),
            Self::Git(checkout) => match GitRemote::parse(&checkout.remote) {
                Ok(remote) => write!(f, "the repository `{remote}`"),
                Err(_) => f.write_str("the repository"),
            },
        }
    }
}

impl ContextPlace {
    /// Reads what a person gave: `-`, the path of a folder, a URL of `http` or `https`, or the address of a git repository
    /// with its fragment and query. A folder that is there is one, whatever it is called.
    ///
    /// # Errors
    /// When a URL or its options make no sense.
    pub fn parse(text: &str) -> Result<Self, ContextPlaceError> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        let folder = || Self::Folder(PathBuf::from(text));
        if Path::new(text).is_dir() {
            return Ok(folder());
        }
        // As docker has it, for contexts only.
        let with_scheme = text.starts_with("github.com/").then(|| {
            let end = text.find(['?', '#']).unwrap_or(text.len());
            let (repository, rest) = text.split_at(end);
            format!("https://{}.git{rest}", repository.trim_end_matches('/').trim_end_matches(".git"))
        });
        let shown = || {
            GitRemote::parse(text).map_or_else(
                |_| text.split('?').next().unwrap_or_default().to_owned(),
                |remote| remote.to_string(),
            )
        };
        let remote = Remote::of(with_scheme.as_deref().unwrap_or(text));
        match remote.map_err(|source| ContextPlaceError::Git { text: shown(), source })? {
            Some(Remote::Http(http)) => Ok(Self::Http(HttpUrl::parse(&http.url)?)),
            Some(Remote::Git(git)) => {
                let checksum = git.checksum;
                // The commit itself, without asking what the reference is.
                let reference = match &checksum {
                    Some(commit) if git.fetch_by_commit => commit.clone(),
                    _ => git.reference,
                };
                Ok(Self::Git(Box::new(GitCheckout {
                    remote: git.remote,
                    reference,
                    subdirectory: git.subdirectory,
                    checksum,
                    keep_git_dir: git.keep_git_dir.unwrap_or(false),
                    submodules: git.submodules.unwrap_or(true),
                    commit_times: git.commit_times,
                })))
            }
            None => Ok(folder()),
        }
    }
}

impl Engine {
    /// Makes a context a folder that can be listed. Standard input is read only for [`ContextPlace::Stdin`].
    ///
    /// # Errors
    /// When it cannot be fetched or unpacked. Folders are looked at when they are listed.
    pub fn open_context(
        &self,
        place: &ContextPlace,
        stdin: &mut (dyn Read + Send),
        events: &EventSink,
        cancellation: &Cancellation,
    ) -> Result<OpenedContext, EngineError> {
        let following = Following { events: events.clone(), cancellation: cancellation.clone() };
        match place {
            ContextPlace::Folder(root) => Ok(OpenedContext {
                root: root.clone(),
                apply_ignore_file: true,
                dockerfile_text: None,
                date: None,
                without_devices: Vec::new(),
            }),
            ContextPlace::Stdin => self.unpack_context(stdin, "standard input"),
            ContextPlace::Http(url) => {
                let found = self.http_file(url, None, &following)?;
                let blob = self.store.open_blob(&found.digest)?;
                let mut opened = self.unpack_context(&mut blob.reader(), &format!("`{url}`"))?;
                opened.date = found.modified().or(opened.date);
                if let Some(text) = &opened.dockerfile_text {
                    let path = opened.root.join(REMOTE_DOCKERFILE);
                    let file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path);
                    file.and_then(|mut file| io::Write::write_all(&mut file, text))
                        .map_err(io_error("write", &path))?;
                }
                Ok(opened)
            }
            ContextPlace::Git(checkout) => {
                let remote = GitRemote::parse(&checkout.remote).map_err(RemoteError::from)?;
                let resolved = self.resolve(checkout, &remote, &following)?;
                let checked_out = self.check_out(checkout, &remote, &resolved, &following)?;
                Ok(OpenedContext {
                    root: checked_out.root,
                    apply_ignore_file: false,
                    dockerfile_text: None,
                    date: Some(checked_out.time),
                    without_devices: Vec::new(),
                })
            }
        }
    }

    /// Unpacks what is an archive; what is none is a Dockerfile, beside an empty folder.
    fn unpack_context(
        &self,
        source: &mut (dyn Read + Send),
        from: &str,
    ) -> Result<OpenedContext, EngineError> {
        let root = self.store.workspace()?.fresh("context");
        fs::create_dir(&root).map_err(io_error("create", &root))?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).map_err(io_error("create", &root))?;
        let folder = fs::File::open(&root).map_err(io_error("open", &root))?;
        let mut source = Remembering { inner: source, kept: Vec::new() };
        let unpacked = read_archive(&mut source, Limits::default(), |archive| {
            unpack_archive(archive, folder.as_fd(), Owners::Skip)
        });
        let read = |source| ContextPlaceError::Read { from: from.to_owned(), source };
        let mut opened = OpenedContext {
            root,
            apply_ignore_file: false,
            dockerfile_text: None,
            date: None,
            without_devices: Vec::new(),
        };
        match unpacked.map_err(read)? {
            Some(unpacked) => {
                let unpacked = unpacked
                    .map_err(|source| ContextPlaceError::Archive { from: from.to_owned(), source })?;
                opened.date = unpacked.newest.map(|newest| newest.seconds);
                opened.without_devices = unpacked.without_devices;
            }
            None => {
                let mut text = source.kept;
                let left = (MAX_DOCKERFILE_BYTES + 1).saturating_sub(text.len()) as u64;
                source.inner.take(left).read_to_end(&mut text).map_err(read)?;
                if text.len() > MAX_DOCKERFILE_BYTES {
                    return Err(ContextPlaceError::NeitherNor { from: from.to_owned() }.into());
                }
                opened.dockerfile_text = Some(text);
            }
        }
        Ok(opened)
    }
}

/// Keeps what was read at first: it has to be read again when it was no archive.
struct Remembering<'a> {
    inner: &'a mut (dyn Read + Send),
    kept: Vec<u8>,
}

impl Read for Remembering<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        // What is no archive is found out long before.
        if self.kept.len() <= MAX_DOCKERFILE_BYTES {
            self.kept.extend_from_slice(&buffer[..read]);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use wbuild_testkit::{HttpServer, Reply};

    use super::*;
    use crate::testing::{Repository, engine};

    #[test]
    fn what_a_person_can_give() {
        let git = |text: &str| match ContextPlace::parse(text).unwrap() {
            ContextPlace::Git(checkout) => *checkout,
            other => panic!("{text}: {other:?}"),
        };
        let full = git("https://example.org/a.git?submodules=false#v1:sub/dir");
        assert_eq!(full.remote, "https://example.org/a.git");
        assert_eq!(
            (full.reference.as_str(), full.subdirectory.as_str(), full.submodules),
            ("v1", "sub/dir", false)
        );
        assert_eq!(git("git@example.org:a/b.git").remote, "git@example.org:a/b.git");
        assert_eq!(git("github.com/a/b#main").remote, "https://github.com/a/b.git");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let pinned = git(&format!("https://example.org/a.git?commit={commit}&fetch-by-commit#main"));
        assert_eq!((pinned.reference.as_str(), pinned.checksum.as_deref()), (commit, Some(commit)));
        assert!(matches!(ContextPlace::parse("-"), Ok(ContextPlace::Stdin)));
        assert!(matches!(ContextPlace::parse("https://example.org/a.tar.gz"), Ok(ContextPlace::Http(_))));
        for folder in [".", "/", "nowhere", "./a@b:c", "../x.git"] {
            assert!(matches!(ContextPlace::parse(folder), Ok(ContextPlace::Folder(_))), "{folder}");
        }
        let error = ContextPlace::parse("https://u:secret@example.org/a.git?foo=1").unwrap_err();
        assert_eq!(error.to_string(), "`https://example.org/a.git?…` is not the address of a git repository");
    }

    fn open(engine: &Engine, place: &ContextPlace, mut stdin: &[u8]) -> Result<OpenedContext, EngineError> {
        engine.open_context(place, &mut stdin, &EventSink::silent(), &Cancellation::new())
    }

    fn http(url: &str) -> ContextPlace {
        ContextPlace::Http(HttpUrl::parse(url).unwrap())
    }

    /// A tar of regular files, links (`-> target`) and directories, all with the time 1000.
    fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_mtime(1000);
            header.set_size(0);
            // As bytes: the crate refuses hostile names.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            let mut data: &[u8] = b"";
            if let Some(target) = text.strip_prefix("-> ") {
                header.set_entry_type(tar::EntryType::Symlink);
                header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            } else if path.ends_with('/') {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o750);
            } else {
                header.set_size(text.len() as u64);
                data = text.as_bytes();
            }
            header.set_cksum();
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn archives_become_folders() {
        let home = tempfile::tempdir().unwrap();
        let engine = engine(home.path(), &[]);
        let tar = archive(&[("dir/", ""), ("dir/f", "text"), (".dockerignore", "*"), ("l", "-> /etc")]);
        let (served, packed) = (gzip(&tar), gzip(&tar));
        let server = HttpServer::start(move |_| {
            Reply::ok(served.clone()).header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
        })
        .unwrap();
        let remote = http(&server.url("/c.tgz"));
        for (place, stdin, date) in [
            (&ContextPlace::Stdin, &tar, 1000),
            (&ContextPlace::Stdin, &packed, 1000),
            (&remote, &Vec::new(), 784_111_777),
        ] {
            let opened = open(&engine, place, stdin).unwrap();
            assert_eq!((opened.apply_ignore_file, &opened.dockerfile_text), (false, &None));
            assert_eq!(opened.date, Some(date));
            assert_eq!(fs::read(opened.root.join("dir/f")).unwrap(), b"text");
            let meta = opened.root.join("dir").metadata().unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o750, 1000));
            assert_eq!(fs::read_link(opened.root.join("l")).unwrap(), PathBuf::from("/etc"));
            assert!(opened.root.starts_with(home.path()));
        }
    }

    #[test]
    fn what_is_no_archive_is_a_dockerfile() {
        let home = tempfile::tempdir().unwrap();
        let engine = engine(home.path(), &[]);
        let text = b"FROM scratch\n# ".repeat(5000);
        let opened = open(&engine, &ContextPlace::Stdin, &text).unwrap();
        assert_eq!(opened.dockerfile_text.as_ref(), Some(&text));
        assert_eq!(fs::read_dir(&opened.root).unwrap().count(), 0);
        let served = text.clone();
        let server = HttpServer::start(move |_| Reply::ok(served.clone())).unwrap();
        let opened = open(&engine, &http(&server.url("/any.name")), b"").unwrap();
        assert_eq!(opened.dockerfile_text.as_ref(), Some(&text));
        assert_eq!(fs::read(opened.root.join("context")).unwrap(), text);
        let endless = vec![b'x'; MAX_DOCKERFILE_BYTES + 1];
        let error = open(&engine, &ContextPlace::Stdin, &endless).unwrap_err();
        assert!(error.to_string().starts_with("standard input is no archive, and larger than"), "{error}");
    }

    #[test]
    fn hostile_archives_are_refused_or_stay_inside() {
        let home = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let engine = engine(home.path(), &[]);
        let target = format!("-> {}", outside.path().display());
        for entries in [
            &[("../x", "evil")][..],
            &[("a/../../x", "evil")],
            &[("dir/.wh.f", "")],
            &[("loop", "-> loop"), ("loop/f", "evil")],
        ] {
            let error = open(&engine, &ContextPlace::Stdin, &archive(entries)).unwrap_err();
            assert_eq!(error.to_string(), "cannot unpack the context from standard input", "{entries:?}");
        }
        let mut damaged = archive(&[("f", &"x".repeat(2000))]);
        damaged.truncate(1000);
        open(&engine, &ContextPlace::Stdin, &damaged).unwrap_err();
        // A link is a link; what would be written through it lands where it leads inside of the folder.
        let through = archive(&[("l", &target), ("l/f", "evil"), ("/abs", "inside")]);
        let opened = open(&engine, &ContextPlace::Stdin, &through).unwrap();
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert_eq!(fs::read(opened.root.join("abs")).unwrap(), b"inside");
    }

    #[test]
    fn repositories_are_checked_out() {
        let Some(repository) = Repository::new() else { return };
        let server = repository.serve();
        let home = tempfile::tempdir().unwrap();
        let engine = engine(home.path(), &[]);
        let place = ContextPlace::parse(&format!("{}#main:dir", server.url("/x.git"))).unwrap();
        let opened = open(&engine, &place, b"").unwrap();
        assert_eq!(fs::read(opened.root.join("f")).unwrap(), b"one");
        assert_eq!((opened.apply_ignore_file, opened.dockerfile_text), (false, None));
        let time = repository.git(&["log", "-1", "--format=%ct"]).parse().unwrap();
        assert_eq!(opened.date, Some(time));
        drop(engine);
        assert!(!opened.root.exists());
    }

    #[test]
    fn folders_are_taken_as_they_are() {
        let home = tempfile::tempdir().unwrap();
        let engine = engine(home.path(), &[]);
        let opened = open(&engine, &ContextPlace::Folder("some/where".into()), b"").unwrap();
        assert_eq!((opened.root, opened.apply_ignore_file), (PathBuf::from("some/where"), true));
    }
}
