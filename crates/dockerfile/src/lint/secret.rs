//! Secrets by their form: tokens with well-known beginnings, private keys, passwords in URLs, and the files that usually hold
//! them.

use super::walk::is_secret_name;

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

/// The kinds of secrets that a text seems to hold.
pub(super) fn secrets_in(text: &str) -> Vec<&'static str> {
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

/// Whether a text seems to hold a secret: something in the form of a token, a private key, or a URL with a password.
pub fn holds_secret(text: &str) -> bool {
    !secrets_in(text).is_empty()
}

/// Values that stand for one.
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

/// Whether a password only stands for one, or is taken from a variable.
fn is_placeholder(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    value.is_empty()
        || value.contains(['$', '<', '{', '*', '%', '`'])
        || PLACEHOLDERS.contains(&lower.as_str())
        || lower.chars().all(|c| c == 'x' || c == '.')
}

/// Whether a URL, behind its scheme, has a password that is not just a placeholder.
fn has_password(rest: &str) -> bool {
    let end = rest
        .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '?' | '#'))
        .unwrap_or(rest.len());
    let Some((user, password)) = rest[..end].rsplit_once('@').and_then(|(login, _)| login.split_once(':'))
    else {
        return false;
    };
    !user.is_empty() && password != user && !is_placeholder(password)
}

/// Whether a file with this name usually holds secrets. Samples (`.env.example`) do not.
pub fn may_hold_secrets(name: &str) -> bool {
    const SAMPLES: [&str; 5] = ["example", "sample", "template", "dist", "defaults"];
    const NAMES: [&str; 9] = [
        ".npmrc",
        ".netrc",
        ".pgpass",
        "id_rsa",
        "id_ed25519",
        "id_ecdsa",
        ".pypirc",
        ".git-credentials",
        ".env",
    ];
    let name = name.to_ascii_lowercase();
    let secret = NAMES.contains(&name.as_str())
        || name.starts_with(".env.")
        || name.ends_with(".pem")
        || name.ends_with(".p12");
    secret && !SAMPLES.iter().any(|word| name.contains(word))
}

/// What the text of a file with such a name says: the kind of secret in it, if there is one. Never the secret itself.
pub(super) fn secret_of_file(name: &str, text: &str) -> Option<String> {
    if let Some(kind) = secrets_in(text).first() {
        return Some((*kind).to_owned());
    }
    let name = name.to_ascii_lowercase();
    let pairs = || {
        text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])).filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            Some((key.trim(), value.trim().trim_matches(['"', '\''])))
        })
    };
    match name.as_str() {
        ".npmrc" => pairs()
            .any(|(key, value)| {
                ["_authToken", "_auth", "_password"].iter().any(|end| key.ends_with(end))
                    && !is_placeholder(value)
            })
            .then(|| "credentials of a registry".to_owned()),
        ".pypirc" => pairs()
            .any(|(key, value)| key == "password" && !is_placeholder(value))
            .then(|| "credentials of a registry".to_owned()),
        ".netrc" => {
            let mut words = text.split_whitespace().skip_while(|word| *word != "password").skip(1);
            words.next().filter(|value| !is_placeholder(value)).map(|_| "a password".to_owned())
        }
        ".pgpass" => text
            .lines()
            .any(|line| line.split(':').nth(4).is_some_and(|value| !is_placeholder(value.trim())))
            .then(|| "a password".to_owned()),
        name if name.starts_with(".env") => pairs()
            // Shorter ones are ports, flags and names.
            .find(|(key, value)| {
                let key = key.trim_start_matches("export ");
                is_secret_name(key) && value.len() >= 8 && !is_placeholder(value) && !value.contains("://")
            })
            .map(|(key, _)| format!("a value for `{}`", key.trim_start_matches("export "))),
        _ => None,
    }
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
    fn files_are_judged_by_what_is_in_them() {
        for (name, text, kind) in [
            (
                ".env",
                "PORT=3000\nDATABASE_URL=postgres://app:s3cr3tvalue@db/x\n",
                Some("a password in a URL"),
            ),
            (
                ".env.production",
                "export SESSION_SECRET=\"0123456789abcdef\"\n",
                Some("a value for `SESSION_SECRET`"),
            ),
            (
                ".env",
                "# SESSION_SECRET=0123456789abcdef\nPUBLIC_KEY=0123456789abcdef\nTOKEN=changeme\n",
                None,
            ),
            (
                ".npmrc",
                "//registry.npmjs.org/:_authToken=0123-4567-89ab\n",
                Some("credentials of a registry"),
            ),
            (".npmrc", "//registry.npmjs.org/:_authToken=${NPM_TOKEN}\nnode-linker=hoisted\n", None),
            ("server.pem", "-----BEGIN EC PRIVATE KEY-----\n", Some("a private key")),
            ("ca.pem", "-----BEGIN CERTIFICATE-----\n", None),
            ("id_rsa", "-----BEGIN OPENSSH PRIVATE KEY-----\n", Some("a private key")),
            (".netrc", "machine a login b password 0123456789\n", Some("a password")),
            (".pgpass", "db:5432:*:app:0123456789\n", Some("a password")),
        ] {
            assert!(may_hold_secrets(name), "{name}");
            assert_eq!(secret_of_file(name, text).as_deref(), kind, "{name}: {text}");
        }
        assert!(!may_hold_secrets(".env.example") && !may_hold_secrets("env.ts") && !may_hold_secrets("pem"));
    }
}
