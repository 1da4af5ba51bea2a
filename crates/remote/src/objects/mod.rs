//! Objects in buckets: S3 and what speaks like it, Google Cloud Storage, Azure's blob storage.

mod connection;

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    BackoffConfig, GetOptions, GetRange, GetResult, GetResultPayload, ObjectStoreExt, PutMode, PutOptions,
    PutPayload, RetryConfig, UpdateVersion,
};
use tokio::time::timeout;

use crate::http::{HttpError, HttpOptions, Sink, connections};
use crate::runtime::block_on;
use connection::Connections;

/// Larger files are sent in parts of this size, so that no more than one part is in memory.
const PART: u64 = 16 << 20;

/// One request that sends something has this long.
const UPLOAD: Duration = Duration::from_secs(120);

/// Of what a service says when it refuses, so much is shown.
const MAX_MESSAGE: usize = 600;

/// Whose objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectService {
    /// S3, or a server that speaks like it.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure's blob storage.
    Azure,
}

/// Why an object was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// What was given to reach the service is not usable.
    #[error("{0}")]
    Setup(String),
    /// There is no such object.
    #[error("there is no `{0}`")]
    Missing(String),
    /// It is larger than it may be.
    #[error("`{key}` is larger than {limit} bytes")]
    TooLarge {
        /// Which.
        key: String,
        /// The limit.
        limit: u64,
    },
    /// Connections could not be set up.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The service refused, or did not answer as it should.
    #[error("`{key}`: {why}")]
    Service {
        /// Which object.
        key: String,
        /// What it said, without secrets.
        why: String,
    },
    /// No answer in time.
    #[error("`{key}`: no answer in {seconds} seconds")]
    Late {
        /// Which object.
        key: String,
        /// The time that it had.
        seconds: u64,
    },
    /// A file that is to be sent, or the place where an object goes.
    #[error("`{key}`: {source}")]
    Local {
        /// Which object.
        key: String,
        /// Why.
        source: io::Error,
    },
}

/// Which content an object had when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(UpdateVersion);

/// A bucket, or a container. Every call blocks, in bounded time.
#[derive(Clone)]
pub struct ObjectStore {
    store: Arc<dyn object_store::ObjectStore>,
    stall: Duration,
}

impl fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStore").finish_non_exhaustive()
    }
}

impl ObjectStore {
    /// The bucket that `settings` name, by the names that `object_store` has for them (`aws_access_key_id` …). Connects only
    /// when it is asked for something.
    ///
    /// # Errors
    /// When a setting is missing or malformed; which, without its value.
    pub fn new(
        service: ObjectService,
        settings: &[(&'static str, String)],
        http: &HttpOptions,
    ) -> Result<Self, ObjectError> {
        let stall = http.retry.stall;
        let connections = Connections { client: connections(http, None)?, stall, upload: UPLOAD };
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: http.retry.first_wait,
                max_backoff: http.retry.longest_wait,
                base: 2.0,
            },
            max_retries: http.retry.tries.saturating_sub(1) as usize,
            retry_timeout: 3 * stall,
        };
        let unknown = |name: &str| ObjectError::Setup(format!("`{name}` is no setting"));
        let setup = |error: object_store::Error| ObjectError::Setup(shown(&error));
        macro_rules! store {
            ($builder:ident) => {{
                let mut builder = $builder::new().with_retry(retry).with_http_connector(connections);
                for (name, value) in settings {
                    builder = builder.with_config(name.parse().map_err(|_| unknown(name))?, value);
                }
                Arc::new(builder.build().map_err(setup)?)
            }};
        }
        let store: Arc<dyn object_store::ObjectStore> = match service {
            ObjectService::S3 => store!(AmazonS3Builder),
            ObjectService::Gcs => store!(GoogleCloudStorageBuilder),
            ObjectService::Azure => store!(MicrosoftAzureBuilder),
        };
        Ok(Self { store, stall })
    }

