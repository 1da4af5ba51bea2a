//! Image registries, with what this machine trusts, its proxies, and the person's rules and credentials.

use wbuild_registry::{CredentialFiles, RegistryClient, RegistryOptions, Rules};
use wbuild_remote::{HttpOptions, Proxies};

use crate::error::EngineError;
use crate::trust::Trust;

/// A client for image registries, as this person has it set up: `registries.toml`, docker's and podman's credentials, the CA
/// bundle and proxies of the environment. Connects only when it is asked for something.
///
/// # Errors
/// When the rules or the bundle cannot be read.
pub fn registry_client(variable: &dyn Fn(&str) -> Option<String>) -> Result<RegistryClient, EngineError> {
    let trust = Trust::of_machine(variable)?;
    let rules = Rules::load(variable)?;
    let http = HttpOptions {
        roots: trust.bundle().unwrap_or_default().to_vec(),
        proxies: Proxies::of(variable),
        ..HttpOptions::default()
    };
    let credentials = CredentialFiles::of_environment(variable);
    Ok(RegistryClient::new(RegistryOptions { rules, credentials, http }))
}
