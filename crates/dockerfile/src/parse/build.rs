//! Typed instructions from read statements.

use std::sync::Arc;

use wbuild_report::{SourceFile, Span};

use super::flag::{Flags, Takes};
use super::{run, transfer};
use crate::ast::{ArgItem, CommandLine, Healthcheck, Instruction, Kind, LineRange, Onbuild, Stage};
use crate::problem::Problem;
use crate::source::Word;
use crate::statement::{Arguments, Keyword, Pair, Statement};
use crate::values::{DurationError, duration};

/// Where an instruction stands.
pub(crate) struct Place<'a> {
    pub(crate) file: &'a Arc<SourceFile>,
    pub(crate) span: Span,
    pub(crate) lines: LineRange,
}

/// What was found wrong.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Errors.
    pub(crate) problems: Vec<Problem>,
    /// Errors of an ONBUILD trigger: BuildKit finds them when the trigger runs, so the image can be built.
    pub(crate) later: Vec<Problem>,
}

/// Flags of instructions that have none.
const NO_FLAGS: [(&str, Takes); 0] = [];

/// FROM.
pub(crate) fn stage(
    statement: &Statement,
    place: &Place<'_>,
    comments: Vec<String>,
    index: usize,
    problems: &mut Vec<Problem>,
) -> Option<Stage> {
    let flags = Flags::read(&statement.flags, &[("platform", Takes::Value)], problems);
    let words: &[Word] = if let Arguments::Words(words) = &statement.arguments { words } else { &[] };
    let (base, name) = match words {
        [base] => (base, None),
        [base, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => (base, Some((keyword, name))),
        _ => {
            problems.push(wrong_from(statement, words));
            return None;
        }
    };
    let lower = name.map(|(_, name)| name.text.to_lowercase()).unwrap_or_default();
    if let Some((_, written)) = name
        && !is_stage_name(&lower)
    {
        problems.push(
            Problem::new(
                format!(
                    "invalid name for build stage: {:?}, name can't start with a number or contain symbols",
                    written.text
                ),
                written.span,
            )
            .label("not a stage name")
            .hint("a name begins with a letter; letters, digits, `-`, `_` and `.` follow"),
        );
        return None;
    }
    Some(Stage {
        index,
        keyword: statement.keyword.clone(),
        base: base.clone(),
        as_keyword: name.map(|(keyword, _)| keyword.clone()),
        written_name: name.map(|(_, name)| name.clone()),
        description: described(&comments, &lower),
        name: lower,
        platform: flags.value("platform"),
        comments,
        text: statement.text.clone(),
        span: place.span,
        lines: place.lines,
        instructions: Vec::new(),
    })
}

fn wrong_from(statement: &Statement, words: &[Word]) -> Problem {
    let problem = Problem::new("FROM requires either one or three arguments", at_arguments(statement));
    match words {
        [] => {
            problem.hint("name the image to begin with: `FROM node:22`, or `FROM scratch` for an empty one")
        }
        [base, ..] if base.text.contains("${") && !base.text.contains('}') => problem
            .label("is split at its blanks")
            .hint("`${…}` in FROM cannot hold blanks; set the value with ARG above"),
        [base, keyword] if keyword.text.eq_ignore_ascii_case("as") => {
            problem.label("no name behind AS").hint(format!("write `FROM {} AS name`", base.text))
        }
        [base, name] => problem
            .label("two words")
            .hint(format!("to name the stage, write `FROM {} AS {}`", base.text, name.text)),
        [_, keyword, name] => problem
            .label(format!("`{}` is not AS", keyword.text))
            .hint(format!("to name the stage, write `AS {}`", name.text)),
        [_, _, _, more, ..] if more.text.starts_with('#') => {
            problem.label("this is not a comment").hint("a comment needs a line of its own")
        }
        _ => problem.hint("the form is `FROM [--platform=…] image [AS name]`"),
    }
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte))
}

/// The comment `# name text` above a definition of `name`.
fn described(comments: &[String], name: &str) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    comments.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned)
}

/// Any instruction but FROM.
pub(crate) fn instruction(
    keyword: Keyword,
    statement: &Statement,
    place: &Place<'_>,
    comments: Vec<String>,
    outcome: &mut Outcome,
) -> Option<Instruction> {
    let kind = kind(keyword, statement, place, &comments, outcome)?;
    Some(Instruction {
        file: Arc::clone(place.file),
        keyword: statement.keyword.clone(),
        text: statement.text.clone(),
        span: place.span,
        lines: place.lines,
        comments,
        kind,
    })
}

