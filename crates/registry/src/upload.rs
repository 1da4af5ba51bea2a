use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use url::form_urlencoded::Serializer;
use wbuild_oci::{Descriptor, Digest};
use wbuild_remote::{HeaderValue, HttpError, HttpUrl, Payload, Reply, Request, Watch};

use crate::client::{Call, MAX_ANSWER, RegistryClient};
use crate::error::{RegistryError, shown};
use crate::pull::{blob_url, refused, url};
use crate::repository::Repository;
use crate::rules::Endpoint;

/// How much is sent at once after an upload was cut where it could not be gone on with: what is through, stays.
const CHUNK: u64 = 16 << 20;

/// The one answer to a blob or manifest that was taken (distribution-spec, "Pushing").
pub(crate) const CREATED: u16 = 201;

type Prepare = dyn Fn(&Watch<'_>) -> Result<(), RegistryError> + Send + Sync;
type Told = dyn Fn(Pushed) + Send + Sync;
type OpenAt = dyn Fn(u64) -> io::Result<Box<dyn Read + Send>> + Send + Sync;

/// A blob that is to be in a repository.
#[derive(Clone)]
pub struct Blob {
    /// Names it.
    pub descriptor: Descriptor,
    open: Arc<OpenAt>,
    prepare: Option<Arc<Prepare>>,
    mount_from: Vec<Repository>,
    told: Option<Arc<Told>>,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("digest", &self.descriptor.digest).finish_non_exhaustive()
    }
}

impl Blob {
    /// A blob whose bytes from an offset on can be read as often as they are needed. The registry compares their digest.
    pub fn new(
        descriptor: Descriptor,
        open: impl Fn(u64) -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'static,
    ) -> Self {
        Self { descriptor, open: Arc::new(open), prepare: None, mount_from: Vec::new(), told: None }
    }

    /// A blob that is a file.
    pub fn file(descriptor: Descriptor, path: PathBuf) -> Self {
        Self::new(descriptor, move |offset| {
            let open = || {
                // Opening a pipe would wait for ever.
                if !std::fs::metadata(&path)?.is_file() {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
                }
                let mut file = File::open(&path)?;
                file.seek(SeekFrom::Start(offset))?;
                Ok(file)
            };
            let named =
                |error: io::Error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display()));
            Ok(Box::new(open().map_err(named)?))
        })
    }

    /// A blob in memory.
    pub fn bytes(media_type: &str, bytes: Vec<u8>) -> Self {
        let descriptor = Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64);
        let bytes: Arc<[u8]> = bytes.into();
        Self::new(descriptor, move |offset| {
            let mut reader = Cursor::new(Arc::clone(&bytes));
            reader.set_position(offset);
            Ok(Box::new(reader))
        })
    }

    /// Says how its bytes are had, if the registry turns out not to have them: fetched from elsewhere, made.
    #[must_use]
    pub fn prepared_by(
        mut self,
        prepare: impl Fn(&Watch<'_>) -> Result<(), RegistryError> + Send + Sync + 'static,
    ) -> Self {
        self.prepare = Some(Arc::new(prepare));
        self
    }

    /// Says in which repositories it is already. Those of the same registry can lend it.
    #[must_use]
    pub fn also_in(mut self, repositories: impl IntoIterator<Item = Repository>) -> Self {
        self.mount_from.extend(repositories);
        self
    }

    /// Says who is told when it is there, and how it came to be.
    #[must_use]
    pub fn told_to(mut self, told: impl Fn(Pushed) + Send + Sync + 'static) -> Self {
        self.told = Some(Arc::new(told));
        self
    }

    fn payload(&self, offset: u64, length: u64) -> Payload {
        let open = Arc::clone(&self.open);
        let (digest, size) = (self.descriptor.digest, self.descriptor.size);
        let rest = size - offset;
        Payload::reopened(length, move || {
            let reader = open(offset)?;
            let reader = match offset {
                0 => Box::new(Compared { reader, size, read: 0, hasher: Sha256::new(), digest }),
                // What begins in the middle is left to the registry to compare.
                _ => reader,
            };
            // One that has more than it should, is noticed where it ends.
            Ok(if length < rest { Box::new(reader.take(length)) } else { reader })
        })
    }
}

