//! File operations on trees: COPY, mkdir, mkfile, symlink, rm without a byte moved. A directory is grafted by its digest;
//! what an action changes is a delta over a base that is only asked for single paths.

use wbuild_graph::{Copy, FileAction, Owner};
use wbuild_oci::Digest;
use wbuild_tree::{
    BuildError, Entry, EntryPath, Lookup, Meta, Node, ResolveError, Resolved, Subtree, TreeBuilder,
    TreeLoadError, TreeSource, lookup, resolve,
};

/// Why a file operation cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum FileError<E> {
    /// The source of a copy is not there.
    #[error("`{path}` is not there to be copied")]
    NoSource {
        /// The source.
        path: EntryPath,
    },
    /// What is to be removed is not there.
    #[error("`{path}` is not there to be removed")]
    NothingToRemove {
        /// The path.
        path: EntryPath,
    },
    /// A file cannot become a directory's place.
    #[error("`{path}` is a directory; a file cannot take its place")]
    IsDirectory {
        /// The path.
        path: EntryPath,
    },
    /// A directory cannot take a file's place.
    #[error("`{path}` is not a directory; the files of a directory cannot be copied into it")]
    IsNoDirectory {
        /// The path.
        path: EntryPath,
    },
    /// A path leads nowhere.
    #[error(transparent)]
    Resolve(#[from] ResolveError<E>),
    /// The delta cannot be put together.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A tree cannot be loaded.
    #[error(transparent)]
    Load(#[from] TreeLoadError),
    /// A new file's contents cannot be stored.
    #[error("cannot store the contents of `{path}`")]
    Contents {
        /// The new file.
        path: EntryPath,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Keeps the contents of new files.
pub(crate) trait KeepContents {
    /// Stores `bytes` under their digest.
    ///
    /// # Errors
    /// When they cannot be written.
    fn keep(&self, bytes: &[u8]) -> std::io::Result<Digest>;
}

/// Does `actions` on top of `base` and gives the delta. `inputs` are the merged trees that copies take from, by position
/// in the vertex' inputs.
pub(crate) fn perform<L: Lookup>(
    trees: &dyn TreeSource,
    contents: &dyn KeepContents,
    base: &L,
    inputs: &dyn Fn(usize) -> Result<Subtree, L::Error>,
    actions: &[FileAction],
) -> Result<Subtree, FileError<L::Error>> {
    let mut delta = Delta { trees, base, builder: TreeBuilder::new() };
    for action in actions {
        match action {
            FileAction::Copy(copy) => {
                let source = inputs(copy.input).map_err(ResolveError::Lookup)?;
                delta.copy(&source, copy)?;
            }
            FileAction::Mkdir { path, mode, owner } => {
                let meta = Meta::new(*mode).owned_by(owner.uid, owner.gid);
                delta.ensure_directory(path, &meta)?;
            }
            FileAction::Mkfile { path, contents: bytes, mode, owner } => {
                let digest = contents
                    .keep(bytes)
                    .map_err(|source| FileError::Contents { path: path.clone(), source })?;
                let meta = Meta::new(*mode).owned_by(owner.uid, owner.gid);
                delta.put(path, Entry::file(meta, digest, bytes.len() as u64))?;
            }
            FileAction::Symlink { path, target, owner } => {
                let mut entry = Entry::symlink(target.as_bytes());
                entry.meta = entry.meta.owned_by(owner.uid, owner.gid);
                delta.put(path, entry)?;
            }
            FileAction::Remove { path } => delta.remove(path)?,
        }
    }
    Ok(delta.builder.finish())
}

/// A delta in the making, seen as the root file system that results.
struct Delta<'a, L> {
    trees: &'a dyn TreeSource,
    base: &'a L,
    builder: TreeBuilder,
}

impl<L: Lookup> Lookup for Delta<'_, L> {
    type Error = L::Error;

    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, L::Error> {
        // A load error of the delta's own parts shows up when the delta is finished; here it means "look below".
        match self.builder.get(self.trees, path).unwrap_or_default() {
            Some(Entry { node: Node::Whiteout, .. }) => Ok(None),
            Some(entry) => Ok(Some(entry)),
            None if self.hidden(path) => Ok(None),
            None => self.base.entry(path),
        }
    }
}

impl<L: Lookup> Delta<'_, L> {
    /// Whether a parent was removed or replaced by something else than a directory.
    fn hidden(&self, path: &EntryPath) -> bool {
        let mut parent = path.parent();
        while let Some(here) = parent {
            if here.is_root() {
                return false;
            }
            let entry = self.builder.get(self.trees, &here).unwrap_or_default();
            if entry.is_some_and(|entry| !entry.is_directory()) {
                return true;
            }
            parent = here.parent();
        }
        false
    }

    /// Repeats the directories that lead to `path` with the metadata they have; makes the missing ones with `made`.
    fn parents(&mut self, path: &EntryPath, made: &Meta) -> Result<(), FileError<L::Error>> {
        let mut here = EntryPath::root();
        let Some(parent) = path.parent() else { return Ok(()) };
        for name in parent.components() {
            here = here.join(&name);
            if self.builder.get(self.trees, &here)?.is_some_and(|entry| entry.is_directory()) {
                continue;
            }
            let below = self.entry(&here).map_err(ResolveError::Lookup)?;
            let meta = below.filter(Entry::is_directory).map_or_else(|| made.clone(), |entry| entry.meta);
            self.builder.directory(self.trees, &here, meta)?;
        }
        Ok(())
    }

    /// Makes a directory with its parents; one that exists is left as it is.
    fn ensure_directory(&mut self, path: &EntryPath, made: &Meta) -> Result<EntryPath, FileError<L::Error>> {
        let Resolved { path: target, entry } = resolve(self, path, true)?;
        if target.is_root() {
            return Ok(target);
        }
        match entry {
            Some(entry) if entry.is_directory() => {
                self.parents(&target, made)?;
                self.builder.directory(self.trees, &target, entry.meta)?;
            }
            Some(_) => return Err(FileError::IsNoDirectory { path: target }),
            None => {
                self.parents(&target, made)?;
                self.builder.directory(self.trees, &target, made.clone())?;
            }
        }
        Ok(target)
    }

    fn put(&mut self, path: &EntryPath, entry: Entry) -> Result<(), FileError<L::Error>> {
        let Resolved { path: target, entry: existing } = resolve(self, path, true)?;
        if target.is_root() || existing.is_some_and(|existing| existing.is_directory()) {
            return Err(FileError::IsDirectory { path: target });
        }
        self.parents(&target, &Meta::new(0o755))?;
        Ok(self.builder.insert(self.trees, &target, entry)?)
    }

    fn remove(&mut self, path: &EntryPath) -> Result<(), FileError<L::Error>> {
        let Resolved { path: target, entry } = resolve(self, path, false)?;
        if entry.is_none() {
            return Err(FileError::NothingToRemove { path: path.clone() });
        }
        self.builder.remove(self.trees, &target)?;
        if self.base.entry(&target).map_err(ResolveError::Lookup)?.is_some() {
            self.parents(&target, &Meta::new(0o755))?;
            self.builder.insert(self.trees, &target, Entry::whiteout())?;
        }
        Ok(())
    }

    fn copy(&mut self, source: &Subtree, copy: &Copy) -> Result<(), FileError<L::Error>> {
        let found = resolve(&TreeRoot { trees: self.trees, root: source }, &copy.source, true);
        let found = found.map_err(|error| match error {
            ResolveError::Lookup(error) => FileError::Load(error),
            _ => FileError::NoSource { path: copy.source.clone() },
        })?;
        let entry = match found {
            Resolved { path, .. } if path.is_root() => Entry::directory(Meta::new(0o755), source.clone()),
            Resolved { entry: Some(entry), .. } => entry,
            Resolved { path, .. } => return Err(FileError::NoSource { path }),
        };
        let made = copy
            .owner
            .map_or_else(|| Meta::new(0o755), |owner| Meta::new(0o755).owned_by(owner.uid, owner.gid));
        let Some(contents) = entry.contents() else {
            let entry = match copy.owner {
                Some(owner) => {
                    Entry { meta: entry.meta.clone().owned_by(owner.uid, owner.gid), node: entry.node }
                }
                None => entry,
            };
            return self.put(&copy.target, entry);
        };
        let contents = match copy.owner {
            Some(owner) => chown(self.trees, contents, owner)?,
            None => contents.clone(),
        };
        let target = self.ensure_directory(&copy.target, &made)?;
        self.graft(&target, &contents)
    }

    /// Puts everything of `contents` into the directory `target`, over what earlier actions put there.
    fn graft(&mut self, target: &EntryPath, contents: &Subtree) -> Result<(), FileError<L::Error>> {
        for (name, entry) in &contents.open(self.trees)?.entries {
            let path = target.join(name);
            let existing = match self.builder.get(self.trees, &path)? {
                Some(existing) => existing.is_directory(),
                None => false,
            };
            match entry.contents() {
                // Both this and an earlier action have the directory: go down until only one has.
                Some(contents) if existing => {
                    self.builder.directory(self.trees, &path, entry.meta.clone())?;
                    self.graft(&path, contents)?;
                }
                _ => self.builder.insert(self.trees, &path, entry.clone())?,
            }
        }
        Ok(())
    }
}

