use std::collections::BTreeSet;

use super::Finding;
use super::rule::Rule;
use crate::directive::{self, Key};
use crate::values::boolean;

/// `skip=A,B;experimental=C;error=true`: which rules are checked, and how much they matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LintOptions {
    /// No rule is checked.
    pub skip_all: bool,
    /// These are not.
    pub skip: BTreeSet<String>,
    /// All experimental rules are checked.
    pub experimental_all: bool,
    /// These experimental rules are checked.
    pub experimental: BTreeSet<String>,
    /// A finding fails the build.
    pub error: bool,
}

/// A text that is not an option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LintOptionsError {
    /// Neither `skip`, nor `experimental`, nor `error`.
    #[error("failed to parse check options: invalid check option {option:?}")]
    Option {
        /// What was written.
        option: String,
    },
    /// `error=` of something that is no boolean.
    #[error("failed to parse check options: failed to parse check option {option:?}")]
    Boolean {
        /// What was written.
        option: String,
    },
}

impl std::str::FromStr for LintOptions {
    type Err = LintOptionsError;

    fn from_str(text: &str) -> Result<Self, LintOptionsError> {
        let mut options = Self::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(options);
        }
        let names = |value: &str| value.split(',').map(|name| name.trim().to_owned()).collect();
        for part in text.splitn(3, ';') {
            let Some((key, value)) = part.split_once('=') else {
                return Err(LintOptionsError::Option { option: part.to_owned() });
            };
            match (key.trim(), value.trim()) {
                ("skip", "all") => options.skip_all = true,
                ("skip", value) => options.skip = names(value),
                ("experimental", "all") => options.experimental_all = true,
                ("experimental", value) => options.experimental = names(value),
                ("error", value) => {
                    options.error = boolean(value)
                        .ok_or_else(|| LintOptionsError::Boolean { option: part.to_owned() })?;
                }
                (key, _) => return Err(LintOptionsError::Option { option: key.to_owned() }),
            }
        }
        Ok(options)
    }
}

impl LintOptions {
    /// The sentence that fails the build where findings do that, and there are some.
    pub fn failure(&self, findings: &[Finding]) -> Option<String> {
        let names: BTreeSet<&str> = findings.iter().map(|finding| finding.rule.name).collect();
        (self.error && !names.is_empty()).then(|| {
            format!("lint violation found for rules: {}", names.into_iter().collect::<Vec<_>>().join(", "))
        })
    }

    /// Whether a rule is checked for an instruction below `comments`. A `# check=…` among them acts on it alone.
    pub fn checks(&self, rule: &Rule, comments: &[String]) -> bool {
        let local = comments.iter().find_map(|comment| {
            let (key, value) = directive::pair_behind(comment, "")?;
            (key == Key::Check).then(|| comment[value].split(' ').next().unwrap_or_default().parse::<Self>())
        });
        let local = local.and_then(Result::ok).unwrap_or_default();
        if rule.experimental {
            return [self, &local]
                .iter()
                .any(|options| options.experimental_all || options.experimental.contains(rule.name));
        }
        ![self, &local].iter().any(|options| options.skip_all || options.skip.contains(rule.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::rule::{INVALID_DEFINITION_DESCRIPTION, LATEST_TAG, UNDEFINED_VAR};

    #[test]
    fn options_are_read_as_buildkit_reads_them() {
        let options: LintOptions = "skip=UndefinedVar, wbuild/LatestTag;error=true".parse().unwrap();
        assert!(options.error && !options.checks(&UNDEFINED_VAR, &[]) && !options.checks(&LATEST_TAG, &[]));
        let plain = LintOptions::default();
        assert!(plain.checks(&UNDEFINED_VAR, &[]) && !plain.checks(&INVALID_DEFINITION_DESCRIPTION, &[]));
        let comments = ["note".to_owned(), "check=skip=UndefinedVar // why".to_owned()];
        assert!(!plain.checks(&UNDEFINED_VAR, &comments) && plain.checks(&LATEST_TAG, &comments));
        let all: LintOptions = "skip=all;experimental=all".parse().unwrap();
        assert!(!all.checks(&UNDEFINED_VAR, &[]) && all.checks(&INVALID_DEFINITION_DESCRIPTION, &[]));
        for (text, message) in [
            ("foo=1", "failed to parse check options: invalid check option \"foo\""),
            ("skip", "failed to parse check options: invalid check option \"skip\""),
            ("error=maybe", "failed to parse check options: failed to parse check option \"error=maybe\""),
        ] {
            assert_eq!(text.parse::<LintOptions>().unwrap_err().to_string(), message);
        }
    }
}
