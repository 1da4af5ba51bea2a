//! How an instruction's text falls into keyword, flags and words: byte ranges in, byte ranges out. Nothing is expanded here.

use std::ops::Range;

/// The white space that separates the words of most instructions. Fewer characters than Unicode has: a no-break space is part
/// of a word.
pub(crate) fn is_separator(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// `range` without the white space at both ends of the text it covers.
pub(crate) fn trim(text: &str, range: Range<usize>) -> Range<usize> {
    let inside = &text[range.clone()];
    let start = range.start + (inside.len() - inside.trim_start().len());
    start..start + inside.trim().len()
}

/// The keyword, and the rest behind the white space that follows it.
pub(crate) fn keyword(text: &str, range: Range<usize>) -> (Range<usize>, Range<usize>) {
    let all = trim(text, range);
    let inside = &text[all.clone()];
    let end = all.start + inside.find(is_separator).unwrap_or(inside.len());
    let rest = &text[end..all.end];
    let start = end + (rest.len() - rest.trim_start_matches(is_separator).len());
    (all.start..end, start..all.end)
}

/// At most the first separator run splits: `KEY` and `rest of line`.
pub(crate) fn first_and_rest(text: &str, range: Range<usize>) -> (Range<usize>, Option<Range<usize>>) {
    let inside = &text[range.clone()];
    match inside.find(is_separator) {
        None => (range, None),
        Some(at) => {
            let rest = &inside[at..];
            let start = range.start + at + (rest.len() - rest.trim_start_matches(is_separator).len());
            (range.start..range.start + at, Some(start..range.end))
        }
    }
}

/// The words between separators. Quotes mean nothing here.
pub(crate) fn fields(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let inside = &text[range.clone()];
    inside
        .split(is_separator)
        .filter(|word| !word.is_empty())
        .map(|word| {
            let start = range.start + (word.as_ptr() as usize - inside.as_ptr() as usize);
            start..start + word.len()
        })
        .collect()
}

/// A word whose quotes or escapes were resolved, with the range it was read from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) text: String,
    pub(crate) range: Range<usize>,
}

/// The flags at the start of an instruction's arguments, with their quotes and escapes resolved, and what follows them. A
/// bare `--` ends the flags and is dropped.
pub(crate) fn flags(text: &str, range: Range<usize>, escape: char) -> (Vec<Resolved>, Range<usize>) {
    let mut flags = Vec::new();
    let mut at = range.start;
    loop {
        let rest = &text[at..range.end];
        at = range.end - rest.trim_start().len();
        if !text[at..range.end].starts_with("--") {
            return (flags, trim(text, at..range.end));
        }
        let (word, end) = flag_word(text, at..range.end, escape);
        if word == "--" {
            return (flags, trim(text, end..range.end));
        }
        flags.push(Resolved { text: word, range: at..end });
        at = end;
    }
}

/// One word with its quotes and escapes resolved, and where it ends.
fn flag_word(text: &str, range: Range<usize>, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text[range.clone()].char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, range.start + at),
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => word.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => word.push(c),
        }
    }
    (word, range.end)
}

/// The words of ENV, LABEL and ARG: quotes group and are kept, an escape takes the next character with it and is kept; both
/// go when the word is expanded.
pub(crate) fn quoted_words(text: &str, range: Range<usize>, escape: char) -> Vec<Resolved> {
    let mut words = Vec::new();
    let mut chars = text[range.clone()].char_indices().peekable();
    while let Some((at, first)) = chars.next() {
        if first.is_whitespace() {
            continue;
        }
        let mut word = Resolved { text: String::new(), range: range.start + at..range.end };
        let mut quote = None;
        let mut next = Some((at, first));
        while let Some((at, c)) = next {
            if quote.is_none() && c.is_whitespace() {
                word.range.end = range.start + at;
                break;
            }
            // An escape at the very end says nothing, and nothing can be escaped in single quotes.
            if c == escape && quote != Some('\'') {
                if let Some((_, escaped)) = chars.next() {
                    word.text.push(c);
                    word.text.push(escaped);
                }
            } else {
                match quote {
                    None if matches!(c, '\'' | '"') => quote = Some(c),
                    Some(open) if c == open => quote = None,
                    _ => {}
                }
                word.text.push(c);
            }
            next = chars.next();
        }
        if !word.text.is_empty() {
            words.push(word);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: Vec<Resolved>) -> Vec<String> {
        words.into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn keywords_end_at_any_separator() {
        for (text, word, rest) in [
            ("RUN a b ", "RUN", "a b"),
            ("  copy\t\ta", "copy", "a"),
            ("CMD", "CMD", ""),
            ("", "", ""),
            (" \x0b ", "", ""),
        ] {
            let (keyword, after) = keyword(text, 0..text.len());
            assert_eq!((&text[keyword], &text[after]), (word, rest), "{text:?}");
        }
    }

    #[test]
    fn flags_resolve_quotes_and_stop_at_dashes() {
        for (text, expected, rest) in [
            ("--a=1 --b 'x' y", vec!["--a=1", "--b"], "'x' y"),
            ("--a=\"x y\"z  q", vec!["--a=x yz"], "q"),
            ("--a=x\\ y q", vec!["--a=x y"], "q"),
            ("--a -- --b", vec!["--a"], "--b"),
            ("- --b", vec![], "- --b"),
            ("--a\\", vec!["--a"], ""),
            ("--", vec![], ""),
            ("--a=日本 x", vec!["--a=日本"], "x"),
        ] {
            let (flags, after) = flags(text, 0..text.len(), '\\');
            assert_eq!(
                (texts(flags), &text[after]),
                (expected.iter().map(|s| (*s).to_owned()).collect(), rest),
                "{text}"
            );
        }
    }

    #[test]
    fn quoted_words_keep_their_quotes() {
        for (text, expected) in [
            ("foo bar 'abc xyz'", vec!["foo", "bar", "'abc xyz'"]),
            ("foo\\ bar", vec!["foo\\ bar"]),
            ("a=\"b c\"d e", vec!["a=\"b c\"d", "e"]),
            ("föo \"âbc xÿz\"", vec!["föo", "\"âbc xÿz\""]),
            ("a\\", vec!["a"]),
            ("'a\\' b", vec!["'a\\'", "b"]),
            ("\"a\\\" b\" c", vec!["\"a\\\" b\"", "c"]),
            ("", vec![]),
        ] {
            assert_eq!(texts(quoted_words(text, 0..text.len(), '\\')), expected, "{text}");
        }
    }
}
