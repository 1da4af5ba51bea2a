//! This project's own rules: what makes an image large, unsafe, or silently broken. They read shell text the way a person
//! skims it, so they say what is likely, and each can be skipped.

use super::context::secret_files;
use super::manifests::Manifests;
use super::rule::{
    CHANGED_AGAIN, LOCALHOST_HEALTHCHECK, MISSING_HEALTHCHECK, PACKAGE_CACHE, ROOT_USER, SECRET_CONTENT,
};
use super::secret::secrets_in;
use super::walk::State;
use super::{At, ContextFiles, Findings};
use crate::ast::Script;
use crate::ast::{CommandLine, Healthcheck, Instruction, Kind, Stage};
use crate::scope::{Env, RunStep, Step, TransferStep};

/// What is remembered of a stage for the rules that look at it as a whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The user; `None` when the base image is not known and nothing was set.
    user: Option<String>,
    /// Whether there is a health check; `None` as above.
    healthcheck: Option<bool>,
    /// The line and place of a health check that asks localhost.
    asks_localhost: Option<(usize, wbuild_report::Span)>,
    /// Where earlier instructions put files.
    written: Vec<Written>,
    /// CMD, ENTRYPOINT or EXPOSE is there: the image is meant to be run.
    runs: bool,
    /// EXPOSE is there: it is a server.
    exposes: bool,
    /// The standalone server of Next.js was copied. (`next start` does not look at `$HOSTNAME`.)
    next: bool,
    /// What is there of a pnpm workspace.
    manifests: Manifests,
}

/// A directory that an instruction wrote.
#[derive(Clone, Debug)]
struct Written {
    path: String,
    /// Whether COPY or ADD did; else it was a RUN.
    copied: bool,
}

/// Directories that are remembered at most; rules about later ones stay silent.
const MAX_WRITTEN: usize = 200;

impl Facts {
    pub(super) fn of_base(known: bool, user: String, healthcheck: bool) -> Self {
        Self { user: known.then_some(user), healthcheck: known.then_some(healthcheck), ..Self::default() }
    }

    fn wrote(&mut self, path: String, copied: bool) {
        if self.written.len() < MAX_WRITTEN {
            self.written.push(Written { path, copied });
        }
    }
}

/// What there is around an instruction.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// The working directory before it.
    pub(super) workdir: &'a str,
    /// The build context, if it is known.
    pub(super) context: Option<&'a dyn ContextFiles>,
}

/// Looks at one instruction.
pub(super) fn instruction(
    instruction: &Instruction,
    step: &Step,
    around: Around<'_>,
    state: &mut State,
    at: At<'_>,
    findings: &mut Findings<'_>,
) {
    secret_content(instruction, at, findings);
    let facts = &mut state.facts;
    match step {
        Step::Copy(step) | Step::Add(step) => {
            transfer(step, facts);
            if step.from.is_none() {
                secret_files(step, around.context, at, findings);
                if let Some(context) = around.context {
                    facts.manifests.copied(step, context);
                }
            } else if overlap(&step.target, around.workdir) {
                facts.manifests.foreign();
            }
        }
        Step::Run(run) => {
            let text = match &run.script {
                Script::Shell(text) | Script::File { content: text, .. } => text,
                Script::Exec(words) => &words.join(" "),
            };
            changed_again(text, around.workdir, facts, at, findings);
            package_cache(text, run, state.scope.env(), at, findings);
            if let Some(context) = around.context {
                facts.manifests.ran(text, run, context, at);
            }
            remember_installs(text, around.workdir, facts);
        }
        Step::Cmd(_) | Step::Entrypoint(_) => facts.runs = true,
        Step::Expose(_) => {
            facts.runs = true;
            facts.exposes = true;
        }
        Step::User(user) => facts.user = Some(user.clone()),
        Step::Healthcheck(check) => {
            facts.healthcheck = Some(true);
            facts.asks_localhost = asks_localhost(check).then_some((at.line, at.span));
        }
        _ => {}
    }
}

