//! Views of a build while it runs.
//!
//! [`Progress`] takes the [`Event`] stream from any thread and hands it, in the order of arrival, to one thread that
//! owns the output. When the output is slower than the build, the build waits; nothing is dropped but what a step logs beyond
//! [`LogLimit`]. The views:
//!
//! - *tty*: a few live lines at the bottom of the terminal, finished steps as permanent lines above them;
//! - *plain*: every log line behind its step's number, for CI logs;
//! - *json*: one JSON object a line, for programs (format: [`ProgressMode::Json`]);
//! - *quiet*: warnings and the last lines of what failed, at the end.
//!
//! Text from outside (step names, logs, file names) is encoded before it is written; see
//! [`render`](crate::render).

mod canvas;
mod clip;
mod clock;
mod ending;
mod json;
mod line;
mod mode;
mod output;
mod plain;
mod quiet;
mod step;
mod summary;
mod terminal;
#[cfg(test)]
mod testing;
mod transfers;
mod tty;

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use wbuild_report::{Event, EventSink};

pub use clip::{LIMIT_VARIABLE, LogLimit};
pub use clock::Clock;
pub use mode::{ProgressMode, UnknownProgressMode};
pub use summary::Summary;
pub use terminal::{Reach, Terminal, WindowSize};

use clip::Clip;
use output::Output;

/// Events that may wait for the output. A full queue makes steps wait instead of the memory grow: at 64 KiB a chunk
/// of log this is 64 MiB.
const QUEUE: usize = 1024;

/// The live view is redrawn at most this often, and time-driven changes of any view are looked at this often.
const FRAME: Duration = Duration::from_millis(100);

/// Events taken from the queue before the output is written.
const BATCH: usize = 256;

/// One way to show a build. Called by one thread only, with times that never decrease.
trait View: Send {
    /// Takes an event in.
    fn event(&mut self, at: Duration, event: Event);

    /// Shows a line of the program itself, which is not part of the build.
    fn note(&mut self, at: Duration, text: &str);

    /// The command failed: `message` in one sentence, `text` as a person reads it. Whoever else looks reads it below the
    /// view, where it is the last word.
    fn error(&mut self, _at: Duration, _message: &str, _text: &str) {}

    /// Time has passed and the queue is empty or long: the moment to write.
    fn tick(&mut self, at: Duration);

    /// The last words.
    fn finish(&mut self, at: Duration) -> Summary;
}

enum Message {
    Event(Duration, Event),
    Note(Duration, String),
    Error(Duration, String, String),
    Finish(Duration),
}

/// The view of one build. Ends its output, and leaves the terminal clean, when finished or dropped.
#[derive(Debug)]
pub struct Progress {
    queue: SyncSender<Message>,
    clock: Clock,
    thread: Option<JoinHandle<Summary>>,
}

