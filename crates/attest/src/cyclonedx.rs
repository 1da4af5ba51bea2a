//! CycloneDX 1.6 as JSON (cyclonedx.org/docs/1.6/json).

use serde_json::{Value, json};

use crate::document::{About, uuid};
use crate::license::License;
use crate::spdx::facts;
use crate::{Algorithm, Checksum, Ecosystem, Inventory, Package, Presence};

const IMAGE: &str = "image";

impl Inventory {
    /// The inventory as CycloneDX 1.6.
    pub fn cyclonedx(&self, about: &About) -> Value {
        let components: Vec<Value> =
            self.packages().iter().map(|(purl, package)| component(purl, package)).collect();
        let in_image = |(purl, package): (&String, &Package)| {
            (package.presence == Presence::Found).then(|| purl.clone())
        };
        let depends_on: Vec<String> = self.packages().iter().filter_map(in_image).collect();
        let mut image = json!({
            "type": "container",
            "bom-ref": IMAGE,
            "name": about.name,
            "properties": [property("platform", &about.platform)],
        });
        if let Some(digest) = &about.digest {
            image["version"] = digest.to_string().into();
            image["hashes"] = json!([{ "alg": "SHA-256", "content": digest.hex() }]);
        }
        let mut document = json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {
                "timestamp": about.created,
                "tools": { "components": [
                    { "type": "application", "name": "wbuild", "version": about.version },
                ] },
                "component": image,
            },
            "components": components,
            "dependencies": [{ "ref": IMAGE, "dependsOn": depends_on }],
        });
        if !self.notes.is_empty() {
            let notes: Vec<Value> = self.notes.iter().map(|note| property("note", note)).collect();
            document["metadata"]["properties"] = notes.into();
        }
        let id = uuid(document.to_string().as_bytes());
        document["serialNumber"] = format!("urn:uuid:{id}").into();
        document
    }
}

fn property(name: &str, value: &str) -> Value {
    json!({ "name": format!("wbuild:{name}"), "value": value })
}

fn component(purl: &str, package: &Package) -> Value {
    let mut component = json!({
        "type": match package.ecosystem {
            Ecosystem::Generic => "application",
            _ => "library",
        },
        "bom-ref": purl,
        "name": package.name,
        "purl": purl,
        "scope": match package.presence {
            Presence::Found => "required",
            Presence::Locked => "excluded",
        },
        "properties": facts(package).iter().map(|(name, value)| property(name, value)).collect::<Vec<_>>(),
    });
    if let (Ecosystem::Npm, Some(scope)) = (package.ecosystem, &package.namespace) {
        component["group"] = scope.as_str().into();
    }
    if let Some(version) = &package.version {
        component["version"] = version.as_str().into();
    }
    if let Some(supplier) = &package.supplier {
        component["supplier"] = json!({ "name": supplier });
    }
    if let Some(license) = package.license.as_deref().filter(|text| !text.is_empty()).map(License::of) {
        component["licenses"] = json!([match license {
            License::Expression(id) if License::is_one(&id) => json!({ "license": { "id": id } }),
            License::Expression(expression) => json!({ "expression": expression }),
            License::Words(name) => json!({ "license": { "name": name } }),
        }]);
    }
    if !package.checksums.is_empty() {
        component["hashes"] = package.checksums.iter().map(hash).collect::<Vec<_>>().into();
    }
    if let Some(url) = &package.download {
        component["externalReferences"] = json!([{ "type": "distribution", "url": url }]);
    }
    if !package.places.is_empty() {
        let places = package.places.iter().map(|place| json!({ "location": format!("/{place}") }));
        component["evidence"] = json!({ "occurrences": places.collect::<Vec<_>>() });
    }
    component
}

fn hash(checksum: &Checksum) -> Value {
    let algorithm = match checksum.algorithm {
        Algorithm::Sha1 => "SHA-1",
        Algorithm::Sha256 => "SHA-256",
        Algorithm::Sha384 => "SHA-384",
        Algorithm::Sha512 => "SHA-512",
    };
    json!({ "alg": algorithm, "content": checksum.hex })
}

#[cfg(test)]
mod tests {
    use insta::assert_json_snapshot;

    use crate::spdx::tests::{about, inventory};

    #[test]
    fn the_whole_document() {
        assert_json_snapshot!(inventory().cyclonedx(&about()));
    }
}
