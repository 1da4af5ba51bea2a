use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use wbuild_oci::Digest;

use crate::http::{Body, HttpServer, Intake, Reply, Seen, Stream};

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status instead of an answer.
    Status(u16),
    /// 200 and a page for browsers, as of a proxy that wants a login.
    Page,
    /// Everything is done, and answered with this status.
    Says(u16),
    /// 429, with so many seconds in `Retry-After`.
    Limited(u64),
    /// The answer is cut after so many bytes of its body.
    Cut(usize),
    /// The answer stops after so many bytes of its body, and the connection stays.
    Held(usize),
    /// The last byte of the body is another one.
    WrongByte,
    /// The body has fewer bytes than it should, and says so.
    Shortened,
    /// `Docker-Content-Digest` is that of something else.
    WrongDigestHeader,
    /// The answer says that its body has so many bytes.
    Length(usize),
    /// The body is compressed, and the answer says so (`Content-Encoding`).
    Compressed,
    /// The answer comes a byte at a time, headers and all.
    Dripped,
    /// What is asked for is at this URL.
    Redirect(String),
    /// The request is answered with a redirect to itself.
    RedirectLoop,
    /// No token is good any more, the one of this request neither.
    TokensEnd,
    /// Uploads go on at this server: `http://host:port`.
    UploadsAt(String),
    /// `Range` is not looked at.
    NoRange,
    /// Of what is sent, so many bytes are taken before the connection is closed.
    CutUpload(usize),
    /// The same, and the upload is forgotten.
    LostUpload(usize),
    /// Of what is sent, so many bytes are taken, and the connection stays.
    HeldUpload(usize),
    /// Everything is done, and the connection closed without an answer.
    LostAnswer,
}

/// Whom a registry answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// Everybody.
    Open,
    /// Who shows this name and password with each request.
    Basic(&'static str, &'static str),
    /// Who shows a token, had for this name and password, or for the identity token `identity` by a POST.
    Bearer(&'static str, &'static str),
    /// The same; tokens to pull are for everybody.
    PublicBearer(&'static str, &'static str),
}

#[derive(Debug)]
struct Planned {
    method: &'static str,
    path: String,
    fault: Fault,
    times: usize,
}

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<(String, Digest), Vec<u8>>,
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: BTreeMap<String, Vec<u8>>,
    tokens: BTreeMap<String, Vec<String>>,
    planned: Vec<Planned>,
    count: usize,
    lends: bool,
    referrers: bool,
    realm: Option<String>,
    /// Of the first server.
    port: Option<u16>,
}

/// A registry in memory that can misbehave; gone when it is dropped.
#[derive(Debug)]
pub struct FakeRegistry {
    server: HttpServer,
    state: Arc<Mutex<State>>,
}

thread_local! {
    /// What goes wrong with the request that this thread serves.
    static FAULT: RefCell<Option<Fault>> = const { RefCell::new(None) };
}

