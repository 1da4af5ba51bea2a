//! What all views know of a build: its steps, their logs as lines, the warnings.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use wbuild_report::{Event, LogStream, Moving, Outcome, VertexId, Warning};

use super::line::LineAssembler;
use super::summary::Summary;
use crate::render::{escape_line, size};

/// Log lines of a step that are kept to be shown when it fails.
pub(super) const TAIL: usize = 20;

/// While a part of a transfer takes long, how far it is becomes a line of the log this often.
const STANDS: Duration = Duration::from_secs(5);

/// One whole line of a step's log, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogLine {
    /// When, counted from the start of the step.
    pub(super) at: Duration,
    /// Without the line break; not encoded.
    pub(super) bytes: Vec<u8>,
}

/// A vertex as the views see it.
#[derive(Debug)]
pub(super) struct Step {
    /// Its name, fit for one line.
    pub(super) name: String,
    pub(super) minor: bool,
    /// What has moved, if it is a transfer and no step.
    transfer: Option<Moved>,
    pub(super) started: Option<Duration>,
    pub(super) ended: Option<(Outcome, Duration)>,
    pub(super) log_file: Option<PathBuf>,
    /// The last lines of its log, at most [`TAIL`].
    pub(super) tail: VecDeque<LogLine>,
    /// All lines there were.
    pub(super) lines: usize,
    stdout: LineAssembler,
    stderr: LineAssembler,
}

impl Step {
    fn new(name: &str, minor: bool) -> Self {
        Self {
            name: escape_line(name).into_owned(),
            minor,
            transfer: None,
            started: None,
            ended: None,
            log_file: None,
            tail: VecDeque::new(),
            lines: 0,
            stdout: LineAssembler::default(),
            stderr: LineAssembler::default(),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.started.is_some() && self.ended.is_none()
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.ended, Some((Outcome::Failed, _))) && self.transfer.is_none()
    }

    /// How long it has run at `at`.
    pub(super) fn elapsed(&self, at: Duration) -> Duration {
        self.started.map_or(Duration::ZERO, |started| at.saturating_sub(started))
    }

    /// The line being written, which a progress bar may still change.
    pub(super) fn partial(&self) -> Option<&[u8]> {
        self.stderr.partial().or_else(|| self.stdout.partial())
    }

    fn log(&mut self, at: Duration, stream: LogStream, bytes: &[u8]) -> Vec<LogLine> {
        let at = self.elapsed(at);
        let mut lines = Vec::new();
        // A line of one stream must not end up in the middle of one of the other.
        let assembler = match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        };
        assembler.push(bytes, |bytes| lines.push(LogLine { at, bytes }));
        self.remember(&lines);
        lines
    }

    /// How far a part is becomes the line that is being written, until it is through.
    fn moved(&mut self, at: Duration, part: &str, bytes: u64, total: u64, state: Moving) -> Vec<LogLine> {
        let part = escape_line(part).into_owned();
        let how = match state {
            Moving::UnderWay => "",
            Moving::Done => " done",
            Moving::Present => " already there",
            Moving::Lent => " lent by another repository",
        };
        let line = match state {
            Moving::UnderWay | Moving::Done => format!("{part} {} / {}{how}\n", size(bytes), size(total)),
            Moving::Present | Moving::Lent => format!("{part} {}{how}\n", size(total)),
        };
        let moved = self.transfer.get_or_insert_with(Moved::default);
        moved.parts.insert(part, (bytes, total));
        let stands = moved.stands();
        if state == Moving::UnderWay && at.saturating_sub(moved.said) < STANDS {
            return self.log(at, LogStream::Stdout, format!("\r{stands}").as_bytes());
        }
        moved.said = at;
        let mut lines = self.log(at, LogStream::Stdout, format!("\r{line}").as_bytes());
        lines.extend(self.log(at, LogStream::Stdout, format!("\r{stands}").as_bytes()));
        lines
    }

    fn flush(&mut self, at: Duration) -> Vec<LogLine> {
        if self.transfer.is_some() {
            // How far all of it is has been said part by part.
            let _ = (self.stdout.flush(), self.stderr.flush());
            return Vec::new();
        }
        let at = self.elapsed(at);
        let rests = [self.stdout.flush(), self.stderr.flush()];
        let lines: Vec<LogLine> = rests.into_iter().flatten().map(|bytes| LogLine { at, bytes }).collect();
        self.remember(&lines);
        lines
    }

    fn remember(&mut self, lines: &[LogLine]) {
        self.lines += lines.len();
        self.tail.extend(lines[lines.len().saturating_sub(TAIL)..].iter().cloned());
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }
}

/// How far a transfer is.
#[derive(Debug, Default)]
struct Moved {
    /// Bytes that moved, and all there are, by part.
    parts: BTreeMap<String, (u64, u64)>,
    /// When a line last said how far it is.
    said: Duration,
}