impl Progress {
    /// Starts a view that writes to `err`. `terminal` says what `err` is.
    ///
    /// A demanded [`ProgressMode::Tty`] is a plain view where no cursor can be moved.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn new(
        mode: ProgressMode,
        err: impl Write + Send + 'static,
        terminal: &Terminal,
        clock: Clock,
    ) -> io::Result<Self> {
        Self::limited(mode, err, terminal, clock, LogLimit::default())
    }

    /// As [`new`](Self::new), with another limit to what is shown of a step's log.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn limited(
        mode: ProgressMode,
        err: impl Write + Send + 'static,
        terminal: &Terminal,
        clock: Clock,
        limit: LogLimit,
    ) -> io::Result<Self> {
        Self::start(view(mode, Output::new(err), terminal), limit, clock)
    }

    /// The same for a command that builds nothing and only brings images from one place to another.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn of_transfers(
        mode: ProgressMode,
        err: impl Write + Send + 'static,
        terminal: &Terminal,
        clock: Clock,
    ) -> io::Result<Self> {
        let output = Output::new(err);
        let view = match mode {
            ProgressMode::Json | ProgressMode::Quiet => view(mode, output, terminal),
            _ => Box::new(transfers::TransfersView::new(output, terminal, is_live(mode, terminal))),
        };
        Self::start(view, LogLimit::default(), clock)
    }

    fn start(mut view: Box<dyn View>, limit: LogLimit, clock: Clock) -> io::Result<Self> {
        let mut clip = Clip::new(limit);
        let (queue, messages) = sync_channel(QUEUE);
        let ticks = clock.clone();
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || show(view.as_mut(), &mut clip, &messages, &ticks))?;
        Ok(Self { queue, clock, thread: Some(thread) })
    }

    /// Where the build sends its events. Those sent after the end are ignored.
    pub fn sink(&self) -> EventSink {
        let (queue, clock) = (self.queue.clone(), self.clock.clone());
        EventSink::new(move |event| {
            // Fails only after the end, when nobody looks any more.
            let _ = queue.send(Message::Event(clock.now(), event));
        })
    }

    /// Shows lines of the program itself, above what is live. JSON has them as `note`, quiet drops them.
    pub fn note(&self, text: impl Into<String>) {
        let _ = self.queue.send(Message::Note(self.clock.now(), text.into()));
    }

    /// Tells programs why the command failed; JSON has it as `error`. For people the caller prints it after the end.
    pub fn error(&self, message: impl Into<String>, text: impl Into<String>) {
        let _ = self.queue.send(Message::Error(self.clock.now(), message.into(), text.into()));
    }

    /// Shows everything sent so far, then the last words: warnings, the logs of what failed, the summary.
    pub fn finish(mut self) -> Summary {
        match self.end() {
            Some(Ok(summary)) => summary,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Summary::default(),
        }
    }

    fn end(&mut self) -> Option<std::thread::Result<Summary>> {
        let thread = self.thread.take()?;
        let _ = self.queue.send(Message::Finish(self.clock.now()));
        Some(thread.join())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // A panic of the view was printed by the panic hook; a second one here would abort.
        drop(self.end());
    }
}

fn view(mode: ProgressMode, output: Output, terminal: &Terminal) -> Box<dyn View> {
    match mode {
        ProgressMode::Json => Box::new(json::JsonView::new(output)),
        ProgressMode::Quiet => Box::new(quiet::QuietView::new(output, terminal.theme())),
        _ if is_live(mode, terminal) => Box::new(tty::TtyView::new(output, terminal.clone())),
        ProgressMode::Auto | ProgressMode::Tty | ProgressMode::Plain => {
            Box::new(plain::PlainView::new(output, terminal.theme()))
        }
    }
}

/// Whether lines are drawn over.
fn is_live(mode: ProgressMode, terminal: &Terminal) -> bool {
    match mode {
        ProgressMode::Auto => terminal.reach() == Reach::Live,
        ProgressMode::Tty => terminal.reach() != Reach::Lines,
        ProgressMode::Plain | ProgressMode::Json | ProgressMode::Quiet => false,
    }
}

