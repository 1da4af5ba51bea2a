/// Why `name` is not a name that a package may have, or `None` when it is one.
///
/// The rules of npm that matter for safety and for finding packages: a name becomes a directory below
/// `node_modules` and a part of keys, so it may not climb, hide, or hold characters that need escaping. Upper case
/// is accepted, as npm accepts it in packages that exist.
pub fn invalid_package_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if name.len() > 214 {
        return Some("is longer than 214 characters");
    }
    let parts: Vec<&str> = match name.strip_prefix('@') {
        Some(scoped) => match scoped.split_once('/') {
            Some((scope, rest)) => vec![scope, rest],
            None => return Some("has a scope but no name after it"),
        },
        None => vec![name],
    };
    for part in &parts {
        if part.is_empty() {
            return Some("has an empty part");
        }
        if part.starts_with(['.', '_']) && !(parts.len() == 2 && part.starts_with('_')) {
            return Some("starts with a dot or an underscore");
        }
        let safe = |c: char| c.is_ascii_alphanumeric() || "-._~!'()*".contains(c);
        if !part.chars().all(safe) {
            return Some("holds a character that a package name may not have");
        }
    }
    if matches!(name, "node_modules" | "favicon.ico") {
        return Some("is reserved");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_npm() {
        for good in ["web", "@repo/ui", "lodash.merge", "JSONStream", "@x/_y", "a-b_c"] {
            assert_eq!(invalid_package_name(good), None, "{good}");
        }
        for bad in [
            "",
            "..",
            ".x",
            "_x",
            "@repo",
            "@/x",
            "@a/b/c",
            "a/b",
            "a b",
            "node_modules",
            "@a/..",
            "a\\b",
            "ä",
        ] {
            assert!(invalid_package_name(bad).is_some(), "{bad}");
        }
        assert!(invalid_package_name(&"a".repeat(215)).is_some());
    }
}
