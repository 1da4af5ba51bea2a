//! The one module that knows the YAML library.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use wbuild_report::{Diagnostic, SourceFile, Span};

use super::{Member, Node, Value};

/// Parses the whole of `file`, which holds one document.
pub(crate) fn parse(file: &Arc<SourceFile>) -> Result<Node, Box<Diagnostic>> {
    parse_part(file, Span::new(0, file.text.len()))
}

/// Parses `part` of `file` as a document of its own; places are those of the whole file.
pub(crate) fn parse_part(file: &Arc<SourceFile>, part: Span) -> Result<Node, Box<Diagnostic>> {
    let text = &file.text[part.start..part.end];
    // js-yaml, which pnpm uses, follows YAML 1.2: `yes` and `on` are strings.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(raw) => Ok(build(raw, text, part.start)),
        Err(error) => {
            let message = error.to_string();
            let message = message.lines().next().unwrap_or_default();
            // The library puts the position into its message; ours is in the span.
            let bare = message.split_once(": ").filter(|(head, _)| head.contains("line "));
            let bare = bare.map_or(message, |(_, rest)| rest).trim_start_matches("error: ");
            // Nor does it know who reads its advice.
            let bare = bare.split(", set ").next().unwrap_or(bare);
            let bare = bare.split(" at line ").next().unwrap_or(bare);
            let at = error.location().map_or(0, |location| offset_of(text, location)) + part.start;
            let end = file.text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
            Err(Box::new(
                Diagnostic::error(file, format!("not valid YAML: {bare}")).at(Span::new(at, end), ""),
            ))
        }
    }
}

fn offset_of(text: &str, location: serde_saphyr::Location) -> usize {
    if let Some(offset) = location.span().byte_offset().and_then(|offset| usize::try_from(offset).ok()) {
        return floor_boundary(text, offset);
    }
    let line = usize::try_from(location.line()).unwrap_or(1).saturating_sub(1);
    let column = usize::try_from(location.column()).unwrap_or(1).saturating_sub(1);
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let within = text[start..].char_indices().nth(column).map_or(0, |(offset, _)| offset);
    floor_boundary(text, start + within)
}

fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

struct Raw(RawValue);

enum RawValue {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn span(location: serde_saphyr::Location, text: &str, base: usize) -> Span {
    let start = offset_of(text, location);
    let length = location.span().byte_len().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    Span::new(base + start, base + floor_boundary(text, start + length))
}

fn build(raw: Spanned<Raw>, text: &str, base: usize) -> Node {
    let own = span(raw.referenced, text, base);
    let spelling = &text[own.start - base..own.end - base];
    match raw.value.0 {
        RawValue::Null => Node::new(own, Value::Null),
        RawValue::Bool(value) => Node::new(own, Value::Bool(value)),
        // The spelling, unless it is an alias: `1.10` is not `1.1` to the person who wrote a version.
        RawValue::Number(value) => {
            let alias = spelling.is_empty() || spelling.starts_with('*');
            Node::new(own, Value::Number(if alias { value } else { spelling.to_owned() }))
        }
        RawValue::String(value) => Node::new(own, Value::String(value)),
        RawValue::List(items) => {
            let items: Vec<Node> = items.into_iter().map(|item| build(item, text, base)).collect();
            let end = items.last().map_or(own.end, |item| item.span.end.max(own.end));
            Node::new(Span::new(own.start, end), Value::List(items))
        }
        RawValue::Map(entries) => {
            let members: Vec<Member> = entries
                .into_iter()
                .map(|(key, node)| Member {
                    key_span: span(key.referenced, text, base),
                    key: key.value,
                    node: build(node, text, base),
                })
                .collect();
            let start = members.first().map_or(own.start, |member| member.key_span.start.min(own.start));
            let end = members.last().map_or(own.end, |member| member.node.span.end.max(own.end));
            Node::new(Span::new(start, end), Value::Map(members))
        }
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw(RawValue::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw(RawValue::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw(RawValue::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw(RawValue::Number(value.to_string())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw(RawValue::Number(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw(RawValue::Number(value.to_string())))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw(RawValue::String(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw(RawValue::String(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw(RawValue::List(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw(RawValue::Map(entries)))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_places() {
        let text = "packages:\n  - 'apps/*'\ncatalog:\n  ä: 1.10\n  b: yes\n";
        let file = SourceFile::new("w.yaml", text);
        let node = parse(&file).unwrap();
        let catalog = node.get("catalog").unwrap();
        let version = &catalog.members()[0].node;
        assert_eq!(version.as_text().as_deref(), Some("1.10"));
        assert_eq!(&text[version.span.start..version.span.end], "1.10");
        assert_eq!(catalog.get("b").unwrap().as_str(), Some("yes"));
        let Value::List(items) = &node.get("packages").unwrap().value else { panic!("a list") };
        assert_eq!(&text[items[0].span.start..items[0].span.end], "'apps/*'");
    }

    #[test]
    fn parts_have_the_places_of_the_whole() {
        let text = "a: 1\noverrides:\n  x: 2\nb: 3\n";
        let file = SourceFile::new("w.yaml", text);
        let start = text.find("overrides").unwrap();
        let node = parse_part(&file, Span::new(start, text.find("b: 3").unwrap())).unwrap();
        let x = node.get("overrides").unwrap().get("x").unwrap();
        assert_eq!(file.position(x.span.start), (3, 6));
    }

    #[test]
    fn errors_name_the_place() {
        for (text, expected) in [
            ("a: 1\na: 2\n", "w.yaml:2:1: not valid YAML: duplicate mapping key: a"),
            ("a:\n  - x\n  - y: [\n", "w.yaml:3:8: not valid YAML: unclosed bracket '['"),
            ("a: *x\n", "w.yaml:1:4: not valid YAML: alias references unknown anchor"),
        ] {
            let error = parse(&SourceFile::new("w.yaml", text)).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        assert!(matches!(parse(&SourceFile::new("w.yaml", "")).unwrap().value, Value::Null));
        for deep in ["[".repeat(100_000), "{a: ".repeat(50_000), "- ".repeat(50_000)] {
            assert!(parse(&SourceFile::new("w.yaml", deep)).is_err(), "nesting is bounded");
        }
    }
}
