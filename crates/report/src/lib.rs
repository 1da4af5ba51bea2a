//! What the engine says, as plain data: [`Diagnostic`]s with spans in the user's files, [`Hint`]s that travel
//! with errors, the [`Event`] stream of a build, and the [`MissReason`] of every vertex that could not be
//! reused. Nothing here renders, prints, or does I/O; the command line turns these values into text.

mod causes;
mod diagnostic;
mod event;
mod hint;
mod miss;

pub use causes::with_causes;
pub use diagnostic::{Diagnostic, Label, Severity, SourceFile, Span};
pub use event::{Event, EventSink, LogStream, Moving, Outcome, Reuse, VertexId, Warning};
pub use hint::{Hint, nearest};
pub use miss::{FieldChange, MissReason};
