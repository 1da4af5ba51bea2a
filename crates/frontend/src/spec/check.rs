//! What the shape of a spec cannot say: names, references, and what excludes what.

use std::collections::BTreeMap;

use wbuild_oci::Reference;
use wbuild_report::Diagnostic;
use wbuild_tree::EntryPath;

use super::{SecretTarget, Spec};

pub(crate) fn check(spec: &Spec) -> Result<(), Vec<Diagnostic>> {
    let mut check = Check { spec, errors: Vec::new() };
    check.image("base.image", &spec.base);
    if spec.runner.image != spec.base {
        check.image("runner.image", &spec.runner.image);
    }
    check.one_line("app", &spec.app);
    check.one_line("build.task", &spec.build.task);
    for (index, line) in spec.toolchain.iter().enumerate() {
        check.not_blank(&format!("toolchain.run.{index}"), line);
    }
    for (index, pattern) in spec.build.from_host.iter().enumerate() {
        check.variable_pattern(&format!("build.from-host.{index}"), pattern);
    }
    check.variables("env", &spec.env);
    check.variables("args", &spec.args);
    check.variables("runner.env", &spec.runner.env);
    if let Some(dev) = &spec.dev {
        check.variables("dev.env", &dev.env);
        check.argv("dev.cmd", &dev.cmd);
    }
    for name in spec.args.keys().filter(|name| spec.env.contains_key(*name)) {
        check.errors.push(
            spec.error(
                &format!("args.{name}@key"),
                format!("`{name}` is in `args` and in `env`"),
                "also in `env`",
            )
            .hint("keep it in `args` to allow `--build-arg`, or in `env` to fix its value"),
        );
    }
    check.secrets();
    check.account("runner.user", &spec.runner.user.name);
    check.account("runner.group", &spec.runner.user.group);
    check.argv("runner.cmd", &spec.runner.cmd);
    if let Some(entrypoint) = &spec.runner.entrypoint {
        check.argv("runner.entrypoint", entrypoint);
    }
    if let Some(probe) = &spec.runner.healthcheck {
        check.argv("runner.healthcheck.cmd", &probe.cmd);
    }
    if !spec.runner.workdir.starts_with('/') || spec.runner.workdir.contains('\0') {
        check.push("runner.workdir", "`runner.workdir` must be an absolute path".to_owned(), "not absolute");
    }
    for (name, value) in &spec.runner.labels {
        if name.is_empty() || name.contains('\0') || value.contains('\0') {
            check.push(
                &format!("runner.labels.{name}@key"),
                "a label needs a name, and no NUL".to_owned(),
                "this label",
            );
        }
    }
    let mut errors = check.errors;
    errors.sort_by_key(|error| error.labels.first().map_or(usize::MAX, |label| label.span.start));
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

struct Check<'a> {
    spec: &'a Spec,
    errors: Vec<Diagnostic>,
}

impl Check<'_> {
    fn push(&mut self, path: &str, message: String, label: &str) {
        self.errors.push(self.spec.error(path, message, label));
    }

    fn image(&mut self, path: &str, reference: &str) {
        if let Err(error) = reference.parse::<Reference>() {
            self.push(path, error.to_string(), "not an image reference");
        }
    }

    fn not_blank(&mut self, path: &str, text: &str) {
        if text.trim().is_empty() || text.contains('\0') {
            self.push(path, format!("`{path}` must not be empty or hold NUL"), "this text");
        }
    }

    fn one_line(&mut self, path: &str, text: &str) {
        if text.trim().is_empty() || text.chars().any(char::is_control) {
            self.push(path, format!("`{path}` must be one line that is not empty"), "this text");
        }
    }

    fn argv(&mut self, path: &str, argv: &[String]) {
        if argv.first().is_none_or(String::is_empty) || argv.iter().any(|part| part.contains('\0')) {
            self.push(path, format!("`{path}` must begin with a program, and hold no NUL"), "this command");
        }
    }

    fn variables(&mut self, path: &str, variables: &BTreeMap<String, String>) {
        for (name, value) in variables {
            if !is_variable(name) {
                let message = format!("`{}` is not the name of a variable", name.escape_debug());
                self.push(&format!("{path}.{name}@key"), message, "letters, digits and `_` only");
            }
            if value.contains('\0') {
                self.push(
                    &format!("{path}.{name}"),
                    format!("the value of `{name}` holds NUL"),
                    "this value",
                );
            }
        }
    }

    fn variable_pattern(&mut self, path: &str, pattern: &str) {
        if !is_variable(&pattern.replace('*', "_")) {
            let message = format!("`{}` is not the name of a variable", pattern.escape_debug());
            self.push(path, message, "letters, digits, `_` and `*` only");
        }
    }

    /// A name that goes into `/etc/passwd`, which has no way to escape anything.
    fn account(&mut self, path: &str, name: &str) {
        let first = |c: char| c.is_ascii_alphabetic() || c == '_';
        let rest = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.len() > 32 || !name.starts_with(first) || !name.chars().all(rest) {
            let message = format!(
                "`{path}` must be a letter or `_`, then letters, digits, `_`, `-` or `.`; at most 32"
            );
            self.push(path, message, "not an account's name");
        }
    }

    fn secrets(&mut self) {
        let spec = self.spec;
        let mut taken: BTreeMap<String, &str> = BTreeMap::new();
        for (id, secret) in &spec.secrets {
            let path = format!("secrets.{id}");
            let written = |key: &str| spec.origin.places.contains_key(&format!("{path}.{key}"));
            let usable = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            if id.is_empty() || !id.chars().all(usable) {
                let message = format!("`{}` is not the id of a secret", id.escape_debug());
                self.push(&format!("{path}@key"), message, "letters, digits, `_`, `-` and `.` only");
            }
            if written("env") == written("file") {
                let message = format!("the secret `{id}` needs either `env` or `file`");
                self.push(&path, message, if written("env") { "has both" } else { "has neither" });
                continue;
            }
            let target = match &secret.target {
                SecretTarget::Env(name) => {
                    if !is_variable(name) {
                        let message = format!("`{}` is not the name of a variable", name.escape_debug());
                        self.push(&format!("{path}.env"), message, "letters, digits and `_` only");
                    }
                    name.clone()
                }
                SecretTarget::File(file) => {
                    let inside = EntryPath::parse(file).is_ok_and(|path| !path.is_root());
                    if file.starts_with('/') || !inside {
                        let message = format!("the file of the secret `{id}` must lie inside the workspace");
                        self.push(
                            &format!("{path}.file"),
                            message,
                            "not a path relative to the workspace root",
                        );
                    }
                    file.clone()
                }
            };
            if let Some(other) = taken.insert(target.clone(), id) {
                let message = format!("the secrets `{other}` and `{id}` both become `{target}`");
                self.push(&format!("{path}@key"), message, "the second one");
            }
            if spec.env.contains_key(&target) || spec.args.contains_key(&target) {
                let message = format!(
                    "`{target}` is a secret and also in `env` or `args`, whose values are no secrets"
                );
                self.push(&format!("{path}@key"), message, "this secret");
            }
        }
    }
}

pub(crate) fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
