use std::collections::BTreeSet;

use wbuild_report::{Diagnostic, Hint};

use super::GitIgnores;
use crate::document::Located;
use crate::{Dots, Glob, GlobSet, RelPath};

const DEFAULT: &str = "$TURBO_DEFAULT$";
const TURBO_ROOT: &str = "$TURBO_ROOT$/";

/// Files that count for every task of a package that has them.
const ALWAYS: [&str; 3] = ["package.json", "turbo.json", "turbo.jsonc"];

/// The inputs of a task, ready to be resolved against a listing. What it selects was compared with turbo 2.11.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The package.
    pub dir: RelPath,
    /// All files of the package that git does not ignore: nothing is written, or `$TURBO_DEFAULT$` is.
    pub default: bool,
    /// The patterns, from the root.
    pub globs: GlobSet,
    literals: BTreeSet<RelPath>,
}

impl Inputs {
    /// The inputs that a definition writes for the package in `dir`.
    pub fn new(
        dir: &RelPath,
        written: Option<&[Located<String>]>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Self {
        let written = written.unwrap_or_default();
        let is_default = |item: &&Located<String>| item.value == DEFAULT;
        let patterns: Vec<_> = written.iter().filter(|item| !is_default(item)).cloned().collect();
        let globs = globs(dir, &patterns, diagnostics);
        let literals = globs.include.iter().filter_map(Glob::literals).flatten().collect();
        let default = written.is_empty() || written.iter().any(|item| is_default(&item));
        Self { dir: dir.clone(), default, globs, literals }
    }

    /// The files of `listing` (paths from the root, of files) that are inputs, sorted.
    ///
    /// As in turbo: with the default, a `!` pattern takes away the files that it matches themselves. Without it, a
    /// pattern without wildcards takes that file whatever is excluded, or everything below that directory; other
    /// patterns match files; and an excluded directory excludes what is in it. `package.json` and the package's
    /// `turbo.json` are always there, the former unless the default is used and it is excluded by name.
    pub fn select<'a>(
        &self,
        listing: impl IntoIterator<Item = &'a RelPath>,
        ignores: &GitIgnores,
    ) -> Vec<RelPath> {
        let mut selected: Vec<RelPath> =
            listing.into_iter().filter(|path| self.selects(path, ignores)).cloned().collect();
        selected.sort();
        selected.dedup();
        selected
    }

    fn selects(&self, path: &RelPath, ignores: &GitIgnores) -> bool {
        let always = path.below(&self.dir).is_some_and(|name| ALWAYS.contains(&name));
        if self.default {
            let included =
                always || (path.is_within(&self.dir) && !ignores.is_ignored(path)) || self.includes(path);
            return included && !self.globs.exclude.iter().any(|glob| glob.matches(path));
        }
        always || self.literals.contains(path) || (self.includes(path) && !self.globs.excludes(path))
    }

    fn includes(&self, path: &RelPath) -> bool {
        self.globs.include.iter().any(|glob| glob.matches(path))
            || self.literals.iter().any(|directory| path.is_within(directory))
    }
}

/// The outputs of a task: resolved from its package, a root task's from the root.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// The patterns, from the root.
    pub globs: GlobSet,
}

impl Outputs {
    /// The outputs that a definition writes for the package in `dir`.
    pub fn new(dir: &RelPath, written: &[Located<String>], diagnostics: &mut Vec<Diagnostic>) -> Self {
        Self { globs: globs(dir, written, diagnostics) }
    }

    /// The directory `path` with all that is in it.
    pub fn below(path: &RelPath) -> Self {
        Self { globs: GlobSet { include: vec![Glob::literal(path)], exclude: Vec::new() } }
    }

    /// Whether the file, link or directory `path` is an output. Naming a directory names what is in it.
    pub fn matches(&self, path: &RelPath) -> bool {
        let included = |glob: &Glob| match glob.literals() {
            Some(literals) => literals.iter().any(|literal| path.is_within(literal)),
            None => glob.matches(path),
        };
        self.globs.include.iter().any(included) && !self.globs.excludes(path)
    }

    /// Whether something below `directory` could be an output.
    pub fn may_match_below(&self, directory: &RelPath) -> bool {
        self.globs.may_match_below(directory) || self.matches(directory)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.globs.include.is_empty()
    }
}

