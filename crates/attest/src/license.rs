use spdx::{Expression, ParseMode};

/// A license as documents have to say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum License {
    /// An expression of the SPDX specification with identifiers of its list.
    Expression(String),
    /// Words.
    Words(String),
}

/// The leading words that mean an expression although their letters are others.
const SAME: [(&str, &str); 5] = [
    ("Apache 2.0", "Apache-2.0"),
    ("Apache License 2.0", "Apache-2.0"),
    ("Apache License, Version 2.0", "Apache-2.0"),
    ("The MIT License", "MIT"),
    ("MIT License", "MIT"),
];

impl License {
    /// Reads what a package says of itself. Identifiers that the list has marked as deprecated stay.
    pub(crate) fn of(text: &str) -> Self {
        let text = SAME.iter().find(|(words, _)| *words == text).map_or(text, |(_, same)| same);
        let mode = ParseMode { allow_deprecated: true, ..ParseMode::STRICT };
        match Expression::parse_mode(text, mode) {
            Ok(_) => Self::Expression(text.to_owned()),
            Err(_) => Self::Words(text.to_owned()),
        }
    }

    /// An identifier alone, without `AND`, `OR` and `WITH`.
    pub(crate) fn is_one(expression: &str) -> bool {
        spdx::license_id(expression).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_and_words() {
        for text in [
            "MIT",
            "(MIT OR CC0-1.0)",
            "GPL-2.0-or-later AND MIT",
            "GPL-2.0-only WITH Classpath-exception-2.0",
            "GPL-2.0",
        ] {
            assert_eq!(License::of(text), License::Expression(text.to_owned()));
        }
        assert_eq!(License::of("Apache 2.0"), License::Expression("Apache-2.0".to_owned()));
        for text in ["UNLICENSED", "SEE LICENSE IN LICENSE.md", "BSD", "custom", ""] {
            assert_eq!(License::of(text), License::Words(text.to_owned()));
        }
        assert!(License::is_one("MIT") && !License::is_one("(MIT)") && !License::is_one("MIT OR ISC"));
    }
}
