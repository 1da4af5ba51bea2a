//! Decides what of a graph must run, and runs it through a [`Worker`].
//!
//! For every vertex that the targets need, in the order of the graph and in parallel where it allows: its inputs become
//! *known* (their snapshots are named, whether or not their files are at hand), its preimage and key are computed, and a
//! record of that key makes it known too, without touching a file. Only a vertex without a record runs, and only then are
//! the files of its inputs demanded. So nothing is unpacked, checked out or copied to find out that nothing changed.
//!
//! - Single flight: a key is locked while it is built, across processes; who waited finds the record.
//! - A result that is recorded but gone (collected, damaged) is noticed when it is demanded; its record is then set aside
//!   and the graph solved again, which builds just that vertex anew. Where only a part of something is known to be gone,
//!   the inputs of the vertex that noticed are read in full first, which tells whose part it is.
//! - When a vertex fails, what runs beside it is stopped. All that failed by itself is told, in the order of the graph,
//!   whichever was quicker.
//! - Every miss has a [`MissReason`](wbuild_report::MissReason) from comparing preimages.
//!
//! Knows nothing of containers, files or images. Does no I/O itself; reads no clock but for durations.

mod cancel;
mod miss;
mod record;
mod solve;
mod worker;

pub use cancel::{Cancellation, Subscription};
pub use record::{Record, RecordError};
pub use solve::{Beside, Heard, NoCache, Solution, SolveError, Solved, Solver};
pub use worker::{Loss, Records, RunContext, Worker};
