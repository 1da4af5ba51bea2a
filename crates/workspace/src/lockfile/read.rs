use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile, Span};

use super::lines::{Line, Lines, Pair, pair, scalar};
use super::{
    Cut, Edge, Importer, ImporterDependency, LOCKFILE, LockedPackage, LockedSettings, Lockfile,
    LockfileVersion, Section, Snapshot, Text, header,
};
use crate::{DependencyKind, RelPath, WorkspaceError};

impl Lockfile {
    /// Reads a lockfile.
    pub fn parse(file: &Arc<SourceFile>) -> Result<Self, WorkspaceError> {
        let body = last_document(&file.text);
        if let Some(conflict) = conflict_marker(&file.text) {
            return Err(Diagnostic::error(file, "the lockfile holds a merge conflict")
                .at(conflict, "conflict marker")
                .hint("resolve it with `pnpm install --lockfile-only`")
                .into());
        }
        let sections = sections(file, body);
        let version = version(file, body, &sections)?;
        let sections = sections?;
        let mut reader = Reader {
            lockfile: Self {
                file: Arc::clone(file),
                version,
                body,
                sections,
                settings: LockedSettings::default(),
                importers: Vec::new(),
                importer_by_dir: std::collections::BTreeMap::new(),
                packages: Vec::new(),
                packages_sorted: Vec::new(),
                snapshots: Vec::new(),
                snapshots_sorted: Vec::new(),
                edges: Vec::new(),
            },
            diagnostics: Vec::new(),
        };
        reader.read(file);
        let Reader { mut lockfile, diagnostics } = reader;
        crate::error::without_errors(diagnostics)?;
        lockfile.index()?;
        Ok(lockfile)
    }

    fn index(&mut self) -> Result<(), WorkspaceError> {
        let text = &self.file.text;
        let slice = |t: Text| &text[t.start as usize..t.end as usize];
        let sort = |keys: Vec<Text>| {
            let mut sorted: Vec<u32> = (0u32..).take(keys.len()).collect();
            sorted.sort_by_key(|index| slice(keys[*index as usize]));
            let twice = sorted
                .windows(2)
                .find(|pair| slice(keys[pair[0] as usize]) == slice(keys[pair[1] as usize]))
                .map(|pair| keys[pair[1] as usize]);
            (sorted, twice)
        };
        let (packages, twice_packages) = sort(self.packages.iter().map(|package| package.key).collect());
        let (snapshots, twice_snapshots) = sort(self.snapshots.iter().map(|snapshot| snapshot.key).collect());
        if let Some(key) = twice_packages.or(twice_snapshots) {
            let message = format!("`{}` is in the lockfile twice", self.text(key));
            return Err(self.located((), key).error(message, "again here").into());
        }
        self.packages_sorted = packages;
        self.snapshots_sorted = snapshots;
        Ok(())
    }
}

/// The major of pnpm that only can have written a lockfile, when its form says so: 6 is read by pnpm 8 only, and a document
/// before the lock is written by pnpm 11 and later.
pub(crate) fn lockfile_major(text: &str) -> Option<u32> {
    let body = last_document(text);
    let version = text[body.start..].lines().find_map(|line| line.strip_prefix("lockfileVersion:"))?;
    match version.trim().trim_matches(['\'', '"']) {
        version if version.starts_with("6.") => Some(8),
        "9.0" if body.start > 0 => Some(11),
        _ => None,
    }
}

/// pnpm 11 and later may write a document of their own before the lock.
fn last_document(text: &str) -> Span {
    let is_separator = |at: &usize| {
        let line = text[*at..].lines().next().unwrap_or_default();
        line.trim_end() == "---"
    };
    let first = text.starts_with("---").then_some(0);
    let separators = first.into_iter().chain(text.match_indices("\n---").map(|(at, _)| at + 1));
    let start = separators
        .filter(is_separator)
        .last()
        .map_or(0, |at| text[at..].find('\n').map_or(text.len(), |length| at + length + 1));
    Span::new(start, text.len())
}

