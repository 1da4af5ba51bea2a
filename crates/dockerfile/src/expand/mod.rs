//! Variable expansion as BuildKit's shell lexer does it: quotes, escapes, and every form of `${…}`.
//!
//! Expansion is pure and bounded: each result by [`Lexer::limit`], nesting by [`MAX_NESTING`], and all work of a build by a
//! [`Meter`], so that no Dockerfile can make it slow. It follows the reference also where that is odd (`\${PWD}z` inside a
//! default gives `${PWDz}`); the vectors in `tests/fixtures` are its tests.

mod error;
mod lexer;
mod meter;
mod pattern;

pub use error::{ExpandError, ExpandProblem};
pub use lexer::{Lexer, Quotes, Seen, Variables};
pub use meter::Meter;

/// The largest value that expansion may make: more than any environment variable or path a program could use.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

/// The deepest `${a:-${b:-…}}`.
pub const MAX_NESTING: usize = 100;

/// The longest pattern of `${v#pattern}` and `${v/pattern/…}`, in characters.
pub const MAX_PATTERN: usize = 4096;
