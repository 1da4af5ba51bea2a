use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A half-open range of byte offsets in a [`SourceFile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The span of `start..end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The smallest span that covers both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self::new(range.start, range.end)
    }
}

/// A file of the user, as the person knows it: its name as it should be printed, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// The path to print, usually relative to where the person is.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl SourceFile {
    /// A source file ready to be pointed into.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), text: text.into() })
    }

    /// The 1-based line and column (in characters) of a byte offset. Offsets past the end give the last position.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (line, column)
    }
}

/// How bad a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The build cannot be done right.
    Error,
    /// The build goes on, but probably does not do what its author believes.
    Warning,
}

/// A place in the file with what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The bytes to underline.
    pub span: Span,
    /// What to write beside the underline; may be empty.
    pub text: String,
}

/// A problem in a file of the user. Several can be reported at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The name of the rule, if the problem has one (`StageNameCasing`): what a skip comment would name.
    pub rule: Option<&'static str>,
    /// What is wrong: a lowercase fragment without a trailing period.
    pub message: String,
    /// The file pointed into.
    pub file: Arc<SourceFile>,
    /// The places, the most important first. Empty when the problem is the file as a whole.
    pub labels: Vec<Label>,
    /// What to do next.
    pub hints: Vec<String>,
}

impl Diagnostic {
    /// An error about the whole of `file`.
    pub fn error(file: &Arc<SourceFile>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            rule: None,
            message: message.into(),
            file: Arc::clone(file),
            labels: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// A warning about the whole of `file`.
    pub fn warning(file: &Arc<SourceFile>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(file, message) }
    }

    /// Names the rule that found this.
    #[must_use]
    pub fn rule(mut self, rule: &'static str) -> Self {
        self.rule = Some(rule);
        self
    }

    /// Points at `span`, saying `text` there.
    #[must_use]
    pub fn at(mut self, span: impl Into<Span>, text: impl Into<String>) -> Self {
        self.labels.push(Label { span: span.into(), text: text.into() });
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// `file:line:column: message`, the form for plain logs; the command line draws the snippet.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.name)?;
        if let Some(label) = self.labels.first() {
            let (line, column) = self.file.position(label.span.start);
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl crate::Hint for Diagnostic {
    fn hints(&self) -> Vec<String> {
        self.hints.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let file = SourceFile::new("f", "one\nzwei ä x\n");
        assert_eq!(file.position(0), (1, 1));
        assert_eq!(file.position(4), (2, 1));
        assert_eq!(file.position("one\nzwei ä ".len()), (2, 8));
        assert_eq!(file.position(10), (2, 6), "inside the two bytes of ä");
        assert_eq!(file.position(usize::MAX), (3, 1));
    }

    #[test]
    fn display_names_the_place() {
        let file = SourceFile::new("web.toml", "a = 1\nb = 2\n");
        let diagnostic = Diagnostic::error(&file, "unknown key `b`").at(6..7, "here");
        assert_eq!(diagnostic.to_string(), "web.toml:2:1: unknown key `b`");
    }
}
