//! A build as JSON lines, for programs.
//!
//! The format is documented at [`ProgressMode::Json`](super::ProgressMode::Json).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use wbuild_report::{Event, LogStream, MissReason, Moving, Outcome, Reuse};

use super::output::Output;
use super::step::Build;
use super::{Summary, View};
use crate::render::is_control;

/// The version of the format.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    at: f64,
    #[serde(flatten)]
    fields: Fields<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Fields<'a> {
    Begin {
        version: u32,
    },
    Declared {
        vertex: u32,
        name: &'a str,
        minor: bool,
    },
    Started {
        vertex: u32,
    },
    Text {
        vertex: u32,
        stream: LogStream,
        text: &'a str,
    },
    Bytes {
        vertex: u32,
        stream: LogStream,
        base64: String,
    },
    Moved {
        vertex: u32,
        part: &'a str,
        bytes: u64,
        total: u64,
        state: Moving,
    },
    LogFile {
        vertex: u32,
        path: &'a str,
    },
    Finished {
        vertex: u32,
        outcome: &'static str,
        seconds: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<Reuse>,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'a MissReason>,
        #[serde(skip_serializing_if = "Option::is_none")]
        because: Option<String>,
    },
    Warned {
        vertex: Option<u32>,
        message: &'a str,
        hints: &'a [String],
    },
    Note {
        text: &'a str,
    },
    Error {
        message: &'a str,
        text: &'a str,
    },
    End {
        total: usize,
        built: usize,
        reused: usize,
        failed: usize,
        cancelled: usize,
        seconds: f64,
    },
}

/// One JSON object a line.
#[derive(Debug)]
pub(super) struct JsonView {
    build: Build,
    output: Output,
    pending: String,
}

impl JsonView {
    pub(super) fn new(output: Output) -> Self {
        let mut view = Self { build: Build::default(), output, pending: String::new() };
        view.line("begin", Duration::ZERO, Fields::Begin { version: VERSION });
        view
    }

    fn line(&mut self, event: &'static str, at: Duration, fields: Fields<'_>) {
        let line = Line { event, at: seconds(at), fields };
        // Strings, numbers and maps with string keys: nothing that JSON cannot hold.
        if let Ok(json) = serde_json::to_string(&line) {
            push_harmless(&mut self.pending, &json);
            self.pending.push('\n');
        }
    }
}

impl View for JsonView {
    fn event(&mut self, at: Duration, event: Event) {
        match &event {
            Event::Declared { vertex, name, minor } => {
                self.line("declared", at, Fields::Declared { vertex: vertex.0, name, minor: *minor });
            }
            // As what nobody counts.
            Event::Transferring { vertex, name } => {
                self.line("declared", at, Fields::Declared { vertex: vertex.0, name, minor: true });
            }
            Event::Moved { vertex, part, bytes, total, state } => {
                let (vertex, bytes, total, state) = (vertex.0, *bytes, *total, *state);
                self.line("moved", at, Fields::Moved { vertex, part, bytes, total, state });
            }
            Event::Started { vertex } => self.line("started", at, Fields::Started { vertex: vertex.0 }),
            Event::Log { vertex, stream, bytes } => {
                let (vertex, stream) = (vertex.0, *stream);
                match std::str::from_utf8(bytes) {
                    Ok(text) => self.line("log", at, Fields::Text { vertex, stream, text }),
                    Err(_) => {
                        let base64 = STANDARD.encode(bytes);
                        self.line("log", at, Fields::Bytes { vertex, stream, base64 });
                    }
                }
            }
            Event::LogFile { vertex, path } => {
                let path = path.to_string_lossy();
                self.line("log-file", at, Fields::LogFile { vertex: vertex.0, path: &path });
            }
            Event::Finished { vertex, outcome, took } => {
                let (outcome, from, why) = match outcome {
                    Outcome::Reused { from } => ("reused", Some(*from), None),
                    Outcome::Built { why } => ("built", None, Some(why)),
                    Outcome::Failed => ("failed", None, None),
                    Outcome::Cancelled => ("cancelled", None, None),
                    Outcome::Done => ("done", None, None),
                };
                let (vertex, seconds, because) = (vertex.0, seconds(*took), why.map(ToString::to_string));
                self.line("finished", at, Fields::Finished { vertex, outcome, seconds, from, why, because });
            }
            Event::Warned { vertex, warning } => {
                let vertex = vertex.map(|vertex| vertex.0);
                let fields = Fields::Warned { vertex, message: &warning.message, hints: &warning.hints };
                self.line("warned", at, fields);
            }
        }
        // The numbers of the last line; logs are not needed for them.
        if !matches!(event, Event::Log { .. }) {
            self.build.apply(at, event);
        }
    }

    fn note(&mut self, at: Duration, text: &str) {
        self.line("note", at, Fields::Note { text });
    }

    fn error(&mut self, at: Duration, message: &str, text: &str) {
        self.line("error", at, Fields::Error { message, text });
    }

    fn tick(&mut self, _at: Duration) {
        self.output.write(&std::mem::take(&mut self.pending));
    }

    fn finish(&mut self, at: Duration) -> Summary {
        let summary = self.build.summary(at);
        let Summary { total, built, reused, failed, cancelled, took } = summary;
        let fields = Fields::End { total, built, reused, failed, cancelled, seconds: seconds(took) };
        self.line("end", at, fields);
        self.output.write(&std::mem::take(&mut self.pending));
        summary
    }
}

/// Milliseconds are enough, and do not make lines longer than what they say.
fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
}

