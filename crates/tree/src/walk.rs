use crate::directory::{Subtree, TreeLoadError, TreeSource};
use crate::entry::Entry;
use crate::path::EntryPath;

/// What a visitor wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// Go into the directory (means nothing for other entries).
    Into,
    /// Pass over what is in it.
    Skip,
}

/// Visits every entry in layer order: sorted by name, a directory directly before its contents. The root itself is not
/// visited.
///
/// # Errors
/// The visitor's, or when a subtree cannot be loaded.
pub fn walk<E: From<TreeLoadError>>(
    source: &dyn TreeSource,
    root: &Subtree,
    visitor: &mut dyn FnMut(&EntryPath, &Entry) -> Result<Visit, E>,
) -> Result<(), E> {
    // An explicit stack: trees can be thousands of levels deep.
    let mut stack = vec![(EntryPath::root(), root.open(source)?, None)];
    while let Some((path, directory, after)) = stack.pop() {
        let next = match &after {
            None => directory.entries.iter().next(),
            Some(name) => {
                let later = (std::ops::Bound::Excluded(name), std::ops::Bound::Unbounded);
                directory.entries.range(later).next()
            }
        };
        let Some((name, entry)) = next else { continue };
        let below = path.join(name);
        let visit = visitor(&below, entry)?;
        let child = match (visit, entry.contents()) {
            (Visit::Into, Some(contents)) if !contents.is_empty() => {
                Some((below, contents.open(source)?, None))
            }
            _ => None,
        };
        let name = name.clone();
        stack.push((path, directory, Some(name)));
        stack.extend(child);
    }
    Ok(())
}