impl FakeRegistry {
    /// An empty one, for everybody.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start() -> io::Result<Self> {
        Self::start_with(Door::Open, |stream| Ok(Box::new(stream)))
    }

    /// An empty one, with a door, and something around each connection: TLS.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start_with(
        door: Door,
        accept: impl Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::serve(Arc::new(Mutex::new(State { lends: true, ..State::default() })), door, accept)
    }

    /// The same registry at another port, with another door: what is put into one of the two is in both.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn also_at(&self, door: Door) -> io::Result<Self> {
        Self::serve(Arc::clone(&self.state), door, |stream| Ok(Box::new(stream)))
    }

    fn serve(
        state: Arc<Mutex<State>>,
        door: Door,
        accept: impl Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (planned, used) = (Arc::clone(&state), Arc::clone(&state));
        let admit = move |seen: &Seen| {
            let fault = locked(&planned).fault_for(seen);
            let intake = match fault {
                Some(Fault::CutUpload(most) | Fault::LostUpload(most)) => Intake::Cut(most),
                Some(Fault::HeldUpload(most)) => Intake::Held(most),
                Some(Fault::LostAnswer) => Intake::Cut(usize::MAX),
                _ => Intake::Whole,
            };
            FAULT.set(fault);
            intake
        };
        let handler = move |seen: &Seen| {
            let mut state = locked(&used);
            let fault = FAULT.take();
            match &fault {
                Some(Fault::Status(status)) => return Reply::status(*status),
                Some(Fault::Page) => {
                    let page = "<html><body>Welcome, please log in</body></html>";
                    return Reply::ok(page).header("Content-Type", "text/html; charset=utf-8");
                }
                Some(Fault::Limited(seconds)) => {
                    return Reply::status(429).header("Retry-After", seconds.to_string());
                }
                Some(Fault::Redirect(to)) => return Reply::status(307).header("Location", to.clone()),
                Some(Fault::RedirectLoop) => return Reply::status(307).header("Location", seen.path.clone()),
                Some(Fault::TokensEnd) => state.tokens.clear(),
                _ => {}
            }
            let refused = state.refused(&door, seen);
            let reply = refused.unwrap_or_else(|| state.answer(seen, fault.as_ref()));
            spoilt(reply, fault.as_ref())
        };
        let server = HttpServer::start_admitting(accept, admit, handler)?;
        let port = server.port();
        locked(&state).port.get_or_insert(port);
        Ok(Self { server, state })
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.server.port()
    }

    /// What it was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.server.seen()
    }

    /// What it was asked so far, in short: `GET /v2/…`.
    pub fn asked(&self) -> Vec<String> {
        self.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }

    /// Lets something go wrong with the next `times` requests of a method whose paths contain `path`.
    pub fn plan(&self, method: &'static str, path: &str, times: usize, fault: Fault) {
        locked(&self.state).planned.push(Planned { method, path: path.to_owned(), fault, times });
    }

    /// Lets nothing go wrong any more.
    pub fn forgive(&self) {
        locked(&self.state).planned.clear();
    }

    /// Lets it lend no blobs between repositories.
    pub fn lend_nothing(&self) {
        locked(&self.state).lends = false;
    }

    /// Gives it the referrers API.
    pub fn list_referrers(&self) {
        locked(&self.state).referrers = true;
    }

    /// Sends clients to another token server.
    pub fn send_for_tokens_to(&self, realm: &str) {
        locked(&self.state).realm = Some(realm.to_owned());
    }

    /// Makes all tokens worthless.
    pub fn forget_tokens(&self) {
        locked(&self.state).tokens.clear();
    }

    /// Puts a blob there.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        locked(&self.state).blobs.insert((repository.to_owned(), digest), bytes.to_vec());
        digest
    }

    /// Puts a manifest there, under its digest and perhaps a tag.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: &[u8],
    ) -> Digest {
        let digest = Digest::of(bytes);
        let mut state = locked(&self.state);
        for name in tag.map(str::to_owned).into_iter().chain([digest.to_string()]) {
            let held = (media_type.to_owned(), bytes.to_vec());
            state.manifests.insert((repository.to_owned(), name), held);
        }
        digest
    }

    /// Takes a blob away, as whoever cleans up.
    pub fn remove_blob(&self, repository: &str, digest: &Digest) {
        locked(&self.state).blobs.remove(&(repository.to_owned(), *digest));
    }

    /// A blob that is there.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        locked(&self.state).blobs.get(&(repository.to_owned(), *digest)).cloned()
    }

    /// All blobs that are there; none is under a digest that is not its own.
    pub fn blobs(&self) -> Vec<(String, Digest)> {
        locked(&self.state).blobs.keys().cloned().collect()
    }

    /// A manifest that is there, by tag or digest.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        let state = locked(&self.state);
        state.manifests.get(&(repository.to_owned(), name.to_owned())).map(|(_, bytes)| bytes.clone())
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error as registries write it.
fn error(status: u16, code: &str) -> Reply {
    let body = format!(
        r#"{{"errors":[{{"code":"{code}","message":"{}"}}]}}"#,
        code.to_lowercase().replace('_', " ")
    );
    Reply::status(status).body(Body::Whole(body.into_bytes()))
}

