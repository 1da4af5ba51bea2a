//! Values into text: errors with their causes and hints, diagnostics with carets, sizes, durations, tables, trees.
//!
//! Everything here returns a `String` and prints nothing. Text that did not come from this program (file names,
//! step names, logs, registry answers) passes through [`escape_line`], [`escape_lines`] or [`log_text`] before it
//! is part of such a string, so that none of it can move a cursor, forge a line or reverse the reading order.
//! Colour comes from a [`Theme`] and only decorates: without it the same words are there.

mod diagnostic;
mod error;
mod escape;
mod table;
mod theme;
mod tree;
mod units;
mod width;

pub use diagnostic::render_diagnostics;
pub use error::render_error;
pub use escape::{Sgr, escape_bytes, escape_line, escape_lines, log_text};
pub use table::{Align, Table};
pub use theme::Theme;
pub use tree::{Tree, miss_tree};
pub use units::{duration, short_digest, size, stopwatch};
pub use width::{fit, width};

pub(crate) use error::{push_hints, push_labelled};
pub(crate) use escape::is_control;
