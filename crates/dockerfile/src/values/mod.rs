//! The small languages inside arguments: durations, sizes, modes, owners, ports, signals, platforms, lists, remote sources.
//! Each is a pure function of its text.

mod csv;
mod duration;
mod owner;
mod platform;
mod port;
mod remote;
mod signal;
mod size;

pub use owner::{Identity, Owner, OwnerError};
pub use port::{Port, PortError, PortSpec, Protocol};
pub use remote::{GitSource, HttpSource, Remote, RemoteError};
pub use wbuild_tree::{Chmod, ChmodError, SymbolicMode};

pub(crate) use csv::fields as csv_fields;
pub(crate) use duration::{DurationError, duration};
pub(crate) use platform::platform;
pub(crate) use signal::is_signal;
pub(crate) use size::size;

/// A boolean as Go's `strconv.ParseBool` reads it.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
