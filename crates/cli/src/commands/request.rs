//! What `wbuild image` and `wbuild build` ask for with the same flags and variables.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use wbuild_cache::{Place, Role, Signature, scopes};
use wbuild_engine::{DEFAULT_BUDGET, SecretError, Secrets, Sharing};
use wbuild_oci::{Platform, Reference};
use wbuild_report::{Hint, nearest};

use super::{Failure, Session};
use crate::args::SharingArgs;

/// How large the store may be after a build.
pub(crate) fn budget(session: &Session) -> Result<u64, Failure> {
    match (session.variable)("WBUILD_CACHE_LIMIT") {
        Some(limit) => super::cache::bytes(&limit),
        None => Ok(DEFAULT_BUDGET),
    }
}

/// How many steps run at once.
pub(crate) fn jobs(given: Option<NonZeroUsize>) -> usize {
    given.map_or_else(|| std::thread::available_parallelism().map_or(2, Into::into), Into::into)
}

/// `--secret`.
pub(crate) fn secrets(given: &[String], session: &Session) -> Result<Secrets, Failure> {
    let mut secrets = Secrets::default();
    for text in given {
        secrets.add(text, &session.variable).map_err(secret_failure)?;
    }
    Ok(secrets)
}

fn secret_failure(error: SecretError) -> Failure {
    match error {
        SecretError::Malformed { .. } => Failure::usage(error.to_string(), "--secret id=token,env=TOKEN"),
        SecretError::Variable { .. } => Failure::Usage { message: error.to_string(), hints: Vec::new() },
        SecretError::File { ref source, .. } => {
            Failure::Usage { message: format!("{error}: {source}"), hints: Vec::new() }
        }
        other => Failure::new(other),
    }
}

/// `--cache-from` and `--cache-to`, with what the variables of a CI system say about scopes.
pub(crate) fn sharing(given: &SharingArgs, session: &Session) -> Result<Sharing, Failure> {
    let parse = |role, texts: &[String]| -> Result<Vec<Place>, Failure> {
        let place = |text: &String| {
            Place::parse(role, text, &session.variable)
                .map_err(|error| Failure::Usage { message: error.to_string(), hints: error.hints() })
        };
        texts.iter().map(place).collect()
    };
    let mut to = parse(Role::Export, &given.cache_to)?;
    // For builds whose results others should not get, such as those of pull requests from outside.
    if (session.variable)("WBUILD_CACHE_READONLY")
        .is_some_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
    {
        to.clear();
    }
    let secret = (session.variable)("WBUILD_CACHE_SIGNATURE_KEY");
    Ok(Sharing {
        from: parse(Role::Import, &given.cache_from)?,
        to,
        scopes: Some(scopes(&session.variable)),
        signature: secret.and_then(|secret| Signature::new(secret.as_bytes())),
    })
}

/// A platform that an image can be for, whether or not its steps can run here.
pub(crate) fn any_platform(given: Option<&str>) -> Result<Platform, Failure> {
    let Some(text) = given else { return Ok(Platform::host()) };
    if text.contains(',') {
        return Err(Failure::usage(
            format!("`--platform {text}` names several platforms, and a build is for one"),
            "build each with a --tag of its own; `docker buildx imagetools create` puts them under one name",
        ));
    }
    platform(text)
}

/// A platform, of words that are known: whoever mistypes one would be told much later that there is nothing for it.
pub(crate) fn platform(text: &str) -> Result<Platform, Failure> {
    let platform: Platform = text.parse().map_err(|error: wbuild_oci::PlatformParseError| {
        Failure::usage(error.to_string(), "for example linux/amd64 or linux/arm64")
    })?;
    let Some((word, known)) = platform.unknown_word() else { return Ok(platform) };
    let what = if word == platform.os { "operating system" } else { "architecture" };
    let near = nearest(word, known.iter().copied());
    let hint = match near.is_empty() {
        true => "for example linux/amd64 or linux/arm64".to_owned(),
        false => format!(
            "did you mean {}?",
            near.iter().map(|near| format!("`{near}`")).collect::<Vec<_>>().join(", ")
        ),
    };
    Err(Failure::usage(format!("`{}`: no {what} is called `{word}`", text.escape_debug()), hint))
}

pub(crate) fn tags(given: &[String]) -> Result<Vec<Reference>, Failure> {
    let parse = |text: &String| {
        text.parse().map_err(|error: wbuild_oci::ReferenceParseError| {
            Failure::usage(error.to_string(), "a name is of the form [HOST/]REPOSITORY[:TAG]")
        })
    };
    given.iter().map(parse).collect()
}

pub(crate) fn build_args(given: &[String], session: &Session) -> Result<BTreeMap<String, String>, Failure> {
    let mut values = BTreeMap::new();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            // Without a value it comes from the environment, and where that has none it is not given (docker).
            None => (text.as_str(), (session.variable)(text)),
        };
        let usable = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(usable) {
            let message =
                format!("`--build-arg {}` does not begin with the name of a variable", text.escape_debug());
            return Err(Failure::usage(
                message,
                "--build-arg NAME=VALUE, or NAME to take it from the environment",
            ));
        }
        values.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(values)
}

pub(crate) fn labels(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let parse = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => {
            Err(Failure::usage(format!("`--label {text}` is not of the form NAME=VALUE"), "--label team=web"))
        }
    };
    given.iter().map(parse).collect()
}
