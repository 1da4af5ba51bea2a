//! Alpine's database of installed packages: `lib/apk/db/installed`, or `usr/lib/apk/db/installed` since apk 3.

use crate::{Ecosystem, OsRelease, Package, Presence};

/// Where it is, in the order in which it is looked for.
pub const DATABASES: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

/// The packages of a database (wiki.alpinelinux.org, "Apk spec"): paragraphs of lines `K:value`.
pub fn packages(database: &[u8], os: &OsRelease, place: &str) -> Vec<Package> {
    let text = String::from_utf8_lossy(database);
    text.split("\n\n").filter_map(|paragraph| package(paragraph, os, place)).collect()
}

fn package(paragraph: &str, os: &OsRelease, place: &str) -> Option<Package> {
    // The list of files follows the package's own lines, and has letters of its own.
    let head = || paragraph.lines().take_while(|line| !line.starts_with("F:"));
    let field = |key: char| {
        let value = head().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    };
    let mut package = Package::new(Ecosystem::Apk, field('P')?, Presence::Found);
    package.version = field('V');
    package.namespace = Some(os.id.clone());
    package.license = field('L');
    package.supplier.clone_from(&os.name);
    package.qualifiers.insert("distro".to_owned(), os.distro());
    package.qualifiers.extend(field('A').map(|arch| ("arch".to_owned(), arch)));
    let origin = field('o').filter(|origin| *origin != package.name);
    package.qualifiers.extend(origin.map(|origin| ("upstream".to_owned(), origin)));
    // Not of the package's file, but of the part with its metadata, which in turn has the checksum of the rest.
    package.facts.extend(field('C').map(|sum| ("apk-checksum".to_owned(), sum)));
    package.facts.extend(field('c').map(|commit| ("aports-commit".to_owned(), commit)));
    package.places.insert(place.to_owned());
    Some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_packages() {
        let os = OsRelease { id: "alpine".into(), version: Some("3.23.6".into()), name: None };
        let text = b"C:Q1VFqm8pEgmviZMrdh2eQiwneFlsw=\nP:ssl_client\nV:1.37.0-r30\nA:x86_64\nL:GPL-2.0-only\n\
            o:busybox\nF:usr\nF:usr/bin\nR:ssl_client\na:0:0:755\n\nP:musl\nV:1.2.5-r21\nA:x86_64\nL:MIT\no:musl\n\nV:1\n";
        let found = packages(text, &os, "lib/apk/db/installed");
        let purls: Vec<String> = found.iter().map(Package::purl).collect();
        assert_eq!(
            purls,
            [
                "pkg:apk/alpine/ssl_client@1.37.0-r30?arch=x86_64&distro=alpine-3.23.6&upstream=busybox",
                "pkg:apk/alpine/musl@1.2.5-r21?arch=x86_64&distro=alpine-3.23.6",
            ]
        );
        assert_eq!(found[0].license.as_deref(), Some("GPL-2.0-only"));
    }
}
