//! COPY and ADD.

use wbuild_dockerfile::{FromRef, Identity, Remote, TransferSource as Written, TransferStep};
use wbuild_graph::{
    Account, AccountId, FileAction, FileOp, Files, GitCheckout, HttpFile, Op, Pattern, Source, Transfer,
    TransferSource, Unpack,
};
use wbuild_report::{Diagnostic, VertexId};
use wbuild_tree::EntryPath;

use super::stage::{At, Lowering, Place, StageState, Taken, Unpacking};

impl Lowering<'_> {
    /// Lowers COPY or ADD to the vertex of the new root; `None` when something it needs is missing.
    pub(super) fn transfer(
        &mut self,
        state: &StageState,
        step: &TransferStep,
        unpacking: Unpacking,
        at: At<'_>,
    ) -> Option<VertexId> {
        let from = match &step.from {
            None => Taken::Context(String::new()),
            Some(name) => {
                let place = match self.input.dockerfile.copy_from(name) {
                    Ok(FromRef::Stage(index)) => Place::Stage(index),
                    Ok(FromRef::External(name)) => Place::Named(name),
                    Err(message) => {
                        self.fail(message, at);
                        return None;
                    }
                };
                self.files_of(place, &state.platform)?
            }
        };
        // With --link the files do not stand on what lies below; only names of owners are looked up there.
        let link = stands_alone(step);
        let base = if link { self.scratch() } else { state.vertex };
        let mut inputs = vec![base];
        let owner = step.chown.as_ref().map(|(_, owner)| {
            let id = |identity: &Identity| match identity {
                Identity::Number(number) => AccountId::Number(*number),
                Identity::Name(name) => AccountId::Name(name.clone()),
            };
            let named = std::iter::once(&owner.user)
                .chain(&owner.group)
                .any(|identity| matches!(identity, Identity::Name(_)));
            let input = if link && named {
                inputs.push(state.vertex);
                inputs.len() - 1
            } else {
                0
            };
            Account { user: id(&owner.user), group: owner.group.as_ref().map(id), input }
        });
        let files = self.files(step, &from, at);
        let shared = files.map(|vertex| {
            inputs.push(vertex);
            inputs.len() - 1
        });
        let mut sources = Vec::new();
        for (_, source) in &step.sources {
            sources.push(match source {
                Written::Path(path) => TransferSource::Files {
                    input: shared.unwrap_or_default(),
                    pattern: pattern(path, step.parents),
                    unpack: match (unpacking, step.unpack) {
                        (Unpacking::ByDefault, None | Some(true)) => Unpack::Archives,
                        _ => Unpack::Never,
                    },
                },
                Written::Remote(remote) => {
                    let (op, pattern) = remote_source(remote, step);
                    let vertex = self.part(op, Vec::new(), &remote_name(remote), at);
                    inputs.push(vertex);
                    TransferSource::Files {
                        input: inputs.len() - 1,
                        pattern,
                        unpack: if step.unpack == Some(true) { Unpack::Archives } else { Unpack::Never },
                    }
                }
            });
        }
        sources.extend(step.inline.iter().map(|file| TransferSource::Inline {
            name: file.name.clone(),
            contents: file.content.clone().into_bytes(),
        }));
        let target = match EntryPath::rooted(&step.target) {
            Ok(target) => target,
            Err(error) => {
                self.fail(error.to_string(), at);
                return None;
            }
        };
        let transfer = Transfer {
            sources,
            target,
            into_directory: step.target.ends_with('/') || step.target.ends_with("/."),
            owner,
            mode: step.chmod.as_ref().map(|(_, chmod)| chmod.clone()),
            excludes: step.excludes.clone(),
        };
        let op = Op::File(FileOp { actions: vec![FileAction::Transfer(Box::new(transfer))] });
        let vertex = self.step(op, inputs, at);
        if !link {
            return Some(vertex);
        }
        Some(self.part(Op::Merge, vec![state.vertex, vertex], "merge", at))
    }

    /// The vertex whose files the sources are; of a context only those that the sources name.
    fn files(&mut self, step: &TransferStep, from: &Taken, at: At<'_>) -> Option<VertexId> {
        let paths: Vec<&String> = step
            .sources
            .iter()
            .filter_map(|(_, source)| match source {
                Written::Path(path) => Some(path),
                Written::Remote(_) => None,
            })
            .collect();
        if paths.is_empty() {
            return None;
        }
        let name = match from {
            Taken::Vertex(vertex) => return Some(*vertex),
            Taken::Context(name) => name,
        };
        let patterns: Vec<Pattern> = paths.iter().map(|path| pattern(path, step.parents)).collect();
        let everything = |pattern: &Pattern| matches!(pattern, Pattern::Literal(path) if EntryPath::rooted(path).is_ok_and(|path| path.is_root()));
        if patterns.iter().any(everything) {
            return Some(self.context(name));
        }
        let source = Source::Local { context: name.clone(), files: Files::Matching { patterns } };
        let shown = if name.is_empty() { "context".to_owned() } else { format!("context {name}") };
        Some(self.part(Op::Source(source), Vec::new(), &shown, at))
    }

    pub(super) fn fail(&mut self, message: impl Into<String>, at: At<'_>) {
        let instruction = at.instruction;
        self.errors.push(Diagnostic::error(&instruction.file, message).at(instruction.span, ""));
    }
}

