use std::ops::Range;

use wbuild_report::Hint;

use super::{MAX_NESTING, MAX_PATTERN};

/// A word that cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct ExpandError {
    /// What is wrong with it.
    pub problem: ExpandProblem,
    /// Which bytes of the word.
    pub at: Range<usize>,
}

/// What is wrong with a word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandProblem {
    /// A quote is open at the end.
    #[error("unexpected end of statement while looking for matching {}", if *quote == '"' { "double-quote" } else { "single-quote" })]
    OpenQuote {
        /// Which kind.
        quote: char,
    },
    /// `${` is open at the end.
    #[error("syntax error: missing '}}'")]
    OpenBrace,
    /// `${v/p` is open at the end.
    #[error("syntax error: missing '/' in ${{}}")]
    OpenReplacement,
    /// `${}`, `${{`, `${:`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// `${v=w}` and the like.
    #[error("unsupported modifier ({modifier}) in substitution")]
    Modifier {
        /// The characters behind the name.
        modifier: String,
    },
    /// `${v?message}` of a variable that is unset or empty.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What the author wants to say.
        message: String,
    },
    /// An escape that patterns do not have.
    #[error("invalid pattern ({pattern}) in substitution: invalid escape '\\{}'", escaped.map(String::from).unwrap_or_default())]
    PatternEscape {
        /// The pattern.
        pattern: String,
        /// What follows the backslash.
        escaped: Option<char>,
    },
    /// More than [`MAX_PATTERN`].
    #[error("the pattern in this substitution has more than {MAX_PATTERN} characters")]
    PatternTooLong,
    /// More than [`MAX_NESTING`].
    #[error("more than {MAX_NESTING} substitutions are nested")]
    TooDeep,
    /// More than the lexer's limit.
    #[error("the expanded value has more than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// The [`Meter`](super::Meter) ran out.
    #[error("the variables of this Dockerfile take too much work to expand")]
    TooMuchWork,
}

impl Hint for ExpandError {
    fn hints(&self) -> Vec<String> {
        match &self.problem {
            ExpandProblem::OpenQuote { quote } => {
                vec![format!("close the quote, or write `\\{quote}` for the character itself")]
            }
            ExpandProblem::OpenBrace => vec!["close it with `}`, or write `\\$` for a dollar sign".to_owned()],
            ExpandProblem::OpenReplacement => {
                vec!["a replacement is written `${name/pattern/text}`; an empty text still needs the second `/`".to_owned()]
            }
            ExpandProblem::BadSubstitution => {
                vec!["a variable is written `$name` or `${name}`; write `\\$` for a dollar sign".to_owned()]
            }
            ExpandProblem::Modifier { .. } => vec![
                "the forms are `${v:-default}`, `${v:+alternate}`, `${v:?message}`, `${v#prefix}`, `${v%suffix}` and \
                 `${v/pattern/text}`"
                    .to_owned(),
            ],
            ExpandProblem::Required { name, .. } => {
                vec![format!("give it a value: `--build-arg {name}=…`, or a default with `ARG {name}=…`")]
            }
            ExpandProblem::PatternEscape { .. } => vec!["patterns know `\\*`, `\\?` and `\\\\` only".to_owned()],
            ExpandProblem::TooLong { .. } | ExpandProblem::TooMuchWork => {
                vec!["variables that contain each other grow without bound: keep large text in a file".to_owned()]
            }
            ExpandProblem::PatternTooLong | ExpandProblem::TooDeep => Vec::new(),
        }
    }
}