fn conflict_marker(text: &str) -> Option<Span> {
    let start = if text.starts_with("<<<<<<< ") { 0 } else { text.find("\n<<<<<<< ")? + 1 };
    Some(Span::new(start, start + 7))
}

fn sections(file: &Arc<SourceFile>, body: Span) -> Result<Vec<Section>, Box<Diagnostic>> {
    let text = &file.text;
    let mut sections: Vec<Section> = Vec::new();
    // Only lines that start with something else than a space or a line break begin a section.
    let bytes = text.as_bytes();
    let starts = std::iter::once(body.start)
        .chain(text[body.start..body.end].match_indices('\n').map(|(at, _)| body.start + at + 1))
        .filter(|at| *at < body.end && !matches!(bytes[*at], b' ' | b'\n' | b'\r' | b'#'));
    let mut ends = Vec::new();
    for start in starts {
        let mut lines = Lines::new(text, Span::new(start, body.end));
        let Some(line) = lines.next() else { break };
        let Some(pair) = pair(line.text, line.start) else { return Err(unknown_line(file, line)) };
        let before = &text[body.start..start];
        ends.push(body.start + before.trim_end_matches(['\n', '\r', ' ']).len());
        sections.push(Section {
            name: text[pair.key.start as usize..pair.key.end as usize].to_owned(),
            head: Span::new(line.start, line.end),
            lead: start,
            span: Span::new(line.start, line.end),
        });
    }
    let tail = text[body.start..body.end].trim_end_matches(['\n', '\r', ' ']).len();
    ends.push(body.start + tail);
    for (index, section) in sections.iter_mut().enumerate() {
        let after_line = |end: usize| text[end..].find('\n').map_or(text.len(), |at| end + at + 1);
        section.lead = if ends[index] == body.start { body.start } else { after_line(ends[index]) };
        section.span.end = after_line(ends[index + 1]);
    }
    Ok(sections)
}

fn unknown_line(file: &Arc<SourceFile>, line: Line<'_>) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error(file, "this line is not as pnpm writes lockfiles")
            .at(line.span(), "not understood")
            .hint("let pnpm write the lockfile anew: `pnpm install --lockfile-only`"),
    )
}

/// The format, or an error that says which one it is instead.
fn version(
    file: &Arc<SourceFile>,
    body: Span,
    sections: &Result<Vec<Section>, Box<Diagnostic>>,
) -> Result<LockfileVersion, WorkspaceError> {
    let text = &file.text[body.start..body.end];
    let found = text.find("lockfileVersion").map(|at| {
        let start = body.start + at;
        let line = text[at..].lines().next().unwrap_or_default();
        let value = line["lockfileVersion".len()..].trim_matches(|c: char| " \t:='\",".contains(c));
        (Span::new(start, start + line.len()), value.to_owned())
    });
    let Some((span, value)) = found else {
        let empty = text.trim().is_empty();
        let message =
            if empty { "the lockfile is empty" } else { "lockfile version unknown: none is written" };
        return Err(Diagnostic::error(file, message)
            .hint("write it with `pnpm install --lockfile-only`")
            .into());
    };
    let unknown = |what: String, hint: &str| {
        Diagnostic::error(file, format!("lockfile version unknown: {what}"))
            .at(span, "wbuild reads 6.0 and 9.0")
            .hint(hint)
    };
    let major = value.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(9) if sections.is_ok() => Ok(LockfileVersion::V9),
        Some(6) if sections.is_ok() => Ok(LockfileVersion::V6),
        // The version is known, so the error is the line that was not understood.
        Some(6 | 9) => Err(sections.as_ref().err().map_or_else(
            || unknown(value.clone(), "").into(),
            |diagnostic| WorkspaceError::from(diagnostic.clone()),
        )),
        Some(major) if major < 6 => Err(unknown(
            format!("{value} is of pnpm 7 or older"),
            "write it anew with pnpm 9 or later: `pnpm install --lockfile-only`",
        )
        .into()),
        Some(13) => Err(unknown(
            "13 is an experimental format of pnpm 12".to_owned(),
            "remove `lockfile.format` from pnpm-workspace.yaml and run `pnpm install --lockfile-only`",
        )
        .into()),
        _ => Err(unknown(
            format!("`{value}`"),
            "write it with a pnpm from 8 to 12: `pnpm install --lockfile-only`",
        )
        .into()),
    }
}

