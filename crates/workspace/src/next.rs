use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile, Span};

use crate::source::{MAX_CONFIG, read_source};
use crate::{Files, Manifest, Reference, RelPath, Workspace, WorkspaceError};

/// The names of the configuration, in the order in which Next looks for them.
const CONFIGS: [&str; 5] =
    ["next.config.js", "next.config.mjs", "next.config.ts", "next.config.mts", "next.config.cjs"];

/// Where Next writes unless its configuration says otherwise.
const DEFAULT_DIST: &str = ".next";

/// The environment variable in which wbuild gives the build id.
pub const BUILD_ID_VARIABLE: &str = "WBUILD_BUILD_ID";

/// What is known of a Next.js application without running it.
#[derive(Clone, Debug)]
pub struct NextFacts {
    /// The configuration file, if there is one.
    pub config: Option<RelPath>,
    /// Whether `output: 'standalone'` is set.
    pub standalone: Finding,
    /// Whether `outputFileTracingRoot` is set.
    pub tracing_root: Finding,
    /// Whether `generateBuildId` is given and reads [`BUILD_ID_VARIABLE`].
    pub build_id: Finding,
    /// Where it writes, relative to its folder: `distDir`.
    pub dist: RelPath,
    /// What all its paths begin with: `basePath`, `/docs`; empty without one, `None` when it is computed.
    pub base_path: Option<String>,
    /// Whether its paths end in a slash: `trailingSlash`.
    pub trailing_slash: bool,
    /// The version of `next` in the lockfile.
    pub version: Option<String>,
    /// What follows for the build: an error when the output is not standalone, warnings about the rest.
    pub diagnostics: Vec<Diagnostic>,
}

/// What looking at the text of a program can say about what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is written there literally.
    Yes,
    /// It is not written there, and nothing in the file could bring it in.
    No,
    /// It depends on what the program computes or imports.
    Unknown,
}

impl NextFacts {
    /// Reads the configuration of the application `app`.
    pub fn read(files: &dyn Files, workspace: &Workspace, app: &Manifest) -> Result<Self, WorkspaceError> {
        let version = version(workspace, &app.dir);
        for name in CONFIGS {
            let path = app.dir.child(name);
            if let Some(file) = read_source(files, &path, MAX_CONFIG)? {
                let mut facts = Self::of_config(&file, &app.dir, version.as_deref());
                facts.config = Some(path);
                return Ok(facts);
            }
        }
        let path = app.dir.child("next.config.mjs");
        let file = SourceFile::new(path.to_string(), "");
        let diagnostic = Diagnostic::error(
            &file,
            format!("`{}` has no next.config, so it does not build a standalone server", app.label()),
        )
        .hint(format!("create `{path}` with `export default {{ output: 'standalone' }};`"));
        Ok(Self {
            config: None,
            standalone: Finding::No,
            tracing_root: Finding::No,
            build_id: Finding::No,
            dist: default_dist(),
            base_path: Some(String::new()),
            trailing_slash: false,
            version,
            diagnostics: vec![diagnostic],
        })
    }

    /// Looks at the text of a configuration of the application in `dir`, for a version of Next.
    pub fn of_config(file: &Arc<SourceFile>, dir: &RelPath, version: Option<&str>) -> Self {
        let code = without_comments(&file.text);
        let open = brings_in_more(&code);
        let absent = if open { Finding::Unknown } else { Finding::No };
        let (standalone, place) = standalone(&code, absent);
        let found = |word: &str| if property(&code, word).is_some() { Finding::Yes } else { absent };
        let tracing_root = found("outputFileTracingRoot");
        let build_id = match found("generateBuildId") {
            Finding::Yes if code.contains(BUILD_ID_VARIABLE) => Finding::Yes,
            // It may read the variable in a function that it imports.
            Finding::Yes if open => Finding::Unknown,
            Finding::Yes => Finding::No,
            other => other,
        };
        let mut facts = Self {
            config: None,
            standalone,
            tracing_root,
            build_id,
            dist: default_dist(),
            base_path: match property(&code, "basePath") {
                None => Some(String::new()),
                Some((_, value)) => literal(value).map(|path| path.trim_end_matches('/').to_owned()),
            },
            trailing_slash: property(&code, "trailingSlash").is_some_and(|(_, value)| value == "true"),
            version: version.map(str::to_owned),
            diagnostics: Vec::new(),
        };
        facts.say(file, &code, place, dir);
        facts.find_dist(file, &code);
        facts
    }

