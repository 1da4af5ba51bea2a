use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile, Span};

/// The longest text of a message or hint. Messages quote what was written, and that may be a line of 64 KiB.
const MAX_TEXT: usize = 500;

/// `text`, cut if it is too long to be read.
pub(crate) fn shortened(text: impl Into<String>) -> String {
    let mut text = text.into();
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A diagnostic in the making, before it is known which file it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    message: String,
    labels: Vec<(Span, String)>,
    hints: Vec<String>,
}

impl Problem {
    pub(crate) fn new(message: impl Into<String>, span: Span) -> Self {
        Self { message: shortened(message), labels: vec![(span, String::new())], hints: Vec::new() }
    }

    /// Says something at the place of the problem.
    pub(crate) fn label(mut self, text: impl Into<String>) -> Self {
        if let Some(first) = self.labels.first_mut() {
            first.1 = shortened(text);
        }
        self
    }

    /// Points at another place.
    pub(crate) fn also(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push((span, shortened(text)));
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(shortened(hint));
        self
    }

    pub(crate) fn hints(mut self, hints: impl IntoIterator<Item = String>) -> Self {
        self.hints.extend(hints.into_iter().map(shortened));
        self
    }

    pub(crate) fn error(self, file: &Arc<SourceFile>) -> Diagnostic {
        let Self { message, labels, hints } = self;
        let start = Diagnostic::error(file, message);
        let pointed = labels.into_iter().fold(start, |diagnostic, (span, text)| diagnostic.at(span, text));
        hints.into_iter().fold(pointed, Diagnostic::hint)
    }

    /// The same as a warning: what is wrong now, but fails only later or elsewhere.
    pub(crate) fn warning(mut self, file: &Arc<SourceFile>, introduction: &str) -> Diagnostic {
        self.message = format!("{introduction}: {}", self.message);
        let mut diagnostic = self.error(file);
        diagnostic.severity = wbuild_report::Severity::Warning;
        diagnostic
    }
}