/// Keeps the end of a blob back that is not what its digest says, so that the registry never has all of it.
struct Compared {
    reader: Box<dyn Read + Send>,
    size: u64,
    read: u64,
    hasher: Sha256,
    digest: Digest,
}

impl Read for Compared {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let wrong = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        let expected = self.digest;
        if read == 0 && !buffer.is_empty() && self.read < self.size {
            return wrong(format!(
                "the blob {expected} is damaged: it has {} of {} bytes",
                self.read, self.size
            ));
        }
        self.hasher.update(&buffer[..read]);
        let before = self.read;
        self.read += read as u64;
        if self.read > self.size {
            return wrong(format!("the blob {expected} is damaged: it has more than {} bytes", self.size));
        }
        if self.read == self.size && before < self.size {
            let found = Digest::from_bytes(self.hasher.clone().finalize().into());
            if found != expected {
                return wrong(format!(
                    "the blob {expected} is damaged: what is there has the digest {found}"
                ));
            }
        }
        Ok(read)
    }
}

/// How a blob came to be in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Present,
    /// Another repository of the registry lent it.
    Mounted,
    /// It was sent.
    Sent,
}

/// An upload under way, over all its tries.
struct Upload<'a> {
    blob: &'a Blob,
    call: Call<'a>,
    /// Where it goes on, if there is an upload.
    location: Option<HttpUrl>,
    /// How much the registry says that it has.
    position: u64,
    /// Whether anything was tried.
    tried: bool,
    /// In parts, because going on with a whole one did not work.
    in_chunks: bool,
}

impl RegistryClient {
    /// Makes sure that a repository has a blob: asks for it, has it lent from another repository, or sends it. What was cut goes
    /// on where the registry says, if it can do that.
    ///
    /// # Errors
    /// When the registry refuses it, fails too often, or the blob cannot be read.
    pub fn push_blob(
        &self,
        repository: &Repository,
        blob: &Blob,
        watch: &Watch<'_>,
    ) -> Result<Pushed, RegistryError> {
        let pushed = self.bring_blob(repository, blob, watch)?;
        if let Some(told) = &blob.told {
            told(pushed);
        }
        Ok(pushed)
    }

    fn bring_blob(
        &self,
        repository: &Repository,
        blob: &Blob,
        watch: &Watch<'_>,
    ) -> Result<Pushed, RegistryError> {
        let endpoint = self.target(repository)?;
        if self.has_blob(&endpoint, &blob.descriptor, false, watch)? {
            return Ok(Pushed::Present);
        }
        let lenders = blob.mount_from.iter().filter_map(|from| {
            let from = self.target(from).ok()?;
            (from.host == endpoint.host && from.name != endpoint.name).then_some(from.name)
        });
        let mut upload = Upload {
            blob,
            call: Call::push(&endpoint),
            location: None,
            position: 0,
            tried: false,
            in_chunks: false,
        };
        for from in lenders {
            if self.mount(&mut upload, &from, watch)? {
                return Ok(Pushed::Mounted);
            }
        }
        if let Some(prepare) = &blob.prepare {
            prepare(watch)?;
        }
        let subject = self.subject(&endpoint)?;
        let done = self.http.keep_trying(
            &subject,
            watch,
            &mut upload,
            |upload| upload.position,
            |upload| match self.try_upload(upload, watch) {
                // May go better the next time.
                Err(RegistryError::Http(error)) if error.may_pass() => Err(error),
                other => Ok(other),
            },
        );
        done.map_err(|error| {
            refused(error.into(), &endpoint, || format!("take the blob {}", blob.descriptor.digest))
        })?
    }

