//! What the sources of COPY and ADD are in a root: paths, wildcards and `--parents` patterns, less what is excluded. The same
//! for keys, which ask trees, and for the copy itself.

use std::collections::BTreeSet;

use wbuild_context::{
    DirectoryVerdict, IgnoreRules, Inherited, Parents, SourceError, SourcePattern, Wildcard,
};
use wbuild_graph::Pattern;
use wbuild_tree::{
    Directory, Entry, EntryPath, Meta, Name, Node, ResolveError, Subtree, Time, TreeLoadError, TreeSource,
};

use super::links;
use super::origin::Origin;
use super::rewrite::{Step, rewrite};

/// One thing that a source is.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    /// Where it is, links followed.
    pub(crate) path: EntryPath,
    /// What it is called in a directory.
    pub(crate) name: Option<Name>,
    /// What it is.
    pub(crate) what: What,
}

/// What is taken.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Something else than a directory, alone.
    File(Entry),
    /// What is in a directory.
    Directory {
        /// Its last modification; the root has none.
        mtime: Option<Time>,
        /// Without what is left out. Links are those among these files.
        contents: Subtree,
        /// The directories in it that are only there for what is in them.
        passed: BTreeSet<EntryPath>,
    },
}

/// Why a source cannot be taken.
#[derive(Debug)]
pub(crate) enum TakeError<E> {
    /// It is not there.
    Missing {
        /// What should be.
        path: EntryPath,
        /// Where its links lead.
        reached: EntryPath,
    },
    /// It, or an exclusion, is malformed.
    Pattern {
        /// As written.
        text: String,
        /// Why.
        source: SourceError,
    },
    /// The way to it cannot be followed.
    Resolve(ResolveError<E>),
    /// A tree of it cannot be loaded.
    Load(TreeLoadError),
}

impl<E> From<TreeLoadError> for TakeError<E> {
    fn from(error: TreeLoadError) -> Self {
        Self::Load(error)
    }
}

/// What is left out of sources, ready to be asked.
#[derive(Debug)]
pub(crate) struct Excludes {
    rules: IgnoreRules,
    /// From this depth on nothing new can match, if that is known.
    depth: Option<usize>,
}

impl Excludes {
    /// Compiles patterns of `--exclude`: those of ignore files, of which a leading slash stays, so that it never matches.
    pub(crate) fn new<E>(patterns: &[String]) -> Result<Self, TakeError<E>> {
        let rules = IgnoreRules::from_patterns(patterns).map_err(|(index, error)| TakeError::Pattern {
            text: patterns[index].clone(),
            source: error.into(),
        })?;
        let depths = rules.patterns().iter().map(|pattern| {
            let text = pattern.text();
            let unsure = text.windows(2).any(|two| two == b"**") || text.iter().any(|b| b"[\\".contains(b));
            (!unsure).then(|| text.split(|b| *b == b'/').count())
        });
        let depth = depths.collect::<Option<Vec<_>>>().map(|depths| depths.into_iter().max().unwrap_or(0));
        Ok(Self { rules, depth })
    }

    /// A source that is a file goes by its own name or by its path.
    fn leave_out(&self, path: &EntryPath) -> bool {
        let name = path.split_last().map(|(_, name)| name);
        self.rules.excludes(path.as_bytes()) || name.is_some_and(|name| self.rules.excludes(name.as_bytes()))
    }
}

/// Compiles a pattern of the graph.
pub(crate) fn compile(pattern: &Pattern) -> Result<SourcePattern, SourceError> {
    match pattern {
        Pattern::Literal(text) => SourcePattern::path(text),
        Pattern::Wildcard(text) => SourcePattern::wildcard(text),
        Pattern::Parents(text) => SourcePattern::parents(text),
    }
}

/// What `pattern` means in `origin`, in the order in which it is copied.
pub(crate) fn take<O: Origin + ?Sized>(
    trees: &dyn TreeSource,
    origin: &O,
    pattern: &Pattern,
    excludes: &Excludes,
) -> Result<Vec<Taken>, TakeError<O::Error>> {
    let taker = Taker { trees, origin, excludes };
    let (Pattern::Literal(text) | Pattern::Wildcard(text) | Pattern::Parents(text)) = pattern;
    let compiled = compile(pattern).map_err(|source| TakeError::Pattern { text: text.clone(), source })?;
    let found = match compiled {
        SourcePattern::Parents(parents) => {
            let mut included = false;
            let mut taken = Vec::new();
            for (asked, reached) in taker.find(parents.pivot())? {
                taken.extend(taker.with_parents(&asked, reached, &parents, &mut included)?);
            }
            match parents.required() {
                Some(path) if !included => {
                    return Err(TakeError::Missing { path: path.clone(), reached: path.clone() });
                }
                _ => taken,
            }
        }
        pattern => {
            let mut taken = Vec::new();
            for (asked, reached) in taker.find(&pattern)? {
                taken.extend(taker.whole(&asked, reached)?);
            }
            taken
        }
    };
    Ok(found)
}

