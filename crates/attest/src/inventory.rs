use std::collections::{BTreeMap, BTreeSet};

use crate::purl::purl;

/// Who packages it; the type of its purl.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ecosystem {
    /// Alpine's.
    Apk,
    /// Debian's and Ubuntu's.
    Deb,
    /// npm's.
    Npm,
    /// Those of rpm: Red Hat's, Fedora's, SUSE's, Amazon's.
    Rpm,
    /// Nobody: a program that was put there.
    Generic,
}

impl Ecosystem {
    /// As purls have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Apk => "apk",
            Self::Deb => "deb",
            Self::Npm => "npm",
            Self::Rpm => "rpm",
            Self::Generic => "generic",
        }
    }
}

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// 160 bits.
    Sha1,
    /// 256 bits.
    Sha256,
    /// 384 bits.
    Sha384,
    /// 512 bits.
    Sha512,
}

impl Algorithm {
    /// Bytes of a value.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// A checksum of what was installed as it is distributed: npm's tarball, a program's file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Checksum {
    /// Of which kind.
    pub algorithm: Algorithm,
    /// Lower-case hexadecimal digits.
    pub hex: String,
}

impl Checksum {
    /// A value that has the right length.
    pub(crate) fn new(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        (bytes.len() == algorithm.bytes()).then(|| Self { algorithm, hex: hex::encode(bytes) })
    }
}

/// Whether a package is in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// A lockfile of the build names it, and it is nowhere in the image as a package: it built something, or it is part of
    /// a bundle.
    Locked,
    /// Its files are in the image.
    Found,
}

/// A package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Who packages it.
    pub ecosystem: Ecosystem,
    /// Distribution, or scope with its `@`.
    pub namespace: Option<String>,
    /// Its name, without the scope.
    pub name: String,
    /// Its version.
    pub version: Option<String>,
    /// What else belongs to its purl: `arch`, `distro`, `upstream`.
    pub qualifiers: BTreeMap<String, String>,
    /// Its license, in its own words.
    pub license: Option<String>,
    /// Checksums of its distribution.
    pub checksums: BTreeSet<Checksum>,
    /// Where it can be had.
    pub download: Option<String>,
    /// Who distributes it.
    pub supplier: Option<String>,
    /// Paths in the image that say so: without a slash at the beginning.
    pub places: BTreeSet<String>,
    /// Whether it is in the image.
    pub presence: Presence,
    /// Whether (one of) its places is in the base image.
    pub in_base: bool,
    /// What is known beside, by names of this project.
    pub facts: BTreeMap<String, String>,
}

impl Package {
    /// A package of which nothing else is known.
    pub fn new(ecosystem: Ecosystem, name: impl Into<String>, presence: Presence) -> Self {
        Self {
            ecosystem,
            namespace: None,
            name: name.into(),
            version: None,
            qualifiers: BTreeMap::new(),
            license: None,
            checksums: BTreeSet::new(),
            download: None,
            supplier: None,
            places: BTreeSet::new(),
            presence,
            in_base: false,
            facts: BTreeMap::new(),
        }
    }

    /// With its scope or distribution, as people write it.
    pub fn full_name(&self) -> String {
        match (self.ecosystem, &self.namespace) {
            (Ecosystem::Npm, Some(scope)) => format!("{scope}/{}", self.name),
            _ => self.name.clone(),
        }
    }

    /// Its package URL: what it is known by.
    pub fn purl(&self) -> String {
        let name = self.ecosystem.name();
        purl(name, self.namespace.as_deref(), &self.name, self.version.as_deref(), &self.qualifiers)
    }

    /// The same package, seen elsewhere.
    fn merge(&mut self, other: Self) {
        self.license = self.license.take().or(other.license);
        self.download = self.download.take().or(other.download);
        self.supplier = self.supplier.take().or(other.supplier);
        self.checksums.extend(other.checksums);
        self.places.extend(other.places);
        self.presence = self.presence.max(other.presence);
        self.in_base |= other.in_base;
        for (name, value) in other.facts {
            self.facts.entry(name).or_insert(value);
        }
    }
}

/// The packages of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    packages: BTreeMap<String, Package>,
    /// What could not be found out, in sentences.
    pub notes: BTreeSet<String>,
}

impl Inventory {
    /// Adds a package; one that is there already, by its purl, becomes one with it.
    pub fn add(&mut self, package: Package) {
        let purl = package.purl();
        match self.packages.get_mut(&purl) {
            Some(known) => known.merge(package),
            None => {
                self.packages.insert(purl, package);
            }
        }
    }

    /// The packages by purl.
    pub fn packages(&self) -> &BTreeMap<String, Package> {
        &self.packages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_is_locked_and_found_is_one() {
        let mut locked = Package::new(Ecosystem::Npm, "a", Presence::Locked);
        locked.checksums.extend(Checksum::new(Algorithm::Sha1, &[1; 20]));
        let mut found = Package::new(Ecosystem::Npm, "a", Presence::Found);
        found.places.insert("node_modules/a".to_owned());
        found.license = Some("MIT".to_owned());
        let mut one = Inventory::default();
        one.add(locked.clone());
        one.add(found.clone());
        let mut other = Inventory::default();
        other.add(found);
        other.add(locked);
        assert_eq!(one, other);
        let package = &one.packages()["pkg:npm/a"];
        assert_eq!((package.presence, package.checksums.len()), (Presence::Found, 1));
    }
}
