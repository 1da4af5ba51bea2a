//! `--timestamp`, and SOURCE_DATE_EPOCH in its three places.

use std::collections::BTreeMap;

use super::{Failure, Session};

/// Times of what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Created {
    /// Seconds since the epoch for the image.
    pub(crate) seconds: i64,
    /// Whether files keep their own times.
    pub(crate) keep: bool,
}

/// What decides about times besides the flag.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sources<'a> {
    /// The build argument SOURCE_DATE_EPOCH.
    pub(crate) build_arg: Option<&'a str>,
    /// The time of the context, which a folder does not have (A11).
    pub(crate) of_context: Option<i64>,
    /// Those of named contexts.
    pub(crate) named: Option<&'a BTreeMap<String, Option<i64>>>,
    /// Whether files may keep their times.
    pub(crate) may_keep: bool,
}

/// The flag, else the build argument or variable SOURCE_DATE_EPOCH, else one second after the epoch.
pub(crate) fn created(flag: &str, session: &Session, sources: &Sources<'_>) -> Result<Created, Failure> {
    let fixed = |seconds| Ok(Created { seconds, keep: false });
    match flag {
        "epoch" => {}
        "keep" if sources.may_keep => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            return Ok(Created { seconds: i64::try_from(now.as_secs()).unwrap_or(1), keep: true });
        }
        given => return fixed(seconds(given, "--timestamp")?),
    }
    from_sources(sources, (session.variable)("SOURCE_DATE_EPOCH"))
}

/// Without the flag.
fn from_sources(sources: &Sources<'_>, variable: Option<String>) -> Result<Created, Failure> {
    let fixed = |seconds| Ok(Created { seconds, keep: false });
    match (sources.build_arg, variable.filter(|value| !value.is_empty())) {
        // Given as nothing: asked for no time, whatever the variable says.
        (Some(""), _) => fixed(1),
        (Some("context"), _) => fixed(sources.of_context.unwrap_or(1)),
        // A folder has no time of its own.
        (Some(name), _) if sources.named.is_some_and(|named| named.contains_key(name)) => {
            fixed(sources.named.and_then(|named| *named.get(name)?).unwrap_or(1))
        }
        (Some(value), _) => fixed(seconds(value, "invalid SOURCE_DATE_EPOCH: the build argument")?),
        (None, Some(value)) => fixed(seconds(&value, "SOURCE_DATE_EPOCH")?),
        (None, None) => fixed(1),
    }
}

/// Seconds since the epoch, as `from` says.
pub(crate) fn seconds(text: &str, from: &str) -> Result<i64, Failure> {
    text.parse().map_err(|_| {
        let message = format!("{from} is `{text}`, which is no number of seconds");
        Failure::usage(message, "for example 1700000000")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_build_argument_means() {
        let named = BTreeMap::from([("src".to_owned(), Some(7)), ("folder".to_owned(), None)]);
        let meant = |build_arg| {
            let sources = Sources {
                build_arg: Some(build_arg),
                of_context: Some(5),
                named: Some(&named),
                may_keep: true,
            };
            from_sources(&sources, Some("9".to_owned())).map(|created| created.seconds).ok()
        };
        let cases =
            [("3", Some(3)), ("", Some(1)), ("context", Some(5)), ("src", Some(7)), ("folder", Some(1))];
        for (build_arg, seconds) in cases {
            assert_eq!(meant(build_arg), seconds, "{build_arg}");
        }
        assert_eq!(meant("today"), None);
        let of_variable = |value: &str| from_sources(&Sources::default(), Some(value.to_owned())).ok();
        assert_eq!(of_variable("9").map(|created| created.seconds), Some(9));
        assert_eq!(of_variable("").map(|created| created.seconds), Some(1));
    }
}
