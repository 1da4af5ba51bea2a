//! All rows of the expansion vectors, which were taken from BuildKit's own tests.

use std::collections::BTreeMap;

use serde_json::Value;
use wbuild_dockerfile::expand::{Lexer, Seen};

fn vectors() -> Value {
    serde_json::from_str(include_str!("fixtures/shell_expansion_vectors.json")).expect("the fixture is JSON")
}

fn variables(row: &Value) -> BTreeMap<String, String> {
    let object = row.as_object().into_iter().flatten();
    object.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn rows(vectors: &Value, section: &str) -> Vec<Value> {
    vectors[section].as_array().cloned().unwrap_or_default()
}

#[test]
fn words() {
    let vectors = vectors();
    let env = variables(&vectors["env_default"]);
    let rows = rows(&vectors, "process_word");
    assert_eq!(rows.len(), 228);
    for row in rows {
        let input = row["input"].as_str().unwrap();
        match Lexer::new('\\').expand(input, &env) {
            Ok(text) => assert_eq!(Some(text.as_str()), row["expected"].as_str(), "{input}"),
            Err(error) => assert_eq!(row["error"], true, "{input}: {error}"),
        }
    }
}

#[test]
fn required_values() {
    let vectors = vectors();
    for row in rows(&vectors, "mandatory") {
        let input = row["input"].as_str().unwrap();
        match Lexer::new('\\').expand(input, &variables(&row["env"])) {
            Ok(text) => assert_eq!(Some(text.as_str()), row["expected"].as_str(), "{row}"),
            Err(error) => {
                assert!(
                    error.to_string().contains(row["error_contains"].as_str().unwrap()),
                    "{row}: {error}"
                );
            }
        }
    }
}

#[test]
fn fields() {
    let vectors = vectors();
    let rows = rows(&vectors, "fields");
    assert_eq!(rows.len(), 24);
    for row in rows {
        let input = row["input"].as_str().unwrap();
        match Lexer::new('\\').expand_words(input, &variables(&row["env"])) {
            Ok(words) => {
                let expected: Vec<&str> =
                    row["expected"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
                assert_eq!(words, expected, "{row}");
            }
            Err(error) => assert_eq!(row["error"], true, "{row}: {error}"),
        }
    }
}

#[test]
fn names_that_were_asked_for() {
    let vectors = vectors();
    let rows = rows(&vectors, "with_matches");
    assert_eq!(rows.len(), 47);
    for row in rows {
        let mut seen = Seen::default();
        let outcome =
            Lexer::new('\\').expand_seen(row["input"].as_str().unwrap(), &variables(&row["env"]), &mut seen);
        match &outcome {
            Ok(text) => assert_eq!(Some(text.as_str()), row["expected"].as_str(), "{row}"),
            Err(error) => assert_eq!(row["error"], true, "{row}: {error}"),
        }
        let names = |key: &str| -> Vec<String> {
            let list = row[key].as_array().into_iter().flatten();
            let mut names: Vec<String> = list.map(|name| name.as_str().unwrap().to_owned()).collect();
            names.sort();
            names
        };
        // The rows list no names that were found when expansion failed.
        if outcome.is_ok() {
            assert_eq!(seen.set.iter().cloned().collect::<Vec<_>>(), names("matches"), "{row}");
        }
        if outcome.is_ok() || row.get("unmatched").is_some() {
            assert_eq!(seen.unset.keys().cloned().collect::<Vec<_>>(), names("unmatched"), "{row}");
        }
    }
}
