//! From the text of a spec and the files of a workspace to the graph.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod dockerfile;
mod example;
mod infer;
mod lowering;
mod spec;