struct Reader {
    lockfile: Lockfile,
    diagnostics: Vec<Diagnostic>,
}

impl Reader {
    fn read(&mut self, file: &Arc<SourceFile>) {
        self.lockfile.settings = header::read(file, &self.lockfile.sections, &mut self.diagnostics);
        let sections = self.lockfile.sections.clone();
        let mut root = None;
        for section in &sections {
            let below = Span::new(section.head.end, section.span.end);
            let mut lines = Lines::new(&file.text, below);
            match section.name.as_str() {
                "importers" => self.read_importers(file, lines),
                "packages" => self.read_packages(file, lines),
                "snapshots" => self.read_snapshots(file, lines),
                // v6 of a single package has no `importers`; its dependencies stand at the top.
                "dependencies" | "devDependencies" | "optionalDependencies"
                    if self.lockfile.version == LockfileVersion::V6 =>
                {
                    let kind = dependency_kind(&section.name);
                    let key = Text::new(section.head.start, section.head.start);
                    let cut =
                        Cut { lead: section.lead, span: Span::new(section.head.start, section.head.start) };
                    let importer = root.get_or_insert_with(|| empty_importer(RelPath::root(), key, cut));
                    if let Some(kind) = kind {
                        self.read_importer_dependencies(file, &mut lines, 0, kind, importer);
                    }
                }
                _ => {}
            }
        }
        if let Some(root) = root {
            self.add_importer(root);
        }
    }

    fn unknown(&mut self, file: &Arc<SourceFile>, line: Line<'_>) {
        // One is enough: after it everything may be misunderstood.
        if self.diagnostics.is_empty() {
            self.diagnostics.push(*unknown_line(file, line));
        }
    }

