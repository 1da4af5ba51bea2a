//! What the inputs of a vertex are to file operations: roots that are looked into as far as they are copied, and no further.

use std::io::{self, Read};

use wbuild_context::ContextError;
use wbuild_graph::{DeltaId, Op, Snapshot, Source};
use wbuild_oci::Digest;
use wbuild_report::nearest;
use wbuild_snapshot::{Mtimes, View, disk_face, tree_face};
use wbuild_solver::RunContext;
use wbuild_store::Store;
use wbuild_tree::{
    Entry, EntryPath, Lookup, Meta, Name, ResolveError, Resolved, Subtree, TreeBuilder, apply, lookup,
    resolve,
};

use crate::error::EngineError;
use crate::faces::is_denied;
use crate::files::{ContentStore, Inputs, Missing, Origin};
use crate::worker::Engine;

/// passwd and group are never larger.
pub(crate) const MAX_ACCOUNT_FILE: u64 = 1 << 20;

impl Engine {
    /// A snapshot to put a delta on, whose directories have their true owners.
    pub(crate) fn base(&self, snapshot: &Snapshot) -> Result<BaseRoot, EngineError> {
        for delta in &snapshot.deltas {
            // Where this machine could not set owners, only the tree of a step has them.
            if let DeltaId::Exec(_) = delta
                && tree_face(&self.store, delta)?.is_none()
                && let Some(folder) = disk_face(&self.store, delta, self.disk(Mtimes::Tree))?
                && !self.kept_owners(delta, &folder)?.is_empty()
            {
                self.tree_face(delta)?;
            }
        }
        Ok(BaseRoot(self.view(snapshot)?))
    }

    /// Does something that looks into snapshots. Directories that a step closed may stand in the way; then the trees of all
    /// steps are made, for which the files are read where they can be, and it is done again.
    pub(crate) fn looking_into<T>(
        &self,
        snapshots: &[Snapshot],
        mut action: impl FnMut() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        match action() {
            Err(EngineError::Snapshot(error)) if is_denied(&error) => {
                for delta in snapshots.iter().flat_map(|snapshot| &snapshot.deltas) {
                    if let DeltaId::Exec(_) = delta {
                        self.tree_face(delta)?;
                    }
                }
                action()
            }
            other => other,
        }
    }
}

/// A root file system that answers with this crate's errors. It says what files are, and nothing about their contents.
pub(crate) struct BaseRoot(View);

impl Lookup for BaseRoot {
    type Error = EngineError;

    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, EngineError> {
        Ok(self.0.outline().entry(path)?)
    }
}

/// The store as the place of contents.
pub(crate) struct StoreContents<'a>(pub(crate) &'a Store);

impl ContentStore for StoreContents<'_> {
    fn keep(&self, bytes: &[u8]) -> io::Result<Digest> {
        self.0.put_bytes(bytes).map_err(io::Error::other)
    }

    fn keep_from(&self, source: &mut dyn Read) -> io::Result<Digest> {
        let mut writer = self.0.blob_writer().map_err(io::Error::other)?;
        io::copy(source, &mut writer)?;
        Ok(writer.finish(None).map_err(io::Error::other)?.0)
    }

    fn open(&self, content: &Digest) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.0.open_blob(content).map_err(io::Error::other)?.reader()))
    }
}

/// The inputs of the vertex that runs.
pub(crate) struct StepInputs<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) context: &'a RunContext<'a>,
}

impl Inputs for StepInputs<'_> {
    type Error = EngineError;

    fn tree(&self, input: usize) -> Result<Subtree, EngineError> {
        self.engine.merged(&self.context.inputs[input])
    }

    fn origin(&self, input: usize) -> Result<Box<dyn Origin<Error = EngineError> + '_>, EngineError> {
        Ok(Box::new(Stack::new(self.engine, &self.context.inputs[input])?))
    }

    fn missing(&self, input: usize, path: &EntryPath) -> Result<Missing, EngineError> {
        let vertex = self.context.graph.vertex(self.context.vertex.inputs[input]);
        if let Op::Source(Source::Local { context, .. }) = &vertex.op
            && let ContextError::NotFound { ignored_by, nearest, .. } =
                self.engine.context(context)?.listing().not_found(path)
        {
            let place = match context.as_str() {
                "" => "the build context".to_owned(),
                name => format!("the context `{name}`"),
            };
            return Ok(Missing { place, ignored: ignored_by.map(|ignored| ignored.to_string()), nearest });
        }
        let place = match &vertex.op {
            Op::Source(Source::Image(image)) => format!("the image `{}`", image.reference),
            Op::Source(_) => format!("what `{}` brought", vertex.name),
            _ => format!("the result of `{}`", vertex.name),
        };
        let mut missing = Missing { place, ..Missing::default() };
        let Some((parent, name)) = path.split_last() else { return Ok(missing) };
        let names = self.origin(input)?.names(&parent)?;
        let names: Vec<String> = names.into_iter().map(|(name, _)| name.to_string()).collect();
        missing.nearest = nearest(&name.to_string(), names.iter().map(String::as_str))
            .into_iter()
            .filter_map(|name| Some(parent.join(&Name::new(name).ok()?).to_string()))
            .collect();
        Ok(missing)
    }

    fn text(&self, input: usize, path: &str) -> Result<Option<String>, EngineError> {
        let view = self.engine.view(&self.context.inputs[input])?;
        self.engine.account_file(&view, path)
    }
}

/// For actions that take nothing from anywhere.
pub(crate) struct NoInputs;

