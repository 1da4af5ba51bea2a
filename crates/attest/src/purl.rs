use std::collections::BTreeMap;
use std::fmt::Write;

use wbuild_oci::Reference;

/// A package URL (github.com/package-url/purl-spec): `pkg:npm/%40scope/name@1.0.0?arch=x86_64`.
pub fn purl(
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    version: Option<&str>,
    qualifiers: &BTreeMap<String, String>,
) -> String {
    let mut text = format!("pkg:{kind}/");
    for part in
        namespace.into_iter().flat_map(|namespace| namespace.split('/')).filter(|part| !part.is_empty())
    {
        encode(&mut text, part);
        text.push('/');
    }
    encode(&mut text, name);
    if let Some(version) = version {
        text.push('@');
        encode(&mut text, version);
    }
    let present = qualifiers.iter().filter(|(_, value)| !value.is_empty());
    for (index, (key, value)) in present.enumerate() {
        let _ = write!(text, "{}{key}=", if index == 0 { '?' } else { '&' });
        encode(&mut text, value);
    }
    text
}

/// An image by its name, as BuildKit writes it in provenance: `pkg:docker/node@22?platform=linux%2Famd64`.
pub fn docker_purl(reference: &Reference, platform: Option<&str>) -> String {
    let plain = Reference { tag: None, digest: None, ..reference.clone() }.familiar();
    let (namespace, name) = match plain.rsplit_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name.to_owned()),
        None => (None, plain),
    };
    let mut qualifiers = BTreeMap::new();
    if let Some(digest) = &reference.digest {
        qualifiers.insert("digest".to_owned(), digest.to_string());
    }
    if let Some(platform) = platform {
        qualifiers.insert("platform".to_owned(), platform.to_owned());
    }
    purl("docker", namespace.as_deref(), &name, reference.tag.as_deref(), &qualifiers)
}

/// Percent-encoding as the specification wants it: everything but letters, digits, `.`, `-`, `_`, `~` and the colon.
fn encode(text: &mut String, part: &str) {
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                text.push(char::from(byte));
            }
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purls_of_the_specification() {
        let none = BTreeMap::new();
        let cases = [
            (
                purl("npm", Some("@angular"), "animation", Some("12.3.1"), &none),
                "pkg:npm/%40angular/animation@12.3.1",
            ),
            (purl("generic", None, "a b", None, &none), "pkg:generic/a%20b"),
            (
                purl(
                    "deb",
                    Some("debian"),
                    "curl",
                    Some("1:7.50+b1"),
                    &BTreeMap::from([("distro".into(), "jessie".into()), ("arch".into(), "i386".into())]),
                ),
                "pkg:deb/debian/curl@1:7.50%2Bb1?arch=i386&distro=jessie",
            ),
        ];
        for (made, expected) in cases {
            assert_eq!(made, expected);
        }
    }

    #[test]
    fn images_as_buildkit_names_them() {
        let made = |text: &str| docker_purl(&text.parse().unwrap(), Some("linux/amd64"));
        assert_eq!(made("node:22"), "pkg:docker/node@22?platform=linux%2Famd64");
        assert_eq!(made("ghcr.io/a/b:1"), "pkg:docker/ghcr.io/a/b@1?platform=linux%2Famd64");
    }
}
