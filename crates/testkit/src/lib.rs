//! For tests only.
//!
//! - [`HttpServer`] answers on a loopback port as a test's function says, and can misbehave: cut answers off, hold them
//!   back, lie about lengths. It remembers what it was asked.

mod http;

pub use http::{Body, HttpServer, Intake, Reply, Seen, Stream};
