//! Who sees which variable (decision 4).

use std::collections::{BTreeMap, BTreeSet};

use wbuild_graph::{EnvInKey, Environment};
use wbuild_oci::ImageConfig;
use wbuild_report::{Diagnostic, nearest};

use super::noise::{NPM_CACHE, PNPM_CACHE};
use crate::{Input, Project, SecretTarget, Task};

/// What a process needs to find anything, where the image does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

type Variables = BTreeMap<String, (String, EnvInKey)>;

/// The environments of the steps.
#[derive(Debug)]
pub(super) struct Environments {
    image: Variables,
    /// What the spec gives to every task.
    tasks: BTreeMap<String, String>,
    /// What a task gets when it declares it.
    declared: BTreeMap<String, String>,
    pnpm_major: u32,
}

impl Environments {
    pub(super) fn new(input: &Input<'_>, image: &ImageConfig, diagnostics: &mut Vec<Diagnostic>) -> Self {
        let mut variables = Variables::new();
        for pair in &image.config.env {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            variables.insert(name.to_owned(), (value.to_owned(), EnvInKey::Shown));
        }
        variables.entry("PATH".to_owned()).or_insert_with(|| (DEFAULT_PATH.to_owned(), EnvInKey::Shown));
        let mut declared = input.spec.args.clone();
        declared.extend(input.facts.host_env.clone());
        declared.extend(input.build_args.clone());
        unseen(input, diagnostics);
        Self {
            image: variables,
            tasks: input.spec.env.clone(),
            declared,
            pnpm_major: input.project.pnpm_major,
        }
    }

    /// The base image's own, and where npm's cache is mounted.
    pub(super) fn toolchain(&self) -> Vec<Environment> {
        let mut variables = self.image.clone();
        variables.insert("npm_config_cache".to_owned(), (format!("/{NPM_CACHE}"), EnvInKey::Shown));
        listed(variables)
    }

    /// The base image's, and settings of pnpm.
    pub(super) fn pnpm(&self, settings: &[(&str, &str)]) -> Vec<Environment> {
        let mut variables = self.image.clone();
        variables.insert("CI".to_owned(), ("1".to_owned(), EnvInKey::Shown));
        self.add_settings(&mut variables, &[("cache_dir", &format!("/{PNPM_CACHE}"))]);
        self.add_settings(&mut variables, settings);
        listed(variables)
    }

    /// A task's: the base image's, the spec's, what it declares, and `own`.
    pub(super) fn task(&self, task: &Task, own: &[Environment]) -> Vec<Environment> {
        let mut variables = self.image.clone();
        // The steps check that everything is there; pnpm would compare times.
        self.add_settings(
            &mut variables,
            &[("verify_deps_before_run", "false"), ("update_notifier", "false")],
        );
        for (name, value) in &self.tasks {
            variables.insert(name.clone(), (value.clone(), EnvInKey::Shown));
        }
        for (name, value) in &self.declared {
            if matches(&task.env, name) {
                variables.insert(name.clone(), (value.clone(), EnvInKey::Hashed));
            } else if matches(&task.pass_through, name) {
                variables.insert(name.clone(), (value.clone(), EnvInKey::NameOnly));
            }
        }
        for Environment { name, value, in_key } in own {
            variables.insert(name.clone(), (value.clone(), *in_key));
        }
        listed(variables)
    }

    fn add_settings(&self, variables: &mut Variables, settings: &[(&str, &str)]) {
        // pnpm 11 reads settings from variables of its own, no longer from npm's.
        let modern = self.pnpm_major >= 11;
        let prefix = if modern { "pnpm_config_" } else { "npm_config_" };
        // The toolchain has the pnpm that `packageManager` names. From 12 on, pnpm looks besides whether the lockfile pins
        // what a registry has of it, for every platform.
        let trusted = modern.then_some(("pm_on_fail", "ignore"));
        for (name, value) in settings.iter().copied().chain(trusted) {
            variables.insert(format!("{prefix}{name}"), (value.to_owned(), EnvInKey::Shown));
        }
    }
}

fn listed(variables: Variables) -> Vec<Environment> {
    variables.into_iter().map(|(name, (value, in_key))| Environment { name, value, in_key }).collect()
}

/// Whether a list of names with `*` and `!` holds `name`, as turbo reads it: what `!` takes away stays away.
pub(super) fn matches(patterns: &[String], name: &str) -> bool {
    let any = |negative: bool| {
        patterns
            .iter()
            .filter(|pattern| pattern.starts_with('!') == negative)
            .any(|pattern| matches_pattern(pattern.strip_prefix('!').unwrap_or(pattern), name))
    };
    any(false) && !any(true)
}

fn matches_pattern(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

/// Those of `names` that a task declares and that nobody decided about: they are in no build argument, secret or `env`, and
/// `from-host` does not name them. `*` alone asks for nothing in particular.
pub fn undecided<'a>(input: &Input<'_>, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let spec = input.spec;
    let secret = |name: &str| {
        spec.secrets
            .values()
            .any(|secret| matches!(&secret.target, SecretTarget::Env(target) if target == name))
    };
    let decided = |name: &str| {
        spec.env.contains_key(name)
            || spec.args.contains_key(name)
            || input.build_args.contains_key(name)
            || input.facts.host_env.contains_key(name)
            || secret(name)
    };
    let declares = |patterns: &[String], name: &str| {
        let particular: Vec<String> = patterns.iter().filter(|pattern| *pattern != "*").cloned().collect();
        matches(&particular, name)
    };
    let declared = |name: &str| {
        input.project.tasks.iter().any(|task| declares(&task.env, name) || declares(&task.pass_through, name))
    };
    names.filter(|name| !decided(name) && declared(name)).map(str::to_owned).collect()
}

/// Warns about arguments that no task will ever see.
fn unseen(input: &Input<'_>, diagnostics: &mut Vec<Diagnostic>) {
    let project: &Project = input.project;
    let seen = |name: &str| {
        project.tasks.iter().any(|task| matches(&task.env, name) || matches(&task.pass_through, name))
    };
    let plain: BTreeSet<&str> = project
        .tasks
        .iter()
        .flat_map(|task| task.env.iter().chain(&task.pass_through))
        .filter(|name| !name.contains(['*', '!']))
        .map(String::as_str)
        .chain(input.spec.args.keys().map(String::as_str))
        .collect();
    let names: BTreeSet<&String> = input.spec.args.keys().chain(input.build_args.keys()).collect();
    for name in names.into_iter().filter(|name| !seen(name)) {
        let mut warning = input.spec.warning(
            &format!("args.{name}@key"),
            format!("no task declares the build argument `{name}`, so none sees it"),
            "seen by no task",
        );
        if let Some(near) = nearest(name, plain.iter().copied().filter(|other| other != name)).first() {
            warning = warning.hint(format!("did you mean `{near}`?"));
        }
        diagnostics.push(warning.hint(format!("add `{name}` to `env` of the task in turbo.json")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_wildcards() {
        let patterns = ["DATABASE_URL", "NEXT_PUBLIC_*", "!NEXT_PUBLIC_SECRET*", "A*B*C"].map(str::to_owned);
        for (name, expected) in [
            ("DATABASE_URL", true),
            ("DATABASE_URLS", false),
            ("NEXT_PUBLIC_X", true),
            ("NEXT_PUBLIC_", true),
            ("NEXT_PUBLIC_SECRET_X", false),
            ("AxByC", true),
            ("ABC", true),
            ("AC", false),
        ] {
            assert_eq!(matches(&patterns, name), expected, "{name}");
        }
    }
}
