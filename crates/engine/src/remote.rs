//! Sources that come over the network: files by HTTP, and git repositories. Both are remembered by what they were asked
//! for: a file with the ETag and the date that its server gave, a checkout by its commit. What is known by a checksum and
//! is in the store needs no network.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use wbuild_context::{ContextRoot, HashOptions, IgnoreRules, ListOptions, Policy};
use wbuild_graph::{GitCheckout, HttpFile, Op, Snapshot, Source};
use wbuild_oci::Digest;
use wbuild_remote::{
    Authorization, Checkout, CommitId, Download, Expected, Git, GitError, GitOptions, GitRemote,
    GitRemoteError, HttpClient, HttpError, HttpOptions, HttpUrl, Proxies, Reference, ReferenceError, Request,
    Resolved, Retry, Sink, Stop, Validators, Watch,
};
use wbuild_report::{EventSink, Hint};
use wbuild_solver::Cancellation;
use wbuild_store::{BlobWriter, RecordMeta, Ref, Store, StoreError, remove_tree};
use wbuild_tree::{Directory, Entry, Meta, Name, Subtree, Time};

use crate::contexts::StoreSink;
use crate::error::EngineError;
use crate::step::io_error;
use crate::trust::Trust;
use crate::worker::Engine;

/// No file that is fetched is larger: as much as any archive may unpack to.
const MAX_DOWNLOAD: u64 = 64 << 30;

/// What is remembered of a URL; another number makes it unknown.
const HTTP_RECORD: &str = "http-1";

/// What is remembered of a checkout.
const GIT_RECORD: &str = "git-1";

/// Why a remote source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A file.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A repository.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The address of a repository.
    #[error(transparent)]
    Address(#[from] GitRemoteError),
    /// A branch, tag or commit.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A name that no file can have.
    #[error("a file cannot be called `{}`", name.escape_debug())]
    Name {
        /// The name.
        name: String,
    },
}

impl Hint for RemoteError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Http(error) => error.hints(),
            Self::Git(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

impl From<RemoteError> for EngineError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Http(HttpError::Stopped) | RemoteError::Git(GitError::Stopped) => Self::Cancelled,
            other => Self::Remote(Box::new(other)),
        }
    }
}

/// Secrets that are for remote sources and not for steps, as BuildKit names them.
const SECRETS: [&str; 4] = ["GIT_AUTH_TOKEN", "GIT_AUTH_HEADER", "HTTP_AUTH_TOKEN_", "HTTP_AUTH_HEADER_"];

/// Whether a secret is given for remote sources.
pub(crate) fn is_for_sources(id: &str) -> bool {
    SECRETS.iter().any(|name| id.starts_with(name))
}

/// Who listens, and who can say stop.
#[derive(Clone, Debug)]
pub(crate) struct Following {
    pub(crate) events: EventSink,
    pub(crate) cancellation: Cancellation,
}

impl Following {
    /// Calls `work` with a watch that says what happens and ends when the build does.
    pub(crate) fn watched<T>(&self, work: impl FnOnce(&Watch<'_>) -> T) -> T {
        let stop = Stop::new();
        let stopping = stop.clone();
        let _subscription = self.cancellation.subscribe(move || stopping.stop());
        let retrying = |retry: &Retry| self.events.warn(None, retry.to_string(), Vec::new());
        work(&Watch { stop: &stop, retrying: &retrying })
    }
}

impl Default for Following {
    fn default() -> Self {
        Self { events: EventSink::silent(), cancellation: Cancellation::new() }
    }
}

/// What remote sources need of the machine, and what this build has found out about them.
#[derive(Debug, Default)]
pub(crate) struct Remotes {
    proxies: Proxies,
    path: Option<OsString>,
    ssh_agent: Option<PathBuf>,
    client: OnceLock<HttpClient>,
    git: OnceLock<Git>,
    following: Mutex<Following>,
    /// Files that were asked for in this build: asked once.
    files: Mutex<BTreeMap<String, HttpRecord>>,
    /// What references were when this build first asked: they stay that for it.
    references: Mutex<BTreeMap<(String, String), Resolved>>,
}

impl Remotes {
    /// Reads what it needs of the environment.
    pub(crate) fn of_machine(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            proxies: Proxies::of(variable),
            path: variable("PATH").map(OsString::from),
            ssh_agent: variable("SSH_AUTH_SOCK").map(PathBuf::from),
            ..Self::default()
        }
    }

    /// How servers are reached.
    pub(crate) const fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// From now on this build is listened to.
    pub(crate) fn follow(&self, following: Following) {
        *self.following.lock().unwrap_or_else(PoisonError::into_inner) = following;
    }

