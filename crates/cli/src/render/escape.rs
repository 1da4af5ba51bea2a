//! The output encoder. Untrusted text keeps its letters and loses its power: C0 and C1 controls, DEL, bidi
//! controls and Unicode line separators come out as visible escapes (`\x1b`, `\u{202e}`).

use std::borrow::Cow;
use std::fmt::Write;

/// Whether colour sequences of a log may reach the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sgr {
    /// They pass: the output is a terminal with colours.
    Pass,
    /// They are left out: they say nothing where there is no colour.
    Drop,
}

/// Text for one line: every control, line breaks and tabs included, as a visible escape.
pub fn escape_line(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// A file name or path for one line: as [`escape_line`], with bytes that are no UTF-8 as `\xff`.
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(&escape_line(chunk.valid()));
        for byte in chunk.invalid() {
            push_hex(&mut text, *byte);
        }
    }
    text
}

/// Text that may have several lines: as [`escape_line`], but `\n` stays. Who prints it must indent the lines after
/// the first, or text could forge a line of ours.
pub fn escape_lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| c == '\n')
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| is_control(c) && !keep(c)) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_control(c) && !keep(c) { push_visible(&mut escaped, c) } else { escaped.push(c) }
    }
    Cow::Owned(escaped)
}

/// One line of a step's log as text: bytes that are no UTF-8 as `\xff`, controls as visible escapes, tabs kept.
///
/// Colour sequences pass or vanish as `sgr` says; "erase to the end of the line", which every progress bar writes,
/// vanishes always. Any other sequence, cursor movement above all, becomes visible text. A line that carries
/// colour ends with a reset, so that it cannot tint what follows.
pub fn log_text(line: &[u8], sgr: Sgr) -> String {
    let mut text = String::with_capacity(line.len());
    let mut tinted = false;
    for chunk in line.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(c) = rest.chars().next() {
            if let Some((sequence, after)) = harmless_sequence(rest) {
                if sequence.ends_with('m') && sgr == Sgr::Pass {
                    text.push_str(sequence);
                    tinted = true;
                }
                rest = after;
                continue;
            }
            if is_control(c) && c != '\t' {
                push_visible(&mut text, c);
            } else {
                text.push(c);
            }
            rest = &rest[c.len_utf8()..];
        }
        for byte in chunk.invalid() {
            push_hex(&mut text, *byte);
        }
    }
    if tinted {
        text.push_str("\x1b[0m");
    }
    text
}

/// What a terminal, or the eye of a reader, would take as an instruction instead of a letter.
pub(crate) fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Splits a colour or an erase-line sequence off the front.
fn harmless_sequence(text: &str) -> Option<(&str, &str)> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';' && c != ':')?;
    let harmless = match parameters.as_bytes()[end] {
        b'm' => shows_text(&parameters[..end]),
        b'K' => true,
        _ => false,
    };
    harmless.then(|| text.split_at("\x1b[".len() + end + 1))
}

/// False for "conceal": a log must not be able to hide a part of itself.
fn shows_text(parameters: &str) -> bool {
    let mut parts = parameters.split(';');
    while let Some(part) = parts.next() {
        match part.trim_start_matches('0') {
            "8" => return false,
            // The numbers that follow are a colour: `38;5;8` is a grey.
            "38" | "48" | "58" => match parts.next() {
                Some("5") => drop(parts.next()),
                Some("2") => drop(parts.nth(2)),
                _ => return true,
            },
            _ => {}
        }
    }
    true
}

fn push_visible(text: &mut String, c: char) {
    match c {
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        c if c.is_ascii() => push_hex(text, c as u8),
        c => text.extend(c.escape_unicode()),
    }
}

fn push_hex(text: &mut String, byte: u8) {
    // Writing into a `String` cannot fail.
    let _ = write!(text, "\\x{byte:02x}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_become_visible() {
        insta::assert_snapshot!(
            escape_line("a\x1b[2Jb\r\nc\td\u{9b}31m\u{202e}txt.exe\u{7f}\u{2028}é"),
            @r"a\x1b[2Jb\r\nc\td\u{9b}31m\u{202e}txt.exe\x7f\u{2028}é"
        );
        assert!(matches!(escape_line("plain ünïcode 漢字"), Cow::Borrowed(_)));
        assert_eq!(escape_lines("a\nb\rc"), "a\nb\\rc");
    }

    #[test]
    fn colours_of_a_log_pass_or_vanish_and_the_rest_is_visible() {
        let line = b"\x1b[32mok\x1b[0m \x1b[2K\x1b[1Aup \x1b]0;title\x07 \xff\xfe tab\tend";
        assert_eq!(log_text(line, Sgr::Drop), "ok \\x1b[1Aup \\x1b]0;title\\x07 \\xff\\xfe tab\tend");
        assert_eq!(
            log_text(line, Sgr::Pass),
            "\x1b[32mok\x1b[0m \\x1b[1Aup \\x1b]0;title\\x07 \\xff\\xfe tab\tend\x1b[0m"
        );
    }

    #[test]
    fn a_log_cannot_conceal_text() {
        for hidden in ["\x1b[8mx", "\x1b[1;8mx", "\x1b[08mx", "\x1b[38;2;1;2;3;8mx"] {
            assert!(!log_text(hidden.as_bytes(), Sgr::Pass).contains('\x1b'), "{hidden:?}");
        }
        for grey in ["\x1b[38;5;8mx", "\x1b[48;2;8;8;8;1mx", "\x1b[mx"] {
            assert!(log_text(grey.as_bytes(), Sgr::Pass).starts_with(grey), "{grey:?}");
        }
    }

    #[test]
    fn an_unfinished_sequence_is_text() {
        assert_eq!(log_text(b"\x1b[31", Sgr::Pass), "\\x1b[31");
        assert_eq!(log_text(b"\x1b", Sgr::Pass), "\\x1b");
    }
}
