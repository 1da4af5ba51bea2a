//! BuildKit's parser fixtures (`frontend/dockerfile/parser/testfiles`, Apache-2.0): each Dockerfile with the syntax tree that
//! BuildKit prints for it.

use super::Parser;
use crate::scope::go_quote;
use crate::source::Source;
use crate::statement::{Arguments, Keyword, Statement};

/// A list of words as Go's `%q` prints it.
fn quoted(words: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    words.into_iter().map(|word| format!(" {}", go_quote(word.as_ref()))).collect()
}

fn dump(statement: &Statement) -> String {
    let mut out = statement.keyword.text.to_lowercase();
    if !statement.flags.is_empty() {
        let flags: Vec<String> = statement.flags.iter().map(|flag| go_quote(&flag.text)).collect();
        out.push_str(&format!(" [{}]", flags.join(" ")));
    }
    out.push_str(&arguments(&statement.arguments));
    out
}

fn arguments(arguments_: &Arguments) -> String {
    match arguments_ {
        Arguments::None => String::new(),
        Arguments::Text(text) => quoted([&text.text]),
        Arguments::Words(words) | Arguments::Json(words) => quoted(words.iter().map(|word| &word.text)),
        Arguments::Pairs(pairs) => pairs
            .iter()
            .map(|pair| {
                quoted([pair.key.text.as_str(), &pair.value.text, if pair.legacy { "" } else { "=" }])
            })
            .collect(),
        Arguments::Typed(kind, rest) => format!("{}{}", quoted([&kind.text]), arguments(rest)),
        Arguments::Nested(inner) => format!(" ({})", dump(inner)),
    }
}

macro_rules! fixtures {
    ($($name:literal),* $(,)?) => {
        [$((
            $name,
            include_str!(concat!("../../tests/fixtures/parser/", $name, "/Dockerfile")),
            include_str!(concat!("../../tests/fixtures/parser/", $name, "/result")),
        )),*]
    };
}

#[test]
fn trees_are_those_of_buildkit() {
    let fixtures = fixtures![
        "ADD-COPY-with-JSON",
        "args",
        "brimstone-consuldock",
        "brimstone-docker-consul",
        "continue-at-eof",
        "continueIndent",
        "cpuguy83-nagios",
        "docker",
        "env",
        "escape",
        "escape-after-comment",
        "escape-nonewline",
        "escape-with-syntax",
        "escapes",
        "flags",
        "health",
        "influxdb",
        "jeztah-invalid-json-json-inside-string",
        "jeztah-invalid-json-json-inside-string-double",
        "jeztah-invalid-json-single-quotes",
        "jeztah-invalid-json-unterminated-bracket",
        "jeztah-invalid-json-unterminated-string",
        "json",
        "kartar-entrypoint-oddities",
        "lk4d4-the-edge-case-generator",
        "mail",
        "multiple-volumes",
        "mumble",
        "nginx",
        "tf2",
        "trailing-backslash",
        "weechat",
        "znc",
    ];
    for (name, text, result) in fixtures {
        let source = Source::from_text(name, text);
        let mut parser = Parser::new(&source);
        parser.file();
        let ours: Vec<String> =
            parser.statements.iter().map(|statement| format!("({})", dump(statement))).collect();
        assert_eq!(ours.join("\n"), result.trim(), "{name}");
    }
}

#[test]
fn what_buildkit_refuses_is_refused() {
    for (name, text) in [
        ("empty", include_str!("../../tests/fixtures/parser-negative/empty_dockerfile/Dockerfile")),
        ("env_no_value", include_str!("../../tests/fixtures/parser-negative/env_no_value/Dockerfile")),
        ("only_comments", include_str!("../../tests/fixtures/parser-negative/only_comments/Dockerfile")),
        ("nested-json", include_str!("../../tests/fixtures/parser-negative/shykes-nested-json/Dockerfile")),
    ] {
        assert!(super::parse(&Source::from_text(name, text)).has_errors(), "{name}");
    }
}

#[test]
fn keywords_are_all_there() {
    assert_eq!(Keyword::ALL.len(), 18);
    assert_eq!(Keyword::of("Run"), Some(Keyword::Run));
}
