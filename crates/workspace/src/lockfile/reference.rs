//! What the versions in a lockfile refer to.

use super::LockfileVersion;

/// What a dependency resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference<'a> {
    /// A symbolic link to a directory: relative to the importer, or, in a snapshot, to the root.
    Link(&'a str),
    /// The key of a snapshot.
    Snapshot(String),
}

/// pnpm's `refToRelative`.
pub(super) fn resolve<'a>(version: LockfileVersion, name: &str, reference: &'a str) -> Reference<'a> {
    if let Some(path) = reference.strip_prefix("link:") {
        return Reference::Link(path);
    }
    let is_key = match version {
        LockfileVersion::V9 => {
            // An alias names another package before any `:` or `(`: `react@19.0.0`, `@x/y@1.0.0(z@1)`.
            reference.starts_with('@')
                || reference.find('@').is_some_and(|at| {
                    reference.find(':').is_none_or(|colon| at < colon)
                        && reference.find('(').is_none_or(|bracket| at < bracket)
                })
        }
        LockfileVersion::V6 => reference.starts_with("file:") || without_suffix(reference).contains('/'),
    };
    Reference::Snapshot(match (is_key, version) {
        (true, _) => reference.to_owned(),
        (false, LockfileVersion::V9) => format!("{name}@{reference}"),
        (false, LockfileVersion::V6) => format!("/{name}@{reference}"),
    })
}

/// The key without its groups of peers and patch hash: `a@1.0.0(b@2.0.0(c@3))(d@4)` is `a@1.0.0`.
pub(super) fn without_suffix(key: &str) -> &str {
    let mut end = key.len();
    while key[..end].ends_with(')') {
        let mut depth = 0usize;
        let open = key[..end].char_indices().rev().find(|(_, c)| {
            match c {
                ')' => depth += 1,
                '(' => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        match open {
            Some((at, _)) if at > 0 => end = at,
            _ => return key,
        }
    }
    &key[..end]
}

/// The name and the version in a key of either format.
pub(super) fn name_and_version(key: &str) -> (&str, &str) {
    let plain = without_suffix(key);
    let plain = plain.strip_prefix('/').unwrap_or(plain);
    match plain.char_indices().skip(1).find(|(_, c)| *c == '@') {
        Some((at, _)) => (&plain[..at], &plain[at + 1..]),
        None => (plain, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_v9() {
        for (name, reference, key) in [
            ("react", "19.0.0", "react@19.0.0"),
            ("a", "1.0.0(react@19.0.0)", "a@1.0.0(react@19.0.0)"),
            ("alias", "ms@2.0.0", "ms@2.0.0"),
            ("alias", "@x/y@2.0.0(z@1)", "@x/y@2.0.0(z@1)"),
            ("@x/c", "file:packages/c(react@19.0.0)", "@x/c@file:packages/c(react@19.0.0)"),
            ("t", "https://h.test/t@1.tgz", "t@https://h.test/t@1.tgz"),
        ] {
            assert_eq!(
                resolve(LockfileVersion::V9, name, reference),
                Reference::Snapshot(key.to_owned()),
                "{reference}"
            );
        }
        assert_eq!(resolve(LockfileVersion::V9, "a", "link:../b"), Reference::Link("../b"));
    }

    #[test]
    fn references_of_v6() {
        for (name, reference, key) in [
            ("react", "18.0.0", "/react@18.0.0"),
            ("a", "1.0.0(@x/y@1.0.0)", "/a@1.0.0(@x/y@1.0.0)"),
            ("alias", "/ms@2.0.0", "/ms@2.0.0"),
            ("@x/c", "file:packages/c(react@18.0.0)", "file:packages/c(react@18.0.0)"),
            ("g", "github.com/a/b/0123", "github.com/a/b/0123"),
        ] {
            assert_eq!(
                resolve(LockfileVersion::V6, name, reference),
                Reference::Snapshot(key.to_owned()),
                "{reference}"
            );
        }
    }

    #[test]
    fn keys_come_apart() {
        assert_eq!(without_suffix("a@1(b@2(c@3))(d@4)"), "a@1");
        assert_eq!(without_suffix("a@file:x/(group)/y"), "a@file:x/(group)/y");
        assert_eq!(without_suffix("(x)"), "(x)");
        assert_eq!(without_suffix("a)"), "a)");
        assert_eq!(name_and_version("@x/y@1.0.0(z@2)"), ("@x/y", "1.0.0"));
        assert_eq!(name_and_version("/ms@2.0.0"), ("ms", "2.0.0"));
    }
}
