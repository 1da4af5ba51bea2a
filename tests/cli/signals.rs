//! `wbuild run` passes signals on to the image's process, as `docker run` does.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::context::{TestContext, base_layout, bases, processes};

/// `wbuild run` of a script in an Alpine, whose first line says that it is ready.
struct Run {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Run {
    fn start(context: &TestContext, args: &[&str], script: &str) -> Self {
        let alpine = base_layout("alpine:3.23").display().to_string();
        let all = [&["run", &alpine, "--network", "none"], args, &["--", "/bin/sh", "-c", script]].concat();
        let mut child = context.command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut run = Self { child, said };
        assert_eq!(run.line(), "ready\n");
        run
    }

    /// The next line that the process writes.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit code; nothing of the image runs any more.
    fn code(mut self, mark: &str) -> i32 {
        let code = self.child.wait().unwrap().code().unwrap();
        assert_eq!(processes(mark), [0; 0], "no process is left");
        code
    }
}

/// A test that panics leaves nothing behind.
impl Drop for Run {
    fn drop(&mut self) {
        // Most have ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn each_reaches_the_process_of_the_image() {
    let Some(_) = bases() else { return };
    let context = TestContext::empty();
    let script = "for name in HUP INT USR1 USR2 ALRM; do trap \"echo $name\" $name; done
        trap 'echo QUIT; exit 41' QUIT
        echo ready; while :; do sleep 86411.25 & wait $!; done";
    let mut run = Run::start(&context, &[], script);
    for (signal, name) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::ALARM, "ALRM"),
        (Signal::QUIT, "QUIT"),
    ] {
        run.signal(signal);
        assert_eq!(run.line(), format!("{name}\n"));
    }
    assert_eq!(run.code("86411.25"), 41);
}

#[test]
fn a_process_that_ends_in_good_order_has_its_own_exit_code() {
    let Some(_) = bases() else { return };
    let context = TestContext::empty();
    let script = "trap 'echo bye; exit 3' TERM; echo ready; sleep 86412.25 & wait";
    let mut run = Run::start(&context, &[], script);
    run.signal(Signal::TERM);
    assert_eq!(run.line(), "bye\n");
    assert_eq!(run.code("86412.25"), 3);
}

#[test]
fn one_without_a_handler_ends_by_the_signal() {
    let Some(_) = bases() else { return };
    let context = TestContext::empty();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::USR1, 138)] {
        let run = Run::start(&context, &[], "echo ready; exec sleep 86413.25");
        run.signal(signal);
        assert_eq!(run.code("86413.25"), code);
    }
}

#[test]
fn one_that_does_not_want_to_end_is_killed_by_the_second_ctrl_c() {
    let Some(_) = bases() else { return };
    let context = TestContext::empty();
    let script = "trap 'echo no' INT; echo ready; while :; do sleep 86414.25 & wait $!; done";
    let mut run = Run::start(&context, &[], script);
    run.signal(Signal::INT);
    assert_eq!(run.line(), "no\n");
    run.signal(Signal::INT);
    assert_eq!(run.code("86414.25"), 137);
}

#[test]
fn one_that_takes_too_long_to_end_is_killed() {
    let Some(_) = bases() else { return };
    let context = TestContext::empty();
    let script = "trap '' TERM; echo ready; while :; do sleep 86415.25 & wait $!; done";
    let run = Run::start(&context, &["--stop-timeout", "0"], script);
    run.signal(Signal::TERM);
    assert_eq!(run.code("86415.25"), 137);
}

#[test]
fn ctrl_c_ends_the_wait_for_health() {
    let Some(_) = bases() else { return };
    let context = TestContext::empty();
    context.write(
        "Dockerfile",
        "FROM alpine:3.23\nHEALTHCHECK --interval=1h CMD echo probe >> /dev/null; exit 1\n\
         CMD [\"sh\", \"-c\", \"trap '' INT; echo ready; sleep 86416.25\"]\n",
    );
    let mut args = vec!["build".to_owned(), ".".to_owned(), "-o".to_owned()];
    args.push("type=oci,dest=../image,tar=false".to_owned());
    args.extend(context.base_images());
    let built = context.run(&args);
    assert_eq!(built.code, 0, "{built}");
    let mut child = context
        .command(&["run", "../image", "--network", "none", "--until-healthy"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(processes("86416.25"), [0; 0]);
}
