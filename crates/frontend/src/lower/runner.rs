use std::collections::BTreeMap;

use wbuild_graph::{
    AddUser, Assert, Copy, FileAction, FileOp, ImageRef, Op, Owner, Part, Partition, Select, Source,
};
use wbuild_report::VertexId;
use wbuild_tree::EntryPath;

use super::builder::Builder;
use super::{BY_ROOT, Lowering, Stage, entry, glob, in_root, root, shown};
use crate::{HistoryRow, Layer, Next};

/// Exists wherever there is a libc, and lets nobody in.
const NO_SHELL: &str = "/bin/false";

impl Lowering<'_> {
    /// The image that is shipped: no step runs in it.
    pub(super) fn runner(&mut self, builder: &Builder) -> Stage {
        let spec = self.spec();
        let user = &spec.runner.user;
        let reference = spec.runner.image.clone();
        let image = Op::Source(Source::Image(ImageRef::new(&reference)));
        let image = self.add_minor("runner/image", format!("[runner] {reference}"), image, Vec::new());
        let account = Op::AddUser(AddUser {
            user: user.name.clone(),
            uid: user.uid,
            group: user.group.clone(),
            gid: user.gid,
            home: format!("/home/{}", user.name),
            shell: NO_SHELL.to_owned(),
        });
        let account_name = format!("[runner] user {} in group {}", user.name, user.group);
        let with_user = self.add_minor("runner/user", account_name, account, vec![image]);
        let mut history = vec![HistoryRow::delta(format!(
            "RUN addgroup -g {} {} && adduser -u {} -G {} {}",
            user.gid, user.group, user.uid, user.group, user.name
        ))];

        let Some(next) = self.input.project.app.next.clone() else {
            self.not_next();
            return Stage { vertex: with_user, history };
        };
        for reason in &next.not_standalone {
            self.prevented("runner", reason.clone());
        }
        let Some(tree) = self.app_tree(builder, &next) else { return Stage { vertex: with_user, history } };
        let selected = self.without_foreign(tree);
        let checked = self.checked(selected);
        let partition = self.partition();
        history.extend(
            partition.parts.iter().map(|part| HistoryRow::delta(format!("COPY {} to /app", part.name))),
        );
        history.push(HistoryRow::delta(format!("COPY {} to /app", partition.rest)));
        let parts =
            self.add_minor("runner/parts", "[runner] layers", Op::Partition(partition), vec![checked]);
        let vertex = self.add("runner/merge", "[runner] image", Op::Merge, vec![with_user, parts]);
        Stage { vertex, history }
    }

    fn not_next(&mut self) {
        let spec = self.spec();
        let name = &self.input.project.app.name;
        let error = spec
            .error(
                "app",
                format!("`{name}` is not a Next.js application, and only those have a stage `runner`"),
                "this package",
            )
            .hint("a Next.js application depends on `next` and builds with `next build`")
            .hint("`--target builder` has what its tasks wrote, `--target deps` its dependencies");
        self.prevented("runner", error);
    }

    /// Next's standalone output with what it leaves out, owned by the user.
    fn app_tree(&mut self, builder: &Builder, next: &Next) -> Option<VertexId> {
        let output = self.checked_output(builder.output?, next);
        let app = self.input.project.app.dir.clone();
        let dist = in_root(&app).join_path(&next.dist);
        let server = in_root(&next.server);
        let user = &self.spec().runner.user;
        let owner = Owner { uid: user.uid, gid: user.gid };
        let copy = |input, source: EntryPath, target: EntryPath| {
            FileAction::Copy(Copy { input, source, target, owner: Some(owner) })
        };
        let scratch = self.scratch();
        let mut inputs = vec![scratch, output];
        let mut actions = vec![
            // The folder itself stays root's: the server writes only below its own.
            FileAction::Mkdir { path: root(), mode: 0o755, owner: BY_ROOT },
            copy(1, dist.join_path(&entry("standalone")), root()),
            copy(
                1,
                dist.join_path(&entry("static")),
                server.join_path(&next.dist).join_path(&entry("static")),
            ),
        ];
        if let Some(public) = self.public(builder, next) {
            inputs.push(public);
            let folder = entry("public");
            actions.push(copy(2, in_root(&app).join_path(&folder), server.join_path(&folder)));
        }
        Some(self.add_minor("runner/app", "[runner] /app", Op::File(FileOp { actions }), inputs))
    }

    /// `public`: the context's files, with those that tasks wrote there.
    fn public(&mut self, builder: &Builder, next: &Next) -> Option<VertexId> {
        let folder = self.input.project.app.dir.join_path(&entry("public"));
        let beginning = shown(&folder);
        let written = self.input.project.tasks.iter().any(|task| {
            task.script.is_some() && task.outputs.include.iter().any(|text| text.starts_with(&beginning))
        });
        let files = self.sources("runner/public", "[runner] public", &next.public);
        let mut layers: Vec<VertexId> = files.into_iter().collect();
        if written {
            layers.extend(&builder.outputs);
        }
        match layers.as_slice() {
            [] => None,
            [one] => Some(*one),
            _ => Some(self.add_minor("runner/public/merge", "[runner] public", Op::Merge, layers)),
        }
    }

    /// Leaves out the modules, and the links to them, that the image's C library cannot load.
    fn without_foreign(&mut self, tree: VertexId) -> VertexId {
        let foreign = &self.input.project.foreign;
        if foreign.is_empty() {
            return tree;
        }
        let mut exclude: Vec<String> = Vec::new();
        for package in foreign {
            // An excluded folder goes with all that is in it.
            exclude.push(format!("app/node_modules/.pnpm/{}", glob(&entry(&package.folder))));
            exclude.push(format!("app/**/node_modules/{}", glob(&entry(&package.name))));
        }
        exclude.sort();
        exclude.dedup();
        let select = Op::Select(Select { include: Vec::new(), exclude });
        self.add_minor("runner/libc", "[runner] modules for this libc", select, vec![tree])
    }

    /// Next's output, after a look at whether it is what the image can be made of.
    fn checked_output(&mut self, output: VertexId, next: &Next) -> VertexId {
        let app = &self.input.project.app.dir;
        let standalone = in_root(app).join_path(&next.dist).join_path(&entry("standalone"));
        let server = standalone.join_path(&next.server).join_path(&entry("server.js"));
        let config = format!("the next.config of `{}`", shown(app));
        let exists = BTreeMap::from([
            (
                shown(&standalone),
                format!(
                    "the application built no standalone server; add the line `output: 'standalone',` to {config}"
                ),
            ),
            (
                shown(&server),
                format!(
                    "Next's tracing root is not the workspace root, so modules and packages outside of it are missing; set `outputFileTracingRoot: path.join(__dirname, '{}')` in {config}",
                    up(app)
                ),
            ),
        ]);
        let assert = Op::Assert(Assert { exists, no_dangling_links: None });
        self.add_minor("runner/output", "[runner] standalone output", assert, vec![output])
    }

    /// Links into nowhere: modules that Next left out, or that lie outside of what is copied.
    fn checked(&mut self, tree: VertexId) -> VertexId {
        let assert = Op::Assert(Assert { exists: BTreeMap::new(), no_dangling_links: Some(root()) });
        self.add_minor("runner/check", "[runner] links", assert, vec![tree])
    }

    /// What changes together travels together. Links are tried first, wherever they are: else the modules would take
    /// those among them.
    fn partition(&self) -> Partition {
        let part = |layer: &Layer| match layer {
            Layer::Links => {
                Part { name: "links".to_owned(), include: vec!["app/**".to_owned()], links_only: true }
            }
            Layer::Modules => Part {
                name: "modules".to_owned(),
                include: vec!["app/node_modules/**".to_owned(), "app/**/node_modules/**".to_owned()],
                links_only: false,
            },
            Layer::Packages => Part {
                name: "workspace packages".to_owned(),
                include: self
                    .input
                    .project
                    .packages
                    .iter()
                    .map(|dir| format!("{}/**", glob(&in_root(dir))))
                    .collect(),
                links_only: false,
            },
        };
        let mut layers = self.spec().runner.layers.clone();
        layers.sort();
        let parts = layers.iter().map(part).filter(|part| !part.include.is_empty()).collect();
        Partition { parts, rest: "application".to_owned() }
    }
}

/// The way from a folder to the root, as JavaScript writes it.
fn up(dir: &EntryPath) -> String {
    let levels = dir.components().count();
    if levels == 0 { ".".to_owned() } else { vec![".."; levels].join("/") }
}
