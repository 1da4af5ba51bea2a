use std::path::PathBuf;

use wbuild_remote::Watch;

use crate::client::RegistryClient;
use crate::credentials::Credentials;
use crate::error::RegistryError;

/// Where credentials are kept now.
pub use crate::credentials::Kept;

impl RegistryClient {
    /// Asks a registry whether it knows somebody, and keeps the credentials where docker does.
    ///
    /// # Errors
    /// When it does not, cannot be asked, or the credentials cannot be kept.
    pub fn log_in(
        &self,
        registry: &str,
        user: &str,
        password: &str,
        watch: &Watch<'_>,
    ) -> Result<Kept, RegistryError> {
        let credentials = Credentials::Password { user: user.to_owned(), password: password.to_owned() };
        self.check(registry, &credentials, watch)?;
        Ok(self.credentials.keep(registry, user, password)?)
    }

    /// Forgets the credentials for a registry. Says from which file, or `None` when there were none.
    ///
    /// # Errors
    /// When the file cannot be read or written, or the program that keeps them does not forget them.
    pub fn log_out(&self, registry: &str) -> Result<Option<PathBuf>, RegistryError> {
        Ok(self.credentials.forget(registry)?)
    }
}
