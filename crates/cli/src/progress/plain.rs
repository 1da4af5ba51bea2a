use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use wbuild_report::{Event, Outcome, Reuse, VertexId};

use super::ending::ending;
use super::output::Output;
use super::step::{Build, Change, LogLine};
use super::{Summary, View};
use crate::render::{Sgr, Theme, escape_line, escape_lines, fit, log_text};

/// A step of minor interest that takes longer than this is of interest.
pub(super) const NOTEWORTHY: Duration = Duration::from_secs(1);

/// Columns that a warning gets in the midst of the log.
const WARNING: usize = 110;

/// Every line as it comes, behind the number of its step, as `docker buildx build --progress=plain` prints it. The
/// number is the vertex's index in the graph: the same in two builds of the same graph, and in the JSON.
///
/// Steps of minor interest appear when they log, fail, or take long.
#[derive(Debug)]
pub(super) struct PlainView {
    build: Build,
    output: Output,
    theme: Theme,
    /// Steps whose name was printed.
    named: BTreeSet<VertexId>,
    pending: String,
}

impl PlainView {
    pub(super) fn new(output: Output, theme: Theme) -> Self {
        Self { build: Build::default(), output, theme, named: BTreeSet::new(), pending: String::new() }
    }

    /// A line behind the number of its step.
    fn line(&mut self, vertex: VertexId, text: &str) {
        // Writing into a `String` cannot fail.
        let _ = writeln!(self.pending, "#{} {text}", vertex.0);
    }

    fn name(&mut self, vertex: VertexId) {
        if let Some(step) = self.build.step(vertex)
            && self.named.insert(vertex)
        {
            let name = step.name.clone();
            self.line(vertex, &name);
        }
    }

    fn log(&mut self, vertex: VertexId, lines: &[LogLine]) {
        if lines.is_empty() {
            return;
        }
        self.name(vertex);
        let sgr = if self.theme.has_colors() { Sgr::Pass } else { Sgr::Drop };
        for line in lines {
            let text = format!("{:.3} {}", line.at.as_secs_f64(), log_text(&line.bytes, sgr));
            self.line(vertex, &text);
        }
    }

    fn ended(&mut self, vertex: VertexId) {
        let Some(step) = self.build.step(vertex) else { return };
        let Some((outcome, took)) = &step.ended else { return };
        let silent = step.minor && !self.named.contains(&vertex) && *took <= NOTEWORTHY;
        if silent && *outcome != Outcome::Failed {
            return;
        }
        let seconds = took.as_secs_f64();
        let text = match outcome {
            Outcome::Reused { from: Reuse::Local } => "CACHED".to_owned(),
            Outcome::Reused { from: Reuse::Imported } => "CACHED (imported)".to_owned(),
            Outcome::Reused { from: Reuse::Awaited } => {
                "CACHED (built meanwhile by another process)".to_owned()
            }
            Outcome::Built { why } => format!("DONE {seconds:.1}s ({})", escape_line(&why.to_string())),
            Outcome::Done => format!("DONE {seconds:.1}s"),
            Outcome::Failed => format!("ERROR after {seconds:.1}s"),
            Outcome::Cancelled => format!("CANCELED after {seconds:.1}s"),
        };
        self.name(vertex);
        self.line(vertex, &text);
    }

    fn warned(&mut self, vertex: Option<VertexId>, message: &str) {
        match vertex {
            Some(vertex) => {
                self.name(vertex);
                // All of it is said at the end; some messages have a list of files.
                self.line(vertex, &format!("WARN {}", fit(&escape_line(message), WARNING)));
            }
            None => {
                let _ = writeln!(self.pending, "WARN {}", fit(&escape_line(message), WARNING));
            }
        }
    }
}

impl View for PlainView {
    fn event(&mut self, at: Duration, event: Event) {
        match self.build.apply(at, event) {
            Change::Nothing | Change::Warned(_, _, false) => {}
            Change::Started(vertex) => {
                if self.build.step(vertex).is_some_and(|step| !step.minor) {
                    self.name(vertex);
                }
            }
            Change::Logged(vertex, lines) => self.log(vertex, &lines),
            Change::Ended(vertex, rests) => {
                self.log(vertex, &rests);
                self.ended(vertex);
            }
            Change::Warned(vertex, warning, true) => self.warned(vertex, &warning.message),
        }
    }

