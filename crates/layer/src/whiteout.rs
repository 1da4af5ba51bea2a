//! How a layer says that something is gone (OCI image-spec, layer.md, "Whiteouts").

use wbuild_tree::{Name, PathError};

/// `.wh.NAME` removes NAME.
pub(crate) const PREFIX: &[u8] = b".wh.";

/// In a directory: nothing of it in lower layers counts.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a name in a layer means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Itself.
    Plain,
    /// This name is gone.
    Whiteout(Name),
    /// Its directory is opaque.
    Opaque,
}

/// Reads a name. An error for those that start like a whiteout and mean nothing: `.wh.`, `.wh..`, `.wh...`, and the
/// `.wh..wh.*` that aufs kept for itself.
pub(crate) fn meaning(name: &Name) -> Result<Meaning, PathError> {
    let Some(gone) = name.as_bytes().strip_prefix(PREFIX) else { return Ok(Meaning::Plain) };
    if name.as_bytes() == OPAQUE {
        return Ok(Meaning::Opaque);
    }
    if gone.starts_with(PREFIX) {
        return Err(PathError::Name { text: name.to_string() });
    }
    Name::new(gone).map(Meaning::Whiteout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_nothing_are_refused() {
        let name = |text: &str| Name::new(text).unwrap();
        assert_eq!(meaning(&name("a")), Ok(Meaning::Plain));
        assert_eq!(meaning(&name(".wha")), Ok(Meaning::Plain));
        assert_eq!(meaning(&name(".wh.a")), Ok(Meaning::Whiteout(name("a"))));
        assert_eq!(meaning(&name(".wh..a")), Ok(Meaning::Whiteout(name(".a"))));
        assert_eq!(meaning(&name(".wh..wh..opq")), Ok(Meaning::Opaque));
        for text in [".wh.", ".wh..", ".wh...", ".wh..wh.", ".wh..wh.plnk", ".wh..wh..opqx"] {
            assert!(meaning(&name(text)).is_err(), "{text}");
        }
    }
}
