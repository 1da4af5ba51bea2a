//! For tests only.
//!
//! - [`HttpServer`] answers on a loopback port as a test's function says, and can misbehave: cut answers off, hold them
//!   back, lie about lengths. It remembers what it was asked.
//! - [`FakeRegistry`] is an image registry on top of it, whose answers go wrong as a test [plans](FakeRegistry::plan).
//! - [`Server`] is a real program that listens on a port; [`Moto`] is a real program that answers as S3 does.

mod http;
mod moto;
mod registry;
mod server;

pub use http::{Body, HttpServer, Intake, Reply, Seen, Stream};
pub use moto::Moto;
pub use registry::{Door, FakeRegistry, Fault};
pub use server::{Server, free_port};