    /// Reads `distDir`. What is computed cannot be known before the build; then the default is taken, and said.
    fn find_dist(&mut self, file: &Arc<SourceFile>, code: &str) {
        let Some((span, value)) = property(code, "distDir") else { return };
        match literal(value).map(RelPath::new) {
            Some(Ok(path)) if !path.is_root() => self.dist = path,
            Some(_) => self.diagnostics.push(
                Diagnostic::error(file, "`distDir` must be a folder inside of the application")
                    .at(span, "leads elsewhere")
                    .hint(format!("leave it out, for `{DEFAULT_DIST}`")),
            ),
            None => self.diagnostics.push(
                Diagnostic::warning(
                    file,
                    format!("cannot see where the application is built to; `{DEFAULT_DIST}` is taken"),
                )
                .at(span, "depends on what this computes")
                .hint("write the folder as a plain string"),
            ),
        }
    }

    fn say(&mut self, file: &Arc<SourceFile>, code: &str, place: Option<Span>, dir: &RelPath) {
        let object = place.or_else(|| config_object(code)).unwrap_or(Span::new(0, 0));
        let add = "add the line `output: 'standalone',` to the configuration";
        match self.standalone {
            Finding::Yes => {}
            Finding::No => self.diagnostics.push(
                Diagnostic::error(file, "the application does not build a standalone server")
                    .at(object, "`output: 'standalone'` is missing")
                    .hint(format!("{add} in `{}`", file.name)),
            ),
            Finding::Unknown => self.diagnostics.push(
                Diagnostic::warning(file, "cannot see whether the application builds a standalone server")
                    .at(object, "depends on what this computes")
                    .hint(format!("{add}, if it is not set elsewhere")),
            ),
        }
        // From 14 on, Next takes the folder with the lockfile, which is right for a workspace.
        let finds_root = major(self.version.as_deref()).is_some_and(|major| major >= 14);
        if self.tracing_root == Finding::No && !dir.is_root() && !finds_root {
            let up = vec![".."; dir.parts().count()].join("/");
            let here = if is_module(file, code) { "import.meta.dirname" } else { "__dirname" };
            self.diagnostics.push(
                Diagnostic::warning(
                    file,
                    "`outputFileTracingRoot` is not set, so Next guesses which files belong to the server",
                )
                .at(object, "not set here")
                .hint(format!(
                    "set it to the workspace root: `outputFileTracingRoot: path.join({here}, '{up}'),`"
                )),
            );
        }
        if self.build_id == Finding::No {
            self.diagnostics.push(
                Diagnostic::warning(file, "the build id is random, so two builds of the same sources differ")
                    .at(object, "`generateBuildId` is not set from the environment")
                    .hint(format!("add `generateBuildId: () => process.env.{BUILD_ID_VARIABLE} ?? null,`")),
            );
        }
    }
}

fn major(version: Option<&str>) -> Option<u32> {
    version?.split('.').next()?.parse().ok()
}

/// Whether a configuration is an ES module where it runs: Next makes others of those in TypeScript.
fn is_module(file: &SourceFile, code: &str) -> bool {
    let name = file.name.as_str();
    name.ends_with(".mjs")
        || name.ends_with(".mts")
        || name.ends_with(".js") && !code.contains("module.exports")
}

