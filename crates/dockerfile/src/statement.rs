//! An instruction as far as it can be read without knowing what it means: keyword, flags, and arguments in the form that the
//! keyword's instruction has.

use std::ops::Range;

use wbuild_report::Span;

use crate::heredoc::Heredoc;
use crate::json::{self, JsonArray};
use crate::line::Logical;
use crate::problem::Problem;
use crate::source::Word;
use crate::split;

/// The instructions there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Keyword {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
}

impl Keyword {
    /// All of them with the name that messages use.
    pub(crate) const ALL: [(&'static str, Self); 18] = [
        ("ADD", Self::Add),
        ("ARG", Self::Arg),
        ("CMD", Self::Cmd),
        ("COPY", Self::Copy),
        ("ENTRYPOINT", Self::Entrypoint),
        ("ENV", Self::Env),
        ("EXPOSE", Self::Expose),
        ("FROM", Self::From),
        ("HEALTHCHECK", Self::Healthcheck),
        ("LABEL", Self::Label),
        ("MAINTAINER", Self::Maintainer),
        ("ONBUILD", Self::Onbuild),
        ("RUN", Self::Run),
        ("SHELL", Self::Shell),
        ("STOPSIGNAL", Self::StopSignal),
        ("USER", Self::User),
        ("VOLUME", Self::Volume),
        ("WORKDIR", Self::Workdir),
    ];

    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, keyword)| *keyword)
    }
}

/// Arguments, by the form they have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// Nothing is there.
    None,
    /// One text.
    Text(Word),
    /// Words between blanks.
    Words(Vec<Word>),
    /// A JSON array of strings.
    Json(Vec<Word>),
    /// `key=value`, or the old `key value`.
    Pairs(Vec<Pair>),
    /// HEALTHCHECK: a word and what follows it.
    Typed(Word, Box<Arguments>),
    /// ONBUILD: another instruction.
    Nested(Box<Statement>),
}

/// One `key=value` of ENV or LABEL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key, with its quotes.
    pub key: Word,
    /// The value, with its quotes.
    pub value: Word,
    /// Written as `key value`, without `=`.
    pub legacy: bool,
}

/// A read instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) keyword: Word,
    pub(crate) flags: Vec<Word>,
    pub(crate) arguments: Arguments,
    /// The joined line, trimmed.
    pub(crate) text: String,
    /// Where the arguments stand; empty when there are none.
    pub(crate) arguments_span: Span,
    pub(crate) heredocs: Vec<Heredoc>,
}

impl Statement {
    /// Whether its line may announce heredocs.
    pub(crate) fn takes_heredocs(&self) -> bool {
        let inner = match &self.arguments {
            Arguments::Nested(inner) if Keyword::of(&self.keyword.text) == Some(Keyword::Onbuild) => inner,
            _ => self,
        };
        let takes =
            matches!(Keyword::of(&inner.keyword.text), Some(Keyword::Add | Keyword::Copy | Keyword::Run));
        takes && !matches!(inner.arguments, Arguments::Json(_))
    }
}

/// Reads the part of a joined line in `range`. Problems of form are noted; the statement is there all the same if what is left
/// of it can be checked further.
pub(crate) fn read(
    line: &Logical,
    range: Range<usize>,
    escape: char,
    problems: &mut Vec<Problem>,
) -> Option<Statement> {
    read_nested(line, range, escape, false, problems)
}

fn read_nested(
    line: &Logical,
    range: Range<usize>,
    escape: char,
    in_onbuild: bool,
    problems: &mut Vec<Problem>,
) -> Option<Statement> {
    let text = line.text.as_str();
    let word = |range: Range<usize>| Word::new(&text[range.clone()], line.span(range));
    let all = split::trim(text, range);
    let (keyword, rest) = split::keyword(text, all.clone());
    let (flags, rest) = split::flags(text, rest, escape);
    let flags = flags.into_iter().map(|flag| Word::new(flag.text, line.span(flag.range))).collect();
    let kind = Keyword::of(&text[keyword.clone()]);
    let reader = Arguing { line, text, escape };
    let arguments = match kind {
        None => Some(Arguments::None),
        _ if rest.is_empty() => Some(Arguments::None),
        Some(Keyword::Run | Keyword::Cmd | Keyword::Entrypoint | Keyword::Shell) => {
            reader.json_or_text(rest.clone())
        }
        Some(Keyword::Copy | Keyword::Add | Keyword::Volume) => reader.json_or_words(rest.clone()),
        Some(Keyword::From | Keyword::Expose) => Some(reader.words(rest.clone())),
        Some(Keyword::Maintainer | Keyword::StopSignal | Keyword::User | Keyword::Workdir) => {
            Some(Arguments::Text(word(rest.clone())))
        }
        Some(Keyword::Arg) => Some(reader.quoted_words(rest.clone())),
        Some(Keyword::Env) => reader.pairs(rest.clone(), "ENV", problems),
        Some(Keyword::Label) => reader.pairs(rest.clone(), "LABEL", problems),
        Some(Keyword::Healthcheck) => reader.typed(rest.clone()),
        // A trigger in a trigger is refused later; it is not read, so that a line of them costs no stack.
        Some(Keyword::Onbuild) if in_onbuild => Some(Arguments::None),
        Some(Keyword::Onbuild) => read_nested(line, rest.clone(), escape, true, problems)
            .map(|inner| Arguments::Nested(Box::new(inner))),
    };
    let arguments = match arguments {
        Some(arguments) => arguments,
        None => {
            if !matches!(kind, Some(Keyword::Env | Keyword::Label | Keyword::Onbuild)) {
                problems.push(not_strings(line, text, rest));
            }
            return None;
        }
    };
    Some(Statement {
        keyword: word(keyword),
        flags,
        arguments,
        text: text[all].to_owned(),
        arguments_span: line.span(rest),
        heredocs: Vec::new(),
    })
}

