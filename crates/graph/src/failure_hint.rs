//! What to tell the person whose step failed.

use serde::Serialize;

/// Something that is worth knowing when a step fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureHint {
    /// What to do.
    pub text: String,
    /// A path, relative to the root of the file system: the hint is given only when the step's output mentions that file.
    /// Without one it is always given.
    pub when_mentioned: Option<String>,
}

impl FailureHint {
    /// A hint that is always given.
    pub fn always(text: impl Into<String>) -> Self {
        Self { text: text.into(), when_mentioned: None }
    }

    /// Whether it has something to do with what the step wrote.
    pub fn applies_to(&self, output: &[u8]) -> bool {
        self.when_mentioned.as_deref().is_none_or(|path| mentions(output, path.as_bytes()))
    }
}

/// Whether a text names the file at `path`: by its whole path, or by the end of it, as a step does that runs in a folder
/// below the root. `./x.json`, `../x.json` and `/app/web/x.json` name `app/web/x.json`; `lib/x.json` does not.
fn mentions(text: &[u8], path: &[u8]) -> bool {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    if name.is_empty() {
        return false;
    }
    let mut from = 0;
    while let Some(found) = text[from..].windows(name.len()).position(|window| window == name) {
        let (start, end) = (from + found, from + found + name.len());
        from = start + 1;
        // `x.json` does not name `index.json`, and `x.json.map` is another file.
        let goes_on = text[end..].first().is_some_and(|b| is_path(*b) && *b != b'.')
            || matches!(&text[end..], [b'.', next, ..] if is_path(*next));
        if goes_on {
            continue;
        }
        let length = text[..start].iter().rev().take_while(|b| is_path(**b)).count();
        let written = &text[start - length..end];
        let relative =
            written.split(|b| *b == b'/').skip_while(|part| matches!(part, [] | [b'.'] | [b'.', b'.']));
        let parts: Vec<&[u8]> = relative.collect();
        let whole: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        if whole.ends_with(&parts) {
            return true;
        }
    }
    false
}

/// Whether a byte is likely part of a path in the midst of a text: not a space, a quote, a bracket or the colon before a
/// line number.
fn is_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/._-@+~$".contains(&byte) || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_mentioned_by_the_end_of_their_path() {
        let mentioned = |text: &str| mentions(text.as_bytes(), b"app/web/data/x.json");
        for text in [
            "cannot open x.json",
            "Error: Cannot find module './x.json'",
            "at /app/web/data/x.json:3:1",
            "ENOENT: no such file or directory, open '../data/x.json'.",
            "data/x.json\nnext line",
            "index.json is there, x.json is not",
        ] {
            assert!(mentioned(text), "{text}");
        }
        for text in ["", "index.json", "lib/x.json", "x.json.map", "x.jsonc", "/tmp/app/web/data/x.json"] {
            assert!(!mentioned(text), "{text}");
        }
        assert!(FailureHint::always("x").applies_to(b""));
    }
}
