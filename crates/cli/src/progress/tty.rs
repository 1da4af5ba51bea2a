//! The live view: permanent lines that scroll away as usual, and below them a frame that is drawn over and over.

use std::fmt::Write;
use std::time::Duration;

use anstyle::Style;
use wbuild_report::{Event, Outcome, VertexId};

use super::canvas::{Canvas, Row};
use super::ending::{ending, failure};
use super::output::Output;
use super::plain::NOTEWORTHY;
use super::step::{Build, Change, Step};
use super::terminal::{Terminal, WindowSize};
use super::{FRAME, Summary, View};
use crate::render::{Sgr, Theme, duration, escape_line, escape_lines, fit, log_text, stopwatch, width};

/// Log lines under each running step, where there is room.
const LIVE_LINES: usize = 4;

/// Rows for running steps that the log of a failed one leaves free.
const ROWS_BESIDE_FAILURE: usize = 4;

/// The live view.
#[derive(Debug)]
pub(super) struct TtyView {
    build: Build,
    canvas: Canvas,
    terminal: Terminal,
    theme: Theme,
    /// Permanent lines not written yet.
    pending: String,
    drawn_at: Option<Duration>,
}

impl TtyView {
    pub(super) fn new(output: Output, terminal: Terminal) -> Self {
        let theme = terminal.theme();
        Self {
            build: Build::default(),
            canvas: Canvas::new(output),
            terminal,
            theme,
            pending: String::new(),
            drawn_at: None,
        }
    }

    /// The permanent line of a step that ended. Reused ones are only counted, failed ones stay in the frame until
    /// the end, where nothing can scroll them away.
    fn ended(&mut self, vertex: VertexId) {
        let Some(step) = self.build.step(vertex) else { return };
        if let Some((Outcome::Done, took)) = &step.ended
            && *took > NOTEWORTHY
        {
            let good = self.theme.good();
            let room = self.terminal.size().columns.saturating_sub(20).max(20);
            let (name, took) = (fit(&step.name, room), duration(*took));
            let _ = writeln!(self.pending, "{good}done{good:#} {name} in {took}");
        }
        let Some((Outcome::Built { why }, took)) = &step.ended else { return };
        if step.minor && *took <= NOTEWORTHY {
            return;
        }
        let (good, faint) = (self.theme.good(), self.theme.faint());
        let (took, why) = (duration(*took), escape_line(&why.to_string()).into_owned());
        let around = width("built  in  ()") + width(&took) + width(&why);
        let room = self.terminal.size().columns.saturating_sub(around + 1).max(20);
        let name = fit(&step.name, room);
        let line = format!("{good}built{good:#} {name} in {took} {faint}({why}){faint:#}\n");
        self.pending.push_str(&line);
    }

    /// Writes what is pending and draws `rows` below it.
    fn draw(&mut self, rows: &[Row]) {
        self.canvas.draw(self.terminal.size().columns, &std::mem::take(&mut self.pending), rows);
    }

    /// The frame: a header, what failed, what runs. One row and one column stay free, because a terminal scrolls or
    /// wraps when its last cell is written.
    fn frame(&self, at: Duration, window: WindowSize) -> Vec<Row> {
        let rows = window.rows.saturating_sub(1).max(1);
        let columns = window.columns.saturating_sub(1).max(1);
        let mut frame = vec![self.header(at)];
        self.push_failures(&mut frame, rows);
        self.push_running(&mut frame, at, rows, columns);
        frame.truncate(rows);
        for row in &mut frame {
            row.text = fit(&row.text, columns).into_owned();
        }
        frame
    }

