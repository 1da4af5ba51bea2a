use std::borrow::Cow;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use wbuild_report::{Diagnostic, Severity, Span};

use super::escape::{escape_line, escape_lines, is_control};
use super::theme::Theme;

/// So many problems are shown: nobody reads more at once, and a file of nothing but mistakes is answered quickly.
const SHOWN: usize = 100;

/// Problems in the user's files, in the order given, each with its place, the lines there, carets and hints; a
/// blank line between two. Of very many the first hundred, and the number of the others.
pub fn render_diagnostics(diagnostics: &[Diagnostic], theme: &Theme) -> String {
    let renderer = if theme.has_colors() { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.decor_style(DecorStyle::Ascii).term_width(theme.width());
    let mut text = String::new();
    for diagnostic in &diagnostics[..diagnostics.len().min(SHOWN)] {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&renderer.render(&[group(diagnostic)]));
        text.push('\n');
    }
    if diagnostics.len() > SHOWN {
        text.push_str(&format!("\n… and {} more like these\n", diagnostics.len() - SHOWN));
    }
    text
}

fn group(diagnostic: &Diagnostic) -> Group<'_> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut title = level.primary_title(escape_lines(&diagnostic.message));
    if let Some(rule) = diagnostic.rule {
        title = title.id(rule);
    }
    let name = escape_line(&diagnostic.file.name);
    let group = if diagnostic.labels.is_empty() {
        title.element(Origin::path(name))
    } else {
        let source = &diagnostic.file.text;
        let annotations = diagnostic.labels.iter().enumerate().map(|(index, label)| {
            let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let annotation = kind.span(inside(source, label.span));
            if label.text.is_empty() { annotation } else { annotation.label(escape_line(&label.text)) }
        });
        title.element(Snippet::source(drawable(source)).path(name).annotations(annotations))
    };
    group.elements(
        diagnostic.hints.iter().map(|hint| Level::HELP.with_name("hint").message(escape_lines(hint))),
    )
}

/// The source with every control that the renderer would print as it is replaced by a mark of as many bytes, so
/// that spans stay true. It draws C0 controls and the bidi embeddings itself, but lets C1 controls, the bidi marks
/// and Unicode line separators through.
fn drawable(source: &str) -> Cow<'_, str> {
    let passes = |c: char| !c.is_ascii() && is_control(c);
    if !source.contains(passes) {
        return Cow::Borrowed(source);
    }
    Cow::Owned(
        source
            .chars()
            .map(|c| match c {
                c if !passes(c) => c,
                c if c.len_utf8() == 2 => '¿',
                _ => char::REPLACEMENT_CHARACTER,
            })
            .collect(),
    )
}