fn default_dist() -> RelPath {
    RelPath::root().child(DEFAULT_DIST)
}

fn version(workspace: &Workspace, dir: &RelPath) -> Option<String> {
    let lockfile = &workspace.lockfile;
    let dependency = lockfile.importer(dir)?.dependencies.iter().find(|d| lockfile.text(d.name) == "next")?;
    match lockfile.resolve(dependency.name, dependency.version) {
        Reference::Snapshot(key) => Some(lockfile.version_of(lockfile.find_snapshot(&key)?).to_owned()),
        Reference::Link(_) => None,
    }
}

/// The text with comments replaced by spaces, so that offsets stay. A regular expression with a quote in it can
/// mislead this; configurations hardly have one.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quote = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        match (quote, c) {
            (None, '/') if rest.starts_with("//") || rest.starts_with("/*") => {
                taken = if rest.starts_with("//") {
                    rest.find('\n').unwrap_or(rest.len())
                } else {
                    rest[2..].find("*/").map_or(rest.len(), |at| at + 4)
                };
                out.extend(rest[..taken].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
                rest = &rest[taken..];
                continue;
            }
            (None, '\'' | '"' | '`') => quote = Some(c),
            (Some(_), '\\') => taken += rest[1..].chars().next().map_or(0, char::len_utf8),
            // A string does not go over a line's end, a template does.
            (Some(open), c) if c == open || (c == '\n' && open != '`') => quote = None,
            _ => {}
        }
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

/// The words of the code with their offsets, those in strings among them.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + code[at..].find(is_word)?;
        let length = code[start..].find(|c: char| !is_word(c)).unwrap_or(code.len() - start);
        at = start + length;
        Some((start, &code[start..at]))
    })
}

/// The place of `name: …`, `'name': …`, `x.name = …`, `name() {…}` or the shorthand `name,`, with the text of what it
/// is set to.
fn property<'a>(code: &'a str, name: &'a str) -> Option<(Span, &'a str)> {
    properties(code, name).next()
}

/// All places of a property, as [`property`] finds the first.
fn properties<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = (Span, &'a str)> {
    words(code).filter(move |(_, word)| *word == name).filter_map(move |(start, word)| {
        let end = start + word.len();
        let after = code[end..].trim_start_matches(['\'', '"', ']']).trim_start();
        let value = match after.chars().next() {
            Some(':') => &after[1..],
            // `x.output = …`; a variable of the name says nothing by itself.
            Some('=') if !after.starts_with("==") && code[..start].ends_with(['.', '\'', '"']) => &after[1..],
            Some('(' | ',' | '}') => after,
            _ => return None,
        };
        let length = value_length(value);
        Some((Span::new(start, end), value[..length].trim()))
    })
}

/// How far a value goes: to the comma, semicolon or closing bracket at its own level.
fn value_length(value: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in value.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => return at,
            ')' | ']' | '}' => depth -= 1,
            ',' | ';' if depth == 0 => return at,
            _ => {}
        }
    }
    value.len()
}

/// The text of a plain string.
fn literal(value: &str) -> Option<&str> {
    let value = value.trim_end_matches("as const").trim();
    let quoted = ['\'', '"', '`'].into_iter().find_map(|q| value.strip_prefix(q)?.strip_suffix(q));
    quoted.filter(|text| !text.contains(['\'', '"', '`', '$', '\\']))
}

/// Of several properties of this name, the one that says most: webpack's configuration has one, too.
fn standalone(code: &str, absent: Finding) -> (Finding, Option<Span>) {
    let mut found = (absent, None);
    for (span, value) in properties(code, "output") {
        let finding = match literal(value) {
            Some("standalone") => return (Finding::Yes, Some(span)),
            Some(_) => Finding::No,
            None if value == "undefined" => Finding::No,
            // Webpack's is an object, Next's never.
            None if value.starts_with('{') => continue,
            None => Finding::Unknown,
        };
        if found.1.is_none() || finding == Finding::Unknown {
            found = (finding, Some(span));
        }
    }
    found
}