    pub(crate) fn following(&self) -> Following {
        self.following.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The client, for everything that this build fetches.
    pub(crate) fn client(&self, trust: &Trust) -> &HttpClient {
        self.client.get_or_init(|| {
            HttpClient::new(HttpOptions {
                roots: trust.bundle().unwrap_or_default().to_vec(),
                roots_from: trust.bundle_path().map(Into::into),
                proxies: self.proxies.clone(),
                ..HttpOptions::default()
            })
        })
    }
}

/// What is remembered of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HttpRecord {
    etag: Option<String>,
    last_modified: Option<String>,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl HttpRecord {
    fn validators(&self) -> Validators {
        Validators { etag: self.etag.clone(), last_modified: self.last_modified.clone() }
    }

    /// `Last-Modified` in seconds since the epoch.
    pub(crate) fn modified(&self) -> Option<i64> {
        self.validators().modified()
    }
}

/// What is remembered of a checkout.
#[derive(Debug, Serialize, Deserialize)]
struct GitRecord {
    tree: Digest,
}

/// A checkout in a folder.
#[derive(Debug)]
pub(crate) struct CheckedOut {
    /// The folder that holds everything.
    pub(crate) folder: PathBuf,
    /// What was asked for: the folder, or a directory in it.
    pub(crate) root: PathBuf,
    /// When the commit was made, in seconds since the epoch.
    pub(crate) time: i64,
}

/// A download on its way into the store.
pub(crate) struct IntoStore<'a> {
    store: &'a Store,
    writer: BlobWriter,
}

impl<'a> IntoStore<'a> {
    pub(crate) fn new(store: &'a Store) -> Result<Self, StoreError> {
        Ok(Self { store, writer: store.blob_writer()? })
    }

    /// What has come, as long as it does not start over.
    pub(crate) fn growing(&self) -> Result<File, StoreError> {
        self.writer.growing()
    }

    /// Publishes what has come, if it is what it should be.
    pub(crate) fn finish(self, expected: Option<&Digest>) -> Result<(Digest, u64), StoreError> {
        self.writer.finish(expected)
    }
}

impl Sink for IntoStore<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut self.writer, bytes)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.writer = self.store.blob_writer().map_err(io::Error::other)?;
        Ok(())
    }
}

impl Engine {
    /// A file or a checkout as a snapshot, its contents in the store.
    pub(crate) fn fetch_remote(&self, op: &Op) -> Result<Snapshot, EngineError> {
        let tree = match op {
            Op::Source(Source::Http(file)) => self.http_source(file)?,
            Op::Source(Source::Git(checkout)) => self.git_source(checkout)?,
            _ => return Ok(Snapshot::default()),
        };
        Ok(Snapshot::of_tree(tree.digest(), tree.content()))
    }

    /// A tree with one file in it: mode 0600, owned by root, with the time that the server says (BuildKit's ADD).
    pub(crate) fn http_source(&self, file: &HttpFile) -> Result<Subtree, EngineError> {
        let url = HttpUrl::parse(&file.url).map_err(|error| RemoteError::Http(error.into()))?;
        let found = self.http_file(&url, file.checksum.as_ref(), &self.remotes.following())?;
        let name =
            Name::new(file.name.as_bytes()).map_err(|_| RemoteError::Name { name: file.name.clone() })?;
        let seconds = found.modified().unwrap_or(0);
        let meta = Meta { mtime: Time { seconds, nanos: 0 }, ..Meta::new(0o600) };
        let mut directory = Directory::default();
        directory.entries.insert(name, Entry::file(meta, found.digest, found.size));
        let tree = Subtree::new(directory);
        self.store.put_tree(&tree)?;
        Ok(tree)
    }

