//! Builds that are stopped in the middle: by ctrl-C and by force.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::context::{TestContext, bases, processes};

/// A step that runs until somebody ends it, and can be told from every other process.
fn endless(mark: &str) -> String {
    // The mark is an argument of a process before anything is said.
    format!("echo half > half\nsh -c 'echo waiting for the test; sleep {mark}; :'\n")
}

/// Waits until a process has ended.
fn ended(pid: i32) {
    // Whoever is gone already cannot be opened.
    let Ok(process) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else { return };
    let mut watched = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut watched, Some(&limit)).unwrap(), 1, "process {pid} goes on");
}

fn interrupted_by(signal: Signal, mark: &str) {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write("apps/web/extra.sh", &endless(mark));
    let before = context.listing();
    let build = context.build_until(&[], "waiting for the test");
    assert!(!processes(mark).is_empty());
    build.signal(signal);
    let build = build.finish(&context);
    assert_eq!(build.output.code, 130, "{}", build.output);
    assert!(build.error().ends_with("interrupted"), "{}", build.output);
    assert_eq!(build.steps("cancelled"), ["[builder] web#build"]);
    assert_eq!(processes(mark), [0; 0], "no process is left");
    assert_eq!(context.listing(), before);

    // What was done until then is kept, and what was half done is not.
    context.write("apps/web/extra.sh", ":\n");
    let next = context.build(&[]);
    next.digest();
    assert_eq!(next.steps("built"), ["[builder] web#build"]);
    assert_eq!(context.cached("runs"), ["run\n"]);
}

#[test]
fn ctrl_c() {
    interrupted_by(Signal::INT, "86403.25");
}

#[test]
fn terminated() {
    interrupted_by(Signal::TERM, "86404.25");
}

#[test]
fn killed() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    context.write("apps/web/extra.sh", &endless("86405.25"));
    let build = context.build_until(&[], "waiting for the test");
    let left = processes("86405.25");
    assert!(!left.is_empty());
    build.signal(Signal::KILL);
    build.finish(&context);
    // Steps die with wbuild; nothing tells this test when, so it waits.
    left.into_iter().for_each(ended);

    context.write("apps/web/extra.sh", ":\n");
    let next = context.build(&[]);
    next.digest();
    assert_eq!(next.steps("built"), ["[builder] web#build"]);
    assert_eq!(context.build(&[]).steps("built"), [""; 0]);
    let verified = context.run(&["cache", "verify"]);
    assert!(verified.code == 0 && verified.stdout.contains(" 0 damaged"), "{verified}");
}

#[test]
fn one_who_waits_for_a_step_that_is_killed_runs_it() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    // Only the first install waits for the test: pnpm's store is shared as it is, without a step's success.
    context.edit(
        "wbuild.toml",
        "install) ",
        "install) mkdir /pnpm/store/first && echo waiting for the test && sleep 86406.25; ",
    );
    let first = context.build_until(&["--output", "type=oci,dest=../one,tar=false"], "waiting for the test");
    let second = context.start_build(&["--output", "type=oci,dest=../two,tar=false"]);
    first.signal(Signal::KILL);
    first.finish(&context);
    let second = context.finish_build(second);
    second.digest();
    assert!(second.steps("built").contains(&"[deps] pnpm install"));
}

/// While an image is written, to somebody who does not read on.
#[test]
fn ctrl_c_while_an_output_is_written() {
    use std::io::Read;
    use std::process::Stdio;

    let context = TestContext::empty();
    context.write("large", &"0123456789abcdef".repeat(1 << 17));
    context.write("Dockerfile", "FROM scratch\nCOPY large /\n");
    let mut child = context
        .command(&["build", "--progress", "quiet", "-o", "type=tar", "."])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first bytes of the archive.
    let mut begun = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    rustix::process::kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
