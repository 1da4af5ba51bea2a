//! The `created_by` of an image's history, as BuildKit writes it. Tools read these lines.

use std::borrow::Cow;
use std::time::Duration;

use super::step::{Step, TransferStep};
use crate::ast::Healthcheck;

/// The line for `step`; `None` for ONBUILD, which leaves no trace. `shell` is the shell in force, `declared` what
/// [`StageScope::declared`](super::StageScope::declared) says before the step.
pub fn created_by(step: &Step, shell: &[String], declared: &[(&str, &str)]) -> Option<String> {
    let pairs = |name: &str, pairs: &[(String, String)]| {
        pairs.iter().fold(name.to_owned(), |line, (key, value)| format!("{line} {key}={value}"))
    };
    Some(match step {
        Step::Add(step) => transfer("ADD", step),
        Step::Copy(step) => transfer("COPY", step),
        Step::Arg(items) => items.iter().fold("ARG".to_owned(), |line, (name, value)| match value {
            Some(value) => format!("{line} {name}={value}"),
            None => format!("{line} {name}"),
        }),
        Step::Cmd(command) => format!("CMD {}", quoted_list(&command.argv(shell))),
        Step::Entrypoint(command) => format!("ENTRYPOINT {}", quoted_list(&command.argv(shell))),
        Step::Env(values) => pairs("ENV", values),
        Step::Label(values) => pairs("LABEL", values),
        Step::Expose(ports) => {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            format!("EXPOSE [{}]", ports.join(" "))
        }
        Step::Healthcheck(check) => format!("HEALTHCHECK {}", healthcheck(check)),
        Step::Maintainer(name) => format!("MAINTAINER {name}"),
        Step::Onbuild(_) => return None,
        Step::Run(run) => {
            let argv = run.script.argv(shell);
            let arguments = match declared.len() {
                0 => String::new(),
                count => declared
                    .iter()
                    .fold(format!("|{count} "), |line, (name, value)| format!("{line}{name}={value} ")),
            };
            format!("RUN {arguments}{} # buildkit", argv.join(" "))
        }
        Step::Shell(words) => format!("SHELL [{}]", words.join(" ")),
        Step::StopSignal(signal) => format!("STOPSIGNAL {signal}"),
        Step::User(user) => format!("USER {user}"),
        Step::Volume(volumes) => format!("VOLUME [{}]", volumes.join(" ")),
        Step::Workdir(path) => format!("WORKDIR {path}"),
    })
}

fn transfer(name: &str, step: &TransferStep) -> String {
    let mut line = name.to_owned();
    if step.parents {
        line.push_str(" --parents");
    }
    if let Some((text, _)) = &step.chown {
        line.push_str(&format!(" --chown={text}"));
    }
    if let Some((text, _)) = &step.chmod {
        line.push_str(&format!(" --chmod={text}"));
    }
    for (source, _) in &step.sources {
        line.push(' ');
        line.push_str(&without_credentials(source));
    }
    for file in &step.inline {
        line.push_str(" <<");
        line.push_str(&file.name);
    }
    format!("{line} {} # buildkit", step.destination)
}

/// Everybody who has the image can read its history. Marked as BuildKit marks them in its output; its history has them.
fn without_credentials(source: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = source.split_once("://") else { return source.into() };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let Some((user, host)) = authority.rsplit_once('@') else { return source.into() };
    if scheme == "ssh" && !user.contains(':') {
        return source.into();
    }
    let mark = if user.contains(':') { "xxxxx:xxxxx" } else { "xxxxx" };
    format!("{scheme}://{mark}@{host}{}", &rest[authority.len()..]).into()
}

/// Go's `%+v` of the configuration's structure.
fn healthcheck(check: &Healthcheck) -> String {
    let zero = Duration::ZERO;
    let (test, times, retries) = match check {
        Healthcheck::None => (vec!["NONE".to_owned()], [zero; 4], 0),
        Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } => {
            (command.probe(), [*interval, *timeout, *start_period, *start_interval], *retries)
        }
    };
    let [interval, timeout, start_period, start_interval] = times.map(go_duration);
    format!(
        "{{Test:[{}] Interval:{interval} Timeout:{timeout} StartPeriod:{start_period} StartInterval:{start_interval} \
         Retries:{retries}}}",
        test.join(" ")
    )
}

/// `1h2m3.5s`, `1.5ms`.
fn go_duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    let fraction = |nanos: u128, unit: u128| {
        let digits = format!("{}.{:0width$}", nanos / unit, nanos % unit, width = unit.ilog10() as usize);
        digits.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let seconds = format!("{}s", fraction(rest, 1_000_000_000));
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// Go's `%q` of a list of strings.
fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| go_quote(word)).collect();
    format!("[{}]", words.join(" "))
}

/// Go's `%q` of one string.
pub(crate) fn go_quote(word: &str) -> String {
    let mut out = String::from("\"");
    for c in word.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_urls_are_not_told() {
        for (source, told) in [
            ("https://me:secret@host/a?b@c", "https://xxxxx:xxxxx@host/a?b@c"),
            ("https://token@host:8080", "https://xxxxx@host:8080"),
            ("https://me:a@b@host/x.git#v1", "https://xxxxx:xxxxx@host/x.git#v1"),
            ("ssh://git@host/x.git", "ssh://git@host/x.git"),
            ("git@host:x.git", "git@host:x.git"),
            ("https://host/a@b", "https://host/a@b"),
            ("dir/a@b", "dir/a@b"),
        ] {
            assert_eq!(without_credentials(source), told);
        }
    }

    #[test]
    fn durations_print_as_in_go() {
        for (nanos, text) in [
            (0, "0s"),
            (30_000_000_000, "30s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500_000, "1.5ms"),
            (100_500_000_000, "1m40.5s"),
            (10_000, "10µs"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn lists_are_quoted_as_in_go() {
        assert_eq!(
            quoted_list(&["a\"b".into(), "tab\tq\\\x01é".into()]),
            "[\"a\\\"b\" \"tab\\tq\\\\\\x01é\"]"
        );
    }
}