/// Looks at a whole stage.
pub(super) fn at_end(stage: &Stage, state: &mut State, is_target: bool, findings: &mut Findings<'_>) {
    state.facts.manifests.at_end(stage, findings);
    let facts = &state.facts;
    if let Some((line, span)) = facts.asks_localhost
        && facts.next
        && is_target
        && state.scope.env().get("HOSTNAME").is_none()
    {
        findings.report_with(
            LOCALHOST_HEALTHCHECK,
            At { line, span, comments: &stage.comments },
            "This check asks localhost, but the server of Next.js listens on $HOSTNAME only, which container engines set to \
             the container's name",
            &["add `ENV HOSTNAME=0.0.0.0`, and ask 127.0.0.1"],
        );
    }
    if !is_target || !facts.runs {
        return;
    }
    let at = At { line: stage.lines.first, span: stage.span, comments: &stage.comments };
    let user = facts.user.as_deref().map(|user| user.split(':').next().unwrap_or_default());
    match user {
        Some("" | "root" | "0") => findings.report_with(
            ROOT_USER,
            at,
            "The image runs as root",
            &["end the stage with `USER name`; `--chown=name` in COPY gives files to that user"],
        ),
        None => findings.report_with(
            ROOT_USER,
            at,
            "No USER is set, so the image runs as root unless its base says otherwise",
            &["end the stage with `USER name`; `--chown=name` in COPY gives files to that user"],
        ),
        Some(_) => {}
    }
    if facts.exposes && facts.healthcheck != Some(true) {
        findings.report_with(
            MISSING_HEALTHCHECK,
            at,
            "The image exposes a port and has no HEALTHCHECK",
            &["add `HEALTHCHECK CMD …`, or `HEALTHCHECK NONE` if something else watches it"],
        );
    }
}

fn transfer(step: &TransferStep, facts: &mut Facts) {
    facts.wrote(step.target.trim_end_matches('/').to_owned(), true);
    facts.next |=
        step.sources.iter().any(|(text, _)| text.trim_end_matches('/').ends_with(".next/standalone"));
}

/// The commands of a shell text, each as its words. Quotes are not read: this is a skim.
pub(super) fn commands(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.split(['\n', ';', '|', '&', '(', ')', '{', '}']).filter_map(|command| {
        let mut words: Vec<&str> = command.split_whitespace().collect();
        let skipped = words
            .iter()
            .take_while(|word| {
                word.contains('=')
                    || matches!(**word, "sudo" | "exec" | "env" | "time" | "then" | "do" | "else" | "if")
            })
            .count();
        words.drain(..skipped);
        (!words.is_empty()).then_some(words)
    })
}

fn changed_again(text: &str, workdir: &str, facts: &Facts, at: At<'_>, findings: &mut Findings<'_>) {
    for words in commands(text) {
        let [tool @ ("chown" | "chmod"), rest @ ..] = words.as_slice() else { continue };
        let recursive = rest.iter().any(|word| {
            *word == "--recursive" || (word.starts_with('-') && !word.starts_with("--") && word.contains('R'))
        });
        if !recursive {
            continue;
        }
        // The first word that is no flag is the owner or the mode.
        let paths = rest.iter().filter(|word| !word.starts_with('-')).skip(1);
        let again = paths
            .map(|path| if path.starts_with('/') { (*path).to_owned() } else { format!("{workdir}/{path}") })
            .find_map(|path| {
                let written = facts.written.iter().find(|written| overlap(&path, &written.path))?;
                Some((path, written.copied))
            });
        if let Some((path, copied)) = again {
            let hint = match (copied, *tool) {
                (true, "chown") => "give COPY `--chown=user:group` instead",
                (true, _) => "give COPY `--chmod=…` instead",
                (false, _) => "do it in the RUN that wrote them, or let that one run as the right user",
            };
            let detail = format!(
                "`{tool} -R` on `{path}` stores files a second time that an earlier instruction wrote"
            );
            findings.report_with(CHANGED_AGAIN, at, detail, &[hint]);
        }
    }
}