/// What is left of an answer when something goes wrong with it.
fn spoilt(reply: Reply, fault: Option<&Fault>) -> Reply {
    let Body::Whole(mut bytes) = reply.whole() else { return reply };
    match fault {
        Some(Fault::WrongDigestHeader) => {
            reply.replacing("Docker-Content-Digest", &Digest::of(b"something else").to_string())
        }
        Some(Fault::UploadsAt(place)) => reply.placed_at(place),
        Some(Fault::Says(status)) => reply.saying(*status),
        Some(Fault::Length(length)) => reply.body(Body::Misstated(bytes, *length)),
        Some(Fault::Dripped) => reply.body(Body::Dripped(bytes)),
        Some(Fault::Compressed) => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            // Nothing can go wrong in memory.
            let _ = encoder.write_all(&bytes);
            let compressed = encoder.finish().unwrap_or_default();
            reply.header("Content-Encoding", "gzip").body(Body::Whole(compressed))
        }
        Some(Fault::Cut(end)) => reply.body(Body::Cut(bytes.clone(), (*end).min(bytes.len()))),
        Some(Fault::Held(end)) => reply.body(Body::Held(bytes.clone(), (*end).min(bytes.len()))),
        Some(Fault::WrongByte) => {
            if let Some(byte) = bytes.last_mut() {
                *byte ^= 1;
            }
            reply.body(Body::Whole(bytes))
        }
        Some(Fault::Shortened) => {
            bytes.pop();
            reply.body(Body::Whole(bytes))
        }
        _ => reply,
    }
}

fn query(seen: &Seen, name: &str) -> Option<String> {
    let (_, query) = seen.path.split_once('?')?;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","))
}

fn all_of(text: &str, name: &str) -> Vec<String> {
    let values = text.split('&').filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let decoded = values.map(|value| value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","));
    decoded.flat_map(|value| value.split('+').map(str::to_owned).collect::<Vec<_>>()).collect()
}

impl State {
    fn fault_for(&mut self, seen: &Seen) -> Option<Fault> {
        let fits = |planned: &&mut Planned| {
            planned.times > 0 && planned.method == seen.method && seen.path.contains(&planned.path)
        };
        let planned = self.planned.iter_mut().find(fits)?;
        planned.times -= 1;
        Some(planned.fault.clone())
    }

    /// The token server's answer, or that of a closed door.
    fn refused(&mut self, door: &Door, seen: &Seen) -> Option<Reply> {
        let basic = |user: &str, password: &str| {
            format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
        };
        let shown = seen.header("authorization");
        match door {
            Door::Open => None,
            Door::Basic(user, password) => (shown != basic(user, password))
                .then(|| error(401, "UNAUTHORIZED").header("WWW-Authenticate", "Basic realm=\"fake\"")),
            Door::Bearer(user, password) | Door::PublicBearer(user, password) => {
                let public = matches!(door, Door::PublicBearer(..));
                if seen.path.starts_with("/token") {
                    return Some(self.token(seen, &basic(user, password), public));
                }
                let (path, _) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
                let repository = path.strip_prefix("/v2/").unwrap_or_default();
                let repository = ["/blobs/", "/manifests/", "/tags/", "/referrers/"]
                    .iter()
                    .find_map(|part| Some(repository.split_once(part)?.0))
                    .unwrap_or_default();
                let action = if matches!(seen.method.as_str(), "GET" | "HEAD") { "pull" } else { "push" };
                let scopes = shown.strip_prefix("Bearer ").and_then(|token| self.tokens.get(token));
                let granted = scopes.is_some_and(|scopes| {
                    repository.is_empty()
                        || scopes.iter().any(|scope| {
                            let rest = scope.strip_prefix(&format!("repository:{repository}:"));
                            rest.is_some_and(|actions| actions.split(',').any(|granted| granted == action))
                        })
                });
                let own = format!("http://127.0.0.1:{}/token", self.port.unwrap_or_default());
                let realm = self.realm.clone().unwrap_or(own);
                (!granted).then(|| {
                    let challenge = format!(
                        r#"Bearer realm="{realm}",service="fake",scope="repository:{repository}:{action}""#
                    );
                    error(401, "UNAUTHORIZED").header("WWW-Authenticate", challenge)
                })
            }
        }
    }

