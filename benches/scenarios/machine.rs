//! What was measured on.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Processors, memory, kernel, file system of the work folder.
pub(crate) fn facts(work: &Path) -> String {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
        line.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "machine: {processors} × {}, {} of memory, Linux {}, {}",
        field("/proc/cpuinfo", "model name"),
        field("/proc/meminfo", "MemTotal"),
        kernel.trim(),
        file_system(work),
    )
}

/// The load averages, under a title.
pub(crate) fn load(title: &str) -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let averages: Vec<&str> = text.split_whitespace().take(3).collect();
    format!("{title}: {}", averages.join(" "))
}

fn file_system(path: &Path) -> String {
    let output = Command::new("stat").args(["--file-system", "--format=%T"]).arg(path).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
