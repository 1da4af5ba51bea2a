use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One named field of a key's preimage that differs between the record found and the key wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// The field's path in the preimage, for example `env/DATABASE_URL` or `input/apps/web/src/app/page.tsx`.
    pub field: String,
    /// Its value in the nearest earlier record; `None` when it was not there.
    pub old: Option<String>,
    /// Its value now; `None` when it is gone.
    pub new: Option<String>,
}

impl FieldChange {
    /// The field in words: `the command` for `argv/2`. Files, and fields that nobody has put into words, are as they are.
    pub fn subject(&self) -> String {
        let (first, rest) = self.field.split_once('/').unwrap_or((&self.field, ""));
        let counted = rest.starts_with(|c: char| c.is_ascii_digit()) || rest.starts_with("count");
        match first {
            "argv" if counted => "the command".to_owned(),
            "cwd" => "the working directory".to_owned(),
            "user" | "network" | "platform" | "privileges" | "operation" if rest.is_empty() => {
                format!("the {first}")
            }
            "env" | "env-name" if !rest.is_empty() => format!("the variable `{rest}`"),
            "secret" | "secret-env" if !rest.is_empty() => format!("the secret `{rest}`"),
            "host" if !rest.is_empty() => format!("the host `{rest}`"),
            "root" if counted => "what it stands on".to_owned(),
            "input" if counted => "its input".to_owned(),
            "action" if counted => "a file operation".to_owned(),
            "mount" if counted => "a mount".to_owned(),
            "part" if counted => "a layer's pattern".to_owned(),
            "outputs" => "what it declares as outputs".to_owned(),
            _ => format!("`{}`", self.field),
        }
    }

    /// Its values, where they say something to a person, and nothing that was meant for somebody else: variables may
    /// hold what logs should not.
    fn shown(&self) -> Option<(&str, &str)> {
        let first = self.field.split('/').next().unwrap_or_default();
        let telling = matches!(first, "argv" | "cwd" | "user" | "network" | "platform" | "privileges")
            && !self.field.ends_with("/count");
        if telling { self.old.as_deref().zip(self.new.as_deref()) } else { None }
    }
}

/// Characters of what two texts have in common that are kept around what differs.
const CONTEXT: usize = 12;

/// Characters of a piece.
const PIECE: usize = 48;

/// The pieces in which two texts differ, with a little of what is around them.
fn differing(old: &str, new: &str) -> (String, String) {
    let (old, new): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
    let same = |pairs: &mut dyn Iterator<Item = (&char, &char)>| pairs.take_while(|(a, b)| a == b).count();
    let before = same(&mut old.iter().zip(&new));
    let after = same(&mut old[before..].iter().rev().zip(new[before..].iter().rev()));
    let piece = |text: &[char]| {
        let start = before.saturating_sub(CONTEXT);
        let end = (text.len() - after + CONTEXT).min(text.len());
        let cut = end.min(start + PIECE);
        let inside: String = text[start..cut].iter().flat_map(|c| c.escape_debug()).collect();
        let (dots_before, dots_after) =
            (if start > 0 { "…" } else { "" }, if cut < text.len() { "…" } else { "" });
        // Quotes stand in nearly every command.
        format!("{dots_before}{}{dots_after}", inside.replace("\\'", "'").replace("\\\"", "\""))
    };
    (piece(&old), piece(&new))
}

/// Why a vertex could not be reused. Produced by the solver from two preimages, never from text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum MissReason {
    /// No record of an earlier run of this vertex exists.
    NeverBuilt,
    /// An earlier record exists, and these fields of its preimage differ (the most telling first).
    Changed {
        /// The differing fields; never empty.
        changes: Vec<FieldChange>,
    },
    /// The record was found, but what it points to is gone from the store or damaged.
    ResultLost {
        /// What is missing.
        what: String,
    },
    /// `--no-cache` or `--no-cache-filter` named it.
    Forced,
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverBuilt => write!(f, "never built before"),
            Self::Changed { changes } => match changes.as_slice() {
                [] => write!(f, "changed"),
                [first, rest @ ..] => {
                    let subject = first.subject();
                    match (&first.old, &first.new) {
                        (None, _) => write!(f, "{subject} is new")?,
                        (_, None) => write!(f, "{subject} is gone")?,
                        (Some(_), Some(_)) => {
                            write!(f, "{subject} changed")?;
                            let mut same = changes.iter().filter(|change| change.subject() == subject);
                            if let Some((old, new)) = same.find_map(FieldChange::shown) {
                                let (old, new) = differing(old, new);
                                write!(f, ": `{old}` → `{new}`")?;
                            }
                        }
                    }
                    // A list that got longer differs in its length and in its items, and is one thing to a person.
                    let others: BTreeSet<String> =
                        rest.iter().map(FieldChange::subject).filter(|other| *other != subject).collect();
                    if others.is_empty() { Ok(()) } else { write!(f, " (and {} more)", others.len()) }
                }
            },
            Self::ResultLost { what } => write!(f, "its result is no longer in the store ({what})"),
            Self::Forced => write!(f, "forced by --no-cache"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(field: &str, old: &str, new: &str) -> FieldChange {
        FieldChange { field: field.into(), old: Some(old.into()), new: Some(new.into()) }
    }

    #[test]
    fn changes_are_named_in_words_and_shown_in_short() {
        let said = |changes: Vec<FieldChange>| MissReason::Changed { changes }.to_string();
        let long = "apk add --no-cache git openssh-client python3 make g++ && npm install --global pnpm@";
        assert_eq!(
            said(vec![
                change("argv/2", &format!("{long}9.1.0 && true"), &format!("{long}10.0.1 && true")),
                change("root/3", "sha256:aa", "sha256:bb"),
            ]),
            "the command changed: `…global pnpm@9.1.0 && true` → `…global pnpm@10.0.1 && true` (and 1 more)"
        );
        assert_eq!(
            said(vec![change("argv/count", "2", "3"), change("argv/1", "a", "b"), change("argv/2", "", "c")]),
            "the command changed: `a` → `b`"
        );
        assert_eq!(said(vec![change("env/TOKEN", "one", "two")]), "the variable `TOKEN` changed");
        assert_eq!(said(vec![change("/app/a b.txt", "before", "after")]), "`/app/a b.txt` changed");
        assert_eq!(said(vec![change("root/0", "sha256:aa", "sha256:bb")]), "what it stands on changed");
        let gone = FieldChange { new: None, ..change("secret/key", "given", "") };
        assert_eq!(said(vec![gone]), "the secret `key` is gone");
    }

    #[test]
    fn pieces_of_any_text_are_short_and_of_one_line() {
        assert_eq!(differing("a", "a"), ("a".to_owned(), "a".to_owned()));
        assert_eq!(differing("", "x\ny"), (String::new(), "x\\ny".to_owned()));
        let (old, new) = differing(&"é".repeat(500), &"e".repeat(500));
        assert_eq!((old.chars().count(), new.chars().count()), (PIECE + 1, PIECE + 1));
        assert_eq!(differing("echo 'one'", "echo 'two'").1, "echo 'two'");
    }
}