    fn token(&mut self, seen: &Seen, basic: &str, public: bool) -> Reply {
        let form = String::from_utf8_lossy(&seen.body).into_owned();
        let (known, mut scopes) = match seen.method.as_str() {
            "POST" => (all_of(&form, "refresh_token") == ["identity"], all_of(&form, "scope")),
            _ => {
                let query = seen.path.split_once('?').map_or("", |(_, query)| query);
                (seen.header("authorization") == basic, all_of(query, "scope"))
            }
        };
        if !known && (!public || !seen.header("authorization").is_empty()) {
            return error(401, "UNAUTHORIZED");
        }
        if !known {
            scopes = scopes.iter().map(|scope| scope.replace(":pull,push", ":pull")).collect();
        }
        self.count += 1;
        let token = format!("token-{}", self.count);
        self.tokens.insert(token.clone(), scopes);
        Reply::ok(format!(r#"{{"token":"{token}","expires_in":300}}"#))
    }

    fn answer(&mut self, seen: &Seen, fault: Option<&Fault>) -> Reply {
        let (path, _) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let Some(rest) = path.strip_prefix("/v2/") else { return Reply::status(404) };
        if rest.is_empty() {
            return Reply::ok("{}");
        }
        if let Some((repository, name)) = rest.split_once("/manifests/") {
            return self.manifests(seen, repository, name, fault);
        }
        if let Some((repository, id)) = rest.split_once("/blobs/uploads/") {
            return self.uploads(seen, repository, id, fault);
        }
        if let Some((repository, digest)) = rest.split_once("/blobs/") {
            let Ok(digest) = digest.parse() else { return error(400, "DIGEST_INVALID") };
            let Some(bytes) = self.blobs.get(&(repository.to_owned(), digest)) else {
                return error(404, "BLOB_UNKNOWN");
            };
            let ranges = fault != Some(&Fault::NoRange);
            let reply = match seen.range().filter(|_| ranges) {
                None if let Some((first, last)) = seen.part().filter(|_| ranges) => match first < bytes.len()
                {
                    true => Reply::between(bytes, first, last),
                    false => Reply::status(416),
                },
                Some(first) if first < bytes.len() => Reply::part(bytes, first),
                Some(_) => Reply::status(416),
                None => Reply::ok(bytes.clone()),
            };
            return reply.header("Docker-Content-Digest", digest.to_string());
        }
        if let Some((repository, _)) = rest.split_once("/tags/list") {
            let of_it = self.manifests.keys().filter(|(of, _)| of == repository);
            let tags: Vec<String> = of_it
                .filter(|(_, name)| !name.contains(':'))
                .map(|(_, name)| format!("\"{name}\""))
                .collect();
            if !self.manifests.keys().any(|(of, _)| of == repository) {
                return error(404, "NAME_UNKNOWN");
            }
            return Reply::ok(format!(r#"{{"name":"{repository}","tags":[{}]}}"#, tags.join(",")));
        }
        if let Some((repository, subject)) = rest.split_once("/referrers/").filter(|_| self.referrers) {
            let mut found = Vec::new();
            for ((of, name), (media_type, bytes)) in &self.manifests {
                if of == repository && name.contains(':') && subject_of(bytes).as_deref() == Some(subject) {
                    let size = bytes.len();
                    found.push(format!(r#"{{"mediaType":"{media_type}","digest":"{name}","size":{size}}}"#));
                }
            }
            let index = "application/vnd.oci.image.index.v1+json";
            let body =
                format!(r#"{{"schemaVersion":2,"mediaType":"{index}","manifests":[{}]}}"#, found.join(","));
            return Reply::ok(body).header("Content-Type", index);
        }
        Reply::status(404)
    }

    fn manifests(&mut self, seen: &Seen, repository: &str, name: &str, fault: Option<&Fault>) -> Reply {
        let key = |name: &str| (repository.to_owned(), name.to_owned());
        if seen.method == "PUT" {
            if matches!(fault, Some(Fault::CutUpload(_) | Fault::LostUpload(_) | Fault::HeldUpload(_))) {
                return Reply::status(500);
            }
            let digest = Digest::of(&seen.body);
            if name.contains(':') && name != digest.to_string() {
                return error(400, "DIGEST_INVALID");
            }
            let text = String::from_utf8_lossy(&seen.body).into_owned();
            let subject = subject_of(&seen.body);
            // Everything that it names must be there; its subject need not.
            for (at, _) in text.match_indices("\"digest\":\"") {
                let named: String = text[at + 10..].chars().take_while(|c| *c != '"').collect();
                let known = named.parse().is_ok_and(|digest| {
                    self.blobs.contains_key(&(repository.to_owned(), digest))
                        || self.manifests.contains_key(&key(&named))
                });
                if !known && subject.as_ref() != Some(&named) {
                    return error(404, "MANIFEST_BLOB_UNKNOWN");
                }
            }
            let held = (seen.header("content-type").to_owned(), seen.body.clone());
            self.manifests.insert(key(name), held.clone());
            self.manifests.insert(key(&digest.to_string()), held);
            let reply = Reply::status(201).header("Docker-Content-Digest", digest.to_string());
            return match subject.filter(|_| self.referrers) {
                Some(subject) => reply.header("OCI-Subject", subject),
                None => reply,
            };
        }
        let Some((media_type, bytes)) = self.manifests.get(&key(name)) else {
            return error(404, "MANIFEST_UNKNOWN");
        };
        Reply::ok(bytes.clone())
            .header("Content-Type", media_type.clone())
            .header("Docker-Content-Digest", Digest::of(bytes).to_string())
    }

    fn uploads(&mut self, seen: &Seen, repository: &str, id: &str, fault: Option<&Fault>) -> Reply {
        let place = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}?state=x");
        let so_far = |upload: &[u8]| format!("0-{}", upload.len().saturating_sub(1));
        if seen.method == "POST" {
            let lent = query(seen, "mount").zip(query(seen, "from")).and_then(|(digest, from)| {
                let digest: Digest = digest.parse().ok()?;
                Some((digest, self.blobs.get(&(from, digest)).filter(|_| self.lends)?.clone()))
            });
            if let Some((digest, bytes)) = lent {
                self.blobs.insert((repository.to_owned(), digest), bytes);
                return Reply::status(201).header("Docker-Content-Digest", digest.to_string());
            }
            self.count += 1;
            let id = format!("upload-{}", self.count);
            self.uploads.insert(id.clone(), Vec::new());
            return Reply::status(202).header("Location", place(&id)).header("Range", "0-0");
        }
        if matches!(fault, Some(Fault::LostUpload(_))) {
            self.uploads.remove(id);
        }
        let Some(upload) = self.uploads.get_mut(id) else { return error(404, "BLOB_UPLOAD_UNKNOWN") };
        let first = seen.header("content-range").split('-').next().and_then(|first| first.parse().ok());
        if first.is_some_and(|first: usize| first != upload.len()) {
            return Reply::status(416).header("Range", so_far(upload));
        }
        upload.extend_from_slice(&seen.body);
        match seen.method.as_str() {
            "GET" => Reply::status(204).header("Location", place(id)).header("Range", so_far(upload)),
            "DELETE" => {
                self.uploads.remove(id);
                Reply::status(204)
            }
            "PATCH" => Reply::status(202).header("Location", place(id)).header("Range", so_far(upload)),
            "PUT" if matches!(fault, Some(Fault::CutUpload(_) | Fault::HeldUpload(_))) => Reply::status(500),
            "PUT" => {
                let found = Digest::of(upload);
                if query(seen, "digest") != Some(found.to_string()) {
                    return error(400, "DIGEST_INVALID");
                }
                let bytes = std::mem::take(upload);
                self.uploads.remove(id);
                self.blobs.insert((repository.to_owned(), found), bytes);
                Reply::status(201).header("Docker-Content-Digest", found.to_string())
            }
            _ => Reply::status(405),
        }
    }
}

/// The digest in the `subject` of a document in canonical JSON.
fn subject_of(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let (_, subject) = text.split_once("\"subject\":{")?;
    let (_, digest) = subject.split_once("\"digest\":\"")?;
    Some(digest.chars().take_while(|c| *c != '"').collect())
}

impl fmt::Display for FakeRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host())
    }
}
