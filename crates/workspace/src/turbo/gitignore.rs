use std::collections::BTreeMap;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::source::{MAX_CONFIG, read_source};
use crate::{EntryKind, Files, RelPath, WorkspaceError};

const GITIGNORE: &str = ".gitignore";

/// The `.gitignore` files of a tree: what git leaves out, so that turbo does not count it as a package's files.
///
/// A file that is ignored but tracked counts for git; here, where there may be no repository, it does not.
#[derive(Clone, Debug, Default)]
pub struct GitIgnores(BTreeMap<RelPath, Gitignore>);

impl GitIgnores {
    /// Reads every `.gitignore` of the directories that lead to `files` of a listing.
    pub fn read<'a>(
        files: &dyn Files,
        listing: impl IntoIterator<Item = &'a RelPath>,
    ) -> Result<Self, WorkspaceError> {
        let mut matchers = BTreeMap::new();
        for path in listing.into_iter().filter(|path| path.name() == Some(GITIGNORE)) {
            let (Some(dir), Some(file)) = (path.parent(), read_source(files, path, MAX_CONFIG)?) else {
                continue;
            };
            if let Some(matcher) = matcher(&file.text) {
                matchers.insert(dir, matcher);
            }
        }
        Ok(Self(matchers))
    }

    /// Reads every `.gitignore` of the whole tree, passing over `node_modules`, `.git` and what is ignored.
    pub fn scan(files: &dyn Files) -> Result<Self, WorkspaceError> {
        let mut ignores = Self::default();
        let mut pending = vec![RelPath::root()];
        while let Some(dir) = pending.pop() {
            if let Some(file) = read_source(files, &dir.child(GITIGNORE), MAX_CONFIG)?
                && let Some(matcher) = matcher(&file.text)
            {
                ignores.0.insert(dir.clone(), matcher);
            }
            for entry in files.list(&dir)? {
                let path = dir.child(&entry.name);
                let skipped = matches!(entry.name.as_str(), "node_modules" | ".git");
                if entry.kind == EntryKind::Directory && !skipped && !ignores.own_match(&path, true) {
                    pending.push(path);
                }
            }
        }
        Ok(ignores)
    }

    /// Whether git leaves out the file `path`: it matches, or a directory above it does.
    pub fn is_ignored(&self, path: &RelPath) -> bool {
        self.leaves_out(path, false)
    }

    /// As [`is_ignored`](Self::is_ignored), for a file or a directory.
    pub fn leaves_out(&self, path: &RelPath, directory: bool) -> bool {
        let mut above = path.parent();
        while let Some(dir) = above {
            // A file below an ignored directory cannot be taken back.
            if !dir.is_root() && self.own_match(&dir, true) {
                return true;
            }
            above = dir.parent();
        }
        self.own_match(path, directory)
    }

    /// What the nearest `.gitignore` that says something about this very path says.
    fn own_match(&self, path: &RelPath, is_dir: bool) -> bool {
        let mut above = path.parent();
        while let Some(dir) = above {
            if let (Some(matcher), Some(below)) = (self.0.get(&dir), path.below(&dir)) {
                match matcher.matched(below, is_dir) {
                    Match::Ignore(_) => return true,
                    Match::Whitelist(_) => return false,
                    Match::None => {}
                }
            }
            above = dir.parent();
        }
        false
    }
}

/// git ignores lines that it cannot read; so does this.
fn matcher(text: &str) -> Option<Gitignore> {
    let mut builder = GitignoreBuilder::new("");
    for line in text.lines() {
        let _unreadable = builder.add_line(None, line);
    }
    builder.build().ok().filter(|matcher| !matcher.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryFiles;

    #[test]
    fn nested_files_and_directories() {
        let mut files = MemoryFiles::new();
        for (path, text) in [
            (".gitignore", "node_modules\n.env*\n!.env.example\n/dist\n*.log\n"),
            ("a/.gitignore", "gen\n!gen/keep\n!x.log\n"),
            ("a/gen/keep", ""),
            ("dist/x", ""),
        ] {
            files.insert(RelPath::new(path).unwrap(), text);
        }
        let scanned = GitIgnores::scan(&files).unwrap();
        let listing: Vec<RelPath> = files.iter().map(|(path, _)| path.clone()).collect();
        let listed = GitIgnores::read(&files, &listing).unwrap();
        for (path, expected) in [
            ("a/node_modules/x/y", true),
            ("a/.env.local", true),
            ("a/.env.example", false),
            ("dist/x", true),
            ("a/dist/x", false),
            ("a/gen/keep", true),
            ("a/x.log", false),
            ("b/x.log", true),
            ("a/src/i.ts", false),
        ] {
            let path = RelPath::new(path).unwrap();
            assert_eq!(scanned.is_ignored(&path), expected, "{path}");
            assert_eq!(listed.is_ignored(&path), expected, "{path}");
        }
        let dist = RelPath::new("node_modules").unwrap();
        assert!(scanned.leaves_out(&dist, true));
    }
}
