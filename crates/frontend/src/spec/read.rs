//! From text to a tree of values that has the shape of the table, with the place of everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};
use wbuild_report::{Diagnostic, SourceFile, Span, nearest};

use super::shape::{Key, SPEC, Shape};

/// Longest file that is read; real ones are below 10 kB.
const MAX_BYTES: usize = 1 << 20;

/// A value that has been checked against its shape.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Flag(bool),
    Integer(i64),
    /// Nanoseconds.
    Duration(u64),
    List(Vec<Value>),
    Table(BTreeMap<String, Value>),
}

/// Where the parts are, by path: `runner.env.PORT`, `toolchain.run.0`.
pub(crate) type Places = BTreeMap<String, Span>;

pub(crate) fn read(file: &Arc<SourceFile>) -> Result<(Value, Places), Vec<Diagnostic>> {
    if file.text.len() > MAX_BYTES {
        let message = format!(
            "the spec is {} bytes long, more than the {MAX_BYTES} that wbuild reads",
            file.text.len()
        );
        return Err(vec![Diagnostic::error(file, message)]);
    }
    let (table, errors) = DeTable::parse_recoverable(&file.text);
    if !errors.is_empty() {
        return Err(errors.iter().map(|error| syntax_error(file, error)).collect());
    }
    let mut reader = Reader { file, places: Places::new(), errors: Vec::new() };
    let value = reader.table("", SPEC, table.get_ref(), None);
    if reader.errors.is_empty() {
        return Ok((value, reader.places));
    }
    let mut errors = reader.errors;
    errors.sort_by_key(|error| error.labels.first().map_or(usize::MAX, |label| label.span.start));
    Err(errors)
}

fn syntax_error(file: &Arc<SourceFile>, error: &toml::de::Error) -> Diagnostic {
    let message = error.message().lines().collect::<Vec<_>>().join("; ");
    let diagnostic = Diagnostic::error(file, message);
    match error.span() {
        Some(span) => diagnostic.at(span, "here"),
        None => diagnostic,
    }
}

struct Reader<'a> {
    file: &'a Arc<SourceFile>,
    places: Places,
    errors: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn table(&mut self, path: &str, keys: &[Key], table: &DeTable<'_>, place: Option<Span>) -> Value {
        let mut out = BTreeMap::new();
        for (name, value) in table {
            let here = join(path, name.get_ref());
            match keys.iter().find(|key| key.name == name.get_ref().as_ref()) {
                Some(key) => {
                    self.places.insert(here.clone(), value.span().into());
                    if let Some(read) = self.value(&here, &key.shape, value.get_ref(), value.span().into()) {
                        out.insert(key.name.to_owned(), read);
                    }
                }
                None => self.unknown(path, keys, name.get_ref(), name.span().into()),
            }
        }
        for key in keys.iter().filter(|key| key.required) {
            if !table.keys().any(|name| name.get_ref().as_ref() == key.name) {
                let what = join(path, key.name);
                let mut error =
                    Diagnostic::error(self.file, format!("`{what}` is missing")).hint(lower_first(key.doc));
                if let Some(place) = place {
                    error = error.at(place, format!("has no `{}`", key.name));
                }
                self.errors.push(error);
            }
        }
        Value::Table(out)
    }

    fn unknown(&mut self, path: &str, keys: &[Key], name: &str, span: Span) {
        let place = if path.is_empty() { "the spec".to_owned() } else { format!("`{path}`") };
        let mut error =
            Diagnostic::error(self.file, format!("unknown key `{}` in {place}", name.escape_debug()))
                .at(span, "not a key of it");
        let near = nearest(name, keys.iter().map(|key| key.name));
        error = match near.first() {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("its keys are {}", quoted(keys.iter().map(|key| key.name)))),
        };
        self.errors.push(error);
    }

    fn value(&mut self, path: &str, shape: &Shape, value: &DeValue<'_>, span: Span) -> Option<Value> {
        match (shape, value) {
            (Shape::Text, DeValue::String(text)) => Some(Value::Text(text.to_string())),
            (Shape::Flag, DeValue::Boolean(flag)) => Some(Value::Flag(*flag)),
            (Shape::Integer(least, most), DeValue::Integer(number)) => {
                let read = i64::from_str_radix(number.as_str(), number.radix()).ok();
                match read.filter(|number| (*least..=*most).contains(number)) {
                    Some(number) => Some(Value::Integer(number)),
                    None => self.refuse(path, span, &integer_range(*least, *most), "this number"),
                }
            }
            (Shape::Duration, DeValue::String(text)) => match parse_duration(text) {
                Some(nanoseconds) => Some(Value::Duration(nanoseconds)),
                None => self.refuse(path, span, DURATION, "not a duration"),
            },
            (Shape::Choice(choices), DeValue::String(text)) => {
                if choices.contains(&text.as_ref()) {
                    return Some(Value::Text(text.to_string()));
                }
                self.refuse(path, span, &format!("one of {}", quoted(choices.iter().copied())), "this word")
            }
            (Shape::Port, DeValue::Integer(number)) => {
                match number.as_str().parse::<u16>().ok().filter(|port| *port > 0) {
                    Some(port) => Some(Value::Text(format!("{port}/tcp"))),
                    None => self.refuse(path, span, PORT, "not a port"),
                }
            }
            (Shape::Port, DeValue::String(text)) => match parse_port(text) {
                Some(port) => Some(Value::Text(port)),
                None => self.refuse(path, span, PORT, "not a port"),
            },
            (Shape::List { of, least }, DeValue::Array(items)) => {
                if items.len() < *least {
                    return self.refuse(path, span, "a list with at least one item", "empty");
                }
                let mut out = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    let here = format!("{path}.{index}");
                    self.places.insert(here.clone(), item.span().into());
                    out.extend(self.value(&here, of, item.get_ref(), item.span().into()));
                }
                Some(Value::List(out))
            }
            (Shape::Map(of), DeValue::Table(table)) => {
                let mut out = BTreeMap::new();
                for (name, value) in table {
                    let here = join(path, name.get_ref());
                    self.places.insert(here.clone(), value.span().into());
                    self.places.insert(format!("{here}@key"), name.span().into());
                    if let Some(value) = self.value(&here, of, value.get_ref(), value.span().into()) {
                        out.insert(name.get_ref().to_string(), value);
                    }
                }
                Some(Value::Table(out))
            }
            (Shape::Table(keys), DeValue::Table(table)) => Some(self.table(path, keys, table, Some(span))),
            (shape, value) => {
                let label = kind(value);
                let refused = self.refuse(path, span, &expected(shape), label);
                let quotable = matches!(value, DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_));
                if matches!(shape, Shape::Text)
                    && quotable
                    && let Some(error) = self.errors.last_mut()
                {
                    error
                        .hints
                        .push(format!("put it in quotes: \"{}\"", &self.file.text[span.start..span.end]));
                }
                refused
            }
        }
    }

    fn refuse(&mut self, path: &str, span: Span, expected: &str, label: &str) -> Option<Value> {
        self.errors
            .push(Diagnostic::error(self.file, format!("`{path}` must be {expected}")).at(span, label));
        None
    }
}

