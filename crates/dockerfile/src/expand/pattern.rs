//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*` and `?`, no classes.
//!
//! BuildKit compiles them to regular expressions; here all possible ends of a match are followed at once, which needs no
//! backtracking. As in those expressions, `*` and `?` do not match a newline.

use super::meter::Meter;
use super::{ExpandProblem, MAX_PATTERN};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`
    Any,
    /// `*`
    Star,
}

/// How much of a value a pattern takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Shortest,
    Longest,
}

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Pattern(Vec<Token>);

impl Pattern {
    pub(crate) fn compile(pattern: &str) -> Result<Self, ExpandProblem> {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.peek().copied() {
                    // These had to be escaped to get past `${…}` itself; the escape is not the pattern's.
                    Some('}' | '/') => continue,
                    Some(c @ ('*' | '?' | '\\')) => {
                        chars.next();
                        Token::Literal(c)
                    }
                    escaped => {
                        return Err(ExpandProblem::PatternEscape {
                            pattern: pattern.chars().take(200).collect(),
                            escaped,
                        });
                    }
                },
                c => Token::Literal(c),
            });
            if tokens.len() > MAX_PATTERN {
                return Err(ExpandProblem::PatternTooLong);
            }
        }
        Ok(Self(tokens))
    }

    /// The value without what the pattern matches at its start.
    pub(crate) fn trim_prefix(
        &self,
        value: &str,
        reach: Reach,
        meter: &Meter,
    ) -> Result<String, ExpandProblem> {
        let chars: Vec<char> = value.chars().collect();
        let end = self.end(&chars, 0, reach, meter)?.unwrap_or(0);
        Ok(chars[end..].iter().collect())
    }

    /// The value without what the pattern matches at its end: the same, seen backwards.
    pub(crate) fn trim_suffix(
        &self,
        value: &str,
        reach: Reach,
        meter: &Meter,
    ) -> Result<String, ExpandProblem> {
        let backwards = Self(self.0.iter().rev().copied().collect());
        let chars: Vec<char> = value.chars().rev().collect();
        let end = backwards.end(&chars, 0, reach, meter)?.unwrap_or(0);
        Ok(chars[end..].iter().rev().collect())
    }

    /// The value with its first match replaced.
    pub(crate) fn replace_first(
        &self,
        value: &str,
        by: &str,
        meter: &Meter,
    ) -> Result<String, ExpandProblem> {
        let chars: Vec<char> = value.chars().collect();
        let Some((start, end)) = self.find(&chars, 0, meter)? else { return Ok(value.to_owned()) };
        Ok(chars[..start].iter().copied().chain(by.chars()).chain(chars[end..].iter().copied()).collect())
    }

    /// The value with all matches replaced, with the rules of Go's `ReplaceAllString`: an empty match right behind another
    /// match does not count, and the replacement may name the match as `$0`.
    pub(crate) fn replace_all(
        &self,
        value: &str,
        by: &str,
        limit: usize,
        meter: &Meter,
    ) -> Result<String, ExpandProblem> {
        let chars: Vec<char> = value.chars().collect();
        let mut result = String::new();
        let (mut at, mut copied) = (0, 0);
        while at <= chars.len() {
            let Some((start, end)) = self.find(&chars, at, meter)? else { break };
            result.extend(&chars[copied..start]);
            if end > copied || start == 0 {
                meter.charge(by.len())?;
                push_template(&mut result, by, &chars[start..end]);
            }
            if result.len() > limit {
                return Err(ExpandProblem::TooLong { limit });
            }
            copied = end;
            at = if end > at { end } else { at + 1 };
        }
        result.extend(&chars[copied..]);
        Ok(result)
    }

    /// The leftmost match from `from` on, the longest one there.
    fn find(
        &self,
        chars: &[char],
        from: usize,
        meter: &Meter,
    ) -> Result<Option<(usize, usize)>, ExpandProblem> {
        for start in from..=chars.len() {
            if let Some(Token::Literal(first)) = self.0.first()
                && chars.get(start) != Some(first)
            {
                continue;
            }
            if let Some(end) = self.end(chars, start, Reach::Longest, meter)? {
                return Ok(Some((start, end)));
            }
        }
        meter.charge(chars.len().saturating_sub(from))?;
        Ok(None)
    }

    /// Where a match that begins at `start` ends.
    fn end(
        &self,
        chars: &[char],
        start: usize,
        reach: Reach,
        meter: &Meter,
    ) -> Result<Option<usize>, ExpandProblem> {
        let mut ends = vec![start];
        for token in &self.0 {
            meter.charge(ends.len())?;
            match token {
                Token::Literal(c) => advance(&mut ends, |at| chars.get(at) == Some(c)),
                Token::Any => advance(&mut ends, |at| chars.get(at).is_some_and(|c| *c != '\n')),
                Token::Star => {
                    // Each end spreads up to the next newline; one that lies in an earlier one's run adds nothing.
                    let mut reached: Vec<usize> = Vec::new();
                    for at in ends {
                        if reached.last().is_none_or(|last| *last < at) {
                            let run = chars[at..].iter().take_while(|c| **c != '\n').count();
                            reached.extend(at..=at + run);
                        }
                    }
                    meter.charge(reached.len())?;
                    ends = reached;
                }
            }
            if ends.is_empty() {
                return Ok(None);
            }
        }
        Ok(match reach {
            Reach::Shortest => ends.first(),
            Reach::Longest => ends.last(),
        }
        .copied())
    }
}

/// Keeps the ends whose next character is right, moved past it.
fn advance(ends: &mut Vec<usize>, matches: impl Fn(usize) -> bool) {
    ends.retain_mut(|at| {
        let matched = matches(*at);
        *at += 1;
        matched
    });
}

/// Go's `Regexp.Expand` for an expression without groups.
fn push_template(result: &mut String, template: &str, matched: &[char]) {
    let mut rest = template;
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let (inside, braced) = rest.strip_prefix('{').map_or((rest, false), |inside| (inside, true));
        let length = inside.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inside.len());
        let (name, after) = inside.split_at(length);
        let after = if braced { after.strip_prefix('}') } else { Some(after) };
        match after {
            Some(after) if !name.is_empty() => {
                if name.bytes().all(|byte| byte == b'0') {
                    result.extend(matched);
                }
                rest = after;
            }
            _ => result.push('$'),
        }
    }
    result.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pattern: &str, value: &str, by: &str) -> String {
        Pattern::compile(pattern).unwrap().replace_all(value, by, 1000, &Meter::new()).unwrap()
    }

    #[test]
    fn replace_all_is_that_of_go() {
        assert_eq!(all("", "abc", "-"), "-a-b-c-");
        assert_eq!(all("b*", "abcb\nb", "x"), "ax\nx");
        assert_eq!(all("*", "abc", "x"), "x");
        assert_eq!(all("a", "banana", "[$0]$$$1${x}$"), "b[a]$$n[a]$$n[a]$$");
        assert_eq!(all("x", "", "y"), "");
    }

    #[test]
    fn stars_stop_at_newlines_and_try_all_ends() {
        let trim = |pattern: &str, value: &str, reach| {
            Pattern::compile(pattern).unwrap().trim_prefix(value, reach, &Meter::new()).unwrap()
        };
        assert_eq!(trim("*b", "abab\nb", Reach::Longest), "\nb");
        assert_eq!(trim("*b", "abab", Reach::Shortest), "ab");
        assert_eq!(trim("*a*b", "xxaxbyb", Reach::Shortest), "yb");
        assert_eq!(trim("**?", "ab\nc", Reach::Longest), "\nc");
        assert_eq!(trim("*\n*", "ab\ncd\ne", Reach::Longest), "\ne");
        assert_eq!(trim("a?c", "abcd", Reach::Shortest), "d");
        assert_eq!(trim("?", "\n", Reach::Shortest), "\n");
    }

    #[test]
    fn hostile_patterns_run_out_of_meter() {
        let value = "a".repeat(65_000);
        let pattern = Pattern::compile(&"*a".repeat(2000)).unwrap();
        let meter = Meter::new();
        let outcomes: Vec<_> = (0..10).map(|_| pattern.trim_prefix(&value, Reach::Longest, &meter)).collect();
        assert_eq!(outcomes.last(), Some(&Err(ExpandProblem::TooMuchWork)));
        assert!(Pattern::compile(&"x".repeat(MAX_PATTERN + 1)).is_err());
    }
}
