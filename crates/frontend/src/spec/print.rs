//! A spec as text, with all defaults written out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::read::UNITS;
use super::{SecretTarget, Spec};

pub(crate) fn print(spec: &Spec) -> String {
    let mut out = Printer { spec, text: String::new() };
    out.note("");
    out.pair("", "version", "1");
    out.pair("", "app", &quote(&spec.app));
    out.head("base");
    out.pair("base", "image", &quote(&spec.base));
    out.head("toolchain");
    out.pair("toolchain", "run", &lines(&spec.toolchain));
    out.head("install");
    out.pair("install", "network", &spec.install.network.to_string());
    out.head("build");
    out.pair("build", "task", &quote(&spec.build.task));
    out.pair("build", "network", &spec.build.network.to_string());
    out.pair("build", "from-host", &list(&spec.build.from_host));
    out.map("env", &spec.env);
    out.map("args", &spec.args);
    out.secrets();
    out.runner();
    if let Some(dev) = &spec.dev {
        out.head("dev");
        out.pair("dev", "cmd", &list(&dev.cmd));
        out.pair("dev", "expose", &list(&dev.expose));
        out.map("dev.env", &dev.env);
    }
    out.head("normalise");
    out.pair("normalise", "pnpm-state", &spec.normalise.pnpm_state.to_string());
    out.pair("normalise", "next-build-id", &spec.normalise.next_build_id.to_string());
    out.pair("normalise", "next-trace", &spec.normalise.next_trace.to_string());
    out.text
}

struct Printer<'a> {
    spec: &'a Spec,
    text: String,
}

impl Printer<'_> {
    fn note(&mut self, path: &str) {
        for line in self.spec.origin.notes.get(path).into_iter().flat_map(|note| note.lines()) {
            // A comment may hold anything but control characters.
            let line: String = line.chars().filter(|c| !c.is_control()).collect();
            self.line(&format!("# {line}"));
        }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn head(&mut self, name: &str) {
        self.line(&format!("\n[{name}]"));
        self.note(name);
    }

    fn pair(&mut self, table: &str, name: &str, value: &str) {
        self.note(&if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") });
        self.line(&format!("{name} = {value}"));
    }

    fn map(&mut self, name: &str, map: &BTreeMap<String, String>) {
        if map.is_empty() {
            return;
        }
        self.head(name);
        for (key, value) in map {
            self.note(&format!("{name}.{key}"));
            self.line(&format!("{} = {}", bare_or_quoted(key), quote(value)));
        }
    }

    fn secrets(&mut self) {
        for (id, secret) in &self.spec.secrets {
            let name = format!("secrets.{}", bare_or_quoted(id));
            self.head(&name);
            match &secret.target {
                SecretTarget::Env(variable) => self.pair(&name, "env", &quote(variable)),
                SecretTarget::File(path) => self.pair(&name, "file", &quote(path)),
            }
            self.pair(&name, "version", &quote(&secret.version));
            self.pair(&name, "required", &secret.required.to_string());
        }
    }

    fn runner(&mut self) {
        let runner = &self.spec.runner;
        self.head("runner");
        self.pair("runner", "image", &quote(&runner.image));
        self.pair("runner", "user", &quote(&runner.user.name));
        self.pair("runner", "uid", &runner.user.uid.to_string());
        self.pair("runner", "group", &quote(&runner.user.group));
        self.pair("runner", "gid", &runner.user.gid.to_string());
        self.pair("runner", "workdir", &quote(&runner.workdir));
        self.pair("runner", "expose", &list(&runner.expose));
        if let Some(entrypoint) = &runner.entrypoint {
            self.pair("runner", "entrypoint", &list(entrypoint));
        }
        self.pair("runner", "cmd", &list(&runner.cmd));
        let layers: Vec<String> = runner.layers.iter().map(|layer| layer.name().to_owned()).collect();
        self.pair("runner", "layers", &list(&layers));
        self.map("runner.env", &runner.env);
        if let Some(probe) = &runner.healthcheck {
            self.head("runner.healthcheck");
            self.pair("runner.healthcheck", "cmd", &list(&probe.cmd));
            let durations = [
                ("interval", probe.interval),
                ("timeout", probe.timeout),
                ("start-period", probe.start_period),
                ("start-interval", probe.start_interval),
            ];
            for (name, value) in durations {
                if let Some(value) = value {
                    self.pair("runner.healthcheck", name, &quote(&duration(value)));
                }
            }
            if let Some(retries) = probe.retries {
                self.pair("runner.healthcheck", "retries", &retries.to_string());
            }
        }
        self.map("runner.labels", &runner.labels);
    }
}

fn list(items: &[String]) -> String {
    format!("[{}]", items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", "))
}

/// A list with each item on a line of its own.
fn lines(items: &[String]) -> String {
    if items.is_empty() {
        return "[]".to_owned();
    }
    items.iter().fold("[\n".to_owned(), |text, item| text + "  " + &quote(item) + ",\n") + "]"
}

fn bare_or_quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { quote(key) }
}

/// A basic string of TOML.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn duration(nanoseconds: u64) -> String {
    let mut rest = nanoseconds;
    let mut out = String::new();
    for (unit, size) in UNITS {
        if rest >= size {
            out.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    out
}
