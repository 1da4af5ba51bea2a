use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anstyle::Style;
use wbuild_report::{Event, Moving, VertexId};

use super::canvas::{Canvas, Row};
use super::output::Output;
use super::step::{Build, Change};
use super::terminal::Terminal;
use super::{FRAME, Summary, View};
use crate::render::{
    Theme, escape_line, escape_lines, fit, push_hints, push_labelled, size, stopwatch, width,
};

/// What moves to and from registries where nothing is built: a line for each blob when it is through, one for all that were
/// there already, and on a terminal how far the others are.
#[derive(Debug)]
pub(super) struct TransfersView {
    /// For warnings and the summary.
    build: Build,
    transfers: BTreeMap<VertexId, Transfer>,
    canvas: Canvas,
    theme: Theme,
    /// `None` where nothing can be drawn over.
    terminal: Option<Terminal>,
    /// Lines not written yet.
    pending: String,
    drawn_at: Option<Duration>,
}

#[derive(Debug)]
struct Transfer {
    /// `pull node:22`.
    name: String,
    began: Duration,
    ended: bool,
    /// Bytes that moved, and all there are, by blob.
    parts: BTreeMap<String, (u64, u64)>,
    present: Count,
    lent: Count,
}

#[derive(Debug, Default)]
struct Count {
    blobs: usize,
    bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.blobs += 1;
        self.bytes += bytes;
    }

    /// `4 blobs there already, 31.2 MB`
    fn line(&self, how: &str) -> Option<String> {
        let blobs = if self.blobs == 1 { "blob" } else { "blobs" };
        (self.blobs > 0).then(|| format!("{} {blobs} {how}, {}", self.blobs, size(self.bytes)))
    }
}

impl TransfersView {
    pub(super) fn new(output: Output, terminal: &Terminal, live: bool) -> Self {
        Self {
            build: Build::default(),
            transfers: BTreeMap::new(),
            canvas: Canvas::new(output),
            theme: terminal.theme(),
            terminal: live.then(|| terminal.clone()),
            pending: String::new(),
            drawn_at: None,
        }
    }

    fn line(&mut self, text: &str) {
        // Writing into a `String` cannot fail.
        let _ = writeln!(self.pending, "{text}");
    }

    fn moved(&mut self, vertex: VertexId, part: &str, bytes: u64, total: u64, state: Moving) {
        let Some(transfer) = self.transfers.get_mut(&vertex) else { return };
        let part = escape_line(part).into_owned();
        match state {
            Moving::UnderWay => {
                transfer.parts.insert(part, (bytes, total));
            }
            Moving::Done => {
                let verb = if transfer.name.starts_with("push") { "pushed" } else { "pulled" };
                let line = format!("{verb} {part} ({})", size(total));
                transfer.parts.insert(part, (total, total));
                self.line(&line);
            }
            Moving::Present | Moving::Lent => {
                transfer.parts.remove(&part);
                let count = if state == Moving::Lent { &mut transfer.lent } else { &mut transfer.present };
                count.add(total);
            }
        }
    }

    fn ended(&mut self, vertex: VertexId) {
        let Some(transfer) = self.transfers.get_mut(&vertex) else { return };
        transfer.ended = true;
        let counts =
            [transfer.present.line("there already"), transfer.lent.line("lent by another repository")];
        for line in counts.iter().flatten() {
            self.line(line);
        }
    }

    fn frame(&self, at: Duration, terminal: &Terminal) -> Vec<Row> {
        let window = terminal.size();
        let columns = window.columns.saturating_sub(1).max(1);
        let mut rows = Vec::new();
        for transfer in self.transfers.values().filter(|transfer| !transfer.ended) {
            let sum = |of: fn(&(u64, u64)) -> u64| size(transfer.parts.values().map(of).sum());
            let time = stopwatch(at.saturating_sub(transfer.began));
            let stands = format!("{} / {}", sum(|part| part.0), sum(|part| part.1));
            rows.push(Row {
                style: self.theme.strong(),
                text: format!("[+] {}  {stands}  {time}", transfer.name),
            });
            let under_way = transfer.parts.iter().filter(|(_, (bytes, total))| *bytes > 0 && bytes < total);
            for (part, (bytes, total)) in under_way {
                let stands = format!("{} / {}", size(*bytes), size(*total));
                let room = columns.saturating_sub(width(" =>  ") + width(&stands));
                let name = fit(part, room);
                let blanks = " ".repeat(room.saturating_sub(width(&name)));
                rows.push(Row { style: Style::new(), text: format!(" => {name}{blanks} {stands}") });
            }
        }
        rows.truncate(window.rows.saturating_sub(1).max(1));
        for row in &mut rows {
            row.text = fit(&row.text, columns).into_owned();
        }
        rows
    }

