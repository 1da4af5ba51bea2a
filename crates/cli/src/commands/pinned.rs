//! `wbuild.lock`: which digests the tags of base images stand for. Written with `--pin`, honoured by every build after it.
//! `buildspec/registries.md` has the format.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wbuild_engine::{Asking, Engine, Pins, Pulling};
use wbuild_image::OutputFile;
use wbuild_oci::{Digest, Reference};
use wbuild_report::Hint;

use super::{Failure, Session, WriteError};
use crate::args::PullingArgs;

/// The file's name.
const FILE: &str = "wbuild.lock";

/// Larger ones are no list of images.
const MAX_BYTES: u64 = 1 << 20;

const HEADER: &str = "# Which digests the tags of base images stand for. Builds use these, whatever a registry has by now;\n\
                      # `--pin` adds what is not here yet, `--pull --pin` writes it anew.\n\
                      version = 1\n\n[images]\n";

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    #[serde(default)]
    images: BTreeMap<String, String>,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
enum LockError {
    /// It cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It is no TOML, or says something that no lock file says.
    #[error("`{}` is no lock file of wbuild", path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    /// An entry makes no sense.
    #[error("`{}`: `{}`: {why}", path.display(), name.escape_debug())]
    Entry { path: PathBuf, name: String, why: String },
}

impl Hint for LockError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Read { .. } => Vec::new(),
            Self::Malformed { .. } | Self::Entry { .. } => {
                vec!["remove it and build with `--pin`: that writes it anew".to_owned()]
            }
        }
    }
}

/// The lock of a build.
#[derive(Debug)]
pub(crate) struct Lock {
    pins: Pins,
}

impl Lock {
    /// Reads the lock file of a folder, if there is one.
    pub(crate) fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(FILE);
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
        let pins = match read {
            Ok(_) if text.len() as u64 > MAX_BYTES => {
                let why = format!("it has more than {MAX_BYTES} bytes");
                let source = io::Error::new(io::ErrorKind::FileTooLarge, why);
                Err(LockError::Read { path, source })
            }
            Ok(_) => parse(&text, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Pins { file: path, names: BTreeMap::new() })
            }
            Err(source) => Err(LockError::Read { path, source }),
        };
        Ok(Self { pins: pins.map_err(Failure::new)? })
    }

    /// That of a build whose files are in no folder of this machine: there is none, and none can be written.
    pub(crate) fn nowhere(args: &PullingArgs) -> Result<Self, Failure> {
        match args.pin {
            true => Err(Failure::usage(
                format!("`--pin` writes {FILE} into the context, which is no folder of this machine"),
                "check it out, and build the folder",
            )),
            false => Ok(Self { pins: Pins::default() }),
        }
    }

    /// Lets a session take base images from registries.
    pub(crate) fn apply(
        &self,
        engine: &mut Engine,
        args: &PullingArgs,
        session: &Session,
    ) -> Result<(), Failure> {
        let asking = match (args.pull, args.offline) {
            (true, true) => {
                return Err(Failure::usage(
                    "`--pull` asks registries, and `--offline` asks none",
                    "leave one of them out; WBUILD_OFFLINE is the same as --offline",
                ));
            }
            (true, false) => Asking::Always,
            (false, true) => Asking::Never,
            (false, false) => Asking::Usual,
        };
        engine.pull_from(Pulling {
            asking,
            pins: self.pins.clone(),
            pinning: args.pin,
            variable: session.variable,
            cancellation: session.cancellation.clone(),
        });
        Ok(())
    }

    /// Writes what the names of this build stood for beside what was known; names that it did not use stay.
    pub(crate) fn write(mut self, engine: &Engine) -> Result<String, Failure> {
        let path = self.pins.file.display().to_string();
        let before = self.pins.names.clone();
        self.pins.names.extend(engine.resolved_images());
        if self.pins.names == before && self.pins.file.exists() {
            return Ok(format!("{path} pins the base images as they are"));
        }
        let failed = |source| Failure::new(WriteError { path: self.pins.file.clone(), source });
        let mut file = OutputFile::create(&self.pins.file).map_err(failed)?;
        file.write_all(written(&self.pins.names).as_bytes()).map_err(failed)?;
        file.commit().map_err(failed)?;
        let count = self.pins.names.len();
        let images = if count == 1 { "1 image".to_owned() } else { format!("{count} images") };
        Ok(format!("pinned {images} in {path}"))
    }
}

fn parse(text: &str, path: &Path) -> Result<Pins, LockError> {
    let file = path.to_owned();
    let Text { version, images } = match toml::from_str(text) {
        Ok(text) => text,
        Err(source) => return Err(LockError::Malformed { path: file, source: Box::new(source) }),
    };
    let wrong =
        |name: &str, why: String| LockError::Entry { path: path.to_owned(), name: name.to_owned(), why };
    if version != 1 {
        return Err(wrong("version", format!("{version} is not known here; there is 1")));
    }
    let mut names = BTreeMap::new();
    for (name, digest) in &images {
        // However it is written: `docker.io/library/node:22` is `node:22`.
        let reference: Reference =
            name.parse().map_err(|error: wbuild_oci::ReferenceParseError| wrong(name, error.to_string()))?;
        if reference.digest.is_some() {
            return Err(wrong(name, "it has a digest already".to_owned()));
        }
        let digest: Digest =
            digest.parse().map_err(|error: wbuild_oci::DigestParseError| wrong(name, error.to_string()))?;
        if names.insert(reference, digest).is_some_and(|other| other != digest) {
            return Err(wrong(name, "the same image stands here with another digest".to_owned()));
        }
    }
    Ok(Pins { file, names })
}

fn written(names: &BTreeMap<Reference, Digest>) -> String {
    // A name has no character that would have to be escaped.
    let line = |(name, digest): (&Reference, &Digest)| format!("\"{}\" = \"{digest}\"\n", name.familiar());
    let mut lines: Vec<String> = names.iter().map(line).collect();
    lines.sort();
    format!("{HEADER}{}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Lock::read(folder.path()).unwrap().pins.names.is_empty());
        let mut names = BTreeMap::new();
        for name in ["node:22", "localhost:5000/team/a", "team/b:1"] {
            names.insert(name.parse().unwrap(), Digest::of(name.as_bytes()));
        }
        std::fs::write(folder.path().join(FILE), written(&names)).unwrap();
        assert_eq!(Lock::read(folder.path()).unwrap().pins.names, names);
        let long: Reference = "docker.io/library/node:22".parse().unwrap();
        assert_eq!(names.get(&long), Some(&Digest::of(b"node:22")));
    }

    #[test]
    fn what_makes_no_sense() {
        let parse = |text: &str| parse(text, Path::new("wbuild.lock")).unwrap_err().to_string();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        for text in [
            "version = 1\n[images]\n\"Node\" = \"x\"",
            "version = 1\n[images]\n\"node\" = \"sha256:1\"",
            "version = 2",
            &format!("version = 1\n[images]\nnode = \"{one}\"\n\"node:latest\" = \"{two}\""),
        ] {
            assert!(parse(text).starts_with("`wbuild.lock`: "), "{}", parse(text));
        }
        for text in ["", "version = 1\nimage = 2", "{"] {
            assert_eq!(parse(text), "`wbuild.lock` is no lock file of wbuild");
        }
    }
}
