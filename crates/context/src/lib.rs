//! Local sources: what of a folder is part of a build, and what is in it.
//!
//! 1. [`IgnoreRules`] reads and decides `.dockerignore` exactly as BuildKit does (pure, in `ignore`).
//! 2. [`ContextRoot::list`] walks in parallel and gives a [`Listing`]: every entry with its facts, no content read.
//! 3. [`Selection::hash`] reads what is used, as far as the stat index does not know it already, and gives a
//!    [`Subtree`](wbuild_tree::Subtree); contents go to a [`BlobSink`] if they are wanted.
//!    [`Selection::known_tree`] gives its digest at once when not a single fact has changed.
//! 4. [`SourcePattern`] is what a source of COPY or ADD names; [`Selection::add_matching`] takes just that.
//! 5. [`ContextRoot::open_verified`] reads a file again later, and notices when it is not the same any more.
//!
//! Guarantees: symbolic links are never followed out of the root, and on disk not at all; nothing but a regular file is ever
//! opened for reading; what cannot be read is an error that names it, never an empty file and never absent; results do
//! not depend on the number of threads.

mod assemble;
mod content;
mod error;
mod hash;
mod ignore;
mod ignore_file;
mod known_tree;
mod listing;
mod policy;
mod read;
mod root;
mod selection;
mod sources;
mod stat_index;
mod walk;

pub use content::{BlobSink, VerifiedReader};
pub use error::{ContextError, IgnoreFileError, IgnoredBy};
pub use hash::{HashOptions, Hashed, IndexProblem};
pub use ignore::{
    Decision, DirectoryVerdict, IgnoreRules, Inherited, MAX_IGNORE_BYTES, MAX_PATTERNS, Pattern, PatternError,
};
pub use listing::{Facts, Listed, Listing};
pub use policy::{Exclusion, FileKind, LeftOut, LeftOutReason, ListOptions, Policy};
pub use root::ContextRoot;
pub use selection::Selection;
pub use sources::{Parents, SourceError, SourcePattern, Wildcard};
pub use walk::{MAX_DEPTH, MAX_ENTRIES};