fn kind(
    keyword: Keyword,
    statement: &Statement,
    place: &Place<'_>,
    comments: &[String],
    outcome: &mut Outcome,
) -> Option<Kind> {
    let problems = &mut outcome.problems;
    // BuildKit checks no flags of these; `ARG --x=1 a` declares `a`.
    let checked = !matches!(
        keyword,
        Keyword::Arg
            | Keyword::StopSignal
            | Keyword::Healthcheck
            | Keyword::Run
            | Keyword::Copy
            | Keyword::Add
    );
    let before = problems.len();
    if checked {
        Flags::read(&statement.flags, &NO_FLAGS, problems);
    }
    let kind = match keyword {
        Keyword::Add => transfer::add(statement, problems).map(Kind::Add),
        Keyword::Copy => transfer::copy(statement, problems).map(Kind::Copy),
        Keyword::Run => run::run(statement, problems).map(Kind::Run),
        Keyword::Arg => arg(statement, comments, problems).map(Kind::Arg),
        Keyword::Cmd => Some(Kind::Cmd(command_line(&statement.arguments, statement))),
        Keyword::Entrypoint => Some(Kind::Entrypoint(command_line(&statement.arguments, statement))),
        Keyword::Env => pairs("ENV", statement, problems).map(Kind::Env),
        Keyword::Label => pairs("LABEL", statement, problems).map(Kind::Label),
        Keyword::Expose => words("EXPOSE", statement, problems).map(|mut words| {
            words.sort_by(|a, b| a.text.cmp(&b.text));
            Kind::Expose(words)
        }),
        Keyword::Volume => volumes(statement, problems).map(Kind::Volume),
        Keyword::Healthcheck => healthcheck(statement, problems).map(Kind::Healthcheck),
        Keyword::Shell => shell(statement, problems).map(Kind::Shell),
        Keyword::Maintainer => one("MAINTAINER", statement, problems).map(Kind::Maintainer),
        Keyword::StopSignal => one("STOPSIGNAL", statement, problems).map(Kind::StopSignal),
        Keyword::User => one("USER", statement, problems).map(Kind::User),
        Keyword::Workdir => one("WORKDIR", statement, problems).map(Kind::Workdir),
        Keyword::Onbuild => {
            let onbuild = onbuild(statement, place, outcome).map(Kind::Onbuild);
            return onbuild.filter(|_| outcome.problems.len() == before);
        }
        // FROM is not an instruction of a stage.
        Keyword::From => None,
    };
    kind.filter(|_| problems.len() == before)
}

/// Where the arguments stand, or the keyword when there are none.
pub(crate) fn at_arguments(statement: &Statement) -> Span {
    let span = statement.arguments_span;
    if span.start == span.end { statement.keyword.span } else { span }
}

fn at_least_one(name: &str, statement: &Statement, hint: &str) -> Problem {
    Problem::new(format!("{name} requires at least one argument"), statement.keyword.span)
        .label("nothing follows")
        .hint(hint)
}

fn one(name: &str, statement: &Statement, problems: &mut Vec<Problem>) -> Option<Word> {
    if let Arguments::Text(word) = &statement.arguments {
        return Some(word.clone());
    }
    let example = match name {
        "WORKDIR" => "`WORKDIR /app`",
        "USER" => "`USER node` or `USER 1000:1000`",
        "STOPSIGNAL" => "`STOPSIGNAL SIGTERM`",
        _ => "`LABEL org.opencontainers.image.authors=\"…\"` instead; MAINTAINER is deprecated",
    };
    problems.push(
        Problem::new(format!("{name} requires exactly one argument"), statement.keyword.span)
            .label("nothing follows")
            .hint(format!("write {example}")),
    );
    None
}

fn words(name: &str, statement: &Statement, problems: &mut Vec<Problem>) -> Option<Vec<Word>> {
    match &statement.arguments {
        Arguments::Words(words) | Arguments::Json(words) if !words.is_empty() => Some(words.clone()),
        _ => {
            let hint = if name == "EXPOSE" { "write `EXPOSE 3000`" } else { "write `VOLUME /data`" };
            problems.push(at_least_one(name, statement, hint));
            None
        }
    }
}

fn volumes(statement: &Statement, problems: &mut Vec<Problem>) -> Option<Vec<Word>> {
    let mut words = words("VOLUME", statement, problems)?;
    for word in &mut words {
        word.text = word.text.trim().to_owned();
        if word.text.is_empty() {
            problems.push(
                Problem::new("VOLUME specified can not be an empty string", word.span)
                    .hint("remove it, or name a directory: `VOLUME [\"/data\"]`"),
            );
        }
    }
    Some(words)
}

