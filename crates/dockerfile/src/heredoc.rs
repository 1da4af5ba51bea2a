use std::borrow::Cow;

use wbuild_report::Span;

use crate::expand::{ExpandError, Lexer, Quotes};

/// A here-document of RUN, COPY or ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without its quotes. COPY names the file after it.
    pub name: String,
    /// The descriptor before `<<`, for the shell.
    pub descriptor: Option<u32>,
    /// Whether COPY and ADD expand variables in the body: no part of the delimiter was quoted.
    pub expand: bool,
    /// `<<-`: tabs at the start of lines are not part of the content.
    pub strip_tabs: bool,
    /// The lines up to the delimiter, as written.
    pub body: String,
    /// Where the delimiter was announced.
    pub marker: Span,
    /// Where the body stands.
    pub body_span: Span,
}

impl Heredoc {
    /// The body without the tabs that `<<-` strips.
    pub fn content(&self) -> Cow<'_, str> {
        if !self.strip_tabs {
            return Cow::Borrowed(&self.body);
        }
        Cow::Owned(self.body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect())
    }
}

/// A word that announces a heredoc: `3<<-'EOF'`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) name: String,
    pub(crate) descriptor: Option<u32>,
    pub(crate) expand: bool,
    pub(crate) strip_tabs: bool,
}

/// The heredoc that `word` announces, if it does.
pub(crate) fn marker(word: &str) -> Result<Option<Marker>, ExpandError> {
    let after_digits = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &word[..word.len() - after_digits.len()];
    let Some(rest) = after_digits.strip_prefix("<<") else { return Ok(None) };
    let (rest, strip_tabs) = rest.strip_prefix('-').map_or((rest, false), |rest| (rest, true));
    let delimiter = rest.trim_start_matches(['\t', '\n', '\x0c', '\r', ' ']);
    if delimiter.is_empty() || delimiter.contains('<') {
        return Ok(None);
    }
    // Read with and without its quotes: a different number of them means that some part is quoted. The backslash escapes
    // here whatever the file's escape character is.
    let mut lexer = Lexer { keep_unset: true, ..Lexer::new('\\') };
    let mut names = lexer.expand_words(delimiter, &())?;
    let [name] = names.as_mut_slice() else { return Ok(None) };
    lexer.quotes = Quotes::Kept;
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let expand = lexer.expand_words(delimiter, &())?.first().is_some_and(|raw| quotes(raw) == quotes(name));
    let descriptor = if digits.is_empty() { None } else { Some(digits.parse().unwrap_or(u32::MAX)) };
    Ok(Some(Marker { name: std::mem::take(name), descriptor, expand, strip_tabs }))
}

/// The heredocs that a whole line announces, each with the text of its word. A line that a shell could not split either
/// announces none; why it could not is the error.
pub(crate) fn markers(line: &str) -> Result<Vec<(Marker, String)>, ExpandError> {
    let lexer = Lexer { quotes: Quotes::Kept, keep_escapes: true, keep_unset: true, ..Lexer::new('\\') };
    let lexer = Lexer { limit: line.len() * 2, ..lexer };
    let mut markers = Vec::new();
    for word in lexer.expand_words(line, &())? {
        if let Some(marker) = marker(&word)? {
            markers.push((marker, word));
        }
    }
    Ok(markers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_of_words() {
        for (word, name, expand) in [
            ("<<EOF", "EOF", true),
            ("<<'EOF'", "EOF", false),
            ("<<-\"EOF\"", "EOF", false),
            ("<<EO\"F\"", "EOF", false),
            ("<< EOF", "EOF", true),
            ("<<- EOF", "EOF", true),
            ("<< -EOF", "-EOF", true),
            ("<<eo\\'f", "eo'f", true),
            ("<<'e'o\\'f", "eo'f", false),
            ("<<'one two'", "one two", false),
            ("<<$EOF", "$EOF", true),
            ("12<<file.txt", "file.txt", true),
        ] {
            let found = marker(word).unwrap().unwrap();
            assert_eq!((found.name.as_str(), found.expand), (name, expand), "{word}");
        }
        for word in ["", "EOF", "<<", "<<-", "<EOF", "<<<EOF", "<<EOF sh", "x<<EOF", "<<''", "'<<EOF'"] {
            assert_eq!(marker(word).unwrap(), None, "{word}");
        }
        for word in ["<<'EOF", "<<EOF\""] {
            assert!(marker(word).is_err(), "{word}");
        }
    }

    #[test]
    fn markers_of_lines() {
        let names = |line: &str| {
            markers(line).unwrap().into_iter().map(|(marker, _)| marker.name).collect::<Vec<_>>()
        };
        assert_eq!(names("RUN <<EOF 3<<IN1 sh"), ["EOF", "IN1"]);
        assert_eq!(names("RUN <<  EOF  > foo"), ["EOF"]);
        assert_eq!(names("COPY <<'one two' <<X /d"), ["one two", "X"]);
        assert!(names("RUN \"<<EOF\" '<<EOF' $((1<<2)) a<<b <<<c").is_empty());
        assert!(markers("RUN it's <<EOF").is_err());
    }

    #[test]
    fn tabs_are_stripped_from_every_line() {
        let heredoc = Heredoc {
            name: String::new(),
            descriptor: None,
            expand: true,
            strip_tabs: true,
            body: "\t\ta\n\t b\nc\n".to_owned(),
            marker: Span::new(0, 0),
            body_span: Span::new(0, 0),
        };
        assert_eq!(heredoc.content(), "a\n b\nc\n");
    }
}