    fn note(&mut self, _at: Duration, text: &str) {
        let _ = writeln!(self.pending, "{}", escape_lines(text));
    }

    fn tick(&mut self, at: Duration) {
        let slow = |(vertex, step): (VertexId, &super::step::Step)| {
            (step.minor && step.is_running() && step.elapsed(at) > NOTEWORTHY).then_some(vertex)
        };
        let slow: Vec<VertexId> = self.build.steps().filter_map(slow).collect();
        for vertex in slow {
            self.name(vertex);
        }
        self.output.write(&std::mem::take(&mut self.pending));
    }

    fn finish(&mut self, at: Duration) -> Summary {
        for (vertex, lines) in self.build.flush(at) {
            self.log(vertex, &lines);
        }
        if !self.pending.is_empty() || !self.named.is_empty() {
            self.pending.push('\n');
        }
        self.pending.push_str(&ending(&self.build, at, &self.theme));
        self.output.write(&std::mem::take(&mut self.pending));
        self.build.summary(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::testing::{Screenplay, Sheet};
    use crate::render::is_control;
    use wbuild_report::MissReason;

    fn play() -> (Sheet, Screenplay<PlainView>) {
        let sheet = Sheet::default();
        let view = PlainView::new(Output::new(sheet.clone()), Theme::plain());
        (sheet, Screenplay::new(view))
    }

    #[test]
    fn a_failing_build() {
        let (sheet, mut play) = play();
        play.failing_build();
        play.finish();
        insta::assert_snapshot!(sheet.text(), @r"
            #1 [base] FROM node:22-slim
            #1 CACHED
            #2 [deps] pnpm install
            #2 0.412 Lockfile is up to date
            #2 0.412 Progress: resolved 812
            #2 WARN `node_modules` in the context is ignored
            #2 DONE 12.3s (`input/pnpm-lock.yaml` changed)
            #3 [web] next build
            #4 [admin] next build
            #3 1.000 Creating an optimized production build ...
            #4 1.500 Compiling
            #3 1.500 Type error: `x` is not a number
            #3 1.600   at page.tsx:3
            #3 ERROR after 1.6s
            #4 CANCELED after 1.6s

            warning: `node_modules` in the context is ignored (2 times)
              hint: add it to `.dockerignore`
            failed [web] next build after 1.6 s
              | Creating an optimized production build ...
              | Type error: `x` is not a number
              |   at page.tsx:3
              full log: /home/me/.cache/wbuild/logs/3.log
            failed after 14.2 s: built 1 of 5 steps, 1 reused, 1 failed, 1 cancelled, 1 not run
            ");
    }

    #[test]
    fn a_build_that_goes_well() {
        let (sheet, mut play) = play();
        play.declare(0, "[base] FROM node:22").declare(1, "[deps] pnpm install").declare(2, "[web] COPY . .");
        play.reused(0).end(1, Outcome::Reused { from: Reuse::Awaited }, 900);
        play.start(2).wait(40).end(2, Outcome::Built { why: MissReason::Forced }, 40).wait(160);
        play.note("image: `sha256:0123`");
        play.finish();
        insta::assert_snapshot!(sheet.text(), @r"
            #0 [base] FROM node:22
            #0 CACHED
            #1 [deps] pnpm install
            #1 CACHED (built meanwhile by another process)
            #2 [web] COPY . .
            #2 DONE 0.0s (forced by --no-cache)
            image: `sha256:0123`

            built 1 of 3 steps, 2 reused, in 200 ms
            ");
    }

    #[test]
    fn transfers_are_no_steps() {
        let (sheet, mut play) = play();
        play.declare(0, "[base] FROM node:22").start(0);
        play.pull(7, "pull node:22").end(7, Outcome::Done, 6500).built(0, 7000);
        play.pull(8, "push web:1").end(8, Outcome::Failed, 6500);
        play.finish();
        insta::assert_snapshot!(sheet.text(), @r"
            #0 [base] FROM node:22
            #7 pull node:22
            #7 0.200 sha256:aa 2.0 MB / 2.0 MB done
            #7 0.300 sha256:bb 1.0 MB already there
            #7 6.300 sha256:cc 30.0 MB / 60.0 MB
            #7 DONE 6.5s
            #0 DONE 7.0s (never built before)
            #8 push web:1
            #8 0.200 sha256:aa 2.0 MB / 2.0 MB done
            #8 0.300 sha256:bb 1.0 MB already there
            #8 6.300 sha256:cc 30.0 MB / 60.0 MB
            #8 ERROR after 6.5s

            built 1 of 1 steps, in 13.0 s
            ");
    }

    #[test]
    fn minor_steps_appear_when_they_log_fail_or_take_long() {
        let (sheet, mut play) = play();
        for (vertex, name) in ["quick", "slow", "logs", "fails", "still running"].into_iter().enumerate() {
            play.declare_minor(u32::try_from(vertex).unwrap(), name).start(u32::try_from(vertex).unwrap());
        }
        play.wait(500).built(0, 500).log(2, "something\n").built(2, 500).end(3, Outcome::Failed, 500);
        play.wait(1000).built(1, 1500).wait(100);
        play.finish();
        insta::assert_snapshot!(sheet.text(), @r"
            #2 logs
            #2 0.500 something
            #2 DONE 0.5s (never built before)
            #3 fails
            #3 ERROR after 0.5s
            #1 slow
            #4 still running
            #1 DONE 1.5s (never built before)

            failed fails after 500 ms
            failed after 1.6 s: built 0 of 1 steps, 1 failed
            ");
    }

    #[test]
    fn streams_of_parallel_steps_stay_whole_lines() {
        let (sheet, mut play) = play();
        play.declare(0, "a").declare(1, "b").start(0).start(1).wait(5);
        play.log(0, "one ").log(1, "eins ").log_stderr(0, "warning: ").log(0, "line\n").log(1, "Zeile\r\n");
        play.log_stderr(0, "old").wait(5).built(0, 10).log(1, "10%\r55%\r").wait(5);
        play.finish();
        insta::assert_snapshot!(sheet.text(), @r"
            #0 a
            #1 b
            #0 0.005 one line
            #1 0.005 eins Zeile
            #0 0.010 warning: old
            #0 DONE 0.0s (never built before)
            #1 0.015 55%

            built 1 of 2 steps, 1 not run, in 15 ms
            ");
    }

    #[test]
    fn nothing_untrusted_is_an_instruction() {
        let (sheet, mut play) = play();
        play.declare(0, "RUN <<EOF\necho \x1b[31m\u{202e}\nEOF").start(0);
        play.log_bytes(
            0,
            b"\x1b[32mgreen\x1b[0m \x1b[1A\x1b[2K up \xff \xc2\x9b2J \xe2\x80\xae\x08\n#0 DONE 0.1s\n",
        );
        play.warn(Some(0), "file `a\nerror: forged\r`", &["rename\x1b it"]).end(0, Outcome::Failed, 100);
        play.note("two\nlines\x1b");
        play.finish();
        let text = sheet.text();
        assert!(!text.contains(|c| is_control(c) && c != '\n'), "{text:?}");
        insta::assert_snapshot!(text, @r"
            #0 RUN <<EOF\necho \x1b[31m\u{202e}\nEOF
            #0 0.000 green \x1b[1A up \xff \u{9b}2J \u{202e}\x08
            #0 0.000 #0 DONE 0.1s
            #0 WARN file `a\nerror: forged\r`
            #0 ERROR after 0.1s
            two
            lines\x1b

            warning: file `a
                error: forged\r`
              hint: rename\x1b it
            failed RUN <<EOF\necho \x1b[31m\u{202e}\nEOF after 100 ms
              | green \x1b[1A up \xff \u{9b}2J \u{202e}\x08
              | #0 DONE 0.1s
            failed after 0 ms: built 0 of 1 steps, 1 failed
            ");
    }

    #[test]
    fn warnings_are_said_once_when_they_come_and_once_at_the_end() {
        let (sheet, mut play) = play();
        play.declare(0, "a").declare(1, "b");
        play.warn(None, "no `.dockerignore`", &[]).warn(
            Some(0),
            "old lockfile",
            &["run `pnpm install`", "or not"],
        );
        play.warn(Some(1), "old lockfile", &["run `pnpm install`", "or not"]).reused(0).reused(1);
        play.finish();
        insta::assert_snapshot!(sheet.text(), @r"
            WARN no `.dockerignore`
            #0 a
            #0 WARN old lockfile
            #0 CACHED
            #1 b
            #1 CACHED

            warning: no `.dockerignore`
            warning: old lockfile (2 times)
              hint 1: run `pnpm install`
              hint 2: or not
            built 0 of 2 steps, 2 reused, in 0 ms
            ");
    }
}