struct Taker<'a, O: ?Sized> {
    trees: &'a dyn TreeSource,
    origin: &'a O,
    excludes: &'a Excludes,
}

/// What is known of a directory while its contents are looked through.
#[derive(Clone)]
struct Level {
    /// `None` when all of it is included.
    include: Option<Inherited>,
    exclude: Inherited,
}

/// What is kept of an entry.
enum Kept {
    Nothing,
    /// As it is.
    Whole,
    /// What is in it has to be looked through.
    Part {
        /// It is kept whatever is in it.
        itself: bool,
        level: Level,
    },
}

impl<O: Origin + ?Sized> Taker<'_, O> {
    /// The paths that a source names, each as it was found and where its links lead.
    fn find(&self, pattern: &SourcePattern) -> Result<Vec<(EntryPath, EntryPath)>, TakeError<O::Error>> {
        match pattern {
            SourcePattern::Path(path) => Ok(vec![(path.clone(), self.follow(path)?)]),
            SourcePattern::Wildcard { below, wildcard } => {
                let top = self.follow(below)?;
                self.matching(&top, wildcard)?
                    .into_iter()
                    .map(|path| {
                        let reached = self.follow(&path)?;
                        Ok((path, reached))
                    })
                    .collect()
            }
            SourcePattern::Parents(_) => Ok(Vec::new()),
        }
    }

    fn follow(&self, path: &EntryPath) -> Result<EntryPath, TakeError<O::Error>> {
        let missing = |reached: EntryPath| TakeError::Missing { path: path.clone(), reached };
        match self.origin.resolve(path) {
            Ok(resolved) if resolved.exists() => Ok(resolved.path),
            Ok(resolved) => Err(missing(resolved.path)),
            Err(ResolveError::NotADirectory { .. }) => Err(missing(path.clone())),
            Err(error) => Err(TakeError::Resolve(error)),
        }
    }

    /// What matches below `top`, in the order of names.
    fn matching(&self, top: &EntryPath, wildcard: &Wildcard) -> Result<Vec<EntryPath>, TakeError<O::Error>> {
        let names = |below: &EntryPath| {
            let names = self.origin.names(&top.join_path(below));
            names.map(Vec::into_iter).map_err(|error| TakeError::Resolve(ResolveError::Lookup(error)))
        };
        let mut found = Vec::new();
        let mut stack = vec![(EntryPath::root(), names(&EntryPath::root())?)];
        while let Some((below, mut rest)) = stack.pop() {
            let Some((name, is_directory)) = rest.next() else { continue };
            let path = below.join(&name);
            stack.push((below, rest));
            if wildcard.matches(path.as_bytes()) {
                found.push(top.join_path(&path));
            } else if is_directory && wildcard.leads_to(path.as_bytes()) {
                let inside = names(&path)?;
                stack.push((path, inside));
            }
        }
        Ok(found)
    }

    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, TakeError<O::Error>> {
        self.origin.entry(path).map_err(|error| TakeError::Resolve(ResolveError::Lookup(error)))
    }

    /// A file, or all of a directory that is not excluded.
    fn whole(&self, asked: &EntryPath, reached: EntryPath) -> Result<Option<Taken>, TakeError<O::Error>> {
        let Some(entry) = self.entry(&reached)? else {
            return Err(TakeError::Missing { path: asked.clone(), reached });
        };
        let name = asked.split_last().map(|(_, name)| name);
        let Some(contents) = entry.contents() else {
            let excluded = self.excludes.leave_out(asked);
            let what = What::File(alone(entry));
            return Ok((!excluded).then_some(Taken { path: reached, name, what }));
        };
        let level = Level { include: None, exclude: self.excludes.rules.root() };
        let mut passed = BTreeSet::new();
        let contents = if self.excludes.rules.is_empty() {
            contents.clone()
        } else {
            self.sieve(contents, &EntryPath::root(), &level, None, &mut passed, &mut false)?
        };
        Ok(Some(self.directory(reached, name, entry.meta.mtime, &contents, passed)?))
    }

    fn directory(
        &self,
        path: EntryPath,
        name: Option<Name>,
        mtime: Time,
        contents: &Subtree,
        passed: BTreeSet<EntryPath>,
    ) -> Result<Taken, TakeError<O::Error>> {
        let mtime = (!path.is_root()).then_some(mtime);
        let contents = links::renumbered(self.trees, contents)?;
        Ok(Taken { path, name, what: What::Directory { mtime, contents, passed } })
    }

    /// What is included in a directory, and the directories that it lies in.
    fn with_parents(
        &self,
        asked: &EntryPath,
        pivot: EntryPath,
        parents: &Parents,
        included: &mut bool,
    ) -> Result<Option<Taken>, TakeError<O::Error>> {
        let lookup = |error| TakeError::Resolve(ResolveError::Lookup(error));
        let Some(top) = self.origin.directory(&pivot).map_err(lookup)? else {
            *included = true;
            return self.whole(asked, pivot);
        };
        let mut level = Level { include: Some(parents.rules().root()), exclude: self.excludes.rules.root() };
        // Where the pattern names the way, nothing else need be looked at: it may be a whole base image.
        let mut way: Vec<(Name, Meta)> = Vec::new();
        let mut here = EntryPath::root();
        let mut contents = Some(());
        for name in parents.way() {
            let below = here.join(name);
            let Some(meta) = self.origin.directory(&pivot.join_path(&below)).map_err(lookup)? else {
                contents = None;
                break;
            };
            let Kept::Part { level: next, .. } = self.judge(&level, &below, true, Some(parents), included)
            else {
                contents = None;
                break;
            };
            way.push((name.clone(), meta));
            (here, level) = (below, next);
        }
        let mut passed = BTreeSet::new();
        let found = match contents {
            Some(()) => self.entry(&pivot.join_path(&here))?,
            None => None,
        };
        let mut tree = match found.as_ref().and_then(Entry::contents) {
            Some(contents) => self.sieve(contents, &here, &level, Some(parents), &mut passed, included)?,
            None => Subtree::empty(),
        };
        if !tree.is_empty() {
            for (name, meta) in way.into_iter().rev() {
                passed.insert(here.clone());
                here = here.parent().unwrap_or_default();
                let entry = Entry::directory(meta, tree);
                tree = Subtree::new(Directory { entries: [(name, entry)].into() });
            }
        }
        let name = asked.split_last().map(|(_, name)| name);
        Ok(Some(self.directory(pivot, name, top.mtime, &tree, passed)?))
    }

    /// What becomes of the entry at `path`, relative to the directory that is taken.
    fn judge(
        &self,
        level: &Level,
        path: &EntryPath,
        is_directory: bool,
        parents: Option<&Parents>,
        included: &mut bool,
    ) -> Kept {
        let bytes = path.as_bytes();
        if !is_directory {
            let wanted = match (&level.include, parents) {
                (Some(inherited), Some(parents)) => parents.rules().excludes_file(inherited, bytes),
                _ => true,
            };
            *included |= wanted;
            let kept = wanted && !self.excludes.rules.excludes_file(&level.exclude, bytes);
            return if kept { Kept::Whole } else { Kept::Nothing };
        }
        let include = match (&level.include, parents) {
            (Some(inherited), Some(parents)) => {
                let (verdict, handed_down) = parents.rules().directory(inherited, bytes);
                (verdict == DirectoryVerdict::Taken).then_some(handed_down)
            }
            _ => None,
        };
        let wanted = include.is_none();
        *included |= wanted;
        if !wanted && !parents.is_some_and(|parents| parents.leads_to(bytes)) {
            return Kept::Nothing;
        }
        let (verdict, exclude) = self.excludes.rules.directory(&level.exclude, bytes);
        if verdict == DirectoryVerdict::Pruned {
            return Kept::Nothing;
        }
        let itself = wanted && verdict == DirectoryVerdict::Taken;
        let settled = self.excludes.depth.is_some_and(|depth| path.components().count() >= depth);
        if itself && settled { Kept::Whole } else { Kept::Part { itself, level: Level { include, exclude } } }
    }

    /// The tree without what is left out. A directory that is not wanted itself stays for what is in it.
    fn sieve(
        &self,
        contents: &Subtree,
        path: &EntryPath,
        level: &Level,
        parents: Option<&Parents>,
        passed: &mut BTreeSet<EntryPath>,
        included: &mut bool,
    ) -> Result<Subtree, TreeLoadError> {
        /// A directory that is being looked through.
        struct Here {
            path: EntryPath,
            level: Level,
            itself: bool,
        }
        let top = Here { path: path.clone(), level: level.clone(), itself: true };
        let mut step = |here: &Here, name: &Name, entry: &Entry| {
            let path = here.path.join(name);
            Ok(match self.judge(&here.level, &path, entry.is_directory(), parents, included) {
                Kept::Nothing => Step::Drop,
                Kept::Whole => Step::Keep(entry.clone()),
                Kept::Part { itself, level } => {
                    Step::Into { directory: entry.clone(), state: Here { path, level, itself } }
                }
            })
        };
        let mut stays = |here: &Here, contents: &Subtree| {
            if here.itself {
                return true;
            }
            !contents.is_empty() && passed.insert(here.path.clone())
        };
        rewrite(self.trees, contents, top, &mut step, &mut stays)
    }
}

/// A file by itself is nobody's other name.
fn alone(mut entry: Entry) -> Entry {
    if let Node::File { link, .. } = &mut entry.node {
        *link = None;
    }
    entry
}