    fn header(&self, at: Duration) -> Row {
        let summary = self.build.summary(at);
        let mut text = format!("[+] {}/{} {}", summary.finished(), summary.total, stopwatch(at));
        let warnings = self.build.warnings().len();
        let counts = [
            (summary.reused, "reused"),
            (summary.failed, "failed"),
            (summary.cancelled, "cancelled"),
            (warnings, if warnings == 1 { "warning" } else { "warnings" }),
        ];
        let mut gap = "  ";
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            let _ = write!(text, "{gap}{count} {what}");
            gap = ", ";
        }
        Row { style: self.theme.strong(), text }
    }

    /// The first failure with its log, of later ones the names: most of them are consequences.
    fn push_failures(&self, frame: &mut Vec<Row>, rows: usize) {
        let mut failed = self.build.steps().map(|(_, step)| step).filter(|step| step.has_failed());
        if let Some(first) = failed.next() {
            let running = self.build.steps().filter(|(_, step)| step.is_running()).count();
            let taken = frame.len() + running.min(ROWS_BESIDE_FAILURE) + 2;
            let lines = failure(first, rows.saturating_sub(taken), &Theme::plain());
            let mut style = self.theme.error();
            for line in lines {
                frame.push(Row { style, text: expand_tabs(&line) });
                style = Style::new();
            }
        }
        frame.extend(
            failed.map(|step| Row { style: self.theme.error(), text: format!("failed {}", step.name) }),
        );
    }

    fn push_running(&self, frame: &mut Vec<Row>, at: Duration, rows: usize, columns: usize) {
        let mut running: Vec<&Step> = self
            .build
            .steps()
            .map(|(_, step)| step)
            .filter(|step| step.is_running() && (!step.minor || step.elapsed(at) > NOTEWORTHY))
            .collect();
        running.sort_by_key(|step| step.started);
        let room = rows.saturating_sub(frame.len());
        let shown = if running.len() > room { room.saturating_sub(1) } else { running.len() };
        let spare = room.saturating_sub(running.len());
        let lines = LIVE_LINES.min(spare / running.len().max(1));
        for step in &running[..shown] {
            frame.push(Row { style: Style::new(), text: running_row(step, at, columns) });
            for text in live_lines(step, lines) {
                frame.push(Row { style: self.theme.faint(), text });
            }
        }
        if shown < running.len() {
            let text = format!(" => {} more", running.len() - shown);
            frame.push(Row { style: Style::new(), text });
        }
    }
}

/// ` => name        12.3s`, the time at the right edge.
fn running_row(step: &Step, at: Duration, columns: usize) -> String {
    let elapsed = step.elapsed(at);
    let time =
        if elapsed.as_secs() < 60 { format!("{:.1}s", elapsed.as_secs_f64()) } else { stopwatch(elapsed) };
    let room = columns.saturating_sub(width(" =>  ") + width(&time));
    let name = fit(&step.name, room);
    let blanks = " ".repeat(room.saturating_sub(width(&name)));
    format!(" => {name}{blanks} {time}")
}

/// The last lines a step wrote, the one it is writing included.
fn live_lines(step: &Step, limit: usize) -> Vec<String> {
    let whole = step.tail.iter().map(|line| line.bytes.as_slice());
    let mut lines: Vec<&[u8]> = whole.chain(step.partial()).collect();
    lines.retain(|line| !line.is_empty());
    let skipped = lines.len().saturating_sub(limit);
    lines
        .iter()
        .skip(skipped)
        .map(|line| format!("    | {}", expand_tabs(&log_text(line, Sgr::Drop))))
        .collect()
}

/// A tab moves the cursor by as much as it likes; rows must know their width.
fn expand_tabs(text: &str) -> String {
    text.replace('\t', "    ")
}

impl View for TtyView {
    fn event(&mut self, at: Duration, event: Event) {
        if let Change::Ended(vertex, _) = self.build.apply(at, event) {
            self.ended(vertex);
        }
    }

    fn note(&mut self, _at: Duration, text: &str) {
        let _ = writeln!(self.pending, "{}", escape_lines(text));
    }

    fn tick(&mut self, at: Duration) {
        if self.drawn_at.is_some_and(|drawn| at < drawn + FRAME) {
            return;
        }
        self.drawn_at = Some(at);
        let rows = self.frame(at, self.terminal.size());
        self.draw(&rows);
    }

    fn finish(&mut self, at: Duration) -> Summary {
        self.build.flush(at);
        self.pending.push_str(&ending(&self.build, at, &self.theme));
        self.draw(&[]);
        self.build.summary(at)
    }
}

#[cfg(test)]
mod tests;
