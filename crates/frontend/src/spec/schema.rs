//! The JSON schema, made from the table of keys.

use serde_json::{Value, json};

use super::read::UNITS;
use super::shape::{Key, SPEC, Shape};

pub(crate) fn schema() -> String {
    let mut schema = table(SPEC);
    let head = [
        ("$schema", json!("https://json-schema.org/draft/2020-12/schema")),
        ("title", json!("wbuild buildspec")),
        (
            "description",
            json!("How the image of one application of a pnpm workspace is built (wbuild.toml)."),
        ),
    ];
    for (name, value) in head {
        schema[name] = value;
    }
    format!("{schema:#}\n")
}

fn table(keys: &[Key]) -> Value {
    let properties: serde_json::Map<String, Value> =
        keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<&str> = keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let mut schema = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn property(key: &Key) -> Value {
    let mut schema = shape(&key.shape);
    schema["description"] = json!(key.doc);
    // Defaults are written as in the file; those that occur are JSON as well.
    if let Some(default) = key.default.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        schema["default"] = default;
    }
    schema
}

fn shape(of: &Shape) -> Value {
    match of {
        Shape::Text => json!({ "type": "string" }),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Integer(least, most) if least == most => json!({ "const": least }),
        Shape::Integer(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Shape::Duration => {
            let units: String = UNITS.iter().map(|(unit, _)| format!("([0-9]+{unit})?")).collect();
            json!({ "type": "string", "pattern": format!("^{units}$"), "minLength": 2 })
        }
        Shape::Choice(choices) => json!({ "enum": choices }),
        Shape::Port => json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 65535 },
            { "type": "string", "pattern": "^[0-9]+(/(tcp|udp|sctp))?$" },
        ] }),
        Shape::List { of, least } => {
            let mut schema = json!({ "type": "array", "items": shape(of) });
            if *least > 0 {
                schema["minItems"] = json!(least);
            }
            schema
        }
        Shape::Map(of) => json!({ "type": "object", "additionalProperties": shape(of) }),
        Shape::Table(keys) => table(keys),
    }
}
