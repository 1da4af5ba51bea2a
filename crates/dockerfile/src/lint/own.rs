//! This project's own rules: what makes an image large, unsafe, or silently broken. They read shell text the way a person
//! skims it, so they say what is likely, and each can be skipped.

use super::rule::{
    CHANGED_AGAIN, LOCALHOST_HEALTHCHECK, MISSING_HEALTHCHECK, PACKAGE_CACHE, ROOT_USER, SECRET_CONTENT,
    SECRET_FILE,
};
use super::walk::State;
use super::{At, Findings};
use crate::ast::Script;
use crate::ast::{CommandLine, Healthcheck, Instruction, Kind, Stage};
use crate::scope::{Command, Env, RunStep, Step, TransferSource, TransferStep};

/// What is remembered of a stage for the rules that look at it as a whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The user; `None` when the base image is not known and nothing was set.
    user: Option<String>,
    /// Whether there is a health check; `None` as above.
    healthcheck: Option<bool>,
    /// The line and place of a health check that asks localhost.
    asks_localhost: Option<(usize, wbuild_report::Span)>,
    /// Where files of the context or of another stage were put.
    copied: Vec<String>,
    /// CMD, ENTRYPOINT or EXPOSE is there: the image is meant to be run.
    runs: bool,
    /// The standalone server of Next.js was copied, or `next start` is the command.
    next: bool,
}

/// Directories that are remembered at most; rules about later ones stay silent.
const MAX_COPIED: usize = 200;

impl Facts {
    pub(super) fn of_base(known: bool, user: String, healthcheck: bool) -> Self {
        Self { user: known.then_some(user), healthcheck: known.then_some(healthcheck), ..Self::default() }
    }
}

/// Looks at one instruction.
pub(super) fn instruction(
    instruction: &Instruction,
    step: &Step,
    workdir: &str,
    state: &mut State,
    at: At<'_>,
    findings: &mut Findings<'_>,
) {
    secret_content(instruction, at, findings);
    let facts = &mut state.facts;
    match step {
        Step::Copy(copy) => {
            transfer(copy, facts);
            if copy.from.is_none() {
                secret_files(copy, at, findings);
            }
        }
        Step::Add(add) => {
            transfer(add, facts);
            secret_files(add, at, findings);
        }
        Step::Run(run) => {
            if let Script::Shell(text) | Script::File { content: text, .. } = &run.script {
                changed_again(text, workdir, facts, at, findings);
                package_cache(text, run, state.scope.env(), at, findings);
            }
        }
        Step::Cmd(command) | Step::Entrypoint(command) => {
            facts.runs = true;
            let text = match command {
                Command::Exec(words) => words.join(" "),
                Command::Shell(text) => text.clone(),
            };
            facts.next |= text.contains("next start");
        }
        Step::Expose(_) => facts.runs = true,
        Step::User(user) => facts.user = Some(user.clone()),
        Step::Healthcheck(check) => {
            facts.healthcheck = Some(true);
            facts.asks_localhost = asks_localhost(check).then_some((at.line, at.span));
        }
        _ => {}
    }
}

/// Looks at a whole stage.
pub(super) fn at_end(stage: &Stage, state: &State, is_target: bool, findings: &mut Findings<'_>) {
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
    if facts.healthcheck != Some(true) {
        findings.report_with(
            MISSING_HEALTHCHECK,
            at,
            "The image has no HEALTHCHECK",
            &["add `HEALTHCHECK CMD …`, or `HEALTHCHECK NONE` if something else watches it"],
        );
    }
}

fn transfer(step: &TransferStep, facts: &mut Facts) {
    if facts.copied.len() < MAX_COPIED {
        facts.copied.push(step.target.trim_end_matches('/').to_owned());
    }
    facts.next |=
        step.sources.iter().any(|(text, _)| text.trim_end_matches('/').ends_with(".next/standalone"));
}

