use wbuild_oci::Reference;
use wbuild_registry::{CredentialFiles, Rules};
use wbuild_report::Hint;

use super::{Fields, PlaceError, Variables};
use crate::backend::{LONGEST_GIVEN_TAG, Network, RegistryBackend};
use crate::error::in_one_line;

/// A repository of an image registry, and how it is reached.
#[derive(Clone, Debug)]
pub(super) struct RegistryPlace {
    reference: Reference,
    rules: Rules,
    credentials: CredentialFiles,
}

impl RegistryPlace {
    pub(super) fn read(fields: &mut Fields, variable: Variables<'_>) -> Result<Self, PlaceError> {
        let text = fields.need("ref")?;
        let reference: Reference =
            text.parse().map_err(|error: wbuild_oci::ReferenceParseError| fields.error(error.to_string()))?;
        if reference.digest.is_some() {
            return Err(fields.error("a digest cannot be written to".to_owned()));
        }
        if reference.tag.as_ref().is_some_and(|tag| tag.len() > LONGEST_GIVEN_TAG) {
            return Err(fields.error(format!("the tag has more than {LONGEST_GIVEN_TAG} characters")));
        }
        let rules = Rules::load(&variable).map_err(|error| {
            let hint = error.hints().into_iter().next().unwrap_or_default();
            fields.error_with(in_one_line(&error), hint)
        })?;
        let credentials = CredentialFiles::of_environment(&variable);
        Ok(Self { reference, rules, credentials })
    }

    pub(super) fn connect(&self, network: &Network) -> RegistryBackend {
        let Self { reference, rules, credentials } = self.clone();
        RegistryBackend::new(reference, rules, credentials, network)
    }
}
