use super::*;
use crate::progress::Reach;
use crate::progress::testing::{Screenplay, Sheet};
use crate::render::is_control;
use std::sync::{Arc, Mutex};

/// A terminal that shows what a view wrote, and can be resized.
struct Stage {
    screen: vt100::Parser,
    sheet: Sheet,
    size: Arc<Mutex<WindowSize>>,
    play: Screenplay<TtyView>,
}

impl Stage {
    fn new(columns: u16, rows: u16) -> Self {
        Self::with_color(columns, rows, false)
    }

    fn with_color(columns: u16, rows: u16, color: bool) -> Self {
        let window = WindowSize { columns: columns.into(), rows: rows.into() };
        let size = Arc::new(Mutex::new(window));
        let asked = Arc::clone(&size);
        let terminal = Terminal::new(Reach::Live, color, move || *asked.lock().unwrap());
        let sheet = Sheet::default();
        let play = Screenplay::new(TtyView::new(Output::new(sheet.clone()), terminal));
        Self { screen: vt100::Parser::new(rows, columns, 1000), sheet, size, play }
    }

    /// What is on the screen, the cursor included.
    fn look(&mut self) -> String {
        self.screen.process(&self.sheet.take());
        let screen = self.screen.screen();
        let (row, column) = screen.cursor_position();
        let cursor = if screen.hide_cursor() { "hidden".to_owned() } else { format!("{row}:{column}") };
        format!("{}\n(cursor {cursor})", screen.contents())
    }

    /// The lines that left the screen at its top.
    fn scrolled(&mut self) -> String {
        self.screen.process(&self.sheet.take());
        self.screen.screen_mut().set_scrollback(usize::MAX);
        let all = self.screen.screen().contents();
        self.screen.screen_mut().set_scrollback(0);
        all
    }

    fn resize(&mut self, columns: u16, rows: u16) {
        self.screen.process(&self.sheet.take());
        *self.size.lock().unwrap() = WindowSize { columns: columns.into(), rows: rows.into() };
        self.screen.screen_mut().set_size(rows, columns);
    }
}

