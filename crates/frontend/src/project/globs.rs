//! Outputs as turbo.json writes them, made into globs from the workspace root as the graph has them.

use wbuild_workspace::RelPath;

use super::Outputs;

/// Stands for the workspace root at the beginning of a pattern.
const TURBO_ROOT: &str = "$TURBO_ROOT$/";

/// The outputs that are written for the package in `dir`. Patterns that leave the root were refused before.
pub(super) fn outputs<'a>(dir: &RelPath, written: impl IntoIterator<Item = &'a str>) -> Outputs {
    let mut outputs = Outputs::default();
    for pattern in written {
        let (text, list) = match pattern.strip_prefix('!') {
            Some(text) => (text, &mut outputs.exclude),
            None => (pattern, &mut outputs.include),
        };
        let excludes = pattern.starts_with('!');
        let resolved = resolve(dir, text);
        // Naming a directory names what is in it; excluding one excludes what is in it, however it is named.
        let whole = excludes || !has_wildcard(text);
        if whole && !resolved.ends_with("/**") {
            list.push(format!("{resolved}/**"));
        }
        list.push(resolved);
    }
    outputs
}

fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// A pattern from the root.
fn resolve(dir: &RelPath, text: &str) -> String {
    let (base, text) = match text.strip_prefix(TURBO_ROOT) {
        Some(text) => ("", text),
        None => (dir.as_str(), text),
    };
    let mut parts: Vec<String> = base.split('/').filter(|part| !part.is_empty()).map(escape).collect();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part.to_owned()),
        }
    }
    parts.join("/")
}

/// A name in which no character has a meaning.
fn escape(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if "*?[{\\".contains(c) {
            out.extend(['[', c, ']']);
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_resolved_from_the_root() {
        let web = RelPath::new("apps/web").unwrap();
        let outputs = outputs(
            &web,
            [".next/**", "!.next/cache/**", "dist/", "../../gen/*.json", "$TURBO_ROOT$/x", "!skip"],
        );
        assert_eq!(
            outputs.include,
            ["apps/web/.next/**", "apps/web/dist/**", "apps/web/dist", "gen/*.json", "x/**", "x"]
        );
        assert_eq!(outputs.exclude, ["apps/web/.next/cache/**", "apps/web/skip/**", "apps/web/skip"]);
    }
}
