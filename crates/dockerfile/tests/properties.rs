//! What holds for any bytes: no panic, places inside of the file, and text that reads the same when it is printed.

mod common;

use std::sync::Arc;

use proptest::prelude::*;
use wbuild_dockerfile::expand::{Lexer, Quotes};
use wbuild_dockerfile::lint::{BaseImage, Lint};
use wbuild_dockerfile::{
    Base, BaseFacts, GlobalScope, Instruction, Kind, Source, StageGraph, StageScope, parse, parse_trigger,
};
use wbuild_report::{Diagnostic, Span};

/// Pieces that Dockerfiles are made of, so that random files get somewhere.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "FROM ",
        "scratch",
        "AS ",
        "a",
        "b",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ARG ",
        "LABEL ",
        "EXPOSE ",
        "ONBUILD ",
        "CMD ",
        "HEALTHCHECK ",
        "--interval=5s ",
        "SHELL ",
        "VOLUME ",
        "WORKDIR ",
        "USER ",
        "STOPSIGNAL ",
        "--mount=type=cache,target=",
        "--from=a ",
        "--chmod=",
        "--chown=1:1 ",
        "<<EOF",
        "<<-'E' ",
        "EOF\n",
        "E\n",
        "\n",
        "\n",
        "\\\n",
        "`\n",
        "# ",
        "#check=skip=",
        "# escape=`\n",
        "=",
        "\"",
        "'",
        "$",
        "${",
        "}",
        ":-",
        ":?",
        "#",
        "%",
        "/",
        "[\"x\", ",
        "\"]",
        "]",
        " ",
        "\t",
        "\r\n",
        "80/tcp",
        "1-65535",
        "\u{feff}",
        "é",
        "日",
        "\0",
        "x",
        "<",
        "\u{a0}",
        ",",
        "type=secret,id=",
        "https://x/y.git#",
    ];
    prop_oneof![
        8 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
        1 => "[ -~]{0,6}",
        1 => any::<char>().prop_map(String::from),
    ]
}

fn file() -> impl Strategy<Value = String> {
    (any::<bool>(), proptest::collection::vec(piece(), 0..60)).prop_map(|(with_from, pieces)| {
        let start = if with_from { "FROM scratch AS a\n" } else { "" };
        format!("{start}{}", pieces.concat())
    })
}

fn inside(text: &str, span: Span) -> bool {
    span.start <= span.end && text.get(span.start..span.end).is_some()
}

fn check_places(text: &str, diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        for label in &diagnostic.labels {
            assert!(inside(&diagnostic.file.text, label.span), "{diagnostic:?} in {text:?}");
        }
        assert!(!diagnostic.message.is_empty());
    }
}

/// Everything there is to do with a file.
fn exercise(source: &Source) {
    let text = &source.file().text;
    let parsed = parse(source);
    check_places(text, &parsed.diagnostics);
    let dockerfile = &parsed.dockerfile;
    for stage in &dockerfile.stages {
        assert!(
            inside(text, stage.span) && inside(text, stage.base.span) && inside(text, stage.keyword.span)
        );
    }
    for instruction in
        dockerfile.globals.iter().chain(dockerfile.stages.iter().flat_map(|stage| &stage.instructions))
    {
        assert!(inside(text, instruction.span) && inside(text, instruction.keyword.span), "{instruction:?}");
        assert!(instruction.keyword.span.start < instruction.keyword.span.end);
        for heredoc in instruction.heredocs() {
            assert!(inside(text, heredoc.marker) && inside(text, heredoc.body_span), "{heredoc:?}");
            assert_eq!(heredoc.body, text[heredoc.body_span.start..heredoc.body_span.end]);
        }
    }
    let global = match GlobalScope::new(dockerfile, common::settings(&[("x", "1")])) {
        Ok(global) => Arc::new(global),
        Err(error) => return check_places(text, &[*error]),
    };
    let report = Lint {
        dockerfile,
        global: &global,
        options: Lint::options(dockerfile, &global).unwrap_or_default(),
        own_rules: true,
        stages: None,
        base: &|_| Some(BaseImage::default()),
        ignored: None,
        context: None,
    }
    .run();
    check_places(text, &report.errors);
    for finding in &report.findings {
        assert!(inside(text, finding.span), "{finding:?} in {text:?}");
    }
    let lines: Vec<_> = dockerfile.stages.iter().filter_map(|stage| global.from_line(stage).ok()).collect();
    if lines.len() == dockerfile.stages.len()
        && let Ok(graph) = StageGraph::new(dockerfile, &lines, &|_| false)
    {
        for stage in &dockerfile.stages {
            assert!(graph.reachable(stage.index).contains(&stage.index));
            assert!(!matches!(graph.base(stage.index), Base::Stage(base) if *base >= stage.index));
            let mut scope = StageScope::new(&global, &BaseFacts::default());
            for instruction in &stage.instructions {
                if let Err(error) = scope.apply(instruction) {
                    check_places(text, &[*error]);
                }
            }
        }
    }
}

/// An instruction without its places.
fn bare(instruction: &Instruction) -> String {
    let debug = match &instruction.kind {
        // The trigger is what the expression says, and has the whole file in it.
        Kind::Onbuild(onbuild) => return onbuild.expression.clone(),
        // Comments are not printed.
        Kind::Arg(items) => items.iter().map(|item| format!("{:?} {:?}", item.name, item.default)).collect(),
        kind => format!("{kind:?}"),
    };
    let mut out = String::new();
    let mut rest = debug.as_str();
    while let Some(at) = rest.find("Span { start: ") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        rest = &rest[rest.find('}').map_or(rest.len(), |end| end + 1)..];
    }
    out.push_str(rest);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(source) = Source::decode("Dockerfile", bytes) {
            exercise(&source);
        }
    }

    #[test]
    fn likely_files_are_survived(text in file()) {
        exercise(&Source::from_text("Dockerfile", text));
    }

    #[test]
    fn what_is_printed_reads_the_same(text in file()) {
        let parsed = parse(&Source::from_text("Dockerfile", text));
        let dockerfile = &parsed.dockerfile;
        // Printed text has no directives, so it has the usual escape.
        if dockerfile.directives.escape == '\\' {
            let instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
            // A backslash that ended up at the end, when white space behind it was cut off, would continue the line.
            for instruction in instructions.filter(|instruction| !instruction.text.ends_with('\\')) {
                let printed = instruction.to_string();
                let again = parse_trigger("x", &printed).map_err(|errors| TestCaseError::fail(format!("{printed:?}: {errors:?}")))?;
                prop_assert_eq!(bare(&again), bare(instruction), "{:?}", printed);
            }
        }
    }

    #[test]
    fn words_without_anything_special_expand_to_themselves(word in "[^$'\"\\\\<]{0,40}") {
        prop_assert_eq!(Lexer::new('\\').expand(&word, &()).ok(), Some(word));
    }

    #[test]
    fn keeping_everything_changes_nothing(word in "[ -~]{0,40}") {
        let lexer = Lexer { quotes: Quotes::Kept, keep_escapes: true, keep_unset: true, ..Lexer::new('\\') };
        // Substitutions are the exception: what is in them is read.
        if !word.contains("${") && !word.ends_with('\\') && let Ok(same) = lexer.expand(&word, &()) {
            // In double quotes an escape that escapes nothing is doubled, as in BuildKit.
            if !word.contains('"') {
                prop_assert_eq!(same, word);
            }
        }
    }
}
