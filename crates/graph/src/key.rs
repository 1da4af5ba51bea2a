use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wbuild_oci::Digest;
use wbuild_report::FieldChange;
use wbuild_tree::{ContentDigest, TreeDigest};

/// First bytes of what is hashed. Changing the encoding, or what any operation puts into its key, means a new number
/// here, an entry in `cache/keys.md`, and new vectors.
const VERSION: &[u8] = b"wbuild-key-1\n";

/// The cache key of a vertex: SHA-256 over its preimage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub Digest);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

/// The value of one named field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FieldValue {
    /// As it is.
    Text(String),
    /// A digest of something that is named by it.
    Digest(Digest),
    /// The SHA-256 of a value that must not stand in a record (decision 4).
    Hidden(Digest),
    /// A tree: its content enters the key; its object is only kept to explain a later miss file by file.
    Tree {
        /// What enters the key.
        content: ContentDigest,
        /// Where to look for the files.
        tree: TreeDigest,
    },
}

impl FieldValue {
    /// Hides `value` behind its digest.
    pub fn hidden(value: &str) -> Self {
        Self::Hidden(Digest::of(value.as_bytes()))
    }

    /// For people.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Digest(digest) => digest.to_string(),
            Self::Hidden(digest) => format!("(hidden, sha256 {})", digest.short()),
            Self::Tree { content, .. } => format!("tree {}", content.0.short()),
        }
    }

    fn same_in_key(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tree { content: a, .. }, Self::Tree { content: b, .. }) => a == b,
            _ => self == other,
        }
    }
}

/// One named field of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// For example `argv/0`, `env/NODE_ENV`, `root/3`, `input/sources`.
    pub name: String,
    /// Its value.
    pub value: FieldValue,
}

/// Everything a key was computed from, in order, kept in the record: comparing two preimages is what answers "why did
/// this miss?".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Preimage {
    /// In the order in which they were added.
    pub fields: Vec<Field>,
}

impl Preimage {
    /// Starts with the operation's kind and version.
    pub fn new(operation: &str, version: u32) -> Self {
        let mut preimage = Self::default();
        preimage.text("operation", format!("{operation}/{version}"));
        preimage
    }

    /// Adds a field.
    pub fn add(&mut self, name: impl Into<String>, value: FieldValue) {
        self.fields.push(Field { name: name.into(), value });
    }

    /// Adds a field with text.
    pub fn text(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.add(name, FieldValue::Text(value.into()));
    }

    /// Adds a list: its length, then its items, so that no two lists look alike.
    pub fn list<T: Into<String>>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        let values: Vec<String> = values.into_iter().map(Into::into).collect();
        self.text(format!("{name}/count"), values.len().to_string());
        for (index, value) in values.into_iter().enumerate() {
            self.text(format!("{name}/{index}"), value);
        }
    }

    /// The key: every field framed by lengths and tagged by type, so that two different preimages never hash the same
    /// bytes.
    pub fn key(&self) -> Key {
        let mut hasher = Sha256::new();
        hasher.update(VERSION);
        let mut frame = |tag: u8, bytes: &[u8]| {
            hasher.update([tag]);
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for Field { name, value } in &self.fields {
            frame(b'n', name.as_bytes());
            match value {
                FieldValue::Text(text) => frame(b't', text.as_bytes()),
                FieldValue::Digest(digest) => frame(b'd', digest.as_bytes()),
                FieldValue::Hidden(digest) => frame(b'h', digest.as_bytes()),
                FieldValue::Tree { content, .. } => frame(b'c', content.0.as_bytes()),
            }
        }
        Key(Digest::from_bytes(hasher.finalize().into()))
    }

    /// The fields that differ from an earlier preimage of the same vertex: changed and new ones in this preimage's
    /// order, then those that are gone.
    pub fn changes_since(&self, old: &Self) -> Vec<FieldChange> {
        let mut changes: Vec<FieldChange> = Vec::new();
        for field in &self.fields {
            let before = old.fields.iter().find(|candidate| candidate.name == field.name);
            if before.is_some_and(|before| before.value.same_in_key(&field.value)) {
                continue;
            }
            changes.push(FieldChange {
                field: field.name.clone(),
                old: before.map(|before| before.value.shown()),
                new: Some(field.value.shown()),
            });
        }
        for field in &old.fields {
            if !self.fields.iter().any(|candidate| candidate.name == field.name) {
                changes.push(FieldChange {
                    field: field.name.clone(),
                    old: Some(field.value.shown()),
                    new: None,
                });
            }
        }
        changes
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&FieldValue> {
        self.fields.iter().find(|field| field.name == name).map(|field| &field.value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn framing_keeps_neighbours_apart() {
        let key = |fields: &[(&str, &str)]| {
            let mut preimage = Preimage::default();
            fields.iter().for_each(|(name, value)| preimage.text(*name, *value));
            preimage.key()
        };
        assert_ne!(key(&[("ab", "c")]), key(&[("a", "bc")]));
        assert_ne!(key(&[("a", "b"), ("c", "d")]), key(&[("a", "bc"), ("", "d")]));
        assert_ne!(key(&[("a", "")]), key(&[]));
    }

    #[test]
    fn vector() {
        // A change here means that every cache of every user is lost: bump `VERSION` and say so in cache/keys.md.
        let mut preimage = Preimage::new("exec", 1);
        preimage.list("argv", ["/bin/sh", "-c", "true"]);
        preimage.add("env/A", FieldValue::hidden("1"));
        preimage.add("root/0", FieldValue::Digest(Digest::of(b"base")));
        assert_eq!(
            preimage.key().to_string(),
            "2cfe1c8536f8402f63dd227b05fc27f98efae0ba71b85566f90317334763489a"
        );
    }

    #[test]
    fn changes_name_the_fields() {
        let mut old = Preimage::new("exec", 1);
        old.text("env/A", "1");
        old.text("env/B", "2");
        let mut new = Preimage::new("exec", 1);
        new.text("env/A", "3");
        new.text("env/C", "4");
        let changes = new.changes_since(&old);
        let fields: Vec<&str> = changes.iter().map(|change| change.field.as_str()).collect();
        assert_eq!(fields, ["env/A", "env/C", "env/B"]);
        assert_eq!(changes[0].old.as_deref(), Some("1"));
    }

    fn value() -> impl Strategy<Value = FieldValue> {
        prop_oneof![
            "[a-c]{0,3}".prop_map(FieldValue::Text),
            "[a-c]{0,2}".prop_map(|text| FieldValue::Digest(Digest::of(text.as_bytes()))),
            "[a-c]{0,2}".prop_map(|text| FieldValue::hidden(&text)),
        ]
    }

    fn preimage() -> impl Strategy<Value = Preimage> {
        proptest::collection::vec(("[a-c]{0,2}", value()), 0..4).prop_map(|fields| Preimage {
            fields: fields.into_iter().map(|(name, value)| Field { name, value }).collect(),
        })
    }

    proptest! {
        #[test]
        fn different_preimages_have_different_keys(one in preimage(), two in preimage()) {
            prop_assert_eq!(one == two, one.key() == two.key());
        }
    }
}
