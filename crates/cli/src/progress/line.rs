//! Chunks of a step's output into lines.

/// Bytes after which a line is ended by force: a step that writes no line breaks must not fill the memory.
const MAX_LINE: usize = 64 * 1024;

/// Puts lines together from chunks. A carriage return starts the line over, as on a terminal: of a progress bar
/// only the last state is left. Every other byte arrives in exactly one line.
#[derive(Debug, Default)]
pub(super) struct LineAssembler {
    line: Vec<u8>,
    /// A carriage return came. What it means depends on the next byte: `\r\n` is a line break.
    returned: bool,
}

impl LineAssembler {
    /// Takes a chunk in and hands out the lines it completes.
    pub(super) fn push(&mut self, chunk: &[u8], mut completed: impl FnMut(Vec<u8>)) {
        for byte in chunk {
            match byte {
                b'\n' => {
                    self.returned = false;
                    completed(std::mem::take(&mut self.line));
                }
                b'\r' => self.returned = true,
                byte => {
                    if std::mem::take(&mut self.returned) {
                        self.line.clear();
                    }
                    if self.line.len() >= MAX_LINE && is_boundary(*byte) {
                        completed(std::mem::take(&mut self.line));
                    }
                    self.line.push(*byte);
                }
            }
        }
    }

    /// What the current line holds so far.
    pub(super) fn partial(&self) -> Option<&[u8]> {
        (!self.line.is_empty()).then_some(self.line.as_slice())
    }

    /// The last line, if it was not ended.
    pub(super) fn flush(&mut self) -> Option<Vec<u8>> {
        self.returned = false;
        (!self.line.is_empty()).then(|| std::mem::take(&mut self.line))
    }
}

/// Whether a line may be cut before this byte: not inside of a UTF-8 character.
fn is_boundary(byte: u8) -> bool {
    byte & 0b1100_0000 != 0b1000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut assembler = LineAssembler::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            assembler.push(chunk, |line| lines.push(line));
        }
        lines.extend(assembler.flush());
        lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    #[test]
    fn lines_are_put_together_from_chunks() {
        assert_eq!(lines(&[b"one\ntw", b"o\n\n", b"thr\xc3", b"\xa4e"]), ["one", "two", "", "thräe"]);
        assert!(lines(&[]).is_empty());
        assert!(lines(&[b""]).is_empty());
    }

    #[test]
    fn of_a_progress_bar_the_last_state_is_left() {
        assert_eq!(lines(&[b" 10%\r 50%\r", b"100%\ndone"]), ["100%", "done"]);
        assert_eq!(lines(&[b" 10%\r 50%\r"]), [" 50%"]);
        assert_eq!(lines(&[b"windows\r", b"\nlines\r\n"]), ["windows", "lines"]);
        assert_eq!(lines(&[b"a\r\r\nb"]), ["a", "b"]);
    }

    #[test]
    fn endless_lines_are_cut_between_characters() {
        let endless = "ä".repeat(MAX_LINE);
        let lines = lines(&[endless.as_bytes()]);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines.concat(), endless);
    }
}
