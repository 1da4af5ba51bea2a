use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::meter::Meter;
use super::pattern::{Pattern, Reach};
use super::{ExpandError, ExpandProblem, MAX_NESTING, MAX_VALUE_BYTES};

/// Where values come from.
pub trait Variables {
    /// The value of `name`, if it is set.
    fn get(&self, name: &str) -> Option<&str>;
}

/// No variables at all.
impl Variables for () {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Variables for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// What becomes of quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotes {
    /// They group, and are removed.
    Removed,
    /// They group, and are kept.
    Kept,
    /// They are characters like any other: the bodies of heredocs.
    Literal,
}

/// The names that an expansion asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Those that had a value.
    pub set: BTreeSet<String>,
    /// Those that had none, with the place of the first use in the word.
    pub unset: BTreeMap<String, Range<usize>>,
}

/// How to expand words. The default is what instructions do with their arguments.
#[derive(Clone, Debug)]
pub struct Lexer {
    /// The escape character: a backslash, or a backtick where the file says so.
    pub escape: char,
    /// What becomes of quotes.
    pub quotes: Quotes,
    /// Whether escapes stay in the result.
    pub keep_escapes: bool,
    /// Whether `$name` of an unset variable stays in the result.
    pub keep_unset: bool,
    /// The largest result in bytes.
    pub limit: usize,
    /// What pays for the work.
    pub meter: Meter,
}

impl Lexer {
    /// A lexer for instruction arguments.
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            quotes: Quotes::Removed,
            keep_escapes: false,
            keep_unset: false,
            limit: MAX_VALUE_BYTES,
            meter: Meter::new(),
        }
    }

    /// A lexer for the body of a heredoc that is expanded: quotes are text, the backslash escapes whatever the file's escape
    /// character is, and the result may be as long as the body with some room to grow.
    pub fn for_heredoc(body: &str, meter: Meter) -> Self {
        const ROOM: usize = 1024 * 1024;
        Self { quotes: Quotes::Literal, limit: body.len() + ROOM, meter, ..Self::new('\\') }
    }

    /// Expands `word` to one text, whatever white space the values have.
    pub fn expand(&self, word: &str, variables: &dyn Variables) -> Result<String, ExpandError> {
        self.expand_seen(word, variables, &mut Seen::default())
    }

    /// The same, noting which names were asked for; they are noted also when expansion fails.
    pub fn expand_seen(
        &self,
        word: &str,
        variables: &dyn Variables,
        seen: &mut Seen,
    ) -> Result<String, ExpandError> {
        if self.is_plain(word) {
            return Ok(word.to_owned());
        }
        Run::new(self, word, variables, seen).all(None)
    }

    /// Expands `text` and splits the result at white space that is not quoted, also that which values bring along.
    pub fn expand_words(&self, text: &str, variables: &dyn Variables) -> Result<Vec<String>, ExpandError> {
        let mut words = Words::default();
        Run::new(self, text, variables, &mut Seen::default()).all(Some(&mut words))?;
        Ok(words.finish())
    }

    /// Most words have nothing in them that a lexer would look at twice.
    fn is_plain(&self, word: &str) -> bool {
        word.len() <= self.limit && !word.contains(['$', '\'', '"', self.escape])
    }
}

/// Collects words from characters.
#[derive(Debug, Default)]
struct Words {
    done: Vec<String>,
    word: String,
}

