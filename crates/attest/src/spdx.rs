//! SPDX 2.3 as JSON (spdx.github.io/spdx-spec/v2.3). Every package is one element; the image is the element that the document
//! describes.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wbuild_oci::Digest;

use crate::document::{About, uuid};
use crate::license::License;
use crate::{Algorithm, Ecosystem, Inventory, Package, Presence};

const NOT_SAID: &str = "NOASSERTION";
const IMAGE: &str = "SPDXRef-Image";
const DOCUMENT: &str = "SPDXRef-DOCUMENT";

impl Inventory {
    /// The inventory as SPDX 2.3.
    pub fn spdx(&self, about: &About) -> Value {
        let mut words = BTreeMap::new();
        let mut packages = vec![image(about)];
        let mut relationships = vec![relationship(DOCUMENT, "DESCRIBES", IMAGE)];
        for (purl, package) in self.packages() {
            let id = element_id(package, purl);
            relationships.push(match package.presence {
                Presence::Found => relationship(IMAGE, "CONTAINS", &id),
                Presence::Locked => relationship(&id, "BUILD_DEPENDENCY_OF", IMAGE),
            });
            packages.push(element(&id, purl, package, &mut words));
        }
        let mut document = json!({
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": DOCUMENT,
            "name": about.name,
            "creationInfo": {
                "created": about.created,
                "creators": [format!("Tool: wbuild-{}", about.version)],
            },
            "packages": packages,
            "relationships": relationships,
        });
        if !self.notes.is_empty() {
            document["comment"] = self.notes.iter().cloned().collect::<Vec<_>>().join("\n").into();
        }
        if !words.is_empty() {
            let infos: Vec<Value> = words
                .iter()
                .map(|(id, text)| json!({ "licenseId": id, "extractedText": text, "name": text }))
                .collect();
            document["hasExtractedLicensingInfos"] = infos.into();
        }
        // The specification's own form for documents that nobody has put anywhere.
        let id = uuid(document.to_string().as_bytes());
        let name = plain(&about.name);
        document["documentNamespace"] = format!("https://spdx.org/spdxdocs/{name}-{id}").into();
        document
    }
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

fn image(about: &About) -> Value {
    let mut image = json!({
        "SPDXID": IMAGE,
        "name": about.name,
        "downloadLocation": NOT_SAID,
        "filesAnalyzed": false,
        "licenseConcluded": NOT_SAID,
        "licenseDeclared": NOT_SAID,
        "copyrightText": NOT_SAID,
        "primaryPackagePurpose": "CONTAINER",
        "comment": format!("platform {}", about.platform),
    });
    if let Some(digest) = &about.digest {
        image["versionInfo"] = digest.to_string().into();
        image["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": digest.hex() }]);
    }
    image
}

fn element(id: &str, purl: &str, package: &Package, words: &mut BTreeMap<String, String>) -> Value {
    let declared = match package.license.as_deref().map(License::of) {
        None => NOT_SAID.to_owned(),
        Some(License::Expression(expression)) => expression,
        Some(License::Words(text)) if text.is_empty() => NOT_SAID.to_owned(),
        Some(License::Words(text)) => {
            let short = Digest::of(text.as_bytes()).hex()[..8].to_owned();
            let start: String = plain(&text).chars().take(40).collect();
            let id = format!("LicenseRef-{start}-{short}");
            words.insert(id.clone(), text);
            id
        }
    };
    let mut element = json!({
        "SPDXID": id,
        "name": package.full_name(),
        "downloadLocation": package.download.as_deref().unwrap_or(NOT_SAID),
        "filesAnalyzed": false,
        "licenseConcluded": NOT_SAID,
        "licenseDeclared": declared,
        "copyrightText": NOT_SAID,
        "primaryPackagePurpose": match package.ecosystem {
            Ecosystem::Generic => "APPLICATION",
            _ => "LIBRARY",
        },
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl,
        }],
    });
    if let Some(version) = &package.version {
        element["versionInfo"] = version.as_str().into();
    }
    if let Some(supplier) = &package.supplier {
        element["supplier"] = format!("Organization: {supplier}").into();
    }
    if !package.checksums.is_empty() {
        let checksum = |sum: &crate::Checksum| json!({ "algorithm": algorithm(sum.algorithm), "checksumValue": sum.hex });
        element["checksums"] = package.checksums.iter().map(checksum).collect::<Vec<_>>().into();
    }
    if !package.places.is_empty() {
        let places: Vec<String> = package.places.iter().map(|place| format!("/{place}")).collect();
        element["sourceInfo"] = format!("found in the image: {}", places.join(", ")).into();
    }
    let facts = facts(package);
    if !facts.is_empty() {
        let facts: Vec<String> = facts.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        element["comment"] = facts.join("\n").into();
    }
    element
}

