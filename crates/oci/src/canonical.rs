use serde::Serialize;

/// The one way this project turns a document into bytes: keys sorted by code unit at every level, no white space.
///
/// Going through [`serde_json::Value`] sorts, because its map is a `BTreeMap` as long as no crate in the build
/// enables `preserve_order`; a test below fails if one does.
///
/// # Errors
/// Only when a type's `Serialize` fails, which the documents of this crate never do.
pub fn to_canonical_json<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&serde_json::to_value(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_whatever_order_they_came_in() {
        let value: serde_json::Value =
            serde_json::from_str(r#"{"b":{"z":1,"a":[2,1]},"a":null,"B":"ü"}"#).unwrap();
        assert_eq!(
            String::from_utf8(to_canonical_json(&value).unwrap()).unwrap(),
            r#"{"B":"ü","a":null,"b":{"a":[2,1],"z":1}}"#
        );
    }
}
