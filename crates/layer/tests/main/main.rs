//! Layers, driven through the crate's public face.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests fail tests"
)]

mod compression;
mod disk;
mod hostile;
mod raw_tar;
mod reading;
mod round_trip;
mod throughput;
mod trees;
