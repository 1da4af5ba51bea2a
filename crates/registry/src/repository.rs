use std::fmt;

use wbuild_oci::{Digest, Reference};

/// A repository of a registry: where blobs and manifests are kept together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    pub(crate) registry: String,
    pub(crate) name: String,
}

impl Repository {
    /// That of a reference.
    pub fn of(reference: &Reference) -> Self {
        Self { registry: reference.registry.clone(), name: reference.repository.clone() }
    }

    /// The registry as references name it: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The name in the registry: `library/node`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A reference to something in it.
    pub(crate) fn reference(&self, tag: Option<String>, digest: Option<Digest>) -> Reference {
        Reference { registry: self.registry.clone(), repository: self.name.clone(), tag, digest }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.name)
    }
}

/// What a token is asked for (the token specification's resource scopes).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scope {
    pub(crate) repository: String,
    pub(crate) push: bool,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actions = if self.push { "pull,push" } else { "pull" };
        write!(f, "repository:{}:{actions}", self.repository)
    }
}
