use std::collections::{BTreeMap, BTreeSet};

use wbuild_oci::{ImageConfig, Platform};

use crate::{Project, Spec};

/// What [`lower`](crate::lower) wants to know beside the spec and the workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// References of the images whose configurations are needed, as written.
    pub images: Vec<String>,
    /// Names, with `*`, of variables that the spec takes from the host when they are set there.
    pub host_env: Vec<String>,
}

/// What a graph is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What is to be built.
    pub spec: &'a Spec,
    /// The workspace, for the spec's application.
    pub project: &'a Project,
    /// What was found out for [`Needs`].
    pub facts: &'a Facts,
    /// For which platform.
    pub platform: &'a Platform,
    /// `--build-arg`, the values that were taken from the host among them.
    pub build_args: &'a BTreeMap<String, String>,
    /// The ids of the secrets that were given.
    pub secrets: &'a BTreeSet<String>,
}

/// The answers to [`Needs`].
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Configurations by reference as written.
    pub images: BTreeMap<String, ImageConfig>,
    /// Variables of the host that match [`Needs::host_env`].
    pub host_env: BTreeMap<String, String>,
}

/// Which facts [`lower`](crate::lower) wants to know.
pub fn needs(spec: &Spec) -> Needs {
    let mut images = vec![spec.base.clone()];
    if spec.runner.image != spec.base {
        images.push(spec.runner.image.clone());
    }
    Needs { images, host_env: spec.build.from_host.clone() }
}