impl Words {
    /// Adds text whose white space separates words.
    fn push_splitting(&mut self, text: &str) {
        for c in text.chars() {
            if !c.is_whitespace() {
                self.word.push(c);
            } else if !self.word.is_empty() {
                self.done.push(std::mem::take(&mut self.word));
            }
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

/// One expansion under way.
struct Run<'a> {
    lexer: &'a Lexer,
    word: &'a str,
    at: usize,
    variables: &'a dyn Variables,
    seen: &'a mut Seen,
    keep_escapes: bool,
    depth: usize,
}

impl<'a> Run<'a> {
    fn new(lexer: &'a Lexer, word: &'a str, variables: &'a dyn Variables, seen: &'a mut Seen) -> Self {
        Self { lexer, word, at: 0, variables, seen, keep_escapes: lexer.keep_escapes, depth: 0 }
    }

    fn all(mut self, words: Option<&mut Words>) -> Result<String, ExpandError> {
        self.charge(self.word.len(), 0)?;
        self.until(None, self.keep_escapes, words, 0)
    }

    fn peek(&self) -> Option<char> {
        self.word[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn error<T>(&self, problem: ExpandProblem, start: usize) -> Result<T, ExpandError> {
        Err(ExpandError { problem, at: start..self.at.max(start) })
    }

    fn charge(&self, units: usize, start: usize) -> Result<(), ExpandError> {
        self.lexer.meter.charge(units).or_else(|problem| self.error(problem, start))
    }

    fn push(&self, result: &mut String, text: &str, start: usize) -> Result<(), ExpandError> {
        let limit = self.lexer.limit;
        if result.len() + text.len() > limit {
            return self.error(ExpandProblem::TooLong { limit }, start);
        }
        self.charge(text.len(), start)?;
        result.push_str(text);
        Ok(())
    }

    /// Reads up to `stop`, or to the end when there is none. What is not closed began at `begin`.
    fn until(
        &mut self,
        stop: Option<char>,
        keep_escapes: bool,
        mut words: Option<&mut Words>,
        begin: usize,
    ) -> Result<String, ExpandError> {
        let outer = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        let mut result = String::new();
        while let Some(c) = self.peek() {
            if stop == Some(c) {
                self.next();
                self.keep_escapes = outer;
                return Ok(result);
            }
            let start = self.at;
            let quotes = self.lexer.quotes != Quotes::Literal;
            match c {
                '$' => {
                    let value = self.dollar()?;
                    self.push(&mut result, &value, start)?;
                    if let Some(words) = words.as_deref_mut() {
                        words.push_splitting(&value);
                    }
                    continue;
                }
                '\'' if quotes => {
                    let quoted = self.single_quotes()?;
                    self.push_whole(&mut result, words.as_deref_mut(), &quoted, start)?;
                }
                '"' if quotes => {
                    let quoted = self.double_quotes()?;
                    self.push_whole(&mut result, words.as_deref_mut(), &quoted, start)?;
                }
                '<' => {
                    let arrows = self.arrows();
                    self.push_whole(&mut result, words.as_deref_mut(), arrows, start)?;
                }
                c if c == self.lexer.escape => {
                    self.next();
                    let mut taken = String::new();
                    if self.keep_escapes {
                        taken.push(c);
                    }
                    // An escape at the end escapes nothing.
                    taken.extend(self.next());
                    self.push_whole(&mut result, words.as_deref_mut(), &taken, start)?;
                }
                _ => {
                    let text = self.ordinary(stop);
                    self.push(&mut result, text, start)?;
                    if let Some(words) = words.as_deref_mut() {
                        words.push_splitting(text);
                    }
                }
            }
        }
        match stop {
            None => Ok(result),
            Some('/') => self.error(ExpandProblem::OpenReplacement, begin),
            Some(_) => self.error(ExpandProblem::OpenBrace, begin),
        }
    }

    /// All characters up to the next one with a meaning; at least one.
    fn ordinary(&mut self, stop: Option<char>) -> &'a str {
        let escape = self.lexer.escape;
        let special = |c: char| matches!(c, '$' | '\'' | '"' | '<') || c == escape || stop == Some(c);
        let rest = &self.word[self.at..];
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let length = rest[first..].find(special).map_or(rest.len(), |more| first + more);
        self.at += length;
        &rest[..length]
    }

    /// Adds text that is never split.
    fn push_whole(
        &self,
        result: &mut String,
        words: Option<&mut Words>,
        text: &str,
        start: usize,
    ) -> Result<(), ExpandError> {
        self.push(result, text, start)?;
        if let Some(words) = words {
            words.word.push_str(text);
        }
        Ok(())
    }

    /// `<<` with the blanks behind it is one piece, so that `<< EOF` is one word. One `<` is just that.
    fn arrows(&mut self) -> &'a str {
        let start = self.at;
        self.next();
        if self.peek() == Some('<') {
            self.next();
            while matches!(self.peek(), Some('\t' | '\r' | ' ')) {
                self.next();
            }
        }
        &self.word[start..self.at]
    }

    fn single_quotes(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        self.next();
        let inside = &self.word[self.at..];
        let Some(length) = inside.find('\'') else {
            self.at = self.word.len();
            return self.error(ExpandProblem::OpenQuote { quote: '\'' }, start);
        };
        self.at += length + 1;
        let range = if self.lexer.quotes == Quotes::Kept { start..self.at } else { start + 1..self.at - 1 };
        Ok(self.word[range].to_owned())
    }

    fn double_quotes(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        self.next();
        let kept = self.lexer.quotes == Quotes::Kept;
        let mut result = String::new();
        if kept {
            result.push('"');
        }
        loop {
            let here = self.at;
            match self.peek() {
                None => return self.error(ExpandProblem::OpenQuote { quote: '"' }, start),
                Some('"') => {
                    self.next();
                    if kept {
                        result.push('"');
                    }
                    return Ok(result);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.push(&mut result, &value, here)?;
                }
                Some(c) if c == self.lexer.escape => {
                    self.next();
                    if self.keep_escapes {
                        result.push(c);
                    }
                    // Only these can be escaped in double quotes; before anything else the escape is a character. At the
                    // end it is nothing.
                    let kept = match self.peek() {
                        None => continue,
                        Some(escaped) if matches!(escaped, '"' | '$') || escaped == c => {
                            self.next();
                            escaped
                        }
                        Some(_) => c,
                    };
                    self.push(&mut result, kept.encode_utf8(&mut [0; 4]), here)?;
                }
                Some(_) => {
                    let text = self.ordinary(None);
                    self.push(&mut result, text, here)?;
                }
            }
        }
    }

    fn get(&mut self, name: &str, start: usize) -> Option<&'a str> {
        let value = self.variables.get(name);
        if value.is_some() {
            if !self.seen.set.contains(name) {
                self.seen.set.insert(name.to_owned());
            }
        } else if !self.seen.unset.contains_key(name) {
            self.seen.unset.insert(name.to_owned(), start..self.at);
        }
        value
    }

    fn dollar(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        self.next();
        if self.peek() == Some('{') {
            self.depth += 1;
            if self.depth > MAX_NESTING {
                return self.error(ExpandProblem::TooDeep, start);
            }
            let value = self.braces(start);
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(match self.get(name, start) {
            Some(value) => value.to_owned(),
            None if self.lexer.keep_unset => format!("${name}"),
            None => String::new(),
        })
    }

    /// `${…}`, at its brace.
    fn braces(&mut self, start: usize) -> Result<String, ExpandError> {
        self.next();
        match self.peek() {
            None => return self.error(ExpandProblem::OpenBrace, start),
            Some('{' | '}' | ':') => return self.error(ExpandProblem::BadSubstitution, start),
            Some(_) => {}
        }
        let name = self.name();
        let modifier_at = self.at;
        match self.next() {
            Some('}') => Ok(match self.get(name, start) {
                Some(value) => value.to_owned(),
                None if self.lexer.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some(':') => {
                let kind = self.next();
                let modifier = &self.word[modifier_at..self.at];
                match kind {
                    Some(kind @ ('-' | '+' | '?')) => self.conditional(start, name, kind, modifier),
                    None => self.error(ExpandProblem::OpenBrace, start),
                    Some(_) => self.error(ExpandProblem::Modifier { modifier: modifier.to_owned() }, start),
                }
            }
            Some(kind @ ('-' | '+' | '?')) => {
                let modifier = &self.word[modifier_at..self.at];
                self.conditional(start, name, kind, modifier)
            }
            Some(kind @ ('#' | '%')) => self.trim(start, name, kind),
            Some('/') => self.replace(start, name),
            None => self.error(ExpandProblem::OpenBrace, start),
            Some(other) => self.error(ExpandProblem::Modifier { modifier: other.to_string() }, start),
        }
    }

    /// `${v-w}`, `${v+w}`, `${v?w}`, and with `:` those where empty counts as unset.
    fn conditional(
        &mut self,
        start: usize,
        name: &str,
        kind: char,
        modifier: &str,
    ) -> Result<String, ExpandError> {
        let word = self.until(Some('}'), false, None, start)?;
        let value = self.get(name, start);
        if value.is_none() && self.lexer.keep_unset {
            return Ok(format!("${{{name}{modifier}{word}}}"));
        }
        let given = value.filter(|value| modifier.len() == 1 || !value.is_empty());
        match (kind, given) {
            ('-' | '?', Some(value)) => Ok(value.to_owned()),
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            _ => {
                let state = if value.is_some() { "empty" } else { "unset" };
                let message = if word.is_empty() { format!("is not allowed to be {state}") } else { word };
                self.error(ExpandProblem::Required { name: name.to_owned(), message }, start)
            }
        }
    }

    /// `${v#p}`, `${v##p}`, `${v%p}`, `${v%%p}`.
    fn trim(&mut self, start: usize, name: &str, kind: char) -> Result<String, ExpandError> {
        let word = self.until(Some('}'), true, None, start)?;
        let value = self.get(name, start);
        if value.is_none() && self.lexer.keep_unset {
            return Ok(format!("${{{name}{kind}{word}}}"));
        }
        let value = value.unwrap_or_default();
        let (pattern, reach) = match word.strip_prefix(kind) {
            Some(pattern) => (pattern, Reach::Longest),
            None => (word.as_str(), Reach::Shortest),
        };
        self.charge(value.len() + pattern.len(), start)?;
        let meter = &self.lexer.meter;
        Pattern::compile(pattern)
            .and_then(|pattern| match kind {
                '#' => pattern.trim_prefix(value, reach, meter),
                _ => pattern.trim_suffix(value, reach, meter),
            })
            .or_else(|problem| self.error(problem, start))
    }

    /// `${v/p/r}` and `${v//p/r}`.
    fn replace(&mut self, start: usize, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.until(Some('/'), true, None, start)?;
        let by = self.until(Some('}'), true, None, start)?;
        let value = self.get(name, start);
        if value.is_none() && self.lexer.keep_unset {
            return Ok(format!("${{{name}/{pattern}/{by}}}"));
        }
        let value = value.unwrap_or_default();
        self.charge(value.len() + pattern.len() + by.len(), start)?;
        let (limit, meter) = (self.lexer.limit, &self.lexer.meter);
        Pattern::compile(&pattern)
            .and_then(|pattern| match all {
                true => pattern.replace_all(value, &by, limit, meter),
                false => pattern.replace_first(value, &by, meter),
            })
            .or_else(|problem| self.error(problem, start))
    }

    /// A name, a positional parameter, or one special character; empty when there is none of them.
    fn name(&mut self) -> &'a str {
        let rest = &self.word[self.at..];
        let length = match rest.chars().next() {
            Some(c) if c.is_numeric() => rest.find(|c: char| !c.is_numeric()).unwrap_or(rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()),
        };
        self.at += length;
        &rest[..length]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_place_of_an_error_is_the_substitution() {
        let lexer = Lexer::new('\\');
        for (word, at) in [
            ("ab${x@y}c", 2..6),
            ("x'ab", 1..4),
            ("${a:-${}}", 5..7),
            ("a${b:?c}d", 1..8),
            ("ab${c/d}", 2..8),
            ("a${b:-c", 1..7),
        ] {
            assert_eq!(lexer.expand(word, &()).unwrap_err().at, at, "{word}");
        }
    }

    #[test]
    fn nesting_and_size_are_bounded() {
        let lexer = Lexer::new('\\');
        let deep = format!("{}x{}", "${a:-".repeat(10_000), "}".repeat(10_000));
        assert_eq!(lexer.expand(&deep, &()).unwrap_err().problem, ExpandProblem::TooDeep);
        let fine = format!("{}x{}", "${a:-".repeat(100), "}".repeat(100));
        assert_eq!(lexer.expand(&fine, &()).unwrap(), "x");
        let big = BTreeMap::from([("v".to_owned(), "x".repeat(40_000))]);
        assert!(lexer.expand("$v", &big).is_ok());
        assert_eq!(
            lexer.expand("$v$v", &big).unwrap_err().problem,
            ExpandProblem::TooLong { limit: MAX_VALUE_BYTES }
        );
        assert!(lexer.expand(&"${u:+$v}".repeat(50_000), &big).is_err(), "discarded text costs too");
    }

    #[test]
    fn heredoc_bodies_keep_quotes_and_lose_backslashes() {
        let body = "\"q\" 'q $x' a\\$b\\\\c\\d\n";
        let variables = BTreeMap::from([("x".to_owned(), "v".to_owned())]);
        assert_eq!(
            Lexer::for_heredoc(body, Meter::new()).expand(body, &variables).unwrap(),
            "\"q\" 'q v' a$b\\cd\n"
        );
    }
}
