use std::sync::Arc;

use wbuild_report::{Diagnostic, SourceFile, Span};

use super::{Member, Node, Value};

/// Deeper nesting than any real configuration has; the parser recurses, so a bound keeps the stack safe.
const MAX_DEPTH: usize = 128;

/// Which JSON is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// RFC 8259: `package.json`.
    Strict,
    /// With `//` and `/* */` comments and trailing commas: `turbo.json`, `tsconfig.json`.
    WithComments,
}

/// Parses the whole of `file`.
pub(crate) fn parse(file: &Arc<SourceFile>, dialect: Dialect) -> Result<Node, Box<Diagnostic>> {
    let mut parser = Parser { text: &file.text, at: 0, dialect };
    parse_document(&mut parser).map_err(|problem| {
        let end = file.text[problem.at..].chars().next().map_or(problem.at, |c| problem.at + c.len_utf8());
        Box::new(Diagnostic::error(file, problem.message).at(Span::new(problem.at, end), problem.label))
    })
}

struct Problem {
    at: usize,
    message: &'static str,
    label: &'static str,
}

fn parse_document(parser: &mut Parser<'_>) -> Result<Node, Problem> {
    parser.skip_blank()?;
    let node = parser.value(0)?;
    parser.skip_blank()?;
    if parser.at < parser.text.len() {
        return Err(parser.problem("the file goes on after its value", "not expected here"));
    }
    Ok(node)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    dialect: Dialect,
}

