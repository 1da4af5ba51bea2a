use super::remote::CommitId;

/// One line of `git ls-remote`.
struct Line<'a> {
    id: CommitId,
    name: &'a str,
}

fn lines(output: &str) -> impl Iterator<Item = Line<'_>> {
    output.lines().filter_map(|line| {
        let (id, name) = line.split_once('\t')?;
        Some(Line { id: CommitId::parse(id)?, name })
    })
}

/// What a repository says that a name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The commit; of an annotated tag the one that it points to.
    pub(crate) commit: CommitId,
    /// The full name: `refs/heads/main`, or `HEAD`.
    pub(crate) name: String,
}

/// The full names that a short one can stand for, in the order in which git looks for them.
fn candidates(name: &str) -> Vec<String> {
    let mut candidates = vec![format!("refs/tags/{name}"), format!("refs/heads/{name}")];
    if name.starts_with("refs/") {
        candidates.insert(0, name.to_owned());
    } else {
        candidates.push(format!("refs/{name}"));
    }
    candidates
}

/// What to ask `git ls-remote` for. It takes a pattern for the end of names, so more may come than is meant.
pub(crate) fn patterns(name: Option<&str>) -> Vec<String> {
    match name {
        None => vec!["HEAD".to_owned()],
        Some(name) => candidates(name).into_iter().flat_map(|name| [format!("{name}^{{}}"), name]).collect(),
    }
}

/// Finds a name in the output of `git ls-remote`.
pub(crate) fn find(output: &str, name: Option<&str>) -> Option<Found> {
    let exactly = |wanted: &str| lines(output).find(|line| line.name == wanted).map(|line| line.id);
    let names = match name {
        None => vec!["HEAD".to_owned()],
        Some(name) => candidates(name),
    };
    names.into_iter().find_map(|name| {
        let commit = exactly(&format!("{name}^{{}}")).or_else(|| exactly(&name))?;
        Some(Found { commit, name })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_and_tags_are_looked_through() {
        let id = |digit: &str| digit.repeat(40);
        let output = format!(
            "{}\tHEAD\n{}\trefs/heads/other/main\n{}\trefs/heads/main\n{}\trefs/tags/v1\n{}\trefs/tags/v1^{{}}\n{}\trefs/pull/1/head\n",
            id("a"),
            id("b"),
            id("c"),
            id("d"),
            id("e"),
            id("f")
        );
        let found =
            |name| find(&output, name).map(|found| (found.commit.as_str()[..1].to_owned(), found.name));
        let some = |id: &str, name: &str| Some((id.to_owned(), name.to_owned()));
        assert_eq!(found(None), some("a", "HEAD"));
        assert_eq!(found(Some("main")), some("c", "refs/heads/main"));
        assert_eq!(found(Some("v1")), some("e", "refs/tags/v1"));
        assert_eq!(found(Some("refs/heads/main")), some("c", "refs/heads/main"));
        assert_eq!(found(Some("pull/1/head")), some("f", "refs/pull/1/head"));
        assert_eq!(found(Some("other")), None);
    }
}
