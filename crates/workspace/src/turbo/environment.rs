use crate::document::Located;
use crate::settings::matches_pattern;

/// Names of environment variables, as turbo writes them: `*` stands for any characters, a leading `!` takes away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvNames {
    /// Names and patterns, sorted.
    pub include: Vec<String>,
    /// Names and patterns that are taken away, without their `!`, sorted.
    pub exclude: Vec<String>,
}

impl EnvNames {
    /// The names in lists of a turbo.json.
    pub fn new<'a>(lists: impl IntoIterator<Item = &'a Located<String>>) -> Self {
        let mut names = Self::default();
        for item in lists {
            match item.value.strip_prefix('!') {
                Some(excluded) => names.exclude.push(excluded.to_owned()),
                None => names.include.push(item.value.clone()),
            }
        }
        names.normalise();
        names
    }

    /// Adds a pattern.
    pub(super) fn add(&mut self, pattern: &str) {
        self.include.push(pattern.to_owned());
        self.normalise();
    }

    fn normalise(&mut self) {
        for list in [&mut self.include, &mut self.exclude] {
            list.sort();
            list.dedup();
        }
    }

    /// Whether a variable is among them.
    pub fn matches(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        any(&self.include) && !any(&self.exclude)
    }

    /// The names without wildcards.
    pub fn literals(&self) -> impl Iterator<Item = &str> {
        self.include.iter().map(String::as_str).filter(|name| !name.contains('*') && self.matches(name))
    }
}

/// turbo escapes a literal asterisk as `\*`, which no variable's name has in practice.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.contains("\\*") {
        true => pattern.replace("\\*", "*") == name,
        false => matches_pattern(pattern, name),
    }
}

#[cfg(test)]
mod tests {
    use wbuild_report::{SourceFile, Span};

    use super::*;

    #[test]
    fn wildcards_and_exclusions() {
        let file = SourceFile::new("turbo.json", "");
        let items: Vec<_> = ["NEXT_PUBLIC_*", "!NEXT_PUBLIC_SECRET*", "CI", "\\*X"]
            .map(|name| Located::new(name.to_owned(), &file, Span::new(0, 0)))
            .into();
        let names = EnvNames::new(&items);
        for (name, expected) in [
            ("NEXT_PUBLIC_URL", true),
            ("NEXT_PUBLIC_SECRET_A", false),
            ("CI", true),
            ("CID", false),
            ("*X", true),
            ("HOME", false),
        ] {
            assert_eq!(names.matches(name), expected, "{name}");
        }
        assert_eq!(names.literals().collect::<Vec<_>>(), ["CI"]);
    }
}