/// The span, forced into the text and onto character boundaries: a wrong offset must not lose the message.
fn inside(source: &str, span: Span) -> Range<usize> {
    let start = source.floor_char_boundary(span.start);
    let end = source.ceil_char_boundary(span.end.max(span.start));
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;
    use wbuild_report::SourceFile;

    const DOCKERFILE: &str =
        "FROM node:22 AS Deps\nWORKDIR /app\nCOPY --from=bulid /app/dist .\nRUN pnpm install\n";

    fn span(text: &str, what: &str) -> Range<usize> {
        let start = text.find(what).unwrap();
        start..start + what.len()
    }

    #[test]
    fn an_error_points_at_its_place_and_says_what_to_do() {
        let file = SourceFile::new("Dockerfile", DOCKERFILE);
        let diagnostic = Diagnostic::error(&file, "unknown stage `bulid`")
            .at(span(DOCKERFILE, "bulid"), "no stage has this name")
            .at(span(DOCKERFILE, "Deps"), "the only stage before")
            .hint("did you mean `build`?")
            .hint("stages of other files are given with `--build-context`");
        insta::assert_snapshot!(render_diagnostics(&[diagnostic], &Theme::plain()), @r"
            error: unknown stage `bulid`
             --> Dockerfile:3:13
              |
            1 | FROM node:22 AS Deps
              |                 ---- the only stage before
            2 | WORKDIR /app
            3 | COPY --from=bulid /app/dist .
              |             ^^^^^ no stage has this name
              |
              = hint: did you mean `build`?
              = hint: stages of other files are given with `--build-context`
            ");
    }

    #[test]
    fn of_very_many_the_first_are_shown() {
        let file = SourceFile::new("Dockerfile", DOCKERFILE);
        let one = Diagnostic::error(&file, "no").at(span(DOCKERFILE, "bulid"), "here");
        let text = render_diagnostics(&vec![one; SHOWN + 7], &Theme::plain());
        assert_eq!(text.matches("error: no").count(), SHOWN);
        assert!(text.ends_with("\n… and 7 more like these\n"), "{text}");
    }

    #[test]
    fn warnings_name_their_rule_and_are_set_apart() {
        let file = SourceFile::new("Dockerfile", DOCKERFILE);
        let casing = Diagnostic::warning(&file, "stage name `Deps` should be lowercase")
            .rule("StageNameCasing")
            .at(span(DOCKERFILE, "Deps"), "");
        let whole =
            Diagnostic::warning(&file, "no `USER` is set: the image runs as root").hint("add `USER node`");
        insta::assert_snapshot!(render_diagnostics(&[casing, whole], &Theme::plain()), @r"
            warning[StageNameCasing]: stage name `Deps` should be lowercase
             --> Dockerfile:1:17
              |
            1 | FROM node:22 AS Deps
              |                 ^^^^

            warning: no `USER` is set: the image runs as root
            --> Dockerfile
             = hint: add `USER node`
            ");
    }

    #[test]
    fn places_past_the_end_and_inside_characters_are_forgiven() {
        let text = "name: ä\r\nend";
        let file = SourceFile::new("f.yaml", text);
        let diagnostics = [
            Diagnostic::error(&file, "unexpected end").at(text.len() + 40..text.len() + 50, "here"),
            Diagnostic::error(&file, "half a character").at(7..7, "here"),
        ];
        insta::assert_snapshot!(render_diagnostics(&diagnostics, &Theme::plain()), @r"
            error: unexpected end
             --> f.yaml:2:4
              |
            2 | end
              |    ^ here

            error: half a character
             --> f.yaml:1:7
              |
            1 | name: ä
              |       ^ here
            ");
        let empty = SourceFile::new("empty", "");
        let diagnostic = Diagnostic::error(&empty, "no `FROM`").at(0..0, "");
        insta::assert_snapshot!(render_diagnostics(&[diagnostic], &Theme::plain()), @r"
            error: no `FROM`
             --> empty:1:1
              |
            1 |
              | ^
            ");
    }

    #[test]
    fn nothing_of_a_file_reaches_the_terminal_as_an_instruction() {
        let text = "RUN echo \x1b[2J\u{9b}31m\u{202e}\u{200f}\u{2028} bad\rover\n";
        let file = SourceFile::new("Docker\x1b]0;x\x07file", text);
        let diagnostic = Diagnostic::error(&file, "bad \x1b[31m\u{9b} word")
            .at(span(text, "bad"), "here\x1b[2J\nforged")
            .hint("remove\x1b it");
        let rendered = render_diagnostics(&[diagnostic], &Theme::plain());
        assert!(!rendered.contains(|c| is_control(c) && c != '\n'), "{rendered:?}");
        insta::assert_snapshot!(rendered, @r"
            error: bad \x1b[31m\u{9b} word
             --> Docker\x1b]0;x\x07file:1:22
              |
            1 | RUN echo ␛[2J¿31m��� bad␍over
              |                      ^^^ here\x1b[2J\nforged
              |
              = hint: remove\x1b it
            ");
    }

    #[test]
    fn colours_are_there_when_asked_for() {
        let file = SourceFile::new("f", "abc\n");
        let diagnostic = Diagnostic::error(&file, "no").at(0..3, "this");
        let rendered = render_diagnostics(&[diagnostic], &Theme::colored());
        insta::assert_snapshot!(rendered.replace('\x1b', "ESC"), @r"
            ESC[1mESC[91merrorESC[0mESC[1m: noESC[0m
             ESC[1mESC[94m--> ESC[0mf:1:1
              ESC[1mESC[94m|ESC[0m
            ESC[1mESC[94m1ESC[0m ESC[1mESC[94m|ESC[0m abc
              ESC[1mESC[94m|ESC[0m ESC[1mESC[91m^^^ESC[0m ESC[1mESC[91mthisESC[0m
            ");
    }

    #[test]
    fn a_long_line_is_cut_around_its_place() {
        let text = format!("{}wrong{}\n", "x".repeat(300), "y".repeat(300));
        let file = SourceFile::new("bundle.js", text.clone());
        let diagnostic = Diagnostic::error(&file, "bad word").at(span(&text, "wrong"), "here");
        insta::assert_snapshot!(render_diagnostics(&[diagnostic], &Theme::plain().wide(60)), @r"
            error: bad word
             --> bundle.js:1:301
              |
            1 | ...xxxxxxxxxxxxxxxxxxxxwrongyyyyyyyyyyyyyyyyyyyyyyyyy...
              |                        ^^^^^ here
            ");
    }
}
