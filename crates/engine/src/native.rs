//! The native operations: users as text in passwd and group, partitions of a tree into layers, selections, checks.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use wbuild_graph::{AddUser, Assert, Partition, Select};
use wbuild_tree::{
    Entry, EntryPath, Node, ResolveError, Subtree, TreeBuilder, TreeLoadError, TreeSource, Visit, resolve,
    walk,
};

use crate::files::TreeRoot;

/// Why a native operation fails.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// The name or number is taken by something else.
    #[error("the base image already has {kind} `{existing}`, so {wanted} cannot be added")]
    UserTaken {
        /// `user` or `group`.
        kind: &'static str,
        /// The line that is there.
        existing: String,
        /// What was to be added.
        wanted: String,
    },
    /// A glob of the graph is none.
    #[error("`{glob}` is not a valid pattern")]
    Glob {
        /// The pattern.
        glob: String,
        /// Why.
        #[source]
        source: globset::Error,
    },
    /// Something that must exist does not.
    #[error("`{path}` does not exist: {why}")]
    Missing {
        /// What.
        path: String,
        /// What that means and what to do.
        why: String,
    },
    /// A link leads nowhere.
    #[error("`{link}` is a symbolic link to `{target}`, which does not exist in the image")]
    Dangling {
        /// The link.
        link: EntryPath,
        /// Its target.
        target: String,
    },
    /// A tree cannot be put together or loaded.
    #[error(transparent)]
    Build(#[from] wbuild_tree::BuildError),
    /// A tree cannot be loaded.
    #[error(transparent)]
    Load(#[from] TreeLoadError),
}

/// Passwd and group (and shadow, where the base has one) with a user more. A user that is there already, with the same
/// numbers, is left alone.
pub(crate) fn add_user(
    passwd: &str,
    group: &str,
    shadow: Option<&str>,
    add: &AddUser,
) -> Result<(String, String, Option<String>), NativeError> {
    let AddUser { user, uid, group: group_name, gid, home, shell } = add;
    let group = add_line(group, "group", group_name, *gid, &format!("{group_name}:x:{gid}:"))?;
    let line = format!("{user}:x:{uid}:{gid}:{user}:{home}:{shell}");
    let passwd = add_line(passwd, "user", user, *uid, &line)?;
    let shadow = shadow.map(|shadow| {
        let known = shadow.lines().any(|line| line.split(':').next() == Some(user));
        if known { shadow.to_owned() } else { with_line(shadow, &format!("{user}:!::0:::::")) }
    });
    Ok((passwd, group, shadow))
}

fn add_line(
    text: &str,
    kind: &'static str,
    name: &str,
    number: u32,
    line: &str,
) -> Result<String, NativeError> {
    for existing in text.lines() {
        let mut fields = existing.split(':');
        let existing_name = fields.next().unwrap_or_default();
        let existing_number = fields.nth(1).and_then(|field| field.parse().ok());
        match (existing_name == name, existing_number == Some(number)) {
            (true, true) => return Ok(text.to_owned()),
            (false, false) => {}
            _ => {
                return Err(NativeError::UserTaken {
                    kind,
                    existing: existing.to_owned(),
                    wanted: format!("{name} with number {number}"),
                });
            }
        }
    }
    Ok(with_line(text, line))
}

fn with_line(text: &str, line: &str) -> String {
    let separator = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{separator}{line}\n")
}

/// Globs as the graph has them: relative to the root, `*` stops at slashes, `**` does not.
#[derive(Debug)]
pub(crate) struct Globs(GlobSet);

impl Globs {
    /// Compiles.
    pub(crate) fn new(patterns: &[String]) -> Result<Self, NativeError> {
        let mut set = GlobSetBuilder::new();
        let error = |glob: &str| {
            let glob = glob.to_owned();
            move |source| NativeError::Glob { glob, source }
        };
        for pattern in patterns {
            let glob = GlobBuilder::new(pattern).literal_separator(true).build().map_err(error(pattern))?;
            set.add(glob);
        }
        Ok(Self(set.build().map_err(error(""))?))
    }

    /// Whether any pattern matches the path.
    pub(crate) fn matches(&self, path: &EntryPath) -> bool {
        self.0.is_match(path.to_path_buf())
    }
}

/// The tree without what is not selected. A directory stays when something in it does, or when it was empty and is
/// selected itself; an excluded directory goes with all that is in it.
pub(crate) fn select(
    trees: &dyn TreeSource,
    tree: &Subtree,
    select: &Select,
) -> Result<Subtree, NativeError> {
    let (include, exclude) = (Globs::new(&select.include)?, Globs::new(&select.exclude)?);
    let mut builder = TreeBuilder::new();
    let mut parents = Parents::default();
    walk::<NativeError>(trees, tree, &mut |path, entry| {
        if exclude.matches(path) {
            return Ok(Visit::Skip);
        }
        parents.enter(path, entry);
        let leaf = entry.contents().is_none_or(Subtree::is_empty);
        if leaf && (select.include.is_empty() || include.matches(path)) {
            parents.repeat(trees, &mut builder, path)?;
            builder.insert(trees, path, entry.clone())?;
        }
        Ok(Visit::Into)
    })?;
    Ok(builder.finish())
}

/// The directories above where a walk is, so that they can be repeated in each tree that takes something of them.
#[derive(Debug, Default)]
struct Parents {
    stack: Vec<(EntryPath, wbuild_tree::Meta)>,
}

impl Parents {
    fn enter(&mut self, path: &EntryPath, entry: &Entry) {
        while self.stack.last().is_some_and(|(above, _)| !path.starts_with(above)) {
            self.stack.pop();
        }
        if entry.is_directory() {
            self.stack.push((path.clone(), entry.meta.clone()));
        }
    }

    fn repeat(
        &self,
        trees: &dyn TreeSource,
        builder: &mut TreeBuilder,
        path: &EntryPath,
    ) -> Result<(), wbuild_tree::BuildError> {
        for (above, meta) in &self.stack {
            if above != path {
                builder.directory(trees, above, meta.clone())?;
            }
        }
        Ok(())
    }
}

/// The parts of a tree, in order, the rest last. Every file is in exactly one; directories are repeated where needed.
pub(crate) fn partition(
    trees: &dyn TreeSource,
    tree: &Subtree,
    partition: &Partition,
) -> Result<Vec<Subtree>, NativeError> {
    let globs =
        partition.parts.iter().map(|part| Globs::new(&part.include)).collect::<Result<Vec<_>, _>>()?;
    let mut builders: Vec<TreeBuilder> = (0..=partition.parts.len()).map(|_| TreeBuilder::new()).collect();
    let rest = partition.parts.len();
    let mut parents = Parents::default();
    walk::<NativeError>(trees, tree, &mut |path, entry| {
        parents.enter(path, entry);
        if entry.contents().is_some_and(|contents| !contents.is_empty()) {
            return Ok(Visit::Into);
        }
        let is_link = matches!(entry.node, Node::Symlink { .. });
        let wants = |(part, globs): (&wbuild_graph::Part, &Globs)| {
            (!part.links_only || is_link) && (part.include.is_empty() || globs.matches(path))
        };
        let index = partition.parts.iter().zip(&globs).position(wants).unwrap_or(rest);
        parents.repeat(trees, &mut builders[index], path)?;
        builders[index].insert(trees, path, entry.clone())?;
        Ok(Visit::Into)
    })?;
    Ok(builders.into_iter().map(TreeBuilder::finish).collect())
}

/// Checks a tree.
pub(crate) fn check(trees: &dyn TreeSource, tree: &Subtree, assert: &Assert) -> Result<(), NativeError> {
    let root = TreeRoot { trees, root: tree };
    for (path, why) in &assert.exists {
        let wanted = EntryPath::parse(path).unwrap_or_default();
        let found = match resolve(&root, &wanted, true) {
            Ok(resolved) => resolved.exists(),
            Err(ResolveError::Lookup(error)) => return Err(error.into()),
            Err(_) => false,
        };
        if !found {
            return Err(NativeError::Missing { path: path.clone(), why: why.clone() });
        }
    }
    let Some(below) = &assert.no_dangling_links else { return Ok(()) };
    walk::<NativeError>(trees, tree, &mut |path, entry| {
        let Node::Symlink { target } = &entry.node else { return Ok(Visit::Into) };
        if !path.starts_with(below) {
            return Ok(Visit::Into);
        }
        let leads_somewhere = match resolve(&root, path, true) {
            Ok(resolved) => resolved.exists(),
            Err(ResolveError::Lookup(error)) => return Err(error.into()),
            Err(_) => false,
        };
        // A link that leaves the checked folder may lead into the base image, which is not looked at here.
        let leaves =
            target.starts_with(b"/") && !EntryPath::rooted(target).is_ok_and(|to| to.starts_with(below));
        if !leads_somewhere && !leaves {
            let target = String::from_utf8_lossy(target).into_owned();
            return Err(NativeError::Dangling { link: path.clone(), target });
        }
        Ok(Visit::Into)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wbuild_graph::Part;
    use wbuild_tree::MemoryTrees;

    use super::*;
    use crate::files::tests::{file, listing, path, tree};

    fn nextjs() -> AddUser {
        AddUser {
            user: "nextjs".into(),
            uid: 1001,
            group: "nodejs".into(),
            gid: 1001,
            home: "/home/nextjs".into(),
            shell: "/sbin/nologin".into(),
        }
    }

    #[test]
    fn users_are_added_once_and_never_over_others() {
        let (passwd, group, shadow) =
            add_user("root:x:0:0:root:/root:/bin/sh", "root:x:0:\n", Some("root:*::0:::::\n"), &nextjs())
                .unwrap();
        assert_eq!(
            passwd,
            "root:x:0:0:root:/root:/bin/sh\nnextjs:x:1001:1001:nextjs:/home/nextjs:/sbin/nologin\n"
        );
        assert_eq!(group, "root:x:0:\nnodejs:x:1001:\n");
        assert_eq!(shadow.as_deref(), Some("root:*::0:::::\nnextjs:!::0:::::\n"));
        let again = add_user(&passwd, &group, shadow.as_deref(), &nextjs()).unwrap();
        assert_eq!(again, (passwd, group, shadow));
        let error = add_user("other:x:1001:1001::/:/bin/sh\n", "", None, &nextjs()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the base image already has user `other:x:1001:1001::/:/bin/sh`, so nextjs with number 1001 cannot be added"
        );
    }

    #[test]
    fn every_file_is_in_exactly_one_part() {
        let trees = MemoryTrees::default();
        let app = tree(&[
            ("app/node_modules/.pnpm/next/x.js", file("1")),
            ("app/node_modules/next", Entry::symlink(".pnpm/next")),
            ("app/server.js", file("2")),
            ("app/empty", Entry::directory(wbuild_tree::Meta::new(0o700), Subtree::empty())),
        ]);
        let plan = Partition {
            parts: vec![
                Part { name: "links".into(), include: vec![], links_only: true },
                Part {
                    name: "modules".into(),
                    include: vec!["app/node_modules/**".into()],
                    links_only: false,
                },
            ],
            rest: "application".into(),
        };
        let parts = partition(&trees, &app, &plan).unwrap();
        let parts: Vec<Vec<String>> = parts.iter().map(listing).collect();
        assert_eq!(
            parts[0],
            ["/app/ 755 0:0", "/app/node_modules/ 755 0:0", "/app/node_modules/next 777 0:0"]
        );
        assert_eq!(parts[1].last().unwrap(), "/app/node_modules/.pnpm/next/x.js 644 0:0");
        assert_eq!(parts[2], ["/app/ 755 0:0", "/app/empty/ 700 0:0", "/app/server.js 644 0:0"]);
    }

    #[test]
    fn selections_keep_parents_and_prune_directories() {
        let trees = MemoryTrees::default();
        let app = tree(&[("a/b/keep.js", file("1")), ("a/c/x.node", file("2")), ("a/c/y.js", file("3"))]);
        let plan = Select { include: vec!["**/*.js".into()], exclude: vec!["a/c".into()] };
        assert_eq!(
            listing(&select(&trees, &app, &plan).unwrap()),
            ["/a/ 755 0:0", "/a/b/ 755 0:0", "/a/b/keep.js 644 0:0"]
        );
    }

    #[test]
    fn dangling_links_and_missing_files_are_named() {
        let trees = MemoryTrees::default();
        let good = tree(&[
            ("app/x", file("1")),
            ("app/l", Entry::symlink("x")),
            ("app/out", Entry::symlink("/usr/lib/base")),
        ]);
        let mut assert = Assert { exists: BTreeMap::new(), no_dangling_links: Some(path("app")) };
        check(&trees, &good, &assert).unwrap();
        let bad = tree(&[("app/l", Entry::symlink("../nowhere"))]);
        assert_eq!(
            check(&trees, &bad, &assert).unwrap_err().to_string(),
            "`/app/l` is a symbolic link to `../nowhere`, which does not exist in the image"
        );
        assert.exists.insert("app/server.js".into(), "set it up".into());
        let error = check(&trees, &good, &assert).unwrap_err();
        assert_eq!(error.to_string(), "`app/server.js` does not exist: set it up");
    }
}
