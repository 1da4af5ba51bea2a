use std::sync::Arc;

use wbuild_report::{SourceFile, Span};

/// An `.npmrc` of the repository: settings and, often, credentials, which never enter a tree or a key.
#[derive(Clone, Debug)]
pub struct Npmrc {
    /// Its text. Holds credentials: never print it whole.
    pub file: Arc<SourceFile>,
    /// Its settings and credentials, in order.
    pub lines: Vec<NpmrcLine>,
}

/// One `key = value` of an [`Npmrc`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpmrcLine {
    /// The key; for a list, without its `[]`.
    pub key: String,
    /// The value as written, `true` when there is none. Of a credential, empty.
    pub value: String,
    /// What the line is.
    pub kind: NpmrcKind,
    /// The environment variables it names as `${NAME}`.
    pub variables: Vec<String>,
    /// The whole line, with its end.
    pub span: Span,
}

/// What a line of an [`Npmrc`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NpmrcKind {
    /// A setting of pnpm or npm.
    Setting,
    /// Where packages come from: `registry`, `@scope:registry`. All that pnpm 11 and later read of an `.npmrc`.
    Registry,
    /// A credential, or a key that belongs to a registry's host.
    Credential,
}

/// Keys that are credentials wherever they stand.
const CREDENTIALS: [&str; 12] = [
    "_auth",
    "_authtoken",
    "_password",
    "username",
    "email",
    "password",
    "certfile",
    "keyfile",
    "cert",
    "key",
    "tokenhelper",
    "otp",
];

impl Npmrc {
    /// Reads the text. There is no wrong `.npmrc`: what is not a setting is ignored, as npm does.
    pub fn parse(file: &Arc<SourceFile>) -> Self {
        let mut lines = Vec::new();
        let mut start = 0;
        for raw in file.text.split_inclusive('\n') {
            let span = Span::new(start, start + raw.len());
            start += raw.len();
            let line = raw.trim();
            if line.is_empty() || line.starts_with([';', '#', '[']) {
                continue;
            }
            let (key, value) = match line.split_once('=') {
                Some((key, value)) => (key.trim(), value.trim()),
                None => (line, "true"),
            };
            let key = unquote(key).trim_end_matches("[]");
            let value = unquote(value);
            let kind = classify(key, value);
            lines.push(NpmrcLine {
                key: key.to_owned(),
                value: if kind == NpmrcKind::Credential { String::new() } else { value.to_owned() },
                kind,
                variables: variables(line),
                span,
            });
        }
        Self { file: Arc::clone(file), lines }
    }

    /// The lines that are credentials, as they stand in the file; empty when there are none. For a user's `.npmrc` in
    /// memory, and for nothing else.
    pub fn credentials(&self) -> String {
        let lines = self.lines.iter().filter(|line| line.kind == NpmrcKind::Credential);
        lines.map(|line| format!("{}\n", self.file.text[line.span.start..line.span.end].trim())).collect()
    }

    /// The last value of a setting.
    pub fn setting(&self, key: &str) -> Option<&NpmrcLine> {
        self.lines.iter().rev().find(|line| line.key == key && line.kind != NpmrcKind::Credential)
    }

    /// The text without the lines that are credentials.
    pub fn without_credentials(&self) -> String {
        let mut out = String::new();
        let mut from = 0;
        for line in self.lines.iter().filter(|line| line.kind == NpmrcKind::Credential) {
            out.push_str(&self.file.text[from..line.span.start]);
            from = line.span.end;
        }
        out.push_str(&self.file.text[from..]);
        out
    }

    /// What it sets, without credentials, comments and order of different keys: what an install depends on.
    pub fn canonical(&self) -> String {
        let mut lines: Vec<(&str, &str)> = self
            .lines
            .iter()
            .filter(|line| line.kind != NpmrcKind::Credential)
            .map(|line| (line.key.as_str(), line.value.as_str()))
            .collect();
        // Stable, so that repeated keys (lists, overrides) keep their order.
        lines.sort_by_key(|(key, _)| *key);
        lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    /// The environment variables that lines other than credentials need, sorted.
    pub fn variables(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .lines
            .iter()
            .filter(|line| line.kind != NpmrcKind::Credential)
            .flat_map(|line| line.variables.iter().map(String::as_str))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn classify(key: &str, value: &str) -> NpmrcKind {
    let lower = key.to_ascii_lowercase();
    let last = lower.rsplit(':').next().unwrap_or_default();
    if key.starts_with("//") || CREDENTIALS.contains(&last) || has_user_info(value) {
        NpmrcKind::Credential
    } else if last == "registry" {
        NpmrcKind::Registry
    } else {
        NpmrcKind::Setting
    }
}

/// `https://user:password@host/`, which is a credential whatever its key.
fn has_user_info(value: &str) -> bool {
    value
        .split_once("://")
        .and_then(|(_, rest)| rest.split(['/', '?', '#']).next())
        .is_some_and(|authority| authority.contains('@'))
}

fn unquote(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}

/// The names in `${NAME}`, `${NAME-default}` and `${NAME:-default}`.
fn variables(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = line;
    while let Some((_, after)) = rest.split_once("${") {
        let Some((name, tail)) = after.split_once('}') else { break };
        let name = name.split(['-', ':', '?']).next().unwrap_or_default();
        if !name.is_empty() {
            names.push(name.to_owned());
        }
        rest = tail;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "; company\nregistry=https://npm.example.test/\n@acme:registry = https://a.test\n\
        //npm.example.test/:_authToken=${NPM_TOKEN}\n_auth=abc\nhoist-pattern[]=*eslint*\nhoist-pattern[]=x\n\
        https-proxy=http://me:pw@proxy.test:8080\nauto-install-peers = false\ncache-dir=${HOME}/x\nkeyfile=/k\n";

    #[test]
    fn credentials_are_told_from_settings() {
        let npmrc = Npmrc::parse(&SourceFile::new(".npmrc", TEXT));
        let kinds: Vec<String> = npmrc
            .lines
            .iter()
            .map(|l| format!("{:?} {} [{}]", l.kind, l.key, l.variables.join(",")))
            .collect();
        insta::assert_snapshot!(kinds.join("\n"), @r"
        Registry registry []
        Registry @acme:registry []
        Credential //npm.example.test/:_authToken [NPM_TOKEN]
        Credential _auth []
        Setting hoist-pattern []
        Setting hoist-pattern []
        Credential https-proxy []
        Setting auto-install-peers []
        Setting cache-dir [HOME]
        Credential keyfile []
        ");
        assert_eq!(npmrc.variables(), ["HOME"]);
        assert_eq!(npmrc.setting("auto-install-peers").unwrap().value, "false");
    }

    #[test]
    fn stripped_text_keeps_everything_else() {
        let npmrc = Npmrc::parse(&SourceFile::new(".npmrc", TEXT));
        insta::assert_snapshot!(npmrc.without_credentials(), @r"
        ; company
        registry=https://npm.example.test/
        @acme:registry = https://a.test
        hoist-pattern[]=*eslint*
        hoist-pattern[]=x
        auto-install-peers = false
        cache-dir=${HOME}/x
        ");
        for secret in ["abc", "pw", "/k", "authToken"] {
            assert!(!npmrc.without_credentials().contains(secret));
            assert!(!npmrc.canonical().contains(secret));
        }
    }
}
