use wbuild_tree::{Directory, Entry, Name, Node, Subtree, TreeLoadError, TreeSource};

/// What becomes of an entry.
pub(super) enum Step<S> {
    /// It is left out.
    Drop,
    /// This stands in its place.
    Keep(Entry),
    /// A directory whose entries have to be seen.
    Into {
        /// What it will be, apart from what is in it.
        directory: Entry,
        /// What its entries are seen with.
        state: S,
    },
}

struct Frame<S> {
    entries: std::vec::IntoIter<(Name, Entry)>,
    built: Directory,
    state: S,
    /// What the directory is in the one above; the top has none.
    place: Option<(Name, Entry)>,
}

impl<S> Frame<S> {
    fn open(
        trees: &dyn TreeSource,
        contents: &Subtree,
        state: S,
        place: Option<(Name, Entry)>,
    ) -> Result<Self, TreeLoadError> {
        let directory = contents.open(trees)?;
        let entries: Vec<(Name, Entry)> =
            directory.entries.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect();
        Ok(Self { entries: entries.into_iter(), built: Directory::default(), state, place })
    }
}

/// Says what becomes of an entry.
type Decide<'a, S> = dyn FnMut(&S, &Name, &Entry) -> Result<Step<S>, TreeLoadError> + 'a;

/// Makes a tree out of another one, entry by entry, and opens only what `step` wants to see. `stays` says whether a
/// directory that was looked into is kept with what is left in it. Without recursion: trees can be thousands of levels deep.
pub(super) fn rewrite<S>(
    trees: &dyn TreeSource,
    tree: &Subtree,
    state: S,
    step: &mut Decide<'_, S>,
    stays: &mut dyn FnMut(&S, &Subtree) -> bool,
) -> Result<Subtree, TreeLoadError> {
    let mut stack = Vec::new();
    let mut frame = Frame::open(trees, tree, state, None)?;
    loop {
        if let Some((name, entry)) = frame.entries.next() {
            match step(&frame.state, &name, &entry)? {
                Step::Drop => {}
                Step::Keep(entry) => {
                    frame.built.entries.insert(name, entry);
                }
                Step::Into { directory, state } => {
                    let Some(contents) = entry.contents() else { continue };
                    let below = Frame::open(trees, contents, state, Some((name, directory)))?;
                    stack.push(std::mem::replace(&mut frame, below));
                }
            }
            continue;
        }
        let done = Subtree::new(std::mem::take(&mut frame.built));
        let (Some(mut above), Some((name, mut entry))) = (stack.pop(), frame.place.take()) else {
            return Ok(done);
        };
        if stays(&frame.state, &done) {
            if let Node::Directory { contents, .. } = &mut entry.node {
                *contents = done;
            }
            above.built.entries.insert(name, entry);
        }
        frame = above;
    }
}
