//! Flags of instructions, checked against the list that each instruction has.

use crate::problem::Problem;
use crate::source::Word;
use crate::suggest::{did_you_mean, suggest};

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, or `=true` or `=false`.
    Boolean,
    /// One value.
    Value,
    /// One value, as often as one likes.
    Values,
}

/// The flags that were given.
#[derive(Debug, Default)]
pub(crate) struct Flags(Vec<(&'static str, Word)>);

impl Flags {
    /// Checks `written` against `known`, noting every problem.
    pub(crate) fn read(
        written: &[Word],
        known: &[(&'static str, Takes)],
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut flags = Self::default();
        for word in written {
            let (name, value) =
                word.text.split_once('=').map_or((word.text.as_str(), None), |(name, value)| {
                    (name, Some(Word::new(value, word.part(name.len() + 1..word.text.len()))))
                });
            let bare = name.strip_prefix("--").unwrap_or(name);
            let name_span = word.part(0..name.len());
            let Some((key, takes)) = known.iter().find(|(key, _)| *key == bare) else {
                problems.push(unknown(name, bare, name_span, known));
                continue;
            };
            let first = flags.0.iter().find(|(seen, _)| seen == key);
            if let Some((_, first)) = first
                && *takes != Takes::Values
            {
                problems.push(
                    Problem::new(format!("duplicate flag specified: {name}"), name_span)
                        .label("again here")
                        .also(first.span, "first given here")
                        .hint("keep one of them"),
                );
                continue;
            }
            match (takes, value) {
                (Takes::Boolean, None) => flags.0.push((*key, Word::new("true", word.span))),
                (Takes::Boolean, Some(value)) => match value.text.to_lowercase().as_str() {
                    lower @ ("true" | "false") => flags.0.push((*key, Word::new(lower, value.span))),
                    "" => problems.push(
                        Problem::new(format!("missing a value on flag: {name}"), word.span)
                            .hint(format!("write `{name}`, `{name}=true` or `{name}=false`")),
                    ),
                    _ => problems.push(
                        Problem::new(
                            format!("expecting boolean value for flag {name}, not: {}", value.text),
                            value.span,
                        )
                        .label("neither `true` nor `false`")
                        .hint(format!("write `{name}`, `{name}=true` or `{name}=false`")),
                    ),
                },
                (Takes::Value | Takes::Values, None) => problems.push(
                    Problem::new(format!("missing a value on flag: {name}"), word.span)
                        .hint(format!("write `{name}=…`, with `=` and no blank")),
                ),
                (Takes::Value | Takes::Values, Some(value)) => flags.0.push((*key, value)),
            }
        }
        flags
    }

    /// The value of a flag. An empty value is as good as none.
    pub(crate) fn value(&self, name: &str) -> Option<Word> {
        self.0.iter().find(|(key, word)| *key == name && !word.text.is_empty()).map(|(_, word)| word.clone())
    }

    /// The value of a flag, also an empty one.
    pub(crate) fn given(&self, name: &str) -> Option<Word> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, word)| word.clone())
    }

    /// All values of a flag.
    pub(crate) fn values(&self, name: &str) -> Vec<Word> {
        self.0.iter().filter(|(key, _)| *key == name).map(|(_, word)| word.clone()).collect()
    }

    /// A boolean, if it was given.
    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, word)| word.text == "true")
    }
}

fn unknown(name: &str, bare: &str, span: wbuild_report::Span, known: &[(&'static str, Takes)]) -> Problem {
    let found = suggest(bare, known.iter().map(|(key, _)| *key));
    let problem = Problem::new(format!("unknown flag: {name}{}", did_you_mean(found)), span);
    match found {
        Some(found) => problem.label(format!("perhaps `--{found}`")),
        None if known.is_empty() => {
            problem.label("takes no flags").hint("if it is no flag, write `--` before it to end the flags")
        }
        None => {
            let list: Vec<String> = known.iter().map(|(key, _)| format!("`--{key}`")).collect();
            problem.hint(format!("the flags here are {}", list.join(", ")))
        }
    }
}
