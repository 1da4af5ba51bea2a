use wbuild_tree::{EntryPath, Name};

use super::{SourceError, SourcePattern, Wildcard};
use crate::ignore::IgnoreRules;

/// A pattern of `COPY --parents`: what it matches is copied with the directories that it lies in. It is matched as a line of
/// an ignore file would be, so `**` stands for any number of directories and nothing is followed; what comes before a first
/// `/./`, the pivot, is followed and not repeated in the destination.
#[derive(Clone, Debug)]
pub struct Parents {
    pivot: SourcePattern,
    rules: IgnoreRules,
    components: Vec<Component>,
    required: Option<EntryPath>,
}

/// What is certain about one component of the pattern.
#[derive(Clone, Debug)]
enum Component {
    /// Only this name.
    Literal(Name),
    /// Only names like these.
    Like(Wildcard),
    /// It may stand for several components, or it is not sure what it stands for.
    Anything,
}

impl Parents {
    pub(super) fn new(text: &str) -> Result<Self, SourceError> {
        let (pivot, pattern) = text.split_once("/./").unwrap_or(("", text));
        let path = EntryPath::rooted(pattern)?;
        // Alone it would mean nothing at all, which nobody asks for.
        let all = path.is_root();
        let rules = IgnoreRules::from_patterns([if all { b"**" } else { path.as_bytes() }])
            .map_err(|(_, error)| error)?;
        let required = !Wildcard::is_in(text.as_bytes());
        Ok(Self {
            pivot: SourcePattern::wildcard(pivot)?,
            rules,
            components: if all {
                vec![Component::Anything]
            } else {
                path.components().map(component).collect()
            },
            required: if required { Some(EntryPath::rooted(text)?) } else { None },
        })
    }

    /// Where it begins: a path or a wildcard. What matches of it is the directory whose contents are matched.
    pub const fn pivot(&self) -> &SourcePattern {
        &self.pivot
    }

    /// The rules of which an included path is one that they exclude. Paths are relative to the pivot.
    pub const fn rules(&self) -> &IgnoreRules {
        &self.rules
    }

    /// The path that must exist: a pattern without wildcards is one.
    pub const fn required(&self) -> Option<&EntryPath> {
        self.required.as_ref()
    }

    /// The directories, one in the other, that everything that matches lies in for sure.
    pub fn way(&self) -> impl Iterator<Item = &Name> {
        let last = self.components.len().saturating_sub(1);
        self.components[..last].iter().map_while(|component| match component {
            Component::Literal(name) => Some(name),
            _ => None,
        })
    }

    /// Whether something in the directory at `path`, relative to the pivot, can match. The directory itself does not.
    pub fn leads_to(&self, path: &[u8]) -> bool {
        for (depth, name) in path.split(|b| *b == b'/').enumerate() {
            match self.components.get(depth) {
                Some(Component::Anything) => return true,
                Some(Component::Literal(literal)) if literal.as_bytes() == name => {}
                Some(Component::Like(wildcard)) if wildcard.matches(name) => {}
                _ => return false,
            }
        }
        path.split(|b| *b == b'/').count() < self.components.len()
    }
}

fn component(name: Name) -> Component {
    let text = name.as_bytes();
    if text.windows(2).any(|two| two == b"**") || text.iter().any(|b| b"[]\\^!".contains(b)) {
        return Component::Anything;
    }
    match Wildcard::new(text) {
        Ok(wildcard) if Wildcard::is_in(text) => Component::Like(wildcard),
        Ok(_) => Component::Literal(name),
        Err(_) => Component::Anything,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parents(text: &str) -> Parents {
        Parents::new(text).unwrap()
    }

    /// I25: the first `/./` only.
    #[test]
    fn the_first_pivot_counts() {
        let pivot = |text: &str| match parents(text).pivot {
            SourcePattern::Path(path) => path.to_string(),
            SourcePattern::Wildcard { below, wildcard } => format!("{below} + {wildcard}"),
            SourcePattern::Parents(_) => unreachable!(),
        };
        for (text, at, pattern) in [
            ("a/b", "/", "a/b"),
            ("./a/b", "/", "a/b"),
            ("/a/./b/./c", "/a", "b/c"),
            ("/a/./*/c", "/a", "*/c"),
            ("/a/b*/./c/**/e", "/a + b*", "c/**/e"),
            ("/a/b/.", "/", "a/b"),
            ("/./a", "/", "a"),
            (".", "/", "**"),
        ] {
            assert_eq!(pivot(text), at, "{text}");
            assert_eq!(parents(text).rules.patterns()[0].text(), pattern.as_bytes(), "{text}");
        }
    }

    /// I25: a missing literal path is an error, a wildcard that matches nothing is not.
    #[test]
    fn what_has_no_wildcard_is_required() {
        let required = |text: &str| parents(text).required.map(|path| path.to_string());
        assert_eq!(required("a/./b").as_deref(), Some("/a/b"));
        assert_eq!(required("a/./b*"), None);
        assert_eq!(required("a*/./b"), None);
    }

    #[test]
    fn directories_that_lead_nowhere_are_known() {
        let apps = parents("apps/*/package.json");
        assert!(apps.leads_to(b"apps") && apps.leads_to(b"apps/web"));
        assert!(!apps.leads_to(b"node_modules") && !apps.leads_to(b"apps/web/src"));
        let deep = parents("a/**/e");
        assert!(deep.leads_to(b"a") && deep.leads_to(b"a/b/c/d") && !deep.leads_to(b"b"));
        assert!(parents("a[^b]d/x").leads_to(b"a/d"), "a class can be a slash");
        let way = |text: &str| parents(text).way().map(ToString::to_string).collect::<Vec<_>>().join("/");
        assert_eq!(way("a/./b/c/*/d"), "b/c");
        assert_eq!(way("a/b"), "a");
        assert_eq!(way("a/b**/c/d"), "a");
        assert_eq!(way("a"), "");
    }

    proptest::proptest! {
        #[test]
        fn whoever_matches_is_led_to(text in "[ab*?/]{1,8}", path in "[ab]{1,3}(/[ab]{1,3}){0,3}") {
            let Ok(pattern) = Parents::new(&text) else { return Ok(()) };
            let path = path.as_bytes();
            let mut inherited = pattern.rules.root();
            let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).chain([path.len()]);
            let mut led = true;
            for end in ends {
                let (verdict, below) = pattern.rules.directory(&inherited, &path[..end]);
                if verdict != crate::DirectoryVerdict::Taken {
                    proptest::prop_assert!(led, "{text} {path:?}");
                    break;
                }
                led = led && pattern.leads_to(&path[..end]);
                inherited = below;
            }
        }
    }
}
