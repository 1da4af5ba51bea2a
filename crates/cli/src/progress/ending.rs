//! The last words of a build for people: warnings, the logs of what failed, the summary. What failed stands last,
//! so that nothing scrolls it away.

use std::fmt::Write;
use std::time::Duration;

use super::step::{Build, Step};
use crate::render::{Sgr, Theme, duration, escape_line, log_text, push_hints, push_labelled};

/// Log lines of what failed stand behind this.
pub(super) const LOG_MARGIN: &str = "  | ";

/// All of it.
pub(super) fn ending(build: &Build, took: Duration, theme: &Theme) -> String {
    let mut text = warnings(build, theme);
    text.push_str(&failures(build, theme));
    let summary = build.summary(took);
    let style = if summary.failed > 0 { theme.error() } else { theme.strong() };
    // Writing into a `String` cannot fail.
    let _ = writeln!(text, "{style}{summary}{style:#}");
    text
}

/// The last lines of every step that failed.
pub(super) fn failures(build: &Build, theme: &Theme) -> String {
    let failed = build.steps().filter(|(_, step)| step.has_failed());
    failed.flat_map(|(_, step)| failure(step, usize::MAX, theme)).map(|line| line + "\n").collect()
}

/// Every warning once.
pub(super) fn warnings(build: &Build, theme: &Theme) -> String {
    let mut text = String::new();
    for said in build.warnings() {
        let times = if said.times > 1 { format!(" ({} times)", said.times) } else { String::new() };
        let message = format!("{}{times}", said.warning.message);
        push_labelled(&mut text, "", "warning", theme.warning(), &message);
        let hints: Vec<&str> = said.warning.hints.iter().map(String::as_str).collect();
        push_hints(&mut text, "  ", &hints, theme);
    }
    text
}

/// What is left of a failed step: its name, at most `limit` of its last log lines, where the rest is.
pub(super) fn failure(step: &Step, limit: usize, theme: &Theme) -> Vec<String> {
    let style = theme.error();
    let took = step.ended.as_ref().map_or(Duration::ZERO, |(_, took)| *took);
    let shown = step.tail.len().min(limit);
    let mut title = format!("{style}failed{style:#} {} after {}", step.name, duration(took));
    if shown < step.lines {
        let _ = write!(title, ", the last {shown} of {} lines", step.lines);
    }
    let mut lines = vec![title];
    let sgr = if theme.has_colors() { Sgr::Pass } else { Sgr::Drop };
    let tail = step.tail.iter().skip(step.tail.len() - shown);
    lines.extend(tail.map(|line| format!("{LOG_MARGIN}{}", log_text(&line.bytes, sgr))));
    if let Some(path) = &step.log_file {
        lines.push(format!("  full log: {}", escape_line(&path.to_string_lossy())));
    }
    lines
}
