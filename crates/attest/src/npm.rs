//! npm packages: `package.json`s in `node_modules`, and what lockfiles know of them.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::{Algorithm, Checksum, Ecosystem, Package, Presence};

/// A package as a lockfile knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locked {
    /// With its scope.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Checksums of its tarball, in the form of Subresource Integrity.
    pub integrity: Option<String>,
    /// Where its tarball is, when that is written down.
    pub tarball: Option<String>,
    /// Whether an install may leave it out: what is for another machine.
    pub optional: bool,
}

impl Locked {
    /// The package, as one that is only named.
    pub fn package(&self) -> Package {
        let mut package = named(&self.name, Some(self.version.clone()), Presence::Locked);
        package.checksums = self.checksums();
        package.download = self.download();
        if self.optional {
            package.facts.insert("optional".to_owned(), "true".to_owned());
        }
        package
    }

    fn checksums(&self) -> BTreeSet<Checksum> {
        self.integrity.as_deref().map(integrity).unwrap_or_default()
    }

    /// Only public addresses: others say where somebody's registry is, and perhaps how to get in.
    fn download(&self) -> Option<String> {
        self.tarball.clone().filter(|url| {
            let rest = url.strip_prefix("https://").unwrap_or_default();
            let host = rest.split('/').next().unwrap_or_default();
            !host.is_empty() && !host.contains('@') && !rest.contains(['?', '#'])
        })
    }
}

/// What lockfiles know, by name and version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locks(BTreeMap<(String, String), Locked>);

impl Locks {
    /// Adds what one knows.
    pub fn extend(&mut self, locked: impl IntoIterator<Item = Locked>) {
        for locked in locked {
            self.0.entry((locked.name.clone(), locked.version.clone())).or_insert(locked);
        }
    }

    /// Adds to a package what is known of it.
    pub fn complete(&self, package: &mut Package) {
        let Some(version) = &package.version else { return };
        let Some(locked) = self.0.get(&(package.full_name(), version.clone())) else { return };
        package.checksums.extend(locked.checksums());
        package.download = package.download.take().or_else(|| locked.download());
    }
}

/// The checksums of an integrity value (W3C Subresource Integrity): `sha512-<base64> …`.
pub fn integrity(text: &str) -> BTreeSet<Checksum> {
    let checksum = |part: &str| {
        let (name, value) = part.split_once('-')?;
        let algorithm = match name {
            "sha1" => Algorithm::Sha1,
            "sha256" => Algorithm::Sha256,
            "sha384" => Algorithm::Sha384,
            "sha512" => Algorithm::Sha512,
            _ => return None,
        };
        Checksum::new(algorithm, &STANDARD.decode(value.split('?').next()?).ok()?)
    };
    text.split_whitespace().filter_map(checksum).collect()
}

/// The folder that `path` makes a package of: `…/node_modules/NAME` or `…/node_modules/@SCOPE/NAME` for the `package.json` in
/// it, and nothing for any other file. A package has further manifests inside, which only say how to read its modules.
pub fn package_folder(path: &str) -> Option<(&str, String)> {
    let folder = path.strip_suffix("/package.json")?;
    let mut parts = folder.rsplit('/');
    let (name, above) = (parts.next()?, parts.next()?);
    let named = match above {
        "node_modules" => name.to_owned(),
        scope if scope.starts_with('@') && parts.next()? == "node_modules" => format!("{scope}/{name}"),
        _ => return None,
    };
    (!name.starts_with('.') && !name.starts_with('@')).then_some((folder, named))
}

/// The package of a `package.json` in `folder`, which is called `installed_as`; nothing if it is not one.
pub fn package(manifest: &[u8], folder: &str, installed_as: &str) -> Option<Package> {
    let manifest: Value = serde_json::from_slice(strip_mark(manifest)).ok()?;
    let text = |field: &str| manifest.get(field)?.as_str().map(str::trim).filter(|text| !text.is_empty());
    let name = text("name").unwrap_or(installed_as);
    let mut package = named(name, text("version").map(str::to_owned), Presence::Found);
    package.license = license(&manifest);
    package.places.insert(folder.to_owned());
    if name != installed_as {
        package.facts.insert("installed-as".to_owned(), installed_as.to_owned());
    }
    Some(package)
}

