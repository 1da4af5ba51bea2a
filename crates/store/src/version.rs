use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wbuild_oci::Digest;

use crate::error::{At, StoreError};

/// The format that this version reads and writes; see `cache/format.md`.
const VERSION: u64 = 1;
const FORMAT: &str = "wbuild-store";

/// Two copies, so that one damaged block does not make the whole cache unusable.
const FILES: [&str; 2] = ["version.json", "version.copy.json"];

/// Names that only this module makes; they may be left behind in a directory by a process that died in it.
const TEMPORARY: &str = "version.new-";

#[derive(Debug, Serialize, Deserialize)]
struct VersionFile {
    format: String,
    version: u64,
    compatible: Vec<String>,
    read_only: Vec<String>,
    incompatible: Vec<String>,
}

/// What may be done with a state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Full,
    ReadOnly { feature: String },
}

/// Makes `root` a state directory, or checks that it is one that this version may use.
pub(crate) fn enter(root: &Path) -> Result<Access, StoreError> {
    if let Some(access) = check(root)? {
        return Ok(access);
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(root).at("create", root)?;
    for entry in fs::read_dir(root).at("read", root)? {
        let name = entry.at("read", root)?.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(TEMPORARY) || FILES.contains(&name));
        if !ours {
            return Err(StoreError::NotAStore { path: root.to_owned() });
        }
    }
    write(root)?;
    check(root)?.ok_or_else(|| StoreError::VersionDamaged { path: root.to_owned() })
}

/// `None` when there is no version file at all.
fn check(root: &Path) -> Result<Option<Access>, StoreError> {
    let mut found = false;
    for name in FILES {
        let path = root.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            // Something else than a file lies there: the copy may still be good.
            Err(error) if matches!(error.kind(), ErrorKind::IsADirectory | ErrorKind::NotADirectory) => {
                found = true;
                continue;
            }
            Err(error) => return Err(error).at("read", &path),
        };
        found = true;
        let Some(version) = parse(&bytes) else { continue };
        if name != FILES[0] {
            // Best effort: the copy is good, and says so again next time.
            let _ = write(root);
        }
        return version.access(root).map(Some);
    }
    if found { Err(StoreError::VersionDamaged { path: root.to_owned() }) } else { Ok(None) }
}

impl VersionFile {
    fn access(self, root: &Path) -> Result<Access, StoreError> {
        let path = root.to_owned();
        if self.version != VERSION {
            return Err(StoreError::UnknownVersion { path, found: self.version, known: VERSION });
        }
        // Version 1 has no features yet; unknown compatible ones mean nothing to us.
        if let Some(feature) = self.incompatible.into_iter().next() {
            return Err(StoreError::IncompatibleFeature { path, feature });
        }
        Ok(match self.read_only.into_iter().next() {
            Some(feature) => Access::ReadOnly { feature },
            None => Access::Full,
        })
    }
}

/// `None` when the bytes are not a version file, or not the one that was written.
fn parse(bytes: &[u8]) -> Option<VersionFile> {
    let mut value: Value = serde_json::from_slice(bytes).ok()?;
    let check = value.as_object_mut()?.remove("check")?;
    if check.as_str()? != checksum(&value) {
        return None;
    }
    let version: VersionFile = serde_json::from_value(value).ok()?;
    (version.format == FORMAT).then_some(version)
}

/// Over the compact form with sorted names, which `serde_json` writes for a [`Value`].
fn checksum(value: &Value) -> String {
    Digest::of(value.to_string().as_bytes()).hex()
}

fn write(root: &Path) -> Result<(), StoreError> {
    let mut value = serde_json::json!({
        "format": FORMAT, "version": VERSION, "compatible": [], "read_only": [], "incompatible": [],
    });
    let check = checksum(&value);
    if let Some(object) = value.as_object_mut() {
        object.insert("check".to_owned(), Value::String(check));
    }
    // The copy first: a directory with the copy alone is complete, one with nothing but a damaged first file is not.
    for name in [FILES[1], FILES[0]] {
        let path = root.join(name);
        let temporary = root.join(format!("{TEMPORARY}{:016x}", crate::workspace::random()));
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(&temporary).at("create", &temporary)?;
        let written = file.write_all(format!("{value:#}\n").as_bytes()).and_then(|()| file.sync_all());
        let placed =
            written.at("write", &temporary).and_then(|()| fs::rename(&temporary, &path).at("create", &path));
        if placed.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        placed?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_features(root: &Path, version: u64, read_only: &[&str], incompatible: &[&str]) {
        let mut value = serde_json::json!({
            "format": FORMAT, "version": version, "compatible": ["later"],
            "read_only": read_only, "incompatible": incompatible,
        });
        let check = checksum(&value);
        value.as_object_mut().unwrap().insert("check".to_owned(), Value::String(check));
        for name in FILES {
            fs::write(root.join(name), value.to_string()).unwrap();
        }
    }

    #[test]
    fn what_is_unknown_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        with_features(dir.path(), 2, &[], &[]);
        assert!(matches!(enter(dir.path()), Err(StoreError::UnknownVersion { found: 2, .. })));
        with_features(dir.path(), 1, &[], &["packs"]);
        assert!(matches!(enter(dir.path()), Err(StoreError::IncompatibleFeature { .. })));
        with_features(dir.path(), 1, &["quota"], &[]);
        assert_eq!(enter(dir.path()).unwrap(), Access::ReadOnly { feature: "quota".to_owned() });
        with_features(dir.path(), 1, &[], &[]);
        assert_eq!(enter(dir.path()).unwrap(), Access::Full);
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("holiday.jpg"), "x").unwrap();
        assert!(matches!(enter(other.path()), Err(StoreError::NotAStore { .. })));
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_damaged_copy_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(enter(dir.path()).unwrap(), Access::Full);
        let path = dir.path().join(FILES[0]);
        let good = fs::read(&path).unwrap();
        for damaged in [
            Vec::new(),
            vec![0; good.len()],
            good.iter().map(|b| if *b == b'1' { b'2' } else { *b }).collect(),
        ] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(enter(dir.path()).unwrap(), Access::Full);
            assert_eq!(fs::read(&path).unwrap(), good);
        }
        fs::write(&path, "").unwrap();
        fs::write(dir.path().join(FILES[1]), "{}").unwrap();
        assert!(matches!(enter(dir.path()), Err(StoreError::VersionDamaged { .. })));
    }
}
