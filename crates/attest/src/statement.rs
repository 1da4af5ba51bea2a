use serde_json::{Value, json};
use wbuild_oci::Digest;

/// What a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// A purl for images, a path for files.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
}

/// An in-toto statement, version 1 (github.com/in-toto/attestation, spec/v1/statement.md).
pub fn statement(subjects: &[Subject], predicate_type: &str, predicate: &Value) -> Value {
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|Subject { name, digest }| json!({ "name": name, "digest": { "sha256": digest.hex() } }))
        .collect();
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": predicate_type,
        "predicate": predicate,
    })
}
