use std::collections::BTreeSet;

use crate::document::{Dialect, Extract, Located, Value, parse_json};
use crate::source::{MAX_CONFIG, read_source};
use crate::{Files, RelPath, Workspace, WorkspaceError};

/// The files that a `tsconfig.json` stands on.
#[derive(Clone, Debug, Default)]
pub struct TsconfigChain {
    /// The file asked for and everything reached by `extends`, sorted. What lies in `node_modules` is not here.
    pub files: Vec<RelPath>,
    /// Each `extends` that names a file of the workspace which does not exist.
    pub missing: Vec<Located<String>>,
}

/// Follows `extends` (a string or a list) from the configuration `path` over files of the workspace: relative paths,
/// and names of workspace packages. Absent files give an empty chain, packages from elsewhere are passed over.
pub fn tsconfig_chain(
    files: &dyn Files,
    workspace: &Workspace,
    path: &RelPath,
) -> Result<TsconfigChain, WorkspaceError> {
    let mut chain = TsconfigChain::default();
    let mut seen = BTreeSet::new();
    let mut pending = vec![path.clone()];
    let mut diagnostics = Vec::new();
    while let Some(path) = pending.pop() {
        if seen.contains(&path) {
            continue;
        }
        let Some(file) = read_source(files, &path, MAX_CONFIG)? else { continue };
        seen.insert(path.clone());
        let document = parse_json(&file, Dialect::WithComments)?;
        let Some(node) = document.get("extends") else { continue };
        let mut extract = Extract { file: &file, diagnostics: &mut diagnostics };
        let extended = match &node.value {
            Value::String(_) => extract.string("extends", node).into_iter().collect(),
            _ => extract.strings("extends", node),
        };
        for item in extended {
            let Some(candidates) = candidates(workspace, &path, &item)? else { continue };
            match existing(files, candidates)? {
                Some(found) => pending.push(found),
                None => chain.missing.push(item),
            }
        }
    }
    crate::error::without_errors(diagnostics)?;
    chain.files = seen.into_iter().collect();
    Ok(chain)
}

fn existing(files: &dyn Files, candidates: Vec<RelPath>) -> Result<Option<RelPath>, WorkspaceError> {
    for candidate in candidates {
        if files.read(&candidate)?.is_some() {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// Where TypeScript looks, in order; `None` for packages from elsewhere.
fn candidates(
    workspace: &Workspace,
    from: &RelPath,
    item: &Located<String>,
) -> Result<Option<Vec<RelPath>>, WorkspaceError> {
    let text = item.value.as_str();
    let dir = from.parent().unwrap_or_default();
    let inside = |base: &RelPath, text: &str| {
        base.join(text).map_err(|error| {
            let mut diagnostic = item.error(format!("extends: {error}"), "not inside the workspace");
            diagnostic.hints = wbuild_report::Hint::hints(&error);
            WorkspaceError::from(diagnostic)
        })
    };
    if text.starts_with("./")
        || text.starts_with("../")
        || text.starts_with('/')
        || matches!(text, "." | "..")
    {
        let path = inside(&dir, text)?;
        return Ok(Some(with_json(path, None)));
    }
    let split = match text.strip_prefix('@') {
        Some(scoped) => scoped.match_indices('/').nth(1).map(|(at, _)| at + 1),
        None => text.find('/'),
    };
    let (name, below) = match split {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let Some(package) = workspace.by_name(name) else { return Ok(None) };
    Ok(Some(match below {
        Some(below) => with_json(inside(&package.dir, below)?, None),
        // Without a path, the manifest's `tsconfig` field, else `tsconfig.json`.
        None => {
            let named = package.document.get("tsconfig").and_then(|node| node.as_str());
            let named = named.map(|path| inside(&package.dir, path)).transpose()?;
            with_json(package.dir.child("tsconfig.json"), named)
        }
    }))
}

fn with_json(path: RelPath, first: Option<RelPath>) -> Vec<RelPath> {
    let mut candidates: Vec<RelPath> = first.into_iter().collect();
    let extended = path.parent().zip(path.name()).map(|(dir, name)| dir.child(&format!("{name}.json")));
    candidates.push(path);
    candidates.extend(extended);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{path, said, workspace, workspace_files};

    #[test]
    fn chains_are_followed_over_the_workspace() {
        let mut files = workspace_files("packages: ['*/*']\n");
        for (name, text) in [
            (
                "apps/web/tsconfig.json",
                r#"{ // c
                "extends": ["@repo/tsconfig/next", "../../tsconfig.base", "@tsconfig/node20/tsconfig.json", "./gone.json",],
            }"#,
            ),
            ("packages/tsconfig/package.json", r#"{"name": "@repo/tsconfig"}"#),
            ("packages/tsconfig/next.json", r#"{"extends": "./base.json"}"#),
            ("packages/tsconfig/base.json", r#"{"extends": "./next.json"}"#),
            ("tsconfig.base.json", r#"{"extends": "@repo/tsconfig"}"#),
            ("packages/tsconfig/tsconfig.json", "{}"),
        ] {
            files.insert(path(name), text);
        }
        let workspace = workspace(&files);
        let chain = tsconfig_chain(&files, &workspace, &path("apps/web/tsconfig.json")).unwrap();
        let found: Vec<String> = chain.files.iter().map(ToString::to_string).collect();
        assert_eq!(
            found.join(" "),
            "apps/web/tsconfig.json packages/tsconfig/base.json packages/tsconfig/next.json packages/tsconfig/tsconfig.json tsconfig.base.json"
        );
        let missing: Vec<&str> = chain.missing.iter().map(|item| item.value.as_str()).collect();
        assert_eq!(missing, ["./gone.json"]);
        assert!(tsconfig_chain(&files, &workspace, &path("absent.json")).unwrap().files.is_empty());

        files.insert(path("apps/web/tsconfig.json"), r#"{"extends": "../../../outside.json"}"#);
        let error = tsconfig_chain(&files, &workspace, &path("apps/web/tsconfig.json")).unwrap_err();
        insta::assert_snapshot!(said(error.diagnostics()), @"
        Error: apps/web/tsconfig.json:1:13: extends: `../../../outside.json` leaves the workspace root (from `apps/web`)
          hint: everything a build uses lies inside the workspace root; move it there
        ");
    }
}
