//! Secrets that a framework bakes into its output (decision 9): which files hold them, and which files a step wrote
//! differently although nothing that enters its key had changed.

use std::collections::BTreeSet;

use serde_json::Value;
use wbuild_store::Store;
use wbuild_tree::{Change, Entry, EntryPath, Node, Subtree, TreeLoadError, TreeSource, Visit, changes, walk};

use crate::error::EngineError;

/// Larger files hold no keys: they are images and source maps.
const MAX_SEARCHED: u64 = 4 << 20;

/// Files that a report names.
const NAMED: usize = 40;

/// Where Next writes its keys, and where in those files they stand (next/dist/build: `writePrerenderManifest`,
/// `getServerReferenceManifest`).
const NEXT_KEYS: [(&str, &[&str]); 2] = [
    (
        "prerender-manifest.json",
        &["/preview/previewModeId", "/preview/previewModeSigningKey", "/preview/previewModeEncryptionKey"],
    ),
    ("server-reference-manifest.json", &["/encryptionKey"]),
];

/// The files of `tree` that hold a key which the framework made up.
pub(crate) fn holders(
    store: &Store,
    trees: &dyn TreeSource,
    tree: &Subtree,
) -> Result<Vec<EntryPath>, EngineError> {
    let mut keys: BTreeSet<String> = BTreeSet::new();
    each_file(trees, tree, &mut |path, content, _| {
        let name = path.split_last().map(|(_, name)| name.as_bytes().to_vec()).unwrap_or_default();
        let Some((_, pointers)) = NEXT_KEYS.iter().find(|(file, _)| file.as_bytes() == name) else {
            return Ok(());
        };
        let bytes = store.read_blob(&content, MAX_SEARCHED)?;
        if let Ok(document) = serde_json::from_slice::<Value>(&bytes) {
            let found = pointers.iter().filter_map(|pointer| document.pointer(pointer)?.as_str());
            keys.extend(found.filter(|key| key.len() >= 16).map(str::to_owned));
        }
        Ok(())
    })?;
    let mut holders = Vec::new();
    if keys.is_empty() {
        return Ok(holders);
    }
    each_file(trees, tree, &mut |path, content, size| {
        if size > 0 && size <= MAX_SEARCHED {
            let bytes = store.read_blob(&content, MAX_SEARCHED)?;
            let text = String::from_utf8_lossy(&bytes);
            if keys.iter().any(|key| text.contains(key.as_str())) {
                holders.push(path.clone());
            }
        }
        Ok(())
    })?;
    Ok(holders)
}

type EachFile<'a> = &'a mut dyn FnMut(&EntryPath, wbuild_oci::Digest, u64) -> Result<(), EngineError>;

fn each_file(trees: &dyn TreeSource, tree: &Subtree, visit: EachFile<'_>) -> Result<(), EngineError> {
    walk(trees, tree, &mut |path, entry: &Entry| {
        if let Node::File { content, size, .. } = entry.node {
            visit(path, content, size)?;
        }
        Ok(Visit::Into)
    })
}

/// In which files two results of one key differ, as text for a person; `None` when they do not, or only in those of
/// `expected`.
pub(crate) fn difference(
    trees: &dyn TreeSource,
    old: &Subtree,
    new: &Subtree,
    expected: &[EntryPath],
) -> Result<Option<String>, TreeLoadError> {
    let changes = changes(trees, old, new, NAMED + 1 + expected.len())?;
    let found: Vec<&EntryPath> =
        changes.iter().map(Change::path).filter(|path| !expected.contains(path)).collect();
    Ok((!found.is_empty()).then(|| named(found.into_iter())))
}

/// Paths in a row, the first few.
pub(crate) fn named<'a>(paths: impl ExactSizeIterator<Item = &'a EntryPath>) -> String {
    let count = paths.len();
    let mut text: Vec<String> = paths.take(NAMED).map(ToString::to_string).collect();
    if count > NAMED {
        text.push("and more".to_owned());
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use wbuild_tree::Meta;

    use super::*;
    use crate::files::tests::{path, tree};

    #[test]
    fn files_that_hold_made_up_keys_are_found() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let file = |text: &str| {
            Entry::file(Meta::new(0o644), store.put_bytes(text.as_bytes()).unwrap(), text.len() as u64)
        };
        let manifest =
            r#"{"preview":{"previewModeId":"0123456789abcdef0123","previewModeSigningKey":"short"}}"#;
        let built = tree(&[
            (".next/prerender-manifest.json", file(manifest)),
            (".next/server/preview-props.json", file(r#"{"id":"0123456789abcdef0123"}"#)),
            (".next/server/page.js", file("nothing of that, but short")),
        ]);
        let found = holders(&store, &store, &built).unwrap();
        assert_eq!(found, [path(".next/prerender-manifest.json"), path(".next/server/preview-props.json")]);
        assert_eq!(named(found.iter()), "/.next/prerender-manifest.json, /.next/server/preview-props.json");
        let none = tree(&[("x", file("y"))]);
        assert!(holders(&store, &store, &none).unwrap().is_empty());
    }
}
