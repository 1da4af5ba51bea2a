//! How a process and its helpers talk: length-prefixed JSON over a stream, and file names that need not be UTF-8.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A frame larger than this is a fault, not a request: 500 layers and a full environment stay below one megabyte,
/// secrets are at most 500 KiB each.
const MAX_FRAME: u64 = 64 << 20;

/// Writes one frame with a single `write`, so that frames of two processes on one socket do not mix.
pub(crate) fn send<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    let body = serde_json::to_vec(value)?;
    let mut frame = Vec::with_capacity(body.len() + 8);
    frame.extend_from_slice(&(body.len() as u64).to_le_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame)
}

/// Reads one frame; `None` at the end of the stream.
pub(crate) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 8];
    let mut filled = 0;
    while filled < length.len() {
        match from.read(&mut length[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut body = vec![0; frame_length(length)?];
    from.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

fn frame_length(bytes: [u8; 8]) -> io::Result<usize> {
    let length = u64::from_le_bytes(bytes);
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "oversized frame from a helper process"));
    }
    usize::try_from(length).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Takes frames out of bytes that arrive in pieces.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    pending: Vec<u8>,
}

impl Frames {
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some((length, rest)) = self.pending.split_first_chunk::<8>() else { return Ok(None) };
        let length = frame_length(*length)?;
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let value = serde_json::from_slice(body)?;
        self.pending.drain(..8 + length);
        Ok(Some(value))
    }
}

/// Bytes of a name: a JSON string where they are UTF-8, else an array of numbers.
struct Name(Vec<u8>);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_seq(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Name;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or an array of bytes")
            }
            fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                Ok(Name(text.as_bytes().to_vec()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Name, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(Name(bytes))
            }
        }
        deserializer.deserialize_any(Bytes)
    }
}

fn name(of: &OsStr) -> Name {
    Name(of.as_bytes().to_vec())
}

fn os(name: Name) -> OsString {
    OsString::from_vec(name.0)
}

/// `#[serde(with)]` for a [`PathBuf`].
pub(crate) mod path {
    use super::{Deserialize, Deserializer, Name, PathBuf, Serialize, Serializer, name, os};

    pub(crate) fn serialize<S: Serializer>(path: &std::path::Path, serializer: S) -> Result<S::Ok, S::Error> {
        name(path.as_os_str()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Name::deserialize(deserializer).map(|name| os(name).into())
    }
}

/// `#[serde(with)]` for an optional [`PathBuf`].
pub(crate) mod optional_path {
    use super::{Deserialize, Deserializer, Name, PathBuf, Serialize, Serializer, name, os};

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(|path| name(path.as_os_str())).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Name>::deserialize(deserializer)?.map(|name| os(name).into()))
    }
}

/// `#[serde(with)]` for a list of names, [`OsString`] or [`PathBuf`].
pub(crate) mod names {
    use super::{Deserialize, Deserializer, Name, OsStr, OsString, Serializer, name, os};

    pub(crate) fn serialize<T: AsRef<OsStr>, S: Serializer>(
        names: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(names.iter().map(|item| name(item.as_ref())))
    }

    pub(crate) fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        Ok(Vec::<Name>::deserialize(deserializer)?.into_iter().map(|name| os(name).into()).collect())
    }
}

/// `#[serde(with)]` for an environment.
pub(crate) mod variables {
    use super::{Deserialize, Deserializer, Name, OsString, Serializer, name, os};

    pub(crate) fn serialize<S: Serializer>(
        env: &[(OsString, OsString)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(env.iter().map(|(key, value)| (name(key), name(value))))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(OsString, OsString)>, D::Error> {
        let pairs = Vec::<(Name, Name)>::deserialize(deserializer)?;
        Ok(pairs.into_iter().map(|(key, value)| (os(key), os(value))).collect())
    }
}

/// `#[serde(with)]` for an error number.
pub(crate) mod errno {
    use super::{Deserialize, Deserializer, Serialize, Serializer};
    use rustix::io::Errno;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(errno: &Errno, serializer: S) -> Result<S::Ok, S::Error> {
        errno.raw_os_error().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Errno, D::Error> {
        i32::deserialize(deserializer).map(Errno::from_raw_os_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Message {
        #[serde(with = "path")]
        path: PathBuf,
        #[serde(with = "optional_path")]
        maybe: Option<PathBuf>,
        #[serde(with = "variables")]
        env: Vec<(OsString, OsString)>,
        #[serde(with = "names")]
        argv: Vec<OsString>,
    }

    fn message() -> Message {
        let odd = OsString::from_vec(vec![b'/', 0xff, 0xfe]);
        Message {
            path: odd.clone().into(),
            maybe: Some("/ä".into()),
            env: vec![("A".into(), odd.clone())],
            argv: vec![odd, "plain".into()],
        }
    }

    #[test]
    fn names_that_are_not_text_survive() {
        let mut bytes = Vec::new();
        send(&mut bytes, &message()).unwrap();
        assert_eq!(receive::<Message>(&mut bytes.as_slice()).unwrap(), Some(message()));
    }

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let mut bytes = Vec::new();
        send(&mut bytes, &message()).unwrap();
        send(&mut bytes, &message()).unwrap();
        let mut frames = Frames::default();
        let mut count = 0;
        for byte in bytes {
            frames.feed(&[byte]);
            while let Some(got) = frames.next::<Message>().unwrap() {
                assert_eq!(got, message());
                count += 1;
            }
        }
        assert_eq!(count, 2);
    }

    #[test]
    fn a_truncated_frame_is_an_error_and_an_absurd_one_too() {
        let mut bytes = Vec::new();
        send(&mut bytes, &message()).unwrap();
        bytes.pop();
        assert!(receive::<Message>(&mut bytes.as_slice()).is_err());
        assert!(receive::<Message>(&mut u64::MAX.to_le_bytes().as_slice()).is_err());
        assert_eq!(receive::<Message>(&mut [].as_slice()).unwrap(), None);
    }
}
