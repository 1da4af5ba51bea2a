use std::collections::BTreeSet;

use crate::source::{MAX_CONFIG, read_source};
use crate::{Files, RelPath, WorkspaceError};

/// A pnpmfile that needs more files than this is not taken for one.
const MOST: usize = 200;

/// What Node tries, in order, for a path without an extension.
const ENDINGS: [&str; 7] = ["", ".js", ".cjs", ".mjs", ".json", "/index.js", "/index.cjs"];

/// A pnpmfile and the files of the workspace that it loads by a relative path, also through others: pnpm runs it before
/// anything is installed, so there is nothing else that it could load.
pub(super) fn with_modules(files: &dyn Files, path: &RelPath) -> Result<Vec<RelPath>, WorkspaceError> {
    let mut found = BTreeSet::new();
    let mut pending = vec![path.clone()];
    while let Some(path) = pending.pop() {
        if found.contains(&path) || found.len() >= MOST {
            continue;
        }
        let Some(file) = read_source(files, &path, MAX_CONFIG)? else { continue };
        let dir = path.parent().unwrap_or_default();
        found.insert(path);
        for module in relative_modules(&file.text) {
            for ending in ENDINGS {
                if let Ok(candidate) = dir.join(&format!("{module}{ending}"))
                    && files.read(&candidate)?.is_some()
                {
                    pending.push(candidate);
                    break;
                }
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// The strings of a program that begin with a dot and stand behind `require`, `import` or `from`.
fn relative_modules(code: &str) -> impl Iterator<Item = &str> {
    code.match_indices(['\'', '"', '`']).filter_map(|(at, quote)| {
        let text = &code[at + quote.len()..];
        let before = code[..at].trim_end();
        let before = before.strip_suffix('(').map_or(before, str::trim_end);
        let loads = ["require", "import", "from"].iter().any(|word| before.ends_with(word));
        let relative = text.starts_with("./") || text.starts_with("../");
        (loads && relative).then(|| text.split(quote).next()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryFiles;
    use crate::testing::path;

    #[test]
    fn what_a_pnpmfile_loads_comes_with_it() {
        let mut files = MemoryFiles::new();
        for (name, text) in [
            (
                ".pnpmfile.cjs",
                "const { fix } = require('./tools/hooks');\nrequire( \"semver\" ); x('./not-loaded')",
            ),
            ("tools/hooks/index.js", "module.exports = require('../versions.json'); require('./gone')"),
            ("tools/versions.json", "{}"),
            ("not-loaded", ""),
            ("loop.mjs", "import './loop.mjs'; export * from '../outside.mjs'"),
        ] {
            files.insert(path(name), text);
        }
        let found = |name: &str| {
            let found = with_modules(&files, &path(name)).unwrap();
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(found(".pnpmfile.cjs"), ".pnpmfile.cjs tools/hooks/index.js tools/versions.json");
        assert_eq!(found("loop.mjs"), "loop.mjs");
        assert_eq!(found("absent.cjs"), "");
    }
}
