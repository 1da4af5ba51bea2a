//! What the tests of views need: a writer whose text can be read, and builds to play.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wbuild_report::{Event, FieldChange, LogStream, MissReason, Moving, Outcome, Reuse, VertexId, Warning};

use super::{Summary, View};

/// A writer that keeps everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Sheet(Arc<Mutex<Vec<u8>>>);

impl Sheet {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Write for Sheet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Plays a build to a view, with a clock that moves only when told to.
pub(super) struct Screenplay<V> {
    pub(super) view: V,
    pub(super) at: Duration,
}

impl<V: View> Screenplay<V> {
    pub(super) fn new(view: V) -> Self {
        Self { view, at: Duration::ZERO }
    }

    pub(super) fn send(&mut self, event: Event) -> &mut Self {
        self.view.event(self.at, event);
        self
    }

    pub(super) fn wait(&mut self, millis: u64) -> &mut Self {
        self.at += Duration::from_millis(millis);
        self.view.tick(self.at);
        self
    }

    pub(super) fn declare(&mut self, vertex: u32, name: &str) -> &mut Self {
        self.send(Event::Declared { vertex: VertexId(vertex), name: name.to_owned(), minor: false })
    }

    pub(super) fn declare_minor(&mut self, vertex: u32, name: &str) -> &mut Self {
        self.send(Event::Declared { vertex: VertexId(vertex), name: name.to_owned(), minor: true })
    }

    pub(super) fn start(&mut self, vertex: u32) -> &mut Self {
        self.send(Event::Started { vertex: VertexId(vertex) })
    }

    pub(super) fn log(&mut self, vertex: u32, text: &str) -> &mut Self {
        self.log_bytes(vertex, text.as_bytes())
    }

    pub(super) fn log_bytes(&mut self, vertex: u32, bytes: &[u8]) -> &mut Self {
        self.send(Event::Log { vertex: VertexId(vertex), stream: LogStream::Stdout, bytes: bytes.to_vec() })
    }

    pub(super) fn log_stderr(&mut self, vertex: u32, text: &str) -> &mut Self {
        let bytes = text.as_bytes().to_vec();
        self.send(Event::Log { vertex: VertexId(vertex), stream: LogStream::Stderr, bytes })
    }

    pub(super) fn end(&mut self, vertex: u32, outcome: Outcome, millis: u64) -> &mut Self {
        self.send(Event::Finished { vertex: VertexId(vertex), outcome, took: Duration::from_millis(millis) })
    }

    pub(super) fn built(&mut self, vertex: u32, millis: u64) -> &mut Self {
        self.end(vertex, Outcome::Built { why: MissReason::NeverBuilt }, millis)
    }

    pub(super) fn reused(&mut self, vertex: u32) -> &mut Self {
        self.end(vertex, Outcome::Reused { from: Reuse::Local }, 0)
    }

    pub(super) fn transfer(&mut self, vertex: u32, name: &str) -> &mut Self {
        self.send(Event::Transferring { vertex: VertexId(vertex), name: name.to_owned() }).start(vertex)
    }

    pub(super) fn moved(
        &mut self,
        vertex: u32,
        part: &str,
        bytes: u64,
        total: u64,
        state: Moving,
    ) -> &mut Self {
        self.send(Event::Moved { vertex: VertexId(vertex), part: part.to_owned(), bytes, total, state })
    }

    /// Of three layers one takes long, one is there, and one never comes.
    pub(super) fn pull(&mut self, vertex: u32, name: &str) -> &mut Self {
        const MB: u64 = 1_000_000;
        self.transfer(vertex, name).wait(100);
        self.moved(vertex, "sha256:aa", MB, 2 * MB, Moving::UnderWay).wait(100);
        self.moved(vertex, "sha256:aa", 2 * MB, 2 * MB, Moving::Done).wait(100);
        self.moved(vertex, "sha256:bb", MB, MB, Moving::Present);
        self.moved(vertex, "sha256:cc", 10 * MB, 60 * MB, Moving::UnderWay).wait(6000);
        self.moved(vertex, "sha256:cc", 30 * MB, 60 * MB, Moving::UnderWay).wait(100);
        self.moved(vertex, "sha256:cc", 31 * MB, 60 * MB, Moving::UnderWay).wait(100)
    }

    pub(super) fn warn(&mut self, vertex: Option<u32>, message: &str, hints: &[&str]) -> &mut Self {
        let hints = hints.iter().map(|hint| (*hint).to_owned()).collect();
        let warning = Warning { message: message.to_owned(), hints };
        self.send(Event::Warned { vertex: vertex.map(VertexId), warning })
    }

    pub(super) fn note(&mut self, text: &str) -> &mut Self {
        self.view.note(self.at, text);
        self
    }

    pub(super) fn finish(&mut self) -> Summary {
        self.view.finish(self.at)
    }

    /// One step reused, one built, one failed, one stopped, one never begun; a folded source.
    pub(super) fn failing_build(&mut self) -> &mut Self {
        self.declare_minor(0, "[context] load")
            .declare(1, "[base] FROM node:22-slim")
            .declare(2, "[deps] pnpm install")
            .declare(3, "[web] next build")
            .declare(4, "[admin] next build")
            .declare(5, "[runner] COPY --from=web /app .")
            .start(0);
        self.wait(200).reused(0).reused(1).start(2);
        self.wait(412).log(2, "Lockfile is up to date\nProgress: resolved 1\rProgress: resolved 812\n");
        self.warn(Some(2), "`node_modules` in the context is ignored", &["add it to `.dockerignore`"]);
        let why = MissReason::Changed {
            changes: vec![FieldChange {
                field: "input/pnpm-lock.yaml".to_owned(),
                old: Some("sha256:aa".to_owned()),
                new: Some("sha256:bb".to_owned()),
            }],
        };
        self.wait(11_900).end(2, Outcome::Built { why }, 12_312).start(3).start(4);
        self.warn(Some(3), "`node_modules` in the context is ignored", &["add it to `.dockerignore`"]);
        self.wait(1000).log(3, "Creating an optimized production build ...\n").log_stderr(3, "Type error: ");
        self.wait(500).log(4, "Compiling\n").log_stderr(3, "`x` is not a number\n  at page.tsx:3");
        let path = PathBuf::from("/home/me/.cache/wbuild/logs/3.log");
        self.send(Event::LogFile { vertex: VertexId(3), path });
        self.wait(100).end(3, Outcome::Failed, 1600).end(4, Outcome::Cancelled, 1600).wait(100)
    }
}
