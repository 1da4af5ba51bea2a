//! `--build-context NAME=PLACE`.

use std::collections::BTreeMap;

use wbuild_engine::{ContextPlace, ImageLocation};
use wbuild_frontend::NamedContext;
use wbuild_graph::ImageRef;

use crate::args::DockerfileArgs;
use crate::commands::Failure;

/// The named contexts, sorted by what they are.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    /// For the frontend.
    pub(super) named: BTreeMap<String, NamedContext>,
    /// Where images are that are no images of a registry.
    pub(super) images: BTreeMap<String, ImageLocation>,
    /// Where files are.
    pub(super) files: BTreeMap<String, ContextPlace>,
}

impl Contexts {
    pub(super) fn parse(args: &DockerfileArgs) -> Result<Self, Failure> {
        let mut contexts = Self::default();
        for text in &args.build_contexts {
            let usage = |message: String| {
                Failure::usage(
                    message,
                    "for example --build-context src=../src or alpine:3.23=oci-layout://DIR[:TAG|@DIGEST]",
                )
            };
            let Some((name, place)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                return Err(usage(format!("`--build-context {text}` is not of the form NAME=PLACE")));
            };
            let context = if place.starts_with("oci-layout://") {
                let location = ImageLocation::parse(place).map_err(|error| usage(error.to_string()))?;
                contexts.images.insert(name.to_owned(), location);
                NamedContext::Image(ImageRef::new(name))
            } else if let Some(reference) = place.strip_prefix("docker-image://") {
                NamedContext::Image(ImageRef::new(reference))
            } else if place.starts_with("target:") || place.starts_with("input:") {
                return Err(usage(format!("`{place}` names a target of a bake file; there is none here")));
            } else {
                let place = place.strip_prefix("local:").unwrap_or(place);
                let place = ContextPlace::parse(place).map_err(|error| usage(error.to_string()))?;
                contexts.files.insert(name.to_owned(), place);
                NamedContext::Files
            };
            contexts.named.insert(name.to_owned(), context);
        }
        Ok(contexts)
    }
}
