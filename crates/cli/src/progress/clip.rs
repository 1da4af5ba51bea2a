//! No step fills a terminal or a CI log: what it writes is shown up to a limit, as BuildKit does it. The file with its log
//! has everything.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use wbuild_report::{Event, LogStream, Outcome, VertexId};

/// BuildKit's name of the variable: bytes, or -1 for no limit.
pub const LIMIT_VARIABLE: &str = "BUILDKIT_STEP_LOG_MAX_SIZE";

/// How many bytes of a step's output are shown unless somebody says otherwise: BuildKit's default.
const DEFAULT: u64 = 2 << 20;

/// How many of the last bytes are shown besides when a step fails: there is why.
const LAST: usize = 16 << 10;

/// How much of a step's output is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimit(Option<u64>);

impl Default for LogLimit {
    fn default() -> Self {
        Self(Some(DEFAULT))
    }
}

impl LogLimit {
    /// Reads the value of [`LIMIT_VARIABLE`]; what is no number says nothing, as in BuildKit.
    pub fn parse(value: Option<&str>) -> Self {
        match value.and_then(|text| text.trim().parse::<i64>().ok()) {
            Some(bytes) => Self(u64::try_from(bytes).ok()),
            None => Self::default(),
        }
    }
}

/// What was seen of a step's output.
#[derive(Debug, Default)]
struct Seen {
    bytes: u64,
    file: Option<PathBuf>,
    /// The last bytes of what is not shown, by stream, once something is not shown.
    hidden: Option<VecDeque<(LogStream, u8)>>,
}

/// Lets events through, and of logs as much as may be shown.
#[derive(Debug)]
pub(super) struct Clip {
    limit: LogLimit,
    steps: BTreeMap<VertexId, Seen>,
}

impl Clip {
    pub(super) fn new(limit: LogLimit) -> Self {
        Self { limit, steps: BTreeMap::new() }
    }

    /// Gives the events on that are to be shown in place of this one.
    pub(super) fn pass(&mut self, event: Event, mut show: impl FnMut(Event)) {
        let LogLimit(Some(limit)) = self.limit else { return show(event) };
        match event {
            Event::LogFile { vertex, path } => {
                self.steps.entry(vertex).or_default().file = Some(path.clone());
                show(Event::LogFile { vertex, path });
            }
            Event::Log { vertex, stream, mut bytes } => {
                let seen = self.steps.entry(vertex).or_default();
                let room = limit.saturating_sub(seen.bytes);
                seen.bytes = seen.bytes.saturating_add(bytes.len() as u64);
                let room = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
                let rest = bytes.split_off(room);
                if !bytes.is_empty() {
                    show(Event::Log { vertex, stream, bytes });
                }
                if rest.is_empty() {
                    return;
                }
                if seen.hidden.is_none() {
                    show(Event::Log { vertex, stream, bytes: note(limit, seen.file.as_ref()) });
                }
                let hidden = seen.hidden.get_or_insert_default();
                hidden.extend(rest[rest.len().saturating_sub(LAST)..].iter().map(|byte| (stream, *byte)));
                hidden.drain(..hidden.len().saturating_sub(LAST));
            }
            Event::Finished { vertex, outcome, took } => {
                let hidden = self.steps.remove(&vertex).and_then(|seen| seen.hidden);
                if let (Some(hidden), Outcome::Failed) = (hidden, &outcome) {
                    last_lines(hidden).for_each(|(stream, bytes)| show(Event::Log { vertex, stream, bytes }));
                }
                show(Event::Finished { vertex, outcome, took });
            }
            other => show(other),
        }
    }
}

fn note(limit: u64, file: Option<&PathBuf>) -> Vec<u8> {
    let limit = match limit {
        0 => "0B".to_owned(),
        mib if mib.is_multiple_of(1 << 20) => format!("{}MiB", mib >> 20),
        kib if kib.is_multiple_of(1 << 10) => format!("{}KiB", kib >> 10),
        bytes => format!("{bytes}B"),
    };
    let all = file.map(|file| format!("; full log: {}", file.display())).unwrap_or_default();
    format!("\n[output clipped, log limit {limit} reached{all}]\n").into_bytes()
}

/// The whole lines of the last bytes, streams apart as they came.
fn last_lines(hidden: VecDeque<(LogStream, u8)>) -> impl Iterator<Item = (LogStream, Vec<u8>)> {
    let from = match hidden.len() {
        LAST => hidden.iter().position(|(_, byte)| *byte == b'\n').map_or(0, |end| end + 1),
        _ => 0,
    };
    let mut parts: Vec<(LogStream, Vec<u8>)> = Vec::new();
    for (stream, byte) in hidden.into_iter().skip(from) {
        match parts.last_mut() {
            Some((last, bytes)) if *last == stream => bytes.push(byte),
            _ => parts.push((stream, vec![byte])),
        }
    }
    parts.into_iter()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const VERTEX: VertexId = VertexId(1);

    /// What is shown of chunks, and then of the end.
    fn shown(limit: &str, chunks: &[&str], outcome: Outcome) -> String {
        let mut clip = Clip::new(LogLimit::parse(Some(limit)));
        let mut text = String::new();
        let mut events = vec![Event::LogFile { vertex: VERTEX, path: "/logs/1.log".into() }];
        events.extend(chunks.iter().map(|chunk| Event::Log {
            vertex: VERTEX,
            stream: LogStream::Stdout,
            bytes: chunk.as_bytes().to_vec(),
        }));
        events.push(Event::Finished { vertex: VERTEX, outcome, took: Duration::ZERO });
        for event in events {
            clip.pass(event, |event| {
                if let Event::Log { bytes, .. } = event {
                    text.push_str(&String::from_utf8(bytes).unwrap());
                }
            });
        }
        text
    }

    #[test]
    fn what_is_too_much_is_said_once_and_the_end_of_a_failure_is_shown() {
        assert_eq!(shown("4", &["ab", "cd"], Outcome::Failed), "abcd");
        let clipped = "abcd\n[output clipped, log limit 4B reached; full log: /logs/1.log]\n";
        assert_eq!(shown("4", &["abc", "de", "f"], Outcome::Done), clipped);
        assert_eq!(shown("4", &["abc", "de", "f"], Outcome::Failed), format!("{clipped}ef"));
        assert_eq!(shown("-1", &["abc", "de", "f"], Outcome::Failed), "abcdef");
        let lines: String = (0..10_000).map(|number| format!("line {number}\n")).collect();
        let text = shown("4", &["abcd", &lines], Outcome::Failed);
        assert!(text.len() < LAST + 200 && text.ends_with("line 9999\n"));
        assert!(text.lines().nth(2).unwrap().starts_with("line "), "whole lines");
    }

    #[test]
    fn limits_in_words() {
        for (limit, words) in [(2 << 20, "2MiB"), (512 << 10, "512KiB"), (1000, "1000B"), (0, "0B")] {
            let said = format!("\n[output clipped, log limit {words} reached]\n");
            assert_eq!(String::from_utf8(note(limit, None)).unwrap(), said);
        }
        assert_eq!(LogLimit::parse(None), LogLimit(Some(2 << 20)));
        assert_eq!(LogLimit::parse(Some("x")), LogLimit::default());
        assert_eq!(LogLimit::parse(Some("-1")), LogLimit(None));
    }
}
