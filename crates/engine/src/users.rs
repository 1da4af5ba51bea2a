//! Who a step runs as: `USER` resolved in the root file system's own passwd and group files, as BuildKit does.

/// Numbers above this are refused: they would wrap in tools that hold them in signed fields (CVE-2024-40635).
const MAX_ID: u32 = i32::MAX as u32;

/// A process's identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory from passwd; `/` when there is no entry, as container runtimes have it.
    pub home: String,
}

/// Why a user cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Not of the form `user[:group]`.
    #[error("`{}` is not a user of the form `user[:group]`", text.escape_debug())]
    Malformed {
        /// What was given.
        text: String,
    },
    /// A number that is no id.
    #[error("`{text}` is not a valid id: ids go from 0 to {MAX_ID}")]
    OutOfRange {
        /// The number.
        text: String,
    },
    /// The name has no entry.
    #[error("there is no {kind} `{}` in {file} of the image", name.escape_debug())]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
        /// Which file.
        file: &'static str,
    },
    /// There is no file that could know the name.
    #[error("the {kind} `{}` cannot be looked up: the image has no {file}", name.escape_debug())]
    NoFile {
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
        /// Which file.
        file: &'static str,
    },
}

impl wbuild_report::Hint for UserError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Unknown { kind, .. } | Self::NoFile { kind, .. } => {
                vec![format!("add the {kind} in an earlier step, or use its number")]
            }
            _ => Vec::new(),
        }
    }
}

/// Resolves `user[:group]` with the texts of passwd and group (empty where the image has none). An empty `spec` is root.
/// Supplementary groups are those of the named user, and only when no group is given (BuildKit).
pub fn resolve_user(spec: &str, passwd: &str, group: &str) -> Result<ResolvedUser, UserError> {
    let spec = if spec.is_empty() { "0" } else { spec };
    let (user, wanted_group) = match spec.split_once(':') {
        // One half may be missing: `:5` is root with another group, `1000:` has the user's own.
        Some(("", group)) if !group.is_empty() && !group.contains(':') => ("0", Some(group)),
        Some((user, "")) if !user.is_empty() => (user, None),
        Some((user, group)) if !user.is_empty() && !group.contains(':') => (user, Some(group)),
        Some(_) => return Err(UserError::Malformed { text: spec.to_owned() }),
        None => (spec, None),
    };
    let entries: Vec<Vec<&str>> = passwd.lines().map(|line| line.split(':').collect()).collect();
    let number = parse_id(user)?;
    let entry = entries.iter().find(|entry| match number {
        Some(number) => entry.get(2).and_then(|field| field.parse().ok()) == Some(number),
        None => entry.first() == Some(&user),
    });
    let field = |index: usize| entry.and_then(|entry| entry.get(index)).and_then(|field| field.parse().ok());
    let uid = match number.or_else(|| field(2)) {
        Some(uid) => uid,
        None => {
            let name = user.to_owned();
            return Err(UserError::Unknown { kind: "user", name, file: "/etc/passwd" });
        }
    };
    let home = entry.and_then(|entry| entry.get(5)).filter(|home| !home.is_empty()).copied();
    let home = home.unwrap_or(if uid == 0 { "/root" } else { "/" }).to_owned();
    let groups: Vec<Vec<&str>> = group.lines().map(|line| line.split(':').collect()).collect();
    if let Some(wanted) = wanted_group {
        let named = groups.iter().find(|entry| entry.first() == Some(&wanted));
        let gid = match parse_id(wanted)? {
            Some(gid) => gid,
            None => named.and_then(|entry| entry.get(2)).and_then(|field| field.parse().ok()).ok_or_else(
                || UserError::Unknown { kind: "group", name: wanted.to_owned(), file: "/etc/group" },
            )?,
        };
        return Ok(ResolvedUser { uid, gid, groups: vec![gid], home });
    }
    let gid = field(3).unwrap_or(0);
    let name = entry.and_then(|entry| entry.first()).copied();
    let mut supplementary: Vec<u32> = groups
        .iter()
        .filter(|entry| {
            let mut members = entry.get(3).map(|members| members.split(',')).into_iter().flatten();
            name.is_some_and(|name| members.any(|member| member == name))
        })
        .filter_map(|entry| entry.get(2)?.parse().ok())
        .chain([gid])
        .collect();
    supplementary.sort_unstable();
    supplementary.dedup();
    Ok(ResolvedUser { uid, gid, groups: supplementary, home })
}

/// User and primary group of a named user, by the text of passwd.
pub(crate) fn find_user(passwd: &str, name: &str) -> Result<(u32, u32), UserError> {
    let ids = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| {
        let id = |index: usize| fields.get(index)?.parse().ok();
        if fields[0] == name { Some((id(2)?, id(3)?)) } else { None }
    });
    let unknown = || UserError::Unknown { kind: "user", name: name.to_owned(), file: "/etc/passwd" };
    let (uid, gid) = ids.ok_or_else(unknown)?;
    Ok((check_id(uid)?, check_id(gid)?))
}

/// A named group, by the text of group.
pub(crate) fn find_group(group: &str, name: &str) -> Result<u32, UserError> {
    let id = group
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find_map(|fields| if fields[0] == name { fields.get(2)?.parse().ok() } else { None });
    check_id(id.ok_or_else(|| UserError::Unknown {
        kind: "group",
        name: name.to_owned(),
        file: "/etc/group",
    })?)
}

/// Refuses numbers that are no ids.
pub(crate) fn check_id(id: u32) -> Result<u32, UserError> {
    if id <= MAX_ID { Ok(id) } else { Err(UserError::OutOfRange { text: id.to_string() }) }
}

pub(crate) fn parse_id(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(UserError::OutOfRange { text: text.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:root\nwheel:x:10:root,node\nnode:x:1000:\naudio:x:18:node\n";

    #[test]
    fn names_numbers_and_groups() {
        let user = |spec: &str| resolve_user(spec, PASSWD, GROUP);
        let ids = |spec: &str| user(spec).map(|user| (user.uid, user.gid, user.groups, user.home)).unwrap();
        assert_eq!(ids(""), (0, 0, vec![0, 10], "/root".into()));
        assert_eq!(ids("node"), (1000, 1000, vec![10, 18, 1000], "/home/node".into()));
        assert_eq!(ids("1000"), (1000, 1000, vec![10, 18, 1000], "/home/node".into()));
        assert_eq!(ids("node:wheel"), (1000, 10, vec![10], "/home/node".into()));
        assert_eq!(ids("4321"), (4321, 0, vec![0], "/".into()));
        assert_eq!(ids("4321:99"), (4321, 99, vec![99], "/".into()));
        assert_eq!(ids(":5"), (0, 5, vec![5], "/root".into()));
        assert_eq!(ids("1000:"), ids("1000"));
        assert!(matches!(user("nobody"), Err(UserError::Unknown { kind: "user", .. })));
        assert!(matches!(user("node:nogroup"), Err(UserError::Unknown { kind: "group", .. })));
        assert!(matches!(user(":::"), Err(UserError::Malformed { .. })));
        assert!(matches!(user("4294967296"), Err(UserError::OutOfRange { .. })));
        assert!(matches!(user("2147483648"), Err(UserError::OutOfRange { .. })));
    }

    #[test]
    fn scratch_has_only_numbers() {
        assert_eq!(resolve_user("1001:1001", "", "").unwrap().uid, 1001);
        assert!(resolve_user("nextjs", "", "").is_err());
    }
}