/// What package managers write into the working directory.
fn remember_installs(text: &str, workdir: &str, facts: &mut Facts) {
    let installs = commands(text).any(|words| {
        matches!(words[0], "npm" | "pnpm" | "yarn")
            && !words.iter().any(|word| matches!(*word, "-g" | "--global" | "global"))
            && words
                .iter()
                .skip(1)
                .find(|word| !word.starts_with('-'))
                .map_or(words[0] == "yarn", |verb| matches!(*verb, "install" | "i" | "ci" | "add"))
    });
    if installs {
        facts.wrote(format!("{workdir}/node_modules"), false);
    }
}

/// Whether one path lies in the other.
fn overlap(a: &str, b: &str) -> bool {
    let parts = |path: &str| -> Vec<String> {
        path.split('/').filter(|part| !matches!(*part, "" | ".")).map(str::to_owned).collect()
    };
    let (a, b) = (parts(a), parts(b));
    a.starts_with(&b) || b.starts_with(&a)
}

/// A package manager, and how to see that it leaves nothing behind.
struct Manager {
    names: &'static [&'static str],
    /// An empty one: without a verb it installs.
    verbs: &'static [&'static str],
    /// A flag of the command that keeps it from storing anything.
    flag: Option<&'static str>,
    /// Any of these in the same RUN empties the cache.
    cleaned_by: &'static [&'static str],
    /// A cache mount at a target with one of these keeps the cache out of the layer.
    mounts: &'static [&'static str],
    /// This variable keeps it from storing anything.
    variable: Option<&'static str>,
    hint: &'static str,
}

const MANAGERS: [Manager; 7] = [
    Manager {
        names: &["apt-get", "apt"],
        verbs: &["install", "upgrade", "dist-upgrade"],
        flag: None,
        cleaned_by: &["/var/lib/apt/lists"],
        mounts: &["/var/cache/apt", "/var/lib/apt"],
        variable: None,
        hint: "end the RUN with `&& rm -rf /var/lib/apt/lists/*`, or mount caches on /var/lib/apt and /var/cache/apt",
    },
    Manager {
        names: &["apk"],
        verbs: &["add", "upgrade"],
        flag: Some("--no-cache"),
        cleaned_by: &["/var/cache/apk", "/etc/apk/cache"],
        mounts: &["/var/cache/apk", "/etc/apk/cache"],
        variable: None,
        hint: "write `apk add --no-cache`",
    },
    Manager {
        names: &["npm"],
        verbs: &["install", "i", "ci", "add"],
        flag: None,
        cleaned_by: &["npm cache clean", "/.npm"],
        mounts: &[".npm"],
        variable: None,
        hint: "write `RUN --mount=type=cache,target=/root/.npm npm …`, or end it with `&& npm cache clean --force`",
    },
    Manager {
        names: &["pnpm"],
        verbs: &["install", "i", "add", "fetch"],
        flag: None,
        cleaned_by: &["pnpm store prune", "/pnpm/store", "pnpm store path"],
        mounts: &["pnpm"],
        variable: None,
        hint: "write `RUN --mount=type=cache,target=/root/.local/share/pnpm/store pnpm …`",
    },
    Manager {
        names: &["yarn"],
        verbs: &["", "install", "add"],
        flag: None,
        cleaned_by: &["yarn cache clean", "/.yarn", "/.cache/yarn"],
        mounts: &["yarn", "/.cache"],
        variable: None,
        hint: "mount a cache on the folder of `yarn cache dir`, or end the RUN with `&& yarn cache clean`",
    },
    Manager {
        names: &["pip", "pip3"],
        verbs: &["install"],
        flag: Some("--no-cache-dir"),
        cleaned_by: &["pip cache purge", "/.cache"],
        mounts: &["pip", "/.cache"],
        variable: Some("PIP_NO_CACHE_DIR"),
        hint: "write `pip install --no-cache-dir`",
    },
    Manager {
        names: &["dnf", "yum", "microdnf"],
        verbs: &["install", "update", "upgrade"],
        flag: None,
        cleaned_by: &["clean all", "/var/cache/dnf", "/var/cache/yum"],
        mounts: &["/var/cache"],
        variable: None,
        hint: "end the RUN with `&& dnf clean all`",
    },
];

