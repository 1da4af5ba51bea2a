use std::fmt;

use wbuild_report::Hint;

/// The longest path that is accepted; what Linux takes.
const MAX_LENGTH: usize = 4096;

/// A path inside the root of the workspace: normalised (`a/b`, no `.`, no `..`, no empty part), separated by `/`.
///
/// The root itself is the empty path and prints as `.`, as pnpm writes it. There is no other way to make one than
/// through [`RelPath::new`] and [`RelPath::join`], so a value of this type never leaves the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RelPath(String);

/// Why a path in a file of the user is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It starts at the file system's root, or at a drive.
    #[error("`{path}` is an absolute path")]
    Absolute {
        /// As written.
        path: String,
    },
    /// Its `..` climb out of the workspace.
    #[error("`{path}` leaves the workspace root (from `{base}`)")]
    LeavesRoot {
        /// As written.
        path: String,
        /// The directory it was resolved from.
        base: RelPath,
    },
    /// It holds a byte that no path may hold, or is longer than a path may be.
    #[error("`{}` is not a usable path", path.escape_debug())]
    Malformed {
        /// As written.
        path: String,
    },
}

impl Hint for PathError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Absolute { .. } => vec!["write it relative to the file it stands in".to_owned()],
            Self::LeavesRoot { .. } => {
                vec!["everything a build uses lies inside the workspace root; move it there".to_owned()]
            }
            Self::Malformed { .. } => Vec::new(),
        }
    }
}

impl RelPath {
    /// The root of the workspace.
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// The path `text`, taken from the root.
    pub fn new(text: &str) -> Result<Self, PathError> {
        Self::root().join(text)
    }

    /// The path `text`, taken from this directory.
    pub fn join(&self, text: &str) -> Result<Self, PathError> {
        if text.starts_with('/') || is_drive(text) {
            return Err(PathError::Absolute { path: text.to_owned() });
        }
        if text.contains('\0') || text.len() + self.0.len() >= MAX_LENGTH {
            return Err(PathError::Malformed { path: text.chars().take(200).collect() });
        }
        let mut joined = self.0.clone();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    if joined.is_empty() {
                        return Err(PathError::LeavesRoot { path: text.to_owned(), base: self.clone() });
                    }
                    joined.truncate(joined.rfind('/').unwrap_or(0));
                }
                name => {
                    if !joined.is_empty() {
                        joined.push('/');
                    }
                    joined.push_str(name);
                }
            }
        }
        Ok(Self(joined))
    }

    /// The child `name` of this directory, where `name` is one part that came from a file listing.
    pub(crate) fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}/{name}", self.0)) }
    }

    /// The path as text; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The last part; `None` for the root.
    pub fn name(&self) -> Option<&str> {
        self.0.rsplit('/').next().filter(|name| !name.is_empty())
    }

    /// The directory that holds it; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(Self(self.0[..self.0.rfind('/').unwrap_or(0)].to_owned()))
    }

    /// Whether it is `directory` or lies below it.
    pub fn is_within(&self, directory: &Self) -> bool {
        self.below(directory).is_some()
    }

    /// The part of this path after `directory`, or `None` when it lies elsewhere. Empty when they are the same.
    pub fn below<'a>(&'a self, directory: &Self) -> Option<&'a str> {
        if directory.is_root() {
            return Some(&self.0);
        }
        let rest = self.0.strip_prefix(directory.as_str())?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
    }

    /// How to write this path from `directory`, with `..` where needed; `.` when they are the same.
    pub fn relative_to(&self, directory: &Self) -> String {
        let from: Vec<&str> = directory.parts().collect();
        let to: Vec<&str> = self.parts().collect();
        let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        let mut out = vec![".."; from.len() - shared];
        out.extend(&to[shared..]);
        if out.is_empty() { ".".to_owned() } else { out.join("/") }
    }

    /// The names between the slashes.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }
}

/// `C:\…` and `C:/…`, which are absolute where they come from.
fn is_drive(text: &str) -> bool {
    matches!(text.as_bytes(), [letter, b':', b'/' | b'\\', ..] if letter.is_ascii_alphabetic())
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "." } else { &self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_and_stay_inside() {
        for (base, text, expected) in [
            ("", "apps/web", Some("apps/web")),
            ("", "./apps//web/", Some("apps/web")),
            ("apps/web", "../../packages/ui", Some("packages/ui")),
            ("apps/web", "../..", Some("")),
            ("apps/web", "../../..", None),
            ("apps/web", "../../../root/apps", None),
            ("", "..", None),
            ("", "/etc/passwd", None),
            ("", "C:/x", None),
            ("", "a\0b", None),
        ] {
            let joined = RelPath::new(base).unwrap().join(text);
            assert_eq!(joined.as_ref().ok().map(RelPath::as_str), expected, "{base} + {text}");
        }
    }

    #[test]
    fn below_needs_a_whole_part() {
        let ui = RelPath::new("packages/ui").unwrap();
        assert_eq!(RelPath::new("packages/ui/src/a.ts").unwrap().below(&ui), Some("src/a.ts"));
        assert_eq!(RelPath::new("packages/ui-kit/a.ts").unwrap().below(&ui), None);
        assert_eq!(ui.below(&ui), Some(""));
    }

    #[test]
    fn relative_paths_climb_where_needed() {
        let web = RelPath::new("apps/web").unwrap();
        assert_eq!(RelPath::new("packages/ui").unwrap().relative_to(&web), "../../packages/ui");
        assert_eq!(web.relative_to(&web), ".");
        assert_eq!(web.relative_to(&RelPath::root()), "apps/web");
    }
}
