use std::fmt;
use std::io::Write;

/// The writer of a view. Once a write fails (a closed pipe, a vanished terminal) the rest is dropped: a build must
/// not fail because nobody watches it.
pub(super) struct Output {
    writer: Option<Box<dyn Write + Send>>,
}

impl Output {
    pub(super) fn new(writer: impl Write + Send + 'static) -> Self {
        Self { writer: Some(Box::new(writer)) }
    }

    /// Writes `text` at once, so that a terminal never shows half a frame for long.
    pub(super) fn write(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if let Some(writer) = &mut self.writer
            && writer.write_all(text.as_bytes()).and_then(|()| writer.flush()).is_err()
        {
            self.writer = None;
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Output")
    }
}
