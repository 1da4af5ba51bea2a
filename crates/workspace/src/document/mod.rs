//! One tree for JSON, JSON with comments and YAML, in which every key and value knows its place.

mod json;
mod yaml;

pub(crate) use json::{Dialect, parse as parse_json};
pub(crate) use yaml::{parse as parse_yaml, parse_part as parse_yaml_part};

use std::collections::BTreeMap;
use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile, Span};

/// A place in a file of the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<SourceFile>,
    /// The bytes in it.
    pub span: Span,
}

/// A value with the place it was written at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

impl<T> Located<T> {
    pub(crate) fn new(value: T, file: &Arc<SourceFile>, span: Span) -> Self {
        Self { value, place: Place { file: Arc::clone(file), span } }
    }

    /// An error that points here, saying `text` at the place.
    pub(crate) fn error(&self, message: impl Into<String>, text: impl Into<String>) -> Diagnostic {
        Diagnostic::error(&self.place.file, message).at(self.place.span, text)
    }

    /// A warning that points here, saying `text` at the place.
    pub(crate) fn warning(&self, message: impl Into<String>, text: impl Into<String>) -> Diagnostic {
        Diagnostic::warning(&self.place.file, message).at(self.place.span, text)
    }
}

/// A value of a document.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

/// What a [`Node`] holds. Numbers keep their spelling.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    List(Vec<Node>),
    Map(Vec<Member>),
}

/// A key of a map with its value.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) node: Node,
}

impl Node {
    pub(crate) fn new(span: Span, value: Value) -> Self {
        Self { span, value }
    }

    pub(crate) fn members(&self) -> &[Member] {
        match &self.value {
            Value::Map(members) => members,
            _ => &[],
        }
    }

    pub(crate) fn member(&self, key: &str) -> Option<&Member> {
        // The last one wins where a key is written twice, as in JavaScript.
        self.members().iter().rev().find(|member| member.key == key)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.member(key).map(|member| &member.node)
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// A string, or the spelling of a number or boolean: what YAML leaves unquoted.
    pub(crate) fn as_text(&self) -> Option<String> {
        match &self.value {
            Value::String(text) | Value::Number(text) => Some(text.clone()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::List(items) => items.is_empty(),
            Value::Map(members) => members.is_empty(),
            _ => false,
        }
    }

    /// What the value is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The same value without places, its maps sorted: deterministic however it was written.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(text) => serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.clone())),
            Value::String(text) => Json::String(text.clone()),
            Value::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(members) => {
                Json::Object(members.iter().map(|m| (m.key.clone(), m.node.to_json())).collect())
            }
        }
    }
}

/// Takes typed values out of a document, collecting a diagnostic for everything that is not as it should be.
#[derive(Debug)]
pub(crate) struct Extract<'a> {
    pub(crate) file: &'a Arc<SourceFile>,
    pub(crate) diagnostics: &'a mut Vec<Diagnostic>,
}

impl Extract<'_> {
    pub(crate) fn located<T>(&self, value: T, span: Span) -> Located<T> {
        Located::new(value, self.file, span)
    }

    /// Says that `node`, the value of `what`, should have been `expected`.
    pub(crate) fn mismatch(&mut self, what: &str, expected: &str, node: &Node) {
        let message = format!("`{what}` must be {expected}, not {}", node.kind());
        self.diagnostics.push(Diagnostic::error(self.file, message).at(node.span, format!("not {expected}")));
    }

    pub(crate) fn string(&mut self, what: &str, node: &Node) -> Option<Located<String>> {
        match node.as_str() {
            Some(text) => Some(self.located(text.to_owned(), node.span)),
            None => {
                self.mismatch(what, "a string", node);
                None
            }
        }
    }

    pub(crate) fn bool(&mut self, what: &str, node: &Node) -> Option<bool> {
        if node.as_bool().is_none() {
            self.mismatch(what, "true or false", node);
        }
        node.as_bool()
    }

    /// A list of strings; a missing value (YAML's `key:`) is an empty list.
    pub(crate) fn strings(&mut self, what: &str, node: &Node) -> Vec<Located<String>> {
        match &node.value {
            Value::Null => Vec::new(),
            Value::List(items) => {
                let mut out = Vec::with_capacity(items.len());
                for item in items {
                    match item.as_text() {
                        Some(text) => out.push(self.located(text, item.span)),
                        None => self.mismatch(what, "a list of strings", item),
                    }
                }
                out
            }
            _ => {
                self.mismatch(what, "a list of strings", node);
                Vec::new()
            }
        }
    }

    /// A map whose values are strings (or what YAML leaves unquoted).
    pub(crate) fn string_map(&mut self, what: &str, node: &Node) -> BTreeMap<String, Located<String>> {
        let mut out = BTreeMap::new();
        match &node.value {
            Value::Null => {}
            Value::Map(members) => {
                for member in members {
                    match member.node.as_text() {
                        Some(text) => {
                            out.insert(member.key.clone(), self.located(text, member.node.span));
                        }
                        None => self.mismatch(&format!("{what}.{}", member.key), "a string", &member.node),
                    }
                }
            }
            _ => self.mismatch(what, "a map of strings", node),
        }
        out
    }
}
