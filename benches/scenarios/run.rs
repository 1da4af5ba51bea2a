//! One run of a program: its time on the wall, the most memory it had itself, and what it said.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::problem::{Problem, doing};

/// How often a process' peak is read while it runs. The kernel keeps the peak, so only what happens after the last look is
/// missed; [`Peak::Close`] is for runs of milliseconds, whose time does not count then.
const SELDOM: Duration = Duration::from_millis(20);
const OFTEN: Duration = Duration::from_micros(500);

/// Lines of output that an error repeats.
const LAST_LINES: usize = 30;

/// How closely memory is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peak {
    /// Without disturbing the time.
    Loose,
    /// As often as can be.
    Close,
}

/// What a run took.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// From start to end.
    pub(crate) wall: Duration,
    /// Bytes of resident memory that the process itself had at most, its children not counted. Not `wait4`'s: that counts
    /// the largest child.
    pub(crate) peak: u64,
    /// Its standard output and standard error, as they came.
    pub(crate) said: String,
}

/// Runs a program to its end; failing is an error.
pub(crate) fn run(mut command: Command, peak: Peak) -> Result<Run, Problem> {
    let shown = shown(&command);
    let failed = |source| Problem::Io { action: format!("run {shown}"), source };
    // A file, not a pipe: reading a pipe would take time from who is measured.
    let mut output = unnamed_file().map_err(failed)?;
    command.stdin(Stdio::null());
    command.stdout(output.try_clone().map_err(failed)?).stderr(output.try_clone().map_err(failed)?);
    let started = Instant::now();
    let mut child = command.spawn().map_err(failed)?;
    let (over, ended) = channel::<()>();
    let status = format!("/proc/{}/status", child.id());
    let pause = if peak == Peak::Close { OFTEN } else { SELDOM };
    let watch = thread::spawn(move || {
        let mut most = 0;
        while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            most = most.max(peak_of(Path::new(&status)));
        }
        most
    });
    let status = child.wait().map_err(failed)?;
    let wall = started.elapsed();
    drop(over);
    let peak = watch.join().unwrap_or_default();
    let mut said = Vec::new();
    output.rewind().and_then(|()| output.read_to_end(&mut said)).map_err(failed)?;
    let said = String::from_utf8_lossy(&said).into_owned();
    if !status.success() {
        let lines: Vec<&str> = said.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        return Err(Problem::Command { command: format!("{shown}: {status}"), said: last.join("\n") });
    }
    Ok(Run { wall, peak, said })
}

/// `VmHWM` of a process; 0 once it has ended.
fn peak_of(status: &Path) -> u64 {
    let text = fs::read_to_string(status).unwrap_or_default();
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    kilobytes.trim().trim_end_matches(" kB").parse().unwrap_or(0) * 1024
}

/// A file that nobody can find, gone with its last handle.
fn unnamed_file() -> std::io::Result<File> {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("wbuild-bench-{}-{number}", std::process::id()));
    let file = File::options().read(true).append(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Whether there is such a program.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Copies a folder as it is: links, hard links, modes, times.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<(), Problem> {
    let mut command = Command::new("cp");
    command.args(["-a", "--reflink=auto"]).arg(from).arg(to);
    run(command, Peak::Loose).map(drop)
}

/// Removes a folder if it is there.
pub(crate) fn remove_folder(path: &Path) -> Result<(), Problem> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(doing("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Waits until everything written so far is on the disk, so that writing it back does not count for who comes next.
pub(crate) fn settle() -> Result<(), Problem> {
    run(Command::new("sync"), Peak::Loose).map(drop)
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
