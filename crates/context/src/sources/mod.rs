//! What the sources of COPY and ADD name: a path, a wildcard, or a `--parents` pattern. Pure; who looks for the files, in a
//! listing or in a tree, asks these.

mod parents;
mod wildcard;

use wbuild_tree::{EntryPath, PathError};

pub use parents::Parents;
pub use wildcard::Wildcard;

use crate::ignore::PatternError;

/// A source, cleaned and compiled.
#[derive(Clone, Debug)]
pub enum SourcePattern {
    /// Exactly this. Links on the way and the last one are followed inside of the root.
    Path(EntryPath),
    /// Everything in a directory that matches. Links to the directory are followed, and links that match; none between.
    Wildcard {
        /// The part before the first wildcard.
        below: EntryPath,
        /// The rest.
        wildcard: Wildcard,
    },
    /// Everything that matches, with the directories that it lies in.
    Parents(Box<Parents>),
}

/// Why a source cannot be looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It is no pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// It is no path.
    #[error(transparent)]
    Path(#[from] PathError),
}

impl wbuild_report::Hint for SourceError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Pattern(error) => error.hints(),
            Self::Path(_) => Vec::new(),
        }
    }
}

impl SourcePattern {
    /// A path, whatever it is made of.
    ///
    /// # Errors
    /// When no file can have it.
    pub fn path(text: &str) -> Result<Self, SourceError> {
        Ok(Self::Path(EntryPath::rooted(text)?))
    }

    /// A path in which `*`, `?` and `[` may stand for more, as Go's `filepath.Match` has it. Without any it is a path.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn wildcard(text: &str) -> Result<Self, SourceError> {
        let path = EntryPath::rooted(text)?;
        let names: Vec<_> = path.components().collect();
        let Some(first) = names.iter().position(|name| Wildcard::is_in(name.as_bytes())) else {
            return Ok(Self::Path(path));
        };
        let below = names[..first].iter().fold(EntryPath::root(), |path, name| path.join(name));
        let rest: Vec<&[u8]> = names[first..].iter().map(wbuild_tree::Name::as_bytes).collect();
        Ok(Self::Wildcard { below, wildcard: Wildcard::new(&rest.join(&b'/'))? })
    }

    /// A pattern of `COPY --parents`.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parents(text: &str) -> Result<Self, SourceError> {
        Ok(Self::Parents(Box::new(Parents::new(text)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Y01, Y05: rooted, cleaned on the text, and cut at the first wildcard.
    #[test]
    fn sources_are_rooted_and_cut_at_the_first_wildcard() {
        for (text, expected) in [
            ("a", "/a"),
            ("/a", "/a"),
            ("../../x/../a/", "/a"),
            ("", "/"),
            (".", "/"),
            ("a*", "/ + a*"),
            ("./d/*/x.txt", "/d + */x.txt"),
            ("d/../e/[ab]", "/e + [ab]"),
            ("d/a\\*b", "/d/a\\*b"),
        ] {
            let found = match SourcePattern::wildcard(text).unwrap() {
                SourcePattern::Path(path) => path.to_string(),
                SourcePattern::Wildcard { below, wildcard } => format!("{below} + {wildcard}"),
                SourcePattern::Parents(_) => unreachable!(),
            };
            assert_eq!(found, expected, "{text}");
        }
        assert!(matches!(SourcePattern::wildcard("a["), Err(SourceError::Pattern(_))));
        assert!(matches!(SourcePattern::path("a\0"), Err(SourceError::Path(_))));
    }
}