fn show(view: &mut dyn View, clip: &mut Clip, messages: &Receiver<Message>, clock: &Clock) -> Summary {
    // Senders read the clock before they queue, so stamps of two threads may arrive a little out of order.
    let mut latest = Duration::ZERO;
    loop {
        let first = match messages.recv_timeout(FRAME) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return view.finish(latest.max(clock.now())),
        };
        for message in first.into_iter().chain(messages.try_iter().take(BATCH)) {
            match message {
                Message::Event(at, event) => {
                    latest = latest.max(at);
                    clip.pass(event, |event| view.event(latest, event));
                }
                Message::Note(at, text) => {
                    latest = latest.max(at);
                    view.note(latest, &text);
                }
                Message::Error(at, message, text) => {
                    latest = latest.max(at);
                    view.error(latest, &message, &text);
                }
                Message::Finish(at) => return view.finish(latest.max(at)),
            }
        }
        latest = latest.max(clock.now());
        view.tick(latest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use testing::Sheet;
    use wbuild_report::{LogStream, Outcome, VertexId};

    fn stopped_clock() -> Clock {
        Clock::new(|| Duration::ZERO)
    }

    #[test]
    fn no_line_is_lost_or_moved_whatever_thread_it_comes_from() {
        const THREADS: u32 = 8;
        const LINES: usize = 2000;
        let sheet = Sheet::default();
        let progress =
            Progress::new(ProgressMode::Plain, sheet.clone(), &Terminal::pipe(), stopped_clock()).unwrap();
        std::thread::scope(|scope| {
            for vertex in (0..THREADS).map(VertexId) {
                let sink = progress.sink();
                scope.spawn(move || {
                    sink.send(Event::Started { vertex });
                    for line in 0..LINES {
                        let bytes = format!("{line}\n").into_bytes();
                        sink.send(Event::Log { vertex, stream: LogStream::Stdout, bytes });
                    }
                    sink.send(Event::Finished { vertex, outcome: Outcome::Failed, took: Duration::ZERO });
                });
            }
        });
        let summary = progress.finish();
        assert_eq!(summary.failed, THREADS as usize);
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for line in sheet.text().lines() {
            let mut words = line.split(' ');
            let (Some(step), Some("0.000"), Some(number)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let next = seen.entry(step.to_owned()).or_default();
            assert_eq!(number, next.to_string(), "of {step}");
            *next += 1;
        }
        assert_eq!(seen.values().copied().collect::<Vec<_>>(), [LINES; THREADS as usize]);
    }

    #[test]
    fn dropping_flushes_and_later_events_are_ignored() {
        let sheet = Sheet::default();
        let progress =
            Progress::new(ProgressMode::Auto, sheet.clone(), &Terminal::pipe(), stopped_clock()).unwrap();
        let sink = progress.sink();
        let vertex = VertexId(3);
        sink.send(Event::Declared { vertex, name: "[deps] pnpm install".to_owned(), minor: false });
        sink.send(Event::Log { vertex, stream: LogStream::Stderr, bytes: b"half a li".to_vec() });
        drop(progress);
        sink.warn(None, "too late", Vec::new());
        insta::assert_snapshot!(sheet.text(), @r"
            #3 [deps] pnpm install
            #3 0.000 half a li

            built 0 of 1 steps, 1 not run, in 0 ms
            ");
    }

    #[test]
    fn a_broken_output_does_not_stop_the_build() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let progress =
            Progress::new(ProgressMode::Plain, Closed, &Terminal::pipe(), stopped_clock()).unwrap();
        for vertex in (0..5000).map(VertexId) {
            progress.sink().send(Event::Started { vertex });
        }
        assert_eq!(progress.finish().total, 5000);
    }

    #[test]
    fn the_terminal_decides_what_auto_and_tty_mean() {
        let looks_live = |mode, reach| {
            let sheet = Sheet::default();
            let terminal = Terminal::new(reach, false, || WindowSize { columns: 80, rows: 24 });
            let progress = Progress::new(mode, sheet.clone(), &terminal, stopped_clock()).unwrap();
            progress.sink().send(Event::Started { vertex: VertexId(0) });
            progress.note("note");
            progress.finish();
            // The plain view names the step, the live one has no reason to before its end.
            !sheet.text().contains("#0 vertex 0")
        };
        assert!(looks_live(ProgressMode::Auto, Reach::Live));
        assert!(!looks_live(ProgressMode::Auto, Reach::Unattended));
        assert!(!looks_live(ProgressMode::Auto, Reach::Lines));
        assert!(looks_live(ProgressMode::Tty, Reach::Unattended));
        assert!(!looks_live(ProgressMode::Tty, Reach::Lines));
        assert!(!looks_live(ProgressMode::Plain, Reach::Live));
    }

    #[test]
    fn modes_have_the_names_of_the_flag() {
        for mode in ProgressMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert_eq!("rawjson".parse(), Ok(ProgressMode::Json));
        insta::assert_snapshot!("fancy".parse::<ProgressMode>().unwrap_err(), @"unknown progress mode `fancy`; there are auto, tty, plain, json and quiet");
    }
}
