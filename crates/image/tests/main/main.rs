//! Images, driven through the crate's public face.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests fail tests"
)]

mod fixture;
mod foreign;
mod reading;
mod writing;
