//! Who the person is to a registry: docker's and podman's files, and the programs that keep secrets for them.

mod files;
mod helper;
mod write;

use std::fmt;
use std::io;
use std::path::PathBuf;

use wbuild_report::Hint;

pub use files::{CredentialFiles, Found};
pub use write::Kept;

/// What a registry, or its token server, is shown. Shown to nobody else.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password, or a token that is used as one.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that others are had for (docker's `identitytoken`).
    Identity(String),
    /// A token that is shown to the registry itself (docker's `registrytoken`).
    Registry(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::Identity(_) => "Identity",
            Self::Registry(_) => "Registry",
        })
    }
}

/// Why credentials could not be kept or forgotten.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// There is no place for them.
    #[error("there is no place for credentials: neither HOME nor DOCKER_CONFIG is set")]
    NoPlace,
    /// The file cannot be read or written.
    #[error("cannot {what} `{}`", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is something else: it is not written over.
    #[error("`{}` is no configuration of docker: {why}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// In which way.
        why: String,
    },
    /// The program that keeps them does not.
    #[error("`{program}`, which `{}` names, does not {what} the credentials: {why}", path.display())]
    Helper {
        /// Which.
        program: String,
        /// The file.
        path: PathBuf,
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        why: String,
    },
}

impl Hint for CredentialsError {}

/// How docker's files name a registry: Docker Hub by an address of old.
pub(crate) fn server_name(registry: &str) -> &str {
    if registry == crate::rules::DOCKER_HUB { "https://index.docker.io/v1/" } else { registry }
}