/// Compiles patterns written for the package in `dir`.
pub(super) fn globs(
    dir: &RelPath,
    written: &[Located<String>],
    diagnostics: &mut Vec<Diagnostic>,
) -> GlobSet {
    let mut set = GlobSet::default();
    for item in written {
        let (text, list) = match item.value.strip_prefix('!') {
            Some(text) => (text, &mut set.exclude),
            None => (item.value.as_str(), &mut set.include),
        };
        let root = RelPath::root();
        let (base, text) = match text.strip_prefix(TURBO_ROOT) {
            Some(text) => (&root, text),
            None => (dir, text),
        };
        match Glob::new(base, text, Dots::Matched) {
            Ok(glob) => list.push(glob),
            Err(error) => {
                let mut diagnostic = item.error(error.to_string(), "this pattern");
                diagnostic.hints = error.hints();
                diagnostics.push(diagnostic);
            }
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use wbuild_report::{SourceFile, Span};

    use super::*;
    use crate::MemoryFiles;

    fn located(items: &[&str]) -> Vec<Located<String>> {
        let file = SourceFile::new("turbo.json", "");
        items.iter().map(|item| Located::new((*item).to_owned(), &file, Span::new(0, 0))).collect()
    }

    /// The selections that turbo 2.11.11 printed with `--dry=json` for this tree.
    #[test]
    fn selections_equal_those_of_turbo() {
        let mut files = MemoryFiles::new();
        for (path, text) in [
            (".gitignore", "node_modules\n.turbo\n"),
            ("package.json", ""),
            ("a/app/src/i.ts", ""),
            ("a/lib/.dot", ""),
            ("a/lib/.gitignore", "gen\n!gen/keep\n*.log\n"),
            ("a/lib/README.md", ""),
            ("a/lib/gen/g.ts", ""),
            ("a/lib/package.json", ""),
            ("a/lib/src/deep/x.ts", ""),
            ("a/lib/src/i.ts", ""),
            ("a/lib/x.log", ""),
        ] {
            files.insert(RelPath::new(path).unwrap(), text);
        }
        let listing: Vec<RelPath> = files.iter().map(|(path, _)| path.clone()).collect();
        let ignores = GitIgnores::scan(&files).unwrap();
        let dir = RelPath::new("a/lib").unwrap();
        for (written, expected) in [
            (&[][..], ".dot .gitignore README.md package.json src/deep/x.ts src/i.ts"),
            (&["!**/*.md"], "package.json"),
            (&["src"], "package.json src/deep/x.ts src/i.ts"),
            (&["src/"], "package.json src/deep/x.ts src/i.ts"),
            (&["src/**"], "package.json src/deep/x.ts src/i.ts"),
            (&["src/**", "!src/deep"], "package.json src/i.ts"),
            (
                &["$TURBO_DEFAULT$", "!src/deep"],
                ".dot .gitignore README.md package.json src/deep/x.ts src/i.ts",
            ),
            (&["$TURBO_DEFAULT$", "!**/deep/**"], ".dot .gitignore README.md package.json src/i.ts"),
            (&["$TURBO_DEFAULT$", "!package.json"], ".dot .gitignore README.md src/deep/x.ts src/i.ts"),
            (&["gen/**"], "gen/g.ts package.json"),
            (
                &["$TURBO_DEFAULT$", "gen/**"],
                ".dot .gitignore README.md gen/g.ts package.json src/deep/x.ts src/i.ts",
            ),
            (
                &["$TURBO_DEFAULT$", "gen/g.ts", "!gen/**"],
                ".dot .gitignore README.md package.json src/deep/x.ts src/i.ts",
            ),
            (&["$TURBO_ROOT$/package.json"], "../../package.json package.json"),
            (&["../app/src/**"], "../app/src/i.ts package.json"),
            (&["!src/**", "src/deep/x.ts"], "package.json src/deep/x.ts"),
            (&["src/i.ts", "!src/i.ts"], "package.json src/i.ts"),
            (&["src", "!src/i.ts"], "package.json src/deep/x.ts"),
            (&["src/*", "!src/i.ts"], "package.json"),
            (&["*"], ".dot .gitignore README.md package.json x.log"),
            (&["sr*"], "package.json"),
            (&["**/deep", "README.md"], "README.md package.json"),
            (&["!package.json", "src/i.ts"], "package.json src/i.ts"),
            (&["src/{i,deep/x}.ts"], "package.json src/deep/x.ts src/i.ts"),
            (&["$TURBO_DEFAULT$", "!$TURBO_ROOT$/a/lib/src/**"], ".dot .gitignore README.md package.json"),
        ] {
            let mut diagnostics = Vec::new();
            let inputs = Inputs::new(&dir, Some(&located(written)), &mut diagnostics);
            assert!(diagnostics.is_empty());
            let selected: Vec<String> =
                inputs.select(&listing, &ignores).iter().map(|path| path.relative_to(&dir)).collect();
            let mut selected = selected;
            selected.sort();
            assert_eq!(selected.join(" "), expected, "{written:?}");
        }
    }

    #[test]
    fn outputs_of_packages_and_the_root() {
        let web = RelPath::new("apps/web").unwrap();
        let outputs = Outputs::new(&web, &located(&[".next/**", "!.next/cache/**", "dist"]), &mut Vec::new());
        for (path, expected) in [
            ("apps/web/.next/server/a.js", true),
            ("apps/web/.next", true),
            ("apps/web/.next/cache/x", false),
            ("apps/web/dist/sub/f", true),
            ("apps/admin/.next/a", false),
        ] {
            assert_eq!(outputs.matches(&RelPath::new(path).unwrap()), expected, "{path}");
        }
        let root = Outputs::new(&RelPath::root(), &located(&["apps/web/gen/**"]), &mut Vec::new());
        assert!(root.matches(&RelPath::new("apps/web/gen/x.json").unwrap()));
        assert!(root.may_match_below(&RelPath::new("apps").unwrap()));
        assert!(!root.may_match_below(&RelPath::new("packages").unwrap()));
        let mut diagnostics = Vec::new();
        Outputs::new(&web, &located(&["../../../x/**"]), &mut diagnostics);
        assert_eq!(diagnostics.len(), 1);
    }
}
