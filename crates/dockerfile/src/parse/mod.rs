//! From text to [`Dockerfile`]: lines are joined, split and typed, and every problem that does not follow from another one is
//! reported.

mod build;
#[cfg(test)]
mod fixtures;
mod flag;
mod run;
mod transfer;

use std::sync::Arc;

use wbuild_report::{Diagnostic, Severity, SourceFile, Span};

use crate::ast::{Dockerfile, Instruction, LineRange, Stage};
use crate::directive::{self, Directives, Found, Key, Syntax};
use crate::expand::ExpandError;
use crate::heredoc::{self, Heredoc};
use crate::line::{Lines, Logical, PhysicalLine, continued};
use crate::problem::Problem;
use crate::source::{LineIndex, MAX_LINE_BYTES, Source, Word};
use crate::statement::{self, Keyword, Statement};
use crate::suggest::{did_you_mean, suggest_any_case};

/// More problems than this are not reported: nobody reads them, and a file that is no Dockerfile at all has one per line.
const MAX_PROBLEMS: usize = 50;

/// The outcome of reading a file.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// What could be read. Instructions with errors are missing.
    pub dockerfile: Dockerfile,
    /// Errors, and warnings about what will fail only later.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// Whether nothing may be built from this.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// The Dockerfile with the warnings, or all diagnostics if one of them is an error.
    pub fn into_result(self) -> Result<(Dockerfile, Vec<Diagnostic>), Vec<Diagnostic>> {
        if self.has_errors() { Err(self.diagnostics) } else { Ok((self.dockerfile, self.diagnostics)) }
    }
}

/// Reads a Dockerfile.
pub fn parse(source: &Source) -> Parsed {
    let mut parser = Parser::new(source);
    let text = &source.file().text;
    if text.is_empty() {
        parser.whole_file("the Dockerfile cannot be empty");
    } else {
        parser.file();
        if parser.has_errors() {
            // What is missing may just not have been understood.
        } else if parser.instructions_seen == 0 {
            parser.whole_file("file with no instructions");
        } else if parser.stages.is_empty() {
            parser.whole_file("dockerfile contains no stages to build");
        }
    }
    parser.finish()
}

/// Reads an ONBUILD trigger, as an image's configuration keeps it. `image` says in messages where it comes from.
pub fn parse_trigger(image: &str, expression: &str) -> Result<Instruction, Vec<Diagnostic>> {
    let source = Source::from_text(&format!("ONBUILD of {image}"), expression);
    let mut parser = Parser::new(&source);
    parser.trigger = true;
    parser.file();
    let mut instructions = std::mem::take(&mut parser.globals);
    match instructions.pop() {
        _ if parser.has_errors() => Err(parser.diagnostics),
        Some(instruction) if instructions.is_empty() => Ok(instruction),
        _ => {
            parser.whole_file("onbuild trigger should be a single expression");
            Err(parser.diagnostics)
        }
    }
}

struct Parser<'a> {
    source: &'a Source,
    file: Arc<SourceFile>,
    lines: Lines<'a>,
    escape: char,
    escape_seen: bool,
    top: directive::Reader,
    comments: Vec<String>,
    globals: Vec<Instruction>,
    stages: Vec<Stage>,
    empty_continuations: Vec<(usize, Span)>,
    diagnostics: Vec<Diagnostic>,
    instructions_seen: usize,
    /// A line whose `<<` could not be read; what follows it may be the body of a heredoc.
    unread_heredoc: Option<(usize, ExpandError)>,
    /// Said already that the first instruction has to be FROM.
    no_stage_said: bool,
    /// A trigger is read: instructions need no stage.
    trigger: bool,
    /// What was read, before it got a type.
    #[cfg(test)]
    statements: Vec<Statement>,
}

impl<'a> Parser<'a> {
    fn new(source: &'a Source) -> Self {
        Self {
            source,
            file: Arc::clone(source.file()),
            lines: Lines::new(&source.file().text),
            escape: '\\',
            escape_seen: false,
            top: directive::Reader::default(),
            comments: Vec::new(),
            globals: Vec::new(),
            stages: Vec::new(),
            empty_continuations: Vec::new(),
            diagnostics: Vec::new(),
            instructions_seen: 0,
            unread_heredoc: None,
            no_stage_said: false,
            trigger: false,
            #[cfg(test)]
            statements: Vec::new(),
        }
    }

