//! COPY and ADD.

use super::build::at_arguments;
use super::flag::{Flags, Takes};
use crate::ast::{Add, Copy, Transfer};
use crate::expand::Lexer;
use crate::heredoc;
use crate::problem::Problem;
use crate::source::Word;
use crate::statement::{Arguments, Statement};

pub(crate) fn copy(statement: &Statement, problems: &mut Vec<Problem>) -> Option<Copy> {
    let known = [
        ("chown", Takes::Value),
        ("from", Takes::Value),
        ("chmod", Takes::Value),
        ("link", Takes::Boolean),
        ("parents", Takes::Boolean),
        ("exclude", Takes::Values),
    ];
    let flags = Flags::read(&statement.flags, &known, problems);
    let from = flags.value("from");
    if let Some(from) = &from
        && Lexer::new('\\').expand(&from.text, &()).as_deref() != Ok(from.text.as_str())
    {
        problems.push(
            Problem::new(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope \
                 as a workaround",
                from.span,
            )
            .label("has to be a plain name")
            .hint("add `FROM $NAME AS alias` and write `--from=alias`"),
        );
    }
    let transfer = transfer("COPY", statement, &flags, problems)?;
    Some(Copy { transfer, from, parents: flags.boolean("parents").unwrap_or_default() })
}

pub(crate) fn add(statement: &Statement, problems: &mut Vec<Problem>) -> Option<Add> {
    let known = [
        ("chown", Takes::Value),
        ("chmod", Takes::Value),
        ("link", Takes::Boolean),
        ("keep-git-dir", Takes::Boolean),
        ("checksum", Takes::Value),
        ("unpack", Takes::Boolean),
        ("exclude", Takes::Values),
    ];
    let flags = Flags::read(&statement.flags, &known, problems);
    let transfer = transfer("ADD", statement, &flags, problems)?;
    Some(Add {
        transfer,
        checksum: flags.value("checksum"),
        keep_git_dir: flags.boolean("keep-git-dir"),
        unpack: flags.boolean("unpack"),
    })
}

fn transfer(
    name: &str,
    statement: &Statement,
    flags: &Flags,
    problems: &mut Vec<Problem>,
) -> Option<Transfer> {
    let (words, plain): (&[Word], bool) = match &statement.arguments {
        Arguments::Words(words) => (words, true),
        Arguments::Json(words) => (words, false),
        _ => (&[], true),
    };
    let (destination, sources) = match words.split_last() {
        Some((destination, sources)) if !sources.is_empty() => (destination, sources),
        _ => {
            problems.push(
                Problem::new(
                    format!(
                        "{name} requires at least two arguments, but only one was provided. Destination could not be \
                         determined"
                    ),
                    at_arguments(statement),
                )
                .label(if words.is_empty() { "neither source nor destination" } else { "source or destination is missing" })
                .hint(format!("write `{name} {} ./`", words.first().map_or("source", |word| word.text.as_str()))),
            );
            return None;
        }
    };
    // A JSON string is a path even if it begins with `<<`; BuildKit makes an empty file of it.
    let announces = |word: &Word| plain && matches!(heredoc::marker(&word.text), Ok(Some(_)));
    if announces(destination) {
        problems.push(
            Problem::new(format!("{name} cannot accept a heredoc as a destination"), destination.span)
                .label("the destination has to be the last word")
                .hint(format!("write `{name} {} /path`", destination.text)),
        );
        return None;
    }
    let (inline, paths): (Vec<&Word>, Vec<&Word>) = sources.iter().partition(|word| announces(word));
    if inline.len() != statement.heredocs.len() {
        problems.push(
            Problem::new(
                format!("{name} cannot accept a heredoc whose delimiter has blanks"),
                statement.heredocs.first().map_or(destination.span, |heredoc| heredoc.marker),
            )
            .label("is split at its blanks")
            .hint("write `<<EOF` in one piece"),
        );
        return None;
    }
    Some(Transfer {
        sources: paths.into_iter().cloned().collect(),
        inline: statement.heredocs.clone(),
        destination: destination.clone(),
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.boolean("link").unwrap_or_default(),
        excludes: flags.values("exclude"),
    })
}