    /// Whether a repository would take a push: begins an upload, and gives it up again.
    ///
    /// # Errors
    /// When the registry cannot be reached, or says no.
    pub fn check_push(&self, repository: &Repository, watch: &Watch<'_>) -> Result<(), RegistryError> {
        let endpoint = self.target(repository)?;
        let call = Call::push(&endpoint);
        let begun = self.ask(
            &call,
            watch,
            &|base| {
                let url = url(&format!("{base}{}/blobs/uploads/", endpoint.name))?;
                Ok(Request::post(url, Payload::bytes("")))
            },
            &mut |request| self.http.send(request, MAX_ANSWER, watch),
        );
        let reply =
            begun.map_err(|error| match refused(error, &endpoint, || "begin an upload".to_owned()) {
                // It may be about another host, and says nothing of a push.
                error @ RegistryError::Http(_) if !error.is_stopped() => {
                    RegistryError::NoPush { repository: repository.to_string(), source: Box::new(error) }
                }
                other => other,
            })?;
        let upload = location(&endpoint, &reply)?;
        // Registries forget uploads that nobody goes on with: not all of them can be told.
        let _ = self.ask(&call, watch, &|_| Ok(Request::delete(upload.clone()).once()), &mut |request| {
            self.http.send(request, MAX_ANSWER, watch)
        });
        Ok(())
    }

