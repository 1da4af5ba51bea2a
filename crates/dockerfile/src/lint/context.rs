//! What own rules ask about the build context, and the rule about secrets in files that COPY takes from it.

use super::rule::SECRET_FILE;
use super::secret::{may_hold_secrets, secret_of_file};
use super::{At, Findings};
use crate::scope::{TransferSource, TransferStep};

/// The main build context, as far as own rules look at it. Asking must be cheap: a check of a large context takes no longer
/// than listing it.
pub trait ContextFiles {
    /// The files that [`may_hold_secrets`] by their name, as paths from the root, those in `node_modules` and in a
    /// repository's `.git` left out. What the ignore file excludes is no part of the context.
    fn suspects(&self) -> &[String];

    /// The text of a file; `None` when it is not there, not small, or no text.
    fn text(&self, path: &str) -> Option<String>;

    /// Which of `paths` a COPY or ADD from this context takes.
    fn taken(&self, step: &TransferStep, paths: &[String]) -> Vec<bool>;

    /// Which of `paths` lie at or below `source`, the source of a bind mount.
    fn mounted(&self, source: &str, paths: &[String]) -> Vec<bool> {
        let parts: Vec<&str> = source.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        let source = parts.join("/");
        let below = |path: &String| {
            source.is_empty()
                || path.strip_prefix(&source).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        paths.iter().map(below).collect()
    }

    /// The packages of the pnpm workspace whose root is the context's, except the root itself, by directory. Nothing where
    /// there is none, or it cannot be read.
    fn packages(&self) -> &[WorkspacePackage];

    /// The directories of the packages that the one in `directory` needs when it is installed with its dependencies, itself
    /// among them.
    fn closure(&self, directory: &str) -> Vec<String>;
}

/// A package of a pnpm workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspacePackage {
    /// Its directory, as a path from the context's root.
    pub directory: String,
    /// Its name; its directory if it has none.
    pub name: String,
}

/// Files that are reported of one COPY.
const NAMED: usize = 5;

/// Looks at the files that a COPY or ADD takes from the context. By their content where it can be read; what the Dockerfile
/// names itself also by its name alone.
pub(super) fn secret_files(
    step: &TransferStep,
    context: Option<&dyn ContextFiles>,
    at: At<'_>,
    findings: &mut Findings<'_>,
) {
    let mut clean: Vec<&str> = Vec::new();
    let mut found: Vec<(&str, String)> = Vec::new();
    if let Some(context) = context {
        let suspects = context.suspects();
        let taken = context.taken(step, suspects);
        for (path, _) in suspects.iter().zip(taken).filter(|(_, taken)| *taken) {
            let Some(text) = context.text(path) else { continue };
            let name = path.rsplit('/').next().unwrap_or_default();
            match secret_of_file(name, &text) {
                Some(kind) => found.push((path, kind)),
                None => clean.push(path),
            }
        }
    }
    for (text, source) in &step.sources {
        let path = text.trim_matches('/').trim_start_matches("./");
        let name = path.rsplit('/').next().unwrap_or_default();
        let known = clean.contains(&path) || found.iter().any(|(found, _)| *found == path);
        if *source == TransferSource::Path(text.clone()) && may_hold_secrets(name) && !known {
            findings.report_with(
                SECRET_FILE,
                at,
                format!("`{text}` usually holds secrets, and everybody who has the image can read it"),
                &["mount it where it is needed: `RUN --mount=type=secret,id=…`"],
            );
        }
    }
    let more = found.len().saturating_sub(NAMED);
    for (index, (path, kind)) in found.iter().take(NAMED).enumerate() {
        let name = path.rsplit('/').next().unwrap_or_default();
        let others = if index + 1 == NAMED && more > 0 {
            format!(" (and {more} more files do)")
        } else {
            String::new()
        };
        findings.report_with(
            SECRET_FILE,
            at,
            format!("`{path}` holds what looks like {kind}, and is copied into a layer{others}"),
            &[
                &format!("keep it out: write `**/{name}` in the ignore file"),
                "mount it where it is needed: `RUN --mount=type=secret,id=…`",
            ],
        );
    }
}
