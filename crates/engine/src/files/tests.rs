//! What the tests of file operations share, and those of the native ones.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Mutex;

use wbuild_graph::{Copy, Owner};
use wbuild_tree::{
    Entry, EntryPath, MemoryTrees, Meta, Node, TreeBuilder, TreeLoadError, Visit, lookup, walk,
};

use super::*;

/// Contents in memory.
#[derive(Default)]
pub(crate) struct Memory(Mutex<BTreeMap<Digest, Vec<u8>>>);

impl ContentStore for Memory {
    fn keep(&self, bytes: &[u8]) -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        self.0.lock().unwrap().insert(digest, bytes.to_vec());
        Ok(digest)
    }

    fn keep_from(&self, source: &mut dyn Read) -> io::Result<Digest> {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes)?;
        self.keep(&bytes)
    }

    fn open(&self, content: &Digest) -> io::Result<Box<dyn Read + Send>> {
        let bytes = self.0.lock().unwrap().get(content).cloned();
        Ok(Box::new(io::Cursor::new(bytes.ok_or(io::ErrorKind::NotFound)?)))
    }
}

/// Trees as the inputs of a vertex, the base among them.
pub(crate) struct Roots<'a> {
    pub(crate) roots: Vec<Subtree>,
    pub(crate) contents: &'a Memory,
}

static NO_TREES: std::sync::LazyLock<MemoryTrees> = std::sync::LazyLock::new(MemoryTrees::default);

impl Inputs for Roots<'_> {
    type Error = TreeLoadError;

    fn tree(&self, input: usize) -> Result<Subtree, TreeLoadError> {
        Ok(self.roots[input].clone())
    }

    fn origin(&self, input: usize) -> Result<Box<dyn Origin<Error = TreeLoadError> + '_>, TreeLoadError> {
        Ok(Box::new(TreeRoot { trees: &*NO_TREES, root: &self.roots[input] }))
    }

    fn missing(&self, _: usize, path: &EntryPath) -> Result<Missing, TreeLoadError> {
        let place = "the build context".to_owned();
        Ok(Missing { place, ignored: None, nearest: vec![format!("{path}s")] })
    }

    fn text(&self, input: usize, at: &str) -> Result<Option<String>, TreeLoadError> {
        let entry = lookup(&*NO_TREES, &self.roots[input], &EntryPath::rooted(at).unwrap())?;
        let Some(Entry { node: Node::File { content, .. }, .. }) = entry else { return Ok(None) };
        let mut text = String::new();
        self.contents.open(&content).unwrap().read_to_string(&mut text).unwrap();
        Ok(Some(text))
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
    let inputs = Roots { roots: vec![base.clone(), source.clone()], contents: &Memory::default() };
    perform(&trees, inputs.contents, &root, &inputs, actions)
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
    let new =
        FileAction::Mkfile { path: path("tmp/x"), contents: vec![], mode: 0o600, owner: Owner::default() };
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