    /// Whether a repository has a blob, where a push goes.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub fn holds_blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        watch: &Watch<'_>,
    ) -> Result<bool, RegistryError> {
        self.has_blob(&self.target(repository)?, descriptor, false, watch)
    }

    /// What retries of uploads are said to be about.
    fn subject(&self, endpoint: &Endpoint) -> Result<HttpUrl, RegistryError> {
        url(&format!("https://{}/v2/{}/blobs/uploads/", endpoint.host, endpoint.name))
    }

    fn has_blob(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        once: bool,
        watch: &Watch<'_>,
    ) -> Result<bool, RegistryError> {
        let asked = self.ask(
            &Call::push(endpoint),
            watch,
            &|base| {
                let request = Request::head(blob_url(base, endpoint, &descriptor.digest)?);
                Ok(if once { request.once() } else { request })
            },
            &mut |request| self.http.send(request, MAX_ANSWER, watch),
        );
        match asked {
            Ok(reply) => {
                // Another size under this digest is no blob that could be relied upon.
                let size = header(&reply, "content-length").and_then(|size| size.parse::<u64>().ok());
                let digest = header(&reply, "docker-content-digest").and_then(|digest| digest.parse().ok());
                Ok(match (digest, size) {
                    (Some(digest), size) => {
                        descriptor.digest == digest && size.is_none_or(|size| size == descriptor.size)
                    }
                    // Proxies that want a login answer everything.
                    (None, size) => size == Some(descriptor.size),
                })
            }
            Err(RegistryError::Http(HttpError::Status { answer, .. })) if answer.status == 404 => Ok(false),
            Err(RegistryError::Http(error)) if once && error.may_pass() => Err(error.into()),
            Err(error) => {
                Err(refused(error, endpoint, || format!("say whether it has {}", descriptor.digest)))
            }
        }
    }

    /// Asks for a blob of another repository. What registries cannot do, they answer by an upload.
    fn mount(&self, upload: &mut Upload<'_>, from: &str, watch: &Watch<'_>) -> Result<bool, RegistryError> {
        let digest = upload.blob.descriptor.digest.to_string();
        let query =
            Serializer::new(String::new()).append_pair("mount", &digest).append_pair("from", from).finish();
        let endpoint = upload.call.endpoint;
        let asked = self.ask(
            &upload.call.clone().reading(from),
            watch,
            &|base| {
                let url = url(&format!("{base}{}/blobs/uploads/?{query}", endpoint.name))?;
                Ok(Request::post(url, Payload::bytes("")))
            },
            &mut |request| self.http.send(request, MAX_ANSWER, watch),
        );
        match asked {
            Ok(reply) if reply.status == CREATED => Ok(true),
            Ok(reply) => {
                upload.location = Some(location(endpoint, &reply)?);
                Ok(false)
            }
            Err(error) if error.is_stopped() => Err(error),
            // To borrow is a shortcut: who may not is still allowed to send.
            Err(_) => Ok(false),
        }
    }

    fn try_upload(&self, upload: &mut Upload<'_>, watch: &Watch<'_>) -> Result<Pushed, RegistryError> {
        let endpoint = upload.call.endpoint;
        if upload.tried {
            // The answer alone may have been lost.
            if self.has_blob(endpoint, &upload.blob.descriptor, true, watch)? {
                return Ok(Pushed::Sent);
            }
            self.ask_how_far(upload, watch)?;
        }
        upload.tried = true;
        let size = upload.blob.descriptor.size;
        loop {
            let target = match upload.location.clone() {
                Some(location) => location,
                None => self.begin(upload, watch)?,
            };
            let rest = size - upload.position;
            let last = upload.position == 0 && !upload.in_chunks || rest == 0;
            let length = if upload.in_chunks { rest.min(CHUNK) } else { rest };
            let payload = upload.blob.payload(upload.position, length);
            let request = match last {
                true => Request::put(with_digest(&target, &upload.blob.descriptor.digest)?, payload),
                false => {
                    let range = format!("{}-{}", upload.position, upload.position + length - 1);
                    let range = HeaderValue::from_str(&range).map_err(|_| no_location(endpoint, &target))?;
                    Request::patch(target.clone(), payload).with_header("content-range", range)
                }
            };
            let octets = HeaderValue::from_static("application/octet-stream");
            let request = request.with_header("content-type", octets).once();
            let sent = self.ask(&upload.call, watch, &|_| Ok(request.clone()), &mut |request| {
                self.http.send(request, MAX_ANSWER, watch)
            });
            let reply = match sent {
                Ok(reply) => reply,
                Err(RegistryError::Http(HttpError::Status { answer, url })) => {
                    // The upload is gone, or at another place: what is to be done is up to the next try.
                    if matches!(answer.status, 404 | 416) && upload.location.is_some() {
                        upload.location = None;
                        upload.in_chunks = true;
                        let source = format!("the registry lost the upload ({})", answer.status).into();
                        return Err(HttpError::Network { url, tries: 1, source }.into());
                    }
                    // Too much at once, for the registry or a proxy before it.
                    if answer.status == 413 && length > CHUNK {
                        (upload.location, upload.position, upload.in_chunks) = (None, 0, true);
                        continue;
                    }
                    let digest = upload.blob.descriptor.digest;
                    let error = RegistryError::Http(HttpError::Status { url, answer });
                    return match &error {
                        RegistryError::Http(http) if http.may_pass() => Err(error),
                        _ => Err(refused(error, endpoint, || format!("take the blob {digest}"))),
                    };
                }
                Err(error) => return Err(error),
            };
            if last {
                upload.position = size;
                let found =
                    header(&reply, "docker-content-digest").and_then(|digest| digest.parse::<Digest>().ok());
                return match found {
                    Some(found) if found != upload.blob.descriptor.digest => Err(RegistryError::Digest {
                        url: reply.url.to_string(),
                        expected: upload.blob.descriptor.digest,
                        found,
                    }),
                    _ if reply.status == CREATED => Ok(Pushed::Sent),
                    // Some say so in another way: what counts is whether it is there.
                    _ if self.has_blob(endpoint, &upload.blob.descriptor, false, watch)? => Ok(Pushed::Sent),
                    _ => Err(RegistryError::Protocol {
                        registry: endpoint.registry.clone(),
                        why: format!("it did not keep the blob, but gave {}", shown(&reply)),
                        url: reply.url.to_string(),
                    }),
                };
            }
            upload.position += length;
            upload.location = Some(location(endpoint, &reply)?);
        }
    }

    fn begin(&self, upload: &mut Upload<'_>, watch: &Watch<'_>) -> Result<HttpUrl, RegistryError> {
        let endpoint = upload.call.endpoint;
        let reply = self
            .ask(
                &upload.call,
                watch,
                &|base| {
                    let url = url(&format!("{base}{}/blobs/uploads/", endpoint.name))?;
                    Ok(Request::post(url, Payload::bytes("")).once())
                },
                &mut |request| self.http.send(request, MAX_ANSWER, watch),
            )
            .map_err(|error| match error {
                RegistryError::Http(ref http) if http.may_pass() => error,
                other => refused(other, endpoint, || "begin an upload".to_owned()),
            })?;
        let target = location(endpoint, &reply)?;
        upload.location = Some(target.clone());
        upload.position = 0;
        Ok(target)
    }

    /// After something went wrong: goes on where the registry says that it is, else from the beginning, in parts.
    fn ask_how_far(&self, upload: &mut Upload<'_>, watch: &Watch<'_>) -> Result<(), RegistryError> {
        let Some(target) = upload.location.take() else { return Ok(()) };
        let asked =
            self.ask(&upload.call, watch, &|_| Ok(Request::get(target.clone()).once()), &mut |request| {
                self.http.send(request, MAX_ANSWER, watch)
            });
        let reply = match asked {
            Ok(reply) => reply,
            Err(error) if error.is_stopped() => return Err(error),
            Err(_) => {
                upload.in_chunks = true;
                upload.position = 0;
                return Ok(());
            }
        };
        let taken = header(&reply, "range").and_then(taken).unwrap_or(0);
        upload.in_chunks |= taken == 0;
        if taken <= upload.blob.descriptor.size {
            upload.position = taken;
            upload.location = Some(match header(&reply, "location") {
                Some(_) => location(upload.call.endpoint, &reply)?,
                None => target,
            });
        }
        Ok(())
    }
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply.headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// `Range: 0-N` of an upload, as a number of bytes. `0-0` is what distribution says of an empty one.
fn taken(range: &str) -> Option<u64> {
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (first, last) = range.split_once('-')?;
    let last: u64 = last.parse().ok()?;
    if first != "0" {
        return None;
    }
    if last == 0 { Some(0) } else { last.checked_add(1) }
}

