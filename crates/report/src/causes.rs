use std::error::Error;

/// An error and its causes in one line. What one ends with already is not said again.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Level(&'static str, #[source] Option<Box<Level>>);

    #[test]
    fn causes_follow_unless_they_are_said() {
        let third = Level("refused", None);
        let second = Level("cannot connect: refused", Some(Box::new(third)));
        let first = Level("cannot pull", Some(Box::new(second)));
        assert_eq!(with_causes(&first), "cannot pull: cannot connect: refused");
    }
}