/// A tree seen as a root.
pub(crate) struct TreeRoot<'a> {
    /// Where it is loaded from.
    pub(crate) trees: &'a dyn TreeSource,
    /// The tree.
    pub(crate) root: &'a Subtree,
}

impl Lookup for TreeRoot<'_> {
    type Error = TreeLoadError;

    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, TreeLoadError> {
        lookup(self.trees, self.root, path)
    }
}

/// The same tree with another owner everywhere.
fn chown(trees: &dyn TreeSource, tree: &Subtree, owner: Owner) -> Result<Subtree, TreeLoadError> {
    let mut directory = wbuild_tree::Directory::clone(&*tree.open(trees)?);
    for entry in directory.entries.values_mut() {
        entry.meta.uid = owner.uid;
        entry.meta.gid = owner.gid;
        if let Node::Directory { contents, .. } = &mut entry.node {
            *contents = chown(trees, contents, owner)?;
        }
    }
    Ok(Subtree::new(directory))
}

#[cfg(test)]
pub(crate) mod tests {
    use wbuild_tree::{MemoryTrees, Visit, walk};

    use super::*;

    pub(crate) struct Hash;

    impl KeepContents for Hash {
        fn keep(&self, bytes: &[u8]) -> std::io::Result<Digest> {
            Ok(Digest::of(bytes))
        }
    }