const DURATION: &str = "a duration of at least one millisecond, such as \"30s\", \"1m30s\" or \"500ms\"";
const PORT: &str = "a port between 1 and 65535, such as 3000 or \"53/udp\"";

/// A sentence of the documentation as a hint: a fragment in lower case.
fn lower_first(sentence: &str) -> String {
    let sentence = sentence.trim_end_matches('.');
    let mut chars = sentence.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn integer_range(least: i64, most: i64) -> String {
    if least == most { format!("{least}") } else { format!("a number between {least} and {most}") }
}

fn expected(shape: &Shape) -> String {
    match shape {
        Shape::Text => "a string".to_owned(),
        Shape::Flag => "`true` or `false`".to_owned(),
        Shape::Integer(least, most) => integer_range(*least, *most),
        Shape::Duration => DURATION.to_owned(),
        Shape::Choice(choices) => format!("one of {}", quoted(choices.iter().copied())),
        Shape::Port => PORT.to_owned(),
        Shape::List { .. } => "a list".to_owned(),
        Shape::Map(_) | Shape::Table(_) => "a table".to_owned(),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The units of a duration, the largest first, in nanoseconds.
pub(crate) const UNITS: [(&str, u64); 4] =
    [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)];

/// `1m30s` in nanoseconds. Whole numbers only; each unit at most once, the larger ones first.
fn parse_duration(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = UNITS.iter().find(|(name, _)| *name == &rest[digits..digits + letters])?.1;
        if unit >= last {
            return None;
        }
        last = unit;
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + letters..];
    }
    // Container engines keep it as a signed number.
    (total > 0 && i64::try_from(total).is_ok()).then_some(total)
}

fn parse_port(text: &str) -> Option<String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port: u16 = number.parse().ok().filter(|port| *port > 0)?;
    matches!(protocol, "tcp" | "udp" | "sctp").then(|| format!("{port}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("30s", Some(30_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("500ms", Some(500_000_000)),
            ("2h", Some(7_200_000_000_000)),
            ("0s", None),
            ("30", None),
            ("s", None),
            ("30s1m", None),
            ("1s1s", None),
            ("1.5s", None),
            ("-1s", None),
            ("99999999999h", None),
            ("", None),
            ("1µs", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn ports() {
        assert_eq!(parse_port("53/udp").as_deref(), Some("53/udp"));
        assert_eq!(parse_port("80").as_deref(), Some("80/tcp"));
        for bad in ["0", "65536", "80/x", "a", ""] {
            assert_eq!(parse_port(bad), None, "{bad}");
        }
    }
}
