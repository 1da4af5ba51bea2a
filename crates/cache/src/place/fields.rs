//! The fields of a flag: `name=value`, each of which somebody has to take.

use std::collections::BTreeMap;
use std::time::Duration;

use wbuild_remote::HttpUrl;

use super::{PlaceError, Role};

/// Fields whose values are secret.
const SECRET: [&str; 7] =
    ["token", "ghtoken", "password", "access_key_id", "secret_access_key", "session_token", "sas_token"];

/// No request is worth waiting for any longer.
const LONGEST_TIMEOUT: u64 = 600;

/// What was given and nobody has taken yet.
pub(super) struct Fields {
    pub(super) role: Role,
    shown: String,
    pub(super) example: String,
    /// As buildx has it for this kind, instead of `scope=`.
    pub(super) scope: Option<String>,
    fields: BTreeMap<String, String>,
}

impl Fields {
    /// Splits `name=value,…`. A text that is neither that nor one of `kinds` is the name of a repository.
    pub(super) fn split(role: Role, text: &str, kinds: &[&str]) -> Self {
        let mut fields = BTreeMap::new();
        let mut shown = Vec::new();
        for part in text.split(',') {
            let (name, value) = match part.split_once('=') {
                Some(field) => field,
                None if part == text && !kinds.contains(&text) && !text.is_empty() => {
                    fields.insert("type".to_owned(), "registry".to_owned());
                    ("ref", part)
                }
                None => (part, ""),
            };
            let name = name.trim().to_ascii_lowercase();
            let user_info = value.contains('@') && value.contains("://");
            let hide = SECRET.contains(&name.as_str()) || user_info;
            shown.push(if hide { format!("{name}=…") } else { part.to_owned() });
            fields.insert(name, value.to_owned());
        }
        Self { role, shown: shown.join(","), example: String::new(), scope: None, fields }
    }

    /// That nothing is left.
    pub(super) fn end(&self) -> Result<(), PlaceError> {
        match self.fields.keys().next() {
            Some(name) => Err(self.error(format!("`{}` means nothing here", name.escape_debug()))),
            None => Ok(()),
        }
    }

    /// Passes over what is decided otherwise here.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        self.fields.retain(|name, _| !names.contains(&name.as_str()));
    }

    pub(super) fn error(&self, why: String) -> PlaceError {
        self.error_with(why, format!("for example {}", self.example))
    }

    pub(super) fn error_with(&self, why: String, hint: String) -> PlaceError {
        PlaceError { flag: self.role.flag(), text: self.shown.clone(), why, hint }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.fields.remove(name).filter(|value| !value.is_empty())
    }

    pub(super) fn need(&mut self, name: &str) -> Result<String, PlaceError> {
        self.take(name).ok_or_else(|| self.error(format!("it needs {name}=")))
    }

    pub(super) fn url(&self, text: &str) -> Result<HttpUrl, PlaceError> {
        HttpUrl::parse(text).map_err(|error| self.error(error.to_string()))
    }

    pub(super) fn switch(&mut self, name: &str, default: bool) -> Result<bool, PlaceError> {
        match self.take(name).as_deref() {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => {
                let why = format!("`{name}` is `{}`", other.escape_debug());
                Err(self.error_with(why, format!("{name}=true or {name}=false")))
            }
        }
    }

    /// A time: `30`, `30s` or `2m`.
    pub(super) fn time(&mut self, name: &str) -> Result<Option<Duration>, PlaceError> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let (number, factor) = match text.strip_suffix('m') {
            Some(minutes) => (minutes, 60),
            None => (text.strip_suffix('s').unwrap_or(&text), 1),
        };
        let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        match seconds.filter(|seconds| (1..=LONGEST_TIMEOUT).contains(seconds)) {
            Some(seconds) => Ok(Some(Duration::from_secs(seconds))),
            None => {
                let why = format!("`{name}` is `{}`", text.escape_debug());
                Err(self.error_with(why, format!("{name}=10s, and at most {LONGEST_TIMEOUT}s")))
            }
        }
    }
}
