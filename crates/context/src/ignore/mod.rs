//! `.dockerignore`, decided exactly as BuildKit's context walk decides it (moby/patternmatcher and
//! tonistiigi/fsutil, read at the commits named in `tests/fixtures/dockerignore.json`). Pure: takes bytes and paths,
//! opens nothing.
//!
//! Where BuildKit has two answers, this one is the walk's: see [`IgnoreRules::excludes`].

mod clean;
mod go_regex;
mod pattern;
mod read;
mod rules;
mod syntax;
mod translate;

pub(crate) use pattern::printable;
pub use pattern::{Pattern, PatternError};
pub use rules::{Decision, DirectoryVerdict, IgnoreRules, Inherited, MAX_IGNORE_BYTES, MAX_PATTERNS};
pub(crate) use syntax::is_well_formed;
