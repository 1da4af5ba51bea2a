use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};
use wbuild_report::SourceFile;

use crate::WorkspaceError;
use crate::document::{Node, parse_yaml};

const PATCHES: &str = "patchedDependencies";

/// The workspace file with only those patches that stay in the lockfile: pnpm compares the two lists, and needs every
/// file that it lists. Everything else stays as written.
pub(super) fn prune(file: &Arc<SourceFile>, patches: &BTreeSet<&str>) -> Result<String, WorkspaceError> {
    let document = parse_yaml(file)?;
    let Some(member) = document.member(PATCHES) else { return Ok(file.text.clone()) };
    if member.node.members().iter().all(|entry| patches.contains(entry.key.as_str())) {
        return Ok(file.text.clone());
    }
    let wanted = expected(&document, patches);
    let replacement = match wanted.get(PATCHES) {
        // JSON is YAML, and it needs no knowledge of how the rest is indented.
        Some(kept) => format!("{PATCHES}: {kept}\n"),
        None => String::new(),
    };
    let end = end_of_block(&file.text, member.key_span.start);
    let text = format!("{}{replacement}{}", &file.text[..member.key_span.start], &file.text[end..]);
    let cut = SourceFile::new(file.name.clone(), text);
    match parse_yaml(&cut) {
        Ok(node) if node.to_json() == wanted => Ok(cut.text.clone()),
        // A file in flow style, or with anchors in what was cut: written anew.
        _ => Ok(format!("{wanted}\n")),
    }
}

fn expected(document: &Node, patches: &BTreeSet<&str>) -> Value {
    let mut wanted = document.to_json();
    if let Some(map) = wanted.as_object_mut() {
        if let Some(list) = map.get_mut(PATCHES).and_then(Value::as_object_mut) {
            list.retain(|selector, _| patches.contains(selector.as_str()));
        }
        if map.get(PATCHES).and_then(Value::as_object).is_some_and(Map::is_empty) {
            map.remove(PATCHES);
        }
    }
    wanted
}

/// Where the block of the key at `start` ends: at the next line that is neither blank nor indented.
fn end_of_block(text: &str, start: usize) -> usize {
    let mut at = start;
    for (index, line) in text[start..].split_inclusive('\n').enumerate() {
        if index > 0 && !line.starts_with([' ', '\t', '\n', '\r', '}']) {
            break;
        }
        at += line.len();
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pruned(text: &str, patches: &[&str]) -> String {
        prune(&SourceFile::new("pnpm-workspace.yaml", text), &patches.iter().copied().collect()).unwrap()
    }

    #[test]
    fn only_patches_are_cut() {
        let text = "# ours\npackages:\n- apps/*\npatchedDependencies:\n  a@1: patches/a.patch\n  '@b/c@2': p.patch\n\n# last\nnodeLinker: hoisted\n";
        assert_eq!(pruned(text, &["a@1", "@b/c@2"]), text);
        insta::assert_snapshot!(pruned(text, &["@b/c@2"]), @r#"
        # ours
        packages:
        - apps/*
        patchedDependencies: {"@b/c@2":"p.patch"}
        # last
        nodeLinker: hoisted
        "#);
        insta::assert_snapshot!(pruned(text, &[]), @r"
        # ours
        packages:
        - apps/*
        # last
        nodeLinker: hoisted
        ");
    }

    #[test]
    fn other_styles_are_written_anew() {
        let text = "{packages: [a], patchedDependencies: {a@1: a.patch, b@1: b.patch}}\n";
        assert_eq!(
            pruned(text, &["b@1"]),
            "{\"packages\":[\"a\"],\"patchedDependencies\":{\"b@1\":\"b.patch\"}}\n"
        );
        let anchors = "x: &p a.patch\npatchedDependencies:\n  a@1: &q a.patch\n  b@1: *p\ny: *q\n";
        assert_eq!(
            pruned(anchors, &["b@1"]),
            "{\"patchedDependencies\":{\"b@1\":\"a.patch\"},\"x\":\"a.patch\",\"y\":\"a.patch\"}\n"
        );
    }
}
