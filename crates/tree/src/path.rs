use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why bytes are no name or path of an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Empty, `.`, `..`, or with a slash.
    #[error("`{}` is not a file name", text.escape_debug())]
    Name {
        /// The bytes, made printable.
        text: String,
    },
    /// A NUL byte, which no file system can hold.
    #[error("`{}` contains a NUL byte", text.escape_debug())]
    Nul {
        /// The bytes, made printable.
        text: String,
    },
    /// A `..` that would leave the root.
    #[error("`{}` leads outside of its root", text.escape_debug())]
    Escapes {
        /// The bytes, made printable.
        text: String,
    },
}

fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}

/// The name of one entry in a directory: any bytes except NUL and `/`, and never empty, `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// When the bytes are no file name.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.contains(&0) {
            return Err(PathError::Nul { text: printable(&bytes) });
        }
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(PathError::Name { text: printable(&bytes) });
        }
        Ok(Self(bytes.into_boxed_slice()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As the operating system takes it.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// A path inside a root: relative, normalised, without `.`, `..`, doubled or trailing slashes. The root itself is the
/// empty path. Ordered by components, so that a directory comes directly before everything in it.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct EntryPath(Box<[u8]>);

impl EntryPath {
    /// The root itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// Reads a path as seen from inside the root: leading slashes mean the root, `.` and doubled slashes vanish, `..`
    /// goes up and is refused where it would leave the root.
    ///
    /// # Errors
    /// When it leaves the root or contains NUL.
    pub fn parse(bytes: impl AsRef<[u8]>) -> Result<Self, PathError> {
        Self::normalise(bytes.as_ref(), false)
    }

    /// As [`parse`](Self::parse), but `..` at the root stays at the root, as the kernel does for a chroot.
    ///
    /// # Errors
    /// When it contains NUL.
    pub fn rooted(bytes: impl AsRef<[u8]>) -> Result<Self, PathError> {
        Self::normalise(bytes.as_ref(), true)
    }

    fn normalise(bytes: &[u8], clamp: bool) -> Result<Self, PathError> {
        if bytes.contains(&0) {
            return Err(PathError::Nul { text: printable(bytes) });
        }
        let mut out: Vec<u8> = Vec::with_capacity(bytes.len());
        for part in bytes.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." if out.is_empty() => {
                    if !clamp {
                        return Err(PathError::Escapes { text: printable(bytes) });
                    }
                }
                b".." => {
                    let cut = out.iter().rposition(|b| *b == b'/').unwrap_or(0);
                    out.truncate(cut);
                }
                part => {
                    if !out.is_empty() {
                        out.push(b'/');
                    }
                    out.extend_from_slice(part);
                }
            }
        }
        Ok(Self(out.into_boxed_slice()))
    }

    /// The bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// One level down.
    #[must_use]
    pub fn join(&self, name: &Name) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.0.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(&name.0);
        Self(bytes.into_boxed_slice())
    }

    /// Both in a row.
    #[must_use]
    pub fn join_path(&self, below: &Self) -> Self {
        match (self.is_root(), below.is_root()) {
            (true, _) => below.clone(),
            (_, true) => self.clone(),
            _ => Self([&self.0, &b"/"[..], &below.0].concat().into_boxed_slice()),
        }
    }

    /// The components from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = Name> + Clone + '_ {
        self.0.split(|b| *b == b'/').filter(|part| !part.is_empty()).map(|part| Name(part.into()))
    }

    /// Parent and name; `None` for the root.
    pub fn split_last(&self) -> Option<(Self, Name)> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(cut) => Some((Self(self.0[..cut].into()), Name(self.0[cut + 1..].into()))),
            None => Some((Self::root(), Name(self.0.clone()))),
        }
    }

    /// The parent; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        self.split_last().map(|(parent, _)| parent)
    }

    /// What remains of `self` below `ancestor`; `None` when it is not below it. A path is below itself.
    pub fn strip_prefix(&self, ancestor: &Self) -> Option<Self> {
        if ancestor.is_root() {
            return Some(self.clone());
        }
        let rest = self.0.strip_prefix(&*ancestor.0)?;
        match rest {
            [] => Some(Self::root()),
            [b'/', rest @ ..] => Some(Self(rest.into())),
            _ => None,
        }
    }

    /// Whether `self` is `ancestor` or lies below it.
    pub fn starts_with(&self, ancestor: &Self) -> bool {
        self.strip_prefix(ancestor).is_some()
    }

    /// Relative, for joining to a folder on disk.
    pub fn to_path_buf(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.0.to_vec()))
    }
}

