//! New permission bits: octal, or symbolic as chmod(1) has it, with a umask of zero.

use std::fmt;

/// New permission bits of files. Its text form is the one that [`Chmod::from_str`](std::str::FromStr) reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chmod {
    /// Exactly these.
    Octal(u16),
    /// Changes to those a file has.
    Symbolic(SymbolicMode),
}

impl fmt::Display for Chmod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Octal(bits) => write!(f, "{bits:o}"),
            Self::Symbolic(symbolic) => f.write_str(&symbolic.text),
        }
    }
}

impl serde::Serialize for Chmod {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Chmod {
    /// The bits of a file that has `mode`.
    pub fn apply(&self, mode: u16, is_directory: bool) -> u16 {
        match self {
            Self::Octal(bits) => *bits,
            Self::Symbolic(symbolic) => symbolic.apply(mode, is_directory),
        }
    }
}

/// A text that is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")]
pub struct ChmodError {
    /// The text.
    pub text: String,
}

impl std::str::FromStr for Chmod {
    type Err = ChmodError;

    fn from_str(text: &str) -> Result<Self, ChmodError> {
        let error = || ChmodError { text: text.chars().take(100).collect() };
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8).map_err(|_| error())?;
            return u16::try_from(bits)
                .ok()
                .filter(|bits| *bits <= 0o7777)
                .map(Self::Octal)
                .ok_or_else(error);
        }
        SymbolicMode::parse(text).map(Self::Symbolic).ok_or_else(error)
    }
}

const SET_UID: u16 = 0o4000;
const SET_GID: u16 = 0o2000;
const STICKY: u16 = 0o1000;
const EXECUTE: u16 = 0o111;
/// All but the sticky bit, which has to be named.
const STANDARD: u16 = 0o6777;

/// A parsed symbolic mode such as `u=rwX,go-w`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolicMode {
    text: Box<str>,
    changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Set(u16),
    Clear(u16),
    /// `X`: only for directories, and files that somebody may execute already.
    SetExecutable(u16),
    /// `g=u`: the bits of one class, given to others.
    Copy {
        from: Class,
        to: u16,
        operator: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    User,
    Group,
    Other,
}

impl SymbolicMode {
    fn parse(text: &str) -> Option<Self> {
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let length = clause.find(|c| !matches!(c, 'a' | 'u' | 'g' | 'o')).unwrap_or(clause.len());
            let (classes, mut actions) = clause.split_at(length);
            let who = classes.chars().fold(0, |who, class| {
                who | match class {
                    'u' => SET_UID | 0o700,
                    'g' => SET_GID | 0o070,
                    'o' => 0o007,
                    _ => STANDARD,
                }
            });
            if actions.is_empty() {
                return None;
            }
            while !actions.is_empty() {
                let operator = *actions.as_bytes().first()?;
                if !matches!(operator, b'+' | b'-' | b'=') {
                    return None;
                }
                let rest = &actions[1..];
                let length = rest.find(['+', '-', '=']).unwrap_or(rest.len());
                Self::action(&mut changes, who, operator, &rest[..length])?;
                actions = &rest[length..];
            }
        }
        Some(Self { text: text.into(), changes })
    }

    fn action(changes: &mut Vec<Change>, who: u16, operator: u8, letters: &str) -> Option<()> {
        let set_id_counts = who == 0 || who & !0o007 != 0;
        let mut touched = if who == 0 { STANDARD | STICKY } else { who };
        let (mut bits, mut executable) = (0, 0);
        let mut copies = Vec::new();
        for letter in letters.chars() {
            match letter {
                'r' => bits |= 0o444,
                'w' => bits |= 0o222,
                'x' => bits |= EXECUTE,
                'X' if operator == b'-' => bits |= EXECUTE,
                'X' => executable |= EXECUTE,
                's' if set_id_counts => bits |= SET_UID | SET_GID,
                't' if set_id_counts => {
                    bits |= STICKY;
                    touched |= STICKY;
                }
                's' | 't' => {}
                'u' => copies.push(Class::User),
                'g' => copies.push(Class::Group),
                'o' => copies.push(Class::Other),
                _ => return None,
            }
        }
        let bits = bits & touched;
        match operator {
            b'-' => {
                changes.push(Change::Clear(bits));
                changes.extend(copies.into_iter().map(|from| Change::Copy {
                    from,
                    to: touched & 0o777,
                    operator,
                }));
            }
            b'=' if copies.is_empty() => {
                // The sticky bit stays unless it is named, as in setmode(3).
                let cleared = if who == 0 { STANDARD } else { touched };
                changes.extend([Change::Clear(cleared), Change::Set(bits)]);
            }
            _ => {
                // The first copy of `=` replaces what was there, what follows adds to it.
                let operators = std::iter::once(operator).chain(std::iter::repeat(if operator == b'=' {
                    b'+'
                } else {
                    operator
                }));
                let copied = copies.into_iter().zip(operators);
                changes.extend(copied.map(|(from, operator)| Change::Copy {
                    from,
                    to: touched & 0o777,
                    operator,
                }));
                changes.push(Change::Set(bits));
            }
        }
        if executable != 0 {
            changes.push(Change::SetExecutable(executable & touched));
        }
        Some(())
    }

    fn apply(&self, mode: u16, is_directory: bool) -> u16 {
        let mut bits = mode & 0o7777;
        for change in &self.changes {
            match *change {
                Change::Set(set) => bits |= set,
                Change::Clear(clear) => bits &= !clear,
                Change::SetExecutable(set) => {
                    if is_directory || mode & EXECUTE != 0 {
                        bits |= set;
                    }
                }
                Change::Copy { from, to, operator } => {
                    let value = match from {
                        Class::User => bits >> 6,
                        Class::Group => bits >> 3,
                        Class::Other => bits,
                    } & 0o7;
                    let copied = (value << 6 | value << 3 | value) & to;
                    match operator {
                        b'+' => bits |= copied,
                        b'-' => bits &= !copied,
                        _ => bits = bits & !to | copied,
                    }
                }
            }
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_and_symbolic() {
        for (text, file, mode, directory) in [
            ("644", 0o755, 0o644, false),
            ("07777", 0, 0o7777, false),
            ("0", 0o777, 0, false),
            ("go-w", 0o666, 0o644, false),
            ("u=rwX,go=rX", 0o600, 0o644, false),
            ("u=rwX,go=rX", 0o700, 0o755, false),
            ("u=rwX,go=rX", 0o600, 0o755, true),
            ("+x", 0o644, 0o755, false),
            ("a+x", 0o644, 0o755, false),
            ("=r", 0o755, 0o444, false),
            ("go=", 0o755, 0o700, false),
            ("go=u-w", 0o700, 0o755, false),
            ("g=u", 0o640, 0o660, false),
            ("u+s", 0o755, 0o4755, false),
            ("+t", 0o777, 0o1777, true),
            ("o+t", 0o777, 0o777, true),
            ("u-x+w", 0o500, 0o600, false),
            ("ug=rw,o=", 0o777, 0o660, false),
        ] {
            let chmod: Chmod = text.parse().unwrap();
            assert_eq!(
                chmod.apply(file, directory),
                mode,
                "{text} {file:o}: {:o}",
                chmod.apply(file, directory)
            );
        }
        for text in ["", "64a", "888", "10000", "u", "rwx", "u+y", "u=r,", ",u=r", "-1", "0o644", "u++,"] {
            assert!(text.parse::<Chmod>().is_err(), "{text}");
        }
    }
}
