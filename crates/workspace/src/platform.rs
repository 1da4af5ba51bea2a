use sha2::{Digest as _, Sha256};

use crate::lockfile::list_items;
use crate::{LockedPackage, Lockfile, LockfileVersion, SnapshotId};

/// The longest name of a directory below `node_modules/.pnpm` that pnpm gives by default.
const MAX_DIRECTORY_NAME: usize = 120;

/// What an image runs on, in npm's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `x64`, `arm64`
    pub cpu: String,
    /// `glibc` or `musl`; `None` outside of Linux.
    pub libc: Option<String>,
}

/// A package of the lockfile that does not run on a [`Platform`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignPackage {
    /// Its entry.
    pub id: SnapshotId,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its directory below `node_modules/.pnpm`.
    pub directory: String,
    /// The field of the lockfile that says so: `os`, `cpu` or `libc`.
    pub because: &'static str,
}

impl Lockfile {
    /// Those of `ids` whose `os`, `cpu` or `libc` is not that of `platform`, to be left out of an image.
    pub fn foreign_packages(
        &self,
        ids: impl IntoIterator<Item = SnapshotId>,
        platform: &Platform,
    ) -> Vec<ForeignPackage> {
        ids.into_iter()
            .filter_map(|id| {
                let because = self.foreign_field(self.package_of(id)?, platform)?;
                Some(ForeignPackage {
                    id,
                    name: self.name_of(id).to_owned(),
                    version: self.version_of(id).to_owned(),
                    directory: self.store_directory(id),
                    because,
                })
            })
            .collect()
    }

    fn foreign_field(&self, package: &LockedPackage, platform: &Platform) -> Option<&'static str> {
        let fields = [
            ("os", package.os, Some(&platform.os)),
            ("cpu", package.cpu, Some(&platform.cpu)),
            ("libc", package.libc, platform.libc.as_ref()),
        ];
        fields.into_iter().find_map(|(field, list, value)| {
            let list = list_items(self.text(list?));
            (!accepts(&list, value?)).then_some(field)
        })
    }

    /// The name that pnpm 10 gives to a snapshot's directory below `node_modules/.pnpm`, unless a setting changes
    /// its greatest length.
    pub fn store_directory(&self, id: SnapshotId) -> String {
        let key = self.text(self.snapshot(id).key);
        let key = match self.version() {
            LockfileVersion::V6 => key.strip_prefix('/').unwrap_or(key),
            LockfileVersion::V9 => key,
        };
        directory_name(key)
    }
}

/// npm's rule: a listed value, or none of the negated ones.
fn accepts(list: &[&str], value: &str) -> bool {
    if list == ["any"] {
        return true;
    }
    let mut negated = 0;
    let mut matched = false;
    for item in list {
        match item.strip_prefix('!') {
            Some(item) if item == value => return false,
            Some(_) => negated += 1,
            None => matched |= *item == value,
        }
    }
    matched || negated == list.len()
}

fn directory_name(key: &str) -> String {
    let key = match key.strip_prefix("file:") {
        Some(rest) => format!("file+{rest}"),
        None => key.to_owned(),
    };
    let mut name: String = key.chars().map(|c| if "\\/:*?\"<>|#".contains(c) { '+' } else { c }).collect();
    if name.contains('(') {
        name = name.strip_suffix(')').unwrap_or(&name).replace(")(", "_").replace(['(', ')'], "_");
    }
    let upper = name.chars().any(char::is_uppercase) && !name.starts_with("file+");
    if name.len() > MAX_DIRECTORY_NAME || upper {
        let hash = hex::encode(Sha256::digest(name.as_bytes()));
        let kept: String = name.chars().take(MAX_DIRECTORY_NAME - 33).collect();
        return format!("{kept}_{}", &hash[..32]);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories that pnpm 10.18.2 made.
    #[test]
    fn directories_are_named_as_pnpm_names_them() {
        for (key, expected) in [
            ("@img/sharp-linux-x64@0.34.4", "@img+sharp-linux-x64@0.34.4"),
            ("inj@file:packages/inj(react@19.2.0)", "inj@file+packages+inj_react@19.2.0"),
            ("react-dom@19.2.0(react@19.2.0)", "react-dom@19.2.0_react@19.2.0"),
        ] {
            assert_eq!(directory_name(key), expected);
        }
        let long = directory_name(&format!("a@1.0.0({})", "b".repeat(200)));
        assert_eq!((long.len(), &long[..10]), (120, "a@1.0.0_bb"));
        assert_eq!(directory_name("JSONStream@1.3.5").len(), "JSONStream@1.3.5".len() + 33);
    }

    #[test]
    fn lists_of_npm() {
        for (list, value, expected) in [
            (&["linux", "darwin"][..], "linux", true),
            (&["darwin"], "linux", false),
            (&["!win32"], "linux", true),
            (&["!linux"], "linux", false),
            (&["any"], "linux", true),
            (&["!win32", "darwin"], "linux", false),
        ] {
            assert_eq!(accepts(list, value), expected, "{list:?} {value}");
        }
    }
}