/// Where an upload goes on. Registries behind proxies that end TLS often say `http` for themselves.
fn location(endpoint: &Endpoint, reply: &Reply) -> Result<HttpUrl, RegistryError> {
    let no_location = || {
        let why = format!("it names no place for an upload, but gave {}", shown(reply));
        RegistryError::Protocol { registry: endpoint.registry.clone(), url: reply.url.to_string(), why }
    };
    let text = header(reply, "location").ok_or_else(no_location)?;
    let own = url::Url::parse(reply.url.identity()).map_err(|_| no_location())?;
    let mut joined = own.join(text).map_err(|_| no_location())?;
    if joined.scheme() == "http" && own.scheme() == "https" && joined.host() == own.host() {
        let port = joined.port().filter(|port| *port != 80);
        // An http(s) URL with a host takes both.
        let _ = joined.set_scheme("https");
        let _ = joined.set_port(port.or(own.port()));
    }
    url(joined.as_str())
}

fn no_location(endpoint: &Endpoint, url: &HttpUrl) -> RegistryError {
    RegistryError::Protocol {
        registry: endpoint.registry.clone(),
        url: url.to_string(),
        why: "it names no place for an upload".to_owned(),
    }
}

fn with_digest(target: &HttpUrl, digest: &Digest) -> Result<HttpUrl, RegistryError> {
    let mut parsed =
        url::Url::parse(target.identity()).map_err(|_| HttpError::Setup { why: "no URL".to_owned() })?;
    parsed.query_pairs_mut().append_pair("digest", &digest.to_string());
    url(parsed.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_an_upload_is() {
        for (range, expected) in [
            ("0-0", Some(0)),
            ("0-9", Some(10)),
            ("bytes=0-9", Some(10)),
            ("5-9", None),
            ("", None),
            ("0-", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(taken(range), expected, "{range}");
        }
    }
}