    fn write(&mut self, rows: &[Row]) {
        let lines = std::mem::take(&mut self.pending);
        match &self.terminal {
            Some(terminal) => self.canvas.draw(terminal.size().columns, &lines, rows),
            None => self.canvas.write(&lines),
        }
    }
}

impl View for TransfersView {
    fn event(&mut self, at: Duration, event: Event) {
        match &event {
            Event::Transferring { vertex, name } => {
                let transfer = Transfer {
                    name: escape_line(name).into_owned(),
                    began: at,
                    ended: false,
                    parts: BTreeMap::new(),
                    present: Count::default(),
                    lent: Count::default(),
                };
                self.transfers.insert(*vertex, transfer);
            }
            Event::Moved { vertex, part, bytes, total, state } => {
                self.moved(*vertex, part, *bytes, *total, *state);
            }
            Event::Finished { vertex, .. } => self.ended(*vertex),
            _ => {}
        }
        if let Change::Warned(_, warning, true) = self.build.apply(at, event) {
            push_labelled(&mut self.pending, "", "warning", self.theme.warning(), &warning.message);
            let hints: Vec<&str> = warning.hints.iter().map(String::as_str).collect();
            push_hints(&mut self.pending, "  ", &hints, &self.theme);
        }
    }

    fn note(&mut self, _at: Duration, text: &str) {
        self.line(&escape_lines(text));
    }

    fn tick(&mut self, at: Duration) {
        let Some(terminal) = self.terminal.clone() else { return self.write(&[]) };
        if self.drawn_at.is_some_and(|drawn| at < drawn + FRAME) {
            return;
        }
        self.drawn_at = Some(at);
        let rows = self.frame(at, &terminal);
        self.write(&rows);
    }

    fn finish(&mut self, at: Duration) -> Summary {
        self.write(&[]);
        self.build.summary(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::testing::{Screenplay, Sheet};
    use crate::progress::{Reach, WindowSize};
    use crate::render::is_control;
    use wbuild_report::Outcome;

    fn play(live: bool) -> (Sheet, Screenplay<TransfersView>) {
        let sheet = Sheet::default();
        let terminal = Terminal::new(Reach::Live, false, || WindowSize { columns: 60, rows: 10 });
        (sheet.clone(), Screenplay::new(TransfersView::new(Output::new(sheet), &terminal, live)))
    }

    #[test]
    fn a_line_for_each_blob_and_one_for_those_that_were_there() {
        let (sheet, mut play) = play(false);
        play.pull(0, "pull node:22");
        play.moved(0, "sha256:dd", 0, 3_000_000, Moving::Present);
        play.warn(None, "trying again in 2 s", &["wait"]).warn(None, "trying again in 2 s", &["wait"]);
        play.moved(0, "sha256:cc", 60_000_000, 60_000_000, Moving::Done);
        play.end(0, Outcome::Done, 7000).note("pulled node:22 (66 MB in 4 blobs)");
        play.transfer(1, "push web:1").moved(1, "sha256:ee", 5, 5, Moving::Done);
        play.moved(1, "sha256:ff", 0, 7000, Moving::Lent).end(1, Outcome::Done, 10);
        play.finish();
        insta::assert_snapshot!(sheet.text(), @r"
            pulled sha256:aa (2.0 MB)
            warning: trying again in 2 s
              hint: wait
            pulled sha256:cc (60.0 MB)
            2 blobs there already, 4.0 MB
            pulled node:22 (66 MB in 4 blobs)
            pushed sha256:ee (5 B)
            1 blob lent by another repository, 7.0 kB
            ");
    }

    #[test]
    fn what_moves_is_drawn_over_and_over() {
        let (sheet, mut play) = play(true);
        play.pull(0, "pull node:22");
        let text = sheet.text();
        let last = text.rsplit("\x1b[J").next().unwrap().replace('\r', "");
        insta::assert_snapshot!(last, @r"
            [+] pull node:22  33.0 MB / 62.0 MB  0:06
             => sha256:cc                             31.0 MB / 60.0 MB
            ");
        sheet.take();
        play.moved(0, "sha256:cc", 60_000_000, 60_000_000, Moving::Done).end(0, Outcome::Done, 7000);
        play.finish();
        let text = sheet.text();
        insta::assert_snapshot!(text.rsplit("\x1b[J").next().unwrap().replace('\r', ""), @r"
            pulled sha256:cc (60.0 MB)
            1 blob there already, 1.0 MB
            ");
    }

    #[test]
    fn nothing_untrusted_is_an_instruction() {
        let (sheet, mut play) = play(false);
        play.transfer(0, "pull a\x1b[31m\nb").moved(0, "sha256:\x1b[1A", 1, 1, Moving::Done);
        play.note("x\x1by").warn(None, "a\nerror: forged\r", &["\x1b"]).finish();
        let text = sheet.text();
        assert!(!text.contains(|c| is_control(c) && c != '\n'), "{text:?}");
    }
}
