//! Which scopes a build writes to and reads from, where nobody says so: its branch, and those that it will be merged into.

/// Variables that hold the name of the branch, or of the tag, being built.
const BRANCH: [&str; 9] = [
    // Set for pull requests only; then GITHUB_REF_NAME is the merge.
    "GITHUB_HEAD_REF",
    "GITHUB_REF_NAME",
    "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME",
    "CI_COMMIT_REF_NAME",
    "BUILDKITE_BRANCH",
    "CIRCLE_BRANCH",
    "BITBUCKET_BRANCH",
    "BRANCH_NAME",
    "VERCEL_GIT_COMMIT_REF",
];

/// Variables that hold the name of a branch from which others are made.
const BELOW: [&str; 4] = [
    "GITHUB_BASE_REF",
    "CI_MERGE_REQUEST_TARGET_BRANCH_NAME",
    "BUILDKITE_PULL_REQUEST_BASE_BRANCH",
    "CI_DEFAULT_BRANCH",
];

/// The scope of builds that belong to no branch, and the last that is asked.
const MAIN: &str = "main";

/// Scopes, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes {
    /// Written to, and asked first.
    pub own: String,
    /// Asked then, in this order.
    pub fallback: Vec<String>,
}

/// The scopes that the variables of a CI system say.
pub fn scopes(variable: &dyn Fn(&str) -> Option<String>) -> Scopes {
    let first =
        |names: &[&str]| names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()));
    let own = first(&BRANCH).unwrap_or_else(|| MAIN.to_owned());
    let mut fallback: Vec<String> = Vec::new();
    for name in BELOW.iter().filter_map(|name| variable(name)).chain([MAIN.to_owned()]) {
        if !name.is_empty() && name != own && !fallback.contains(&name) {
            fallback.push(name);
        }
    }
    Scopes { own, fallback }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &[(&str, &str)]) -> (String, Vec<String>) {
        let scopes = scopes(&|name| {
            given.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        });
        (scopes.own, scopes.fallback)
    }

    #[test]
    fn branches() {
        let main = || "main".to_owned();
        assert_eq!(of(&[]), (main(), vec![]));
        assert_eq!(of(&[("GITHUB_REF_NAME", "main"), ("GITHUB_HEAD_REF", "")]), (main(), vec![]));
        let pull = [("GITHUB_HEAD_REF", "fix"), ("GITHUB_REF_NAME", "7/merge"), ("GITHUB_BASE_REF", "dev")];
        assert_eq!(of(&pull), ("fix".into(), vec!["dev".into(), main()]));
        let merge = [("CI_COMMIT_REF_NAME", "fix"), ("CI_DEFAULT_BRANCH", "master")];
        assert_eq!(of(&merge), ("fix".into(), vec!["master".into(), main()]));
    }
}