/// Whether the configuration takes properties from elsewhere: a spread, or a local module.
fn brings_in_more(code: &str) -> bool {
    // Without an object in sight, what is exported is a call or a name that an import brings in.
    code.contains("...") || imports_local_module(code) || config_object(code).is_none()
}

/// Whether an import or a `require` names a file beside the configuration. A path elsewhere, such as the one in
/// `path.join(__dirname, '../..')`, brings nothing in.
fn imports_local_module(code: &str) -> bool {
    code.match_indices(['\'', '"', '`']).filter(|(at, quote)| code[at + quote.len()..].starts_with('.')).any(
        |(at, _)| {
            let before = code[..at].trim_end();
            let before = before.strip_suffix('(').map_or(before, str::trim_end);
            ["from", "import", "require"].iter().any(|word| before.ends_with(word))
        },
    )
}

/// The opening brace of the object that is probably the configuration.
fn config_object(code: &str) -> Option<Span> {
    let starts = ["nextConfig", "module.exports", "export default", "config"];
    starts.iter().find_map(|start| {
        let at = code.match_indices(start).find_map(|(at, _)| {
            let after = &code[at + start.len()..];
            // `const nextConfig: NextConfig = {`, `module.exports = {`, `export default {`.
            let head: usize = after.find('{')?;
            let between = &after[..head];
            let plain = !between.contains([';', '(', ')', '}']) && between.len() < 80;
            (plain && (between.contains('=') || *start == "export default"))
                .then_some(at + start.len() + head)
        })?;
        Some(Span::new(at, at + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(text: &str) -> NextFacts {
        let dir = RelPath::new("apps/web").unwrap();
        NextFacts::of_config(&SourceFile::new("apps/web/next.config.ts", text), &dir, None)
    }

    #[test]
    fn standalone_is_found_or_not() {
        use Finding::{No, Unknown, Yes};
        for (text, expected) in [
            (
                "/** @type {x} */\nconst nextConfig = { output: 'standalone' };\nexport default nextConfig;",
                Yes,
            ),
            ("module.exports = {\n  \"output\": \"standalone\", // x\n};", Yes),
            ("const config: NextConfig = {};\nconfig.output = 'standalone';\nexport default config", Yes),
            ("export default { output: 'standalone' as const }", Yes),
            ("export default { // output: 'standalone'\n}", No),
            ("export default { /* output: 'standalone', */ }", No),
            ("export default { x: \"// no comment\", output: 'standalone' }", Yes),
            ("export default { output: 'export' }", No),
            ("export default { outputFileTracingRoot: x }", No),
            ("const output = 'standalone';\nexport default { output }", Unknown),
            ("export default { output: process.env.CI ? 'standalone' : undefined }", Unknown),
            ("import base from './base.mjs';\nexport default { ...base }", Unknown),
            ("import make from 'x';\nexport default make()", Unknown),
            ("import path from 'x';\nexport default { root: path.join(__dirname, '../..') }", No),
            ("const base = require( './base' );\nmodule.exports = { root: base.root }", Unknown),
            ("import '../env.mjs';\nexport default {}", Unknown),
            ("", Unknown),
            ("export default { webpack(c) { c.output = { x: 1 }; return c }, output: 'standalone' }", Yes),
            ("export default { webpack(c) { c.output = { x: 1 }; return c } }", No),
            (
                "const nextConfig = { output: 'standalone' };\nexport default withSentryConfig(withMDX(nextConfig), { silent: true });",
                Yes,
            ),
        ] {
            assert_eq!(facts(text).standalone, expected, "{text}");
        }
    }

    #[test]
    fn what_paths_begin_and_end_with() {
        let paths = |text: &str| {
            let facts = facts(&format!("export default {{ {text} }}"));
            (facts.base_path, facts.trailing_slash)
        };
        assert_eq!(paths(""), (Some(String::new()), false));
        assert_eq!(paths("basePath: '/docs', trailingSlash: true"), (Some("/docs".to_owned()), true));
        assert_eq!(paths("basePath: process.env.BASE, trailingSlash: false"), (None, false));
    }

    #[test]
    fn the_folder_it_builds_to() {
        let dist = |text: &str| {
            let facts = facts(&format!(
                "export default {{ output: 'standalone', outputFileTracingRoot: x, {text} }}"
            ));
            let said: Vec<String> = facts.diagnostics.iter().map(ToString::to_string).collect();
            (
                facts.dist.to_string(),
                said.into_iter().filter(|said| !said.contains("build id")).collect::<Vec<_>>().concat(),
            )
        };
        for (text, expected) in [
            ("", ".next"),
            ("distDir: 'build'", "build"),
            ("distDir: \"./out/web\",", "out/web"),
            ("distDir: `b`", "b"),
        ] {
            assert_eq!(dist(text), (expected.to_owned(), String::new()), "{text}");
        }
        assert!(dist("distDir: process.env.DIST").1.contains("cannot see where"));
        assert!(dist("distDir: `b${x}`").1.contains("cannot see where"));
        assert!(dist("distDir: '../out'").1.contains("must be a folder"));
    }

    #[test]
    fn diagnostics_name_the_line_to_add() {
        let facts = facts(
            "import path from 'node:path';\n\nconst nextConfig = {\n  reactStrictMode: true,\n};\nexport default nextConfig;\n",
        );
        let said: Vec<String> =
            facts.diagnostics.iter().map(|d| format!("{d}\n  {}", d.hints.join("\n  "))).collect();
        insta::assert_snapshot!(said.join("\n"), @"
        apps/web/next.config.ts:3:20: the application does not build a standalone server
          add the line `output: 'standalone',` to the configuration in `apps/web/next.config.ts`
        apps/web/next.config.ts:3:20: `outputFileTracingRoot` is not set, so Next guesses which files belong to the server
          set it to the workspace root: `outputFileTracingRoot: path.join(__dirname, '../..'),`
        apps/web/next.config.ts:3:20: the build id is random, so two builds of the same sources differ
          add `generateBuildId: () => process.env.WBUILD_BUILD_ID ?? null,`
        ");
    }

    /// Next 14.2, 15.5 and 16.4 put the server of an application without the setting below its path from the lockfile.
    #[test]
    fn newer_versions_find_the_root_themselves() {
        let dir = RelPath::new("apps/web").unwrap();
        let said = |name: &str, version: &str| {
            let text = "export default { output: 'standalone' }";
            let facts = NextFacts::of_config(&SourceFile::new(name, text), &dir, Some(version));
            facts.diagnostics.iter().flat_map(|found| found.hints.clone()).collect::<Vec<_>>().join("\n")
        };
        assert!(!said("next.config.mjs", "16.4.6").contains("outputFileTracingRoot"));
        assert!(said("next.config.mjs", "12.3.4").contains("import.meta.dirname"));
        assert!(said("next.config.ts", "13.5.0").contains("__dirname"));
    }

    #[test]
    fn the_build_id_is_read_from_the_environment() {
        let text = "export default { output: 'standalone', outputFileTracingRoot: x, generateBuildId: async () => process.env.WBUILD_BUILD_ID ?? null }";
        let found = facts(text);
        assert_eq!((found.build_id, found.tracing_root), (Finding::Yes, Finding::Yes));
        assert!(found.diagnostics.is_empty());
        assert_eq!(facts("export default { generateBuildId: () => 'x' }").build_id, Finding::No);
    }

    #[test]
    fn no_text_makes_it_panic() {
        for text in ["output", "output:", "output: {", "/*", "'", "`${", "export default {", "ä: output: 'ä"]
        {
            facts(text);
        }
    }
}
