/// What `/etc/os-release` says (os-release(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsRelease {
    /// `ID`: `alpine`, `debian`; in small letters.
    pub id: String,
    /// `VERSION_ID`.
    pub version: Option<String>,
    /// `NAME`.
    pub name: Option<String>,
}

impl OsRelease {
    /// Reads the file; without an `ID` it is `linux`, as the manual says.
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let field = |key: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
            let value = unquoted(line.trim());
            (!value.is_empty()).then_some(value)
        };
        let id = field("ID").unwrap_or_else(|| "linux".to_owned()).to_ascii_lowercase();
        Self { id, version: field("VERSION_ID"), name: field("NAME") }
    }

    /// `alpine-3.23.6`: the `distro` of purls.
    pub fn distro(&self) -> String {
        match &self.version {
            Some(version) => format!("{}-{version}", self.id),
            None => self.id.clone(),
        }
    }
}

/// A value as a shell would read it, without substitutions: the file may have none.
fn unquoted(value: &str) -> String {
    let quoted = |mark: char| value.strip_prefix(mark).and_then(|rest| rest.strip_suffix(mark));
    match quoted('\'') {
        Some(plain) => plain.to_owned(),
        None => quoted('"').unwrap_or(value).replace('\\', ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_gaps() {
        let read = OsRelease::parse(b"NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.23.6\n");
        assert_eq!(read.distro(), "alpine-3.23.6");
        assert_eq!(read.name.as_deref(), Some("Alpine Linux"));
        assert_eq!(OsRelease::parse(b"").distro(), "linux");
        assert_eq!(OsRelease::parse(b"ID='x'\nVERSION_ID=\"\"").distro(), "x");
    }
}
