//! Rows at the bottom of a terminal that are drawn over and over, below lines that stay.
//!
//! Everything is written in whole frames, each of which first erases the one before. The cursor rests below the frame
//! between two of them and is never hidden, so that a process killed at any moment leaves a usable terminal.

use std::fmt::Write;

use anstyle::Style;

use super::output::Output;
use crate::render::width;

/// A row of a frame: text without sequences, and the style it is drawn in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) style: Style,
    pub(super) text: String,
}

/// Where frames are drawn.
#[derive(Debug)]
pub(super) struct Canvas {
    output: Output,
    /// The widths of the rows on the screen.
    drawn: Vec<usize>,
}

impl Canvas {
    pub(super) const fn new(output: Output) -> Self {
        Self { output, drawn: Vec::new() }
    }

    /// Writes `lines`, which stay, and draws `rows` below them.
    pub(super) fn draw(&mut self, columns: usize, lines: &str, rows: &[Row]) {
        let columns = columns.max(1);
        let mut text = String::new();
        // A narrowed window has wrapped the rows that no longer fitted.
        let above: usize = self.drawn.iter().map(|width| width.div_ceil(columns).max(1)).sum();
        if above > 0 {
            // Writing into a `String` cannot fail.
            let _ = write!(text, "\r\x1b[{above}A\x1b[J");
        }
        text.push_str(&lines.replace('\n', "\r\n"));
        for Row { style, text: row } in rows {
            let _ = write!(text, "{style}{row}{style:#}\r\n");
        }
        self.drawn = rows.iter().map(|row| width(&row.text)).collect();
        self.output.write(&text);
    }

    /// Writes lines, which stay, where no frame was drawn.
    pub(super) fn write(&mut self, lines: &str) {
        self.output.write(lines);
    }
}