    /// Longer than all its tries, which have limits of their own.
    fn run<T>(
        &self,
        key: &str,
        limit: Duration,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, ObjectError> {
        match block_on(async { timeout(limit, work).await }) {
            Ok(result) => result.map_err(|error| failed(key, &error)),
            Err(_) => Err(ObjectError::Late { key: key.to_owned(), seconds: limit.as_secs() }),
        }
    }

    fn get(&self, key: &str, options: GetOptions) -> Result<GetResult, ObjectError> {
        self.run(key, 6 * self.stall, self.store.get_opts(&Path::from(key), options))
    }

    /// Hands over the bytes as they come.
    fn each_chunk(
        &self,
        key: &str,
        got: GetResult,
        mut chunk: impl FnMut(&[u8]) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        let GetResultPayload::Stream(mut stream) = got.payload;
        loop {
            let next = async { poll_fn(|context| stream.as_mut().poll_next(context)).await.transpose() };
            match self.run(key, 3 * self.stall, next)? {
                Some(bytes) => chunk(&bytes)?,
                None => return Ok(()),
            }
        }
    }

    fn bounded(&self, key: &str, got: GetResult, limit: u64) -> Result<Vec<u8>, ObjectError> {
        let mut all = Vec::new();
        self.each_chunk(key, got, |bytes| {
            if all.len() as u64 + bytes.len() as u64 > limit {
                return Err(ObjectError::TooLarge { key: key.to_owned(), limit });
            }
            all.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(all)
    }

    /// An object of at most `limit` bytes.
    ///
    /// # Errors
    /// When there is none, it is larger, or it cannot be had.
    pub fn read(&self, key: &str, limit: u64) -> Result<(Vec<u8>, Version), ObjectError> {
        let got = self.get(key, GetOptions::default())?;
        let version =
            Version(UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() });
        Ok((self.bounded(key, got, limit)?, version))
    }

    /// The bytes of an object from one offset to another; fewer when it ends before.
    ///
    /// # Errors
    /// When there is none, or it cannot be had.
    pub fn part(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let limit = range.end.saturating_sub(range.start);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let got = self.get(key, options)?;
        self.bounded(key, got, limit)
    }

    /// All of an object of at most `limit` bytes, into `sink`.
    ///
    /// # Errors
    /// When there is none, it is larger, it cannot be had or the sink does not take it; then the sink has part of it.
    pub fn download(&self, key: &str, limit: u64, sink: &mut dyn Sink) -> Result<(), ObjectError> {
        let got = self.get(key, GetOptions::default())?;
        let mut left = limit;
        self.each_chunk(key, got, |bytes| {
            let rest = left.checked_sub(bytes.len() as u64);
            left = rest.ok_or_else(|| ObjectError::TooLarge { key: key.to_owned(), limit })?;
            sink.write(bytes).map_err(|source| ObjectError::Local { key: key.to_owned(), source })
        })
    }

    /// How large an object is; `None` when there is none.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn size(&self, key: &str) -> Result<Option<u64>, ObjectError> {
        match self.get(key, GetOptions { head: true, ..GetOptions::default() }) {
            Ok(found) => Ok(Some(found.meta.size)),
            Err(ObjectError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores a file; nobody sees part of it.
    ///
    /// # Errors
    /// When it cannot be read or stored.
    pub fn put_file(&self, key: &str, path: &FilePath, size: u64) -> Result<(), ObjectError> {
        let local = |source| ObjectError::Local { key: key.to_owned(), source };
        let mut file = std::fs::File::open(path).map_err(local)?;
        let mut next = || {
            let mut bytes = Vec::new();
            (&mut file).take(PART).read_to_end(&mut bytes).map(|_| PutPayload::from(bytes)).map_err(local)
        };
        let (limit, place) = (3 * UPLOAD, Path::from(key));
        if size <= PART {
            return self.run(key, limit, self.store.put(&place, next()?)).map(|_| ());
        }
        let mut upload = self.run(key, limit, self.store.put_multipart(&place))?;
        let mut send = || {
            for _ in 0..size.div_ceil(PART) {
                let part = upload.put_part(next()?);
                self.run(key, limit, part)?;
            }
            self.run(key, limit, upload.complete()).map(|_| ())
        };
        let sent = send();
        if sent.is_err() {
            // Parts that belong to nothing cost money. What cannot be taken back is the service's to clean up.
            let _ = self.run(key, self.stall, upload.abort());
        }
        sent
    }

    /// Stores an object in place of the version that was read, or of none. `false` when it is another one by now.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn replace(&self, key: &str, bytes: &[u8], version: Option<Version>) -> Result<bool, ObjectError> {
        let mode = match version {
            Some(Version(version)) => PutMode::Update(version),
            None => PutMode::Create,
        };
        let put = |mode: PutMode| {
            let options = PutOptions { mode, ..PutOptions::default() };
            let (place, payload) = (Path::from(key), PutPayload::from(bytes.to_vec()));
            let work = self.store.put_opts(&place, payload, options);
            block_on(async { timeout(3 * UPLOAD, work).await })
        };
        let late = |_| ObjectError::Late { key: key.to_owned(), seconds: (3 * UPLOAD).as_secs() };
        match put(mode).map_err(late)? {
            Ok(_) => Ok(true),
            Err(object_store::Error::Precondition { .. } | object_store::Error::AlreadyExists { .. }) => {
                Ok(false)
            }
            // Servers that know no conditions: then the last one wins.
            Err(object_store::Error::NotImplemented { .. }) => match put(PutMode::Overwrite).map_err(late)? {
                Ok(_) => Ok(true),
                Err(error) => Err(failed(key, &error)),
            },
            Err(error) => Err(failed(key, &error)),
        }
    }
}

fn failed(key: &str, error: &object_store::Error) -> ObjectError {
    match error {
        object_store::Error::NotFound { .. } => ObjectError::Missing(key.to_owned()),
        error => ObjectError::Service { key: key.to_owned(), why: shown(error) },
    }
}

/// An error in one line: without queries of URLs, which can hold signatures, and without what a service says at length.
fn shown(error: &object_store::Error) -> String {
    let text = error.to_string();
    let mut short = String::new();
    let mut query = false;
    for c in text.chars() {
        query = match c {
            '?' => true,
            _ if c.is_whitespace() || "\"`')>".contains(c) => false,
            _ => query,
        };
        if !query {
            short.push(if c.is_control() { ' ' } else { c });
        }
    }
    if let Some((end, _)) = short.char_indices().nth(MAX_MESSAGE) {
        short.truncate(end);
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_not_shown() {
        let source = "got 403 for https://h/c/k?sig=s3cret&x=1 (try \"a?sig=s3cret\")\nand more".into();
        let error = object_store::Error::Generic { store: "x", source };
        assert_eq!(shown(&error), "Generic x error: got 403 for https://h/c/k (try \"a\") and more");
        let long = object_store::Error::Generic { store: "x", source: "y".repeat(1000).into() };
        assert_eq!(shown(&long).chars().count(), MAX_MESSAGE + 1);
    }

    #[test]
    fn settings_are_checked() {
        let http = HttpOptions::default();
        let error = ObjectStore::new(ObjectService::S3, &[("nonsense", "x".into())], &http).unwrap_err();
        assert_eq!(error.to_string(), "`nonsense` is no setting");
        assert!(ObjectStore::new(ObjectService::S3, &[], &http).is_err());
    }
}