fn package_cache(text: &str, run: &RunStep, env: &Env, at: At<'_>, findings: &mut Findings<'_>) {
    let mounted = |parts: &[&str]| {
        let targets = run.mounts.iter().filter_map(|mount| mount.target.as_deref());
        targets.into_iter().any(|target| parts.iter().any(|part| target.contains(part)))
    };
    for manager in &MANAGERS {
        let command = commands(text).map(without_python).find(|words| {
            let verb = words.iter().skip(1).find(|word| !word.starts_with('-')).copied().unwrap_or_default();
            manager.names.contains(&words[0])
                && manager.verbs.contains(&verb)
                && !words.iter().any(|word| matches!(*word, "--version" | "--help"))
                && !manager.flag.is_some_and(|flag| words.contains(&flag))
        });
        let Some(words) = command else { continue };
        let clean = manager.cleaned_by.iter().any(|part| text.contains(part))
            || mounted(manager.mounts)
            || manager
                .variable
                .is_some_and(|name| env.get(name).is_some_and(|value| !value.is_empty() && value != "0"));
        if !clean {
            let detail = format!(
                "`{}` leaves its cache in the layer",
                words.iter().take(2).copied().collect::<Vec<_>>().join(" ")
            );
            findings.report_with(PACKAGE_CACHE, at, detail, &[manager.hint]);
        }
    }
}

/// `python -m pip …` is `pip …`.
fn without_python(mut words: Vec<&str>) -> Vec<&str> {
    if let ["python" | "python3", "-m", "pip", ..] = words.as_slice() {
        words.drain(..2);
    }
    words
}

fn asks_localhost(check: &Healthcheck) -> bool {
    let Healthcheck::Check { command, .. } = check else { return false };
    let asks = |text: &str| ["localhost", "127.0.0.1", "[::1]"].iter().any(|host| text.contains(host));
    match command {
        CommandLine::Exec(words) => words.iter().any(|word| asks(&word.text)),
        CommandLine::Shell(text) => asks(&text.text),
    }
}

/// The value itself is never repeated: findings end up in logs.
fn secret_content(instruction: &Instruction, at: At<'_>, findings: &mut Findings<'_>) {
    let bodies = instruction.heredocs().iter().map(|heredoc| heredoc.body.as_str());
    let mut kinds: Vec<&'static str> =
        std::iter::once(instruction.text.as_str()).chain(bodies).flat_map(secrets_in).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let hint = match &instruction.kind {
        Kind::Run(_) => "write `RUN --mount=type=secret,id=…,env=NAME` and use `$NAME`",
        _ => "give it to the container when it runs, or to a RUN with `--mount=type=secret`",
    };
    for kind in kinds {
        findings.report_with(
            SECRET_CONTENT,
            at,
            format!("This {} holds what looks like {kind}", instruction.name()),
            &[hint, "treat it as known, and replace it"],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_skimmed() {
        let found: Vec<Vec<&str>> =
            commands("A=1 apt-get -y install x && (chown -R a b); sudo rm x").collect();
        assert_eq!(
            found,
            [vec!["apt-get", "-y", "install", "x"], vec!["chown", "-R", "a", "b"], vec!["rm", "x"]]
        );
    }
}