/// Whether the files of COPY or ADD become a layer that knows nothing of those below. Not with `--chmod`: its mode is also
/// that of the directories that have to be made, and those that the image has would get it, too (`/etc`, mode 0600).
pub(super) fn stands_alone(step: &TransferStep) -> bool {
    step.link && step.chmod.is_none()
}

/// A source of COPY or ADD as a pattern.
fn pattern(path: &str, parents: bool) -> Pattern {
    if parents {
        return Pattern::Parents(path.to_owned());
    }
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return Pattern::Wildcard(path.to_owned()),
            _ => {}
        }
    }
    Pattern::Literal(path.to_owned())
}

fn remote_source(remote: &Remote, step: &TransferStep) -> (Op, Pattern) {
    match remote {
        Remote::Http(http) => {
            let file =
                HttpFile { url: http.url.clone(), name: http.file_name.clone(), checksum: step.checksum };
            (Op::Source(Source::Http(file)), Pattern::Literal(format!("/{}", http.file_name)))
        }
        Remote::Git(git) => {
            let checkout = GitCheckout {
                remote: git.remote.clone(),
                reference: git.reference.clone(),
                subdirectory: git.subdirectory.clone(),
                checksum: step.commit.clone().or_else(|| git.checksum.clone()),
                keep_git_dir: step.keep_git_dir,
                submodules: git.submodules.unwrap_or(true),
                commit_times: git.commit_times,
            };
            (Op::Source(Source::Git(checkout)), Pattern::Literal("/".to_owned()))
        }
    }
}

/// What progress calls a download: without credentials and queries.
fn remote_name(remote: &Remote) -> String {
    let (url, kind) = match remote {
        Remote::Http(http) => (&http.url, "download"),
        Remote::Git(git) => (&git.remote, "fetch"),
    };
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    let shown = match bare.split_once("://") {
        Some((scheme, rest)) => match rest.split_once('/') {
            Some((host, path)) => {
                format!("{scheme}://{}/{path}", host.rsplit('@').next().unwrap_or_default())
            }
            None => format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or_default()),
        },
        None => bare.to_owned(),
    };
    format!("{kind} {shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_told_from_names() {
        for (text, wildcard) in
            [("a*", true), ("a\\*", false), ("a\\*b?", true), ("[ab]", true), ("x/y", false)]
        {
            assert_eq!(matches!(pattern(text, false), Pattern::Wildcard(_)), wildcard, "{text}");
        }
    }

    #[test]
    fn names_of_downloads_hold_no_credentials() {
        let http = Remote::of("https://user:secret@host.example/a/b.tgz?token=x").unwrap().unwrap();
        assert_eq!(remote_name(&http), "download https://host.example/a/b.tgz");
    }
}
