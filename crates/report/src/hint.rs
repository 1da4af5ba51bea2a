/// Advice that lives beside the failure it belongs to, and is rendered once, last, by the command line.
///
/// Implement it for every error type a person can meet; each hint is one thing to do next, as a sentence fragment.
pub trait Hint {
    /// What to try, the most promising first. Empty when the message already says it all.
    fn hints(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The candidates that a person may have meant by `given`: those within a third of its length in edit distance
/// (at least one edit), the nearest first, at most three.
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let limit = (given.chars().count() / 3).max(1);
    let lower = given.to_lowercase();
    let mut scored: Vec<(usize, &str)> = candidates
        .into_iter()
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(score, _)| *score <= limit)
        .collect();
    scored.sort();
    scored.dedup();
    scored.truncate(3);
    scored.into_iter().map(|(_, candidate)| candidate).collect()
}

/// Edit distance with transpositions of neighbours counted as one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        assert_eq!(nearest("runer", ["base", "runner", "builder"]), ["runner"]);
        assert_eq!(nearest("bulid", ["build", "guild"]), ["build"]);
        assert_eq!(nearest("Web", ["web", "admin"]), ["web"]);
        assert!(nearest("x", ["runner"]).is_empty());
    }
}
