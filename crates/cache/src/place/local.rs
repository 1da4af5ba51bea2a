use std::path::{Path, PathBuf};

use super::{Fields, PlaceError, Role};
use crate::backend::LocalBackend;

/// A folder.
#[derive(Clone, Debug)]
pub(super) struct LocalPlace(PathBuf);

impl LocalPlace {
    pub(super) fn read(fields: &mut Fields) -> Result<Self, PlaceError> {
        let name = match fields.role {
            Role::Export => "dest",
            Role::Import => "src",
        };
        Ok(Self(fields.need(name)?.into()))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    pub(super) fn connect(&self) -> LocalBackend {
        LocalBackend::new(self.0.clone())
    }
}