    fn finish(self) -> Parsed {
        let text = &self.file.text;
        let syntax =
            directive::find(text, Key::Syntax).map(|(image, command_line)| Syntax { image, command_line });
        let check = directive::find(text, Key::Check).map(|(check, _)| check);
        let lines = LineIndex::new(text);
        let dockerfile = Dockerfile {
            directives: Directives { syntax, check, escape: self.escape },
            globals: self.globals,
            stages: self.stages,
            empty_continuations: self.empty_continuations,
            lines,
            file: self.file,
        };
        Parsed { dockerfile, diagnostics: self.diagnostics }
    }

    fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    fn whole_file(&mut self, message: &str) {
        self.diagnostics
            .push(Diagnostic::error(&self.file, message).hint("a Dockerfile begins with `FROM image`"));
    }

    fn report(&mut self, problem: Problem) {
        if self.diagnostics.len() < MAX_PROBLEMS {
            self.diagnostics.push(problem.error(&self.file));
        }
    }

    fn report_all(&mut self, problems: Vec<Problem>) {
        for problem in problems {
            self.report(problem);
        }
    }

    fn file(&mut self) {
        while let Some(line) = self.next_line() {
            // As a comment it is kept for the instruction below; as the end of the directives it counts as well.
            let mut raw = line.raw;
            let mut start = line.start;
            if line.number == 1
                && let Some(rest) = raw.strip_prefix('\u{feff}')
            {
                start += raw.len() - rest.len();
                raw = rest;
            }
            let line = PhysicalLine { raw, start, ..line };
            let is_comment = line.is_comment();
            if is_comment {
                self.comment(&line);
            }
            self.directive(&line, is_comment);
            if is_comment {
                continue;
            }
            let text = line.text();
            let trimmed = text.trim_start();
            let start = line.start + (text.len() - trimmed.len());
            if trimmed.is_empty() {
                continue;
            }
            self.instruction(trimmed, start, line.number);
        }
    }

