//! `--annotation`, and the `annotation….KEY=VALUE` of an `--output`.

use wbuild_image::Annotations;
use wbuild_oci::Platform;
use wbuild_report::nearest;

use crate::commands::Failure;

/// Where an annotation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Manifest,
    ManifestDescriptor,
    Index,
    IndexDescriptor,
}

const LEVELS: [(&str, Level); 4] = [
    ("manifest", Level::Manifest),
    ("manifest-descriptor", Level::ManifestDescriptor),
    ("index", Level::Index),
    ("index-descriptor", Level::IndexDescriptor),
];

/// `--annotation [LEVEL[[PLATFORM]],…:]KEY=VALUE`; without a level it is for the manifest.
pub(super) fn flag(text: &str, platform: &Platform, into: &mut Annotations) -> Result<(), Failure> {
    let usage = |message: String| Failure::usage(message, "--annotation [LEVEL:]KEY=VALUE");
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| usage(format!("`--annotation {text}` is not of the form KEY=VALUE")))?;
    let (levels, key) = name.split_once(':').unwrap_or(("manifest", name));
    if key.is_empty() {
        return Err(usage(format!("`--annotation {text}` has no key")));
    }
    for level in levels.split(',') {
        put(level, platform, key, value, into)?;
    }
    Ok(())
}

/// `annotation[-LEVEL][[PLATFORM]].KEY=VALUE` of an output. `false` when the field is something else.
pub(super) fn field(
    name: &str,
    value: &str,
    platform: &Platform,
    into: &mut Annotations,
) -> Result<bool, Failure> {
    let Some((level, key)) = name.strip_prefix("annotation").and_then(|rest| rest.split_once('.')) else {
        return Ok(false);
    };
    let level = match level.strip_prefix('-') {
        Some(level) => level.to_owned(),
        None if level.is_empty() || level.starts_with('[') => format!("manifest{level}"),
        None => return Ok(false),
    };
    if key.is_empty() {
        return Err(Failure::usage(
            format!("`{name}={value}` in --output has no key"),
            "annotation.KEY=VALUE, for example annotation.org.opencontainers.image.source=URL",
        ));
    }
    put(&level, platform, key, value, into)?;
    Ok(true)
}

/// Notes one annotation; one for another platform than the one that is built is for another build.
fn put(
    level: &str,
    platform: &Platform,
    key: &str,
    value: &str,
    into: &mut Annotations,
) -> Result<(), Failure> {
    let (name, wanted) = match level.split_once('[') {
        Some((name, rest)) => (name, rest.strip_suffix(']')),
        None => (level, None),
    };
    if let Some(text) = wanted {
        let wanted: Platform = text.parse().map_err(|error: wbuild_oci::PlatformParseError| {
            Failure::usage(error.to_string(), "linux/amd64")
        })?;
        if !platform.satisfies(&wanted) {
            return Ok(());
        }
    }
    let found = LEVELS.iter().find(|(known, _)| *known == name).filter(|_| wanted.is_some() || name == level);
    let Some((_, level)) = found else {
        let near = nearest(name, LEVELS.iter().map(|(known, _)| *known));
        let hint = match near.first() {
            Some(near) => format!("did you mean `{near}`?"),
            None => "the levels are manifest, manifest-descriptor, index and index-descriptor".to_owned(),
        };
        return Err(Failure::usage(format!("`{level}` is no level of annotations"), hint));
    };
    let map = match level {
        Level::Manifest => &mut into.manifest,
        Level::ManifestDescriptor => &mut into.manifest_descriptor,
        Level::Index => &mut into.index,
        Level::IndexDescriptor => &mut into.index_descriptor,
    };
    map.insert(key.to_owned(), value.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(texts: &[&str]) -> Result<Annotations, Failure> {
        let mut annotations = Annotations::default();
        texts
            .iter()
            .try_for_each(|text| flag(text, &Platform::linux("amd64"), &mut annotations))
            .map(|()| annotations)
    }

    #[test]
    fn levels_and_platforms() {
        let found = flags(&[
            "a=1",
            "manifest,manifest-descriptor:b=2=3",
            "manifest[linux/amd64]:c=",
            "manifest[linux/arm64]:d=4",
            "index:e=5",
        ])
        .unwrap();
        assert_eq!(found.manifest, [("a", "1"), ("b", "2=3"), ("c", "")].map(owned).into());
        assert_eq!(found.manifest_descriptor, [("b", "2=3")].map(owned).into());
        assert!(found.want_index());
        for wrong in ["a", "=b", "mainfest:a=b", "manifest[linux/amd64:a=b", "manifest[]:a=b"] {
            assert!(flags(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn fields_of_outputs() {
        let mut annotations = Annotations::default();
        let mut put = |name| field(name, "x", &Platform::linux("amd64"), &mut annotations).ok();
        assert_eq!(put("annotation.org.example"), Some(true));
        assert_eq!(put("annotation-manifest-descriptor[linux/amd64].a.b"), Some(true));
        assert_eq!(put("annotation[linux/arm64].c"), Some(true));
        assert_eq!(put("annotations.c"), Some(false));
        assert_eq!(put("name"), Some(false));
        assert_eq!(put("annotation-mainfest.c"), None);
        assert_eq!(put("annotation."), None);
        assert_eq!(annotations.manifest, [("org.example", "x")].map(owned).into());
        assert_eq!(annotations.manifest_descriptor, [("a.b", "x")].map(owned).into());
    }

    fn owned((name, value): (&str, &str)) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }
}