fn pairs(name: &str, statement: &Statement, problems: &mut Vec<Problem>) -> Option<Vec<Pair>> {
    let Arguments::Pairs(pairs) = &statement.arguments else {
        problems.push(at_least_one(name, statement, &format!("write `{name} key=value`")));
        return None;
    };
    for pair in pairs.iter().filter(|pair| pair.key.text.is_empty()) {
        problems.push(blank_name(name, pair.value.span));
    }
    Some(pairs.clone())
}

fn blank_name(name: &str, span: Span) -> Problem {
    Problem::new(format!("{name} names can not be blank"), span)
        .label("no name before `=`")
        .hint("write `name=value`, without blanks around `=`")
}

fn arg(statement: &Statement, comments: &[String], problems: &mut Vec<Problem>) -> Option<Vec<ArgItem>> {
    let words = match &statement.arguments {
        Arguments::Words(words) if !words.is_empty() => words,
        _ => {
            problems.push(at_least_one("ARG", statement, "write `ARG NAME` or `ARG NAME=default`"));
            return None;
        }
    };
    let mut items = Vec::new();
    for word in words {
        let (name, default) = match word.text.split_once('=') {
            None => (word.clone(), None),
            Some((name, default)) => {
                let default_span = word.part(name.len() + 1..word.text.len());
                (Word::new(name, word.part(0..name.len())), Some(Word::new(default, default_span)))
            }
        };
        if name.text.is_empty() {
            problems.push(blank_name("ARG", word.span));
        }
        items.push(ArgItem { description: described(comments, &name.text), name, default });
    }
    Some(items)
}

/// The JSON form as it is, anything else as a text for the shell; nothing at all is an empty text.
pub(crate) fn command_line(arguments: &Arguments, statement: &Statement) -> CommandLine {
    match arguments {
        Arguments::Json(words) => CommandLine::Exec(words.clone()),
        Arguments::Text(text) => CommandLine::Shell(text.clone()),
        _ => CommandLine::Shell(Word::new("", statement.arguments_span)),
    }
}

fn shell(statement: &Statement, problems: &mut Vec<Problem>) -> Option<Vec<Word>> {
    match &statement.arguments {
        Arguments::Json(words) if !words.is_empty() => Some(words.clone()),
        Arguments::Text(text) => {
            let words: Vec<String> = text.text.split_whitespace().map(|word| format!("{word:?}")).collect();
            let hint = if text.text.starts_with('[') {
                "strings of JSON stand in double quotes: `SHELL [\"/bin/bash\", \"-c\"]`".to_owned()
            } else {
                format!("write `SHELL [{}]`", words.join(", "))
            };
            problems
                .push(Problem::new("SHELL requires the arguments to be in JSON form", text.span).hint(hint));
            None
        }
        _ => {
            problems.push(at_least_one("SHELL", statement, "write `SHELL [\"/bin/bash\", \"-c\"]`"));
            None
        }
    }
}

fn healthcheck(statement: &Statement, problems: &mut Vec<Problem>) -> Option<Healthcheck> {
    let Arguments::Typed(kind, arguments) = &statement.arguments else {
        problems.push(at_least_one(
            "HEALTHCHECK",
            statement,
            "write `HEALTHCHECK CMD …`, or `HEALTHCHECK NONE`",
        ));
        return None;
    };
    let upper = kind.text.to_uppercase();
    if upper == "NONE" {
        if !matches!(&**arguments, Arguments::None) && **arguments != Arguments::Json(Vec::new()) {
            problems.push(
                Problem::new("HEALTHCHECK NONE takes no arguments", at_arguments(statement))
                    .hint("write `HEALTHCHECK CMD …` to run a command"),
            );
            return None;
        }
        return Some(Healthcheck::None);
    }
    let known =
        ["interval", "timeout", "start-period", "start-interval", "retries"].map(|name| (name, Takes::Value));
    let flags = Flags::read(&statement.flags, &known, problems);
    if upper != "CMD" {
        problems.push(
            Problem::new(format!("Unknown type {upper:?} in HEALTHCHECK (try CMD)"), kind.span)
                .label("neither CMD nor NONE")
                .hint(format!("write `HEALTHCHECK CMD {} …`", kind.text)),
        );
        return None;
    }
    let command = match &**arguments {
        Arguments::None => None,
        Arguments::Json(words) if words.is_empty() => None,
        arguments => Some(command_line(arguments, statement)),
    };
    if command.is_none() {
        problems.push(
            Problem::new("Missing command after HEALTHCHECK CMD", kind.span)
                .label("nothing follows")
                .hint("write what to run: `HEALTHCHECK CMD wget -qO- http://127.0.0.1:3000/`"),
        );
    }
    let mut time =
        |name: &str| flags.value(name).and_then(|word| interval(name, &word, problems)).unwrap_or_default();
    let (interval, timeout) = (time("interval"), time("timeout"));
    let (start_period, start_interval) = (time("start-period"), time("start-interval"));
    let retries = flags.value("retries").and_then(|word| retries(&word, problems)).unwrap_or_default();
    Some(Healthcheck::Check { command: command?, interval, timeout, start_period, start_interval, retries })
}