    /// Brings a file into the store, unless it is there and still is what the server has.
    pub(crate) fn http_file(
        &self,
        url: &HttpUrl,
        checksum: Option<&Digest>,
        following: &Following,
    ) -> Result<HttpRecord, EngineError> {
        let fits = |record: &HttpRecord| checksum.is_none_or(|checksum| *checksum == record.digest);
        // One after the other, so that what two steps ask for is fetched once: in this build and in others.
        let key = Digest::of(format!("{HTTP_RECORD}\0{}", url.identity()).as_bytes());
        let _lock = self.store.lock(&key)?;
        let asked =
            self.remotes.files.lock().unwrap_or_else(PoisonError::into_inner).get(url.identity()).cloned();
        if let Some(asked) = asked.filter(fits)
            && self.store.has_blob(&asked.digest)?
        {
            return Ok(asked);
        }
        let stored = self.store.record(&key)?;
        let known: Option<HttpRecord> = stored.and_then(|record| serde_json::from_slice(&record.body).ok());
        let known = match known.filter(fits) {
            Some(known) if self.store.has_blob(&known.digest)? => Some(known),
            _ => None,
        };
        if let Some(checksum) = checksum {
            match known {
                Some(known) => return Ok(known),
                // From elsewhere: nothing is known of its time.
                None if self.store.has_blob(checksum)? => {
                    let size = self.store.open_blob(checksum)?.size();
                    return Ok(HttpRecord { etag: None, last_modified: None, digest: *checksum, size });
                }
                None => {}
            }
        }
        let request = Request::get(url.clone())
            .with_authorization(self.http_authorization(url))
            .unless(known.as_ref().map(HttpRecord::validators).unwrap_or_default());
        let expected = Expected { limit: MAX_DOWNLOAD, digest: checksum.copied() };
        let mut sink = IntoStore::new(&self.store)?;
        let download = following.watched(|watch| {
            self.remotes.client(&self.trust).download(&request, &expected, &mut sink, watch)
        });
        let found = match (download.map_err(RemoteError::Http)?, known) {
            (Download::NotModified, Some(known)) => known,
            (Download::NotModified, None) => unreachable!("nothing was said to be known"),
            (Download::Received(received), _) => {
                sink.finish(Some(&received.digest))?;
                let Validators { etag, last_modified } = received.validators;
                let found = HttpRecord { etag, last_modified, digest: received.digest, size: received.size };
                let body = serde_json::to_vec(&found).map_err(EngineError::Message)?;
                let meta = RecordMeta { refs: vec![Ref::Blob(found.digest)] };
                self.store.replace_record(&key, &meta, &body)?;
                found
            }
        };
        let mut files = self.remotes.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(url.identity().to_owned(), found.clone());
        Ok(found)
    }

    /// The tree of a checkout.
    pub(crate) fn git_source(&self, checkout: &GitCheckout) -> Result<Subtree, EngineError> {
        let following = self.remotes.following();
        let remote = GitRemote::parse(&checkout.remote).map_err(RemoteError::from)?;
        // A commit that is named in full is what it is, wherever the reference points by now. That it was this commit once
        // must have been seen: else a wrong one would be an error on one machine and none on another.
        let pinned = checkout.checksum.as_deref().and_then(|sum| CommitId::parse(&sum.to_ascii_lowercase()));
        if let Some(commit) = &pinned
            && self.store.record(&seen_key(checkout, &remote, commit))?.is_some()
            && let Some(tree) = self.known_checkout(checkout, &remote, commit)?
        {
            return Ok(tree);
        }
        let resolved = self.resolve(checkout, &remote, &following)?;
        if pinned.is_some() {
            let seen = seen_key(checkout, &remote, &resolved.commit);
            self.store.replace_record(&seen, &RecordMeta { refs: Vec::new() }, b"")?;
        }
        let key = git_key(checkout, &remote, &resolved.commit);
        let _lock = self.store.lock(&key)?;
        if let Some(tree) = self.known_checkout(checkout, &remote, &resolved.commit)? {
            return Ok(tree);
        }
        let checked_out = self.check_out(checkout, &remote, &resolved, &following)?;
        let listing = ContextRoot::open(&checked_out.root)?
            .list(ListOptions::new(Policy::Dockerfile, IgnoreRules::none()))?;
        let sink = StoreSink(&self.store);
        let hashed = listing.select_all().hash(HashOptions { index: None, blobs: Some(&sink) })?;
        self.store.put_tree(&hashed.tree)?;
        let digest = hashed.tree.digest();
        let body = serde_json::to_vec(&GitRecord { tree: digest.0 }).map_err(EngineError::Message)?;
        self.store.replace_record(&key, &RecordMeta { refs: vec![Ref::Tree(digest)] }, &body)?;
        remove_tree(&checked_out.folder)?;
        Ok(hashed.tree)
    }

    fn known_checkout(
        &self,
        checkout: &GitCheckout,
        remote: &GitRemote,
        commit: &CommitId,
    ) -> Result<Option<Subtree>, EngineError> {
        let Some(record) = self.store.record(&git_key(checkout, remote, commit))? else { return Ok(None) };
        let Ok(GitRecord { tree }) = serde_json::from_slice(&record.body) else { return Ok(None) };
        let tree = wbuild_tree::TreeDigest(tree);
        let whole = if self.inspected.closely() {
            self.is_whole(tree, crate::faces::Extent::Contents)?
        } else {
            self.store.has_tree(tree)?
        };
        Ok(if whole { Some(self.store.tree(tree)?) } else { None })
    }