/// What is known of a package and has no field of its own.
pub(crate) fn facts(package: &Package) -> BTreeMap<String, String> {
    let mut facts = package.facts.clone();
    let presence = match package.presence {
        Presence::Found => "in the image",
        Presence::Locked => {
            "named by the lockfile, not a package of the image: used to build it, or part of a bundle"
        }
    };
    facts.insert("presence".to_owned(), presence.to_owned());
    if package.in_base {
        facts.insert("base-image".to_owned(), "true".to_owned());
    }
    facts
}

fn algorithm(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Sha1 => "SHA1",
        Algorithm::Sha256 => "SHA256",
        Algorithm::Sha384 => "SHA384",
        Algorithm::Sha512 => "SHA512",
    }
}

/// Names of elements may have letters, digits, dots and hyphens only, so two packages are told apart by the digest of what
/// they are known by.
fn element_id(package: &Package, purl: &str) -> String {
    let name: String = plain(&package.full_name()).chars().take(60).collect();
    format!(
        "SPDXRef-Package-{}-{name}-{}",
        package.ecosystem.name(),
        &Digest::of(purl.as_bytes()).hex()[..12]
    )
}

fn plain(text: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    text.chars().map(allowed).collect::<String>().trim_matches('-').to_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use insta::assert_json_snapshot;

    use super::*;
    use crate::Checksum;

    pub(crate) fn inventory() -> Inventory {
        let mut inventory = Inventory::default();
        let mut found = Package::new(Ecosystem::Npm, "left", Presence::Found);
        found.namespace = Some("@scope".to_owned());
        found.version = Some("1.2.3".to_owned());
        found.license = Some("Do what you like".to_owned());
        found.checksums.extend(Checksum::new(Algorithm::Sha1, &[0xab; 20]));
        found.places.insert("app/node_modules/@scope/left".to_owned());
        inventory.add(found);
        let mut locked = Package::new(Ecosystem::Npm, "tool", Presence::Locked);
        locked.version = Some("2.0.0".to_owned());
        locked.license = Some("MIT OR Apache-2.0".to_owned());
        inventory.add(locked);
        inventory.notes.insert("something was not read".to_owned());
        inventory
    }

    pub(crate) fn about() -> About {
        About {
            name: "web:1".to_owned(),
            digest: Some(Digest::of(b"manifest")),
            platform: "linux/amd64".to_owned(),
            created: "1970-01-01T00:00:01Z".to_owned(),
            version: "1.0.0".to_owned(),
        }
    }

    #[test]
    fn the_whole_document() {
        assert_json_snapshot!(inventory().spdx(&about()));
    }

    #[test]
    fn the_namespace_is_that_of_the_content() {
        let namespace = |about: &About| inventory().spdx(about)["documentNamespace"].clone();
        assert_eq!(namespace(&about()), namespace(&about()));
        assert_ne!(namespace(&about()), namespace(&About { platform: "linux/arm64".to_owned(), ..about() }));
    }
}