    pub(crate) fn path(text: &str) -> EntryPath {
        EntryPath::parse(text).unwrap()
    }

    pub(crate) fn file(text: &str) -> Entry {
        Entry::file(Meta::new(0o644), Digest::of(text.as_bytes()), text.len() as u64)
    }

    pub(crate) fn tree(entries: &[(&str, Entry)]) -> Subtree {
        let mut builder = TreeBuilder::new();
        for (text, entry) in entries {
            builder.insert(&MemoryTrees::default(), &path(text), entry.clone()).unwrap();
        }
        builder.finish()
    }

    pub(crate) fn listing(tree: &Subtree) -> Vec<String> {
        let mut lines = Vec::new();
        walk(&MemoryTrees::default(), tree, &mut |path, entry| {
            let kind = match entry.node {
                Node::Directory { .. } => "/",
                Node::Whiteout => " gone",
                _ => "",
            };
            lines.push(format!("{path}{kind} {:o} {}:{}", entry.meta.mode, entry.meta.uid, entry.meta.gid));
            Ok::<_, TreeLoadError>(Visit::Into)
        })
        .unwrap();
        lines
    }

    fn run(base: &Subtree, source: &Subtree, actions: &[FileAction]) -> Result<Vec<String>, String> {
        let trees = MemoryTrees::default();
        let root = TreeRoot { trees: &trees, root: base };
        perform(&trees, &Hash, &root, &|_| Ok(source.clone()), actions)
            .map(|delta| listing(&delta))
            .map_err(|error| error.to_string())
    }

    fn copy(source: &str, target: &str, owner: Option<Owner>) -> FileAction {
        FileAction::Copy(Copy { input: 1, source: path(source), target: path(target), owner })
    }

    #[test]
    fn copies_repeat_the_parents_of_the_base_and_make_missing_ones() {
        let mut app = Entry::directory(Meta::new(0o700), Subtree::empty());
        app.meta.uid = 7;
        let base = tree(&[("app", app), ("srv", Entry::symlink("/app"))]);
        let source = tree(&[("dist/a.js", file("a")), ("dist/sub/b.js", file("b"))]);
        let owner = Some(Owner { uid: 1001, gid: 1002 });
        assert_eq!(
            run(&base, &source, &[copy("dist", "srv/web/out", owner)]).unwrap(),
            [
                "/app/ 700 7:0",
                "/app/web/ 755 1001:1002",
                "/app/web/out/ 755 1001:1002",
                "/app/web/out/a.js 644 1001:1002",
                "/app/web/out/sub/ 755 1001:1002",
                "/app/web/out/sub/b.js 644 1001:1002"
            ]
        );
    }

    #[test]
    fn later_actions_merge_into_earlier_ones() {
        let source = tree(&[("x/a", file("1")), ("y/a", file("2")), ("y/b/c", file("3"))]);
        let actions = [copy("x", "to", None), copy("y", "to", None), copy("x", "to/b", None)];
        assert_eq!(
            run(&Subtree::empty(), &source, &actions).unwrap(),
            ["/to/ 755 0:0", "/to/a 644 0:0", "/to/b/ 755 0:0", "/to/b/a 644 0:0", "/to/b/c 644 0:0"]
        );
    }

    #[test]
    fn removing_leaves_a_mark_only_over_the_base() {
        let base = tree(&[("etc/motd", file("x"))]);
        let new = FileAction::Mkfile {
            path: path("tmp/x"),
            contents: vec![],
            mode: 0o600,
            owner: Owner::default(),
        };
        let actions =
            [new, FileAction::Remove { path: path("tmp/x") }, FileAction::Remove { path: path("etc/motd") }];
        assert_eq!(
            run(&base, &Subtree::empty(), &actions).unwrap(),
            ["/etc/ 755 0:0", "/etc/motd gone 0 0:0", "/tmp/ 755 0:0"]
        );
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let base = tree(&[("etc/motd", file("x"))]);
        let source = tree(&[("d/f", file("x")), ("f", file("y"))]);
        let failing = |action| run(&base, &source, &[action]).unwrap_err();
        assert_eq!(failing(copy("nope", "x", None)), "`/nope` is not there to be copied");
        assert_eq!(
            failing(copy("d", "etc/motd", None)),
            "`/etc/motd` is not a directory; the files of a directory cannot be copied into it"
        );
        assert_eq!(failing(copy("f", "etc", None)), "`/etc` is a directory; a file cannot take its place");
    }
}
