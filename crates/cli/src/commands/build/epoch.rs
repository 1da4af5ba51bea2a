//! `SOURCE_DATE_EPOCH` that names a place instead of a time: `context`, a named context, or a stage (A11). What it means is put in
//! its place before anything is lowered, so that steps that declare the argument see seconds, too.

use std::sync::Arc;

use wbuild_dockerfile::{Dockerfile, GlobalScope, Settings, epoch_source};
use wbuild_engine::{ContextPlace, Engine};
use wbuild_report::EventSink;

use super::contexts::Contexts;
use super::source::Opened;
use crate::commands::{Failure, Session};

const NAME: &str = "SOURCE_DATE_EPOCH";

/// Seconds as text, or nothing for a place that has no time; `None` when the argument is not given or is a number already.
pub(super) fn resolve(
    dockerfile: &Dockerfile,
    settings: &mut Settings,
    opened: &Opened,
    contexts: &Contexts,
    engine: &Engine,
    session: &Session,
) -> Result<Option<String>, Failure> {
    // What is wrong with the global ARGs is said when they are lowered.
    let Ok(global) = GlobalScope::new(dockerfile, settings.clone()).map(Arc::new) else { return Ok(None) };
    let date = match global.source_date_epoch() {
        None | Some("") => return Ok(None),
        Some(seconds) if seconds.parse::<i64>().is_ok() => return Ok(None),
        Some("context") => opened.date,
        Some(name) if let Some(date) = opened.dates.get(name) => *date,
        Some(name) if contexts.named.contains_key(name) => None,
        Some(name) => {
            let source = epoch_source(dockerfile, &global, name)
                .map_err(|error| Failure::Diagnostics(vec![*error]))?
                .ok_or_else(|| {
                    Failure::usage(
                        format!("invalid SOURCE_DATE_EPOCH: {name}"),
                        "give seconds since 1970, `context`, or the name of a context or of a stage",
                    )
                })?;
            let place = ContextPlace::parse(&source)
                .map_err(|error| Failure::usage(error.to_string(), "name a URL or a git repository"))?;
            let events = EventSink::silent();
            engine.open_context(&place, &mut std::io::empty(), &events, &session.cancellation)?.date
        }
    };
    let text = date.map(|seconds| seconds.to_string());
    match &text {
        Some(text) => {
            settings.build_args.insert(NAME.to_owned(), text.clone());
        }
        None => {
            settings.build_args.remove(NAME);
        }
    }
    Ok(Some(text.unwrap_or_default()))
}