/// JSON escapes C0 controls by itself; all others can only stand within its strings, where `\u` means the same.
fn push_harmless(text: &mut String, json: &str) {
    use std::fmt::Write;
    for c in json.chars() {
        if is_control(c) {
            // All of them are in the basic plane. Writing into a `String` cannot fail.
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::testing::{Screenplay, Sheet};
    use wbuild_report::VertexId;

    #[test]
    fn a_build_as_json_lines() {
        let sheet = Sheet::default();
        let mut play = Screenplay::new(JsonView::new(Output::new(sheet.clone())));
        play.failing_build();
        play.note("isolation: `overlay`");
        play.view.error(play.at, "it failed", "error: it failed\nhint: mend it\n");
        play.finish();
        insta::assert_snapshot!(sheet.text(), @r#"
            {"event":"begin","at":0.0,"version":1}
            {"event":"declared","at":0.0,"vertex":0,"name":"[context] load","minor":true}
            {"event":"declared","at":0.0,"vertex":1,"name":"[base] FROM node:22-slim","minor":false}
            {"event":"declared","at":0.0,"vertex":2,"name":"[deps] pnpm install","minor":false}
            {"event":"declared","at":0.0,"vertex":3,"name":"[web] next build","minor":false}
            {"event":"declared","at":0.0,"vertex":4,"name":"[admin] next build","minor":false}
            {"event":"declared","at":0.0,"vertex":5,"name":"[runner] COPY --from=web /app .","minor":false}
            {"event":"started","at":0.0,"vertex":0}
            {"event":"finished","at":0.2,"vertex":0,"outcome":"reused","seconds":0.0,"from":"local"}
            {"event":"finished","at":0.2,"vertex":1,"outcome":"reused","seconds":0.0,"from":"local"}
            {"event":"started","at":0.2,"vertex":2}
            {"event":"log","at":0.612,"vertex":2,"stream":"stdout","text":"Lockfile is up to date\nProgress: resolved 1\rProgress: resolved 812\n"}
            {"event":"warned","at":0.612,"vertex":2,"message":"`node_modules` in the context is ignored","hints":["add it to `.dockerignore`"]}
            {"event":"finished","at":12.512,"vertex":2,"outcome":"built","seconds":12.312,"why":{"reason":"changed","changes":[{"field":"input/pnpm-lock.yaml","old":"sha256:aa","new":"sha256:bb"}]},"because":"`input/pnpm-lock.yaml` changed"}
            {"event":"started","at":12.512,"vertex":3}
            {"event":"started","at":12.512,"vertex":4}
            {"event":"warned","at":12.512,"vertex":3,"message":"`node_modules` in the context is ignored","hints":["add it to `.dockerignore`"]}
            {"event":"log","at":13.512,"vertex":3,"stream":"stdout","text":"Creating an optimized production build ...\n"}
            {"event":"log","at":13.512,"vertex":3,"stream":"stderr","text":"Type error: "}
            {"event":"log","at":14.012,"vertex":4,"stream":"stdout","text":"Compiling\n"}
            {"event":"log","at":14.012,"vertex":3,"stream":"stderr","text":"`x` is not a number\n  at page.tsx:3"}
            {"event":"log-file","at":14.012,"vertex":3,"path":"/home/me/.cache/wbuild/logs/3.log"}
            {"event":"finished","at":14.112,"vertex":3,"outcome":"failed","seconds":1.6}
            {"event":"finished","at":14.112,"vertex":4,"outcome":"cancelled","seconds":1.6}
            {"event":"note","at":14.212,"text":"isolation: `overlay`"}
            {"event":"error","at":14.212,"message":"it failed","text":"error: it failed\nhint: mend it\n"}
            {"event":"end","at":14.212,"total":5,"built":1,"reused":1,"failed":1,"cancelled":1,"seconds":14.212}
            "#);
    }

    #[test]
    fn every_byte_is_kept_and_none_is_dangerous() {
        let sheet = Sheet::default();
        let mut play = Screenplay::new(JsonView::new(Output::new(sheet.clone())));
        let chunk = "\x1b[2J\u{9b}31m\u{202e}\u{7f}\r\n\"ä";
        play.declare(0, "evil\u{202e}\x1b name").log(0, chunk).log_bytes(0, b"\xff\x00ab");
        play.finish();
        let text = sheet.text();
        assert!(!text.contains(|c| is_control(c) && c != '\n'));
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[2]["text"], chunk);
        assert_eq!(STANDARD.decode(lines[3]["base64"].as_str().unwrap()).unwrap(), b"\xff\x00ab");
        insta::assert_snapshot!(text, @r#"
            {"event":"begin","at":0.0,"version":1}
            {"event":"declared","at":0.0,"vertex":0,"name":"evil\u202e\u001b name","minor":false}
            {"event":"log","at":0.0,"vertex":0,"stream":"stdout","text":"\u001b[2J\u009b31m\u202e\u007f\r\n\"ä"}
            {"event":"log","at":0.0,"vertex":0,"stream":"stdout","base64":"/wBhYg=="}
            {"event":"end","at":0.0,"total":1,"built":0,"reused":0,"failed":0,"cancelled":0,"seconds":0.0}
            "#);
    }

    #[test]
    fn undeclared_vertices_are_counted() {
        let mut view = JsonView::new(Output::new(std::io::sink()));
        view.event(Duration::ZERO, Event::Started { vertex: VertexId(7) });
        assert_eq!(view.finish(Duration::ZERO).total, 1);
    }
}