impl Parser<'_> {
    fn problem(&self, message: &'static str, label: &'static str) -> Problem {
        Problem { at: self.at, message, label }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip_blank(&mut self) -> Result<(), Problem> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(b'/') => self.comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn comment(&mut self) -> Result<(), Problem> {
        if self.dialect == Dialect::Strict {
            return Err(self.problem("comments are not allowed in this file", "not JSON"));
        }
        let rest = &self.text[self.at..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            match rest.find("*/") {
                Some(end) => end + 2,
                None => return Err(self.problem("this comment is never closed", "opened here")),
            }
        } else {
            return Err(self.problem("unexpected `/`", "not a comment"));
        };
        self.at += length;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Node, Problem> {
        if depth > MAX_DEPTH {
            return Err(self.problem("nested too deeply", "here"));
        }
        let start = self.at;
        let value = match self.peek() {
            Some(b'{') => self.map(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(_) => self.word()?,
            None => return Err(self.problem("the file ends where a value should be", "here")),
        };
        Ok(Node::new(Span::new(start, self.at), value))
    }

    fn map(&mut self, depth: usize) -> Result<Value, Problem> {
        self.at += 1;
        let mut members = Vec::new();
        loop {
            self.skip_blank()?;
            if self.eat(b'}') {
                return self.closed(&members, Value::Map).map(|wrap| wrap(members));
            }
            if self.peek() != Some(b'"') {
                return Err(self.problem("expected a key in double quotes, or `}`", "here"));
            }
            let start = self.at;
            let key = self.string()?;
            let key_span = Span::new(start, self.at);
            self.skip_blank()?;
            if !self.eat(b':') {
                return Err(self.problem("expected `:` after the key", "here"));
            }
            self.skip_blank()?;
            let node = self.value(depth + 1)?;
            members.push(Member { key, key_span, node });
            self.skip_blank()?;
            if !self.eat(b',') {
                if self.eat(b'}') {
                    return Ok(Value::Map(members));
                }
                return Err(self.problem("expected `,` or `}`", "here"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, Problem> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.skip_blank()?;
            if self.eat(b']') {
                return self.closed(&items, Value::List).map(|wrap| wrap(items));
            }
            items.push(self.value(depth + 1)?);
            self.skip_blank()?;
            if !self.eat(b',') {
                if self.eat(b']') {
                    return Ok(Value::List(items));
                }
                return Err(self.problem("expected `,` or `]`", "here"));
            }
        }
    }

    /// A bracket closed where an item could have stood: fine when empty, a trailing comma otherwise.
    fn closed<T, W>(&self, items: &[T], wrap: W) -> Result<W, Problem> {
        if !items.is_empty() && self.dialect == Dialect::Strict {
            let problem = self.problem("a trailing comma is not allowed in this file", "after a comma");
            return Err(Problem { at: problem.at - 1, ..problem });
        }
        Ok(wrap)
    }

    fn word(&mut self) -> Result<Value, Problem> {
        for (word, value) in
            [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)]
        {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.problem("expected a value", "not a JSON value"))
    }

    fn number(&mut self) -> Result<Value, Problem> {
        let rest = &self.text[self.at..];
        let length = rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'));
        let spelling = &rest[..length.unwrap_or(rest.len())];
        if serde_json::from_str::<serde_json::Number>(spelling).is_err() {
            return Err(self.problem("expected a value", "not a number"));
        }
        self.at += spelling.len();
        Ok(Value::Number(spelling.to_owned()))
    }

    fn string(&mut self) -> Result<String, Problem> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        let mut plain = true;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => {
                    plain = false;
                    end += 2;
                }
                Some(0..=0x1f) => {
                    self.at = end;
                    return Err(self.problem("a string may not hold a raw control character", "here"));
                }
                Some(_) => end += 1,
                None => return Err(self.problem("this string is never closed", "opened here")),
            }
        }
        self.at = end + 1;
        if plain {
            return Ok(self.text[start + 1..end].to_owned());
        }
        serde_json::from_str(&self.text[start..=end]).map_err(|_| Problem {
            at: start,
            message: "this string holds an escape that JSON does not know",
            label: "here",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str, dialect: Dialect) -> Result<String, String> {
        parse(&SourceFile::new("f.json", text), dialect)
            .map(|node| node.to_json().to_string())
            .map_err(|diagnostic| diagnostic.to_string())
    }

    #[test]
    fn reads_what_serde_json_reads() {
        let text = r#" {"a": [1, -2.5e3, true, null, "x\n\u00e4\"y"], "b": {}, "a": []} "#;
        let expected: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(json(text, Dialect::Strict).unwrap(), expected.to_string());
    }

    #[test]
    fn comments_and_trailing_commas_only_where_allowed() {
        let text = "// head\n{\"a\": [1, /* two */ 2,],\n}\n// tail";
        assert_eq!(json(text, Dialect::WithComments).unwrap(), r#"{"a":[1,2]}"#);
        assert_eq!(
            json(text, Dialect::Strict).unwrap_err(),
            "f.json:1:1: comments are not allowed in this file"
        );
        assert_eq!(
            json("{\"a\": 1,\n}", Dialect::Strict).unwrap_err(),
            "f.json:2:1: a trailing comma is not allowed in this file"
        );
    }

    #[test]
    fn errors_name_the_place() {
        for (text, expected) in [
            ("", "f.json:1:1: the file ends where a value should be"),
            ("{\n  a: 1}", "f.json:2:3: expected a key in double quotes, or `}`"),
            ("{\"a\" 1}", "f.json:1:6: expected `:` after the key"),
            ("[1 2]", "f.json:1:4: expected `,` or `]`"),
            ("{\"a\": \"x", "f.json:1:7: this string is never closed"),
            ("{} {}", "f.json:1:4: the file goes on after its value"),
            ("\"\\x\"", "f.json:1:1: this string holds an escape that JSON does not know"),
            ("nul", "f.json:1:1: expected a value"),
            ("\"ä\\", "f.json:1:1: this string is never closed"),
        ] {
            assert_eq!(json(text, Dialect::WithComments).unwrap_err(), expected, "{text}");
        }
        assert!(json(&"[".repeat(5000), Dialect::Strict).unwrap_err().contains("nested too deeply"));
    }
}
