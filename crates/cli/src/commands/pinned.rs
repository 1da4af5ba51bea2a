//! `wbuild.lock`: which digests the tags of base images stand for. Written with `--pin`, honoured by every build after it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wbuild_engine::{Engine, EngineError, Pulling, registry_client};
use wbuild_image::OutputFile;
use wbuild_oci::Digest;
use wbuild_report::Hint;

use super::{Failure, Session, WriteError};
use crate::args::PullingArgs;

/// The file's name.
const FILE: &str = "wbuild.lock";

/// Larger ones are no list of images.
const MAX_BYTES: u64 = 1 << 20;

const HEADER: &str =
    "# Which digests the tags of base images stand for. `--pin` writes this file, `--pull --pin` anew.\n";

/// What the file says.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lock {
    version: u32,
    #[serde(default)]
    images: BTreeMap<String, Digest>,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use `{}`: {why}", path.display())]
struct BadLock {
    path: PathBuf,
    why: String,
}

impl Hint for BadLock {
    fn hints(&self) -> Vec<String> {
        vec!["remove it, and let --pin write it anew".to_owned()]
    }
}

/// The lock of a build.
#[derive(Debug)]
pub(crate) struct Pins {
    path: PathBuf,
    pinned: BTreeMap<String, Digest>,
}

impl Pins {
    /// Reads the lock file of a folder, if there is one.
    pub(crate) fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(FILE);
        let bad = |why: String| Failure::new(BadLock { path: path.clone(), why });
        let text = match std::fs::metadata(&path) {
            Ok(found) if found.len() > MAX_BYTES => return Err(bad("it is too large".to_owned())),
            Ok(_) => std::fs::read_to_string(&path).map_err(|error| bad(error.to_string()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { path, pinned: BTreeMap::new() });
            }
            Err(error) => return Err(bad(error.to_string())),
        };
        let lock: Lock = toml::from_str(&text).map_err(|error| bad(error.message().to_owned()))?;
        match lock.version {
            1 => Ok(Self { path, pinned: lock.images }),
            other => Err(bad(format!("it has the version {other}, and only 1 is known"))),
        }
    }

    /// Lets a session take base images from registries.
    pub(crate) fn apply(
        &self,
        engine: &mut Engine,
        args: &PullingArgs,
        session: &Session,
    ) -> Result<(), EngineError> {
        let client = registry_client(&session.variable)?;
        let pins = if args.pull { BTreeMap::new() } else { self.pinned.clone() };
        engine.pull_from(Pulling { client, offline: args.offline, pins });
        Ok(())
    }

    /// Writes what the names of this build stood for beside what was known; names that it did not use stay.
    pub(crate) fn write(mut self, engine: &Engine) -> Result<String, Failure> {
        self.pinned.extend(engine.resolved_images());
        let lock = Lock { version: 1, images: self.pinned };
        let count = lock.images.len();
        let failed = |source| Failure::new(WriteError { path: self.path.clone(), source });
        let text = toml::to_string(&lock).map_err(|error| failed(std::io::Error::other(error)))?;
        let mut file = OutputFile::create(&self.path).map_err(failed)?;
        file.write_all(HEADER.as_bytes()).and_then(|()| file.write_all(text.as_bytes())).map_err(failed)?;
        file.commit().map_err(failed)?;
        let images = if count == 1 { "1 image".to_owned() } else { format!("{count} images") };
        Ok(format!("pinned {images} in {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_read_back_and_nonsense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Pins::read(folder.path()).unwrap().pinned.is_empty());
        let path = folder.path().join(FILE);
        let digest = Digest::of(b"x");
        let text = format!("{HEADER}version = 1\n\n[images]\n\"docker.io/library/node:22\" = \"{digest}\"\n");
        std::fs::write(&path, &text).unwrap();
        let pins = Pins::read(folder.path()).unwrap();
        assert_eq!(pins.pinned, BTreeMap::from([("docker.io/library/node:22".to_owned(), digest)]));
        let lock = Lock { version: 1, images: pins.pinned };
        assert_eq!(format!("{HEADER}{}", toml::to_string(&lock).unwrap()), text);
        for wrong in
            ["", "version = 2", "version = 1\nimage = {}", "version = 1\n[images]\na = \"sha256:12\""]
        {
            std::fs::write(&path, wrong).unwrap();
            assert!(Pins::read(folder.path()).is_err(), "{wrong}");
        }
    }
}
