//! `--timestamp`, and SOURCE_DATE_EPOCH in its three places.

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
    match (sources.build_arg, (session.variable)("SOURCE_DATE_EPOCH")) {
        (Some("context"), _) => fixed(sources.of_context.unwrap_or(1)),
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