/// What a `package-lock.json`, or the hidden `node_modules/.package-lock.json`, knows (npm 7 and later).
pub fn package_lock(bytes: &[u8]) -> Vec<Locked> {
    let Ok(lock) = serde_json::from_slice::<Value>(strip_mark(bytes)) else { return Vec::new() };
    let Some(packages) = lock.get("packages").and_then(Value::as_object) else { return Vec::new() };
    let locked = |(path, entry): (&String, &Value)| {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).map(str::to_owned);
        let in_folder = || path.rsplit_once("node_modules/").map(|(_, name)| name.to_owned());
        Some(Locked {
            name: text("name").or_else(in_folder)?,
            version: text("version")?,
            integrity: text("integrity"),
            tarball: text("resolved"),
            optional: entry.get("optional").and_then(Value::as_bool).unwrap_or(false),
        })
    };
    packages.iter().filter_map(locked).collect()
}

fn named(name: &str, version: Option<String>, presence: Presence) -> Package {
    let (scope, plain) = match name.split_once('/') {
        Some((scope, plain)) if scope.starts_with('@') => (Some(scope.to_owned()), plain),
        _ => (None, name),
    };
    Package { namespace: scope, version, ..Package::new(Ecosystem::Npm, plain, presence) }
}

/// `license` as text, as the object of old, or as the list of older.
fn license(manifest: &Value) -> Option<String> {
    let one = |value: &Value| {
        let text = value.as_str().or_else(|| value.get("type")?.as_str())?.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    if let Some(license) = manifest.get("license").and_then(one) {
        return Some(license);
    }
    let all: Vec<String> = manifest.get("licenses")?.as_array()?.iter().filter_map(one).collect();
    match all.as_slice() {
        [] => None,
        [only] => Some(only.clone()),
        // npm's documentation: "dual licensed", so any of them.
        several => Some(format!("({})", several.join(" OR "))),
    }
}

/// Without the byte order mark that some editors write.
fn strip_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packages_are_folders_of_node_modules() {
        for (path, expected) in [
            ("a/node_modules/b/package.json", Some("b")),
            ("node_modules/@s/b/package.json", Some("@s/b")),
            ("app/node_modules/.pnpm/b@1/node_modules/b/package.json", Some("b")),
            ("node_modules/b/dist/esm/package.json", None),
            ("node_modules/.bin/package.json", None),
            ("node_modules/package.json", None),
            ("package.json", None),
            ("a/b/package.json", None),
        ] {
            assert_eq!(package_folder(path).map(|(_, name)| name).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn licenses_in_all_their_forms() {
        let read = |json: &str| package(json.as_bytes(), "node_modules/a", "a").unwrap().license;
        assert_eq!(read(r#"{"license":"MIT"}"#).as_deref(), Some("MIT"));
        assert_eq!(read(r#"{"license":{"type":"ISC","url":""}}"#).as_deref(), Some("ISC"));
        assert_eq!(read(r#"{"licenses":[{"type":"MIT"},{"type":"BSD"}]}"#).as_deref(), Some("(MIT OR BSD)"));
        assert_eq!(read("\u{feff}{}"), None);
        assert!(package(b"[", "a", "a").is_none());
    }

    #[test]
    fn integrity_is_decoded_and_checked_for_its_length() {
        let found = integrity("sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk= sha512-AA== md5-x");
        assert_eq!(found.len(), 1);
        assert_eq!(found.first().unwrap().hex, "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    }

    #[test]
    fn locks_complete_packages() {
        let mut locks = Locks::default();
        locks.extend(package_lock(
            br#"{"packages":{"":{"version":"1"},"node_modules/@s/a":{"version":"2.0.0",
            "resolved":"https://registry.npmjs.org/@s/a/-/a-2.0.0.tgz","integrity":"sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="},
            "x/node_modules/b":{"version":"1.0.0","resolved":"https://user:word@npm.test/b-1.0.0.tgz"}}}"#,
        ));
        let mut a = package(br#"{"name":"@s/a","version":"2.0.0"}"#, "node_modules/@s/a", "@s/a").unwrap();
        locks.complete(&mut a);
        assert_eq!((a.checksums.len(), a.purl().as_str()), (1, "pkg:npm/%40s/a@2.0.0"));
        assert_eq!(a.download.as_deref(), Some("https://registry.npmjs.org/@s/a/-/a-2.0.0.tgz"));
        let mut b = package(br#"{"name":"b","version":"1.0.0"}"#, "node_modules/b", "b").unwrap();
        locks.complete(&mut b);
        assert_eq!(b.download, None);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), path in "[a/@.n_]{0,20}") {
            let _ = package(&bytes, "a", "a");
            let _ = package_lock(&bytes);
            let _ = package_folder(&path);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let _ = integrity(&text);
            let os = crate::OsRelease::parse(&bytes);
            let _ = crate::apk::packages(&bytes, &os, "a");
            let _ = crate::dpkg::packages(&bytes, &os, "a");
            let _ = crate::without_passwords(&text);
        }
    }
}
