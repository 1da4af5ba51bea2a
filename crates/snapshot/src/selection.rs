use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};
use wbuild_tree::EntryPath;

use crate::error::SnapshotError;

/// Which of a step's changes are its outputs. Patterns are relative to the root, without a leading slash; `*` stays within
/// a name and `**` does not; a pattern that names a directory means all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// What is taken.
    pub include: Vec<String>,
    /// What of it is not.
    pub exclude: Vec<String>,
    /// What is not taken either, and not worth telling of: caches, temporary files.
    pub expected: Vec<String>,
}

/// A selection, ready to be asked.
#[derive(Debug)]
pub(crate) struct Patterns {
    include: GlobSet,
    exclude: GlobSet,
    expected: GlobSet,
}

/// What is known of an entry, and holds for everything below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) included: bool,
    pub(crate) excluded: bool,
    pub(crate) expected: bool,
}

impl Verdict {
    /// Everything is an output.
    pub(crate) const ALL: Self = Self { included: true, excluded: false, expected: false };

    pub(crate) const fn selected(self) -> bool {
        self.included && !self.excluded
    }
}

impl Selection {
    pub(crate) fn compile(&self) -> Result<Patterns, SnapshotError> {
        Ok(Patterns {
            include: compile(&self.include)?,
            exclude: compile(&self.exclude)?,
            expected: compile(&self.expected)?,
        })
    }
}

fn compile(globs: &[String]) -> Result<GlobSet, SnapshotError> {
    let failed = |glob: &str, source| SnapshotError::Pattern { glob: glob.to_owned(), source };
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        let plain = glob.trim_start_matches("./").trim_matches('/');
        let built = GlobBuilder::new(plain).literal_separator(true).backslash_escape(true).build();
        set.add(built.map_err(|source| failed(glob, source))?);
    }
    set.build().map_err(|source| failed(&globs.join(" "), source))
}

impl Patterns {
    /// What holds for `path`, given what holds for its parent.
    pub(crate) fn verdict(&self, above: Verdict, path: &EntryPath) -> Verdict {
        let path = path.to_path_buf();
        Verdict {
            included: above.included || self.include.is_match(&path),
            excluded: above.excluded || self.exclude.is_match(&path),
            expected: above.expected || self.expected.is_match(&path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_mean_all_that_is_in_them() {
        let selection = Selection {
            include: vec!["apps/web/.next/**".into(), "/packages/*/dist".into()],
            exclude: vec!["apps/web/.next/cache/**".into()],
            expected: vec!["tmp".into()],
        };
        let patterns = selection.compile().unwrap();
        let ask = |text: &str| {
            let mut verdict = Verdict::default();
            let mut path = EntryPath::root();
            for name in EntryPath::parse(text).unwrap().components() {
                path = path.join(&name);
                verdict = patterns.verdict(verdict, &path);
            }
            verdict
        };
        assert!(ask("apps/web/.next/server/page.js").selected());
        assert!(!ask("apps/web/.next/cache/x").selected());
        assert!(!ask("apps/web/next.js").selected());
        assert!(ask("packages/ui/dist/deep/x").selected());
        assert!(!ask("packages/a/b/dist/x").selected());
        assert!(ask("tmp/x").expected && !ask("tmp/x").selected());
        let wrong = Selection { include: vec!["a[".into()], ..Selection::default() };
        assert!(wrong.compile().unwrap_err().to_string().contains("a["));
    }
}