fn not_strings(line: &Logical, text: &str, rest: Range<usize>) -> Problem {
    // HEALTHCHECK has a word before its array.
    let array = rest.start + text[rest.clone()].find('[').unwrap_or(0);
    let at = match json::array_of_strings(text, array..rest.end) {
        JsonArray::OtherItems(at) => at,
        _ => rest,
    };
    Problem::new("when using JSON array syntax, arrays must be comprised of strings only", line.span(at))
        .label("not a string")
        .hint("put it in double quotes: `[\"sleep\", \"5\"]`")
}

/// Reads arguments of one line.
struct Arguing<'a> {
    line: &'a Logical,
    text: &'a str,
    escape: char,
}

impl Arguing<'_> {
    fn word(&self, range: Range<usize>) -> Word {
        Word::new(&self.text[range.clone()], self.line.span(range))
    }

    /// `None` when there is JSON, but not of strings.
    fn json(&self, range: Range<usize>) -> Option<Option<Arguments>> {
        if !self.text[range.clone()].starts_with('[') {
            return Some(None);
        }
        match json::array_of_strings(self.text, range) {
            JsonArray::Strings(strings) => {
                let words =
                    strings.into_iter().map(|(text, range)| Word::new(text, self.line.span(range))).collect();
                Some(Some(Arguments::Json(words)))
            }
            JsonArray::OtherItems(_) => None,
            JsonArray::NotJson => Some(None),
        }
    }

    fn json_or_text(&self, range: Range<usize>) -> Option<Arguments> {
        if range.is_empty() {
            return Some(Arguments::None);
        }
        Some(self.json(range.clone())?.unwrap_or_else(|| Arguments::Text(self.word(range))))
    }

    fn json_or_words(&self, range: Range<usize>) -> Option<Arguments> {
        Some(self.json(range.clone())?.unwrap_or_else(|| self.words(range)))
    }

    fn words(&self, range: Range<usize>) -> Arguments {
        Arguments::Words(split::fields(self.text, range).into_iter().map(|word| self.word(word)).collect())
    }

    fn quoted_words(&self, range: Range<usize>) -> Arguments {
        let words = split::quoted_words(self.text, range, self.escape);
        Arguments::Words(
            words.into_iter().map(|word| Word::new(word.text, self.line.span(word.range))).collect(),
        )
    }

    fn pairs(&self, range: Range<usize>, name: &str, problems: &mut Vec<Problem>) -> Option<Arguments> {
        let words = split::quoted_words(self.text, range.clone(), self.escape);
        let Some(first) = words.first() else { return Some(Arguments::None) };
        if !first.text.contains('=') {
            let (key, value) = split::first_and_rest(self.text, range);
            let key = self.word(key);
            let Some(value) = value else {
                problems.push(
                    Problem::new(format!("{name} must have two arguments"), key.span)
                        .label("no value")
                        .hint(format!("write `{name} {}=value`", key.text)),
                );
                return None;
            };
            return Some(Arguments::Pairs(vec![Pair { key, value: self.word(value), legacy: true }]));
        }
        let mut pairs = Vec::new();
        for word in words {
            let span = self.line.span(word.range);
            match word.text.split_once('=') {
                Some((key, value)) => {
                    let whole = Word::new(word.text.as_str(), span);
                    let key_span = whole.part(0..key.len());
                    let value_span = whole.part(key.len() + 1..word.text.len());
                    pairs.push(Pair {
                        key: Word::new(key, key_span),
                        value: Word::new(value, value_span),
                        legacy: false,
                    });
                }
                // What follows is wrong for the same reason.
                None => {
                    problems.push(no_equals(name, &word.text, span));
                    return None;
                }
            }
        }
        Some(Arguments::Pairs(pairs))
    }

    fn typed(&self, range: Range<usize>) -> Option<Arguments> {
        let inside = &self.text[range.clone()];
        let end =
            range.start + inside.find(|c: char| c.is_ascii() && c.is_whitespace()).unwrap_or(inside.len());
        let rest = split::trim(self.text, end..range.end);
        let command = self.json_or_text(rest)?;
        Some(Arguments::Typed(self.word(range.start..end), Box::new(command)))
    }
}

fn no_equals(name: &str, word: &str, span: Span) -> Problem {
    let problem = Problem::new(
        format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value"),
        span,
    );
    if word.starts_with('#') {
        problem.label("this is not a comment").hint("a comment needs a line of its own")
    } else {
        problem.label("no `=`").hint(format!("quote values that have blanks: `{name} key=\"two words\"`"))
    }
}