impl PartialOrd for EntryPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for EntryPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // `/` sorts before every other byte of a name; NUL cannot occur.
        let key = |b: &u8| if *b == b'/' { 0 } else { *b };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }
}

/// With a leading slash, as seen from inside the root.
impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// As text with a leading slash; bytes that are no UTF-8 are written `\xNN`, and a backslash `\\`.
impl Serialize for EntryPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::from("/");
        for chunk in self.0.utf8_chunks() {
            text.push_str(&chunk.valid().replace('\\', "\\\\"));
            for byte in chunk.invalid() {
                text.push_str(&format!("\\x{byte:02x}"));
            }
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for EntryPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((first, tail)) = rest.split_first() {
            match (first, tail) {
                (b'\\', [b'\\', tail @ ..]) => {
                    bytes.push(b'\\');
                    rest = tail;
                }
                (b'\\', [b'x', high, low, tail @ ..]) => {
                    let digits = [*high, *low];
                    let byte =
                        std::str::from_utf8(&digits).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                    bytes.push(byte.ok_or_else(|| serde::de::Error::custom("bad escape in a path"))?);
                    rest = tail;
                }
                (b'\\', _) => return Err(serde::de::Error::custom("bad escape in a path")),
                (byte, tail) => {
                    bytes.push(*byte);
                    rest = tail;
                }
            }
        }
        Self::parse(bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_and_never_leave_the_root() {
        for (text, expected) in
            [("", "/"), ("/", "/"), ("a//b/./c/", "/a/b/c"), ("/a/../b", "/b"), ("a/..", "/"), ("./x", "/x")]
        {
            assert_eq!(EntryPath::parse(text).unwrap().to_string(), expected, "{text}");
        }
        for text in ["..", "../x", "a/../../b"] {
            assert!(matches!(EntryPath::parse(text), Err(PathError::Escapes { .. })), "{text}");
        }
        assert_eq!(EntryPath::rooted("../../x").unwrap().to_string(), "/x");
        assert!(matches!(EntryPath::parse("a\0b"), Err(PathError::Nul { .. })));
        for text in ["", ".", "..", "a/b", "a\0"] {
            assert!(Name::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_directory_sorts_directly_before_its_contents() {
        let mut paths: Vec<EntryPath> = ["a.b", "a", "a/c", "a-b", "a/b/d", "b"]
            .iter()
            .map(|text| EntryPath::parse(text).unwrap())
            .collect();
        paths.sort();
        let sorted: Vec<String> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(sorted, ["/a", "/a/b/d", "/a/c", "/a-b", "/a.b", "/b"]);
    }

    #[test]
    fn prefixes_are_whole_components() {
        let path = |text: &str| EntryPath::parse(text).unwrap();
        assert_eq!(path("a/b/c").strip_prefix(&path("a")), Some(path("b/c")));
        assert_eq!(path("ab").strip_prefix(&path("a")), None);
        assert_eq!(path("a").strip_prefix(&path("a")), Some(EntryPath::root()));
        assert_eq!(path("a").strip_prefix(&EntryPath::root()), Some(path("a")));
    }

    proptest::proptest! {
        #[test]
        fn serialised_paths_come_back(bytes in proptest::collection::vec(1_u8.., 0..40)) {
            let path = EntryPath::rooted(&bytes).unwrap();
            let text = serde_json::to_string(&path).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<EntryPath>(&text).unwrap(), path);
        }
    }
}
