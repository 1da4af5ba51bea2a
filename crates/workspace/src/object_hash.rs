//! The hash that pnpm takes of a settings object (`object-hash` 3 with `respectType: false` and everything
//! unordered), so that `packageExtensionsChecksum` can be compared without running pnpm.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::document::{Node, Value};

/// `sha256-` and the hash in base 64, as the lockfile has it.
pub(crate) fn checksum(node: &Node) -> String {
    let mut out = String::new();
    write(node, &mut out);
    prefixed(out.as_bytes())
}

/// `sha256-` and the SHA-256 of `bytes` in base 64.
pub(crate) fn prefixed(bytes: &[u8]) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(bytes)))
}

fn write(node: &Node, out: &mut String) {
    match &node.value {
        Value::Null => out.push_str("Null"),
        Value::Bool(value) => out.push_str(&format!("bool:{value}")),
        Value::Number(spelling) => out.push_str(&format!("number:{}", javascript_number(spelling))),
        Value::String(text) => write_string(text, out),
        Value::List(items) => {
            let mut parts: Vec<String> = items
                .iter()
                .map(|item| {
                    let mut part = String::new();
                    write(item, &mut part);
                    part
                })
                .collect();
            out.push_str(&format!("array:{}:", parts.len()));
            if let [one] = parts.as_slice() {
                out.push_str(one);
            } else {
                // The items' own encodings, sorted, are hashed as a list of strings.
                parts.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
                if !parts.is_empty() {
                    out.push_str(&format!("array:{}:", parts.len()));
                }
                for part in parts {
                    write_string(&part, out);
                }
            }
        }
        Value::Map(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by(|a, b| a.key.encode_utf16().cmp(b.key.encode_utf16()));
            out.push_str(&format!("object:{}:", members.len()));
            for member in members {
                write_string(&member.key, out);
                out.push(':');
                write(&member.node, out);
                out.push(',');
            }
        }
    }
}

fn write_string(text: &str, out: &mut String) {
    // JavaScript counts UTF-16 units.
    out.push_str(&format!("string:{}:", text.encode_utf16().count()));
    out.push_str(text);
}

/// How JavaScript prints a number that YAML or JSON spelled so.
fn javascript_number(spelling: &str) -> String {
    match spelling.parse::<f64>() {
        Ok(value) => value.to_string(),
        Err(_) => spelling.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use wbuild_report::SourceFile;

    use super::*;
    use crate::document::parse_yaml;

    #[test]
    fn checksums_equal_those_of_pnpm() {
        // Written by `object-hash` 3.0.0 with pnpm's options; the first also by pnpm 10.18.2 and 12.21.0.
        for (yaml, expected) in CASES {
            let node = parse_yaml(&SourceFile::new("w.yaml", *yaml)).unwrap();
            assert_eq!(checksum(&node), *expected, "{yaml}");
        }
    }

    const CASES: &[(&str, &str)] = &[
        (
            "is-even@*:\n  dependencies:\n    ms: '*'\n  peerDependencies:\n    react: '>=16'\n  peerDependenciesMeta:\n    react: {optional: true}\n",
            "sha256-yMo9VZXP1pnbfzwS2mUOCrdnhEJcN2+WoFpp1iD/0q0=",
        ),
        ("a: {dependencies: {b: '1'}}", "sha256-xCHqWWmjw8FaQX2XeMcZlWzLrOkO+0lReqWhkAO140w="),
        (
            "'b@*':\n  peerDependenciesMeta:\n    react: {optional: true}\n  peerDependencies: {react: '>=16', 'ä😀': '*'}\na: {dependencies: {z: '2', y: '1'}}",
            "sha256-xstYcp9yXhnIBRQgt2U4O0gv8hI81p0g3WFiovroVMI=",
        ),
        (
            "a: {n: 1.10, m: 1e3, k: null, l: [], e: {}, one: [x], two: [b, a, {z: 1}], t: [[2, 1], [1]]}",
            "sha256-KgVWQULkKznMZidD0/ek8kXubYJaw8PnvkZY4z3bFdM=",
        ),
    ];
}