    /// An entry's key and, for a key too long for a line of its own (`? key`), the rest of its first line.
    fn entry<'a>(&mut self, file: &Arc<SourceFile>, lines: &mut Lines<'a>) -> Option<Entry<'a>> {
        let line = lines.next()?;
        if line.indent == 2 && line.text.starts_with("? ") {
            let key = scalar(&line.text[2..], line.content_start() + 2);
            let second = lines.next_within(2);
            return match (key, second) {
                (Some(key), Some(second)) if second.text.starts_with(": ") => {
                    // The first property stands behind `: `, where it would stand below the key.
                    let text = &second.text[2..];
                    let first = Line { indent: 4, start: second.content_start() - 2, text, ..second };
                    Some(Entry { line, key, value: None, first: Some(first) })
                }
                _ => {
                    self.unknown(file, line);
                    None
                }
            };
        }
        match (line.indent == 2).then(|| pair(line.text, line.content_start())).flatten() {
            Some(Pair { key, value }) => Some(Entry { line, key, value, first: None }),
            None => {
                self.unknown(file, line);
                None
            }
        }
    }

    fn read_importers(&mut self, file: &Arc<SourceFile>, mut lines: Lines<'_>) {
        while let Some(Entry { line, key, .. }) = self.entry(file, &mut lines) {
            let dir = match RelPath::new(self.lockfile.text(key)) {
                Ok(dir) => dir,
                Err(error) => {
                    let located = self.lockfile.located((), key);
                    self.diagnostics.push(located.error(format!("importer: {error}"), "of this importer"));
                    lines.skip_within(4);
                    continue;
                }
            };
            let cut = Cut { lead: line.lead, span: Span::new(line.start, line.end) };
            let mut importer = empty_importer(dir, key, cut);
            while let Some(property) = lines.next_within(4) {
                let Some(found) =
                    pair(property.text, property.content_start()).filter(|_| property.indent == 4)
                else {
                    self.unknown(file, property);
                    return;
                };
                let name = self.lockfile.text(found.key).to_owned();
                match (name.as_str(), dependency_kind(&name)) {
                    (_, Some(kind)) => {
                        self.read_importer_dependencies(file, &mut lines, 4, kind, &mut importer);
                    }
                    ("dependenciesMeta", _) => {
                        let end = lines.skip_within(6).max(property.end);
                        importer.dependencies_meta = Some(Span::new(property.end, end));
                    }
                    ("publishDirectory", _) => importer.publish_directory = found.value,
                    _ => {
                        lines.skip_within(6);
                    }
                }
            }
            importer.cut.span.end = lines.skip_within(4).max(line.end);
            self.add_importer(importer);
        }
    }

    fn add_importer(&mut self, importer: Importer) {
        let dir = importer.dir.clone();
        if self.lockfile.importer_by_dir.insert(dir.clone(), self.lockfile.importers.len()).is_some() {
            let located = self.lockfile.located((), importer.key);
            self.diagnostics
                .push(located.error(format!("the importer `{dir}` is in the lockfile twice"), "again"));
        }
        self.lockfile.importers.push(importer);
    }

    /// Reads `name:` lines two deeper than `indent`, each with `specifier:` and `version:` two deeper still.
    fn read_importer_dependencies(
        &mut self,
        file: &Arc<SourceFile>,
        lines: &mut Lines<'_>,
        indent: usize,
        kind: DependencyKind,
        importer: &mut Importer,
    ) {
        while let Some(line) = lines.next_within(indent + 2) {
            let name = pair(line.text, line.content_start())
                .filter(|pair| line.indent == indent + 2 && pair.value.is_none());
            let Some(name) = name else {
                self.unknown(file, line);
                return;
            };
            let (mut specifier, mut version) = (None, None);
            while let Some(field) = lines.next_within(indent + 4) {
                let Some(pair) = pair(field.text, field.content_start()) else {
                    self.unknown(file, field);
                    return;
                };
                match self.lockfile.text(pair.key) {
                    "specifier" => specifier = pair.value,
                    "version" => version = pair.value,
                    _ => {}
                }
            }
            let (Some(specifier), Some(version)) = (specifier, version) else {
                self.unknown(file, line);
                return;
            };
            importer.dependencies.push(ImporterDependency { name: name.key, specifier, version, kind });
        }
    }

    fn read_packages(&mut self, file: &Arc<SourceFile>, mut lines: Lines<'_>) {
        while let Some(entry) = self.entry(file, &mut lines) {
            let span = Span::new(entry.line.start, entry.line.end);
            let cut = Cut { lead: entry.line.lead, span };
            let mut package = LockedPackage {
                key: entry.key,
                resolution: None,
                os: None,
                cpu: None,
                libc: None,
                name: None,
                cut,
            };
            let mut snapshot = self.empty_snapshot(&entry, cut);
            let mut next = entry.first;
            while let Some(line) = next.take().or_else(|| lines.next_within(4)) {
                let Some(pair) = pair(line.text, line.content_start()).filter(|_| line.indent == 4) else {
                    if line.indent > 4 {
                        continue;
                    }
                    self.unknown(file, line);
                    return;
                };
                let field = match self.lockfile.text(pair.key) {
                    "resolution" => &mut package.resolution,
                    "os" => &mut package.os,
                    "cpu" => &mut package.cpu,
                    "libc" => &mut package.libc,
                    "name" => &mut package.name,
                    _ => {
                        if self.lockfile.version == LockfileVersion::V6 {
                            self.read_snapshot_field(file, &mut lines, pair, &mut snapshot);
                        } else {
                            lines.skip_within(6);
                        }
                        continue;
                    }
                };
                let below = lines.skip_within(6);
                *field = pair.value.or((below > line.end).then(|| Text::new(line.end, below)));
            }
            package.cut.span.end = lines.skip_within(4).max(entry.line.end);
            if self.lockfile.version == LockfileVersion::V6 {
                snapshot.cut = package.cut;
                self.lockfile.snapshots.push(snapshot);
            }
            self.lockfile.packages.push(package);
        }
    }

    fn read_snapshots(&mut self, file: &Arc<SourceFile>, mut lines: Lines<'_>) {
        while let Some(entry) = self.entry(file, &mut lines) {
            let span = Span::new(entry.line.start, entry.line.end);
            let mut snapshot = self.empty_snapshot(&entry, Cut { lead: entry.line.lead, span });
            let mut next = entry.first;
            while let Some(line) = next.take().or_else(|| lines.next_within(4)) {
                match pair(line.text, line.content_start()).filter(|_| line.indent == 4) {
                    Some(pair) => self.read_snapshot_field(file, &mut lines, pair, &mut snapshot),
                    None => {
                        self.unknown(file, line);
                        return;
                    }
                }
            }
            snapshot.cut.span.end = lines.skip_within(4).max(entry.line.end);
            self.lockfile.snapshots.push(snapshot);
        }
    }

    fn empty_snapshot(&mut self, entry: &Entry<'_>, cut: Cut) -> Snapshot {
        if let Some(value) = entry.value
            && self.lockfile.text(value) != "{}"
        {
            let file = Arc::clone(&self.lockfile.file);
            self.unknown(&file, entry.line);
        }
        let edges = u32::try_from(self.lockfile.edges.len()).unwrap_or(u32::MAX);
        Snapshot { key: entry.key, optional: false, edges: (edges, edges), cut }
    }

    /// Takes what depends on other snapshots; everything else below the field is passed over.
    fn read_snapshot_field(
        &mut self,
        file: &Arc<SourceFile>,
        lines: &mut Lines<'_>,
        field: Pair,
        snapshot: &mut Snapshot,
    ) {
        match self.lockfile.text(field.key) {
            "dependencies" | "optionalDependencies" => {
                while let Some(line) = lines.next_within(6) {
                    let found = pair(line.text, line.content_start()).filter(|_| line.indent == 6);
                    let Some(Pair { key: name, value: Some(version) }) = found else {
                        self.unknown(file, line);
                        return;
                    };
                    self.lockfile.edges.push(Edge { name, version });
                }
                snapshot.edges.1 = u32::try_from(self.lockfile.edges.len()).unwrap_or(u32::MAX);
            }
            "optional" => {
                snapshot.optional = field.value.is_some_and(|value| self.lockfile.text(value) == "true");
            }
            _ => {
                lines.skip_within(6);
            }
        }
    }
}

struct Entry<'a> {
    line: Line<'a>,
    key: Text,
    value: Option<Text>,
    first: Option<Line<'a>>,
}

fn empty_importer(dir: RelPath, key: Text, cut: Cut) -> Importer {
    Importer { dir, dependencies: Vec::new(), publish_directory: None, key, dependencies_meta: None, cut }
}

fn dependency_kind(key: &str) -> Option<DependencyKind> {
    DependencyKind::ALL[..3].iter().find(|(_, name)| *name == key).map(|(kind, _)| *kind)
}

/// The name under which an absent lockfile is reported.
pub(crate) fn missing() -> Diagnostic {
    let file = SourceFile::new(LOCKFILE, "");
    Diagnostic::error(&file, "the workspace has no pnpm-lock.yaml at its root")
        .hint("write it with `pnpm install --lockfile-only` and commit it, and check that .dockerignore does not leave it out")
}