#[test]
fn running_steps_are_live_and_finished_ones_stay() {
    let mut stage = Stage::new(72, 14);
    stage.play.declare(0, "[base] FROM node:22-slim").declare(1, "[deps] pnpm install");
    stage
        .play
        .declare(2, "[web] next build")
        .declare(3, "[admin] next build")
        .declare_minor(4, "load context");
    stage.play.start(4).reused(0).start(1).wait(412);
    stage.play.log(1, "Lockfile is up to date\nProgress: resolved 12\rProgress: resolved 812").wait(100);
    insta::assert_snapshot!(stage.look(), @r"
        [+] 1/4 0:00  1 reused
         => [deps] pnpm install                                            0.5s
            | Lockfile is up to date
            | Progress: resolved 812
        (cursor 4:0)
        ");
    stage.play.wait(11_800).built(1, 12_312).start(2).start(3).wait(1000);
    stage.play.log(2, "one\ntwo\nthree\n\nfour\nfive\n").log_stderr(3, "a\tb").wait(100);
    insta::assert_snapshot!(stage.look(), @r"
        built [deps] pnpm install in 12.3 s (never built before)
        [+] 2/4 0:13  1 reused
         => load context                                                  13.4s
         => [web] next build                                               1.1s
            | three
            | four
            | five
         => [admin] next build                                             1.1s
            | a    b
        (cursor 9:0)
        ");
    stage.play.built(2, 1100).built(3, 65_000).reused(4).wait(100);
    stage.play.finish();
    insta::assert_snapshot!(stage.look(), @r"
        built [deps] pnpm install in 12.3 s (never built before)
        built [web] next build in 1.1 s (never built before)
        built [admin] next build in 1 min 05 s (never built before)
        built 3 of 4 steps, 1 reused, in 13.5 s
        (cursor 4:0)
        ");
}

#[test]
fn a_failure_stays_last_while_others_go_on_and_after_the_end() {
    let mut stage = Stage::new(60, 12);
    stage.play.failing_build();
    stage.play.declare(6, "[docs] build").start(6).wait(300);
    insta::assert_snapshot!(stage.look(), @r"
        built [deps] pnpm install in 12.3 s (`input/pnpm-lock.yaml` changed)
        [+] 4/6 0:14  1 reused, 1 failed, 1 cancelled, 1 warning
        failed [web] next build after 1.6 s
          | Creating an optimized production build ...
          | Type error: `x` is not a number
          |   at page.tsx:3
          full log: /home/me/.cache/wbuild/logs/3.log
         => [docs] build                                       0.3s
        (cursor 9:0)
        ");
    stage.play.built(6, 300);
    stage.play.finish();
    insta::assert_snapshot!(stage.look(), @r"
        changed)
        built [docs] build in 300 ms (never built before)
        warning: `node_modules` in the context is ignored (2 times)
          hint: add it to `.dockerignore`
        failed [web] next build after 1.6 s
          | Creating an optimized production build ...
          | Type error: `x` is not a number
          |   at page.tsx:3
          full log: /home/me/.cache/wbuild/logs/3.log
        failed after 14.5 s: built 2 of 6 steps, 1 reused, 1 failed, 1 cancelled, 1 not run
        (cursor 11:0)
        ");
}

#[test]
fn of_a_long_log_the_last_twenty_lines_are_left() {
    let mut stage = Stage::new(50, 40);
    stage.play.declare(0, "[test] vitest").declare(1, "[lint] eslint").start(0).start(1);
    for line in 0..300 {
        stage.play.log(0, &format!("line {line}\n"));
    }
    stage.play.end(0, Outcome::Failed, 900).wait(900);
    stage.resize(50, 9);
    stage.play.wait(100);
    let live = stage.look();
    assert!(live.contains("line 299") && live.contains("[lint] eslint"), "{live}");
    stage.resize(50, 40);
    stage.play.finish();
    let last = stage.look();
    assert!(last.contains("line 280\n") && !last.contains("line 279\n"), "{last}");
    assert!(last.contains("the last 20 of 300 lines"), "{last}");
}

#[test]
fn narrow_and_low_windows_lose_words_and_not_their_shape() {
    let mut stage = Stage::new(24, 6);
    stage.play.declare(0, "[deps] pnpm install --frozen-lockfile").start(0);
    for vertex in 1..8 {
        stage.play.declare(vertex, &format!("[app{vertex}] 漢字漢字漢字漢字漢字")).start(vertex);
    }
    stage.play.log(0, "a log line that is much too long for this window\n").wait(61_000);
    insta::assert_snapshot!(stage.look(), @r"
        [+] 0/8 1:01
         => [deps] pnpm i… 1:01
         => [app1] 漢字漢… 1:01
         => [app2] 漢字漢… 1:01
         => 5 more
        (cursor 5:0)
        ");
    stage.resize(1, 1);
    stage.play.wait(100);
    stage.look();
    stage.resize(40, 10);
    stage.play.wait(100);
    stage.play.finish();
    assert!(stage.look().contains("built 0 of 8 steps"));
}

#[test]
fn a_resized_window_is_filled_at_the_next_frame() {
    let mut stage = Stage::new(40, 8);
    stage.play.declare(0, "[deps] pnpm install --frozen-lockfile --prefer-offline").start(0).wait(2000);
    stage.look();
    stage.resize(76, 8);
    stage.play.wait(100);
    insta::assert_snapshot!(stage.look(), @r"
        [+] 0/1 0:02
         => [deps] pnpm install --frozen-lockfile --prefer-offline             2.1s
        (cursor 2:0)
        ");
}

#[test]
fn permanent_lines_scroll_into_the_history_whole() {
    let mut stage = Stage::new(60, 6);
    for vertex in 0..30 {
        stage.play.declare(vertex, &format!("step {vertex}")).start(vertex).wait(100).built(vertex, 100);
    }
    stage.play.finish();
    let all = stage.scrolled();
    assert!(all.starts_with("built step 0 in 100 ms (never built before)\nbuilt step 1 in"), "{all}");
    assert!(stage.look().contains("built 30 of 30 steps, in 3.0 s"));
}

#[test]
fn cancelling_leaves_the_terminal_clean() {
    let mut stage = Stage::new(60, 10);
    stage.play.declare(0, "[web] next build").declare(1, "[runner] COPY").start(0).wait(3000);
    stage.play.log(0, "Compiling").end(0, Outcome::Cancelled, 3000).wait(10);
    stage.play.finish();
    insta::assert_snapshot!(stage.look(), @r"
        cancelled after 3.0 s: built 0 of 2 steps, 1 cancelled, 1 not run
        (cursor 2:0)
        ");
}

#[test]
fn frames_are_drawn_ten_times_a_second_at_most() {
    let mut stage = Stage::new(60, 10);
    stage.play.declare(0, "[web] next build").start(0);
    let mut frames = 0;
    for _ in 0..1000 {
        stage.play.log(0, "line\n").wait(1);
        frames += usize::from(!stage.sheet.take().is_empty());
    }
    assert_eq!(frames, 10);
}

#[test]
fn colours_of_a_failed_log_pass_and_cursor_movements_do_not() {
    let mut stage = Stage::with_color(70, 12, true);
    stage.play.declare(0, "[evil] \x1b[2Jname\nforged\u{202e}").start(0).wait(100);
    stage.play.log(0, "\x1b[31mred\x1b[0m \x1b[5A\x1b[2J\x1b]0;title\x07 \u{9b}2J\u{202e}x\n").wait(100);
    stage.play.warn(None, "bad\x1b[2J\nname", &[]).note("note\x1b[1A").end(0, Outcome::Failed, 200).wait(100);
    stage.play.finish();
    let written = String::from_utf8(stage.sheet.take()).unwrap();
    assert!(!written.contains("\x1b[2J") && !written.contains("\x1b[5A") && !written.contains("\x1b[1A"));
    assert!(!written.contains(|c| is_control(c) && !"\x1b\r\n".contains(c)), "{written:?}");
    assert!(written.contains("\x1b[31mred\x1b[0m"));
    stage.screen.process(written.as_bytes());
    insta::assert_snapshot!(stage.look(), @r"
        note\x1b[1A
        warning: bad\x1b[2J
            name
        failed [evil] \x1b[2Jname\nforged\u{202e} after 200 ms
          | red \x1b[5A\x1b[2J\x1b]0;title\x07 \u{9b}2J\u{202e}x
        failed after 300 ms: built 0 of 1 steps, 1 failed
        (cursor 6:0)
        ");
}

#[test]
fn without_colour_nothing_but_the_redraw_is_a_sequence() {
    let mut stage = Stage::new(70, 12);
    stage.play.failing_build();
    stage.play.finish();
    let written = String::from_utf8(stage.sheet.take()).unwrap();
    let sequences = written.split('\x1b').skip(1);
    for sequence in sequences {
        let end = sequence.find(|c: char| c.is_ascii_alphabetic()).unwrap();
        assert!(matches!(&sequence[end..=end], "A" | "J"), "{sequence:?}");
    }
}

#[test]
fn a_transfer_says_how_far_it_is() {
    let mut stage = Stage::new(72, 14);
    stage.play.declare(0, "[base] FROM node:22").start(0).pull(7, "pull node:22");
    insta::assert_snapshot!(stage.look(), @r"
        [+] 0/1 0:06
         => [base] FROM node:22                                            6.5s
         => pull node:22                                                   6.5s
            | sha256:aa 2.0 MB / 2.0 MB done
            | sha256:bb 1.0 MB already there
            | sha256:cc 30.0 MB / 60.0 MB
            | 34.0 MB / 63.0 MB
        (cursor 7:0)
        ");
    stage.play.end(7, Outcome::Done, 6500).wait(100);
    insta::assert_snapshot!(stage.look(), @r"
        done pull node:22 in 6.5 s
        [+] 0/1 0:06
         => [base] FROM node:22                                            6.6s
        (cursor 3:0)
        ");
}
