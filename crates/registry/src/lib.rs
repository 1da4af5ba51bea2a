//! Image registries (the OCI distribution specification, and what Docker's registries do besides).
//!
//! - [`RegistryClient::resolve`] reads index, manifest and config of an image for a platform, [`fetch`](RegistryClient::fetch)
//!   downloads a blob: resumed where it was cut, from mirrors first, compared with its digest and size.
//! - [`RegistryClient::push`] pushes an image under several names, [`push_blob`](RegistryClient::push_blob) one blob as soon as
//!   it is there: what the registry has is not sent, what another of its repositories has is lent, and what was cut goes on.
//!   [`attach`](RegistryClient::attach) and [`referrers`](RegistryClient::referrers) are for what belongs to an image.
//! - [`Rules`] are what the person's `registries.toml` says: mirrors, other places, trust. `buildspec/registries.md` says what
//!   may stand in it.
//! - [`CredentialFiles`] finds credentials where docker and podman keep them, and asks their programs.
//!   [`RegistryClient::log_in`] writes them.
//!
//! Guarantees: nothing is given out whose digest and size were not compared; no document is larger than 4 MiB, no token's
//! larger than 1 MiB. Credentials go to the registry that they are for and to the token server that it names (to that only
//! encrypted, unless the registry itself is spoken to without), to no other host, and into no message, log or event.
//!
//! All calls block, and may come from many threads at once; none from a task of a runtime.

mod at_once;
mod challenge;
mod client;
mod credentials;
mod error;
mod login;
mod mirrors;
mod pull;
mod push;
mod repository;
mod rules;
mod rules_file;
mod token;
mod upload;

pub use at_once::at_once;
pub use client::{RegistryClient, RegistryOptions};
pub use credentials::{CredentialFiles, Credentials, CredentialsError, Found};
pub use error::{Named, RegistryError};
pub use login::Kept;
pub use pull::{FetchedManifest, PulledImage, RemoteDocuments, check_layer};
pub use push::{Content, PushReport};
pub use repository::Repository;
pub use rules::Rules;
pub use rules_file::RulesError;
pub use upload::{Blob, Pushed};
