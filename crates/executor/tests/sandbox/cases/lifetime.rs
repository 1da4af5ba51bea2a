use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use wbuild_executor::{CancelToken, ExecError, Status};
use wbuild_report::LogStream;

use crate::Verdict::{self, Passed};
use crate::bed::{Bed, VICTIM};

/// A time to sleep that no other process of the machine sleeps for, not even of this test run twice at once.
fn nap(number: u32) -> u32 {
    100_000_000 + std::process::id() * 10 + number
}

/// How many processes of the machine run `sleep` for that long.
fn sleepers(seconds: u32) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes()))
        .count()
}

/// Waits for something that the kernel does in its own time.
fn eventually(what: impl Fn() -> bool) -> bool {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(5) {
        if what() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

pub(super) fn leftovers_die_with_the_step(bed: &Bed) -> Verdict {
    let since = Instant::now();
    let nap = nap(1);
    let script = format!(
        "sleep {nap} & (setsid sleep {nap} &); (trap '' TERM HUP; sleep {nap}) & echo started; exit 0"
    );
    let ran = bed.sh(&script);
    assert_eq!(ran.out, "started\n");
    assert!(since.elapsed() < Duration::from_secs(5));
    assert_eq!(sleepers(nap), 0);
    Passed
}

pub(super) fn cancel_kills_everything(bed: &Bed) -> Verdict {
    let token = CancelToken::new().unwrap();
    let nap = nap(2);
    let step = bed.step(&format!(
        "trap '' TERM INT HUP; sleep {nap} & (setsid sleep {nap} &); echo started; wait; sleep {nap}"
    ));
    let since = Instant::now();
    let other = token.clone();
    let mut started = false;
    let mut output = |_: LogStream, bytes: &[u8]| {
        assert_eq!(bytes, b"started\n");
        started = true;
        let token = other.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            token.cancel();
        });
    };
    let result = bed.isolation.run(&step, &mut output, &token);
    assert!(matches!(result, Err(ExecError::Cancelled)), "{result:?}");
    assert!(started && since.elapsed() < Duration::from_secs(5));
    assert_eq!(sleepers(nap), 0);
    Passed
}

pub(super) fn cancelled_before_the_start(bed: &Bed) -> Verdict {
    let token = CancelToken::new().unwrap();
    token.cancel();
    let result = bed.isolation.run(&bed.step(&format!("sleep {}", nap(3))), &mut |_, _| (), &token);
    assert!(matches!(result, Err(ExecError::Cancelled)), "{result:?}");
    assert_eq!(sleepers(nap(3)), 0);
    Passed
}

/// Killed, whatever comes of the test.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

pub(super) fn a_killed_program_leaves_nothing(bed: &Bed) -> Verdict {
    let top = bed.directory("victim");
    for name in ["upper", "scratch"] {
        fs::create_dir(top.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(&bed.base, top.join("base")).unwrap();
    let nap = nap(5);
    let mut program = Command::new("/proc/self/exe");
    program.arg(VICTIM).arg(&top).arg(nap.to_string()).stdout(Stdio::piped());
    let mut victim = Victim(program.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(victim.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    assert!(eventually(|| sleepers(nap) == 3));
    drop(victim);
    assert!(eventually(|| sleepers(nap) == 0), "{} are left", sleepers(nap));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(top.to_str().unwrap()));
    Passed
}

pub(super) fn many_at_once(bed: &Bed) -> Verdict {
    let codes: Vec<_> = std::thread::scope(|scope| {
        let run = |number: i32| move || bed.run(&bed.step(&format!("echo {number}; exit {number}")));
        let threads: Vec<_> = (0..12).map(|number| scope.spawn(run(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (number, ran) in codes.iter().enumerate() {
        assert_eq!(ran.finished.status, Status::Exited(number.try_into().unwrap()));
        assert_eq!(ran.out, format!("{number}\n"));
    }
    Passed
}

pub(super) fn dropping_a_started_step_kills_it(bed: &Bed) -> Verdict {
    let running = bed.isolation.start(&bed.step(&format!("sleep {}", nap(4)))).unwrap();
    assert!(eventually(|| sleepers(nap(4)) == 1));
    drop(running);
    assert_eq!(sleepers(nap(4)), 0);
    Passed
}
