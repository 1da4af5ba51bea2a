//! Named contexts: what `--build-context NAME=…` puts in the place of an image, a stage or `--from`.

use std::collections::BTreeMap;

use wbuild_graph::ImageRef;
use wbuild_oci::{Platform, Reference};

/// What a named context is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// An image.
    Image(ImageRef),
    /// Files: a folder, an archive or a repository, listed under the context's name.
    Files,
}

/// The context that stands for `name`: one for the platform (`name::linux/arm64`) before one for all. Names of images
/// are compared as references, so that `alpine` means `docker.io/library/alpine:latest` (BuildKit).
pub(super) fn find<'a>(
    contexts: &'a BTreeMap<String, NamedContext>,
    name: &str,
    platform: &Platform,
) -> Option<(&'a str, &'a NamedContext)> {
    if name.is_empty() || contexts.is_empty() {
        return None;
    }
    let exact = |name: &str| contexts.get_key_value(name).map(|(name, context)| (name.as_str(), context));
    exact(&format!("{name}::{platform}")).or_else(|| exact(name)).or_else(|| {
        let wanted: Reference = name.parse().ok()?;
        let same = |given: &str| {
            let (given, for_platform) = given.split_once("::").map_or((given, None), |(n, p)| (n, Some(p)));
            for_platform.is_none_or(|text| text == platform.to_string())
                && given.parse::<Reference>().is_ok_and(|given| given == wanted)
        };
        contexts.iter().find(|(given, _)| same(given)).map(|(given, context)| (given.as_str(), context))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_references() {
        let image = |name: &str| NamedContext::Image(ImageRef::new(name));
        let contexts = BTreeMap::from([
            ("alpine:3.23".to_owned(), image("a")),
            ("src".to_owned(), NamedContext::Files),
            ("tools::linux/arm64".to_owned(), image("b")),
        ]);
        let platform: Platform = "linux/amd64".parse().unwrap();
        let found = |name: &str| find(&contexts, name, &platform).map(|(name, _)| name);
        assert_eq!(found("alpine:3.23"), Some("alpine:3.23"));
        assert_eq!(found("docker.io/library/alpine:3.23"), Some("alpine:3.23"));
        assert_eq!(found("src"), Some("src"));
        assert_eq!(found("tools"), None);
        assert_eq!(found("alpine"), None);
        let arm: Platform = "linux/arm64".parse().unwrap();
        assert_eq!(find(&contexts, "tools", &arm).map(|(name, _)| name), Some("tools::linux/arm64"));
    }
}