/// The commands of a shell text, each as its words. Quotes are not read: this is a skim.
fn commands(text: &str) -> impl Iterator<Item = Vec<&str>> {
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
            .find(|path| facts.copied.iter().any(|copied| overlap(path, copied)));
        if let Some(path) = again {
            findings.report_with(
                CHANGED_AGAIN,
                at,
                format!("`{tool} -R` on `{path}` stores files a second time that were copied before"),
                &[if *tool == "chown" {
                    "give COPY `--chown=user:group` instead"
                } else {
                    "give COPY `--chmod=…` instead"
                }],
            );
        }
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

const MANAGERS: [Manager; 6] = [
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
        names: &["yarn"],
        verbs: &["install", "add"],
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
        let command = commands(text).find(|words| {
            manager.names.contains(&words[0])
                && words
                    .iter()
                    .skip(1)
                    .find(|word| !word.starts_with('-'))
                    .is_some_and(|verb| manager.verbs.contains(verb))
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

fn asks_localhost(check: &Healthcheck) -> bool {
    let Healthcheck::Check { command, .. } = check else { return false };
    let asks = |text: &str| ["localhost", "127.0.0.1", "[::1]"].iter().any(|host| text.contains(host));
    match command {
        CommandLine::Exec(words) => words.iter().any(|word| asks(&word.text)),
        CommandLine::Shell(text) => asks(&text.text),
    }
}

fn secret_files(step: &TransferStep, at: At<'_>, findings: &mut Findings<'_>) {
    for (text, source) in &step.sources {
        let name = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        let harmless =
            ["example", "sample", "template", "dist", "defaults"].iter().any(|word| name.contains(word));
        let secret = matches!(
            name.as_str(),
            ".npmrc"
                | ".netrc"
                | ".pgpass"
                | "id_rsa"
                | "id_ed25519"
                | "id_ecdsa"
                | ".pypirc"
                | ".git-credentials"
                | ".env"
        ) || name.starts_with(".env.")
            || name.ends_with(".pem")
            || name.ends_with(".p12");
        if *source == TransferSource::Path(text.clone()) && secret && !harmless {
            findings.report_with(
                SECRET_FILE,
                at,
                format!("`{text}` usually holds secrets, and everybody who has the image can read it"),
                &["mount it where it is needed: `RUN --mount=type=secret,id=…`"],
            );
        }
    }
}

/// A token that is known by its beginning: what it is, the beginning, how many characters follow, and which.
type Token = (&'static str, &'static str, usize, fn(char) -> bool);

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

fn is_dashed_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

const TOKENS: [Token; 20] = [
    ("an access key of AWS", "AKIA", 16, is_word),
    ("an access key of AWS", "ASIA", 16, is_word),
    ("a token of GitHub", "ghp_", 36, is_word),
    ("a token of GitHub", "gho_", 36, is_word),
    ("a token of GitHub", "ghu_", 36, is_word),
    ("a token of GitHub", "ghs_", 36, is_word),
    ("a token of GitHub", "github_pat_", 22, is_dashed_word),
    ("a token of GitLab", "glpat-", 20, is_dashed_word),
    ("a token of npm", "npm_", 36, is_word),
    ("a token of Slack", "xoxb-", 10, is_dashed_word),
    ("a token of Slack", "xoxp-", 10, is_dashed_word),
    ("a key of Stripe", "sk_live_", 16, is_word),
    ("a key of Stripe", "rk_live_", 16, is_word),
    ("a key of Google", "AIza", 35, is_dashed_word),
    ("a key of Anthropic", "sk-ant-", 20, is_dashed_word),
    ("a key of OpenAI", "sk-proj-", 20, is_dashed_word),
    ("a token of Hugging Face", "hf_", 34, is_word),
    ("a token of DigitalOcean", "dop_v1_", 64, is_word),
    ("a token of Docker Hub", "dckr_pat_", 20, is_dashed_word),
    ("a JSON web token", "eyJhbGciOi", 20, is_dashed_word),
];

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

fn secrets_in(text: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    for (kind, beginning, length, belongs) in TOKENS {
        let is_token = |at: usize| {
            let before = text[..at].chars().next_back();
            let rest = &text[at + beginning.len()..];
            !before.is_some_and(is_dashed_word)
                && rest.chars().take(length).filter(|c| belongs(*c)).count() == length
        };
        if text.match_indices(beginning).any(|(at, _)| is_token(at)) {
            found.push(kind);
        }
    }
    if text.match_indices("-----BEGIN ").any(|(at, _)| {
        text[at..]
            .lines()
            .next()
            .is_some_and(|line| line.chars().take(60).collect::<String>().contains("PRIVATE KEY-----"))
    }) {
        found.push("a private key");
    }
    if text.match_indices("://").any(|(at, _)| has_password(&text[at + 3..])) {
        found.push("a password in a URL");
    }
    found
}

/// Whether a URL, behind its scheme, has a password that is not just a placeholder.
fn has_password(rest: &str) -> bool {
    const PLACEHOLDERS: [&str; 14] = [
        "password",
        "passwd",
        "pass",
        "placeholder",
        "changeme",
        "example",
        "secret",
        "postgres",
        "root",
        "admin",
        "user",
        "test",
        "dev",
        "token",
    ];
    let end = rest
        .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '?' | '#'))
        .unwrap_or(rest.len());
    let Some((user, password)) = rest[..end].rsplit_once('@').and_then(|(login, _)| login.split_once(':'))
    else {
        return false;
    };
    let lower = password.to_ascii_lowercase();
    !password.is_empty()
        && !user.is_empty()
        && password != user
        && !password.contains(['$', '<', '{', '*', '%', '`'])
        && !PLACEHOLDERS.contains(&lower.as_str())
        && !lower.chars().all(|c| c == 'x' || c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_form() {
        for text in [
            "ENV X=AKIAIOSFODNN7EXAMPLE",
            "curl -H ghp_0123456789abcdefghijABCDEFGHIJ012345",
            "-----BEGIN RSA PRIVATE KEY-----\n",
            "postgres://app:s3cr3tvalue@db:5432/x",
        ] {
            assert_eq!(secrets_in(text).len(), 1, "{text}");
        }
        for text in [
            "postgresql://placeholder:placeholder@placeholder:5432/placeholder?schema=public",
            "https://user:$TOKEN@host/x",
            "https://host:8080/a@b",
            "AKIA",
            "xAKIAIOSFODNN7EXAMPLE",
            "npm_config_cache=/x",
            "-----BEGIN CERTIFICATE-----",
        ] {
            assert!(secrets_in(text).is_empty(), "{text}");
        }
    }

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