impl Inputs for NoInputs {
    type Error = EngineError;

    fn tree(&self, _: usize) -> Result<Subtree, EngineError> {
        Ok(Subtree::empty())
    }

    fn origin(&self, input: usize) -> Result<Box<dyn Origin<Error = EngineError> + '_>, EngineError> {
        unreachable!("there is no input {input}")
    }

    fn missing(&self, _: usize, _: &EntryPath) -> Result<Missing, EngineError> {
        Ok(Missing::default())
    }

    fn text(&self, _: usize, _: &str) -> Result<Option<String>, EngineError> {
        Ok(None)
    }
}

/// A snapshot that files are taken from. Paths are followed by what is known of them, on disk or in trees; the tree of a
/// step is only made when something in its delta is taken, and bytes of base layers are only stored when they are.
struct Stack<'a> {
    engine: &'a Engine,
    snapshot: &'a Snapshot,
    view: View,
}

impl<'a> Stack<'a> {
    fn new(engine: &'a Engine, snapshot: &'a Snapshot) -> Result<Self, EngineError> {
        Ok(Self { engine, snapshot, view: engine.view(snapshot)? })
    }

    /// What a delta alone has at a path; the root, too.
    fn of(&self, delta: &DeltaId, path: &EntryPath) -> Result<Option<Entry>, EngineError> {
        let tree = self.engine.tree_face(delta)?;
        if path.is_root() {
            return Ok(Some(Entry::directory(Meta::new(0o755), tree)));
        }
        Ok(lookup(&self.engine.store, &tree, path)?)
    }

    /// The directories that a layer only implies: they are what they are below it.
    fn implied(&self, delta: &DeltaId) -> Result<Vec<EntryPath>, EngineError> {
        match delta {
            DeltaId::Layer(_) => {
                Ok(tree_face(&self.engine.store, delta)?.map(|face| face.implied).unwrap_or_default())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn metadata(&self, path: &EntryPath, deltas: &[DeltaId]) -> Result<Meta, EngineError> {
        let mut found = None;
        for delta in deltas {
            let Some(entry) = self.of(delta, path)? else { continue };
            if !self.implied(delta)?.contains(path) {
                return Ok(entry.meta);
            }
            found.get_or_insert(entry.meta);
        }
        Ok(found.unwrap_or_else(|| Meta::new(0o755)))
    }

    /// Everything in a directory that these deltas, the topmost first, make up.
    fn contents(&self, path: &EntryPath, deltas: &[DeltaId]) -> Result<Subtree, EngineError> {
        let trees = &self.engine.store;
        let mut merged = Subtree::empty();
        for delta in deltas.iter().rev() {
            let Some(entry) = self.of(delta, path)? else { continue };
            let Some(contents) = entry.contents() else { continue };
            let below = merged;
            merged = apply(trees, &below, contents)?;
            let implied = self.implied(delta)?;
            let implied = implied.iter().filter_map(|implied| implied.strip_prefix(path));
            let mut known = Vec::new();
            for implied in implied.filter(|implied| !implied.is_root()) {
                if let Some(entry) = lookup(trees, &below, &implied)?.filter(Entry::is_directory) {
                    known.push((implied, entry.meta));
                }
            }
            if !known.is_empty() {
                let mut builder = TreeBuilder::from(trees, &merged)?;
                for (implied, meta) in known {
                    builder.directory(trees, &implied, meta).map_err(wbuild_snapshot::SnapshotError::from)?;
                }
                merged = builder.finish();
            }
        }
        Ok(merged)
    }
}

impl Origin for Stack<'_> {
    type Error = EngineError;

    fn resolve(&self, path: &EntryPath) -> Result<Resolved, ResolveError<EngineError>> {
        resolve(&self.view.outline(), path, true).map_err(|error| match error {
            ResolveError::Lookup(error) => ResolveError::Lookup(error.into()),
            ResolveError::TooManyLinks { path } => ResolveError::TooManyLinks { path },
            ResolveError::NotADirectory { path, parent } => ResolveError::NotADirectory { path, parent },
        })
    }

    fn names(&self, path: &EntryPath) -> Result<Vec<(Name, bool)>, EngineError> {
        Ok(self.view.list(path)?.into_iter().collect())
    }

    fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, EngineError> {
        let deltas = self.view.made_of(path)?;
        let Some(top) = deltas.first() else {
            return Ok(path.is_root().then(|| Entry::directory(Meta::new(0o755), Subtree::empty())));
        };
        match self.of(top, path)? {
            Some(entry) if entry.is_directory() => {
                let meta = self.metadata(path, &deltas)?;
                Ok(Some(Entry::directory(meta, self.contents(path, &deltas)?)))
            }
            other => Ok(other),
        }
    }

    fn directory(&self, path: &EntryPath) -> Result<Option<Meta>, EngineError> {
        if path.is_root() {
            return Ok(Some(Meta::new(0o755)));
        }
        match self.view.outline().entry(path)? {
            Some(entry) if entry.is_directory() => Ok(Some(self.metadata(path, &self.view.made_of(path)?)?)),
            _ => Ok(None),
        }
    }

    fn bring(&self, path: &EntryPath, entry: &Entry) -> Result<(), EngineError> {
        if !self.view.made_of(path)?.iter().any(|delta| matches!(delta, DeltaId::Layer(_))) {
            return Ok(());
        }
        self.engine.layers_on_disk(self.snapshot)?;
        Ok(self.engine.view(self.snapshot)?.bring_contents(path, entry)?)
    }
}
