//! "Did you mean": the nearest name within two edits, as BuildKit suggests it, so that messages read the same.

/// Names longer than this are not compared; nobody mistypes one of them.
const MAX_NAME: usize = 64;

/// At most this many names are looked at, so that a file with thousands of names and mistakes stays cheap.
const MAX_NAMES: usize = 300;

/// The nearest of `options`; none if one of them is `given` itself, as then the name was not the problem.
pub(crate) fn suggest<'a>(given: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = given.chars().take(MAX_NAME + 1).collect();
    if wanted.len() > MAX_NAME {
        return None;
    }
    let mut best: Option<((usize, bool), &str)> = None;
    for option in options.into_iter().take(MAX_NAMES) {
        if option == given {
            return None;
        }
        if option.len() > 4 * MAX_NAME {
            continue;
        }
        let distance = distance(&wanted, option);
        // Among equally near names, one with the same letters in another order is the likeliest: `RNU` is RUN, not ENV.
        let score = (distance, distance > 0 && !same_letters(&wanted, option));
        if distance < 3 && best.is_none_or(|(best, _)| score < best) {
            best = Some((score, option));
        }
    }
    best.map(|(_, option)| option)
}

/// The same without regard to case, with the suggestion in the case of what was given.
pub(crate) fn suggest_any_case<'a>(
    given: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let lower = given.to_lowercase();
    let options: Vec<String> = options.into_iter().map(str::to_lowercase).collect();
    let found = suggest(&lower, options.iter().map(String::as_str))?;
    Some(if given == given.to_uppercase() { found.to_uppercase() } else { found.to_owned() })
}

/// ` (did you mean x?)`, or nothing.
pub(crate) fn did_you_mean(found: Option<&str>) -> String {
    found.map(|found| format!(" (did you mean {found}?)")).unwrap_or_default()
}

fn same_letters(a: &[char], b: &str) -> bool {
    let mut a = a.to_vec();
    let mut b: Vec<char> = b.chars().collect();
    a.sort_unstable();
    b.sort_unstable();
    a == b
}

/// Levenshtein's distance; 3 stands for that and more.
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    if a.len().abs_diff(b.len()) >= 3 {
        return 3;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()].min(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_edits_and_no_more() {
        assert_eq!(suggest("PAHT", ["HOME", "PATH"]), Some("PATH"));
        assert_eq!(suggest("bulid", ["base", "build"]), Some("build"));
        assert_eq!(suggest("RNU", ["ENV", "RUN"]), Some("RUN"));
        assert_eq!(suggest("abc", ["xyz"]), None);
        assert_eq!(suggest("build", ["builds", "build"]), None);
        assert_eq!(suggest_any_case("COPPY", ["COPY", "CMD"]).as_deref(), Some("COPY"));
        assert_eq!(suggest_any_case("rn", ["RUN"]).as_deref(), Some("run"));
        assert_eq!(suggest(&"x".repeat(100), ["x"]), None);
    }
}
