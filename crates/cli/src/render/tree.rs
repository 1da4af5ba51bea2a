use wbuild_report::MissReason;

use super::escape::escape_line;

/// Something said, and what it rests on: the shape of every answer of `wbuild why`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    label: String,
    children: Vec<Tree>,
}

impl Tree {
    /// A tree that says only `label`; controls in it become visible.
    pub fn new(label: impl AsRef<str>) -> Self {
        Self { label: escape_line(label.as_ref()).into_owned(), children: Vec::new() }
    }

    /// Adds a branch.
    #[must_use]
    pub fn with(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    /// The tree as lines, drawn with box characters.
    pub fn render(&self) -> String {
        let mut text = format!("{}\n", self.label);
        self.render_children("", &mut text);
        text
    }

    fn render_children(&self, indent: &str, text: &mut String) {
        for (index, child) in self.children.iter().enumerate() {
            let (branch, below) =
                if index + 1 == self.children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            text.extend([indent, branch, &child.label, "\n"]);
            child.render_children(&format!("{indent}{below}"), text);
        }
    }
}

/// Why the vertex called `name` could not be reused, with every field that differs.
pub fn miss_tree(name: &str, why: &MissReason) -> Tree {
    let tree = Tree::new(format!("{name}: {why}"));
    let MissReason::Changed { changes } = why else { return tree };
    changes.iter().fold(tree, |tree, change| {
        let label = match (&change.old, &change.new) {
            (Some(old), Some(new)) => format!("{}: `{old}` -> `{new}`", change.field),
            (None, Some(new)) => format!("{}: new, `{new}`", change.field),
            (Some(old), None) => format!("{}: gone, was `{old}`", change.field),
            (None, None) => change.field.clone(),
        };
        tree.with(Tree::new(label))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wbuild_report::FieldChange;

    #[test]
    fn branches_are_drawn() {
        let tree = Tree::new("apps/web")
            .with(
                Tree::new("@acme/ui (dependencies)")
                    .with(Tree::new("@acme/theme"))
                    .with(Tree::new("@acme/i\x1bcons")),
            )
            .with(Tree::new("@acme/db (devDependencies)").with(Tree::new("prisma")));
        insta::assert_snapshot!(tree.render(), @r"
            apps/web
            ├─ @acme/ui (dependencies)
            │  ├─ @acme/theme
            │  └─ @acme/i\x1bcons
            └─ @acme/db (devDependencies)
               └─ prisma
            ");
    }

    #[test]
    fn a_miss_names_every_difference() {
        let change = |field: &str, old: Option<&str>, new: Option<&str>| FieldChange {
            field: field.to_owned(),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
        };
        let why = MissReason::Changed {
            changes: vec![
                change("input/pnpm-lock.yaml", Some("sha256:aa"), Some("sha256:bb")),
                change("env/CI", None, Some("true")),
                change("mount/cache", Some("pnpm"), None),
            ],
        };
        insta::assert_snapshot!(miss_tree("[deps] pnpm install", &why).render(), @r"
            [deps] pnpm install: `input/pnpm-lock.yaml` changed (and 2 more)
            ├─ input/pnpm-lock.yaml: `sha256:aa` -> `sha256:bb`
            ├─ env/CI: new, `true`
            └─ mount/cache: gone, was `pnpm`
            ");
        insta::assert_snapshot!(miss_tree("[app] COPY . .", &MissReason::Forced).render(), @"[app] COPY . .: forced by --no-cache");
    }
}
