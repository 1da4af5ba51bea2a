use std::collections::VecDeque;

use crate::entry::{Entry, Node};
use crate::path::{EntryPath, Name};

/// Links followed before giving up; the kernel's own limit.
pub const MAX_SYMLINKS: usize = 40;

/// A root file system that can be asked for single entries, whatever it is made of.
pub trait Lookup {
    /// Why an entry could not be looked up.
    type Error;

    /// The entry at `path`, following no links. `None` when there is none, or a parent is no directory. The root is
    /// never asked for.
    ///
    /// # Errors
    /// When that cannot be found out; never for "not there".
    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, Self::Error>;
}

/// Where a path leads inside its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The path without links; its last components may not exist.
    pub path: EntryPath,
    /// What is there. `None` for the root itself and for what does not exist: see [`Self::exists`].
    pub entry: Option<Entry>,
}

impl Resolved {
    /// Whether there is something: the root always is.
    pub fn exists(&self) -> bool {
        self.path.is_root() || self.entry.is_some()
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.path.is_root() || self.entry.as_ref().is_some_and(Entry::is_directory)
    }
}

/// Why a path leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError<E> {
    /// A loop, or a chain longer than [`MAX_SYMLINKS`].
    #[error("`{path}` goes through more than {MAX_SYMLINKS} symbolic links")]
    TooManyLinks {
        /// The path asked for.
        path: EntryPath,
    },
    /// A parent exists and is something else than a directory.
    #[error("`{path}` cannot be reached: `{parent}` is not a directory")]
    NotADirectory {
        /// The path asked for.
        path: EntryPath,
        /// What is in the way.
        parent: EntryPath,
    },
    /// The lookup failed.
    #[error(transparent)]
    Lookup(E),
}

/// Follows `path` inside the root as a process chrooted there would: absolute link targets start at the root, `..` stops
/// there. What does not exist is not followed further, so a path to be made resolves to where it will be. The last
/// component's own link is followed only with `follow_last`.
///
/// # Errors
/// See [`ResolveError`].
pub fn resolve<L: Lookup + ?Sized>(
    root: &L,
    path: &EntryPath,
    follow_last: bool,
) -> Result<Resolved, ResolveError<L::Error>> {
    let mut here = Resolved { path: EntryPath::root(), entry: None };
    let mut pending: VecDeque<Vec<u8>> = path.components().map(|name| name.as_bytes().to_vec()).collect();
    let mut links = 0;
    while let Some(part) = pending.pop_front() {
        if part == b"." || part.is_empty() {
            continue;
        }
        if part == b".." {
            let parent = here.path.parent().unwrap_or_default();
            let entry =
                if parent.is_root() { None } else { root.entry(&parent).map_err(ResolveError::Lookup)? };
            here = Resolved { path: parent, entry };
            continue;
        }
        if here.exists() && !here.is_directory() {
            return Err(ResolveError::NotADirectory { path: path.clone(), parent: here.path });
        }
        let Ok(name) = Name::new(part) else { continue };
        let next = here.path.join(&name);
        let entry = if here.exists() { root.entry(&next).map_err(ResolveError::Lookup)? } else { None };
        match entry.as_ref().map(|entry| &entry.node) {
            Some(Node::Symlink { target }) if follow_last || !pending.is_empty() => {
                links += 1;
                if links > MAX_SYMLINKS {
                    return Err(ResolveError::TooManyLinks { path: path.clone() });
                }
                for part in target.split(|b| *b == b'/').rev() {
                    pending.push_front(part.to_vec());
                }
                if target.starts_with(b"/") {
                    here = Resolved { path: EntryPath::root(), entry: None };
                }
            }
            _ => here = Resolved { path: next, entry },
        }
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::{MemoryTrees, Meta, Subtree, TreeBuilder, lookup};

    struct Root(Subtree);

    impl Lookup for Root {
        type Error = Infallible;
        fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, Infallible> {
            Ok(lookup(&MemoryTrees::default(), &self.0, path).unwrap())
        }
    }

    fn root(links: &[(&str, &str)]) -> Root {
        let mut builder = TreeBuilder::new();
        let none = MemoryTrees::default();
        for directory in ["usr/bin", "etc"] {
            builder.directory(&none, &EntryPath::parse(directory).unwrap(), Meta::new(0o755)).unwrap();
        }
        for (path, target) in links {
            builder.insert(&none, &EntryPath::parse(path).unwrap(), Entry::symlink(*target)).unwrap();
        }
        Root(builder.finish())
    }

    #[test]
    fn links_stay_inside() {
        let root = root(&[
            ("bin", "usr/bin"),
            ("abs", "/usr"),
            ("up", "../../../etc"),
            ("usr/self", "."),
            ("dead", "/no/where"),
        ]);
        let to =
            |path: &str| resolve(&root, &EntryPath::parse(path).unwrap(), true).unwrap().path.to_string();
        assert_eq!(to("bin/sh"), "/usr/bin/sh");
        assert_eq!(to("abs/self/self/bin"), "/usr/bin");
        assert_eq!(to("up/passwd"), "/etc/passwd");
        assert_eq!(to("dead/x"), "/no/where/x");
        assert_eq!(to(""), "/");
        let last = resolve(&root, &EntryPath::parse("bin").unwrap(), false).unwrap();
        assert!(matches!(last.entry.unwrap().node, Node::Symlink { .. }));
    }

    #[test]
    fn loops_end() {
        let root = root(&[("a", "b"), ("b", "a")]);
        let error = resolve(&root, &EntryPath::parse("a/x").unwrap(), true).unwrap_err();
        assert!(matches!(error, ResolveError::TooManyLinks { .. }));
    }
}
