use std::collections::BTreeSet;

use serde::Deserialize;

use super::*;
use crate::ignore::clean::clean;
use crate::ignore::translate::{Form, translate};

/// Id, patterns, path; excluded by the API and by the walk; when the list is refused.
type MatchRow = (String, Vec<String>, String, Option<bool>, Option<bool>, Option<String>);

/// Id; ignore file or patterns; tree, or none for the monorepo; what is sent.
type TreeRow = (String, Option<String>, Option<Vec<String>>, Option<Vec<String>>, Vec<String>);

#[derive(Deserialize)]
struct Vectors {
    read_all: Vec<(String, String, Vec<String>)>,
    compile: Vec<(String, String, Option<String>)>,
    #[serde(rename = "match")]
    matches: Vec<MatchRow>,
    monorepo: Vec<String>,
    trees: Vec<TreeRow>,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../tests/fixtures/dockerignore.json")).unwrap()
}

fn rules(patterns: &[&str]) -> IgnoreRules {
    IgnoreRules::from_patterns(patterns).unwrap()
}

#[test]
fn upstream_files_are_read_alike() {
    for (id, text, expected) in vectors().read_all {
        let read: Vec<String> = read_all(text.as_bytes())
            .unwrap()
            .into_iter()
            .map(|pattern| String::from_utf8(pattern.text).unwrap())
            .collect();
        assert_eq!(read, expected, "{id}");
    }
}

#[test]
fn upstream_patterns_compile_alike() {
    for (pattern, kind, regex) in vectors().compile {
        let expected = match kind.as_str() {
            "exact" => Form::Exact,
            "prefix" => Form::Prefix,
            "suffix" => Form::Suffix,
            _ => Form::Regex(regex.unwrap()),
        };
        assert_eq!(translate(&clean(pattern.as_bytes())), expected, "{pattern}");
    }
}

#[test]
fn upstream_paths_are_decided_alike() {
    let mut rows = 0;
    for (id, patterns, path, excluded, walk_excluded, at) in vectors().matches {
        rows += 1;
        let rules = IgnoreRules::from_patterns(&patterns);
        // `at` is "new" or "match"; here both are errors of the list.
        if at.is_some() {
            assert!(rules.is_err(), "{id} {patterns:?}");
            continue;
        }
        let rules = rules.unwrap();
        let path = path.as_bytes();
        assert_eq!(Some(rules.matches_or_parent_matches(path)), excluded, "{id} {patterns:?}");
        if let Some(walk_excluded) = walk_excluded {
            assert_eq!(rules.excludes(path), walk_excluded, "{id} {patterns:?}");
        }
    }
    assert_eq!(rows, 285);
}

/// The paths of `tree`, parents included, directories with a slash at their end.
fn with_parents(tree: &[String]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for path in tree {
        all.insert(path.clone());
        all.extend(path.match_indices('/').map(|(at, _)| path[..=at].to_owned()));
    }
    all
}

/// What a build sends: the walk of BuildKit on a list of names.
fn sent(rules: &IgnoreRules, paths: &BTreeSet<String>) -> BTreeSet<String> {
    let mut taken: Vec<String> = Vec::new();
    for path in paths {
        let bytes = path.strip_suffix('/').unwrap_or(path).as_bytes();
        if !rules.excludes(bytes) {
            taken.push(path.clone());
        }
    }
    with_parents(&taken)
}

#[test]
fn upstream_trees_are_sent_alike() {
    let vectors = vectors();
    for (id, text, patterns, tree, expected) in &vectors.trees {
        let rules = match (text, patterns) {
            (_, Some(patterns)) => IgnoreRules::from_patterns(patterns).unwrap(),
            (Some(text), None) => IgnoreRules::parse(".dockerignore", text.as_bytes()).unwrap(),
            (None, None) => IgnoreRules::none(),
        };
        let paths = with_parents(tree.as_ref().unwrap_or(&vectors.monorepo));
        assert_eq!(sent(&rules, &paths), expected.iter().cloned().collect(), "{id}");
    }
}

#[test]
fn every_wrong_line_is_named() {
    let text = "ok\n[\n# comment\n  a[z-a]b\n!\n\\q*\n[Local-Only]/\na\\ \n";
    let diagnostics = IgnoreRules::parse(".dockerignore", text.as_bytes()).unwrap_err();
    let said: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            ".dockerignore:2:1: syntax error in pattern `[`",
            ".dockerignore:4:3: invalid character range `z-a` in pattern `a[z-a]b`",
            ".dockerignore:5:1: illegal exclusion pattern: `!`",
            ".dockerignore:6:1: invalid escape sequence `\\q` in pattern `\\q*`",
            ".dockerignore:7:1: invalid character range `l-O` in pattern `[Local-Only]`",
            ".dockerignore:8:1: syntax error in pattern `a\\`",
        ]
    );
    assert!(diagnostics.iter().all(|diagnostic| diagnostic.hints.len() == 1));
}