    /// The commit that a reference is in this build.
    pub(crate) fn resolve(
        &self,
        checkout: &GitCheckout,
        remote: &GitRemote,
        following: &Following,
    ) -> Result<Resolved, EngineError> {
        let key = (remote.address().to_owned(), checkout.reference.clone());
        let references = || self.remotes.references.lock().unwrap_or_else(PoisonError::into_inner);
        let known = references().get(&key).cloned();
        let fits = |resolved: &Resolved| {
            let checksum = checkout.checksum.as_deref().unwrap_or_default().to_ascii_lowercase();
            resolved.commit.as_str().starts_with(&checksum)
        };
        if let Some(known) = known.filter(fits) {
            return Ok(known);
        }
        let reference = Reference::parse(&checkout.reference).map_err(RemoteError::from)?;
        let authorization = self.git_authorization(remote);
        let git = self.git()?;
        let resolved = following.watched(|watch| {
            git.resolve(remote, &reference, checkout.checksum.as_deref(), authorization.as_ref(), watch)
        });
        let resolved = resolved.map_err(RemoteError::from)?;
        references().insert(key, resolved.clone());
        Ok(resolved)
    }

    /// Checks a commit out into a folder of this process.
    pub(crate) fn check_out(
        &self,
        checkout: &GitCheckout,
        remote: &GitRemote,
        resolved: &Resolved,
        following: &Following,
    ) -> Result<CheckedOut, EngineError> {
        let id = Digest::of(format!("git repository\0{}", remote.address()).as_bytes());
        let _lock = self.store.lock(&id)?;
        let bare = self.store.mount(&id)?;
        let folder = self.store.workspace()?.fresh("git");
        let asked = Checkout {
            remote,
            resolved,
            subdirectory: &checkout.subdirectory,
            keep_git_dir: checkout.keep_git_dir,
            submodules: checkout.submodules,
            commit_times: checkout.commit_times,
        };
        let authorization = self.git_authorization(remote);
        let git = self.git()?;
        let checked_out =
            following.watched(|watch| git.check_out(&asked, &bare, &folder, authorization.as_ref(), watch));
        let (root, time) = checked_out.map_err(RemoteError::from)?;
        Ok(CheckedOut { folder, root, time })
    }

    fn git(&self) -> Result<&Git, EngineError> {
        if let Some(git) = self.remotes.git.get() {
            return Ok(git);
        }
        let scratch = self.store.workspace()?.fresh("git-home");
        fs::create_dir(&scratch).map_err(io_error("create", &scratch))?;
        let mut options = GitOptions::new(scratch, self.remotes.path.clone());
        options.roots = self.trust.bundle_path().map(ToOwned::to_owned);
        options.proxies = self.remotes.proxies.clone();
        options.ssh_agent = self.agents.get("default").cloned().or_else(|| self.remotes.ssh_agent.clone());
        let git = Git::new(options).map_err(RemoteError::from)?;
        Ok(self.remotes.git.get_or_init(|| git))
    }

    fn secret_text(&self, id: &str) -> Option<String> {
        let bytes = self.secrets.get(id)?;
        Some(String::from_utf8_lossy(bytes).trim_end_matches(['\r', '\n']).to_owned())
    }

    fn http_authorization(&self, url: &HttpUrl) -> Option<Authorization> {
        let (origin, host) = (url.origin(), url.origin().host());
        if let Some(header) = self.secret_text(&format!("HTTP_AUTH_HEADER_{host}")) {
            return Authorization::header(origin, &header);
        }
        Authorization::bearer(origin, &self.secret_text(&format!("HTTP_AUTH_TOKEN_{host}"))?)
    }

    fn git_authorization(&self, remote: &GitRemote) -> Option<Authorization> {
        let origin = remote.http_url()?.origin();
        for suffix in [format!(".{}", origin.host()), String::new()] {
            if let Some(header) = self.secret_text(&format!("GIT_AUTH_HEADER{suffix}")) {
                return Authorization::header(origin, &header);
            }
            if let Some(token) = self.secret_text(&format!("GIT_AUTH_TOKEN{suffix}")) {
                return Authorization::basic(origin, "x-access-token", &token);
            }
        }
        None
    }
}

/// What a checkout is remembered by: everything that decides what is in it.
fn git_key(checkout: &GitCheckout, remote: &GitRemote, commit: &CommitId) -> Digest {
    let GitCheckout { subdirectory, keep_git_dir, submodules, commit_times, .. } = checkout;
    let (address, commit) = (remote.address(), commit.as_str());
    let fields = format!(
        "{GIT_RECORD}\0{address}\0{commit}\0{subdirectory}\0{keep_git_dir}\0{submodules}\0{commit_times}"
    );
    Digest::of(fields.as_bytes())
}

/// What tells that a reference was this commit.
fn seen_key(checkout: &GitCheckout, remote: &GitRemote, commit: &CommitId) -> Digest {
    let (address, commit) = (remote.address(), commit.as_str());
    Digest::of(format!("{GIT_RECORD}\0{address}\0{commit}\0was\0{}", checkout.reference).as_bytes())
}

#[cfg(test)]
mod tests;
