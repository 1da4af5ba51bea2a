//! The example monorepo, as files in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wbuild_frontend::{Definition, Facts, Input, Project, ProjectSource, Spec, lower, undecided};
use wbuild_oci::{Execution, ImageConfig, Platform};
use wbuild_report::{Diagnostic, Hint as _, SourceFile};
use wbuild_workspace::{MemoryFiles, RelPath, Workspace, WorkspaceError};

macro_rules! read {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_str!(concat!("../../../../tests/monorepo/", $path)))),*]
    };
}

/// Files whose contents matter here.
const READ: [(&str, &str); 29] = read![
    ".gitignore",
    ".node-version",
    "apps/admin/package.json",
    "apps/admin/tsconfig.json",
    "apps/web/next.config.ts",
    "apps/web/package.json",
    "apps/web/tsconfig.json",
    "package.json",
    "packages/database/package.json",
    "packages/database/tsconfig.json",
    "packages/email/package.json",
    "packages/email/tsconfig.json",
    "packages/legacy-api/package.json",
    "packages/legacy-api/tsconfig.json",
    "packages/tsconfig/library.json",
    "packages/tsconfig/nextjs.json",
    "packages/tsconfig/node.json",
    "packages/tsconfig/package.json",
    "packages/tsconfig/react-library.json",
    "packages/ui/package.json",
    "packages/ui/tsconfig.json",
    "pnpm-lock.yaml",
    "pnpm-workspace.yaml",
    "tsconfig.base.json",
    "turbo.json",
    "scripts/compile-content.js",
    "packages/database/prisma.config.ts",
    "packages/database/prisma/schema.prisma",
    "apps/web/src/app/api/health/route.ts",
];

/// The other files that `.dockerignore` lets into the context: only their names matter.
const NAMED: [&str; 22] = [
    ".env.example",
    "apps/admin/src/server.ts",
    "apps/web/README.md",
    "apps/web/public/logo.svg",
    "apps/web/public/robots.txt",
    "apps/web/src/app/api/cover/[slug]/route.ts",
    "apps/web/src/app/api/leads/route.ts",
    "apps/web/src/app/courses/[slug]/page.tsx",
    "apps/web/src/app/globals.css",
    "apps/web/src/app/layout.tsx",
    "apps/web/src/app/page.tsx",
    "apps/web/src/lib/courses.ts",
    "apps/web/src/lib/leads.ts",
    "content/01-how-models-learn.md",
    "content/02-prompting.md",
    "content/03-agents.md",
    "packages/database/src/index.ts",
    "packages/email/src/index.ts",
    "packages/legacy-api/src/server.ts",
    "packages/ui/src/course-card.tsx",
    "packages/ui/src/footer.tsx",
    "packages/ui/src/index.ts",
];

pub(crate) const SPEC: &str = include_str!("../../../../buildspec/web.toml");

/// A build of the example that can be changed before it is lowered.
pub(crate) struct Example {
    pub(crate) files: MemoryFiles,
    pub(crate) spec: String,
    pub(crate) build_args: BTreeMap<String, String>,
    pub(crate) secrets: BTreeSet<String>,
    pub(crate) images: BTreeMap<String, ImageConfig>,
    /// Lists the context backwards.
    pub(crate) backwards: bool,
    /// Symbolic links, which are listed too.
    pub(crate) links: BTreeMap<RelPath, RelPath>,
}

pub(crate) fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

impl Example {
    pub(crate) fn new() -> Self {
        let mut files = MemoryFiles::new();
        for (name, text) in READ {
            files.insert(path(name), text);
        }
        for name in NAMED {
            files.insert(path(name), "");
        }
        let node = ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            config: Execution {
                env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".into(), "NODE_VERSION=22.16.0".into()],
                entrypoint: Some(vec!["docker-entrypoint.sh".into()]),
                cmd: Some(vec!["node".into()]),
                ..Execution::default()
            },
            ..ImageConfig::default()
        };
        Self {
            files,
            spec: SPEC.to_owned(),
            build_args: BTreeMap::new(),
            secrets: BTreeSet::new(),
            images: BTreeMap::from([("node:22.16.0-alpine".to_owned(), node)]),
            backwards: false,
            links: BTreeMap::new(),
        }
    }

    /// Changes the text of a file.
    pub(crate) fn edit(&mut self, name: &str, from: &str, to: &str) {
        let text = self.files.iter().find(|(file, _)| file.as_str() == name).unwrap().1;
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(text.contains(from), "{name} contains {from}");
        self.files.insert(path(name), text.replace(from, to));
    }

    /// Changes the text of the spec.
    pub(crate) fn edit_spec(&mut self, from: &str, to: &str) {
        assert!(self.spec.contains(from), "the spec contains {from}");
        self.spec = self.spec.replace(from, to);
    }

    pub(crate) fn spec_file(&self) -> Arc<SourceFile> {
        SourceFile::new("wbuild.toml", self.spec.clone())
    }

    pub(crate) fn project(&self, spec: &Spec) -> Result<Project, WorkspaceError> {
        let workspace = Workspace::read(&self.files)?;
        let mut listing: Vec<RelPath> = self.files.iter().map(|(path, _)| path.clone()).collect();
        if self.backwards {
            listing.reverse();
        }
        Project::read(&ProjectSource {
            links: &self.links,
            files: &self.files,
            listing: &listing,
            workspace: &workspace,
            spec,
            platform: &Platform::linux("amd64"),
            fallback_name: "monorepo",
        })
    }

    pub(crate) fn lower(&self) -> Result<Definition, Vec<Diagnostic>> {
        self.with_input(lower)?
    }

    pub(crate) fn undecided(&self, names: &[&str]) -> Vec<String> {
        self.with_input(|input| undecided(input, names.iter().copied())).unwrap()
    }

    fn with_input<T>(&self, with: impl FnOnce(&Input<'_>) -> T) -> Result<T, Vec<Diagnostic>> {
        let spec = Spec::parse(&self.spec_file())?;
        let project = self.project(&spec).map_err(|error| error.diagnostics().to_vec())?;
        let facts = Facts { images: self.images.clone(), host_env: BTreeMap::new() };
        Ok(with(&Input {
            spec: &spec,
            project: &project,
            facts: &facts,
            platform: &Platform::linux("amd64"),
            build_args: &self.build_args,
            secrets: &self.secrets,
        }))
    }
}

/// Diagnostics as a person would read them, without the snippets.
pub(crate) fn shown(diagnostics: &[Diagnostic]) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&diagnostic.to_string());
        for label in diagnostic.labels.iter().filter(|label| !label.text.is_empty()) {
            let text = &diagnostic.file.text[label.span.start..label.span.end];
            out.push_str(&format!("\n  `{}`: {}", text.lines().next().unwrap_or_default(), label.text));
        }
        for hint in diagnostic.hints() {
            out.push_str(&format!("\n  hint: {hint}"));
        }
        out.push('\n');
    }
    out
}