#[test]
fn the_deciding_line_is_known() {
    let text = "# what goes\n*\n!apps\n**/node_modules\napps/*/dist\n!apps/web/dist/keep\n";
    let rules = IgnoreRules::parse(".dockerignore", text.as_bytes()).unwrap();
    let line = |path: &str| {
        rules.explain(path.as_bytes()).map(|decision| {
            (decision.pattern.line(), decision.excluded, String::from_utf8(decision.matched).unwrap())
        })
    };
    assert_eq!(line("README.md"), Some((2, true, "README.md".into())));
    assert_eq!(line("src/a/b"), Some((2, true, "src".into())));
    assert_eq!(line("apps/web/page.tsx"), Some((3, false, "apps".into())));
    assert_eq!(line("apps/web/node_modules/x/y"), Some((4, true, "apps/web/node_modules".into())));
    assert_eq!(line("apps/web/dist/x"), Some((5, true, "apps/web/dist".into())));
    assert_eq!(line("apps/web/dist/keep/x"), Some((6, false, "apps/web/dist/keep".into())));
    assert!(IgnoreRules::none().explain(b"a").is_none());
}

#[test]
fn directories_are_pruned_as_far_as_exceptions_allow() {
    let verdict = |patterns: &[&str], path: &str| {
        let rules = rules(patterns);
        rules.directory(&rules.root(), path.as_bytes()).0
    };
    assert_eq!(verdict(&["a"], "a"), DirectoryVerdict::Pruned);
    assert_eq!(verdict(&["a"], "b"), DirectoryVerdict::Taken);
    assert_eq!(verdict(&["a", "!b/c"], "a"), DirectoryVerdict::Pruned);
    assert_eq!(verdict(&["a", "!ab/c"], "a"), DirectoryVerdict::Pruned);
    assert_eq!(verdict(&["a", "!a/c"], "a"), DirectoryVerdict::LeftOutButEntered);
    assert_eq!(verdict(&["*", "!a/b/**"], "a"), DirectoryVerdict::LeftOutButEntered);
    assert_eq!(verdict(&["*", "!a/b/*"], "c"), DirectoryVerdict::Pruned);
    assert_eq!(verdict(&["*", "!**/x"], "c"), DirectoryVerdict::LeftOutButEntered);
    // The exception that names the directory itself: with its own slash it is a prefix of itself.
    assert_eq!(verdict(&["!a", "a"], "a"), DirectoryVerdict::LeftOutButEntered);
}

#[test]
fn long_lists_have_words_for_all_patterns() {
    let mut patterns: Vec<String> = (0..200).map(|number| format!("d{number}")).collect();
    patterns.push("!d150/keep".into());
    let rules = IgnoreRules::from_patterns(&patterns).unwrap();
    assert!(rules.excludes(b"d150/x"));
    assert!(rules.excludes(b"d199/a/b"));
    assert!(!rules.excludes(b"d150/keep/x"));
    assert!(!rules.excludes(b"d200"));
}

#[test]
fn limits_are_stated() {
    let large = vec![b'\n'; MAX_IGNORE_BYTES + 1];
    let said = |bytes: &[u8]| IgnoreRules::parse(".dockerignore", bytes).unwrap_err()[0].to_string();
    assert_eq!(said(&large), ".dockerignore: the file has 1048577 bytes; at most 1048576 are read");
    assert_eq!(said(&b"a\n".repeat(MAX_PATTERNS + 1)), ".dockerignore:10001:1: more than 10000 patterns");
    let mut long = b"ok\n".to_vec();
    long.extend(vec![b'x'; 70_000]);
    assert_eq!(said(&long), ".dockerignore:2:1: line of 64 KiB or more");
}

#[test]
fn a_comment_need_not_be_utf8_and_offsets_stay_true() {
    let text = b"# f\xfcr uns\nna\xefve\n[\n";
    let diagnostics = IgnoreRules::parse(".dockerignore", text).unwrap_err();
    assert_eq!(diagnostics[0].to_string(), ".dockerignore:3:1: syntax error in pattern `[`");
    let rules = IgnoreRules::parse(".dockerignore", &text[..text.len() - 2]).unwrap();
    assert!(rules.excludes(b"na\xefve"));
}

/// The reference, written down as literally as possible: per-pattern results handed from parent to child.
fn walk_verdict(patterns: &[Pattern], path: &str) -> bool {
    let mut parent = vec![false; patterns.len()];
    let mut verdict = false;
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for end in ends {
        let mut here = vec![false; patterns.len()];
        verdict = false;
        for (index, pattern) in patterns.iter().enumerate() {
            let mut matches = parent[index];
            if !matches {
                if pattern.is_exception() != verdict {
                    continue;
                }
                matches = pattern.matches(&path.as_bytes()[..end]);
            }
            here[index] = matches;
            if matches {
                verdict = !pattern.is_exception();
            }
        }
        parent = here;
    }
    verdict
}

proptest::proptest! {
    /// Pruning is only an optimisation, except where BuildKit's own pruning is not: an excluded directory that leads to no
    /// exception is never entered, so nothing below it comes back.
    #[test]
    fn pruning_never_loses_what_the_walk_would_send(
        patterns in proptest::collection::vec("!?[ab*]{1,2}(/[ab*]{1,2}){0,2}", 1..5),
        path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
    ) {
        let Ok(rules) = IgnoreRules::from_patterns(&patterns) else { return Ok(()) };
        let walked = walk_verdict(rules.patterns(), &path);
        let decided = rules.excludes(path.as_bytes());
        if decided != walked {
            let pruned = path.match_indices('/').any(|(at, _)| {
                let parent = &path[..at];
                walk_verdict(rules.patterns(), parent)
            });
            proptest::prop_assert!(decided && pruned, "{patterns:?} {path}");
        }
    }

    #[test]
    fn arbitrary_files_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        if let Ok(rules) = IgnoreRules::parse(".dockerignore", &bytes) {
            rules.explain(b"a/b/c");
        }
    }
}
