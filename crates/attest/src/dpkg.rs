//! The database of dpkg: `var/lib/dpkg/status`, and a file a package in `var/lib/dpkg/status.d` (distroless).

use crate::{Ecosystem, OsRelease, Package, Presence};

/// The database.
pub const STATUS: &str = "var/lib/dpkg/status";

/// The folder with a file for each package.
pub const STATUS_FOLDER: &str = "var/lib/dpkg/status.d";

/// The installed packages of a file (deb-control(5)): paragraphs of `Field: value`, continued on lines that begin with a
/// space. Where a paragraph has no `Status` (distroless), the package is installed.
pub fn packages(status: &[u8], os: &OsRelease, place: &str) -> Vec<Package> {
    let text = String::from_utf8_lossy(status);
    text.split("\n\n").filter_map(|paragraph| package(paragraph, os, place)).collect()
}

fn package(paragraph: &str, os: &OsRelease, place: &str) -> Option<Package> {
    let field = |key: &str| {
        let value = paragraph.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    };
    // `want flag status`; what is only half there, or removed up to its configuration, is not installed.
    if field("Status").is_some_and(|status| status.split_whitespace().next_back() != Some("installed")) {
        return None;
    }
    let mut package = Package::new(Ecosystem::Deb, field("Package")?, Presence::Found);
    package.version = field("Version");
    package.namespace = Some(os.id.clone());
    package.supplier.clone_from(&os.name);
    package.qualifiers.insert("distro".to_owned(), os.distro());
    package.qualifiers.extend(field("Architecture").map(|arch| ("arch".to_owned(), arch)));
    let source = field("Source").filter(|source| *source != package.name);
    package.qualifiers.extend(source.map(|source| {
        // `glibc (2.36-9)` when the versions differ.
        let upstream = match source.split_once(" (") {
            Some((name, version)) => format!("{name}@{}", version.trim_end_matches(')')),
            None => source,
        };
        ("upstream".to_owned(), upstream)
    }));
    package.places.insert(place.to_owned());
    Some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_installed() {
        let os = OsRelease { id: "debian".into(), version: Some("12".into()), name: None };
        let text = b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\nVersion: 2.36-9+deb12u10\n\
            Description: x\n Package: no\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
            Package: base\nVersion: 3\nSource: a (2)\n";
        let purls: Vec<String> = packages(text, &os, STATUS).iter().map(Package::purl).collect();
        assert_eq!(
            purls,
            [
                "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12&upstream=glibc",
                "pkg:deb/debian/base@3?distro=debian-12&upstream=a%402",
            ]
        );
    }
}
