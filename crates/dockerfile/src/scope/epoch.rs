//! `SOURCE_DATE_EPOCH` with the name of a stage: the time is that of the one remote file that the stage adds (A11).

use std::sync::Arc;

use wbuild_report::Diagnostic;

use super::{BaseFacts, GlobalScope, StageScope, Step, TransferSource};
use crate::ast::{Dockerfile, Kind};
use crate::problem::Problem;
use crate::values::Remote;

/// What the stage `name` adds: a URL, or a git repository as ADD has it. `None` when there is no such stage.
///
/// # Errors
/// The stage does more than to add one remote file to nothing.
pub fn epoch_source(
    dockerfile: &Dockerfile,
    global: &Arc<GlobalScope>,
    name: &str,
) -> Result<Option<String>, Box<Diagnostic>> {
    let Some(stage) = dockerfile.stages.iter().find(|stage| stage.name.eq_ignore_ascii_case(name)) else {
        return Ok(None);
    };
    let refuse = |message: String, span| {
        let problem = Problem::new(message, span)
            .hint(format!("SOURCE_DATE_EPOCH is `{name}`, the time of what this stage adds"))
            .hint("such a stage is `FROM scratch` and one `ADD` of a URL or of a git repository");
        Err(Box::new(problem.error(&dockerfile.file)))
    };
    if global.base_text(stage)? != "scratch" {
        return refuse("SOURCE_DATE_EPOCH stage must use FROM scratch".to_owned(), stage.base.span);
    }
    let one = "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD";
    let mut scope = StageScope::new(global, &BaseFacts::default());
    let mut found = None;
    for instruction in &stage.instructions {
        match &instruction.kind {
            Kind::Arg(_) => {
                scope.apply(instruction)?;
            }
            Kind::Add(_) => {
                let Step::Add(add) = scope.apply(instruction)?.step else { continue };
                let source = match add.sources.as_slice() {
                    [(_, TransferSource::Remote(Remote::Http(http)))] if add.inline.is_empty() => {
                        http.url.clone()
                    }
                    [(text, TransferSource::Remote(Remote::Git(_)))] if add.inline.is_empty() => text.clone(),
                    _ => return refuse(one.to_owned(), instruction.span),
                };
                if found.replace(source).is_some() {
                    return refuse(one.to_owned(), instruction.span);
                }
            }
            _ => {
                let message = format!(
                    "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {} instruction",
                    instruction.name()
                );
                return refuse(message, instruction.span);
            }
        }
    }
    match found {
        Some(source) => Ok(Some(source)),
        None => refuse(one.to_owned(), stage.base.span),
    }
}

#[cfg(test)]
mod tests {
    use wbuild_oci::Platform;

    use super::*;
    use crate::scope::Settings;
    use crate::source::Source;

    fn of(text: &str) -> Result<Option<String>, String> {
        let parsed = crate::parse(&Source::from_text("Dockerfile", text));
        let settings = Settings::plain(Platform::linux("amd64"));
        let global = Arc::new(GlobalScope::new(&parsed.dockerfile, settings).unwrap());
        epoch_source(&parsed.dockerfile, &global, "TS").map_err(|error| error.message)
    }

    #[test]
    fn a_stage_with_one_remote_file() {
        assert_eq!(of("FROM scratch\n"), Ok(None));
        assert_eq!(
            of("FROM scratch AS ts\nARG V=1\nADD https://host.example/$V.tar /\nFROM scratch\n"),
            Ok(Some("https://host.example/1.tar".to_owned()))
        );
        for (text, words) in [
            ("FROM busybox AS ts\nADD https://host.example/x /\n", "must use FROM scratch"),
            ("FROM scratch AS ts\nADD x /\n", "exactly one remote ADD"),
            ("FROM scratch AS ts\n", "exactly one remote ADD"),
            ("FROM scratch AS ts\nADD https://a.example/x https://a.example/y /\n", "exactly one remote ADD"),
            ("FROM scratch AS ts\nCOPY x /\n", "unsupported COPY instruction"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