impl Moved {
    fn stands(&self) -> String {
        let sum = |of: fn(&(u64, u64)) -> u64| size(self.parts.values().map(of).sum());
        format!("{} / {}", sum(|part| part.0), sum(|part| part.1))
    }
}

/// A warning, and how often it was given.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) warning: Warning,
    pub(super) times: usize,
}

/// What an event changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing to show.
    Nothing,
    /// A step began.
    Started(VertexId),
    /// A step wrote these lines.
    Logged(VertexId, Vec<LogLine>),
    /// A step ended, and these were the rests of its lines.
    Ended(VertexId, Vec<LogLine>),
    /// A warning; false when the same was given before.
    Warned(Option<VertexId>, Warning, bool),
}

/// A build so far.
#[derive(Debug, Default)]
pub(super) struct Build {
    steps: BTreeMap<VertexId, Step>,
    warnings: Vec<Said>,
}

impl Build {
    pub(super) fn apply(&mut self, at: Duration, event: Event) -> Change {
        match event {
            Event::Declared { vertex, name, minor } => {
                let step = self.step_mut(vertex);
                step.name = escape_line(&name).into_owned();
                step.minor = minor;
                Change::Nothing
            }
            Event::Transferring { vertex, name } => {
                let step = self.step_mut(vertex);
                step.name = escape_line(&name).into_owned();
                step.transfer = Some(Moved { said: at, ..Moved::default() });
                Change::Nothing
            }
            Event::Moved { vertex, part, bytes, total, state } => {
                Change::Logged(vertex, self.step_mut(vertex).moved(at, &part, bytes, total, state))
            }
            Event::Started { vertex } => {
                let step = self.step_mut(vertex);
                step.started = Some(at);
                // A result that was said to be there may turn out to be gone.
                step.ended = None;
                Change::Started(vertex)
            }
            Event::Log { vertex, stream, bytes } => {
                Change::Logged(vertex, self.step_mut(vertex).log(at, stream, &bytes))
            }
            Event::LogFile { vertex, path } => {
                self.step_mut(vertex).log_file = Some(path);
                Change::Nothing
            }
            Event::Finished { vertex, outcome, took } => {
                let step = self.step_mut(vertex);
                let rests = step.flush(at);
                if outcome != Outcome::Failed {
                    step.tail.clear();
                }
                // The solver does not say how long what failed has run.
                let took = if took.is_zero() { step.elapsed(at) } else { took };
                step.ended = Some((outcome, took));
                Change::Ended(vertex, rests)
            }
            Event::Warned { vertex, warning } => {
                let said = self.warnings.iter_mut().find(|said| said.warning == warning);
                let is_new = said.is_none();
                match said {
                    Some(said) => said.times += 1,
                    None => self.warnings.push(Said { warning: warning.clone(), times: 1 }),
                }
                Change::Warned(vertex, warning, is_new)
            }
        }
    }

    /// The rests of the lines of steps that never ended, or wrote after their end.
    pub(super) fn flush(&mut self, at: Duration) -> Vec<(VertexId, Vec<LogLine>)> {
        let rests = self.steps.iter_mut().map(|(id, step)| (*id, step.flush(at)));
        rests.filter(|(_, lines)| !lines.is_empty()).collect()
    }

    /// The steps in the order of the graph.
    pub(super) fn steps(&self) -> impl Iterator<Item = (VertexId, &Step)> {
        self.steps.iter().map(|(id, step)| (*id, step))
    }

    pub(super) fn step(&self, vertex: VertexId) -> Option<&Step> {
        self.steps.get(&vertex)
    }

    pub(super) fn warnings(&self) -> &[Said] {
        &self.warnings
    }

    pub(super) fn summary(&self, took: Duration) -> Summary {
        let mut summary = Summary { took, ..Summary::default() };
        let steps = self.steps.values().filter(|step| step.transfer.is_none());
        for step in steps.filter(|step| !step.minor || step.has_failed()) {
            summary.total += 1;
            match &step.ended {
                None | Some((Outcome::Done, _)) => {}
                Some((Outcome::Built { .. }, _)) => summary.built += 1,
                Some((Outcome::Reused { .. }, _)) => summary.reused += 1,
                Some((Outcome::Failed, _)) => summary.failed += 1,
                Some((Outcome::Cancelled, _)) => summary.cancelled += 1,
            }
        }
        summary
    }

    /// An event may name a vertex that nobody declared; it gets a name rather than being lost.
    fn step_mut(&mut self, vertex: VertexId) -> &mut Step {
        self.steps.entry(vertex).or_insert_with(|| Step::new(&format!("vertex {}", vertex.0), false))
    }
}
