use std::borrow::Cow;

/// What stands in a document instead of a value that nobody should read.
pub const REDACTED: &str = "(redacted)";

/// A text without the user and the password of any URL in it.
pub fn without_passwords(text: &str) -> Cow<'_, str> {
    let mut made = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        made.push_str(before);
        // The authority ends where the path, the query or the word does.
        let ends =
            |c: char| matches!(c, '/' | '?' | '#' | '"' | '\'' | '\\' | '<' | '>') || c.is_whitespace();
        let authority = &after[..after.find(ends).unwrap_or(after.len())];
        rest = match authority.rfind('@') {
            Some(host) => {
                made.push_str(REDACTED);
                &after[host..]
            }
            None => after,
        };
    }
    if made.is_empty() {
        return Cow::Borrowed(text);
    }
    made.push_str(rest);
    Cow::Owned(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_urls() {
        for (text, expected) in [
            ("git clone https://me:word@host.test/a b@c", "git clone https://(redacted)@host.test/a b@c"),
            ("x://a@b y://c@d", "x://(redacted)@b y://(redacted)@d"),
            ("https://a:p@ss@host", "https://(redacted)@host"),
            ("https://host/a@1", "https://host/a@1"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(without_passwords(text), expected);
        }
    }
}