    /// The next line; lines that are too long are reported and passed over.
    fn next_line(&mut self) -> Option<PhysicalLine<'a>> {
        let line = self.lines.next()?;
        if line.raw.strip_suffix('\n').unwrap_or(line.raw).len() > MAX_LINE_BYTES {
            self.report(
                Problem::new(
                    format!("dockerfile line greater than max allowed size of {MAX_LINE_BYTES}"),
                    Span::new(line.start, line.start),
                )
                .label(format!("this line has {} bytes", line.raw.len()))
                .hint("break it with a backslash, or put the text into a file and COPY it"),
            );
        }
        Some(line)
    }

    fn comment(&mut self, line: &PhysicalLine<'_>) {
        // One character is cut off whether or not it is the `#`: BuildKit does not see comments that are indented as
        // descriptions or check options either.
        let mut chars = line.raw.chars();
        chars.next();
        let comment = chars.as_str().trim();
        if comment.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(comment.to_owned());
        }
    }

    fn directive(&mut self, line: &PhysicalLine<'_>, is_comment: bool) {
        let text = line.text().trim_start();
        let offset = line.start + (line.text().len() - text.len());
        match self.top.line(text, line.number, "#") {
            Found::Nothing => {}
            Found::Repeated(key, first) => self.report(
                Problem::new(
                    format!("only one {} parser directive can be used", key.name()),
                    Span::new(offset, offset + text.len()),
                )
                .label(format!("the first one is in line {first}"))
                .hint("remove one of them, or put an ordinary comment above it"),
            ),
            Found::Directive(key, value) => {
                if is_comment {
                    self.comments.pop();
                }
                if key == Key::Escape {
                    let span = Span::new(offset + value.start, offset + value.end);
                    match &text[value] {
                        "\\" => self.escape = '\\',
                        "`" => self.escape = '`',
                        other => self.report(
                            Problem::new(
                                format!("invalid escape token '{other}' does not match ` or \\"),
                                span,
                            )
                            .hint("write `# escape=\\` or, for Windows paths, `` # escape=` ``"),
                        ),
                    }
                    self.escape_seen = true;
                }
            }
        }
    }

    /// An instruction that begins with `first`, which is not blank and no comment.
    fn instruction(&mut self, first: &'a str, start: usize, number: usize) {
        let mut logical = Logical::default();
        let mut piece = first;
        let mut piece_start = start;
        let mut blank_lines = false;
        let mut undecodable = None;
        let mut end = start + first.len();
        loop {
            let rest = continued(piece, self.escape);
            let text = rest.unwrap_or(piece);
            logical.push(text, piece_start);
            end = end.max(piece_start + text.len());
            undecodable = undecodable.or(self.undecodable(piece_start, piece.len()));
            if rest.is_none() {
                break;
            }
            // Comments and blank lines do not end a continuation.
            let next = loop {
                let Some(line) = self.next_line() else { break None };
                if line.is_comment() {
                    continue;
                }
                if line.text().trim_start().is_empty() {
                    blank_lines = true;
                    continue;
                }
                break Some(line);
            };
            let Some(line) = next else { break };
            piece = line.text();
            piece_start = line.start;
        }
        let span = Span::new(start, end);
        if blank_lines {
            self.empty_continuations.push((self.lines.number(), span));
        }
        self.instructions_seen += 1;
        let comments = std::mem::take(&mut self.comments);
        if let Some(at) = undecodable {
            self.report(not_utf8(at));
        }
        if let Some(at) = logical.text.find('\0') {
            self.report(
                Problem::new("a NUL byte stands in this instruction", logical.span(at..at + 1))
                    .hint("remove it: neither programs nor paths can hold one"),
            );
            return;
        }
        self.joined(&logical, span, number, comments);
    }

    fn undecodable(&self, start: usize, length: usize) -> Option<usize> {
        self.source.undecodable_in(Span::new(start, start + length))
    }

    fn joined(&mut self, logical: &Logical, span: Span, first_line: usize, comments: Vec<String>) {
        let mut problems = Vec::new();
        let statement = statement::read(logical, 0..logical.text.len(), self.escape, &mut problems);
        self.report_all(problems);
        let Some(mut statement) = statement else { return };
        let mut span = span;
        if statement.takes_heredocs() && logical.text.contains("<<") {
            match heredoc::markers(&logical.text) {
                Ok(markers) => {
                    let Some(end) = self.heredocs(&mut statement, logical, markers) else { return };
                    span.end = span.end.max(end);
                }
                Err(error) => self.unread_heredoc = Some((first_line, error)),
            }
        }
        #[cfg(test)]
        self.statements.push(statement.clone());
        let lines = LineRange { first: first_line, last: self.lines.number() };
        self.typed(&statement, span, lines, comments);
    }

    /// Reads the bodies; `None` when one does not end.
    fn heredocs(
        &mut self,
        statement: &mut Statement,
        logical: &Logical,
        markers: Vec<(heredoc::Marker, String)>,
    ) -> Option<usize> {
        let mut from = 0;
        let mut end = 0;
        for (marker, word) in markers {
            let at = logical.text[from..].find(&word).map(|at| from + at..from + at + word.len());
            from = at.as_ref().map_or(from, |at| at.end);
            let span = logical.span(at.unwrap_or(0..logical.text.len()));
            let body_start = self.end_of_read();
            let mut similar = None;
            let mut terminated = None;
            while let Some(line) = self.next_line() {
                let text = line.text();
                let candidate = if marker.strip_tabs { text.trim_start_matches('\t') } else { text };
                if candidate == marker.name {
                    terminated = Some(line);
                    break;
                }
                if similar.is_none() && text.trim() == marker.name {
                    similar = Some(line);
                }
            }
            let Some(terminator) = terminated else {
                self.report(unterminated(&marker, span, similar));
                return None;
            };
            if let Some(at) = self.undecodable(body_start, terminator.start - body_start) {
                self.report(not_utf8(at));
            }
            end = terminator.span().end;
            statement.heredocs.push(Heredoc {
                name: marker.name,
                descriptor: marker.descriptor,
                expand: marker.expand,
                strip_tabs: marker.strip_tabs,
                body: self.source.file().text[body_start..terminator.start].to_owned(),
                marker: span,
                body_span: Span::new(body_start, terminator.start),
            });
        }
        Some(end)
    }

    fn end_of_read(&self) -> usize {
        self.lines.offset()
    }

    fn typed(&mut self, statement: &Statement, span: Span, lines: LineRange, comments: Vec<String>) {
        let place = build::Place { file: &self.file, span, lines };
        match Keyword::of(&statement.keyword.text) {
            None => self.unknown_instruction(&statement.keyword),
            Some(Keyword::From) if self.trigger => {
                self.report(Problem::new("FROM isn't allowed as an ONBUILD trigger", statement.keyword.span));
            }
            Some(Keyword::From) => {
                let mut problems = Vec::new();
                let stage = build::stage(statement, &place, comments, self.stages.len(), &mut problems);
                self.report_all(problems);
                self.stages.extend(stage);
                // Without this stage the next instructions would belong to another one; they are checked all the same.
                self.no_stage_said = true;
            }
            Some(keyword) => {
                let mut outcome = build::Outcome::default();
                let instruction = build::instruction(keyword, statement, &place, comments, &mut outcome);
                self.report_all(outcome.problems);
                let room = MAX_PROBLEMS.saturating_sub(self.diagnostics.len());
                let file = Arc::clone(&self.file);
                let later = outcome.later.into_iter().take(room);
                self.diagnostics.extend(later.map(|problem| {
                    problem.warning(&file, "this trigger will fail in every image built on this one")
                }));
                match self.stages.last_mut() {
                    Some(stage) => stage.instructions.extend(instruction),
                    None if keyword == Keyword::Arg || self.trigger => self.globals.extend(instruction),
                    None => self.no_stage(&statement.keyword),
                }
            }
        }
    }

    fn no_stage(&mut self, keyword: &Word) {
        if std::mem::replace(&mut self.no_stage_said, true) {
            return;
        }
        self.report(
            Problem::new("no build stage in current context", keyword.span)
                .label("before the first FROM only ARG may stand")
                .hint("begin with `FROM image`"),
        );
    }

    fn unknown_instruction(&mut self, keyword: &Word) {
        if self.diagnostics.len() >= MAX_PROBLEMS {
            return;
        }
        let found = suggest_any_case(&keyword.text, Keyword::ALL.iter().map(|(name, _)| *name));
        let shown: String = keyword.text.chars().take(100).collect();
        let mut problem = Problem::new(
            format!("unknown instruction: {shown}{}", did_you_mean(found.as_deref())),
            keyword.span,
        );
        if let Some((line, error)) = &self.unread_heredoc {
            problem = problem.hint(format!(
                "if this belongs to the heredoc of line {line}: that line is not read as one, because of {}",
                quoted_reason(error)
            ));
        } else if found.is_none() {
            problem = problem.hint(
                "if it belongs to the line above, end that line with a backslash; a comment begins with `#`",
            );
        }
        self.report(problem);
    }
}

/// An error as part of a sentence.
fn quoted_reason(error: &ExpandError) -> String {
    format!("`{error}`")
}

fn not_utf8(at: usize) -> Problem {
    Problem::new("this is not UTF-8", Span::new(at, at + char::REPLACEMENT_CHARACTER.len_utf8()))
        .label("bytes that are no character")
        .hint("save the file as UTF-8; other bytes are accepted in comments only")
}

fn unterminated(marker: &heredoc::Marker, span: Span, similar: Option<PhysicalLine<'_>>) -> Problem {
    let problem = Problem::new("unterminated heredoc", span)
        .label(format!("no line holds just `{}`", marker.name.escape_debug()));
    match similar {
        Some(line) if line.text().starts_with('\t') && !line.text().ends_with([' ', '\t']) => problem
            .also(line.span(), "tabs stand before this one")
            .hint("with `<<-` instead of `<<` tabs are allowed"),
        Some(line) => problem.also(line.span(), "blanks stand around this one").hint("remove the blanks"),
        None => problem.hint(format!("add a line `{}` behind the text", marker.name.escape_debug())),
    }
}
