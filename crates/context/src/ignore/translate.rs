/// How BuildKit matches a pattern, and the Go regular expression it would use where nothing simpler does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The whole path.
    Exact,
    /// The path begins with the pattern less its trailing `**`.
    Prefix,
    /// The path ends with the pattern less its leading `**`.
    Suffix,
    /// The path matches this Go regular expression.
    Regex(String),
}

/// Patternmatcher's own translation, oddities included: stars and question marks are rewritten inside classes too, a
/// circumflex is left alone, and `\c` goes to the regular expression as it is.
pub(super) fn translate(pattern: &[u8]) -> Form {
    let runes = go_runes(pattern);
    // Go's text scanner drops a byte order mark at the start.
    let mut rest = runes.strip_prefix(&['\u{feff}']).unwrap_or(&runes);
    let mut form = Form::Exact;
    let mut regex = String::from("^");
    let mut first = true;
    let as_regex = || Form::Regex(String::new());
    while let Some((rune, tail)) = rest.split_first() {
        rest = tail;
        match rune {
            '*' if rest.first() == Some(&'*') => {
                rest = &rest[1..];
                if rest.first() == Some(&'/') {
                    rest = &rest[1..];
                }
                if !rest.is_empty() {
                    regex.push_str("(.*/)?");
                    form = as_regex();
                } else if form == Form::Exact {
                    form = Form::Prefix;
                } else {
                    regex.push_str(".*");
                    form = as_regex();
                }
                if first {
                    form = Form::Suffix;
                }
            }
            '*' => {
                regex.push_str("[^/]*");
                form = as_regex();
            }
            '?' => {
                regex.push_str("[^/]");
                form = as_regex();
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                regex.push('\\');
                regex.push(*rune);
            }
            '\\' => {
                regex.push('\\');
                if let Some((escaped, tail)) = rest.split_first() {
                    regex.push(*escaped);
                    rest = tail;
                    form = as_regex();
                }
            }
            '[' | ']' => {
                regex.push(*rune);
                form = as_regex();
            }
            other => regex.push(*other),
        }
        first = false;
    }
    if matches!(form, Form::Regex(_)) {
        regex.push('$');
        return Form::Regex(regex);
    }
    form
}

/// Bytes as Go ranges over them: every byte that is no UTF-8 becomes one U+FFFD.
pub(super) fn go_runes(bytes: &[u8]) -> Vec<char> {
    let mut runes = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        runes.extend(chunk.valid().chars());
        runes.extend(chunk.invalid().iter().map(|_| '\u{fffd}'));
    }
    runes
}