/// Shorter intervals are refused by the engines that run the check.
const SHORTEST_INTERVAL: std::time::Duration = std::time::Duration::from_millis(1);

fn interval(name: &str, word: &Word, problems: &mut Vec<Problem>) -> Option<std::time::Duration> {
    match duration(&word.text) {
        Ok(time) if time.is_zero() || time >= SHORTEST_INTERVAL => Some(time),
        Ok(_) | Err(DurationError::Negative { .. }) => {
            problems.push(
                Problem::new(format!("Interval {name:?} cannot be less than 1ms"), word.span)
                    .hint("write a time such as `30s`, or 0 for the default"),
            );
            None
        }
        Err(error) => {
            let hint = match &error {
                DurationError::NoUnit { text } => format!("did you mean `{text}s`?"),
                _ => "times are written `30s`, `1m30s`, `500ms`".to_owned(),
            };
            problems.push(Problem::new(error.to_string(), word.span).hint(hint));
            None
        }
    }
}

fn retries(word: &Word, problems: &mut Vec<Problem>) -> Option<u32> {
    match word.text.parse::<i32>() {
        Ok(number) if number >= 0 => Some(number.unsigned_abs()),
        Ok(number) => {
            problems.push(
                Problem::new(format!("--retries cannot be negative ({number})"), word.span)
                    .hint("write 0 for the default"),
            );
            None
        }
        Err(_) => {
            problems.push(
                Problem::new(format!("invalid value for --retries: {}", word.text), word.span)
                    .hint("write a whole number: `--retries=3`"),
            );
            None
        }
    }
}

fn onbuild(statement: &Statement, place: &Place<'_>, outcome: &mut Outcome) -> Option<Onbuild> {
    let before = outcome.problems.len();
    let Arguments::Nested(inner) = &statement.arguments else {
        outcome.problems.push(at_least_one(
            "ONBUILD",
            statement,
            "write an instruction: `ONBUILD COPY . /app`",
        ));
        return None;
    };
    let keyword = Keyword::of(&inner.keyword.text);
    let upper = inner.keyword.text.to_uppercase();
    match keyword {
        Some(Keyword::Onbuild) => {
            outcome.problems.push(
                Problem::new("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", inner.keyword.span)
                    .hint("a trigger runs once, in the first image that is built on this one"),
            );
        }
        Some(Keyword::From | Keyword::Maintainer) => {
            outcome.problems.push(
                Problem::new(format!("{upper} isn't allowed as an ONBUILD trigger"), inner.keyword.span)
                    .hint("remove it: triggers are instructions within a stage"),
            );
        }
        _ => {}
    }
    if outcome.problems.len() > before {
        return None;
    }
    let mut nested = (**inner).clone();
    nested.heredocs.clone_from(&statement.heredocs);
    let trigger = match keyword {
        None => {
            let names = Keyword::ALL.iter().map(|(name, _)| *name);
            let found = crate::suggest::suggest_any_case(&inner.keyword.text, names);
            outcome.later.push(Problem::new(
                format!(
                    "unknown instruction: {}{}",
                    inner.keyword.text,
                    crate::suggest::did_you_mean(found.as_deref())
                ),
                inner.keyword.span,
            ));
            None
        }
        Some(keyword) => {
            let mut inside = Outcome::default();
            let trigger = instruction(keyword, &nested, place, Vec::new(), &mut inside);
            outcome.later.append(&mut inside.problems);
            trigger.map(Box::new)
        }
    };
    let mut expression = statement.text["ONBUILD".len()..].trim_start().to_owned();
    for heredoc in &statement.heredocs {
        expression.push('\n');
        expression.push_str(&heredoc.body);
        expression.push_str(&heredoc.name);
    }
    Some(Onbuild { expression, trigger })
}
